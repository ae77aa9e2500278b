"""What a person wrote, as values: amounts, ledgers, times. Every error shows how to write it.

Times as people write them: `yesterday`, `3h`, `2025-06-15`.
"""

import os
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import attrs
from runcycles import Amount, Unit

from comptroller._validation import expand_path
from comptroller.core.periods import zone_of
from comptroller.errors import ComptrollerError
from comptroller.ledger.factory import DefaultLedger, default_settings
from comptroller.money import amount as checked
from comptroller.money import usd

_AMOUNT = re.compile(r"\s*(\$?)\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*([a-z_]*)\s*", re.IGNORECASE)
_UNITS = {
    "usd": Unit.USD_MICROCENTS,
    "token": Unit.TOKENS,
    "point": Unit.RISK_POINTS,
    "risk_point": Unit.RISK_POINTS,
    "credit": Unit.CREDITS,
}
_LIKE = "write it like 10usd, 5000tokens or 50points"
_KEY = "CYCLES_API_KEY"


def amount(text: str) -> Amount:
    """`10usd`, `$0.05`, `5000tokens`, `50risk_points`, `50points`, `50credits`.

    Raises:
        ValueError: none of these, without a unit, negative, or a part of a token.
    """
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no amount: {_LIKE}")
    dollar, number, name = found[1], found[2], found[3].lower()
    if not dollar and not name:
        raise ValueError(
            f"{text!r}: of what? write {number}usd, or whole tokens or points such as 5000tokens"
            " (a dollar sign is quoted: '$10')"
        )
    unit = _UNITS.get(name.removesuffix("s") or "usd")
    if unit is None or (dollar and unit is not Unit.USD_MICROCENTS):
        raise ValueError(f"{text!r}: {name!r} is no unit here: {_LIKE}")
    if number.startswith("-"):
        raise ValueError(f"{text!r}: an amount is at least 0: {_LIKE}")
    if unit is Unit.USD_MICROCENTS:
        return usd(number)
    if not number.lstrip("+").isdecimal():
        raise ValueError(f"{text!r}: {name} are whole numbers: {_LIKE}")
    return checked(unit, int(number), shown=repr(text))


def optional_amount(option: str, text: str | None) -> Amount | None:
    """Return the amount of an option, which an error names."""
    if text is None:
        return None
    try:
        return amount(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def optional_unit(option: str, text: str | None) -> Unit | None:
    """Read the unit of an option: `usd`, `tokens`, `points`, `credits`, or the protocol's name.

    Raises:
        ValueError: none of these.
    """
    if text is None:
        return None
    name = text.strip().upper()
    unit = Unit.__members__.get(name) or _UNITS.get(name.lower().removesuffix("s"))
    if unit is None:
        raise ValueError(f"{option} {text!r} is no unit: write usd, tokens, points or credits")
    return unit


def ledger(address: str | None, key_variable: str | None, *, create: bool = False) -> DefaultLedger:
    """Return the ledger that a command means, by its address or by the environment.

    Args:
        address: `--ledger`.
        key_variable: the variable that holds a Cycles server's key.
        create: whether a file that is not there is a new ledger. Looking at one makes none.

    Raises:
        ValueError: the variable is not set, or what `default_settings` raises.
        ComptrollerError: the file is not there.
    """
    settings = meant(address)
    if re.match("https?:", settings.url, re.IGNORECASE) and (address or key_variable):
        from comptroller.ledger.remote.connections import checked_address

        settings = attrs.evolve(
            settings, api_key=_key(key_variable or _KEY, checked_address(settings.url))
        )
    elif "://" not in settings.url and settings.url != "memory:" and not create:
        path = expand_path(settings.url.removeprefix("sqlite:"), "names no ledger")
        if not path.exists() and path.parent.is_dir():
            option = f" --ledger {address}" if address else ""
            raise ComptrollerError(
                f"there is no ledger {settings.url.removeprefix('sqlite:')}: begin one with:"
                f" comptroller budget set tenant:acme 10usd{option}"
            )
    return settings


def meant(address: str | None) -> DefaultLedger:
    """Return the ledger of an address, or the environment's."""
    return default_settings() if address is None else DefaultLedger(address)


def _key(variable: str, url: str) -> str:
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"no API key for {url}: set it with: export {variable}=...")
    return key


_AGO = re.compile(r"(\d{1,6})\s*(m|min|h|d|w)")
_TIME_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TIME_LIKE = "write it like yesterday, today, 3h, 7d, 2025-06-15 or 2025-06-15T08:30"


def moment(option: str, text: str, now: datetime, zone: str = "UTC") -> datetime:
    """Return the time that `text` means in `zone`, where it is `now`.

    `today` and `yesterday` are the first moments of these days; `3h` is three hours ago and `1d`
    24, also where the clocks of the zone were changed in between.

    Raises:
        ValueError: none of these, or no such zone.
    """
    place = ZoneInfo(zone_of(zone))
    written, here = text.strip().lower(), now.astimezone(place)
    days = {"today": 0, "yesterday": 1}
    if written in days:
        day = here.date() - timedelta(days=days[written])
        return datetime(day.year, day.month, day.day, tzinfo=place)
    try:
        if ago := _AGO.fullmatch(written):
            # in UTC: on the clock of a wall, an hour may be missing in between, or there twice
            span = timedelta(**{_TIME_UNITS[ago[2]]: int(ago[1])})
            return (now.astimezone(UTC) - span).astimezone(place)
        found = datetime.fromisoformat(text.strip())
        found = found if found.tzinfo else found.replace(tzinfo=place)
        found.timestamp()
    except (ValueError, OverflowError):  # also: before any calendar
        raise ValueError(f"{option} {text!r} is no time: {_TIME_LIKE}") from None
    return found


def span(option: str, text: str) -> timedelta:
    """Return the length of time that `text` means: `30d`, `36h`, `2w`.

    Raises:
        ValueError: none of these, or longer than there are times for.
    """
    if not (found := _AGO.fullmatch(text.strip().lower())):
        raise ValueError(f"{option} {text!r} is no length of time: write it like 36h, 30d or 8w")
    return timedelta(**{_TIME_UNITS[found[2]]: int(found[1])})
