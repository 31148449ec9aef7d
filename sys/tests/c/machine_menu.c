/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A GTK module for remote-viewer 11.0, which never enables its Machine menu: it
 * looks whether there is a QMP port just before it asks for one, with any helper.
 * This makes it look again. */
#include <gio/gio.h>

static gboolean
look_again(gpointer data G_GNUC_UNUSED)
{
    GApplication *app = g_application_get_default();
    gboolean vm_ui = FALSE;

    if (app)
        g_object_get(app, "vm-ui", &vm_ui, NULL);
    if (vm_ui)
        g_object_set(app, "vm-ui", TRUE, NULL);
    return !vm_ui;
}

G_MODULE_EXPORT void gtk_module_init(int *argc, char ***argv);

void
gtk_module_init(int *argc G_GNUC_UNUSED, char ***argv G_GNUC_UNUSED)
{
    g_timeout_add(100, look_again, NULL);
}
