/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A library that was built without SPICE: a port on a socket, without any of spice-gtk. */
#include "server.h"

#if defined(SPICE_QMP_HAS_SPICE) || defined(__SPICE_CLIENT_CLIENT_H__)
#error "the header names spice-gtk"
#endif

static void
test_socket(void)
{
    GIOStream *client;
    Server *server = server_pair(&client);
    SpiceQmpPort *port = spice_qmp_port_new_for_stream(client);
    GError *error = NULL;
    gboolean freed;

    server_greet(server);
    wait_ready(port, &error);
    g_assert_no_error(error);
    assert_executes(port, "echo", "{\"a\": 1}");

    watch(port, &freed);
    g_object_unref(port);
    WAIT_UNTIL(freed);
    g_object_unref(client);
    server_free(server);
}

static void
test_spice_server(void)
{
    GError *error = NULL;
    Reply reply = { 0 };

    spice_qmp_port_open_async("spice://localhost:5900", NULL, on_reply, &reply);
    await(&reply);
    g_assert_null(spice_qmp_port_open_finish(reply.result, &error));
    g_assert_error(error, SPICE_QMP_ERROR, SPICE_QMP_ERROR_NOT_SUPPORTED);
    g_assert_nonnull(strstr(error->message, "without SPICE"));
    g_error_free(error);
    forget(&reply);
}

/* Nothing has loaded spice-gtk into the process. */
static void
test_types(void)
{
    g_type_ensure(SPICE_TYPE_QMP_PORT);
    g_assert_cmpuint(g_type_from_name("SpicePortChannel"), ==, 0);
    g_assert_cmpuint(g_type_from_name("SpiceSession"), ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/without-spice/socket", test_socket);
    g_test_add_func("/without-spice/spice-server", test_spice_server);
    g_test_add_func("/without-spice/types", test_types);
    return g_test_run();
}
