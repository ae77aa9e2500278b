"""What the runs of one supervisor share: their home, their ledger, and who is running."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol

import attrs
from runcycles import Subject, Unit

from comptroller._interrupts import uninterrupted
from comptroller.core.call_lifecycle import Outcome
from comptroller.core.pricing import Prices, price_book
from comptroller.errors import ComptrollerError, RunCancelled
from comptroller.ledger.interface import Ledger, Outbox
from comptroller.money import Sums
from comptroller.policy import Limits, Policy
from comptroller.receipts import Receipt
from comptroller.runtime.call import RunContext, as_it_is
from comptroller.runtime.pending_settlements import pending_settlements_of
from comptroller.runtime.portal import Condition, LoopPortal, wait_shielded
from comptroller.runtime.run import CUT_OFF_GRACE, Run

Status = Literal["waiting", "running", "completed", "denied", "failed", "cancelled"]

REMEMBERED = 1_000
"""Finished runs that stay in `Hub.runs`; their totals stay in the statistics for good."""


class RunHandle(Protocol):
    """One run as its supervisor shows it."""

    @property
    def id(self) -> str:
        """The run's id."""

    @property
    def status(self) -> Status:
        """Where it stands."""

    @property
    def receipt(self) -> Receipt:
        """What it used so far."""

    def cancel(self, reason: str = "cancelled") -> None:
        """End it, from any task, loop or thread."""


@attrs.frozen
class Statistics:
    """A snapshot of a supervisor.

    Attributes:
        runs: how many runs stand how.
        calls: how many calls of all runs stand how.
        spend: what the ledger charged them, by unit.
    """

    runs: Mapping[Status, int]
    calls: Mapping[Outcome, int]
    spend: Sums


_RUNNING: set[str] = set()
"""The ids of all runs of this process: a run's id names it in its ledger, too."""


_BUNDLED = price_book(None)


class RunRegistry:
    """Lives at home, in the frame of the scope that opened it."""

    def __init__(
        self,
        home: LoopPortal,
        ledger: Ledger,
        *,
        outbox: Outbox | None = None,
        as_seen: Callable[[ComptrollerError], ComptrollerError] = as_it_is,
    ) -> None:
        self.home, self.ledger = home, ledger
        self._outbox: Outbox | None = outbox or getattr(ledger, "outbox", None)
        self._as_seen = as_seen
        self._settling = pending_settlements_of(ledger)
        self._handles: dict[str, RunHandle] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()  # their ids, the first to end first
        self._live: dict[str, Run] = {}
        self._carried: dict[str, RunHandle] = {}
        self._change = Condition()
        self._leaving: str | None = None  # why no run begins any more
        self._books: dict[int, tuple[Any, Prices]] = {}
        self._past_runs: Counter[Status] = Counter()
        self._past_calls: Counter[Outcome] = Counter()
        self._past_spend: Counter[Unit] = Counter()

    @property
    def runs(self) -> Mapping[str, RunHandle]:
        """Run id to handle: all that wait or run, and the latest that have ended."""
        return MappingProxyType(dict(self._handles))

    def register(self, handle: RunHandle, *, carried: bool = False) -> None:
        """Show a run, whose id is then in use until it has ended.

        `carried`: a task at home carries it, which calls `put_down` as the last thing it does.

        Raises:
            ValueError: its id is in use, in this process.
            RunCancelled: the supervisor is being left: no run begins any more.
            RuntimeError: called in another loop than the one that opened the supervisor.
            ComptrollerError: this process is a fork.
        """
        self.home.check_process()
        self.home.check_here("a run is opened")
        if self._leaving is not None:
            raise RunCancelled(self._leaving)
        if handle.id in _RUNNING:
            raise ValueError(f"run_id={handle.id!r}: a run with this id is running")
        _RUNNING.add(handle.id)
        self._finished.pop(handle.id, None)
        self._handles.pop(handle.id, None)  # the latest is the last
        self._handles[handle.id] = handle
        if carried:
            self._carried[handle.id] = handle

    def new_run(self, run_id: str, subject: Subject, policy: Policy, limits: Limits) -> Run:
        """Make a run that has not begun."""
        terms = RunContext(
            home=self.home,
            ledger=self.ledger,
            policy=policy,
            prices=self.book(policy.prices),
            settling=self._settling,
            outbox=self._outbox,
            as_seen=self._as_seen,
        )
        return Run(run_id, subject, terms, limits)

    def begin(self, run: Run) -> None:
        """Its scope was entered; its handle is registered."""
        self._live[run.id] = run
        run.begin()

    def book(self, given: Any) -> Prices:
        """One book for all runs with the same `prices`: a model's first look-up is dear.

        Raises:
            TypeError, ValueError: it is no price book, or has an alias without a price.
        """
        if given is None:
            return _BUNDLED
        if len(self._books) >= REMEMBERED:
            self._books.clear()  # made anew for each run, none of them would be met again
        if id(given) not in self._books:
            self._books[id(given)] = (given, price_book(given))  # kept, so its id stays its own
        return self._books[id(given)][1]

    def ended(self, run: Run, status: Status) -> None:
        """Add the figures of a run, whose scope has exited, to the totals."""
        if self._live.pop(run.id, None) is None:
            return
        self._count(run.receipt, self._past_calls, self._past_spend)
        self.forget(run.id, status)

    def forget(self, run_id: str, status: Status) -> None:
        """Free the id of a registered run that has ended, or never began."""
        _RUNNING.discard(run_id)
        self._past_runs[status] += 1
        self._finished[run_id] = None
        if len(self._finished) > REMEMBERED:
            oldest, _ = self._finished.popitem(last=False)
            self._handles.pop(oldest, None)
        self._change.notify()

    def put_down(self, handle: RunHandle) -> None:
        """Note that the task that carried it is ending."""
        del self._carried[handle.id]
        self._change.notify()

    def statistics(self) -> Statistics:
        """Return the figures as they stand."""
        runs, calls, spend = (
            Counter(self._past_runs),
            Counter(self._past_calls),
            Counter(self._past_spend),
        )
        for run in self._live.values():
            self._count(run.receipt, calls, spend)
        runs.update(
            handle.status
            for handle in self._handles.values()
            if handle.status == "waiting" or handle.id in self._live
        )
        return Statistics(dict(runs), dict(calls), Sums(spend))

    @staticmethod
    def _count(receipt: Receipt, calls: Counter[Outcome], spend: Counter[Unit]) -> None:
        calls.update(receipt.outcomes)
        spend.update(receipt.charged)

    async def all_ended(self) -> None:
        """Wait for every run to end."""
        await self._change.until(self._idle)

    def stop_all(self, reason: str) -> None:
        """End every run; none begins any more. At home."""
        self._leaving = self._leaving or reason
        for handle in self._busy():
            handle.cancel(reason)

    async def cancel_all(self, reason: str) -> BaseException | None:
        """End every run and wait for that, bounded; returns a native cancellation meanwhile.

        Runs are closed from here, all at once: their own scopes may be held in tasks that wait
        for something else.
        """
        self.stop_all(reason)
        for run in self._live.values():
            self.home.start(self._close, run, reason, name=f"comptroller end of {run.id}")
        bounds = [run.patience for run in self._live.values()]
        return await wait_shielded(self._change, self._idle, max(bounds, default=CUT_OFF_GRACE))

    @uninterrupted
    async def _close(self, run: Run, reason: str) -> None:
        await run.close(reason)
        self.ended(run, "cancelled")

    def _idle(self) -> bool:
        return not self._live and not self._carried

    def _busy(self) -> list[RunHandle]:
        """Return the runs of this hub that wait or run, or whose task has not ended."""
        live = {run_id: self._handles[run_id] for run_id in self._live}
        return list({**live, **self._carried}.values())
