"""A run: the scope of its actors. It opens calls, says why no further one may begin, and ends.

The laws it keeps:
- A refusal ends the run wherever it fell: the first one is kept, further calls are refused with
  it, the other episodes are stopped. (The SDK would make a text for the outer model of it.)
- When its scope has exited, every actor has ended (law 4). See `Run.close` for the order.
"""

import itertools
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import anyio
import attrs
from runcycles import Action, Amount, Subject, Unit

from comptroller._interrupts import uninterrupted
from comptroller.core.call_lifecycle import Outcome
from comptroller.core.identifiers import normalize_identifier, truncate_utf8
from comptroller.core.limits import LimitBreach
from comptroller.core.pricing import TokenCount
from comptroller.core.settlement import Abandoned, NotStarted
from comptroller.errors import (
    CallDenied,
    ComptrollerError,
    LimitReached,
    RunCancelled,
    without_traceback,
)
from comptroller.money import amount
from comptroller.policy import Limits
from comptroller.receipts import CallReceipt, Receipt, ReceiptBuilder
from comptroller.runtime.actor import Actor
from comptroller.runtime.base_actor import BaseActor, EventActor, fault_of, first_line
from comptroller.runtime.call import Answer, Call, CallGrant, CallRequest, RunContext
from comptroller.runtime.denial_messages import add_context, denial_from_limit
from comptroller.runtime.limit_tracker import LimitTracker
from comptroller.runtime.portal import Condition, PortalClosed, reraise_cancellation, wait_shielded
from comptroller.runtime.process_registry import this_process
from comptroller.runtime.reservation import check
from comptroller.runtime.settlement import charged, estimated

log = logging.getLogger("comptroller")

_MISSED = "run %s: %s came after its end"

CUT_OFF_GRACE = 1.0
"""Seconds for cut-off actors to note it: only a ledger that ignores cancellation needs any."""


class Episode(Protocol):
    """One `Runner.run` of the SDK inside the run."""

    id: str

    def stop(self) -> None:
        """Ask it to end. Called at home; the SDK may be in another loop."""


class Run:
    """One governed scope. Made, closed, and living at home; opened calls come from anywhere.

    Attributes:
        id: the run's id. Its keys also carry the execution, new each time (law 7).
        ended: why no further call may begin, or None.
        outer: the run that governed the context in which this one's scope was entered.
        place: where that scope stands, as the seam knows it; None: nowhere in particular.
        carrier: the hooks that brought it along; None: it has a scope of its user's.
        closed: its scope has exited.
    """

    def __init__(self, run_id: str, subject: Subject, terms: RunContext, limits: Limits) -> None:
        self.id, self.tenant = run_id, subject.tenant or ""
        self.ended: ComptrollerError | None = None
        self.outer: Run | None = None
        self.place: object = None
        self.carrier: object = None
        self.terms, self._subject, self._limits = terms, subject, limits
        self._execution = uuid.uuid4().hex[:12]
        self._present = self.closed = False
        self._numbers, self._episode_numbers = itertools.count(1), itertools.count(1)
        self._gate = LimitTracker(limits)
        self._book = ReceiptBuilder()
        self._in_flight: set[str] = set()
        self._live: set[BaseActor] = set()
        self._episodes: set[Episode] = set()
        self._change = Condition()
        self._deadline: anyio.CancelScope | None = None
        self._llm_unit = Unit.USD_MICROCENTS

    def begin(self) -> None:
        """Its scope was entered: its time begins to count."""
        if self.terms.ledger.durable:  # else what its process leaves there is nobody's to recover
            self._execution = this_process.enter(self.terms.ledger.name, self.tenant)
            self._present = True
        if (seconds := self._limits.seconds) is not None:
            self.terms.home.start(self._expire, seconds, name=f"comptroller deadline {self.id}")

    # -- what the seam asks for: from any task, loop or thread

    def open(self, draft: CallRequest, answer: Callable[[Answer], None]) -> Actor:
        """Start the call's actor. `answer` gets the grant or the refusal, once, at home.

        Raises:
            RunCancelled: the run's scope is gone.
        """
        replied = partial(self._replied, answer)
        actor = Actor(self._identify(draft), self.terms, replied, self._reported)
        self._send(self._begin, actor)
        return actor

    def note(self, kind: str, draft: CallRequest, cost: Amount | None, **metadata: str) -> None:
        """Record an event. `cost` None: nothing, in the unit of the run's LLM calls.

        It has happened already: one that comes after the run's end is told in the log only.
        """
        if self.terms.policy.dry_run:
            return
        estimate = amount(self._llm_unit, 0) if cost is None else cost
        self._record(self._call(draft, kind, estimate, "estimate", metadata))

    def used(self, draft: CallRequest, tokens: TokenCount | None) -> None:
        """Record what a model has used that nobody here was asked about; None: it did not say.

        It is charged as an LLM call of the run is that cannot be reserved any more.
        """
        self._record(charged(self._identify(draft), self.terms, tokens), tokens)

    def _record(self, call: Call, tokens: TokenCount | None = None) -> None:
        recorder = EventActor(call, self.terms, self._reported, tokens)
        try:
            self.terms.home.call(self._note, recorder)
        except PortalClosed:
            log.warning(_MISSED, self.id, recorder.line.kind)

    def enter(self, episode: Episode) -> None:
        """Note that an episode begins. Raises what ended the run, where it has ended."""
        self.check()
        self._send(self._entered, episode)

    def leave(self, episode: Episode) -> None:
        """Note that an episode is over, and none of the SDK's tasks of it is left."""
        with suppress(PortalClosed):  # nobody waits for it any more
            self.terms.home.call(self._left, episode)

    def episode_id(self, parent: str | None) -> str:
        """Return a new episode's id, e.g. `2`, or `1.3` under the episode `1`."""
        number = next(self._episode_numbers)
        return f"{parent}.{number}" if parent else str(number)

    def cancel(self, reason: str = "cancelled") -> None:
        """End the run: `run(...)` raises `RunCancelled(reason)`. From any task, loop or thread.

        No call begins from now on; what goes on is interrupted from home.
        """
        if self.ended is None:
            self.ended = self.terms.as_seen(RunCancelled(reason))
            with suppress(PortalClosed):  # nothing goes on any more
                self.terms.home.call(self._interrupt)

    def check(self) -> None:
        """Raise what ended the run, if anything did."""
        if self.ended is not None:
            raise without_traceback(self.ended)

    @property
    def receipt(self) -> Receipt:
        """The receipt as it stands."""
        return self._book.receipt(self.id, self.tenant)

    def _send(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self.terms.home.call(function, *args)
        except PortalClosed:
            gone = RunCancelled(f"run {self.id}: its scope has exited")
            raise without_traceback(self.ended or self.terms.as_seen(gone)) from None

    # -- calls

    def _identify(self, draft: CallRequest) -> Call:
        """Return the call with its estimate, as policy has it."""
        policy, metadata = self.terms.policy, {"attempt": str(draft.attempt)}
        if draft.request is not None:
            found = estimated(draft.kind, draft.request, self.terms)
            call = self._call(draft, "llm.completion", found.amount, found.source, metadata)
            return attrs.evolve(call, assumed_output=found.output)
        cost = policy.tools.cost(draft.name)
        source = "fixed" if draft.name in policy.tools else "default"
        call = self._call(draft, cost.action_kind, cost.estimate, source, metadata)
        return attrs.evolve(call, actual=cost.actual)

    def _call(
        self, draft: CallRequest, kind: str, estimate: Amount, source: str, metadata: dict[str, str]
    ) -> Call:
        call_id = f"{draft.kind}-{next(self._numbers)}"
        tool = normalize_identifier(draft.name) if draft.kind == "tool" else None
        levels = {"agent": normalize_identifier(draft.agent)} | ({"toolset": tool} if tool else {})
        told = {
            "run": self.id,
            "call": call_id,
            "agent": draft.agent,
            "name": draft.name,
            **metadata,
        }
        return Call(
            id=call_id,
            key=f"{self.id}/{self._execution}/{call_id}",
            run_id=self.id,
            draft=draft,
            tenant=self.tenant,
            subject=self._subject.model_copy(update=levels),
            action=Action(kind=kind, name=truncate_utf8(draft.name)),
            estimate=estimate,
            estimate_source=source,
            metadata={name: truncate_utf8(text) for name, text in told.items()},
        )

    def _begin(self, actor: Actor) -> None:
        call = actor.call
        if self.ended is not None:
            actor.turn_away(without_traceback(self.ended))
            return
        if (reached := self._gate.breach(call)) is not None:
            refusal = denial_from_limit(reached, call)
            if not self.terms.policy.dry_run:
                actor.refuse(refusal)
                return
            actor.overlook(refusal)
        if call.draft.kind == "llm":
            self._llm_unit = Unit(call.estimate.unit)
        self._gate.began(call)
        self._in_flight.add(call.id)
        self._reported(actor.line)
        self._start(actor)

    def _note(self, recorder: EventActor) -> None:
        if self.closed:
            log.warning(_MISSED, self.id, recorder.line.kind)
        else:
            self._gate.happened(recorder.line)
            self._reported(recorder.line)
            self._start(recorder)

    def _start(self, owner: BaseActor) -> None:
        self._live.add(owner)
        name = f"comptroller call {owner.call.key}"
        self.terms.home.start(owner.live, self._gate, self._actor_ended, name=name)

    def _actor_ended(self, owner: BaseActor) -> None:
        self._live.discard(owner)
        self._change.notify()

    def _replied(self, answer: Callable[[Answer], None], actor: Actor, given: Answer) -> None:
        """Tell the caller what its actor has answered."""
        try:
            given = self._answered(actor, given)
        except Exception as defect:  # told to whoever waits: raised here, it would end the home
            log.exception("call %s: a defect in handing over its answer", actor.call.key)
            given = fault_of(defect)
            self._stop(given, but=actor.call.draft.episode)
            actor.tell(NotStarted(str(given)))
        answer(given)

    def _answered(self, actor: Actor, given: Answer) -> Answer:
        """Return what the caller is told. A grant after the run's end lets nothing begin."""
        call = actor.call
        if isinstance(given, CallGrant):
            self._gate.granted(call, given)
            if self.ended is not None:
                actor.tell(NotStarted(str(self.ended)))
                return without_traceback(self.ended)
        elif isinstance(given, ComptrollerError) and not isinstance(given, RunCancelled):
            given = self.terms.as_seen(add_context(given, call, self.receipt))
            if not (call.draft.tells_model and isinstance(given, CallDenied)):
                self._stop(given, but=call.draft.episode)
        return self.terms.as_seen(given) if isinstance(given, RunCancelled) else given

    def _reported(self, line: CallReceipt) -> None:
        """Write a line of the receipt: nobody else does."""
        if not line.in_flight and line.id in self._in_flight:
            self._in_flight.discard(line.id)
            self._gate.ended(line)
        self._book.put(line)

    # -- what its scope asks for, at home

    async def ask(self, expected: Amount, agent: str) -> None:
        """Ask the ledger whether it would grant `expected` now; a refusal ends the run."""
        draft = CallRequest(kind="check", name=agent, agent=agent, episode="")
        call = self._call(draft, "agent.run", expected, "check", {})
        line = first_line(call)
        try:
            waived = await check(call, self.terms)
        except ComptrollerError as refusal:
            outcome = Outcome.DENIED if isinstance(refusal, CallDenied) else Outcome.FAILED
            self._reported(attrs.evolve(line, outcome=outcome, reason=str(refusal)))
            self._stop(add_context(refusal, call, self.receipt))
        else:
            if waived is not None:
                self._reported(attrs.evolve(line, outcome=Outcome.UNRESERVED, reason=waived))

    async def abandon(self, reason: str) -> None:
        """Settle every call that is open now, as given up; the run goes on. Bounded."""
        self.terms.home.check_here("calls are given up")
        told = set(self._live)
        for owner in told:
            owner.tell(Abandoned(reason))
        settled = self.terms.policy.settle_timeout
        reraise_cancellation(
            await wait_shielded(self._change, lambda: told.isdisjoint(self._live), settled), None
        )

    # -- how it ends

    def _entered(self, episode: Episode) -> None:
        self._episodes.add(episode)
        if self.ended is not None:
            episode.stop()

    def _left(self, episode: Episode) -> None:
        self._episodes.discard(episode)
        self._change.notify()

    def _stop(self, why: ComptrollerError, but: str | None = None) -> None:
        """No further call begins. `but`: the episode in which `why` is raised anyway."""
        if self.ended is None:
            self.ended = self.terms.as_seen(why)
            self._interrupt(but)

    def _interrupt(self, but: str | None = None) -> None:
        for episode in tuple(self._episodes):
            if episode.id != but:
                episode.stop()

    @uninterrupted
    async def _expire(self, seconds: float) -> None:
        if self.ended is not None:  # before this task could begin
            return
        with anyio.CancelScope() as self._deadline:
            await anyio.sleep(seconds)
            over = f"the run's limit of {seconds:g} seconds is over"
            if self.terms.policy.dry_run:
                self._gate.over = LimitBreach(over)
                return
            self._stop(LimitReached(f"{self.tenant}: {over}", run_id=self.id,
                                    reason_code="LIMIT_REACHED"))  # fmt: skip

    def lose(self, why: str) -> None:
        """Its loop is gone, or its home never opened: whatever comes is turned away."""
        self._stop(RunCancelled(why))
        self._closed()
        for owner in tuple(self._live):
            with suppress(RuntimeError):  # who waits for it is of a loop that is closed
                owner.write_off()

    def _closed(self) -> None:
        if self._present and not self.closed:
            this_process.leave(owing=Outcome.UNSETTLED in self.receipt.outcomes)
        self.closed = True

    @property
    def patience(self) -> float:
        """Seconds that `close` may take."""
        policy = self.terms.policy
        return policy.teardown_timeout + policy.settle_timeout + 2 * CUT_OFF_GRACE

    async def close(self, why: str) -> BaseException | None:
        """Leave nothing behind (law 4); returns a native cancellation that came meanwhile.

        1. New calls are refused.
        2. The episodes are stopped, and waited for: calls that finish while the SDK tears down
           still report their usage.
        3. What is still open is told that it is abandoned.
        4. The actors are waited for.
        5. The rest is cut off; its lines say so.
        """
        self.terms.home.check_process()
        policy = self.terms.policy
        if self._deadline is not None:
            self._deadline.cancel("the run has ended")
        self._stop(RunCancelled(why))
        for episode in tuple(self._episodes):
            episode.stop()
        waits = [
            await wait_shielded(self._change, lambda: not self._episodes, policy.teardown_timeout)
        ]
        for owner in tuple(self._live):
            owner.tell(Abandoned(str(self.ended)))
        waits += [await wait_shielded(self._change, lambda: not self._live, policy.settle_timeout)]
        for owner in tuple(self._live):
            owner.abort()
        waits += [await wait_shielded(self._change, lambda: not self._live, CUT_OFF_GRACE)]
        for owner in tuple(self._live):
            owner.write_off()
        self._closed()
        return next((interrupted for interrupted in waits if interrupted is not None), None)
