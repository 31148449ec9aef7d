/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A server that puts a NUL into one of the strings that it sends, each in turn: C's strings
 * end there. Nothing aborts, and nothing is cut. */
#include "server.h"

typedef struct {
    guint texts;   /* that came */
    guint replaced; /* of which so many have another character for the NUL */
} Seen;

/* Takes the text, or NULL. The NUL was put at its start. */
static void
see(Seen *seen, char *text)
{
    if (!text)
        return;
    g_assert_true(g_utf8_validate(text, -1, NULL));
    g_assert_cmpstr(text, !=, "");
    seen->texts++;
    seen->replaced += strstr(text, "\xef\xbf\xbd") != NULL;
    g_free(text);
}

/* Takes the error, or NULL. */
static void
see_error(Seen *seen, GError *error)
{
    if (!error)
        return;
    see(seen, g_strdup(error->message));
    g_error_free(error);
}

static void
see_strings(Seen *seen, gpointer object)
{
    guint i, count;
    GParamSpec **properties =
        g_object_class_list_properties(G_OBJECT_GET_CLASS(object), &count);

    for (i = 0; i < count; i++)
        if (properties[i]->value_type == G_TYPE_STRING &&
            (properties[i]->flags & G_PARAM_READABLE)) {
            char *text;

            g_object_get(object, properties[i]->name, &text, NULL);
            see(seen, text);
        }
    g_free(properties);
}

static void
see_items(Seen *seen, SpiceQmpList *list)
{
    guint i, count = g_list_model_get_n_items(G_LIST_MODEL(list));

    see_error(seen, spice_qmp_list_dup_error(list));
    for (i = 0; i < count; i++) {
        GObject *item = g_list_model_get_item(G_LIST_MODEL(list), i);

        see_strings(seen, item);
        g_object_unref(item);
    }
}

static void
see_condition(Seen *seen, SpiceQmpMachine *machine)
{
    SpiceQmpCondition *condition = spice_qmp_machine_dup_condition(machine);

    if (!condition)
        return;
    see(seen, g_strdup(spice_qmp_condition_get_subject(condition)));
    see(seen, g_strdup(spice_qmp_condition_get_message(condition)));
    see(seen, g_strdup(spice_qmp_condition_get_detail(condition)));
    spice_qmp_condition_unref(condition);
}

static void
on_event(SpiceQmpPort *port G_GNUC_UNUSED, const char *name, gpointer node G_GNUC_UNUSED,
         gpointer seen)
{
    see(seen, g_strdup(name));
}

static void
on_qmp_event(SpiceQmpPort *port G_GNUC_UNUSED, SpiceQmpEvent *event, gpointer seen)
{
    see(seen, g_strdup(spice_qmp_event_get_name(event)));
    see(seen, g_strdup(spice_qmp_event_get_data(event)));
}

static void
refused(GObject *port, GAsyncResult *result, gpointer seen)
{
    GError *error = NULL;

    see(seen, spice_qmp_port_execute_finish(SPICE_QMP_PORT(port), result, &error));
    see_error(seen, error);
}

static void
schema_loaded(GObject *machine, GAsyncResult *result, gpointer seen)
{
    GError *error = NULL;
    SpiceQmpSchema *schema =
        spice_qmp_machine_load_schema_finish(SPICE_QMP_MACHINE(machine), result, &error);

    see_error(seen, error);
    if (schema) {
        char **names = spice_qmp_schema_list_commands(schema);
        guint i;

        for (i = 0; names[i]; i++)
            see(seen, g_strdup(names[i]));
        g_strfreev(names);
        spice_qmp_schema_unref(schema);
    }
}

static void
job_ended(GObject *machine, GAsyncResult *result, gpointer seen)
{
    GError *error = NULL;

    spice_qmp_machine_run_job_finish(SPICE_QMP_MACHINE(machine), result, &error);
    see_error(seen, error);
}

static void
snapshot_loaded(GObject *machine, GAsyncResult *result, gpointer seen)
{
    GError *error = NULL;

    spice_qmp_machine_load_snapshot_finish(SPICE_QMP_MACHINE(machine), result, &error);
    see_error(seen, error);
}

static void
capabilities(Seen *seen, SpiceQmpPort *port)
{
    char **names = spice_qmp_port_dup_capabilities(port);
    guint i;

    for (i = 0; names && names[i]; i++)
        see(seen, g_strdup(names[i]));
    g_strfreev(names);
}

/* Whether a string of this number was sent. */
static gboolean
lies(guint number, Seen *seen)
{
    GIOStream *client;
    Server *server = server_pair(&client);
    SpiceQmpPort *port = spice_qmp_port_new_for_stream(client);
    SpiceQmpMachine *machine = spice_qmp_machine_new(port);
    GCancellable *cancellable = g_cancellable_new();
    SpiceQmpList *lists[3];
    gboolean sent, freed;
    guint i;

    server->lie = number;
    server->oob = TRUE;
    server->medium = g_strdup("old.iso");
    server->snapshots = g_strdup("[{\"id\": \"1\", \"name\": \"s\", \"vm-state-size\": 9,"
                                 " \"date-sec\": 1, \"date-nsec\": 0, \"vm-clock-sec\": 1,"
                                 " \"vm-clock-nsec\": 1}]");
    server->snapshot_error = "no memory";
    server->jobs = "[{\"id\": \"j\", \"type\": \"backup\", \"status\": \"concluded\","
                   " \"current-progress\": 1, \"total-progress\": 2, \"error\": \"no space\"}]";
    g_signal_connect(port, "event", G_CALLBACK(on_event), seen);
    g_signal_connect(port, "qmp-event", G_CALLBACK(on_qmp_event), seen);
    server_greet(server);
    settle();

    lists[0] = spice_qmp_machine_get_drives(machine);
    lists[1] = spice_qmp_machine_get_jobs(machine);
    lists[2] = spice_qmp_machine_get_snapshots(machine);
    for (i = 0; i < G_N_ELEMENTS(lists); i++)
        g_list_model_get_n_items(G_LIST_MODEL(lists[i]));
    settle();
    spice_qmp_machine_load_schema_async(machine, cancellable, schema_loaded, seen);
    spice_qmp_port_execute_async(port, "refuse", "{\"class\": \"X\", \"desc\": \"never\"}",
                                 cancellable, refused, seen);
    spice_qmp_machine_run_job_async(machine, "block-stream", "{\"job-id\": \"j\"}", NULL, NULL,
                                    NULL, cancellable, job_ended, seen);
    settle();
    server->jobs = NULL;
    spice_qmp_machine_load_snapshot_async(machine, "s", cancellable, snapshot_loaded, seen);
    settle();
    server_event(server, "JOB_STATUS_CHANGE", "{\"id\": \"j\", \"status\": \"aborting\"}");
    server_event(server, "BLOCK_IO_ERROR",
                 "{\"device\": \"\", \"node-name\": \"n0\", \"qom-path\": \"/machine/x\","
                 " \"operation\": \"write\", \"action\": \"stop\", \"reason\": \"broken\"}");
    settle();
    see_condition(seen, machine);
    for (i = 0; i < G_N_ELEMENTS(lists); i++)
        see_items(seen, lists[i]);
    see_strings(seen, port);
    see_error(seen, spice_qmp_port_dup_last_error(port));
    capabilities(seen, port);
    sent = server->lie == 0;

    /* What a lie about an id has left to wait. */
    g_cancellable_cancel(cancellable);
    settle();
    g_object_unref(cancellable);
    watch(port, &freed);
    g_object_unref(machine);
    g_object_unref(port);
    server->snapshot_error = NULL;
    server->jobs = NULL;
    server_hang_up(server);
    WAIT_UNTIL(freed);
    g_object_unref(client);
    server_free(server);
    settle();
    return sent;
}

static void
test_each_string(void)
{
    guint number = 0, shown = 0;
    Seen seen;

    do {
        seen = (Seen) { 0 };
        number++;
        if (!lies(number, &seen))
            break;
        shown += seen.replaced > 0;
    } while (TRUE);
    g_test_message("%u strings, of which %u are shown", number - 1, shown);
    g_assert_cmpuint(number, >, 50);
    g_assert_cmpuint(shown, >, 10);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nul/each-string", test_each_string);
    return g_test_run();
}
