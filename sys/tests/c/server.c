/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* SpiceQmpServer, with a port or something worse at the other end; each test on the default
 * main context, and on one of its own. */
#include "server.h"

typedef struct {
    GMainContext *context;
    GIOStream *stream; /* of the client */
    SpiceQmpServer *server;
    SpiceQmpPort *port;
    GPtrArray *kept; /* requests that were not answered */
    int commands;
    int depth, deepest;
    int closed;
    Reply reply;
} Fixture;

#define RUN_UNTIL(f, condition) WAIT_UNTIL_IN((f)->context, condition)

/* Everything that is due. */
static void
run(Fixture *f)
{
    while (g_main_context_iteration(f->context, FALSE))
        ;
}

static void
assert_is_here(Fixture *f)
{
    g_assert_true(g_source_get_context(g_main_current_source()) == f->context);
}

static gboolean
on_command(SpiceQmpServer *server, SpiceQmpRequest *request, Fixture *f)
{
    const char *command = spice_qmp_request_get_command(request);
    GError *error = NULL;

    assert_is_here(f);
    g_assert_true(SPICE_IS_QMP_SERVER(server) && SPICE_IS_QMP_REQUEST(request));
    f->commands++;
    if (strcmp(command, "echo") == 0) {
        g_assert_true(
            spice_qmp_request_reply(request, spice_qmp_request_get_arguments(request), &error));
    } else if (strcmp(command, "echo-variant") == 0) {
        g_autoptr(GVariant) arguments = spice_qmp_request_get_arguments_variant(request);

        g_assert_true(spice_qmp_request_reply_variant(request, arguments, &error));
    } else if (strcmp(command, "refuse") == 0) {
        g_assert_true(spice_qmp_request_refuse(request, "DeviceNotFound", "no \"such\" device"));
    } else if (strcmp(command, "keep") == 0) {
        g_ptr_array_add(f->kept, g_object_ref(request));
        return TRUE;
    } else if (strcmp(command, "drop") == 0) {
        return TRUE;
    }
    g_assert_no_error(error);
    return FALSE;
}

static void
on_closed(SpiceQmpServer *server, GParamSpec *spec G_GNUC_UNUSED, Fixture *f)
{
    g_autofree char *reason = spice_qmp_server_dup_close_reason(server);

    assert_is_here(f);
    g_assert_nonnull(reason);
    f->closed++;
}

static GIOStream *
pair(Fixture *f)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    f->stream = stream_of_fd(fds[0]);
    return stream_of_fd(fds[1]);
}

static void
serve(Fixture *f, GIOStream *stream)
{
    static const char *const oob[] = { "oob", NULL };
    g_autofree char *version = NULL;
    g_auto(GStrv) capabilities = NULL;

    f->server = spice_qmp_server_new(stream, "9.1.2", oob);
    g_object_unref(stream);
    version = spice_qmp_server_dup_version(f->server);
    capabilities = spice_qmp_server_dup_capabilities(f->server);
    g_assert_cmpstr(version, ==, "9.1.2");
    g_assert_cmpuint(g_strv_length(capabilities), ==, 1);
    g_assert_false(spice_qmp_server_get_negotiated(f->server));
    g_assert_null(spice_qmp_server_dup_close_reason(f->server));
    g_signal_connect(f->server, "command", G_CALLBACK(on_command), f);
    g_signal_connect(f->server, "notify::close-reason", G_CALLBACK(on_closed), f);
}

static void
set_up(Fixture *f, gconstpointer own)
{
    f->context = own ? g_main_context_new() : g_main_context_ref(g_main_context_default());
    f->kept = g_ptr_array_new_with_free_func(g_object_unref);
    g_main_context_push_thread_default(f->context);
    serve(f, pair(f));
}

/* With a port as the client. */
static void
set_up_port(Fixture *f, gconstpointer own)
{
    GError *error = NULL;

    set_up(f, own);
    f->port = spice_qmp_port_new_for_stream(f->stream);
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    g_assert_true(spice_qmp_server_get_negotiated(f->server));
    /* The port's own question, which nothing answers. */
    RUN_UNTIL(f, f->commands == 1);
    run(f);
}

static void
tear_down(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean freed;

    forget(&f->reply);
    g_ptr_array_unref(f->kept);
    if (f->server) {
        watch(f->server, &freed);
        g_object_unref(f->server);
        RUN_UNTIL(f, freed);
    }
    if (f->port) {
        watch(f->port, &freed);
        g_object_unref(f->port);
        RUN_UNTIL(f, freed);
    }
    g_clear_object(&f->stream);
    run(f);
    g_main_context_pop_thread_default(f->context);
    g_main_context_unref(f->context);
}

static void
assert_answer(Fixture *f, const char *command, const char *arguments, const char *expected)
{
    GError *error = NULL;
    g_autofree char *text = execute(f->port, command, arguments, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, expected);
}

/* The end of a call, which may have come before. */
static char *
finish(Fixture *f, Reply *reply, GError **error)
{
    char *text;

    RUN_UNTIL(f, reply->calls);
    g_assert_cmpint(reply->calls, ==, 1);
    text = spice_qmp_port_execute_finish(f->port, reply->result, error);
    forget(reply);
    return text;
}

/* Reads what the server has sent, through its end of the stream. */
static void
read_all(Fixture *f, GString *text)
{
    GSocket *socket = g_socket_connection_get_socket(G_SOCKET_CONNECTION(f->stream));
    char buffer[4096];
    gssize count;

    g_socket_set_blocking(socket, FALSE);
    while ((count = g_socket_receive(socket, buffer, sizeof buffer, NULL, NULL)) > 0)
        g_string_append_len(text, buffer, count);
}

static guint
count_lines(const GString *text)
{
    guint lines = 0;
    gsize i;

    for (i = 0; i < text->len; i++)
        lines += text->str[i] == '\n';
    return lines;
}

/* Writes as much as there is room for; the number of bytes. */
static gsize
write_some(Fixture *f, const char *bytes, gsize length)
{
    GSocket *socket = g_socket_connection_get_socket(G_SOCKET_CONNECTION(f->stream));
    gssize count;

    g_socket_set_blocking(socket, FALSE);
    count = g_socket_send(socket, bytes, length, NULL, NULL);
    return count < 0 ? 0 : count;
}

static void
write_text(Fixture *f, const char *text)
{
    g_assert_cmpuint(write_some(f, text, strlen(text)), ==, strlen(text));
}

#define NEGOTIATION "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}\n"

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

    /* One that was answered is not given to others, but for a handler that did not say so. */
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
    /* What is no answer leaves it as it is. */
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

/* What is pushed when a function is called does not matter. */
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
assert_closed(Fixture *f, const char *words)
{
    g_autofree char *reason = NULL;

    RUN_UNTIL(f, f->closed);
    run(f);
    g_assert_cmpint(f->closed, ==, 1);
    reason = spice_qmp_server_dup_close_reason(f->server);
    g_assert_nonnull(strstr(reason, words));
}

static void
test_client_leaves(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;

    keep_one(f);
    spice_qmp_port_close_async(f->port, NULL, NULL, NULL);
    assert_closed(f, "the client closed the connection");
    /* Nobody is there to hear it. */
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

/* --- handlers that run main loops ------------------------------------------------- */

static gboolean
wait_for_another(SpiceQmpServer *server G_GNUC_UNUSED, SpiceQmpRequest *request, Fixture *f)
{
    int commands = f->commands;

    RUN_UNTIL(f, f->commands > commands);
    return spice_qmp_request_reply(request, "\"first\"", NULL);
}

static void
test_nested(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Reply second = { 0 };
    GError *error = NULL;
    g_autofree char *text = NULL;

    g_signal_connect(f->server, "command::wait", G_CALLBACK(wait_for_another), f);
    spice_qmp_port_execute_async(f->port, "wait", NULL, NULL, on_reply, &f->reply);
    spice_qmp_port_execute_async(f->port, "echo", NULL, NULL, on_reply, &second);
    text = finish(f, &second, &error);
    g_assert_no_error(error);
    g_free(finish(f, &f->reply, &error));
    g_assert_no_error(error);
}

static gboolean
answer_and_run(SpiceQmpServer *server G_GNUC_UNUSED, SpiceQmpRequest *request, Fixture *f)
{
    f->depth++;
    f->deepest = MAX(f->deepest, f->depth);
    g_assert_true(spice_qmp_request_reply(request, NULL, NULL));
    run(f);
    f->depth--;
    return TRUE;
}

/* A client that never stops must not have handlers run within each other without end. */
static void
test_nested_flood(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    const int count = 500;
    g_autoptr(GString) sent = g_string_new(NEGOTIATION);
    g_autoptr(GString) got = g_string_new(NULL);
    int i;

    g_signal_connect(f->server, "command::run", G_CALLBACK(answer_and_run), f);
    for (i = 0; i < count; i++)
        g_string_append(sent, "{\"execute\": \"run\"}");
    write_text(f, sent->str);
    RUN_UNTIL(f, (read_all(f, got), count_lines(got)) == (guint) count + 2);
    g_assert_cmpint(f->depth, ==, 0);
    g_assert_cmpint(f->deepest, >, 1);
    g_assert_cmpint(f->deepest, <=, 32);
}

/* --- clients that misbehave --------------------------------------------------------- */

/* One that asks and asks, and does not read. */
static void
test_flood(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char request[] = "{\"execute\": \"echo\", \"arguments\": {\"a\": 1}}\n";
    const gsize length = strlen(request);
    g_autoptr(GString) got = g_string_new(NULL);
    gsize sent = 0, before, more;
    int commands;

    write_text(f, NEGOTIATION);
    do {
        before = sent;
        /* A part of a request is all that fits in the end. */
        while ((more = write_some(f, request + sent % length, length - sent % length)) > 0)
            sent += more;
        run(f);
    } while (sent > before);
    commands = f->commands;
    g_assert_cmpuint(commands, <, sent / length);
    while (sent % length > 0) {
        read_all(f, got);
        run(f);
        sent += write_some(f, request + sent % length, length - sent % length);
    }
    RUN_UNTIL(f, (read_all(f, got), count_lines(got)) == sent / length + 2);
    g_assert_cmpuint(f->commands, ==, sent / length);
    g_assert_cmpint(f->closed, ==, 0);
}

/* No more requests are open than the client may have. */
static void
test_kept_flood(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GString) got = g_string_new(NULL);
    int i;

    write_text(f, NEGOTIATION);
    for (i = 0; i < 100; i++)
        write_text(f, "{\"execute\": \"keep\", \"id\": 1}\n");
    RUN_UNTIL(f, f->kept->len == 8);
    run(f);
    g_assert_cmpuint(f->kept->len, ==, 8);
    g_assert_cmpstr(spice_qmp_request_get_id(f->kept->pdata[7]), ==, "1");
    while (f->commands < 100) {
        g_ptr_array_set_size(f->kept, 0);
        run(f);
    }
    g_ptr_array_set_size(f->kept, 0);
    RUN_UNTIL(f, (read_all(f, got), count_lines(got)) == 102);
}

static void
test_out_of_band(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GString) got = g_string_new(NULL);

    write_text(f, NEGOTIATION "{\"execute\": \"keep\"}{\"exec-oob\": \"keep\", \"id\": 2}");
    RUN_UNTIL(f, f->kept->len == 2);
    g_assert_false(spice_qmp_request_is_out_of_band(f->kept->pdata[0]));
    g_assert_null(spice_qmp_request_get_id(f->kept->pdata[0]));
    g_assert_true(spice_qmp_request_is_out_of_band(f->kept->pdata[1]));
    g_assert_true(spice_qmp_request_reply(f->kept->pdata[1], NULL, NULL));
    RUN_UNTIL(f, (read_all(f, got), count_lines(got)) == 3);
    g_assert_true(g_str_has_suffix(got->str, "{\"return\": {}, \"id\": 2}\r\n"));
}

static void
test_does_not_read(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autofree char *text = g_strnfill(1 << 20, 'x');
    g_autofree char *json = g_strdup_printf("{\"a\": \"%s\"}", text);
    int i;

    write_text(f, NEGOTIATION);
    RUN_UNTIL(f, spice_qmp_server_get_negotiated(f->server));
    for (i = 0; i < 100 && !f->closed; i++) {
        g_assert_true(spice_qmp_server_emit_event(f->server, "LONG", json, NULL));
        run(f);
    }
    assert_closed(f, "does not read");
}

/* Bytes that were changed at random: each test has its own. */
static void
test_mutated(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char text[] =
        NEGOTIATION "{\"execute\": \"echo\", \"arguments\": {\"a\": [1, \"b\\u0000\"]}, \"id\": {}}\n"
                    "{\"execute\": \"refuse\"}\n{\"exec-oob\": \"keep\"}\n"
                    "{\"execute\": \"a\\u0000b\"}{\"execute\": \"drop\"}\n";
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    int round, i;

    for (round = 0; round < 200; round++) {
        g_autofree char *bytes = g_memdup2(text, sizeof text);
        gboolean freed;

        for (i = g_rand_int_range(rand, 0, 6); i > 0; i--) {
            gint32 at = g_rand_int_range(rand, 0, sizeof text - 1);

            bytes[at] = g_rand_boolean(rand) ? (char) g_rand_int(rand) : "{}[]\",:\\ 0"[at % 10];
        }
        g_assert_cmpuint(write_some(f, bytes, sizeof text - 1), ==, sizeof text - 1);
        run(f);
        g_assert_cmpint(f->closed, ==, 0);
        g_assert_true(g_io_stream_close(f->stream, NULL, NULL));
        assert_closed(f, "");

        g_ptr_array_set_size(f->kept, 0);
        watch(f->server, &freed);
        g_clear_object(&f->server);
        RUN_UNTIL(f, freed);
        g_clear_object(&f->stream);
        f->closed = 0;
        serve(f, pair(f));
    }
    g_assert_cmpint(f->commands, >, 200);
}

/* --- a stream within the process ------------------------------------------------------ */

static void
test_memory(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char sent[] =
        "{\"execute\": \"a\"}{\"execute\": \"qmp_capabilities\"}{\"execute\": \"echo\","
        " \"arguments\": {\"b\": 1}, \"id\": 3}";
    static const char expected[] =
        "{\"QMP\": {\"version\": {\"qemu\": {\"major\":9,\"micro\":2,\"minor\":1},"
        " \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": ";
    g_autoptr(GInputStream) input = g_memory_input_stream_new_from_data(sent, strlen(sent), NULL);
    g_autoptr(GOutputStream) output = g_memory_output_stream_new_resizable();
    g_autofree char *got = NULL;
    gsize length;

    spice_qmp_server_close(f->server);
    assert_closed(f, "the server closed");
    f->closed = 0;
    g_clear_object(&f->server);
    serve(f, g_simple_io_stream_new(input, output));
    assert_closed(f, "the client closed the connection");
    RUN_UNTIL(f, g_output_stream_is_closed(output));
    g_assert_cmpint(f->commands, ==, 1);
    length = g_memory_output_stream_get_data_size(G_MEMORY_OUTPUT_STREAM(output));
    got = g_strndup(g_memory_output_stream_get_data(G_MEMORY_OUTPUT_STREAM(output)), length);
    g_assert_true(g_str_has_prefix(got, expected));
    g_assert_true(
        g_str_has_suffix(got, "{\"return\": {}}\r\n{\"return\": {\"b\":1}, \"id\": 3}\r\n"));
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

#define TEST(name, set_up, function)                                           \
    G_STMT_START                                                               \
    {                                                                          \
        g_test_add("/server/" name, Fixture, NULL, set_up, function, tear_down); \
        g_test_add("/server/own-context/" name, Fixture, "own", set_up, function, tear_down); \
    }                                                                          \
    G_STMT_END

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
    TEST("nested", set_up_port, test_nested);
    TEST("nested-flood", set_up, test_nested_flood);
    TEST("flood", set_up, test_flood);
    TEST("kept-flood", set_up, test_kept_flood);
    TEST("out-of-band", set_up, test_out_of_band);
    TEST("does-not-read", set_up, test_does_not_read);
    TEST("mutated", set_up, test_mutated);
    TEST("memory", set_up, test_memory);
    TEST("mistakes", set_up, test_mistakes);
    return g_test_run();
}
