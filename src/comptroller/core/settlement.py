"""What a call's end does to the ledger, and what an answer to that means.

Law 3: work that ran is never released. Known usage is committed; unknown usage of dispatched work
is charged as policy says; only what never began is released.

Two tables: `settlement` (from a call's end to a decision) and `next_action` (from the ledger's
answer to the next step).
"""

from enum import Enum
from typing import Literal

import attrs
from runcycles import Amount, Unit

from comptroller.core.estimates import NOTHING_SAID, Answered, actual
from comptroller.core.pricing import PLAIN, Billing, Prices, TokenCount
from comptroller.errors import ComptrollerError, LedgerError

# -- how a call ended


@attrs.frozen
class Finished:
    """The call came back.

    Attributes:
        usage: an LLM call's tokens, None where the model did not say.
        cost: what a tool call really cost, where its `actual` function said so.
        said: what an LLM call's answer says of its price.
        problem: why that function's word does not count, where it does not.
    """

    usage: TokenCount | None = None
    cost: Amount | None = None
    said: Answered = NOTHING_SAID
    problem: str = ""


@attrs.frozen
class NotStarted:
    """It was granted and not dispatched, or refused before any work: nothing was spent."""

    reason: str


@attrs.frozen
class Abandoned:
    """In flight when it was given up, or failed in a way that may have been billed."""

    reason: str


CallEnd = Finished | NotStarted | Abandoned

_CLIENT_ERRORS = range(400, 500)
_AFTER_WORK = frozenset({408, 409, 425, 499})
"""Client errors that may follow work: a time-out, a conflict, "too early", a client that left."""


def refused_before_work(status: int | None) -> bool:
    """Whether a provider that answers a call with this HTTP status has not begun to work on it."""
    return status in _CLIENT_ERRORS and status not in _AFTER_WORK


# -- from the end to a decision


ESTIMATED_SOURCES = frozenset({"estimate", "streamed"})
"""The sources of an actual that nobody has reported."""


@attrs.frozen
class Commit:
    """Charge `actual`.

    `source`: where it came from (`usage`, `reported`, `tool`, `estimate`, `streamed`). `remark`:
    what people are to know of it.
    """

    actual: Amount
    source: str
    abandoned: str | None = None
    remark: str = ""


@attrs.frozen
class Release:
    """Give everything back. `abandoned`: by policy, though the call was in flight."""

    reason: str
    abandoned: bool = False


@attrs.frozen
class PartialUsage:
    """What is known about a call while it runs, for the case that it is given up.

    Attributes:
        model: `provider:model`, None for a tool.
        input_tokens: the estimated size of what was sent.
        streamed: output tokens seen so far, None where the call does not stream.
        billing: what decides an LLM call's price beside model and tokens.
    """

    model: str | None = None
    input_tokens: int = 0
    streamed: int | None = None
    billing: Billing = PLAIN


def settlement(
    end: CallEnd,
    estimate: Amount,
    spent: PartialUsage,
    prices: Prices,
    on_abandoned: Literal["charge", "release"],
) -> Commit | Release:
    """Return what the ledger is told about a call that ended like this."""
    match end:
        case Finished(cost=Amount() as told):
            return Commit(told, "tool")
        case Finished(usage=usage, said=said) if spent.model is not None:
            unit = Unit(estimate.unit)
            cost = actual(unit, spent.model, usage, prices, estimate, spent.billing, said)
            return Commit(cost.amount, cost.source)
        case Finished(problem=problem):
            return Commit(estimate, "estimate", remark=problem)
        case NotStarted(reason):
            return Release(reason)
        case Abandoned(reason) if on_abandoned == "release":
            return Release(reason, abandoned=True)
        case Abandoned(reason):
            known = _streamed(estimate, spent, prices)
            return Commit(known or estimate, "streamed" if known else "estimate", reason)


def _streamed(estimate: Amount, spent: PartialUsage, prices: Prices) -> Amount | None:
    """Price a cut stream: its estimated input and the output so far, if they are known.

    Never more than was reserved: the count is rough, and the call's end is unknown.
    """
    if spent.streamed is None or spent.model is None:
        return None
    seen = TokenCount(input=spent.input_tokens, output=spent.streamed)
    cost = actual(estimate.unit, spent.model, seen, prices, estimate, spent.billing)
    if cost.source == "estimate":
        return None
    return Amount(unit=Unit(estimate.unit), amount=min(cost.amount.amount, estimate.amount))


# -- from the ledger's answer to the next step


class SettlementAction(Enum):
    """What follows on an answer to a commit or an event."""

    SETTLED = "settled by an earlier attempt"
    RETRY = "send it again under the same key"
    RECORD = "the lease is over: record it as an event under the same key"
    KEEP = "keep it: it may be accepted later"
    STOP = "the ledger will never accept it"


_NEVER = frozenset(
    {
        "INVALID_REQUEST",
        "NOT_FOUND",
        "BUDGET_EXCEEDED",
        "BUDGET_FROZEN",
        "BUDGET_CLOSED",
        "OVERDRAFT_LIMIT_EXCEEDED",
        "DEBT_OUTSTANDING",
        "TENANT_CLOSED",
        "UNIT_MISMATCH",
        "IDEMPOTENCY_MISMATCH",
        "MAX_EXTENSIONS_EXCEEDED",
    }
)
_GONE = 410
_THROTTLED = 429
_UNAUTHORIZED = frozenset({401, 403})


def next_action(error: ComptrollerError) -> SettlementAction:
    """Return the next step after `error`, with which a charge or a release was answered.

    Its status is -1 where no answer came; one of 2xx had a body that does not validate. What is no
    answer of a ledger, such as a missing key, can be mended.
    """
    if not isinstance(error, LedgerError):
        return SettlementAction.KEEP
    status, error_code = error.status, error.error_code
    if status == _GONE or error_code == "RESERVATION_EXPIRED":
        return SettlementAction.RECORD
    if error_code == "RESERVATION_FINALIZED":
        return SettlementAction.SETTLED
    if status == _THROTTLED or status not in _CLIENT_ERRORS:
        return SettlementAction.RETRY
    if status in _UNAUTHORIZED or error_code not in _NEVER:
        return SettlementAction.KEEP
    return SettlementAction.STOP
