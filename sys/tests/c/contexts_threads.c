/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Threads and a port's main context: they end before it, or iterate another's. */
#include "contexts.h"

/* --- a thread that ends before its context ------------------------------------------- */

typedef struct {
    Host *host;
    GMainContext *context;
    gboolean opens;
    gboolean keeps; /* its reference to the port */
    gboolean waits; /* for the ends of calls */
    SpiceQmpPort *port;
    gboolean freed;
} Leaver;

static void
on_end(GObject *source G_GNUC_UNUSED, GAsyncResult *result G_GNUC_UNUSED,
       gpointer data G_GNUC_UNUSED)
{
}

/* Some of these have an answer that waits to be dispatched, others have none yet. */
static void
call_all(SpiceQmpPort *port, Host *host)
{
    spice_qmp_port_wait_ready_async(port, NULL, on_end, NULL);
    spice_qmp_port_execute_async(port, "silent", NULL, NULL, on_end, NULL);
    spice_qmp_port_execute_async(port, "echo", "[]", NULL, on_end, NULL);
    spice_qmp_port_open_async(host->address, NULL, on_end, NULL);
    /* Due sources run, and their answers arrive. */
    g_main_context_iteration(g_main_context_get_thread_default(), FALSE);
    spice_qmp_port_wait_ready_async(port, NULL, on_end, NULL);
    spice_qmp_port_close_async(port, NULL, on_end, NULL);
}

static gpointer
come_and_go(gpointer data)
{
    Leaver *leaver = data;
    const Arrangement arrangement = { "leaver", TRUE, FALSE, FALSE, leaver->opens, TRUE };
    Place place = { 0 };

    place.arrangement = &arrangement;
    place.host = leaver->host;
    make(&place);
    begin(&place);
    watch(place.port, &leaver->freed);
    if (leaver->waits)
        call_all(place.port, leaver->host);
    if (leaver->keeps)
        leaver->port = place.port;
    else
        g_object_unref(place.port);
    /* Its context is not iterated any more. */
    pop(&place);
    g_main_context_unref(place.other);
    leaver->context = place.context;
    return NULL;
}

static void
test_thread_ends(gconstpointer how)
{
    gboolean opens = strstr(how, "opened") != NULL, keeps = strstr(how, "kept") != NULL;
    gboolean waits = strstr(how, "waiting") != NULL;
    Leaver leaver = { host_new(), NULL, opens, keeps, waits, NULL, FALSE };

    g_thread_join(g_thread_new("leaver", come_and_go, &leaver));
    if (leaver.port)
        g_object_unref(leaver.port);
    g_main_context_unref(leaver.context);
    /* The ended thread can do nothing for a port that is still referenced. */
    if (!keeps && !waits)
        g_assert_true(leaver.freed);
    host_free(leaver.host);
}

/* --- threads that come and go, one after another --------------------------------------- */

static guint
count_fds(void)
{
    GError *error = NULL;
    GDir *dir = g_dir_open("/proc/self/fd", 0, &error);
    guint count = 0;

    g_assert_no_error(error);
    while (g_dir_read_name(dir))
        count++;
    g_dir_close(dir);
    return count;
}

/* Iterates its context only until the end of its close. */
static gpointer
use_and_close(gpointer data)
{
    static const Arrangement arrangement = { "closer", TRUE, FALSE, FALSE, TRUE, TRUE };
    Place place = { 0 };
    GError *error = NULL;

    place.arrangement = &arrangement;
    place.host = data;
    make(&place);
    assert_runs(&place, "echo", NULL);
    CALL_AND_FINISH(&place, spice_qmp_port_close_async(place.port, NULL, on_answer, &answer),
                    spice_qmp_port_close_finish(place.port, answer.result, &error));
    g_assert_no_error(error);
    g_object_unref(place.port);
    pop(&place);
    g_main_context_unref(place.other);
    g_main_context_unref(place.context);
    return NULL;
}

/* Neither a closed port nor its context keeps a file descriptor. */
static void
test_threads_close(void)
{
    Host *host = host_new();
    guint after_20 = 0;
    guint i;

    for (i = 1; i <= 100; i++) {
        g_thread_join(g_thread_new("closer", use_and_close, host));
        /* The other end of each socket stays open. */
        g_assert_cmpuint(host->servers->len, ==, i);
        if (i == 20)
            after_20 = count_fds() - i;
        else if (i > 20)
            g_assert_cmpuint(count_fds() - i, ==, after_20);
    }
    host_free(host);
}

/* --- a context that another thread iterates ------------------------------------------- */

typedef struct {
    GMainContext *context;
    gint running, stopping;
} Runner;

static gpointer
run_context(gpointer data)
{
    Runner *runner = data;

    g_assert_true(g_main_context_acquire(runner->context));
    g_atomic_int_set(&runner->running, TRUE);
    while (!g_atomic_int_get(&runner->stopping))
        g_main_context_iteration(runner->context, TRUE);
    g_main_context_release(runner->context);
    return NULL;
}

/* On whatever thread. */
static void
on_refused(GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer data)
{
    GError *error = NULL;

    g_assert_false(g_task_propagate_boolean(G_TASK(result), &error));
    g_assert_nonnull(error);
    g_error_free(error);
    g_atomic_int_inc((gint *) data);
}

/* Each call then logs a critical and fails; and the port works again afterwards. */
static void
test_run_elsewhere(void)
{
    static const Arrangement arrangement = { "elsewhere", TRUE, TRUE, FALSE, FALSE, FALSE };
    Place place = { 0 };
    Runner runner = { NULL, FALSE, FALSE };
    GThread *thread;
    gint refused = 0;

    place.arrangement = &arrangement;
    place.host = host_new();
    make(&place);
    assert_runs(&place, "echo", NULL);
    runner.context = place.context;
    thread = g_thread_new("runner", run_context, &runner);
    WAIT_UNTIL(g_atomic_int_get(&runner.running));

    expect_critical("spice_qmp_port_execute_async", "*");
    spice_qmp_port_execute_async(place.port, "echo", NULL, NULL, NULL, NULL);
    expect_critical("spice_qmp_port_execute_async", "*");
    spice_qmp_port_execute_async(place.port, "echo", NULL, NULL, on_refused, &refused);
    expect_critical("spice_qmp_port_wait_ready_async", "*");
    spice_qmp_port_wait_ready_async(place.port, NULL, on_refused, &refused);
    expect_critical("spice_qmp_port_close_async", "*");
    spice_qmp_port_close_async(place.port, NULL, on_refused, &refused);
    g_test_assert_expected_messages();
    WAIT_UNTIL(g_atomic_int_get(&refused) == 3);

    g_atomic_int_set(&runner.stopping, TRUE);
    g_main_context_wakeup(runner.context);
    g_thread_join(thread);
    assert_runs(&place, "echo", NULL);
    drop(&place);
    leave(&place);
    host_free(place.host);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/contexts/thread-ends/made", "made", test_thread_ends);
    g_test_add_data_func("/contexts/thread-ends/opened", "opened", test_thread_ends);
    g_test_add_data_func("/contexts/thread-ends/made-kept", "made-kept", test_thread_ends);
    g_test_add_data_func("/contexts/thread-ends/opened-kept", "opened-kept", test_thread_ends);
    g_test_add_data_func("/contexts/thread-ends/made-waiting", "made-waiting", test_thread_ends);
    g_test_add_data_func("/contexts/thread-ends/made-kept-waiting", "made-kept-waiting",
                         test_thread_ends);
    g_test_add_func("/contexts/threads-close", test_threads_close);
    g_test_add_func("/contexts/run-elsewhere", test_run_elsewhere);
    return g_test_run();
}
