/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A client of a QMP server, in C and on a GLib main loop.
 *
 *     client port SPICE-URI [SIGNAL]   the helper of spice-gtk, or what is preloaded in its place
 *     client raw SPICE-URI             a port channel without QMP
 *     client gio|gsocket PATH          a Unix socket without QMP: GIO's streams, or a source
 *
 * It prints "ready", reads lines "TASK COUNT IN-FLIGHT" and answers each with two figures:
 *
 *     ask, batch, storm                seconds on the clock and of the processor, each of COUNT
 *     late                             how late a timer of 16 ms is in a storm: p50 and p99
 *     ready                            port opened to ready, connect to ready: medians */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <spice-client.h>

#define REQUEST "{\"execute\":\"query-status\",\"id\":1000000}"
#define NEGOTIATE "{\"execute\":\"qmp_capabilities\"}"
#define EVENT_US 50
#define PERIOD_US 16000

#define RUN_UNTIL(condition)                                                   \
    while (!(condition))                                                       \
    g_main_context_iteration(NULL, TRUE)

static const char *who, *server;
static SpiceSession *session;
static SpiceChannel *channel;
static SpiceQmpPort *port;
static gint64 opened_at, ready_at;
static int socket_fd;

/* How many questions have not been sent, how many not answered, and how many other lines
 * or events have arrived. */
static long unsent, unanswered, heard;
static gboolean batched, slow;
static void (*ask)(long count);

static void
answered(long count)
{
    unanswered -= count;
    count = MIN(count, unsent);
    unsent -= count;
    if (count > 0)
        ask(count);
}

static void
came(const char *data, gsize size)
{
    const char *end = data + size;
    long lines = 0;

    while ((data = memchr(data, '\n', end - data))) {
        data++;
        lines++;
    }
    if (unanswered)
        answered(lines);
    else
        heard += lines;
}

/* --- over SPICE --- */

static void
on_written(GObject *source, GAsyncResult *result, gpointer data)
{
    spice_port_channel_write_finish(SPICE_PORT_CHANNEL(source), result, NULL);
    g_free(data);
}

static void
write_text(const char *text, long times)
{
    GString *all = g_string_new(NULL);
    gsize size;
    char *bytes;

    while (times-- > 0)
        g_string_append(all, text);
    size = all->len;
    bytes = g_string_free(all, FALSE);
    spice_port_channel_write_async(SPICE_PORT_CHANNEL(channel), bytes, size, NULL, on_written, bytes);
}

static void
raw_ask(long count)
{
    if (batched)
        write_text(REQUEST, count);
    else
        while (count-- > 0)
            write_text(REQUEST, 1);
}

static void
on_data(SpicePortChannel *from G_GNUC_UNUSED, gpointer data, int size)
{
    came(data, size);
}

static void
on_status(GObject *source, GAsyncResult *result, gpointer data G_GNUC_UNUSED)
{
    SpiceQmpStatus *status = spice_qmp_port_query_status_finish(SPICE_QMP_PORT(source), result, NULL);

    if (!status)
        exit(3);
    spice_qmp_status_unref(status);
    answered(1);
}

static void
port_ask(long count)
{
    while (count-- > 0)
        spice_qmp_port_query_status_async(port, NULL, on_status, NULL);
}

static void
on_event(void)
{
    gint64 start = slow ? g_get_monotonic_time() : 0;

    heard++;
    while (slow && g_get_monotonic_time() < start + EVENT_US)
        ;
}

static void
on_ready(GObject *from)
{
    gboolean ready;

    g_object_get(from, "ready", &ready, NULL);
    if (ready && !ready_at)
        ready_at = g_get_monotonic_time();
}

static void
on_opened(GObject *from)
{
    gboolean opened;

    g_object_get(from, "port-opened", &opened, NULL);
    if (!opened || opened_at)
        return;
    opened_at = g_get_monotonic_time();
    if (strcmp(who, "port") == 0) {
        port = spice_qmp_port_get(SPICE_PORT_CHANNEL(from));
        g_signal_connect(port, "notify::ready", G_CALLBACK(on_ready), NULL);
    }
}

static void
on_channel(SpiceSession *from G_GNUC_UNUSED, SpiceChannel *new)
{
    if (!SPICE_IS_PORT_CHANNEL(new) || channel)
        return;
    channel = new;
    g_signal_connect(channel, "notify::port-opened", G_CALLBACK(on_opened), NULL);
    if (strcmp(who, "raw") == 0)
        g_signal_connect(channel, "port-data", G_CALLBACK(on_data), NULL);
    spice_channel_connect(channel);
}

static void
connect_spice(void)
{
    opened_at = ready_at = 0;
    channel = NULL;
    session = spice_session_new();
    g_object_set(session, "uri", server, NULL);
    g_signal_connect(session, "channel-new", G_CALLBACK(on_channel), NULL);
    if (!spice_session_connect(session))
        exit(4);
    if (strcmp(who, "port") == 0) {
        RUN_UNTIL(ready_at);
    } else {
        RUN_UNTIL(heard == 1);
        write_text(NEGOTIATE, 1);
        RUN_UNTIL(heard == 2);
    }
}

/* Lets the server notice what happened, too. */
static void
settle(void)
{
    gint64 end = g_get_monotonic_time() + 25000;

    while (g_get_monotonic_time() < end) {
        g_main_context_iteration(NULL, FALSE);
        g_usleep(100);
    }
}

/* --- on a Unix socket --- */

static char buffer[65536];
static GIOStream *stream;
static GSocket *gsocket;
static GSource *delivery;
static gssize delivered;
static int writes;

static void
on_read(GObject *source, GAsyncResult *result, gpointer data G_GNUC_UNUSED)
{
    GInputStream *input = G_INPUT_STREAM(source);
    gssize size = g_input_stream_read_finish(input, result, NULL);

    if (size <= 0)
        exit(5);
    g_input_stream_read_async(input, buffer, sizeof buffer, G_PRIORITY_DEFAULT, NULL, on_read, NULL);
    came(buffer, size);
}

static void gio_ask(long count);

static void
on_all_written(GObject *source, GAsyncResult *result, gpointer data G_GNUC_UNUSED)
{
    gboolean again = writes > 1;

    g_output_stream_write_all_finish(G_OUTPUT_STREAM(source), result, NULL, NULL);
    writes = 0;
    if (again)
        gio_ask(1);
}

/* A reply may overtake the callback of the write: GIO accepts one write at a time. */
static void
gio_ask(long count G_GNUC_UNUSED)
{
    if (writes++ == 0)
        g_output_stream_write_all_async(g_io_stream_get_output_stream(stream), REQUEST, strlen(REQUEST),
                                        G_PRIORITY_DEFAULT, NULL, on_all_written, NULL);
}

static void
gsocket_ask(long count G_GNUC_UNUSED)
{
    if (g_socket_send(gsocket, REQUEST, strlen(REQUEST), NULL, NULL) != (gssize) strlen(REQUEST))
        exit(6);
}

/* Input is delivered from a separate source, as a library with callbacks must do. */
static gboolean
on_readable(GSocket *from, GIOCondition condition G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    delivered = g_socket_receive(from, buffer, sizeof buffer, NULL, NULL);
    if (delivered <= 0)
        exit(7);
    g_source_set_ready_time(delivery, 0);
    return G_SOURCE_CONTINUE;
}

static gboolean
on_delivery(GSource *source, GSourceFunc callback G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    g_source_set_ready_time(source, -1);
    came(buffer, delivered);
    return G_SOURCE_CONTINUE;
}

static void
connect_socket(void)
{
    static GSourceFuncs funcs = { .dispatch = on_delivery };
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    GSource *source;

    g_strlcpy(address.sun_path, server, sizeof address.sun_path);
    socket_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(socket_fd, (struct sockaddr *) &address, sizeof address) != 0)
        exit(8);
    gsocket = g_socket_new_from_fd(socket_fd, NULL);
    g_socket_set_blocking(gsocket, FALSE);
    if (strcmp(who, "gio") == 0) {
        stream = G_IO_STREAM(g_socket_connection_factory_create_connection(gsocket));
        g_input_stream_read_async(g_io_stream_get_input_stream(stream), buffer, sizeof buffer,
                                  G_PRIORITY_DEFAULT, NULL, on_read, NULL);
    } else {
        delivery = g_source_new(&funcs, sizeof(GSource));
        g_source_attach(delivery, NULL);
        source = g_socket_create_source(gsocket, G_IO_IN, NULL);
        g_source_set_callback(source, G_SOURCE_FUNC(on_readable), NULL, NULL);
        g_source_attach(source, NULL);
    }
    RUN_UNTIL(heard == 1);
    if (write(socket_fd, NEGOTIATE, strlen(NEGOTIATE)) < 0)
        exit(9);
    RUN_UNTIL(heard == 2);
}

/* --- tasks --- */

static void
ask_all(long count, long in_flight)
{
    long first = MIN(count, in_flight);

    unanswered = count;
    unsent = count - first;
    ask(first);
    RUN_UNTIL(!unanswered);
}

static void
storm(long count)
{
    char *request = g_strdup_printf("{\"execute\":\"bench-storm\",\"arguments\":{\"count\":%ld}}", count);

    heard = 0;
    write_text(request, 1);
    g_free(request);
    RUN_UNTIL(heard >= count);
}

static int
compare(gconstpointer a, gconstpointer b)
{
    gint64 x = *(const gint64 *) a, y = *(const gint64 *) b;

    return (x > y) - (x < y);
}

/* Converts microseconds to seconds. */
static double
quantile(GArray *times, double part)
{
    g_array_sort(times, compare);
    return g_array_index(times, gint64, (guint) (part * (times->len - 1) + 0.5)) / 1e6;
}

static gint64 due;

static gboolean
on_timer(gpointer late)
{
    gint64 now = g_get_monotonic_time(), lateness = now - due;

    g_array_append_val((GArray *) late, lateness);
    due = now + PERIOD_US;
    return G_SOURCE_CONTINUE;
}

static void
task_late(long count, double figures[2])
{
    GArray *late = g_array_new(FALSE, FALSE, sizeof(gint64));
    guint timer;

    due = g_get_monotonic_time() + PERIOD_US;
    timer = g_timeout_add(PERIOD_US / 1000, on_timer, late);
    slow = TRUE;
    storm(count);
    slow = FALSE;
    g_source_remove(timer);
    figures[0] = quantile(late, 0.5);
    figures[1] = quantile(late, 0.99);
    g_array_unref(late);
}

static void
task_ready(long count, double figures[2])
{
    GArray *open = g_array_new(FALSE, FALSE, sizeof(gint64));
    GArray *all = g_array_new(FALSE, FALSE, sizeof(gint64));

    while (count-- > 0) {
        gint64 start, time;

        settle();
        spice_session_disconnect(session);
        g_object_unref(session);
        settle();
        start = g_get_monotonic_time();
        connect_spice();
        time = ready_at - opened_at;
        g_array_append_val(open, time);
        time = ready_at - start;
        g_array_append_val(all, time);
    }
    figures[0] = quantile(open, 0.5);
    figures[1] = quantile(all, 0.5);
    g_array_unref(open);
    g_array_unref(all);
}

int
main(int argc, char **argv)
{
    char line[80], task[16];
    long count, in_flight;

    if (argc < 3)
        return 2;
    who = argv[1];
    server = argv[2];
    /* A client that hangs is ended. */
    alarm(60);
    if (strcmp(who, "port") == 0 || strcmp(who, "raw") == 0) {
        ask = strcmp(who, "raw") == 0 ? raw_ask : port_ask;
        connect_spice();
    } else {
        ask = strcmp(who, "gio") == 0 ? gio_ask : gsocket_ask;
        connect_socket();
    }
    if (argc > 3)
        g_signal_connect(port, argv[3], G_CALLBACK(on_event), NULL);
    settle();
    alarm(0);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%15s %ld %ld", task, &count, &in_flight) == 3) {
        gint64 wall = g_get_monotonic_time();
        clock_t cpu = clock();
        double figures[2];

        alarm(60);
        batched = strcmp(task, "batch") == 0;
        if (strcmp(task, "late") == 0) {
            task_late(count, figures);
        } else if (strcmp(task, "ready") == 0) {
            task_ready(count, figures);
        } else {
            if (strcmp(task, "storm") == 0)
                storm(count);
            else
                ask_all(count, in_flight);
            figures[0] = (g_get_monotonic_time() - wall) / 1e6 / count;
            figures[1] = (double) (clock() - cpu) / CLOCKS_PER_SEC / count;
        }
        alarm(0);
        printf("%.12g %.12g\n", figures[0], figures[1]);
        fflush(stdout);
    }
    return 0;
}
