/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A small SPICE viewer: the machine's screen, a power menu, why it stopped, discs to
 * change, snapshots, and the progress of what QEMU does in the background.
 *
 *     cc viewer.c -o viewer $(pkg-config --cflags --libs spice-qmp-1.0 spice-client-gtk-3.0)
 *     ./viewer spice://localhost:5900
 *
 * The actions and lists are the machine's own, and follow it. Nothing here polls or waits. */
#include <spice-client-gtk.h>
#include <spice-qmp/spice-qmp.h>

#define ITEM(label, action)                                                                       \
    "<item><attribute name='label'>" label "</attribute>"                                         \
    "<attribute name='action'>vm." action "</attribute></item>"
#define PROPERTY(name, value) "<property name='" name "'>" value "</property>"
#define OBJECT(type, id) "<child><object class='" type "' id='" id "'>"
#define BUTTON(id, label) OBJECT("GtkButton", id) PROPERTY("label", label) SHOWN END
#define MENU(id, label)                                                                           \
    OBJECT("GtkMenuButton", id "_button") PROPERTY("label", label)                                \
    PROPERTY("popover", id "_menu") END
#define SHOWN PROPERTY("visible", "1")
#define END "</object></child>"

static const char WINDOW[] = "<interface><menu id='menu'>" ITEM("Pause", "pause")
    ITEM("Reset", "reset") ITEM("Power down", "power-down") ITEM("Wake up", "wakeup")
    ITEM("Force off", "quit") "</menu>"
    "<object class='GtkPopover' id='drives_menu'>"
    OBJECT("GtkListBox", "drives") PROPERTY("selection-mode", "none") SHOWN END "</object>"
    "<object class='GtkPopover' id='snapshots_menu'>"
    OBJECT("GtkBox", "box") PROPERTY("orientation", "vertical") PROPERTY("margin", "6") SHOWN
    OBJECT("GtkListBox", "snapshots") PROPERTY("selection-mode", "none") SHOWN END
    OBJECT("GtkEntry", "tag") PROPERTY("placeholder-text", "Name") SHOWN END
    BUTTON("save", "Save") BUTTON("load", "Load") BUTTON("delete", "Delete") END "</object>"
    "<object class='GtkWindow' id='window'>" PROPERTY("default-width", "1000")
    PROPERTY("default-height", "480") "<child type='titlebar'><object class='GtkHeaderBar'>"
    PROPERTY("title", "Virtual machine") PROPERTY("show-close-button", "1")
    OBJECT("GtkMenuButton", "button") PROPERTY("label", "Power") PROPERTY("menu-model", "menu") END
    MENU("drives", "Change disc") MENU("snapshots", "Snapshots")
    OBJECT("GtkLabel", "state") PROPERTY("label", "connecting") END END
    OBJECT("GtkBox", "content") PROPERTY("orientation", "vertical")
    OBJECT("GtkInfoBar", "bar") PROPERTY("revealed", "0")
    "<child internal-child='content_area'><object class='GtkBox' id='area'>"
    OBJECT("GtkLabel", "bar_text") PROPERTY("wrap", "1") END END END
    OBJECT("GtkListBox", "jobs") PROPERTY("selection-mode", "none") END
    OBJECT("GtkStack", "screen") PROPERTY("vexpand", "1")
    OBJECT("GtkLabel", "none") PROPERTY("label", "No screen") END END END "</object></interface>";

typedef struct {
    SpiceSession *session;
    GCancellable *finding; /* NULL once the port is found, or there is none */
    SpiceQmpPort *port;
    SpiceQmpMachine *machine;
    gboolean leaving;
    GtkWidget *window, *button, *state, *bar, *bar_text, *screen, *jobs, *drives, *drives_button;
    GtkWidget *snapshots, *snapshots_button, *tag, *save, *load, *delete;
} Viewer;

/* --- what the machine says --------------------------------------------------- */

static void
show_banner(Viewer *viewer, GtkMessageType type, const char *text)
{
    gtk_info_bar_set_message_type(GTK_INFO_BAR(viewer->bar), type);
    gtk_label_set_text(GTK_LABEL(viewer->bar_text), text);
    gtk_info_bar_set_revealed(GTK_INFO_BAR(viewer->bar), text[0] != '\0');
}

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

/* --- drives, snapshots and jobs: lists that keep themselves up to date --------- */

/* Its texts follow these properties. */
static GtkWidget *
new_row(gpointer item, gpointer properties)
{
    GtkWidget *row = g_object_new(GTK_TYPE_BOX, "spacing", 12, "margin", 6, "visible", TRUE, NULL);

    for (const char **property = properties; *property; property++) {
        GtkWidget *label = g_object_new(GTK_TYPE_LABEL, "visible", TRUE, NULL);
        g_object_bind_property(item, *property, label, "label", G_BINDING_SYNC_CREATE);
        gtk_container_add(GTK_CONTAINER(row), label);
    }
    return row;
}

static GtkWidget *
new_job(gpointer job, gpointer data G_GNUC_UNUSED)
{
    GtkWidget *bar = g_object_new(GTK_TYPE_PROGRESS_BAR, "show-text", TRUE, "visible", TRUE, NULL);

    g_object_bind_property(job, "kind", bar, "text", G_BINDING_SYNC_CREATE);
    g_object_bind_property(job, "progress", bar, "fraction", G_BINDING_SYNC_CREATE);
    return bar;
}

#define DEFINE_ENDED(call)                                                                        \
    static void on_##call##_ended(GObject *source, GAsyncResult *result, gpointer viewer)         \
    {                                                                                             \
        g_autoptr(GError) error = NULL;                                                           \
        if (!spice_qmp_##call##_finish((gpointer) source, result, &error))                        \
            show_failure(viewer, NULL, error);                                                    \
    }
DEFINE_ENDED(drive_insert)

static void
on_file(GtkFileChooser *chooser, int response, Viewer *viewer)
{
    g_autofree char *file = gtk_file_chooser_get_filename(chooser);

    /* As `raw`: QEMU must not guess the format of a file that others may have written. */
    if (response == GTK_RESPONSE_ACCEPT)
        spice_qmp_drive_insert_async(g_object_get_data(G_OBJECT(chooser), "drive"), file, "raw",
                                     SPICE_QMP_INSERT_FLAGS_READ_ONLY, NULL,
                                     on_drive_insert_ended, viewer);
    g_object_unref(chooser);
}

static void
on_drive(GtkListBox *list G_GNUC_UNUSED, GtkListBoxRow *row, Viewer *viewer)
{
    GtkFileChooserNative *chooser = gtk_file_chooser_native_new(
        "Change disc", GTK_WINDOW(viewer->window), GTK_FILE_CHOOSER_ACTION_OPEN, NULL, NULL);
    GListModel *drives = G_LIST_MODEL(spice_qmp_machine_get_drives(viewer->machine));

    g_object_set_data_full(G_OBJECT(chooser), "drive",
                           g_list_model_get_item(drives, gtk_list_box_row_get_index(row)),
                           g_object_unref);
    g_signal_connect(chooser, "response", G_CALLBACK(on_file), viewer);
    gtk_native_dialog_show(GTK_NATIVE_DIALOG(chooser));
}

static void
on_snapshot(GtkListBox *list G_GNUC_UNUSED, GtkListBoxRow *row, Viewer *viewer)
{
    GListModel *all = G_LIST_MODEL(spice_qmp_machine_get_snapshots(viewer->machine));
    g_autoptr(SpiceQmpSnapshot) it = g_list_model_get_item(all, gtk_list_box_row_get_index(row));
    g_autofree char *tag = spice_qmp_snapshot_dup_tag(it);

    gtk_entry_set_text(GTK_ENTRY(viewer->tag), tag);
}

/* What the buttons do with the snapshot whose name was entered or clicked on. */
#define DEFINE_SNAPSHOT_BUTTON(what)                                                              \
    DEFINE_ENDED(machine_##what##_snapshot)                                                       \
    static void on_##what(Viewer *viewer)                                                         \
    {                                                                                             \
        const char *tag = gtk_entry_get_text(GTK_ENTRY(viewer->tag));                             \
        spice_qmp_machine_##what##_snapshot_async(viewer->machine, tag, NULL,                     \
                                                  on_machine_##what##_snapshot_ended, viewer);    \
    }
DEFINE_SNAPSHOT_BUTTON(save)
DEFINE_SNAPSHOT_BUTTON(load)
DEFINE_SNAPSHOT_BUTTON(delete)

static void
show_lists(Viewer *viewer)
{
    static const char *drive[] = { "name", "medium", NULL }, *snapshot[] = { "tag", NULL };
    SpiceQmpList *drives = spice_qmp_machine_get_drives(viewer->machine);
    SpiceQmpList *snapshots = spice_qmp_machine_get_snapshots(viewer->machine);
    SpiceQmpList *jobs = spice_qmp_machine_get_jobs(viewer->machine);
    GCallback refresh = G_CALLBACK(spice_qmp_list_refresh); /* QEMU does not report all changes */

#define BIND(list, new_row, data)                                                                 \
    gtk_list_box_bind_model(GTK_LIST_BOX(viewer->list), G_LIST_MODEL(list), new_row, data, NULL)
    BIND(drives, new_row, drive), BIND(snapshots, new_row, snapshot), BIND(jobs, new_job, NULL);
    g_signal_connect_swapped(viewer->drives_button, "toggled", refresh, drives);
    g_signal_connect_swapped(viewer->snapshots_button, "toggled", refresh, snapshots);
    g_signal_connect(viewer->drives, "row-activated", G_CALLBACK(on_drive), viewer);
    g_signal_connect(viewer->snapshots, "row-activated", G_CALLBACK(on_snapshot), viewer);
    g_signal_connect_swapped(viewer->save, "clicked", G_CALLBACK(on_save), viewer);
    g_signal_connect_swapped(viewer->load, "clicked", G_CALLBACK(on_load), viewer);
    g_signal_connect_swapped(viewer->delete, "clicked", G_CALLBACK(on_delete), viewer);
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
    show_condition(viewer);
    show_status(viewer);
    show_lists(viewer);
}

static gboolean
on_close(GtkWidget *window, GdkEvent *event G_GNUC_UNUSED, Viewer *viewer)
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
    WIDGET(screen), WIDGET(jobs), WIDGET(drives), WIDGET(drives_button), WIDGET(snapshots);
    WIDGET(snapshots_button), WIDGET(tag), WIDGET(save), WIDGET(load), WIDGET(delete);
    g_signal_connect(viewer.window, "delete-event", G_CALLBACK(on_close), &viewer);
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
