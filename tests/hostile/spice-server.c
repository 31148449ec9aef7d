/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A SPICE server that is controlled through its standard input.
 *
 *   spice-server SOCKET PORT...
 *
 * It listens on the Unix socket SOCKET, has no display, and a port channel for
 * each PORT, which is the port's name. It reads one command in a line:
 *
 *   N open         opens the port N (they count from 0), and
 *   N close        closes it: the client hears of both
 *   N write HEX    sends these bytes in one message of SPICE
 *   N stall        takes no more bytes
 *   N read         takes bytes again
 *   kick           cuts all connections
 *   refuse         cuts each new connection at once
 *   accept         no longer does
 *   sync           is reported when all before it is done
 *   exit           ends, as does the end of the input
 *
 * It prints, in the order in which it happens:
 *
 *   listening      it can be connected to
 *   N connected    a client has the port's channel
 *   N gone         no client has it any more
 *   N read HEX     these bytes came from the client
 *   synced         the answer to sync
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib-unix.h>
#include <glib.h>
#include <spice.h>
#include <spice/protocol.h>

typedef struct {
    /* Given to SPICE as a pointer: it must come first. */
    SpiceCharDeviceInstance device;
    int number;
    gboolean stalled;
    /* GBytes that were not sent yet, each a message. */
    GQueue messages;
} Port;

static GMainLoop *loop;
static Port *ports;
static int port_count;

static void
report(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

/* --- what SPICE needs of a main loop ------------------------------------ */

struct SpiceTimer {
    SpiceTimerFunc func;
    void *data;
    guint source;
};

struct SpiceWatch {
    int fd;
    SpiceWatchFunc func;
    void *data;
    guint source;
};

static GList *watches;
static gboolean refusing;

static SpiceTimer *
timer_add(SpiceTimerFunc func, void *data)
{
    SpiceTimer *timer = g_new0(SpiceTimer, 1);
    timer->func = func;
    timer->data = data;
    return timer;
}

static gboolean
timer_expired(gpointer data)
{
    SpiceTimer *timer = data;
    timer->source = 0;
    timer->func(timer->data);
    return G_SOURCE_REMOVE;
}

static void
timer_cancel(SpiceTimer *timer)
{
    if (timer->source != 0)
        g_source_remove(timer->source);
    timer->source = 0;
}

static void
timer_start(SpiceTimer *timer, uint32_t ms)
{
    timer_cancel(timer);
    timer->source = g_timeout_add(ms, timer_expired, timer);
}

static void
timer_remove(SpiceTimer *timer)
{
    timer_cancel(timer);
    g_free(timer);
}

static gboolean
listens(int fd)
{
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 && value != 0;
}

/* Cuts a connection, if it is a client's: SPICE's own sockets have no address. */
static void
cut(int fd)
{
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    if (!listens(fd) && getsockname(fd, (struct sockaddr *) &address, &size) == 0 &&
        size > sizeof address.sun_family)
        shutdown(fd, SHUT_RDWR);
}

static gboolean
watch_ready(G_GNUC_UNUSED int fd, GIOCondition condition, gpointer data)
{
    SpiceWatch *watch = data;
    guint source = watch->source;
    if (refusing && listens(watch->fd)) {
        close(accept(watch->fd, NULL, NULL));
        return G_SOURCE_CONTINUE;
    }
    /* SPICE may remove the watch meanwhile: then nothing of it may be touched. */
    gboolean writable = (condition & G_IO_OUT) != 0;
    if (condition & (G_IO_IN | G_IO_HUP | G_IO_ERR))
        watch->func(watch->fd, SPICE_WATCH_EVENT_READ, watch->data);
    if (writable && g_main_context_find_source_by_id(NULL, source) != NULL)
        watch->func(watch->fd, SPICE_WATCH_EVENT_WRITE, watch->data);
    return G_SOURCE_CONTINUE;
}

static void
watch_update_mask(SpiceWatch *watch, int mask)
{
    GIOCondition condition = 0;
    if (watch->source != 0)
        g_source_remove(watch->source);
    watch->source = 0;
    if (mask & SPICE_WATCH_EVENT_READ)
        condition |= G_IO_IN;
    if (mask & SPICE_WATCH_EVENT_WRITE)
        condition |= G_IO_OUT;
    if (condition != 0)
        watch->source = g_unix_fd_add(watch->fd, condition, watch_ready, watch);
}

static SpiceWatch *
watch_add(int fd, int mask, SpiceWatchFunc func, void *data)
{
    SpiceWatch *watch = g_new0(SpiceWatch, 1);
    watch->fd = fd;
    watch->func = func;
    watch->data = data;
    watch_update_mask(watch, mask);
    watches = g_list_prepend(watches, watch);
    return watch;
}

static void
watch_remove(SpiceWatch *watch)
{
    watch_update_mask(watch, 0);
    watches = g_list_remove(watches, watch);
    g_free(watch);
}

static void
channel_event(G_GNUC_UNUSED int event, G_GNUC_UNUSED SpiceChannelEventInfo *info)
{
}

static SpiceCoreInterface core = {
    .base = {
        .type = SPICE_INTERFACE_CORE,
        .description = "main loop",
        .major_version = SPICE_INTERFACE_CORE_MAJOR,
        .minor_version = SPICE_INTERFACE_CORE_MINOR,
    },
    .timer_add = timer_add,
    .timer_start = timer_start,
    .timer_cancel = timer_cancel,
    .timer_remove = timer_remove,
    .watch_add = watch_add,
    .watch_update_mask = watch_update_mask,
    .watch_remove = watch_remove,
    .channel_event = channel_event,
};

/* --- the ports ---------------------------------------------------------- */

static gboolean
wake_up(gpointer data)
{
    Port *port = data;
    spice_server_char_device_wakeup(&port->device);
    return G_SOURCE_REMOVE;
}

static void
port_state(SpiceCharDeviceInstance *device, int connected)
{
    Port *port = (Port *) device;
    report("%d %s", port->number, connected ? "connected" : "gone");
    /* What it was asked to send before. */
    if (connected)
        g_idle_add(wake_up, port);
}

/* From the client. */
static int
port_write(SpiceCharDeviceInstance *device, const uint8_t *bytes, int count)
{
    Port *port = (Port *) device;
    if (port->stalled || count <= 0)
        return 0;
    GString *hex = g_string_new(NULL);
    for (int i = 0; i < count; i++)
        g_string_append_printf(hex, "%02x", bytes[i]);
    report("%d read %s", port->number, hex->str);
    g_string_free(hex, TRUE);
    return count;
}

/* To the client: what this returns is one message. */
static int
port_read(SpiceCharDeviceInstance *device, uint8_t *bytes, int space)
{
    Port *port = (Port *) device;
    GBytes *message = g_queue_pop_head(&port->messages);
    if (message == NULL)
        return 0;
    gsize size;
    const void *data = g_bytes_get_data(message, &size);
    gsize taken = MIN(size, (gsize) space);
    memcpy(bytes, data, taken);
    if (taken < size)
        g_queue_push_head(&port->messages, g_bytes_new_from_bytes(message, taken, size - taken));
    g_bytes_unref(message);
    return taken;
}

static void
port_event(G_GNUC_UNUSED SpiceCharDeviceInstance *device, G_GNUC_UNUSED uint8_t event)
{
}

static SpiceCharDeviceInterface port_interface = {
    .base = {
        .type = SPICE_INTERFACE_CHAR_DEVICE,
        .description = "port",
        .major_version = SPICE_INTERFACE_CHAR_DEVICE_MAJOR,
        .minor_version = SPICE_INTERFACE_CHAR_DEVICE_MINOR,
    },
    .state = port_state,
    .write = port_write,
    .read = port_read,
    .event = port_event,
    .flags = SPICE_CHAR_DEVICE_NOTIFY_WRITABLE,
};

static GBytes *
from_hex(const char *hex)
{
    gsize size = strlen(hex) / 2;
    guint8 *bytes = g_malloc(size);
    for (gsize i = 0; i < size; i++)
        bytes[i] = g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]);
    return g_bytes_new_take(bytes, size);
}

static gboolean
obey_port(Port *port, const char *command)
{
    if (g_str_equal(command, "open"))
        spice_server_port_event(&port->device, SPICE_PORT_EVENT_OPENED);
    else if (g_str_equal(command, "close"))
        spice_server_port_event(&port->device, SPICE_PORT_EVENT_CLOSED);
    else if (g_str_has_prefix(command, "write "))
        g_queue_push_tail(&port->messages, from_hex(command + strlen("write ")));
    else if (g_str_equal(command, "stall") || g_str_equal(command, "read"))
        port->stalled = g_str_equal(command, "stall");
    else
        return FALSE;
    spice_server_char_device_wakeup(&port->device);
    return TRUE;
}

static gboolean
obey(const char *command)
{
    if (g_str_equal(command, "kick")) {
        for (GList *l = watches; l != NULL; l = l->next)
            cut(((SpiceWatch *) l->data)->fd);
    } else if (g_str_equal(command, "refuse") || g_str_equal(command, "accept")) {
        refusing = g_str_equal(command, "refuse");
    } else if (g_str_equal(command, "sync")) {
        report("synced");
    } else if (g_str_equal(command, "exit")) {
        g_main_loop_quit(loop);
    } else {
        char *rest;
        gint64 number = g_ascii_strtoll(command, &rest, 10);
        return rest != command && *rest == ' ' && number >= 0 && number < port_count &&
               obey_port(&ports[number], rest + 1);
    }
    return TRUE;
}

static gboolean
read_command(GIOChannel *input, G_GNUC_UNUSED GIOCondition condition, G_GNUC_UNUSED gpointer data)
{
    char *line = NULL;
    gsize end;
    /* One per iteration: SPICE completes the last one meanwhile. */
    GIOStatus status = g_io_channel_read_line(input, &line, NULL, &end, NULL);
    if (status == G_IO_STATUS_AGAIN)
        return G_SOURCE_CONTINUE;
    if (status != G_IO_STATUS_NORMAL) {
        g_main_loop_quit(loop);
        return G_SOURCE_REMOVE;
    }
    line[end] = '\0';
    if (!obey(line)) {
        fprintf(stderr, "spice-server: no such command: %s\n", line);
        exit(2);
    }
    g_free(line);
    return G_SOURCE_CONTINUE;
}

int
main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: spice-server SOCKET PORT...\n");
        return 2;
    }
    loop = g_main_loop_new(NULL, FALSE);
    SpiceServer *server = spice_server_new();
    spice_server_set_addr(server, argv[1], SPICE_ADDR_FLAG_UNIX_ONLY);
    spice_server_set_noauth(server);
    if (spice_server_init(server, &core) != 0) {
        fprintf(stderr, "spice-server: cannot listen on %s\n", argv[1]);
        return 1;
    }
    port_count = argc - 2;
    ports = g_new0(Port, port_count);
    for (int i = 0; i < port_count; i++) {
        Port *port = &ports[i];
        port->number = i;
        port->device.base.sif = &port_interface.base;
        port->device.subtype = "port";
        port->device.portname = argv[i + 2];
        spice_server_add_interface(server, &port->device.base);
    }
    spice_server_vm_start(server);

    GIOChannel *input = g_io_channel_unix_new(0);
    g_io_channel_set_encoding(input, NULL, NULL);
    g_io_add_watch(input, G_IO_IN | G_IO_HUP, read_command, NULL);
    report("listening");
    g_main_loop_run(loop);
    spice_server_destroy(server);
    return 0;
}
