"""Waiting across loops, threads and flavours: what is asked in one is watched from another.

An event belongs to the loop it is awaited on. So each waiter makes its own and leaves a call that
wakes it; whoever opens the latch makes those calls, from wherever it is.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from anyio.lowlevel import current_token


class CrossLoopEvent:
    """Closed until it is opened, once; waited for on any loop, opened from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_open = False
        self._waiters: list[Callable[[], object]] = []

    def open(self) -> None:
        """Let everybody through who waits or will wait."""
        with self._lock:
            self._is_open = True
            waiters = list(self._waiters)
        for wake in waiters:
            wake()

    async def wait(self) -> None:
        """Return when it is open, on any loop. Giving up leaves nothing behind."""
        native: Any = current_token().native_token
        later = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        await self._wait(anyio.Event(), later)

    async def wait_on_asyncio(self) -> None:
        """Wait in asyncio code, also on a loop that trio carries: anyio does not see that."""
        await self._wait(asyncio.Event(), asyncio.get_running_loop().call_soon_threadsafe)

    async def _wait(self, event: anyio.Event | asyncio.Event, later: Callable[..., object]) -> None:
        wake = partial(later, event.set)
        with self._lock:
            if self._is_open:
                return
            self._waiters.append(wake)
        try:
            await event.wait()
        finally:
            with self._lock:
                self._waiters.remove(wake)


class CrossLoopCounter:
    """A number that grows, and can be waited for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._latches: dict[int, CrossLoopEvent] = {}

    def add(self) -> None:
        """One more."""
        with self._lock:
            self._count += 1
            reached = self._latches.pop(self._count, None)
        if reached:
            reached.open()

    async def reached(self, count: int) -> None:
        """Wait until the number is at least `count`."""
        with self._lock:
            if self._count >= count:
                return
            latch = self._latches.setdefault(count, CrossLoopEvent())
        await latch.wait()
