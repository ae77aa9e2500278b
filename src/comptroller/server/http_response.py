"""What is answered: a body, its status and its headers; errors in the protocol's words."""

import time
from typing import Any

import attrs
from pydantic_core import to_json
from runcycles import ErrorCode

from comptroller.errors import BudgetExceeded, ComptrollerError, LedgerError
from comptroller.ledger.protocol import codec
from comptroller.server.request import RequestContext
from comptroller.server.routing import Routes

_JSON = "application/json"
_REFUSALS = range(400, 500)
_NO_METHOD, _CONFLICT, _TOO_MANY, _FAILED = 405, 409, 429, 500
_DETAILS = codec.DETAILS.lower().encode()


@attrs.frozen
class HttpResponse:
    """An answer."""

    status: int
    content: bytes
    content_type: str = _JSON
    more: tuple[tuple[str, str], ...] = ()
    """Headers besides those of every answer."""


def refusal(exchange: RequestContext, error: ComptrollerError, routes: Routes) -> HttpResponse:
    """Return the answer that an error is; one that the protocol lacks is the server's own."""
    answered = error if isinstance(error, LedgerError) else LedgerError("", status=_FAILED)
    code, status = answered.error_code, answered.status
    if isinstance(error, BudgetExceeded):
        status = _CONFLICT
    message = str(error)
    if code not in ErrorCode.__members__ or status not in _REFUSALS:
        code, status = "INTERNAL_ERROR", _FAILED
        message = "the ledger failed: its operator finds why in the log, by this request's id"
    body: dict[str, Any] = {
        "error": code,
        "message": message,
        "request_id": exchange.request_id,
        "trace_id": exchange.trace_id,
    }
    details = answered.details
    if details and (code == "UNIT_MISMATCH" or _DETAILS in exchange.headers):
        body["details"] = details
    return HttpResponse(status, to_json(body), more=_advice(exchange, error, status, routes))


def _advice(
    exchange: RequestContext, error: ComptrollerError, status: int, routes: Routes
) -> tuple[tuple[str, str], ...]:
    """Return what the caller may do instead: when to come back, with which method."""
    more: list[tuple[str, str]] = []
    wait_ms = error.retry_after_ms if isinstance(error, LedgerError) else None
    if wait_ms is not None:
        seconds = -(-wait_ms // 1000)
        more.append(("retry-after", str(seconds)))
        if status == _TOO_MANY:
            more.append(("x-ratelimit-reset", str(int(time.time()) + seconds)))
    if status == _NO_METHOD:
        more.append(("allow", ", ".join(routes.get(exchange.route, ("GET",)))))
    return tuple(more)


def headers(exchange: RequestContext, reply: HttpResponse) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer."""
    named: list[tuple[str, str]] = [
        ("content-type", reply.content_type),
        ("content-length", str(len(reply.content))),
        ("x-request-id", exchange.request_id),
        ("x-cycles-trace-id", exchange.trace_id),
        *reply.more,
    ]
    if exchange.caller is not None and exchange.caller.tenant is not None:
        named.append(("x-cycles-tenant", exchange.caller.tenant))
    if exchange.remaining is not None:
        named.append(("x-ratelimit-remaining", str(exchange.remaining)))
    return [(name.encode(), value.encode()) for name, value in named]
