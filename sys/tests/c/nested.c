/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Handlers that run the main loop, as programs do to redraw or to ask the user, while a
 * server storms events. */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "server.h"

/* The library nests 32 handlers; the end of a call may come within the innermost. */
#define MAX_DEPTH 33
#define STORM 4000
/* How many events are sent at once: otherwise a fast client would see them one by one. */
#define BURST (MAX_DEPTH + 7)

/* --- the server, on a thread of its own ------------------------------------------------ */

typedef struct {
    int fd;
    GString *input;
    gint has_stormed;
} Storm;

static void
storm_write(Storm *storm, const char *text)
{
    size_t length = strlen(text);

    while (length > 0) {
        ssize_t written = send(storm->fd, text, length, MSG_NOSIGNAL);

        if (written < 0 && errno == EINTR)
            continue;
        g_assert_cmpint(written, >, 0);
        text += written;
        length -= written;
    }
}

/* Answers a request, and returns whether it asks for the storm. */
static gboolean
storm_answer(Storm *storm, const char *line)
{
    GError *error = NULL;
    JsonNode *request = json_from_string(line, &error);
    JsonObject *object;
    const char *command;
    gboolean storms;
    char *reply;

    g_assert_no_error(error);
    object = json_node_get_object(request);
    command = json_object_get_string_member(object, "execute");
    storms = strcmp(command, "storm") == 0;
    reply = g_strdup_printf(
        "{\"return\": %s, \"id\": %" G_GINT64_FORMAT "}\r\n",
        strcmp(command, "query-status") == 0
            ? "{\"status\": \"running\", \"singlestep\": false, \"running\": true}"
            : "{}",
        json_object_get_int_member(object, "id"));
    storm_write(storm, reply);
    g_free(reply);
    json_node_unref(request);
    return storms;
}

/* Reads and answers what has arrived, or what arrives first. FALSE: the client is gone. */
static gboolean
storm_serve(Storm *storm, gboolean waits, gboolean *storms)
{
    struct pollfd ready = { storm->fd, POLLIN, 0 };
    char buffer[4096], *end;
    ssize_t length;

    if (poll(&ready, 1, waits ? -1 : 0) <= 0)
        return TRUE;
    length = recv(storm->fd, buffer, sizeof buffer, 0);
    if (length <= 0)
        return FALSE;
    g_string_append_len(storm->input, buffer, length);
    while ((end = strchr(storm->input->str, '\n')) != NULL) {
        *end = '\0';
        *storms |= storm_answer(storm, storm->input->str);
        g_string_erase(storm->input, 0, end + 1 - storm->input->str);
    }
    return TRUE;
}

static gboolean
storm_send(Storm *storm)
{
    static const char *const EVENTS[] = {
        "\"STOP\"", "\"RESUME\"", "\"UNKNOWN\"", "\"UNKNOWN_TOO\", \"data\": {\"a\": [1, \"x\"]}",
    };
    GString *burst = g_string_new(NULL);
    gboolean storms = FALSE, lives = TRUE;
    int i;

    for (i = 1; lives && i <= STORM; i++) {
        g_string_append_printf(
            burst,
            "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": %s}\r\n",
            EVENTS[i % G_N_ELEMENTS(EVENTS)]);
        if (i % BURST == 0) {
            storm_write(storm, burst->str);
            g_string_truncate(burst, 0);
            lives = storm_serve(storm, FALSE, &storms);
        }
    }
    g_string_free(burst, TRUE);
    if (!lives)
        return FALSE;
    g_assert_false(storms);
    g_atomic_int_set(&storm->has_stormed, TRUE);
    return TRUE;
}

static gpointer
storm_run(gpointer data)
{
    Storm *storm = data;
    char *greeting = g_strdup_printf(GREETING, "");
    gboolean lives = TRUE;

    storm_write(storm, greeting);
    g_free(greeting);
    while (lives) {
        gboolean storms = FALSE;

        lives = storm_serve(storm, TRUE, &storms);
        if (storms)
            lives = storm_send(storm);
    }
    return NULL;
}

/* --- the program ------------------------------------------------------------------------ */

typedef enum { PUMP, LOOP, ASK } Pattern;

typedef struct {
    Pattern pattern;
    int events, depth, deepest;
    int asked, answered;
    int warnings;
} Program;

/* Without this, a warning would end the test. */
static gboolean
is_fatal(const char *domain, GLogLevelFlags level, const char *message, gpointer user_data)
{
    Program *program = user_data;

    if (g_strcmp0(domain, "SpiceQmp") != 0 || !(level & G_LOG_LEVEL_WARNING))
        return TRUE;
    g_assert_nonnull(strstr(message, "events are dropped"));
    program->warnings++;
    return FALSE;
}

static gboolean
quit_loop(gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

typedef struct {
    Program *program;
    GMainLoop *loop;
} Question;

static void
on_status(GObject *source, GAsyncResult *result, gpointer user_data)
{
    Question *question = user_data;
    GError *error = NULL;
    char *text = spice_qmp_port_execute_finish(SPICE_QMP_PORT(source), result, &error);

    g_assert_no_error(error);
    g_assert_nonnull(strstr(text, "running"));
    g_free(text);
    question->program->answered++;
    g_main_loop_quit(question->loop);
}

static void
run_main_loop(SpiceQmpPort *port, Program *program)
{
    GMainLoop *loop;

    if (program->pattern == PUMP) {
        while (g_main_context_pending(NULL))
            g_main_context_iteration(NULL, FALSE);
        return;
    }
    loop = g_main_loop_new(NULL, FALSE);
    if (program->pattern == LOOP) {
        g_timeout_add(2, quit_loop, loop);
        g_main_loop_run(loop);
    } else {
        Question question = { program, loop };

        program->asked++;
        spice_qmp_port_execute_async(port, "query-status", NULL, NULL, on_status, &question);
        g_main_loop_run(loop);
    }
    g_main_loop_unref(loop);
}

static void
on_qmp_event(SpiceQmpPort *port, SpiceQmpEvent *event G_GNUC_UNUSED, Program *program)
{
    program->events++;
    program->depth++;
    program->deepest = MAX(program->deepest, program->depth);
    g_assert_cmpint(program->depth, <=, MAX_DEPTH);
    run_main_loop(port, program);
    program->depth--;
}

static void
test_storm(gconstpointer pattern)
{
    Program program = { GPOINTER_TO_INT(pattern), 0, 0, 0, 0, 0, 0 };
    Storm storm = { -1, g_string_new(NULL), FALSE };
    GError *error = NULL;
    GIOStream *client;
    GThread *server;
    SpiceQmpPort *port;
    gboolean freed;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    client = stream_of_fd(fds[0]);
    storm.fd = fds[1];
    server = g_thread_new("storm", storm_run, &storm);
    port = spice_qmp_port_new_for_stream(client);
    g_object_unref(client);
    wait_ready(port, &error);
    g_assert_no_error(error);

    g_signal_connect(port, "qmp-event", G_CALLBACK(on_qmp_event), &program);
    g_test_log_set_fatal_handler(is_fatal, &program);
    assert_executes(port, "storm", NULL);
    WAIT_UNTIL(g_atomic_int_get(&storm.has_stormed) && program.depth == 0);
    /* This is answered after all events. */
    assert_executes(port, "query-name", NULL);
    g_assert_cmpint(program.depth, ==, 0);
    settle();
    g_test_message("%d events of %d, %d deep, %d warnings", program.events, STORM,
                   program.deepest, program.warnings);
    g_assert_cmpint(program.warnings, ==, 1);
    g_assert_cmpint(program.deepest, >=, MAX_DEPTH - 1);
    g_assert_cmpint(program.events, <=, STORM);
    g_assert_cmpint(program.answered, ==, program.asked);
    g_assert_cmpint(program.asked, ==, program.pattern == ASK ? program.events : 0);
    g_assert_true(spice_qmp_port_get_ready(port));

    watch(port, &freed);
    g_object_unref(port);
    WAIT_UNTIL(freed);
    g_test_log_set_fatal_handler(NULL, NULL);
    shutdown(storm.fd, SHUT_RDWR);
    g_thread_join(server);
    close(storm.fd);
    g_string_free(storm.input, TRUE);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/nested/pump", GINT_TO_POINTER(PUMP), test_storm);
    g_test_add_data_func("/nested/loop", GINT_TO_POINTER(LOOP), test_storm);
    g_test_add_data_func("/nested/ask", GINT_TO_POINTER(ASK), test_storm);
    return g_test_run();
}
