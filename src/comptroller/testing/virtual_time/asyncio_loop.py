"""Virtual time, on asyncio and on trio: a test of ten minutes takes milliseconds.

One law on both: while anything real is awaited (a worker thread, a socket, a child process), the
clock keeps pace with real time; otherwise, when nothing is ready to run, it jumps to the next
timer. So a time-out never strikes only because a thread was slow to be scheduled.

Work in a thread of your own, of which the event loop knows nothing, is not seen: drive that with
real time. Work that its waiter has given up is no longer awaited.

With anyio's pytest plugin::

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return virtual_backend(request.param)

and without it `asyncio.Runner(loop_factory=VirtualTimeLoop)`.
"""

import asyncio
import math
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


def virtual_backend(name: str) -> tuple[str, dict[str, Any]]:
    """Return what an `anyio_backend` fixture returns for virtual time on `name`.

    The values are made for one test: ask again for the next.

    Raises:
        ValueError: `name` is neither `asyncio` nor `trio`.
    """
    if name == "asyncio":
        return name, {"loop_factory": VirtualTimeLoop}
    if name == "trio":
        from comptroller.testing.virtual_time.trio_clock import virtual_clock  # trio is optional

        clock, pacing = virtual_clock()
        return name, {"clock": clock, "instruments": [pacing]}
    raise ValueError(f"{name!r}: virtual time is offered for 'asyncio' and 'trio'")


_Events = list[tuple[selectors.SelectorKey, int]]


class _Selector(selectors.DefaultSelector):
    """A selector which asks its loop how to let the time until the next timer pass."""

    def __init__(self, pass_time: Callable[[float, "_Selector"], _Events]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> _Events:
        events = super().select(0)
        if events or timeout == 0:
            return events
        return self._pass_time(math.inf if timeout is None else timeout, self)

    def wait(self, seconds: float) -> _Events:
        """Wait for what happens within so many real seconds."""
        return super().select(None if seconds == math.inf else seconds)


_LOOK_AGAIN = 0.5
"""Real seconds after which it is looked again whether anything real is awaited: a thread that was
about to end wakes nobody."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on virtual time (see the head of this module). It starts at 0."""

    def __init__(self) -> None:
        self._now = 0.0
        self._jobs = 0
        selector = _Selector(self._pass_time)
        super().__init__(selector)
        self._own_files = len(selector.get_map())  # the pipe that wakes the loop

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _pass_time(self, timeout: float, selector: _Selector) -> _Events:
        real = self._jobs or len(selector.get_map()) > self._own_files or self._workers()
        if not real and timeout < math.inf:
            # a thread that has ended since the last look had woken the loop before it ended
            if events := selector.wait(0):
                return events
            self._now += timeout
            return []
        before = time.monotonic()
        events = selector.wait(min(timeout, _LOOK_AGAIN) if real else timeout)
        # with no timer to meet, time stands still unless something real is awaited
        self._now += min(time.monotonic() - before, timeout) if real else 0.0
        return events

    def _workers(self) -> bool:
        """Whether a worker thread, of `anyio.to_thread` or a ledger's, has work of this loop.

        Nobody tells, but they carry their loop, and those of anyio its list of idle ones.
        """
        return any(
            getattr(thread, "loop", None) is self
            and thread not in getattr(thread, "idle_workers", ())
            for thread in threading.enumerate()
        )

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As ever; but a timer at infinity is not kept, since jumping would never reach it."""
        if when == math.inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """As ever; the clock keeps real time until the returned future is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: object) -> None:
        self._jobs -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        """As ever; its time limit is one of real time."""
        self._jobs += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._jobs -= 1
