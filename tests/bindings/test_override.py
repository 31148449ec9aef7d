#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The override of sys/python with any PyGObject, and the stubs; run it with with-qemu.

    test_override.py GIR STUBS
"""

import ast
import asyncio
import os
import sys
import unittest
import xml.etree.ElementTree as ElementTree

import gi

gi.require_version("SpiceQmp", "1.0")
from gi.repository import GLib, SpiceQmp

from test_port import TIMEOUT, call, close, execute, open_socket, wait_for

CORE = "{http://www.gtk.org/introspection/core/1.0}"
BARE = SpiceQmp._introspection_module


class Override(unittest.TestCase):
    def test_what_was_there_stays(self):
        for name in ("Drive", "Event", "Machine", "Port"):
            ours, bare = getattr(SpiceQmp, name), getattr(BARE, name)
            self.assertIsNot(ours, bare)
            self.assertEqual(ours.__gtype__, bare.__gtype__)
            for function in (each for each in vars(bare) if not each.startswith("__")):
                self.assertIs(vars(ours).get(function, vars(bare)[function]), vars(bare)[function])

    def test_each_call_can_be_awaited(self):
        count = 0
        for cls in (getattr(SpiceQmp, name) for name in dir(BARE)):
            for name in [each for each in dir(cls) if each.endswith("_async")]:
                self.assertTrue(callable(getattr(cls, name.removesuffix("_async"))), name)
                count += 1
        self.assertGreaterEqual(count, 12)

    def test_without_an_event_loop_of_glib(self):
        port = open_socket()
        self.addCleanup(close, port)
        with self.assertRaisesRegex(RuntimeError, "no running event loop"):
            port.execute("query-name")

        async def use(function, *arguments):
            with self.assertRaisesRegex(RuntimeError, "GLibEventLoopPolicy"):
                function(*arguments)

        loop = asyncio.SelectorEventLoop()
        self.addCleanup(loop.close)
        loop.run_until_complete(use(port.execute, "query-name"))
        loop.run_until_complete(use(port.events, "STOP"))
        self.assertEqual(port.get_pending(), 0)
        self.assertEqual(execute(port, "query-name"), "{}")

    def test_events(self):
        port = open_socket()
        self.addCleanup(close, port)
        seen = []
        port.connect("qmp-event", lambda _port, event: seen.append(event))
        for command in ("cont", "system_reset", "stop"):
            execute(port, command)
        wait_for(lambda: any(event.name == "STOP" for event in seen), "the event STOP")
        reset = next(event for event in seen if event.name == "RESET")
        self.assertIsInstance(reset, SpiceQmp.Event)
        self.assertEqual(reset.data, {"guest": False, "reason": "host-qmp-system-reset"})
        self.assertEqual(reset.timestamp, reset.get_timestamp())
        self.assertIsNone(next(event for event in seen if event.name == "STOP").data)
        waited = call(port.wait_status_async, port.wait_status_finish, ["paused"], TIMEOUT * 1000)
        self.assertTrue(waited)


class Stubs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(STUBS, encoding="utf-8") as file:
            cls.stubs = ast.parse(file.read())
        cls.namespace = ElementTree.parse(GIR).getroot().find(f"{CORE}namespace")

    def names(self, node):
        """What a module or class of the stubs declares."""
        found = set()
        for each in node.body:
            if isinstance(each, ast.AnnAssign):
                found.add(each.target.id)
            elif isinstance(each, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found.add(each.name)
        return found

    def public(self, node, *kinds):
        kinds = [CORE + kind for kind in kinds]
        return [
            each.get("name")
            for each in node
            if each.tag in kinds
            and each.get("introspectable") != "0"
            and each.get("private") != "1"
            and not each.get("name").endswith("Class")
        ]

    def test_all_of_the_gir_is_there(self):
        types = ("class", "record", "enumeration", "bitfield")
        expected = self.public(self.namespace, "constant", "function", *types)
        self.assertIn("Port", expected)
        self.assertLessEqual(set(expected), self.names(self.stubs))
        classes = {each.name: each for each in self.stubs.body if isinstance(each, ast.ClassDef)}
        for kind in types:
            for node in self.namespace.findall(CORE + kind):
                if node.get("name").endswith("Class"):
                    continue
                stub = classes[node.get("name")]
                wanted = self.public(node, "method", "function", "constructor")
                if kind in ("enumeration", "bitfield"):
                    wanted += [name.upper() for name in self.public(node, "member")]
                elif kind == "record":
                    wanted += self.public(node, "field")
                self.assertLessEqual(set(wanted), self.names(stub), node.get("name"))
                properties = {name.replace("-", "_") for name in self.public(node, "property")}
                if properties:
                    props = next(each for each in stub.body if getattr(each, "name", "") == "Props")
                    self.assertEqual(properties, self.names(props))

    def test_all_of_it_exists(self):
        for each in self.stubs.body:
            if isinstance(each, ast.ClassDef):
                cls = getattr(SpiceQmp, each.name)
                for name in self.names(each) - {"Props"}:
                    self.assertTrue(hasattr(cls, name), f"{each.name}.{name}")
                declared = [node.name for node in each.body if isinstance(node, ast.FunctionDef)]
                self.assertEqual(len(declared), len(set(declared)), each.name)
        for name in self.names(self.stubs):
            self.assertTrue(hasattr(SpiceQmp, name), name)

    def test_all_of_the_override_is_there(self):
        classes = {each.name: each for each in self.stubs.body if isinstance(each, ast.ClassDef)}
        for name in ("Drive", "Event", "Events", "Machine", "Port"):
            public = {each for each in vars(getattr(SpiceQmp, name)) if not each.startswith("_")}
            self.assertLessEqual(public, self.names(classes[name]))


if __name__ == "__main__":
    GIR, STUBS = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
