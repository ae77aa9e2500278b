"""The pytest plugin of Comptroller: fixtures for tests of governed agents.

It is a package of its own because pytest imports every plugin at its start, in every project that
has it installed: this one imports nothing until a test asks for a fixture.
"""

from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runcycles import Amount

    from comptroller import Supervisor
    from comptroller.testing import Governing, PlannedLedger

# a law that is broken shows the values that it compares
pytest.register_assert_rewrite("comptroller.testing.contract")


@pytest.fixture
def ledger_budgets() -> "Mapping[str, Sequence[Amount]]":
    """Return the budgets of the fixture `ledger`, scope to amounts: plenty of dollars for `acme`.

    Override it to have other units: a policy that asks in one which production lacks fails here.
    """
    from comptroller import usd

    return {"tenant:acme": [usd("1000000")]}


@pytest.fixture
def ledger(ledger_budgets: "Mapping[str, Sequence[Amount]]") -> "PlannedLedger":
    """Return a ledger in memory with plenty of dollars for `acme`, which records what it is asked.

    `ledger.plan(deny_at(2), lose_answer(1))` says what is to befall the n-th call,
    `await ledger.set_budget(...)` changes a budget. See `ledger_budgets`.
    """
    from comptroller.testing import FundedLedger, PlannedLedger

    return PlannedLedger(FundedLedger(ledger_budgets))


@pytest.fixture
def governed(ledger: "PlannedLedger") -> "Iterator[Governing]":
    """Open governed runs on that ledger.

    As `async with governed(agent) as run`. When the test is over, the runs that have ended must
    have left nothing in the ledger.
    """
    from comptroller.testing import Governing

    governing = Governing(ledger)
    yield governing
    governing.check_ended()


@pytest.fixture
async def supervisor(ledger: "PlannedLedger") -> "AsyncIterator[Supervisor]":
    """Open a supervisor for the test, on the fixture `ledger`.

    What a web backend opens in its lifespan. When the test is over, its runs are cancelled, and
    must have left nothing in the ledger. For anyio's plugin, pytest-asyncio and pytest-trio.
    """
    from comptroller import open_supervisor
    from comptroller.testing import assert_settled

    async with open_supervisor(ledger=ledger) as opened:
        try:
            yield opened
        finally:
            for run in opened.runs.values():
                run.cancel("the test is over")
    await assert_settled(ledger)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Let pytest-asyncio run `supervisor` for its own tests, and leave it to the others' plugins.

    In its strict mode it runs only fixtures that say they are its own, and those in every test.
    """
    if fixturedef.func.__module__ == __name__ and fixturedef.argname == "supervisor":
        runs_it = request.node.get_closest_marker("asyncio") is not None
        fixturedef.func._force_asyncio_fixture = runs_it  # type: ignore[union-attr]
    return (yield)
