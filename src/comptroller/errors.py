"""Every exception, by whose fault it is (law 10).

==================  ==========================================================================
the budget's        `BudgetExceeded`, `BudgetNotFound`, `UnitMismatch`
the caller's        `LimitReached`, `RunCancelled`, `CredentialsMissing`
the operator's      `ToolDenied` (a cap of the ledger), `LedgerRefused`
the network's       `LedgerUnreachable`
the ledger's        `LedgerMisbehaved`
==================  ==========================================================================

What `str` says is for whoever runs the program: it names scopes, amounts, the ledger's path or
address, and the command that helps. What `public` says is for that program's own customers.

Nothing here knows the Agents SDK, which takes a second to import: a ledger and its commands need
none of it. What a run raises through the SDK is a subclass that is an `agents.AgentsException`, too
(`openai_agents/errors.py`).
"""

from datetime import UTC, datetime
from typing import Any, TypeVar

from runcycles import BudgetExceededError


class ComptrollerError(Exception):
    """The root of everything raised here.

    `receipt` is the run's receipt at the moment of the error, where the error belongs to a run.
    """

    receipt: Any = None
    run_id: str | None = None

    @property
    def public(self) -> str:
        """What a customer may read: no amount, scope, path, address or operator's command."""
        return "This request cannot be answered at the moment."


E = TypeVar("E", bound=BaseException)


def without_traceback(error: E) -> E:
    """Return an error that is kept, to be raised with a clean traceback as often as it is.

    Else that grew with each, and with it what its frames hold.
    """
    error.__context__ = None
    return error.with_traceback(None)


class RunCancelled(ComptrollerError):
    """The run was cancelled, for `reason`: by `run.cancel`, its handle, or its scope's end."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def public(self) -> str:
        """That it was cancelled; not why."""
        return "This request was cancelled."


class CallDenied(ComptrollerError):
    """A call was not allowed to begin.

    Attributes:
        call: the id of the denied call in the receipt.
        scope: the ledger's scope that refused, e.g. `tenant:acme`; None where a local limit did.
        unit: the unit of `requested` and `remaining` (`runcycles.Unit`), None for counts.
        requested: what the call asked for, in `unit`.
        remaining: what was left, in `unit`; None where the ledger did not say.
        reason_code: the protocol's code (`BUDGET_EXCEEDED`, `BUDGET_FROZEN`, ...) or ours.
    """

    def __init__(
        self,
        message: str,
        *,
        reason_code: str | None = None,
        run_id: str | None = None,
        call: str | None = None,
        scope: str | None = None,
        unit: Any = None,
        requested: int | None = None,
        remaining: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason_code, self.run_id, self.call, self.scope = reason_code, run_id, call, scope
        self.unit, self.requested, self.remaining = unit, requested, remaining


class LimitReached(CallDenied):
    """A ceiling of the run was reached, so the ledger was not asked.

    One of its own `Limits`, or the ledger's cap on its steps: then `reason_code` is `CAPS`.
    """

    @property
    def public(self) -> str:
        """That one request may not use so much."""
        return "This request has reached the limit of what one request may use."


class ToolDenied(CallDenied):
    """A cap that the ledger attached to a grant forbids this tool."""

    @property
    def public(self) -> str:
        """That something is not allowed; not which tool."""
        return "This request needs something that is not allowed."


class LedgerError(ComptrollerError):
    """What a ledger answered that is no success, or that it gave no answer.

    Attributes:
        status: the HTTP status (embedded ledgers use the protocol's), -1 where no answer came.
        error_code: the protocol's `error`, or None.
        details: the answer's `details`.
        request_id: the server's `X-Request-Id`.
        retry_after_ms: how long the ledger asked to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        error_code: str | None = None,
        details: dict[str, Any] | None = None,
        request_id: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.error_code = status, error_code
        self.details: dict[str, Any] | None = details or {}
        self.request_id, self.retry_after_ms = request_id, retry_after_ms


class BudgetExceeded(CallDenied, LedgerError, BudgetExceededError):
    """The ledger refused: too little is left, or the budget is frozen, closed, over limit, in debt.

    Also a `runcycles.BudgetExceededError`, so code written for the Cycles SDK catches it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 409,
        error_code: str | None = "BUDGET_EXCEEDED",
        details: dict[str, Any] | None = None,
        request_id: str | None = None,
        retry_after_ms: int | None = None,
        **denial: Any,
    ) -> None:
        denial.setdefault("reason_code", error_code)
        CallDenied.__init__(self, message, **denial)
        self.status, self.error_code, self.details = status, error_code, details or {}
        self.request_id, self.retry_after_ms = request_id, retry_after_ms

    @property
    def renews_at(self) -> datetime | None:
        """When the budget that refused begins anew, in UTC; None: never, or not known."""
        at_ms = (self.details or {}).get("renews_at_ms")
        if not isinstance(at_ms, int) or not 0 <= at_ms < _LAST_MS:
            return None
        return datetime.fromtimestamp(at_ms / 1000, UTC)

    @property
    def public(self) -> str:
        """Whether the budget does not cover the request, or is not open; when it begins anew."""
        if self.reason_code in _NOT_OPEN:
            return _NOT_OPEN[self.reason_code]
        renews = f" It renews at {at:%Y-%m-%d %H:%M} UTC." if (at := self.renews_at) else ""
        return f"What is left of the budget does not cover this request.{renews}"


_LAST_MS = 253_402_300_800_000  # the year 10000: beyond what a datetime holds
_NOT_OPEN = {
    "BUDGET_FROZEN": "The budget for this request is suspended.",
    "BUDGET_CLOSED": "The budget for this request is closed.",
    "TENANT_CLOSED": "This account is closed.",
}


class BudgetNotFound(LedgerError):
    """No budget exists for any scope of this subject. The text says how to set one."""

    @property
    def public(self) -> str:
        """That there is none."""
        return "There is no budget for this request."


class UnitMismatch(LedgerError):
    """The budget is kept in another unit than the request's."""


class LedgerRefused(LedgerError):
    """The ledger understood and said no for another reason than budget: see `error_code`."""


class LedgerUnreachable(LedgerError):
    """No answer, or a 5xx: whether the request took effect is unknown."""

    @property
    def public(self) -> str:
        """That it may be tried again."""
        return "This request cannot be answered at the moment. Please try again later."


class LedgerMisbehaved(LedgerError):
    """An answer that the protocol does not know, or a body that does not validate."""


class CredentialsMissing(ComptrollerError):
    """A remote ledger has no key for this tenant. The text names the tenant and the address."""


_NO_BUDGET = frozenset(
    {
        "BUDGET_EXCEEDED",
        "BUDGET_FROZEN",
        "BUDGET_CLOSED",
        "OVERDRAFT_LIMIT_EXCEEDED",
        "DEBT_OUTSTANDING",
        "TENANT_CLOSED",
    }
)
_KNOWN = frozenset(
    {
        "INVALID_REQUEST",
        "UNAUTHORIZED",
        "FORBIDDEN",
        "NOT_FOUND",
        "RESERVATION_EXPIRED",
        "RESERVATION_FINALIZED",
        "IDEMPOTENCY_MISMATCH",
        "MAX_EXTENSIONS_EXCEEDED",
        "LIMIT_EXCEEDED",
    }
)
SERVER_ERROR = 500


def refusal(
    message: str, *, status: int, error_code: str | None, asks_for_budget: bool, **fields: Any
) -> ComptrollerError:
    """Return the exception for an answer that is no success (protocol, ERROR SEMANTICS).

    `asks_for_budget`: a reserve, decide or event, where NOT_FOUND means that no budget exists;
    elsewhere it is the reservation that is unknown.
    """
    kind: type[ComptrollerError]
    if status < 0 or status >= SERVER_ERROR:
        kind = LedgerUnreachable
    elif error_code in _NO_BUDGET:
        kind = BudgetExceeded
    elif error_code == "UNIT_MISMATCH":
        kind = UnitMismatch
    elif asks_for_budget and error_code in ("NOT_FOUND", "BUDGET_NOT_FOUND"):
        kind = BudgetNotFound
    else:
        kind = LedgerRefused if error_code in _KNOWN else LedgerMisbehaved
    return kind(message, status=status, error_code=error_code, **fields)
