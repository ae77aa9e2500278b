"""Times as people write them: `yesterday`, `3h`, `2025-06-15`."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from comptroller.decide.periods import zone_of

_AGO = re.compile(r"(\d{1,6})\s*(m|min|h|d|w)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LIKE = "write it like yesterday, today, 3h, 7d, 2025-06-15 or 2025-06-15T08:30"


def moment(option: str, text: str, now: datetime, zone: str = "UTC") -> datetime:
    """The time that `text` means in `zone`, where it is `now`.

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
            span = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return (now.astimezone(UTC) - span).astimezone(place)
        found = datetime.fromisoformat(text.strip())
        found = found if found.tzinfo else found.replace(tzinfo=place)
        found.timestamp()
    except (ValueError, OverflowError):  # also: before any calendar
        raise ValueError(f"{option} {text!r} is no time: {_LIKE}") from None
    return found


def span(option: str, text: str) -> timedelta:
    """The length of time that `text` means: `30d`, `36h`, `2w`.

    Raises:
        ValueError: none of these, or longer than there are times for.
    """
    if not (found := _AGO.fullmatch(text.strip().lower())):
        raise ValueError(f"{option} {text!r} is no length of time: write it like 36h, 30d or 8w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
