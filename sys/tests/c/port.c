/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Every function of the C library, over a stream to a scripted server. */
#include "server.h"

#include <glib/gstdio.h>
#include <gio/gunixsocketaddress.h>

typedef struct {
    Server *server;
    GIOStream *client;
    SpiceQmpPort *port;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    f->server = server_pair(&f->client);
    f->server->oob = data != NULL;
    f->port = spice_qmp_port_new_for_stream(f->client);
    g_assert_true(SPICE_IS_QMP_PORT(f->port));
}

static void
set_up_ready(Fixture *f, gconstpointer data)
{
    GError *error = NULL;

    set_up(f, data);
    server_greet(f->server);
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    g_string_truncate(f->server->log, 0);
}

/* Only the test's own references to the port are left. */
static void
tear_down(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    if (f->port) {
        gboolean freed;

        watch(f->port, &freed);
        g_object_unref(f->port);
        WAIT_UNTIL(freed);
    }
    g_object_unref(f->client);
    server_free(f->server);
    settle();
}

/* --- the base ----------------------------------------------------------- */

static void
test_ready(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;
    SpiceQmpStatus *status = NULL;
    char *version, *package;
    char **capabilities;

    capabilities = spice_qmp_port_dup_capabilities(f->port);
    g_assert_cmpuint(g_strv_length(capabilities), ==, 0);
    g_strfreev(capabilities);
    g_assert_cmpint(spice_qmp_port_get_state(f->port), ==, SPICE_QMP_PORT_STATE_GREETING);
    g_assert_null(spice_qmp_port_dup_status(f->port));
    g_assert_null(spice_qmp_port_dup_version(f->port));
    g_assert_null(spice_qmp_port_dup_package(f->port));
    g_assert_null(spice_qmp_port_dup_last_error(f->port));
    g_assert_null(spice_qmp_port_ref_channel(f->port));
    g_assert_true(spice_qmp_port_get_responsive(f->port));
    g_assert_false(spice_qmp_port_get_ready(f->port));
    server_greet(f->server);
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    /* At once, the second time. */
    wait_ready(f->port, &error);
    g_assert_no_error(error);

    g_assert_cmpint(spice_qmp_port_get_state(f->port), ==, SPICE_QMP_PORT_STATE_READY);
    version = spice_qmp_port_dup_version(f->port);
    package = spice_qmp_port_dup_package(f->port);
    capabilities = spice_qmp_port_dup_capabilities(f->port);
    g_assert_cmpstr(version, ==, "10.0.2");
    g_assert_cmpstr(package, ==, "Test 1");
    g_assert_cmpstr(capabilities[0], ==, "oob");
    g_assert_null(capabilities[1]);
    g_free(version);
    g_free(package);
    g_strfreev(capabilities);

    WAIT_UNTIL((status = spice_qmp_port_dup_status(f->port)) != NULL);
    g_assert_cmpstr(status->status, ==, "paused");
    spice_qmp_status_unref(status);
    g_assert_true(spice_qmp_port_get_responsive(f->port));
    g_assert_null(spice_qmp_port_dup_last_error(f->port));
}

static void
count_notify(GObject *port G_GNUC_UNUSED, GParamSpec *spec G_GNUC_UNUSED, int *count)
{
    ++*count;
}

/* A function and its property have the same value. */
static void
test_properties(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    guint command_timeout, close_timeout;
    guint64 size;
    int notified = 0;

    g_assert_cmpuint(spice_qmp_port_get_command_timeout(f->port), ==, 0);
    g_assert_cmpuint(spice_qmp_port_get_close_timeout(f->port), ==, 1000);
    g_assert_cmpuint(spice_qmp_port_get_max_message_size(f->port), ==, 64 << 20);

    g_signal_connect(f->port, "notify::command-timeout", G_CALLBACK(count_notify), &notified);
    g_signal_connect(f->port, "notify::close-timeout", G_CALLBACK(count_notify), &notified);
    g_signal_connect(f->port, "notify::max-message-size", G_CALLBACK(count_notify), &notified);
    spice_qmp_port_set_command_timeout(f->port, 5000);
    spice_qmp_port_set_close_timeout(f->port, G_MAXUINT);
    spice_qmp_port_set_max_message_size(f->port, G_MAXUINT64);
    g_assert_cmpint(notified, ==, 3);
    g_signal_handlers_disconnect_by_data(f->port, &notified);
    g_object_get(f->port, "command-timeout", &command_timeout, "close-timeout",
                 &close_timeout, "max-message-size", &size, NULL);
    g_assert_cmpuint(command_timeout, ==, 5000);
    g_assert_cmpuint(close_timeout, ==, G_MAXUINT);
    g_assert_cmpuint(size, ==, G_MAXUINT64);

    g_object_set(f->port, "command-timeout", 1, "close-timeout", 2, "max-message-size",
                 (guint64) 3, NULL);
    g_assert_cmpuint(spice_qmp_port_get_command_timeout(f->port), ==, 1);
    g_assert_cmpuint(spice_qmp_port_get_close_timeout(f->port), ==, 2);
    g_assert_cmpuint(spice_qmp_port_get_max_message_size(f->port), ==, 3);
}

static void
assert_no_getter_takes(SpiceQmpPort *port)
{
#define REFUSES_PORT(name, value)                                              \
    expect_critical("spice_qmp_port_" #name, "SPICE_IS_QMP_PORT(port)");       \
    g_assert_true(spice_qmp_port_##name(port) == (value));                     \
    g_test_assert_expected_messages()
#define SETTER_REFUSES_PORT(name)                                              \
    expect_critical("spice_qmp_port_" #name, "SPICE_IS_QMP_PORT(port)");       \
    spice_qmp_port_##name(port, 1);                                            \
    g_test_assert_expected_messages()
    REFUSES_PORT(get_ready, FALSE);
    REFUSES_PORT(get_state, SPICE_QMP_PORT_STATE_CLOSED);
    REFUSES_PORT(get_pending, 0);
    REFUSES_PORT(get_responsive, FALSE);
    REFUSES_PORT(get_reconnect, 0);
    REFUSES_PORT(get_command_timeout, 0);
    REFUSES_PORT(get_close_timeout, 0);
    REFUSES_PORT(get_max_message_size, 0);
    REFUSES_PORT(dup_status, NULL);
    REFUSES_PORT(dup_version, NULL);
    REFUSES_PORT(dup_package, NULL);
    REFUSES_PORT(dup_capabilities, NULL);
    REFUSES_PORT(dup_last_error, NULL);
    REFUSES_PORT(ref_channel, NULL);
    SETTER_REFUSES_PORT(set_command_timeout);
    SETTER_REFUSES_PORT(set_close_timeout);
    SETTER_REFUSES_PORT(set_max_message_size);
}

static gpointer
use_status(gpointer data)
{
    SpiceQmpStatus *status = data;
    int i;

    for (i = 0; i < 1000; i++)
        spice_qmp_status_unref(spice_qmp_status_ref(status));
    return NULL;
}

static void
test_query_status(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Reply reply = { 0 };
    GError *error = NULL;
    SpiceQmpStatus *status, *copy;
    GThread *thread;
    GValue value = G_VALUE_INIT;

    spice_qmp_port_query_status_async(f->port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(reply.source == G_OBJECT(f->port));
    status = spice_qmp_port_query_status_finish(f->port, reply.result, &error);
    g_assert_no_error(error);
    g_assert_cmpint(status->version, ==, 1);
    g_assert_cmpint(status->running, ==, FALSE);
    g_assert_cmpint(status->singlestep, ==, TRUE);
    g_assert_cmpstr(status->status, ==, "paused");

    g_assert_true(spice_qmp_status_ref(status) == status);
    spice_qmp_status_unref(status);
    thread = g_thread_new("status", use_status, status);
    use_status(status);
    g_thread_join(thread);

    /* As a boxed value. */
    g_value_init(&value, SPICE_TYPE_QMP_STATUS);
    g_value_set_boxed(&value, status);
    copy = g_value_get_boxed(&value);
    g_assert_true(copy == status);
    spice_qmp_status_unref(status);
    g_assert_cmpstr(copy->status, ==, "paused");
    g_value_unset(&value);

    /* An unclaimed result is freed. */
    forget(&reply);
    spice_qmp_port_query_status_async(f->port, NULL, on_reply, &reply);
    await(&reply);
    forget(&reply);
    spice_qmp_status_unref(NULL);
}

static void
test_vm_action(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    int action;

    for (action = 0; action < SPICE_QMP_PORT_VM_ACTION_LAST; action++) {
        Reply reply = { 0 };
        GError *error = NULL;

        spice_qmp_port_vm_action_async(f->port, action, NULL, on_reply, &reply);
        g_assert_cmpuint(spice_qmp_port_get_pending(f->port), ==, 1);
        await(&reply);
        g_assert_true(spice_qmp_port_vm_action_finish(f->port, reply.result, &error));
        g_assert_no_error(error);
        forget(&reply);
    }
    g_assert_cmpstr(f->server->log->str, ==,
                    "quit system_reset system_powerdown stop cont ");
}

/* --- commands ------------------------------------------------------------ */

static void
test_execute(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;
    char *text;

    text = execute(f->port, "echo", "{ \"a\": [1, \"\\u00e9 \\\"\"] }", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, "{\"a\":[1,\"\303\251 \\\"\"]}");
    g_free(text);
    text = execute(f->port, "echo", NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, "null");
    g_free(text);
    text = execute(f->port, "large", "{\"size\": 1000000}", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(strlen(text), ==, 1000002);
    g_free(text);
}

static void
test_order(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Reply replies[100] = { { 0 } };
    int i;

    for (i = 0; i < 100; i++)
        spice_qmp_port_execute_async(f->port, "echo", NULL, NULL, on_reply, &replies[i]);
    WAIT_UNTIL(replies[99].calls);
    for (i = 0; i < 100; i++) {
        GError *error = NULL;
        char *text;

        g_assert_cmpint(replies[i].calls, ==, 1);
        text = spice_qmp_port_execute_finish(f->port, replies[i].result, &error);
        g_assert_no_error(error);
        g_free(text);
        forget(&replies[i]);
    }
}

static void
test_execute_oob(Fixture *f, gconstpointer oob)
{
    Reply reply = { 0 };
    GError *error = NULL;
    char *text;

    spice_qmp_port_execute_oob_async(f->port, "echo", "{\"a\":1}", NULL, on_reply, &reply);
    await(&reply);
    text = spice_qmp_port_execute_oob_finish(f->port, reply.result, &error);
    if (oob) {
        g_assert_no_error(error);
        g_assert_cmpstr(text, ==, "{\"a\":1}");
        g_free(text);
    } else {
        g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_SUPPORTED);
        g_assert_null(text);
        g_error_free(error);
    }
    forget(&reply);
}

static GVariant *
execute_variant(SpiceQmpPort *port, const char *command, GVariant *arguments,
                GError **error)
{
    Reply reply = { 0 };
    GVariant *variant;

    spice_qmp_port_execute_variant_async(port, command, arguments, NULL, on_reply,
                                         &reply);
    await(&reply);
    variant = spice_qmp_port_execute_variant_finish(port, reply.result, error);
    forget(&reply);
    return variant;
}

static void
test_execute_variant(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;
    GVariant *arguments, *result;
    char *text;

    /* Floating, with many types. */
    arguments = g_variant_new_parsed(
        "{'b': <true>, 'i': <-5>, 't': <uint64 7>, 'd': <1.5>,"
        " 'as': <['x', 'y']>, 'o': <{'k': <@mv nothing>}>}");
    result = execute_variant(f->port, "echo", arguments, &error);
    g_assert_no_error(error);
    g_assert_false(g_variant_is_floating(result));
    g_assert_cmpstr(g_variant_get_type_string(result), ==, "a{sv}");
    text = g_variant_print(result, TRUE);
    g_assert_cmpstr(text, ==,
                    "{'as': <[<'x'>, <'y'>]>, 'b': <true>, 'd': <1.5>, 'i': <int64 -5>, "
                    "'o': <{'k': <@mv nothing>}>, 't': <int64 7>}");
    g_free(text);

    /* Not floating: the caller keeps its reference. */
    g_variant_unref(execute_variant(f->port, "echo", result, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(g_variant_get_type_string(result), ==, "a{sv}");
    g_variant_unref(result);

    result = execute_variant(f->port, "echo", NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(g_variant_get_type_string(result), ==, "mv");
    g_variant_unref(result);

    /* Values that are not objects, or have no equivalent in JSON. */
    g_assert_null(execute_variant(f->port, "echo", g_variant_new("i", 1), &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_null(execute_variant(f->port, "echo", g_variant_new_parsed("{1: 2}"), &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
}

/* A reply that is too large for a tree is still available as text. */
static void
test_execute_variant_large(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    /* Two of the bytes are quotes. */
    const gint64 largest = (1 << 20) - 2;
    gint64 over;

    for (over = 0; over < 2; over++) {
        char *arguments =
            g_strdup_printf("{\"size\": %" G_GINT64_FORMAT "}", largest + over);
        GVariant *variant = g_variant_new_parsed("{'size': <%x>}", largest + over);
        GError *error = NULL;
        char *text;

        variant = execute_variant(f->port, "large", variant, &error);
        if (over) {
            g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_TOO_LARGE);
            g_assert_null(variant);
            g_clear_error(&error);
        } else {
            g_assert_no_error(error);
            g_assert_cmpuint(strlen(g_variant_get_string(variant, NULL)), ==, largest);
            g_variant_unref(variant);
        }
        text = execute(f->port, "large", arguments, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(strlen(text), ==, largest + over + 2);
        g_free(text);
        g_free(arguments);
    }
    g_assert_true(spice_qmp_port_get_ready(f->port));
}

/* --- events -------------------------------------------------------------- */

typedef struct {
    int plain, with_data, all, stops;
    SpiceQmpEvent *last;
} Seen;

static void
on_event(SpiceQmpPort *port, const char *name, gpointer node, Seen *seen)
{
    g_assert_true(SPICE_IS_QMP_PORT(port));
    seen->plain++;
    if (strcmp(name, "RTC_CHANGE") == 0) {
        g_assert_nonnull(node);
        g_assert_cmpint(json_object_get_int_member(json_node_get_object(node), "offset"),
                        ==, 78);
        seen->with_data++;
    } else {
        g_assert_null(node);
    }
}

static void
on_qmp_event(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event, Seen *seen)
{
    seen->all++;
    g_clear_pointer(&seen->last, spice_qmp_event_unref);
    seen->last = spice_qmp_event_ref(event);
}

static void
on_stop(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event, Seen *seen)
{
    g_assert_cmpstr(spice_qmp_event_get_name(event), ==, "STOP");
    seen->stops++;
}

static void
test_events(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Seen seen = { 0 };
    GVariant *variant;
    gint64 offset = 0;

    /* No handler is connected. */
    assert_executes(f->port, "emit", "{\"name\": \"STOP\"}");

    g_signal_connect(f->port, "event", G_CALLBACK(on_event), &seen);
    g_signal_connect(f->port, "qmp-event", G_CALLBACK(on_qmp_event), &seen);
    g_signal_connect(f->port, "qmp-event::STOP", G_CALLBACK(on_stop), &seen);

    assert_executes(f->port, "emit", "{\"name\": \"STOP\"}");
    g_assert_cmpint(seen.plain, ==, 1);
    g_assert_cmpint(seen.all, ==, 1);
    g_assert_cmpint(seen.stops, ==, 1);
    g_assert_null(spice_qmp_event_get_data(seen.last));
    g_assert_null(spice_qmp_event_get_data_variant(seen.last));

    assert_executes(f->port, "emit",
                    "{\"name\": \"RTC_CHANGE\", \"data\": {\"offset\": 78}}");
    g_assert_cmpint(seen.plain, ==, 2);
    g_assert_cmpint(seen.with_data, ==, 1);
    g_assert_cmpint(seen.all, ==, 2);
    g_assert_cmpint(seen.stops, ==, 1);
    g_assert_cmpstr(spice_qmp_event_get_name(seen.last), ==, "RTC_CHANGE");
    g_assert_cmpstr(spice_qmp_event_get_data(seen.last), ==, "{\"offset\":78}");
    g_assert_cmpint(spice_qmp_event_get_timestamp(seen.last), ==, 12000034);
    variant = spice_qmp_event_get_data_variant(seen.last);
    g_assert_cmpstr(g_variant_get_type_string(variant), ==, "a{sv}");
    g_assert_true(g_variant_lookup(variant, "offset", "x", &offset));
    g_assert_cmpint(offset, ==, 78);
    g_variant_unref(variant);
    g_signal_handlers_disconnect_by_data(f->port, &seen);

    /* The event outlives its port. */
    g_clear_object(&f->port);
    g_assert_cmpstr(spice_qmp_event_get_name(seen.last), ==, "RTC_CHANGE");
    spice_qmp_event_unref(seen.last);
}

/* A closure's marshaller, as those of other languages: it copies the values. */
static void
keep_values(GClosure *closure, GValue *result G_GNUC_UNUSED, guint n_values,
            const GValue *values, gpointer hint G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    GValue copy = G_VALUE_INIT;

    g_assert_cmpuint(n_values, ==, 2);
    g_value_init(&copy, SPICE_TYPE_QMP_EVENT);
    g_value_copy(&values[1], &copy);
    g_ptr_array_add(closure->data, g_value_dup_boxed(&copy));
    g_value_unset(&copy);
}

static void
keep_reference(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event, GPtrArray *kept)
{
    g_ptr_array_add(kept, spice_qmp_event_ref(event));
}

static void
keep_copy(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event, GPtrArray *kept)
{
    g_ptr_array_add(kept, g_boxed_copy(SPICE_TYPE_QMP_EVENT, event));
}

static void
keep_node(SpiceQmpPort *port G_GNUC_UNUSED, const char *name G_GNUC_UNUSED, JsonNode *node,
          GPtrArray *kept)
{
    g_ptr_array_add(kept, json_node_ref(node));
}

/* Kept events of a burst do not change, however they are kept. The bits of a round are
 * the handlers: GObject emits to a single one in another way. */
static void
test_kept_events(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    int round, i;

    for (round = 1; round < 8; round++) {
        GPtrArray *kept[3];
        gulong handlers[3] = { 0 };
        GPtrArray *nodes = g_ptr_array_new_with_free_func((GDestroyNotify)json_node_unref);
        gulong node_handler = g_signal_connect(f->port, "event", G_CALLBACK(keep_node), nodes);
        Reply replies[50] = { { 0 } };

        for (i = 0; i < 3; i++)
            kept[i] = g_ptr_array_new_with_free_func((GDestroyNotify)spice_qmp_event_unref);
        if (round & 1)
            handlers[0] = g_signal_connect(f->port, "qmp-event", G_CALLBACK(keep_reference),
                                           kept[0]);
        if (round & 2)
            handlers[1] = g_signal_connect(f->port, "qmp-event", G_CALLBACK(keep_copy), kept[1]);
        if (round & 4) {
            GClosure *closure = g_closure_new_simple(sizeof(GClosure), kept[2]);

            g_closure_set_marshal(closure, keep_values);
            handlers[2] = g_signal_connect_closure(f->port, "qmp-event", closure, FALSE);
        }
        for (i = 0; i < 50; i++) {
            /* Short ones and long ones. */
            char *text = g_strdup_printf("{\"name\": \"E%d\", \"data\": {\"text\": \"%*d\"}}", i,
                                         i % 10 * 30 + 1, i);

            spice_qmp_port_execute_async(f->port, "emit", text, NULL, on_reply, &replies[i]);
            g_free(text);
        }
        for (i = 0; i < 50; i++) {
            WAIT_UNTIL(replies[i].calls);
            forget(&replies[i]);
        }
        for (i = 0; i < 3; i++)
            g_clear_signal_handler(&handlers[i], f->port);
        g_clear_signal_handler(&node_handler, f->port);
        g_assert_cmpuint(nodes->len, ==, 50);
        for (i = 0; i < 50; i++) {
            char *expected = g_strdup_printf("{\"text\":\"%*d\"}", i % 10 * 30 + 1, i);
            char *text = json_to_string(nodes->pdata[i], FALSE);

            g_assert_cmpstr(text, ==, expected);
            g_free(expected);
            g_free(text);
        }
        g_ptr_array_unref(nodes);
        for (i = 0; i < 3; i++) {
            guint j;

            g_assert_cmpuint(kept[i]->len, ==, (round & (1 << i)) ? 50 : 0);
            for (j = 0; j < kept[i]->len; j++) {
                char *name = g_strdup_printf("E%u", j);
                char *text = g_strdup_printf("{\"text\":\"%*u\"}", (int)(j % 10 * 30 + 1), j);

                g_assert_cmpstr(spice_qmp_event_get_name(kept[i]->pdata[j]), ==, name);
                g_assert_cmpstr(spice_qmp_event_get_data(kept[i]->pdata[j]), ==, text);
                g_free(name);
                g_free(text);
            }
            g_ptr_array_unref(kept[i]);
        }
    }
}

/* --- errors -------------------------------------------------------------- */

static void
test_refusals(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const struct {
        const char *class;
        SpiceQmpError code;
    } refusals[] = {
        { "GenericError", SPICE_QMP_ERROR_GENERIC },
        { "CommandNotFound", SPICE_QMP_ERROR_COMMAND_NOT_FOUND },
        { "DeviceNotActive", SPICE_QMP_ERROR_DEVICE_NOT_ACTIVE },
        { "DeviceNotFound", SPICE_QMP_ERROR_DEVICE_NOT_FOUND },
        { "KVMMissingCap", SPICE_QMP_ERROR_KVM_MISSING_CAP },
    };
    gsize i;

    for (i = 0; i < G_N_ELEMENTS(refusals); i++) {
        char *arguments = g_strdup_printf("{\"class\": \"%s\", \"desc\": \"so there\"}",
                                          refusals[i].class);

        ASSERT_FAILS(f->port, "refuse", arguments, SPICE_QMP_ERROR, refusals[i].code,
                     "refuse: so there");
        g_free(arguments);
    }
    ASSERT_FAILS(f->port, "refuse", "{\"class\": \"Novel\", \"desc\": \"so there\"}",
                 SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC, "so there (Novel)");
}

static void
test_other_errors(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *last;

    ASSERT_FAILS(f->port, "garbage", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_PROTOCOL,
                 "not QMP");
    ASSERT_FAILS(f->port, "echo", "[]", SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT,
                 "object");
    ASSERT_FAILS(f->port, "echo", "{\"a\":", SPICE_QMP_ERROR,
                 SPICE_QMP_ERROR_INVALID_ARGUMENT, "arguments");
    ASSERT_FAILS(f->port, "no command", NULL, SPICE_QMP_ERROR,
                 SPICE_QMP_ERROR_INVALID_ARGUMENT, "not a command's name");
    spice_qmp_port_set_max_message_size(f->port, 10000);
    ASSERT_FAILS(f->port, "large", "{\"size\": 20000}", SPICE_QMP_ERROR,
                 SPICE_QMP_ERROR_TOO_LARGE, "10000");
    spice_qmp_port_set_command_timeout(f->port, 20);
    ASSERT_FAILS(f->port, "silent", NULL, G_IO_ERROR, G_IO_ERROR_TIMED_OUT, "20 ms");
    spice_qmp_port_set_command_timeout(f->port, 0);
    /* The stream is still intact. */
    assert_executes(f->port, "echo", NULL);

    ASSERT_FAILS(f->port, "hang-up", NULL, G_IO_ERROR, G_IO_ERROR_CLOSED, "closed");
    ASSERT_FAILS(f->port, "echo", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY,
                 "echo");
    last = spice_qmp_port_dup_last_error(f->port);
    g_assert_error(last, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_error_free(last);
}

static void
test_not_ready(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Reply reply = { 0 };
    GError *error = NULL;

    spice_qmp_port_vm_action_async(f->port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL, on_reply,
                                   &reply);
    await(&reply);
    g_assert_false(spice_qmp_port_vm_action_finish(f->port, reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY);
    g_clear_error(&error);
    forget(&reply);

    spice_qmp_port_query_status_async(f->port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_port_query_status_finish(f->port, reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY);
    g_clear_error(&error);
    forget(&reply);

    ASSERT_FAILS(f->port, "echo", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY,
                 "not ready");
    g_assert_null(execute_variant(f->port, "echo", NULL, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY);
    g_clear_error(&error);

    /* Fire and forget is silent. */
    spice_qmp_port_vm_action_async(f->port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL, NULL,
                                   NULL);
    settle();
    g_assert_cmpstr(f->server->log->str, ==, "");
}

static void
test_not_qmp(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;
    int i;

    server_send(f->server, "QEMU 10.0.2 monitor - type 'help' for more information\r\n");
    for (i = 0; i < 16; i++)
        server_send(f->server, "(qemu) \r\n");
    wait_ready(f->port, &error);
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_QMP);
    g_assert_nonnull(strstr(error->message, "human monitor"));
    g_error_free(error);
    g_assert_cmpint(spice_qmp_port_get_state(f->port), ==, SPICE_QMP_PORT_STATE_FAILED);
}

/* Errors may be ignored, as everywhere in GLib. */
static void
test_ignored_errors(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_assert_null(execute(f->port, "echo", "[]", NULL));
}

/* --- cancelling ---------------------------------------------------------- */

#define ASSERT_CANCELLED(reply, finish)                                        \
    G_STMT_START                                                               \
    {                                                                          \
        await(reply);                                                          \
        g_assert_true(!(finish));                                              \
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);               \
        g_clear_error(&error);                                                 \
        forget(reply);                                                         \
    }                                                                          \
    G_STMT_END

static void
test_cancelled_before(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GCancellable *cancellable = g_cancellable_new();
    SpiceQmpPort *port = f->port;
    Reply reply = { 0 };
    GError *error = NULL;
    SpiceSession *session = spice_session_new();
    GDBusConnection *connection = silent_connection();

    g_cancellable_cancel(cancellable);
    spice_qmp_port_vm_action_async(port, SPICE_QMP_PORT_VM_ACTION_PAUSE, cancellable,
                                   on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_vm_action_finish(port, reply.result, &error));
    spice_qmp_port_query_status_async(port, cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply,
                     spice_qmp_port_query_status_finish(port, reply.result, &error));
    spice_qmp_port_execute_async(port, "echo", NULL, cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_execute_finish(port, reply.result, &error));
    spice_qmp_port_execute_oob_async(port, "echo", NULL, cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_execute_oob_finish(port, reply.result, &error));
    spice_qmp_port_execute_full_async(port, "echo", NULL, 0, NULL, SPICE_QMP_CALL_FLAGS_NONE,
                                      cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_execute_full_finish(port, reply.result, &error));
    spice_qmp_port_execute_variant_async(port, "echo", NULL, cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply,
                     spice_qmp_port_execute_variant_finish(port, reply.result, &error));
    spice_qmp_port_wait_ready_async(port, cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_wait_ready_finish(port, reply.result, &error));
    spice_qmp_port_close_async(port, cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_close_finish(port, reply.result, &error));
    spice_qmp_port_open_async("unix:/nowhere", cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_open_finish(reply.result, &error));
    spice_qmp_port_find_async(session, cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_find_finish(reply.result, &error));
    spice_qmp_port_find_on_bus_async(connection, NULL, cancellable, on_reply, &reply);
    ASSERT_CANCELLED(&reply, spice_qmp_port_find_on_bus_finish(reply.result, &error));

    /* Nothing was sent. And the port continues to work. */
    g_assert_cmpstr(f->server->log->str, ==, "");
    assert_executes(port, "echo", NULL);
    g_object_unref(cancellable);
    g_object_unref(session);
    g_object_unref(connection);
}

/* In the same iteration of the main loop: only the first command was sent at once. */
static void
test_cancelled_at_once(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GCancellable *cancellable = g_cancellable_new();
    Reply first = { 0 };
    Reply reply = { 0 };
    GError *error = NULL;
    char *text;

    spice_qmp_port_execute_async(f->port, "echo", NULL, NULL, on_reply, &first);
    spice_qmp_port_execute_async(f->port, "echo", NULL, cancellable, on_reply, &reply);
    g_cancellable_cancel(cancellable);
    ASSERT_CANCELLED(&reply, spice_qmp_port_execute_finish(f->port, reply.result, &error));
    await(&first);
    text = spice_qmp_port_execute_finish(f->port, first.result, &error);
    g_assert_no_error(error);
    g_free(text);
    forget(&first);
    assert_executes(f->port, "emit", "{\"name\": \"STOP\"}");
    g_assert_cmpstr(f->server->log->str, ==, "echo emit ");
    g_object_unref(cancellable);
}

static gpointer
cancel_it(gpointer cancellable)
{
    g_cancellable_cancel(cancellable);
    return NULL;
}

static void
test_cancelled_during(Fixture *f, gconstpointer from_thread)
{
    GCancellable *cancellable = g_cancellable_new();
    Reply reply = { 0 };
    GError *error = NULL;
    GThread *thread = NULL;
    int i;

    for (i = 0; i < 20; i++) {
        g_cancellable_reset(cancellable);
        spice_qmp_port_execute_async(f->port, "silent", NULL, cancellable, on_reply, &reply);
        WAIT_UNTIL(strstr(f->server->log->str, "silent"));
        g_assert_cmpint(reply.calls, ==, 0);
        if (from_thread)
            thread = g_thread_new("cancel", cancel_it, cancellable);
        else
            g_cancellable_cancel(cancellable);
        ASSERT_CANCELLED(&reply,
                         spice_qmp_port_execute_finish(f->port, reply.result, &error));
        if (from_thread)
            g_thread_join(thread);
        g_assert_cmpuint(spice_qmp_port_get_pending(f->port), ==, 0);
        /* The late reply matches no call. */
        assert_executes(f->port, "echo", NULL);
        g_string_truncate(f->server->log, 0);
    }
    g_object_unref(cancellable);
}

static void
test_cancelled_futures(Fixture *f, gconstpointer from_thread)
{
    GCancellable *cancellable = g_cancellable_new();
    Reply reply = { 0 };
    GError *error = NULL;
    GThread *thread = NULL;

    /* The server has not greeted. */
    spice_qmp_port_wait_ready_async(f->port, cancellable, on_reply, &reply);
    settle();
    g_assert_cmpint(reply.calls, ==, 0);
    if (from_thread)
        thread = g_thread_new("cancel", cancel_it, cancellable);
    else
        g_cancellable_cancel(cancellable);
    ASSERT_CANCELLED(&reply,
                     spice_qmp_port_wait_ready_finish(f->port, reply.result, &error));
    if (thread)
        g_thread_join(thread);
    g_object_unref(cancellable);
}

static void
test_cancelled_after(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GCancellable *cancellable = g_cancellable_new();
    Reply reply = { 0 };
    GError *error = NULL;
    char *text;

    spice_qmp_port_execute_async(f->port, "echo", NULL, cancellable, on_reply, &reply);
    await(&reply);
    text = spice_qmp_port_execute_finish(f->port, reply.result, &error);
    g_assert_no_error(error);
    g_free(text);
    g_cancellable_cancel(cancellable);
    settle();
    g_assert_cmpint(reply.calls, ==, 1);
    forget(&reply);
    /* None of its handlers are left connected. */
    g_assert_cmpuint(g_signal_has_handler_pending(
                         cancellable, g_signal_lookup("cancelled", G_TYPE_CANCELLABLE), 0,
                         FALSE),
                     ==, 0);
    assert_executes(f->port, "echo", NULL);
    g_object_unref(cancellable);
}

/* A cancellable that outlives the port does it no harm. */
static void
test_cancelled_too_late(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GCancellable *cancellable = g_cancellable_new();
    Reply reply = { 0 };
    GError *error = NULL;

    spice_qmp_port_execute_async(f->port, "silent", NULL, cancellable, on_reply, &reply);
    settle();
    server_hang_up(f->server);
    await(&reply);
    g_assert_null(spice_qmp_port_execute_finish(f->port, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_error_free(error);
    forget(&reply);
    g_clear_object(&f->port);
    g_cancellable_cancel(cancellable);
    settle();
    g_object_unref(cancellable);
}

/* --- wrong arguments ----------------------------------------------------- */

#define ASSERT_INVALID(reply, finish)                                          \
    G_STMT_START                                                               \
    {                                                                          \
        g_test_assert_expected_messages();                                     \
        await(reply);                                                          \
        g_assert_true(!(finish));                                              \
        g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT); \
        g_clear_error(&error);                                                 \
        forget(reply);                                                         \
    }                                                                          \
    G_STMT_END

static void
test_no_port(Fixture *f, gconstpointer no_object)
{
    SpiceQmpPort *port = no_object ? NULL : (SpiceQmpPort *) f->client;
    const char *check = "SPICE_IS_QMP_PORT(port)";
    Reply reply = { 0 };
    GError *error = NULL;

    expect_critical("spice_qmp_port_vm_action_async", check);
    spice_qmp_port_vm_action_async(port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL, on_reply,
                                   &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_vm_action_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_query_status_async", check);
    spice_qmp_port_query_status_async(port, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_query_status_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_execute_async", check);
    spice_qmp_port_execute_async(port, "echo", NULL, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_execute_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_execute_oob_async", check);
    spice_qmp_port_execute_oob_async(port, "echo", NULL, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_execute_oob_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_execute_variant_async", check);
    spice_qmp_port_execute_variant_async(port, "echo", g_variant_new("a{sv}", NULL), NULL,
                                         on_reply, &reply);
    ASSERT_INVALID(&reply,
                   spice_qmp_port_execute_variant_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_wait_ready_async", check);
    spice_qmp_port_wait_ready_async(port, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_wait_ready_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_close_async", check);
    spice_qmp_port_close_async(port, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_close_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_find_async", "SPICE_IS_SESSION(session)");
    spice_qmp_port_find_async((SpiceSession *) port, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_find_finish(reply.result, &error));
    expect_critical("spice_qmp_port_find_on_bus_async", "G_IS_DBUS_CONNECTION(connection)");
    spice_qmp_port_find_on_bus_async((GDBusConnection *) port, NULL, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_find_on_bus_finish(reply.result, &error));
    expect_critical("spice_qmp_port_get", "SPICE_IS_PORT_CHANNEL(channel)");
    g_assert_null(spice_qmp_port_get((SpicePortChannel *) port));
    g_test_assert_expected_messages();
    assert_no_getter_takes(port);

    /* Without a callback there is only the critical. */
    expect_critical("spice_qmp_port_vm_action_async", check);
    spice_qmp_port_vm_action_async(port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL, NULL, NULL);
    g_test_assert_expected_messages();
}

static void
test_wrong_arguments(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    const char *utf8 = "g_utf8_validate(command)";
    SpiceQmpPort *port = f->port;
    GCancellable *wrong = (GCancellable *) f->client;
    GDBusConnection *connection;
    Reply reply = { 0 };
    GError *error = NULL;
    int action;

    for (action = -1; action <= 5; action += 6) {
        expect_critical("spice_qmp_port_vm_action_async",
                        "action >= 0 && action < SPICE_QMP_PORT_VM_ACTION_LAST");
        spice_qmp_port_vm_action_async(port, (SpiceQmpPortVmAction) action, NULL, on_reply,
                                       &reply);
        ASSERT_INVALID(&reply, spice_qmp_port_vm_action_finish(NULL, reply.result, &error));
    }
    expect_critical("spice_qmp_port_execute_async", utf8);
    spice_qmp_port_execute_async(port, NULL, NULL, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_execute_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_execute_oob_async", utf8);
    spice_qmp_port_execute_oob_async(port, "\xff", NULL, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_execute_oob_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_execute_async",
                    "(arguments.is_null() || g_utf8_validate(arguments))");
    spice_qmp_port_execute_async(port, "echo", "{\"a\": \"\xff\"}", NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_execute_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_execute_variant_async", utf8);
    spice_qmp_port_execute_variant_async(port, NULL, NULL, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply,
                   spice_qmp_port_execute_variant_finish(NULL, reply.result, &error));
    expect_critical("spice_qmp_port_open_async", "g_utf8_validate(address)");
    spice_qmp_port_open_async(NULL, NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_open_finish(reply.result, &error));
    connection = silent_connection();
    expect_critical("spice_qmp_port_find_on_bus_async", "*g_utf8_validate(name)");
    spice_qmp_port_find_on_bus_async(connection, "\xff", NULL, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_find_on_bus_finish(reply.result, &error));
    g_object_unref(connection);
    expect_critical("spice_qmp_port_execute_async", "*cancellable*");
    spice_qmp_port_execute_async(port, "echo", NULL, wrong, on_reply, &reply);
    ASSERT_INVALID(&reply, spice_qmp_port_execute_finish(NULL, reply.result, &error));

    expect_critical("spice_qmp_port_new_for_stream", "G_IS_IO_STREAM(stream)");
    g_assert_null(spice_qmp_port_new_for_stream((GIOStream *) port));
    expect_critical("spice_qmp_port_set_max_message_size", "size > 0");
    spice_qmp_port_set_max_message_size(port, 0);
    g_assert_cmpuint(spice_qmp_port_get_max_message_size(port), ==, 64 << 20);
    expect_critical("spice_qmp_port_is_qmp_name", "*name*");
    g_assert_false(spice_qmp_port_is_qmp_name(NULL));
    expect_critical("spice_qmp_status_ref", "*status*");
    g_assert_null(spice_qmp_status_ref(NULL));
    expect_critical("spice_qmp_event_ref", "*event*");
    g_assert_null(spice_qmp_event_ref(NULL));
    expect_critical("spice_qmp_event_unref", "*event*");
    spice_qmp_event_unref(NULL);
    expect_critical("spice_qmp_event_get_name", "*event*");
    g_assert_null(spice_qmp_event_get_name(NULL));
    expect_critical("spice_qmp_event_get_data", "*event*");
    g_assert_null(spice_qmp_event_get_data(NULL));
    expect_critical("spice_qmp_event_get_data_variant", "*event*");
    g_assert_null(spice_qmp_event_get_data_variant(NULL));
    expect_critical("spice_qmp_event_get_timestamp", "*event*");
    g_assert_cmpint(spice_qmp_event_get_timestamp(NULL), ==, -1);
    g_test_assert_expected_messages();

    g_assert_cmpstr(f->server->log->str, ==, "");
    assert_executes(port, "echo", NULL);
}

/* A result is accepted only by the matching function. */
static void
test_wrong_finish(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    const char *check = "g_task_is_valid(result, source)";
    SpiceQmpPort *port = f->port;
    Reply reply = { 0 };
    GError *error = NULL;
    char *text;

    spice_qmp_port_execute_async(port, "echo", NULL, NULL, on_reply, &reply);
    await(&reply);
#define REFUSES(function, call)                                                \
    expect_critical(function, check);                                          \
    g_assert_true(!(call));                                                    \
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);  \
    g_clear_error(&error)
    REFUSES("spice_qmp_port_vm_action_finish",
            spice_qmp_port_vm_action_finish(port, reply.result, &error));
    REFUSES("spice_qmp_port_query_status_finish",
            spice_qmp_port_query_status_finish(port, reply.result, &error));
    REFUSES("spice_qmp_port_execute_oob_finish",
            spice_qmp_port_execute_oob_finish(port, reply.result, &error));
    REFUSES("spice_qmp_port_execute_full_finish",
            spice_qmp_port_execute_full_finish(port, reply.result, &error));
    REFUSES("spice_qmp_port_execute_variant_finish",
            spice_qmp_port_execute_variant_finish(port, reply.result, &error));
    REFUSES("spice_qmp_port_wait_ready_finish",
            spice_qmp_port_wait_ready_finish(port, reply.result, &error));
    REFUSES("spice_qmp_port_close_finish",
            spice_qmp_port_close_finish(port, reply.result, &error));
    REFUSES("spice_qmp_port_open_finish", spice_qmp_port_open_finish(reply.result, &error));
    REFUSES("spice_qmp_port_find_finish", spice_qmp_port_find_finish(reply.result, &error));
    REFUSES("spice_qmp_port_find_on_bus_finish",
            spice_qmp_port_find_on_bus_finish(reply.result, &error));
    REFUSES("spice_qmp_port_execute_finish",
            spice_qmp_port_execute_finish(NULL, reply.result, &error));
    REFUSES("spice_qmp_port_execute_finish",
            spice_qmp_port_execute_finish(port, NULL, &error));
#undef REFUSES
    g_test_assert_expected_messages();
    text = spice_qmp_port_execute_finish(port, reply.result, &error);
    g_assert_no_error(error);
    g_free(text);
    forget(&reply);
}

/* --- life and death ------------------------------------------------------ */

static void
test_null_callbacks(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GCancellable *cancellable = g_cancellable_new();
    SpiceQmpPort *port = f->port;
    SpiceSession *session = spice_session_new();
    GDBusConnection *connection = silent_connection();
    int i;

    for (i = 0; i < 2; i++) {
        GCancellable *c = i ? cancellable : NULL;

        spice_qmp_port_vm_action_async(port, SPICE_QMP_PORT_VM_ACTION_PAUSE, c, NULL, NULL);
        spice_qmp_port_query_status_async(port, c, NULL, NULL);
        spice_qmp_port_execute_async(port, "echo", NULL, c, NULL, NULL);
        spice_qmp_port_execute_oob_async(port, "echo", NULL, c, NULL, NULL);
        spice_qmp_port_execute_full_async(port, "echo", NULL, 0, NULL,
                                          SPICE_QMP_CALL_FLAGS_NONE, c, NULL, NULL);
        spice_qmp_port_execute_variant_async(port, "echo", NULL, c, NULL, NULL);
        spice_qmp_port_execute_variant_async(port, "echo", g_variant_new("i", 1), c, NULL,
                                             NULL);
        spice_qmp_port_wait_ready_async(port, c, NULL, NULL);
        spice_qmp_port_open_async("unix:/nowhere", c, NULL, NULL);
    }
    spice_qmp_port_find_async(session, cancellable, NULL, NULL);
    spice_qmp_port_find_on_bus_async(connection, NULL, cancellable, NULL, NULL);
    g_object_unref(connection);
    settle();
    g_cancellable_cancel(cancellable);
    settle();
    WAIT_UNTIL(spice_qmp_port_get_pending(port) == 0);
    g_assert_nonnull(strstr(f->server->log->str, "stop echo "));
    spice_qmp_port_close_async(port, NULL, NULL, NULL);
    WAIT_UNTIL(!spice_qmp_port_get_ready(port));
    g_object_unref(cancellable);
    g_object_unref(session);
}

static void
drop_port(GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer user_data)
{
    Fixture *f = user_data;
    GError *error = NULL;
    char *text = spice_qmp_port_execute_finish(f->port, result, &error);

    g_assert_no_error(error);
    g_free(text);
    g_object_add_weak_pointer(G_OBJECT(f->port), (gpointer *) &f->port);
    g_object_unref(f->port);
}

static void
test_unref_in_callback(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    spice_qmp_port_execute_async(f->port, "echo", NULL, NULL, drop_port, f);
    WAIT_UNTIL(f->port == NULL);
}

static void
drop_in_handler(SpiceQmpPort *port, gpointer a G_GNUC_UNUSED, gpointer user_data)
{
    Fixture *f = user_data;

    g_assert_true(f->port == port);
    g_signal_handlers_disconnect_by_data(port, f);
    g_object_add_weak_pointer(G_OBJECT(f->port), (gpointer *) &f->port);
    g_object_unref(port);
}

static void
drop_in_event(SpiceQmpPort *port, const char *name, gpointer node G_GNUC_UNUSED, Fixture *f)
{
    drop_in_handler(port, (gpointer) name, f);
}

static void
test_unref_in_handler(Fixture *f, gconstpointer signal)
{
    if (strcmp(signal, "notify::ready") == 0) {
        g_signal_connect(f->port, signal, G_CALLBACK(drop_in_handler), f);
        server_greet(f->server);
    } else {
        GError *error = NULL;

        server_greet(f->server);
        wait_ready(f->port, &error);
        g_assert_no_error(error);
        g_signal_connect(f->port, signal,
                         strcmp(signal, "event") == 0 ? G_CALLBACK(drop_in_event)
                                                      : G_CALLBACK(drop_in_handler),
                         f);
        server_event(f->server, "STOP", NULL);
        server_event(f->server, "RESUME", NULL);
    }
    WAIT_UNTIL(f->port == NULL);
}

/* The actions within a handler or a callback, and where. */
typedef struct {
    const char *deed;
    const char *place;
} Within;

typedef struct {
    const Within *within;
    SpiceQmpPort *port;
    gulong handler;
    int told;
    Reply reply;
} Deed;

static void
do_deed(Deed *d)
{
    const char *deed = d->within->deed;

    if (d->told++)
        return;
    if (strcmp(deed, "execute") == 0)
        spice_qmp_port_execute_async(d->port, "echo", "{}", NULL, on_reply, &d->reply);
    else if (strcmp(deed, "dispose") == 0)
        g_object_run_dispose(G_OBJECT(d->port));
    else
        g_signal_handler_disconnect(d->port, d->handler);
    g_assert_cmpint(d->reply.calls, ==, 0);
}

static void
do_in_callback(GObject *port, GAsyncResult *result, gpointer deed)
{
    g_free(spice_qmp_port_execute_finish(SPICE_QMP_PORT(port), result, NULL));
    do_deed(deed);
}

static void
test_within(Fixture *f, gconstpointer data)
{
    Deed d = { data, f->port, 0, 0, { 0 } };
    GError *error = NULL;
    gboolean in_callback = strcmp(d.within->place, "callback") == 0;

    if (!in_callback)
        d.handler = g_signal_connect_swapped(f->port, d.within->place, G_CALLBACK(do_deed), &d);
    server_greet(f->server);
    if (strcmp(d.within->place, "event") == 0 || strcmp(d.within->place, "qmp-event") == 0)
        server_event(f->server, "STOP", NULL);
    if (in_callback) {
        wait_ready(f->port, &error);
        g_assert_no_error(error);
        spice_qmp_port_execute_async(f->port, "stop", NULL, NULL, do_in_callback, &d);
    }
    WAIT_UNTIL(d.told);

    if (strcmp(d.within->deed, "execute") == 0) {
        char *text;

        WAIT_UNTIL(d.reply.calls);
        text = spice_qmp_port_execute_finish(f->port, d.reply.result, &error);
        /* An event may come before the port is ready. */
        if (error)
            g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY);
        else
            g_assert_cmpstr(text, ==, "{}");
        g_clear_error(&error);
        g_free(text);
        forget(&d.reply);
    } else if (strcmp(d.within->deed, "dispose") == 0) {
        settle();
        g_assert_false(spice_qmp_port_get_ready(f->port));
        ASSERT_FAILS(f->port, "echo", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY, "");
        return;
    }
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    server_event(f->server, "STOP", NULL);
    assert_executes(f->port, "echo", NULL);
    if (strcmp(d.within->deed, "disconnect") == 0)
        g_assert_cmpint(d.told, ==, 1);
    else if (d.handler)
        g_signal_handler_disconnect(f->port, d.handler);
}

/* A call in flight keeps the port until it ends. */
static void
test_unref_pending(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    SpiceQmpPort *port = f->port;
    Reply reply = { 0 };
    GError *error = NULL;

    spice_qmp_port_execute_async(port, "silent", NULL, NULL, on_reply, &reply);
    g_object_add_weak_pointer(G_OBJECT(port), (gpointer *) &f->port);
    g_object_unref(port);
    settle();
    g_assert_cmpint(reply.calls, ==, 0);
    g_assert_nonnull(f->port);
    server_hang_up(f->server);
    await(&reply);
    g_assert_null(spice_qmp_port_execute_finish(port, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_error_free(error);
    forget(&reply);
    WAIT_UNTIL(f->port == NULL);
}

static void
test_close(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    SpiceQmpPort *port = f->port;
    Reply reply = { 0 }, closed = { 0 }, again = { 0 };
    GError *error = NULL;

    spice_qmp_port_execute_async(port, "silent", NULL, NULL, on_reply, &reply);
    spice_qmp_port_close_async(port, NULL, on_reply, &closed);
    await(&closed);
    g_assert_true(spice_qmp_port_close_finish(port, closed.result, &error));
    g_assert_no_error(error);
    forget(&closed);
    WAIT_UNTIL(reply.calls);
    g_assert_cmpint(reply.calls, ==, 1);
    g_assert_null(spice_qmp_port_execute_finish(port, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_clear_error(&error);
    forget(&reply);
    WAIT_UNTIL(strstr(f->server->log->str, "silent"));

    ASSERT_FAILS(port, "echo", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY, "");
    wait_ready(port, &error);
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_clear_error(&error);
    /* Closing a closed port succeeds. */
    spice_qmp_port_close_async(port, NULL, on_reply, &again);
    await(&again);
    g_assert_true(spice_qmp_port_close_finish(port, again.result, &error));
    g_assert_no_error(error);
    forget(&again);
}

static void
nested(GObject *source, GAsyncResult *result, gpointer user_data)
{
    SpiceQmpPort *port = SPICE_QMP_PORT(source);
    GError *error = NULL;
    char *text = spice_qmp_port_execute_finish(port, result, &error);

    g_assert_no_error(error);
    g_free(text);
    assert_executes(port, "echo", "{}");
    *(gboolean *) user_data = TRUE;
}

static void
test_nested_loop(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean done = FALSE;

    spice_qmp_port_execute_async(f->port, "echo", NULL, NULL, nested, &done);
    WAIT_UNTIL(done);
}

/* --- without a fixture --------------------------------------------------- */

static void
test_names(void)
{
    g_assert_true(spice_qmp_port_is_qmp_name("org.qemu.monitor"));
    g_assert_true(spice_qmp_port_is_qmp_name("org.qemu.monitor.qmp"));
    g_assert_true(spice_qmp_port_is_qmp_name("org.qemu.monitor.qmp.0"));
    g_assert_false(spice_qmp_port_is_qmp_name("org.qemu.monitor.hmp.0"));
    g_assert_false(spice_qmp_port_is_qmp_name(""));
}

static void
on_incoming(GSocketService *service G_GNUC_UNUSED, GSocketConnection *connection,
            GObject *source G_GNUC_UNUSED, Server **server)
{
    *server = server_new(g_object_ref(G_IO_STREAM(connection)));
    server_greet(*server);
}

static void
test_open(void)
{
    char *dir = g_dir_make_tmp("spice-qmp-XXXXXX", NULL);
    char *path = g_build_filename(dir, "qmp", NULL);
    char *address = g_strconcat("unix:", path, NULL);
    GSocketService *service = g_socket_service_new();
    GSocketAddress *at = g_unix_socket_address_new(path);
    Server *server = NULL;
    SpiceQmpPort *port;
    Reply reply = { 0 };
    GError *error = NULL;

    g_signal_connect(service, "incoming", G_CALLBACK(on_incoming), &server);
    g_socket_listener_add_address(G_SOCKET_LISTENER(service), at, G_SOCKET_TYPE_STREAM,
                                  G_SOCKET_PROTOCOL_DEFAULT, NULL, NULL, &error);
    g_assert_no_error(error);

    spice_qmp_port_open_async(address, NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(reply.source);
    port = spice_qmp_port_open_finish(reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    g_assert_true(spice_qmp_port_get_ready(port));
    assert_executes(port, "echo", NULL);
    g_object_add_weak_pointer(G_OBJECT(port), (gpointer *) &port);
    g_object_unref(port);
    WAIT_UNTIL(port == NULL);
    server_free(server);

    /* An unclaimed port is freed. */
    spice_qmp_port_open_async(address, NULL, on_reply, &reply);
    await(&reply);
    forget(&reply);
    server_free(server);

    g_socket_service_stop(service);
    g_socket_listener_close(G_SOCKET_LISTENER(service));
    g_object_unref(service);
    g_object_unref(at);

    spice_qmp_port_open_async(address, NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_port_open_finish(reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED);
    g_clear_error(&error);
    forget(&reply);
    g_unlink(path);
    spice_qmp_port_open_async(address, NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_port_open_finish(reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);
    g_clear_error(&error);
    forget(&reply);
    spice_qmp_port_open_async("unix:", NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_port_open_finish(reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    forget(&reply);

    g_rmdir(dir);
    g_free(address);
    g_free(path);
    g_free(dir);
}

static void
test_find_nowhere(void)
{
    SpiceSession *session = spice_session_new();
    Reply reply = { 0 };
    GError *error = NULL;

    g_object_set(session, "uri", "spice+unix:///nowhere/spice.sock", NULL);
    spice_qmp_port_find_async(session, NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_port_find_finish(reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);
    g_error_free(error);
    forget(&reply);
    g_object_unref(session);
}

/* With options: retried until the timeout, or not at all. */
static void
test_find_nowhere_full(void)
{
    GCancellable *cancellable = g_cancellable_new();
    gboolean wait;

    for (wait = FALSE; wait <= TRUE; wait++) {
        int code = wait ? G_IO_ERROR_TIMED_OUT : G_IO_ERROR_NOT_FOUND;
        guint timeout_ms = wait ? 50 : 0;
        SpiceSession *session = spice_session_new();
        Reply reply = { 0 };
        GError *error = NULL;

        g_object_set(session, "uri", "spice+unix:///nowhere/spice.sock", NULL);
        spice_qmp_port_find_full_async(session, timeout_ms, wait, NULL, on_reply, &reply);
        await(&reply);
        g_assert_null(reply.source);
        g_assert_null(spice_qmp_port_find_full_finish(reply.result, &error));
        g_assert_error(error, G_IO_ERROR, code);
        g_clear_error(&error);
        forget(&reply);

        spice_qmp_port_port_names_async(session, timeout_ms, wait, NULL, on_reply, &reply);
        await(&reply);
        g_assert_null(reply.source);
        g_assert_null(spice_qmp_port_port_names_finish(reply.result, &error));
        g_assert_error(error, G_IO_ERROR, code);
        g_clear_error(&error);
        forget(&reply);

        /* Both end only when they are cancelled. */
        if (wait) {
            spice_qmp_port_find_full_async(session, 0, TRUE, cancellable, on_reply, &reply);
            settle();
            g_assert_cmpint(reply.calls, ==, 0);
            g_cancellable_cancel(cancellable);
            ASSERT_CANCELLED(&reply, spice_qmp_port_find_full_finish(reply.result, &error));
            g_cancellable_reset(cancellable);
            spice_qmp_port_port_names_async(session, 0, TRUE, cancellable, on_reply, &reply);
            settle();
            g_assert_cmpint(reply.calls, ==, 0);
            g_cancellable_cancel(cancellable);
            ASSERT_CANCELLED(&reply, spice_qmp_port_port_names_finish(reply.result, &error));
        }
        g_object_unref(session);
    }
    g_object_unref(cancellable);
}

static void
test_wait_ready_full(void)
{
    GIOStream *client;
    Server *server = server_pair(&client);
    SpiceQmpPort *port = spice_qmp_port_new_for_stream(client);
    GCancellable *cancellable = g_cancellable_new();
    Reply reply = { 0 };
    GError *error = NULL;

    g_assert_false(spice_qmp_port_is_mute(port));
    spice_qmp_port_wait_ready_full_async(port, 20, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(reply.source == G_OBJECT(port));
    g_assert_false(spice_qmp_port_wait_ready_full_finish(port, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
    g_assert_nonnull(strstr(error->message, "20 ms"));
    g_clear_error(&error);
    forget(&reply);

    spice_qmp_port_wait_ready_full_async(port, 0, cancellable, on_reply, &reply);
    settle();
    g_cancellable_cancel(cancellable);
    ASSERT_CANCELLED(&reply, spice_qmp_port_wait_ready_full_finish(port, reply.result, &error));

    spice_qmp_port_wait_ready_full_async(port, 0, NULL, on_reply, &reply);
    settle();
    g_assert_cmpint(reply.calls, ==, 0);
    server_greet(server);
    await(&reply);
    /* Each result has its own function. */
    expect_critical("spice_qmp_port_wait_ready_finish", "g_task_is_valid(result, source)");
    g_assert_false(spice_qmp_port_wait_ready_finish(port, reply.result, NULL));
    g_test_assert_expected_messages();
    g_assert_true(spice_qmp_port_wait_ready_full_finish(port, reply.result, &error));
    g_assert_no_error(error);
    forget(&reply);
    g_assert_false(spice_qmp_port_is_mute(port));

    expect_critical("spice_qmp_port_is_mute", "SPICE_IS_QMP_PORT(port)");
    g_assert_false(spice_qmp_port_is_mute(NULL));
    expect_critical("spice_qmp_port_wait_ready_full_async", "SPICE_IS_QMP_PORT(port)");
    spice_qmp_port_wait_ready_full_async(NULL, 0, NULL, NULL, NULL);
    expect_critical("spice_qmp_port_find_full_async", "SPICE_IS_SESSION(session)");
    spice_qmp_port_find_full_async((SpiceSession *) port, 0, FALSE, NULL, NULL, NULL);
    expect_critical("spice_qmp_port_port_names_async", "SPICE_IS_SESSION(session)");
    spice_qmp_port_port_names_async(NULL, 0, FALSE, NULL, NULL, NULL);
    g_test_assert_expected_messages();

    g_object_unref(cancellable);
    g_object_unref(port);
    g_object_unref(client);
    server_free(server);
    settle();
}

/* The errors of an unsuitable connection. */
static void
test_find_on_no_bus(void)
{
    GDBusConnection *connection = silent_connection();
    const char *const names[] = { "", "no name", "org.qemu", NULL };
    Reply reply = { 0 };
    GError *error = NULL;
    guint i;

    for (i = 0; i < G_N_ELEMENTS(names); i++) {
        /* A connection to a peer cannot do it; a name is for a bus. */
        int code = names[i] ? SPICE_QMP_ERROR_INVALID_ARGUMENT : SPICE_QMP_ERROR_NOT_SUPPORTED;

        spice_qmp_port_find_on_bus_async(connection, names[i], NULL, on_reply, &reply);
        await(&reply);
        g_assert_null(spice_qmp_port_find_on_bus_finish(reply.result, &error));
        g_assert_error(error, SPICE_QMP_ERROR, code);
        g_clear_error(&error);
        forget(&reply);
    }
    g_object_unref(connection);
}

static SpicePortChannel *
port_channel(SpiceSession *session)
{
    return SPICE_PORT_CHANNEL(spice_channel_new(session, SPICE_CHANNEL_PORT, 0));
}

/* The channel owns the port. Callers do not, but some drop a reference. */
static void
test_channel(void)
{
    SpiceSession *session = spice_session_new();
    SpicePortChannel *channel = port_channel(session), *same;
    SpiceQmpPort *port = spice_qmp_port_get(channel);
    SpiceQmpPort *kept;
    int i;

    g_assert_true(SPICE_IS_QMP_PORT(port));
    g_assert_true(spice_qmp_port_get(channel) == port);
    same = spice_qmp_port_ref_channel(port);
    g_assert_true(same == channel);
    g_object_unref(same);

    for (i = 0; i < 10000; i++) {
        port = spice_qmp_port_get(channel);
        g_assert_cmpuint(G_OBJECT(port)->ref_count, ==, 1);
        /* As remote-viewer does. */
        g_clear_object(&port);
    }
    for (i = 0; i < 10000; i++) {
        port = g_object_ref(spice_qmp_port_get(channel));
        g_object_unref(port);
    }
    for (i = 0; i < 10000; i++)
        g_assert_true(spice_qmp_port_get(channel) == port);

    kept = g_object_ref(port);
    g_object_add_weak_pointer(G_OBJECT(channel), (gpointer *) &channel);
    spice_session_disconnect(session);
    g_object_unref(session);
    WAIT_UNTIL(channel == NULL);
    /* The channel is gone, and the port with a reference lives on. */
    g_assert_null(spice_qmp_port_ref_channel(kept));
    ASSERT_FAILS(kept, "stop", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY, "");
    WAIT_UNTIL(G_OBJECT(kept)->ref_count == 1);
    g_object_unref(kept);
    settle();
}

/* A call in flight holds the port, but not the channel: it ends with it. */
static void
test_channel_gone(gconstpointer given_back)
{
    SpiceSession *session = spice_session_new();
    SpiceQmpPort *port = spice_qmp_port_get(port_channel(session));
    Reply reply = { 0 };
    GError *error = NULL;
    gboolean freed;

    spice_qmp_port_wait_ready_async(port, NULL, on_reply, &reply);
    settle();
    watch(port, &freed);
    /* Not its own: the channel's. */
    if (given_back)
        g_object_unref(port);
    spice_session_disconnect(session);
    g_object_unref(session);
    await(&reply);
    g_assert_false(spice_qmp_port_wait_ready_finish(port, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_error_free(error);
    forget(&reply);
    WAIT_UNTIL(freed);
    settle();
}

int
main(int argc, char **argv)
{
    static const char *const deeds[] = { "execute", "dispose", "disconnect" };
    static const char *const places[] = { "event", "qmp-event", "notify::ready",
                                          "notify::status", "callback" };
    static Within withins[G_N_ELEMENTS(deeds) * G_N_ELEMENTS(places)];
    gsize i;

    g_test_init(&argc, &argv, NULL);
#define STREAM_TEST(path, data, set_up_it, test)                               \
    g_test_add("/port/" path, Fixture, data, set_up_it, test, tear_down)
    STREAM_TEST("ready", "oob", set_up, test_ready);
    STREAM_TEST("properties", NULL, set_up_ready, test_properties);
    STREAM_TEST("query-status", NULL, set_up_ready, test_query_status);
    STREAM_TEST("vm-action", NULL, set_up_ready, test_vm_action);
    STREAM_TEST("execute", NULL, set_up_ready, test_execute);
    STREAM_TEST("order", NULL, set_up_ready, test_order);
    STREAM_TEST("execute-oob", "oob", set_up_ready, test_execute_oob);
    STREAM_TEST("execute-oob/not-offered", NULL, set_up_ready, test_execute_oob);
    STREAM_TEST("execute-variant", NULL, set_up_ready, test_execute_variant);
    STREAM_TEST("execute-variant-large", NULL, set_up_ready, test_execute_variant_large);
    STREAM_TEST("events", NULL, set_up_ready, test_events);
    STREAM_TEST("kept-events", NULL, set_up_ready, test_kept_events);
    STREAM_TEST("errors/refusals", NULL, set_up_ready, test_refusals);
    STREAM_TEST("errors/others", NULL, set_up_ready, test_other_errors);
    STREAM_TEST("errors/not-ready", NULL, set_up, test_not_ready);
    STREAM_TEST("errors/not-qmp", NULL, set_up, test_not_qmp);
    STREAM_TEST("errors/ignored", NULL, set_up_ready, test_ignored_errors);
    STREAM_TEST("cancelled/before", "oob", set_up_ready, test_cancelled_before);
    STREAM_TEST("cancelled/at-once", NULL, set_up_ready, test_cancelled_at_once);
    STREAM_TEST("cancelled/during", NULL, set_up_ready, test_cancelled_during);
    STREAM_TEST("cancelled/from-thread", "", set_up_ready, test_cancelled_during);
    STREAM_TEST("cancelled/futures", NULL, set_up, test_cancelled_futures);
    STREAM_TEST("cancelled/futures-from-thread", "", set_up, test_cancelled_futures);
    STREAM_TEST("cancelled/after", NULL, set_up_ready, test_cancelled_after);
    STREAM_TEST("cancelled/too-late", NULL, set_up_ready, test_cancelled_too_late);
    STREAM_TEST("wrong/no-port", NULL, set_up_ready, test_no_port);
    STREAM_TEST("wrong/null", "", set_up_ready, test_no_port);
    STREAM_TEST("wrong/arguments", NULL, set_up_ready, test_wrong_arguments);
    STREAM_TEST("wrong/finish", NULL, set_up_ready, test_wrong_finish);
    STREAM_TEST("null-callbacks", "oob", set_up_ready, test_null_callbacks);
    STREAM_TEST("unref/callback", NULL, set_up_ready, test_unref_in_callback);
    STREAM_TEST("unref/notify", "notify::ready", set_up, test_unref_in_handler);
    STREAM_TEST("unref/qmp-event", "qmp-event", set_up, test_unref_in_handler);
    STREAM_TEST("unref/event", "event", set_up, test_unref_in_handler);
    for (i = 0; i < G_N_ELEMENTS(deeds) * G_N_ELEMENTS(places); i++) {
        Within *within = &withins[i];
        char *path;

        within->deed = deeds[i / G_N_ELEMENTS(places)];
        within->place = places[i % G_N_ELEMENTS(places)];
        /* A callback is not connected to anything. */
        if (strcmp(within->deed, "disconnect") == 0 && strcmp(within->place, "callback") == 0)
            continue;
        path = g_strdup_printf("/port/within/%s/%s", within->place, within->deed);
        g_test_add(path, Fixture, within, set_up, test_within, tear_down);
        g_free(path);
    }
    STREAM_TEST("unref/pending", NULL, set_up_ready, test_unref_pending);
    STREAM_TEST("close", NULL, set_up_ready, test_close);
    STREAM_TEST("nested-loop", NULL, set_up_ready, test_nested_loop);
    g_test_add_func("/port/names", test_names);
    g_test_add_func("/port/open", test_open);
    g_test_add_func("/port/find/nowhere", test_find_nowhere);
    g_test_add_func("/port/find/nowhere-full", test_find_nowhere_full);
    g_test_add_func("/port/wait-ready-full", test_wait_ready_full);
    g_test_add_func("/port/find/on-no-bus", test_find_on_no_bus);
    g_test_add_func("/port/channel", test_channel);
    g_test_add_data_func("/port/channel/gone", NULL, test_channel_gone);
    g_test_add_data_func("/port/channel/gone-given-back", "", test_channel_gone);
    return g_test_run();
}
