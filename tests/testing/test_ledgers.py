"""Ledgers that fail on demand, and the checks that find what was left open."""

import copy
import itertools

import anyio
import pytest
from runcycles import (
    Action,
    CommitRequest,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
    Subject,
    Unit,
)

from comptroller.errors import (
    BudgetExceeded,
    BudgetNotFound,
    LedgerMisbehaved,
    LedgerRefused,
    LedgerUnreachable,
)
from comptroller.ledger.embedded.memory import open_memory
from comptroller.money import tokens
from comptroller.testing import (
    Fault,
    RecordingLedger,
    ScriptedLedger,
    StalledLedger,
    assert_settled,
    delayed,
    expired,
    lost_answer,
    lost_request,
    malformed,
    open_reservations,
    rate_limited,
    refused,
    server_error,
    settled,
    spent,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

ACME = Subject(tenant="acme")
ASK = Action(kind="llm.completion", name="openai:gpt")


@pytest.fixture
async def memory():
    async with open_memory() as ledger:
        await ledger.set_budget("tenant:acme", tokens(1000))
        yield ledger


def reserve(ledger, key="r"):
    request = ReservationCreateRequest(
        idempotency_key=key, subject=ACME, action=ASK, estimate=tokens(100), ttl_ms=60_000
    )
    return ledger.reserve(request, tenant="acme")


def commit(ledger, reservation_id, key="c"):
    return ledger.commit(reservation_id, CommitRequest(idempotency_key=key, actual=tokens(70)))


def record(ledger, key="e"):
    request = EventCreateRequest(idempotency_key=key, subject=ACME, action=ASK, actual=tokens(70))
    return ledger.record(request)


async def test_every_verb_reaches_the_inner_ledger_and_is_remembered(memory):
    ledger = RecordingLedger(memory)
    first = (await reserve(ledger, "r1")).reservation_id
    second = (await reserve(ledger, "r2")).reservation_id
    await ledger.extend(first, ReservationExtendRequest(idempotency_key="x", extend_by_ms=1000))
    await commit(ledger, first)
    await ledger.release(second, ReleaseRequest(idempotency_key="l"), tenant="acme")
    request = DecisionRequest(idempotency_key="d", subject=ACME, action=ASK, estimate=tokens(1))
    await ledger.decide(request)
    await record(ledger)
    await ledger.balances(tenant="acme")
    await ledger.reservations(tenant="acme")
    assert (await ledger.reservation(first)).is_committed()
    assert [(request.verb, request.key, request.reservation_id) for request in ledger.requests] == [
        ("reserve", "r1", None),
        ("reserve", "r2", None),
        ("extend", "x", first),
        ("commit", "c", first),
        ("release", "l", second),
        ("decide", "d", None),
        ("record", "e", None),
        ("balances", None, None),
        ("reservations", None, None),
        ("reservation", None, first),
    ]
    assert [request.tenant for request in ledger.asked("release")] == ["acme"]
    assert await spent(memory, "acme") == {Unit.TOKENS: 140}


async def test_what_is_no_verb_goes_to_the_inner_ledger(memory):
    ledger = RecordingLedger(memory)
    await ledger.set_budget("tenant:globex", tokens(5))
    assert (ledger.name, ledger.request_timeout) == (memory.name, memory.request_timeout)
    assert ledger.remote is False
    assert ledger.requests == []
    with pytest.raises(AttributeError):
        ledger.no_such_thing  # noqa: B018
    assert copy.copy(ledger).inner is memory


async def test_a_local_ledger_can_pose_as_a_remote_one(memory):
    ledger = ScriptedLedger(memory, {}, remote=True, request_timeout=2.5)
    assert (ledger.remote, ledger.request_timeout) == (True, 2.5)


@pytest.mark.parametrize(
    "make", [StalledLedger, lambda inner, verb: ScriptedLedger(inner, {verb: []})]
)
async def test_a_verb_that_no_ledger_has_is_refused(memory, make):
    with pytest.raises(ValueError, match="'comit' is no verb of a ledger: reserve, commit"):
        make(memory, "comit")


async def test_a_stalled_request_is_made_when_it_is_resumed(memory):
    ledger = StalledLedger(memory, {"reserve"})
    async with anyio.create_task_group() as group:
        group.start_soon(reserve, ledger, "r1")
        group.start_soon(ledger.reached, 2)
        await ledger.reached(1)
        group.start_soon(reserve, ledger, "r2")
        await ledger.reached(2)
        await ledger.reached(2)
        await anyio.sleep(3600)
        assert (ledger.stalled, await settled(memory)) == (2, True)
        ledger.resume()
    assert ledger.stalled == 0
    await reserve(ledger, "r3")
    assert len(await open_reservations(memory)) == 3


async def test_a_stalled_request_that_is_given_up_was_never_made(memory):
    ledger = StalledLedger(memory, "reserve")
    with anyio.move_on_after(5):
        await reserve(ledger)
    assert (ledger.stalled, len(ledger.requests)) == (0, 1)
    await assert_settled(memory)


async def test_a_stalled_answer_comes_late_to_what_was_done_at_once(memory):
    ledger = StalledLedger(memory, "reserve", answers_only=True)
    with anyio.move_on_after(5):
        await reserve(ledger)
    assert len(await open_reservations(memory)) == 1


async def test_a_stalled_answer_is_the_answer(memory):
    ledger = StalledLedger(memory, "reserve", answers_only=True)
    answers = []

    async def ask():
        answers.append(await reserve(ledger))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await ledger.reached()
        ledger.resume()
    assert answers[0].is_allowed()


async def test_other_verbs_pass_a_stalled_ledger_until_they_are_named(memory):
    ledger = StalledLedger(memory, "commit")
    granted = (await reserve(ledger)).reservation_id
    ledger.stall(["release"])
    await commit(ledger, granted)
    with anyio.move_on_after(1) as scope:
        await ledger.release(granted, ReleaseRequest(idempotency_key="l"))
    assert scope.cancelled_caught


async def test_a_script_is_followed_request_by_request(memory):
    ledger = ScriptedLedger(memory, {"reserve": [None, lost_request(), rate_limited(2_000)]})
    await reserve(ledger, "r1")
    with pytest.raises(LedgerUnreachable):
        await reserve(ledger, "r2")
    with pytest.raises(LedgerRefused) as limited:
        await reserve(ledger, "r2")
    assert (limited.value.status, limited.value.retry_after_ms) == (429, 2_000)
    await reserve(ledger, "r2")
    assert [each.idempotency_key for each in await open_reservations(memory)] == ["r2", "r1"]


async def test_a_script_may_never_end(memory):
    ledger = ScriptedLedger(memory, {"record": itertools.repeat(server_error(503))})
    for _ in range(5):
        with pytest.raises(LedgerUnreachable, match="record: 503 INTERNAL_ERROR"):
            await record(ledger)
    assert len(ledger.asked("record")) == 5


async def test_a_lost_request_did_nothing(memory):
    ledger = ScriptedLedger(memory, {"record": [lost_request()]})
    with pytest.raises(LedgerUnreachable, match="memory:: record: no answer") as lost:
        await record(ledger)
    assert lost.value.status == -1
    assert await spent(memory, "acme") == {Unit.TOKENS: 0}


async def test_a_lost_answer_was_done_and_the_same_key_finds_it_done(memory):
    ledger = ScriptedLedger(memory, {"record": [lost_answer(after=2)]})
    before = anyio.current_time()
    with pytest.raises(LedgerUnreachable):
        await record(ledger)
    assert anyio.current_time() - before == pytest.approx(2)
    assert await spent(memory, "acme") == {Unit.TOKENS: 70}
    await record(ledger)
    assert await spent(memory, "acme") == {Unit.TOKENS: 70}


async def test_a_malformed_answer_is_ambiguous(memory):
    ledger = ScriptedLedger(memory, {"record": [malformed()]})
    with pytest.raises(LedgerMisbehaved, match="200 with a body that is no answer") as raised:
        await record(ledger)
    assert raised.value.status == 200
    assert await spent(memory, "acme") == {Unit.TOKENS: 70}


async def test_a_server_error_may_strike_after_the_work(memory):
    ledger = ScriptedLedger(memory, {"record": [server_error(reaches=True)]})
    with pytest.raises(LedgerUnreachable):
        await record(ledger)
    assert await spent(memory, "acme") == {Unit.TOKENS: 70}


async def test_an_expired_lease_is_given_back(memory):
    """As a ledger does: the commit is refused with 410, and the spend can be recorded instead."""
    ledger = ScriptedLedger(memory, {"commit": [expired()]})
    granted = (await reserve(ledger)).reservation_id
    with pytest.raises(LedgerRefused) as raised:
        await commit(ledger, granted)
    assert (raised.value.status, raised.value.error_code) == (410, "RESERVATION_EXPIRED")
    await assert_settled(memory)
    await record(ledger)
    assert await spent(memory, "acme") == {Unit.TOKENS: 70}


async def test_an_answer_can_be_late(memory):
    ledger = ScriptedLedger(memory, {"reserve": [delayed(30)]})
    before = anyio.current_time()
    assert (await reserve(ledger)).is_allowed()
    assert anyio.current_time() - before == pytest.approx(30)


@pytest.mark.parametrize(
    ("status", "code", "raised"),
    [
        (409, "BUDGET_EXCEEDED", BudgetExceeded),
        (404, "NOT_FOUND", BudgetNotFound),
        (401, "UNAUTHORIZED", LedgerRefused),
        (418, "TEAPOT", LedgerMisbehaved),
    ],
)
async def test_a_refusal_is_the_error_that_a_real_ledger_raises(memory, status, code, raised):
    ledger = ScriptedLedger(memory, {"reserve": [refused(status, code)]})
    with pytest.raises(raised) as error:
        await reserve(ledger)
    assert (error.value.status, error.value.error_code) == (status, code)
    await assert_settled(memory)


def test_a_fault_without_an_outcome_is_refused():
    with pytest.raises(ValueError, match="a request that does not arrive has no answer"):
        Fault(reaches=False)


async def test_an_open_reservation_is_named(memory):
    granted = (await reserve(memory, "run-1/call-1")).reservation_id
    assert not await settled(memory)
    assert await settled(memory, tenant="globex")
    with pytest.raises(AssertionError, match="open on memory:: ") as raised:
        await assert_settled(memory)
    assert granted in str(raised.value)
    assert "openai:gpt, key run-1/call-1" in str(raised.value)
    await commit(memory, granted)
    await assert_settled(memory, tenant="acme")


async def test_open_reservations_are_counted_beyond_one_page(memory):
    await memory.set_budget("tenant:acme", tokens(1_000_000))
    for number in range(205):
        await reserve(memory, f"r{number}")
    assert len(await open_reservations(memory, tenant="acme")) == 205
