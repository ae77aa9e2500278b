"""Ledgers to test, on a clock that tests move.

A suite that asks for `ledger` runs against every implementation. To add one, write an async context
manager `(clock, tmp_path, **options) -> ledger` and put it into `LEDGERS`.
"""

from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest

from comptroller.ledger.memory import open_memory


@attrs.define
class Clock:
    """Epoch milliseconds that stand still until a test advances them."""

    start: int = 1_750_000_000_000
    now: int = attrs.Factory(lambda self: self.start, takes_self=True)

    def __call__(self):
        return self.now

    def advance(self, milliseconds):
        self.now += milliseconds


@asynccontextmanager
async def memory(clock, tmp_path):
    async with open_memory(now=clock) as ledger:
        yield ledger


LEDGERS = {"memory": memory}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=sorted(LEDGERS))
async def ledger(request, clock, tmp_path):
    """One embedded ledger of each kind, empty, on `clock`."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(LEDGERS[request.param](clock, tmp_path))
