/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* SpiceQmpServer with a port as its client: answers, events, and how it ends. */
#include "served.h"

/* --- answers --------------------------------------------------------------------- */

static gboolean
on_status(SpiceQmpServer *server G_GNUC_UNUSED, SpiceQmpRequest *request, int *count)
{
    ++*count;
    return spice_qmp_request_reply(request, "{\"status\": \"paused\", \"running\": false}", NULL);
}

static void
test_answers(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autofree char *version = spice_qmp_port_dup_version(f->port);
    int count = 0, commands;

    g_assert_cmpstr(version, ==, "9.1.2");
    assert_answer(f, "echo", "{\"a\": [1, null]}", "{\"a\":[1,null]}");
    assert_answer(f, "echo-variant", "{\"a\": [1, null]}", "{\"a\":[1,null]}");
    assert_answer(f, "echo", NULL, "{}");
    assert_answer(f, "echo-variant", NULL, "{}");
    ASSERT_FAILS(f->port, "refuse", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_DEVICE_NOT_FOUND,
                 "no \"such\" device");
    ASSERT_FAILS(f->port, "unknown", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_COMMAND_NOT_FOUND,
                 "does not answer the command unknown");
    ASSERT_FAILS(f->port, "drop", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_COMMAND_NOT_FOUND,
                 "does not answer the command drop");

    /* An answered request is not passed on, unless the handler that answered it returned FALSE. */
    g_signal_connect(f->server, "command::query-status", G_CALLBACK(on_status), &count);
    commands = f->commands;
    assert_executes(f->port, "query-status", NULL);
    g_assert_cmpint(count, ==, 1);
    g_assert_cmpint(f->commands, ==, commands + 1);
    g_signal_handlers_disconnect_by_func(f->server, on_command, f);
    g_signal_connect(f->server, "command", G_CALLBACK(on_command), f);
    assert_executes(f->port, "query-status", NULL);
    g_assert_cmpint(count, ==, 2);
    g_assert_cmpint(f->commands, ==, commands + 1);
}

/* The answers come in the order of the requests. */
static void
test_later(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Reply replies[3] = { 0 };
    SpiceQmpRequest *last;
    guint i;

    for (i = 0; i < G_N_ELEMENTS(replies); i++)
        spice_qmp_port_execute_async(f->port, "keep", NULL, NULL, on_reply, &replies[i]);
    RUN_UNTIL(f, f->kept->len == 3);
    last = f->kept->pdata[2];
    g_assert_false(spice_qmp_request_is_out_of_band(last));
    g_assert_nonnull(spice_qmp_request_get_id(last));
    g_assert_null(spice_qmp_request_get_arguments(last));
    g_assert_null(spice_qmp_request_get_arguments_variant(last));
    g_assert_true(spice_qmp_request_reply(last, "3", NULL));
    g_assert_true(spice_qmp_request_refuse(f->kept->pdata[1], NULL, "2"));
    run(f);
    g_assert_cmpint(replies[0].calls + replies[1].calls + replies[2].calls, ==, 0);
    /* Without an answer. */
    g_ptr_array_remove_index(f->kept, 0);
    for (i = 0; i < G_N_ELEMENTS(replies); i++) {
        static const int codes[] = { SPICE_QMP_ERROR_COMMAND_NOT_FOUND, SPICE_QMP_ERROR_GENERIC };
        GError *error = NULL;
        g_autofree char *text = finish(f, &replies[i], &error);

        if (i < G_N_ELEMENTS(codes))
            g_assert_error(error, SPICE_QMP_ERROR, codes[i]);
        else
            g_assert_cmpstr(text, ==, "3");
        g_clear_error(&error);
    }
}

static void
test_once(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GError) error = NULL;
    SpiceQmpRequest *request;

    spice_qmp_port_execute_async(f->port, "keep", "{\"a\": 1}", NULL, on_reply, &f->reply);
    RUN_UNTIL(f, f->kept->len == 1);
    request = f->kept->pdata[0];
    g_assert_cmpstr(spice_qmp_request_get_arguments(request), ==, "{\"a\":1}");
    /* An invalid answer leaves it unanswered. */
    g_assert_false(spice_qmp_request_reply(request, "{", &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_false(spice_qmp_request_reply_variant(request, g_variant_new_handle(1), &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_false(spice_qmp_request_reply(request, "1 2", NULL));
    g_assert_true(spice_qmp_request_reply(request, " [ 1 ] ", &error));
    g_assert_false(spice_qmp_request_reply(request, "2", &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_assert_nonnull(strstr(error->message, "answered before"));
    g_clear_error(&error);
    g_assert_false(spice_qmp_request_reply_variant(request, NULL, NULL));
    g_assert_false(spice_qmp_request_refuse(request, NULL, "too late"));
    g_ptr_array_set_size(f->kept, 0);
    {
        g_autofree char *text = finish(f, &f->reply, &error);

        g_assert_no_error(error);
        g_assert_cmpstr(text, ==, "[1]");
    }
}

static void
keep_event(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event, SpiceQmpEvent **kept)
{
    *kept = spice_qmp_event_ref(event);
}

static void
test_events(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(SpiceQmpEvent) event = NULL;
    g_autoptr(GError) error = NULL;

    g_signal_connect(f->port, "qmp-event", G_CALLBACK(keep_event), &event);
    g_assert_true(spice_qmp_server_emit_event(f->server, "STOP", "{\"a\": 1}", &error));
    RUN_UNTIL(f, event);
    g_assert_cmpstr(spice_qmp_event_get_name(event), ==, "STOP");
    g_assert_cmpstr(spice_qmp_event_get_data(event), ==, "{\"a\":1}");
    g_assert_cmpint(spice_qmp_event_get_timestamp(event), >, 0);
    g_clear_pointer(&event, spice_qmp_event_unref);
    g_assert_true(spice_qmp_server_emit_event(f->server, "RESUME", NULL, &error));
    RUN_UNTIL(f, event);
    g_assert_null(spice_qmp_event_get_data(event));
    g_assert_false(spice_qmp_server_emit_event(f->server, "STOP", "[]", &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
}

/* It does not matter which context is pushed when a function is called. */
static void
test_pushed(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(SpiceQmpEvent) event = NULL;
    GMainContext *other = g_main_context_new();
    GError *error = NULL;

    g_signal_connect(f->port, "qmp-event", G_CALLBACK(keep_event), &event);
    spice_qmp_port_execute_async(f->port, "keep", NULL, NULL, on_reply, &f->reply);
    RUN_UNTIL(f, f->kept->len == 1);
    g_main_context_push_thread_default(other);
    g_assert_true(spice_qmp_server_emit_event(f->server, "STOP", NULL, &error));
    g_assert_true(spice_qmp_request_reply(f->kept->pdata[0], NULL, &error));
    spice_qmp_server_flush_and_close(f->server);
    g_assert_false(g_main_context_pending(other));
    g_main_context_pop_thread_default(other);
    RUN_UNTIL(f, event && f->closed);
    g_free(finish(f, &f->reply, &error));
    g_assert_no_error(error);
    g_main_context_unref(other);
}

/* --- ends ------------------------------------------------------------------------ */

static void
keep_one(Fixture *f)
{
    spice_qmp_port_execute_async(f->port, "keep", NULL, NULL, on_reply, &f->reply);
    RUN_UNTIL(f, f->kept->len == 1);
}

static void
assert_lost(Fixture *f)
{
    GError *error = NULL;

    g_assert_null(finish(f, &f->reply, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_error_free(error);
}

static void
test_client_leaves(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;

    keep_one(f);
    spice_qmp_port_close_async(f->port, NULL, NULL, NULL);
    assert_closed(f, "the client closed the connection");
    /* There is no client to receive it. */
    g_assert_true(spice_qmp_request_reply(f->kept->pdata[0], NULL, &error));
    g_assert_true(spice_qmp_server_emit_event(f->server, "STOP", NULL, &error));
    g_assert_no_error(error);
    spice_qmp_server_flush_and_close(f->server);
    spice_qmp_server_close(f->server);
    assert_lost(f);
}

static void
test_close(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    keep_one(f);
    spice_qmp_server_close(f->server);
    g_assert_cmpint(f->closed, ==, 0);
    assert_closed(f, "the server closed the connection");
    assert_lost(f);
    g_assert_true(spice_qmp_request_refuse(f->kept->pdata[0], NULL, ""));
}

static void
test_flush_and_close(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autofree char *text = g_strnfill(1 << 20, 'x');
    g_autofree char *json = g_strdup_printf("\"%s\"", text);
    g_autofree char *got = NULL;
    GError *error = NULL;

    keep_one(f);
    /* Far more than a socket holds. */
    g_assert_true(spice_qmp_request_reply(f->kept->pdata[0], json, &error));
    spice_qmp_server_flush_and_close(f->server);
    g_assert_null(spice_qmp_server_dup_close_reason(f->server));
    got = finish(f, &f->reply, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(got, ==, json);
    assert_closed(f, "the server closed the connection");
    RUN_UNTIL(f, !spice_qmp_port_get_ready(f->port));
}

/* The last reference to the server, while requests are open. */
static void
test_release(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean freed;

    keep_one(f);
    watch(f->server, &freed);
    g_clear_object(&f->server);
    RUN_UNTIL(f, freed);
    assert_lost(f);
    g_assert_true(spice_qmp_request_reply(f->kept->pdata[0], NULL, NULL));
}

static gboolean
release(SpiceQmpServer *server G_GNUC_UNUSED, SpiceQmpRequest *request, Fixture *f)
{
    g_clear_object(&f->server);
    return spice_qmp_request_reply(request, NULL, NULL);
}

static void
test_release_in_handler(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean freed;

    watch(f->server, &freed);
    g_signal_connect(f->server, "command::release", G_CALLBACK(release), f);
    spice_qmp_port_execute_async(f->port, "release", NULL, NULL, on_reply, &f->reply);
    RUN_UNTIL(f, freed);
    RUN_UNTIL(f, f->reply.calls);
}

static gpointer
drop_all(gpointer data)
{
    Fixture *f = data;

    g_ptr_array_set_size(f->kept, 0);
    g_clear_object(&f->server);
    return NULL;
}

/* Garbage collectors do that. */
static void
test_release_elsewhere(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean freed, request_freed;
    SpiceQmpServer *server = g_object_ref(f->server);
    GError *error = NULL;

    keep_one(f);
    watch(f->kept->pdata[0], &request_freed);
    watch(f->server, &freed);
    g_thread_join(g_thread_new("elsewhere", drop_all, f));
    RUN_UNTIL(f, request_freed);
    g_assert_null(finish(f, &f->reply, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_COMMAND_NOT_FOUND);
    g_clear_error(&error);

    f->server = server;
    keep_one(f);
    g_thread_join(g_thread_new("elsewhere", drop_all, f));
    RUN_UNTIL(f, freed && f->reply.calls);
    RUN_UNTIL(f, !spice_qmp_port_get_ready(f->port));
}

/* --- mistakes ---------------------------------------------------------------------------- */

static void
test_mistakes(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char *const broken[] = { "\xff", NULL };
    GIOStream *stream = f->stream;
    SpiceQmpServer *none;
    SpiceQmpRequest *bare = g_object_new(SPICE_TYPE_QMP_REQUEST, NULL);
    g_autofree char *reason = NULL;
    g_autofree char *version = NULL;
    GError *error = NULL;

    expect_critical("spice_qmp_server_new", "G_IS_IO_STREAM(stream)");
    g_assert_null(spice_qmp_server_new(NULL, NULL, NULL));
    expect_critical("spice_qmp_server_new", "version.is_null() || IS_VERSION(version)");
    g_assert_null(spice_qmp_server_new(stream, "10", NULL));
    expect_critical("spice_qmp_server_new", "capabilities.is_null() || are_strings(capabilities)");
    g_assert_null(spice_qmp_server_new(stream, NULL, broken));
    expect_critical("spice_qmp_server_close", "SPICE_IS_QMP_SERVER(server)");
    spice_qmp_server_close((SpiceQmpServer *) stream);
    expect_critical("spice_qmp_server_emit_event", "g_utf8_validate(name)");
    g_assert_false(spice_qmp_server_emit_event(f->server, NULL, NULL, &error));
    expect_critical("spice_qmp_request_refuse", "g_utf8_validate(description)");
    g_assert_false(spice_qmp_request_refuse(bare, NULL, NULL));
    expect_critical("spice_qmp_request_reply", "SPICE_IS_QMP_REQUEST(request)");
    g_assert_false(spice_qmp_request_reply(NULL, NULL, &error));
    g_assert_no_error(error);

    /* It belongs to no server. */
    g_assert_cmpstr(spice_qmp_request_get_command(bare), ==, "");
    g_assert_null(spice_qmp_request_get_id(bare));
    g_assert_false(spice_qmp_request_reply(bare, NULL, NULL));
    g_assert_false(spice_qmp_request_refuse(bare, NULL, ""));
    g_object_unref(bare);

    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*not a version*");
    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*without a stream");
    none = g_object_new(SPICE_TYPE_QMP_SERVER, "version", "x", "capabilities", NULL, NULL);
    version = spice_qmp_server_dup_version(none);
    g_assert_cmpstr(version, ==, "10.0.0");
    reason = spice_qmp_server_dup_close_reason(none);
    g_assert_nonnull(reason);
    spice_qmp_server_close(none);
    g_assert_true(spice_qmp_server_emit_event(none, "STOP", NULL, NULL));
    g_object_unref(none);
    g_test_assert_expected_messages();
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST("answers", set_up_port, test_answers);
    TEST("later", set_up_port, test_later);
    TEST("once", set_up_port, test_once);
    TEST("events", set_up_port, test_events);
    TEST("pushed", set_up_port, test_pushed);
    TEST("client-leaves", set_up_port, test_client_leaves);
    TEST("close", set_up_port, test_close);
    TEST("flush-and-close", set_up_port, test_flush_and_close);
    TEST("release", set_up_port, test_release);
    TEST("release-in-handler", set_up_port, test_release_in_handler);
    TEST("release-elsewhere", set_up_port, test_release_elsewhere);
    TEST("mistakes", set_up, test_mistakes);
    return g_test_run();
}
