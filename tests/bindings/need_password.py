#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Answers for a password as a dialog does: need_password.py ADDRESS PASSWORD

sys/tests/pause.rs runs it.
"""

import sys

import gi

gi.require_version("SpiceQmp", "1.0")
from gi.repository import Gio, GLib, SpiceQmp

address, password = sys.argv[1:]
connector = SpiceQmp.Connector(address=address, timeout=20_000)
loop = GLib.MainLoop()
asked = []
answers = []
results = []


def nested(connector, retry):
    """A dialog that runs a main loop of its own, in the handler."""
    asked.append(retry)
    inner = GLib.MainLoop()
    GLib.timeout_add(5, lambda: inner.quit())
    inner.run()
    connector.answer(answers.pop(0))


def later(connector, retry):
    """A dialog whose answer comes by a signal."""
    asked.append(retry)
    GLib.timeout_add(5, lambda: connector.answer(answers.pop(0)))


def on_opened(source, result):
    assert source is connector
    try:
        results.append(connector.open_finish(result))
    except GLib.Error as error:
        results.append(error)
    loop.quit()


def open_port():
    asked.clear()
    connector.open_async(None, on_opened)
    loop.run()
    return results.pop()


def assert_refused(error):
    assert error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.PERMISSION_DENIED), error


def assert_opened(port):
    assert port.get_ready() and port.get_reconnect() == connector.get_reconnect(), port
    port.close_async(None, lambda *_: loop.quit())
    loop.run()


# No handler is connected.
assert_refused(open_port())
for dialog in (nested, later):
    handler = connector.connect("need-password", dialog)
    answers[:] = ["wrong", password]
    assert_opened(open_port())
    assert asked == [False, True], asked
    answers[:] = ["wrong", None]
    assert_refused(open_port())
    assert asked == [False, True], asked
    connector.disconnect(handler)
connector.set_password(password)
connector.set_reconnect(250)
assert_opened(open_port())
assert asked == []
print("all answered")
