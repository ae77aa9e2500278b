"""The terms of a budget, as its operator states them: how much, how often anew, with which caps."""

import re
from collections.abc import Iterable
from typing import Any, TypedDict

import attrs
from runcycles import Amount, Caps

from comptroller.decide.periods import PERIODS, Period, zone_of
from comptroller.money import amount

Share = str | int
"""A part of a whole: `"80%"`, or 80."""

_PERCENT = re.compile(r"\s*(\d{1,3})\s*%\s*")


def percent(given: Any, name: str) -> int:
    """A share: `"80%"`, or the whole number 80.

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
    """The shares at which alerts are told: one, or several.

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
