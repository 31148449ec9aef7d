/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* SpiceQmpServer with handlers that run main loops, and clients that misbehave. */
#include "served.h"

/* --- handlers that run main loops ------------------------------------------------- */

static gboolean
wait_for_another(SpiceQmpServer *server G_GNUC_UNUSED, SpiceQmpRequest *request, Fixture *f)
{
    int commands = f->commands;

    RUN_UNTIL(f, f->commands > commands);
    return spice_qmp_request_reply(request, "\"first\"", NULL);
}

static void
test_nested(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    Reply second = { 0 };
    GError *error = NULL;
    g_autofree char *text = NULL;

    g_signal_connect(f->server, "command::wait", G_CALLBACK(wait_for_another), f);
    spice_qmp_port_execute_async(f->port, "wait", NULL, NULL, on_reply, &f->reply);
    spice_qmp_port_execute_async(f->port, "echo", NULL, NULL, on_reply, &second);
    text = finish(f, &second, &error);
    g_assert_no_error(error);
    g_free(finish(f, &f->reply, &error));
    g_assert_no_error(error);
}

static gboolean
answer_and_run(SpiceQmpServer *server G_GNUC_UNUSED, SpiceQmpRequest *request, Fixture *f)
{
    f->depth++;
    f->deepest = MAX(f->deepest, f->depth);
    g_assert_true(spice_qmp_request_reply(request, NULL, NULL));
    run(f);
    f->depth--;
    return TRUE;
}

/* A client that never stops must not nest handlers without end. */
static void
test_nested_flood(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    const int count = 500;
    g_autoptr(GString) sent = g_string_new(NEGOTIATION);
    g_autoptr(GString) got = g_string_new(NULL);
    int i;

    g_signal_connect(f->server, "command::run", G_CALLBACK(answer_and_run), f);
    for (i = 0; i < count; i++)
        g_string_append(sent, "{\"execute\": \"run\"}");
    write_text(f, sent->str);
    RUN_UNTIL(f, (read_all(f, got), count_lines(got)) == (guint) count + 2);
    g_assert_cmpint(f->depth, ==, 0);
    g_assert_cmpint(f->deepest, >, 1);
    g_assert_cmpint(f->deepest, <=, 32);
}

/* --- clients that misbehave --------------------------------------------------------- */

/* A client that keeps sending requests, and does not read. */
static void
test_flood(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char request[] = "{\"execute\": \"echo\", \"arguments\": {\"a\": 1}}\n";
    const gsize length = strlen(request);
    g_autoptr(GString) got = g_string_new(NULL);
    gsize sent = 0, before, more;
    int commands;

    write_text(f, NEGOTIATION);
    do {
        before = sent;
        /* In the end, only a part of a request fits. */
        while ((more = write_some(f, request + sent % length, length - sent % length)) > 0)
            sent += more;
        run(f);
    } while (sent > before);
    commands = f->commands;
    g_assert_cmpuint(commands, <, sent / length);
    while (sent % length > 0) {
        read_all(f, got);
        run(f);
        sent += write_some(f, request + sent % length, length - sent % length);
    }
    RUN_UNTIL(f, (read_all(f, got), count_lines(got)) == sent / length + 2);
    g_assert_cmpuint(f->commands, ==, sent / length);
    g_assert_cmpint(f->closed, ==, 0);
}

/* No more requests are pending than the client may have. */
static void
test_kept_flood(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GString) got = g_string_new(NULL);
    int i;

    write_text(f, NEGOTIATION);
    for (i = 0; i < 100; i++)
        write_text(f, "{\"execute\": \"keep\", \"id\": 1}\n");
    RUN_UNTIL(f, f->kept->len == 8);
    run(f);
    g_assert_cmpuint(f->kept->len, ==, 8);
    g_assert_cmpstr(spice_qmp_request_get_id(f->kept->pdata[7]), ==, "1");
    while (f->commands < 100) {
        g_ptr_array_set_size(f->kept, 0);
        run(f);
    }
    g_ptr_array_set_size(f->kept, 0);
    RUN_UNTIL(f, (read_all(f, got), count_lines(got)) == 102);
}

static void
test_out_of_band(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autoptr(GString) got = g_string_new(NULL);

    write_text(f, NEGOTIATION "{\"execute\": \"keep\"}{\"exec-oob\": \"keep\", \"id\": 2}");
    RUN_UNTIL(f, f->kept->len == 2);
    g_assert_false(spice_qmp_request_is_out_of_band(f->kept->pdata[0]));
    g_assert_null(spice_qmp_request_get_id(f->kept->pdata[0]));
    g_assert_true(spice_qmp_request_is_out_of_band(f->kept->pdata[1]));
    g_assert_true(spice_qmp_request_reply(f->kept->pdata[1], NULL, NULL));
    RUN_UNTIL(f, (read_all(f, got), count_lines(got)) == 3);
    g_assert_true(g_str_has_suffix(got->str, "{\"return\": {}, \"id\": 2}\r\n"));
}

static void
test_does_not_read(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    g_autofree char *text = g_strnfill(1 << 20, 'x');
    g_autofree char *json = g_strdup_printf("{\"a\": \"%s\"}", text);
    int i;

    write_text(f, NEGOTIATION);
    RUN_UNTIL(f, spice_qmp_server_get_negotiated(f->server));
    for (i = 0; i < 100 && !f->closed; i++) {
        g_assert_true(spice_qmp_server_emit_event(f->server, "LONG", json, NULL));
        run(f);
    }
    assert_closed(f, "does not read");
}

/* Bytes that were changed at random: each test has its own. */
static void
test_mutated(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char text[] =
        NEGOTIATION "{\"execute\": \"echo\", \"arguments\": {\"a\": [1, \"b\\u0000\"]}, \"id\": {}}\n"
                    "{\"execute\": \"refuse\"}\n{\"exec-oob\": \"keep\"}\n"
                    "{\"execute\": \"a\\u0000b\"}{\"execute\": \"drop\"}\n";
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    int round, i;

    for (round = 0; round < 200; round++) {
        g_autofree char *bytes = g_memdup2(text, sizeof text);
        gboolean freed;

        for (i = g_rand_int_range(rand, 0, 6); i > 0; i--) {
            gint32 at = g_rand_int_range(rand, 0, sizeof text - 1);

            bytes[at] = g_rand_boolean(rand) ? (char) g_rand_int(rand) : "{}[]\",:\\ 0"[at % 10];
        }
        g_assert_cmpuint(write_some(f, bytes, sizeof text - 1), ==, sizeof text - 1);
        run(f);
        g_assert_cmpint(f->closed, ==, 0);
        g_assert_true(g_io_stream_close(f->stream, NULL, NULL));
        assert_closed(f, "");

        g_ptr_array_set_size(f->kept, 0);
        watch(f->server, &freed);
        g_clear_object(&f->server);
        RUN_UNTIL(f, freed);
        g_clear_object(&f->stream);
        f->closed = 0;
        serve(f, pair(f));
    }
    g_assert_cmpint(f->commands, >, 200);
}

/* --- a stream within the process ------------------------------------------------------ */

static void
test_memory(Fixture *f, gconstpointer data G_GNUC_UNUSED)
{
    static const char sent[] =
        "{\"execute\": \"a\"}{\"execute\": \"qmp_capabilities\"}{\"execute\": \"echo\","
        " \"arguments\": {\"b\": 1}, \"id\": 3}";
    static const char expected[] =
        "{\"QMP\": {\"version\": {\"qemu\": {\"major\":9,\"micro\":2,\"minor\":1},"
        " \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": ";
    g_autoptr(GInputStream) input = g_memory_input_stream_new_from_data(sent, strlen(sent), NULL);
    g_autoptr(GOutputStream) output = g_memory_output_stream_new_resizable();
    g_autofree char *got = NULL;
    gsize length;

    spice_qmp_server_close(f->server);
    assert_closed(f, "the server closed");
    f->closed = 0;
    g_clear_object(&f->server);
    serve(f, g_simple_io_stream_new(input, output));
    assert_closed(f, "the client closed the connection");
    RUN_UNTIL(f, g_output_stream_is_closed(output));
    g_assert_cmpint(f->commands, ==, 1);
    length = g_memory_output_stream_get_data_size(G_MEMORY_OUTPUT_STREAM(output));
    got = g_strndup(g_memory_output_stream_get_data(G_MEMORY_OUTPUT_STREAM(output)), length);
    g_assert_true(g_str_has_prefix(got, expected));
    g_assert_true(
        g_str_has_suffix(got, "{\"return\": {}}\r\n{\"return\": {\"b\":1}, \"id\": 3}\r\n"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    TEST("nested", set_up_port, test_nested);
    TEST("nested-flood", set_up, test_nested_flood);
    TEST("flood", set_up, test_flood);
    TEST("kept-flood", set_up, test_kept_flood);
    TEST("out-of-band", set_up, test_out_of_band);
    TEST("does-not-read", set_up, test_does_not_read);
    TEST("mutated", set_up, test_mutated);
    TEST("memory", set_up, test_memory);
    return g_test_run();
}
