"""Asking ahead: would the ledger grant what a run is expected to cost? It locks nothing."""

from runcycles import DecisionRequest

from comptroller.errors import BudgetExceeded, ComptrollerError

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
        code = answer.reason_code or "BUDGET_EXCEEDED"
        raise BudgetExceeded(
            f"the ledger {terms.ledger.name} would not grant it ({code})", error_code=code
        )
