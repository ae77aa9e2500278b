"""What an operator does to an account: set it, fund it, freeze it; and what time does: renew it.

Whatever an operator does reconciles: the account is over limit afterwards only where its debt
exceeds what it may owe (protocol, OVERDRAFT RECONCILIATION).
"""

from enum import Enum

import attrs
from runcycles import Amount

from comptroller.decide.admission import Account, Alerts, Denial, Renewal
from comptroller.decide.periods import began, ends
from comptroller.decide.terms import BudgetTerms, Terms
from comptroller.money import MOST

_DAY_MS = 86_400_000
"""More than a clock is ahead of another one that is right: zones and summer time lie within it."""


class Funding(Enum):
    """How an operator moves money: add to a budget, take from it, pay its debt from elsewhere."""

    CREDIT = "CREDIT"
    DEBIT = "DEBIT"
    REPAY_DEBT = "REPAY_DEBT"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"operation={value!r}: write {', '.join(one.name for one in cls)}")


def amended(known: Account | None, allocated: Amount, given: Terms) -> BudgetTerms:
    """What a budget is to be: terms that are not `given` are those that it has.

    What only says how another term is meant ends with it: a zone with its period, a share below
    which caps hold with the caps.

    Raises:
        TypeError, ValueError: terms that make no sense together.
    """
    kept = Terms() if known is None else _terms(known)
    if given.get("per", "day") is None:
        kept.pop("zone", None)
    if given.get("caps", "some") is None:
        kept.pop("caps_below", None)
    kept.update(given)
    return BudgetTerms(allocated, **kept)


def _terms(account: Account) -> Terms:
    terms = Terms(
        overdraft_limit=account.overdraft_limit,
        caps=account.caps,
        caps_below=account.caps_below,
        alerts=account.alerts.at if account.alerts else (),
    )
    if account.renewal is not None:
        terms["per"], terms["zone"] = account.renewal.per, account.renewal.zone
    return terms


def budget(known: Account | None, scope: str, terms: BudgetTerms, now_ms: int = 0) -> Account:
    """The account of a budget that was set; what it has spent, reserved and owes stays.

    One that was closed is open again.

    So does what it has told: an alert is told once a period, however often the budget is set. A
    period that began is not begun again, also where a clock was set back before its beginning; but
    one that begins more than a day from now was begun by a clock that was wrong: today's begins.
    """
    unit, allocated = terms.allocated.unit, terms.allocated.amount
    known = known or Account(scope, unit, allocated)
    per, zone = terms.per, terms.zone
    if per and known.since_ms > now_ms + _DAY_MS:
        known = _anew(known, began(per, zone, now_ms))
    told = known.alerts.told if known.alerts else ()
    present_ms = max(now_ms, known.since_ms)
    return reconciled(
        attrs.evolve(
            known,
            allocated=allocated,
            overdraft_limit=terms.overdraft_limit,
            caps=terms.caps,
            caps_below=terms.caps_below,
            renewal=Renewal(per, ends(per, zone, present_ms), allocated, zone) if per else None,
            alerts=Alerts(terms.alerts, told) if terms.alerts or told else None,
            closed=False,
        )
    )


def fund(account: Account, amount: int, operation: Funding) -> Account | Denial:
    """The account after an operator moved `amount`.

    CREDIT and REPAY_DEBT pay debt first and add the rest to the budget, so `remaining` grows by
    `amount` (protocol, DEBT SEMANTICS; the reference server). They differ in the event log alone.
    DEBIT takes what is left, never more.
    """
    debit = operation is Funding.DEBIT
    repaid = 0 if debit else min(amount, account.debt)
    added = -amount if debit else amount - repaid
    beyond_most = account.allocated + added > MOST
    if beyond_most or (debit and amount > account.remaining):
        return Denial(
            "INVALID_REQUEST" if beyond_most else "BUDGET_EXCEEDED",
            account.scope,
            account.unit,
            amount,
            account.remaining,
            account.allocated,
        )
    return reconciled(
        attrs.evolve(
            account,
            debt=account.debt - repaid,
            allocated=account.allocated + added,
            alerts=_armed(account, added),
        )
    )


def _armed(account: Account, added: int) -> Alerts | None:
    """Money added to a budget that never renews begins a period of its own for its alerts."""
    if account.alerts is None or account.renewal is not None or added <= 0:
        return account.alerts
    return attrs.evolve(account.alerts, told=())


def reconciled(account: Account) -> Account:
    """The account, over limit only where its debt exceeds what it may owe."""
    return attrs.evolve(account, is_over_limit=account.debt > account.overdraft_limit)


def renewed(account: Account, now_ms: int) -> Account:
    """The account as it is at `now_ms`: anew where its period is over.

    What is reserved stays in the period that is over, where its settlement will find it. Debt is
    paid first out of the new one.
    """
    renewal = account.renewal
    if renewal is None or now_ms < renewal.at_ms:
        return account
    return attrs.evolve(
        _anew(account, began(renewal.per, renewal.zone, now_ms)),
        allocated=renewal.allocated,
        renewal=attrs.evolve(renewal, at_ms=ends(renewal.per, renewal.zone, now_ms)),
    )


def _anew(account: Account, since_ms: int) -> Account:
    """The account at the beginning of a period, out of which its debt is paid."""
    return attrs.evolve(
        account,
        spent=account.debt,
        reserved=0,
        debt=0,
        is_over_limit=False,
        since_ms=since_ms,
        alerts=attrs.evolve(account.alerts, told=()) if account.alerts else None,
    )


def told(account: Account) -> tuple[Account, tuple[int, ...]]:
    """The alerts that are due now, in percent, and the account, which will not tell them again."""
    alerts, charged = account.alerts, account.spent + account.debt
    if alerts is None or not charged:
        return account, ()
    due = tuple(
        share
        for share in alerts.at
        if share not in alerts.told and charged * 100 >= share * account.allocated
    )
    if not due:
        return account, ()
    return attrs.evolve(account, alerts=Alerts(alerts.at, alerts.told + due)), due
