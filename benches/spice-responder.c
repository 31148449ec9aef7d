/* A SPICE server whose ports answer every QMP command at once.
 *
 *     spice-responder PATH PORTS
 *
 * It says "ready" when PATH, a Unix socket, is served. A command "bench-storm" is
 * answered behind 200,000 events, or as many as its argument "count" asks for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <glib-unix.h>
#include <spice.h>
#include <spice/protocol.h>

#define GREETING                                                               \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, "    \
    "\"package\": \"\"}, \"capabilities\": []}}\r\n"
#define STATUS "{\"return\": {\"running\": true, \"singlestep\": false, \"status\": \"running\"}, \"id\": "
#define EVENT                                                                  \
    "{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 100000}, "        \
    "\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 78, "                        \
    "\"qom-path\": \"/machine/unattached/device[8]\"}}\r\n"

/* --- the main loop as SPICE wants it --- */

struct SpiceTimer {
    SpiceTimerFunc func;
    void *opaque;
    guint source;
};

static gboolean
on_timer(gpointer data)
{
    SpiceTimer *timer = data;

    timer->source = 0;
    timer->func(timer->opaque);
    return G_SOURCE_REMOVE;
}

static SpiceTimer *
timer_add(SpiceTimerFunc func, void *opaque)
{
    SpiceTimer *timer = g_new0(SpiceTimer, 1);

    timer->func = func;
    timer->opaque = opaque;
    return timer;
}

static void
timer_cancel(SpiceTimer *timer)
{
    if (timer->source)
        g_source_remove(timer->source);
    timer->source = 0;
}

static void
timer_start(SpiceTimer *timer, uint32_t ms)
{
    timer_cancel(timer);
    timer->source = g_timeout_add(ms, on_timer, timer);
}

static void
timer_remove(SpiceTimer *timer)
{
    timer_cancel(timer);
    g_free(timer);
}

struct SpiceWatch {
    int fd;
    SpiceWatchFunc func;
    void *opaque;
    GSource *source;
    gpointer tag;
};

static gboolean
on_watch(gint fd, GIOCondition condition, gpointer data)
{
    SpiceWatch *watch = data;
    int event = 0;

    if (condition & (G_IO_IN | G_IO_HUP | G_IO_ERR))
        event |= SPICE_WATCH_EVENT_READ;
    if (condition & G_IO_OUT)
        event |= SPICE_WATCH_EVENT_WRITE;
    watch->func(fd, event, watch->opaque);
    return G_SOURCE_CONTINUE;
}

static void
watch_update_mask(SpiceWatch *watch, int event_mask)
{
    GIOCondition condition = 0;

    if (event_mask & SPICE_WATCH_EVENT_READ)
        condition |= G_IO_IN | G_IO_HUP | G_IO_ERR;
    if (event_mask & SPICE_WATCH_EVENT_WRITE)
        condition |= G_IO_OUT;
    g_source_modify_unix_fd(watch->source, watch->tag, condition);
}

static gboolean
watch_dispatch(GSource *source, GSourceFunc func G_GNUC_UNUSED, gpointer watch)
{
    GIOCondition condition = g_source_query_unix_fd(source, ((SpiceWatch *) watch)->tag);

    return condition ? on_watch(((SpiceWatch *) watch)->fd, condition, watch) : G_SOURCE_CONTINUE;
}

static GSourceFuncs watch_funcs = { .dispatch = watch_dispatch };

static SpiceWatch *
watch_add(int fd, int event_mask, SpiceWatchFunc func, void *opaque)
{
    SpiceWatch *watch = g_new0(SpiceWatch, 1);

    watch->fd = fd;
    watch->func = func;
    watch->opaque = opaque;
    watch->source = g_source_new(&watch_funcs, sizeof(GSource));
    watch->tag = g_source_add_unix_fd(watch->source, fd, 0);
    g_source_set_callback(watch->source, G_SOURCE_FUNC(g_free), watch, g_free);
    g_source_attach(watch->source, NULL);
    watch_update_mask(watch, event_mask);
    return watch;
}

static void
watch_remove(SpiceWatch *watch)
{
    GSource *source = watch->source;

    /* The watch goes with its source, which may run just now. */
    g_source_destroy(source);
    g_source_unref(source);
}

static void
channel_event(int event G_GNUC_UNUSED, SpiceChannelEventInfo *info G_GNUC_UNUSED)
{
}

static SpiceCoreInterface core = {
    .base = { SPICE_INTERFACE_CORE, "spice-responder", SPICE_INTERFACE_CORE_MAJOR,
              SPICE_INTERFACE_CORE_MINOR },
    .timer_add = timer_add,
    .timer_start = timer_start,
    .timer_cancel = timer_cancel,
    .timer_remove = timer_remove,
    .watch_add = watch_add,
    .watch_update_mask = watch_update_mask,
    .watch_remove = watch_remove,
    .channel_event = channel_event,
};

/* --- the ports --- */

typedef struct {
    SpiceCharDeviceInstance device; /* first: it is what SPICE hands back */
    GString *request;
    int depth;
    GString *out;
    gsize taken;
    guint wakeup;
} Port;

static void
answer(Port *port)
{
    const char *text = port->request->str;
    /* spice-gtk's helper writes its requests with single quotes. */
    const char *id = g_strrstr(text, "id");
    const char *count = strstr(text, "\"count\":");

    if (strstr(text, "bench-storm")) {
        for (int i = count ? atoi(count + strlen("\"count\":")) : 200000; i > 0; i--)
            g_string_append_len(port->out, EVENT, sizeof EVENT - 1);
        /* Asked for past spice-gtk's helper, which must not hear the answer. */
        if (!id)
            return;
    }
    g_string_append_len(port->out, STATUS, sizeof STATUS - 1);
    g_string_append_printf(port->out, "%ld}\r\n", id ? strtol(id + strcspn(id, "0123456789"), NULL, 10) : 0);
}

static gboolean
on_wakeup(gpointer data)
{
    Port *port = data;

    spice_server_char_device_wakeup(&port->device);
    /* The server does not come back for what it had no room for. */
    if (port->out->len > port->taken)
        return G_SOURCE_CONTINUE;
    port->wakeup = 0;
    return G_SOURCE_REMOVE;
}

static int
port_write(SpiceCharDeviceInstance *device, const uint8_t *bytes, int size)
{
    Port *port = (Port *) device;

    /* Not every request ends with a line end: count braces. */
    for (int i = 0; i < size; i++) {
        g_string_append_c(port->request, bytes[i]);
        if (bytes[i] == '{') {
            port->depth++;
        } else if (bytes[i] == '}' && --port->depth == 0) {
            answer(port);
            g_string_truncate(port->request, 0);
        }
    }
    /* What else came with it is answered together. */
    if (!port->wakeup)
        port->wakeup = g_idle_add_full(G_PRIORITY_DEFAULT, on_wakeup, port, NULL);
    return size;
}

static int
port_read(SpiceCharDeviceInstance *device, uint8_t *bytes, int size)
{
    Port *port = (Port *) device;
    gsize count = MIN((gsize) size, port->out->len - port->taken);

    memcpy(bytes, port->out->str + port->taken, count);
    port->taken += count;
    if (port->taken == port->out->len) {
        port->taken = 0;
        g_string_truncate(port->out, 0);
    }
    return count;
}

static void
port_state(SpiceCharDeviceInstance *device, int connected)
{
    Port *port = (Port *) device;

    g_string_truncate(port->request, 0);
    g_string_truncate(port->out, 0);
    port->taken = 0;
    port->depth = 0;
    if (connected) {
        g_string_append(port->out, GREETING);
        spice_server_char_device_wakeup(device);
    }
}

static void
port_event(SpiceCharDeviceInstance *device G_GNUC_UNUSED, uint8_t event G_GNUC_UNUSED)
{
}

static const SpiceCharDeviceInterface interface = {
    .base = { SPICE_INTERFACE_CHAR_DEVICE, "spice-responder",
              SPICE_INTERFACE_CHAR_DEVICE_MAJOR, SPICE_INTERFACE_CHAR_DEVICE_MINOR },
    .state = port_state,
    .write = port_write,
    .read = port_read,
    .event = port_event,
    .flags = SPICE_CHAR_DEVICE_NOTIFY_WRITABLE,
};

int
main(int argc, char **argv)
{
    SpiceServer *server = spice_server_new();
    int ports;

    if (argc != 3) {
        fprintf(stderr, "usage: spice-responder PATH PORTS\n");
        return 2;
    }
    ports = atoi(argv[2]);
    spice_server_set_addr(server, argv[1], SPICE_ADDR_FLAG_UNIX_ONLY);
    spice_server_set_noauth(server);
    if (spice_server_init(server, &core) != 0) {
        fprintf(stderr, "spice-responder: %s cannot be served\n", argv[1]);
        return 1;
    }
    for (int i = 0; i < ports; i++) {
        Port *port = g_new0(Port, 1);

        port->request = g_string_new(NULL);
        port->out = g_string_new(NULL);
        port->device.base.sif = &interface.base;
        port->device.subtype = "port";
        port->device.portname = g_strdup_printf("org.qemu.monitor.qmp.%d", i);
        spice_server_add_interface(server, &port->device.base);
        spice_server_port_event(&port->device, SPICE_PORT_EVENT_OPENED);
    }
    spice_server_vm_start(server);
    puts("ready");
    fflush(stdout);
    g_main_loop_run(g_main_loop_new(NULL, FALSE));
    return 0;
}
