/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Prints why a machine does not run, and again when that changes: conditions ADDRESS
 * The address is that of a QMP socket or of a SPICE server. It ends with its standard
 * input. */
#include "common.h"

static const char *
nick(GType type, int value)
{
    GEnumClass *klass = g_type_class_ref(type);
    const char *nick = g_enum_get_value(klass, value)->value_nick;

    /* The names are static. */
    g_type_class_unref(klass);
    return nick;
}

static void
show(SpiceQmpMachine *machine)
{
    g_autoptr(SpiceQmpCondition) condition = spice_qmp_machine_dup_condition(machine);
    const char *subject = condition ? spice_qmp_condition_get_subject(condition) : NULL;

    if (condition)
        g_print("%s|%s|%s|%s\n",
                nick(SPICE_TYPE_QMP_CONDITION_CODE, spice_qmp_condition_get_code(condition)),
                nick(SPICE_TYPE_QMP_CONDITION_SEVERITY,
                     spice_qmp_condition_get_severity(condition)),
                subject ? subject : "", spice_qmp_condition_get_message(condition));
    else
        g_print("none\n");
}

static SpiceQmpPort *
open_port(const char *address)
{
    SpiceQmpPort *port;
    GError *error = NULL;
    Reply reply = { 0 };

    spice_qmp_port_open_async(address, NULL, on_reply, &reply);
    await(&reply);
    port = spice_qmp_port_open_finish(reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    return port;
}

static SpiceQmpPort *
find_port(SpiceSession *session)
{
    SpiceQmpPort *port;
    GError *error = NULL;
    Reply reply = { 0 };

    spice_qmp_port_find_async(session, NULL, on_reply, &reply);
    await(&reply);
    port = spice_qmp_port_find_finish(reply.result, &error);
    g_assert_no_error(error);
    forget(&reply);
    return port;
}

/* QEMU may crash if a SPICE client disconnects with a command unanswered. */
static void
close_port(SpiceQmpPort *port)
{
    Reply reply = { 0 };

    spice_qmp_port_close_async(port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(spice_qmp_port_close_finish(port, reply.result, NULL));
    forget(&reply);
}

static gboolean
on_input(GIOChannel *channel G_GNUC_UNUSED, GIOCondition condition G_GNUC_UNUSED,
         gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

int
main(int argc, char **argv)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    g_autoptr(GIOChannel) input = g_io_channel_unix_new(0);
    g_autoptr(SpiceQmpMachine) machine = NULL;
    SpiceSession *session = NULL;
    SpiceQmpPort *port;

    g_assert_cmpint(argc, ==, 2);
    if (g_str_has_prefix(argv[1], "spice")) {
        session = spice_session_new();
        g_object_set(session, "uri", argv[1], NULL);
        port = find_port(session);
    } else {
        port = open_port(argv[1]);
    }
    machine = spice_qmp_machine_new(port);
    g_object_unref(port);
    g_signal_connect(machine, "notify::condition", G_CALLBACK(show), NULL);
    show(machine);
    g_io_add_watch(input, G_IO_IN | G_IO_HUP, on_input, loop);
    g_main_loop_run(loop);
    close_port(spice_qmp_machine_get_port(machine));
    if (session)
        spice_session_disconnect(session);
    g_clear_object(&session);
    return 0;
}
