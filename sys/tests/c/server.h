/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A scripted QMP server on the other end of a stream, in the main context that is the
 * thread's default one; or on a thread of its own, behind a socket.
 *
 * Commands that it knows: the usual ones, and
 *   echo          returns its arguments
 *   refuse        refuses with the error class and text of its arguments
 *   silent        never answers
 *   garbage       answers with a line that is not QMP
 *   large         returns a string of "size" bytes
 *   emit          sends the event "name" with "data", then answers
 *   hang-up       closes the stream
 * and those of drives: a CD-ROM drive with a medium, and a floppy drive; and of snapshots,
 * whose jobs end at once.
 */
#ifndef TESTS_SERVER_H
#define TESTS_SERVER_H

#include <sys/socket.h>

#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>

#include "common.h"

typedef struct {
    GIOStream *stream;
    GDataInputStream *input;
    GCancellable *cancellable;
    GString *log; /* the commands, each with a space behind it */
    gboolean oob;
    guint unread;
    char *medium;       /* of the drive cd0, or NULL */
    gboolean one_drive; /* without the floppy drive */
    gboolean broken;    /* answers query-block with something else */
    gboolean fdsets;    /* accepts descriptors */
    const char *jobs; /* the reply to query-jobs, or NULL for none */
    char *snapshots;            /* those of a disk, as JSON; or NULL for no disk */
    const char *snapshot_error; /* why a job of snapshots fails, or NULL */
    char *snapshot_job;         /* the reply to query-jobs after one */
    guint lie; /* which of the next strings gets a NUL, counted down; 0 for none */
} Server;

static const char *GREETING =
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10},"
    " \"package\": \"Test 1\"}, \"capabilities\": [%s]}}\r\n";

static inline GIOStream *
stream_of_fd(int fd)
{
    GError *error = NULL;
    GSocket *socket = g_socket_new_from_fd(fd, &error);
    GSocketConnection *connection;

    g_assert_no_error(error);
    connection = g_socket_connection_factory_create_connection(socket);
    g_object_unref(socket);
    return G_IO_STREAM(connection);
}

/* The text with a NUL at the start of a string, if that one is in it. */
static inline char *
server_lie(Server *server, const char *text)
{
    const char *value = text;

    while (server->lie > 0 && (value = strstr(value, "\":"))) {
        value += strlen("\":");
        value += strspn(value, " ");
        if (*value == '"' && --server->lie == 0)
            return g_strdup_printf("%.*s\"\\u0000%s", (int) (value - text), text, value + 1);
    }
    return g_strdup(text);
}

static inline void
server_send(Server *server, const char *text)
{
    GOutputStream *output = g_io_stream_get_output_stream(server->stream);
    char *sent = server_lie(server, text);

    /* The other end may be gone. */
    g_output_stream_write_all(output, sent, strlen(sent), NULL, NULL, NULL);
    g_free(sent);
}

static inline void
server_answer(Server *server, gint64 id, const char *member, const char *json)
{
    char *line = g_strdup_printf("{\"%s\": %s, \"id\": %" G_GINT64_FORMAT "}\r\n",
                                 member, json, id);

    server_send(server, line);
    g_free(line);
}

static inline void
server_event(Server *server, const char *name, const char *data)
{
    char *line = g_strdup_printf(
        "{\"timestamp\": {\"seconds\": 12, \"microseconds\": 34}, \"event\": \"%s\"%s%s}\r\n",
        name, data ? ", \"data\": " : "", data ? data : "");

    server_send(server, line);
    g_free(line);
}

static inline void
server_large_done(GObject *source, GAsyncResult *result, gpointer line)
{
    g_output_stream_write_all_finish(G_OUTPUT_STREAM(source), result, NULL, NULL);
    g_free(line);
}

static inline void
server_large(Server *server, gint64 id, gint64 size)
{
    GOutputStream *output = g_io_stream_get_output_stream(server->stream);
    char *fill = g_strnfill(size, 'x');
    char *line = g_strdup_printf("{\"return\": \"%s\", \"id\": %" G_GINT64_FORMAT "}\r\n",
                                 fill, id);

    g_free(fill);
    g_output_stream_write_all_async(output, line, strlen(line), G_PRIORITY_DEFAULT,
                                    NULL, server_large_done, line);
}

static inline void
server_hang_up(Server *server)
{
    g_cancellable_cancel(server->cancellable);
    g_io_stream_close(server->stream, NULL, NULL);
}

static inline void
server_query_block(Server *server, gint64 id)
{
    char *inserted = server->medium
                         ? g_strdup_printf(", \"inserted\": {\"file\": \"%s\", \"ro\": true}",
                                           server->medium)
                         : g_strdup("");
    char *disk =
        server->snapshots
            ? g_strdup_printf(", {\"device\": \"\", \"qdev\": \"hd0\", \"removable\": false,"
                              " \"locked\": false, \"inserted\": {\"file\": \"d\","
                              " \"ro\": false, \"drv\": \"qcow2\", \"node-name\": \"n0\","
                              " \"image\": {\"snapshots\": %s}}}",
                              server->snapshots)
            : g_strdup("");
    char *drives = g_strdup_printf(
        "[{\"device\": \"\", \"qdev\": \"cd0\", \"removable\": true, \"locked\": false,"
        " \"tray_open\": false, \"io-status\": \"ok\"%s}%s%s]",
        inserted,
        server->one_drive ? ""
                          : ", {\"device\": \"\", \"qdev\": \"fl0\", \"removable\": true,"
                            " \"locked\": false}",
        disk);

    server_answer(server, id, "return", server->broken ? "{}" : drives);
    g_free(inserted);
    g_free(disk);
    g_free(drives);
}

/* A job that saves, loads or deletes a snapshot. */
static inline void
server_snapshot_job(Server *server, gint64 id, const char *kind, const char *job)
{
    static const char *const states[] = { "created", "running", "concluded" };
    char *why = server->snapshot_error
                    ? g_strdup_printf(", \"error\": \"%s\"", server->snapshot_error)
                    : g_strdup("");
    guint i;

    g_free(server->snapshot_job);
    server->snapshot_job = g_strdup_printf(
        "[{\"id\": \"%s\", \"type\": \"%s\", \"status\": \"concluded\","
        " \"current-progress\": 1, \"total-progress\": 1%s}]",
        job, kind, why);
    g_free(why);
    for (i = 0; i < G_N_ELEMENTS(states); i++) {
        char *data = g_strdup_printf("{\"id\": \"%s\", \"status\": \"%s\"}", job, states[i]);

        server_event(server, "JOB_STATUS_CHANGE", data);
        g_free(data);
    }
    server_answer(server, id, "return", "{}");
}

/* QEMU finds out that "/locked.img" is in use when the old medium is gone. */
static inline void
server_change_medium(Server *server, gint64 id, const char *file)
{
    if (strcmp(file, "/silent") == 0)
        return;
    if (strcmp(file, "/none.iso") == 0 || strcmp(file, "/locked.img") == 0) {
        if (strcmp(file, "/locked.img") == 0)
            g_clear_pointer(&server->medium, g_free);
        server_answer(server, id, "error", "{\"class\": \"GenericError\", \"desc\": \"no\"}");
        return;
    }
    g_free(server->medium);
    server->medium = g_strdup(file);
    server_answer(server, id, "return", "{}");
}

static inline void
server_handle(Server *server, const char *line)
{
    GError *error = NULL;
    JsonNode *request = json_from_string(line, &error);
    JsonObject *object, *arguments;
    JsonNode *given;
    const char *command;
    gint64 id;

    g_assert_no_error(error);
    object = json_node_get_object(request);
    command = json_object_has_member(object, "exec-oob")
                  ? json_object_get_string_member(object, "exec-oob")
                  : json_object_get_string_member(object, "execute");
    id = json_object_get_int_member(object, "id");
    given = json_object_get_member(object, "arguments");
    arguments = given ? json_node_get_object(given) : NULL;
    /* The port queries the status by itself. */
    if (strcmp(command, "query-status") != 0)
        g_string_append_printf(server->log, "%s ", command);

    if (strcmp(command, "query-status") == 0) {
        server_answer(server, id, "return",
                      "{\"status\": \"paused\", \"singlestep\": true, \"running\": false}");
    } else if (strcmp(command, "query-qmp-schema") == 0) {
        server_answer(server, id, "return",
                      "[{\"name\": \"emit\", \"meta-type\": \"command\", \"arg-type\": \"0\"},"
                      " {\"name\": \"echo\", \"meta-type\": \"command\"},"
                      " {\"name\": \"0\", \"meta-type\": \"object\","
                      " \"members\": [{\"name\": \"name\", \"type\": \"str\"}]}]");
    } else if (strcmp(command, "query-block") == 0) {
        server_query_block(server, id);
    } else if (strcmp(command, "blockdev-change-medium") == 0) {
        server_change_medium(server, id, json_object_get_string_member(arguments, "filename"));
    } else if (strcmp(command, "eject") == 0) {
        g_clear_pointer(&server->medium, g_free);
        server_answer(server, id, "return", "{}");
    } else if (strcmp(command, "add-fd") == 0 && server->fdsets) {
        server_answer(server, id, "return", "{\"fdset-id\": 3, \"fd\": 9}");
    } else if (strcmp(command, "query-jobs") == 0) {
        server_answer(server, id, "return",
                      server->jobs           ? server->jobs
                      : server->snapshot_job ? server->snapshot_job
                                             : "[]");
    } else if (g_str_has_prefix(command, "snapshot-")) {
        server_snapshot_job(server, id, command,
                            json_object_get_string_member(arguments, "job-id"));
    } else if (strcmp(command, "echo") == 0) {
        char *json = given ? json_to_string(given, FALSE) : g_strdup("null");

        server_answer(server, id, "return", json);
        g_free(json);
    } else if (strcmp(command, "refuse") == 0) {
        char *json = json_to_string(given, FALSE);

        server_answer(server, id, "error", json);
        g_free(json);
    } else if (strcmp(command, "garbage") == 0) {
        server_send(server, "{\"return\": nonsense}\r\n");
    } else if (strcmp(command, "large") == 0) {
        server_large(server, id, json_object_get_int_member(arguments, "size"));
    } else if (strcmp(command, "emit") == 0) {
        JsonNode *data = json_object_get_member(arguments, "data");
        char *json = data ? json_to_string(data, FALSE) : NULL;

        server_event(server, json_object_get_string_member(arguments, "name"), json);
        server_answer(server, id, "return", "{}");
        g_free(json);
    } else if (strcmp(command, "hang-up") == 0) {
        server_hang_up(server);
    } else if (strcmp(command, "silent") != 0) {
        server_answer(server, id, "return", "{}");
    }
    json_node_unref(request);
}

static inline void server_read(Server *server);

static inline void
server_got_line(GObject *source, GAsyncResult *result, gpointer user_data)
{
    Server *server = user_data;
    char *line = g_data_input_stream_read_line_finish(G_DATA_INPUT_STREAM(source),
                                                      result, NULL, NULL);

    server->unread--;
    if (!line)
        return;
    server_handle(server, line);
    g_free(line);
    if (!g_cancellable_is_cancelled(server->cancellable))
        server_read(server);
}

static inline void
server_read(Server *server)
{
    server->unread++;
    g_data_input_stream_read_line_async(server->input, G_PRIORITY_DEFAULT,
                                        server->cancellable, server_got_line, server);
}

static inline void
server_greet(Server *server)
{
    char *greeting = g_strdup_printf(GREETING, server->oob ? "\"oob\"" : "");

    server_send(server, greeting);
    g_free(greeting);
}

static inline Server *
server_new(GIOStream *stream)
{
    Server *server = g_new0(Server, 1);

    server->stream = stream;
    server->input = g_data_input_stream_new(g_io_stream_get_input_stream(stream));
    g_filter_input_stream_set_close_base_stream(
        G_FILTER_INPUT_STREAM(server->input), FALSE);
    server->cancellable = g_cancellable_new();
    server->log = g_string_new(NULL);
    server_read(server);
    return server;
}

/* A server, and the stream of its client. */
static inline Server *
server_pair(GIOStream **client)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    *client = stream_of_fd(fds[0]);
    return server_new(stream_of_fd(fds[1]));
}

/* A D-Bus connection without a peer, which cannot pass file descriptors. */
static inline GDBusConnection *
silent_connection(void)
{
    int fds[2];
    GIOStream *stream;
    GDBusConnection *connection;
    GError *error = NULL;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    close(fds[1]);
    stream = stream_of_fd(fds[0]);
    connection = g_dbus_connection_new_sync(stream, NULL, G_DBUS_CONNECTION_FLAGS_NONE, NULL,
                                            NULL, &error);
    g_assert_no_error(error);
    g_object_unref(stream);
    return connection;
}

static inline void
server_free(Server *server)
{
    server_hang_up(server);
    WAIT_UNTIL(server->unread == 0);
    g_object_unref(server->input);
    g_object_unref(server->stream);
    g_object_unref(server->cancellable);
    g_string_free(server->log, TRUE);
    g_free(server->medium);
    g_free(server->snapshots);
    g_free(server->snapshot_job);
    g_free(server);
}

/* --- on a thread of its own ------------------------------------------------- */

/* Servers behind a socket: each client has one, which greets it. */
typedef struct {
    char *directory, *path, *address; /* "unix:PATH" */
    GSocket *socket;
    GThread *thread;
    GMainContext *context;
    gint stopping;
    GPtrArray *servers;
} Host;

static inline gboolean
host_accept(GSocketService *service G_GNUC_UNUSED, GSocketConnection *connection,
            GObject *source G_GNUC_UNUSED, gpointer user_data)
{
    Host *host = user_data;
    Server *server = server_new(G_IO_STREAM(g_object_ref(connection)));

    server->oob = TRUE;
    g_ptr_array_add(host->servers, server);
    server_greet(server);
    return TRUE;
}

static inline gpointer
host_run(gpointer user_data)
{
    Host *host = user_data;
    GSocketService *service;
    GError *error = NULL;
    guint i;

    g_main_context_push_thread_default(host->context);
    service = g_socket_service_new();
    g_signal_connect(service, "incoming", G_CALLBACK(host_accept), host);
    g_socket_listener_add_socket(G_SOCKET_LISTENER(service), host->socket, NULL, &error);
    g_assert_no_error(error);
    while (!g_atomic_int_get(&host->stopping))
        g_main_context_iteration(host->context, TRUE);
    for (i = 0; i < host->servers->len; i++)
        server_free(g_ptr_array_index(host->servers, i));
    g_socket_service_stop(service);
    g_socket_listener_close(G_SOCKET_LISTENER(service));
    g_object_unref(service);
    while (g_main_context_iteration(host->context, FALSE))
        ;
    g_main_context_pop_thread_default(host->context);
    return NULL;
}

static inline Host *
host_new(void)
{
    Host *host = g_new0(Host, 1);
    GSocketAddress *address;
    GError *error = NULL;

    /* Not TMPDIR: the path of a Unix socket must stay under 108 bytes. */
    host->directory = g_mkdtemp(g_strdup("/tmp/spice-qmp-XXXXXX"));
    g_assert_nonnull(host->directory);
    host->path = g_build_filename(host->directory, "qmp.sock", NULL);
    host->address = g_strconcat("unix:", host->path, NULL);
    host->socket = g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM,
                                G_SOCKET_PROTOCOL_DEFAULT, &error);
    g_assert_no_error(error);
    address = g_unix_socket_address_new(host->path);
    g_socket_bind(host->socket, address, FALSE, &error);
    g_assert_no_error(error);
    g_socket_listen(host->socket, &error);
    g_assert_no_error(error);
    g_object_unref(address);
    host->servers = g_ptr_array_new();
    host->context = g_main_context_new();
    host->thread = g_thread_new("server", host_run, host);
    return host;
}

/* A stream to a new server. */
static inline GIOStream *
host_connect(Host *host)
{
    GSocketClient *client = g_socket_client_new();
    GSocketAddress *address = g_unix_socket_address_new(host->path);
    GError *error = NULL;
    GSocketConnection *connection =
        g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address), NULL, &error);

    g_assert_no_error(error);
    g_object_unref(address);
    g_object_unref(client);
    return G_IO_STREAM(connection);
}

static inline void
host_free(Host *host)
{
    g_atomic_int_set(&host->stopping, TRUE);
    g_main_context_wakeup(host->context);
    g_thread_join(host->thread);
    g_main_context_unref(host->context);
    g_ptr_array_free(host->servers, TRUE);
    g_object_unref(host->socket);
    g_unlink(host->path);
    g_rmdir(host->directory);
    g_free(host->directory);
    g_free(host->path);
    g_free(host->address);
    g_free(host);
}

#endif
