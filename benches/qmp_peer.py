"""Asks a QMP server for its status with the package qemu.qmp, as told on stdin."""

import asyncio
import json
import sys
import time

from qemu.qmp import QMPClient


async def ask(client, count, in_flight):
    left = count

    async def one():
        nonlocal left
        while left > 0:
            left -= 1
            await client.execute("query-status")

    await asyncio.gather(*(one() for _ in range(in_flight)))


async def storm(client, count):
    with client.listener() as listener:
        reply = asyncio.ensure_future(client.execute("bench-storm", {"count": count}))
        for _ in range(count):
            await listener.get()
        await reply


async def main():
    client = QMPClient("bench")
    client.logger.setLevel("CRITICAL")
    await client.connect(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        task, count, in_flight = line.split()
        count = int(count)
        wall, cpu = time.monotonic(), time.process_time()
        if task == "storm":
            await storm(client, count)
        else:
            await ask(client, count, int(in_flight))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall / count, "cpu": cpu / count}), flush=True)


asyncio.run(main())
