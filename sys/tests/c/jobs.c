/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The jobs of a machine, over a stream to a scripted server. */
#include "server.h"

typedef struct {
    Server *server;
    GIOStream *client;
    SpiceQmpPort *port;
    SpiceQmpMachine *machine;
} Fixture;

/* A job as QEMU lists it. */
#define LISTED(id, status, current, more)                                      \
    "{\"id\": \"" id "\", \"type\": \"backup\", \"status\": \"" status "\","  \
    " \"current-progress\": " current ", \"total-progress\": 100" more "}"

static void
set_up(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    GError *error = NULL;

    f->server = server_pair(&f->client);
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

    watch(f->port, &port_freed);
    watch(f->machine, &machine_freed);
    g_object_unref(f->machine);
    g_assert_true(machine_freed);
    g_object_unref(f->port);
    WAIT_UNTIL(port_freed);
    g_object_unref(f->client);
    server_free(f->server);
    settle();
}

static SpiceQmpJob *
job_at(Fixture *f, guint position)
{
    GListModel *jobs = G_LIST_MODEL(spice_qmp_machine_get_jobs(f->machine));

    return g_list_model_get_item(jobs, position);
}

static void
status_changes(Fixture *f, const char *id, const char *status)
{
    g_autofree char *data = g_strdup_printf("{\"id\": \"%s\", \"status\": \"%s\"}", id, status);

    server_event(f->server, "JOB_STATUS_CHANGE", data);
}

static gboolean
has_status(SpiceQmpJob *job, const char *status)
{
    g_autofree char *now = spice_qmp_job_dup_status(job);

    return strcmp(now, status) == 0;
}

static void
test_list(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    SpiceQmpList *jobs = spice_qmp_machine_get_jobs(f->machine);
    g_autoptr(SpiceQmpList) property = NULL;
    g_autoptr(SpiceQmpJob) old = NULL;
    g_autoptr(SpiceQmpJob) failed = NULL;
    g_autofree char *id = NULL;
    g_autofree char *kind = NULL;
    g_autofree char *why = NULL;

    g_object_get(f->machine, "jobs", &property, NULL);
    g_assert_true(property == jobs && spice_qmp_machine_get_jobs(f->machine) == jobs);
    g_assert_true(g_list_model_get_item_type(G_LIST_MODEL(jobs)) == SPICE_TYPE_QMP_JOB);
    settle();
    g_assert_cmpstr(f->server->log->str, ==, "");

    /* QEMU lists the newest first. */
    f->server->jobs = "[" LISTED("f", "concluded", "7", ", \"error\": \"No space\"") ", "
        LISTED("o", "paused", "50", "") "]";
    WAIT_UNTIL(g_list_model_get_n_items(G_LIST_MODEL(jobs)) == 2);
    old = job_at(f, 0);
    failed = job_at(f, 1);
    id = spice_qmp_job_dup_id(old);
    g_assert_cmpstr(id, ==, "o");
    kind = spice_qmp_job_dup_kind(old);
    g_assert_cmpstr(kind, ==, "backup");
    g_assert_true(has_status(old, "paused"));
    g_assert_cmpfloat(spice_qmp_job_get_progress(old), ==, 0.5);
    g_assert_cmpuint(spice_qmp_job_get_current(old), ==, 50);
    g_assert_cmpuint(spice_qmp_job_get_total(old), ==, 100);
    g_assert_null(spice_qmp_job_dup_error(old));
    why = spice_qmp_job_dup_error(failed);
    g_assert_cmpstr(why, ==, "No space");

    f->server->jobs = NULL;
    status_changes(f, "f", "null");
    WAIT_UNTIL(g_list_model_get_n_items(G_LIST_MODEL(jobs)) == 1);
    g_assert_true(has_status(failed, "null"));
}

#define CONTROL(name, start, end)                                              \
    start(job, NULL, on_reply, &reply);                                        \
    await(&reply);                                                             \
    g_assert_true(reply.source == G_OBJECT(job));                              \
    g_assert_true(end(job, reply.result, &error));                             \
    g_assert_no_error(error);                                                  \
    forget(&reply);                                                            \
    g_assert_cmpstr(f->server->log->str, ==, "job-" #name " ");                \
    g_string_truncate(f->server->log, 0);                                      \
    start(job, NULL, NULL, NULL);                                              \
    settle();                                                                  \
    g_assert_cmpstr(f->server->log->str, ==, "job-" #name " ");                \
    g_string_truncate(f->server->log, 0);                                      \
    expect_critical("spice_qmp_job_" #name "_async", "SPICE_IS_QMP_JOB(job)"); \
    start((SpiceQmpJob *) f->machine, NULL, on_reply, &reply);                 \
    g_test_assert_expected_messages();                                         \
    await(&reply);                                                             \
    forget(&reply);

static void
test_control(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(SpiceQmpJob) job = NULL;
    g_autoptr(GError) error = NULL;
    Reply reply = { 0 };

    f->server->jobs = "[" LISTED("j", "paused", "7", "") "]";
    WAIT_UNTIL((job = job_at(f, 0)));
    settle();
    g_string_truncate(f->server->log, 0);
    CONTROL(cancel, spice_qmp_job_cancel_async, spice_qmp_job_cancel_finish)
    CONTROL(pause, spice_qmp_job_pause_async, spice_qmp_job_pause_finish)
    CONTROL(resume, spice_qmp_job_resume_async, spice_qmp_job_resume_finish)
    CONTROL(complete, spice_qmp_job_complete_async, spice_qmp_job_complete_finish)
    CONTROL(finalize, spice_qmp_job_finalize_async, spice_qmp_job_finalize_finish)
    CONTROL(dismiss, spice_qmp_job_dismiss_async, spice_qmp_job_dismiss_finish)
}

/* --- running one ------------------------------------------------------------- */

typedef struct {
    guint calls;
    double progress;
    guint frees;
} Progress;

static void
on_progress(SpiceQmpJob *job, gpointer data)
{
    Progress *progress = data;

    g_assert_true(SPICE_IS_QMP_JOB(job));
    g_assert_cmpuint(progress->frees, ==, 0);
    progress->calls++;
    progress->progress = spice_qmp_job_get_progress(job);
}

static void
free_progress(gpointer data)
{
    ((Progress *) data)->frees++;
}

static void
run(Fixture *f, const char *arguments, Progress *progress, GCancellable *cancellable, Reply *reply)
{
    spice_qmp_machine_run_job_async(f->machine, "blockdev-backup", arguments, on_progress,
                                    progress, free_progress, cancellable, on_reply, reply);
}

static void
test_run(Fixture *f, gconstpointer failing)
{
    g_autoptr(GError) error = NULL;
    Progress progress = { 0 };
    Reply reply = { 0 };

    f->server->jobs = "[" LISTED("j", "running", "25", "") "]";
    run(f, "{\"job-id\": \"j\"}", &progress, NULL, &reply);
    WAIT_UNTIL(progress.calls == 1);
    g_assert_cmpfloat(progress.progress, ==, 0.25);
    f->server->jobs = "[" LISTED("j", "running", "75", "") "]";
    WAIT_UNTIL(progress.calls == 2);
    g_assert_cmpfloat(progress.progress, ==, 0.75);
    g_assert_cmpint(reply.calls, ==, 0);
    f->server->jobs = NULL;
    server_event(f->server, "BLOCK_JOB_COMPLETED",
                 failing ? "{\"device\": \"j\", \"error\": \"Input/output error\"}"
                         : "{\"device\": \"j\"}");
    status_changes(f, "j", "null");
    await(&reply);
    g_assert_true(reply.source == G_OBJECT(f->machine));
    if (failing) {
        g_assert_false(spice_qmp_machine_run_job_finish(f->machine, reply.result, &error));
        g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_GENERIC);
        g_assert_nonnull(strstr(error->message, "Input/output error"));
    } else {
        g_assert_true(spice_qmp_machine_run_job_finish(f->machine, reply.result, &error));
        g_assert_no_error(error);
        g_assert_cmpfloat(progress.progress, ==, 1);
    }
    g_assert_cmpuint(progress.frees, ==, 1);
    forget(&reply);
}

static void
test_cancel(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    Progress progress = { 0 };
    Reply reply = { 0 };

    f->server->jobs = "[" LISTED("j", "running", "25", "") "]";
    run(f, "{\"job-id\": \"j\"}", &progress, cancellable, &reply);
    WAIT_UNTIL(progress.calls == 1);
    g_string_truncate(f->server->log, 0);
    g_cancellable_cancel(cancellable);
    await(&reply);
    g_assert_false(spice_qmp_machine_run_job_finish(f->machine, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    forget(&reply);
    g_assert_cmpuint(progress.frees, ==, 1);
    WAIT_UNTIL(strstr(f->server->log->str, "job-cancel ") != NULL);
    /* It keeps its id, so it is dismissed. */
    status_changes(f, "j", "aborting");
    status_changes(f, "j", "concluded");
    WAIT_UNTIL(strstr(f->server->log->str, "job-dismiss ") != NULL);
    f->server->jobs = NULL;
    status_changes(f, "j", "null");
    settle();
}

static void
test_wrong(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GError) error = NULL;
    Progress progress = { 0 };
    Reply reply = { 0 };

    expect_critical("spice_qmp_machine_get_jobs", "SPICE_IS_QMP_MACHINE(machine)");
    g_assert_null(spice_qmp_machine_get_jobs(NULL));
    expect_critical("spice_qmp_job_dup_id", "SPICE_IS_QMP_JOB(job)");
    g_assert_null(spice_qmp_job_dup_id((SpiceQmpJob *) f->machine));
    expect_critical("spice_qmp_machine_run_job_async", "SPICE_IS_QMP_MACHINE(machine)");
    spice_qmp_machine_run_job_async(NULL, "x", NULL, on_progress, &progress, free_progress, NULL,
                                    NULL, NULL);
    expect_critical("spice_qmp_machine_run_job_async", "g_utf8_validate(command)");
    spice_qmp_machine_run_job_async(f->machine, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    expect_critical("spice_qmp_machine_run_job_async",
                    "(arguments.is_null() || g_utf8_validate(arguments))");
    spice_qmp_machine_run_job_async(f->machine, "x", "\xff", NULL, NULL, NULL, NULL, NULL, NULL);
    g_test_assert_expected_messages();
    g_assert_cmpuint(progress.frees, ==, 1);

    run(f, "[]", &progress, NULL, &reply);
    await(&reply);
    g_assert_false(spice_qmp_machine_run_job_finish(f->machine, reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    forget(&reply);
    g_assert_cmpuint(progress.frees, ==, 2);
    g_assert_cmpuint(progress.calls, ==, 0);
    g_assert_cmpstr(f->server->log->str, ==, "");
}

/* The port closes while a job runs whose caller has gone. */
static void
test_close(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GError) error = NULL;
    Progress progress = { 0 };
    Reply reply = { 0 };

    f->server->jobs = "[" LISTED("j", "running", "25", "") "]";
    run(f, "{\"job-id\": \"j\"}", &progress, NULL, &reply);
    WAIT_UNTIL(progress.calls == 1);
    server_hang_up(f->server);
    await(&reply);
    g_assert_false(spice_qmp_machine_run_job_finish(f->machine, reply.result, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED);
    g_assert_cmpuint(progress.frees, ==, 1);
    forget(&reply);
}

#define TEST(name, data, function)                                             \
    g_test_add("/jobs/" name, Fixture, data, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST("list", NULL, test_list);
    TEST("control", NULL, test_control);
    TEST("run", NULL, test_run);
    TEST("run-failing", "failing", test_run);
    TEST("cancel", NULL, test_cancel);
    TEST("wrong", NULL, test_wrong);
    TEST("close", NULL, test_close);
    return g_test_run();
}
