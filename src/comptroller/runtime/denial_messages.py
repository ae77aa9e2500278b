"""Refusals as people read them: whose, for what, how much, what is left (law 10)."""

from runcycles import Unit

from comptroller.core.call_lifecycle import Outcome
from comptroller.core.limits import LimitBreach
from comptroller.errors import (
    BudgetExceeded,
    CallDenied,
    ComptrollerError,
    LedgerMisbehaved,
    LedgerUnreachable,
    LimitReached,
    ToolDenied,
    UnitMismatch,
)
from comptroller.money import formatted, show
from comptroller.policy import Policy
from comptroller.receipts import Receipt
from comptroller.runtime.call import Call

_SUCCESSES = range(200, 300)


def describe_request(call: Call) -> str:
    """`$0.05 requested for gpt-4.1 by agent triage`."""
    name, asked = call.draft.name, f"{show(call.estimate)} requested for"
    if call.draft.kind == "check":
        return f"{asked} a run of agent {name}"
    what = name.partition(":")[2] or name if call.draft.request else f"tool {name}"
    return f"{asked} {what} by agent {call.draft.agent}"


def denial_from_limit(breach: LimitBreach, call: Call) -> CallDenied:
    """Return the refusal of a call that the ledger is not even asked about."""
    kind = ToolDenied if breach.by_caps and call.draft.kind == "tool" else LimitReached
    why_so_much = _why_so_much(call) if breach.requested is not None else ""
    return kind(
        f"{call.tenant}: {call.draft.kind} call {call.draft.name} by agent {call.draft.agent}"
        f" is not allowed: {breach.text}{why_so_much}",
        reason_code="CAPS" if breach.by_caps else "LIMIT_REACHED",
        call=call.id,
        unit=breach.unit,
        requested=breach.requested,
        remaining=breach.remaining,
    )


def add_context(refusal: ComptrollerError, call: Call, receipt: Receipt) -> ComptrollerError:
    """Return the refusal with its run, its call and the receipt; a ledger's denial in full."""
    if isinstance(refusal, BudgetExceeded) and refusal.call is None:
        refusal = _in_full(refusal, call)
    elif isinstance(refusal, UnitMismatch):
        refusal = _with_its_origin(refusal, call)
    refusal.run_id, refusal.receipt = call.run_id, receipt
    return refusal


def _in_full(denial: BudgetExceeded, call: Call) -> BudgetExceeded:
    unit = Unit(call.estimate.unit)
    full = BudgetExceeded(
        f"{call.tenant}: {describe_request(call)}{_what_is_left(denial, call)}",
        status=denial.status,
        error_code=denial.error_code,
        details=denial.details,
        request_id=denial.request_id,
        retry_after_ms=denial.retry_after_ms,
        reason_code=denial.reason_code,
        call=call.id,
        scope=denial.scope,
        unit=unit,
        requested=call.estimate.amount,
        remaining=denial.remaining,
    )
    full.__cause__ = denial
    return full


def _with_its_origin(mismatch: UnitMismatch, call: Call) -> UnitMismatch:
    """Return it with the call, and where its unit comes from: only its policy can change that."""
    unit = Unit(call.estimate.unit)
    if call.draft.kind == "check":
        origin = "`check` asks in it: give an amount in the unit of the budget"
    elif call.draft.request is not None:
        origin = (
            f"Policy.llm_estimate ({call.estimate_source}) asks in it: give one in the unit of the"
            ' budget, such as usd("0.05"), tokens(4000) or WorstCase(unit=Unit.TOKENS)'
        )
    elif call.estimate_source == "default":
        origin = (
            f"the tool {call.draft.name} is not in the map of tools, so it costs the map's default:"
            " give it a price in the unit of the budget, or let unlisted tools be free with"
            " ToolEstimateMap({...}, default_estimate=0)"
        )
    else:
        origin = (
            f"the map of tools says so: price the tool {call.draft.name} in the unit of the budget"
        )
    full = UnitMismatch(
        f"{call.tenant}: {describe_request(call)}: {origin}. {mismatch}",
        status=mismatch.status,
        error_code=mismatch.error_code,
        details=mismatch.details or {"requested_unit": unit.value},
        request_id=mismatch.request_id,
        retry_after_ms=mismatch.retry_after_ms,
    )
    full.__cause__ = mismatch
    return full


def _what_is_left(denial: BudgetExceeded, call: Call) -> str:
    unit = Unit(call.estimate.unit)
    if denial.reason_code != "BUDGET_EXCEEDED" or denial.remaining is None:
        return f": {denial}"
    allocated = (denial.details or {}).get("allocated")
    of = f" of {formatted(unit, allocated)}" if isinstance(allocated, int) else ""
    left = f"{formatted(unit, denial.remaining)} left{of} ({denial.scope})"
    return f", {left}{_why_so_much(call)}"


def _why_so_much(call: Call) -> str:
    """Where a worst case was asked for, which one, and how to ask for less."""
    if call.assumed_output is None:
        return ""
    return (
        f" (worst case: {call.assumed_output:,} output tokens; set"
        " ModelSettings(max_tokens=...) or Policy(llm_estimate=Learned()))"
    )


def waive_reason(refusal: ComptrollerError, policy: Policy) -> str | None:
    """Why policy lets something begin that the ledger refused; None where it does not."""
    if policy.dry_run:
        return f"dry run: {refusal}"
    if policy.fail_open and isinstance(refusal, LedgerUnreachable):
        return f"fail-open: {refusal}"
    return None


def outcome_of_refusal(refusal: ComptrollerError) -> Outcome:
    """Tell a denial from a reserve whose answer is lost, and which may have locked its estimate."""
    if isinstance(refusal, CallDenied):
        return Outcome.DENIED
    answered = isinstance(refusal, LedgerMisbehaved) and refusal.status not in _SUCCESSES
    unsure = isinstance(refusal, LedgerUnreachable | LedgerMisbehaved) and not answered
    return Outcome.LAPSING if unsure else Outcome.FAILED
