/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Makes calls of the C library for the fault matrix, one per line of input;
 * each is answered by one line.
 *
 *   connect PATH       a port on a stream to this socket
 *   open PATH          a port by spice_qmp_port_open_async()
 *   drives             asks for the list of drives, for insert
 *   call SLOT WHAT HOW LONG TIMEOUT
 *                      WHAT: status, execute, variant, action, menu, supports, list,
 *                      run-job, insert, snapshot, wait, close; variant also waits for an
 *                      event, until the call has ended
 *                      HOW: callback, null, unref, nested
 *   cancel SLOT        cancels that call
 *   settle, idle       lets all happen that is due; waits for a little while
 *   report             the state, -1 without a port; the calls that are pending;
 *                      for each end SLOT:DOMAIN:CODE, or SLOT:ok:0
 *   forget, drop       forgets the ends; gives the reference to the port up
 *   unnest             leaves the main loop that a callback runs
 *
 * With the argument "other" the port belongs to a main context that is the thread's
 * default only while the port is made: afterwards it is another one, which is never run
 * and on which nothing may ever wait.
 *
 * A callback that runs a main loop answers "nested" for the command in which it
 * came, and serves the next ones itself until it is asked to leave.
 */
#include <stdio.h>
#include <sys/socket.h>

#include <gio/gunixsocketaddress.h>

#include "common.h"

#define MAX_MESSAGE 4096
#define SLOTS 8
/* More iterations than this without a pause are a busy loop. */
#define BUSY 100000

typedef struct {
    int number;
    char what[16];
    char how[16];
    GCancellable *cancellable;
    GCancellable *waiting; /* for an event that never comes */
    SpiceQmpList *list;    /* one that is loading */
} Slot;

static Slot slots[SLOTS];
static GString *ends;
static SpiceQmpPort *port;
static gboolean gone = TRUE;
/* For insert. */
static SpiceQmpList *drives;
/* Waits for events that have not ended. */
static int waits;
/* The port's, and the one that is pushed instead; NULL is the default. */
static GMainContext *context;
static GMainContext *other;

static void serve(void);

static void
answer(const char *text)
{
    puts(text);
    fflush(stdout);
}

static void
on_event(SpiceQmpPort *source G_GNUC_UNUSED, const char *name, gpointer node,
         gpointer data G_GNUC_UNUSED)
{
    g_assert_nonnull(name);
    g_assert_true(node == NULL || JSON_NODE_HOLDS_OBJECT(node));
}

static void
on_qmp_event(SpiceQmpPort *source G_GNUC_UNUSED, SpiceQmpEvent *event,
             gpointer data G_GNUC_UNUSED)
{
    g_assert_nonnull(spice_qmp_event_get_name(event));
}

/* Takes the reference. */
static void
use_port(SpiceQmpPort *new_port)
{
    port = new_port;
    watch(port, &gone);
    g_object_set(port, "max-message-size", (guint64) MAX_MESSAGE, NULL);
    g_signal_connect(port, "event", G_CALLBACK(on_event), NULL);
    g_signal_connect(port, "qmp-event", G_CALLBACK(on_qmp_event), NULL);
}

static void
connect_to(const char *path)
{
    GError *error = NULL;
    GSocketClient *client = g_socket_client_new();
    GSocketAddress *address = g_unix_socket_address_new(path);
    GSocketConnection *connection;

    connection = g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address), NULL,
                                         &error);
    g_assert_no_error(error);
    /* As small as possible: a write that is not read must not end. */
    g_socket_set_option(g_socket_connection_get_socket(connection), SOL_SOCKET,
                        SO_SNDBUF, 1, &error);
    g_assert_no_error(error);
    use_port(spice_qmp_port_new_for_stream(G_IO_STREAM(connection)));
    g_object_unref(connection);
    g_object_unref(address);
    g_object_unref(client);
}

static void
opened(GObject *source G_GNUC_UNUSED, GAsyncResult *result,
       gpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;
    SpiceQmpPort *new_port = spice_qmp_port_open_finish(result, &error);

    g_assert_no_error(error);
    use_port(new_port);
}

/* Whether the answer is the right one, for calls that have one. */
static gboolean
finish(const char *what, SpiceQmpPort *source, GAsyncResult *result, GError **error)
{
    gboolean right = TRUE;

    if (g_str_equal(what, "status")) {
        SpiceQmpStatus *status = spice_qmp_port_query_status_finish(source, result, error);

        if (status) {
            right = status->running;
            spice_qmp_status_unref(status);
        }
    } else if (g_str_equal(what, "execute")) {
        char *text = spice_qmp_port_execute_finish(source, result, error);

        right = text && strstr(text, "\"running\":true") != NULL;
        g_free(text);
    } else if (g_str_equal(what, "variant")) {
        GVariant *variant =
            spice_qmp_port_execute_variant_finish(source, result, error);

        right = variant && g_variant_lookup(variant, "running", "b", &right) && right;
        g_clear_pointer(&variant, g_variant_unref);
    } else if (g_str_equal(what, "action")) {
        spice_qmp_port_vm_action_finish(source, result, error);
    } else if (g_str_equal(what, "wait")) {
        spice_qmp_port_wait_ready_finish(source, result, error);
    } else {
        g_assert_cmpstr(what, ==, "close");
        spice_qmp_port_close_finish(source, result, error);
    }
    return right;
}

/* Each wait for an event ends once, with the connection or by being cancelled. */
static void
waited(GObject *source, GAsyncResult *result, gpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;

    g_assert_null(spice_qmp_port_wait_event_finish(SPICE_QMP_PORT(source), result, &error));
    g_assert_nonnull(error);
    g_error_free(error);
    g_assert_cmpint(waits--, >, 0);
}

static void
wait_for_event(Slot *slot)
{
    static const char *const NEVER[] = { "NEVER", NULL };

    g_clear_object(&slot->waiting);
    slot->waiting = g_cancellable_new();
    waits++;
    spice_qmp_port_wait_event_async(port, NEVER, 0, slot->waiting, waited, NULL);
}

/* The menu of a viewer, which is closed at once. */
static void
pause_by_menu(void)
{
    SpiceQmpMachine *machine = spice_qmp_machine_new(port);

    g_action_group_activate_action(G_ACTION_GROUP(machine), "pause", NULL);
    g_object_unref(machine);
}

/* Takes the error. */
static void
note_end(Slot *slot, gboolean right, GError *error)
{
    g_string_append_printf(ends, " %d:%s:%d", slot->number,
                           error   ? g_quark_to_string(error->domain)
                           : right ? "ok"
                                   : "somebody-elses-answer",
                           error ? error->code : 0);
    g_clear_error(&error);
    if (g_str_equal(slot->how, "unref")) {
        g_clear_object(&port);
    } else if (g_str_equal(slot->how, "nested")) {
        answer("nested");
        serve();
    }
}

static void
ended(GObject *source, GAsyncResult *result, gpointer user_data)
{
    Slot *slot = user_data;
    GError *error = NULL;
    gboolean right = finish(slot->what, SPICE_QMP_PORT(source), result, &error);

    if (slot->waiting)
        g_cancellable_cancel(slot->waiting);
    note_end(slot, right, error);
}

static void
loaded(GObject *source, GAsyncResult *result, gpointer user_data)
{
    GError *error = NULL;
    SpiceQmpSchema *schema =
        spice_qmp_machine_load_schema_finish(SPICE_QMP_MACHINE(source), result, &error);
    gboolean right = schema && spice_qmp_schema_has_command(schema, "stop");

    g_clear_pointer(&schema, spice_qmp_schema_unref);
    note_end(user_data, right, error);
}

static void
list_changed(SpiceQmpList *list, GParamSpec *pspec G_GNUC_UNUSED, gpointer user_data)
{
    Slot *slot = user_data;
    SpiceQmpDrive *drive;
    GError *error;
    gboolean right = FALSE;

    if (spice_qmp_list_get_loading(list))
        return;
    /* It is loaded once. */
    g_assert_true(slot->list == list);
    error = spice_qmp_list_dup_error(list);
    drive = g_list_model_get_item(G_LIST_MODEL(list), 0);
    if (drive) {
        char *name = spice_qmp_drive_dup_name(drive);

        right = g_str_equal(name, "cd0");
        g_free(name);
        g_object_unref(drive);
    }
    g_clear_object(&slot->list);
    note_end(slot, right, error);
}

/* As a list view does. */
static void
show_drives(Slot *slot)
{
    SpiceQmpMachine *machine = spice_qmp_machine_new(port);

    g_assert_null(slot->list);
    slot->list = g_object_ref(spice_qmp_machine_get_drives(machine));
    g_object_unref(machine);
    g_signal_connect(slot->list, "notify::loading", G_CALLBACK(list_changed), slot);
    g_list_model_get_n_items(G_LIST_MODEL(slot->list));
}

static void
job_ended(GObject *source, GAsyncResult *result, gpointer user_data)
{
    GError *error = NULL;
    gboolean right =
        spice_qmp_machine_run_job_finish(SPICE_QMP_MACHINE(source), result, &error);

    note_end(user_data, right, error);
}

static void
snapshot_loaded(GObject *source, GAsyncResult *result, gpointer user_data)
{
    GError *error = NULL;
    gboolean right =
        spice_qmp_machine_load_snapshot_finish(SPICE_QMP_MACHINE(source), result, &error);

    note_end(user_data, right, error);
}

static void
inserted(GObject *source, GAsyncResult *result, gpointer user_data)
{
    GError *error = NULL;
    gboolean right = spice_qmp_drive_insert_finish(SPICE_QMP_DRIVE(source), result, &error);

    note_end(user_data, right, error);
}

/* Inserts a medium into the first drive, when there is one. */
static void
insert(Slot *slot)
{
    GError *error = spice_qmp_list_dup_error(drives);
    SpiceQmpDrive *drive = g_list_model_get_item(G_LIST_MODEL(drives), 0);

    if (drive && !error)
        spice_qmp_drive_insert_async(drive, "disc", NULL, SPICE_QMP_INSERT_FLAGS_NONE,
                                     slot->cancellable, inserted, slot);
    else
        note_end(slot, FALSE, error);
    g_clear_object(&drive);
}

static void
drives_changed(SpiceQmpList *list, GParamSpec *pspec G_GNUC_UNUSED, gpointer user_data)
{
    if (spice_qmp_list_get_loading(list))
        return;
    g_signal_handlers_disconnect_by_data(list, user_data);
    insert(user_data);
}

static void
ask_for_drives(void)
{
    SpiceQmpMachine *machine = spice_qmp_machine_new(port);

    g_assert_null(drives);
    drives = g_object_ref(spice_qmp_machine_get_drives(machine));
    g_object_unref(machine);
    g_list_model_get_n_items(G_LIST_MODEL(drives));
}

/* Arguments that do not fit into the buffer of the socket. */
static char *
long_arguments(void)
{
    char *fill = g_strnfill(16 << 10, 'x');
    char *arguments = g_strdup_printf("{\"text\": \"%s\"}", fill);

    g_free(fill);
    return arguments;
}

static GVariant *
long_variant(void)
{
    char *fill = g_strnfill(16 << 10, 'x');
    GVariant *arguments = g_variant_new_parsed("{'text': <%s>}", fill);

    g_free(fill);
    return arguments;
}

static void
call(int number, const char *what, const char *how, gboolean is_long, guint timeout)
{
    Slot *slot = &slots[number];
    GAsyncReadyCallback callback = g_str_equal(how, "null") ? NULL : ended;
    gpointer data = callback ? slot : NULL;
    GCancellable *cancellable;

    slot->number = number;
    g_strlcpy(slot->what, what, sizeof(slot->what));
    g_strlcpy(slot->how, how, sizeof(slot->how));
    g_clear_object(&slot->cancellable);
    slot->cancellable = g_cancellable_new();
    /* Without a callback, there is no cancelling either. */
    cancellable = callback ? slot->cancellable : NULL;
    g_object_set(port, "command-timeout", timeout, NULL);

    if (g_str_equal(what, "status")) {
        spice_qmp_port_query_status_async(port, cancellable, callback, data);
    } else if (g_str_equal(what, "execute")) {
        char *arguments = is_long ? long_arguments() : NULL;

        spice_qmp_port_execute_async(port, "query-status", arguments, cancellable,
                                     callback, data);
        g_free(arguments);
    } else if (g_str_equal(what, "menu")) {
        pause_by_menu();
    } else if (g_str_equal(what, "supports")) {
        SpiceQmpMachine *machine = spice_qmp_machine_new(port);

        spice_qmp_machine_load_schema_async(machine, cancellable, loaded, slot);
        g_object_unref(machine);
    } else if (g_str_equal(what, "list")) {
        show_drives(slot);
    } else if (g_str_equal(what, "insert")) {
        if (spice_qmp_list_get_loading(drives))
            g_signal_connect(drives, "notify::loading", G_CALLBACK(drives_changed), slot);
        else
            insert(slot);
    } else if (g_str_equal(what, "run-job")) {
        SpiceQmpMachine *machine = spice_qmp_machine_new(port);

        spice_qmp_machine_run_job_async(machine, "blockdev-backup", NULL, NULL, NULL, NULL,
                                        cancellable, job_ended, slot);
        g_object_unref(machine);
    } else if (g_str_equal(what, "snapshot")) {
        SpiceQmpMachine *machine = spice_qmp_machine_new(port);

        spice_qmp_machine_load_snapshot_async(machine, "s", cancellable, snapshot_loaded, slot);
        g_object_unref(machine);
    } else if (g_str_equal(what, "variant")) {
        wait_for_event(slot);
        spice_qmp_port_execute_variant_async(port, "query-status",
                                             is_long ? long_variant() : NULL,
                                             cancellable, callback, data);
    } else if (g_str_equal(what, "action")) {
        spice_qmp_port_vm_action_async(port, SPICE_QMP_PORT_VM_ACTION_PAUSE,
                                       cancellable, callback, data);
    } else if (g_str_equal(what, "wait")) {
        spice_qmp_port_wait_ready_async(port, cancellable, callback, data);
    } else {
        g_assert_cmpstr(what, ==, "close");
        spice_qmp_port_close_async(port, cancellable, callback, data);
    }
}

static void
let_all_happen(void)
{
    int turns = 0;

    while (g_main_context_iteration(context, FALSE))
        g_assert_cmpint(turns++, <, BUSY);
    g_assert_false(other && g_main_context_pending(other));
}

static void
idle(void)
{
    GSource *source = g_timeout_source_new(20);

    g_source_set_callback(source, tick, NULL, NULL);
    g_source_attach(source, context);
    g_main_context_iteration(context, TRUE);
    g_source_destroy(source);
    g_source_unref(source);
}

static void
report(void)
{
    /* A port that was dropped may still be in use by pending calls. */
    int state = port ? (int) spice_qmp_port_get_state(port) : -2;
    char *text;

    text = g_strdup_printf("%d %u%s", gone ? -1 : state,
                           port ? spice_qmp_port_get_pending(port) : 0, ends->str);
    answer(text);
    g_free(text);
}

/* Executes lines until the last, or until one that says to leave. */
static void
serve(void)
{
    char line[1024];

    while (fgets(line, sizeof(line), stdin)) {
        char **words = g_strsplit(g_strchomp(line), " ", -1);
        const char *command = words[0];
        gboolean leave = g_str_equal(command, "unnest");

        if (g_str_equal(command, "connect")) {
            g_main_context_push_thread_default(context);
            connect_to(words[1]);
            g_main_context_pop_thread_default(context);
        } else if (g_str_equal(command, "open")) {
            char *address = g_strconcat("unix:", words[1], NULL);

            g_main_context_push_thread_default(context);
            spice_qmp_port_open_async(address, NULL, opened, NULL);
            g_main_context_pop_thread_default(context);
            g_free(address);
        } else if (g_str_equal(command, "call")) {
            call(atoi(words[1]), words[2], words[3], atoi(words[4]), atoi(words[5]));
        } else if (g_str_equal(command, "cancel")) {
            g_cancellable_cancel(slots[atoi(words[1])].cancellable);
        } else if (g_str_equal(command, "settle")) {
            let_all_happen();
        } else if (g_str_equal(command, "idle")) {
            idle();
        } else if (g_str_equal(command, "forget")) {
            g_string_truncate(ends, 0);
        } else if (g_str_equal(command, "drives")) {
            ask_for_drives();
        } else if (g_str_equal(command, "drop")) {
            g_clear_object(&drives);
            g_clear_object(&port);
        } else if (!leave && !g_str_equal(command, "report")) {
            g_error("no such command: %s", command);
        }

        if (g_str_equal(command, "report"))
            report();
        else if (!leave)
            answer("ok");
        g_strfreev(words);
        /* The command in which the main loop began is answered now. */
        if (leave)
            return;
    }
}

int
main(int argc, char **argv)
{
    int i;

    if (argc > 1) {
        g_assert_cmpstr(argv[1], ==, "other");
        context = g_main_context_new();
        other = g_main_context_new();
        g_main_context_push_thread_default(other);
    }
    ends = g_string_new(NULL);
    serve();
    g_clear_object(&drives);
    g_clear_object(&port);
    let_all_happen();
    for (i = 0; i < SLOTS; i++) {
        g_clear_object(&slots[i].cancellable);
        g_clear_object(&slots[i].waiting);
        g_assert_null(slots[i].list);
    }
    g_assert_cmpint(waits, ==, 0);
    g_string_free(ends, TRUE);
    if (other) {
        g_main_context_pop_thread_default(other);
        g_main_context_unref(other);
        g_main_context_unref(context);
    }
    return gone ? 0 : 1;
}
