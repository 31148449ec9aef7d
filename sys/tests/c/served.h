/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* SpiceQmpServer, with a port or a worse client at the other end; each test on the default
 * main context, and on a private one. */
#ifndef TESTS_SERVED_H
#define TESTS_SERVED_H

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

/* Runs everything that is due. */
static inline void
run(Fixture *f)
{
    while (g_main_context_iteration(f->context, FALSE))
        ;
}

static inline void
assert_is_here(Fixture *f)
{
    g_assert_true(g_source_get_context(g_main_current_source()) == f->context);
}

static inline gboolean
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

static inline void
on_closed(SpiceQmpServer *server, GParamSpec *spec G_GNUC_UNUSED, Fixture *f)
{
    g_autofree char *reason = spice_qmp_server_dup_close_reason(server);

    assert_is_here(f);
    g_assert_nonnull(reason);
    f->closed++;
}

static inline GIOStream *
pair(Fixture *f)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    f->stream = stream_of_fd(fds[0]);
    return stream_of_fd(fds[1]);
}

static inline void
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

static inline void
set_up(Fixture *f, gconstpointer own)
{
    f->context = own ? g_main_context_new() : g_main_context_ref(g_main_context_default());
    f->kept = g_ptr_array_new_with_free_func(g_object_unref);
    g_main_context_push_thread_default(f->context);
    serve(f, pair(f));
}

/* With a port as the client. */
static inline void
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

static inline void
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

static inline void
assert_answer(Fixture *f, const char *command, const char *arguments, const char *expected)
{
    GError *error = NULL;
    g_autofree char *text = execute(f->port, command, arguments, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, expected);
}

/* The end of a call, which may have come before. */
static inline char *
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
static inline void
read_all(Fixture *f, GString *text)
{
    GSocket *socket = g_socket_connection_get_socket(G_SOCKET_CONNECTION(f->stream));
    char buffer[4096];
    gssize count;

    g_socket_set_blocking(socket, FALSE);
    while ((count = g_socket_receive(socket, buffer, sizeof buffer, NULL, NULL)) > 0)
        g_string_append_len(text, buffer, count);
}

static inline guint
count_lines(const GString *text)
{
    guint lines = 0;
    gsize i;

    for (i = 0; i < text->len; i++)
        lines += text->str[i] == '\n';
    return lines;
}

/* Writes as much as there is room for; returns the number of bytes. */
static inline gsize
write_some(Fixture *f, const char *bytes, gsize length)
{
    GSocket *socket = g_socket_connection_get_socket(G_SOCKET_CONNECTION(f->stream));
    gssize count;

    g_socket_set_blocking(socket, FALSE);
    count = g_socket_send(socket, bytes, length, NULL, NULL);
    return count < 0 ? 0 : count;
}

static inline void
write_text(Fixture *f, const char *text)
{
    g_assert_cmpuint(write_some(f, text, strlen(text)), ==, strlen(text));
}

#define NEGOTIATION "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}\n"

static inline void
assert_closed(Fixture *f, const char *words)
{
    g_autofree char *reason = NULL;

    RUN_UNTIL(f, f->closed);
    run(f);
    g_assert_cmpint(f->closed, ==, 1);
    reason = spice_qmp_server_dup_close_reason(f->server);
    g_assert_nonnull(strstr(reason, words));
}

#define TEST(name, set_up, function)                                           \
    G_STMT_START                                                               \
    {                                                                          \
        g_test_add("/server/" name, Fixture, NULL, set_up, function, tear_down); \
        g_test_add("/server/own-context/" name, Fixture, "own", set_up, function, tear_down); \
    }                                                                          \
    G_STMT_END

#endif
