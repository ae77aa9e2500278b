"""Periods: the days and months of a time zone, in epoch milliseconds.

A period begins with the first moment of its first day, wherever the zone's clocks put it: a day in
which they are changed has 23 or 25 hours.
"""

from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

Period = Literal["day", "month"]
PERIODS: tuple[Period, ...] = ("day", "month")

_CALENDAR_MS = 253_370_764_800_000
"""Where a calendar ends (the year 9999). What is later has no period of its own."""


def zone_of(name: str) -> str:
    """`name`, if it names a time zone.

    Raises:
        TypeError: no string.
        ValueError: no time zone of that name; the text shows right ones.
    """
    if not isinstance(name, str):
        raise TypeError(f"zone={name!r}: give a name such as 'Europe/Berlin'")
    try:
        _zone(name)
    except (ValueError, OSError, KeyError):
        raise ValueError(
            f"zone={name!r}: no such time zone: write it like 'UTC', 'Europe/Berlin' or"
            " 'America/New_York'"
        ) from None
    return name


@lru_cache(maxsize=4096)
def period_start(per: Period, zone: str, now_ms: int) -> int:
    """When the period that holds `now_ms` began."""
    return _starts(_first(per, _day(zone, now_ms)), zone)


def period_end(per: Period, zone: str, now_ms: int) -> int:
    """When the period that holds `now_ms` is over: the first moment of the next one."""
    if now_ms >= _CALENDAR_MS:
        return now_ms + 1
    first = _first(per, _day(zone, now_ms))
    step = timedelta(days=1 if per == "day" else 32)
    return _starts(_first(per, first + step), zone)


def _day(zone: str, now_ms: int) -> date:
    return datetime.fromtimestamp(min(now_ms, _CALENDAR_MS) / 1000, _zone(zone)).date()


def _first(per: Period, day: date) -> date:
    return day if per == "day" else day.replace(day=1)


def _starts(day: date, zone: str) -> int:
    """Its first moment. Where midnight was skipped, that is the moment the clocks were changed."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=_zone(zone))
    return int(midnight.timestamp()) * 1000


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
