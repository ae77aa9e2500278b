"""`comptroller serve`: an embedded ledger over HTTP, until a signal stops it.

The first signal stops it gracefully: nothing new is let in, what is in flight is answered. A second
one does not wait for that.
"""

import gc
import logging
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager, ExitStack
from importlib.util import find_spec
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import attrs
from anyio.abc import TaskStatus
from runcycles import Amount

from comptroller import console
from comptroller.errors import ComptrollerError
from comptroller.ledger.embedded import wall_clock
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.ledger.keys import KeyTable, made
from comptroller.ledger.opening import open_keys, open_ledger
from comptroller.ledger.server import Application, serve_ledger

from . import reading
from .exits import complain
from .listening import Tls, listening, open_to_others, tls, url
from .operating import ADMIN_KEY

_ADMIN_KEY_LEAST = 16
_EXTRA = "install what serving needs with: pip install 'comptroller[serve]'"


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
    synchronous: str = "NORMAL"
    default_budget: str | None = None
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
        default_budget=reading.optional_amount("--default-budget", order.default_budget),
    )
    secured = tls(order.tls_cert, order.tls_key, order.tls_key_password_env)
    _log_to(order.access_log)
    with listening(order.host, order.port) as listener:
        if secured is None and open_to_others(listener):
            complain(
                f"warning: plain HTTP on {order.host}, where others can reach it: keys can be read"
                " on the way; use --tls-cert and --tls-key, or a proxy that ends TLS"
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
    from comptroller.ledger.server.metrics import Metrics

    from .uvicorn_server import Server, configured

    async with opened as ledger:
        for scope, allocated in budgets:
            await ledger.set_budget(scope, allocated)
        with ExitStack() as stack:
            keys = stack.enter_context(open_keys(ledger))
            _make_keys(keys, order.key_for)
            application: Application = serve_ledger(
                ledger,
                keys,
                admin_key=admin_key,
                rate=order.rate,
                most_bytes=order.max_body,
                meter=Metrics(),
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
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            server.force_exit = server.should_exit
            server.should_exit = True


def _tell(ledger: EmbeddedLedger, keys: KeyTable, address: str) -> None:
    """That it is ready, and what is missing."""
    console.write_text(f"comptroller serves {ledger.name} at {address}")
    if not any(key.revoked_ms is None for key in keys.all()):
        how = (
            "start with: --key-for TENANT"
            if ledger.name == "memory:"
            else f"create one with: comptroller key create TENANT --ledger {ledger.name}"
        )
        console.write_text(f"nobody has an API key yet: {how}")


def _make_keys(keys: KeyTable, tenants: list[str]) -> None:
    """Keys that are gone with the process, shown as it begins."""
    for tenant in tenants:
        text, key = made(tenant, wall_clock(), "made at the start")
        console.write_text(f"the API key of tenant {key.tenant}, shown this once: {text}")
        keys.add(key)


def _address(order: Order) -> str:
    """Which ledger is served."""
    address = order.ledger or reading.ledger(None, None, create=True).url
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
    return scope, reading.amount(amount)


def _admin_key(variable: str | None) -> str | None:
    """The operator's key. Never an argument: those can be read by everybody on the machine."""
    key = os.environ.get(variable or ADMIN_KEY)
    if key is None and variable is not None:
        raise ValueError(f"--admin-key-env: {variable} is not set: export {variable}=...")
    if key is not None and len(key) < _ADMIN_KEY_LEAST:
        raise ValueError(
            f"the admin key in {variable or ADMIN_KEY} is too short: give it at least"
            f" {_ADMIN_KEY_LEAST} characters, such as those of: openssl rand -hex 32"
        )
    return key


def _log_to(path: str | None) -> None:
    """Send the access log where it was asked for; a log that was moved away is begun anew."""
    if path is None:
        return
    handler: logging.Handler
    if path == "-":
        handler = logging.StreamHandler(sys.stderr)
    elif not Path(path).absolute().parent.is_dir():
        raise ValueError(f"--access-log {path}: its directory is not there")
    else:
        handler = WatchedFileHandler(path, encoding="utf-8")
    logger = logging.getLogger("comptroller.access")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
