"""Refusals as programs written for `runcycles-openai-agents` catch them.

There everything that stops a call is a `runcycles.BudgetExceededError`. Here the types still say
whose fault it is, and each is that class, too.
"""

from typing import Any

from runcycles import BudgetExceededError

from comptroller import errors

TRANSPORT_ERROR = "TRANSPORT_ERROR"
"""The error code of a ledger that did not answer, as that package names it."""


class LedgerUnreachable(errors.LedgerUnreachable, BudgetExceededError):
    """No answer, or a 5xx. `error_code` is `TRANSPORT_ERROR` where the ledger named none."""

    details: dict[str, Any]


class LedgerMisbehaved(errors.LedgerMisbehaved, BudgetExceededError):
    """An answer that the protocol does not know."""

    details: dict[str, Any]


class LedgerRefused(errors.LedgerRefused, BudgetExceededError):
    """The ledger understood and said no for another reason than budget."""

    details: dict[str, Any]


class BudgetNotFound(errors.BudgetNotFound, BudgetExceededError):
    """No scope of the subject has a budget."""

    details: dict[str, Any]


class UnitMismatch(errors.UnitMismatch, BudgetExceededError):
    """The budget is kept in another unit."""

    details: dict[str, Any]


class ToolDenied(errors.ToolDenied, BudgetExceededError):
    """A cap that the ledger attached to a grant forbids this tool."""


class LimitReached(errors.LimitReached, BudgetExceededError):
    """The ledger's cap on the run's steps was reached."""


_ANSWERS = {
    kind.__base__: kind
    for kind in (LedgerUnreachable, LedgerMisbehaved, LedgerRefused, BudgetNotFound, UnitMismatch)
}
_DENIALS = {kind.__base__: kind for kind in (ToolDenied, LimitReached)}


def as_seen(refusal: errors.ComptrollerError) -> errors.ComptrollerError:
    """`refusal`, as an error that `except BudgetExceededError` catches."""
    seen: errors.ComptrollerError | None = _twin(refusal)
    if seen is None:
        return refusal
    seen.run_id, seen.receipt = refusal.run_id, refusal.receipt
    seen.__cause__ = refusal
    return seen


def _twin(refusal: Any) -> Any:
    """The same refusal of the class that is both; None where there is none."""
    text = str(refusal)
    if (answer := _ANSWERS.get(type(refusal))) is not None:
        unnamed = TRANSPORT_ERROR if answer is LedgerUnreachable else None
        return answer(
            text,
            status=refusal.status,
            error_code=refusal.error_code or unnamed,
            details=refusal.details,
            request_id=refusal.request_id,
            retry_after_ms=refusal.retry_after_ms,
        )
    if (denial := _DENIALS.get(type(refusal))) is None:
        return None
    seen = denial(
        text,
        reason_code=refusal.reason_code,
        call=refusal.call,
        scope=refusal.scope,
        unit=refusal.unit,
        requested=refusal.requested,
        remaining=refusal.remaining,
    )
    seen.error_code = refusal.reason_code
    return seen
