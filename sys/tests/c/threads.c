/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Every function of the C library on a thread that did not create the port: what it
 * may not do there logs a critical and fails, and does no harm. */
#include "server.h"

/* The objects to use. */
typedef struct {
    Server *server;
    GIOStream *client;
    SpiceQmpPort *port;
    SpiceQmpMachine *machine;
    SpiceQmpConnector *connector;
    SpiceQmpList *list;
    SpiceQmpDrive *drive;
    SpiceQmpJob *job;
    SpiceQmpSnapshot *snapshot;
    SpiceQmpCondition *condition;
    SpiceQmpServer *double_; /* in place of QEMU, for another client */
    SpiceQmpRequest *request;
    GIOStream *asker;
    SpiceSession *session;
    SpicePortChannel *channel;
    GDBusConnection *connection;
    SpiceQmpStatus *status;
    SpiceQmpEvent *event;
    SpiceQmpSchema *schema;
    GAsyncResult *result; /* for a _finish function */
    Reply reply;          /* of an _async function */
} Things;

static void
keep_event(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event, Things *t)
{
    t->event = spice_qmp_event_ref(event);
}

static gboolean
keep_request(SpiceQmpServer *server G_GNUC_UNUSED, SpiceQmpRequest *request, Things *t)
{
    g_set_object(&t->request, request);
    return TRUE;
}

static void
set_up_double(Things *t)
{
    static const char ask[] = "{\"execute\": \"qmp_capabilities\"}"
                              "{\"execute\": \"ask\", \"arguments\": {\"a\":1}, \"id\": 5}";
    static const char *const oob[] = { "oob", NULL };
    int fds[2];
    GIOStream *stream;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    stream = stream_of_fd(fds[0]);
    t->asker = stream_of_fd(fds[1]);
    t->double_ = spice_qmp_server_new(stream, "9.1.2", oob);
    g_object_unref(stream);
    g_signal_connect(t->double_, "command", G_CALLBACK(keep_request), t);
    g_output_stream_write_all(g_io_stream_get_output_stream(t->asker), ask, strlen(ask), NULL,
                              NULL, NULL);
    WAIT_UNTIL(t->request);
}

static void
set_up(Things *t, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;
    gulong handler;

    t->server = server_pair(&t->client);
    t->server->oob = TRUE;
    t->port = spice_qmp_port_new_for_stream(t->client);
    server_greet(t->server);
    wait_ready(t->port, &error);
    g_assert_no_error(error);
    handler = g_signal_connect(t->port, "qmp-event", G_CALLBACK(keep_event), t);
    server_event(t->server, "RTC_CHANGE", "{\"offset\": 7}");
    WAIT_UNTIL(t->event);
    g_signal_handler_disconnect(t->port, handler);
    /* The answer to query-status may come after the event. */
    WAIT_UNTIL((t->status = spice_qmp_port_dup_status(t->port)));
    g_assert_nonnull(t->status);
    t->machine = spice_qmp_machine_new(t->port);
    t->connector = spice_qmp_connector_new("unix:/nowhere");
    t->list = g_object_ref(spice_qmp_machine_get_drives(t->machine));
    WAIT_UNTIL((t->drive = g_list_model_get_item(G_LIST_MODEL(t->list), 0)));
    t->server->jobs = "[{\"id\": \"j\", \"type\": \"backup\", \"status\": \"paused\","
                      " \"current-progress\": 1, \"total-progress\": 2}]";
    WAIT_UNTIL((t->job = g_list_model_get_item(
                    G_LIST_MODEL(spice_qmp_machine_get_jobs(t->machine)), 0)));
    t->server->snapshots = g_strdup("[{\"name\": \"s\", \"vm-state-size\": 1, \"date-sec\": 1,"
                                    " \"vm-clock-sec\": 1, \"vm-clock-nsec\": 0}]");
    WAIT_UNTIL((t->snapshot = g_list_model_get_item(
                    G_LIST_MODEL(spice_qmp_machine_get_snapshots(t->machine)), 0)));
    t->schema = load_schema(t->machine, &error);
    g_assert_no_error(error);
    server_event(t->server, "SHUTDOWN", "{\"guest\": true}");
    WAIT_UNTIL((t->condition = spice_qmp_machine_dup_condition(t->machine)));
    t->session = spice_session_new();
    t->channel = SPICE_PORT_CHANNEL(spice_channel_new(t->session, SPICE_CHANNEL_PORT, 0));
    t->connection = silent_connection();
    set_up_double(t);
}

static void
clear_machine(Things *t)
{
    g_clear_object(&t->drive);
    g_clear_object(&t->job);
    g_clear_object(&t->snapshot);
    g_clear_object(&t->list);
    g_clear_object(&t->machine);
    g_clear_object(&t->connector);
}

static void
tear_down(Things *t, gconstpointer data G_GNUC_UNUSED)
{
    gboolean freed;

    spice_qmp_status_unref(t->status);
    spice_qmp_event_unref(t->event);
    spice_qmp_condition_unref(t->condition);
    spice_qmp_schema_unref(t->schema);
    clear_machine(t);
    g_object_unref(t->double_);
    g_object_unref(t->request);
    g_object_unref(t->asker);
    spice_session_disconnect(t->session);
    g_object_unref(t->session);
    if (t->port) {
        watch(t->port, &freed);
        g_object_unref(t->port);
        WAIT_UNTIL(freed);
    }
    g_object_unref(t->client);
    g_object_unref(t->connection);
    server_free(t->server);
    settle();
}

/* --- another thread ------------------------------------------------------ */

typedef void (*Use)(Things *t);

typedef struct {
    Use use;
    Things *things;
    gint done;
} Job;

static gpointer
work(gpointer data)
{
    Job *job = data;

    job->use(job->things);
    g_atomic_int_set(&job->done, TRUE);
    return NULL;
}

/* Runs `use` on another thread while this one runs its main loop. */
static void
elsewhere(Use use, Things *t)
{
    Job job = { use, t, FALSE };
    GThread *thread;

    g_assert_true(g_main_context_acquire(NULL));
    thread = g_thread_new("elsewhere", work, &job);
    WAIT_UNTIL(g_atomic_int_get(&job.done));
    g_thread_join(thread);
    g_main_context_release(NULL);
}

/* --- the functions --------------------------------------------------------- */

static const char *const PAUSED[] = { "paused", NULL };

#define PORT_CHECK "IS_THREAD_OF(port)"
#define MAIN_CHECK "IS_THREAD_OF_MAIN_CONTEXT()"
#define SPICE_CHECK "IS_THREAD_OF_SPICE()"

/* An _async function is refused, even without a callback. */
#define ASYNC_OF(class, name, check, ...)                                      \
    static void                                                                \
    use_##name##_async(Things *t)                                              \
    {                                                                          \
        expect_critical("spice_qmp_" #class "_" #name "_async", check);        \
        spice_qmp_##class##_##name##_async(__VA_ARGS__, NULL, NULL, NULL);     \
        expect_critical("spice_qmp_" #class "_" #name "_async", check);        \
        spice_qmp_##class##_##name##_async(__VA_ARGS__, NULL, on_reply,        \
                                           &t->reply);                         \
        g_test_assert_expected_messages();                                     \
    }
#define ASYNC(name, check, ...) ASYNC_OF(port, name, check, __VA_ARGS__)

/* A _finish function works anywhere. */
#define FINISH_OF(class, name, start, type, free_it, ...)                      \
    static void                                                                \
    start_##name(Things *t)                                                    \
    {                                                                          \
        start;                                                                 \
    }                                                                          \
    static void                                                                \
    use_##name##_finish(Things *t)                                             \
    {                                                                          \
        GError *error = NULL;                                                  \
        type value = spice_qmp_##class##_##name##_finish(__VA_ARGS__, &error); \
                                                                               \
        g_assert_true(!value == (error != NULL));                              \
        g_clear_error(&error);                                                 \
        if (value)                                                             \
            free_it;                                                           \
    }

#define FINISH(name, ...) FINISH_OF(port, name, __VA_ARGS__)

static void
use_connector_open_async(Things *t)
{
    int i;

    for (i = 0; i < 2; i++) {
        expect_critical("spice_qmp_connector_open_async", "IS_THREAD_OF_CONNECTOR(connector)");
        spice_qmp_connector_open_async(t->connector, NULL, i ? on_reply : NULL, &t->reply);
        g_test_assert_expected_messages();
    }
}

#define CALL(name, ...)                                                        \
    ASYNC(name, PORT_CHECK, t->port, ##__VA_ARGS__)

CALL(vm_action, SPICE_QMP_PORT_VM_ACTION_PAUSE)
CALL(query_status)
CALL(execute, "echo", NULL)
CALL(execute_oob, "echo", NULL)
CALL(execute_full, "echo", NULL, 0, NULL, SPICE_QMP_CALL_FLAGS_NONE)
CALL(execute_variant, "echo", g_variant_new("a{sv}", NULL))
CALL(wait_ready)
CALL(wait_ready_full, 0)
CALL(wait_event, NULL, 0)
CALL(wait_status, PAUSED, 0)
CALL(close)
ASYNC_OF(machine, unplug, "IS_THREAD_OF_MACHINE(machine)", t->machine, "n1", 0)
ASYNC_OF(machine, load_schema, "IS_THREAD_OF_MACHINE(machine)", t->machine)
ASYNC_OF(machine, screenshot, "IS_THREAD_OF_MACHINE(machine)", t->machine, NULL, 0)
ASYNC_OF(drive, insert, "IS_THREAD_OF_DRIVE(drive)", t->drive, "/a.iso", NULL,
         SPICE_QMP_INSERT_FLAGS_NONE)
ASYNC_OF(drive, insert_fd, "IS_THREAD_OF_DRIVE(drive)", t->drive, 0, "x", NULL,
         SPICE_QMP_INSERT_FLAGS_NONE)
ASYNC_OF(drive, eject, "IS_THREAD_OF_DRIVE(drive)", t->drive, TRUE)
ASYNC_OF(machine, run_job, "IS_THREAD_OF_MACHINE(machine)", t->machine, "block-stream", NULL,
         NULL, NULL, NULL)
#define SNAPSHOT_ASYNC(name)                                                   \
    ASYNC_OF(machine, name, "IS_THREAD_OF_MACHINE(machine)", t->machine, "s")
SNAPSHOT_ASYNC(delete_snapshot)
SNAPSHOT_ASYNC(load_snapshot)
SNAPSHOT_ASYNC(save_snapshot)
#define JOB_ASYNC(name) ASYNC_OF(job, name, "IS_THREAD_OF_JOB(job)", t->job)
JOB_ASYNC(cancel)
JOB_ASYNC(complete)
JOB_ASYNC(dismiss)
JOB_ASYNC(finalize)
JOB_ASYNC(pause)
JOB_ASYNC(resume)
ASYNC(open, MAIN_CHECK, "unix:/nowhere")
ASYNC(find, SPICE_CHECK, t->session)
ASYNC(find_full, SPICE_CHECK, t->session, 0, FALSE)
ASYNC(port_names, SPICE_CHECK, t->session, 0, FALSE)
ASYNC(find_on_bus, MAIN_CHECK, t->connection, NULL)

#define START(name, ...)                                                       \
    spice_qmp_port_##name##_async(__VA_ARGS__, NULL, on_reply, &t->reply)

FINISH(vm_action, START(vm_action, t->port, SPICE_QMP_PORT_VM_ACTION_PAUSE), gboolean,
       (void) value, t->port, t->result)
FINISH(query_status, START(query_status, t->port), SpiceQmpStatus *,
       spice_qmp_status_unref(value), t->port, t->result)
FINISH(execute, START(execute, t->port, "echo", NULL), char *, g_free(value), t->port, t->result)
FINISH(execute_oob, START(execute_oob, t->port, "refuse", "{\"class\": \"X\", \"desc\": \"x\"}"),
       char *, g_free(value), t->port, t->result)
FINISH(execute_full,
       START(execute_full, t->port, "echo", NULL, 0, NULL, SPICE_QMP_CALL_FLAGS_NONE), char *,
       g_free(value), t->port, t->result)
FINISH(execute_variant, START(execute_variant, t->port, "stop", NULL), GVariant *,
       g_variant_unref(value), t->port, t->result)
FINISH(wait_ready, START(wait_ready, t->port), gboolean, (void) value, t->port, t->result)
FINISH(wait_ready_full, START(wait_ready_full, t->port, 0), gboolean, (void) value, t->port,
       t->result)
FINISH(wait_event, START(wait_event, t->port, NULL, 1), SpiceQmpEvent *,
       spice_qmp_event_unref(value), t->port, t->result)
FINISH(wait_status, START(wait_status, t->port, PAUSED, 0), gboolean, (void) value, t->port,
       t->result)
FINISH_OF(machine, unplug,
          spice_qmp_machine_unplug_async(t->machine, "n1", 1, NULL, on_reply, &t->reply),
          gboolean, (void) value, t->machine, t->result)
FINISH_OF(machine, load_schema,
          spice_qmp_machine_load_schema_async(t->machine, NULL, on_reply, &t->reply),
          SpiceQmpSchema *, spice_qmp_schema_unref(value), t->machine, t->result)
FINISH_OF(machine, screenshot,
          spice_qmp_machine_screenshot_async(t->machine, NULL, 0, NULL, on_reply, &t->reply),
          GBytes *, g_bytes_unref(value), t->machine, t->result)
FINISH_OF(drive, insert,
          spice_qmp_drive_insert_async(t->drive, "/a.iso", NULL, SPICE_QMP_INSERT_FLAGS_NONE,
                                       NULL, on_reply, &t->reply),
          gboolean, (void) value, t->drive, t->result)
FINISH_OF(drive, insert_fd,
          spice_qmp_drive_insert_fd_async(t->drive, 0, "x", NULL, SPICE_QMP_INSERT_FLAGS_NONE,
                                          NULL, on_reply, &t->reply),
          gboolean, (void) value, t->drive, t->result)
FINISH_OF(drive, eject,
          spice_qmp_drive_eject_async(t->drive, FALSE, NULL, on_reply, &t->reply),
          gboolean, (void) value, t->drive, t->result)
FINISH_OF(machine, run_job,
          spice_qmp_machine_run_job_async(t->machine, "refuse", "{\"job-id\": 7}", NULL, NULL,
                                          NULL, NULL, on_reply, &t->reply),
          gboolean, (void) value, t->machine, t->result)
/* A name that is refused. */
#define SNAPSHOT_FINISH(name, tag)                                             \
    FINISH_OF(machine, name,                                                   \
              spice_qmp_machine_##name##_async(t->machine, tag, NULL, on_reply, &t->reply), \
              gboolean, (void) value, t->machine, t->result)
SNAPSHOT_FINISH(delete_snapshot, "x")
SNAPSHOT_FINISH(load_snapshot, "x")
SNAPSHOT_FINISH(save_snapshot, "s")
#define JOB_FINISH(name)                                                       \
    FINISH_OF(job, name, spice_qmp_job_##name##_async(t->job, NULL, on_reply, &t->reply), \
              gboolean, (void) value, t->job, t->result)
JOB_FINISH(cancel)
JOB_FINISH(complete)
JOB_FINISH(dismiss)
JOB_FINISH(finalize)
JOB_FINISH(pause)
JOB_FINISH(resume)
static void
start_connector_open(Things *t)
{
    spice_qmp_connector_open_async(t->connector, NULL, on_reply, &t->reply);
}

static void
use_connector_open_finish(Things *t)
{
    GError *error = NULL;

    g_assert_null(spice_qmp_connector_open_finish(t->connector, t->result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);
    g_error_free(error);
}

FINISH(close, START(close, t->port), gboolean, (void) value, t->port, t->result)
FINISH(open, START(open, "unix:/nowhere"), SpiceQmpPort *, g_object_unref(value), t->result)
FINISH(find, START(find, t->session), SpiceQmpPort *, g_object_unref(value), t->result)
FINISH(find_full, START(find_full, t->session, 0, FALSE), SpiceQmpPort *, g_object_unref(value),
       t->result)
FINISH(port_names, START(port_names, t->session, 0, FALSE), char **, g_strfreev(value),
       t->result)
FINISH(find_on_bus, START(find_on_bus, t->connection, NULL), SpiceQmpPort *,
       g_object_unref(value), t->result)

static void
use_get(Things *t)
{
    expect_critical("spice_qmp_port_get", SPICE_CHECK);
    g_assert_null(spice_qmp_port_get(t->channel));
    g_test_assert_expected_messages();
}

static void
use_new_for_stream(Things *t)
{
    expect_critical("spice_qmp_port_new_for_stream", MAIN_CHECK);
    g_assert_null(spice_qmp_port_new_for_stream(t->client));
    g_test_assert_expected_messages();
}

/* A property's function behaves like the property: a critical, and the default. */
static void
expect_property(const char *name)
{
    char *pattern = g_strdup_printf("*\"%s\"*another thread*", name);

    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, pattern);
    g_free(pattern);
}

static const GValue *
default_of(Things *t, const char *name)
{
    GParamSpec *spec = g_object_class_find_property(G_OBJECT_GET_CLASS(t->port), name);

    g_assert_nonnull(spec);
    return g_param_spec_get_default_value(spec);
}

#define GETTER(function, property, type)                                       \
    static void                                                                \
    use_##function(Things *t)                                                  \
    {                                                                          \
        expect_property(property);                                             \
        g_assert_true(spice_qmp_port_##function(t->port) ==                    \
                      g_value_get_##type(default_of(t, property)));            \
        g_test_assert_expected_messages();                                     \
    }

#define NULL_GETTER(function, property)                                        \
    static void                                                                \
    use_##function(Things *t)                                                  \
    {                                                                          \
        expect_property(property);                                             \
        g_assert_null(spice_qmp_port_##function(t->port));                     \
        g_test_assert_expected_messages();                                     \
    }

#define SETTER(name, property)                                                 \
    static void                                                                \
    use_set_##name(Things *t)                                                  \
    {                                                                          \
        expect_property(property);                                             \
        spice_qmp_port_set_##name(t->port, 4321);                              \
        g_test_assert_expected_messages();                                     \
        expect_property(property);                                             \
        g_assert_cmpuint(spice_qmp_port_get_##name(t->port), !=, 4321);        \
        g_test_assert_expected_messages();                                     \
    }

GETTER(get_ready, "ready", boolean)
GETTER(get_pending, "pending", uint)
GETTER(get_responsive, "responsive", boolean)
GETTER(get_reconnect, "reconnect", uint)
GETTER(get_command_timeout, "command-timeout", uint)
GETTER(get_close_timeout, "close-timeout", uint)
GETTER(get_max_message_size, "max-message-size", uint64)
SETTER(command_timeout, "command-timeout")
SETTER(close_timeout, "close-timeout")
SETTER(max_message_size, "max-message-size")
NULL_GETTER(dup_status, "status")
NULL_GETTER(dup_version, "version")
NULL_GETTER(dup_package, "package")
NULL_GETTER(dup_last_error, "last-error")
NULL_GETTER(ref_channel, "channel")

#define CONNECTOR_GETTER(name, property, value)                                \
    static void                                                                \
    use_connector_##name(Things *t)                                            \
    {                                                                          \
        expect_property(property);                                             \
        g_assert_true(spice_qmp_connector_##name(t->connector) == (value));    \
        g_test_assert_expected_messages();                                     \
    }
#define CONNECTOR_SETTER(name, property, value)                                \
    static void                                                                \
    use_connector_set_##name(Things *t)                                        \
    {                                                                          \
        expect_property(property);                                             \
        spice_qmp_connector_set_##name(t->connector, value);                   \
        g_test_assert_expected_messages();                                     \
    }

CONNECTOR_GETTER(dup_address, "address", NULL)
CONNECTOR_GETTER(dup_ca_file, "ca-file", NULL)
CONNECTOR_GETTER(dup_host_subject, "host-subject", NULL)
CONNECTOR_GETTER(get_timeout, "timeout", 10000)
CONNECTOR_GETTER(get_wait, "wait", FALSE)
CONNECTOR_GETTER(get_reconnect, "reconnect", 0)
CONNECTOR_SETTER(address, "address", "unix:/elsewhere")
CONNECTOR_SETTER(password, "password", "secret")
CONNECTOR_SETTER(ca_file, "ca-file", "/nowhere")
CONNECTOR_SETTER(host_subject, "host-subject", "CN=x")
CONNECTOR_SETTER(timeout, "timeout", 1)
CONNECTOR_SETTER(wait, "wait", TRUE)
CONNECTOR_SETTER(reconnect, "reconnect", 1)

static void
use_connector_answer(Things *t)
{
    expect_critical("spice_qmp_connector_answer", "IS_THREAD_OF_CONNECTOR(connector)");
    spice_qmp_connector_answer(t->connector, "secret");
    g_test_assert_expected_messages();
}

static void
use_machine_new(Things *t)
{
    expect_critical("spice_qmp_machine_new", PORT_CHECK);
    g_assert_null(spice_qmp_machine_new(t->port));
    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*made on another thread*");
    g_object_unref(g_object_new(SPICE_TYPE_QMP_MACHINE, "port", t->port, NULL));
    g_test_assert_expected_messages();
}

static void
use_machine_get_port(Things *t)
{
    expect_property("port");
    g_assert_null(spice_qmp_machine_get_port(t->machine));
    g_test_assert_expected_messages();
}

static void
use_machine_dup_condition(Things *t)
{
    expect_property("condition");
    g_assert_null(spice_qmp_machine_dup_condition(t->machine));
    g_test_assert_expected_messages();
}

static void
use_machine_get_drives(Things *t)
{
    expect_critical("spice_qmp_machine_get_drives", "IS_THREAD_OF_MACHINE(machine)");
    g_assert_null(spice_qmp_machine_get_drives(t->machine));
    g_test_assert_expected_messages();
}

#define DRIVE_NAME(function, property)                                         \
    static void                                                                \
    use_drive_##function(Things *t)                                            \
    {                                                                          \
        char *name;                                                            \
                                                                               \
        expect_property(property);                                             \
        name = spice_qmp_drive_##function(t->drive);                           \
        g_test_assert_expected_messages();                                     \
        g_assert_cmpstr(name, ==, "");                                         \
        g_free(name);                                                          \
    }

#define DRIVE_STRING(function, property)                                       \
    static void                                                                \
    use_drive_##function(Things *t)                                            \
    {                                                                          \
        expect_property(property);                                             \
        g_assert_null(spice_qmp_drive_##function(t->drive));                   \
        g_test_assert_expected_messages();                                     \
    }

#define DRIVE_BOOLEAN(function, property)                                      \
    static void                                                                \
    use_drive_##function(Things *t)                                            \
    {                                                                          \
        expect_property(property);                                             \
        g_assert_false(spice_qmp_drive_##function(t->drive));                  \
        g_test_assert_expected_messages();                                     \
    }

DRIVE_NAME(dup_id, "id")
DRIVE_NAME(dup_name, "name")
DRIVE_STRING(dup_io_status, "io-status")
DRIVE_STRING(dup_lost_medium, "lost-medium")
DRIVE_STRING(dup_medium, "medium")
DRIVE_BOOLEAN(get_locked, "locked")
DRIVE_BOOLEAN(get_read_only, "read-only")
DRIVE_BOOLEAN(get_removable, "removable")
DRIVE_BOOLEAN(get_tray_open, "tray-open")

static void
use_machine_get_jobs(Things *t)
{
    expect_critical("spice_qmp_machine_get_jobs", "IS_THREAD_OF_MACHINE(machine)");
    g_assert_null(spice_qmp_machine_get_jobs(t->machine));
    g_test_assert_expected_messages();
}

static void
use_machine_get_snapshots(Things *t)
{
    expect_critical("spice_qmp_machine_get_snapshots", "IS_THREAD_OF_MACHINE(machine)");
    g_assert_null(spice_qmp_machine_get_snapshots(t->machine));
    g_test_assert_expected_messages();
}

static void
use_snapshot_dup_tag(Things *t)
{
    char *tag;

    expect_property("tag");
    tag = spice_qmp_snapshot_dup_tag(t->snapshot);
    g_test_assert_expected_messages();
    g_assert_cmpstr(tag, ==, "");
    g_free(tag);
}

#define SNAPSHOT_NUMBER(function, property)                                    \
    static void                                                                \
    use_snapshot_get_##function(Things *t)                                     \
    {                                                                          \
        expect_property(property);                                             \
        g_assert_true(spice_qmp_snapshot_get_##function(t->snapshot) == 0);    \
        g_test_assert_expected_messages();                                     \
    }

SNAPSHOT_NUMBER(clock, "clock")
SNAPSHOT_NUMBER(date, "date")
SNAPSHOT_NUMBER(loadable, "loadable")
SNAPSHOT_NUMBER(state_size, "state-size")

#define JOB_STRING(property, fallback)                                         \
    static void                                                                \
    use_job_dup_##property(Things *t)                                          \
    {                                                                          \
        char *text;                                                            \
                                                                               \
        expect_property(#property);                                            \
        text = spice_qmp_job_dup_##property(t->job);                           \
        g_test_assert_expected_messages();                                     \
        g_assert_cmpstr(text, ==, fallback);                                   \
        g_free(text);                                                          \
    }

#define JOB_NUMBER(property)                                                   \
    static void                                                                \
    use_job_get_##property(Things *t)                                          \
    {                                                                          \
        expect_property(#property);                                            \
        g_assert_true(spice_qmp_job_get_##property(t->job) == 0);              \
        g_test_assert_expected_messages();                                     \
    }

JOB_STRING(error, NULL)
JOB_STRING(id, "")
JOB_STRING(kind, "")
JOB_STRING(status, "")
JOB_NUMBER(current)
JOB_NUMBER(progress)
JOB_NUMBER(total)

static void
use_list_refresh(Things *t)
{
    expect_critical("spice_qmp_list_refresh", "IS_THREAD_OF_LIST(list)");
    spice_qmp_list_refresh(t->list);
    expect_property("n-items");
    g_assert_cmpuint(g_list_model_get_n_items(G_LIST_MODEL(t->list)), ==, 0);
    expect_property("item");
    g_assert_null(g_list_model_get_item(G_LIST_MODEL(t->list), 0));
    g_test_assert_expected_messages();
}

static void
use_list_get_loading(Things *t)
{
    expect_property("loading");
    g_assert_false(spice_qmp_list_get_loading(t->list));
    g_test_assert_expected_messages();
}

static void
use_list_dup_error(Things *t)
{
    expect_property("error");
    g_assert_null(spice_qmp_list_dup_error(t->list));
    g_test_assert_expected_messages();
}

static void
use_is_mute(Things *t)
{
    expect_critical("spice_qmp_port_is_mute", PORT_CHECK);
    g_assert_false(spice_qmp_port_is_mute(t->port));
    g_test_assert_expected_messages();
}

static void
use_get_state(Things *t)
{
    expect_property("state");
    g_assert_cmpint(spice_qmp_port_get_state(t->port), ==, SPICE_QMP_PORT_STATE_CLOSED);
    g_test_assert_expected_messages();
}

static void
use_dup_capabilities(Things *t)
{
    char **none;

    expect_property("capabilities");
    none = spice_qmp_port_dup_capabilities(t->port);
    g_test_assert_expected_messages();
    g_assert_cmpuint(g_strv_length(none), ==, 0);
    g_strfreev(none);
}

#define SERVER_CHECK "IS_THREAD_OF_SERVER(server)"
#define REQUEST_CHECK "IS_THREAD_OF_REQUEST(request)"

static void
use_server_new(Things *t)
{
    expect_critical("spice_qmp_server_new", MAIN_CHECK);
    g_assert_null(spice_qmp_server_new(t->client, NULL, NULL));
    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*main context of another thread*");
    g_object_unref(g_object_new(SPICE_TYPE_QMP_SERVER, "stream", t->client, NULL));
    g_test_assert_expected_messages();
}

static void
use_server_close(Things *t)
{
    expect_critical("spice_qmp_server_close", SERVER_CHECK);
    spice_qmp_server_close(t->double_);
    g_test_assert_expected_messages();
}

static void
use_server_flush_and_close(Things *t)
{
    expect_critical("spice_qmp_server_flush_and_close", SERVER_CHECK);
    spice_qmp_server_flush_and_close(t->double_);
    g_test_assert_expected_messages();
}

static void
use_server_emit_event(Things *t)
{
    expect_critical("spice_qmp_server_emit_event", SERVER_CHECK);
    g_assert_false(spice_qmp_server_emit_event(t->double_, "STOP", NULL, NULL));
    g_test_assert_expected_messages();
}

static void
use_server_get_negotiated(Things *t)
{
    expect_property("negotiated");
    g_assert_false(spice_qmp_server_get_negotiated(t->double_));
    g_test_assert_expected_messages();
}

static void
use_server_dup_close_reason(Things *t)
{
    expect_property("close-reason");
    g_assert_null(spice_qmp_server_dup_close_reason(t->double_));
    g_test_assert_expected_messages();
}

static void
use_server_dup_version(Things *t)
{
    char *version;

    expect_property("version");
    version = spice_qmp_server_dup_version(t->double_);
    g_test_assert_expected_messages();
    g_assert_cmpstr(version, ==, "10.0.0");
    g_free(version);
}

static void
use_server_dup_capabilities(Things *t)
{
    char **none;

    expect_property("capabilities");
    none = spice_qmp_server_dup_capabilities(t->double_);
    g_test_assert_expected_messages();
    g_assert_cmpuint(g_strv_length(none), ==, 0);
    g_strfreev(none);
}

static void
use_request_refuse(Things *t)
{
    expect_critical("spice_qmp_request_refuse", REQUEST_CHECK);
    g_assert_false(spice_qmp_request_refuse(t->request, NULL, "no"));
    g_test_assert_expected_messages();
}

static void
use_request_reply(Things *t)
{
    expect_critical("spice_qmp_request_reply", REQUEST_CHECK);
    g_assert_false(spice_qmp_request_reply(t->request, NULL, NULL));
    g_test_assert_expected_messages();
}

static void
use_request_reply_variant(Things *t)
{
    expect_critical("spice_qmp_request_reply_variant", REQUEST_CHECK);
    g_assert_false(spice_qmp_request_reply_variant(t->request, g_variant_new_int32(1), NULL));
    g_test_assert_expected_messages();
}

/* Any thread may read a request. */
static void
use_request(Things *t)
{
    GVariant *arguments = spice_qmp_request_get_arguments_variant(t->request);

    g_assert_true(g_variant_is_of_type(arguments, G_VARIANT_TYPE_VARDICT));
    g_variant_unref(arguments);
    g_assert_cmpstr(spice_qmp_request_get_command(t->request), ==, "ask");
    g_assert_cmpstr(spice_qmp_request_get_arguments(t->request), ==, "{\"a\":1}");
    g_assert_cmpstr(spice_qmp_request_get_id(t->request), ==, "5");
    g_assert_false(spice_qmp_request_is_out_of_band(t->request));
    g_assert_cmpuint(spice_qmp_request_get_type(), ==, SPICE_TYPE_QMP_REQUEST);
    g_assert_cmpuint(spice_qmp_server_get_type(), ==, SPICE_TYPE_QMP_SERVER);
    g_object_unref(g_object_ref(t->request));
}

static void
use_values(Things *t)
{
    GVariant *data;
    char **commands;
    SpiceQmpConnector *connector = spice_qmp_connector_new(NULL);

    /* It belongs to this thread. */
    spice_qmp_connector_set_timeout(connector, 1);
    g_assert_cmpuint(spice_qmp_connector_get_timeout(connector), ==, 1);
    g_object_unref(connector);
    g_assert_cmpuint(spice_qmp_connector_get_type(), ==, SPICE_TYPE_QMP_CONNECTOR);
    g_assert_cmpuint(spice_qmp_schema_get_type(), ==, SPICE_TYPE_QMP_SCHEMA);
    g_assert_true(spice_qmp_schema_ref(t->schema) == t->schema);
    spice_qmp_schema_unref(t->schema);
    g_assert_true(spice_qmp_schema_has_command(t->schema, "echo"));
    g_assert_true(spice_qmp_schema_has_argument(t->schema, "emit", "name"));
    commands = spice_qmp_schema_list_commands(t->schema);
    g_assert_cmpuint(g_strv_length(commands), ==, 2);
    g_strfreev(commands);
    g_assert_true(spice_qmp_port_is_qmp_name("org.qemu.monitor.qmp.0"));
    g_assert_true(spice_qmp_error_quark() == SPICE_QMP_ERROR);
    g_assert_cmpuint(spice_qmp_port_get_type(), ==, SPICE_TYPE_QMP_PORT);
    g_assert_cmpuint(spice_qmp_port_state_get_type(), ==, SPICE_TYPE_QMP_PORT_STATE);
    g_assert_cmpuint(spice_qmp_call_flags_get_type(), ==, SPICE_TYPE_QMP_CALL_FLAGS);
    g_assert_cmpuint(spice_qmp_port_vm_action_get_type(), ==, SPICE_TYPE_QMP_PORT_VM_ACTION);
    g_assert_cmpuint(spice_qmp_status_get_type(), ==, SPICE_TYPE_QMP_STATUS);
    g_assert_cmpuint(spice_qmp_event_get_type(), ==, SPICE_TYPE_QMP_EVENT);
    g_assert_cmpuint(spice_qmp_machine_get_type(), ==, SPICE_TYPE_QMP_MACHINE);
    g_assert_cmpuint(spice_qmp_list_get_type(), ==, SPICE_TYPE_QMP_LIST);
    g_assert_cmpuint(spice_qmp_drive_get_type(), ==, SPICE_TYPE_QMP_DRIVE);
    g_assert_cmpuint(spice_qmp_insert_flags_get_type(), ==, SPICE_TYPE_QMP_INSERT_FLAGS);
    g_assert_cmpuint(spice_qmp_job_get_type(), ==, SPICE_TYPE_QMP_JOB);
    g_assert_cmpuint(spice_qmp_snapshot_get_type(), ==, SPICE_TYPE_QMP_SNAPSHOT);
    g_assert_cmpuint(spice_qmp_condition_get_type(), ==, SPICE_TYPE_QMP_CONDITION);
    g_assert_cmpuint(spice_qmp_condition_code_get_type(), ==, SPICE_TYPE_QMP_CONDITION_CODE);
    g_assert_cmpuint(spice_qmp_condition_severity_get_type(), ==,
                     SPICE_TYPE_QMP_CONDITION_SEVERITY);
    g_assert_true(spice_qmp_condition_ref(t->condition) == t->condition);
    spice_qmp_condition_unref(t->condition);
    g_assert_cmpint(spice_qmp_condition_get_code(t->condition), ==,
                    SPICE_QMP_CONDITION_CODE_GUEST_SHUTDOWN);
    g_assert_cmpint(spice_qmp_condition_get_severity(t->condition), ==,
                    SPICE_QMP_CONDITION_SEVERITY_INFO);
    g_assert_null(spice_qmp_condition_get_subject(t->condition));
    g_assert_nonnull(spice_qmp_condition_get_message(t->condition));
    g_assert_cmpstr(spice_qmp_condition_get_detail(t->condition), ==, "{\"guest\": true}");
    g_assert_true(spice_qmp_status_ref(t->status) == t->status);
    spice_qmp_status_unref(t->status);
    g_assert_true(spice_qmp_event_ref(t->event) == t->event);
    spice_qmp_event_unref(t->event);
    g_assert_cmpstr(spice_qmp_event_get_name(t->event), ==, "RTC_CHANGE");
    g_assert_cmpstr(spice_qmp_event_get_data(t->event), ==, "{\"offset\": 7}");
    g_assert_cmpint(spice_qmp_event_get_timestamp(t->event), ==, 12000034);
    data = spice_qmp_event_get_data_variant(t->event);
    g_assert_nonnull(data);
    g_variant_unref(data);
}

/* A function, its use, and what a _finish function needs before. */
typedef struct {
    const char *name;
    Use use;
    Use start;
} Function;

#define REFUSED(name) { "spice_qmp_port_" #name, use_##name, NULL }
#define PAIR(name)                                                             \
    REFUSED(name##_async),                                                     \
    { "spice_qmp_port_" #name "_finish", use_##name##_finish, start_##name }
#define VALUE(name) { "spice_qmp_" #name, use_values, NULL }

/* In the order of symbols.txt. */
static const Function functions[] = {
    VALUE(call_flags_get_type),
    VALUE(condition_code_get_type),
    VALUE(condition_get_code),
    VALUE(condition_get_detail),
    VALUE(condition_get_message),
    VALUE(condition_get_severity),
    VALUE(condition_get_subject),
    VALUE(condition_get_type),
    VALUE(condition_ref),
    VALUE(condition_severity_get_type),
    VALUE(condition_unref),
    { "spice_qmp_connector_answer", use_connector_answer, NULL },
    { "spice_qmp_connector_dup_address", use_connector_dup_address, NULL },
    { "spice_qmp_connector_dup_ca_file", use_connector_dup_ca_file, NULL },
    { "spice_qmp_connector_dup_host_subject", use_connector_dup_host_subject, NULL },
    { "spice_qmp_connector_get_reconnect", use_connector_get_reconnect, NULL },
    { "spice_qmp_connector_get_timeout", use_connector_get_timeout, NULL },
    VALUE(connector_get_type),
    { "spice_qmp_connector_get_wait", use_connector_get_wait, NULL },
    VALUE(connector_new),
    { "spice_qmp_connector_open_async", use_connector_open_async, NULL },
    { "spice_qmp_connector_open_finish", use_connector_open_finish, start_connector_open },
    { "spice_qmp_connector_set_address", use_connector_set_address, NULL },
    { "spice_qmp_connector_set_ca_file", use_connector_set_ca_file, NULL },
    { "spice_qmp_connector_set_host_subject", use_connector_set_host_subject, NULL },
    { "spice_qmp_connector_set_password", use_connector_set_password, NULL },
    { "spice_qmp_connector_set_reconnect", use_connector_set_reconnect, NULL },
    { "spice_qmp_connector_set_timeout", use_connector_set_timeout, NULL },
    { "spice_qmp_connector_set_wait", use_connector_set_wait, NULL },
#define DRIVE(name) { "spice_qmp_drive_" #name, use_drive_##name, NULL }
    DRIVE(dup_id),
    DRIVE(dup_io_status),
    DRIVE(dup_lost_medium),
    DRIVE(dup_medium),
    DRIVE(dup_name),
    { "spice_qmp_drive_eject_async", use_eject_async, NULL },
    { "spice_qmp_drive_eject_finish", use_eject_finish, start_eject },
    DRIVE(get_locked),
    DRIVE(get_read_only),
    DRIVE(get_removable),
    DRIVE(get_tray_open),
    VALUE(drive_get_type),
    { "spice_qmp_drive_insert_async", use_insert_async, NULL },
    { "spice_qmp_drive_insert_fd_async", use_insert_fd_async, NULL },
    { "spice_qmp_drive_insert_fd_finish", use_insert_fd_finish, start_insert_fd },
    { "spice_qmp_drive_insert_finish", use_insert_finish, start_insert },
    VALUE(error_quark),
    VALUE(event_get_data),
    VALUE(event_get_data_variant),
    VALUE(event_get_name),
    VALUE(event_get_timestamp),
    VALUE(event_get_type),
    VALUE(event_ref),
    VALUE(event_unref),
    VALUE(insert_flags_get_type),
#define JOB_PAIR(name)                                                         \
    { "spice_qmp_job_" #name "_async", use_##name##_async, NULL },             \
    { "spice_qmp_job_" #name "_finish", use_##name##_finish, start_##name }
#define JOB(name) { "spice_qmp_job_" #name, use_job_##name, NULL }
    JOB_PAIR(cancel),
    JOB_PAIR(complete),
    JOB_PAIR(dismiss),
    JOB(dup_error),
    JOB(dup_id),
    JOB(dup_kind),
    JOB(dup_status),
    JOB_PAIR(finalize),
    JOB(get_current),
    JOB(get_progress),
    JOB(get_total),
    VALUE(job_get_type),
    JOB_PAIR(pause),
    JOB_PAIR(resume),
    { "spice_qmp_list_dup_error", use_list_dup_error, NULL },
    { "spice_qmp_list_get_loading", use_list_get_loading, NULL },
    VALUE(list_get_type),
    { "spice_qmp_list_refresh", use_list_refresh, NULL },
    { "spice_qmp_machine_delete_snapshot_async", use_delete_snapshot_async, NULL },
    { "spice_qmp_machine_delete_snapshot_finish", use_delete_snapshot_finish, start_delete_snapshot },
    { "spice_qmp_machine_dup_condition", use_machine_dup_condition, NULL },
    { "spice_qmp_machine_get_drives", use_machine_get_drives, NULL },
    { "spice_qmp_machine_get_jobs", use_machine_get_jobs, NULL },
    { "spice_qmp_machine_get_port", use_machine_get_port, NULL },
    { "spice_qmp_machine_get_snapshots", use_machine_get_snapshots, NULL },
    VALUE(machine_get_type),
    { "spice_qmp_machine_load_schema_async", use_load_schema_async, NULL },
    { "spice_qmp_machine_load_schema_finish", use_load_schema_finish, start_load_schema },
    { "spice_qmp_machine_load_snapshot_async", use_load_snapshot_async, NULL },
    { "spice_qmp_machine_load_snapshot_finish", use_load_snapshot_finish, start_load_snapshot },
    { "spice_qmp_machine_new", use_machine_new, NULL },
    { "spice_qmp_machine_run_job_async", use_run_job_async, NULL },
    { "spice_qmp_machine_run_job_finish", use_run_job_finish, start_run_job },
    { "spice_qmp_machine_save_snapshot_async", use_save_snapshot_async, NULL },
    { "spice_qmp_machine_save_snapshot_finish", use_save_snapshot_finish, start_save_snapshot },
    { "spice_qmp_machine_screenshot_async", use_screenshot_async, NULL },
    { "spice_qmp_machine_screenshot_finish", use_screenshot_finish, start_screenshot },
    { "spice_qmp_machine_unplug_async", use_unplug_async, NULL },
    { "spice_qmp_machine_unplug_finish", use_unplug_finish, start_unplug },
    PAIR(close),
    REFUSED(dup_capabilities),
    REFUSED(dup_last_error),
    REFUSED(dup_package),
    REFUSED(dup_status),
    REFUSED(dup_version),
    PAIR(execute),
    PAIR(execute_full),
    PAIR(execute_oob),
    PAIR(execute_variant),
    PAIR(find_on_bus),
    REFUSED(get_close_timeout),
    REFUSED(get_command_timeout),
    REFUSED(get_max_message_size),
    REFUSED(get_pending),
    REFUSED(get_ready),
    REFUSED(get_reconnect),
    REFUSED(get_responsive),
    REFUSED(get_state),
    VALUE(port_get_type),
    REFUSED(is_mute),
    VALUE(port_is_qmp_name),
    REFUSED(new_for_stream),
    PAIR(open),
    PAIR(query_status),
    REFUSED(set_close_timeout),
    REFUSED(set_command_timeout),
    REFUSED(set_max_message_size),
    VALUE(port_state_get_type),
    PAIR(vm_action),
    VALUE(port_vm_action_get_type),
    PAIR(wait_event),
    PAIR(wait_ready),
    PAIR(wait_ready_full),
    PAIR(wait_status),
#define REQUEST(name) { "spice_qmp_request_" #name, use_request, NULL }
    REQUEST(get_arguments),
    REQUEST(get_arguments_variant),
    REQUEST(get_command),
    REQUEST(get_id),
    REQUEST(get_type),
    REQUEST(is_out_of_band),
    { "spice_qmp_request_refuse", use_request_refuse, NULL },
    { "spice_qmp_request_reply", use_request_reply, NULL },
    { "spice_qmp_request_reply_variant", use_request_reply_variant, NULL },
    VALUE(schema_get_type),
    VALUE(schema_has_argument),
    VALUE(schema_has_command),
    VALUE(schema_list_commands),
    VALUE(schema_ref),
    VALUE(schema_unref),
#define SERVER(name) { "spice_qmp_server_" #name, use_server_##name, NULL }
    SERVER(close),
    SERVER(dup_capabilities),
    SERVER(dup_close_reason),
    SERVER(dup_version),
    SERVER(emit_event),
    SERVER(flush_and_close),
    SERVER(get_negotiated),
    { "spice_qmp_server_get_type", use_request, NULL },
    SERVER(new),
#define SNAPSHOT(name) { "spice_qmp_snapshot_" #name, use_snapshot_##name, NULL }
    SNAPSHOT(dup_tag),
    SNAPSHOT(get_clock),
    SNAPSHOT(get_date),
    SNAPSHOT(get_loadable),
    SNAPSHOT(get_state_size),
    VALUE(snapshot_get_type),
    VALUE(status_get_type),
    VALUE(status_ref),
    VALUE(status_unref),
    /* With SPICE. */
    PAIR(find),
    PAIR(find_full),
    REFUSED(get),
    PAIR(port_names),
    REFUSED(ref_channel),
};

static char *symbols;

/* A new function needs a line above. */
static void
test_all_are_here(void)
{
    char **lines = g_strsplit(symbols, "\n", -1);
    gsize i = 0;
    char **line;

    for (line = lines; *line; line++) {
        if (**line == '#' || **line == '\0')
            continue;
        g_assert_cmpuint(i, <, G_N_ELEMENTS(functions));
        g_assert_cmpstr(functions[i++].name, ==, *line);
    }
    g_assert_cmpuint(i, ==, G_N_ELEMENTS(functions));
    g_strfreev(lines);
}

static void
test_function(Things *t, gconstpointer data)
{
    const Function *function = data;

    if (function->start) {
        function->start(t);
        await(&t->reply);
        t->result = g_object_ref(t->reply.result);
        forget(&t->reply);
    }
    elsewhere(function->use, t);
    if (g_str_has_suffix(function->name, "_async")) {
        GError *error = NULL;

        WAIT_UNTIL(t->reply.calls);
        g_assert_cmpint(t->reply.calls, ==, 1);
        g_assert_null(t->reply.source);
        /* It does not matter whose result it is. */
        g_assert_false(g_task_propagate_boolean(G_TASK(t->reply.result), &error));
        g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
        g_error_free(error);
        forget(&t->reply);
    }
    g_clear_object(&t->result);
    /* Nothing was answered, nor closed. */
    g_assert_true(spice_qmp_request_reply(t->request, NULL, NULL));
    g_assert_true(spice_qmp_server_get_negotiated(t->double_));
    g_assert_null(spice_qmp_server_dup_close_reason(t->double_));
    if (strcmp(function->name, "spice_qmp_port_close_finish") != 0)
        assert_executes(t->port, "echo", NULL);
}

/* --- properties, signals, references ---------------------------------------- */

static void
use_properties(Things *t)
{
    guint count, i;
    GParamSpec **properties =
        g_object_class_list_properties(G_OBJECT_GET_CLASS(t->port), &count);

    g_assert_cmpuint(count, >=, 13);
    for (i = 0; i < count; i++) {
        GValue value = G_VALUE_INIT;

        g_value_init(&value, properties[i]->value_type);
        expect_property(properties[i]->name);
        g_object_get_property(G_OBJECT(t->port), properties[i]->name, &value);
        g_assert_true(g_param_value_defaults(properties[i], &value));
        if ((properties[i]->flags & G_PARAM_WRITABLE)
            && !(properties[i]->flags & G_PARAM_CONSTRUCT_ONLY)) {
            expect_property(properties[i]->name);
            g_object_set_property(G_OBJECT(t->port), properties[i]->name, &value);
        }
        g_test_assert_expected_messages();
        g_value_unset(&value);
    }
    g_free(properties);
}

static void
test_properties(Things *t, gconstpointer data G_GNUC_UNUSED)
{
    spice_qmp_port_set_command_timeout(t->port, 12345);
    elsewhere(use_properties, t);
    g_assert_cmpuint(spice_qmp_port_get_command_timeout(t->port), ==, 12345);
    g_assert_true(spice_qmp_port_get_ready(t->port));
}

static void
count(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event G_GNUC_UNUSED, int *events)
{
    ++*events;
}

static int heard;

static void
use_signals(Things *t)
{
    g_signal_handler_disconnect(
        t->port, g_signal_connect(t->port, "qmp-event", G_CALLBACK(count), &heard));
    g_signal_connect(t->port, "qmp-event::STOP", G_CALLBACK(count), &heard);
    g_object_unref(g_object_ref(t->port));
}

static void
test_signals(Things *t, gconstpointer data G_GNUC_UNUSED)
{
    heard = 0;
    elsewhere(use_signals, t);
    server_event(t->server, "STOP", NULL);
    WAIT_UNTIL(heard);
    g_assert_cmpint(heard, ==, 1);
}

static void
drop_port(Things *t)
{
    g_object_unref(t->port);
}

/* Garbage collectors drop the last reference on any thread. The port is then released
 * on its own thread, in the middle of whatever it does. */
static void
test_last_reference(Things *t, gconstpointer doing)
{
    int i;

    clear_machine(t);
    g_clear_object(&t->port);
    for (i = 0; i < 50; i++) {
        GIOStream *client;
        Server *server = server_pair(&client);
        GError *error = NULL;
        gboolean freed;
        int events = 0, j;

        t->port = spice_qmp_port_new_for_stream(client);
        if (strcmp(doing, "greeting") != 0) {
            server_greet(server);
            wait_ready(t->port, &error);
            g_assert_no_error(error);
        }
        if (strcmp(doing, "calls") == 0) {
            g_object_set(t->port, "command-timeout", 1000, NULL);
            /* Without a callback a call does not hold the port. */
            for (j = 0; j < 10; j++)
                spice_qmp_port_execute_async(t->port, "silent", NULL, NULL, NULL, NULL);
            settle();
        } else if (strcmp(doing, "events") == 0) {
            g_signal_connect(t->port, "qmp-event", G_CALLBACK(count), &events);
            for (j = 0; j < 100; j++)
                server_event(server, "STOP", "{}");
        }
        watch(t->port, &freed);
        elsewhere(drop_port, t);
        WAIT_UNTIL(freed);
        g_object_unref(client);
        server_free(server);
    }
    t->port = NULL;
}

static void
use_actions(Things *t)
{
    GActionGroup *actions = G_ACTION_GROUP(t->machine);

    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*\"action group\"*another thread*");
    g_assert_false(g_action_group_get_action_enabled(actions, "quit"));
    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*\"action group\"*another thread*");
    g_action_group_activate_action(actions, "quit", NULL);
    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, "*\"action group\"*another thread*");
    g_action_group_change_action_state(actions, "pause", g_variant_new_boolean(TRUE));
    g_test_assert_expected_messages();
}

static void
test_actions(Things *t, gconstpointer data G_GNUC_UNUSED)
{
    g_string_truncate(t->server->log, 0);
    elsewhere(use_actions, t);
    assert_executes(t->port, "echo", NULL);
    g_assert_cmpstr(t->server->log->str, ==, "echo ");
    g_assert_true(g_action_group_get_action_enabled(G_ACTION_GROUP(t->machine), "quit"));
}

static void
drop_machine(Things *t)
{
    clear_machine(t);
}

/* The last reference to a machine and its drives, while they are busy. */
static void
test_last_machine(Things *t, gconstpointer data G_GNUC_UNUSED)
{
    int i, j;

    for (i = 0; i < 50; i++) {
        gboolean freed, list_freed;

        clear_machine(t);
        t->machine = spice_qmp_machine_new(t->port);
        t->list = g_object_ref(spice_qmp_machine_get_drives(t->machine));
        spice_qmp_list_refresh(t->list);
        /* While the first load is due, under way, or over. */
        for (j = 0; j < i % 10; j++)
            g_main_context_iteration(NULL, FALSE);
        for (j = 0; j < 20; j++) {
            server_event(t->server, "BLOCK_IO_ERROR", "{\"action\": \"stop\"}");
            server_event(t->server, "RESUME", NULL);
        }
        g_action_group_activate_action(G_ACTION_GROUP(t->machine), "reset", NULL);
        watch(t->machine, &freed);
        watch(t->list, &list_freed);
        elsewhere(drop_machine, t);
        WAIT_UNTIL(freed && list_freed);
        /* The server writes on this thread: let everything be read. */
        assert_executes(t->port, "echo", NULL);
    }
}

static void
drop_result(Things *t)
{
    g_clear_object(&t->result);
}

/* A result holds the port, too. */
static void
test_last_result(Things *t, gconstpointer data G_GNUC_UNUSED)
{
    gboolean freed;

    clear_machine(t);
    spice_qmp_port_execute_async(t->port, "echo", NULL, NULL, on_reply, &t->reply);
    await(&t->reply);
    t->result = g_object_ref(t->reply.result);
    forget(&t->reply);
    settle();
    watch(t->port, &freed);
    g_object_unref(t->port);
    t->port = NULL;
    g_assert_false(freed);
    elsewhere(drop_result, t);
    WAIT_UNTIL(freed);
}

/* Some callers drop the channel's reference. */
static void
test_borrowed(Things *t, gconstpointer data G_GNUC_UNUSED)
{
    SpiceQmpPort *own = t->port;
    gboolean freed;
    int i;

    for (i = 0; i < 50; i++) {
        t->port = spice_qmp_port_get(t->channel);
        watch(t->port, &freed);
        elsewhere(drop_port, t);
        /* Until it is finalized, the channel has it. */
        if (!freed)
            g_assert_true(spice_qmp_port_get(t->channel) == t->port);
        WAIT_UNTIL(freed);
    }
    t->port = own;
}

int
main(int argc, char **argv)
{
    gsize i;

    g_test_init(&argc, &argv, NULL);
    if (argc != 2 || !g_file_get_contents(argv[1], &symbols, NULL, NULL))
        g_error("usage: threads symbols.txt");
    g_test_add_func("/threads/all-are-here", test_all_are_here);
    for (i = 0; i < G_N_ELEMENTS(functions); i++) {
        char *path = g_strdup_printf("/threads/%s", functions[i].name);

        g_test_add(path, Things, &functions[i], set_up, test_function, tear_down);
        g_free(path);
    }
#define TEST(path, data, test)                                                 \
    g_test_add("/threads/" path, Things, data, set_up, test, tear_down)
    TEST("properties", NULL, test_properties);
    TEST("signals", NULL, test_signals);
    TEST("last-reference/idle", "idle", test_last_reference);
    TEST("last-reference/greeting", "greeting", test_last_reference);
    TEST("last-reference/calls", "calls", test_last_reference);
    TEST("last-reference/events", "events", test_last_reference);
    TEST("last-result", NULL, test_last_result);
    TEST("borrowed", NULL, test_borrowed);
    TEST("actions", NULL, test_actions);
    TEST("last-machine", NULL, test_last_machine);
    i = g_test_run();
    g_free(symbols);
    return i;
}
