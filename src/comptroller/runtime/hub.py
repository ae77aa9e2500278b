"""What the runs of one supervisor share: their home, their ledger, and who is running."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol

import attrs
from runcycles import Subject, Unit

from ..decide.lifecycle import Outcome
from ..decide.pricing import Prices, price_book
from ..ledger.interface import Ledger
from ..policy import Limits, Policy
from .call import Terms
from .home import Change, Home, outlast
from .receipts import Receipt
from .run import CUT_OFF_GRACE, Run
from .settling import settling

Status = Literal["waiting", "running", "completed", "denied", "failed", "cancelled"]

REMEMBERED = 1_000
"""Finished runs that stay in `Hub.runs`; their totals stay in the statistics for good."""


class Handle(Protocol):
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
    spend: Mapping[Unit, int]


_RUNNING: set[str] = set()
"""The ids of all runs of this process: a run's id names it in its ledger, too."""


_BUNDLED = price_book(None)


class Hub:
    """Lives at home, in the frame of the scope that opened it."""

    def __init__(self, home: Home, ledger: Ledger) -> None:
        self.home, self.ledger = home, ledger
        self._handles: dict[str, Handle] = {}
        self._live: dict[str, Run] = {}
        self._change = Change()
        self._books: dict[int, tuple[Any, Prices]] = {}
        self._past_runs: Counter[Status] = Counter()
        self._past_calls: Counter[Outcome] = Counter()
        self._past_spend: Counter[Unit] = Counter()

    @property
    def runs(self) -> Mapping[str, Handle]:
        """Run id to handle: all that wait or run, and the latest that have ended."""
        return MappingProxyType(dict(self._handles))

    def register(self, handle: Handle) -> None:
        """Show a run.

        Raises:
            ValueError: its id is in use.
        """
        present = self._handles.get(handle.id)
        if present is not None and present.status in ("waiting", "running"):
            raise ValueError(f"run_id={handle.id!r}: a run with this id is running")
        self._handles[handle.id] = handle

    def begin(self, run_id: str, subject: Subject, policy: Policy, limits: Limits) -> Run:
        """Open a run. Only at home.

        Raises:
            ValueError: its id is in use.
            RuntimeError: called in another loop than the one that opened the supervisor.
        """
        if not self.home.is_here():
            raise RuntimeError(
                "a run is opened in the loop that opened its supervisor: this is another one"
            )
        if run_id in _RUNNING:
            raise ValueError(f"run_id={run_id!r}: a run with this id is running")
        terms = Terms(
            home=self.home,
            ledger=self.ledger,
            policy=policy,
            prices=self._book(policy.prices),
            settling=settling(self.ledger),
        )
        run = self._live[run_id] = Run(run_id, subject, terms, limits)
        _RUNNING.add(run_id)
        return run

    def _book(self, given: Any) -> Prices:
        """One book for all runs with the same `prices`: a model's first look-up is dear."""
        if given is None:
            return _BUNDLED
        if id(given) not in self._books:
            self._books[id(given)] = (given, price_book(given))  # kept, so its id stays its own
        return self._books[id(given)][1]

    def ended(self, run: Run, status: Status) -> None:
        """A run's scope has exited: its figures go into the totals."""
        if self._live.pop(run.id, None) is None:
            return
        _RUNNING.discard(run.id)
        self._past_runs[status] += 1
        self._count(run.receipt, self._past_calls, self._past_spend)
        finished = [key for key in self._handles if key not in self._live]
        for key in finished[: max(0, len(finished) - REMEMBERED)]:
            if self._handles[key].status not in ("waiting", "running"):
                del self._handles[key]
        self._change.notify()

    def statistics(self) -> Statistics:
        """The figures as they stand."""
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
            if handle.status in ("waiting", "running")
        )
        return Statistics(dict(runs), dict(calls), dict(spend))

    @staticmethod
    def _count(receipt: Receipt, calls: Counter[Outcome], spend: Counter[Unit]) -> None:
        calls.update(receipt.outcomes)
        spend.update(receipt.charged)

    async def all_ended(self) -> None:
        """Wait for every run to end."""
        await self._change.until(lambda: not self._busy())

    async def cancel_all(self, reason: str) -> BaseException | None:
        """End every run and wait for that, bounded; returns a native cancellation meanwhile.

        A run whose own scope does not exit in time is closed from here.
        """
        for handle in self._busy():
            handle.cancel(reason)
        bounds = [
            run.terms.policy.teardown_timeout + run.terms.policy.settle_timeout + CUT_OFF_GRACE
            for run in self._live.values()
        ]
        patience = max(bounds, default=CUT_OFF_GRACE)
        interrupted = await outlast(self._change, lambda: not self._busy(), patience)
        for run in tuple(self._live.values()):
            interrupted = await run.close(reason) or interrupted
            self.ended(run, "cancelled")
        return interrupted

    def settled(self, status: Status | None) -> None:
        """A handle has ended. `status`: how, where it never became a run."""
        if status is not None:
            self._past_runs[status] += 1
        self._change.notify()

    def _busy(self) -> list[Handle]:
        return [h for h in self._handles.values() if h.status in ("waiting", "running")]
