/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The C library on a real QEMU: qemu SCENARIO SPICE-URI QMP-SOCKET VERSION */
#include "common.h"

#include <fcntl.h>
#include <unistd.h>

#include <gio/gunixfdlist.h>
#include <glib/gstdio.h>

static const char *spice_uri, *qmp_socket, *qemu_version;

static SpiceSession *
new_session(void)
{
    SpiceSession *session = spice_session_new();

    g_object_set(session, "uri", spice_uri, NULL);
    return session;
}

static SpiceQmpPort *
find(SpiceSession *session, GError **error)
{
    Reply reply = { 0 };
    SpiceQmpPort *port;

    spice_qmp_port_find_async(session, NULL, on_reply, &reply);
    await(&reply);
    port = spice_qmp_port_find_finish(reply.result, error);
    forget(&reply);
    return port;
}

static SpiceQmpPort *
find_ready(SpiceSession *session)
{
    GError *error = NULL;
    SpiceQmpPort *port = find(session, &error);

    g_assert_no_error(error);
    g_assert_true(spice_qmp_port_get_ready(port));
    return port;
}

static SpicePortChannel *
channel_of(SpiceQmpPort *port)
{
    SpicePortChannel *channel = spice_qmp_port_ref_channel(port);

    g_assert_nonnull(channel);
    g_object_unref(channel);
    return channel;
}

/* Ends the session, and waits until nothing of the port is left. */
static void
end(SpiceSession *session, SpiceQmpPort *port)
{
    gboolean freed;
    Reply reply = { 0 };

    /* QEMU may crash if a SPICE client disconnects with a command unanswered. */
    spice_qmp_port_close_async(port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_close_finish(port, reply.result, NULL));
    forget(&reply);
    watch(port, &freed);
    g_object_unref(port);
    spice_session_disconnect(session);
    g_object_unref(session);
    WAIT_UNTIL(freed);
    settle();
}

static gboolean
act(SpiceQmpPort *port, SpiceQmpPortVmAction action, GError **error)
{
    Reply reply = { 0 };
    gboolean done;

    spice_qmp_port_vm_action_async(port, action, NULL, on_reply, &reply);
    await(&reply);
    done = spice_qmp_port_vm_action_finish(port, reply.result, error);
    forget(&reply);
    return done;
}

static void
assert_status(SpiceQmpPort *port, gboolean running, const char *name)
{
    Reply reply = { 0 };
    GError *error = NULL;
    SpiceQmpStatus *status;

    spice_qmp_port_query_status_async(port, NULL, on_reply, &reply);
    await(&reply);
    status = spice_qmp_port_query_status_finish(port, reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    g_assert_cmpint(status->version, ==, 1);
    g_assert_cmpint(status->running, ==, running);
    g_assert_cmpstr(status->status, ==, name);
    spice_qmp_status_unref(status);
}

static void
test_find(void)
{
    SpiceSession *session = new_session();
    SpiceQmpPort *port = find_ready(session);
    SpiceQmpPort *same = find_ready(session);
    char *version, *name;

    /* Found again on a connected session, and the channel's own. */
    g_assert_true(same == port);
    g_object_unref(same);
    g_assert_true(spice_qmp_port_get(channel_of(port)) == port);
    g_object_get(channel_of(port), "port-name", &name, NULL);
    g_assert_true(spice_qmp_port_is_qmp_name(name));
    g_free(name);
    version = spice_qmp_port_dup_version(port);
    g_assert_cmpstr(version, ==, qemu_version);
    g_free(version);
    end(session, port);
}

static void
test_find_full(void)
{
    SpiceSession *session = new_session();
    SpiceQmpPort *port, *same;
    Reply reply = { 0 };
    GError *error = NULL;
    char **names;

    spice_qmp_port_port_names_async(session, 20000, TRUE, NULL, on_reply, &reply);
    await(&reply);
    names = spice_qmp_port_port_names_finish(reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    g_assert_cmpuint(g_strv_length(names), ==, 1);
    g_assert_true(spice_qmp_port_is_qmp_name(names[0]));
    g_strfreev(names);

    spice_qmp_port_find_full_async(session, 20000, FALSE, NULL, on_reply, &reply);
    await(&reply);
    port = spice_qmp_port_find_full_finish(reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    g_assert_true(spice_qmp_port_get_ready(port));
    g_assert_false(spice_qmp_port_is_mute(port));
    same = find_ready(session);
    g_assert_true(same == port);
    g_object_unref(same);
    end(session, port);
}

/* Whether the property has this status. */
static gboolean
tells(SpiceQmpPort *port, const char *name)
{
    g_autoptr(SpiceQmpStatus) status = spice_qmp_port_dup_status(port);

    return status && strcmp(status->status, name) == 0;
}

typedef struct {
    GString *names;
    int with_node;
} Seen;

static void
on_qmp_event(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event, Seen *seen)
{
    GVariant *data = spice_qmp_event_get_data_variant(event);
    const char *reason;

    g_string_append_printf(seen->names, "%s ", spice_qmp_event_get_name(event));
    g_assert_cmpint(spice_qmp_event_get_timestamp(event), >, G_GINT64_CONSTANT(1500000000000000));
    if (strcmp(spice_qmp_event_get_name(event), "RESET") == 0) {
        g_assert_true(g_variant_lookup(data, "reason", "&s", &reason));
        g_assert_cmpstr(reason, ==, "host-qmp-system-reset");
        g_assert_nonnull(strstr(spice_qmp_event_get_data(event), "\"guest\":"));
    }
    g_clear_pointer(&data, g_variant_unref);
}

static void
on_event(SpiceQmpPort *port G_GNUC_UNUSED, const char *name, gpointer node, Seen *seen)
{
    if (strcmp(name, "RESET") == 0) {
        JsonObject *data = json_node_get_object(node);

        g_assert_cmpstr(json_object_get_string_member(data, "reason"), ==,
                        "host-qmp-system-reset");
        seen->with_node++;
    }
}

static void
test_actions(void)
{
    SpiceSession *session = new_session();
    SpiceQmpPort *port = find_ready(session);
    Seen seen = { g_string_new(NULL), 0 };
    GError *error = NULL;

    g_signal_connect(port, "qmp-event", G_CALLBACK(on_qmp_event), &seen);
    g_signal_connect(port, "event", G_CALLBACK(on_event), &seen);
    assert_status(port, FALSE, "prelaunch");
    g_assert_true(act(port, SPICE_QMP_PORT_VM_ACTION_CONTINUE, &error));
    g_assert_no_error(error);
    assert_status(port, TRUE, "running");
    g_assert_true(act(port, SPICE_QMP_PORT_VM_ACTION_PAUSE, &error));
    g_assert_no_error(error);
    assert_status(port, FALSE, "paused");
    /* The property changes by itself. */
    WAIT_UNTIL(tells(port, "paused"));
    g_assert_true(act(port, SPICE_QMP_PORT_VM_ACTION_RESET, &error));
    g_assert_no_error(error);
    WAIT_UNTIL(strstr(seen.names->str, "RESET"));
    g_assert_nonnull(strstr(seen.names->str, "RESUME STOP "));
    g_assert_cmpint(seen.with_node, >, 0);
    g_assert_true(act(port, SPICE_QMP_PORT_VM_ACTION_POWER_DOWN, &error));
    g_assert_no_error(error);

    g_signal_handlers_disconnect_by_data(port, &seen);
    g_string_free(seen.names, TRUE);
    end(session, port);
}

static void
test_execute(void)
{
    SpiceSession *session = new_session();
    SpiceQmpPort *port = find_ready(session);
    Reply reply = { 0 };
    GError *error = NULL;
    GCancellable *cancellable = g_cancellable_new();
    GVariant *schema;
    char *text;

    /* More than QEMU sends at once on a SPICE port. */
    text = execute(port, "query-qmp-schema", NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(strlen(text), >, 131136);
    g_free(text);
    spice_qmp_port_execute_variant_async(port, "query-qmp-schema", NULL, NULL, on_reply,
                                         &reply);
    await(&reply);
    schema = spice_qmp_port_execute_variant_finish(port, reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    g_assert_cmpstr(g_variant_get_type_string(schema), ==, "av");
    g_assert_cmpuint(g_variant_n_children(schema), >, 500);
    g_variant_unref(schema);

    /* Cancelled in the middle: the rest of the reply is skipped. */
    spice_qmp_port_execute_async(port, "query-qmp-schema", NULL, cancellable, on_reply,
                                 &reply);
    settle();
    g_cancellable_cancel(cancellable);
    WAIT_UNTIL(reply.calls);
    text = spice_qmp_port_execute_finish(port, reply.result, &error);
    g_assert_null(text);
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_clear_error(&error);
    forget(&reply);
    assert_executes(port, "query-name", NULL);

    ASSERT_FAILS(port, "no-such-command", NULL, SPICE_QMP_ERROR,
                 SPICE_QMP_ERROR_COMMAND_NOT_FOUND, "no-such-command");
    ASSERT_FAILS(port, "device_del", "{\"id\": \"none\"}", SPICE_QMP_ERROR,
                 SPICE_QMP_ERROR_DEVICE_NOT_FOUND, "none");
    ASSERT_FAILS(port, "device_add", "{\"driver\": \"none\"}", SPICE_QMP_ERROR,
                 SPICE_QMP_ERROR_GENERIC, "none");
    spice_qmp_port_execute_oob_async(port, "migrate-pause", NULL, NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_port_execute_oob_finish(port, reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_SUPPORTED);
    g_clear_error(&error);
    forget(&reply);

    g_object_unref(cancellable);
    end(session, port);
}

static void
test_open(void)
{
    char *address = g_strconcat("unix:", qmp_socket, NULL);
    Reply reply = { 0 };
    GError *error = NULL;
    SpiceQmpPort *port;
    char **capabilities;
    gboolean freed;

    spice_qmp_port_open_async(address, NULL, on_reply, &reply);
    await(&reply);
    port = spice_qmp_port_open_finish(reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    capabilities = spice_qmp_port_dup_capabilities(port);
    g_assert_true(g_strv_contains((const char *const *) capabilities, "oob"));
    g_strfreev(capabilities);
    spice_qmp_port_execute_oob_async(port, "migrate-pause", NULL, NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_port_execute_oob_finish(port, reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
    g_clear_error(&error);
    forget(&reply);
    spice_qmp_port_close_async(port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_close_finish(port, reply.result, &error));
    forget(&reply);
    watch(port, &freed);
    g_object_unref(port);
    WAIT_UNTIL(freed);
    g_free(address);
}

static SpiceQmpPort *
find_on_bus(GDBusConnection *connection, const char *name, GError **error)
{
    Reply reply = { 0 };
    SpiceQmpPort *port;

    spice_qmp_port_find_on_bus_async(connection, name, NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(reply.source);
    port = spice_qmp_port_find_on_bus_finish(reply.result, error);
    forget(&reply);
    return port;
}

/* A machine on the message bus at spice_uri. */
static void
test_bus(void)
{
    GDBusConnection *connection;
    SpiceQmpPort *port;
    Reply reply = { 0 };
    GError *error = NULL;
    gboolean freed;

    connection = g_dbus_connection_new_for_address_sync(
        spice_uri,
        G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT |
            G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
        NULL, NULL, &error);
    g_assert_no_error(error);

    port = find_on_bus(connection, "org.qemu", &error);
    g_assert_no_error(error);
    assert_status(port, FALSE, "prelaunch");
    g_assert_true(act(port, SPICE_QMP_PORT_VM_ACTION_CONTINUE, &error));
    g_assert_no_error(error);
    g_assert_true(act(port, SPICE_QMP_PORT_VM_ACTION_PAUSE, &error));
    g_assert_no_error(error);

    g_assert_null(find_on_bus(connection, "org.qemu", &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_BUSY);
    g_assert_nonnull(strstr(error->message, g_dbus_connection_get_unique_name(connection)));
    g_clear_error(&error);
    g_assert_null(find_on_bus(connection, "org.example", &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_null(find_on_bus(connection, NULL, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);

    spice_qmp_port_close_async(port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_close_finish(port, reply.result, &error));
    forget(&reply);
    watch(port, &freed);
    g_object_unref(port);
    WAIT_UNTIL(freed);
    g_object_unref(connection);
}

static char *
execute_with_fd(SpiceQmpPort *port, const char *command, const char *arguments, int fd,
                GError **error)
{
    GUnixFDList *fds = g_unix_fd_list_new();
    Reply reply = { 0 };
    char *text;

    g_assert_cmpint(g_unix_fd_list_append(fds, fd, NULL), ==, 0);
    close(fd);
    spice_qmp_port_execute_full_async(port, command, arguments, PATIENCE / 1000, fds,
                                      SPICE_QMP_CALL_FLAGS_NONE, NULL, on_reply, &reply);
    g_object_unref(fds);
    await(&reply);
    text = spice_qmp_port_execute_full_finish(port, reply.result, error);
    forget(&reply);
    return text;
}

/* NULL, or a PNG file. */
static GBytes *
take_screenshot(SpiceQmpPort *port, const char *device, guint head, GError **error)
{
    SpiceQmpMachine *machine = spice_qmp_machine_new(port);
    Reply reply = { 0 };
    GBytes *png;

    spice_qmp_machine_screenshot_async(machine, device, head, NULL, on_reply, &reply);
    await(&reply);
    png = spice_qmp_machine_screenshot_finish(machine, reply.result, error);
    forget(&reply);
    g_object_unref(machine);
    return png;
}

/* A picture of a screen that shows nothing. */
static void
test_screenshot(SpiceQmpPort *port)
{
    GError *error = NULL;
    const char *data;
    GBytes *png;
    gsize size;

    assert_executes(port, "device_add", "{\"driver\": \"secondary-vga\", \"id\": \"screen\"}");
    png = take_screenshot(port, "screen", 0, &error);
    g_assert_no_error(error);
    data = g_bytes_get_data(png, &size);
    g_assert_cmpuint(size, >, 24);
    g_assert_cmpmem(data, 8, "\x89PNG\r\n\x1a\n", 8);
    /* 640 x 480 */
    g_assert_cmpmem(data + 16, 8, "\0\0\x02\x80\0\0\x01\xe0", 8);
    g_bytes_unref(png);
    g_assert_null(take_screenshot(port, "screen", 9, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
    g_clear_error(&error);
    g_assert_null(take_screenshot(port, "no-such-device", 0, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_DEVICE_NOT_FOUND);
    g_clear_error(&error);
}

static void
on_progress(SpiceQmpJob *job, gpointer data)
{
    GArray *steps = data;
    double progress = spice_qmp_job_get_progress(job);

    g_array_append_val(steps, progress);
}

static gboolean
run_backup(SpiceQmpPort *port, const char *arguments, GArray *steps, GError **error)
{
    SpiceQmpMachine *machine = spice_qmp_machine_new(port);
    Reply reply = { 0 };
    gboolean done;

    spice_qmp_machine_run_job_async(machine, "blockdev-backup", arguments, on_progress, steps,
                                    NULL, NULL, on_reply, &reply);
    await(&reply);
    done = spice_qmp_machine_run_job_finish(machine, reply.result, error);
    forget(&reply);
    g_object_unref(machine);
    return done;
}

/* A backup that takes about 6 s, and one that fails. */
static void
test_jobs(void)
{
    char *address = g_strconcat("unix:", qmp_socket, NULL);
    GArray *steps = g_array_new(FALSE, FALSE, sizeof(double));
    SpiceQmpPort *port;
    Reply reply = { 0 };
    GError *error = NULL;
    guint i;

    spice_qmp_port_open_async(address, NULL, on_reply, &reply);
    await(&reply);
    port = spice_qmp_port_open_finish(reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
#define DISK(name) "{\"driver\": \"null-co\", \"size\": 67108864" name "}"
    assert_executes(port, "blockdev-add", DISK(", \"node-name\": \"s\""));
    assert_executes(port, "blockdev-add", DISK(", \"node-name\": \"t\""));
    assert_executes(port, "blockdev-add",
                    "{\"driver\": \"blkdebug\", \"node-name\": \"b\", \"image\": " DISK("") ","
                    " \"inject-error\": [{\"event\": \"none\", \"iotype\": \"write\","
                    " \"errno\": 5}]}");
    g_assert_true(run_backup(port,
                             "{\"device\": \"s\", \"target\": \"t\", \"sync\": \"full\","
                             " \"speed\": 11184810}",
                             steps, &error));
    g_assert_no_error(error);
    g_test_message("%u steps", steps->len);
    g_assert_cmpuint(steps->len, >=, 10);
    for (i = 1; i < steps->len; i++)
        g_assert_true(g_array_index(steps, double, i - 1) <= g_array_index(steps, double, i));
    g_assert_cmpfloat(g_array_index(steps, double, steps->len - 1), ==, 1);
    g_assert_false(run_backup(port,
                              "{\"device\": \"s\", \"target\": \"b\", \"sync\": \"full\"}",
                              steps, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
    g_assert_nonnull(strstr(error->message, "Input/output error"));
    g_clear_error(&error);
    assert_executes(port, "blockdev-del", "{\"node-name\": \"s\"}");
    assert_executes(port, "blockdev-del", "{\"node-name\": \"t\"}");
    assert_executes(port, "blockdev-del", "{\"node-name\": \"b\"}");
    spice_qmp_port_close_async(port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_close_finish(port, reply.result, &error));
    forget(&reply);
    g_object_unref(port);
    g_array_unref(steps);
    settle();
    g_free(address);
}

/* A disk opened through a descriptor, and one that is only sent and removed. */
static void
test_fds(void)
{
    char *address = g_strconcat("unix:", qmp_socket, NULL), *path, *text;
    SpiceSession *session = new_session();
    SpiceQmpPort *over_spice = find_ready(session), *port;
    Reply reply = { 0 };
    GError *error = NULL;
    int fd = g_file_open_tmp("spice-qmp-XXXXXX", &path, &error), i;

    g_assert_no_error(error);
    g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
    g_assert_null(execute_with_fd(over_spice, "getfd", "{\"fdname\": \"c\"}", dup(fd), &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_SUPPORTED);
    g_clear_error(&error);
    g_assert_null(take_screenshot(over_spice, NULL, 0, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_SUPPORTED);
    g_clear_error(&error);
    end(session, over_spice);
    close(fd);

    spice_qmp_port_open_async(address, NULL, on_reply, &reply);
    await(&reply);
    port = spice_qmp_port_open_finish(reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    for (i = 0; i < 3; i++) {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        text = execute_with_fd(port, "getfd", "{\"fdname\": \"c\"}", fd, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(text, ==, "{}");
        g_free(text);
        assert_executes(port, "closefd", "{\"fdname\": \"c\"}");
        ASSERT_FAILS(port, "closefd", "{\"fdname\": \"c\"}", SPICE_QMP_ERROR,
                     SPICE_QMP_ERROR_GENERIC, "c");
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    text = execute_with_fd(port, "add-fd", "{\"fdset-id\": 7}", fd, &error);
    g_assert_no_error(error);
    g_assert_nonnull(strstr(text, "\"fdset-id\": 7"));
    g_free(text);
    assert_executes(port, "blockdev-add",
                    "{\"driver\": \"file\", \"node-name\": \"c\", \"read-only\": true,"
                    " \"filename\": \"/dev/fdset/7\"}");
    assert_executes(port, "blockdev-del", "{\"node-name\": \"c\"}");
    assert_executes(port, "remove-fd", "{\"fdset-id\": 7}");
    test_screenshot(port);

    g_unlink(path);
    g_free(path);
    spice_qmp_port_close_async(port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_close_finish(port, reply.result, &error));
    forget(&reply);
    g_object_unref(port);
    settle();
    g_free(address);
}

/* A caller that drops the channel's reference gets another port. */
static void
test_over_unref(void)
{
    SpiceSession *session = new_session();
    SpiceQmpPort *port = find_ready(session);
    SpicePortChannel *channel = channel_of(port);
    int i;

    for (i = 0; i < 5; i++) {
        gboolean freed;
        GError *error = NULL;

        watch(port, &freed);
        g_object_unref(port);
        if (i == 0) {
            g_assert_false(freed);
            g_object_unref(port);
        }
        g_assert_true(freed);
        port = spice_qmp_port_get(channel);
        wait_ready(port, &error);
        g_assert_no_error(error);
        assert_status(port, FALSE, "prelaunch");
    }
    end(session, g_object_ref(port));
}

/* Like remote-viewer: a borrowed port, which is unreffed when it closes. */
static void
drop_borrowed(SpiceQmpPort *port, GParamSpec *spec G_GNUC_UNUSED, SpiceQmpPort **borrowed)
{
    if (!spice_qmp_port_get_ready(port))
        g_clear_object(borrowed);
}

static void
on_closed(GObject *source, GAsyncResult *result, gpointer closed)
{
    GError *error = NULL;

    g_assert_null(spice_qmp_port_execute_finish(SPICE_QMP_PORT(source), result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_error_free(error);
    ++*(int *) closed;
}

static void
session_goes(gboolean give_back)
{
    SpiceSession *session = new_session();
    SpiceQmpPort *port = find_ready(session), *borrowed = port;
    gboolean freed;
    int closed = 0, i;

    g_object_unref(port);
    watch(port, &freed);
    if (give_back)
        g_signal_connect(port, "notify::ready", G_CALLBACK(drop_borrowed), &borrowed);
    for (i = 0; i < 3; i++)
        spice_qmp_port_execute_async(port, "query-qmp-schema", NULL, NULL, on_closed,
                                     &closed);
    spice_qmp_port_vm_action_async(port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL, NULL, NULL);
    /* They are sent, but there is no time for an answer. */
    g_main_context_iteration(NULL, FALSE);
    g_assert_false(freed);
    spice_session_disconnect(session);
    g_object_unref(session);
    WAIT_UNTIL(closed == 3);
    WAIT_UNTIL(freed);
    g_assert_true(!give_back || borrowed == NULL);
    settle();
    g_assert_cmpint(closed, ==, 3);
}

static void
test_session_gone(void)
{
    session_goes(FALSE);
}

static void
test_session_gone_and_given_back(void)
{
    session_goes(TRUE);
}

static void
test_quit(void)
{
    SpiceSession *session = new_session();
    SpiceQmpPort *port = find_ready(session);
    GError *error = NULL;

    g_assert_true(act(port, SPICE_QMP_PORT_VM_ACTION_QUIT, &error));
    g_assert_no_error(error);
    WAIT_UNTIL((error = spice_qmp_port_dup_last_error(port)) != NULL);
    g_assert_false(spice_qmp_port_get_ready(port));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_error_free(error);
    end(session, port);
}

static void
assert_find_fails(GQuark domain, int code, const char *words)
{
    SpiceSession *session = new_session();
    GError *error = NULL;

    g_assert_null(find(session, &error));
    g_assert_error(error, domain, code);
    g_assert_nonnull(strstr(error->message, words));
    g_error_free(error);
    spice_session_disconnect(session);
    g_object_unref(session);
    settle();
}

static void
test_no_port(void)
{
    assert_find_fails(G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "no QMP port");
}

static void
test_human(void)
{
    assert_find_fails(SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_QMP, "human monitor");
}

static void
test_password(void)
{
    assert_find_fails(G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED, "login");
}

static SpiceQmpPort *
open_with(SpiceQmpConnector *connector, GError **error)
{
    Reply reply = { 0 };
    SpiceQmpPort *port;

    spice_qmp_connector_open_async(connector, NULL, on_reply, &reply);
    await(&reply);
    port = spice_qmp_connector_open_finish(connector, reply.result, error);
    forget(&reply);
    return port;
}

/* Closes the port, and waits until nothing of it is left. */
static void
close_own(SpiceQmpPort *port)
{
    gboolean freed;
    Reply reply = { 0 };

    spice_qmp_port_close_async(port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_close_finish(port, reply.result, NULL));
    forget(&reply);
    watch(port, &freed);
    g_object_unref(port);
    WAIT_UNTIL(freed);
    settle();
}

static void
test_connector(void)
{
    char *address = g_strconcat("unix:", qmp_socket, NULL);
    const char *const addresses[] = { spice_uri, address };
    SpiceQmpConnector *connector = spice_qmp_connector_new(NULL);
    GError *error = NULL;
    gsize i;

    g_assert_null(open_with(connector, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    spice_qmp_connector_set_timeout(connector, 20000);
    spice_qmp_connector_set_wait(connector, TRUE);
    spice_qmp_connector_set_reconnect(connector, 250);
    for (i = 0; i < G_N_ELEMENTS(addresses); i++) {
        SpiceQmpPort *port;
        char *copy;

        spice_qmp_connector_set_address(connector, addresses[i]);
        copy = spice_qmp_connector_dup_address(connector);
        g_assert_cmpstr(copy, ==, addresses[i]);
        g_free(copy);
        port = open_with(connector, &error);
        g_assert_no_error(error);
        g_assert_true(spice_qmp_port_get_ready(port));
        g_assert_cmpuint(spice_qmp_port_get_reconnect(port), ==, 250);
        g_assert_null(spice_qmp_port_ref_channel(port));
        assert_status(port, FALSE, "prelaunch");
        close_own(port);
    }
    g_assert_cmpuint(spice_qmp_connector_get_timeout(connector), ==, 20000);
    g_assert_true(spice_qmp_connector_get_wait(connector));
    g_assert_cmpuint(spice_qmp_connector_get_reconnect(connector), ==, 250);
    g_object_unref(connector);
    g_free(address);
}

/* spice-gtk logs warnings and criticals for connections that are ended early. */
static gboolean
is_not_of_spice_gtk(const gchar *domain, GLogLevelFlags level G_GNUC_UNUSED,
                    const gchar *message G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    return g_strcmp0(domain, "GSpice") != 0;
}

static void
test_connector_cancelled(void)
{
    SpiceQmpConnector *connector = spice_qmp_connector_new(spice_uri);
    int turns;

    g_test_log_set_fatal_handler(is_not_of_spice_gtk, NULL);
    /* At once, and while it connects. */
    for (turns = 0; turns < 40; turns += 3) {
        GCancellable *cancellable = g_cancellable_new();
        GError *error = NULL;
        Reply reply = { 0 };
        SpiceQmpPort *port;
        int i;

        spice_qmp_connector_open_async(connector, cancellable, on_reply, &reply);
        for (i = 0; i < turns; i++)
            g_main_context_iteration(NULL, FALSE);
        g_cancellable_cancel(cancellable);
        await(&reply);
        port = spice_qmp_connector_open_finish(connector, reply.result, &error);
        forget(&reply);
        if (port) {
            g_assert_no_error(error);
            close_own(port);
        } else {
            g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
            g_clear_error(&error);
        }
        g_object_unref(cancellable);
        settle();
    }
    g_object_unref(connector);
    g_test_log_set_fatal_handler(NULL, NULL);
}

/* The input of a person in a dialog. */
typedef struct {
    const char *const *answers;
    int asked;
    gboolean nested;
} Dialog;

static gboolean
quit_loop(gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

static gboolean
answer_later(gpointer data)
{
    SpiceQmpConnector *connector = data;

    spice_qmp_connector_answer(connector, g_object_get_data(data, "answer"));
    g_object_unref(connector);
    return G_SOURCE_REMOVE;
}

static void
on_need_password(SpiceQmpConnector *connector, gboolean retry, Dialog *dialog)
{
    const char *answer = dialog->answers[dialog->asked];

    g_assert_cmpint(retry, ==, dialog->asked > 0);
    dialog->asked++;
    if (dialog->nested) {
        /* As gtk_dialog_run() does. */
        GMainLoop *loop = g_main_loop_new(NULL, FALSE);

        g_timeout_add(5, quit_loop, loop);
        g_main_loop_run(loop);
        g_main_loop_unref(loop);
        spice_qmp_connector_answer(connector, answer);
    } else {
        g_object_set_data(G_OBJECT(connector), "answer", (gpointer) answer);
        g_timeout_add(5, answer_later, g_object_ref(connector));
    }
}

static void
test_need_password(void)
{
    static const char *const right[] = { "wrong", "secret" };
    static const char *const given_up[] = { "wrong", NULL };
    SpiceQmpConnector *connector = spice_qmp_connector_new(spice_uri);
    GError *error = NULL;
    Dialog dialog = { 0 };
    SpiceQmpPort *port;
    int i;

    g_assert_null(open_with(connector, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED);
    g_clear_error(&error);

    g_signal_connect(connector, "need-password", G_CALLBACK(on_need_password), &dialog);
    for (i = 0; i < 2; i++) {
        dialog = (Dialog) { right, 0, i == 0 };
        port = open_with(connector, &error);
        g_assert_no_error(error);
        g_assert_cmpint(dialog.asked, ==, 2);
        assert_status(port, FALSE, "prelaunch");
        close_own(port);

        dialog = (Dialog) { given_up, 0, i == 0 };
        g_assert_null(open_with(connector, &error));
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED);
        g_clear_error(&error);
    }

    dialog = (Dialog) { NULL, 0, FALSE };
    spice_qmp_connector_set_password(connector, "secret");
    port = open_with(connector, &error);
    g_assert_no_error(error);
    close_own(port);
    g_object_unref(connector);
}

int
main(int argc, char **argv)
{
    const char *scenario;

    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(argc, ==, 5);
    scenario = argv[1];
    spice_uri = argv[2];
    qmp_socket = argv[3];
    qemu_version = argv[4];

    if (strcmp(scenario, "no-port") == 0) {
        g_test_add_func("/qemu/no-port", test_no_port);
    } else if (strcmp(scenario, "human") == 0) {
        g_test_add_func("/qemu/human", test_human);
    } else if (strcmp(scenario, "password") == 0) {
        g_test_add_func("/qemu/password", test_password);
        g_test_add_func("/qemu/need-password", test_need_password);
    } else if (strcmp(scenario, "bus") == 0) {
        g_test_add_func("/qemu/bus", test_bus);
    } else if (strcmp(scenario, "gone") == 0) {
        g_test_add_func("/qemu/gone", test_session_gone);
    } else if (strcmp(scenario, "given-back") == 0) {
        g_test_add_func("/qemu/given-back", test_session_gone_and_given_back);
    } else {
        g_assert_cmpstr(scenario, ==, "all");
        g_test_add_func("/qemu/find", test_find);
        g_test_add_func("/qemu/find-full", test_find_full);
        g_test_add_func("/qemu/actions", test_actions);
        g_test_add_func("/qemu/execute", test_execute);
        g_test_add_func("/qemu/open", test_open);
        g_test_add_func("/qemu/connector", test_connector);
        g_test_add_func("/qemu/connector-cancelled", test_connector_cancelled);
        g_test_add_func("/qemu/fds", test_fds);
        g_test_add_func("/qemu/jobs", test_jobs);
        g_test_add_func("/qemu/over-unref", test_over_unref);
        g_test_add_func("/qemu/quit", test_quit);
    }
    return g_test_run();
}
