/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Pauses a virtual machine and resumes it, over any transport: pause ADDRESS
 *
 * ADDRESS is spice://host:port, unix:/path, tcp:host:port, dbus:NAME or another one of
 * SpiceQmpConnector's. cc pause.c -o pause $(pkg-config --cflags --libs spice-qmp-1.0) */
#include <spice-qmp/spice-qmp.h>

static GMainLoop *loop;
static int exit_code = 1;

static void
on_closed(GObject *port, GAsyncResult *result G_GNUC_UNUSED, gpointer data G_GNUC_UNUSED)
{
    g_object_unref(port);
    g_main_loop_quit(loop);
}

static void
on_done(GObject *source, GAsyncResult *result, gpointer resumed)
{
    SpiceQmpPort *port = SPICE_QMP_PORT(source);
    g_autoptr(GError) error = NULL;

    if (!spice_qmp_port_vm_action_finish(port, result, &error)) {
        g_printerr("pause: %s\n", error->message);
    } else if (!resumed) {
        g_print("paused\n");
        spice_qmp_port_vm_action_async(port, SPICE_QMP_PORT_VM_ACTION_CONTINUE, NULL, on_done, port);
        return;
    } else {
        exit_code = 0;
        g_print("running\n");
    }
    spice_qmp_port_close_async(port, NULL, on_closed, NULL);
}

static void
on_opened(GObject *connector, GAsyncResult *result, gpointer data G_GNUC_UNUSED)
{
    g_autoptr(GError) error = NULL;
    SpiceQmpPort *port = spice_qmp_connector_open_finish(SPICE_QMP_CONNECTOR(connector), result, &error);

    if (!port) {
        g_printerr("pause: %s\n", error->message);
        g_main_loop_quit(loop);
        return;
    }
    spice_qmp_port_set_command_timeout(port, 10000);
    spice_qmp_port_vm_action_async(port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL, on_done, NULL);
}

int
main(int argc, char **argv)
{
    g_autoptr(SpiceQmpConnector) connector = spice_qmp_connector_new(argc == 2 ? argv[1] : NULL);

    loop = g_main_loop_new(NULL, FALSE);
    spice_qmp_connector_open_async(connector, NULL, on_opened, NULL);
    g_main_loop_run(loop);
    return exit_code;
}
