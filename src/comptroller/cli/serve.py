"""`comptroller serve`: an embedded ledger over HTTP, until a signal stops it.

The first signal stops it gracefully: nothing new is let in, what is in flight is answered. A second
one does not wait for that. SIGHUP is such a signal where a terminal was closed; a service has
nothing that it would have to read again, and goes on.
"""

import gc
import logging
import os
import signal
from contextlib import AbstractAsyncContextManager, ExitStack
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Literal, cast

import anyio
import attrs
from anyio.abc import TaskStatus
from runcycles import Amount

from comptroller.cli import output, parsing
from comptroller.cli.budgets import ADMIN_KEY
from comptroller.cli.parsing import span
from comptroller.cli.server_logging import logging_as
from comptroller.errors import ComptrollerError
from comptroller.ledger.api_keys import ApiKeyStore, create_api_key
from comptroller.ledger.embedded.base import MAX_LEASE, wall_clock
from comptroller.ledger.factory import open_keys, open_ledger
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.ledger.remote.outbox import counted
from comptroller.ledger.sqlite import SqliteLedger
from comptroller.server import Application, serve_ledger
from comptroller.server.listen import Tls, listening, open_to_others, tls, url

_MIN_ADMIN_KEY_LENGTH = 16
_EXTRA = "install what serving needs with: pip install 'comptroller[serve]'"

_logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Order:
    """What was asked for, as it was written."""

    ledger: str | None = None
    host: str = "127.0.0.1"
    port: int = 7878
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_key_password_env: str | None = None
    admin_key_env: str | None = None
    rate: float | None = None
    max_body: int = 2**20
    access_log: str | None = None
    grace: float = 10.0
    log_format: str = "text"
    log_level: str = "info"
    synchronous: str = "NORMAL"
    retention: str | None = None
    default_budget: str | None = None
    metrics_by_tenant: bool = False
    key_for: list[str] = attrs.field(factory=list)
    budget: list[str] = attrs.field(factory=list)


def carry_out(order: Order) -> None:
    """Serve until a signal comes."""
    for module in ("uvicorn", "prometheus_client"):
        if find_spec(module) is None:
            raise ComptrollerError(f"no module {module}: {_EXTRA}")
    address = _address(order)
    budgets = [_budget(text) for text in order.budget]
    admin_key = _admin_key(order.admin_key_env)
    opened = open_ledger(
        address,
        synchronous=_synchronous(order.synchronous),
        retention=_retention(order, address),
        default_budget=parsing.optional_amount("--default-budget", order.default_budget),
    )
    secured = tls(order.tls_cert, order.tls_key, order.tls_key_password_env)
    with (
        logging_as(order.log_format, order.log_level, order.access_log),
        listening(order.host, order.port) as listener,
    ):
        if secured is None and open_to_others(listener):
            _logger.warning(
                "plain HTTP on %s, where others can reach it: keys can be read on the way; use"
                " --tls-cert and --tls-key, or a proxy that ends TLS",
                order.host,
            )
        fast = find_spec("uvloop") is not None
        anyio.run(
            _serve, order, opened, budgets, admin_key, secured, listener,
            backend_options={"use_uvloop": fast},
        )  # fmt: skip


async def _serve(
    order: Order,
    opened: AbstractAsyncContextManager[EmbeddedLedger],
    budgets: list[tuple[str, Amount]],
    admin_key: str | None,
    secured: Tls | None,
    listener: Any,
) -> None:
    from comptroller.server.metrics import Metrics
    from comptroller.server.uvicorn_server import Server, configured

    async with opened as ledger:
        for scope, allocated in budgets:
            await ledger.set_budget(scope, allocated)
        with ExitStack() as stack:
            keys = stack.enter_context(open_keys(ledger))
            _make_keys(keys, order.key_for)
            metrics = Metrics(
                ledger,
                outbox=counted,
                now_ms=wall_clock,
                by_tenant=order.metrics_by_tenant,
            )
            if isinstance(ledger, SqliteLedger):
                ledger.on_wait = metrics.waited
            application: Application = serve_ledger(
                ledger,
                keys,
                admin_key=admin_key,
                rate=order.rate,
                most_bytes=order.max_body,
                meter=metrics,
            )
            server = Server(configured(application, secured, order.grace))
            server.ready = lambda: _tell(ledger, keys, url(listener, secure=secured is not None))
            gc.freeze()  # what was imported stays: each full collection would walk through it
            async with anyio.create_task_group() as tasks:
                await tasks.start(_stop_on_signals, server)
                await server.serve([listener])
                tasks.cancel_scope.cancel()


async def _stop_on_signals(
    server: Any, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has it ignored
        numbers.append(signal.SIGHUP)
    with anyio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP and not _has_a_terminal():
                _logger.info("SIGHUP: there is nothing to read again; moved logs are noticed alone")
                continue
            server.force_exit = server.should_exit
            server.should_exit = True


def _tell(ledger: EmbeddedLedger, keys: ApiKeyStore, address: str) -> None:
    """Say that the server is ready, and what is missing."""
    output.write_text(f"comptroller serves {ledger.name} at {address}")
    if not any(key.revoked_ms is None for key in keys.all()):
        how = (
            "start with: --key-for TENANT"
            if ledger.name == "memory:"
            else f"create one with: comptroller key create TENANT --ledger {ledger.name}"
        )
        output.write_text(f"nobody has an API key yet: {how}")


def _make_keys(keys: ApiKeyStore, tenants: list[str]) -> None:
    """Keys that are gone with the process, shown as it begins."""
    for tenant in tenants:
        text, key = create_api_key(tenant, wall_clock(), "made at the start")
        output.write_text(f"the API key of tenant {key.tenant}, shown this once: {text}")
        keys.add(key)


def _address(order: Order) -> str:
    """Which ledger is served."""
    address = order.ledger or parsing.ledger(None, None, create=True).url
    if "://" in address:
        raise ValueError(f"{address} is a server already: serve a file, or memory:")
    if (order.key_for or order.budget) and address != "memory:":
        raise ValueError(
            "--key-for and --budget are for memory:, which no other command reaches; for a file"
            " use comptroller key create and comptroller budget set"
        )
    return address


def _synchronous(text: str) -> Literal["NORMAL", "FULL"]:
    if text not in ("NORMAL", "FULL"):
        raise ValueError(f"--synchronous {text}: write NORMAL or FULL")
    return cast("Literal['NORMAL', 'FULL']", text)


def _budget(text: str) -> tuple[str, Amount]:
    scope, equals, amount = text.partition("=")
    if not equals:
        raise ValueError(f"--budget {text!r}: write SCOPE=AMOUNT, such as tenant:acme=10usd")
    return scope, parsing.amount(amount)


def _admin_key(variable: str | None) -> str | None:
    """Return the operator's key.

    Never an argument: those can be read by everybody on the machine.
    """
    key = os.environ.get(variable or ADMIN_KEY)
    if key is None and variable is not None:
        raise ValueError(f"--admin-key-env: {variable} is not set: export {variable}=...")
    if key is not None and len(key) < _MIN_ADMIN_KEY_LENGTH:
        raise ValueError(
            f"the admin key in {variable or ADMIN_KEY} is too short: give it at least"
            f" {_MIN_ADMIN_KEY_LENGTH} characters, such as those of: openssl rand -hex 32"
        )
    return key


def _retention(order: Order, address: str) -> timedelta | None:
    """How long what is finished is kept; None: as the file says."""
    if order.retention is None:
        return None
    if address == "memory:":
        raise ValueError("--retention is for a file: what is in memory: ends with the server")
    kept = span("--retention", order.retention)
    if kept < MAX_LEASE:
        raise ValueError(
            f"--retention {order.retention}: requests about a call may come for a day and a minute,"
            " so keep it longer: such as 2d"
        )
    return kept


def _has_a_terminal() -> bool:
    """Whether a person's terminal would be left behind."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
