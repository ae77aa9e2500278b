"""The contract of a ledger, as a pytest suite: one of your own is held to it in your own tests.

::

    import pytest
    from comptroller.testing.contract import LedgerContract

    class TestMyLedger(LedgerContract):
        @pytest.fixture
        async def ledger(self, clock):  # open and empty, one for each test
            async with open_my_ledger(now=clock) as ledger:
                yield ledger

        @pytest.fixture
        def set_budget(self, ledger):  # not needed where the ledger has a `set_budget` of its own
            return ledger.admin.set_allocation  # async (scope, amount)

The tests run in anyio's pytest plugin, on the backends that a fixture `anyio_backend` names. A test
that fails says which rule was broken. `clock` gives epoch milliseconds and is advanced by the laws
of leases; a ledger that keeps its own time has a fixture `clock` that calls `pytest.skip`.

Pytest is needed here alone: `comptroller.testing` does not import this package.

===================  =========================================================================
`LedgerContract`     what every `Ledger` keeps: atomic, idempotent, leases, pages, tenants
`OperatorContract`   also of those whose budgets are set, funded, frozen and closed in place
`EmbeddedContract`   also of those that have all members of `EmbeddedLedger`
===================  =========================================================================
"""

from comptroller.testing.contract.budgets import BudgetLaws
from comptroller.testing.contract.embedded import EmbeddedLaws
from comptroller.testing.contract.given import Clock, SetBudget
from comptroller.testing.contract.leases import LeaseLaws
from comptroller.testing.contract.operators import OperatorLaws
from comptroller.testing.contract.records import RecordLaws
from comptroller.testing.contract.replays import ReplayLaws

__all__ = ["Clock", "EmbeddedContract", "LedgerContract", "OperatorContract", "SetBudget"]


class LedgerContract(BudgetLaws, ReplayLaws, LeaseLaws, RecordLaws):
    """What every ledger keeps: the rules of `Ledger` and of the Cycles protocol."""


class OperatorContract(LedgerContract, OperatorLaws):
    """A ledger whose budgets are set in place: `EmbeddedLedger` up to its member `budgets`."""


class EmbeddedContract(OperatorContract, EmbeddedLaws):
    """A ledger that has all members of `EmbeddedLedger`: its log and its reports, too."""
