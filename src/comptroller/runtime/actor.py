"""The actor of one call: it reserves, answers, holds, is told the end, settles, ends.

The laws it keeps:
1. The caller is answered exactly once, always: with the grant, or with the refusal.
2. One call, one reservation, one actor, one outcome. The first end told counts; `tell` is
   synchronous and may be called from any task, loop or thread, so each frame that might know how
   a call ended just says what it knows.
3. Nobody cancels an actor, it is told: it is shielded from its first statement on.
4. It never raises into its group: a defect becomes an error answer and an unsettled line.

It moves only along `decide.lifecycle.TRANSITIONS`.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio
import attrs
from runcycles import CyclesMetrics

from comptroller.core.call_lifecycle import Event, Outcome, State, step
from comptroller.core.settlement import (
    Abandoned,
    CallEnd,
    Commit,
    Finished,
    NotStarted,
    Release,
    SettlementAction,
)
from comptroller.errors import (
    CallDenied,
    ComptrollerError,
    LedgerMisbehaved,
    RunCancelled,
)
from comptroller.receipts import CallReceipt
from comptroller.runtime.base_actor import BaseActor
from comptroller.runtime.call import Answer, Call, CallGrant, RunContext
from comptroller.runtime.denial_messages import outcome_of_refusal
from comptroller.runtime.portal import Condition, PortalClosed
from comptroller.runtime.reservation import Reserver
from comptroller.runtime.settlement import SettlementResult, SettlementSender, settlement_for

log = logging.getLogger("comptroller")

CALLER_FIRST = 0.005
"""Seconds that a settlement gives way to its caller. Sending it takes half a millisecond of CPU: at
once, the caller's next reserve would wait for that; a moment later, it is sent while that waits.
"""


_EVENTS = {
    Outcome.UNSETTLED: Event.REJECTED,
    Outcome.LAPSING: Event.REJECTED,
    Outcome.OUTBOXED: Event.KEPT,
}
"""What a settlement that was not accepted is to the life cycle."""


class Actor(BaseActor):
    """The owner of one call.

    Args:
        call: who it is.
        terms: where and by which rules it lives.
        answer: called once, at home, with the actor and the grant or the exception.
        report: called at home with the call's receipt line whenever it changes.

    Attributes:
        streamed: output tokens seen so far; the stream writes it, from its own loop.
        recorded: the ids of what its provider has run in it, as far as that is recorded.
    """

    def __init__(
        self,
        call: Call,
        terms: RunContext,
        answer: Callable[["Actor", Answer], None],
        report: Callable[[CallReceipt], None],
    ) -> None:
        super().__init__(call, terms, report)
        self._answer: Callable[[Actor, Answer], None] | None = answer
        self.streamed: int | None = None
        self.recorded: set[str] = set()
        self._state = State.RESERVING
        self._grant = CallGrant()
        self._ended: list[CallEnd] = []  # at most one
        self._told = Condition()
        self._reserving = Reserver(
            call,
            terms,
            asked_again=partial(self._move, Event.ASKED_AGAIN),
            beaten=self._beaten,
        )
        self._decision: Commit | Release
        self._settlement: SettlementSender
        self._asked = self._began = 0.0

    # -- messages, from anywhere

    def tell(self, end: CallEnd) -> None:
        """How the call ended. The first end counts, later ones are ignored."""
        if not self._ended:
            with suppress(PortalClosed):  # its run's scope has exited, and settled it
                self._terms.home.call(self._hear, end)

    def _hear(self, end: CallEnd) -> None:
        if self._ended or self._state is State.ENDED:
            return
        if self._state is State.RESERVING and isinstance(end, Abandoned):
            end = NotStarted(end.reason)  # who has no grant has not begun (law 3)
        self._ended.append(end)
        if self._state is not State.RESERVING:
            self._conclude(end)
        self._told.notify()
        self._reserving.lease.cut()

    # -- from its run, at home

    def refuse(self, refusal: ComptrollerError) -> None:
        """Answer without asking the ledger, and note it."""
        self._move(Event.REFUSED)
        self._refused(refusal)

    def overlook(self, refusal: CallDenied) -> None:
        """Note the refusal of a dry run, and begin all the same."""
        self._reserving.overlooked = refusal

    def turn_away(self, refusal: BaseException) -> None:
        """Answer without a trace: the run had ended before this call."""
        self._move(Event.REFUSED)
        self._reply(refusal)

    # -- its life: what it does in each state

    def _over(self) -> bool:
        return self._state is State.ENDED

    async def _step(self, not_before: float) -> None:
        if self._state is State.RESERVING:
            await self._reserve(not_before)
        elif self._state is State.SETTLING:
            await self._settle()
        else:
            await self._reserving.lease.keep(self._told, self._ended)

    async def _reserve(self, not_before: float) -> None:
        self._asked = self._asked or self._terms.home.now()
        try:
            grant = await self._granted(not_before)
        except ComptrollerError as refusal:
            self._move(Event.REFUSED)
            self._refused(refusal)
            return
        self._grant, self._began = grant, self._terms.home.now()
        self._move(Event.WAIVED if grant.waived else Event.GRANTED)
        self._write(
            outcome=Outcome.RUNNING,
            reason=grant.waived or "",
            waited=self._began - self._asked,
            reservation_id=grant.reservation_id,
            would_deny=self._reserving.would_deny,
        )
        if self._ended:  # told before it was granted, it never begins, whoever may still wait
            self._conclude(self._ended[0])
            self._reply(RunCancelled("it was given up before it was granted"))
        else:
            self._reply(grant)

    async def _granted(self, not_before: float) -> CallGrant:
        cooldown = not_before - self._terms.home.now()
        if cooldown > 0:
            with anyio.move_on_after(cooldown):
                await self._told.until(lambda: bool(self._ended))
                return CallGrant(waived="given up before it was asked for")
        return await self._reserving.grant()

    def _conclude(self, end: CallEnd) -> None:
        """Decide what the end means for the ledger: from here on that is only carried there.

        At once, so that the run's limits and its receipt know of it before the next call asks.
        """
        self._move(Event.TOLD)
        decision = self._decision = settlement_for(self.call, self._terms, end, self.streamed)
        self._settlement = SettlementSender(
            self._terms.ledger,
            self.call,
            self._grant.reservation_id,
            self._terms.policy.overage_policy,
            self._terms.outbox,
            self._attempted,
        )
        charge = decision if isinstance(decision, Commit) else None
        self._write(
            lasted=self._terms.home.now() - self._began,
            tokens=end.usage if isinstance(end, Finished) else None,
            heartbeat=self._reserving.lease.stopped,
            actual=charge and charge.actual,
            actual_source=charge and charge.source,
        )
        if self._grant.waived is None:  # from now on a denial elsewhere may be due to it
            self._terms.settling.begin(self, self._reserving.scopes)

    async def _settle(self) -> None:
        if self._terms.ledger.remote:
            await anyio.sleep(CALLER_FIRST)
        if self._grant.waived is None:
            await self._settle_reserved(self._decision)
        else:
            await self._settle_waived(self._decision, self._grant.waived)

    async def _settle_reserved(self, decision: Commit | Release) -> None:
        if isinstance(decision, Release):
            done = await self._settlement.release(decision.reason)
            given_up = decision.abandoned and done.outcome is Outcome.RELEASED
        else:
            done = await self._settlement.charge(decision, self._metrics())
            given_up = decision.abandoned is not None and done.outcome is Outcome.COMMITTED
            reason = done.reason or decision.abandoned or decision.remark
            done = attrs.evolve(done, reason=reason)
        self._finish(attrs.evolve(done, outcome=Outcome.ABANDONED) if given_up else done)

    async def _settle_waived(self, decision: Commit | Release, waived: str) -> None:
        """No reservation: what it cost is recorded as an event, unless it is a dry run."""
        if (owed := self._owed()) is not None:
            done = await self._settlement.charge(owed, self._metrics())
            reason = done.reason or owed.remark
            self._finish(attrs.evolve(done, reason=f"{waived}; {reason}".strip("; ")))
        else:
            self._move(Event.NOTHING_TO_SETTLE)
            if isinstance(decision, Release) and not decision.abandoned:
                self._write(outcome=Outcome.RELEASED, reason=decision.reason)
            else:
                remark = decision.remark if isinstance(decision, Commit) else ""
                reason = f"{waived}; {remark}".strip("; ")
                self._write(outcome=Outcome.UNRESERVED, reason=reason)

    def _owed(self) -> Commit | None:
        """Return what the ledger is still to be told that was spent."""
        decision, unreserved = self._decision, self._grant.waived is not None
        if not isinstance(decision, Commit):
            return None
        if unreserved and (self._terms.policy.dry_run or not decision.actual.amount):
            return None
        return decision

    def _attempted(self, then: SettlementAction | None) -> None:
        """Note that an attempt has its answer: whoever waits for first attempts may ask again."""
        if then in (SettlementAction.RETRY, SettlementAction.RECORD):
            self._move(Event.UNANSWERED if then is SettlementAction.RETRY else Event.EXPIRED)
        self._terms.settling.answered(self)

    # -- its ends

    def _give_up(self, why: ComptrollerError) -> None:
        if not self._over():
            self._cut_off(why)
        self._reply(why)
        self._terms.settling.answered(self)

    def _finish(self, done: SettlementResult) -> None:
        if self._state is State.ENDED:
            return  # written off meanwhile
        self._move(_EVENTS.get(done.outcome, Event.SETTLED))
        self._write(outcome=done.outcome, charged=done.charged, reason=done.reason)

    def _refused(self, refusal: ComptrollerError) -> None:
        self._write(
            outcome=outcome_of_refusal(refusal),
            reason=str(refusal),
            waited=self._terms.home.now() - self._asked if self._asked else 0.0,
        )
        self._reply(refusal)

    def _cut_off(self, why: ComptrollerError) -> None:
        """End where the wait is bounded, or the ledger failed: the receipt says what is left."""
        if (kept := self._kept(str(why))) is not None:
            self._finish(kept)
            return
        if self._state in (State.HOLDING, State.WAIVED):
            self._move(Event.TOLD)
        self._move(Event.CUT_OFF)
        owed = self.line.actual is not None or isinstance(why, LedgerMisbehaved)
        self._write(outcome=Outcome.UNSETTLED if owed else Outcome.LAPSING, reason=str(why))

    def _kept(self, why: str) -> SettlementResult | None:
        """Return what was decided and not accepted, in the outbox; None where that is not to be."""
        charge = self._owed() if self._state is State.SETTLING else None
        if charge is None:
            return None
        return self._settlement.hand_over(charge, self._metrics(), why)

    # -- bookkeeping

    def _metrics(self) -> CyclesMetrics:
        used, lasted = self.line.tokens, self.line.lasted or 0.0
        return CyclesMetrics(
            tokens_input=used.input if used else None,
            tokens_output=used.output if used else None,
            latency_ms=round(lasted * 1000),
            model_version=self.call.draft.name[:128] if self.call.draft.request else None,
        )

    def _beaten(self) -> None:
        if self._state is State.HOLDING:  # its end may have been told in the same moment
            self._move(Event.BEAT)

    def _move(self, event: Event) -> None:
        self._state = step(self._state, event)

    def _reply(self, answer: Answer) -> None:
        reply, self._answer = self._answer, None
        if reply is not None:
            reply(self, answer)
