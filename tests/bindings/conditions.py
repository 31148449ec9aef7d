#!/usr/bin/python3
"""Prints why a machine does not run, and again when that changes: conditions.py ADDRESS

It ends with its standard input. sys/tests/conditions.rs runs it.
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


def on_opened(_source, result):
    machine = SpiceQmp.Machine.new(SpiceQmp.Port.open_finish(result))
    assert machine.dup_condition() == machine.props.condition
    assert machine.get_port() is machine.props.port
    machine.connect("notify::condition", show)
    machines.append(machine)
    show(machine)


machines = []
loop = GLib.MainLoop()
SpiceQmp.Port.open_async(sys.argv[1], None, on_opened)
GLib.io_add_watch(0, GLib.IO_IN | GLib.IO_HUP, lambda *_: loop.quit())
loop.run()
