#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""QEMU's own qmp-shell, several times at once, and the tool, on one monitor over SPICE.

test_share.py TOOL: `./dev test` runs it, with a qmp-shell that pip has installed beside
the interpreter.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

TOOL = sys.argv[1]
QMP_SHELL = Path(sys.executable).with_name("qmp-shell")
URI = os.environ["SPICE_QMP_TEST_URI"]
TIMEOUT = 50  # seconds
SHELLS = 4
COMMANDS = 25


def answers(shell):
    """The messages that a shell printed."""
    lines = [line.removeprefix("(QEMU) ") for line in shell.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def run_shell(address, number, results):
    names = [f"no-{number}-{n}" for n in range(COMMANDS)]
    script = "".join(f"device_del id={name}\n" for name in names) + "query-status\n"
    result = subprocess.run(
        [QMP_SHELL, address],
        input=script,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    got = [message for message in answers(result.stdout) if "event" not in message]
    expected = [
        {"error": {"class": "DeviceNotFound", "desc": f"Device '{name}' not found"}}
        for name in names
    ]
    assert got[:-1] == expected, result
    assert got[-1]["return"]["status"] == "prelaunch", result
    results.append(number)


def run_tool(address, results):
    for _ in range(10):
        result = subprocess.run(
            [TOOL, "--json", "--connect", f"unix:{address}", "status"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
        assert json.loads(result.stdout)["status"] == "prelaunch", result
    results.append("tool")


def main():
    with tempfile.TemporaryDirectory(prefix="spice-qmp-", dir="/tmp") as folder:
        address = f"{folder}/shared.sock"
        share = subprocess.Popen(
            [TOOL, "--connect", URI, "share", f"unix:{address}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert share.stdout.readline() == f"listening on unix:{address}\n"
            results = []
            threads = [
                threading.Thread(target=run_shell, args=(address, number, results))
                for number in range(SHELLS)
            ]
            threads.append(threading.Thread(target=run_tool, args=(address, results)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(results) == SHELLS + 1, results
            last = subprocess.run(
                [QMP_SHELL, address],
                input="quit\n",
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
            assert {"return": {}} in answers(last.stdout), last
            assert share.wait(TIMEOUT) == 0
        finally:
            share.kill()
            share.wait()
            share.stdout.close()
        assert not os.path.exists(address)


main()
