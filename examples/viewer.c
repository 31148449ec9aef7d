/* A small SPICE viewer: the machine's screen, a power menu, why it stopped, its events.
 *
 *     cc viewer.c -o viewer $(pkg-config --cflags --libs spice-qmp-1.0 spice-client-gtk-3.0)
 *     ./viewer spice://localhost:5900
 *
 * The menu's actions are the machine's own: it enables them and follows whoever pauses
 * or resumes. Nothing here queries, polls or waits. */
#include <spice-client-gtk.h>
#include <spice-qmp/spice-qmp.h>

#define ITEM(label, action)                                                                       \
    "<item><attribute name='label'>" label "</attribute>"                                         \
    "<attribute name='action'>vm." action "</attribute></item>"
#define PROPERTY(name, value) "<property name='" name "'>" value "</property>"
#define OBJECT(type, id) "<child><object class='" type "' id='" id "'>"
#define END "</object></child>"

static const char WINDOW[] = "<interface><menu id='menu'>" ITEM("Pause", "pause")
    ITEM("Reset", "reset") ITEM("Power down", "power-down") ITEM("Wake up", "wakeup")
    ITEM("Force off", "quit") "</menu><object class='GtkWindow' id='window'>"
    PROPERTY("default-width", "1000") PROPERTY("default-height", "480")
    "<child type='titlebar'><object class='GtkHeaderBar' id='header'>"
    PROPERTY("title", "Virtual machine") PROPERTY("show-close-button", "1")
    OBJECT("GtkMenuButton", "button") PROPERTY("label", "Power") PROPERTY("menu-model", "menu") END
    OBJECT("GtkLabel", "state") PROPERTY("label", "connecting") END END
    OBJECT("GtkBox", "content") PROPERTY("orientation", "vertical")
    OBJECT("GtkInfoBar", "bar") PROPERTY("revealed", "0")
    "<child internal-child='content_area'><object class='GtkBox' id='area'>"
    OBJECT("GtkLabel", "bar_text") PROPERTY("wrap", "1") END END END
    OBJECT("GtkPaned", "below") PROPERTY("position", "720") PROPERTY("vexpand", "1")
    OBJECT("GtkStack", "screen") OBJECT("GtkLabel", "none") PROPERTY("label", "No screen") END END
    OBJECT("GtkScrolledWindow", "scrolled") OBJECT("GtkListBox", "events")
    PROPERTY("selection-mode", "none") END END END END "</object></interface>";

typedef struct {
    SpiceSession *session;
    GCancellable *finding; /* NULL once the port is found, or there is none */
    SpiceQmpPort *port;
    SpiceQmpMachine *machine;
    gboolean leaving;
    GtkWidget *window, *button, *state, *bar, *bar_text, *screen, *events;
} Viewer;

/* --- what the machine says --------------------------------------------------- */

static void
show_banner(Viewer *viewer, GtkMessageType type, const char *text)
{
    gtk_info_bar_set_message_type(GTK_INFO_BAR(viewer->bar), type);
    gtk_label_set_text(GTK_LABEL(viewer->bar_text), text);
    gtk_info_bar_set_revealed(GTK_INFO_BAR(viewer->bar), text[0] != '\0');
}

/* Why the machine is not running. */
static void
show_condition(Viewer *viewer)
{
    static const GtkMessageType types[] = { GTK_MESSAGE_INFO, GTK_MESSAGE_WARNING,
                                            GTK_MESSAGE_ERROR };
    g_autoptr(SpiceQmpCondition) condition = spice_qmp_machine_dup_condition(viewer->machine);

    show_banner(viewer, condition ? types[spice_qmp_condition_get_severity(condition)] : types[0],
                condition ? spice_qmp_condition_get_message(condition) : "");
}

static void
show_failure(Viewer *viewer, const char *action G_GNUC_UNUSED, GError *error)
{
    show_banner(viewer, GTK_MESSAGE_ERROR, error->message);
}

static void
show_status(Viewer *viewer)
{
    g_autoptr(SpiceQmpStatus) status = spice_qmp_port_dup_status(viewer->port);

    gtk_label_set_text(GTK_LABEL(viewer->state), status ? status->status : "disconnected");
}

static void
show_event(Viewer *viewer, SpiceQmpEvent *event)
{
    const char *data = spice_qmp_event_get_data(event);
    g_autofree char *markup = g_markup_printf_escaped(
        "<b>%s</b>\n<small>%s</small>", spice_qmp_event_get_name(event), data ? data : "");
    GtkWidget *label = gtk_label_new(NULL);
    GtkListBoxRow *old;

    gtk_label_set_markup(GTK_LABEL(label), markup);
    gtk_label_set_xalign(GTK_LABEL(label), 0);
    gtk_label_set_line_wrap(GTK_LABEL(label), TRUE);
    gtk_widget_show(label);
    gtk_list_box_prepend(GTK_LIST_BOX(viewer->events), label);
    old = gtk_list_box_get_row_at_index(GTK_LIST_BOX(viewer->events), 100);
    if (old)
        gtk_widget_destroy(GTK_WIDGET(old));
}

/* --- connecting and leaving -------------------------------------------------- */

static void
on_channel_new(SpiceSession *session, SpiceChannel *channel, Viewer *viewer)
{
    int id;

    g_object_get(channel, "channel-id", &id, NULL);
    if (SPICE_IS_DISPLAY_CHANNEL(channel) && id == 0) {
        GtkWidget *display = GTK_WIDGET(spice_display_new(session, id));

        g_object_set(display, "only-downscale", TRUE, NULL);
        gtk_widget_show(display);
        gtk_container_add(GTK_CONTAINER(viewer->screen), display);
        gtk_stack_set_visible_child(GTK_STACK(viewer->screen), display);
    }
}

static void
on_closed(GObject *port G_GNUC_UNUSED, GAsyncResult *result G_GNUC_UNUSED, gpointer data)
{
    spice_session_disconnect(((Viewer *) data)->session);
    gtk_main_quit();
}

/* First the search, then the port, then the session: QEMU may crash, or freeze for
 * ever, if a client disconnects while a reply is due. */
static void
leave(Viewer *viewer)
{
    viewer->leaving = TRUE;
    if (viewer->finding)
        g_cancellable_cancel(viewer->finding);
    else if (viewer->port)
        spice_qmp_port_close_async(viewer->port, NULL, on_closed, viewer);
    else
        on_closed(NULL, NULL, viewer);
}

static void
on_found(GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer data)
{
    Viewer *viewer = data;
    g_autoptr(GError) error = NULL;

    viewer->port = spice_qmp_port_find_finish(result, &error);
    g_clear_object(&viewer->finding);
    if (viewer->leaving)
        return leave(viewer);
    if (!viewer->port)
        return show_banner(viewer, GTK_MESSAGE_ERROR, error->message);
    spice_qmp_port_set_command_timeout(viewer->port, 10000); /* milliseconds */
    viewer->machine = spice_qmp_machine_new(viewer->port);
    gtk_widget_insert_action_group(viewer->button, "vm", G_ACTION_GROUP(viewer->machine));
    g_signal_connect_swapped(viewer->machine, "notify::condition", G_CALLBACK(show_condition),
                             viewer);
    g_signal_connect_swapped(viewer->machine, "action-failed", G_CALLBACK(show_failure), viewer);
    g_signal_connect_swapped(viewer->port, "notify::status", G_CALLBACK(show_status), viewer);
    g_signal_connect_swapped(viewer->port, "qmp-event", G_CALLBACK(show_event), viewer);
    show_condition(viewer);
    show_status(viewer);
}

static gboolean
on_delete(GtkWidget *window, GdkEvent *event G_GNUC_UNUSED, Viewer *viewer)
{
    gtk_widget_hide(window);
    if (!viewer->leaving)
        leave(viewer);
    return GDK_EVENT_STOP;
}

int
main(int argc, char **argv)
{
    Viewer viewer = { 0 };

    gtk_init(&argc, &argv);
    if (argc != 2) {
        g_printerr("usage: %s SPICE-URI\n", argv[0]);
        return 2;
    }
    GtkBuilder *builder = gtk_builder_new_from_string(WINDOW, -1);
#define WIDGET(name) viewer.name = GTK_WIDGET(gtk_builder_get_object(builder, #name))
    WIDGET(window), WIDGET(button), WIDGET(state), WIDGET(bar), WIDGET(bar_text);
    WIDGET(screen), WIDGET(events);
    g_signal_connect(viewer.window, "delete-event", G_CALLBACK(on_delete), &viewer);
    gtk_widget_show_all(viewer.window);

    viewer.session = spice_session_new();
    g_object_set(viewer.session, "uri", argv[1], NULL);
    g_signal_connect(viewer.session, "channel-new", G_CALLBACK(on_channel_new), &viewer);
    viewer.finding = g_cancellable_new();
    spice_qmp_port_find_async(viewer.session, viewer.finding, on_found, &viewer);
    gtk_main();

    g_object_unref(builder);
    g_clear_object(&viewer.machine);
    g_clear_object(&viewer.port);
    g_clear_object(&viewer.session);
    return 0;
}
