/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The snapshots of a machine, over a stream to a scripted server. */
#include "server.h"

typedef struct {
    Server *server;
    GIOStream *client;
    SpiceQmpPort *port;
    SpiceQmpMachine *machine;
    Reply reply;
} Fixture;

/* A snapshot as QEMU lists it. */
#define LISTED(tag, size)                                                      \
    "{\"id\": \"1\", \"name\": \"" tag "\", \"vm-state-size\": " size ","         \
    " \"date-sec\": 1700000000, \"date-nsec\": 0, \"vm-clock-sec\": 12,"       \
    " \"vm-clock-nsec\": 345678901}"

static void
set_up(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;

    f->server = server_pair(&f->client);
    f->server->snapshots = g_strdup("[" LISTED("old", "7") ", " LISTED("disk", "0") "]");
    f->port = spice_qmp_port_new_for_stream(f->client);
    f->machine = spice_qmp_machine_new(f->port);
    server_greet(f->server);
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    settle();
    g_string_truncate(f->server->log, 0);
}

/* Only the test's own references to either are left. */
static void
tear_down(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean port_freed, machine_freed;

    forget(&f->reply);
    watch(f->port, &port_freed);
    watch(f->machine, &machine_freed);
    g_object_unref(f->machine);
    WAIT_UNTIL(machine_freed);
    g_object_unref(f->port);
    WAIT_UNTIL(port_freed);
    g_object_unref(f->client);
    server_free(f->server);
    settle();
}

static void
test_list(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    SpiceQmpList *list = spice_qmp_machine_get_snapshots(f->machine);
    g_autoptr(SpiceQmpList) property = NULL;
    g_autoptr(SpiceQmpSnapshot) old = NULL;
    g_autoptr(SpiceQmpSnapshot) disk = NULL;
    g_autofree char *tag = NULL;

    g_object_get(f->machine, "snapshots", &property, NULL);
    g_assert_true(property == list && spice_qmp_machine_get_snapshots(f->machine) == list);
    g_assert_true(g_list_model_get_item_type(G_LIST_MODEL(list)) == SPICE_TYPE_QMP_SNAPSHOT);
    settle();
    g_assert_cmpstr(f->server->log->str, ==, "");

    WAIT_UNTIL(g_list_model_get_n_items(G_LIST_MODEL(list)) == 2);
    old = g_list_model_get_item(G_LIST_MODEL(list), 0);
    disk = g_list_model_get_item(G_LIST_MODEL(list), 1);
    tag = spice_qmp_snapshot_dup_tag(old);
    g_assert_cmpstr(tag, ==, "old");
    g_assert_cmpint(spice_qmp_snapshot_get_date(old), ==, 1700000000);
    g_assert_cmpint(spice_qmp_snapshot_get_clock(old), ==, 12345678);
    g_assert_cmpuint(spice_qmp_snapshot_get_state_size(old), ==, 7);
    g_assert_true(spice_qmp_snapshot_get_loadable(old));
    g_assert_cmpuint(spice_qmp_snapshot_get_state_size(disk), ==, 0);
    g_assert_false(spice_qmp_snapshot_get_loadable(disk));
}

/* A snapshot operation, and its end. */
typedef struct {
    void (*start)(SpiceQmpMachine *, const char *, GCancellable *, GAsyncReadyCallback, gpointer);
    gboolean (*finish)(SpiceQmpMachine *, GAsyncResult *, GError **);
    const char *name;
    const char *good; /* a name that it takes */
    const char *bad;
    const char *log;
} Deed;

static const Deed save = { spice_qmp_machine_save_snapshot_async,
                           spice_qmp_machine_save_snapshot_finish,
                           "spice_qmp_machine_save_snapshot_async",
                           "new",
                           "old",
                           "query-block snapshot-save query-jobs job-dismiss " };
static const Deed load = { spice_qmp_machine_load_snapshot_async,
                           spice_qmp_machine_load_snapshot_finish,
                           "spice_qmp_machine_load_snapshot_async",
                           "old",
                           "disk",
                           "query-block stop snapshot-load query-jobs job-dismiss " };
static const Deed delete = { spice_qmp_machine_delete_snapshot_async,
                             spice_qmp_machine_delete_snapshot_finish,
                             "spice_qmp_machine_delete_snapshot_async",
                             "disk",
                             "new",
                             "query-block snapshot-delete query-jobs job-dismiss " };

static gboolean
run(Fixture *f, const Deed *deed, const char *tag, GError **error)
{
    gboolean done;

    deed->start(f->machine, tag, NULL, on_reply, &f->reply);
    await(&f->reply);
    g_assert_true(f->reply.source == G_OBJECT(f->machine));
    done = deed->finish(f->machine, f->reply.result, error);
    forget(&f->reply);
    return done;
}

static void
test_deed(Fixture *f, gconstpointer data)
{
    const Deed *deed = data;
    g_autoptr(GError) error = NULL;

    g_assert_true(run(f, deed, deed->good, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(f->server->log->str, ==, deed->log);
    g_string_truncate(f->server->log, 0);

    g_assert_false(run(f, deed, deed->bad, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
    g_assert_nonnull(strstr(error->message, deed->bad));
    g_assert_cmpstr(f->server->log->str, ==, "query-block ");
    g_clear_error(&error);

    f->server->snapshot_error = "No luck";
    g_assert_false(run(f, deed, deed->good, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
    g_assert_nonnull(strstr(error->message, "No luck"));
    g_clear_error(&error);

    /* No callback is called. */
    g_string_truncate(f->server->log, 0);
    deed->start(f->machine, deed->good, NULL, NULL, NULL);
    WAIT_UNTIL(strcmp(f->server->log->str, deed->log) == 0);
    settle();

    expect_critical(deed->name, "SPICE_IS_QMP_MACHINE(machine)");
    deed->start((SpiceQmpMachine *) f->port, "old", NULL, on_reply, &f->reply);
    g_test_assert_expected_messages();
    await(&f->reply);
    forget(&f->reply);
    expect_critical(deed->name, "g_utf8_validate(tag)");
    deed->start(f->machine, NULL, NULL, NULL, NULL);
    expect_critical(deed->name, "g_utf8_validate(tag)");
    deed->start(f->machine, "\xff", NULL, NULL, NULL);
    g_test_assert_expected_messages();
}

/* It is done all the same. */
static void
test_cancel(Fixture *f, gconstpointer data)
{
    const Deed *deed = data;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;

    deed->start(f->machine, deed->good, cancellable, on_reply, &f->reply);
    WAIT_UNTIL(f->server->log->len > 0);
    g_cancellable_cancel(cancellable);
    await(&f->reply);
    g_assert_false(deed->finish(f->machine, f->reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    WAIT_UNTIL(strcmp(f->server->log->str, deed->log) == 0);
    settle();
}

static void
test_invalid(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autofree char *long_tag = g_strnfill(256, 'x');
    g_autoptr(GError) error = NULL;

    g_assert_false(run(f, &save, "", &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_false(run(f, &save, long_tag, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    expect_critical("spice_qmp_machine_get_snapshots", "SPICE_IS_QMP_MACHINE(machine)");
    g_assert_null(spice_qmp_machine_get_snapshots(NULL));
    expect_critical("spice_qmp_snapshot_dup_tag", "SPICE_IS_QMP_SNAPSHOT(snapshot)");
    g_assert_null(spice_qmp_snapshot_dup_tag((SpiceQmpSnapshot *) f->machine));
    g_test_assert_expected_messages();
}

static void
test_close(Fixture *f, gconstpointer data)
{
    const Deed *deed = data;
    g_autoptr(GError) error = NULL;

    deed->start(f->machine, deed->good, NULL, on_reply, &f->reply);
    WAIT_UNTIL(f->server->log->len > 0);
    server_hang_up(f->server);
    await(&f->reply);
    g_assert_false(deed->finish(f->machine, f->reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
}

#define TEST(name, data, function)                                             \
    g_test_add("/snapshots/" name, Fixture, data, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST("list", NULL, test_list);
    TEST("save", &save, test_deed);
    TEST("load", &load, test_deed);
    TEST("delete", &delete, test_deed);
    TEST("cancel-save", &save, test_cancel);
    TEST("cancel-load", &load, test_cancel);
    TEST("cancel-delete", &delete, test_cancel);
    TEST("invalid", NULL, test_invalid);
    TEST("close-save", &save, test_close);
    TEST("close-load", &load, test_close);
    return g_test_run();
}
