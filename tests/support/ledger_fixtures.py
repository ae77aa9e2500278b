"""Ledgers to test, on a clock that tests move.

A suite that asks for `ledger` runs against every implementation. To add one, write an async context
manager `(clock, tmp_path)` that gives an `EmbeddedLedger`, or a ledger whose budgets are set in the
same way, and put it into `LEDGERS`. Ledgers of `DURABLE` find again what they were told.
"""

from contextlib import asynccontextmanager

import pytest

from comptroller.ledger.cycles_client import as_client
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.remote.ledger import CyclesLedger
from comptroller.ledger.sqlite import open_sqlite
from support.http_ledger import Served, over_http
from support.manual_clock import Clock


@asynccontextmanager
async def memory(clock, tmp_path):
    async with open_memory(now=clock) as ledger:
        yield ledger


@asynccontextmanager
async def sqlite(clock, tmp_path):
    async with open_sqlite(tmp_path / "ledger.db", now=clock) as ledger:
        yield ledger


@asynccontextmanager
async def client(clock, tmp_path):
    """The Cycles SDK's client of a ledger, and a ledger again."""
    async with open_memory(now=clock) as behind:
        remote = CyclesLedger(Clients(behind), request_timeout=5, in_flight=100)
        yield Served(remote, behind)


class Clients:
    """One for each tenant."""

    address = "a client"

    def __init__(self, ledger):
        self._ledger = ledger

    async def client(self, tenant):
        return as_client(self._ledger, tenant=tenant)


EMBEDDED = {"memory": memory, "sqlite": sqlite}
LEDGERS = {**EMBEDDED, "cycles": over_http, "client": client}
DURABLE = {"sqlite": sqlite}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=sorted(LEDGERS))
async def ledger(request, clock, tmp_path):
    """One ledger of each kind, empty, on `clock`."""
    async with LEDGERS[request.param](clock, tmp_path) as ledger:
        yield ledger


@pytest.fixture(params=sorted(EMBEDDED))
async def embedded(request, clock, tmp_path):
    """The same, of those that are their own operator and whose answers cannot get lost."""
    async with EMBEDDED[request.param](clock, tmp_path) as ledger:
        yield ledger


@pytest.fixture(params=sorted(DURABLE))
def reopened(request, clock, tmp_path):
    """Opens the same durable ledger each time it is called."""
    return lambda: DURABLE[request.param](clock, tmp_path)
