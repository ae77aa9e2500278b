"""Refusals as programs written for `runcycles-openai-agents` catch them.

There everything that stops a call is a `runcycles.BudgetExceededError`. Here the types still say
whose fault it is; those that stop a call are that class, too.
"""

from typing import Any

from runcycles import BudgetExceededError

from comptroller import errors

TRANSPORT_ERROR = "TRANSPORT_ERROR"
"""The error code of a ledger that did not answer, as that package names it."""


class LedgerUnreachable(errors.LedgerUnreachable, BudgetExceededError):
    """No answer, or a 5xx. `error_code` is `TRANSPORT_ERROR` where the ledger named none."""

    details: dict[str, Any]


class ToolDenied(errors.ToolDenied, BudgetExceededError):
    """A cap that the ledger attached to a grant forbids this tool."""


class LimitReached(errors.LimitReached, BudgetExceededError):
    """The ledger's cap on the run's steps was reached."""


def as_seen(refusal: errors.ComptrollerError) -> errors.ComptrollerError:
    """`refusal`, as an error that `except BudgetExceededError` catches where it stops a call."""
    seen: errors.ComptrollerError
    if isinstance(refusal, BudgetExceededError):
        return refusal
    if isinstance(refusal, errors.LedgerUnreachable):
        seen = LedgerUnreachable(
            str(refusal),
            status=refusal.status,
            error_code=refusal.error_code or TRANSPORT_ERROR,
            details=refusal.details,
            request_id=refusal.request_id,
            retry_after_ms=refusal.retry_after_ms,
        )
    elif isinstance(refusal, errors.ToolDenied | errors.LimitReached):
        kind = ToolDenied if isinstance(refusal, errors.ToolDenied) else LimitReached
        seen = kind(
            str(refusal),
            reason_code=refusal.reason_code,
            call=refusal.call,
            scope=refusal.scope,
            unit=refusal.unit,
            requested=refusal.requested,
            remaining=refusal.remaining,
        )
        seen.error_code = refusal.reason_code
    else:
        return refusal
    seen.run_id, seen.receipt = refusal.run_id, refusal.receipt
    seen.__cause__ = refusal
    return seen
