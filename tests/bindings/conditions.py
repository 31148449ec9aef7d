#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints why a machine is not running, whenever that changes: conditions.py ADDRESS

The address is that of a QMP socket or of a SPICE server. It ends with its standard input. sys/tests/conditions.rs runs it.
"""

import sys

import gi

gi.require_version("SpiceQmp", "1.0")
from gi.repository import GLib, SpiceQmp


def show(machine, _spec=None):
    condition = machine.props.condition
    if condition is None:
        print("none", flush=True)
        return
    code, severity = condition.get_code(), condition.get_severity()
    subject = condition.get_subject() or ""
    print(code.value_nick, severity.value_nick, subject, condition.get_message(), sep="|", flush=True)


def use(port):
    machine = SpiceQmp.Machine.new(port)
    assert machine.dup_condition() == machine.props.condition
    assert machine.get_port() is machine.props.port
    machine.connect("notify::condition", show)
    machines.append(machine)
    show(machine)


machines = []
loop = GLib.MainLoop()
address, session = sys.argv[1], None
if address.startswith("spice"):
    gi.require_version("SpiceClientGLib", "2.0")
    from gi.repository import SpiceClientGLib

    session = SpiceClientGLib.Session(uri=address)
    SpiceQmp.Port.find_async(session, None, lambda _source, result: use(SpiceQmp.Port.find_finish(result)))
else:
    SpiceQmp.Port.open_async(address, None, lambda _source, result: use(SpiceQmp.Port.open_finish(result)))
GLib.io_add_watch(0, GLib.IO_IN | GLib.IO_HUP, lambda *_: loop.quit())
loop.run()
# QEMU may crash if a SPICE client disconnects with a command unanswered.
machines[0].props.port.close_async(None, lambda port, result: (port.close_finish(result), loop.quit()))
loop.run()
if session:
    session.disconnect()
