"""Which ledger an address names, and which one is used when none is named."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import attrs
import platformdirs
from runcycles import Amount, CyclesConfig

from comptroller._validation import expand_path
from comptroller.core.budgets import BudgetTerms
from comptroller.errors import ComptrollerError
from comptroller.ledger.api_keys import ApiKeyStore, MemoryKeys
from comptroller.ledger.embedded.alerts import OnAlert
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.ledger.sqlite import SqliteKeys, SqliteLedger, SqliteWebhooks, open_sqlite

if TYPE_CHECKING:
    from comptroller.ledger.remote.connections import ApiKeys

_MEMORY, _FILE = "memory:", "sqlite:"
_SERVER = re.compile("https?(:|//)|(?!sqlite:)[a-z+]*://", re.IGNORECASE)
"""What is meant as a server's address, rightly written or not."""
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_KNOWN = ("http", "https", "sqlite")
_PLACE = re.compile(r"[\w.-]+:\d+")
"""`host:port`, which would be a fine name of a file, and never is meant as one."""
_logger = logging.getLogger("comptroller.ledger")


@overload
def open_ledger(
    url: Literal["memory:"] | os.PathLike[str],
    *,
    synchronous: Literal["NORMAL", "FULL"] = ...,
    default_budget: Amount | BudgetTerms | None = ...,
    on_alert: OnAlert | None = ...,
    retention: timedelta | None = ...,
) -> AbstractAsyncContextManager[EmbeddedLedger]: ...


@overload
def open_ledger(
    url: str,
    *,
    api_key: "ApiKeys | None" = ...,
    request_timeout: float = ...,
    connect_timeout: float = ...,
    in_flight: int | None = ...,
    outbox: str | os.PathLike[str] | bool = ...,
    drain_timeout: float = ...,
    synchronous: Literal["NORMAL", "FULL"] = ...,
    default_budget: Amount | BudgetTerms | None = ...,
    on_alert: OnAlert | None = ...,
    retention: timedelta | None = ...,
) -> AbstractAsyncContextManager[Any]: ...


def open_ledger(
    url: str | os.PathLike[str],
    *,
    api_key: "ApiKeys | None" = None,
    request_timeout: float = 5.0,
    connect_timeout: float = 2.0,
    in_flight: int | None = None,
    outbox: str | os.PathLike[str] | bool = True,
    drain_timeout: float = 5.0,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    default_budget: Amount | BudgetTerms | None = None,
    on_alert: OnAlert | None = None,
    retention: timedelta | None = None,
) -> AbstractAsyncContextManager[Any]:
    """Return the ledger at `url`, open for the length of an `async with`.

    Args:
        url: the path of a file: an embedded ledger, made where there is none (`sqlite:` may stand
            before it); `memory:`: one that is gone afterwards; `http://...` or `https://...`: a
            Cycles server, which has tasks of its own: leave it in the task that entered it.
        api_key: for a server: one key, a mapping tenant -> key, or an async callable
            tenant -> key.
        request_timeout: for a server: seconds one request may take in all.
        connect_timeout: for a server: seconds of these that connecting may take.
        in_flight: for a server: requests under way at once (100 on asyncio, 16 on trio).
        outbox: for a server: where charges are kept until it has accepted them; True: the user's
            directory (`COMPTROLLER_OUTBOX`); False: nowhere.
        drain_timeout: for a server: seconds that closing waits for these; what is left stays.
        synchronous: for a file: "FULL" survives a power cut too, and waits for the disk.
        default_budget: for an embedded one: what a tenant gets with its first call (`usd("5")`, or
            `BudgetTerms(usd("5"), per="day")`).
        on_alert: for an embedded one: called with each alert that this process sets off, in a
            thread of its own.
        retention: for a file: how long what is finished is kept (30 days; at least a day and a
            minute, the longest lease). It is kept in the file, and holds for whoever opens it.

    Raises:
        TypeError, ValueError: `url` names no ledger, or one that takes no such setting.
    """
    _must_be_known(url)
    if isinstance(url, str) and _SERVER.match(url):
        _must_be_its_operators(url, default_budget, on_alert, retention)
        from comptroller.ledger.remote.ledger import open_cycles  # aiohttp: a sixth of a second

        return open_cycles(
            url,
            api_key=api_key,
            request_timeout=request_timeout,
            connect_timeout=connect_timeout,
            in_flight=in_flight,
            outbox=outbox,
            drain_timeout=drain_timeout,
        )
    if api_key is not None:
        raise ValueError(f"{os.fspath(url)!r} is an embedded ledger: it takes no api_key")
    terms: Any = {"default_budget": default_budget, "on_alert": on_alert}
    if url == _MEMORY:
        return open_memory(**terms)
    path, name = _file(url)
    return open_sqlite(path, synchronous=synchronous, retention=retention, name=name, **terms)


def _must_be_known(url: object) -> None:
    """Raise an error for another kind of address. It may hold a password: little is shown."""
    if not isinstance(url, str | os.PathLike):
        raise TypeError(f'{url!r} names no ledger: write a path, "memory:" or an address')
    if isinstance(url, str) and (scheme := _SCHEME.match(url)) and scheme[1] not in _KNOWN:
        raise ValueError(
            f"{scheme[0]}... names no kind of ledger that there is: write a path (or sqlite:PATH),"
            f' "{_MEMORY}", or http://localhost:7878 (https://...) for a Cycles server. A ledger of'
            " your own is given as it is: governed_run(..., ledger=yours)"
        )


def _must_be_its_operators(
    url: str,
    default_budget: Amount | BudgetTerms | None,
    on_alert: OnAlert | None,
    retention: timedelta | None,
) -> None:
    if any(given is not None for given in (default_budget, on_alert, retention)):
        theirs = "default_budget, on_alert and retention are for its operator"
        raise ValueError(f"{url!r} is a server: {theirs}")


def _file(url: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the file that `url` names now, wherever the process goes, and how it is written."""
    name = url.removeprefix(_FILE) if isinstance(url, str) else os.fspath(url)
    if not name or name.startswith("//"):
        raise ValueError(f"{str(url)!r} names no ledger: write a path such as ledger.db")
    if isinstance(url, str) and _PLACE.fullmatch(url):
        raise ValueError(f"{url!r}: write http://{url} for a server, {_FILE}{url} for a file")
    return expand_path(name, "names no ledger"), name


@attrs.frozen
class DefaultLedger:
    """The ledger that is used when none is given, and what it fills into subjects.

    Attributes:
        url: as `open_ledger` takes it.
        api_key: the Cycles server's, one tenant's.
        request_timeout: seconds, for a Cycles server.
        connect_timeout: seconds, for a Cycles server.
        workspace: fills a subject that names none; so do `app` and `workflow`.
        app: see `workspace`.
        workflow: see `workspace`.
    """

    url: str
    api_key: str | None = attrs.field(default=None, repr=False)
    request_timeout: float = 5.0
    connect_timeout: float = 2.0
    workspace: str | None = None
    app: str | None = None
    workflow: str | None = None

    def open(
        self, *, outbox: str | os.PathLike[str] | bool = True, drain_timeout: float = 5.0
    ) -> AbstractAsyncContextManager[Any]:
        """As `open_ledger`."""
        return open_ledger(
            self.url,
            outbox=outbox,
            drain_timeout=drain_timeout,
            api_key=self.api_key,
            request_timeout=self.request_timeout,
            connect_timeout=self.connect_timeout,
        )


@contextmanager
def open_keys(ledger: EmbeddedLedger) -> Iterator[ApiKeyStore]:
    """Open the API keys of an open ledger: in its file, or gone with its memory. Blocks."""
    if not isinstance(ledger, SqliteLedger):
        yield MemoryKeys()
        return
    keys = SqliteKeys(ledger.path)
    try:
        yield keys
    finally:
        keys.close()


@contextmanager
def open_webhooks(ledger: EmbeddedLedger) -> Iterator[SqliteWebhooks]:
    """Open the webhooks of an open ledger's file. Blocks.

    Raises:
        ValueError: it has none: `memory:` is told by `on_alert`.
    """
    if not isinstance(ledger, SqliteLedger):
        raise ValueError(f"{ledger.name} keeps no webhooks: name a file, or give on_alert")
    webhooks = SqliteWebhooks(ledger.path)
    try:
        yield webhooks
    finally:
        webhooks.close()


def default_settings() -> DefaultLedger:
    """Return what the environment names.

    `CYCLES_BASE_URL`, with what else `runcycles.CyclesConfig.from_env` reads, is a Cycles server;
    else `COMPTROLLER_LEDGER` is an embedded ledger; else it is `ledger.db` in the user's data
    directory, which is made, for the user alone, and logged once.

    Raises:
        ValueError: a setting that is not what it should be.
        ComptrollerError: the data directory cannot be made.
    """
    server = os.environ.get("CYCLES_BASE_URL")
    if server:
        return _cycles_server(server)
    named = os.environ.get("COMPTROLLER_LEDGER")
    return DefaultLedger(named or f"{_FILE}{_file_of_the_user()}")


def default_ledger() -> AbstractAsyncContextManager[Any]:
    """Return the ledger of `default_settings`, open for the length of an `async with`."""
    return default_settings().open()


def _cycles_server(url: str) -> DefaultLedger:
    if not os.environ.get("CYCLES_API_KEY"):
        return DefaultLedger(url)  # the first request says which tenant's key is missing
    try:
        config = CyclesConfig.from_env()
    except ValueError as error:
        raise ValueError(f"a CYCLES_ variable of the environment: {error}") from None
    return DefaultLedger(
        url,
        api_key=config.api_key,
        request_timeout=config.read_timeout,
        connect_timeout=config.connect_timeout,
        workspace=config.workspace or None,
        app=config.app or None,
        workflow=config.workflow or None,
    )


def _file_of_the_user() -> Path:
    directory = platformdirs.user_data_path("comptroller", appauthor=False)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ComptrollerError(
            f"no directory for the ledger: {error}: name a file in COMPTROLLER_LEDGER"
        ) from None
    _tell(directory / "ledger.db")
    return directory / "ledger.db"


@cache
def _tell(path: Path) -> None:
    """Once for each path."""
    _logger.info("the ledger is %s", path)
