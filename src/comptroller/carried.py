"""A governed run without a frame: it begins in synchronous code, and is ended by whoever knows.

`governed_run` stands in its user's frame. Hooks have none: `Runner.run_streamed` returns before its
run has begun, a callback returns before its run has ended. So the home is sent to before it has
opened, and the task that keeps it is told when to close. Only on asyncio.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Protocol
from uuid import uuid4

import anyio
from runcycles import Subject

from .decide.names import checked_run_id
from .errors import ComptrollerError
from .host import Kept, under_trio
from .ledger.interface import Ledger, Outbox
from .openai_agents.active import step_in, step_out
from .policy import Limits, Policy
from .runtime.home import Home, raise_unless_known
from .runtime.hub import Hub, Status
from .runtime.receipts import Receipt
from .runtime.run import Run


class Lender(Protocol):
    """Where the ledger of the running loop comes from."""

    def lend(self) -> Ledger:
        """The ledger, usable at once."""

    async def give_back(self) -> None:
        """It is no longer used."""


class CarriedRun(AbstractAsyncContextManager[Run]):
    """A run that has begun. `async with` makes it govern the body, and closes it afterwards.

    Args:
        subject, policy: who spends, and by which rules.
        lender: whose ledger it uses for the length of its life.
        left: called with its run when everything of it is over.

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
        left: Callable[[Run], object],
    ) -> None:
        if under_trio():
            raise ComptrollerError("these hooks govern asyncio programs: use governed_run on trio")
        self._home, self._lender, self._left = Home(), lender, left
        run_id = uuid4().hex if run_id is None else checked_run_id(run_id)
        self._hub = Hub(self._home, lender.lend(), outbox=outbox, as_seen=as_seen)
        self._kept = Kept(self._life())
        self._why = "its hooks were left"
        self.run = self._hub.new_run(run_id, subject, policy, Limits())
        self._kept.begin()
        try:
            self._hub.register(_Handle(self.run))
        except BaseException:
            self._kept.end()
            raise
        self._hub.begin(self.run)

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        try:
            async with self._home:
                try:
                    yield
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._hub.cancel_all(self._why)
        finally:
            self._left(self.run)
            await self._lender.give_back()

    def end(self, why: str) -> None:
        """Close it soon: what is open is settled as given up, for this reason."""
        self._why = why
        self._kept.end()

    async def ended(self) -> BaseException | None:
        """Wait until it is closed; returns a native cancellation that came meanwhile."""
        return await self._kept.close()

    async def __aenter__(self) -> Run:
        step_in(self.run)
        return self.run

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        step_out(self.run)
        self.end("its run has ended" if kind is None else f"its run raised {kind.__name__}")
        raise_unless_known(await self.ended(), error)


class _Handle:
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
