/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Helpers of the C tests. */
#ifndef TESTS_COMMON_H
#define TESTS_COMMON_H

#include <string.h>

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <spice-qmp/spice-qmp.h>

/* Valgrind makes all of it slow. */
#define PATIENCE (30 * G_USEC_PER_SEC)

static inline gboolean
tick(gpointer data G_GNUC_UNUSED)
{
    return G_SOURCE_CONTINUE;
}

/* Iterates a main context (NULL: the default one) until the condition holds. */
#define WAIT_UNTIL_IN(context, condition)                                      \
    G_STMT_START                                                               \
    {                                                                          \
        GMainContext *context_ = (context);                                    \
        gint64 deadline_ = g_get_monotonic_time() + PATIENCE;                  \
        GSource *tick_ = g_timeout_source_new(50);                             \
        g_source_set_callback(tick_, tick, NULL, NULL);                        \
        g_source_attach(tick_, context_);                                      \
        while (!(condition)) {                                                 \
            if (g_get_monotonic_time() > deadline_)                            \
                g_error("%s:%d: timed out: %s", __FILE__, __LINE__,            \
                        #condition);                                           \
            g_main_context_iteration(context_, TRUE);                          \
        }                                                                      \
        g_source_destroy(tick_);                                               \
        g_source_unref(tick_);                                                 \
    }                                                                          \
    G_STMT_END

/* The same in the context that is the thread's default one. */
#define WAIT_UNTIL(condition)                                                  \
    WAIT_UNTIL_IN(g_main_context_get_thread_default(), condition)

/* Runs everything that is due, and what follows from it. */
static inline void
settle(void)
{
    gint64 end = g_get_monotonic_time() + G_USEC_PER_SEC / 50;
    while (g_main_context_iteration(NULL, FALSE) || g_get_monotonic_time() < end)
        ;
}

static inline void
was_freed(gpointer freed)
{
    *(gboolean *) freed = TRUE;
}

/* Sets *freed when the object is finalized: weak pointers only show its disposal. */
static inline void
watch(gpointer object, gboolean *freed)
{
    *freed = FALSE;
    g_object_set_data_full(G_OBJECT(object), "test-watch", freed, was_freed);
}

/* How often a callback was called, and its last result. */
typedef struct {
    int calls;
    GObject *source;
    GAsyncResult *result;
} Reply;

static inline void
on_reply(GObject *source, GAsyncResult *result, gpointer user_data)
{
    Reply *reply = user_data;

    reply->calls++;
    reply->source = source;
    g_set_object(&reply->result, result);
}

static inline void
await(Reply *reply)
{
    /* Never re-entrantly from the function that was passed the callback. */
    g_assert_cmpint(reply->calls, ==, 0);
    WAIT_UNTIL(reply->calls > 0);
    g_assert_cmpint(reply->calls, ==, 1);
}

static inline void
forget(Reply *reply)
{
    g_clear_object(&reply->result);
    reply->calls = 0;
}

/* The end of each call: a result or an error. */
static inline char *
finish_execute(SpiceQmpPort *port, Reply *reply, GError **error)
{
    char *text;

    await(reply);
    text = spice_qmp_port_execute_finish(port, reply->result, error);
    forget(reply);
    return text;
}

static inline char *
execute(SpiceQmpPort *port, const char *command, const char *arguments,
        GError **error)
{
    Reply reply = { 0 };

    spice_qmp_port_execute_async(port, command, arguments, NULL, on_reply, &reply);
    return finish_execute(port, &reply, error);
}

static inline void
assert_executes(SpiceQmpPort *port, const char *command, const char *arguments)
{
    GError *error = NULL;
    char *text = execute(port, command, arguments, &error);

    g_assert_no_error(error);
    g_assert_nonnull(text);
    g_free(text);
}

static inline SpiceQmpSchema *
load_schema(SpiceQmpMachine *machine, GError **error)
{
    Reply reply = { 0 };
    SpiceQmpSchema *schema;

    spice_qmp_machine_load_schema_async(machine, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(reply.source == G_OBJECT(machine));
    schema = spice_qmp_machine_load_schema_finish(machine, reply.result, error);
    forget(&reply);
    return schema;
}

#define ASSERT_FAILS(port, command, arguments, domain, code, words)            \
    G_STMT_START                                                               \
    {                                                                          \
        GError *error_ = NULL;                                                 \
        char *text_ = execute(port, command, arguments, &error_);              \
        g_assert_null(text_);                                                  \
        g_assert_error(error_, domain, (int) (code));                          \
        g_assert_nonnull(strstr(error_->message, words));                      \
        g_error_free(error_);                                                  \
    }                                                                          \
    G_STMT_END

static inline void
wait_ready(SpiceQmpPort *port, GError **error)
{
    Reply reply = { 0 };
    gboolean ready;

    spice_qmp_port_wait_ready_async(port, NULL, on_reply, &reply);
    await(&reply);
    g_assert_true(reply.source == G_OBJECT(port));
    ready = spice_qmp_port_wait_ready_finish(port, reply.result, error);
    g_assert_true(ready == (error == NULL || *error == NULL));
    forget(&reply);
}

static inline void
expect_critical(const char *function, const char *check)
{
    char *pattern = g_strdup_printf("%s: assertion '%s' failed", function, check);

    g_test_expect_message("SpiceQmp", G_LOG_LEVEL_CRITICAL, pattern);
    g_free(pattern);
}

#endif
