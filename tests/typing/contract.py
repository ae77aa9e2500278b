"""How a ledger of one's own is held to its contract: checked by mypy, never run."""

from collections.abc import AsyncIterator

import pytest
from runcycles import Amount

from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.interface import Ledger
from comptroller.testing.contract import Clock, LedgerContract, SetBudget


class TestOwn(LedgerContract):
    """As its author writes it, under `mypy --strict`."""

    @pytest.fixture
    async def ledger(self, clock: Clock) -> AsyncIterator[Ledger]:
        async with open_memory(now=clock) as ledger:
            yield ledger

    @pytest.fixture
    def set_budget(self, ledger: Ledger) -> SetBudget:
        return self.set_allocation

    async def set_allocation(self, scope: str, allocated: Amount) -> None:
        """What an operator of the own ledger calls."""


async def set_without_units(scope: str, allocated: int) -> None: ...


wrong: SetBudget = set_without_units  # type: ignore[assignment]
