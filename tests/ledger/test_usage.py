"""Reports: what calls came to, by whom and for what. Every ledger adds up the same."""

from datetime import UTC, datetime, timedelta
from functools import partial

import anyio
import pytest
from runcycles import Action, CyclesMetrics, EventCreateRequest, Subject, Unit

from comptroller.errors import BudgetExceeded, ComptrollerError
from comptroller.money import MAX_AMOUNT, tokens
from support.requests import amount, asking, committing, event, releasing

pytestmark = pytest.mark.anyio

HOUR, DAY = 3_600_000, 86_400_000
LLM = Action(kind="llm.completion", name="openai:gpt-4.1")
TOOL = Action(kind="tool.invoke", name="search")


def at(clock):
    return datetime.fromtimestamp(clock.now / 1000, UTC)


async def call(ledger, key, estimate, actual=None, *, action=LLM, run="r1", told=None, **subject):
    """One call: reserved, and committed where there is an actual."""
    request = asking(key, estimate, metadata={"run": run, "call": key}, **subject)
    made = await ledger.reserve(request.model_copy(update={"action": action}))
    if actual is not None:
        metrics = CyclesMetrics(tokens_input=10 * actual, tokens_output=actual)
        said = {"metrics": metrics, "metadata": {"run": run, **(told or {})}}
        await ledger.commit(made.reservation_id, committing(key, actual, **said))
    return made


@pytest.fixture
async def busy(embedded, clock):
    """Two tenants' calls: on the first day, and a day later."""
    await embedded.set_budget("tenant:acme", amount(1000))
    await embedded.set_budget("tenant:globex", amount(100))
    await call(embedded, "a", 50, 30, agent="triage", app="shop")
    await call(embedded, "b", 50, 20, agent="triage", app="shop", run="r2")
    await call(embedded, "c", 9, 5, action=TOOL, agent="triage", toolset="search")
    await call(embedded, "d", 40, 40, agent="writer", told={"abandoned": "cancelled"})
    await call(embedded, "e", 10, 10, tenant="globex", agent="triage", run="r3")
    for _ in range(2):  # the same request twice
        with pytest.raises(BudgetExceeded):
            await call(embedded, "f", 500, tenant="globex", agent="triage", run="r3")
    with pytest.raises(BudgetExceeded):
        await call(embedded, "g", 700, tenant="globex", agent="triage", run="r3")
    clock.advance(DAY)
    await call(embedded, "h", 70, agent="triage", app="shop")  # still held
    gone = await call(embedded, "i", 100, agent="triage")
    await embedded.release(gone.reservation_id, releasing("i"))
    await embedded.record(event("j", 3, agent="triage"))
    return embedded


async def together(ask, requests):
    """Ask all of them at once: what each was answered, or the error."""
    outcomes = [None] * len(requests)

    async def one(number, request):
        try:
            outcomes[number] = await ask(request)
        except ComptrollerError as error:
            outcomes[number] = error

    async with anyio.create_task_group() as tasks:
        for number, request in enumerate(requests):
            tasks.start_soon(one, number, request)
    return outcomes


def lines(usage, *names):
    return [(*line.by.values(), *(getattr(line, name) for name in names)) for line in usage]


async def test_by_tenant(busy):
    found = await busy.usage()
    assert lines(found, "charged", "reserved", "abandoned", "denied", "refused") == [
        ("acme", 98, 70, 40, 0, 0),
        ("globex", 10, 0, 0, 2, 1200),
    ]
    assert lines(found, "calls", "tokens_input", "tokens_output") == [
        ("acme", 6, 950, 95),
        ("globex", 1, 100, 10),
    ]


@pytest.mark.parametrize("by", ["tenant", "agent", "day", "run", "model", "dimension:user"])
async def test_what_nobody_measured_is_told_apart_from_what_was(embedded, by):
    """However the report is made: from what is added up, or call by call."""
    await embedded.set_budget("tenant:acme", amount(1000))
    for key, source in enumerate(
        ["usage", "reported", "tool", "estimate", "streamed", None, {"estimate": 1}, ["streamed"]]
    ):
        told = {} if source is None else {"actual_source": source}
        await call(embedded, str(key), 128, 2**key, told=told)
    paid = event("paid", 256).model_copy(update={"metadata": {"actual_source": "estimate"}})
    await embedded.record(paid)
    found = await embedded.usage(by=by)
    assert sum(line.charged for line in found) == 511
    assert sum(line.estimated for line in found) == 8 + 16 + 256


@pytest.mark.parametrize(
    ("by", "charged"),
    [
        ("agent", [("triage", 68), ("writer", 40)]),
        ("app,agent", [("", "triage", 18), ("", "writer", 40), ("shop", "triage", 50)]),
        ("tool", [("", 103), ("search", 5)]),
        ("model", [("", 5), ("openai:gpt-4.1", 103)]),
        ("run", [("", 3), ("r1", 75), ("r2", 20), ("r3", 10)]),
        (["workspace", "workflow"], [("", "", 108)]),
        ("day", [("2025-06-15", 105), ("2025-06-16", 3)]),
    ],
)
async def test_by_what_is_asked_for(busy, by, charged):
    assert lines(await busy.usage(by=by), "charged") == charged


async def test_a_day_is_the_day_of_its_zone(busy, clock):
    here = datetime.fromtimestamp(clock.start / 1000, UTC)
    assert here.hour == 15
    found = await busy.usage(by="day", zone="Asia/Tokyo")
    assert [line.by["day"] for line in found] == ["2025-06-16", "2025-06-17"]


async def test_since_and_until(busy, clock):
    midnight = at(clock) - timedelta(hours=1)
    assert lines(await busy.usage(since=midnight), "charged", "reserved") == [("acme", 3, 70)]
    assert lines(await busy.usage(until=midnight), "charged", "reserved", "denied") == [
        ("acme", 95, 0, 0),
        ("globex", 10, 0, 2),
    ]
    assert await busy.usage(since=at(clock) + timedelta(days=1)) == []


async def test_of_one_tenant(busy):
    found = await busy.usage(by=("agent", "model"), tenant="Globex")
    assert lines(found, "charged", "denied") == [("triage", "openai:gpt-4.1", 10, 2)]


async def test_units_are_not_added_up(embedded):
    await embedded.set_budget("tenant:acme", amount(100))
    await embedded.set_budget("tenant:acme", tokens(100))
    await embedded.record(event("e1", 5))
    await embedded.record(event("e2", 7, unit=Unit.TOKENS))
    assert [(line.unit, line.charged) for line in await embedded.usage()] == [
        (Unit.TOKENS, 7),
        (Unit.USD_MICROCENTS, 5),
    ]


async def test_nothing_in_all_is_no_line(embedded):
    await embedded.set_budget("tenant:acme", amount(100))
    assert await embedded.usage(by="agent") == []
    assert await embedded.usage(by=()) == []


async def test_all_in_one_line(busy):
    [line] = await busy.usage(by=())
    assert (line.by, line.charged, line.calls) == ({}, 108, 7)


async def test_an_event_that_stands_for_a_lost_commit_is_told_like_one(embedded):
    await embedded.set_budget("tenant:acme", amount(100))
    await embedded.record(
        EventCreateRequest(
            idempotency_key="e",
            subject=Subject(tenant="acme", agent="triage"),
            action=LLM,
            actual=amount(8),
            metrics=CyclesMetrics(tokens_input=80, tokens_output=8),
            metadata={"run": "r1", "abandoned": "cut off"},
        )
    )
    [line] = await embedded.usage(by="run,model")
    assert line.by == {"run": "r1", "model": "openai:gpt-4.1"}
    assert (line.charged, line.abandoned, line.tokens_input) == (8, 8, 80)


async def test_a_call_belongs_to_the_day_of_its_reservation(embedded, clock):
    await embedded.set_budget("tenant:acme", amount(100))
    made = await embedded.reserve(asking("k", 10, ttl_ms=DAY))
    clock.advance(10 * HOUR)
    await embedded.commit(made.reservation_id, committing("c", 4))
    assert lines(await embedded.usage(by="day"), "charged") == [("2025-06-15", 4)]


@pytest.mark.parametrize("by", ["toolset", "agents", "", ["tenant", ""]])
async def test_by_what_is_not_known(embedded, by):
    with pytest.raises(ValueError, match="any of tenant, workspace, app") as caught:
        await embedded.usage(by=by)
    assert "\n" not in str(caught.value)


async def test_a_time_has_a_zone(embedded):
    for naive in (datetime(2025, 6, 15), "yesterday"):  # noqa: DTZ001
        with pytest.raises(ValueError, match=r"since=.*datetime\.now\(UTC\)"):
            await embedded.usage(since=naive)


async def test_who_asks_for_all_there_is_disturbs_nobody(embedded, clock):
    """However often, and whatever is asked for besides: the sums of it are still whole numbers."""
    await embedded.set_budget("tenant:acme", amount(10))
    await embedded.set_budget("tenant:globex", amount(10))
    for day in range(2):
        asked = [asking(f"{day}-{number}", MAX_AMOUNT) for number in range(3)]
        asked.append(asking(f"{day}-other", 1, tenant="globex"))
        outcomes = await together(embedded.reserve, asked)
        assert [type(one) for one in outcomes[:3]] == [BudgetExceeded] * 3
        assert outcomes[3].reservation_id
        with pytest.raises(BudgetExceeded):
            await embedded.reserve(asking(f"{day}-again", MAX_AMOUNT))
        clock.advance(DAY)
    [line] = await embedded.usage(tenant="acme")
    assert (line.denied, type(line.refused)) == (8, int)
    assert line.refused >= 2 * MAX_AMOUNT
    days = await embedded.usage(by="day", tenant="acme")
    assert [(line.denied, type(line.refused)) for line in days] == [(4, int)] * 2


async def test_who_tells_of_more_tokens_than_there_are_disturbs_nobody(embedded, clock):
    await embedded.set_budget("tenant:acme", amount(10))
    await embedded.set_budget("tenant:globex", amount(10))
    for day in range(2):
        for count in (MAX_AMOUNT, MAX_AMOUNT, 2**70):
            made = await embedded.reserve(asking(f"{day}-{clock()}", 1, agent="a"))
            metrics = CyclesMetrics(tokens_input=count, tokens_output=1)
            done = committing("c", 1, metrics=metrics)
            other = asking(f"other-{clock()}", 1, tenant="globex")
            outcomes = await together(
                lambda ask: ask(),
                [
                    partial(embedded.commit, made.reservation_id, done),
                    partial(embedded.reserve, other),
                ],
            )
            assert outcomes[0].charged.amount == outcomes[1].reserved.amount == 1
            clock.advance(1)
        clock.advance(DAY)
    [line, _] = await embedded.usage()
    assert (line.charged, line.tokens_output) == (6, 6)
    assert line.tokens_input >= 2 * MAX_AMOUNT


async def test_reports_last(reopened, clock):
    async with reopened() as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        await call(ledger, "a", 50, 30, agent="triage")
        with pytest.raises(BudgetExceeded):
            await call(ledger, "b", 500)
        before = await ledger.usage(by="agent,run,model,day")
        assert sum(line.denied for line in before) == 1
    async with reopened() as ledger:
        assert await ledger.usage(by="agent,run,model,day") == before


async def test_runs_are_told_apart_by_their_labels(embedded):
    """Those that a run was given as `dimensions`, beside whatever else a report is by."""
    await embedded.set_budget("tenant:acme", amount(1000))
    await call(embedded, "a", 50, 30, agent="triage", dimensions={"user": "42", "plan": "pro"})
    await call(embedded, "b", 50, 20, agent="writer", dimensions={"user": "42"})
    await call(embedded, "c", 9, agent="triage", dimensions={"user": "7"})
    await call(embedded, "d", 5, 5, agent="triage")
    with pytest.raises(BudgetExceeded):
        await call(embedded, "e", 5_000, agent="triage", dimensions={"user": "42"})
    lines = await embedded.usage(by="dimension:user")
    assert [(line.by, line.charged, line.reserved, line.denied) for line in lines] == [
        ({"dimension:user": ""}, 5, 0, 1),
        ({"dimension:user": "42"}, 50, 0, 0),
        ({"dimension:user": "7"}, 0, 9, 0),
    ]
    lines = await embedded.usage(by=["dimension:plan", "agent", "dimension:user"])
    assert [tuple(line.by.values()) for line in lines if line.charged] == [
        ("", "triage", ""),
        ("", "writer", "42"),
        ("pro", "triage", "42"),
    ]
    for wrong in ("user", "dimension:", "dimension"):
        with pytest.raises(ValueError, match="such as dimension:user"):
            await embedded.usage(by=wrong)
