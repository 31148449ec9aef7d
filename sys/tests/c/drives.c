/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A machine's drives, over a stream to a scripted server. */
#include "server.h"

#include <fcntl.h>
#include <unistd.h>

typedef struct {
    Server *server;
    GIOStream *client;
    SpiceQmpPort *port;
    SpiceQmpList *list;
    SpiceQmpDrive *drive;
    Reply reply;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;
    SpiceQmpMachine *machine;

    f->server = server_pair(&f->client);
    f->server->medium = g_strdup("/old.iso");
    f->port = spice_qmp_port_new_for_stream(f->client);
    server_greet(f->server);
    wait_ready(f->port, &error);
    g_assert_no_error(error);
    machine = spice_qmp_machine_new(f->port);
    f->list = g_object_ref(spice_qmp_machine_get_drives(machine));
    g_assert_true(f->list == spice_qmp_machine_get_drives(machine));
    /* The list does not need it. */
    g_object_unref(machine);

    g_assert_false(spice_qmp_list_get_loading(f->list));
    g_assert_cmpuint(g_list_model_get_n_items(G_LIST_MODEL(f->list)), ==, 0);
    g_assert_true(spice_qmp_list_get_loading(f->list));
    WAIT_UNTIL(!spice_qmp_list_get_loading(f->list));
    g_assert_null(spice_qmp_list_dup_error(f->list));
    f->drive = g_list_model_get_item(G_LIST_MODEL(f->list), 0);
    g_assert_true(SPICE_IS_QMP_DRIVE(f->drive));
}

/* Only the test's own references are left. */
static void
tear_down(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    gboolean port_freed, list_freed, drive_freed;

    forget(&f->reply);
    watch(f->port, &port_freed);
    watch(f->list, &list_freed);
    watch(f->drive, &drive_freed);
    g_object_unref(f->list);
    g_assert_true(list_freed);
    g_assert_false(drive_freed);
    g_object_unref(f->drive);
    g_assert_true(drive_freed);
    g_object_unref(f->port);
    WAIT_UNTIL(port_freed);
    g_object_unref(f->client);
    server_free(f->server);
    settle();
}

static void
assert_medium(SpiceQmpDrive *drive, const char *expected)
{
    g_autofree char *medium = spice_qmp_drive_dup_medium(drive);

    g_assert_cmpstr(medium, ==, expected);
}

static gboolean
insert(Fixture *f, const char *file, SpiceQmpInsertFlags flags, GError **error)
{
    gboolean inserted;

    spice_qmp_drive_insert_async(f->drive, file, "raw", flags, NULL, on_reply, &f->reply);
    await(&f->reply);
    g_assert_true(f->reply.source == G_OBJECT(f->drive));
    inserted = spice_qmp_drive_insert_finish(f->drive, f->reply.result, error);
    forget(&f->reply);
    return inserted;
}

static gboolean
eject(Fixture *f, gboolean force, GError **error)
{
    gboolean ejected;

    spice_qmp_drive_eject_async(f->drive, force, NULL, on_reply, &f->reply);
    await(&f->reply);
    ejected = spice_qmp_drive_eject_finish(f->drive, f->reply.result, error);
    forget(&f->reply);
    return ejected;
}

static void
test_properties(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autofree char *id = spice_qmp_drive_dup_id(f->drive);
    g_autofree char *name = spice_qmp_drive_dup_name(f->drive);
    g_autofree char *io_status = spice_qmp_drive_dup_io_status(f->drive);

    g_assert_cmpuint(g_list_model_get_n_items(G_LIST_MODEL(f->list)), ==, 2);
    g_assert_true(g_list_model_get_item_type(G_LIST_MODEL(f->list)) == SPICE_TYPE_QMP_DRIVE);
    g_assert_null(g_list_model_get_item(G_LIST_MODEL(f->list), 2));
    g_assert_cmpstr(id, ==, "cd0");
    g_assert_cmpstr(name, ==, "cd0");
    g_assert_cmpstr(io_status, ==, "ok");
    g_assert_true(spice_qmp_drive_get_removable(f->drive));
    g_assert_true(spice_qmp_drive_get_read_only(f->drive));
    g_assert_false(spice_qmp_drive_get_locked(f->drive));
    g_assert_false(spice_qmp_drive_get_tray_open(f->drive));
    g_assert_null(spice_qmp_drive_dup_lost_medium(f->drive));
    assert_medium(f->drive, "/old.iso");
}

static void
note(GObject *drive G_GNUC_UNUSED, GParamSpec *property, GString *notes)
{
    g_string_append_printf(notes, "%s ", property->name);
}

static void
note_step(GListModel *list G_GNUC_UNUSED, guint at, guint removed, guint added, GString *notes)
{
    g_string_append_printf(notes, "%u-%u+%u ", at, removed, added);
}

static void
test_changes(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GString) notes = g_string_new(NULL);
    GError *error = NULL;

    g_signal_connect(f->drive, "notify::medium", G_CALLBACK(note), notes);
    g_signal_connect(f->list, "items-changed", G_CALLBACK(note_step), notes);
    g_string_truncate(f->server->log, 0);
    g_assert_true(insert(f, "/new.iso", SPICE_QMP_INSERT_FLAGS_READ_ONLY, &error));
    g_assert_no_error(error);
    assert_medium(f->drive, "/new.iso");
    g_assert_cmpstr(f->server->log->str, ==, "blockdev-change-medium query-block ");
    g_assert_true(eject(f, TRUE, &error));
    g_assert_no_error(error);
    assert_medium(f->drive, NULL);
    g_assert_cmpstr(notes->str, ==, "medium medium ");

    /* The other one is unplugged. */
    f->server->one_drive = TRUE;
    server_event(f->server, "DEVICE_DELETED", "{\"path\": \"x\", \"device\": \"fl0\"}");
    WAIT_UNTIL(strstr(notes->str, "1-1+0 "));
    f->server->one_drive = FALSE;
    spice_qmp_list_refresh(f->list);
    WAIT_UNTIL(!spice_qmp_list_get_loading(f->list));
    g_assert_cmpstr(notes->str, ==, "medium medium 1-1+0 1-0+1 ");
    g_signal_handlers_disconnect_by_data(f->drive, notes);
    g_signal_handlers_disconnect_by_data(f->list, notes);
}

static void
test_fd(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    int fd = open("/dev/null", O_RDONLY);
    GError *error = NULL;

    f->server->fdsets = TRUE;
    g_assert_cmpint(fd, >=, 0);
    g_string_truncate(f->server->log, 0);
    spice_qmp_drive_insert_fd_async(f->drive, fd, "disc", NULL, SPICE_QMP_INSERT_FLAGS_NONE,
                                    NULL, on_reply, &f->reply);
    /* It was duplicated. */
    close(fd);
    await(&f->reply);
    g_assert_true(spice_qmp_drive_insert_fd_finish(f->drive, f->reply.result, &error));
    g_assert_no_error(error);
    forget(&f->reply);
    assert_medium(f->drive, "/dev/fdset/3");
    g_assert_cmpstr(f->server->log->str, ==,
                    "add-fd blockdev-change-medium remove-fd query-block ");

    /* One that is not open. */
    spice_qmp_drive_insert_fd_async(f->drive, 1 << 20, "disc", "raw",
                                    SPICE_QMP_INSERT_FLAGS_READ_ONLY, NULL, on_reply, &f->reply);
    await(&f->reply);
    g_assert_false(spice_qmp_drive_insert_fd_finish(f->drive, f->reply.result, &error));
    forget(&f->reply);
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    expect_critical("spice_qmp_drive_insert_fd_async", "fd >= 0");
    spice_qmp_drive_insert_fd_async(f->drive, -1, "disc", NULL, SPICE_QMP_INSERT_FLAGS_NONE,
                                    NULL, on_reply, &f->reply);
    g_test_assert_expected_messages();
    await(&f->reply);
    g_assert_false(spice_qmp_drive_insert_fd_finish(NULL, f->reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    forget(&f->reply);
}

static void
test_errors(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;
    char *lost;

    g_assert_false(insert(f, "/none.iso", SPICE_QMP_INSERT_FLAGS_NONE, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
    g_clear_error(&error);
    assert_medium(f->drive, "/old.iso");

    /* The old medium is lost, and inserted again. */
    g_assert_false(insert(f, "/locked.img", SPICE_QMP_INSERT_FLAGS_NONE, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
    g_assert_nonnull(strstr(error->message, "/old.iso was removed"));
    g_clear_error(&error);
    assert_medium(f->drive, NULL);
    lost = spice_qmp_drive_dup_lost_medium(f->drive);
    g_assert_cmpstr(lost, ==, "/old.iso");
    g_assert_true(insert(f, lost, SPICE_QMP_INSERT_FLAGS_FORCE, &error));
    g_assert_no_error(error);
    g_free(lost);
    g_assert_null(spice_qmp_drive_dup_lost_medium(f->drive));

    f->server->broken = TRUE;
    spice_qmp_list_refresh(f->list);
    WAIT_UNTIL(!spice_qmp_list_get_loading(f->list));
    error = spice_qmp_list_dup_error(f->list);
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_PROTOCOL);
    g_clear_error(&error);
    g_assert_cmpuint(g_list_model_get_n_items(G_LIST_MODEL(f->list)), ==, 2);
}

static void
test_refused(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char *const checks[] = {
        "g_utf8_validate(file)",
        "(format.is_null() || g_utf8_validate(format))",
        "flags.are_sound()",
        "flags.are_sound()",
    };
    const int both = SPICE_QMP_INSERT_FLAGS_READ_ONLY | SPICE_QMP_INSERT_FLAGS_READ_WRITE;
    int i;

    for (i = 0; i < (int) G_N_ELEMENTS(checks); i++) {
        GError *error = NULL;

        expect_critical("spice_qmp_drive_insert_async", checks[i]);
        spice_qmp_drive_insert_async(f->drive, i == 0 ? NULL : "/a.iso", i == 1 ? "\xff" : NULL,
                                     (SpiceQmpInsertFlags) (i == 2 ? 1 << 20 : i == 3 ? both : 0),
                                     NULL, on_reply, &f->reply);
        g_test_assert_expected_messages();
        await(&f->reply);
        g_assert_false(spice_qmp_drive_insert_finish(NULL, f->reply.result, &error));
        g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
        g_clear_error(&error);
        forget(&f->reply);
    }
    expect_critical("spice_qmp_drive_eject_async", "SPICE_IS_QMP_DRIVE(drive)");
    spice_qmp_drive_eject_async(NULL, FALSE, NULL, NULL, NULL);
    expect_critical("spice_qmp_list_refresh", "SPICE_IS_QMP_LIST(list)");
    spice_qmp_list_refresh((SpiceQmpList *) f->drive);
    expect_critical("spice_qmp_machine_get_drives", "SPICE_IS_QMP_MACHINE(machine)");
    g_assert_null(spice_qmp_machine_get_drives(NULL));
    g_test_assert_expected_messages();
}

static void
test_cancelled(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    GError *error = NULL;

    /* The server does not answer this one. */
    spice_qmp_drive_insert_async(f->drive, "/silent", NULL, SPICE_QMP_INSERT_FLAGS_NONE,
                                 cancellable, on_reply, &f->reply);
    WAIT_UNTIL(strstr(f->server->log->str, "blockdev-change-medium"));
    g_cancellable_cancel(cancellable);
    await(&f->reply);
    g_assert_false(spice_qmp_drive_insert_finish(f->drive, f->reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_clear_error(&error);
    forget(&f->reply);

    /* Without a callback. */
    spice_qmp_drive_eject_async(f->drive, FALSE, NULL, NULL, NULL);
    WAIT_UNTIL(f->server->medium == NULL);
    WAIT_UNTIL(spice_qmp_port_get_pending(f->port) == 0);
    settle();
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(path, test) g_test_add("/drives/" path, Fixture, NULL, set_up, test, tear_down)
    TEST("properties", test_properties);
    TEST("changes", test_changes);
    TEST("fd", test_fd);
    TEST("errors", test_errors);
    TEST("refused", test_refused);
    TEST("cancelled", test_cancelled);
    return g_test_run();
}
