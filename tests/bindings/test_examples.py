#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the examples on a real QEMU; run it with with-qemu.

    test_examples.py EXAMPLES [POWER]

EXAMPLES is the folder of the scripts, POWER the compiled examples/power.vala.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import unittest

TIMEOUT = 20  # seconds
NOWHERE = "spice+unix:///nowhere"
uri = os.environ["SPICE_QMP_TEST_URI"]
version = os.environ["SPICE_QMP_TEST_VERSION"]
examples, power = (sys.argv[1:] + [None])[:2]


def run(*command):
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
    )


class Monitor:
    """A QMP client apart from the library under test."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(os.environ["SPICE_QMP_TEST_SOCKET"])
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.execute("qmp_capabilities")

    def close(self):
        self.lines.close()
        self.socket.close()

    def execute(self, command):
        self.socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while True:
            message = json.loads(self.lines.readline())
            if "event" not in message:
                return message["return"]

    def state(self):
        return self.execute("query-status")["status"]


class Examples(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.monitor = Monitor()

    @classmethod
    def tearDownClass(cls):
        cls.monitor.close()

    def succeeds(self, result, output):
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, output, ""))

    def refuses(self, *command):
        """Wrong use is reported, and so is a missing server."""
        result = run(*command)
        self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
        self.assertIn("spice://HOST:PORT", result.stderr)
        result = run(*command, NOWHERE)
        self.assertEqual((result.returncode, result.stdout), (1, ""), result.stderr)
        self.assertRegex(result.stderr, "^[a-z-]+: cannot connect: .*No such file or directory\n$")

    def test_vm_status(self):
        program = [sys.executable, f"{examples}/vm-status.py"]
        output = f"machine: without a name\nQEMU: {version}\nstate: {self.monitor.state()}\n"
        output += "memory: 64 MiB\nprocessors: 1\ndisk cd: empty\n"
        self.succeeds(run(*program, uri), output)
        self.refuses(*program)

    def test_display_status(self):
        program = [sys.executable, f"{examples}/display-status.py"]
        process = subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self.assertEqual(process.stdout.readline(), f"{self.monitor.state()}\n")
            self.monitor.execute("cont")
            self.assertEqual(process.stdout.readline(), "running\n")
            self.monitor.execute("stop")
            self.assertEqual(process.stdout.readline(), "paused\n")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
            process.wait()
        self.assertEqual((process.returncode, errors), (0, ""))
        result = run(*program, "org.example")
        self.assertEqual((result.returncode, result.stdout), (1, ""), result.stderr)
        text = "display-status: cannot connect: QEMU is not on the bus: nobody owns the name"
        self.assertEqual(result.stderr, f"{text} org.example\n")
        self.assertEqual(run(*program, "too", "many").returncode, 2)

    def event(self, wanted, commands, *names):
        """What events.js prints of an event that the commands cause; it ends on Ctrl+C."""
        process = subprocess.Popen(
            ["gjs", "-m", f"{examples}/events.js", uri, *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            hello = f"events: QEMU {version}, {self.monitor.state()}\n"
            self.assertEqual(process.stderr.readline(), hello)
            for command in commands:
                self.monitor.execute(command)
            # Other events come as well: the firmware resets the machine once more.
            events = (json.loads(line) for line in process.stdout)
            event = next(event for event in events if event["event"] == wanted)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
            process.wait()
        self.assertEqual((process.returncode, errors), (0, ""))
        return event

    def test_events(self):
        reset = self.event("RESET", ["cont", "system_reset"], "RESET")
        self.assertRegex(reset.pop("time"), r"^20\d\d-.*Z$")
        data = {"guest": False, "reason": "host-qmp-system-reset"}
        self.assertEqual(reset, {"event": "RESET", "data": data})

        stop = self.event("STOP", ["stop"])
        self.assertIsNone(stop["data"])
        self.refuses("gjs", "-m", f"{examples}/events.js")

    def test_power(self):
        if power is None:
            self.skipTest("power.vala was not compiled")
        self.succeeds(run(power, uri, "resume"), "running\n")
        self.succeeds(run(power, uri), "running\n")
        self.succeeds(run(power, uri, "powerdown"), "running\n")
        self.succeeds(run(power, uri, "pause"), "paused\n")
        self.assertEqual(self.monitor.state(), "paused")

        # QEMU answers before it resets; then a paused machine waits anew.
        self.assertEqual(run(power, uri, "reset").returncode, 0)
        deadline = time.monotonic() + TIMEOUT
        while self.monitor.state() != "prelaunch":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        self.refuses(power)
        self.assertEqual(run(power, uri, "make-coffee").returncode, 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
