"""Carrying a decision to the ledger: commit, release, or record, and what an answer means.

Every retry of one message reuses its idempotency key (law 7), so whoever lost an answer may send
again. A settlement is tried until the ledger has understood it, the outbox takes it over, or its
actor is cut off.

What a call's end costs, as far as it can be told, and who learns of it.
"""

import logging
from collections.abc import Callable, Iterator

import anyio
import attrs
from runcycles import (
    Amount,
    CommitOveragePolicy,
    CommitRequest,
    CyclesMetrics,
    EventCreateRequest,
    ReleaseRequest,
    Unit,
)

from comptroller.core import backoff
from comptroller.core.call_lifecycle import Outcome
from comptroller.core.estimates import DEFAULT_ESTIMATE, Estimate, LlmRequest, resolve_estimate
from comptroller.core.identifiers import truncate_utf8
from comptroller.core.pricing import PLAIN, PriceBook, TokenCount
from comptroller.core.settlement import (
    Abandoned,
    CallEnd,
    Commit,
    Finished,
    PartialUsage,
    Release,
    SettlementAction,
    next_action,
    settlement,
)
from comptroller.errors import ComptrollerError, LedgerError
from comptroller.ledger.interface import (
    RELEASED_MEANWHILE,
    Ledger,
    Outbox,
    PendingCharge,
    after_finalized,
)
from comptroller.money import checked
from comptroller.runtime.call import Call, Kind, RunContext

log = logging.getLogger("comptroller")

REASON_LENGTH = 256
"""The longest reason a release carries (protocol, ReleaseRequest)."""


@attrs.frozen
class SettlementResult:
    """What became of a decision."""

    outcome: Outcome
    charged: Amount | None = None
    reason: str = ""


def _pauses() -> Iterator[float]:
    """Seconds before each further attempt: quick at first, never more than five seconds."""
    pause = 0.05
    while True:
        yield pause
        pause = min(pause * 2, 5.0)


@attrs.define
class SettlementSender:
    """One call's way of telling the ledger. `answered` is called after each attempt."""

    ledger: Ledger
    call: Call
    reservation_id: str | None
    overage_policy: CommitOveragePolicy
    outbox: Outbox | None
    answered: Callable[[SettlementAction | None], None]
    _recording: bool = attrs.field(init=False)
    _remark: str = attrs.field(init=False, default="")

    def __attrs_post_init__(self) -> None:
        self._recording = self.reservation_id is None

    async def charge(self, decision: Commit, metrics: CyclesMetrics | None) -> SettlementResult:
        """Commit the actual, or record it where no reservation lives (any more)."""
        owed = self._owed(decision, metrics)
        await self._write_ahead(owed)
        for attempt, pause in enumerate(_pauses(), 1):
            try:
                charged = await self._send(owed)
            except ComptrollerError as error:
                then = await self._then(owed, error)
                self.answered(then)
                if then is SettlementAction.RECORD and owed.commit is not None:
                    owed = attrs.evolve(owed, commit=None)
                    await self._write_ahead(owed)
                    self._recording = True
                elif then is SettlementAction.RETRY and self._again(attempt, pause, error):
                    await anyio.sleep(max(pause, (_retry_after(error) or 0) / 1000))
                else:
                    return self._last_word(owed, error, then)
            else:
                self.answered(None)
                self._forget(owed)
                outcome = Outcome.RECORDED if self._recording else Outcome.COMMITTED
                return SettlementResult(outcome, charged, self._remark)
        raise AssertionError("pauses never end")

    async def _then(self, owed: PendingCharge, error: ComptrollerError) -> SettlementAction:
        then = next_action(error)
        if then is SettlementAction.SETTLED and owed.commit is not None:
            then = await after_finalized(self.ledger, owed.key, self.call.tenant)
            if then is SettlementAction.RECORD:
                self._remark = RELEASED_MEANWHILE
                log.warning("call %s: %s", self.call.key, RELEASED_MEANWHILE)
        return then

    def _again(self, attempt: int, pause: float, error: ComptrollerError) -> bool:
        """Whether the owner sends it once more itself: no run waits for what an outbox takes."""
        if self.outbox is None:
            return True
        soon = (_retry_after(error) or 0) / 1000 <= pause
        return soon and attempt < self.outbox.attempts

    def _last_word(
        self, owed: PendingCharge, error: ComptrollerError, then: SettlementAction
    ) -> SettlementResult:
        """Decide what becomes of a charge that got no success."""
        if then is SettlementAction.SETTLED:
            self._forget(owed)
            return SettlementResult(Outcome.COMMITTED, owed.event.actual)
        kept = None
        if then is SettlementAction.STOP:
            self._reject(owed, str(error))
        else:
            owed = attrs.evolve(owed, retry_after_ms=_retry_after(error))
            kept = self._hand_over(owed, str(error))
        return kept or self._lost(error, then)

    def hand_over(
        self, decision: Commit, metrics: CyclesMetrics | None, why: str
    ) -> SettlementResult | None:
        """Give the charge to the outbox; None where there is none, or it does not take it."""
        return self._hand_over(self._owed(decision, metrics), why)

    def _hand_over(self, owed: PendingCharge, why: str) -> SettlementResult | None:
        if self.outbox is None:
            return None
        try:
            self.outbox.keep(owed)
        except Exception:
            log.exception("call %s: the outbox did not take its charge", self.call.key)
            return None
        return SettlementResult(Outcome.OUTBOXED, None, why)

    async def _write_ahead(self, owed: PendingCharge) -> None:
        if self.outbox is not None:
            await self.outbox.write_ahead(owed)

    def _forget(self, owed: PendingCharge) -> None:
        if self.outbox is not None:
            self.outbox.settled(owed.key)

    def _reject(self, owed: PendingCharge, why: str) -> None:
        if self.outbox is not None:
            self.outbox.rejected(owed.key, why)

    async def release(self, reason: str) -> SettlementResult:
        """Give everything back. Best effort: where it fails, the lease runs out by itself."""
        request = ReleaseRequest(
            idempotency_key=self.call.message_key("release"),
            reason=truncate_utf8(reason, REASON_LENGTH),
        )
        try:
            await self.ledger.release(self.reservation_id or "", request, tenant=self.call.tenant)
        except ComptrollerError as error:
            if not await self._released_already(error):
                return SettlementResult(Outcome.LAPSING, None, f"{reason}; {error}")
        finally:
            self.answered(None)
        return SettlementResult(Outcome.RELEASED, None, reason)

    async def _released_already(self, error: ComptrollerError) -> bool:
        if next_action(error) is not SettlementAction.SETTLED or self.reservation_id is None:
            return False
        held = self.reservation_id
        return await after_finalized(self.ledger, held, self.call.tenant) is SettlementAction.RECORD

    async def _send(self, owed: PendingCharge) -> Amount:
        """One attempt: what was charged."""
        tenant = self.call.tenant
        if owed.commit is not None:
            return (await self.ledger.commit(owed.key, owed.commit, tenant=tenant)).charged
        recorded = await self.ledger.record(owed.event, tenant=tenant)
        return recorded.charged or owed.event.actual  # absent where nothing was capped

    def _owed(self, decision: Commit, metrics: CyclesMetrics | None) -> PendingCharge:
        return PendingCharge(
            key=self.reservation_id or self.call.key,
            reservation_id=self.reservation_id,
            commit=None if self._recording else self._commit_request(decision, metrics),
            event=self._event_request(decision, metrics),
        )

    def _commit_request(self, decision: Commit, metrics: CyclesMetrics | None) -> CommitRequest:
        return CommitRequest(
            idempotency_key=self.call.message_key("commit"),
            actual=decision.actual,
            metrics=metrics,
            metadata=self._metadata(decision),
        )

    def _event_request(self, decision: Commit, metrics: CyclesMetrics | None) -> EventCreateRequest:
        return EventCreateRequest(
            idempotency_key=self.call.message_key("commit"),
            subject=self.call.subject,
            action=self.call.action,
            actual=decision.actual,
            overage_policy=self.overage_policy,
            metrics=metrics,
            metadata=self._metadata(decision),
        )

    def _metadata(self, decision: Commit) -> dict[str, str]:
        told = {**self.call.metadata, "actual_source": decision.source}
        if decision.abandoned is not None:
            told["abandoned"] = truncate_utf8(decision.abandoned, REASON_LENGTH)
        return told

    def _lost(self, error: ComptrollerError, then: SettlementAction) -> SettlementResult:
        log.error("call %s is not settled (%s): %s", self.call.key, then.value, error)
        return SettlementResult(Outcome.UNSETTLED, None, str(error))


def _retry_after(error: ComptrollerError) -> int | None:
    asked = error.retry_after_ms if isinstance(error, LedgerError) else None
    return None if asked is None else backoff.honoured(asked)


log = logging.getLogger("comptroller")

_UNPRICED = (
    "no price is known for %(model)s: its calls are charged their estimate. Say what it costs in"
    ' USD per million tokens, prices={"%(model)s": Price("2.50", "10")}, or the name it is'
    " priced as"
)
_GUESSED = (
    "%(model)s is served at a private address and charged as the hosted model of that name."
    ' Where it runs locally, write prices={"%(model)s": Price("0", "0")}; where the address is'
    " a gateway, the name it is priced as"
)

_WARNED: set[tuple[str, str]] = set()
"""What this process has warned of, and for which model."""
_MAX_WARNINGS = 1_000


def estimated(kind: Kind, request: LlmRequest, terms: RunContext) -> Estimate:
    """Estimate what an LLM call reserves. What has happened already is charged whatever it does.

    Raises:
        Exception: a call is about to begin, and the user's strategy failed.
    """
    try:
        return resolve_estimate(terms.policy.llm_estimate, request, terms.prices)
    except Exception:
        if kind != "event":
            raise
        log.exception("llm_estimate failed for %s: the default is taken", request.model)
        return Estimate(DEFAULT_ESTIMATE, "default")


def charged(call: Call, terms: RunContext, used: TokenCount | None) -> Call:
    """Return the call of a model that nobody here was asked about, at what it has cost."""
    decision = settlement_for(call, terms, Finished(used), None)
    if isinstance(decision, Release):
        return call
    return attrs.evolve(call, estimate=decision.actual, estimate_source=decision.source)


def settlement_for(
    call: Call, terms: RunContext, end: CallEnd, streamed: int | None
) -> Commit | Release:
    """Return what the ledger is told. `streamed`: output tokens seen so far."""
    request = call.draft.request
    spent = PartialUsage(
        model=request.model if request else None,
        input_tokens=request.input_tokens if request else 0,
        streamed=streamed,
        billing=request.billing if request else PLAIN,
    )
    try:
        decision = settlement(end, call.estimate, spent, terms.prices, terms.policy.on_abandoned)
        if isinstance(decision, Commit):
            checked(decision.actual)
    except Exception as error:  # the user's price book: the call ran and must be charged
        log.exception("call %s: its price is not to be had, its estimate is charged", call.key)
        return Commit(
            call.estimate,
            "estimate",
            end.reason if isinstance(end, Abandoned) else None,
            f"its price is not to be had ({type(error).__name__})",
        )
    if spent.model is not None and _lacks_price(end, decision):
        _warn_of(_UNPRICED, call.draft.name)
    elif _is_guess(terms, spent, decision):
        _warn_of(_GUESSED, call.draft.name)
    try:
        _teach(call, terms, decision)
    except Exception:  # the user's strategy, which loses a lesson and changes no price
        log.exception("call %s: its strategy could not learn from it", call.key)
    return decision


def _lacks_price(end: CallEnd, decision: Commit | Release) -> bool:
    """Whether tokens were reported, and an estimate in dollars is charged all the same."""
    return (
        isinstance(end, Finished)
        and end.usage is not None
        and isinstance(decision, Commit)
        and decision.source == "estimate"
        and decision.actual.unit == Unit.USD_MICROCENTS
    )


def _is_guess(terms: RunContext, spent: PartialUsage, decision: Commit | Release) -> bool:
    """Whether a call of a private address was priced as that of a hosted model of its name."""
    return (
        isinstance(terms.prices, PriceBook)
        and isinstance(decision, Commit)
        and decision.source == "usage"
        and decision.actual.unit == Unit.USD_MICROCENTS
        and spent.model is not None
        and terms.prices.is_guess(spent.model, spent.billing)
    )


def _warn_of(text: str, model: str) -> None:
    """Once for each model, however many runs call it."""
    if (text, model) not in _WARNED and len(_WARNED) < _MAX_WARNINGS:
        _WARNED.add((text, model))
        log.warning(text, {"model": model})


def _teach(call: Call, terms: RunContext, decision: Commit | Release) -> None:
    """Teach a strategy that learns what was really used; an estimate would confirm itself."""
    learn = getattr(terms.policy.llm_estimate, "learn", None)
    request = call.draft.request
    if (
        learn is None
        or request is None
        or call.draft.kind != "llm"
        or not isinstance(decision, Commit)
    ):
        return
    if decision.source in ("usage", "reported"):
        learn(request.agent, request.model, decision.actual)
