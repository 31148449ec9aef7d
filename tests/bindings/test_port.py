#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""All of the library from Python, on a real QEMU; run it with with-qemu."""

import contextlib
import json
import os
import socket
import struct
import sys
import tempfile
import threading
import unittest

import gi

gi.require_version("SpiceClientGLib", "2.0")
gi.require_version("SpiceQmp", "1.0")
from gi.repository import Gio, GLib, SpiceClientGLib, SpiceQmp

TIMEOUT = 20  # seconds
OBJECT = GLib.VariantType("a{sv}")


def wait_for(condition, what):
    """Runs the main loop until the condition is met."""
    late = []
    timer = GLib.timeout_add_seconds(TIMEOUT, lambda: late.append(True))
    while not condition():
        if late:
            raise AssertionError(f"waited {TIMEOUT} s for {what}")
        GLib.MainContext.default().iteration(True)
    if not late:
        GLib.source_remove(timer)


def call(start, finish, *arguments, cancellable=None):
    results = []
    start(*arguments, cancellable, lambda _, result: results.append(result))
    assert not results, f"{start} called back at once"
    wait_for(lambda: results, start)
    return finish(results[0])


def find(session):
    return call(SpiceQmp.Port.find_async, SpiceQmp.Port.find_finish, session)


def open_socket():
    address = "unix:" + os.environ["SPICE_QMP_TEST_SOCKET"]
    return call(SpiceQmp.Port.open_async, SpiceQmp.Port.open_finish, address)


def close(port):
    return call(port.close_async, port.close_finish)


def act(port, action):
    return call(port.vm_action_async, port.vm_action_finish, action)


def status_of(port):
    return call(port.query_status_async, port.query_status_finish)


def execute(port, command, arguments=None, cancellable=None):
    return call(
        port.execute_async, port.execute_finish, command, arguments, cancellable=cancellable
    )


def execute_with_fd(port, command, arguments, path, flags=SpiceQmp.CallFlags.NONE):
    fds = Gio.UnixFDList()
    fd = os.open(path, os.O_RDONLY)
    fds.append(fd)
    os.close(fd)
    return call(
        port.execute_full_async,
        port.execute_full_finish,
        *(command, json.dumps(arguments), TIMEOUT * 1000, fds, flags),
    )


def execute_variant(port, command, arguments=None):
    return call(port.execute_variant_async, port.execute_variant_finish, command, arguments)


class TestCase(unittest.TestCase):
    @contextlib.contextmanager
    def fails(self, domain, code):
        with self.assertRaises(GLib.Error) as raised:
            yield raised
        self.assertTrue(raised.exception.matches(domain, code), raised.exception)


class OverSpice(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.session = SpiceClientGLib.Session(uri=os.environ["SPICE_QMP_TEST_URI"])
        cls.port = find(cls.session)

    @classmethod
    def tearDownClass(cls):
        assert close(cls.port)
        cls.session.disconnect()

    def setUp(self):
        self.handlers = []

    def tearDown(self):
        for handler in self.handlers:
            self.port.disconnect(handler)

    def listen(self, signal):
        """The arguments of each emission from now on."""
        seen = []
        handler = self.port.connect(signal, lambda _port, *arguments: seen.append(arguments))
        self.handlers.append(handler)
        return seen

    def test_properties(self):
        port = self.port
        self.assertTrue(port.props.ready)
        self.assertEqual(port.props.state, SpiceQmp.PortState.READY)
        self.assertEqual(port.props.version, os.environ["SPICE_QMP_TEST_VERSION"])
        self.assertIn("Debian", port.props.package or "Debian")
        self.assertEqual(port.props.capabilities, [])
        self.assertEqual(port.props.pending, 0)
        self.assertIsNone(port.props.last_error)
        self.assertTrue(port.props.responsive)
        self.assertEqual(port.props.max_message_size, 64 * 1024 * 1024)
        port.props.command_timeout = 5000
        self.assertEqual(port.props.command_timeout, 5000)
        port.props.command_timeout = 0

    def test_property_functions(self):
        port = self.port
        wait_for(lambda: port.props.status, "the first status")
        self.assertTrue(port.get_ready())
        self.assertTrue(port.get_responsive())
        self.assertEqual(port.get_state(), SpiceQmp.PortState.READY)
        self.assertEqual(port.get_pending(), 0)
        self.assertEqual(port.dup_version(), os.environ["SPICE_QMP_TEST_VERSION"])
        self.assertEqual(port.dup_package(), port.props.package)
        self.assertEqual(port.dup_capabilities(), [])
        self.assertEqual(port.dup_status().status, port.props.status.status)
        self.assertIsNone(port.dup_last_error())
        self.assertIs(port.ref_channel(), port.props.channel)
        for name, value in (
            ("command_timeout", 5000),
            ("close_timeout", 7000),
            ("max_message_size", 1 << 32),
        ):
            old = getattr(port, f"get_{name}")()
            getattr(port, f"set_{name}")(value)
            self.assertEqual(getattr(port.props, name), value)
            setattr(port.props, name, old)
            self.assertEqual(getattr(port, f"get_{name}")(), old)

    def test_channel(self):
        channel = self.port.props.channel
        self.assertIsInstance(channel, SpiceClientGLib.PortChannel)
        self.assertTrue(SpiceQmp.Port.is_qmp_name(channel.props.port_name))
        self.assertFalse(SpiceQmp.Port.is_qmp_name("org.qemu.monitor.hmp.0"))
        self.assertIs(SpiceQmp.Port.get(channel), self.port)
        self.assertEqual(self.port.__gtype__.name, "SpiceQmp1Port")

    def test_options(self):
        find = SpiceQmp.Port.find_full_async, SpiceQmp.Port.find_full_finish
        self.assertIs(call(*find, self.session, TIMEOUT * 1000, True), self.port)
        names = SpiceQmp.Port.port_names_async, SpiceQmp.Port.port_names_finish
        self.assertEqual(
            call(*names, self.session, TIMEOUT * 1000, False),
            [self.port.props.channel.props.port_name],
        )
        ready = self.port.wait_ready_full_async, self.port.wait_ready_full_finish
        self.assertTrue(call(*ready, 0))
        self.assertFalse(self.port.is_mute())

    def test_status_and_actions(self):
        changes = self.listen("notify::status")
        self.assertTrue(act(self.port, SpiceQmp.PortVmAction.CONTINUE))
        status = status_of(self.port)
        self.assertEqual((status.version, status.running), (1, True))
        self.assertEqual((status.singlestep, status.status), (False, "running"))
        wait_for(lambda: self.port.props.status.running, "the status to be running")

        self.assertTrue(act(self.port, SpiceQmp.PortVmAction.PAUSE))
        wait_for(lambda: self.port.props.status.status == "paused", "the status to be paused")
        self.assertFalse(self.port.props.status.running)
        self.assertGreaterEqual(len(changes), 2)

    def test_events(self):
        everything = self.listen("qmp-event")
        resets = self.listen("qmp-event::RESET")
        names = self.listen("event")
        act(self.port, SpiceQmp.PortVmAction.CONTINUE)
        act(self.port, SpiceQmp.PortVmAction.RESET)
        wait_for(lambda: resets, "the event RESET")
        act(self.port, SpiceQmp.PortVmAction.PAUSE)
        wait_for(lambda: any(e.get_name() == "STOP" for (e,) in everything), "the event STOP")

        # The firmware may reset the machine once more.
        (reset,) = resets[0]
        self.assertEqual(reset.get_name(), "RESET")
        data = {"guest": False, "reason": "host-qmp-system-reset"}
        self.assertEqual(json.loads(reset.get_data()), data)
        self.assertEqual(reset.get_data_variant().unpack(), data)
        self.assertLess(abs(reset.get_timestamp() - GLib.get_real_time()), 60_000_000)

        stop = next(e for (e,) in everything if e.get_name() == "STOP")
        self.assertIsNone(stop.get_data())
        self.assertIsNone(stop.get_data_variant())
        seen = [event.get_name() for (event,) in everything]
        self.assertEqual([name for name, _node in names], seen)

    def test_execute(self):
        version = json.loads(execute(self.port, "query-version"))
        self.assertIn("qemu", version)
        arguments = json.dumps({"path": "/machine", "property": "type"})
        self.assertRegex(json.loads(execute(self.port, "qom-get", arguments)), "^pc-.*-machine$")

    def test_execute_variant(self):
        reply = execute_variant(self.port, "query-version")
        self.assertTrue(reply.is_of_type(OBJECT))
        self.assertEqual(
            ".".join(str(reply["qemu"][part]) for part in ("major", "minor", "micro")),
            os.environ["SPICE_QMP_TEST_VERSION"],
        )
        arguments = {"path": GLib.Variant("s", "/machine"), "property": GLib.Variant("s", "type")}
        reply = execute_variant(self.port, "qom-get", GLib.Variant("a{sv}", arguments))
        self.assertRegex(reply.unpack(), "^pc-.*-machine$")
        processors = execute_variant(self.port, "query-cpus-fast").unpack()
        self.assertEqual([cpu["cpu-index"] for cpu in processors], [0])

    def test_large_reply(self):
        text = execute(self.port, "query-qmp-schema")
        self.assertGreater(len(text), 131_136)
        commands = {e["name"] for e in json.loads(text) if e["meta-type"] == "command"}
        self.assertIn("query-status", commands)
        schema = execute_variant(self.port, "query-qmp-schema").unpack()
        self.assertEqual(schema, json.loads(text))

    def test_errors(self):
        domain = SpiceQmp.error_quark()
        with self.fails(domain, SpiceQmp.Error.COMMAND_NOT_FOUND) as error:
            execute(self.port, "make-coffee")
        self.assertIn("make-coffee", error.exception.message)
        with self.fails(domain, SpiceQmp.Error.GENERIC):
            execute(self.port, "qom-get", "{}")
        with self.fails(domain, SpiceQmp.Error.DEVICE_NOT_FOUND):
            execute(self.port, "device_del", '{"id": "nothing"}')
        with self.fails(domain, SpiceQmp.Error.INVALID_ARGUMENT):
            execute(self.port, "query-name", "no JSON")
        with self.fails(domain, SpiceQmp.Error.INVALID_ARGUMENT):
            execute_variant(self.port, "query-name", GLib.Variant("s", "no dictionary"))
        with self.fails(domain, SpiceQmp.Error.NOT_SUPPORTED):
            call(
                self.port.execute_oob_async, self.port.execute_oob_finish, "migrate-recover", None
            )
        with self.fails(domain, SpiceQmp.Error.NOT_SUPPORTED):
            execute_with_fd(self.port, "getfd", {"fdname": "python"}, "/dev/null")
        self.assertTrue(self.port.props.ready)

    def test_cancel(self):
        pending = self.listen("notify::pending")
        cancellable = Gio.Cancellable()
        GLib.idle_add(cancellable.cancel)
        with self.fails(Gio.io_error_quark(), Gio.IOErrorEnum.CANCELLED):
            execute(self.port, "query-qmp-schema", cancellable=cancellable)
        with self.fails(Gio.io_error_quark(), Gio.IOErrorEnum.CANCELLED):
            execute(self.port, "query-name", cancellable=cancellable)
        self.assertEqual(execute(self.port, "query-name"), "{}")
        wait_for(lambda: self.port.props.pending == 0, "the calls to end")
        self.assertTrue(pending)


class OverSocket(TestCase):
    def test_kept_events(self):
        port = open_socket()
        kept, described, replies = [], [], []

        def describe(event):
            return event.get_name(), event.get_data(), event.get_timestamp()

        port.connect("qmp-event", lambda _port, event: kept.append(event))
        port.connect("qmp-event", lambda _port, event: described.append(describe(event)))
        for _ in range(50):
            for command in ("cont", "system_reset", "stop"):
                port.execute_async(command, None, None, lambda *reply: replies.append(reply[1]))
        wait_for(lambda: len(replies) == 150, "150 replies")
        for reply in replies:
            port.execute_finish(reply)
        wait_for(lambda: [name for name, *_ in described].count("STOP") == 50, "50 STOP")
        self.assertEqual([describe(event) for event in kept], described)
        self.assertGreaterEqual(len({timestamp for *_, timestamp in described}), 50)
        self.assertTrue(close(port))

    def test_out_of_band(self):
        port = open_socket()
        self.assertEqual(port.props.capabilities, ["oob"])
        self.assertEqual(port.dup_capabilities(), ["oob"])
        self.assertIsNone(port.props.channel)
        self.assertIsNone(port.ref_channel())
        with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.GENERIC):
            arguments = '{"uri": "unix:/nowhere"}'
            call(port.execute_oob_async, port.execute_oob_finish, "migrate-recover", arguments)
        self.assertTrue(close(port))

    def test_file_descriptors(self):
        port = open_socket()
        for _ in range(3):
            given = execute_with_fd(port, "getfd", {"fdname": "python"}, "/dev/null")
            self.assertEqual(given, "{}")
            execute(port, "closefd", '{"fdname": "python"}')
        with tempfile.NamedTemporaryFile() as disk:
            disk.truncate(1 << 20)
            added = execute_with_fd(port, "add-fd", {"fdset-id": 8}, disk.name)
        self.assertEqual(json.loads(added)["fdset-id"], 8)
        node = {"driver": "file", "node-name": "python", "filename": "/dev/fdset/8"}
        execute(port, "blockdev-add", json.dumps(node | {"read-only": True}))
        nodes = json.loads(execute(port, "query-named-block-nodes"))
        self.assertEqual([node["image"]["virtual-size"] for node in nodes], [1 << 20])
        execute(port, "blockdev-del", '{"node-name": "python"}')
        execute(port, "remove-fd", '{"fdset-id": 8}')
        # The other options.
        options = (port.execute_full_async, port.execute_full_finish, "query-name", None, 0, None)
        self.assertEqual(call(*options, SpiceQmp.CallFlags.NONE), "{}")
        with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.GENERIC):
            call(*options, SpiceQmp.CallFlags.OUT_OF_BAND)
        self.assertTrue(close(port))

    def test_stream(self):
        address = Gio.UnixSocketAddress.new(os.environ["SPICE_QMP_TEST_SOCKET"])
        port = SpiceQmp.Port.new_for_stream(Gio.SocketClient().connect(address, None))
        self.assertFalse(port.props.ready)
        self.assertEqual(port.get_state(), SpiceQmp.PortState.GREETING)
        self.assertIsNone(port.dup_version())
        self.assertIsNone(port.dup_status())
        self.assertTrue(call(port.wait_ready_async, port.wait_ready_finish))
        self.assertEqual(execute(port, "query-name"), "{}")
        self.assertTrue(close(port))
        with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.NOT_READY):
            execute(port, "query-name")
        closed = port.dup_last_error()
        self.assertTrue(closed.matches(Gio.io_error_quark(), Gio.IOErrorEnum.CLOSED))

    def test_refusals(self):
        with self.fails(Gio.io_error_quark(), Gio.IOErrorEnum.NOT_FOUND):
            call(SpiceQmp.Port.open_async, SpiceQmp.Port.open_finish, "unix:/nowhere")
        with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.INVALID_ARGUMENT):
            call(SpiceQmp.Port.open_async, SpiceQmp.Port.open_finish, "nonsense")
        with self.assertRaises(GLib.Error):
            find(SpiceClientGLib.Session(uri="spice+unix:///nowhere"))


class OnBus(TestCase):
    """A D-Bus display on the session bus, which is with-qemu's."""

    def find(self, connection, name="org.qemu"):
        find = SpiceQmp.Port.find_on_bus_async, SpiceQmp.Port.find_on_bus_finish
        return call(*find, connection, name)

    def own_connection(self):
        address = Gio.dbus_address_get_for_bus_sync(Gio.BusType.SESSION)
        flags = Gio.DBusConnectionFlags
        connection = Gio.DBusConnection.new_for_address_sync(
            address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION
        )
        self.addCleanup(connection.close_sync)
        return connection

    def works(self, port):
        self.assertEqual(port.dup_version(), os.environ["SPICE_QMP_TEST_VERSION"])
        self.assertEqual(port.dup_capabilities(), ["oob"])
        self.assertIsNone(port.ref_channel())
        self.assertTrue(act(port, SpiceQmp.PortVmAction.CONTINUE))
        wait_for(lambda: port.props.status.running, "the status to be running")
        self.assertTrue(act(port, SpiceQmp.PortVmAction.PAUSE))
        wait_for(lambda: port.props.status.status == "paused", "the status to be paused")
        self.assertTrue(close(port))

    def test_session_bus(self):
        self.works(self.find(Gio.bus_get_sync(Gio.BusType.SESSION)))

    def test_own_connection(self):
        self.works(self.find(self.own_connection()))

    def test_addresses(self):
        bus = Gio.dbus_address_get_for_bus_sync(Gio.BusType.SESSION)
        for address in ("dbus:", "dbus:org.qemu", f"dbus:address={bus},name=org.qemu"):
            self.works(call(SpiceQmp.Port.open_async, SpiceQmp.Port.open_finish, address))

    def test_refusals(self):
        connection = self.own_connection()
        port = self.find(connection)
        with self.fails(Gio.io_error_quark(), Gio.IOErrorEnum.BUSY) as raised:
            self.find(connection)
        self.assertIn(connection.get_unique_name(), raised.exception.message)
        self.assertTrue(close(port))
        with self.fails(Gio.io_error_quark(), Gio.IOErrorEnum.NOT_FOUND):
            self.find(connection, "org.example")
        for wrong in ("nonsense", None):
            with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.INVALID_ARGUMENT):
                self.find(connection, wrong)


class Machine(TestCase):
    """The machine behind a port; another monitor looks on."""

    def setUp(self):
        self.port = open_socket()
        self.machine = SpiceQmp.Machine.new(self.port)
        self.addCleanup(lambda: close(self.port))

    def wait_status(self, *names):
        return call(
            self.port.wait_status_async, self.port.wait_status_finish, names, TIMEOUT * 1000
        )

    def enabled(self):
        actions = self.machine.list_actions()
        return [name for name in actions if self.machine.get_action_enabled(name)]

    def is_paused(self):
        return self.machine.get_action_state("pause").unpack()

    def test_actions(self):
        machine = self.machine
        self.assertIsInstance(machine, Gio.ActionGroup)
        self.assertIs(machine.get_port(), self.port)
        self.assertIs(machine.props.port, self.port)
        failures = []
        machine.connect("action-failed", lambda _machine, *failure: failures.append(failure))
        machine.change_action_state("pause", GLib.Variant("b", False))
        self.assertTrue(self.wait_status("running"))
        self.assertFalse(self.is_paused())
        self.assertEqual(self.enabled(), ["pause", "reset", "power-down", "quit", "nmi"])
        states = []
        machine.connect(
            "action-state-changed::pause", lambda _machine, _name, state: states.append(state)
        )
        machine.activate_action("pause", None)
        self.assertTrue(self.wait_status("paused"))
        self.assertEqual([state.unpack() for state in states], [True])
        self.assertEqual(self.enabled(), ["pause", "reset", "quit"])
        self.assertIsNone(machine.props.condition)
        self.assertIsNone(machine.dup_condition())
        self.assertEqual(failures, [])

    def test_wait_event(self):
        def wait(names):
            results = []
            self.port.wait_event_async(
                names, TIMEOUT * 1000, None, lambda _, result: results.append(result)
            )
            return results

        for command, name in (("cont", "RESUME"), ("stop", "STOP")) * 100:
            results = wait([name])
            execute(self.port, command)
            wait_for(lambda: results, name)
            self.assertEqual(self.port.wait_event_finish(results[0]).get_name(), name)
        results = wait(None)
        execute(self.port, "system_reset")
        wait_for(lambda: results, "any event")
        self.assertEqual(self.port.wait_event_finish(results[0]).get_name(), "RESET")
        with self.fails(Gio.io_error_quark(), Gio.IOErrorEnum.TIMED_OUT):
            call(self.port.wait_event_async, self.port.wait_event_finish, ["NEVER"], 10)

    def test_drives(self):
        drives = self.machine.get_drives()
        self.assertIs(drives, self.machine.props.drives)
        self.assertIsInstance(drives, Gio.ListModel)
        self.assertEqual(drives.get_item_type(), SpiceQmp.Drive.__gtype__)
        self.assertEqual(drives.get_n_items(), 0)
        self.assertTrue(drives.get_loading())
        wait_for(lambda: not drives.props.loading, "the drives")
        self.assertIsNone(drives.dup_error())
        drive = drives.get_item(0)
        self.assertEqual((drive.dup_id(), drive.props.name), ("cd0", "cd"))
        self.assertEqual((drive.get_removable(), drive.get_locked()), (True, False))
        self.assertEqual((drive.dup_medium(), drive.dup_lost_medium()), (None, None))

        def insert(name, flags):
            return call(drive.insert_async, drive.insert_finish, name, "raw", flags)

        media = []
        drive.connect("notify::medium", lambda drive, _: media.append(drive.props.medium))
        with tempfile.NamedTemporaryFile(suffix=".iso") as file:
            file.write(bytes(65536))
            file.flush()
            self.assertTrue(insert(file.name, SpiceQmp.InsertFlags.READ_ONLY))
            self.assertTrue(drive.get_read_only())
            with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.GENERIC):
                insert("/nowhere.iso", SpiceQmp.InsertFlags.NONE)
            self.assertTrue(call(drive.eject_async, drive.eject_finish, False))
            self.assertEqual(media, [file.name, None])
            flags = SpiceQmp.InsertFlags.READ_WRITE
            args = (file.fileno(), "disc", "raw", flags)
            self.assertTrue(call(drive.insert_fd_async, drive.insert_fd_finish, *args))
            self.assertRegex(drive.dup_medium(), "^/dev/fdset/")
            self.assertFalse(drive.get_read_only())
            self.assertTrue(call(drive.eject_async, drive.eject_finish, False))
        self.assertTrue(drive.get_tray_open())
        self.assertEqual(drive.dup_io_status(), "ok")
        drives.refresh()
        wait_for(lambda: not drives.get_loading(), "the drives again")
        self.assertIs(drives.get_item(0), drive)
        self.assertIsNone(drives.get_item(1))

    def test_unplug(self):
        def unplug(timeout):
            return call(self.machine.unplug_async, self.machine.unplug_finish, "n1", timeout)

        device = GLib.Variant("a{sv}", {"driver": GLib.Variant("s", "e1000"), "id": GLib.Variant("s", "n1")})
        execute_variant(self.port, "device_add", device)
        # There is no guest that would release it.
        with self.fails(Gio.io_error_quark(), Gio.IOErrorEnum.TIMED_OUT):
            unplug(10)
        # QEMU removes the device at a reset.
        execute(self.port, "system_reset")
        with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.DEVICE_NOT_FOUND):
            wait_for(lambda: '"n1"' not in self.devices(), "the end of the device")
            unplug(10)

    def test_schema(self):
        load = self.machine.load_schema_async, self.machine.load_schema_finish
        schema = call(*load)
        self.assertTrue(schema.has_command("query-block"))
        self.assertFalse(schema.has_command("make-coffee"))
        self.assertTrue(schema.has_argument("device_del", "id"))
        self.assertFalse(schema.has_argument("device_del", "milk"))
        commands = schema.list_commands()
        self.assertGreater(len(commands), 200)
        self.assertEqual(commands, sorted(commands))
        self.assertEqual(call(*load).list_commands(), commands)

    def test_screenshot(self):
        def screenshot(port, device, head=0):
            machine = SpiceQmp.Machine.new(port)
            return call(machine.screenshot_async, machine.screenshot_finish, device, head)

        device = {"driver": "secondary-vga", "id": "screen"}
        execute(self.port, "device_add", json.dumps(device))
        png = screenshot(self.port, "screen").get_data()
        self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual(struct.unpack(">II", png[16:24]), (640, 480))
        with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.DEVICE_NOT_FOUND):
            screenshot(self.port, "no-such-device")
        with self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.GENERIC):
            screenshot(self.port, "screen", 9)

    def devices(self):
        return execute(self.port, "qom-list", '{"path": "/machine/peripheral"}')


class Storm:
    """A server that sends events as fast as the client reads, when it gets `storm`."""

    SIZE = 5000
    GREETING = {
        "version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""},
        "capabilities": [],
    }
    NAMES = ("STOP", "RESUME", "UNKNOWN", "UNKNOWN_TOO")

    def __init__(self):
        self.client, self.server = socket.socketpair()
        self.has_stormed = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def send(self, message):
        self.server.sendall(json.dumps(message).encode() + b"\r\n")

    def run(self):
        self.send({"QMP": self.GREETING})
        for line in self.server.makefile("rb"):
            request = json.loads(line)
            command = request["execute"]
            status = {"status": "running", "running": True, "singlestep": False}
            reply = status if command == "query-status" else {}
            self.send({"return": reply, "id": request["id"]})
            if command == "storm":
                for number in range(self.SIZE):
                    name = self.NAMES[number % len(self.NAMES)]
                    self.send({"event": name, "data": {"number": number}})
                self.has_stormed = True

    def end(self):
        self.server.shutdown(socket.SHUT_RDWR)
        self.thread.join(TIMEOUT)
        self.server.close()


class Nesting(TestCase):
    """A handler that iterates the main loop, as programs do to redraw."""

    def test_storm(self):
        storm = Storm()
        self.addCleanup(storm.end)
        client = Gio.Socket.new_from_fd(storm.client.detach())
        port = SpiceQmp.Port.new_for_stream(client.connection_factory_create_connection())
        self.assertTrue(call(port.wait_ready_async, port.wait_ready_finish))
        context = GLib.MainContext.default()
        depths = [0]
        deepest = events = 0
        errors = []

        def on_event(_port, _event):
            nonlocal deepest, events
            events += 1
            depths.append(depths[-1] + 1)
            deepest = max(deepest, depths[-1])
            while context.pending():
                context.iteration(False)
            depths.pop()

        # PyGObject prints exceptions of callbacks, and continues.
        hook, sys.excepthook = sys.excepthook, lambda *error: errors.append(error)
        self.addCleanup(setattr, sys, "excepthook", hook)
        port.connect("qmp-event", on_event)
        execute(port, "storm")
        wait_for(lambda: storm.has_stormed and len(depths) == 1, "the end of the storm")
        # This is answered after all events.
        self.assertEqual(execute(port, "query-name"), "{}")
        self.assertEqual(errors, [])
        self.assertEqual(len(depths), 1)
        self.assertLessEqual(deepest, 33)
        self.assertGreaterEqual(deepest, 32)
        self.assertLessEqual(events, storm.SIZE)
        self.assertTrue(port.props.ready)
        self.assertTrue(close(port))


if __name__ == "__main__":
    unittest.main()
