#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A server in place of QEMU, in Python: it needs no QEMU."""

import json
import socket
import sys
import unittest

import gi

gi.require_version("SpiceQmp", "1.0")
from gi.repository import Gio, GLib, SpiceQmp

from test_port import call, execute, execute_variant, wait_for


def connection(end):
    return Gio.Socket.new_from_fd(end.detach()).connection_factory_create_connection()


class Sockets(unittest.TestCase):
    def setUp(self):
        near, far = socket.socketpair()
        self.server = SpiceQmp.Server.new(connection(near), "10.0.2", ["oob"])
        self.errors = []
        # PyGObject prints exceptions of callbacks, and continues.
        hook, sys.excepthook = sys.excepthook, lambda *error: self.errors.append(error)
        self.addCleanup(setattr, sys, "excepthook", hook)
        self.running = False
        self.server.connect("command::query-status", self.reply_status)
        self.port = SpiceQmp.Port.new_for_stream(connection(far))
        self.assertTrue(call(self.port.wait_ready_async, self.port.wait_ready_finish))

    def tearDown(self):
        self.server.close()
        self.assertEqual(self.errors, [])

    def reply_status(self, _server, request):
        status = "running" if self.running else "paused"
        return request.reply(json.dumps({"status": status, "running": self.running}))

    def fails(self, command, code, words):
        with self.assertRaisesRegex(GLib.Error, words) as raised:
            execute(self.port, command)
        domain = SpiceQmp.error_quark()
        self.assertEqual(raised.exception.domain, GLib.quark_to_string(domain))
        self.assertEqual(raised.exception.code, code)

    def test_answers(self):
        def on_echo(_server, request):
            self.assertEqual(request.get_command(), "echo")
            self.assertEqual(request.get_arguments_variant().unpack(), {"a": [1, "b"]})
            request.reply(request.get_arguments())

        def on_pair(_server, request):
            self.assertIsNone(request.get_arguments())
            self.assertIsNone(request.get_arguments_variant())
            request.reply_variant(GLib.Variant("a{sv}", {"a": GLib.Variant("i", 7)}))

        def on_refuse(_server, request):
            self.assertTrue(request.refuse("DeviceNotFound", "no such device"))
            self.assertFalse(request.refuse(None, "again"))

        self.server.connect("command::echo", on_echo)
        self.server.connect("command::pair", on_pair)
        self.server.connect("command::refuse", on_refuse)
        self.server.connect("command::empty", lambda _server, request: request.reply())
        self.assertTrue(self.server.props.negotiated)
        self.assertEqual(self.port.props.version, "10.0.2")
        self.assertEqual(self.port.props.capabilities, ["oob"])
        self.assertEqual(execute(self.port, "echo", '{"a": [1, "b"]}'), '{"a":[1,"b"]}')
        self.assertEqual(execute_variant(self.port, "pair").unpack(), {"a": 7})
        self.assertEqual(execute(self.port, "empty"), "{}")
        self.fails("refuse", SpiceQmp.Error.DEVICE_NOT_FOUND, "no such device")
        self.fails("unknown", SpiceQmp.Error.COMMAND_NOT_FOUND, "does not answer")
        wait_for(lambda: self.port.props.status, "the status")
        self.assertEqual(self.port.props.status.status, "paused")

    def test_later(self):
        kept = []

        def keep(_server, request):
            kept.append(request)
            return True

        self.server.connect("command::keep", keep)
        ended = []
        for _ in range(2):
            self.port.execute_async("keep", None, None, lambda *end: ended.append(end))
        wait_for(lambda: len(kept) == 2, "both requests")
        self.assertEqual(ended, [])
        with self.assertRaisesRegex(GLib.Error, "return: "):
            kept[1].reply("{")
        kept[1].reply("2")
        with self.assertRaisesRegex(GLib.Error, "answered before"):
            kept[1].reply("3")
        # Its last reference.
        del kept[0]
        wait_for(lambda: len(ended) == 2, "the answers")
        with self.assertRaisesRegex(GLib.Error, "does not answer"):
            self.port.execute_finish(ended[0][1])
        self.assertEqual(self.port.execute_finish(ended[1][1]), "2")

    def test_events_and_end(self):
        events, reasons = [], []
        self.port.connect("qmp-event", lambda _port, event: events.append(event))
        self.server.connect(
            "notify::close-reason", lambda server, _: reasons.append(server.props.close_reason)
        )
        self.server.emit_event("SHUTDOWN", '{"guest": true}')
        self.server.emit_event("STOP")
        wait_for(lambda: len(events) == 2, "the events")
        self.assertEqual(events[0].get_data_variant().unpack(), {"guest": True})
        with self.assertRaisesRegex(GLib.Error, "data"):
            self.server.emit_event("STOP", "7")
        self.assertIsNone(self.server.props.close_reason)
        self.server.flush_and_close()
        wait_for(lambda: reasons, "the end")
        self.assertEqual(reasons, ["the server closed the connection"])
        wait_for(lambda: not self.port.props.ready, "the port's end")

    def test_a_machine(self):
        """What a viewer would test."""
        def on_stop(server, request):
            self.running = False
            server.emit_event("STOP")
            request.reply()

        self.server.connect("command::stop", on_stop)
        self.running = True
        machine = SpiceQmp.Machine.new(self.port)
        self.server.emit_event("RESUME")
        wait_for(lambda: self.port.props.status and self.port.props.status.running, "it to run")
        machine.activate_action("pause")
        wait_for(lambda: machine.get_action_state("pause").unpack(), "it to pause")


class Memory(unittest.TestCase):
    def test_served(self):
        sent = b'{"execute": "qmp_capabilities"}{"execute": "a", "id": 1}{"execute": "b"}'
        output = Gio.MemoryOutputStream.new_resizable()
        stream = Gio.SimpleIOStream.new(
            Gio.MemoryInputStream.new_from_bytes(GLib.Bytes.new(sent)), output
        )
        server = SpiceQmp.Server(stream=stream, version="7.2.0")
        self.assertEqual(server.props.version, "7.2.0")
        self.assertEqual(server.props.capabilities, [])
        commands = []

        def on_command(_server, request):
            commands.append((request.get_command(), request.get_id()))
            return request.get_command() == "a" and request.reply("[]")

        server.connect("command", on_command)
        wait_for(lambda: server.props.close_reason, "the end")
        wait_for(output.is_closed, "the stream to be closed")
        self.assertEqual(commands, [("a", "1"), ("b", None)])
        greeting, *answers = map(json.loads, output.steal_as_bytes().get_data().splitlines())
        self.assertEqual(greeting["QMP"]["version"]["qemu"], {"major": 7, "minor": 2, "micro": 0})
        self.assertEqual(answers[:2], [{"return": {}}, {"return": [], "id": 1}])
        self.assertEqual(answers[2]["error"]["class"], "CommandNotFound")

    def test_unserved(self):
        """A server that is dropped at once."""
        output = Gio.MemoryOutputStream.new_resizable()
        stream = Gio.SimpleIOStream.new(Gio.MemoryInputStream.new(), output)
        server = SpiceQmp.Server.new(stream)
        self.assertEqual(server.dup_version(), "10.0.0")
        del server
        wait_for(output.is_closed, "the stream to be closed")


if __name__ == "__main__":
    unittest.main()
