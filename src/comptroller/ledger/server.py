"""Any ledger over HTTP: the runtime plane of the Cycles protocol v0.1.25, as a plain ASGI callable.

`_ROUTES` is the plane: method, path, and what it asks of the ledger. The rest is what every request
goes through, in this order: route, key, body, ledger. An API key belongs to one tenant, the
effective tenant of its requests; keys are kept as digests only. Every answer carries a request id
and a trace id, and every error is the protocol's.
"""

import hashlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import attrs
from pydantic import BaseModel
from pydantic_core import to_json
from runcycles import (
    CommitRequest,
    DecisionRequest,
    ErrorCode,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
)

from comptroller.decide.names import checked
from comptroller.decide.scopes import LEVELS
from comptroller.errors import BudgetExceeded, ComptrollerError, refusal
from comptroller.ledger import wire
from comptroller.ledger.interface import Ledger

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_BYTES = 2**20
"""The longest body that is read."""
_REFUSALS = range(400, 500)
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACE_ID = re.compile(r"(?!0{32})([0-9a-f]{32})")

_logger = logging.getLogger(__name__)


@attrs.frozen
class _Asked:
    """A request that has been let in."""

    ledger: Ledger
    tenant: str
    reservation_id: str
    query: Mapping[str, str]
    body: Any
    """The request model of the route, validated."""


@attrs.frozen
class _Route:
    answer: Callable[[_Asked], Awaitable[BaseModel]]
    model: type[BaseModel] | None = None
    status: int = 200


async def _balances(asked: _Asked) -> BaseModel:
    filters = {level: asked.query[level] for level in LEVELS if asked.query.get(level)}
    if not filters:
        raise _invalid(f"give at least one filter of {', '.join(LEVELS)}")
    return await asked.ledger.balances(**{**filters, "tenant": asked.tenant})


async def _reservations(asked: _Asked) -> BaseModel:
    query, limit = asked.query, asked.query.get("limit") or "50"
    if not re.fullmatch("[0-9]{1,9}", limit):
        raise _invalid(f"limit: {limit!r} is no number")
    page = await asked.ledger.reservations(
        tenant=asked.tenant,
        status=query.get("status") or None,
        idempotency_key=query.get("idempotency_key") or None,
        limit=int(limit),
        cursor=query.get("cursor") or None,
    )
    levels = [level for level in LEVELS[1:] if query.get(level)]
    rows = [
        row
        for row in page.reservations
        if all(_same(getattr(row.subject, level), query[level]) for level in levels)
    ]
    return page.model_copy(update={"reservations": rows})


def _same(value: str | None, other: str) -> bool:
    """Whether two values of a level are one: scopes are kept in lower case."""
    return value is not None and value.lower() == other.lower()


_RESERVATION = "/v1/reservations/{id}"
_ROUTES: Mapping[str, Mapping[str, _Route]] = {
    "/v1/decide": {
        "POST": _Route(lambda a: a.ledger.decide(a.body, tenant=a.tenant), DecisionRequest)
    },
    "/v1/reservations": {
        "POST": _Route(
            lambda a: a.ledger.reserve(a.body, tenant=a.tenant), ReservationCreateRequest
        ),
        "GET": _Route(_reservations),
    },
    _RESERVATION: {
        "GET": _Route(lambda a: a.ledger.reservation(a.reservation_id, tenant=a.tenant))
    },
    f"{_RESERVATION}/commit": {
        "POST": _Route(
            lambda a: a.ledger.commit(a.reservation_id, a.body, tenant=a.tenant), CommitRequest
        )
    },
    f"{_RESERVATION}/release": {
        "POST": _Route(
            lambda a: a.ledger.release(a.reservation_id, a.body, tenant=a.tenant), ReleaseRequest
        )
    },
    f"{_RESERVATION}/extend": {
        "POST": _Route(
            lambda a: a.ledger.extend(a.reservation_id, a.body, tenant=a.tenant),
            ReservationExtendRequest,
        )
    },
    "/v1/events": {
        "POST": _Route(
            lambda a: a.ledger.record(a.body, tenant=a.tenant), EventCreateRequest, status=201
        )
    },
    "/v1/balances": {"GET": _Route(_balances)},
}


def serve_ledger(ledger: Ledger, keys: Mapping[str, str]) -> Application:
    """An ASGI application that speaks the Cycles protocol over `ledger`.

    Any ASGI server runs it, in the event loop in which the ledger was opened.

    Args:
        ledger: whose budgets are served.
        keys: API key -> the one tenant it belongs to.

    Raises:
        TypeError, ValueError: a key is empty, or a tenant none that a subject can name.
    """
    for key, tenant in keys.items():
        if not key:
            raise ValueError(f"the API key of tenant {tenant!r} is empty: anybody would have it")
        checked("tenant", tenant)
    return _Server(ledger, {_digest(key.encode()): tenant for key, tenant in keys.items()})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


@attrs.define
class _Exchange:
    """One request, and what its answer is known by."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[bytes, bytes] = attrs.field(repr=False)
    request_id: str = attrs.field(init=False, factory=lambda: f"req_{secrets.token_hex(8)}")
    trace_id: str = attrs.field(init=False)
    tenant: str | None = attrs.field(init=False, default=None)

    @trace_id.default
    def _trace(self) -> str:
        """The caller's trace id, else a new one (protocol, CORRELATION AND TRACING)."""
        for name, pattern in ((b"traceparent", _TRACEPARENT), (b"x-cycles-trace-id", _TRACE_ID)):
            given = pattern.fullmatch(self.headers.get(name, b"").decode("latin-1"))
            if given:
                return given[1]
        return secrets.token_hex(16)


@attrs.frozen
class _Reply:
    status: int
    content: bytes
    retry_after_ms: int | None = None


@attrs.frozen
class _Server:
    ledger: Ledger
    tenants: Mapping[bytes, str] = attrs.field(repr=False)
    """By the digest of a key: how long a look-up takes says nothing about the key."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            body = await _read(receive)
            if body is not None:
                exchange = _exchange(scope)
                await _write(send, exchange, await self._reply(exchange, body))
        else:
            raise ValueError(f"a ledger is served over HTTP, not {scope['type']}")

    async def _reply(self, exchange: _Exchange, body: bytes) -> _Reply:
        """The answer, or the error: whatever fails has one."""
        try:
            return await self._answer(exchange, body)
        except ComptrollerError as error:
            return _refused(exchange, error)
        except Exception:  # the boundary: told once, with the id that the caller is given
            _logger.exception("the request %s failed", exchange.request_id)
            return _refused(exchange, ComptrollerError("the ledger failed"))

    async def _answer(self, exchange: _Exchange, body: bytes) -> _Reply:
        route, reservation_id = _found(exchange)
        tenant = exchange.tenant = self._tenant(exchange)
        if not _same(exchange.query.get("tenant") or tenant, tenant):
            raise _error("the API key belongs to another tenant", 403, "FORBIDDEN")
        request = None if route.model is None else _request(route.model, exchange, body)
        asked = _Asked(self.ledger, tenant, reservation_id, exchange.query, request)
        answer = await route.answer(asked)
        return _Reply(route.status, answer.model_dump_json(exclude_none=True).encode())

    def _tenant(self, exchange: _Exchange) -> str:
        key = exchange.headers.get(b"x-cycles-api-key")
        tenant = None if key is None else self.tenants.get(_digest(key))
        if tenant is None:
            raise _error("X-Cycles-API-Key is missing or unknown", 401, "UNAUTHORIZED")
        return tenant


def _exchange(scope: Message) -> _Exchange:
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    path = scope["path"].removeprefix(scope.get("root_path", ""))  # where it is mounted
    return _Exchange(scope["method"], path, dict(query), dict(scope["headers"]))


def _found(exchange: _Exchange) -> tuple[_Route, str]:
    """The route of a request, and the reservation that its path names."""
    reservation_id, path = "", exchange.path
    if path.startswith("/v1/reservations/"):
        reservation_id, slash, rest = path.removeprefix("/v1/reservations/").partition("/")
        path = f"{_RESERVATION}{slash}{rest}"
    methods = _ROUTES.get(path)
    if methods is None:
        raise _error(f"{exchange.path}: no such path", 404, "NOT_FOUND")
    if exchange.method not in methods:
        raise _error(f"{exchange.path} takes {' and '.join(methods)}", 405, "INVALID_REQUEST")
    return methods[exchange.method], reservation_id


def _request(model: type[BaseModel], exchange: _Exchange, body: bytes) -> BaseModel:
    if len(body) > MOST_BYTES:
        raise _invalid(f"the body has more than {MOST_BYTES} bytes")
    try:
        request = wire.request(model, body)
    except wire.MalformedError as error:
        raise _invalid(str(error)) from None
    key = exchange.headers.get(b"x-idempotency-key")
    if key is not None and key != getattr(request, "idempotency_key", "").encode():
        raise _invalid("X-Idempotency-Key is not the body's idempotency_key")
    return request


def _refused(exchange: _Exchange, error: ComptrollerError) -> _Reply:
    """An error as the protocol's; one that it does not know is the server's own."""
    code = getattr(error, "error_code", None)
    status = getattr(error, "status", 500)
    if isinstance(error, BudgetExceeded):
        status = 409
    if code not in ErrorCode.__members__ or status not in _REFUSALS:
        code, status = "INTERNAL_ERROR", 500
    body: dict[str, Any] = {
        "error": code,
        "message": str(error),
        "request_id": exchange.request_id,
        "trace_id": exchange.trace_id,
    }
    if details := getattr(error, "details", None):
        body["details"] = details
    return _Reply(status, to_json(body), getattr(error, "retry_after_ms", None))


def _invalid(message: str) -> ComptrollerError:
    return _error(message, 400, "INVALID_REQUEST")


def _error(message: str, status: int, code: str) -> ComptrollerError:
    return refusal(message, status=status, error_code=code, asks_for_budget=False)


async def _read(receive: Receive) -> bytes | None:
    """The body, no further than it is too long; None where the caller hung up before its end."""
    body, more = bytearray(), True
    while more and len(body) <= MOST_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


async def _write(send: Send, exchange: _Exchange, reply: _Reply) -> None:
    headers = {
        "content-type": "application/json",
        "content-length": str(len(reply.content)),
        "x-request-id": exchange.request_id,
        "x-cycles-trace-id": exchange.trace_id,
    }
    if exchange.tenant is not None:
        headers["x-cycles-tenant"] = exchange.tenant
    if reply.retry_after_ms is not None:
        headers["retry-after"] = str(-(-reply.retry_after_ms // 1000))
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
    await send({"type": "http.response.body", "body": reply.content})


async def _live(receive: Receive, send: Send) -> None:
    """The server starts and stops; the ledger is its opener's to close."""
    message: Message = {"type": ""}
    while message["type"] != "lifespan.shutdown":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
