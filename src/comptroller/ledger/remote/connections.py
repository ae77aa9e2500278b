"""The connections to a Cycles server: one pool, and one `runcycles` client for each API key.

A Cycles key belongs to one tenant, so a ledger that serves many tenants holds many keys. Their
clients share one pool of connections: a client is little more than its key.

`AsyncCyclesClient` takes neither a transport nor limits, and the pool it makes by itself does not
hold under load. `TenantClient` is the one place where its inside is replaced;
`tests/remote/test_connections.py` fails when that inside changes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlencode

import aiohttp
import anyio.lowlevel
import attrs
import httpx
from runcycles import AsyncCyclesClient, CyclesResponse
from yarl import URL

from comptroller.errors import CredentialsMissing, LedgerRefused
from comptroller.ledger.protocol import codec
from comptroller.ledger.protocol.codec import API_KEY, DETAILS, IDEMPOTENCY_KEY, RawResponse
from comptroller.ledger.proxies import proxy_for

ApiKeys: TypeAlias = str | Mapping[str, str] | Callable[[str], Awaitable[str | None]]
"""One key, a mapping tenant → key, or an async callable tenant → key."""

ASYNCIO_IN_FLIGHT = 100
TRIO_IN_FLIGHT = 16
_KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: common servers close theirs after 5, and a request sent on a
connection that is just being closed is a lost answer."""
_CLOSING = 1.0
"""Seconds that closing the pool may take, also while the surrounding scope is being cancelled."""

_SUCCESSES = range(200, 300)
_KEPT = ("x-request-id", "retry-after")
"""The headers of an answer that mean something here."""

_KEYS = 10_000
"""Keys whose clients are kept. All are made anew beyond that: keys may be new ones each minute."""


class ClientProvider(Protocol):
    """Where the client of a tenant comes from."""

    @property
    def address(self) -> str:
        """The server's."""

    async def client(self, tenant: str | None) -> AsyncCyclesClient:
        """Return the client that holds the tenant's key. Its methods may raise `NoAnswer`."""

    async def aclose(self) -> None:
        """Close what was opened."""


class NoAnswer(Exception):
    """Nothing, or nothing whole, came back. The text says why."""


def checked_address(url: str) -> str:
    """`url` as the address of a Cycles server.

    Raises:
        ValueError: it is none; the text shows a right one. A password in it is not repeated.
    """
    try:
        parts = httpx.URL(url)
        valid = (
            parts.scheme in ("http", "https")
            and bool(parts.host)
            and "%" not in parts.host
            and (parts.port is None or 0 < parts.port < 2**16)
            and not (parts.query or parts.fragment or any(mark.isspace() for mark in url))
        )
    except (httpx.InvalidURL, TypeError):
        valid = False
    if valid and parts.userinfo:
        raise ValueError(
            f"{parts.copy_with(userinfo=b'')}: an address holds no name or password: "
            "give the key as api_key"
        )
    if not valid:
        raise ValueError(
            f"{url!r} is not the address of a Cycles server: write it like "
            "http://localhost:7878 or https://cycles.example.com"
        )
    return str(parts).rstrip("/")


def on_asyncio() -> bool:
    """Whether the running event loop is asyncio's (else it is trio's)."""
    return isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop)


@attrs.frozen
class HttpAnswer:
    """What came back, whole.

    Attributes:
        headers: by name, in whatever case.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


class HttpSender(Protocol):
    """Sends HTTP requests over a pool of connections, and follows no redirect."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> HttpAnswer:
        """Send a request. Raises NoAnswer, whatever goes wrong on the way."""

    async def aclose(self) -> None:
        """Close the connections."""


def pool(address: str, in_flight: int, connect_timeout: float) -> HttpSender:
    """Return a pool of as many connections as requests may be in flight.

    On asyncio it is aiohttp's, without httpx around it, whose client costs more than the rest of a
    request, and whose own pool looks at every connection at every request: 5 ms of CPU a request
    with 100 of them. Proxies of the environment are honoured.

    Raises:
        ValueError: the environment names a proxy that is none of HTTP.
    """
    through = proxy_for(httpx.URL(address))
    if on_asyncio():
        return AiohttpSender(address, in_flight, connect_timeout, through)
    limits = httpx.Limits(
        max_connections=in_flight,
        max_keepalive_connections=in_flight,
        keepalive_expiry=_KEEP_ALIVE,
    )
    return HttpxSender(httpx.AsyncHTTPTransport(limits=limits, proxy=through), connect_timeout)


class AiohttpSender:
    """aiohttp's session, made at the first request.

    It has no jar: a cookie that one tenant is given would go out with every key.
    """

    def __init__(
        self, address: str, in_flight: int, connect_timeout: float, proxy: httpx.Proxy | None
    ) -> None:
        self.in_flight, self._connect_timeout = in_flight, connect_timeout
        self._secure = address.startswith("https:") or (proxy and proxy.url.scheme == "https")
        self._session: aiohttp.ClientSession | None = None
        self._through: dict[str, Any] = {}
        if proxy is not None:
            auth = aiohttp.BasicAuth(*proxy.auth) if proxy.auth else None
            self._through = {
                "proxy": str(proxy.url),
                "proxy_auth": auth,
                "proxy_headers": proxy.headers,
            }

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> HttpAnswer:
        """Send a request. Raises NoAnswer."""
        if self._session is None:
            self._session = self._opened()
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                data=content,
                headers=headers,
                allow_redirects=False,
                **self._through,
            ) as answer:
                return HttpAnswer(answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(str(error) or type(error).__name__) from error

    def _opened(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self.in_flight,
                keepalive_timeout=_KEEP_ALIVE,
                ssl=httpx.create_ssl_context() if self._secure else True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # the rest of a request is bounded as a whole
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


class HttpxSender:
    """A transport of httpx, without httpx's client around it."""

    def __init__(self, transport: httpx.AsyncBaseTransport, connect_timeout: float) -> None:
        self.transport = transport
        # the rest of a request is bounded as a whole
        self._timeout = httpx.Timeout(None, connect=connect_timeout).as_dict()

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> HttpAnswer:
        """Send a request. Raises NoAnswer."""
        request = httpx.Request(
            method, url, headers=headers, content=content, extensions={"timeout": self._timeout}
        )
        try:
            response = await self.transport.handle_async_request(request)
            response.request = request
            try:
                whole = await response.aread()
            finally:
                await response.aclose()
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise NoAnswer(str(error) or type(error).__name__) from error
        return HttpAnswer(response.status_code, response.headers, whole)

    async def aclose(self) -> None:
        """Close the transport."""
        await self.transport.aclose()


class TenantClient(AsyncCyclesClient):
    """A `runcycles` client for one key, whose requests go over a sender of ours.

    The two methods that all others go through are replaced, and its constructor, which would make a
    pool of its own. JSON is written once and read once: an answer is validated as it came.
    """

    def __init__(self, address: str, key: str, sender: HttpSender) -> None:
        self._address, self._sender = address, sender
        self._asking = {API_KEY: key, DETAILS: "denials"}
        self._posting = {**self._asking, "Content-Type": "application/json"}

    async def _post(self, path: str, body: Any) -> CyclesResponse:
        """Send a request.

        The header of its idempotency key is optional and has to equal the body's (protocol,
        IDEMPOTENCY): it is left out where no header can carry the key.

        Raises:
            NoAnswer: nothing whole came back.
            LedgerRefused: the request cannot be written as JSON (INVALID_REQUEST).
        """
        try:
            content = codec.written(body)
        except (TypeError, ValueError, RecursionError) as error:
            text = f"the request cannot be written as JSON: {error}"
            raise LedgerRefused(text, status=400, error_code="INVALID_REQUEST") from None
        key, headers = body.idempotency_key, self._posting
        if key.isascii() and key.isprintable() and key == key.strip():
            headers = {**headers, IDEMPOTENCY_KEY: key}
        return self._read(
            await self._sender.send("POST", f"{self._address}{path}", headers, content)
        )

    async def _get(self, path: str, params: dict[str, str] | None = None) -> CyclesResponse:
        url = f"{self._address}{path}{'?' + urlencode(params) if params else ''}"
        return self._read(await self._sender.send("GET", url, self._asking, None))

    def _read(self, answer: HttpAnswer) -> CyclesResponse:
        headers = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
        if answer.status in _SUCCESSES:
            return RawResponse(answer.status, headers=headers, content=answer.content)
        return self._handle_response(
            httpx.Response(answer.status, headers=headers, content=answer.content)
        )


@attrs.define
class Connections:
    """The clients of one ledger, made when a key is first used."""

    address: str
    _keys: ApiKeys | None = attrs.field(repr=False)
    _sender: HttpSender = attrs.field(repr=False)
    _clients: dict[str, TenantClient] = attrs.field(factory=dict, init=False, repr=False)

    async def client(self, tenant: str | None) -> TenantClient:
        """Return the client that holds `tenant`'s key, or `CredentialsMissing`."""
        key = await self._key(tenant)
        if key not in self._clients:
            if len(self._clients) >= _KEYS:
                self._clients.clear()
            self._clients[key] = TenantClient(self.address, key, self._sender)
        return self._clients[key]

    async def aclose(self) -> None:
        """Close every connection, within a second, even where the caller is being cancelled."""
        with anyio.move_on_after(_CLOSING, shield=True):
            await self._sender.aclose()

    async def _key(self, tenant: str | None) -> str:
        key: object  # whatever a mapping or a callable really holds
        if isinstance(self._keys, str):
            key = self._keys
        elif tenant is None or self._keys is None:
            key = None
        elif isinstance(self._keys, Mapping):
            key = self._keys.get(tenant)
        else:
            key = await self._asked(self._keys, tenant)
        given = key.strip() if isinstance(key, str) else ""  # one from a file ends with a newline
        if given.isascii() and given.isprintable() and given:
            return given
        unusable = bool(given) or not isinstance(key, str | None)
        raise CredentialsMissing(self._missing(tenant, unusable=unusable))

    async def _asked(self, keys: Callable[[str], Awaitable[str | None]], tenant: str) -> str | None:
        try:
            return await keys(tenant)
        except Exception as error:
            text = f"no API key for tenant {tenant!r} at {self.address}: api_key raised {error!r}"
            raise CredentialsMissing(text) from error

    def _missing(self, tenant: str | None, *, unusable: bool) -> str:
        whose = "a request that names no tenant" if tenant is None else f"tenant {tenant!r}"
        if unusable:
            return f"the API key for {whose} at {self.address} is no string that a header can carry"
        return (
            f"no API key for {whose} at {self.address}: give open_ledger an api_key (a string, a "
            "mapping tenant -> key, or an async callable), or set CYCLES_API_KEY beside "
            "CYCLES_BASE_URL"
        )
