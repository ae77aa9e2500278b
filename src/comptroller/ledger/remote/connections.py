"""The connections to a Cycles server: one pool, and one `runcycles` client for each API key.

A Cycles key belongs to one tenant, so a ledger that serves many tenants holds many keys. Their
clients share one pool of connections: a client is little more than its key.

`AsyncCyclesClient` takes neither a transport nor limits, and the pool it makes by itself does not
hold under load. `TenantClient` is the one place where its inside is replaced;
`tests/ledger/test_cycles_connections.py` fails when that inside changes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Protocol, TypeAlias

import aiohttp
import anyio.lowlevel
import attrs
import httpx
from httpx_aiohttp import AiohttpTransport
from runcycles import AsyncCyclesClient, CyclesConfig

from comptroller.errors import CredentialsMissing, LedgerRefused
from comptroller.ledger.protocol.codec import API_KEY, DETAILS, IDEMPOTENCY_KEY
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


def pool(address: str, in_flight: int) -> httpx.AsyncBaseTransport:
    """Return a pool of as many connections as requests may be in flight.

    On asyncio it is aiohttp's: httpx's own looks at every connection at every request, which costs
    5 ms of CPU a request with 100 of them. Proxies of the environment are honoured.
    """
    limits = httpx.Limits(
        max_connections=in_flight,
        max_keepalive_connections=in_flight,
        keepalive_expiry=_KEEP_ALIVE,
    )
    through = proxy_for(httpx.URL(address))
    if on_asyncio():
        return AiohttpPool(limits=limits, proxy=through)
    return httpx.AsyncHTTPTransport(limits=limits, proxy=through)


class AiohttpPool(AiohttpTransport):
    """aiohttp's, without its jar: a cookie that one tenant is given would go out with every key."""

    def get_client(self) -> aiohttp.ClientSession:
        """Return the session that holds the connections."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self.limits.max_connections or 0,
                keepalive_timeout=self.limits.keepalive_expiry,
                ssl=self.ssl_context,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


class NoAnswerHttpClient(httpx.AsyncClient):
    """An HTTP client that says `NoAnswer` where httpx has a dozen errors, and aiohttp more.

    `runcycles` logs every `httpx.HTTPError` at ERROR. Whether a lost answer is worth a line is for
    those to say who know whether it is tried again: with this error nothing is logged here, and
    the user's loggers are left as they are.
    """

    async def send(self, request: httpx.Request, **settings: Any) -> httpx.Response:
        """As `httpx.AsyncClient.send`, reading the body; raises `NoAnswer`."""
        try:
            return await super().send(request, **settings)
        except (httpx.HTTPError, aiohttp.ClientError, OSError, UnicodeError) as error:
            raise NoAnswer(str(error) or type(error).__name__) from error

    def build_request(
        self, method: str, url: httpx.URL | str, *, headers: Any = None, **content: Any
    ) -> httpx.Request:
        """As `httpx.AsyncClient.build_request`, without an idempotency key no header can carry.

        The protocol makes that header optional and wants it equal to the body's key.

        Raises:
            LedgerRefused: the body cannot be written as JSON (INVALID_REQUEST).
        """
        key = (headers or {}).get(IDEMPOTENCY_KEY, "")
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            headers = {name: headers[name] for name in headers if name != IDEMPOTENCY_KEY}
        try:
            return super().build_request(method, url, headers=headers, **content)
        except (TypeError, ValueError, RecursionError) as error:
            text = f"the request cannot be written as JSON: {error}"
            raise LedgerRefused(text, status=400, error_code="INVALID_REQUEST") from None


async def unfollowed(response: httpx.Response) -> None:
    """Take a redirect for an answer: httpx would read where it leads, and may fail."""
    response.headers.pop("Location", None)


class TenantClient(AsyncCyclesClient):
    """A `runcycles` client over our own HTTP client: its two attributes are set here, in place of
    its constructor, which would make a pool (and 20 ms of TLS set-up) to be thrown away.
    """

    def __init__(self, config: CyclesConfig, http: httpx.AsyncClient) -> None:
        self._config, self._http = config, http


@attrs.define
class Connections:
    """The clients of one ledger, made when a key is first used."""

    address: str
    _keys: ApiKeys | None = attrs.field(repr=False)
    _transport: httpx.AsyncBaseTransport = attrs.field(repr=False)
    _timeout: httpx.Timeout
    _clients: dict[str, TenantClient] = attrs.field(factory=dict, init=False, repr=False)

    async def client(self, tenant: str | None) -> TenantClient:
        """Return the client that holds `tenant`'s key, or `CredentialsMissing`."""
        key = await self._key(tenant)
        if key not in self._clients:
            if len(self._clients) >= _KEYS:
                self._clients.clear()
            http = NoAnswerHttpClient(
                base_url=self.address,
                headers={API_KEY: key, DETAILS: "denials"},
                timeout=self._timeout,
                transport=self._transport,
                event_hooks={"response": [unfollowed]},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # it keeps none
            )
            config = CyclesConfig(base_url=self.address, api_key=key)
            self._clients[key] = TenantClient(config, http)
        return self._clients[key]

    async def aclose(self) -> None:
        """Close every connection, within a second, even where the caller is being cancelled."""
        with anyio.move_on_after(_CLOSING, shield=True):
            await self._transport.aclose()

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
