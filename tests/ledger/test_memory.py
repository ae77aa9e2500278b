"""What the ledger in memory promises beyond the contract: any thread may use it."""

import sys
import threading

import anyio
import pytest

from comptroller.ledger.embedded.memory import open_memory
from support.requests import amount, asking, balance_of

pytestmark = pytest.mark.anyio

THREADS, REQUESTS = 3, 300


@pytest.fixture
def restless():
    """Threads take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 1000)
    yield
    sys.setswitchinterval(usual)


async def test_requests_of_several_threads_add_up(restless):
    async with open_memory() as ledger:
        await ledger.set_budget("tenant:acme", amount(10_000))

        async def ask(name):
            for number in range(REQUESTS):
                await ledger.reserve(asking(f"{name}-{number}", 1))

        threads = [threading.Thread(target=anyio.run, args=(ask, n)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == THREADS * REQUESTS
