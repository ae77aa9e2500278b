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
import time
from collections.abc import Callable
from typing import Any

import anyio
import attrs
from runcycles import CyclesMetrics

from ..decide.lifecycle import Event, Outcome, State, step
from ..decide.settlement import Commit, End, Finished, Next, Release, Spent, settlement
from ..errors import CallDenied, ComptrollerError, LedgerUnreachable
from .call import Answer, Call, Grant, Terms
from .home import Change, HomeClosed
from .receipts import CallReceipt
from .reserve import Reserving
from .settle import Settled, Settlement

log = logging.getLogger("comptroller")


class Actor:
    """The owner of one call.

    Args:
        call: who it is.
        terms: where and by which rules it lives.
        answer: called once, at home, with the grant or the exception.
        report: called at home with the call's receipt line whenever it changes.

    Attributes:
        streamed: output tokens seen so far; the stream writes it, from its own loop.
    """

    def __init__(
        self,
        call: Call,
        terms: Terms,
        answer: Callable[[Answer], None],
        report: Callable[[CallReceipt], None],
    ) -> None:
        self.call, self._terms = call, terms
        self._answer: Callable[[Answer], None] | None = answer
        self._report = report
        self.streamed: int | None = None
        self.line = first_line(call)
        self._state = State.RESERVING
        self._ended: list[End] = []  # at most one
        self._told = Change()
        self._reserving = Reserving(call, terms, lambda: self._move(Event.ASKED_AGAIN))
        self._scope: anyio.CancelScope | None = None
        self._asked = self._began = 0.0

    # -- messages, from anywhere

    def tell(self, end: End) -> None:
        """How the call ended. The first end counts, later ones are ignored."""
        if not self._ended:
            try:
                self._terms.home.call(self._hear, end)
            except HomeClosed:
                pass  # its run's scope has exited, and settled it

    def _hear(self, end: End) -> None:
        if self._ended or self._state is State.ENDED:
            return
        self._ended.append(end)
        if self._state is State.HOLDING:  # from now on a denial elsewhere may be due to it
            self._terms.settling.begin(self, self._reserving.scopes)
        self._told.notify()
        self._reserving.lease.cut()

    # -- from its run, at home

    def refuse(self, refusal: ComptrollerError) -> None:
        """Answer without asking the ledger, and note it."""
        self._move(Event.REFUSED)
        self._refused(refusal)

    def turn_away(self, refusal: BaseException) -> None:
        """Answer without a trace: the run had ended before this call."""
        self._move(Event.REFUSED)
        self._reply(refusal)

    def abort(self) -> None:
        """The bounded wait is over: whatever the ledger is asked now is given up."""
        if self._scope is not None:
            self._scope.cancel("the bound for settling is over")

    async def live(self, not_before: float) -> None:
        """The whole life. `not_before`: a cool-down that the ledger imposed, on anyio's clock."""
        late = "the ledger did not answer in time"
        try:
            with anyio.CancelScope(shield=True) as self._scope:
                await self._live(not_before)
        except Exception as defect:
            log.exception("call %s: a defect in its actor", self.call.key)
            late = f"a defect: {defect!r}"
            self._reply(defect)
        finally:
            if self._state is not State.ENDED:
                self._cut_off(late)
            self._reply(LedgerUnreachable(late, status=-1))
            self._terms.settling.answered(self)

    # -- its life

    async def _live(self, not_before: float) -> None:
        self._asked = anyio.current_time()
        try:
            grant = await self._grant(not_before)
        except ComptrollerError as refusal:
            self._move(Event.REFUSED)
            self._refused(refusal)
            return
        self._began = anyio.current_time()
        self._move(Event.WAIVED if grant.waived else Event.GRANTED)
        self._write(
            outcome=Outcome.RUNNING,
            reason=grant.waived or "",
            waited=self._began - self._asked,
            reservation_id=grant.reservation_id,
            would_deny=self._reserving.would_deny,
        )
        self._reply(grant)
        await self._reserving.lease.keep(self._told, self._ended)
        self._move(Event.TOLD)
        await self._settle(self._ended[0], grant)

    async def _grant(self, not_before: float) -> Grant:
        cooldown = not_before - self._asked
        if cooldown > 0:
            with anyio.move_on_after(cooldown):
                await self._told.until(lambda: bool(self._ended))
                return Grant(waived="given up before it was asked for")
        return await self._reserving.grant()

    async def _settle(self, end: End, grant: Grant) -> None:
        lasted = anyio.current_time() - self._began
        decision = self._decide(end)
        self._write(
            lasted=lasted,
            tokens=end.usage if isinstance(end, Finished) else None,
            heartbeat=self._reserving.lease.stopped,
        )
        if isinstance(decision, Commit):
            self._write(actual=decision.actual, actual_source=decision.source)
            self._teach(decision)
        if grant.waived is None:
            await self._settle_reserved(decision, grant)
        else:
            await self._settle_waived(decision, grant.waived)

    def _decide(self, end: End) -> Commit | Release:
        request, terms = self.call.draft.request, self._terms
        spent = Spent(
            model=request.model if request else None,
            input_tokens=request.input_tokens if request else 0,
            streamed=self.streamed,
        )
        return settlement(end, self.call.estimate, spent, terms.prices, terms.policy.on_abandoned)

    def _teach(self, decision: Commit) -> None:
        """A strategy that learns is told what was really used; an estimate would confirm itself."""
        learn = getattr(self._terms.policy.llm_estimate, "learn", None)
        request = self.call.draft.request
        if learn is not None and request is not None and decision.source == "usage":
            learn(request.agent, request.model, decision.actual)

    async def _settle_reserved(self, decision: Commit | Release, grant: Grant) -> None:
        self._terms.settling.begin(self, self._reserving.scopes)
        settle = self._settlement(grant)
        if isinstance(decision, Release):
            done = await settle.release(decision.reason)
            given_up = decision.abandoned and done.outcome is Outcome.RELEASED
        else:
            done = await settle.charge(decision, self._metrics())
            given_up = decision.abandoned is not None and done.outcome is Outcome.COMMITTED
            done = attrs.evolve(done, reason=done.reason or decision.abandoned or "")
        self._finish(attrs.evolve(done, outcome=Outcome.ABANDONED) if given_up else done)

    async def _settle_waived(self, decision: Commit | Release, waived: str) -> None:
        """No reservation: what it cost is recorded as an event, unless it is a dry run."""
        enforced = not self._terms.policy.dry_run
        if enforced and isinstance(decision, Commit) and decision.actual.amount:
            done = await self._settlement(Grant()).charge(decision, self._metrics())
            self._finish(attrs.evolve(done, reason=f"{waived}; {done.reason}".strip("; ")))
        else:
            self._move(Event.NOTHING_TO_SETTLE)
            self._write(outcome=Outcome.UNRESERVED)

    def _settlement(self, grant: Grant) -> Settlement:
        terms = self._terms
        return Settlement(
            terms.ledger,
            self.call,
            grant.reservation_id,
            terms.policy.overage_policy,
            self._attempted,
        )

    def _attempted(self, then: Next | None) -> None:
        """An attempt has its answer: whoever waits for first attempts may ask again."""
        if then in (Next.RETRY, Next.RECORD):
            self._move(Event.UNANSWERED if then is Next.RETRY else Event.EXPIRED)
        self._terms.settling.answered(self)

    # -- its ends

    def _finish(self, done: Settled) -> None:
        lost = done.outcome in (Outcome.UNSETTLED, Outcome.LAPSING)
        self._move(Event.REJECTED if lost else Event.SETTLED)
        self._write(outcome=done.outcome, charged=done.charged, reason=done.reason)

    def _refused(self, refusal: ComptrollerError) -> None:
        denied = isinstance(refusal, CallDenied)
        self._write(
            outcome=Outcome.DENIED if denied else Outcome.FAILED,
            reason=str(refusal),
            waited=anyio.current_time() - self._asked if self._asked else 0.0,
        )
        self._reply(refusal)

    def _cut_off(self, why: str) -> None:
        """The wait is bounded, and the receipt says what is left."""
        if self._state in (State.HOLDING, State.WAIVED):
            self._move(Event.TOLD)
        self._move(Event.CUT_OFF)
        owed = self.line.actual is not None
        self._write(outcome=Outcome.UNSETTLED if owed else Outcome.LAPSING, reason=why)

    # -- bookkeeping

    def _metrics(self) -> CyclesMetrics:
        used, lasted = self.line.tokens, self.line.lasted or 0.0
        return CyclesMetrics(
            tokens_input=used.input if used else None,
            tokens_output=used.output if used else None,
            latency_ms=round(lasted * 1000),
            model_version=self.call.draft.name[:128] if self.call.draft.request else None,
        )

    def _move(self, event: Event) -> None:
        self._state = step(self._state, event)

    def _write(self, **changes: Any) -> None:
        self.line = attrs.evolve(self.line, **changes)
        self._report(self.line)

    def _reply(self, answer: Answer) -> None:
        reply, self._answer = self._answer, None
        if reply is not None:
            reply(answer)


def first_line(call: Call) -> CallReceipt:
    """The line of a call that has just begun to ask."""
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
