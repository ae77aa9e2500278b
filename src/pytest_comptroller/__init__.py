"""The pytest plugin of Comptroller: fixtures for tests of governed agents.

It is a package of its own because pytest imports every plugin at its start, in every project that
has it installed: this one imports nothing until a test asks for a fixture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from comptroller.testing import Governing, PlannedLedger


@pytest.fixture
def ledger() -> "PlannedLedger":
    """A ledger in memory with plenty for the tenant `acme`, which records what it is asked.

    `ledger.plan(deny_at(2), lose_answer(1))` says what is to befall the n-th call,
    `await ledger.set_budget(...)` changes a budget.
    """
    from comptroller.testing import FundedLedger, PlannedLedger

    return PlannedLedger(FundedLedger())


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
