#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the type stubs of a library for Python: stubs.py GIR OVERRIDE >STUBS

What the override adds is taken from its annotations, and its rule is followed that
each `X_async()` has an `X()` to await.
"""

import ast
import keyword
import re
import sys
import xml.etree.ElementTree as ElementTree

XMLNS = {"": "http://www.gtk.org/introspection/core/1.0"}
BASIC = {
    "none": "None",
    "utf8": "str",
    "filename": "str",
    "gboolean": "bool",
    "gdouble": "float",
    "gpointer": "Any",
    "GLib.Quark": "int",
    "Gio.AsyncReadyCallback": "Callable[..., object]",
    "JobProgress": "Callable[..., object]",
    **{f"g{sign}int{bits}": "int" for sign in ("", "u") for bits in ("", 8, 16, 32, 64)},
}
# The private members of an override that its stub keeps.
KEPT = ("__init__", "__aiter__", "__anext__")


def type_of(node, is_parameter=False):
    """The Python type of a parameter, a return value, a property or a field."""
    array = node.find("array", XMLNS)
    if array is not None:
        if "length" in array.attrib:
            sys.exit(f"stubs.py: teach it arrays with a length: {node.attrib}")
        text = f"{'Sequence' if is_parameter else 'list'}[{type_of(array)}]"
    else:
        name = node.find("type", XMLNS).get("name")
        text = BASIC.get(name, name)
    return f"{text} | None" if node.get("nullable") == "1" else text


def parameters_of(node):
    found = node.findall("parameters/parameter", XMLNS)
    if any(parameter.get("direction", "in") != "in" for parameter in found):
        sys.exit(f"stubs.py: teach it parameters that are not in: {node.attrib}")
    # PyGObject itself frees the data of a callback.
    destroys = {found[int(p.get("destroy"))].get("name") for p in found if p.get("destroy")}
    found = [parameter for parameter in found if parameter.get("name") not in destroys]
    closures = {"user_data" for p in found if p.get("closure")}
    return [parameter for parameter in found if parameter.get("name") not in closures], closures


def signature_of(parameters):
    """What may be None need not be passed, when nothing follows that must be."""
    texts = []
    is_last = True
    for parameter in reversed(parameters):
        is_last = is_last and parameter.get("nullable") == "1"
        name = parameter.get("name")
        name += "_" * keyword.iskeyword(name)
        texts.insert(0, f"{name}: {type_of(parameter, True)}{' = None' * is_last}")
    return texts


def returned_by(node):
    return type_of(node.find("return-value", XMLNS))


def function(node, first=()):
    parameters, closures = parameters_of(node)
    texts = [*first, *signature_of(parameters)]
    texts += ["*user_data: Any"] * bool(closures)
    return [f"def {node.get('name')}({', '.join(texts)}) -> {returned_by(node)}: ..."]


def awaitable(node, finish, first=()):
    """The `X()` of an `X_async()`, which has neither a cancellable nor a callback."""
    parameters = [
        parameter
        for parameter in parameters_of(node)[0]
        if type_of(parameter) not in ("Gio.Cancellable | None", "Callable[..., object] | None")
    ]
    name = node.get("name").removesuffix("_async")
    texts = ", ".join([*first, *signature_of(parameters)])
    return [f"def {name}({texts}) -> asyncio.Future[{returned_by(finish)}]: ..."]


def is_introspectable(node):
    return node.get("introspectable") != "0"


def members(node, names):
    """The functions of a class or record; but those that `names` has already."""
    kinds = {"method": ("self",), "constructor": ("cls",), "function": ()}
    decorators = {"method": [], "constructor": ["@classmethod"], "function": ["@staticmethod"]}
    for kind, first in kinds.items():
        found = {n.get("name"): n for n in node.findall(kind, XMLNS) if is_introspectable(n)}
        for name, member in found.items():
            yield from decorators[kind] + function(member, first)
            short = name.removesuffix("_async")
            if short not in (name, *found, *names):
                yield from decorators[kind] + awaitable(member, found[f"{short}_finish"], first)


def properties(node):
    """The properties; what a getter of theirs may return, they may be."""
    found = node.findall("property", XMLNS)
    getters = {method.get("name"): method for method in node.findall("method", XMLNS)}
    lines = []
    for prop in found:
        getter = getters.get(prop.get("getter"))
        text = type_of(prop) if getter is None else returned_by(getter)
        name = prop.get("name").replace("-", "_")
        if prop.get("writable") == "1" and prop.get("construct-only") != "1":
            lines.append(f"{name}: {text}")
        else:
            lines += ["@property", f"def {name}(self) -> {text}: ..."]
    if lines:
        yield from ["class Props(GObject.Object.Props):", *indented(lines)]
        yield from ["@property", "def props(self) -> Props: ..."]


def overridden(node):
    """The stub of a class of the override, without its base."""
    for member in node.body:
        is_function = isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef))
        if not is_function or (member.name.startswith("_") and member.name not in KEPT):
            continue
        arguments = member.args
        arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
        arguments.kw_defaults = [each and ast.Constant(...) for each in arguments.kw_defaults]
        member.body = [ast.Expr(ast.Constant(...))]
        yield from ast.unparse(member).splitlines()


def indented(lines):
    return [f"    {line}" for line in lines] or ["    ..."]


def stubs(gir, override):
    namespace = ElementTree.parse(gir).getroot().find("namespace", XMLNS)
    with open(override, encoding="utf-8") as file:
        body = ast.parse(file.read()).body
    classes = {
        node.name: list(overridden(node))
        for node in body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }

    for node in namespace.findall("constant", XMLNS):
        yield f"{node.get('name')}: {type_of(node)}"
    for node in namespace.findall("function", XMLNS):
        yield from function(node)
    for kind in ("enumeration", "bitfield"):
        base = "GEnum" if kind == "enumeration" else "GFlags"
        for node in namespace.findall(kind, XMLNS):
            name = node.get("name")
            yield from ["", f"class {name}(GObject.{base}):"]
            values = node.findall("member", XMLNS)
            yield from indented([f"{value.get('name').upper()}: {name}" for value in values])
    for node in namespace.findall("record", XMLNS) + namespace.findall("class", XMLNS):
        name = node.get("name")
        if name.endswith("Class"):
            continue
        implemented = [i.get("name") for i in node.findall("implements", XMLNS)]
        bases = [node.get("parent", "GObject.GBoxed"), *implemented]
        lines = classes.pop(name, [])
        names = [line.removeprefix("def ").partition("(")[0] for line in lines]
        fields = [f for f in node.findall("field", XMLNS) if f.get("private") != "1"]
        yield from ["", f"class {name}({', '.join(bases)}):"]
        yield from indented(
            [f"{f.get('name')}: {type_of(f)}" for f in fields if node.get("parent") is None]
            + list(properties(node))
            + list(members(node, names))
            + lines
        )
    for name, lines in classes.items():
        yield from ["", f"class {name}:", *indented(lines)]


def main(gir, override):
    text = "\n".join(stubs(gir, override))
    modules = sorted({"GObject", *re.findall(r"\b([A-Z]\w+)\.[A-Z]", text)})
    print("# Made by sys/python/stubs.py from the GIR.\n")
    print("import asyncio\nfrom collections.abc import Callable, Sequence\nfrom typing import Any\n")
    print(f"from gi.repository import {', '.join(modules)}\n")
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
