/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The binary interface, as the manual of SpiceQmpPort has it and as it must stay.
 * Compiled in each order of the headers, as C and as C++. */
#ifdef SPICE_GTK_FIRST
#include <spice-client.h>
#endif
#include <spice-qmp/spice-qmp.h>
#ifdef SPICE_GTK_LAST
#include <spice-client.h>
#endif
#include <spice-qmp/spice-qmp.h>

#include <stddef.h>

static void
test_enums(void)
{
    g_assert_cmpint(SPICE_QMP_PORT_VM_ACTION_QUIT, ==, 0);
    g_assert_cmpint(SPICE_QMP_PORT_VM_ACTION_RESET, ==, 1);
    g_assert_cmpint(SPICE_QMP_PORT_VM_ACTION_POWER_DOWN, ==, 2);
    g_assert_cmpint(SPICE_QMP_PORT_VM_ACTION_PAUSE, ==, 3);
    g_assert_cmpint(SPICE_QMP_PORT_VM_ACTION_CONTINUE, ==, 4);
    g_assert_cmpint(SPICE_QMP_PORT_VM_ACTION_LAST, ==, 5);
    g_assert_cmpuint(sizeof(SpiceQmpPortVmAction), ==, sizeof(int));

    g_assert_cmpint(SPICE_QMP_PORT_STATE_CLOSED, ==, 0);
    g_assert_cmpint(SPICE_QMP_PORT_STATE_CONNECTING, ==, 1);
    g_assert_cmpint(SPICE_QMP_PORT_STATE_GREETING, ==, 2);
    g_assert_cmpint(SPICE_QMP_PORT_STATE_NEGOTIATING, ==, 3);
    g_assert_cmpint(SPICE_QMP_PORT_STATE_READY, ==, 4);
    g_assert_cmpint(SPICE_QMP_PORT_STATE_FAILED, ==, 5);
    g_assert_cmpuint(sizeof(SpiceQmpPortState), ==, sizeof(int));

    g_assert_cmpint(SPICE_QMP_CALL_FLAGS_NONE, ==, 0);
    g_assert_cmpint(SPICE_QMP_CALL_FLAGS_OUT_OF_BAND, ==, 1);
    g_assert_cmpuint(sizeof(SpiceQmpCallFlags), ==, sizeof(int));

    g_assert_cmpint(SPICE_QMP_ERROR_GENERIC, ==, 0);
    g_assert_cmpint(SPICE_QMP_ERROR_COMMAND_NOT_FOUND, ==, 1);
    g_assert_cmpint(SPICE_QMP_ERROR_DEVICE_NOT_ACTIVE, ==, 2);
    g_assert_cmpint(SPICE_QMP_ERROR_DEVICE_NOT_FOUND, ==, 3);
    g_assert_cmpint(SPICE_QMP_ERROR_KVM_MISSING_CAP, ==, 4);
    g_assert_cmpint(SPICE_QMP_ERROR_NOT_READY, ==, 5);
    g_assert_cmpint(SPICE_QMP_ERROR_PROTOCOL, ==, 6);
    g_assert_cmpint(SPICE_QMP_ERROR_TOO_LARGE, ==, 7);
    g_assert_cmpint(SPICE_QMP_ERROR_NOT_QMP, ==, 8);
    g_assert_cmpint(SPICE_QMP_ERROR_INVALID_ARGUMENT, ==, 9);
    g_assert_cmpint(SPICE_QMP_ERROR_NOT_SUPPORTED, ==, 10);

    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_DISK_FULL, ==, 0);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_DISK_ERROR, ==, 1);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_GUEST_PANICKED, ==, 2);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_WATCHDOG, ==, 3);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR, ==, 4);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_MEMORY_FAILURE, ==, 5);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN, ==, 6);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_HOST_SHUTDOWN, ==, 7);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_GUEST_RESET, ==, 8);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_HOST_RESET, ==, 9);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_SHUTDOWN, ==, 10);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_MIGRATED, ==, 11);
    g_assert_cmpint(SPICE_QMP_CONDITION_CODE_CONNECTION_LOST, ==, 12);
    g_assert_cmpuint(sizeof(SpiceQmpConditionCode), ==, sizeof(int));

    g_assert_cmpint(SPICE_QMP_CONDITION_SEVERITY_INFO, ==, 0);
    g_assert_cmpint(SPICE_QMP_CONDITION_SEVERITY_WARNING, ==, 1);
    g_assert_cmpint(SPICE_QMP_CONDITION_SEVERITY_ERROR, ==, 2);
    g_assert_cmpuint(sizeof(SpiceQmpConditionSeverity), ==, sizeof(int));
}

static void
test_status(void)
{
    /* Behind the private count. */
    g_assert_cmpuint(offsetof(SpiceQmpStatus, version), ==, 4);
    g_assert_cmpuint(offsetof(SpiceQmpStatus, running), ==, 8);
    g_assert_cmpuint(offsetof(SpiceQmpStatus, singlestep), ==, 12);
    g_assert_cmpuint(offsetof(SpiceQmpStatus, status), ==, 16);
    g_assert_cmpuint(sizeof(SpiceQmpStatus), ==, 16 + sizeof(char *));
}

static void
test_values(GType type, int values, const char *const *names)
{
    GEnumClass *klass = (GEnumClass *) g_type_class_ref(type);
    int i;

    g_assert_cmpuint(klass->n_values, ==, values);
    for (i = 0; i < values; i++)
        g_assert_cmpstr(g_enum_get_value(klass, i)->value_name, ==, names[i]);
    g_type_class_unref(klass);
}

static void
test_flags(void)
{
    GFlagsClass *klass = (GFlagsClass *) g_type_class_ref(SPICE_TYPE_QMP_CALL_FLAGS);

    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_CALL_FLAGS), ==, "SpiceQmp1CallFlags");
    g_assert_cmpuint(klass->mask, ==, SPICE_QMP_CALL_FLAGS_OUT_OF_BAND);
    g_assert_cmpuint(klass->n_values, ==, 2);
    g_assert_cmpstr(klass->values[0].value_name, ==, "SPICE_QMP_CALL_FLAGS_NONE");
    g_assert_cmpstr(klass->values[1].value_name, ==, "SPICE_QMP_CALL_FLAGS_OUT_OF_BAND");
    g_type_class_unref(klass);
}

static void
test_types(void)
{
    static const char *const actions[] = {
        "SPICE_QMP_PORT_VM_ACTION_QUIT",       "SPICE_QMP_PORT_VM_ACTION_RESET",
        "SPICE_QMP_PORT_VM_ACTION_POWER_DOWN", "SPICE_QMP_PORT_VM_ACTION_PAUSE",
        "SPICE_QMP_PORT_VM_ACTION_CONTINUE",
    };
    static const char *const states[] = {
        "SPICE_QMP_PORT_STATE_CLOSED",   "SPICE_QMP_PORT_STATE_CONNECTING",
        "SPICE_QMP_PORT_STATE_GREETING", "SPICE_QMP_PORT_STATE_NEGOTIATING",
        "SPICE_QMP_PORT_STATE_READY",    "SPICE_QMP_PORT_STATE_FAILED",
    };

    static const char *const codes[] = {
        "SPICE_QMP_CONDITION_CODE_DISK_FULL",      "SPICE_QMP_CONDITION_CODE_DISK_ERROR",
        "SPICE_QMP_CONDITION_CODE_GUEST_PANICKED", "SPICE_QMP_CONDITION_CODE_WATCHDOG",
        "SPICE_QMP_CONDITION_CODE_INTERNAL_ERROR", "SPICE_QMP_CONDITION_CODE_MEMORY_FAILURE",
        "SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN", "SPICE_QMP_CONDITION_CODE_HOST_SHUTDOWN",
        "SPICE_QMP_CONDITION_CODE_GUEST_RESET",    "SPICE_QMP_CONDITION_CODE_HOST_RESET",
        "SPICE_QMP_CONDITION_CODE_SHUTDOWN",       "SPICE_QMP_CONDITION_CODE_MIGRATED",
        "SPICE_QMP_CONDITION_CODE_CONNECTION_LOST",
    };
    static const char *const severities[] = {
        "SPICE_QMP_CONDITION_SEVERITY_INFO",
        "SPICE_QMP_CONDITION_SEVERITY_WARNING",
        "SPICE_QMP_CONDITION_SEVERITY_ERROR",
    };

    /* Names that do not collide with spice-gtk's. */
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_PORT), ==, "SpiceQmp1Port");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_STATUS), ==, "SpiceQmp1Status");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_EVENT), ==, "SpiceQmp1Event");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_PORT_STATE), ==, "SpiceQmp1PortState");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_PORT_VM_ACTION), ==,
                    "SpiceQmp1PortVmAction");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_MACHINE), ==, "SpiceQmp1Machine");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_CONDITION), ==, "SpiceQmp1Condition");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_CONDITION_CODE), ==, "SpiceQmp1ConditionCode");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_CONDITION_SEVERITY), ==,
                    "SpiceQmp1ConditionSeverity");
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_MACHINE, G_TYPE_ACTION_GROUP));
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_CONDITION, G_TYPE_BOXED));
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_SCHEMA), ==, "SpiceQmp1Schema");
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_SCHEMA, G_TYPE_BOXED));
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_LIST), ==, "SpiceQmp1List");
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_LIST, G_TYPE_LIST_MODEL));
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_DRIVE), ==, "SpiceQmp1Drive");
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_DRIVE, G_TYPE_OBJECT));
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_INSERT_FLAGS), ==, "SpiceQmp1InsertFlags");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_JOB), ==, "SpiceQmp1Job");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_SNAPSHOT), ==, "SpiceQmp1Snapshot");
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_JOB, G_TYPE_OBJECT));
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_PORT, G_TYPE_OBJECT));
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_STATUS, G_TYPE_BOXED));
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_EVENT, G_TYPE_BOXED));
    g_assert_cmpstr(g_quark_to_string(SPICE_QMP_ERROR), ==, "spice-qmp-error-quark");

    test_values(SPICE_TYPE_QMP_PORT_VM_ACTION, G_N_ELEMENTS(actions), actions);
    test_flags();
    test_values(SPICE_TYPE_QMP_PORT_STATE, G_N_ELEMENTS(states), states);
    test_values(SPICE_TYPE_QMP_CONDITION_CODE, G_N_ELEMENTS(codes), codes);
    test_values(SPICE_TYPE_QMP_CONDITION_SEVERITY, G_N_ELEMENTS(severities), severities);
}

static void
test_class(void)
{
    static const struct {
        const char *name;
        const char *type;
        int flags;
    } properties[] = {
#ifdef SPICE_QMP_HAS_SPICE
        { "channel", "SpicePortChannel", G_PARAM_READWRITE | G_PARAM_CONSTRUCT_ONLY },
#endif
        { "ready", "gboolean", G_PARAM_READABLE },
        { "state", "SpiceQmp1PortState", G_PARAM_READABLE },
        { "version", "gchararray", G_PARAM_READABLE },
        { "package", "gchararray", G_PARAM_READABLE },
        { "capabilities", "GStrv", G_PARAM_READABLE },
        { "status", "SpiceQmp1Status", G_PARAM_READABLE },
        { "pending", "guint", G_PARAM_READABLE },
        { "last-error", "GError", G_PARAM_READABLE },
        { "command-timeout", "guint", G_PARAM_READWRITE },
        { "close-timeout", "guint", G_PARAM_READWRITE },
        { "responsive", "gboolean", G_PARAM_READABLE },
        { "reconnect", "guint", G_PARAM_READABLE },
        { "max-message-size", "guint64", G_PARAM_READWRITE },
    };
    const int flags = G_PARAM_READWRITE | G_PARAM_CONSTRUCT_ONLY;
    GObjectClass *klass = (GObjectClass *) g_type_class_ref(SPICE_TYPE_QMP_PORT);
    GSignalQuery query;
    guint count;
    gsize i;

    g_free(g_object_class_list_properties(klass, &count));
    g_assert_cmpuint(count, ==, G_N_ELEMENTS(properties));
    for (i = 0; i < G_N_ELEMENTS(properties); i++) {
        GParamSpec *spec = g_object_class_find_property(klass, properties[i].name);

        g_assert_nonnull(spec);
        g_assert_cmpstr(g_type_name(spec->value_type), ==, properties[i].type);
        g_assert_cmpint(spec->flags & flags, ==, properties[i].flags);
    }

    g_signal_query(g_signal_lookup("event", SPICE_TYPE_QMP_PORT), &query);
    g_assert_cmpint(query.signal_flags, ==, G_SIGNAL_RUN_FIRST);
    g_assert_cmpuint(query.n_params, ==, 2);
    g_assert_true(query.param_types[0] == G_TYPE_STRING);
    g_assert_true(query.param_types[1] == G_TYPE_POINTER);
    g_assert_true(query.return_type == G_TYPE_NONE);

    g_signal_query(g_signal_lookup("qmp-event", SPICE_TYPE_QMP_PORT), &query);
    g_assert_cmpint(query.signal_flags & G_SIGNAL_DETAILED, !=, 0);
    g_assert_cmpuint(query.n_params, ==, 1);
    /* Without G_SIGNAL_TYPE_STATIC_SCOPE, with which GJS would not copy its events. */
    g_assert_true(query.param_types[0] == SPICE_TYPE_QMP_EVENT);
    g_type_class_unref(klass);
}

static void
test_machine_class(void)
{
    const int flags = G_PARAM_READWRITE | G_PARAM_CONSTRUCT_ONLY;
    GObjectClass *klass = (GObjectClass *) g_type_class_ref(SPICE_TYPE_QMP_MACHINE);
    GParamSpec *port = g_object_class_find_property(klass, "port");
    GParamSpec *condition = g_object_class_find_property(klass, "condition");
    GSignalQuery query;
    guint count;

    g_free(g_object_class_list_properties(klass, &count));
    g_assert_cmpuint(count, ==, 5);
    g_assert_true(g_object_class_find_property(klass, "drives")->value_type ==
                  SPICE_TYPE_QMP_LIST);
    g_assert_true(g_object_class_find_property(klass, "snapshots")->value_type ==
                  SPICE_TYPE_QMP_LIST);
    g_assert_true(g_object_class_find_property(klass, "jobs")->value_type ==
                  SPICE_TYPE_QMP_LIST);
    g_assert_true(port->value_type == SPICE_TYPE_QMP_PORT);
    g_assert_cmpint(port->flags & flags, ==, flags);
    g_assert_true(condition->value_type == SPICE_TYPE_QMP_CONDITION);
    g_assert_cmpint(condition->flags & flags, ==, G_PARAM_READABLE);

    g_signal_query(g_signal_lookup("action-failed", SPICE_TYPE_QMP_MACHINE), &query);
    g_assert_cmpint(query.signal_flags, ==, G_SIGNAL_RUN_LAST);
    g_assert_cmpuint(query.n_params, ==, 2);
    g_assert_true(query.param_types[0] == G_TYPE_STRING);
    g_assert_true(query.param_types[1] == G_TYPE_ERROR);
    g_assert_true(query.return_type == G_TYPE_NONE);
    g_type_class_unref(klass);
}

static void
assert_readable(GObjectClass *klass, const char *name, GType type)
{
    GParamSpec *property = g_object_class_find_property(klass, name);

    g_assert_nonnull(property);
    g_assert_true(property->value_type == type);
    g_assert_cmpint(property->flags & (G_PARAM_READWRITE | G_PARAM_CONSTRUCT_ONLY), ==,
                    G_PARAM_READABLE);
}

static void
test_list_class(void)
{
    GObjectClass *klass = (GObjectClass *) g_type_class_ref(SPICE_TYPE_QMP_LIST);
    guint count;

    g_free(g_object_class_list_properties(klass, &count));
    g_assert_cmpuint(count, ==, 2);
    assert_readable(klass, "loading", G_TYPE_BOOLEAN);
    assert_readable(klass, "error", G_TYPE_ERROR);
    g_type_class_unref(klass);
}

static void
test_drive_class(void)
{
    GObjectClass *klass = (GObjectClass *) g_type_class_ref(SPICE_TYPE_QMP_DRIVE);
    guint count;

    g_free(g_object_class_list_properties(klass, &count));
    g_assert_cmpuint(count, ==, 9);
    assert_readable(klass, "id", G_TYPE_STRING);
    assert_readable(klass, "name", G_TYPE_STRING);
    assert_readable(klass, "removable", G_TYPE_BOOLEAN);
    assert_readable(klass, "medium", G_TYPE_STRING);
    assert_readable(klass, "read-only", G_TYPE_BOOLEAN);
    assert_readable(klass, "locked", G_TYPE_BOOLEAN);
    assert_readable(klass, "tray-open", G_TYPE_BOOLEAN);
    assert_readable(klass, "io-status", G_TYPE_STRING);
    assert_readable(klass, "lost-medium", G_TYPE_STRING);
    g_type_class_unref(klass);
}

static void
test_snapshot_class(void)
{
    GObjectClass *klass = (GObjectClass *) g_type_class_ref(SPICE_TYPE_QMP_SNAPSHOT);
    guint count;

    g_free(g_object_class_list_properties(klass, &count));
    g_assert_cmpuint(count, ==, 5);
    assert_readable(klass, "tag", G_TYPE_STRING);
    assert_readable(klass, "date", G_TYPE_INT64);
    assert_readable(klass, "state-size", G_TYPE_UINT64);
    assert_readable(klass, "clock", G_TYPE_INT64);
    assert_readable(klass, "loadable", G_TYPE_BOOLEAN);
    g_type_class_unref(klass);
}

static void
test_job_class(void)
{
    GObjectClass *klass = (GObjectClass *) g_type_class_ref(SPICE_TYPE_QMP_JOB);
    guint count;

    g_free(g_object_class_list_properties(klass, &count));
    g_assert_cmpuint(count, ==, 7);
    assert_readable(klass, "id", G_TYPE_STRING);
    assert_readable(klass, "kind", G_TYPE_STRING);
    assert_readable(klass, "status", G_TYPE_STRING);
    assert_readable(klass, "progress", G_TYPE_DOUBLE);
    assert_readable(klass, "current", G_TYPE_UINT64);
    assert_readable(klass, "total", G_TYPE_UINT64);
    assert_readable(klass, "error", G_TYPE_STRING);
    g_type_class_unref(klass);
}

static void
test_connector_class(void)
{
    static const struct {
        const char *name;
        const char *type;
        int flags;
    } properties[] = {
        { "address", "gchararray", G_PARAM_READWRITE },
        { "password", "gchararray", G_PARAM_WRITABLE },
        { "ca-file", "gchararray", G_PARAM_READWRITE },
        { "host-subject", "gchararray", G_PARAM_READWRITE },
        { "timeout", "guint", G_PARAM_READWRITE },
        { "wait", "gboolean", G_PARAM_READWRITE },
        { "reconnect", "guint", G_PARAM_READWRITE },
    };
    const int flags = G_PARAM_READWRITE | G_PARAM_CONSTRUCT_ONLY;
    GObjectClass *klass = (GObjectClass *) g_type_class_ref(SPICE_TYPE_QMP_CONNECTOR);
    GSignalQuery query;
    guint count;
    gsize i;

    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_CONNECTOR), ==, "SpiceQmp1Connector");
    g_free(g_object_class_list_properties(klass, &count));
    g_assert_cmpuint(count, ==, G_N_ELEMENTS(properties));
    for (i = 0; i < G_N_ELEMENTS(properties); i++) {
        GParamSpec *spec = g_object_class_find_property(klass, properties[i].name);

        g_assert_nonnull(spec);
        g_assert_cmpstr(g_type_name(spec->value_type), ==, properties[i].type);
        g_assert_cmpint(spec->flags & flags, ==, properties[i].flags);
    }

    g_signal_query(g_signal_lookup("need-password", SPICE_TYPE_QMP_CONNECTOR), &query);
    g_assert_cmpint(query.signal_flags, ==, G_SIGNAL_RUN_LAST);
    g_assert_cmpuint(query.n_params, ==, 1);
    g_assert_true(query.param_types[0] == G_TYPE_BOOLEAN);
    g_assert_true(query.return_type == G_TYPE_NONE);
    g_type_class_unref(klass);
}

static void
test_server_class(void)
{
    const int flags = G_PARAM_READWRITE | G_PARAM_CONSTRUCT_ONLY;
    GObjectClass *klass = (GObjectClass *) g_type_class_ref(SPICE_TYPE_QMP_SERVER);
    GParamSpec *stream = g_object_class_find_property(klass, "stream");
    GParamSpec *version = g_object_class_find_property(klass, "version");
    GParamSpec *capabilities = g_object_class_find_property(klass, "capabilities");
    GSignalQuery query;
    guint count;

    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_SERVER), ==, "SpiceQmp1Server");
    g_assert_cmpstr(g_type_name(SPICE_TYPE_QMP_REQUEST), ==, "SpiceQmp1Request");
    g_assert_true(g_type_is_a(SPICE_TYPE_QMP_REQUEST, G_TYPE_OBJECT));
    g_free(g_object_class_list_properties(klass, &count));
    g_assert_cmpuint(count, ==, 5);
    g_assert_true(stream->value_type == G_TYPE_IO_STREAM);
    g_assert_cmpint(stream->flags & flags, ==, G_PARAM_WRITABLE | G_PARAM_CONSTRUCT_ONLY);
    g_assert_true(version->value_type == G_TYPE_STRING);
    g_assert_cmpint(version->flags & flags, ==, flags);
    g_assert_true(capabilities->value_type == G_TYPE_STRV);
    g_assert_cmpint(capabilities->flags & flags, ==, flags);
    assert_readable(klass, "negotiated", G_TYPE_BOOLEAN);
    assert_readable(klass, "close-reason", G_TYPE_STRING);

    g_signal_query(g_signal_lookup("command", SPICE_TYPE_QMP_SERVER), &query);
    g_assert_cmpint(query.signal_flags, ==, G_SIGNAL_RUN_LAST | G_SIGNAL_DETAILED);
    g_assert_cmpuint(query.n_params, ==, 1);
    g_assert_true(query.param_types[0] == SPICE_TYPE_QMP_REQUEST);
    g_assert_true(query.return_type == G_TYPE_BOOLEAN);
    g_type_class_unref(klass);
}

static void
test_macros(void)
{
    SpiceQmp1Port *none = NULL;
    SpiceQmp1Machine *no_machine = NULL;
    SpiceQmp1Connector *no_connector = NULL;
    g_autoptr(SpiceQmpMachine) machine = NULL;
    g_autoptr(SpiceQmpConnector) connector = NULL;
    SpiceQmp1List *no_list = NULL;
    SpiceQmp1Drive *no_drive = NULL;
    g_autoptr(SpiceQmpDrive) drive = NULL;
    g_autoptr(SpiceQmpList) list = NULL;
    SpiceQmp1Job *no_job = NULL;
    SpiceQmp1Snapshot *no_snapshot = NULL;
    SpiceQmp1JobProgress no_progress = NULL;
    g_autoptr(SpiceQmpJob) job = NULL;
    g_autoptr(SpiceQmpSnapshot) snapshot = NULL;
    SpiceQmp1Server *no_server = NULL;
    SpiceQmp1Request *no_request = NULL;
    g_autoptr(SpiceQmpServer) server = NULL;
    g_autoptr(SpiceQmpRequest) request = NULL;
    g_autoptr(SpiceQmpCondition) condition = NULL;
    g_autoptr(SpiceQmpPort) port = NULL;
    g_autoptr(SpiceQmpStatus) status = NULL;
    g_autoptr(SpiceQmpEvent) event = NULL;

    g_assert_false(SPICE_IS_QMP_PORT(none));
    g_assert_null(SPICE_QMP_PORT(none));
    g_assert_false(SPICE_IS_QMP_MACHINE(no_machine));
    g_assert_null(SPICE_QMP_MACHINE(no_machine));
    g_assert_false(SPICE_IS_QMP_CONNECTOR(no_connector));
    g_assert_null(SPICE_QMP_CONNECTOR(no_connector));
    g_assert_null(connector);
    g_assert_null(machine);
    g_assert_false(SPICE_IS_QMP_LIST(no_list));
    g_assert_null(SPICE_QMP_LIST(no_list));
    g_assert_null(list);
    g_assert_false(SPICE_IS_QMP_DRIVE(no_drive));
    g_assert_null(SPICE_QMP_DRIVE(no_drive));
    g_assert_null(drive);
    g_assert_false(SPICE_IS_QMP_JOB(no_job));
    g_assert_null(SPICE_QMP_JOB(no_job));
    g_assert_false(SPICE_IS_QMP_SNAPSHOT(no_snapshot));
    g_assert_null(SPICE_QMP_SNAPSHOT(no_snapshot));
    g_assert_null(snapshot);
    g_assert_false(SPICE_IS_QMP_SERVER(no_server));
    g_assert_null(SPICE_QMP_SERVER(no_server));
    g_assert_null(server);
    g_assert_false(SPICE_IS_QMP_REQUEST(no_request));
    g_assert_null(SPICE_QMP_REQUEST(no_request));
    g_assert_null(request);
    g_assert_true(no_progress == NULL);
    g_assert_null(job);
    g_assert_null(condition);
    g_assert_null(port);
    g_assert_null(status);
    g_assert_null(event);

    /* Those of Cargo.toml. */
    g_assert_cmpint(SPICE_QMP_MAJOR_VERSION, ==, CARGO_MAJOR);
    g_assert_cmpint(SPICE_QMP_MINOR_VERSION, ==, CARGO_MINOR);
    g_assert_cmpint(SPICE_QMP_MICRO_VERSION, ==, CARGO_MICRO);
    g_assert_true(SPICE_QMP_CHECK_VERSION(CARGO_MAJOR, CARGO_MINOR, CARGO_MICRO));
    g_assert_true(SPICE_QMP_CHECK_VERSION(0, 0, 9));
    g_assert_false(SPICE_QMP_CHECK_VERSION(CARGO_MAJOR, CARGO_MINOR, CARGO_MICRO + 1));
    g_assert_false(SPICE_QMP_CHECK_VERSION(CARGO_MAJOR, CARGO_MINOR + 1, 0));
    g_assert_false(SPICE_QMP_CHECK_VERSION(CARGO_MAJOR + 1, 0, 0));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/abi/enums", test_enums);
    g_test_add_func("/abi/status", test_status);
    g_test_add_func("/abi/types", test_types);
    g_test_add_func("/abi/class", test_class);
    g_test_add_func("/abi/machine-class", test_machine_class);
    g_test_add_func("/abi/list-class", test_list_class);
    g_test_add_func("/abi/drive-class", test_drive_class);
    g_test_add_func("/abi/job-class", test_job_class);
    g_test_add_func("/abi/connector-class", test_connector_class);
    g_test_add_func("/abi/snapshot-class", test_snapshot_class);
    g_test_add_func("/abi/server-class", test_server_class);
    g_test_add_func("/abi/macros", test_macros);
    return g_test_run();
}
