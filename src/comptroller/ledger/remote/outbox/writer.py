"""File work off the event loop: in order, and what has gathered meanwhile in one go.

A write and a removal take a tenth of a millisecond on a good disk and seconds on a bad one; the
loop that agents run in waits for neither.
"""

import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress

import anyio
import attrs

from comptroller._interrupts import uninterrupted
from comptroller.ledger import daemon_threads

log = logging.getLogger("comptroller.ledger")


@attrs.define(eq=False)
class _FileJob:
    work: Callable[[], None]
    done: anyio.Event = attrs.field(factory=anyio.Event)
    error: OSError | None = None

    def perform(self) -> None:
        try:
            self.work()
        except OSError as error:
            self.error = error


class FileWriter:
    """Performs file work while `serve` runs; before and after it, at once and where it stands.

    Work may be performed twice, when a loop ends in the middle of it.
    """

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[_FileJob](math.inf)
        self._thread = anyio.CapacityLimiter(1)
        self._jobs: list[_FileJob] = []  # under way
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

    def _given(self, work: Callable[[], None]) -> _FileJob:
        job = _FileJob(work)
        if self._serving:
            self._send.send_nowait(job)
        else:
            job.perform()
        return job

    @uninterrupted
    async def serve(self) -> None:
        """Until it is cancelled; what is left is done then."""
        self._serving = True
        try:
            try:
                while True:
                    self._jobs.append(await self._receive.receive())
                    await self._work()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._work()
        finally:  # a loop that ends under it ignores shields
            self._serving = False
            self._gather()
            _perform(self._jobs)
            self._done()
            self._send.close()
            self._receive.close()

    async def _work(self) -> None:
        self._gather()
        while self._jobs:
            await daemon_threads.run_sync(_perform, tuple(self._jobs), limiter=self._thread)
            self._done()
            self._gather()

    def _gather(self) -> None:
        with suppress(anyio.WouldBlock):
            while True:
                self._jobs.append(self._receive.receive_nowait())

    def _done(self) -> None:
        for job in self._jobs:
            job.done.set()
        self._jobs.clear()


def _perform(jobs: Iterable[_FileJob]) -> None:
    for job in jobs:
        job.perform()


def _told(work: Callable[[], None]) -> None:
    try:
        work()
    except OSError as error:
        log.error("the outbox: %s", error)
