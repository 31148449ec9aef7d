#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints what a virtual machine is and does, over SPICE.

    vm-status.py spice://HOST:PORT | spice+unix:///PATH
"""

import sys

import gi

gi.require_version("SpiceClientGLib", "2.0")
gi.require_version("SpiceQmp", "1.0")
from gi.repository import GLib, SpiceClientGLib, SpiceQmp


def call(start, finish, *arguments):
    """Makes an asynchronous call, and runs the main loop until it has ended."""
    loop = GLib.MainLoop()
    results = []

    def ended(_source, result):
        results.append(result)
        loop.quit()

    start(*arguments, None, ended)
    loop.run()
    return finish(results[0])


def execute(port, command):
    """What a command returns, as Python's own types."""
    reply = call(port.execute_variant_async, port.execute_variant_finish, command, None)
    return reply.unpack()


def show(port):
    status = call(port.query_status_async, port.query_status_finish)
    name = execute(port, "query-name").get("name", "without a name")
    memory = execute(port, "query-memory-size-summary")["base-memory"]
    print(f"machine: {name}")
    print(f"QEMU: {port.props.version}")
    print(f"state: {status.status}{', running' if status.running else ''}")
    print(f"memory: {memory // 2**20} MiB")
    print(f"processors: {len(execute(port, 'query-cpus-fast'))}")
    for disk in execute(port, "query-block"):
        file = disk.get("inserted", {}).get("file", "empty")
        print(f"disk {disk['device']}: {file}")


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    session = SpiceClientGLib.Session(uri=sys.argv[1])
    try:
        port = call(SpiceQmp.Port.find_async, SpiceQmp.Port.find_finish, session)
        # In milliseconds; without it, a call does not end while QEMU does not answer.
        port.props.command_timeout = 10_000
        try:
            show(port)
        finally:
            # First the port: QEMU may crash or freeze if a client leaves while a reply is due.
            call(port.close_async, port.close_finish)
    except GLib.Error as error:
        print(f"vm-status: {error.message}", file=sys.stderr)
        return 1
    finally:
        session.disconnect()
    return 0


sys.exit(main())
