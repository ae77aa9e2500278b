"""What a Cycles server's answer means: the value it carries, or the typed error that it is.

Pure: a `runcycles.CyclesResponse` in, a validated model out, or a raise. An answer counts when its
status is the one the protocol names and its body validates; any other 2xx is ambiguous, since the
request may have taken effect (settlement, "From the ledger's answer to the next step").
"""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import attrs
from pydantic import BaseModel
from runcycles import (
    Amount,
    AsyncCyclesClient,
    CyclesResponse,
    ReservationCreateRequest,
    ReservationCreateResponse,
    Subject,
)

from comptroller.errors import BudgetExceeded, ComptrollerError, LedgerMisbehaved, refusal
from comptroller.ledger.protocol import codec

Answer = TypeVar("Answer", bound=BaseModel)

OK = 200
CREATED = 201
_CONFLICT = 409  # with the budget, of what asks for one
_KEY_REFUSED = (401, 403)
_MAX_QUOTED = 500
"""Characters of what a server says that an error repeats."""
_UNSAID = "no reason given"
_BY_STATUS = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    410: "RESERVATION_EXPIRED",
    429: "LIMIT_EXCEEDED",
}
"""What a status says by itself, where a gateway in between has replaced the body."""


@attrs.frozen
class ProtocolRequest(Generic[Answer]):
    """One request: how it is sent, and what would be an answer to it."""

    verb: str
    answer: type[Answer]
    send: Callable[[AsyncCyclesClient], Awaitable[CyclesResponse]]
    tenant: str | None
    status: int = OK
    amount: Amount | None = None
    """What is asked for or charged."""
    subject: Subject | None = None
    """Whose budget is asked for; None where a reservation is."""


def parse_response(
    answer: CyclesResponse, question: ProtocolRequest[Answer], ledger: str
) -> Answer:
    """Return the value that `answer` carries.

    Raises:
        ComptrollerError: the refusal, with the protocol's fields; `LedgerMisbehaved` for a success
            that the protocol does not know.
    """
    if not answer.is_success:
        raise _refusal(answer, question, ledger)
    problem = f"status {answer.status}, not {question.status}"
    if answer.status == question.status:
        try:
            if isinstance(answer, codec.RawResponse):
                return codec.answer_in(question.answer, answer.content)
            return codec.answer(question.answer, answer.body)
        except codec.MalformedError as error:
            problem = str(error)
    raise LedgerMisbehaved(
        f"{ledger}: {question.verb}: an answer that the protocol does not know: {problem}",
        status=answer.status,
        request_id=answer.request_id,
    )


def ambiguous(status: int) -> bool:
    """Whether an error of this status leaves open if the request took effect (-1: no answer)."""
    return not 300 <= status < 500  # noqa: PLR2004 - the statuses of HTTP that are understood


def check_grant(
    granted: ReservationCreateResponse, request: ReservationCreateRequest, ledger: str
) -> None:
    """Raise unless work may begin on `granted`: nothing proceeds unreserved.

    Raises:
        BudgetExceeded: a denial, in an answer of status 200.
        LedgerMisbehaved: a grant without an id, or one that was replayed after its lease ended.
    """
    if granted.is_denied():
        denied = BudgetExceeded(
            f"{ledger}: reserve: denied: {_line(granted.reason_code) or _UNSAID}",
            status=OK,
            error_code=granted.reason_code,
            retry_after_ms=granted.retry_after_ms,
        )
        raise _with_amounts(denied, request.estimate)
    if not granted.reservation_id:
        raise LedgerMisbehaved(f"{ledger}: reserve: a grant without a reservation id", status=OK)
    if granted.remaining_ttl_ms == 0:
        raise LedgerMisbehaved(
            f"{ledger}: reserve: the grant {granted.reservation_id} has no time left", status=OK
        )


def _refusal(
    answer: CyclesResponse, question: ProtocolRequest[Any], ledger: str
) -> ComptrollerError:
    # Not get_error_response(): its model refuses every body that carries a trace_id.
    body = answer.body if isinstance(answer.body, dict) else {}
    code, details = body.get("error"), body.get("details")
    error_code = code if code and isinstance(code, str) else _BY_STATUS.get(answer.status)
    error = refusal(
        _text(answer, question, error_code, ledger),
        status=answer.status,
        error_code=error_code,
        asks_for_budget=question.subject is not None,
        details=details if isinstance(details, dict) else None,
        request_id=answer.request_id,
        retry_after_ms=_retry_after_ms(answer),
    )
    return _with_amounts(error, question.amount) if isinstance(error, BudgetExceeded) else error


def _retry_after_ms(answer: CyclesResponse) -> int | None:
    try:
        return answer.retry_after_ms_header
    except ValueError:  # more digits than Python makes a number of
        return None


def _text(
    answer: CyclesResponse, question: ProtocolRequest[Any], error_code: str | None, ledger: str
) -> str:
    if question.subject is not None and error_code in ("NOT_FOUND", "BUDGET_NOT_FOUND"):
        levels = question.subject.model_dump(exclude_none=True, exclude={"dimensions"})
        scope = "/".join(f"{level}:{value}" for level, value in levels.items())
        return f"no budget for {scope} at {ledger}: ask the operator of that ledger to set one"
    code = f"{answer.status} {error_code}" if error_code else str(answer.status)
    why = _line(answer.error_message) or _UNSAID
    if answer.status == _CONFLICT and question.subject is not None and why is not _UNSAID:
        return why if why.startswith("tenant:") else f"{ledger}: {why}"  # ours says whose it is
    said = f"{question.verb}: {why} ({_line(code)})"
    if answer.status in _KEY_REFUSED:
        whose = f"tenant {question.tenant!r}" if question.tenant else "a request without a tenant"
        return f"{ledger} refused the API key of {whose}: {said}"
    return f"{ledger}: {said}"


def _line(said: object) -> str:
    """Return what somebody else's server said, as part of a line; nothing where it is no text."""
    text = said if isinstance(said, str) else ""
    start = " ".join(text.split())[:_MAX_QUOTED]
    return "".join(each for each in start if each.isprintable())


def _with_amounts(error: BudgetExceeded, asked: Amount | None) -> BudgetExceeded:
    """`error`, saying how much was asked for and, where the server told, what is left and where."""
    if asked is not None:
        error.unit, error.requested = asked.unit, asked.amount
    details = error.details or {}
    scope, remaining = details.get("scope"), details.get("remaining")
    error.scope = scope if isinstance(scope, str) else None
    error.remaining = remaining if isinstance(remaining, int) else None
    return error
