"""What an operator does to an account: set it, fund it, freeze it; and what time does: renew it.

Whatever an operator does reconciles: the account is over limit afterwards only where its debt
exceeds what it may owe (protocol, OVERDRAFT RECONCILIATION).
"""

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Literal

import attrs
from runcycles import Caps, Unit

from comptroller.decide.admission import Account, Denial, Renewal
from comptroller.money import MOST

Period = Literal["day", "month"]


class Funding(Enum):
    """How an operator moves money: add to a budget, take from it, pay its debt from elsewhere."""

    CREDIT = "CREDIT"
    DEBIT = "DEBIT"
    REPAY_DEBT = "REPAY_DEBT"


def budget(
    known: Account | None,
    scope: str,
    unit: Unit,
    allocated: int,
    *,
    overdraft_limit: int = 0,
    caps: Caps | None = None,
    per: Period | None = None,
    now_ms: int = 0,
) -> Account:
    """The account of a budget that was set; what it has spent, reserved and owes stays."""
    known = known or Account(scope, unit, allocated)
    return reconciled(
        attrs.evolve(
            known,
            allocated=allocated,
            overdraft_limit=overdraft_limit,
            caps=caps,
            renewal=Renewal(per, next_period(per, now_ms), allocated) if per else None,
        )
    )


def fund(account: Account, amount: int, operation: Funding) -> Account | Denial:
    """The account after an operator moved `amount`.

    CREDIT pays debt first and adds the rest to the budget, so `remaining` grows by `amount`
    (protocol, DEBT SEMANTICS). REPAY_DEBT pays debt only. DEBIT takes what is left, never more.
    """
    repaid = 0 if operation is Funding.DEBIT else min(amount, account.debt)
    added = {
        Funding.CREDIT: amount - repaid,
        Funding.REPAY_DEBT: 0,
        Funding.DEBIT: -amount,
    }[operation]
    beyond_most = account.allocated + added > MOST
    if beyond_most or (operation is Funding.DEBIT and amount > account.remaining):
        return Denial(
            "INVALID_REQUEST" if beyond_most else "BUDGET_EXCEEDED",
            account.scope,
            account.unit,
            amount,
            account.remaining,
            account.allocated,
        )
    return reconciled(
        attrs.evolve(account, debt=account.debt - repaid, allocated=account.allocated + added)
    )


def reconciled(account: Account) -> Account:
    """The account, over limit only where its debt exceeds what it may owe."""
    return attrs.evolve(account, is_over_limit=account.debt > account.overdraft_limit)


def renewed(account: Account, now_ms: int) -> Account:
    """The account as it is at `now_ms`: anew where its period is over.

    What is reserved stays reserved; debt is paid first out of the new period.
    """
    renewal = account.renewal
    if renewal is None or now_ms < renewal.at_ms:
        return account
    return attrs.evolve(
        account,
        allocated=renewal.allocated,
        spent=account.debt,
        debt=0,
        is_over_limit=False,
        renewal=attrs.evolve(renewal, at_ms=next_period(renewal.per, now_ms)),
    )


def next_period(per: Period, now_ms: int) -> int:
    """When the day or month (UTC) that holds `now_ms` ends, in epoch milliseconds."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        end = start + timedelta(days=1)
    else:
        end = (start.replace(day=1) + timedelta(days=32)).replace(day=1)
    return int(end.timestamp()) * 1000
