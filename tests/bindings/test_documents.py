#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the programs of the documents as they are printed; run it with with-qemu.

    test_documents.py SOURCES BUILD

SOURCES is the project's folder, BUILD that of meson. What a document says of `await` runs
where Python has it.
"""

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TIMEOUT = 30  # seconds
sources, build = map(Path, sys.argv[1:3])
uri = os.environ["SPICE_QMP_TEST_URI"]
qmp = "unix:" + os.environ["SPICE_QMP_TEST_SOCKET"]
HAS_AWAIT = importlib.util.find_spec("gi.events") is not None

# How many whole programs of each language a document has.
PROGRAMS = {
    "README.md": {"c": 1, "python": 1, "js": 1, "vala": 1},
    "docs/getting-started.md": {"c": 1, "python": 2, "js": 1},
    "docs/power-menu.md": {"c": 1, "python": 1, "js": 1, "vala": 1},
}
# What only whole programs have.
WHOLE = {"c": "main(", "python": "gi.require_version", "js": "import SpiceQmp", "vala": "void main"}


# What is around the function for a window in docs/power-menu.md.
WINDOW = {
    "c": "#include <gtk/gtk.h>\n#include <spice-qmp/spice-qmp.h>\nGtkWidget *make(GtkWidget *, SpiceQmpMachine *);\n"
    "{}GtkWidget *make(GtkWidget *w, SpiceQmpMachine *m) {{ return make_power_menu(w, m); }}\n",
    "python": """
import sys
import gi
gi.require_version("Gtk", "4.0")
gi.require_version("SpiceQmp", "1.0")
from gi.repository import Gio, GLib, Gtk, SpiceQmp

{}
def on_opened(_source, result):
    global window
    port = SpiceQmp.Port.open_finish(result)
    window = Gtk.Window()
    button = make_power_menu(window, SpiceQmp.Machine.new(port))
    window.set_child(button)
    print(button.get_label())

    def on_label(*_):
        if button.get_label() == "paused":
            print(button.get_label())
            port.close_async(None, lambda *_: loop.quit())

    button.connect("notify::label", on_label)
    window.activate_action("vm.pause", None)

loop = GLib.MainLoop()
SpiceQmp.Port.open_async(sys.argv[1], None, on_opened)
loop.run()
""",
}


def programs(document):
    """The language and the text of each whole program in a document."""
    text = (sources / document).read_text()
    for language, program in re.findall(r"^```([a-z]+)\n(.*?)^```", text, re.S | re.M):
        if language in WHOLE and WHOLE[language] in program:
            yield language, program


class Monitor:
    """A QMP client apart from the library under test."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT)
        # The programs use the other one.
        self.socket.connect(str(Path(qmp.removeprefix("unix:")).with_name("outside.sock")))
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = json.loads(self.lines.readline())
            if "event" not in message:
                return message["return"]

    def state(self):
        return self.execute("query-status")["status"]

    def close(self):
        self.lines.close()
        self.socket.close()


class Menu:
    """A program of the page on power menus, used as a person would."""

    def __init__(self, command, address):
        self.process = subprocess.Popen(
            [*command, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def choose(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def lines(self, count=1):
        """The next lines that it prints; with-qemu ends a test that waits for ever."""
        return [self.process.stdout.readline().rstrip() for _ in range(count)]

    def end(self):
        """Its exit code, and what it has printed besides."""
        output, errors = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, output, errors


@contextlib.contextmanager
def screen():
    """The name of a screen that nobody sees."""
    command = ["setpriv", "--pdeathsig", "KILL", "--", "Xvfb", "-displayfd", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            yield ":" + server.stdout.readline().strip()
        finally:
            server.kill()


class Documents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.monitor = Monitor()
        cls.folder = tempfile.TemporaryDirectory()
        cls.commands = {}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()
        cls.monitor.close()

    def run_program(self, command, address):
        self.monitor.execute("cont")
        result = subprocess.run(
            [*command, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        self.assertEqual((result.returncode, result.stderr), (0, ""), result.stdout)
        return result.stdout

    def compiled(self, *command, packages=()):
        """Compiles with what pkg-config says once the library is installed."""
        packages = ["pkg-config", "--cflags", "--libs", "spice-client-glib-2.0", "gio-2.0", *packages]
        output = subprocess.run(packages, check=True, capture_output=True, text=True).stdout
        headers = [f"-I{sources}/sys/include", f"-I{build}/sys/include"]
        library = [f"-L{build}/sys", "-lspice-qmp-1", f"-Wl,-rpath,{build}/sys"]
        subprocess.run([*command, *headers, *library, *output.split()], check=True)

    def command(self, language, program):
        """What runs the program, which is compiled once."""
        if program not in self.commands:
            folder = Path(tempfile.mkdtemp(dir=self.folder.name))
            self.commands[program] = self.made(language, program, folder)
        return self.commands[program]

    def made(self, language, program, folder):
        source = folder / f"program.{language}"
        source.write_text(program)
        match language:
            case "python":
                return [sys.executable, source]
            case "js":
                return ["gjs", "-m", source]
            case "c":
                self.compiled("cc", "-Wall", "-Wextra", "-Werror", source, "-o", folder / "program")
            case "vala":
                vapis = f"--vapidir={build}/sys/gir"
                packages = [vapis, "--pkg=spice-qmp-1.0"]
                subprocess.run(["valac", "--quiet", "-C", *packages, source], check=True, cwd=folder)
                generated = source.with_suffix(".c")
                self.compiled("cc", "-w", generated, "-o", folder / "program")
        return [folder / "program"]

    def test_programs(self):
        for document, wanted in PROGRAMS.items():
            found = {}
            for language, program in programs(document):
                found[language] = found.get(language, 0) + 1
                with self.subTest(document, language=language):
                    if "gi.events" in program and not HAS_AWAIT:
                        continue
                    check = self.check_menu if "power-menu" in document else self.check
                    check(program, self.command(language, program))
            self.assertEqual(found, wanted, document)

    def check(self, program, command):
        """Each program pauses the machine, but one that lists its disks."""
        for address in [uri] if "spice_session_new" in program else [qmp, uri, "dbus:"]:
            output = self.run_program(command, address)
            if "query-block" in program:
                self.assertEqual(output, "cd\n")
            else:
                self.assertNotEqual(output, "")
                self.assertEqual(self.monitor.state(), "paused")

    def check_menu(self, _program, command):
        """It shows the state, pauses and resumes; over a socket also why a machine stopped."""
        for address in [qmp, uri]:
            self.monitor.execute("cont")
            menu = Menu(command, address)
            self.assertEqual(menu.lines(), ["the machine is running"])
            menu.choose("help")
            self.assertEqual(menu.lines(), ["choose one of: pause reset power-down quit nmi"])
            for state in "paused", "running":
                menu.choose("pause")
                self.assertEqual(menu.lines(), [f"the machine is {state}"])
                self.assertEqual(self.monitor.state(), state)
            if address == qmp:
                self.check_condition(menu)
            self.assertEqual(menu.end(), (0, "", ""))

    def check_condition(self, menu):
        self.monitor.execute("set-action", reboot="shutdown", shutdown="pause")
        menu.choose("reset")
        why = "The machine was reset, and is shut down instead"
        self.assertEqual(menu.lines(2), ["the machine is shutdown", why])
        self.monitor.execute("set-action", reboot="reset", shutdown="poweroff")
        menu.choose("reset")
        self.assertEqual(menu.lines(), ["the machine is prelaunch"])

    def test_window(self):
        """The function for a window: with GTK 3 it compiles, with GTK 4 it shows the state."""
        text = (sources / "docs/power-menu.md").read_text()
        functions = re.findall(r"^```([a-z]+)\n([^`]*make_power_menu.*?)^```", text, re.S | re.M)
        self.assertEqual([language for language, _ in functions], ["c", "python"])
        for language, function in functions:
            source = Path(self.folder.name, f"window.{language}")
            source.write_text(WINDOW[language].format(function))
        output = source.with_suffix(".o")
        self.compiled("cc", "-Wall", "-Wextra", "-Werror", "-c", source.with_suffix(".c"), "-o", output, packages=["gtk+-3.0"])
        self.monitor.execute("cont")
        with screen() as display:
            command = ["env", f"DISPLAY={display}", "GDK_BACKEND=x11", "GTK_A11Y=none", sys.executable, source]
            self.assertEqual(self.run_program(command, qmp), "running\npaused\n")

    def test_reference(self):
        """The examples of the C reference compile."""
        header = (sources / "sys/include/spice-qmp/spice-qmp.h").read_text()
        examples = re.findall(r"^ \* ```c\n(.*?)^ \* ```$", header, re.S | re.M)
        self.assertGreater(len(examples), 20)
        files = []
        for example in examples:
            code = re.sub(r"^ \* ?", "", example, flags=re.M)
            functions = re.findall(r"^static .*?^}\n", code, re.S | re.M)
            statements = re.sub(r"^static .*?^}\n", "", code, flags=re.S | re.M)
            callbacks = set(re.findall(r"\bon_\w+", code)) - set(re.findall(r"^on_\w+", code, re.M))
            file = Path(self.folder.name, f"example{len(files)}.c")
            file.write_text(
                '#include "reference.h"\n'
                + "".join(f"void {name}();\n" for name in sorted(callbacks))
                + "".join(functions)
                + "void run(void);\nvoid run(void) {\n" + statements + "}\n"
            )
            files.append(file)
        here = f"-I{Path(__file__).parent}"
        options = ["-std=gnu17", "-Wall", "-Wno-unused", "-Werror", "-fsyntax-only"]
        self.compiled("cc", *options, here, *files)

    def test_failures(self):
        """Nothing hangs where there is no server, and each program says why."""
        for language, program in [*programs("README.md"), *programs("docs/power-menu.md")]:
            with self.subTest(language=language):
                result = subprocess.run(
                    [*self.command(language, program), "unix:/nowhere"],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT,
                )
                self.assertIn("No such file or directory", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
