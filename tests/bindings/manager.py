#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Uses examples/machine-manager.py as a person would, on real QEMUs.

    manager.py EXAMPLE FOLDER PICTURE FULL DEBIAN

FULL and DEBIAN are monitors of two machines. The disk of the first is full at an NMI, the
second has a disk and a CD-ROM drive. FOLDER has their sockets for the manager, full.sock
and other/debian.sock, and an image disc.iso. PICTURE is made where ImageMagick is
installed. sys/tests/manager.rs runs it.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time

TIMEOUT = 30  # seconds
example, folder, picture, full_monitor, debian_monitor = sys.argv[1:]
spec = importlib.util.spec_from_file_location("manager", example)
manager = importlib.util.module_from_spec(spec)
spec.loader.exec_module(manager)
from gi.repository import Gio, GLib, Gtk


class Monitor:
    """A QMP client apart from the library under test."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        # Events can come before the greeting, if an earlier session has just ended.
        while "QMP" not in json.loads(self.lines.readline()):
            pass
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = json.loads(self.lines.readline())
            if "event" not in message:
                return message["return"]

    def state(self):
        return self.execute("query-status")["status"]


def until(what, condition):
    """Runs the main loop until something is so."""
    context, deadline = GLib.MainContext.default(), time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}; shown is {texts(window)}"
        for _ in range(1000):
            if not context.iteration(False):
                break
        time.sleep(0.01)


def widgets(root):
    """All that is shown in a widget, from the top."""
    child = root.get_first_child()
    while child:
        if child.get_visible():
            yield child
            yield from widgets(child)
        child = child.get_next_sibling()


def texts(root):
    return [each.get_label() for each in widgets(root) if isinstance(each, Gtk.Label)]


def find(root, kind, text=None):
    for each in widgets(root):
        if isinstance(each, kind) and (text is None or text in texts(each)):
            return each
    return None


def row(text):
    """The innermost row with this text."""
    found = [each for each in widgets(window) if isinstance(each, Gtk.ListBoxRow)]
    return next((each for each in found if text in texts(each)), None)


def shows(name, *expected):
    until(f"{name}: {expected}", lambda: row(name) and {*expected} <= {*texts(row(name))})


def click(name, text):
    button = find(row(name), Gtk.Button, text)
    assert button.get_sensitive(), f"{name}: {text}"
    button.emit("clicked")


def enabled(name):
    """The items of the machine's menu that can be chosen."""
    popover = find(row(name), Gtk.MenuButton).get_popover()
    items = [each for each in widgets(popover) if type(each).__name__ == "GtkModelButton"]
    assert items, "the menu is empty"
    return [each.get_property("text") for each in items if each.get_sensitive()]


def choose(name, action):
    assert find(row(name), Gtk.MenuButton).activate_action(f"vm.{action}", None)


def the_list_follows_the_folder():
    shows("full", "running")
    assert not row("debian") and not row("disc.iso")
    os.rename(f"{folder}/other/debian.sock", f"{folder}/debian.sock")
    shows("debian", "running")


def the_menu_and_the_state_follow_the_machine():
    running = ["Pause", "Reset", "Power down", "Quit"]
    until("the menu", lambda: enabled("debian") == running)
    choose("debian", "pause")
    shows("debian", "paused")
    assert debian.state() == "paused"
    until("the menu of a paused machine", lambda: enabled("debian") == ["Pause", "Reset", "Quit"])
    debian.execute("cont")
    shows("debian", "running")
    full.execute("inject-nmi")
    shows("full", "io-error", "Disk full: the host has no space left for the drive hd0")


def a_disc_is_inserted_and_ejected():
    window.list.select_row(row("debian"))
    shows("cd", "empty")
    assert not find(row("cd"), Gtk.Button, "Eject").get_sensitive()
    assert not find(row("hd0"), Gtk.Button)
    disc = f"{folder}/disc.iso"
    insert(disc)
    shows("cd", disc)
    medium = next(each for each in debian.execute("query-block") if each["device"] == "cd")["inserted"]
    assert (medium["file"], medium["drv"], medium["ro"]) == (disc, "raw", True), medium
    click("cd", "Eject")
    shows("cd", "empty")
    # Another client changes the disc.
    debian.execute("blockdev-change-medium", id="cd0", filename=disc, format="raw")
    shows("cd", disc)


def insert(path):
    """Chooses a file for the drive."""
    file = Gio.File.new_for_path(path)
    click("cd", "Insert …")
    until("the file chooser", lambda: chooser() and chooser().get_mapped())
    chooser().set_file(file)
    until("the file", lambda: chooser().get_file() and chooser().get_file().equal(file))
    chooser().response(Gtk.ResponseType.ACCEPT)


def chooser():
    found = [each for each in Gtk.Window.list_toplevels() if isinstance(each, Gtk.FileChooserDialog)]
    return found[0] if found else None


def a_failure_is_shown():
    assert not window.bar.get_revealed()
    insert(f"{folder}/other/disk")
    until("the error", lambda: window.bar.get_revealed())
    assert "lock" in window.error.get_label(), window.error.get_label()
    window.bar.response(Gtk.ResponseType.CLOSE)
    assert not window.bar.get_revealed()
    insert(f"{folder}/disc.iso")
    shows("cd", f"{folder}/disc.iso")


def a_job_is_shown_and_cancelled():
    assert not row("backup nightly")
    debian.execute("blockdev-backup", job_id="nightly", device="disk", target="copy", sync="full", speed=1 << 20)
    shows("backup nightly", "running")
    seen = set()
    until("progress", lambda: seen.add(fraction("backup nightly")) or len(seen) >= 4)
    if shutil.which("import"):
        subprocess.run(["import", "-window", window.get_title(), picture], check=True)
    click("backup nightly", "Cancel")
    until("the end of the job", lambda: not row("backup nightly"))
    assert debian.execute("query-jobs") == []


def fraction(name):
    return find(row(name), Gtk.ProgressBar).get_fraction()


def a_machine_that_quits_says_so_and_goes_with_its_socket():
    choose("debian", "quit")
    shows("debian", "disconnected", "The machine was shut down on the host")
    # QEMU removes the socket if it is still where it was created.
    os.unlink(f"{folder}/debian.sock")
    until("the end", lambda: not row("debian"))
    assert row("full")


def use():
    global window
    try:
        until("the window", Gio.Application.get_default().get_active_window)
        window = Gio.Application.get_default().get_active_window()
        the_list_follows_the_folder()
        the_menu_and_the_state_follow_the_machine()
        a_disc_is_inserted_and_ejected()
        a_failure_is_shown()
        a_job_is_shown_and_cancelled()
        a_machine_that_quits_says_so_and_goes_with_its_socket()
        passed.append(True)
    finally:
        window.close()


window, passed = None, []
full, debian = Monitor(full_monitor), Monitor(debian_monitor)
GLib.idle_add(use)
sys.argv[1:] = [folder]
assert manager.main() == 0
# The port was closed: QEMU serves the next client.
assert passed and Monitor(f"{folder}/full.sock").state() == "io-error"
