#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Pauses a virtual machine and resumes it, over any transport: pause.py ADDRESS

ADDRESS is spice://host:port, unix:/path, tcp:host:port, dbus:NAME or another one of
SpiceQmp.Connector's. A SPICE server's password is asked for.
"""

import getpass
import sys

import gi

gi.require_version("SpiceQmp", "1.0")
from gi.repository import GLib, SpiceQmp

Action = SpiceQmp.PortVmAction
loop = GLib.MainLoop()
exit_code = 1


def on_need_password(connector, retry):
    if retry:
        print("Not that one.", file=sys.stderr)
    connector.answer(getpass.getpass("Password: "))


def on_opened(connector, result):
    try:
        port = connector.open_finish(result)
    except GLib.Error as error:
        print(f"pause: {error.message}", file=sys.stderr)
        return loop.quit()
    port.set_command_timeout(10_000)
    port.vm_action_async(Action.PAUSE, None, on_done, False)


def on_done(port, result, resumed):
    global exit_code
    try:
        port.vm_action_finish(result)
    except GLib.Error as error:
        print(f"pause: {error.message}", file=sys.stderr)
    else:
        print("running" if resumed else "paused")
        if not resumed:
            return port.vm_action_async(Action.CONTINUE, None, on_done, True)
        exit_code = 0
    port.close_async(None, lambda *_: loop.quit())


connector = SpiceQmp.Connector.new(sys.argv[1] if len(sys.argv) == 2 else None)
connector.connect("need-password", on_need_password)
connector.open_async(None, on_opened)
loop.run()
sys.exit(exit_code)
