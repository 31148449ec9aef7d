/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A SPICE server with a port that answers every QMP command at once.
 *
 *     spice-responder PATH
 *
 * It prints "ready" when it serves PATH, a Unix socket. A command "bench-storm" sends as
 * many events as its argument "count" says, before its reply. */
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
    g_clear_handle_id(&timer->source, g_source_remove);
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

/* A watch is its source: it is freed with the last reference, which may be running just now. */
struct SpiceWatch {
    GSource source;
    SpiceWatchFunc func;
    void *opaque;
    int fd;
    gpointer tag;
};

static gboolean
watch_dispatch(GSource *source, GSourceFunc func G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    SpiceWatch *watch = (SpiceWatch *) source;
    GIOCondition condition = g_source_query_unix_fd(source, watch->tag);
    int event = 0;

    if (condition & (G_IO_IN | G_IO_HUP | G_IO_ERR))
        event |= SPICE_WATCH_EVENT_READ;
    if (condition & G_IO_OUT)
        event |= SPICE_WATCH_EVENT_WRITE;
    if (event)
        watch->func(watch->fd, event, watch->opaque);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs watch_funcs = { .dispatch = watch_dispatch };

static void
watch_update_mask(SpiceWatch *watch, int event_mask)
{
    GIOCondition condition = 0;

    if (event_mask & SPICE_WATCH_EVENT_READ)
        condition |= G_IO_IN | G_IO_HUP | G_IO_ERR;
    if (event_mask & SPICE_WATCH_EVENT_WRITE)
        condition |= G_IO_OUT;
    g_source_modify_unix_fd(&watch->source, watch->tag, condition);
}

static SpiceWatch *
watch_add(int fd, int event_mask, SpiceWatchFunc func, void *opaque)
{
    SpiceWatch *watch = (SpiceWatch *) g_source_new(&watch_funcs, sizeof(SpiceWatch));

    watch->func = func;
    watch->opaque = opaque;
    watch->fd = fd;
    watch->tag = g_source_add_unix_fd(&watch->source, fd, 0);
    g_source_attach(&watch->source, NULL);
    watch_update_mask(watch, event_mask);
    return watch;
}

static void
watch_remove(SpiceWatch *watch)
{
    g_source_destroy(&watch->source);
    g_source_unref(&watch->source);
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

/* --- the port --- */

static GString *request, *out;
static int depth;
static gsize taken;
static guint wakeup;

static void
answer(void)
{
    /* spice-gtk's helper writes its requests with single quotes. */
    const char *id = g_strrstr(request->str, "id");
    const char *count = strstr(request->str, "\"count\":");

    if (count) {
        for (int i = atoi(count + strlen("\"count\":")); i > 0; i--)
            g_string_append_len(out, EVENT, sizeof EVENT - 1);
        /* Asked for past spice-gtk's helper, which must not get the reply. */
        if (!id)
            return;
    }
    g_string_append_printf(out, STATUS "%ld}\r\n", id ? strtol(id + strcspn(id, "0123456789"), NULL, 10) : 0);
}

static gboolean
on_wakeup(gpointer device)
{
    spice_server_char_device_wakeup(device);
    /* The server does not retry what it had no room for. */
    if (out->len > taken)
        return G_SOURCE_CONTINUE;
    wakeup = 0;
    return G_SOURCE_REMOVE;
}

static int
port_write(SpiceCharDeviceInstance *device, const uint8_t *bytes, int size)
{
    /* Not every request ends with a line end: count braces. */
    for (int i = 0; i < size; i++) {
        g_string_append_c(request, bytes[i]);
        if (bytes[i] == '{') {
            depth++;
        } else if (bytes[i] == '}' && --depth == 0) {
            answer();
            g_string_truncate(request, 0);
        }
    }
    /* Everything else that arrived with it is answered together. */
    if (!wakeup)
        wakeup = g_idle_add_full(G_PRIORITY_DEFAULT, on_wakeup, device, NULL);
    return size;
}

static int
port_read(SpiceCharDeviceInstance *device G_GNUC_UNUSED, uint8_t *bytes, int size)
{
    gsize count = MIN((gsize) size, out->len - taken);

    memcpy(bytes, out->str + taken, count);
    taken += count;
    if (taken == out->len) {
        taken = 0;
        g_string_truncate(out, 0);
    }
    return count;
}

static void
port_state(SpiceCharDeviceInstance *device, int connected)
{
    g_string_truncate(request, 0);
    g_string_truncate(out, 0);
    taken = 0;
    depth = 0;
    if (connected) {
        g_string_append(out, GREETING);
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

static SpiceCharDeviceInstance device = {
    .base = { .sif = &interface.base },
    .subtype = "port",
    .portname = "org.qemu.monitor.qmp.0",
};

int
main(int argc, char **argv)
{
    SpiceServer *server = spice_server_new();

    if (argc != 2)
        return 2;
    request = g_string_new(NULL);
    out = g_string_new(NULL);
    spice_server_set_addr(server, argv[1], SPICE_ADDR_FLAG_UNIX_ONLY);
    spice_server_set_noauth(server);
    if (spice_server_init(server, &core) != 0)
        return 1;
    spice_server_add_interface(server, &device.base);
    spice_server_port_event(&device, SPICE_PORT_EVENT_OPENED);
    spice_server_vm_start(server);
    puts("ready");
    fflush(stdout);
    g_main_loop_run(g_main_loop_new(NULL, FALSE));
    return 0;
}
