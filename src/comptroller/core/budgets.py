"""What an operator does to an account: set it, fund it, freeze it; and what time does: renew it.

Whatever an operator does reconciles: the account is over limit afterwards only where its debt
exceeds what it may owe (protocol, OVERDRAFT RECONCILIATION).

The terms of a budget, as its operator states them: how much, how often anew, with which caps.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import Any, TypedDict

import attrs
from runcycles import Amount, Caps

from comptroller.core.accounts import Account, Alerts, Denial, Renewal
from comptroller.core.periods import PERIODS, Period, period_end, period_start, zone_of
from comptroller.money import MAX_AMOUNT, amount

Share = str | int
"""A part of a whole: `"80%"`, or 80."""

_PERCENT = re.compile(r"\s*(\d{1,3})\s*%\s*")


def percent(given: Any, name: str) -> int:
    """Parse a share: `"80%"`, or the whole number 80.

    Raises:
        TypeError: neither.
        ValueError: not from 1 to 100.
    """
    if isinstance(given, str) and (written := _PERCENT.fullmatch(given)):
        given = int(written[1])
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name}={given!r}: write a share like '80%'")
    if not 1 <= given <= 100:  # noqa: PLR2004
        raise ValueError(f"{name}={given!r}: a share is 1% to 100%")
    return given


def checked_amount(given: Any) -> Amount:
    """`given`, if it is an amount of the protocol.

    Raises:
        TypeError: no amount, such as a bare number.
        ValueError: negative, or more than the protocol carries.
    """
    if not isinstance(given, Amount):
        raise TypeError(f'{given!r} is no amount: write usd("10"), tokens(5000) or an Amount')
    return amount(given.unit, given.amount)


def shares(given: Any) -> tuple[int, ...]:
    """Parse the shares at which alerts are told: one, or several.

    Raises:
        TypeError, ValueError: one that is none.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        given = (given,)
    return tuple(sorted({percent(one, "alerts") for one in given}))


class Terms(TypedDict, total=False):
    """The terms of a budget besides its amount, as `BudgetTerms` has them.

    Where a budget is set again, a term that is left out stays as it is. Named, it takes the place
    of the old one, and ends with None: `per=None`, `caps=None`, `alerts=()`, `overdraft_limit=0`.
    """

    overdraft_limit: int
    caps: Caps | None
    caps_below: Share | None
    per: Period | None
    zone: str
    alerts: Share | Iterable[Share]


def _share(given: Any) -> int | None:
    return None if given is None else percent(given, "caps_below")


@attrs.frozen(kw_only=True)
class BudgetTerms:
    """What a budget is to be: `BudgetTerms(usd("10"), per="day", zone="Europe/Berlin")`.

    Attributes:
        allocated: what may be spent, in all or in every period.
        overdraft_limit: what may be owed beyond it, in its unit, by calls that ask for it.
        caps: conditions of every grant, or, with `caps_below`, of those made when less than that
            share of the budget remains (`"20%"`): a soft landing.
        caps_below: see `caps`.
        per: `"day"` or `"month"`: it begins anew; None: never.
        zone: the time zone whose days and months are meant.
        alerts: shares of the budget (`("80%", "100%")`) that are told once a period when spent.

    Raises:
        TypeError, ValueError: a value that is none of these; the text shows how to write it.
    """

    allocated: Amount = attrs.field(converter=checked_amount, kw_only=False)
    overdraft_limit: int = attrs.field(default=0)
    caps: Caps | None = attrs.field(default=None)
    caps_below: int | None = attrs.field(default=None, converter=_share)
    per: Period | None = attrs.field(default=None)
    zone: str = attrs.field(default="UTC", converter=zone_of)
    alerts: tuple[int, ...] = attrs.field(default=(), converter=shares)

    def __attrs_post_init__(self) -> None:
        limit = self.overdraft_limit
        amount(self.allocated.unit, limit, shown=f"overdraft_limit={limit!r}")
        if self.caps is not None and not isinstance(self.caps, Caps):
            raise TypeError(f"caps={self.caps!r}: give a runcycles.Caps")
        if self.caps is None and self.caps_below is not None:
            raise ValueError(f"caps_below={self.caps_below}%: of which caps? give them, too")
        if self.per is not None and self.per not in PERIODS:
            raise ValueError(
                f'per={self.per!r}: a budget renews per "day" or per "month" (UTC, or the days'
                ' and months of a zone such as "Europe/Berlin"), or never'
            )
        if self.per is None and self.zone != "UTC":
            raise ValueError(f'zone={self.zone!r}: whose days? write per="day" or per="month", too')


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
    """Return what a budget is to be: terms that are not `given` are those that it has.

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


def apply_terms(known: Account | None, scope: str, terms: BudgetTerms, now_ms: int = 0) -> Account:
    """Return the account of a budget that was set; what it has spent, reserved and owes stays.

    One that was closed is open again.

    So does what it has told: an alert is told once a period, however often the budget is set. A
    period that began is not begun again, also where a clock was set back before its beginning; but
    one that begins more than a day from now was begun by a clock that was wrong: today's begins.
    """
    unit, allocated = terms.allocated.unit, terms.allocated.amount
    known = known or Account(scope, unit, allocated)
    per, zone = terms.per, terms.zone
    if per and known.since_ms > now_ms + _DAY_MS:
        known = _anew(known, period_start(per, zone, now_ms))
    told = known.alerts.told if known.alerts else ()
    present_ms = max(now_ms, known.since_ms)
    return reconciled(
        attrs.evolve(
            known,
            allocated=allocated,
            overdraft_limit=terms.overdraft_limit,
            caps=terms.caps,
            caps_below=terms.caps_below,
            renewal=Renewal(per, period_end(per, zone, present_ms), allocated, zone)
            if per
            else None,
            alerts=Alerts(terms.alerts, told) if terms.alerts or told else None,
            closed=False,
        )
    )


def fund(account: Account, amount: int, operation: Funding) -> Account | Denial:
    """Return the account after an operator moved `amount`.

    CREDIT and REPAY_DEBT pay debt first and add the rest to the budget, so `remaining` grows by
    `amount` (protocol, DEBT SEMANTICS; the reference server). They differ in the event log alone.
    DEBIT takes what is left, never more.
    """
    debit = operation is Funding.DEBIT
    repaid = 0 if debit else min(amount, account.debt)
    added = -amount if debit else amount - repaid
    beyond_most = account.allocated + added > MAX_AMOUNT
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
            alerts=_reset_alerts(account, added),
        )
    )


def _reset_alerts(account: Account, added: int) -> Alerts | None:
    """Money added to a budget that never renews begins a period of its own for its alerts."""
    if account.alerts is None or account.renewal is not None or added <= 0:
        return account.alerts
    return attrs.evolve(account.alerts, told=())


def reconciled(account: Account) -> Account:
    """Return the account, over limit only where its debt exceeds what it may owe."""
    return attrs.evolve(account, is_over_limit=account.debt > account.overdraft_limit)


def renewed(account: Account, now_ms: int) -> Account:
    """Return the account as it is at `now_ms`: anew where its period is over.

    What is reserved stays in the period that is over, where its settlement will find it. Debt is
    paid first out of the new one.
    """
    renewal = account.renewal
    if renewal is None or now_ms < renewal.at_ms:
        return account
    return attrs.evolve(
        _anew(account, period_start(renewal.per, renewal.zone, now_ms)),
        allocated=renewal.allocated,
        renewal=attrs.evolve(renewal, at_ms=period_end(renewal.per, renewal.zone, now_ms)),
    )


def _anew(account: Account, since_ms: int) -> Account:
    """Return the account at the beginning of a period, out of which its debt is paid."""
    return attrs.evolve(
        account,
        spent=account.debt,
        reserved=0,
        debt=0,
        is_over_limit=False,
        since_ms=since_ms,
        alerts=attrs.evolve(account.alerts, told=()) if account.alerts else None,
    )


def due_alerts(account: Account) -> tuple[Account, tuple[int, ...]]:
    """Return the alerts that are due now, in percent, and the account that has told them."""
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
