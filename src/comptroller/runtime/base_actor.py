"""What an actor and the recorder of an event share: a call, its line, and a shielded life.

Something that happened already and is only recorded: a handoff, a tool the provider ran, what a
tool has used of a model.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import anyio
import attrs
from runcycles import CyclesMetrics

from comptroller._interrupts import uninterrupted
from comptroller.core.call_lifecycle import Outcome
from comptroller.core.pricing import TokenCount
from comptroller.core.settlement import CallEnd, Commit
from comptroller.errors import ComptrollerError, LedgerMisbehaved, LedgerUnreachable
from comptroller.receipts import CallReceipt
from comptroller.runtime.call import Call, RunContext
from comptroller.runtime.limit_tracker import LimitTracker
from comptroller.runtime.settlement import SettlementResult, SettlementSender

log = logging.getLogger("comptroller")

LATE = "the ledger did not answer in time"


class BaseActor(ABC):
    """Whoever settles one call with the ledger.

    Nobody cancels an owner: it is told, and at the bound it is aborted.
    """

    def __init__(
        self, call: Call, terms: RunContext, report: Callable[[CallReceipt], None]
    ) -> None:
        self.call, self.line = call, first_line(call)
        self._terms, self._report = terms, report
        self._scope: anyio.CancelScope | None = None

    @abstractmethod
    def tell(self, end: CallEnd) -> None:
        """How the call ended. From anywhere."""

    @abstractmethod
    def _over(self) -> bool:
        """Whether it has ended."""

    @abstractmethod
    async def _step(self, not_before: float) -> None:
        """Do what comes next. `not_before`: a cool-down that the ledger imposed, at home."""

    @abstractmethod
    def _give_up(self, why: ComptrollerError) -> None:
        """Whatever has not been said yet is said now; nothing where all was."""

    @uninterrupted
    async def live(self, gate: LimitTracker, ended: Callable[["BaseActor"], None]) -> None:
        """Live from the first step to the last. Raises nothing.

        When it is over everything has been said, and `ended` is told. `gate` may hold up a call
        that is about to begin.
        """
        gave_up: ComptrollerError = LedgerUnreachable(LATE, status=-1)
        try:
            await self._shielded(gate.not_before)
        except Exception as defect:
            log.exception("call %s: a defect in its owner or its ledger", self.call.key)
            gave_up = fault_of(defect)
        finally:
            self._give_up(gave_up)
            ended(self)

    def write_off(self) -> None:
        """Its task is gone, or hangs in a ledger that ignores its cancellation: end its line."""
        self._give_up(LedgerUnreachable(LATE, status=-1))

    def abort(self) -> None:
        """Give up what the ledger is asked now: the bounded wait is over. At home."""
        if self._scope is not None:
            self._scope.cancel("the bound for settling is over")

    async def _shielded(self, not_before: float) -> None:
        """Take steps until it is over or aborted.

        A native `task.cancel()` (an asyncio loop that ends cancels every task) ignores shields:
        the step that it cut off is taken again. That is safe, since each message has its key.
        """
        while not self._over():
            try:
                with anyio.CancelScope(shield=True) as self._scope:
                    await self._step(not_before)
            except anyio.get_cancelled_exc_class():
                pass  # not ours, and it comes once: see above
            if self._scope is not None and self._scope.cancel_called:
                return

    def _write(self, **changes: Any) -> None:
        self.line = attrs.evolve(self.line, **changes)
        self._report(self.line)


def fault_of(defect: Exception) -> LedgerMisbehaved:
    """Return what is told of a defect, whosever it is."""
    fault = LedgerMisbehaved(f"a defect: {defect!r}")
    fault.__cause__ = defect
    return fault


def first_line(call: Call) -> CallReceipt:
    """Return the line of a call that has just begun to ask."""
    draft = call.draft
    return CallReceipt(
        id=call.id,
        episode=draft.episode,
        kind=call.action.kind,
        agent=draft.agent,
        name=draft.name,
        attempt=draft.attempt,
        reserved=call.estimate,
        estimate_source=call.estimate_source,
        started=time.time(),
    )


class EventActor(BaseActor):
    """The owner of one event: an actor without a reservation, so there is nothing to hold."""

    def __init__(
        self,
        call: Call,
        terms: RunContext,
        report: Callable[[CallReceipt], None],
        used: TokenCount | None = None,
    ) -> None:
        super().__init__(call, terms, report)
        self.line = attrs.evolve(
            self.line, actual=call.estimate, actual_source=call.estimate_source, tokens=used
        )
        self._recorded = False
        self._spent = Commit(call.estimate, call.estimate_source)
        self._metrics = _metrics(call, used)
        policy = terms.policy
        self._settlement = SettlementSender(
            terms.ledger, call, None, policy.overage_policy, terms.outbox, lambda _: None
        )

    def tell(self, end: CallEnd) -> None:
        """Take note of how the call ended. From anywhere."""

    def _over(self) -> bool:
        return self._recorded

    async def _step(self, not_before: float) -> None:
        del not_before  # it is for calls that are about to begin
        if self._terms.policy.dry_run:
            self._finish(SettlementResult(Outcome.UNRESERVED, None, "dry run"))
        else:
            self._finish(await self._settlement.charge(self._spent, self._metrics))

    def _give_up(self, why: ComptrollerError) -> None:
        if not self._recorded:
            kept = self._settlement.hand_over(self._spent, self._metrics, str(why))
            self._finish(kept or SettlementResult(Outcome.UNSETTLED, None, str(why)))

    def _finish(self, done: SettlementResult) -> None:
        self._recorded = True
        self._write(outcome=done.outcome, charged=done.charged, reason=done.reason)


def _metrics(call: Call, used: TokenCount | None) -> CyclesMetrics | None:
    if used is None:
        return None
    return CyclesMetrics(
        tokens_input=used.input, tokens_output=used.output, model_version=call.draft.name[:128]
    )
