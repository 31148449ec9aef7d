/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A port under an arrangement of main contexts and threads. */
#ifndef TESTS_CONTEXTS_H
#define TESTS_CONTEXTS_H

#include "server.h"

/* How a program arranges a port and its main context. */
typedef struct {
    const char *name;
    gboolean own;    /* the port is made on a context that is pushed, not on the default one */
    gboolean pops;   /* which is popped before it is iterated */
    gboolean pushes; /* each function is called while yet another context is pushed */
    gboolean opens;  /* the port is opened by its address, not made for a stream */
    gboolean worker; /* on another thread than the main one, which iterates its context */
} Arrangement;

/* A port, and where its callbacks must be called. */
typedef struct {
    const Arrangement *arrangement;
    Host *host;
    GThread *thread;
    GMainContext *context;
    GMainContext *other;
    gboolean pushed;
    SpiceQmpPort *port;
    int seen;
} Place;

#define RUN_UNTIL(place, condition) WAIT_UNTIL_IN((place)->context, condition)

static inline void
assert_is_here(Place *place)
{
    GSource *source = g_main_current_source();

    g_assert_true(g_thread_self() == place->thread);
    g_assert_nonnull(source);
    g_assert_true(g_source_get_context(source) == place->context);
}

/* Around each call of a function. */
#define CALL(place, call)                                                      \
    G_STMT_START                                                               \
    {                                                                          \
        if ((place)->arrangement->pushes)                                      \
            g_main_context_push_thread_default((place)->other);                \
        call;                                                                  \
        if ((place)->arrangement->pushes)                                      \
            g_main_context_pop_thread_default((place)->other);                 \
    }                                                                          \
    G_STMT_END

typedef struct {
    Place *place;
    int calls;
    GAsyncResult *result;
} Answer;

static inline void
on_answer(GObject *source G_GNUC_UNUSED, GAsyncResult *result, gpointer user_data)
{
    Answer *answer = user_data;

    assert_is_here(answer->place);
    answer->calls++;
    g_set_object(&answer->result, result);
}

/* Makes a call, waits for its end, and lets `finish` use `answer.result`. */
#define CALL_AND_FINISH(place, start, finish)                                  \
    G_STMT_START                                                               \
    {                                                                          \
        Answer answer = { (place), 0, NULL };                                  \
                                                                               \
        CALL(place, start);                                                    \
        g_assert_cmpint(answer.calls, ==, 0);                                  \
        RUN_UNTIL(place, answer.calls);                                        \
        finish;                                                                \
        g_assert_cmpint(answer.calls, ==, 1);                                  \
        g_object_unref(answer.result);                                         \
    }                                                                          \
    G_STMT_END

static inline char *
run_command(Place *place, const char *command, const char *arguments,
            GCancellable *cancellable, GError **error)
{
    char *text;

    CALL_AND_FINISH(place,
                    spice_qmp_port_execute_async(place->port, command, arguments, cancellable,
                                                 on_answer, &answer),
                    text = spice_qmp_port_execute_finish(place->port, answer.result, error));
    return text;
}

static inline void
assert_runs(Place *place, const char *command, const char *arguments)
{
    GError *error = NULL;
    char *text = run_command(place, command, arguments, NULL, &error);

    g_assert_no_error(error);
    g_free(text);
}

/* --- making and leaving a place ---------------------------------------------- */

static inline void
pop(Place *place)
{
    if (place->pushed)
        g_main_context_pop_thread_default(place->context);
    place->pushed = FALSE;
}

static inline void
make(Place *place)
{
    Answer answer = { place, 0, NULL };
    GIOStream *stream = NULL;
    GError *error = NULL;

    place->thread = g_thread_self();
    place->other = g_main_context_new();
    place->context = place->arrangement->own ? g_main_context_new()
                                             : g_main_context_ref(g_main_context_default());
    place->pushed = place->arrangement->own;
    if (place->pushed)
        g_main_context_push_thread_default(place->context);
    if (place->arrangement->opens) {
        spice_qmp_port_open_async(place->host->address, NULL, on_answer, &answer);
    } else {
        stream = host_connect(place->host);
        place->port = spice_qmp_port_new_for_stream(stream);
    }
    if (place->arrangement->pops)
        pop(place);
    if (place->arrangement->opens) {
        RUN_UNTIL(place, answer.calls);
        place->port = spice_qmp_port_open_finish(answer.result, &error);
        g_assert_no_error(error);
        g_object_unref(answer.result);
    } else {
        CALL_AND_FINISH(place,
                        spice_qmp_port_wait_ready_async(place->port, NULL, on_answer, &answer),
                        spice_qmp_port_wait_ready_finish(place->port, answer.result, &error));
        g_assert_no_error(error);
        g_object_unref(stream);
    }
    g_assert_true(spice_qmp_port_get_ready(place->port));
}

static inline void
leave(Place *place)
{
    /* Nothing was queued on the wrong context. */
    g_assert_false(g_main_context_pending(place->other));
    pop(place);
    while (g_main_context_iteration(place->context, FALSE))
        ;
    g_main_context_unref(place->other);
    g_main_context_unref(place->context);
}

/* --- dropping the port ------------------------------------------------------------ */

/* What is under way when it is dropped. Without a callback, a call does not hold the port. */
static inline void
begin(Place *place)
{
    CALL(place, spice_qmp_port_set_command_timeout(place->port, 10000));
    CALL(place, spice_qmp_port_execute_async(place->port, "silent", NULL, NULL, NULL, NULL));
    CALL(place, spice_qmp_port_execute_async(place->port, "echo", NULL, NULL, NULL, NULL));
    CALL(place, spice_qmp_port_vm_action_async(place->port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL,
                                               NULL, NULL));
}

static inline void
drop(Place *place)
{
    SpiceQmpPort *port = g_steal_pointer(&place->port);
    gboolean freed;

    watch(port, &freed);
    CALL(place, g_object_unref(port));
    RUN_UNTIL(place, freed);
}

#endif
