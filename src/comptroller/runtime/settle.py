"""Carrying a decision to the ledger: commit, release, or record, and what an answer means.

Every retry of one message reuses its idempotency key (law 7), so whoever lost an answer may send
again. A settlement is tried until the ledger has understood it or its actor is cut off.
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
)

from comptroller.decide.lifecycle import Outcome
from comptroller.decide.settlement import Commit, Next, after
from comptroller.errors import ComptrollerError
from comptroller.ledger.interface import Ledger

from .call import Call

log = logging.getLogger("comptroller")

REASON_LENGTH = 256
"""The longest reason a release carries (protocol, ReleaseRequest)."""


@attrs.frozen
class Settled:
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
class Settlement:
    """One call's way of telling the ledger. `answered` is called after each attempt."""

    ledger: Ledger
    call: Call
    reservation_id: str | None
    overage_policy: CommitOveragePolicy
    answered: Callable[[Next | None], None]

    async def charge(self, decision: Commit, metrics: CyclesMetrics | None) -> Settled:
        """Commit the actual, or record it where no reservation lives (any more)."""
        recording = self.reservation_id is None
        for pause in _pauses():
            try:
                charged = await (self._record if recording else self._commit)(decision, metrics)
            except ComptrollerError as error:
                status = getattr(error, "status", None)
                then = Next.STOP if status is None else after(status, _code(error))
                self.answered(then)
                if then is Next.SETTLED:
                    return Settled(Outcome.COMMITTED, decision.actual)
                if then is Next.RECORD and not recording:
                    recording = True
                elif then is Next.RETRY:
                    await anyio.sleep(max(pause, (_retry_after(error) or 0) / 1000))
                else:
                    return self._lost(error, then)
            else:
                self.answered(None)
                return Settled(Outcome.RECORDED if recording else Outcome.COMMITTED, charged)
        raise AssertionError("pauses never end")

    async def release(self, reason: str) -> Settled:
        """Give everything back. Best effort: where it fails, the lease runs out by itself."""
        request = ReleaseRequest(
            idempotency_key=self.call.message_key("release"), reason=reason[:REASON_LENGTH]
        )
        try:
            await self.ledger.release(self.reservation_id or "", request, tenant=self.call.tenant)
        except ComptrollerError as error:
            return Settled(Outcome.LAPSING, None, f"{reason}; {error}")
        finally:
            self.answered(None)
        return Settled(Outcome.RELEASED, None, reason)

    async def _commit(self, decision: Commit, metrics: CyclesMetrics | None) -> Amount:
        request = CommitRequest(
            idempotency_key=self.call.message_key("commit"),
            actual=decision.actual,
            metrics=metrics,
            metadata=self._metadata(decision),
        )
        answer = await self.ledger.commit(
            self.reservation_id or "", request, tenant=self.call.tenant
        )
        return answer.charged

    async def _record(self, decision: Commit, metrics: CyclesMetrics | None) -> Amount:
        request = EventCreateRequest(
            idempotency_key=self.call.message_key("commit"),
            subject=self.call.subject,
            action=self.call.action,
            actual=decision.actual,
            overage_policy=self.overage_policy,
            metrics=metrics,
            metadata=self._metadata(decision),
        )
        answer = await self.ledger.record(request, tenant=self.call.tenant)
        return answer.charged or decision.actual  # absent where nothing was capped

    def _metadata(self, decision: Commit) -> dict[str, str]:
        told = {**self.call.metadata, "actual_source": decision.source}
        if decision.abandoned is not None:
            told["abandoned"] = decision.abandoned[:REASON_LENGTH]
        return told

    def _lost(self, error: ComptrollerError, then: Next) -> Settled:
        log.error("call %s is not settled (%s): %s", self.call.key, then.value, error)
        return Settled(Outcome.UNSETTLED, None, str(error))


def _code(error: ComptrollerError) -> str | None:
    return getattr(error, "error_code", None)


def _retry_after(error: ComptrollerError) -> int | None:
    return getattr(error, "retry_after_ms", None)
