"""The pytest plugin of Comptroller: fixtures for tests of governed agents.

It is a package of its own because pytest imports every plugin at its start, in every project that
has it installed: this one imports nothing until a test asks for a fixture.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from runcycles import Amount

    from comptroller.testing import Governing, PlannedLedger


@pytest.fixture
def ledger_budgets() -> "Mapping[str, Sequence[Amount]]":
    """The budgets of the fixture `ledger`, scope to amounts: plenty of dollars for `acme`.

    Override it to have other units: a policy that asks in one which production lacks fails here.
    """
    from comptroller import usd

    return {"tenant:acme": [usd("1000000")]}


@pytest.fixture
def ledger(ledger_budgets: "Mapping[str, Sequence[Amount]]") -> "PlannedLedger":
    """A ledger in memory with plenty of dollars for `acme`, which records what it is asked.

    `ledger.plan(deny_at(2), lose_answer(1))` says what is to befall the n-th call,
    `await ledger.set_budget(...)` changes a budget. See `ledger_budgets`.
    """
    from comptroller.testing import FundedLedger, PlannedLedger

    return PlannedLedger(FundedLedger(ledger_budgets))


@pytest.fixture
def governed(ledger: "PlannedLedger") -> "Iterator[Governing]":
    """Opens governed runs on that ledger.

    As `async with governed(agent) as run`. When the test is over, the runs that have ended must
    have left nothing in the ledger.
    """
    from comptroller.testing import Governing

    governing = Governing(ledger)
    yield governing
    governing.check_ended()
