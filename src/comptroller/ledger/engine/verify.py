"""Whether the balances are what the log and the reservations come to.

Every balance can be told twice: by its account, which is kept up to date, and by what has happened.

- `allocated`: what was last set, or renewed to, and what was funded since.
- `reserved`: the estimates of the active reservations that hold it.
- `spent` and `debt` together: what reservations and events were charged, less the debts repaid.
- `debt`: what the log says was owed, less what was repaid.

The same for every period, those included that are over.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import repeat
from typing import Protocol

import attrs
from runcycles import Unit

from comptroller.core.accounts import Account
from comptroller.ledger.models import BalanceMismatch, LogEntry, VerificationReport

BALANCES = ("allocated", "spent", "reserved", "debt")
KINDS = ("set", "fund", "debit", "repay", "renewed", "carried", "debt")
"""The entries of the log that change a balance."""

Name = tuple[str, Unit, int]
"""One account in one period: scope, unit, when it began."""


@attrs.frozen
class ChargedTotal:
    """What reservations or events come to that hold the same scopes in the same periods."""

    held: tuple[str, ...]
    since: tuple[int, ...]
    unit: Unit
    charged: int = 0
    reserved: int = 0
    debt: int = 0
    """What entries of the log made of debt that are no longer kept."""


class Records(Protocol):
    """All that a ledger holds, as it stands at one moment."""

    def accounts(self) -> Iterable[Account]:
        """Return the accounts."""

    def periods(self) -> Iterable[Account]:
        """Return the accounts of the periods that are over."""

    def sums(self) -> Iterable[ChargedTotal]:
        """Return what all reservations and events come to, archived ones included."""

    def changes(self) -> Iterable[LogEntry]:
        """Return the entries of `KINDS`, oldest first."""


@attrs.define
class _Balances:
    allocated: int = 0
    spent: int = 0
    reserved: int = 0
    debt: int = 0


def verified(records: Records) -> VerificationReport:
    """Every balance, recomputed."""
    expected: defaultdict[Name, _Balances] = defaultdict(_Balances)
    for entry in records.changes():
        if entry.unit is not None:
            _add(expected[entry.scope, entry.unit, entry.since_ms], entry)
    for one in records.sums():
        for scope, since_ms in zip(one.held, one.since or repeat(0), strict=False):
            balances = expected[scope, one.unit, since_ms]
            balances.spent += one.charged - one.debt
            balances.reserved += one.reserved
            balances.debt += one.debt
    accounts, periods = list(records.accounts()), list(records.periods())
    differences = [
        difference
        for account in [*accounts, *periods]
        for difference in _differences(
            account, expected.pop((account.scope, account.unit, account.since_ms), _Balances())
        )
    ]
    for (scope, unit, since_ms), balances in expected.items():  # of accounts that are not there
        gone = Account(scope, unit, 0, since_ms=since_ms)
        differences += _differences(gone, balances)
    return VerificationReport(len(accounts), len(periods), tuple(differences))


def _add(balances: _Balances, entry: LogEntry) -> None:
    """Apply one entry of the log."""
    if entry.kind in ("set", "renewed"):
        balances.allocated = entry.amount
    if entry.kind in ("renewed", "carried"):  # a debt, paid out of this period
        balances.spent += entry.debt
    elif entry.kind == "debt":  # what was charged, and not paid
        balances.spent -= entry.debt
        balances.debt += entry.debt
    elif entry.kind in ("fund", "debit", "repay"):
        balances.allocated += entry.amount
        balances.debt += entry.debt


def _differences(account: Account, expected: _Balances) -> list[BalanceMismatch]:
    return [
        BalanceMismatch(account.scope, account.unit, account.since_ms, name, found, due)
        for name in BALANCES
        if (found := getattr(account, name)) != (due := getattr(expected, name))
    ]
