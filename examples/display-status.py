#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints the state of a virtual machine with a D-Bus display, whenever it changes.

    display-status.py [NAME]

NAME is QEMU's name on the session bus; org.qemu if there is none. QEMU needs
-display dbus -chardev dbus,id=qmp,name=org.qemu.monitor.qmp.0
-mon chardev=qmp,mode=control. It ends on Ctrl+C, not when QEMU ends.
"""

import signal
import sys

import gi

gi.require_version("SpiceQmp", "1.0")
from gi.repository import Gio, GLib, SpiceQmp


class Status:
    def __init__(self, connection, name):
        self.loop = GLib.MainLoop()
        self.error = None
        self.port = None
        self.shown = None
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGINT, self.end)
        SpiceQmp.Port.find_on_bus_async(connection, name, None, self.found)

    def found(self, _source, result):
        try:
            self.port = SpiceQmp.Port.find_on_bus_finish(result)
        except GLib.Error as error:
            self.error = error
            self.loop.quit()
            return
        # In milliseconds; without it, a call does not end while QEMU does not answer.
        self.port.set_command_timeout(10_000)
        self.port.connect("notify::status", self.show)
        self.port.connect("notify::ready", self.show)
        self.show()

    def show(self, *_):
        """A port that its peer has closed becomes ready again if QEMU comes back."""
        status = self.port.dup_status()
        if not self.port.get_ready():
            text = "gone"
        elif status:
            text = status.status
        else:
            return
        if text != self.shown:
            self.shown = text
            print(text, flush=True)

    def end(self):
        if self.port:
            self.port.close_async(None, lambda *_: self.loop.quit())
        else:
            self.loop.quit()
        return GLib.SOURCE_REMOVE


def main():
    if len(sys.argv) > 2:
        print(__doc__, file=sys.stderr)
        return 2
    name = sys.argv[1] if len(sys.argv) == 2 else "org.qemu"
    try:
        # A private connection: the program does not end with the bus.
        address = Gio.dbus_address_get_for_bus_sync(Gio.BusType.SESSION)
        flags = Gio.DBusConnectionFlags
        connection = Gio.DBusConnection.new_for_address_sync(
            address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION
        )
        status = Status(connection, name)
        status.loop.run()
        if status.error:
            raise status.error
    except GLib.Error as error:
        print(f"display-status: {error.message}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
