"""A governed run without a frame: it begins in synchronous code, and is ended by whoever knows.

`governed_run` stands in its user's frame. Hooks have none: `Runner.run_streamed` returns before its
run has begun, a callback returns before its run has ended. So the home is sent to before it has
opened, and the task that keeps it is told when to close. Only on asyncio.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Protocol
from uuid import uuid4

import anyio
from runcycles import Subject

from comptroller._eventloop import TaskScope, under_trio
from comptroller.core.identifiers import checked_run_id
from comptroller.errors import ComptrollerError
from comptroller.ledger.interface import Ledger, Outbox
from comptroller.openai_agents.context import pop_run, push_run
from comptroller.policy import Limits, Policy
from comptroller.receipts import Receipt
from comptroller.runtime.portal import LoopPortal, reraise_cancellation
from comptroller.runtime.registry import RunRegistry, Status
from comptroller.runtime.run import Run

log = logging.getLogger("comptroller")


class Lender(Protocol):
    """Where the ledger of the running loop comes from."""

    def lend(self) -> Ledger:
        """Return the ledger, usable at once."""

    def take_back(self, loop: asyncio.AbstractEventLoop) -> Callable[[], Awaitable[object]] | None:
        """Note that it is no longer used there; return what closes it, where that is due."""


class Carrier(Protocol):
    """Hooks that bring a run along."""

    def left(self, run: Run) -> None:
        """Everything of `run` is over."""


class BackgroundRun(AbstractAsyncContextManager[Run]):
    """A run that has begun. `async with` makes it govern the body, and closes it afterwards.

    Args:
        subject, policy: who spends, and by which rules.
        lender: whose ledger it uses for the length of its life.
        carrier: the hooks that bring it along; told when everything of it is over.

    Attributes:
        loop: where it lives.

    Raises:
        ValueError: its id is in use.
        ComptrollerError: under trio.
    """

    def __init__(
        self,
        subject: Subject,
        policy: Policy,
        lender: Lender,
        *,
        run_id: str | None = None,
        outbox: Outbox | None = None,
        as_seen: Callable[[ComptrollerError], ComptrollerError],
        carrier: Carrier,
    ) -> None:
        if under_trio():
            raise ComptrollerError("these hooks govern asyncio programs: use governed_run on trio")
        run_id = uuid4().hex if run_id is None else checked_run_id(run_id)
        self.loop = asyncio.get_running_loop()
        self._home, self._lender, self._carrier = LoopPortal(), lender, carrier
        self._hub = RunRegistry(self._home, lender.lend(), outbox=outbox, as_seen=as_seen)
        self._why: str | None = None
        self._refusal: ComptrollerError | None = None
        try:
            self.run = self._hub.new_run(run_id, subject, policy, Limits())
            self._hub.register(_BackgroundHandle(self.run))
        except BaseException:
            lender.take_back(self.loop)
            raise
        self.run.carrier = carrier
        self._kept = TaskScope(self._life())
        self._kept.begin(self.lose)
        self._hub.begin(self.run)

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        try:
            async with self._home:
                try:
                    yield
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._hub.cancel_all(self._why or "its hooks were left")
        finally:
            self._carrier.left(self.run)
            await self._close_ledger()

    async def _close_ledger(self) -> None:
        """Close the ledger; what goes wrong there is no outcome of the run."""
        if (unused := self._lender.take_back(self.loop)) is None:
            return
        try:
            await unused()
        except Exception:
            log.exception("run %s: its ledger's connections could not be closed", self.run.id)

    def lose(self) -> None:
        """Its loop went before it could open, or was closed without its end: nothing is waited for.

        What it has reserved lapses.
        """
        self.run.lose("its event loop has ended")
        self._home.lose()
        self._hub.forget(self.run.id, "cancelled")
        self._carrier.left(self.run)
        self._lender.take_back(self.loop)  # connections of a dead loop cannot be closed

    async def abandon(self, reason: str) -> None:
        """Settle what is open now, as given up, from any loop; the run goes on. Bounded."""
        if self.loop is asyncio.get_running_loop():
            await self.run.abandon(reason)
            return
        there = asyncio.run_coroutine_threadsafe(self.run.abandon(reason), self.loop)
        with anyio.move_on_after(self.run.patience):
            await asyncio.wrap_future(there)

    @property
    def refusal(self) -> ComptrollerError | None:
        """What has ended the run before its regular end, if anything did."""
        return self.run.ended if self._why is None else self._refusal

    def end(self, why: str) -> None:
        """Close it soon: what is open is settled as given up, for this reason."""
        if self._why is None:
            self._why, self._refusal = why, self.run.ended
        self._kept.end()

    async def ended(self) -> BaseException | None:
        """Wait until it is closed; returns a native cancellation that came meanwhile."""
        return await self._kept.close()

    async def __aenter__(self) -> Run:
        push_run(self.run)
        return self.run

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pop_run(self.run)
        self.end("its run has ended" if kind is None else f"its run raised {kind.__name__}")
        reraise_cancellation(await self.ended(), error)


class _BackgroundHandle:
    """What its hub holds of it."""

    status: Status = "running"

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def id(self) -> str:
        return self._run.id

    @property
    def receipt(self) -> Receipt:
        return self._run.receipt

    def cancel(self, reason: str = "cancelled") -> None:
        self._run.cancel(reason)
