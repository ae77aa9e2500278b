"""Blocking work of ledgers, in threads that keep no process from its end.

`sys.exit` in a task leaves an asyncio loop at once, and nobody is left to tell anyio's worker
threads to stop: the interpreter would wait for them for ever. Trio's are daemons; so are these.
"""

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar, TypeVarTuple

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import current_token

T = TypeVar("T")
Args = TypeVarTuple("Args")

_IDLE_SECONDS = 0.05
"""How long a thread without work is kept: starting one costs as much as a job, and none may be left
to see when its ledger is closed and its loop has ended."""


class _ThreadEndedError(RuntimeError):
    """Something that ends a thread was raised in it, such as SystemExit."""


class _Job:
    """One call, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.done: Future[Any] = Future()

    def perform(self) -> None:
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            result = self._work()
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            self.done.set_exception(error)
        else:
            self.done.set_result(result)
        finally:
            if not self.done.done():
                self.done.set_exception(_ThreadEndedError("its thread was ended"))

    @property
    def spared(self) -> bool:
        """Whether it has ended, and its thread has not."""
        if not self.done.done():
            return False
        ended = not self.done.cancelled() and isinstance(self.done.exception(), _ThreadEndedError)
        return not ended


class _Worker(threading.Thread):
    """A daemon that performs one job after another.

    Attributes:
        loop: whose job it is at; None when nobody waits for it. A thread outlives the news of its
            result for a moment, which a virtual clock is not to take for work.
        over: it ends with the present job, which nobody waits for any more.
    """

    def __init__(self) -> None:
        super().__init__(name="comptroller ledger", daemon=True)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.over = False
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()

    def run(self) -> None:
        """Perform jobs, until there has been none for a while."""
        while not self.over:
            try:
                job = self.jobs.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with _lock:  # unless it is given a job at this very moment
                    if self in _idle:
                        _idle.remove(self)
                        return
                continue
            try:
                job.perform()
            except SystemExit:  # as `threading` has it: the thread ends, and nothing is said
                return
            del job


_lock = threading.Lock()
_idle: list[_Worker] = []
"""Those that wait for a job; the one that had the latest is the next."""


def _in_a_fork() -> None:
    global _lock  # noqa: PLW0603 - a thread that is not in the fork may hold the other
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_in_a_fork)


def _hired() -> _Worker:
    with _lock:
        if _idle:
            return _idle.pop()
    worker = _Worker()
    worker.start()
    return worker


async def run_sync(
    function: Callable[[*Args], T], *args: *Args, limiter: CapacityLimiter | None = None
) -> T:
    """Call `function` in a thread, as `anyio.to_thread.run_sync`: what has begun is waited for."""
    if current_token().backend_class.__module__.endswith("_trio"):
        return await to_thread.run_sync(function, *args, limiter=limiter)
    await anyio.lowlevel.checkpoint()
    context = copy_context()
    async with limiter or to_thread.current_default_thread_limiter():
        job, worker = _Job(lambda: context.run(function, *args)), _hired()
        worker.loop = asyncio.get_running_loop()
        with anyio.CancelScope(shield=True):
            worker.jobs.put(job)
            try:
                result: T = await asyncio.wrap_future(job.done)
            finally:
                worker.loop = None
                with _lock:
                    if job.spared:
                        _idle.append(worker)
                    else:  # it ends; or a native cancellation has left it at work
                        worker.over = True
    return result
