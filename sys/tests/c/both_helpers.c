/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* This library's helper and spice-gtk's, alive in one process, each on a port of
 * its own: both_helpers (ours-first|theirs-first) SPICE-URI LIBRARY
 *
 * Every function of either is looked up in its own library. */
#include <dlfcn.h>

#include <spice-client.h>

typedef SpiceQmpPort *(*Get)(SpicePortChannel *);
typedef void (*Query)(SpiceQmpPort *, GCancellable *, GAsyncReadyCallback, gpointer);
typedef SpiceQmpStatus *(*Finish)(SpiceQmpPort *, GAsyncResult *, GError **);
typedef void (*Unref)(SpiceQmpStatus *);

typedef struct {
    const char *library, *type;
    void *handle;
    SpiceQmpPort *port;
    GAsyncResult *result;
} Helper;

static Helper ours = { .type = "SpiceQmp1Port" };
static Helper theirs = { .library = "libspice-client-glib-2.0.so.8", .type = "SpiceQmpPort" };
static GPtrArray *channels;

static gpointer
look_up(Helper *helper, const char *name)
{
    gpointer symbol;

    if (!helper->handle)
        helper->handle = dlopen(helper->library, RTLD_NOW | RTLD_LOCAL);
    if (!helper->handle)
        g_error("%s", dlerror());
    symbol = dlsym(helper->handle, name);
    g_assert_nonnull(symbol);
    return symbol;
}

#define CALL(helper, type, name) ((type) look_up(helper, name))

static gboolean
on_time(gpointer over)
{
    *(gboolean *) over = TRUE;
    return G_SOURCE_REMOVE;
}

#define WAIT_FOR(condition)                                                    \
    G_STMT_START                                                               \
    {                                                                          \
        gboolean over_ = FALSE;                                                \
        guint timer_ = g_timeout_add_seconds(20, on_time, &over_);             \
        while (!(condition) && !over_)                                         \
            g_main_context_iteration(NULL, TRUE);                              \
        g_assert_false(over_);                                                 \
        g_source_remove(timer_);                                               \
    }                                                                          \
    G_STMT_END

static gboolean
is_ready(Helper *helper)
{
    gboolean ready;

    g_object_get(helper->port, "ready", &ready, NULL);
    return ready;
}

static void
attach(Helper *helper, guint channel)
{
    helper->port = CALL(helper, Get, "spice_qmp_port_get")(channels->pdata[channel]);
    g_assert_cmpstr(G_OBJECT_TYPE_NAME(helper->port), ==, helper->type);
}

static void
on_status(GObject *source, GAsyncResult *result, gpointer data)
{
    Helper *helper = data;

    g_assert_true(source == G_OBJECT(helper->port));
    helper->result = g_object_ref(result);
}

static void
ask(Helper *helper)
{
    GError *error = NULL;
    SpiceQmpStatus *status;

    CALL(helper, Query, "spice_qmp_port_query_status_async")
    (helper->port, NULL, on_status, helper);
    WAIT_FOR(helper->result);
    status = CALL(helper, Finish, "spice_qmp_port_query_status_finish")(helper->port, helper->result,
                                                                        &error);
    g_assert_no_error(error);
    g_assert_cmpstr(status->status, ==, "prelaunch");
    CALL(helper, Unref, "spice_qmp_status_unref")(status);
    g_clear_object(&helper->result);
}

static void
on_opened(SpiceChannel *channel, GParamSpec *spec G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    g_ptr_array_add(channels, channel);
}

static void
on_channel_new(SpiceSession *session G_GNUC_UNUSED, SpiceChannel *channel,
               gpointer data G_GNUC_UNUSED)
{
    if (SPICE_IS_PORT_CHANNEL(channel)) {
        g_signal_connect(channel, "notify::port-opened", G_CALLBACK(on_opened), NULL);
        spice_channel_connect(channel);
    }
}

int
main(int argc, char **argv)
{
    SpiceSession *session = spice_session_new();
    gboolean ours_first;

    g_assert_cmpint(argc, ==, 4);
    ours_first = g_str_equal(argv[1], "ours-first");
    ours.library = argv[3];
    channels = g_ptr_array_new();
    g_object_set(session, "uri", argv[2], NULL);
    g_signal_connect(session, "channel-new", G_CALLBACK(on_channel_new), NULL);
    spice_session_connect(session);
    WAIT_FOR(channels->len == 2);

    attach(ours_first ? &ours : &theirs, 0);
    attach(ours_first ? &theirs : &ours, 1);
    WAIT_FOR(is_ready(&ours) && is_ready(&theirs));
    for (int i = 0; i < 3; i++) {
        ask(&ours);
        ask(&theirs);
    }
    g_print("both work\n");
    spice_session_disconnect(session);
    g_object_unref(session);
    while (g_main_context_iteration(NULL, FALSE))
        ;
    return 0;
}
