#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the programs of the documents as they are printed; run it with with-qemu.

    test_documents.py SOURCES BUILD

SOURCES is the project's folder, BUILD that of meson. What a document says of `await` runs
where Python has it.
"""

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
}
# What only whole programs have.
WHOLE = {"c": "main(", "python": "gi.require_version", "js": "import SpiceQmp", "vala": "void main"}


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

    def execute(self, command):
        self.socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while True:
            message = json.loads(self.lines.readline())
            if "event" not in message:
                return message["return"]

    def state(self):
        return self.execute("query-status")["status"]

    def close(self):
        self.lines.close()
        self.socket.close()


class Documents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.monitor = Monitor()

    @classmethod
    def tearDownClass(cls):
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

    def compiled(self, *command):
        """Compiles with what pkg-config says once the library is installed."""
        packages = ["pkg-config", "--cflags", "--libs", "spice-client-glib-2.0", "gio-2.0"]
        output = subprocess.run(packages, check=True, capture_output=True, text=True).stdout
        headers = [f"-I{sources}/sys/include", f"-I{build}/sys/include"]
        library = [f"-L{build}/sys", "-lspice-qmp-1", f"-Wl,-rpath,{build}/sys"]
        subprocess.run([*command, *headers, *library, *output.split()], check=True)

    def command(self, language, program, folder):
        """What runs the program."""
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
                with self.subTest(document, language=language), tempfile.TemporaryDirectory() as folder:
                    if "gi.events" in program and not HAS_AWAIT:
                        continue
                    self.check(program, self.command(language, program, Path(folder)))
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

    def test_failures(self):
        """Nothing hangs where there is no server, and each program says why."""
        for language, program in programs("README.md"):
            with self.subTest(language=language), tempfile.TemporaryDirectory() as folder:
                command = self.command(language, program, Path(folder))
                result = subprocess.run(
                    [*command, "unix:/nowhere"],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT,
                )
                self.assertIn("No such file or directory", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
