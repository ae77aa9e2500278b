"""Accounts as the protocol shows them: balances.

Nested values are given to pydantic as plain mappings and validated at once: building each `Amount`
by itself costs several times as much. Debt, overdraft limit and `is_over_limit` are left out where
there is none, as the reference server does.
"""

from typing import Any

from pydantic import TypeAdapter
from runcycles import Balance, Unit

from comptroller.decide.admission import Account, Accounts
from comptroller.decide.scopes import innermost

_BALANCES = TypeAdapter(list[Balance])


def amount(unit: Unit, count: int) -> dict[str, Any]:
    """An amount. Its unit is named: outside of a model pydantic is slow to write an enum."""
    return {"unit": unit._value_, "amount": count}


def balance(account: Account) -> dict[str, Any]:
    """A balance."""
    unit = account.unit
    shown: dict[str, Any] = {
        "scope": innermost(account.scope),
        "scope_path": account.scope,
        "remaining": amount(unit, account.remaining),
        "reserved": amount(unit, account.reserved),
        "spent": amount(unit, account.spent),
        "allocated": amount(unit, account.allocated),
    }
    if account.debt:
        shown["debt"] = amount(unit, account.debt)
    if account.overdraft_limit:
        shown["overdraft_limit"] = amount(unit, account.overdraft_limit)
    if account.is_over_limit:
        shown["is_over_limit"] = True
    return shown


def balances(accounts: Accounts) -> list[Balance]:
    """The balances of all of them."""
    return _BALANCES.validate_python([balance(account) for account in accounts])
