"""Days and months of time zones, those included in which the clocks are changed."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller.core.periods import period_end, period_start, zone_of

HOUR = 3_600_000
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "America/Havana",
]


def at(text, zone="UTC"):
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


@pytest.mark.parametrize(
    ("per", "zone", "now", "start", "end"),
    [
        ("day", "UTC", "2025-06-15T12:00", "2025-06-15T00:00", "2025-06-16T00:00"),
        ("month", "UTC", "2025-01-31T23:59", "2025-01-01T00:00", "2025-02-01T00:00"),
        ("month", "UTC", "2024-02-29T00:00", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("day", "Europe/Berlin", "2025-06-15T00:00", "2025-06-15T00:00", "2025-06-16T00:00"),
        ("month", "America/New_York", "2025-12-31T20:00", "2025-12-01T00:00", "2026-01-01T00:00"),
    ],
)
def test_a_period_is_the_day_or_month_of_its_zone(per, zone, now, start, end):
    moment = at(now, zone)
    assert (period_start(per, zone, moment), period_end(per, zone, moment)) == (
        at(start, zone),
        at(end, zone),
    )


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2025-03-30T12:00", 23),
        ("Europe/Berlin", "2025-10-26T12:00", 25),
        ("America/Sao_Paulo", "2018-11-04T12:00", 23),  # its midnight was skipped
        ("America/Havana", "2025-11-02T12:00", 25),  # its midnight came twice
    ],
)
def test_a_day_in_which_the_clocks_are_changed_is_shorter_or_longer(zone, day, hours):
    noon = at(day, zone)
    assert period_end("day", zone, noon) - period_start("day", zone, noon) == hours * HOUR


def test_a_skipped_midnight_is_the_moment_of_the_change():
    noon = at("2018-11-04T12:00", "America/Sao_Paulo")
    assert period_start("day", "America/Sao_Paulo", noon) == at("2018-11-04T03:00")


@given(
    st.integers(946_684_800_000, 4_102_444_800_000),  # the years 2000 to 2100
    st.sampled_from(ZONES),
    st.sampled_from(["day", "month"]),
)
def test_periods_follow_each_other_without_a_gap(now, zone, per):
    start, end = period_start(per, zone, now), period_end(per, zone, now)
    assert start <= now < end
    assert period_start(per, zone, start) == period_start(per, zone, end - 1) == start
    assert period_start(per, zone, end) == end
    local = datetime.fromtimestamp(start / 1000, ZoneInfo(zone))
    assert local.day == 1 or per == "day"
    assert timedelta(hours=20) <= timedelta(milliseconds=end - start) <= timedelta(days=32)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "Europe", "/UTC", "a\0b"])
def test_what_is_no_time_zone_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match="Europe/Berlin") as caught:
        zone_of(name)
    assert "\n" not in str(caught.value)


def test_a_zone_is_a_name():
    with pytest.raises(TypeError, match="Europe/Berlin"):
        zone_of(3)
