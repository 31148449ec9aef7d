/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A port belongs to the main context that was the thread's default one when it was made,
 * whatever is pushed and popped later, and whoever drops the last reference. */
#include "contexts.h"

static const Arrangement arrangements[] = {
    { "default", FALSE, FALSE, FALSE, FALSE, FALSE },
    { "pushed", TRUE, FALSE, FALSE, FALSE, FALSE },
    { "popped", TRUE, TRUE, FALSE, FALSE, FALSE },
    { "called-under-another", FALSE, FALSE, TRUE, FALSE, FALSE },
    { "popped-called-under-another", TRUE, TRUE, TRUE, FALSE, FALSE },
    { "opened-pushed", TRUE, FALSE, FALSE, TRUE, FALSE },
    { "opened-popped", TRUE, TRUE, FALSE, TRUE, FALSE },
    { "opened-called-under-another", FALSE, FALSE, TRUE, TRUE, FALSE },
    { "worker-pushed", TRUE, FALSE, FALSE, FALSE, TRUE },
    { "worker-popped", TRUE, TRUE, FALSE, FALSE, TRUE },
    { "worker-called-under-another", TRUE, FALSE, TRUE, FALSE, TRUE },
    { "worker-opened-popped", TRUE, TRUE, FALSE, TRUE, TRUE },
};

#define ASSERT_ENDS(place, command, cancellable, domain, code)                 \
    G_STMT_START                                                               \
    {                                                                          \
        GError *error_ = NULL;                                                 \
                                                                               \
        g_assert_null(run_command(place, command, NULL, cancellable, &error_)); \
        g_assert_error(error_, domain, code);                                  \
        g_error_free(error_);                                                  \
    }                                                                          \
    G_STMT_END

/* --- uses ---------------------------------------------------------------------- */

static void
use_calls(Place *place)
{
    Answer answers[100] = { { NULL, 0, NULL } };
    GError *error = NULL;
    char *fill, *text;
    gsize i;

    assert_runs(place, "echo", "{\"a\": 1}");
    CALL_AND_FINISH(place,
                    spice_qmp_port_execute_oob_async(place->port, "echo", NULL, NULL, on_answer,
                                                     &answer),
                    g_free(spice_qmp_port_execute_oob_finish(place->port, answer.result, &error)));
    g_assert_no_error(error);
    CALL_AND_FINISH(place,
                    spice_qmp_port_execute_full_async(place->port, "echo", NULL, 30000, NULL,
                                                      SPICE_QMP_CALL_FLAGS_NONE, NULL, on_answer,
                                                      &answer),
                    g_free(spice_qmp_port_execute_full_finish(place->port, answer.result, &error)));
    g_assert_no_error(error);
    CALL_AND_FINISH(place,
                    spice_qmp_port_execute_variant_async(place->port, "stop", NULL, NULL,
                                                         on_answer, &answer),
                    g_variant_unref(spice_qmp_port_execute_variant_finish(
                        place->port, answer.result, &error)));
    g_assert_no_error(error);
    CALL_AND_FINISH(place,
                    spice_qmp_port_query_status_async(place->port, NULL, on_answer, &answer),
                    spice_qmp_status_unref(spice_qmp_port_query_status_finish(
                        place->port, answer.result, &error)));
    g_assert_no_error(error);
    CALL_AND_FINISH(place,
                    spice_qmp_port_wait_ready_async(place->port, NULL, on_answer, &answer),
                    g_assert_true(spice_qmp_port_wait_ready_finish(place->port, answer.result,
                                                                   &error)));

    /* More than a socket buffers, in both directions. */
    fill = g_strnfill(1 << 20, 'x');
    text = g_strdup_printf("{\"fill\": \"%s\"}", fill);
    assert_runs(place, "echo", text);
    g_free(text);
    g_free(fill);

    for (i = 0; i < G_N_ELEMENTS(answers); i++) {
        answers[i].place = place;
        CALL(place, spice_qmp_port_execute_async(place->port, "echo", NULL, NULL, on_answer,
                                                 &answers[i]));
    }
    RUN_UNTIL(place, answers[G_N_ELEMENTS(answers) - 1].calls);
    for (i = 0; i < G_N_ELEMENTS(answers); i++) {
        g_assert_cmpint(answers[i].calls, ==, 1);
        g_object_unref(answers[i].result);
    }
}

/* As a button's handler does, and then another call. */
static void
use_no_callback(Place *place)
{
    CALL(place, spice_qmp_port_vm_action_async(place->port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL,
                                               NULL, NULL));
    assert_runs(place, "echo", NULL);
    g_assert_cmpuint(spice_qmp_port_get_pending(place->port), ==, 0);
}

static void
on_event(SpiceQmpPort *port G_GNUC_UNUSED, const char *name G_GNUC_UNUSED,
         gpointer node G_GNUC_UNUSED, Place *place)
{
    assert_is_here(place);
    place->seen++;
}

static void
on_object(GObject *port G_GNUC_UNUSED, gpointer object G_GNUC_UNUSED, Place *place)
{
    assert_is_here(place);
    place->seen++;
}

static void
use_events(Place *place)
{
    CALL(place, g_signal_connect(place->port, "event", G_CALLBACK(on_event), place));
    CALL(place, g_signal_connect(place->port, "qmp-event::RTC_CHANGE", G_CALLBACK(on_object),
                                 place));
    assert_runs(place, "emit", "{\"name\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}}");
    g_assert_cmpint(place->seen, ==, 2);
    g_signal_handlers_disconnect_by_data(place->port, place);
}

static void
use_deadline(Place *place)
{
    CALL(place, spice_qmp_port_set_command_timeout(place->port, 20));
    ASSERT_ENDS(place, "silent", NULL, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
    CALL(place, spice_qmp_port_set_command_timeout(place->port, 0));
    assert_runs(place, "echo", NULL);
}

static void
use_errors(Place *place)
{
    GCancellable *cancellable = g_cancellable_new();
    GError *error = NULL;

    g_assert_null(run_command(place, "echo", "[]", NULL, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_cancellable_cancel(cancellable);
    ASSERT_ENDS(place, "echo", cancellable, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    CALL_AND_FINISH(
        place,
        spice_qmp_port_execute_variant_async(place->port, "echo", g_variant_new("i", 1), NULL,
                                             on_answer, &answer),
        g_assert_null(
            spice_qmp_port_execute_variant_finish(place->port, answer.result, &error)));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_INVALID_ARGUMENT);
    g_error_free(error);
    assert_runs(place, "echo", NULL);
    g_object_unref(cancellable);
}

static gpointer
cancel(gpointer cancellable)
{
    g_cancellable_cancel(cancellable);
    return NULL;
}

static void
use_cancellable(Place *place)
{
    int from_thread;

    for (from_thread = 0; from_thread < 2; from_thread++) {
        Answer answer = { place, 0, NULL };
        GCancellable *cancellable = g_cancellable_new();
        GError *error = NULL;

        CALL(place, spice_qmp_port_execute_async(place->port, "silent", NULL, cancellable,
                                                 on_answer, &answer));
        assert_runs(place, "echo", NULL);
        g_assert_cmpint(answer.calls, ==, 0);
        if (from_thread)
            g_thread_join(g_thread_new("cancel", cancel, cancellable));
        else
            CALL(place, g_cancellable_cancel(cancellable));
        g_assert_cmpint(answer.calls, ==, 0);
        RUN_UNTIL(place, answer.calls);
        g_assert_null(spice_qmp_port_execute_finish(place->port, answer.result, &error));
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
        g_error_free(error);
        g_object_unref(answer.result);
        g_object_unref(cancellable);
    }
}

static void
use_close(Place *place)
{
    GError *error = NULL;

    CALL_AND_FINISH(place, spice_qmp_port_close_async(place->port, NULL, on_answer, &answer),
                    g_assert_true(spice_qmp_port_close_finish(place->port, answer.result, &error)));
    g_assert_no_error(error);
    ASSERT_ENDS(place, "echo", NULL, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_READY);
}

static void
use_loss(Place *place)
{
    g_signal_connect(place->port, "notify::ready", G_CALLBACK(on_object), place);
    ASSERT_ENDS(place, "hang-up", NULL, G_IO_ERROR, G_IO_ERROR_CLOSED);
    RUN_UNTIL(place, place->seen);
    g_signal_handlers_disconnect_by_data(place->port, place);
}

/* --- the last reference ----------------------------------------------------------- */

static void
use_drop(Place *place)
{
    begin(place);
    drop(place);
}

static void
use_drop_after_pop(Place *place)
{
    begin(place);
    pop(place);
    drop(place);
}

static gpointer
unref(gpointer object)
{
    g_object_unref(object);
    return NULL;
}

static void
use_drop_on_thread(Place *place)
{
    GThread *thread;
    gboolean freed;

    begin(place);
    watch(place->port, &freed);
    thread = g_thread_new("unref", unref, g_steal_pointer(&place->port));
    RUN_UNTIL(place, freed);
    g_thread_join(thread);
}

static void
use_drop_on_thread_after_pop(Place *place)
{
    pop(place);
    use_drop_on_thread(place);
}

/* --- arrangements and uses ----------------------------------------------------------- */

typedef void (*Use)(Place *place);

static const struct {
    const char *name;
    Use use;
} uses[] = {
    { "calls", use_calls },
    { "no-callback", use_no_callback },
    { "events", use_events },
    { "deadline", use_deadline },
    { "errors", use_errors },
    { "cancellable", use_cancellable },
    { "close", use_close },
    { "loss", use_loss },
    { "drop", use_drop },
    { "drop-after-pop", use_drop_after_pop },
    { "drop-on-thread", use_drop_on_thread },
    { "drop-on-thread-after-pop", use_drop_on_thread_after_pop },
};

typedef struct {
    const Arrangement *arrangement;
    Use use;
    Host *host;
    gint done;
} Case;

static gpointer
run_case(gpointer data)
{
    Case *c = data;
    Place place = { 0 };

    place.arrangement = c->arrangement;
    place.host = c->host;
    make(&place);
    c->use(&place);
    if (place.port)
        drop(&place);
    leave(&place);
    g_atomic_int_set(&c->done, TRUE);
    return NULL;
}

static void
test_case(gconstpointer data)
{
    Case c = *(const Case *) data;

    c.host = host_new();
    if (c.arrangement->worker) {
        GThread *thread;

        g_assert_true(g_main_context_acquire(NULL));
        thread = g_thread_new("worker", run_case, &c);
        WAIT_UNTIL(g_atomic_int_get(&c.done));
        g_thread_join(thread);
        g_main_context_release(NULL);
    } else {
        run_case(&c);
    }
    host_free(c.host);
}

int
main(int argc, char **argv)
{
    static Case cases[G_N_ELEMENTS(arrangements) * G_N_ELEMENTS(uses)];
    gsize i, j;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < G_N_ELEMENTS(arrangements); i++) {
        for (j = 0; j < G_N_ELEMENTS(uses); j++) {
            Case *c = &cases[i * G_N_ELEMENTS(uses) + j];
            char *path = g_strdup_printf("/contexts/%s/%s", arrangements[i].name, uses[j].name);

            c->arrangement = &arrangements[i];
            c->use = uses[j].use;
            g_test_add_data_func(path, c, test_case);
            g_free(path);
        }
    }
    return g_test_run();
}
