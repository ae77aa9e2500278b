"""Chance from a seed: what each fault does, over the ledger's interface and over HTTP."""

from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from runcycles import Unit

from comptroller.errors import LedgerMisbehaved, LedgerRefused, LedgerUnreachable
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.server import serve_ledger
from comptroller.testing import (
    Fault,
    Faults,
    FaultyLedger,
    FaultyTransport,
    RecordingLedger,
    ScriptedLedger,
    duplicated,
    open_reservations,
    overtaken,
    settled,
)
from comptroller.testing.faults import KINDS
from support.requests import asking, committing, event
from support.run_harness import funded, tokens_spent


async def reserve(ledger, key="r"):
    return await ledger.reserve(asking(key, 100, unit=Unit.TOKENS))


async def commit(ledger, reservation_id, used=70):
    await ledger.commit(reservation_id, committing("c", used, Unit.TOKENS), tenant="acme")


async def record(ledger, key="e"):
    await ledger.record(event(key, 70, unit=Unit.TOKENS))


pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture
async def memory():
    async with funded() as ledger:
        yield ledger


def fates(seed, names, **more):
    faults = Faults(seed=seed, rate=0.5, **more)
    return {name: faults.fault("commit", name) for name in names}


NAMES = [f"run-1/{'0123456789ab'}/llm-{n}/commit" for n in range(200)]


def test_a_message_meets_the_same_fault_in_whatever_order_it_comes():
    assert fates(1, NAMES) == fates(1, reversed(NAMES))
    assert fates(1, NAMES) != fates(2, NAMES)


@pytest.mark.parametrize("execution", ["ba9876543210", "ba9876543210-89abcdef"])
def test_a_run_done_again_meets_the_same_faults(execution):
    """Its keys differ in the execution only."""
    again = [name.replace("0123456789ab", execution) for name in NAMES]
    assert list(fates(1, NAMES).values()) == list(fates(1, again).values())


def test_each_attempt_has_dice_of_its_own():
    faults = Faults(seed=3, rate=0.5)
    attempts = [faults.fault("commit", "k") for _ in range(50)]
    assert None in attempts
    assert len(set(attempts)) > 10


def test_as_many_requests_meet_a_fault_as_were_asked_for():
    faults = Faults(seed=1, rate=0.1)
    hit = [faults.fault("commit", str(number)) for number in range(5_000)]
    assert 400 < sum(fault is not None for fault in hit) < 600
    assert set(faults.thrown) == set(KINDS)
    assert faults.thrown.total() == sum(fault is not None for fault in hit)
    assert all(fault.after <= faults.slowest for fault in hit if fault)


def test_without_a_rate_there_are_none_and_with_certainty_all():
    assert set(fates(1, NAMES).values()) != {None}
    assert Faults(seed=1, rate=0).fault("commit", "k") is None
    only = Faults(seed=1, rate=1, kinds=["duplicated"])
    assert [only.fault("commit", name) for name in NAMES] == [duplicated()] * len(NAMES)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"kinds": ["lost"]}, "'lost' is no kind of fault"),
        ({"rate": 2}, "rate"),
        ({"kinds": []}, "kinds"),
    ],
)
def test_dice_that_make_no_sense_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        Faults(seed=1, **wrong)


def test_what_is_overtaken_has_no_answer():
    with pytest.raises(ValueError, match="no answer"):
        Fault(overtaken_by=1)


# -- what they do


async def test_what_arrives_twice_is_done_once(memory):
    behind = RecordingLedger(memory)
    ledger = ScriptedLedger(behind, {"record": [duplicated()]})
    await record(ledger)
    assert len(behind.asked("record")) == 2
    assert await tokens_spent(memory) == 70


async def test_what_is_overtaken_arrives_after_its_own_retry(memory):
    behind = RecordingLedger(memory)
    ledger = ScriptedLedger(behind, {"reserve": [overtaken(by=2)]})
    with pytest.raises(LedgerUnreachable):
        await reserve(ledger, "r1")
    granted = (await reserve(ledger, "r2")).reservation_id
    assert len(await open_reservations(memory)) == 1
    await commit(ledger, granted)
    assert [request.key for request in behind.asked("reserve")] == ["r2", "r1"]
    assert [each.idempotency_key for each in await open_reservations(memory)] == ["r1"]


async def test_what_nothing_overtakes_arrives_when_it_is_let(memory):
    ledger = FaultyLedger(memory, Faults(seed=1, rate=1, kinds=["overtaken"]))
    with pytest.raises(LedgerUnreachable):
        await reserve(ledger)
    assert await settled(memory)
    await ledger.arrive()
    assert not await settled(memory)


async def test_a_late_request_that_is_refused_troubles_nobody(memory):
    ledger = ScriptedLedger(memory, {"commit": [overtaken()]})
    granted = (await reserve(ledger)).reservation_id
    with pytest.raises(LedgerUnreachable):
        await commit(ledger, granted)
    await commit(ledger, granted, used=3)
    assert await settled(memory)


async def test_a_faulty_ledger_is_remote_and_heals(memory):
    faults = Faults(seed=1, rate=1)
    ledger = FaultyLedger(memory, faults)
    assert ledger.remote
    faults.rate = 0
    await commit(ledger, (await reserve(ledger)).reservation_id)
    assert await settled(memory)


# -- over HTTP


@asynccontextmanager
async def over_http(memory, kind, **more):
    faults = Faults(seed=1, rate=1, kinds=[kind], **more)
    behind = RecordingLedger(memory)
    road = FaultyTransport(httpx.ASGITransport(serve_ledger(behind, {"key": "acme"})), faults)
    async with open_cycles("http://cycles", api_key="key", transport=road) as ledger:
        yield ledger, behind, road


@pytest.mark.parametrize(
    ("kind", "error", "statuses"),
    [
        ("request lost", LedgerUnreachable, {-1}),
        ("answer lost", LedgerUnreachable, {-1}),
        ("reset", LedgerUnreachable, {-1}),
        ("server error", LedgerUnreachable, {500, 502, 503, 504}),
        ("malformed", LedgerMisbehaved, {201}),
        ("rate limited", LedgerRefused, {429}),
    ],
)
async def test_over_http_a_fault_is_what_a_client_makes_of_it(memory, kind, error, statuses):
    async with over_http(memory, kind) as (ledger, _, _):
        with pytest.raises(error) as raised:
            await record(ledger)
    assert raised.value.status in statuses
    assert kind != "rate limited" or raised.value.retry_after_ms is not None
    done = {"answer lost": 70, "malformed": 70, "request lost": 0, "rate limited": 0}
    if kind in done:
        assert await tokens_spent(memory) == done[kind]


async def test_over_http_a_request_can_arrive_twice_or_late(memory):
    async with over_http(memory, "duplicated") as (ledger, behind, _):
        await record(ledger)
    assert len(behind.asked("record")) == 2
    async with over_http(memory, "delayed", slowest=3.0) as (ledger, _, road):
        before = anyio.current_time()
        await record(ledger)
        assert 0 < anyio.current_time() - before <= 3
        road.faults.kinds = ["overtaken"]
        with pytest.raises(LedgerUnreachable):
            await record(ledger, "e2")
        await road.arrive()
    assert await tokens_spent(memory) == 140
