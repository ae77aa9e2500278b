"""Asking the ledger whether a call may begin (law 1), and what policy makes of the answer.

Asking ahead: would the ledger grant what a run is expected to cost? It locks nothing.
"""

from collections.abc import Callable

import anyio
import attrs
from runcycles import DecisionRequest, ReservationCreateRequest

from comptroller.errors import (
    BudgetExceeded,
    BudgetNotFound,
    CallDenied,
    ComptrollerError,
    LedgerMisbehaved,
)
from comptroller.ledger.interface import Ledger
from comptroller.runtime.call import Call, CallGrant, RunContext
from comptroller.runtime.denial_messages import waive_reason
from comptroller.runtime.lease import LeaseKeeper


@attrs.define
class Reserver:
    """One call's way to its grant.

    Args:
        call, terms: whose, and by which rules.
        asked_again: called when a denial is asked once more.
        beaten: called when the lease was extended.

    Attributes:
        lease: the lease that the grant came with.
        scopes: the scopes in which the grant holds budget, in lower case.
        overlooked: under `dry_run`, the limit of the run that the call has reached.
        would_deny: under `dry_run`, the reason code of the denial that is not enforced.
    """

    call: Call
    terms: RunContext
    asked_again: Callable[[], None]
    beaten: Callable[[], None]
    lease: LeaseKeeper = attrs.field(init=False)
    scopes: frozenset[str] = frozenset()
    overlooked: CallDenied | None = None
    would_deny: str | None = None

    def __attrs_post_init__(self) -> None:
        self.lease = LeaseKeeper(self.call, self.terms, self.beaten)

    async def grant(self) -> CallGrant:
        """Return the grant. Raises the refusal (a `ComptrollerError`)."""
        if self.overlooked is not None:
            return self._waived(self.overlooked)
        if self.call.estimate.amount == 0:
            return CallGrant(waived="nothing to reserve")
        try:
            return await self._ask_at_most_twice()
        except ComptrollerError as refusal:
            return self._waived(refusal)

    def _waived(self, refusal: ComptrollerError) -> CallGrant:
        """Policy lets it begin all the same. Raises the refusal where it does not."""
        waived = waive_reason(refusal, self.terms.policy)
        if waived is None:
            raise refusal
        if self.terms.policy.dry_run:
            code = getattr(refusal, "error_code", None) or getattr(refusal, "reason_code", None)
            self.would_deny = code or type(refusal).__name__
        return CallGrant(waived=waived)

    async def _ask_at_most_twice(self) -> CallGrant:
        """Ask once more where a denial may be due to settlements that are only on their way."""
        settling = self.terms.settling
        before = settling.under_way()
        try:
            return await self._ask("reserve")
        except BudgetExceeded as denial:
            bound = self.terms.ledger.request_timeout
            if not await settling.first_attempts(before, denial.scope, bound):
                raise
        self.asked_again()
        return await self._ask("reserve-again")  # the old key may replay the denial

    async def _ask(self, verb: str) -> CallGrant:
        call, policy = self.call, self.terms.policy
        request = ReservationCreateRequest(
            idempotency_key=call.message_key(verb),
            subject=call.subject,
            action=call.action,
            estimate=call.estimate,
            ttl_ms=policy.ttl_ms,
            overage_policy=policy.overage_policy,
            dry_run=policy.dry_run or None,
            metadata=call.metadata,
        )
        sent = anyio.current_time()
        answer = await self.terms.ledger.reserve(request, tenant=call.tenant)
        if policy.dry_run:  # nothing was locked, and nothing is enforced
            self.would_deny = (answer.reason_code or "DENY") if answer.is_denied() else None
            return CallGrant(waived="dry run")
        if answer.is_denied() or not answer.reservation_id:
            raise LedgerMisbehaved(
                f"{self.terms.ledger.name}: reserve: a grant without a reservation", status=200
            )
        self.scopes = frozenset(scope.lower() for scope in answer.affected_scopes)
        self.lease.granted(answer, sent)
        return CallGrant(answer.reservation_id, answer.caps)


async def check(call: Call, terms: RunContext) -> str | None:
    """None where the ledger would grant it; else why policy lets the run begin all the same.

    Raises:
        ComptrollerError: the refusal, where policy does not.
    """
    try:
        await _ask(call, terms)
    except ComptrollerError as refusal:
        waived = waive_reason(refusal, terms.policy)
        if waived is None:
            raise
        return waived
    return None


async def _ask(call: Call, terms: RunContext) -> None:
    request = DecisionRequest(
        idempotency_key=call.message_key("decide"),
        subject=call.subject,
        action=call.action,
        estimate=call.estimate,
        metadata=call.metadata,
    )
    answer = await terms.ledger.decide(request, tenant=call.tenant)
    if answer.is_denied():
        raise _denial(answer.reason_code or "BUDGET_EXCEEDED", call, terms.ledger)


def _denial(code: str, call: Call, ledger: Ledger) -> ComptrollerError:
    """Return a DENY as the error that a reserve would have raised."""
    if code in ("BUDGET_NOT_FOUND", "NOT_FOUND"):
        how = "ask its operator for one" if ledger.remote else f"set one: {_HOW}"
        text = f"no budget for {call.tenant} in {ledger.name}: {how}"
        return BudgetNotFound(text, status=404, error_code="NOT_FOUND")
    return BudgetExceeded(f"{ledger.name} would not grant it ({code})", error_code=code)


_HOW = "comptroller budget set, or ledger.set_budget"
