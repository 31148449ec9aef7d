# SPDX-License-Identifier: MIT OR Apache-2.0
"""SpiceQmp for Python: calls to await, events to iterate over, plain dicts and lists.

Each asynchronous function `X_async()` stays as it is, and has an `X()` beside it. It
starts immediately, takes neither a cancellable nor a callback, and returns an
`asyncio.Future` of what `X_finish()` returns; cancelling the future cancels the call.
These need an asyncio event loop that runs GLib's main loop, such as that of
`gi.events` in PyGObject 3.50 and newer. The rest works with every PyGObject.
"""

from __future__ import annotations

import asyncio
import collections
import json
from collections.abc import Callable
from typing import Any

from gi.overrides import override
from gi.repository import Gio, GObject

from ..importer import modules

SpiceQmp = modules["SpiceQmp"]._introspection_module


def _event_loop():
    loop = asyncio.get_running_loop()
    if type(loop).__module__.partition(".")[0] in ("asyncio", "uvloop"):
        raise RuntimeError(
            "this asyncio event loop does not run GLib's main loop: use the one of "
            "gi.events.GLibEventLoopPolicy, with PyGObject 3.50 or newer"
        )
    return loop


def _start(start, finish, *arguments, **named):
    """Starts an asynchronous call, and returns the future of its result."""
    future = _event_loop().create_future()
    cancellable = Gio.Cancellable()

    def on_ended(_source, result):
        try:
            value, error = finish(result), None
        except Exception as raised:
            # The traceback refers to this frame, and so to the future and the port.
            value, error = None, raised.with_traceback(None)
        if future.done() or future.get_loop().is_closed():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    start(*arguments, **named, cancellable=cancellable, callback=on_ended)
    future.add_done_callback(lambda done: done.cancelled() and cancellable.cancel())
    return future


def _to_json(arguments):
    return None if arguments is None else json.dumps(arguments, allow_nan=False)


def _add_calls(cls):
    """Adds `X()` for each `X_async()` that the class has no `X()` for."""
    for info in cls.__info__.get_methods():
        name, is_async, _ = info.get_name().partition("_async")
        if is_async and not hasattr(cls, name):
            setattr(cls, name, _method(name) if info.is_method() else _function(cls, name))


def _method(name):
    def call(self, *arguments, **named):
        start, finish = getattr(self, f"{name}_async"), getattr(self, f"{name}_finish")
        return _start(start, finish, *arguments, **named)

    return _named(call, name)


def _function(cls, name):
    def call(*arguments, **named):
        start, finish = getattr(cls, f"{name}_async"), getattr(cls, f"{name}_finish")
        return _start(start, finish, *arguments, **named)

    return staticmethod(_named(call, name))


def _named(call, name):
    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Calls `{name}_async()`, and returns the future of its result."
    return call


class Events:
    """The events of a port since this was made, to iterate over with `async for`.

    It ends when the connection does. Of more than 1,024 events, or 16 Mi characters
    of data, that have not been fetched, the oldest are dropped.
    """

    _MAX_EVENTS = 1024
    _MAX_SIZE = 16 << 20

    def __init__(self, port: Port, names: tuple[str, ...]) -> None:
        self._loop = _event_loop()
        self._port = port
        # The data of the handlers; not self, which would be a reference cycle.
        self._queue = queue = _Queue()
        signals = [f"qmp-event::{name}" for name in dict.fromkeys(names)] or ["qmp-event"]
        self._handlers = [
            port.connect(signal, lambda _port, event: queue.push(event)) for signal in signals
        ]
        self._handlers.append(
            port.connect("notify::state", lambda port, _spec: queue.follow(port.get_state()))
        )
        queue.follow(port.get_state())

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        queue = self._queue
        while not queue.events:
            if queue.ended:
                raise StopAsyncIteration
            waiter = self._loop.create_future()
            queue.waiters.append(waiter)
            await waiter
        event, size = queue.events.popleft()
        queue.size -= size
        return event

    @property
    def dropped(self) -> int:
        """How many events were dropped."""
        return self._queue.dropped

    def close(self) -> None:
        """Ends the iteration and drops what is queued."""
        for handler in self._handlers:
            self._port.disconnect(handler)
        self._handlers.clear()
        self._queue.events.clear()
        self._queue.end()

    def __del__(self):
        for handler in getattr(self, "_handlers", ()):
            self._port.disconnect(handler)


class _Queue:
    def __init__(self):
        self.events = collections.deque()
        self.size = 0
        self.dropped = 0
        self.ended = False
        self.waiters = []

    def push(self, event):
        size = len(event.get_data() or "")
        self.events.append((event, size))
        self.size += size
        while len(self.events) > Events._MAX_EVENTS or (
            self.size > Events._MAX_SIZE and len(self.events) > 1
        ):
            self.size -= self.events.popleft()[1]
            self.dropped += 1
        self.wake()

    def follow(self, state):
        if state in (SpiceQmp.PortState.CLOSED, SpiceQmp.PortState.FAILED):
            self.end()

    def end(self):
        self.ended = True
        self.wake()

    def wake(self):
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)


@override
class Event(SpiceQmp.Event):
    @property
    def name(self) -> str:
        return self.get_name()

    @property
    def data(self) -> dict[str, Any] | None:
        """The data as a dict, or None if the event has none."""
        text = self.get_data()
        return None if text is None else json.loads(text)

    @property
    def timestamp(self) -> int:
        """Microseconds since 1970-01-01 00:00 UTC, or -1 if QEMU has no clock."""
        return self.get_timestamp()


@override
class Port(SpiceQmp.Port):
    def execute(self, command: str, arguments: Any = None) -> asyncio.Future[Any]:
        """Executes a QMP command; arguments and reply are of Python's own types."""
        return self.execute_full(command, arguments)

    def execute_full(
        self,
        command: str,
        arguments: Any = None,
        timeout_ms: int = 0,
        fds: Gio.UnixFDList | None = None,
        flags: CallFlags = SpiceQmp.CallFlags.NONE,
    ) -> asyncio.Future[Any]:
        """Executes a QMP command like `execute()`, with all options."""
        return _start(
            self.execute_full_async,
            lambda result: json.loads(self.execute_full_finish(result)),
            command,
            _to_json(arguments),
            timeout_ms,
            fds,
            flags,
        )

    def execute_oob(self, command: str, arguments: Any = None) -> asyncio.Future[Any]:
        """Executes a QMP command out of band; like `execute()`."""
        return _start(
            self.execute_oob_async,
            lambda result: json.loads(self.execute_oob_finish(result)),
            command,
            _to_json(arguments),
        )

    def events(self, *names: str) -> Events:
        """The events of these names from now on, or all events."""
        return Events(self, names)

    def wait_event(self, *names: str, timeout_ms: int = 0) -> asyncio.Future[Event]:
        """Waits for the next event of one of these names, or for any, from now on."""
        return _start(self.wait_event_async, self.wait_event_finish, names or None, timeout_ms)

    def wait_status(self, *names: str, timeout_ms: int = 0) -> asyncio.Future[bool]:
        """Waits until the run state is one of these."""
        return _start(self.wait_status_async, self.wait_status_finish, names, timeout_ms)


@override
class Machine(SpiceQmp.Machine):
    def run_job(
        self,
        command: str,
        arguments: Any = None,
        on_progress: Callable[[Job], object] | None = None,
    ) -> asyncio.Future[bool]:
        """Runs a job to its end, and calls `on_progress(job)` when it makes progress.

        Cancelling the future cancels the job.
        """
        # PyGObject passes user data, even if there is none.
        call = None if on_progress is None else lambda job, *_: on_progress(job)
        return _start(
            self.run_job_async,
            self.run_job_finish,
            command,
            _to_json(arguments),
            call,
        )

    def unplug(self, id: str, timeout_ms: int = 0) -> asyncio.Future[bool]:
        """Asks the guest to let go of a device, and waits until it is gone."""
        return _start(self.unplug_async, self.unplug_finish, id, timeout_ms)


@override
class Drive(SpiceQmp.Drive):
    def insert(
        self,
        file: str,
        format: str | None = None,
        flags: InsertFlags = SpiceQmp.InsertFlags.NONE,
    ) -> asyncio.Future[bool]:
        """Inserts a medium: a file on QEMU's host."""
        return _start(self.insert_async, self.insert_finish, file, format, flags)

    def eject(self, force: bool = False) -> asyncio.Future[bool]:
        """Opens the tray and removes the medium."""
        return _start(self.eject_async, self.eject_finish, force)


__all__ = ["Drive", "Event", "Events", "Machine", "Port"]

for _name in dir(SpiceQmp):
    _type = globals().get(_name) or getattr(SpiceQmp, _name)
    if isinstance(_type, type) and issubclass(_type, GObject.Object):
        _add_calls(_type)
