/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A client written for spice-gtk's own helper: it does not know this library.
 *
 *     spice_gtk_client SPICE-URI
 *
 * It prints line by line what it finds, and how often GLib complained in between. */
#include <spice-client.h>

static SpiceSession *session;
static SpiceChannel *channel;
static SpiceQmpPort *port;
static int complaints;
static GString *events;

static GLogWriterOutput
on_log(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer data)
{
    if (level & (G_LOG_LEVEL_CRITICAL | G_LOG_LEVEL_WARNING)) {
        complaints++;
        return g_log_writer_standard_streams(level, fields, n, data);
    }
    return G_LOG_WRITER_HANDLED;
}

static gboolean
on_time(gpointer over)
{
    *(gboolean *) over = TRUE;
    return G_SOURCE_REMOVE;
}

/* Runs the main loop until the condition holds, or two seconds are over. */
#define WAIT_FOR(condition)                                                    \
    ({                                                                         \
        gboolean over_ = FALSE, holds_;                                        \
        guint timer_ = g_timeout_add(2000, on_time, &over_);                   \
        while (!(holds_ = (condition) ? TRUE : FALSE) && !over_)                              \
            g_main_context_iteration(NULL, TRUE);                              \
        if (!over_)                                                            \
            g_source_remove(timer_);                                           \
        holds_;                                                                \
    })

static void
tell_complaints(void)
{
    g_print("  complaints: %d\n", complaints);
    complaints = 0;
}

/* On the heap, and never freed: a callback may come too late. */
typedef struct {
    GAsyncResult *result;
} Answer;

static void
on_answer(GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer answer)
{
    ((Answer *) answer)->result = g_object_ref(result);
}

static void
act(const char *name, SpiceQmpPortVmAction action)
{
    Answer *answer = g_new0(Answer, 1);
    GError *error = NULL;

    spice_qmp_port_vm_action_async(port, action, NULL, on_answer, answer);
    if (!WAIT_FOR(answer->result))
        g_print("%s: no answer\n", name);
    else if (spice_qmp_port_vm_action_finish(port, answer->result, &error))
        g_print("%s: done\n", name);
    else
        g_print("%s: %s\n", name, error->message);
    tell_complaints();
}

static void
query(const char *when)
{
    Answer *answer = g_new0(Answer, 1);
    GError *error = NULL;
    SpiceQmpStatus *status;

    spice_qmp_port_query_status_async(port, NULL, on_answer, answer);
    if (!WAIT_FOR(answer->result)) {
        g_print("%s: no answer\n", when);
    } else if ((status = spice_qmp_port_query_status_finish(port, answer->result, &error))) {
        g_print("%s: %s %d\n", when, status->status, status->running);
        spice_qmp_status_unref(spice_qmp_status_ref(status));
        spice_qmp_status_unref(status);
    } else {
        g_print("%s: %s\n", when, error->message);
    }
    tell_complaints();
}

static gboolean
is_ready(void)
{
    gboolean ready = FALSE;

    if (port)
        g_object_get(port, "ready", &ready, NULL);
    return ready;
}

static gboolean
is_opened(void)
{
    gboolean opened;

    g_object_get(channel, "port-opened", &opened, NULL);
    return opened;
}

static void
on_event(SpiceQmpPort *from G_GNUC_UNUSED, const char *name, gpointer node G_GNUC_UNUSED,
         gpointer data G_GNUC_UNUSED)
{
    g_string_append_printf(events, "%s ", name);
}

static void
on_opened(SpiceChannel *opened, GParamSpec *spec G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    char *name = NULL;

    g_object_get(opened, "port-name", &name, NULL);
    if (!port && g_strcmp0(name, "org.qemu.monitor.qmp.0") == 0) {
        channel = opened;
        port = spice_qmp_port_get(SPICE_PORT_CHANNEL(opened));
        g_signal_connect(port, "event", G_CALLBACK(on_event), NULL);
    }
    g_free(name);
}

static void
on_channel_new(SpiceSession *from G_GNUC_UNUSED, SpiceChannel *new, gpointer data G_GNUC_UNUSED)
{
    if (SPICE_IS_PORT_CHANNEL(new)) {
        g_signal_connect(new, "notify::port-opened", G_CALLBACK(on_opened), NULL);
        spice_channel_connect(new);
    }
}

int
main(int argc, char **argv)
{
    g_assert(argc == 2);
    g_log_set_writer_func(on_log, NULL, NULL);
    events = g_string_new(NULL);
    session = spice_session_new();
    g_object_set(session, "uri", argv[1], NULL);
    g_signal_connect(session, "channel-new", G_CALLBACK(on_channel_new), NULL);
    spice_session_connect(session);

    g_print("ready: %d\n", WAIT_FOR(is_ready()));
    g_print("the same again: %d\n", spice_qmp_port_get(SPICE_PORT_CHANNEL(channel)) == port);
    tell_complaints();
    query("status");
    act("pause", SPICE_QMP_PORT_VM_ACTION_PAUSE);
    query("paused");
    act("continue", SPICE_QMP_PORT_VM_ACTION_CONTINUE);

    /* The port is closed and reopened. QEMU may crash if a command is under way
     * then, even a question of the helper's own. */
    WAIT_FOR(FALSE);
    spice_channel_disconnect(channel, SPICE_CHANNEL_CLOSED);
    WAIT_FOR(FALSE);
    g_print("ready while closed: %d\n", is_ready());
    spice_channel_connect(channel);
    g_print("opened again: %d\n", WAIT_FOR(is_opened()));
    g_print("ready again: %d\n", WAIT_FOR(is_ready()));
    query("status again");

    g_print("events: %s\n", events->str);

    spice_session_disconnect(session);
    g_object_unref(session);
    while (g_main_context_iteration(NULL, FALSE))
        ;
    g_print("left\n");
    tell_complaints();
    return 0;
}
