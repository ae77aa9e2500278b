"""File work off the event loop: in order, and what has gathered meanwhile in one go.

A write and a removal take a tenth of a millisecond on a good disk and seconds on a bad one; the
loop that agents run in waits for neither.
"""

import logging
import math
from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.to_thread
import attrs

from comptroller.interrupts import uninterrupted

log = logging.getLogger("comptroller.ledger")


@attrs.define(eq=False)
class _Job:
    work: Callable[[], None]
    done: anyio.Event = attrs.field(factory=anyio.Event)
    error: OSError | None = None

    def perform(self) -> None:
        try:
            self.work()
        except OSError as error:
            self.error = error


class Clerk:
    """Performs file work while `serve` runs; before and after it, at once and where it stands.

    Work may be performed twice, when a loop ends in the middle of it.
    """

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[_Job](math.inf)
        self._thread = anyio.CapacityLimiter(1)
        self._serving = False

    async def do(self, work: Callable[[], None]) -> None:
        """Wait until `work` is done. Raises its OSError."""
        job = self._given(work)
        if self._serving:
            await job.done.wait()
        if job.error is not None:
            raise job.error

    def later(self, work: Callable[[], None]) -> None:
        """Have `work` done soon; an OSError of it is logged."""
        self._given(lambda: _told(work))

    def _given(self, work: Callable[[], None]) -> _Job:
        job = _Job(work)
        if self._serving:
            self._send.send_nowait(job)
        else:
            job.perform()
        return job

    @uninterrupted
    async def serve(self) -> None:
        """Until it is cancelled; what is left is then done at once."""
        self._serving, jobs = True, []
        try:
            while True:
                jobs = [await self._receive.receive()]
                jobs += self._gathered()
                await anyio.to_thread.run_sync(_perform, jobs, limiter=self._thread)
                for job in jobs:
                    job.done.set()
                jobs = []
        finally:
            self._serving = False
            for job in (*jobs, *self._gathered()):
                job.perform()
                job.done.set()
            self._send.close()
            self._receive.close()

    def _gathered(self) -> list[_Job]:
        jobs = []
        with suppress(anyio.WouldBlock):
            while True:
                jobs.append(self._receive.receive_nowait())
        return jobs


def _perform(jobs: list[_Job]) -> None:
    for job in jobs:
        job.perform()


def _told(work: Callable[[], None]) -> None:
    try:
        work()
    except OSError as error:
        log.error("the outbox: %s", error)
