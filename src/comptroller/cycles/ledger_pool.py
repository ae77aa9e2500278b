"""The ledger behind a client, a config, or the environment: one for each event loop that uses it.

Hooks are made outside of any loop and used in several; connections belong to one. So a ledger is
opened when a loop first needs it, shared by those who use it there, and closed by the last of them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from runcycles import AsyncCyclesClient, CyclesConfig

from comptroller.ledger.cycles_client import CyclesClientAdapter
from comptroller.ledger.interface import Ledger
from comptroller.ledger.remote.connections import ASYNCIO_IN_FLIGHT, NoAnswer
from comptroller.ledger.remote.ledger import CyclesLedger, connected

_READ_TIMEOUT = 5.0  # seconds; CyclesConfig's default, for clients that show no config


@attrs.define
class _PooledLedger:
    """A ledger of one loop, how it is closed where it was opened for that, and how many use it."""

    ledger: Ledger
    close: Callable[[], Awaitable[object]] | None = None
    users: int = 0


class LedgerPool:
    """Lends the ledger of a client, else of a config, else of the `CYCLES_*` environment.

    Attributes:
        client: the client that was given, or None.
        config: the config that goes with it, or None where the client shows none.

    Raises:
        ValueError: neither is given and the environment names no server.
    """

    def __init__(self, client: AsyncCyclesClient | None, config: CyclesConfig | None) -> None:
        self.client = client
        self.config = config or (_from_environment() if client is None else _shown_by(client))
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, _PooledLedger] = (
            WeakKeyDictionary()
        )

    def lend(self) -> Ledger:
        """Return the ledger of the running loop. Whoever got it calls `take_back`."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            self._open[loop] = self._connect()
        found = self._open[loop]
        found.users += 1
        return found.ledger

    def take_back(self, loop: asyncio.AbstractEventLoop) -> Callable[[], Awaitable[object]] | None:
        """Take it back. The last one is told how to close what was opened for it."""
        found = self._open[loop]
        found.users -= 1
        if found.users:
            return None
        del self._open[loop]
        return found.close

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ledger]:
        """Open the ledger, for the length of a block."""
        ledger, loop = self.lend(), asyncio.get_running_loop()
        try:
            yield ledger
        finally:
            if (close := self.take_back(loop)) is not None:
                await close()

    def _connect(self) -> _PooledLedger:
        client, config = self.client, self.config
        if type(client) is CyclesClientAdapter and client.tenant is None:
            return _PooledLedger(client.ledger)  # trusted with every tenant: nothing stands between
        if client is not None:
            given = CyclesLedger(
                _GivenClient(client, config),
                request_timeout=config.read_timeout if config else _READ_TIMEOUT,
                in_flight=ASYNCIO_IN_FLIGHT,
            )
            return _PooledLedger(given)
        assert config is not None, "a lender has a client or a config"  # noqa: S101 - for mypy
        made = connected(
            config.base_url,
            api_key=config.api_key,
            request_timeout=config.read_timeout,
            connect_timeout=config.connect_timeout,
        )
        return _PooledLedger(made, made.aclose)


def _from_environment() -> CyclesConfig:
    try:
        return CyclesConfig.from_env()
    except ValueError as error:
        raise ValueError(
            f"{error}: or give a config, or a client (as_client(ledger) for an embedded ledger)"
        ) from None


def _shown_by(client: AsyncCyclesClient) -> CyclesConfig | None:
    """Return the config of a client, which it keeps to itself."""
    config = getattr(client, "_config", None)
    return config if isinstance(config, CyclesConfig) else None


class _GivenClient:
    """One client for every tenant, which its giver closes. Whatever it raises is no answer."""

    def __init__(self, client: AsyncCyclesClient, config: CyclesConfig | None) -> None:
        self.address = config.base_url if config else f"the given {type(client).__name__}"
        self._client: Any = _NoAnswerClient(client)

    async def client(self, tenant: str | None) -> AsyncCyclesClient:
        del tenant
        client: AsyncCyclesClient = self._client
        return client

    async def aclose(self) -> None:
        """Do nothing: it was not opened here."""


class _NoAnswerClient:
    """A client whose failures, of whatever kind, are answers that did not come."""

    def __init__(self, client: AsyncCyclesClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def ask(*args: Any, **options: Any) -> Any:
            try:
                return await method(*args, **options)
            except Exception as error:
                raise NoAnswer(f"{type(error).__name__}: {error}") from error

        return ask
