#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Random use of ports from Python, whose garbage collector frees them on any thread.

`./dev soak SECONDS` runs it, for SPICE_QMP_SOAK_SECONDS on each QEMU. Each call must
end exactly once, and the QEMU that is left must live.
"""

import gc
import os
import random
import threading
import time

import gi

gi.require_version("SpiceClientGLib", "2.0")
gi.require_version("SpiceQmp", "1.0")
from gi.repository import Gio, GLib, SpiceClientGLib, SpiceQmp

SECONDS = float(os.environ.get("SPICE_QMP_SOAK_SECONDS", "3"))
ADDRESS = "unix:" + os.environ["SPICE_QMP_TEST_SOCKET"]
URI = os.environ["SPICE_QMP_TEST_URI"]
TIMEOUT = 20  # seconds
figures = {}


def count(what):
    figures[what] = figures.get(what, 0) + 1


def wait_for(condition, what):
    """Runs the main loop until the condition is met."""
    deadline = time.monotonic() + TIMEOUT
    ticks = GLib.timeout_add(10, lambda: True)
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT} s for {what}"
        GLib.MainContext.default().iteration(True)
    GLib.source_remove(ticks)


def call(start, finish, *arguments):
    results = []
    start(*arguments, None, lambda _, result: results.append(result))
    wait_for(lambda: results, start.__name__)
    return finish(results[0])


class Calls:
    """What was asked, and how often it was answered."""

    def __init__(self):
        self.ended = []

    def execute(self, port, command, cancellable=None):
        number = len(self.ended)
        self.ended.append(0)
        count("calls")

        def done(port, result):
            self.ended[number] += 1
            try:
                port.execute_finish(result)
            except GLib.Error:
                count("failed calls")

        port.execute_async(command, None, cancellable, done)

    def check(self):
        wait_for(lambda: all(self.ended), "the calls")
        assert max(self.ended, default=1) == 1, "a call ended twice"


def use(port, calls):
    """Some calls, a few of which are cancelled, and signal handlers with cycles."""
    port.props.close_timeout = 60_000
    cycle = [port]
    cycle.append(cycle)
    port.connect("qmp-event", lambda _, event: cycle and count("events"))
    for _ in range(random.randrange(12)):
        cancellable = Gio.Cancellable()
        command = random.choice(["query-name", "query-qmp-schema", "stop", "cont"])
        calls.execute(port, command, cancellable)
        if random.random() < 0.2:
            cancellable.cancel()
        if random.random() < 0.3:
            GLib.MainContext.default().iteration(False)


def drop(held):
    """Drops the last references, here or on another thread, as a collector does."""
    if random.random() < 0.5:
        count("dropped on another thread")
        thread = threading.Thread(target=lambda: (held.clear(), gc.collect()))
        thread.start()
        wait_for(lambda: not thread.is_alive(), "the thread")
    else:
        held.clear()
        gc.collect()


def over_socket(calls):
    held = [call(SpiceQmp.Port.open_async, SpiceQmp.Port.open_finish, ADDRESS)]
    use(held[0], calls)
    # Disconnecting from a socket is harmless, closed or not.
    if random.random() < 0.5:
        call(held[0].close_async, held[0].close_finish)
    drop(held)
    count("sockets")


def over_spice(calls):
    session = SpiceClientGLib.Session(uri=URI)
    held = [call(SpiceQmp.Port.find_async, SpiceQmp.Port.find_finish, session)]
    use(held[0], calls)
    call(held[0].close_async, held[0].close_finish)
    drop(held)
    session.disconnect()
    count("SPICE ports")


def files():
    return len(os.listdir("/proc/self/fd"))


def resident():
    """KiB in memory."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def soak(seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        calls = Calls()
        random.choice([over_socket, over_spice])(calls)
        calls.check()
        # Of the calls in flight: until they end, they hold the port.
        gc.collect()


def main():
    soak(SECONDS / 4)
    before = files(), resident()
    soak(SECONDS * 3 / 4)
    after = files(), resident()
    # It answers, so it was not harmed.
    calls = Calls()
    over_socket(calls)
    calls.check()
    print("soak in Python:", figures, "files and KiB:", before, after, flush=True)
    assert after[0] <= before[0] + 2, "files pile up"
    assert after[1] <= before[1] + 8192, "memory piles up"


main()
