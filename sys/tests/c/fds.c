/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* All options of a call, and especially file descriptors: over a stream to a scripted
 * server, which receives no descriptors: the kernel closes what was sent to it. */
#include "server.h"

#include <fcntl.h>
#include <unistd.h>

#include <gio/gunixfdlist.h>
#include <glib-unix.h>

typedef struct {
    Server *server;
    GIOStream *client;
    SpiceQmpPort *port;
} Fixture;

static void
set_up(Fixture *f, gconstpointer oob)
{
    GError *error = NULL;

    f->server = server_pair(&f->client);
    f->server->oob = oob != NULL;
    f->port = spice_qmp_port_new_for_stream(f->client);
    server_greet(f->server);
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    g_string_truncate(f->server->log, 0);
}

static void
tear_down(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean freed;

    watch(f->port, &freed);
    g_object_unref(f->port);
    WAIT_UNTIL(freed);
    g_object_unref(f->client);
    server_free(f->server);
    settle();
}

/* A descriptor that is open only in the test, and in the receiver. */
typedef struct {
    int watched;
    GUnixFDList *list;
} Pipe;

static void
pipe_open(Pipe *it, int times)
{
    GError *error = NULL;
    int ends[2];

    g_assert_true(g_unix_open_pipe(ends, FD_CLOEXEC, &error));
    g_assert_true(g_unix_set_fd_nonblocking(ends[0], TRUE, &error));
    it->watched = ends[0];
    it->list = g_unix_fd_list_new();
    while (times-- > 0)
        g_unix_fd_list_append(it->list, ends[1], &error);
    g_assert_no_error(error);
    close(ends[1]);
}

static gboolean
pipe_is_closed(Pipe *it)
{
    char byte;

    return read(it->watched, &byte, 1) == 0;
}

static void
pipe_done(Pipe *it)
{
    WAIT_UNTIL(pipe_is_closed(it));
    close(it->watched);
}

static char *
finish_full(Fixture *f, Reply *reply, GError **error)
{
    char *text;

    await(reply);
    text = spice_qmp_port_execute_full_finish(f->port, reply->result, error);
    g_assert_true((text == NULL) == (*error != NULL));
    forget(reply);
    return text;
}

/* The options that other functions have, too. */
static void
test_options(Fixture *f, gconstpointer oob)
{
    const SpiceQmpCallFlags none = SPICE_QMP_CALL_FLAGS_NONE;
    GUnixFDList *empty = g_unix_fd_list_new();
    Reply reply = { 0 };
    GError *error = NULL;
    char *text;

    spice_qmp_port_execute_full_async(f->port, "echo", "{\"a\":1}", 0, empty, none, NULL,
                                      on_reply, &reply);
    text = finish_full(f, &reply, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, "{\"a\":1}");
    g_free(text);
    g_object_unref(empty);

    spice_qmp_port_execute_full_async(f->port, "echo", NULL, 0, NULL,
                                      SPICE_QMP_CALL_FLAGS_OUT_OF_BAND, NULL, on_reply, &reply);
    text = finish_full(f, &reply, &error);
    if (oob)
        g_assert_cmpstr(text, ==, "null");
    else
        g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_SUPPORTED);
    g_clear_error(&error);
    g_free(text);

    /* A deadline of its own, and the port's. */
    spice_qmp_port_execute_full_async(f->port, "silent", NULL, 10, NULL, none, NULL, on_reply,
                                      &reply);
    g_assert_null(finish_full(f, &reply, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
    g_clear_error(&error);
    spice_qmp_port_set_command_timeout(f->port, 10);
    spice_qmp_port_execute_full_async(f->port, "silent", NULL, 0, NULL, none, NULL, on_reply,
                                      &reply);
    g_assert_null(finish_full(f, &reply, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
    g_clear_error(&error);
    spice_qmp_port_execute_full_async(f->port, "echo", NULL, G_MAXUINT, NULL, none, NULL,
                                      on_reply, &reply);
    text = finish_full(f, &reply, &error);
    g_assert_no_error(error);
    g_free(text);
    spice_qmp_port_set_command_timeout(f->port, 0);
}

static int
count_fds(void)
{
    GError *error = NULL;
    GDir *dir = g_dir_open("/proc/self/fd", 0, &error);
    int count = 0;

    g_assert_no_error(error);
    while (g_dir_read_name(dir))
        count++;
    g_dir_close(dir);
    return count;
}

/* The end of a call with descriptors. */
typedef enum { ANSWERED, REFUSED, TIMED_OUT, CANCELLED, NEVER_SENT, ENDS } End;

static void
one_call(Fixture *f, End end)
{
    static const char *const commands[ENDS] = { "echo", "refuse", "silent", "echo", "echo" };
    static const guint timeouts[ENDS] = { 0, 0, 1, 0, 1 };
    const char *arguments = "{\"class\": \"X\", \"desc\": \"x\"}";
    GCancellable *cancellable = g_cancellable_new();
    Reply first = { 0 }, reply = { 0 };
    GError *error = NULL;
    Pipe it;

    pipe_open(&it, 2);
    if (end == NEVER_SENT)
        /* It waits behind this one. */
        spice_qmp_port_execute_full_async(f->port, "silent", NULL, 10, it.list,
                                          SPICE_QMP_CALL_FLAGS_NONE, NULL, on_reply, &first);
    spice_qmp_port_execute_full_async(f->port, commands[end], arguments, timeouts[end], it.list,
                                      SPICE_QMP_CALL_FLAGS_NONE, cancellable, on_reply, &reply);
    /* The program may close its own at once. */
    g_object_unref(it.list);
    if (end == CANCELLED)
        g_cancellable_cancel(cancellable);
    g_free(finish_full(f, &reply, &error));
    g_assert_true((error == NULL) == (end == ANSWERED));
    g_clear_error(&error);
    if (end == NEVER_SENT) {
        WAIT_UNTIL(first.calls);
        forget(&first);
    }
    g_object_unref(cancellable);
    /* The server answers in order, and so has read everything before. */
    assert_executes(f->port, "query-name", NULL);
    pipe_done(&it);
}

static void
test_a_thousand(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    int before = count_fds(), i;
    gboolean freed;
    Pipe it;

    for (i = 0; i < 1000; i++)
        one_call(f, i % ENDS);
    g_assert_cmpint(count_fds(), ==, before);
    g_assert_null(strstr(f->server->log->str, "echo query-name echo query-name"));

    /* The last ones end with the port. */
    pipe_open(&it, 1);
    for (i = 0; i < 10; i++)
        spice_qmp_port_execute_full_async(f->port, "silent", NULL, 0, it.list,
                                          SPICE_QMP_CALL_FLAGS_NONE, NULL, NULL, NULL);
    g_object_unref(it.list);
    watch(f->port, &freed);
    g_object_unref(f->port);
    WAIT_UNTIL(freed);
    pipe_done(&it);
    f->port = spice_qmp_port_new_for_stream(f->client);
}

/* Before anything is sent. */
static void
test_refused(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char *const checks[] = {
        "(fds.is_null() || G_IS_UNIX_FD_LIST(fds))",
        "(flags & ~SPICE_QMP_CALL_FLAGS_OUT_OF_BAND) == 0",
        "SPICE_IS_QMP_PORT(port)",
        "g_utf8_validate(command)",
    };
    Reply reply = { 0 };
    GError *error = NULL;
    Pipe it;
    gsize i;

    pipe_open(&it, 254);
    spice_qmp_port_execute_full_async(f->port, "echo", NULL, 0, it.list,
                                      SPICE_QMP_CALL_FLAGS_NONE, NULL, on_reply, &reply);
    g_assert_null(finish_full(f, &reply, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_object_unref(it.list);
    pipe_done(&it);

    for (i = 0; i < G_N_ELEMENTS(checks); i++) {
        SpiceQmpCallFlags flags = (SpiceQmpCallFlags) (i == 1 ? 2 : 0);

        pipe_open(&it, 1);
        expect_critical("spice_qmp_port_execute_full_async", checks[i]);
        spice_qmp_port_execute_full_async(i == 2 ? NULL : f->port, i == 3 ? "\xff" : "echo",
                                          NULL, 0, i == 0 ? (GUnixFDList *) f->client : it.list,
                                          flags, NULL, on_reply, &reply);
        g_test_assert_expected_messages();
        await(&reply);
        g_assert_null(spice_qmp_port_execute_full_finish(NULL, reply.result, &error));
        g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
        g_clear_error(&error);
        forget(&reply);
        g_object_unref(it.list);
        pipe_done(&it);
    }
    g_assert_cmpstr(f->server->log->str, ==, "");
    assert_executes(f->port, "echo", NULL);
}

/* A stream that uses a socket, but is not a socket connection: nothing is sent. */
static void
test_no_socket(Fixture *unused G_GNUC_UNUSED, gconstpointer data G_GNUC_UNUSED)
{
    Fixture fixture = { 0 }, *f = &fixture;
    GIOStream *stream;
    Reply reply = { 0 };
    GError *error = NULL;
    Pipe it;

    f->server = server_pair(&f->client);
    stream = g_simple_io_stream_new(g_io_stream_get_input_stream(f->client),
                                    g_io_stream_get_output_stream(f->client));
    f->port = spice_qmp_port_new_for_stream(stream);
    g_object_unref(stream);
    server_greet(f->server);
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    g_string_truncate(f->server->log, 0);
    pipe_open(&it, 1);
    spice_qmp_port_execute_full_async(f->port, "getfd", NULL, 0, it.list,
                                      SPICE_QMP_CALL_FLAGS_NONE, NULL, on_reply, &reply);
    g_object_unref(it.list);
    g_assert_null(finish_full(f, &reply, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_SUPPORTED);
    g_clear_error(&error);
    pipe_done(&it);
    assert_executes(f->port, "echo", NULL);
    g_assert_cmpstr(f->server->log->str, ==, "echo ");
    tear_down(f, NULL);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define STREAM_TEST(path, data, test)                                          \
    g_test_add("/fds/" path, Fixture, data, set_up, test, tear_down)
    STREAM_TEST("options", "oob", test_options);
    STREAM_TEST("options/not-offered", NULL, test_options);
    STREAM_TEST("a-thousand", "oob", test_a_thousand);
    STREAM_TEST("refused", NULL, test_refused);
    STREAM_TEST("no-socket", NULL, test_no_socket);
    return g_test_run();
}
