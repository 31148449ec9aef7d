#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the override of sys/python does in asyncio, with PyGObject 3.50 and newer.

Run it with with-qemu; `./dev test` has a Python with that.
"""

import asyncio
import contextlib
import functools
import gc
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import weakref

import gi

gi.require_version("SpiceClientGLib", "2.0")
gi.require_version("SpiceQmp", "1.0")
from gi.events import GLibEventLoopPolicy
from gi.repository import Gio, GLib, SpiceClientGLib, SpiceQmp
from gi.overrides import SpiceQmp as override

TIMEOUT = 40  # seconds
ADDRESS = "unix:" + os.environ["SPICE_QMP_TEST_SOCKET"]


def in_loop(test):
    """A test that is a coroutine; unittest's own way needs loops that it makes itself."""

    @functools.wraps(test)
    def run(self):
        LOOP.run_until_complete(asyncio.wait_for(test(self), TIMEOUT))

    return run


class Await(unittest.TestCase):
    @in_loop
    async def setUp(self):
        self.port = await SpiceQmp.Port.open(ADDRESS)

    @in_loop
    async def tearDown(self):
        self.assertTrue(await self.port.close())

    async def fails(self, domain, code, call):
        with self.assertRaises(GLib.Error) as raised:
            await call
        self.assertTrue(raised.exception.matches(domain, code), raised.exception)

    @in_loop
    async def test_execute(self):
        port = self.port
        version = await port.execute("query-version")
        self.assertEqual(
            ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro")),
            os.environ["SPICE_QMP_TEST_VERSION"],
        )
        self.assertEqual(await port.execute("query-jobs"), [])
        path = {"path": "/machine", "property": "type"}
        self.assertRegex(await port.execute("qom-get", path), "^pc-.*-machine$")
        self.assertEqual(await port.execute("qom-get", arguments=path), await port.execute("qom-get", path))
        replies = await asyncio.gather(*[port.execute("query-cpus-fast") for _ in range(50)])
        self.assertEqual([[cpu["cpu-index"] for cpu in reply] for reply in replies], [[0]] * 50)

    @in_loop
    async def test_execute_full(self):
        port = self.port
        path = {"path": "/machine", "property": "type"}
        self.assertRegex(await port.execute_full("qom-get", path), "^pc-.*-machine$")
        descriptors = Gio.UnixFDList()
        with open(os.devnull, "rb") as file:
            descriptors.append(file.fileno())
        self.assertEqual(await port.execute_full("getfd", {"fdname": "null"}, fds=descriptors), {})
        self.assertEqual(await port.execute("closefd", {"fdname": "null"}), {})
        await self.fails(
            SpiceQmp.error_quark(), SpiceQmp.Error.GENERIC,
            port.execute_full(
                "migrate-recover", {"uri": "unix:/nowhere"}, flags=SpiceQmp.CallFlags.OUT_OF_BAND
            ),
        )

    @in_loop
    async def test_errors(self):
        port, domain = self.port, SpiceQmp.error_quark()
        await self.fails(domain, SpiceQmp.Error.COMMAND_NOT_FOUND, port.execute("make-coffee"))
        await self.fails(domain, SpiceQmp.Error.GENERIC, port.execute("qom-get", {}))
        await self.fails(domain, SpiceQmp.Error.INVALID_ARGUMENT, port.execute("query-name", [1]))
        await self.fails(
            domain, SpiceQmp.Error.GENERIC,
            port.execute_oob("migrate-recover", {"uri": "unix:/nowhere"}),
        )
        await self.fails(
            Gio.io_error_quark(), Gio.IOErrorEnum.NOT_FOUND, SpiceQmp.Port.open("unix:/nowhere")
        )
        for wrong in ({"a": float("nan")}, {"a": object()}, {"a": b"bytes"}):
            with self.assertRaises((TypeError, ValueError)):
                port.execute("query-name", wrong)
        self.assertEqual(await port.execute("query-name"), {})
        self.assertEqual(port.get_pending(), 0)

    @in_loop
    async def test_other_calls(self):
        port = self.port
        self.assertTrue(await port.wait_ready())
        self.assertTrue(await port.vm_action(SpiceQmp.PortVmAction.PAUSE))
        self.assertEqual((await port.query_status()).status, "paused")
        self.assertEqual((await port.execute_variant("query-name")).unpack(), {})
        arguments = GLib.Variant("a{ss}", {"path": "/machine", "property": "type"})
        reply = await port.execute_variant("qom-get", arguments=arguments)
        self.assertRegex(reply.unpack(), "^pc-.*-machine$")
        self.assertTrue(await port.wait_status("paused", "running"))
        machine = SpiceQmp.Machine.new(port)
        await self.fails(
            SpiceQmp.error_quark(), SpiceQmp.Error.DEVICE_NOT_FOUND, machine.unplug("nothing")
        )

    @in_loop
    async def test_drives(self):
        drives = SpiceQmp.Machine.new(self.port).get_drives()
        drives.refresh()
        while drives.get_loading():
            await asyncio.sleep(0.01)
        [drive] = list(drives)
        refused = drive.insert("/nowhere.iso", format="raw", flags=SpiceQmp.InsertFlags.READ_ONLY)
        await self.fails(SpiceQmp.error_quark(), SpiceQmp.Error.GENERIC, refused)
        self.assertTrue(await drive.eject())
        self.assertTrue(drive.get_tray_open())

    @in_loop
    async def test_spice(self):
        session = SpiceClientGLib.Session(uri=os.environ["SPICE_QMP_TEST_URI"])
        port = await SpiceQmp.Port.find(session)
        self.assertIs(SpiceQmp.Port.get(port.props.channel), port)
        self.assertEqual(await port.execute("query-name"), {})
        self.assertTrue(await port.close())
        session.disconnect()

    @in_loop
    async def test_bus(self):
        port = await SpiceQmp.Port.find_on_bus(Gio.bus_get_sync(Gio.BusType.SESSION), "org.qemu")
        self.assertEqual(await port.execute("query-name"), {})
        self.assertTrue(await port.close())

    @in_loop
    async def test_wait_event(self):
        port = self.port
        await port.execute("stop")
        for command, name in (("cont", "RESUME"), ("stop", "STOP")) * 500:
            waiting = port.wait_event("SHUTDOWN", name)
            await port.execute(command)
            self.assertEqual((await waiting).name, name)
        waiting = port.wait_event()
        await port.execute("system_reset")
        self.assertEqual((await waiting).name, "RESET")
        await self.fails(
            Gio.io_error_quark(), Gio.IOErrorEnum.TIMED_OUT, port.wait_event("NEVER", timeout_ms=10)
        )

    @in_loop
    async def test_events(self):
        port = self.port
        await port.execute("stop")
        await port.execute("query-name")
        events = port.events("RESUME", "STOP", "STOP")
        for command in ("cont", "stop") * 3:
            await port.execute(command)
        seen = []
        async for event in events:
            seen.append(event.name)
            if len(seen) == 6:
                break
        self.assertEqual(seen, ["RESUME", "STOP"] * 3)

        # A consumer that waits while they arrive.
        async def consume(events):
            return [event.name async for event in events]

        everything = asyncio.create_task(consume(port.events()))
        some = asyncio.create_task(consume(port.events("STOP")))
        await asyncio.sleep(0)
        for command in ("cont", "stop"):
            await port.execute(command)
        await port.close()
        self.assertEqual(await some, ["STOP"])
        self.assertEqual(await everything, ["RESUME", "STOP"])
        self.assertEqual([event async for event in port.events()], [])

    @in_loop
    async def test_events_closed(self):
        events = self.port.events()
        task = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        events.close()
        with self.assertRaises(StopAsyncIteration):
            await task
        events.close()

    @in_loop
    async def test_run_job(self):
        """A backup that takes about 6 s, one that fails, and one that is cancelled."""
        size = 64 << 20
        disk = {"driver": "null-co", "size": size}
        broken = {"event": "none", "iotype": "write", "errno": 5}
        for node in (
            {**disk, "node-name": "s"},
            {**disk, "node-name": "t"},
            {"driver": "blkdebug", "node-name": "b", "image": disk, "inject-error": [broken]},
        ):
            await self.port.execute("blockdev-add", node)
        machine = SpiceQmp.Machine.new(self.port)
        steps = []

        def on_progress(job):
            self.assertIsInstance(job, SpiceQmp.Job)
            self.assertEqual(job.props.kind, "backup")
            self.assertIn(job, list(machine.get_jobs()))
            steps.append(job.get_progress())

        backup = {"device": "s", "target": "t", "sync": "full", "speed": size // 6}
        self.assertTrue(await machine.run_job("blockdev-backup", backup, on_progress))
        self.assertGreaterEqual(len(steps), 10)
        self.assertEqual((steps, steps[-1]), (sorted(steps), 1))
        self.assertEqual(len(machine.get_jobs()), 0)

        with self.assertRaisesRegex(GLib.Error, "Input/output error"):
            await machine.run_job("blockdev-backup", {**backup, "target": "b", "speed": 0})

        jobs = machine.get_jobs()
        slow = machine.run_job("blockdev-backup", {**backup, "job-id": "slow", "speed": 1})
        while not len(jobs):
            await asyncio.sleep(0.01)
        job = jobs[0]
        self.assertEqual(job.get_property("id"), "slow")
        self.assertTrue(await job.pause())
        while job.props.status != "paused":
            await asyncio.sleep(0.01)
        slow.cancel()
        while len(jobs):
            await asyncio.sleep(0.01)
        self.assertEqual(job.props.status, "null")

        # One that waits for a word before what it has done takes effect.
        held = {**backup, "job-id": "held", "speed": 0, "auto-finalize": False}
        held = machine.run_job("blockdev-backup", held)
        while not len(jobs) or jobs[0].props.status != "pending":
            await asyncio.sleep(0.01)
        self.assertTrue(await jobs[0].finalize())
        self.assertTrue(await held)
        for node in ("s", "t", "b"):
            await self.port.execute("blockdev-del", {"node-name": node})

    @in_loop
    async def test_snapshots(self):
        """One is saved, loaded and deleted; one is not there."""
        machine = SpiceQmp.Machine.new(self.port)
        with self.assertRaisesRegex(GLib.Error, "no disk"):
            await machine.save_snapshot("a")
        with tempfile.NamedTemporaryFile() as file:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", file.name, "1M"], check=True)
            node = {"driver": "qcow2", "file": {"driver": "file", "filename": file.name}}
            await self.port.execute("blockdev-add", {**node, "node-name": "n"})
            await self.port.execute("device_add", {"driver": "virtio-scsi-pci"})
            await self.port.execute("device_add", {"driver": "scsi-hd", "id": "d", "drive": "n"})

            self.assertTrue(await machine.save_snapshot("a"))
            snapshots = machine.get_snapshots()
            snapshots.refresh()
            while snapshots.get_loading():
                await asyncio.sleep(0.01)
            [snapshot] = snapshots
            self.assertIsInstance(snapshot, SpiceQmp.Snapshot)
            self.assertEqual((snapshot.props.tag, snapshot.get_loadable()), ("a", True))
            self.assertGreater(snapshot.get_state_size(), 10_000)
            self.assertLess(abs(snapshot.get_date() - time.time()), 3600)
            self.assertGreaterEqual(snapshot.get_clock(), 0)
            self.assertTrue(await machine.load_snapshot("a"))
            with self.assertRaisesRegex(GLib.Error, 'there is no snapshot "b"'):
                await machine.load_snapshot("b")
            self.assertTrue(await machine.delete_snapshot("a"))
            self.assertEqual(len(snapshots), 0)

            self.assertTrue(await machine.unplug("d", 0))
            await self.port.execute("blockdev-del", {"node-name": "n"})

    @in_loop
    async def test_cancel(self):
        port = self.port
        for call in (port.execute("query-qmp-schema"), port.wait_event("NEVER")):
            call.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await call
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(port.wait_event("NEVER"), 0.01)
        while port.get_pending():
            await port.execute("query-name")
        self.assertEqual(await port.execute("query-name"), {})


class Life(unittest.TestCase):
    @in_loop
    async def test_cancelled_with_the_future(self):
        cancellables = []

        def start(command, cancellable, callback):
            self.assertEqual(command, "stop")
            cancellables.append(cancellable)

        future = override._start(start, None, "stop")
        self.assertFalse(cancellables[0].is_cancelled())
        future.cancel()
        await asyncio.sleep(0)
        self.assertTrue(cancellables[0].is_cancelled())

    @in_loop
    async def test_nothing_is_kept(self):
        port = await SpiceQmp.Port.open(ADDRESS)
        events = port.events("STOP", "RESUME")
        await port.execute("stop")
        await port.execute("cont")
        await anext(events)
        for _ in range(2):
            with contextlib.suppress(GLib.Error):
                await port.execute("make-coffee")
            await port.close()
        gone = []
        port.weak_ref(lambda: gone.append("port"))
        queue = weakref.ref(events._queue)
        gc.disable()
        self.addCleanup(gc.enable)
        del events
        self.assertIsNone(queue())
        del port
        while not gone:
            await asyncio.sleep(0.01)


class Flood(unittest.TestCase):
    """A server that sends more than anybody fetches."""

    async def flood(self, count, size):
        client, server = socket.socketpair()
        self.addCleanup(server.close)

        def serve():
            def send(message):
                server.sendall(json.dumps(message).encode() + b"\r\n")

            version = {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""}
            send({"QMP": {"version": version, "capabilities": []}})
            for line in server.makefile("rb"):
                request = json.loads(line)
                status = {"status": "running", "running": True, "singlestep": False}
                if request["execute"] == "flood":
                    for number in range(count):
                        send({"event": "DATA", "data": {"number": number, "text": "x" * size}})
                reply = status if request["execute"] == "query-status" else {}
                send({"return": reply, "id": request["id"]})

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        stream = Gio.Socket.new_from_fd(client.detach()).connection_factory_create_connection()
        port = SpiceQmp.Port.new_for_stream(stream)
        await port.wait_ready()
        events = port.events("DATA")
        await port.execute("flood")
        await port.close()
        thread.join(TIMEOUT)
        return events.dropped, [event.data["number"] async for event in events]

    @in_loop
    async def test_many(self):
        self.assertEqual(await self.flood(1025, 1), (1, list(range(1, 1025))))

    @in_loop
    async def test_large(self):
        dropped, numbers = await self.flood(20, 1 << 20)
        self.assertEqual((dropped, numbers), (5, list(range(5, 20))))


asyncio.set_event_loop_policy(GLibEventLoopPolicy())
LOOP = asyncio.get_event_loop_policy().get_event_loop()

if __name__ == "__main__":
    unittest.main()
