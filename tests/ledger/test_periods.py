"""Budgets that renew: by the days of a zone, once, and with what was reserved in its own period."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import anyio
import pytest

from comptroller.errors import BudgetExceeded
from comptroller.ledger.sqlite import open_sqlite
from support.manual_clock import Clock
from support.requests import (
    OVERDRAFT,
    amount,
    asking,
    balance_of,
    committing,
    counts,
    event,
    extending,
    releasing,
)

pytestmark = pytest.mark.anyio

MINUTE, DAY = 60_000, 86_400_000
SCOPE = "tenant:acme"


def just_before(day, zone="UTC"):
    """A minute before the first moment of a day of `zone`."""
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    return int(midnight.timestamp()) * 1000 - MINUTE


@pytest.fixture
def clock():
    return Clock(just_before("2025-06-16"))


async def whole(ledger):
    """The ledger is as its history says."""
    found = await ledger.verify()
    assert found.differences == ()
    return found


async def period(ledger, number=0):
    """The account of a period that is over."""
    return await ledger._read(lambda records: list(records.periods())[number])


async def test_what_was_reserved_before_midnight_is_charged_to_the_day_before(embedded, clock):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    one = await embedded.reserve(asking("k", 60, ttl_ms=600_000))
    clock.advance(2 * MINUTE)
    assert await balance_of(embedded, SCOPE) == {
        "allocated": 100, "spent": 0, "reserved": 0, "debt": 0, "remaining": 100,
    }  # fmt: skip
    await embedded.reserve(asking("k2", 100))
    done = await embedded.commit(one.reservation_id, committing("c", 40))
    assert done.charged.amount == 40
    assert counts(done.balances[0]) | {"spent": 40, "reserved": 0} == counts(done.balances[0])
    yesterday = await period(embedded)
    assert (yesterday.spent, yesterday.reserved) == (40, 0)
    assert (await balance_of(embedded, SCOPE))["spent"] == 0
    assert (await whole(embedded)).periods == 1


async def test_it_is_charged_so_also_where_nobody_asked_anything_of_the_new_day(embedded, clock):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    one = await embedded.reserve(asking("k", 60, ttl_ms=600_000))
    clock.advance(2 * MINUTE)
    await embedded.commit(one.reservation_id, committing("c", 40))
    assert (await balance_of(embedded, SCOPE))["spent"] == 0
    await embedded.reserve(asking("k2", 100))
    assert (await period(embedded)).spent == 40
    await whole(embedded)


@pytest.mark.parametrize("settles", ["release", "expire", "extend"])
async def test_what_is_given_back_is_given_back_to_the_day_before(embedded, clock, settles):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    one = await embedded.reserve(asking("k", 60, ttl_ms=5 * MINUTE))
    clock.advance(2 * MINUTE)
    await embedded.reserve(asking("k2", 100, ttl_ms=DAY))
    assert (await period(embedded)).reserved == 60
    if settles == "release":
        await embedded.release(one.reservation_id, releasing("r"))
    elif settles == "extend":
        await embedded.extend(one.reservation_id, extending("x", 60 * MINUTE))
        clock.advance(50 * MINUTE)
        await embedded.commit(one.reservation_id, committing("c", 60))
    else:
        clock.advance(10 * MINUTE)
        await balance_of(embedded, SCOPE)  # whatever is asked
    assert (await period(embedded)).reserved == 0
    assert (await balance_of(embedded, SCOPE))["reserved"] == 100
    await whole(embedded)


async def test_more_than_was_reserved_is_taken_from_what_the_day_before_had_left(embedded, clock):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    one = await embedded.reserve(asking("k", 60, ttl_ms=600_000))
    clock.advance(2 * MINUTE)
    await embedded.reserve(asking("k2", 10))
    done = await embedded.commit(one.reservation_id, committing("c", 150))
    assert done.charged.amount == 100
    assert (await period(embedded)).spent == 100
    await embedded.reserve(asking("k3", 90))  # the new day is open, and whole
    await whole(embedded)


async def test_a_debt_of_the_day_before_is_paid_out_of_the_new_day_whenever_it_is_made(
    embedded, clock
):
    await embedded.set_budget(SCOPE, amount(100), overdraft_limit=50, per="day")
    early, late = [
        await embedded.reserve(asking(key, 50, ttl_ms=600_000, overage_policy=OVERDRAFT))
        for key in ("k1", "k2")
    ]
    await embedded.commit(early.reservation_id, committing("c", 70))
    clock.advance(2 * MINUTE)
    await embedded.record(event("e", 1))
    assert (await balance_of(embedded, SCOPE))["spent"] == 20 + 1
    await embedded.commit(late.reservation_id, committing("c", 80))
    assert (await balance_of(embedded, SCOPE))["spent"] == 20 + 1 + 30
    assert (await period(embedded)).debt == 50
    await whole(embedded)


async def test_a_debt_of_a_day_long_over_is_paid_out_of_today(embedded, clock):
    """Not of yesterday, which is over too, and which nobody has asked anything of since."""
    await embedded.set_budget(SCOPE, amount(100), overdraft_limit=50, per="day")
    one = await embedded.reserve(asking("k", 10, ttl_ms=DAY, overage_policy=OVERDRAFT))
    await embedded.extend(one.reservation_id, extending("x", DAY))
    await embedded.record(event("e1", 90))
    clock.advance(2 * MINUTE)
    await embedded.record(event("e2", 1))
    clock.advance(DAY)
    await embedded.commit(one.reservation_id, committing("c", 50))
    assert (await balance_of(embedded, SCOPE))["spent"] == 40
    found = await whole(embedded)
    assert found.periods == 2


async def test_a_subject_may_have_budgets_of_different_periods(embedded, clock):
    await embedded.set_budget(SCOPE, amount(1000), per="month")
    await embedded.set_budget(f"{SCOPE}/app:shop", amount(500))
    await embedded.set_budget(f"{SCOPE}/app:shop/agent:a", amount(100), per="day")
    one = await embedded.reserve(asking("k", 60, app="shop", agent="a", ttl_ms=600_000))
    clock.advance(2 * MINUTE)
    two = await embedded.reserve(asking("k2", 100, app="shop", agent="a", ttl_ms=600_000))
    for number, made in enumerate((one, two)):
        await embedded.commit(made.reservation_id, committing("c", 50 + number))
    assert [counts(b)["spent"] for b in await embedded.budgets()] == [101, 101, 51]
    assert (await period(embedded)).spent == 50
    assert (await whole(embedded)).accounts == 3


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
async def test_a_day_is_the_day_of_its_zone(embedded, clock, zone):
    clock.now = just_before("2025-03-30", zone)  # in Berlin, the clocks are changed that day
    await embedded.set_budget(SCOPE, amount(100), per="day", zone=zone)
    await embedded.record(event("e1", 100))
    clock.advance(MINUTE - 1)
    assert (await balance_of(embedded, SCOPE))["remaining"] == 0
    clock.advance(1)
    assert (await balance_of(embedded, SCOPE))["remaining"] == 100
    [shown] = await embedded.budgets()
    assert (shown.per, shown.zone) == ("day", zone)
    tomorrow = datetime.fromtimestamp(shown.renews_at_ms / 1000, ZoneInfo(zone))
    assert tomorrow.isoformat().startswith("2025-03-31T00:00:00")


async def test_a_zone_that_is_none_is_refused_and_sets_nothing(embedded):
    with pytest.raises(ValueError, match="Europe/Berlin"):
        await embedded.set_budget(SCOPE, amount(1), per="day", zone="Mars/Olympus")
    assert await embedded.budgets() == []


async def test_what_was_spent_on_another_day_does_not_count_where_the_budget_is_set_again(
    embedded, clock
):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    await embedded.record(event("e", 70))
    clock.advance(DAY)
    shown = await embedded.set_budget(SCOPE, amount(50), per="day")
    assert counts(shown)["remaining"] == 50
    await whole(embedded)


async def test_a_budget_that_renews_no_more_keeps_what_its_last_period_holds(embedded, clock):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    clock.advance(DAY)
    one = await embedded.reserve(asking("k", 60, ttl_ms=DAY))
    await embedded.set_budget(SCOPE, amount(80), per=None)
    clock.advance(DAY // 2)
    await embedded.commit(one.reservation_id, committing("c", 30))
    assert (await balance_of(embedded, SCOPE))["spent"] == 30
    await embedded.set_budget(SCOPE, amount(80), per="month", zone="Asia/Tokyo")
    await whole(embedded)


async def test_a_clock_that_is_set_back_over_midnight_confuses_nothing(embedded, clock):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    clock.advance(2 * MINUTE)
    await embedded.record(event("e1", 10))
    clock.now -= 60 * MINUTE
    one = await embedded.reserve(asking("k", 60))
    clock.advance(MINUTE // 2)
    await embedded.commit(one.reservation_id, committing("c", 20))
    clock.advance(DAY + 60 * MINUTE)
    assert (await balance_of(embedded, SCOPE))["spent"] == 0
    await embedded.record(event("e2", 5))
    found = await whole(embedded)
    assert found.periods == 2


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
async def test_a_budget_set_while_the_clock_is_back_begins_no_day_again(embedded, clock, zone):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    clock.advance(2 * MINUTE)
    one = await embedded.reserve(asking("k", 10, ttl_ms=DAY))
    await embedded.record(event("e1", 30))
    clock.now -= 60 * MINUTE
    await embedded.set_budget(SCOPE, amount(100), per="day", zone=zone)
    clock.advance(60 * MINUTE)
    await embedded.record(event("e2", 1))
    await embedded.commit(one.reservation_id, committing("c", 5))
    assert (await balance_of(embedded, SCOPE))["spent"] == 36
    await whole(embedded)


async def test_ledgers_on_one_file_that_pass_midnight_together_begin_one_day(tmp_path, clock):
    path, ledgers = tmp_path / "ledger.db", 4
    async with open_sqlite(path, now=clock) as first:
        await first.set_budget(SCOPE, amount(1000), per="day")
        held = [await first.reserve(asking(f"b{n}", 10, ttl_ms=600_000)) for n in range(ledgers)]
        clock.advance(2 * MINUTE)

        async def pass_midnight(number):
            async with open_sqlite(path, now=clock) as mine:
                await mine.commit(held[number].reservation_id, committing("c", 7))
                for step in range(5):
                    await mine.reserve(asking(f"{number}-{step}", 10))

        async with anyio.create_task_group() as processes:
            for number in range(ledgers):
                processes.start_soon(pass_midnight, number)
        assert (await balance_of(first, SCOPE))["reserved"] == ledgers * 5 * 10
        assert (await period(first)).spent == ledgers * 7
        begun = await first.events(kinds=["renewed"])
        assert [entry.amount for entry in begun] == [1000]
        assert (await whole(first)).periods == 1


async def test_periods_last(reopened, clock):
    async with reopened() as ledger:
        await ledger.set_budget(SCOPE, amount(100), per="day", zone="Asia/Tokyo", alerts=[50])
        one = await ledger.reserve(asking("k", 60, ttl_ms=DAY))
        clock.advance(DAY * 2 // 3)
        await ledger.reserve(asking("k2", 100, ttl_ms=DAY))
        before = await ledger.budgets()
    async with reopened() as ledger:
        assert await ledger.budgets() == before
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(asking("k3", 1))
        await ledger.commit(one.reservation_id, committing("c", 60))
        assert (await period(ledger)).spent == 60
        await whole(ledger)


async def test_a_month_and_a_day_are_told_apart_in_the_log(embedded, clock):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    clock.advance(2 * MINUTE)
    await embedded.record(event("e", 1))
    [renewed] = await embedded.events(kinds=["renewed"])
    assert renewed.since_ms == int(datetime(2025, 6, 16, tzinfo=UTC).timestamp() * 1000)
    assert (renewed.scope, renewed.at_ms) == (SCOPE, clock.now)


@pytest.mark.parametrize("days", [3, 30_000])
async def test_what_a_clock_that_was_ahead_has_begun_is_mended_by_setting_the_budget(
    embedded, clock, days
):
    """Renewals go on from then, and the day that was begun too early is a new one when it comes."""
    await embedded.set_budget(SCOPE, amount(100), per="day")
    clock.advance(days * DAY)
    held = await embedded.reserve(asking("k", 10, ttl_ms=DAY))
    await embedded.record(event("ahead", 90))
    clock.advance(-days * DAY)
    with pytest.raises(BudgetExceeded):
        await embedded.reserve(asking("stuck", 10))
    assert (await embedded.set_budget(SCOPE, amount(100), per="day")).remaining.amount == 100
    [*_, renewed] = await embedded.events(kinds=["renewed"])
    assert renewed.details["instead_of_ms"] > clock() + DAY
    await embedded.commit(held.reservation_id, committing("c", 5))
    for day in range(5):
        assert await balance_of(embedded, SCOPE) == {
            "allocated": 100, "spent": 0, "reserved": 0, "debt": 0, "remaining": 100,
        }  # fmt: skip
        await embedded.record(event(f"day-{day}", 100))
        await whole(embedded)
        clock.advance(DAY)


async def test_a_clock_that_is_an_hour_behind_begins_no_period_twice(embedded, clock):
    await embedded.set_budget(SCOPE, amount(100), per="day")
    clock.advance(2 * MINUTE)
    await embedded.record(event("e", 70))
    clock.advance(-60 * MINUTE)
    assert (await embedded.set_budget(SCOPE, amount(100), per="day")).remaining.amount == 30
