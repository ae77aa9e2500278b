"""What every request goes through, in this order: route, key, rate, body, tenant, query, ledger.

So an unknown path is 404 and a method that it does not take 405; then 401 without a key that opens
it, 429 above the tenant's rate, 400 for a malformed body, 403 for a listing of another tenant's,
400 for a malformed query; what the ledger refuses comes last. Nobody's body is read before its key.
Every answer carries a request id and a trace id, and every error is the protocol's.
"""

import logging
import time
from collections.abc import Callable, Mapping

import anyio
import attrs
from pydantic import BaseModel
from pydantic_core import to_json

from comptroller.errors import ComptrollerError, LedgerError, LedgerRefused
from comptroller.ledger.api_keys import ApiKeyVerifier, StaticApiKeys
from comptroller.ledger.engine.idempotency import canonical_request, written
from comptroller.ledger.engine.lazy_responses import as_json
from comptroller.ledger.engine.records import CanonicalRequest
from comptroller.ledger.interface import Ledger
from comptroller.ledger.models import RequestOrigin, request_origin
from comptroller.ledger.protocol import codec
from comptroller.server import admin_routes, asgi, protocol_routes
from comptroller.server.access_log import RequestMetrics, observed
from comptroller.server.asgi import Application, Message, Receive, Send
from comptroller.server.auth import ADMIN_KEY, API_KEY, Authenticator, Caller
from comptroller.server.bulkheads import LONG, Lanes
from comptroller.server.http_response import HttpResponse, headers, refusal
from comptroller.server.rate_limit import RateLimiter
from comptroller.server.request import RequestContext, invalid, problem
from comptroller.server.routing import Route, RoutedRequest, Routes, found

_METRICS = "/metrics"
_HEALTH = {"/healthz": ("ok", "failing")} | dict.fromkeys(
    ("/actuator/health", "/actuator/health/readiness"), ("UP", "DOWN")
)
"""What is said of a ledger that answers, and of one that does not. Where the reference server has
it, it is as there: who watches one can watch the other."""
_HEALTH_TIMEOUT = 5.0
_MAX_NAME_LENGTH = 128

_logger = logging.getLogger(__name__)


def serve_ledger(
    ledger: Ledger,
    keys: Mapping[str, str] | ApiKeyVerifier,
    *,
    admin_key: str | None = None,
    rate: float | None = None,
    most_bytes: int = asgi.MAX_BODY_BYTES,
    meter: RequestMetrics | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Application:
    """Make an ASGI application that speaks the Cycles protocol over `ledger`.

    Any ASGI server runs it, in the event loop in which the ledger was opened.

    Args:
        ledger: whose budgets are served.
        keys: API key -> the one tenant it belongs to; or where keys are kept.
        admin_key: the operator's; with an embedded ledger it opens budgets over HTTP, too.
        rate: requests a second that each tenant may make.
        most_bytes: the longest body that is read.
        meter: counts requests, and is asked for `/metrics`.
        now: seconds, by which rates and durations are measured.

    Raises:
        TypeError, ValueError: a key is empty, a tenant none that a subject can name, or a setting
            that makes no sense.
    """
    if admin_key == "":
        raise ValueError("the admin key is empty: anybody has it")
    if most_bytes < 1:
        raise ValueError(f"most_bytes={most_bytes!r}: at least 1 byte of a body has to be read")
    return _Server(
        ledger,
        Authenticator(StaticApiKeys(keys) if isinstance(keys, Mapping) else keys, admin_key),
        {**protocol_routes.ROUTES, **({} if ledger.remote else admin_routes.ROUTES)},
        None if rate is None else RateLimiter(rate, now),
        most_bytes,
        meter,
        now,
    )


@attrs.frozen
class _Server:
    ledger: Ledger
    doors: Authenticator = attrs.field(repr=False)
    routes: Routes = attrs.field(repr=False)
    rates: RateLimiter | None
    most_bytes: int
    meter: RequestMetrics | None
    now: Callable[[], float]
    lanes: Lanes = attrs.field(factory=Lanes, init=False)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await asgi.live(receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"a ledger is served over HTTP, not {scope['type']}")
        elif self.meter is None:
            await self._exchanged(scope, receive, send)
        else:
            self.meter.began()
            try:
                await self._exchanged(scope, receive, send)
            finally:
                self.meter.ended()

    async def _exchanged(self, scope: Message, receive: Receive, send: Send) -> None:
        began, exchange = self.now(), RequestContext(scope)
        try:
            reply = await self._reply(exchange, receive)
        except asgi.ClientDisconnect:
            return
        content = b"" if exchange.method == "HEAD" else reply.content
        await asgi.write(send, reply.status, headers(exchange, reply), content)
        observed(exchange, self.meter, reply.status, self.now() - began)

    async def _reply(self, exchange: RequestContext, receive: Receive) -> HttpResponse:
        """Answer, or answer with the error: whatever fails has one."""
        try:
            if exchange.path == _METRICS or exchange.path in _HEALTH:
                return await self._public(exchange)
            return await self._answer(exchange, receive)
        except ComptrollerError as error:
            if not isinstance(error, LedgerError) or error.status not in _UNDERSTOOD:
                _logger.error("the request %s failed: %s", exchange.request_id, error)
            return refusal(exchange, error, self.routes)
        except asgi.ClientDisconnect:
            raise
        except Exception:  # the boundary: told once, with the id that the caller is given
            _logger.exception("the request %s failed", exchange.request_id)
            return refusal(exchange, ComptrollerError("the ledger failed"), self.routes)

    async def _answer(self, exchange: RequestContext, receive: Receive) -> HttpResponse:
        route, name = found(self.routes, exchange)
        caller = exchange.caller = self._caller(route, exchange)
        if caller is not None and caller.tenant is not None:
            self._must_be_slow_enough(exchange, caller.tenant)
        if len(name) > _MAX_NAME_LENGTH:
            raise invalid(f"a reservation's id has at most {_MAX_NAME_LENGTH} characters")
        body = b"" if route.model is None else await asgi.read(receive, self.most_bytes)
        if not route.long and len(body) < LONG:
            request = None if route.model is None else _request(route.model, exchange, body)
            return HttpResponse(
                route.status, as_json(await self._asked(route, exchange, name, request))
            )
        async with self.lanes.lane(caller.tenant if caller else None):
            request = ahead = None
            if route.model is not None:
                ahead = await self.lanes.off_the_loop(_long, route.model, exchange, body)
                request = ahead.request
            before = canonical_request.set(ahead)
            try:
                answer = await self._asked(route, exchange, name, request)
            finally:
                canonical_request.reset(before)
            return HttpResponse(route.status, await self.lanes.off_the_loop(as_json, answer))

    async def _asked(
        self, route: Route, exchange: RequestContext, name: str, request: BaseModel | None
    ) -> BaseModel:
        before = request_origin.set(_origin(exchange, route))
        try:
            return await route.answer(RoutedRequest(self.ledger, exchange, name, request))
        except codec.MalformedError as error:
            raise invalid(str(error)) from None
        finally:
            request_origin.reset(before)

    def _caller(self, route: Route, exchange: RequestContext) -> Caller | None:
        """Who asks. Where keys of both kinds came, the tenant's counts."""
        caller = None
        if route.admits == "anybody":
            return None
        if route.admits != "operator":
            caller = self.doors.tenant(exchange.headers.get(API_KEY))
        if caller is None and route.admits != "tenant":
            caller = self.doors.operator(exchange.headers.get(ADMIN_KEY))
        if caller is None:
            wanted = "X-Admin-API-Key" if route.admits == "operator" else "X-Cycles-API-Key"
            raise problem(f"{wanted} is missing or unknown", 401, "UNAUTHORIZED")
        return caller

    def _must_be_slow_enough(self, exchange: RequestContext, tenant: str) -> None:
        if self.rates is None:
            return
        verdict = self.rates.take(tenant)
        exchange.remaining = verdict.remaining
        if not verdict.allowed:
            raise problem(
                f"tenant {tenant} asks more often than this server allows: wait"
                f" {verdict.wait:.3g} s",
                429,
                "LIMIT_EXCEEDED",
                retry_after_ms=int(verdict.wait * 1000) + 1,
            )

    async def _public(self, exchange: RequestContext) -> HttpResponse:
        """Answer what needs no key: whether the ledger answers, and the counts."""
        if exchange.method not in ("GET", "HEAD"):
            raise problem(f"{exchange.path} takes GET", 405, "INVALID_REQUEST")
        if exchange.path in _HEALTH:
            exchange.route = exchange.path
            return await self._health(*_HEALTH[exchange.path])
        if self.meter is None:
            raise problem("this server keeps no metrics", 404, "NOT_FOUND")
        exchange.route = _METRICS
        return HttpResponse(200, await self.meter.text(), self.meter.content_type)

    async def _health(self, well: str, failing: str) -> HttpResponse:
        """Asks the ledger for a reservation that there is not: a turn, and no more work."""
        with anyio.move_on_after(_HEALTH_TIMEOUT):
            try:
                await self.ledger.reservation("none")
            except LedgerRefused:
                return HttpResponse(200, to_json({"status": well}))
            except ComptrollerError as error:
                _logger.warning("unhealthy: %s", error)
        return HttpResponse(503, to_json({"status": failing}))


_UNDERSTOOD = range(200, 500)


def _origin(exchange: RequestContext, route: Route) -> RequestOrigin:
    """Who asks, as the event log has it (protocol, releaseReservation: AUDIT)."""
    caller = exchange.caller
    if caller is None:
        who = None
    elif caller.tenant is not None:
        who = f"key {caller.key_id}"
    else:
        who = "admin" if route.admits == "operator" else "admin_on_behalf_of"
    return RequestOrigin(who, exchange.request_id, exchange.trace_id)


def _long(model: type[BaseModel], exchange: RequestContext, body: bytes) -> CanonicalRequest:
    return written(_request(model, exchange, body))


def _request(model: type[BaseModel], exchange: RequestContext, body: bytes) -> BaseModel:
    try:
        request = codec.request(model, body)
    except codec.MalformedError as error:
        raise invalid(str(error)) from None
    key = exchange.headers.get(b"x-idempotency-key")
    if key is not None and key != (getattr(request, "idempotency_key", None) or "").encode():
        raise invalid("X-Idempotency-Key is not the body's idempotency_key")
    return request
