#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Manages the virtual machines whose QMP sockets are in a folder, with GTK 4.

    machine-manager.py FOLDER

Each machine has a power menu, and says why it is not running. Beside the list are the
drives of the selected machine, and what QEMU does in the background, whoever started it.
QEMU makes such a socket with -qmp unix:FOLDER/NAME,server=on,wait=off.
"""

import stat
import sys

import gi

gi.require_version("Gtk", "4.0")
gi.require_version("SpiceQmp", "1.0")
from gi.repository import Gio, GLib, GObject, Gtk, Pango, SpiceQmp

ACTIONS = ["pause", "reset", "power-down", "wakeup", "quit"]
BOUND = GObject.BindingFlags.SYNC_CREATE


def label(text="", *classes):
    mode = Pango.WrapMode.WORD_CHAR
    return Gtk.Label(label=text, xalign=0, wrap=True, wrap_mode=mode, css_classes=classes)


def button(text, clicked, *arguments):
    made = Gtk.Button(label=text, valign=Gtk.Align.CENTER)
    made.connect("clicked", lambda _: clicked(*arguments))
    return made


def row_of(texts, *buttons):
    """Texts one below the other, and buttons beside them."""
    row = Gtk.Box(spacing=6, margin_start=6, margin_end=6, margin_top=6, margin_bottom=6)
    about = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=4, hexpand=True)
    for text in texts:
        about.append(text)
    for each in (about, *buttons):
        row.append(each)
    return row


class Row(Gtk.ListBoxRow):
    """A machine of the list. Its port connects again when QEMU has been restarted."""

    machine = GObject.Property(type=SpiceQmp.Machine)

    def __init__(self, window, file):
        self.window, self.page = window, None
        self.name = file.get_basename().removesuffix(".sock")
        self.state, self.condition = label("connecting", "dim-label"), label()
        menu = Gio.Menu()
        for action in ACTIONS:
            menu.append(action.replace("-", " ").capitalize(), f"vm.{action}")
        self.power = Gtk.MenuButton(label="Power", menu_model=menu, valign=Gtk.Align.CENTER)
        texts = [label(self.name, "heading"), self.state, self.condition]
        super().__init__(child=row_of(texts, self.power))
        connector = SpiceQmp.Connector.new(f"unix:{file.get_path()}")
        # Also waits for a QEMU that starts later, or serves another client now.
        connector.set_wait(True)
        connector.set_timeout(0)
        connector.set_reconnect(1000)  # milliseconds
        self.connecting = Gio.Cancellable()
        connector.open_async(self.connecting, self.opened)

    def opened(self, connector, result):
        try:
            port = connector.open_finish(result)
        except GLib.Error as error:
            return self.state.set_label(error.message)
        port.set_command_timeout(10_000)
        self.machine = SpiceQmp.Machine.new(port)
        if self.connecting.is_cancelled():
            return self.close()
        # All that the menu needs: the machine enables the actions that have an effect.
        self.power.insert_action_group("vm", self.machine)
        self.machine.connect("action-failed", lambda _, action, error: self.window.report(error))
        self.machine.connect("notify::condition", self.show_state)
        port.connect("notify::status", self.show_state)
        self.show_state()

    def show_state(self, *_):
        status, condition = self.machine.get_port().dup_status(), self.machine.dup_condition()
        self.state.set_label(status.status if status else "disconnected")
        self.condition.set_label(condition.get_message() if condition else "")
        self.condition.set_visible(condition is not None)

    def close(self):
        """The application ends when all ports are closed."""
        self.connecting.cancel()
        if self.machine:
            application = Gio.Application.get_default()
            application.hold()
            self.machine.get_port().close_async(None, lambda *_: application.release())


class Page(Gtk.Box):
    """The drives and the jobs of a machine: lists that keep themselves up to date."""

    def __init__(self, window, machine):
        super().__init__(orientation=Gtk.Orientation.VERTICAL, hexpand=True)
        self.window = window
        self.add("Drives", machine.get_drives(), self.drive_row)
        self.add("Jobs", machine.get_jobs(), self.job_row)

    def add(self, title, model, make_row):
        rows = Gtk.ListBox(selection_mode=Gtk.SelectionMode.NONE, show_separators=True)
        rows.set_placeholder(row_of([label("None", "dim-label")]))
        rows.bind_model(model, make_row)
        model.connect("notify::error", lambda model, _: self.window.report(model.dup_error()))
        self.append(row_of([label(title, "title-4")]))
        self.append(Gtk.ScrolledWindow(child=rows, vexpand=True))

    def drive_row(self, drive):
        medium = label()
        drive.bind_property("medium", medium, "label", BOUND, lambda _, file: file or "empty")
        texts = [label(drive.dup_name(), "heading"), medium]
        if not drive.get_removable():
            return row_of(texts)
        insert = button("Insert …", self.choose, drive)
        eject = button("Eject", drive.eject_async, False, None, self.ended, drive.eject_finish)
        drive.bind_property("medium", eject, "sensitive", BOUND, lambda _, file: bool(file))
        return row_of(texts, insert, eject)

    def choose(self, drive):
        title = f"Insert into {drive.dup_name()}"
        self.chooser = Gtk.FileChooserNative(title=title, transient_for=self.window, modal=True)
        self.chooser.connect("response", self.insert, drive)
        self.chooser.show()

    def insert(self, chooser, response, drive):
        if response == Gtk.ResponseType.ACCEPT:
            # As `raw`: QEMU must not guess the format of a file that others may have written.
            flags, file = SpiceQmp.InsertFlags.READ_ONLY, chooser.get_file().get_path()
            drive.insert_async(file, "raw", flags, None, self.ended, drive.insert_finish)

    def job_row(self, job):
        status, bar = label(), Gtk.ProgressBar()
        job.bind_property("status", status, "label", BOUND)
        job.bind_property("progress", bar, "fraction", BOUND)
        texts = [label(f"{job.dup_kind()} {job.dup_id()}", "heading"), status, bar]
        cancel = button("Cancel", job.cancel_async, None, self.ended, job.cancel_finish)
        return row_of(texts, cancel)

    def ended(self, _source, result, finish):
        try:
            finish(result)
        except GLib.Error as error:
            self.window.report(error)


class Window(Gtk.ApplicationWindow):
    def __init__(self, application, folder):
        super().__init__(application=application, title="Virtual machines")
        self.folder, self.rows = folder, {}
        self.looking = Gio.Cancellable()
        self.list = Gtk.ListBox(show_separators=True)
        self.list.set_sort_func(lambda a, b: (a.name > b.name) - (a.name < b.name))
        self.list.set_placeholder(row_of([label(f"No QMP socket in {folder.get_path()}")]))
        self.list.connect("selected-rows-changed", self.show_page)
        start = Gtk.ScrolledWindow(child=self.list, vexpand=True)
        self.paned = Gtk.Paned(start_child=start, position=380)
        self.error = label()
        self.bar = Gtk.InfoBar(message_type=Gtk.MessageType.ERROR, show_close_button=True)
        self.bar.connect("response", lambda *_: self.report(None))
        self.bar.add_child(self.error)
        self.report(None)
        content = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        content.append(self.bar)
        content.append(self.paned)
        self.set_child(content)
        self.set_titlebar(Gtk.HeaderBar())
        self.set_default_size(860, 420)
        self.connect("close-request", self.close_ports)
        self.show_page()
        self.monitor = folder.monitor_directory(Gio.FileMonitorFlags.NONE, None)
        self.monitor.connect("changed", self.changed)
        self.look()

    def report(self, error):
        """Shows what failed last."""
        self.error.set_label(error.message if error else "")
        self.bar.set_revealed(error is not None)

    def changed(self, _monitor, _file, _other, event):
        if event in (Gio.FileMonitorEvent.CREATED, Gio.FileMonitorEvent.DELETED):
            self.look()

    def look(self):
        self.looking.cancel()
        self.looking = Gio.Cancellable()
        self.folder.enumerate_children_async(
            "standard::name,unix::mode", 0, GLib.PRIORITY_DEFAULT, self.looking, self.opened
        )

    def opened(self, folder, result):
        try:
            files = folder.enumerate_children_finish(result)
        except GLib.Error as error:
            if not error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.CANCELLED):
                self.report(error)
            return
        files.next_files_async(1000, GLib.PRIORITY_DEFAULT, self.looking, self.listed)

    def listed(self, files, result):
        try:
            infos = files.next_files_finish(result)
        except GLib.Error:
            return  # the next look
        modes = {info.get_name(): info.get_attribute_uint32("unix::mode") for info in infos}
        sockets = {name for name in modes if stat.S_ISSOCK(modes[name])}
        for name in self.rows.keys() - sockets:
            row = self.rows.pop(name)
            self.list.remove(row)
            row.close()
        for name in sockets - self.rows.keys():
            row = self.rows[name] = Row(self, self.folder.get_child(name))
            row.connect("notify::machine", self.show_page)
            self.list.append(row)

    def show_page(self, *_):
        row = self.list.get_selected_row()
        page = row_of([label("Select a machine", "dim-label")])
        if row and row.machine:
            page = row.page = row.page or Page(self, row.machine)
            row.machine.get_drives().refresh()  # QEMU does not report those that were plugged in
        self.paned.set_end_child(page)

    def close_ports(self, _window):
        self.looking.cancel()
        for row in self.rows.values():
            row.close()


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Gio.File.new_for_path(sys.argv[1])
    application = Gtk.Application(flags=Gio.ApplicationFlags.NON_UNIQUE)
    application.connect("activate", lambda application: Window(application, folder).present())
    return application.run(None)


if __name__ == "__main__":
    sys.exit(main())
