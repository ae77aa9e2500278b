"""Refusals as programs written for `runcycles-openai-agents` catch them.

There everything that stops a call is a `runcycles.BudgetExceededError`. Here the types still say
whose fault it is, and each is that class, too.
"""

from typing import Any

from runcycles import BudgetExceededError

from comptroller import errors
from comptroller.openai_agents import errors as sdk
from comptroller.openai_agents.errors import Kinds, for_sdk, in_class

TRANSPORT_ERROR = "TRANSPORT_ERROR"
"""The error code of a ledger that did not answer, as that package names it."""


class LedgerUnreachable(sdk.LedgerUnreachable, BudgetExceededError):
    """No answer, or a 5xx. `error_code` is `TRANSPORT_ERROR` where the ledger named none."""

    details: dict[str, Any]


class LedgerMisbehaved(sdk.LedgerMisbehaved, BudgetExceededError):
    """An answer that the protocol does not know."""

    details: dict[str, Any]


class LedgerRefused(sdk.LedgerRefused, BudgetExceededError):
    """The ledger understood and said no for another reason than budget."""

    details: dict[str, Any]


class BudgetNotFound(sdk.BudgetNotFound, BudgetExceededError):
    """No scope of the subject has a budget."""

    details: dict[str, Any]


class UnitMismatch(sdk.UnitMismatch, BudgetExceededError):
    """The budget is kept in another unit."""

    details: dict[str, Any]


class ToolDenied(sdk.ToolDenied, BudgetExceededError):
    """A cap that the ledger attached to a grant forbids this tool."""


class LimitReached(sdk.LimitReached, BudgetExceededError):
    """The ledger's cap on the run's steps was reached."""


_KINDS: Kinds = {
    getattr(errors, kind.__name__): kind
    for kind in (
        LedgerUnreachable,
        LedgerMisbehaved,
        LedgerRefused,
        BudgetNotFound,
        UnitMismatch,
        ToolDenied,
        LimitReached,
    )
}


def as_seen(refusal: errors.ComptrollerError) -> errors.ComptrollerError:
    """Return `refusal` as an error that `except BudgetExceededError` catches, too."""
    seen: Any = in_class(refusal, _KINDS)
    if isinstance(seen, LedgerUnreachable):
        seen.error_code = seen.error_code or TRANSPORT_ERROR
    elif isinstance(seen, ToolDenied | LimitReached):
        seen.error_code = seen.reason_code
    return for_sdk(seen)
