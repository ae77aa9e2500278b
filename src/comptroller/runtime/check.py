"""Asking ahead: would the ledger grant what a run is expected to cost? It locks nothing."""

from runcycles import DecisionRequest

from comptroller.errors import BudgetExceeded, BudgetNotFound, ComptrollerError
from comptroller.ledger.interface import Ledger

from .call import Call, Terms
from .denials import waiver


async def check(call: Call, terms: Terms) -> str | None:
    """None where the ledger would grant it; else why policy lets the run begin all the same.

    Raises:
        ComptrollerError: the refusal, where policy does not.
    """
    try:
        await _ask(call, terms)
    except ComptrollerError as refusal:
        waived = waiver(refusal, terms.policy)
        if waived is None:
            raise
        return waived
    return None


async def _ask(call: Call, terms: Terms) -> None:
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
    """A DENY as the error that a reserve would have raised."""
    if code in ("BUDGET_NOT_FOUND", "NOT_FOUND"):
        how = "ask its operator for one" if ledger.remote else f"set one: {_HOW}"
        text = f"no budget for {call.tenant} in {ledger.name}: {how}"
        return BudgetNotFound(text, status=404, error_code="NOT_FOUND")
    return BudgetExceeded(f"{ledger.name} would not grant it ({code})", error_code=code)


_HOW = "comptroller budget set, or ledger.set_budget"
