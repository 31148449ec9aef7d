/* A small SPICE viewer that shows a virtual machine and its power state.
 *
 *     cc viewer.c -o viewer $(pkg-config --cflags --libs spice-qmp-1.0 spice-client-gtk-3.0)
 *     ./viewer spice://localhost:5900
 *
 * All that the window shows of the machine's state comes from properties and signals
 * of the port: nothing here queries, polls or waits. */
#include <spice-client-gtk.h>
#include <spice-qmp/spice-qmp.h>

#define EVENTS_SHOWN 100

typedef struct {
    SpiceSession *session;
    SpiceQmpPort *port; /* NULL until it is found */
    GCancellable *finding;
    gboolean leaving;

    GSimpleActionGroup *actions;
    GtkWidget *window;
    GtkWidget *header;
    GtkWidget *state_icon;
    GtkWidget *state;
    GtkWidget *error_bar;
    GtkWidget *error_text;
    GtkWidget *screen; /* a stack: what is being done, then the display */
    GtkWidget *progress;
    GtkWidget *events;
} Viewer;

static const struct {
    const char *name, *label;
    SpiceQmpPortVmAction action;
} power_actions[] = {
    { "pause", "Pause", SPICE_QMP_PORT_VM_ACTION_PAUSE },
    { "resume", "Resume", SPICE_QMP_PORT_VM_ACTION_CONTINUE },
    { "reset", "Reset", SPICE_QMP_PORT_VM_ACTION_RESET },
    { "power-down", "Power down", SPICE_QMP_PORT_VM_ACTION_POWER_DOWN },
    { "quit", "Force off", SPICE_QMP_PORT_VM_ACTION_QUIT },
};

/* --- errors ------------------------------------------------------------------ */

static void
show_error(Viewer *viewer, const char *text)
{
    gtk_label_set_text(GTK_LABEL(viewer->error_text), text);
    gtk_info_bar_set_revealed(GTK_INFO_BAR(viewer->error_bar), TRUE);
}

static void
hide_error(Viewer *viewer)
{
    gtk_info_bar_set_revealed(GTK_INFO_BAR(viewer->error_bar), FALSE);
}

/* --- the power menu ---------------------------------------------------------- */

static void
on_acted(GObject *port, GAsyncResult *result, gpointer data)
{
    Viewer *viewer = data;
    g_autoptr(GError) error = NULL;

    if (spice_qmp_port_vm_action_finish(SPICE_QMP_PORT(port), result, &error))
        hide_error(viewer);
    else if (!viewer->leaving)
        show_error(viewer, error->message);
}

static void
on_action_activated(GSimpleAction *action, GVariant *parameter G_GNUC_UNUSED, gpointer data)
{
    Viewer *viewer = data;
    const char *name = g_action_get_name(G_ACTION(action));

    for (guint i = 0; i < G_N_ELEMENTS(power_actions); i++)
        if (g_str_equal(power_actions[i].name, name))
            spice_qmp_port_vm_action_async(viewer->port, power_actions[i].action, NULL,
                                           on_acted, viewer);
}

static void
enable_action(Viewer *viewer, const char *name, gboolean enabled)
{
    GAction *action = g_action_map_lookup_action(G_ACTION_MAP(viewer->actions), name);

    g_simple_action_set_enabled(G_SIMPLE_ACTION(action), enabled);
}

/* --- the state and the events ------------------------------------------------ */

/* For "notify": the state, the status and the version may all have changed. */
static void
show_state(Viewer *viewer)
{
    g_autoptr(SpiceQmpStatus) status = spice_qmp_port_dup_status(viewer->port);
    g_autofree char *version = spice_qmp_port_dup_version(viewer->port);
    gboolean ready = spice_qmp_port_get_ready(viewer->port);
    gboolean running = status && status->running;

    for (guint i = 0; i < G_N_ELEMENTS(power_actions); i++)
        enable_action(viewer, power_actions[i].name, ready);
    enable_action(viewer, "pause", ready && running);
    enable_action(viewer, "resume", ready && !running);

    gtk_label_set_text(GTK_LABEL(viewer->state), status ? status->status
                                                 : ready ? "unknown" : "disconnected");
    gtk_image_set_from_icon_name(GTK_IMAGE(viewer->state_icon),
                                 running  ? "media-playback-start-symbolic"
                                 : status ? "media-playback-pause-symbolic"
                                          : "network-offline-symbolic",
                                 GTK_ICON_SIZE_BUTTON);
    if (version) {
        g_autofree char *subtitle = g_strconcat("QEMU ", version, NULL);

        gtk_header_bar_set_subtitle(GTK_HEADER_BAR(viewer->header), subtitle);
    }
}

static void
show_event(Viewer *viewer, SpiceQmpEvent *event)
{
    const char *name = spice_qmp_event_get_name(event);
    const char *data = spice_qmp_event_get_data(event);
    gint64 timestamp = spice_qmp_event_get_timestamp(event);
    g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(timestamp / G_USEC_PER_SEC);
    g_autoptr(GDateTime) time = g_date_time_to_local(utc);
    g_autofree char *clock = timestamp < 0 ? g_strdup("") : g_date_time_format(time, "%T");
    g_autofree char *markup =
        g_markup_printf_escaped("<b>%s</b>  <small>%s</small>%s<small>%s</small>", name, clock,
                                data ? "\n" : "", data ? data : "");
    GtkWidget *label = gtk_label_new(NULL);
    GtkListBoxRow *oldest;

    gtk_label_set_markup(GTK_LABEL(label), markup);
    gtk_label_set_xalign(GTK_LABEL(label), 0);
    gtk_label_set_line_wrap(GTK_LABEL(label), TRUE);
    gtk_label_set_line_wrap_mode(GTK_LABEL(label), PANGO_WRAP_WORD_CHAR);
    g_object_set(label, "margin", 6, NULL);
    gtk_widget_show(label);

    gtk_list_box_prepend(GTK_LIST_BOX(viewer->events), label);
    oldest = gtk_list_box_get_row_at_index(GTK_LIST_BOX(viewer->events), EVENTS_SHOWN);
    if (oldest)
        gtk_widget_destroy(GTK_WIDGET(oldest));
}

/* --- connecting -------------------------------------------------------------- */

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

static void leave(Viewer *viewer);

static void
on_found(GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer data)
{
    Viewer *viewer = data;
    g_autoptr(GError) error = NULL;

    viewer->port = spice_qmp_port_find_finish(result, &error);
    g_clear_object(&viewer->finding);
    if (viewer->leaving) {
        leave(viewer);
    } else if (viewer->port) {
        /* In milliseconds; without it, a call does not end while QEMU does not answer. */
        spice_qmp_port_set_command_timeout(viewer->port, 10000);
        g_signal_connect_swapped(viewer->port, "notify", G_CALLBACK(show_state), viewer);
        g_signal_connect_swapped(viewer->port, "qmp-event", G_CALLBACK(show_event), viewer);
        gtk_label_set_text(GTK_LABEL(viewer->progress), "No screen yet");
        show_state(viewer);
    } else {
        gtk_label_set_text(GTK_LABEL(viewer->progress), "No connection");
        gtk_label_set_text(GTK_LABEL(viewer->state), "no control");
        show_error(viewer, error->message);
    }
}

/* --- leaving ----------------------------------------------------------------- */

static void
on_closed(GObject *port G_GNUC_UNUSED, GAsyncResult *result G_GNUC_UNUSED, gpointer data)
{
    Viewer *viewer = data;

    spice_session_disconnect(viewer->session);
    gtk_main_quit();
}

/* First the search, then the port, then the session: QEMU may crash, or freeze for
 * ever, if a client disconnects while a reply is due. */
static void
leave(Viewer *viewer)
{
    viewer->leaving = TRUE;
    if (viewer->finding) {
        g_cancellable_cancel(viewer->finding);
    } else if (viewer->port) {
        g_signal_handlers_disconnect_by_data(viewer->port, viewer);
        spice_qmp_port_close_async(viewer->port, NULL, on_closed, viewer);
    } else {
        on_closed(NULL, NULL, viewer);
    }
}

static gboolean
on_delete(GtkWidget *window, GdkEvent *event G_GNUC_UNUSED, Viewer *viewer)
{
    gtk_widget_hide(window);
    if (!viewer->leaving)
        leave(viewer);
    return GDK_EVENT_STOP;
}

/* --- the window -------------------------------------------------------------- */

static GtkWidget *
new_power_button(Viewer *viewer)
{
    GtkWidget *button = gtk_menu_button_new();
    g_autoptr(GMenu) menu = g_menu_new();

    viewer->actions = g_simple_action_group_new();
    for (guint i = 0; i < G_N_ELEMENTS(power_actions); i++) {
        g_autoptr(GSimpleAction) action = g_simple_action_new(power_actions[i].name, NULL);
        g_autofree char *full_name = g_strconcat("vm.", power_actions[i].name, NULL);

        g_simple_action_set_enabled(action, FALSE);
        g_signal_connect(action, "activate", G_CALLBACK(on_action_activated), viewer);
        g_action_map_add_action(G_ACTION_MAP(viewer->actions), G_ACTION(action));
        g_menu_append(menu, power_actions[i].label, full_name);
    }
    gtk_widget_insert_action_group(button, "vm", G_ACTION_GROUP(viewer->actions));
    gtk_menu_button_set_menu_model(GTK_MENU_BUTTON(button), G_MENU_MODEL(menu));
    gtk_button_set_image(GTK_BUTTON(button),
                         gtk_image_new_from_icon_name("system-shutdown-symbolic",
                                                      GTK_ICON_SIZE_BUTTON));
    gtk_widget_set_tooltip_text(button, "Power");
    return button;
}

static GtkWidget *
new_header(Viewer *viewer)
{
    GtkWidget *state = gtk_box_new(GTK_ORIENTATION_HORIZONTAL, 6);

    viewer->state_icon = gtk_image_new_from_icon_name("network-offline-symbolic",
                                                      GTK_ICON_SIZE_BUTTON);
    viewer->state = gtk_label_new("connecting");
    gtk_container_add(GTK_CONTAINER(state), viewer->state_icon);
    gtk_container_add(GTK_CONTAINER(state), viewer->state);

    viewer->header = gtk_header_bar_new();
    gtk_header_bar_set_show_close_button(GTK_HEADER_BAR(viewer->header), TRUE);
    gtk_header_bar_set_title(GTK_HEADER_BAR(viewer->header), "Virtual machine");
    gtk_header_bar_pack_start(GTK_HEADER_BAR(viewer->header), new_power_button(viewer));
    gtk_header_bar_pack_start(GTK_HEADER_BAR(viewer->header), state);
    return viewer->header;
}

static GtkWidget *
new_error_bar(Viewer *viewer)
{
    GtkInfoBar *bar = GTK_INFO_BAR(gtk_info_bar_new());

    viewer->error_bar = GTK_WIDGET(bar);
    viewer->error_text = gtk_label_new(NULL);
    gtk_label_set_line_wrap(GTK_LABEL(viewer->error_text), TRUE);
    gtk_container_add(GTK_CONTAINER(gtk_info_bar_get_content_area(bar)), viewer->error_text);
    gtk_info_bar_set_message_type(bar, GTK_MESSAGE_ERROR);
    gtk_info_bar_set_show_close_button(bar, TRUE);
    gtk_info_bar_set_revealed(bar, FALSE);
    g_signal_connect_swapped(bar, "response", G_CALLBACK(hide_error), viewer);
    return viewer->error_bar;
}

static GtkWidget *
new_event_list(Viewer *viewer)
{
    GtkWidget *scrolled = gtk_scrolled_window_new(NULL, NULL);
    GtkWidget *nothing = gtk_label_new("Events of the machine appear here");

    viewer->events = gtk_list_box_new();
    gtk_list_box_set_selection_mode(GTK_LIST_BOX(viewer->events), GTK_SELECTION_NONE);
    gtk_widget_show(nothing);
    gtk_list_box_set_placeholder(GTK_LIST_BOX(viewer->events), nothing);
    gtk_container_add(GTK_CONTAINER(scrolled), viewer->events);
    gtk_widget_set_size_request(scrolled, 270, -1);
    return scrolled;
}

static void
build_window(Viewer *viewer)
{
    GtkWidget *content = gtk_box_new(GTK_ORIENTATION_VERTICAL, 0);
    GtkWidget *below = gtk_box_new(GTK_ORIENTATION_HORIZONTAL, 0);

    viewer->window = gtk_window_new(GTK_WINDOW_TOPLEVEL);
    gtk_window_set_default_size(GTK_WINDOW(viewer->window), 1000, 480);
    gtk_window_set_titlebar(GTK_WINDOW(viewer->window), new_header(viewer));
    g_signal_connect(viewer->window, "delete-event", G_CALLBACK(on_delete), viewer);

    viewer->progress = gtk_label_new("Connecting …");
    viewer->screen = gtk_stack_new();
    gtk_container_add(GTK_CONTAINER(viewer->screen), viewer->progress);

    gtk_box_pack_start(GTK_BOX(below), viewer->screen, TRUE, TRUE, 0);
    gtk_box_pack_start(GTK_BOX(below), gtk_separator_new(GTK_ORIENTATION_VERTICAL), FALSE, FALSE, 0);
    gtk_box_pack_start(GTK_BOX(below), new_event_list(viewer), FALSE, FALSE, 0);
    gtk_box_pack_start(GTK_BOX(content), new_error_bar(viewer), FALSE, FALSE, 0);
    gtk_box_pack_start(GTK_BOX(content), below, TRUE, TRUE, 0);
    gtk_container_add(GTK_CONTAINER(viewer->window), content);
    gtk_widget_show_all(viewer->window);
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
    build_window(&viewer);

    viewer.session = spice_session_new();
    g_object_set(viewer.session, "uri", argv[1], NULL);
    g_signal_connect(viewer.session, "channel-new", G_CALLBACK(on_channel_new), &viewer);
    viewer.finding = g_cancellable_new();
    spice_qmp_port_find_async(viewer.session, viewer.finding, on_found, &viewer);

    gtk_main();

    gtk_widget_destroy(viewer.window);
    g_clear_object(&viewer.port);
    g_clear_object(&viewer.actions);
    g_clear_object(&viewer.session);
    return 0;
}
