/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A machine and the waits of its port, over a stream to a scripted server. */
#include "server.h"

typedef struct {
    Server *server;
    GIOStream *client;
    SpiceQmpPort *port;
    SpiceQmpMachine *machine;
    GActionGroup *actions;
} Fixture;

static gboolean
has_state(SpiceQmpPort *port, const char *name)
{
    g_autoptr(SpiceQmpStatus) status = spice_qmp_port_dup_status(port);

    return status && strcmp(status->status, name) == 0;
}

static void
set_up(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;

    f->server = server_pair(&f->client);
    f->port = spice_qmp_port_new_for_stream(f->client);
    f->machine = spice_qmp_machine_new(f->port);
    f->actions = G_ACTION_GROUP(f->machine);
    server_greet(f->server);
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    WAIT_UNTIL(has_state(f->port, "paused"));
    g_string_truncate(f->server->log, 0);
}

/* Only the test's own references to either are left. */
static void
tear_down(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean port_freed, machine_freed = TRUE;

    watch(f->port, &port_freed);
    if (f->machine) {
        watch(f->machine, &machine_freed);
        g_object_unref(f->machine);
    }
    g_assert_true(machine_freed);
    g_object_unref(f->port);
    WAIT_UNTIL(port_freed);
    g_object_unref(f->client);
    server_free(f->server);
    settle();
}

/* --- actions ----------------------------------------------------------------- */

static void
assert_enabled(GActionGroup *actions, const char *expected)
{
    g_auto(GStrv) names = g_action_group_list_actions(actions);
    g_autoptr(GString) enabled = g_string_new(NULL);
    guint i;

    for (i = 0; names[i]; i++)
        if (g_action_group_get_action_enabled(actions, names[i]))
            g_string_append_printf(enabled, "%s ", names[i]);
    g_assert_cmpstr(enabled->str, ==, expected);
}

static gboolean
is_paused(GActionGroup *actions)
{
    g_autoptr(GVariant) state = g_action_group_get_action_state(actions, "pause");

    return g_variant_get_boolean(state);
}

static void
note_enabled(GActionGroup *actions G_GNUC_UNUSED, const char *name, gboolean enabled,
             GString *notes)
{
    g_string_append_printf(notes, "%s=%d ", name, enabled);
}

static void
note_state(GActionGroup *actions G_GNUC_UNUSED, const char *name, GVariant *state,
           GString *notes)
{
    g_string_append_printf(notes, "%s:%d ", name, g_variant_get_boolean(state));
}

static void
test_actions(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GString) notes = g_string_new(NULL);
    int i;

    g_assert_true(spice_qmp_machine_get_port(f->machine) == f->port);
    assert_enabled(f->actions, "pause reset quit ");
    /* Returned values belong to the caller, however often they are requested. */
    for (i = 0; i < 100; i++)
        g_assert_true(is_paused(f->actions));
    g_assert_true(g_variant_type_equal(
        g_action_group_get_action_state_type(f->actions, "pause"), G_VARIANT_TYPE_BOOLEAN));
    g_assert_null(g_action_group_get_action_parameter_type(f->actions, "pause"));
    g_assert_null(g_action_group_get_action_state_hint(f->actions, "pause"));
    g_assert_null(g_action_group_get_action_state(f->actions, "reset"));
    g_assert_false(g_action_group_has_action(f->actions, "resume"));
    g_assert_true(g_action_group_query_action(f->actions, "quit", NULL, NULL, NULL, NULL, NULL));

    g_action_group_activate_action(f->actions, "pause", NULL);
    g_action_group_change_action_state(f->actions, "pause", g_variant_new_boolean(TRUE));
    g_action_group_change_action_state(f->actions, "pause", g_variant_new_boolean(FALSE));
    g_action_group_activate_action(f->actions, "reset", NULL);
    g_action_group_activate_action(f->actions, "nmi", NULL);
    g_action_group_activate_action(f->actions, "resume", NULL);
    WAIT_UNTIL(strcmp(f->server->log->str, "cont cont system_reset ") == 0);

    /* The server sends RESUME, and reports `paused` when it is asked. */
    g_signal_connect(f->machine, "action-enabled-changed", G_CALLBACK(note_enabled), notes);
    g_signal_connect(f->machine, "action-state-changed::pause", G_CALLBACK(note_state), notes);
    server_event(f->server, "RESUME", NULL);
    WAIT_UNTIL(strstr(notes->str, "pause:1"));
    g_assert_cmpstr(notes->str, ==,
                    "power-down=1 nmi=1 pause:0 power-down=0 nmi=0 pause:1 ");
    g_signal_handlers_disconnect_by_data(f->machine, notes);
}

static void
on_failed(SpiceQmpMachine *machine, const char *name, GError *error, GError **kept)
{
    g_assert_true(SPICE_IS_QMP_MACHINE(machine));
    g_assert_cmpstr(name, ==, "reset");
    g_assert_null(*kept);
    *kept = g_error_copy(error);
}

static void
test_action_failed(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GError) error = NULL;

    g_signal_connect(f->machine, "action-failed", G_CALLBACK(on_failed), &error);
    g_action_group_activate_action(f->actions, "reset", NULL);
    server_hang_up(f->server);
    WAIT_UNTIL(error);
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    WAIT_UNTIL(!spice_qmp_port_get_ready(f->port));
    settle();
    assert_enabled(f->actions, "");
    g_assert_false(is_paused(f->actions));
}

static void
test_wrong(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(SpiceQmpMachine) none = NULL;

    expect_critical("spice_qmp_machine_new", "SPICE_IS_QMP_PORT(port)");
    g_assert_null(spice_qmp_machine_new(NULL));
    expect_critical("spice_qmp_machine_get_port", "SPICE_IS_QMP_MACHINE(machine)");
    g_assert_null(spice_qmp_machine_get_port((SpiceQmpMachine *) f->port));
    expect_critical("spice_qmp_machine_dup_condition", "SPICE_IS_QMP_MACHINE(machine)");
    g_assert_null(spice_qmp_machine_dup_condition(NULL));
#define CONDITION_CHECK(name)                                                  \
    expect_critical("spice_qmp_condition_" #name, "!condition.is_null()");     \
    (void) spice_qmp_condition_##name(NULL);
    CONDITION_CHECK(ref)
    CONDITION_CHECK(unref)
    CONDITION_CHECK(get_code)
    CONDITION_CHECK(get_severity)
    CONDITION_CHECK(get_subject)
    CONDITION_CHECK(get_message)
    CONDITION_CHECK(get_detail)
    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*\"reset\"*no parameter*");
    g_action_group_activate_action(f->actions, "reset", g_variant_new_boolean(TRUE));
    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*'pause'*boolean*");
    g_action_group_change_action_state(f->actions, "pause", g_variant_new_int32(1));
    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*\"reset\"*no state*");
    g_action_group_change_action_state(f->actions, "reset", g_variant_new_boolean(TRUE));
    g_test_assert_expected_messages();

    /* A machine without a port does nothing. */
    none = g_object_new(SPICE_TYPE_QMP_MACHINE, NULL);
    g_assert_null(spice_qmp_machine_get_port(none));
    g_assert_null(spice_qmp_machine_dup_condition(none));
    assert_enabled(G_ACTION_GROUP(none), "");
    g_action_group_activate_action(G_ACTION_GROUP(none), "quit", NULL);

    /* And one that was disposed of. */
    g_object_run_dispose(G_OBJECT(f->machine));
    g_assert_null(spice_qmp_machine_get_port(f->machine));
    g_action_group_activate_action(f->actions, "quit", NULL);
    assert_executes(f->port, "echo", NULL);
    g_assert_cmpstr(f->server->log->str, ==, "echo ");
}

/* --- the condition ------------------------------------------------------------ */

static void
count_notify(GObject *machine G_GNUC_UNUSED, GParamSpec *spec G_GNUC_UNUSED, int *count)
{
    ++*count;
}

static void
test_condition(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    const char *detail = "{\"guest\": true, \"reason\": \"guest-shutdown\"}";
    SpiceQmpCondition *condition = NULL, *same;
    int notified = 0;

    g_assert_null(spice_qmp_machine_dup_condition(f->machine));
    g_signal_connect(f->machine, "notify::condition", G_CALLBACK(count_notify), &notified);
    server_event(f->server, "SHUTDOWN", detail);
    WAIT_UNTIL((condition = spice_qmp_machine_dup_condition(f->machine)));
    g_assert_cmpint(notified, ==, 1);
    g_assert_cmpint(spice_qmp_condition_get_code(condition), ==,
                    SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN);
    g_assert_cmpint(spice_qmp_condition_get_severity(condition), ==,
                    SPICE_QMP_CONDITION_SEVERITY_INFO);
    g_assert_cmpstr(spice_qmp_condition_get_message(condition), ==, "The guest has shut down");
    g_assert_null(spice_qmp_condition_get_subject(condition));
    g_assert_cmpstr(spice_qmp_condition_get_detail(condition), ==, detail);

    /* The first reason stays. */
    server_hang_up(f->server);
    WAIT_UNTIL(!spice_qmp_port_get_ready(f->port));
    settle();
    same = spice_qmp_machine_dup_condition(f->machine);
    g_assert_true(same == condition);
    spice_qmp_condition_unref(same);
    g_clear_object(&f->machine);
    g_assert_cmpint(notified, ==, 1);
    /* It outlives its machine. */
    g_assert_true(spice_qmp_condition_ref(condition) == condition);
    spice_qmp_condition_unref(condition);
    g_assert_cmpstr(spice_qmp_condition_get_message(condition), ==, "The guest has shut down");
    spice_qmp_condition_unref(condition);
}

static void
test_drive(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    SpiceQmpCondition *condition = NULL;

    /* The server knows no drives. */
    server_event(f->server, "BLOCK_IO_ERROR",
                 "{\"device\": \"\", \"node-name\": \"n0\", \"action\": \"stop\","
                 " \"nospace\": true, \"operation\": \"write\"}");
    WAIT_UNTIL((condition = spice_qmp_machine_dup_condition(f->machine)));
    g_assert_cmpint(spice_qmp_condition_get_code(condition), ==,
                    SPICE_QMP_CONDITION_CODE_DISK_FULL);
    g_assert_cmpint(spice_qmp_condition_get_severity(condition), ==,
                    SPICE_QMP_CONDITION_SEVERITY_WARNING);
    g_assert_cmpstr(spice_qmp_condition_get_subject(condition), ==, "n0");
    g_assert_cmpstr(spice_qmp_condition_get_message(condition), ==,
                    "Disk full: the host has no space left for the drive n0");
    spice_qmp_condition_unref(condition);
}

static void
test_lost(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    SpiceQmpCondition *condition = NULL;

    server_hang_up(f->server);
    WAIT_UNTIL((condition = spice_qmp_machine_dup_condition(f->machine)));
    g_assert_cmpint(spice_qmp_condition_get_code(condition), ==,
                    SPICE_QMP_CONDITION_CODE_CONNECTION_LOST);
    g_assert_cmpint(spice_qmp_condition_get_severity(condition), ==,
                    SPICE_QMP_CONDITION_SEVERITY_ERROR);
    g_assert_null(spice_qmp_condition_get_detail(condition));
    spice_qmp_condition_unref(condition);
}

/* The program closes the port: nothing is lost. */
static void
test_closed(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Reply reply = { 0 };
    int notified = 0;

    g_signal_connect(f->machine, "notify::condition", G_CALLBACK(count_notify), &notified);
    spice_qmp_port_close_async(f->port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_close_finish(f->port, reply.result, NULL));
    forget(&reply);
    settle();
    g_assert_cmpint(spice_qmp_port_get_state(f->port), ==, SPICE_QMP_PORT_STATE_CLOSED);
    g_assert_null(spice_qmp_port_dup_status(f->port));
    g_assert_null(spice_qmp_machine_dup_condition(f->machine));
    g_assert_cmpint(notified, ==, 0);
}

/* Nor is it where the port is disposed of. */
static void
test_disposed(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_object_run_dispose(G_OBJECT(f->port));
    settle();
    g_assert_false(spice_qmp_port_get_ready(f->port));
    g_assert_null(spice_qmp_machine_dup_condition(f->machine));
}

/* --- waiting ------------------------------------------------------------------ */

static const char *const STOP[] = { "STOP", NULL };
static const char *const STOP_OR_RESET[] = { "STOP", "RESET", NULL };
static const char *const PAUSED[] = { "running", "paused", NULL };
static const char *const NOWHERE[] = { "colo", NULL };
static const char *const NEVER[] = { "NEVER", NULL };

static SpiceQmpEvent *
finish_event(Fixture *f, Reply *reply, GError **error)
{
    SpiceQmpEvent *event;

    WAIT_UNTIL(reply->calls == 1);
    g_assert_true(reply->source == G_OBJECT(f->port));
    event = spice_qmp_port_wait_event_finish(f->port, reply->result, error);
    forget(reply);
    return event;
}

static void
assert_event(Fixture *f, Reply *reply, const char *name, int number)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SpiceQmpEvent) event = finish_event(f, reply, &error);
    g_autofree char *expected = g_strdup_printf("{\"number\":%d}", number);

    g_assert_no_error(error);
    g_assert_cmpstr(spice_qmp_event_get_name(event), ==, name);
    g_assert_cmpstr(spice_qmp_event_get_data(event), ==, expected);
}

static void
test_wait_event(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Reply reply = { 0 }, any = { 0 };

    spice_qmp_port_wait_event_async(f->port, STOP_OR_RESET, 0, NULL, on_reply, &reply);
    spice_qmp_port_wait_event_async(f->port, NULL, 0, NULL, on_reply, &any);
    /* Without a callback it holds nothing. */
    spice_qmp_port_wait_event_async(f->port, NEVER, 0, NULL, NULL, NULL);
    spice_qmp_port_wait_status_async(f->port, NOWHERE, 0, NULL, NULL, NULL);
    server_event(f->server, "OTHER", "{\"number\":1}");
    server_event(f->server, "RESET", "{\"number\":2}");
    server_event(f->server, "STOP", "{\"number\":3}");
    assert_event(f, &reply, "RESET", 2);
    assert_event(f, &any, "OTHER", 1);
}

/* The event before the reply, and after it. */
static void
test_rounds(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    int number;

    for (number = 0; number < 1000; number++) {
        g_autofree char *text = g_strdup_printf(
            "{\"name\": \"X\", \"data\": {\"number\": %d}}", number);
        g_autofree char *json = g_strdup_printf("{\"number\":%d}", number);
        static const char *const X[] = { "X", NULL };
        Reply reply = { 0 };

        spice_qmp_port_wait_event_async(f->port, X, 0, NULL, on_reply, &reply);
        if (number % 2) {
            assert_executes(f->port, "emit", text);
        } else {
            assert_executes(f->port, "echo", NULL);
            server_event(f->server, "X", json);
        }
        WAIT_UNTIL(reply.calls == 1);
        assert_event(f, &reply, "X", number);
    }
}

static void
assert_wait_fails(Fixture *f, Reply *reply, int code)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(finish_event(f, reply, &error));
    g_assert_error(error, G_IO_ERROR, code);
}

static void
test_wait_ends(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    Reply reply = { 0 }, other = { 0 };

    spice_qmp_port_wait_event_async(f->port, STOP, 10, NULL, on_reply, &reply);
    assert_wait_fails(f, &reply, G_IO_ERROR_TIMED_OUT);
    spice_qmp_port_wait_event_async(f->port, STOP, 0, cancellable, on_reply, &reply);
    settle();
    g_cancellable_cancel(cancellable);
    assert_wait_fails(f, &reply, G_IO_ERROR_CANCELLED);
    /* Cancelled before. */
    spice_qmp_port_wait_event_async(f->port, STOP, 0, cancellable, on_reply, &reply);
    assert_wait_fails(f, &reply, G_IO_ERROR_CANCELLED);

    spice_qmp_port_wait_event_async(f->port, STOP, 0, NULL, on_reply, &reply);
    spice_qmp_port_wait_status_async(f->port, NOWHERE, 0, NULL, on_reply, &other);
    server_hang_up(f->server);
    assert_wait_fails(f, &reply, G_IO_ERROR_CLOSED);
    WAIT_UNTIL(other.calls);
    {
        g_autoptr(GError) error = NULL;

        g_assert_false(spice_qmp_port_wait_status_finish(f->port, other.result, &error));
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    }
    forget(&other);
    /* Of a port that is closed. */
    spice_qmp_port_wait_event_async(f->port, STOP, 0, NULL, on_reply, &reply);
    assert_wait_fails(f, &reply, G_IO_ERROR_CLOSED);
}

static void
count_end(GObject *source G_GNUC_UNUSED, GAsyncResult *result G_GNUC_UNUSED, gpointer count)
{
    ++*(int *) count;
}

static void
on_close(GObject *source G_GNUC_UNUSED, GAsyncResult *result G_GNUC_UNUSED, gpointer count)
{
    int *ends = count;

    g_assert_cmpint(*ends, ==, 3);
    *ends = -1;
}

/* The end of closing is the last. */
static void
test_close(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    int ends = 0;

    spice_qmp_port_wait_event_async(f->port, STOP, 0, NULL, count_end, &ends);
    spice_qmp_port_wait_status_async(f->port, NOWHERE, 0, NULL, count_end, &ends);
    spice_qmp_machine_unplug_async(f->machine, "n1", 0, NULL, count_end, &ends);
    settle();
    spice_qmp_port_close_async(f->port, NULL, on_close, &ends);
    WAIT_UNTIL(ends == -1);
}

static void
test_wait_status(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GError) error = NULL;
    Reply reply = { 0 };

    spice_qmp_port_wait_status_async(f->port, PAUSED, 0, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_wait_status_finish(f->port, reply.result, &error));
    g_assert_no_error(error);
    forget(&reply);
    spice_qmp_port_wait_status_async(f->port, NOWHERE, 10, NULL, on_reply, &reply);
    await(&reply);
    g_assert_false(spice_qmp_port_wait_status_finish(f->port, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
    forget(&reply);
}

static void
test_wait_wrong(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char *const BROKEN[] = { "STOP", "\xff", NULL };

#define REFUSES(function, check, ...)                                          \
    expect_critical("spice_qmp_" #function "_async", check);                   \
    spice_qmp_##function##_async(__VA_ARGS__, 0, NULL, NULL, NULL);            \
    g_test_assert_expected_messages();
    REFUSES(port_wait_event, "SPICE_IS_QMP_PORT(port)", NULL, STOP)
    REFUSES(port_wait_event, "(names.is_null() || are_strings(names))", f->port, BROKEN)
    REFUSES(port_wait_status, "SPICE_IS_QMP_PORT(port)", (SpiceQmpPort *) f->machine, PAUSED)
    REFUSES(port_wait_status, "are_strings(names)", f->port, NULL)
    REFUSES(port_wait_status, "are_strings(names)", f->port, BROKEN)
    REFUSES(machine_unplug, "SPICE_IS_QMP_MACHINE(machine)", NULL, "n1")
    REFUSES(machine_unplug, "g_utf8_validate(id)", f->machine, NULL)
    REFUSES(machine_unplug, "g_utf8_validate(id)", f->machine, "\xff")
}

/* --- the schema ----------------------------------------------------------------- */

static void
test_schema(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(SpiceQmpSchema) schema = NULL;
    g_autoptr(SpiceQmpSchema) same = NULL;
    g_auto(GStrv) commands = NULL;
    g_autoptr(GError) error = NULL;
    Reply reply = { 0 };

    /* One caller is cancelled, and the other one is not affected. */
    spice_qmp_machine_load_schema_async(f->machine, cancellable, on_reply, &reply);
    spice_qmp_machine_load_schema_async(f->machine, NULL, NULL, NULL);
    g_cancellable_cancel(cancellable);
    schema = load_schema(f->machine, &error);
    g_assert_no_error(error);
    WAIT_UNTIL(reply.calls);
    g_assert_null(spice_qmp_machine_load_schema_finish(f->machine, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_clear_error(&error);
    forget(&reply);
    same = load_schema(f->machine, &error);
    g_assert_no_error(error);
    g_assert_true(same == schema);
    g_assert_cmpstr(f->server->log->str, ==, "query-qmp-schema ");

    g_assert_true(spice_qmp_schema_has_command(schema, "emit"));
    g_assert_false(spice_qmp_schema_has_command(schema, "stop"));
    g_assert_true(spice_qmp_schema_has_argument(schema, "emit", "name"));
    g_assert_false(spice_qmp_schema_has_argument(schema, "echo", "name"));
    commands = spice_qmp_schema_list_commands(schema);
    g_assert_cmpuint(g_strv_length(commands), ==, 2);
    g_assert_cmpstr(commands[0], ==, "echo");
    g_assert_cmpstr(commands[1], ==, "emit");

#define SCHEMA_CHECK(name, check, ...)                                         \
    expect_critical("spice_qmp_schema_" #name, check);                         \
    (void) spice_qmp_schema_##name(__VA_ARGS__);
    SCHEMA_CHECK(ref, "!schema.is_null()", NULL)
    SCHEMA_CHECK(unref, "!schema.is_null()", NULL)
    SCHEMA_CHECK(list_commands, "!schema.is_null()", NULL)
    SCHEMA_CHECK(has_command, "!schema.is_null()", NULL, "stop")
    SCHEMA_CHECK(has_command, "g_utf8_validate(command)", schema, NULL)
    SCHEMA_CHECK(has_argument, "!schema.is_null()", NULL, "stop", "id")
    SCHEMA_CHECK(has_argument, "g_utf8_validate(command)", schema, "\xff", "id")
    SCHEMA_CHECK(has_argument, "g_utf8_validate(argument)", schema, "stop", NULL)
    expect_critical("spice_qmp_machine_load_schema_async", "SPICE_IS_QMP_MACHINE(machine)");
    spice_qmp_machine_load_schema_async(NULL, NULL, NULL, NULL);
    g_test_assert_expected_messages();

    server_hang_up(f->server);
    WAIT_UNTIL(!spice_qmp_port_get_ready(f->port));
    g_assert_null(load_schema(f->machine, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY);
    settle();
}

/* --- screenshots: for pictures, see qemu.c -------------------------------------- */

static void
test_screenshot(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    Reply reply = { 0 };

    expect_critical("spice_qmp_machine_screenshot_async", "SPICE_IS_QMP_MACHINE(machine)");
    spice_qmp_machine_screenshot_async(NULL, NULL, 0, NULL, NULL, NULL);
    expect_critical("spice_qmp_machine_screenshot_async",
                    "(device.is_null() || g_utf8_validate(device))");
    spice_qmp_machine_screenshot_async(f->machine, "\xff", 0, NULL, NULL, NULL);
    g_test_assert_expected_messages();

    /* The server's reply to add-fd names no set. */
    spice_qmp_machine_screenshot_async(f->machine, NULL, 0, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(reply.source == G_OBJECT(f->machine));
    g_assert_null(spice_qmp_machine_screenshot_finish(f->machine, reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_PROTOCOL);
    g_assert_cmpstr(f->server->log->str, ==, "add-fd ");
    g_clear_error(&error);
    forget(&reply);

    /* Never begun. */
    g_cancellable_cancel(cancellable);
    spice_qmp_machine_screenshot_async(f->machine, NULL, 0, cancellable, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_machine_screenshot_finish(f->machine, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_assert_cmpstr(f->server->log->str, ==, "add-fd ");
    forget(&reply);
}

/* --- unplugging ----------------------------------------------------------------- */

static gboolean
finish_unplug(Fixture *f, Reply *reply, GError **error)
{
    gboolean done;

    await(reply);
    g_assert_true(reply->source == G_OBJECT(f->machine));
    done = spice_qmp_machine_unplug_finish(f->machine, reply->result, error);
    forget(reply);
    return done;
}

static void
test_unplug(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    Reply reply = { 0 };

    spice_qmp_machine_unplug_async(f->machine, "n1", 0, NULL, on_reply, &reply);
    WAIT_UNTIL(strcmp(f->server->log->str, "device_del ") == 0);
    server_event(f->server, "DEVICE_DELETED", "{\"path\": \"/machine/peripheral/n1/virtio\"}");
    server_event(f->server, "DEVICE_DELETED", "{\"device\": \"n2\", \"path\": \"/m/n2\"}");
    server_event(f->server, "DEVICE_UNPLUG_GUEST_ERROR", "{\"device\": \"n3\"}");
    settle();
    g_assert_cmpint(reply.calls, ==, 0);
    server_event(f->server, "DEVICE_DELETED",
                 "{\"device\": \"n1\", \"path\": \"/machine/peripheral/n1\"}");
    g_assert_true(finish_unplug(f, &reply, &error));
    g_assert_no_error(error);

    spice_qmp_machine_unplug_async(f->machine, "n3", 0, NULL, on_reply, &reply);
    settle();
    server_event(f->server, "DEVICE_UNPLUG_GUEST_ERROR",
                 "{\"device\": \"n3\", \"path\": \"/machine/peripheral/n3\"}");
    g_assert_false(finish_unplug(f, &reply, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
    g_clear_error(&error);

    spice_qmp_machine_unplug_async(f->machine, "n4", 50, NULL, on_reply, &reply);
    g_assert_false(finish_unplug(f, &reply, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
    g_clear_error(&error);

    /* Never begun. */
    g_string_truncate(f->server->log, 0);
    g_cancellable_cancel(cancellable);
    spice_qmp_machine_unplug_async(f->machine, "n5", 0, cancellable, on_reply, &reply);
    g_assert_false(finish_unplug(f, &reply, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_assert_cmpstr(f->server->log->str, ==, "");

    /* The call holds the last reference to the machine. */
    spice_qmp_machine_unplug_async(f->machine, "n6", 0, NULL, on_reply, &reply);
    g_clear_object(&f->machine);
    WAIT_UNTIL(strcmp(f->server->log->str, "device_del ") == 0);
    server_event(f->server, "DEVICE_DELETED", "{\"device\": \"n6\", \"path\": \"/m/n6\"}");
    await(&reply);
    g_assert_true(SPICE_IS_QMP_MACHINE(reply.source));
    forget(&reply);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(path, test)                                                       \
    g_test_add("/machine/" path, Fixture, NULL, set_up, test, tear_down)
    TEST("actions", test_actions);
    TEST("action-failed", test_action_failed);
    TEST("wrong", test_wrong);
    TEST("condition", test_condition);
    TEST("condition/drive", test_drive);
    TEST("condition/lost", test_lost);
    TEST("condition/closed", test_closed);
    TEST("condition/disposed", test_disposed);
    TEST("wait-event", test_wait_event);
    TEST("wait-event/rounds", test_rounds);
    TEST("wait-event/ends", test_wait_ends);
    TEST("wait-status", test_wait_status);
    TEST("wait/wrong", test_wait_wrong);
    TEST("close", test_close);
    TEST("screenshot", test_screenshot);
    TEST("unplug", test_unplug);
    TEST("schema", test_schema);
    return g_test_run();
}
