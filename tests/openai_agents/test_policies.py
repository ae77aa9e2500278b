"""What a policy lets through without a reservation, and what tools say that they cost."""

import itertools
import logging

import pytest
from agents import ModelSettings
from runcycles import Amount, Unit

from comptroller import (
    BudgetExceeded,
    BudgetNotFound,
    LedgerRefused,
    LedgerUnreachable,
    ToolEstimateConfig,
    ToolEstimateMap,
    WorstCase,
    governed_run,
    risk_points,
    tokens,
    usd,
)
from comptroller.ledger.embedded.memory import open_memory
from comptroller.receipts import Receipt
from comptroller.testing import (
    RecordingLedger,
    ScriptedLedger,
    lost_request,
    rate_limited,
    refused,
    server_error,
)
from openai_agents.scenarios.tools import tools_that_the_provider_ran
from support.governed_vs_plain import PRICES, Way, open_ledgers, policy_for
from support.recording_models import Trace, Voice, call
from support.scope_fixture import open_books

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def team(trace, **fields):
    """An agent that calls a tool, then hands over."""
    second = trace.agent("Second", "clever", "Done.")
    turns = ([call("weather")], [call("transfer_to_second")])
    return trace.agent("First", "quick", *turns, tools=[trace.tool()], handoffs=[second], **fields)


def facts(books):
    return [(line.name, line.outcome.value, line.charged and line.charged.amount)
            for line in books.lines]  # fmt: skip


# -- dry run


@pytest.mark.parametrize("remote", [False, True], ids=["memory", "remote"])
@pytest.mark.parametrize(
    ("budgets", "codes"),
    [
        ((tokens(10**6), risk_points(10)), {None}),
        ((tokens(1), risk_points(1)), {"BUDGET_EXCEEDED"}),
        ((), {"BUDGET_NOT_FOUND"}),
        ((usd("5"),), {"UNIT_MISMATCH"}),
    ],
    ids=["enough", "too-little", "none", "other-unit"],
)
async def test_a_dry_run_stops_and_charges_nothing(budgets, codes, remote):
    """The receipt says what would have been denied, and what the calls cost."""
    trace = Trace()
    agent = team(trace)
    async with open_ledgers(remote=remote) as (ledger, behind):
        for budget in budgets:
            await behind.set_budget("tenant:acme", budget)
        policy = policy_for(Way(), dry_run=True)
        async with governed_run(agent, "acme", ledger=ledger, policy=policy) as run:
            result = await run("go")
        assert (await behind.reservations(tenant="acme")).reservations == []
        balances = (await behind.balances(tenant="acme")).balances
    assert result.final_output == "Done."
    assert all(balance.spent.amount == balance.reserved.amount == 0 for balance in balances)
    lines = run.receipt.calls
    assert [line.outcome for line in lines] == ["unreserved"] * 4
    assert {line.would_deny for line in lines} == codes
    assert [line.actual.amount for line in lines] == [242, 3, 244, 122]
    assert run.receipt.charged == {}


async def test_a_dry_run_does_not_need_its_ledger():
    trace = Trace()

    def around(ledger):
        return ScriptedLedger(ledger, {"reserve": itertools.repeat(lost_request())})

    async with open_books(team(trace), around=around, dry_run=True) as books:
        await books.run("go")
    assert [line.outcome for line in books.lines] == ["unreserved"] * 4
    assert all(line.reason.startswith("dry run") for line in books.lines)


# -- fail open


@pytest.mark.parametrize("fault", [lost_request(), server_error(), server_error(503)])
async def test_fail_open_lets_calls_through_and_records_them_when_the_ledger_is_back(fault):
    """Charged as an event: what it really cost, or a tool's estimate."""
    trace, records = Trace(), []

    def around(ledger):
        script = itertools.chain([None, fault, fault], itertools.repeat(None))
        records.append(ScriptedLedger(ledger, {"reserve": script}))
        return records[0]

    async with open_books(team(trace), around=around, fail_open=True) as books:
        await books.run("go")
    assert facts(books) == [
        ("recording_models:quick", "committed", 242), ("weather", "recorded", 3),
        ("recording_models:quick", "recorded", 244), ("Second", "recorded", 0),
        ("recording_models:clever", "committed", 122),
    ]  # fmt: skip
    assert [line.reservation_id is None for line in books.lines] == [False, True, True, True, False]
    assert all("fail-open" in line.reason for line in books.lines[1:3])
    keys = [request.key for request in records[0].asked("record")]
    assert len(keys) == len(set(keys)) == 3


async def test_fail_open_with_a_ledger_that_stays_away_leaves_the_spend_unsettled():
    """The receipt says so; the scope's end is bounded."""
    trace = Trace()

    def around(ledger):
        gone = itertools.repeat(lost_request())
        return ScriptedLedger(ledger, {"reserve": gone, "record": gone})

    async with open_books(
        trace.agent("A", "quick", "Done."), around=around, fail_open=True
    ) as books:
        await books.run("go")
    [line] = books.lines
    assert (line.outcome, line.actual) == ("unsettled", tokens(122))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (refused(403, "FORBIDDEN"), LedgerRefused),
        (refused(400, "INVALID_REQUEST"), LedgerRefused),
        (rate_limited(), LedgerRefused),
        (refused(409, "BUDGET_EXCEEDED"), BudgetExceeded),
        (refused(404, "NOT_FOUND"), BudgetNotFound),
    ],
)
async def test_fail_open_covers_no_answer_of_the_ledgers_own(fault, kind):
    """A denial and any other 4xx stop the run."""
    trace = Trace()

    def around(ledger):
        return ScriptedLedger(ledger, {"reserve": itertools.repeat(fault)})

    async with open_books(team(trace), around=around, fail_open=True) as books:
        with pytest.raises(kind):
            await books.run("go")
    assert trace.attempts == []


async def test_without_fail_open_an_unreachable_ledger_stops_the_run():
    trace = Trace()

    def around(ledger):
        return ScriptedLedger(ledger, {"reserve": itertools.repeat(lost_request())})

    async with open_books(team(trace), around=around) as books:
        with pytest.raises(LedgerUnreachable):
            await books.run("go")
    assert trace.attempts == []


# -- nothing to reserve


async def test_a_zero_estimate_reserves_nothing_and_charges_what_it_cost():
    """As an event; the receipt says that there was no reservation, and why."""
    trace = Trace()
    async with open_books(team(trace), llm_estimate=tokens(0)) as books:
        await books.run("go")
    assert facts(books) == [
        ("recording_models:quick", "recorded", 242), ("weather", "committed", 3),
        ("recording_models:quick", "recorded", 244), ("Second", "recorded", 0),
        ("recording_models:clever", "recorded", 122),
    ]  # fmt: skip
    assert books.lines[0].reason == "nothing to reserve"


async def test_without_a_map_tools_have_their_line_and_no_price():
    """Not even a question to the ledger."""
    trace, records = Trace(), []

    def around(ledger):
        records.append(RecordingLedger(ledger))
        return records[0]

    async with open_books(team(trace), around=around, tools=None) as books:
        await books.run("go")
    assert books.tools() == [("weather", "unreserved", None)]
    asked = [request.body.action.name for request in records[0].requests
             if hasattr(request.body, "action")]  # fmt: skip
    assert "weather" not in asked


@pytest.mark.parametrize("budget", [tokens(10**6), usd("5")], ids=["tokens", "usd"])
async def test_a_providers_tools_need_no_budget_of_their_own_where_they_cost_nothing(
    budget, caplog
):
    """They are recorded with nothing, in the unit that the run's LLM calls are paid in."""
    trace = Trace()
    play = tools_that_the_provider_ran(trace)
    async with open_memory() as ledger:
        await ledger.set_budget("tenant:acme", budget)
        policy = policy_for(Way(unit=budget.unit), tools=None)
        async with governed_run(play.agent, "acme", ledger=ledger, policy=policy) as run:
            await run("go")
    hosted = [line for line in run.receipt.calls if line.kind == "tool.hosted"]
    assert [line.name for line in hosted] == ["web_search", "code_interpreter", "file_search"]
    assert {(line.outcome, line.charged.unit, line.charged.amount) for line in hosted} == {
        ("recorded", budget.unit, 0)
    }
    assert [record for record in caplog.records if record.name.startswith("comptroller")] == []


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings(max_tokens=50_000),
        ModelSettings(extra_args={"max_completion_tokens": 50_000}),
        ModelSettings(extra_args={"max_output_tokens": 50_000, "seed": 1}),
        ModelSettings(extra_body={"max_tokens": 50_000}),
    ],
)
async def test_the_worst_case_has_all_the_output_that_the_settings_allow(settings):
    """Models that take no `max_tokens` are limited by what goes to them beside it."""
    agent = Trace().agent("A", "quick", "Done.", model_settings=settings)
    async with open_books(agent, llm_estimate=WorstCase(unit="TOKENS")) as books:
        await books.run("go")
    [line] = books.lines
    assert 50_000 <= line.reserved.amount < 50_100


@pytest.mark.parametrize(
    "options",
    [{}, {"auto_previous_response_id": True}, {"conversation_id": "conv_1"}],
    ids=["sent anew", "the last response", "a conversation"],
)
async def test_what_a_provider_keeps_of_a_conversation_is_read_again(options):
    """It is not sent, and is paid: an estimate counts what the turn before has read and said."""
    trace = Trace()
    voice = Voice(trace, "quick", [call("weather")], "Sunny.", size=100)
    agent = trace.agent("A", voice, tools=[trace.tool()])
    async with open_books(agent, llm_estimate=WorstCase(0, unit="TOKENS")) as books:
        await books.run("go", **options)
    first, _, second = books.lines
    grown = second.reserved.amount - first.reserved.amount
    assert first.reserved.amount < 1_000
    assert grown > 10_000 if options else grown < 1_000


async def test_dollars_by_default():
    """No estimate given: the worst case where the price is known, else half a cent."""
    trace = Trace()
    agent = trace.agent("A", "quick", "Done.")
    async with open_memory() as ledger:
        await ledger.set_budget("tenant:acme", usd("5"))
        known = policy_for(Way(), llm_estimate=None, prices=PRICES)
        async with governed_run(agent, "acme", ledger=ledger, policy=known) as run:
            await run("go")
        unknown = policy_for(Way(), llm_estimate=None, prices=None)
        other = trace.agent("B", "nobody-knows", "Done.")
        async with governed_run(other, "acme", ledger=ledger, policy=unknown) as second:
            await second("go")
    [line] = run.receipt.calls
    assert line.estimate_source == "worst-case"
    assert (line.charged.amount, line.actual_source) == (101 * 100 + 21 * 400, "usage")
    [line] = second.receipt.calls
    assert (line.estimate_source, line.actual_source) == ("default", "estimate")
    assert line.charged == usd("0.005")


# -- what a tool really cost


def priced(actual, estimate=5):
    return ToolEstimateMap({"weather": ToolEstimateConfig(estimate, actual=actual)})


def told(count, unit=Unit.RISK_POINTS):
    """An amount that nothing has checked."""
    return Amount.model_construct(unit=unit, amount=count)


async def promised():
    return risk_points(1)


def asking(trace, body=None, **options):
    return trace.agent("A", "quick", [call("weather", 1, city="Bonn", days=2)], "Done.",
                       tools=[trace.tool(body or forecast, **options)])  # fmt: skip


async def forecast(city: str, days: int) -> str:
    return f"{city}: {days} sunny days"


async def test_a_tool_is_charged_what_its_function_says():
    """It is given the arguments as the model meant them, and the result."""
    heard = []

    def actual(arguments, result):
        heard.append((arguments, result))
        return risk_points(arguments["days"])

    trace = Trace()
    async with open_books(asking(trace), tools=priced(actual)) as books:
        await books.run("go")
    assert heard == [({"city": "Bonn", "days": 2}, "Bonn: 2 sunny days")]
    [line] = [line for line in books.lines if line.kind == "tool.invoke"]
    assert (line.reserved.amount, line.charged.amount, line.actual_source) == (5, 2, "tool")


async def test_a_tool_may_cost_more_than_its_estimate():
    trace = Trace()
    tools = priced(lambda arguments, result: risk_points(50))
    async with open_books(asking(trace), tools=tools) as books:
        await books.run("go")
    assert books.tools() == [("weather", "committed", 50)]


@pytest.mark.parametrize(
    ("actual", "said"),
    [
        (lambda arguments, result: 1 / 0, "ZeroDivisionError"),
        (lambda arguments, result: usd("1"), "$1.00 is not in RISK_POINTS"),
        (lambda arguments, result: 3, "3 is no amount"),
        (lambda arguments, result: 0.5, "0.5 is no amount"),
        (lambda arguments, result: None, "None is no amount"),
        (lambda arguments: risk_points(1), "TypeError"),
        (lambda arguments, result: told(-1), "an amount is at least 0"),
        (lambda arguments, result: told(2**63), "at most"),
        (lambda arguments, result: told(0.5), "whole numbers"),
        (lambda arguments, result: told(True), "whole numbers"),
        (lambda arguments, result: told(None), "whole numbers"),
        (lambda arguments, result: told(1, "EUROS"), "EUROS"),
        (lambda arguments, result: promised(), "is no amount"),
    ],
)
async def test_where_its_function_fails_a_tool_is_charged_its_estimate(actual, said, caplog):
    """And the log says which tool's function it was; the run does not notice."""
    trace = Trace()
    with caplog.at_level(logging.ERROR, "comptroller"):
        async with open_books(asking(trace), tools=priced(actual)) as books:
            result = await books.run("go")
    assert result.final_output == "Done."
    assert books.tools() == [("weather", "committed", 5)]
    [record] = [record for record in caplog.records if record.name.startswith("comptroller")]
    assert "actual() of tool weather" in record.getMessage()
    assert said in record.getMessage()
    [line] = [line for line in books.lines if line.kind == "tool.invoke"]
    assert (line.charged, line.actual_source) == (risk_points(5), "estimate")
    assert line.reason.startswith("actual() is wrong")
    assert said in line.reason
    assert "committed (estimate) (actual() is wrong" in str(Receipt(
        run_id="r", tenant="t", calls=(line,)))  # fmt: skip


async def test_a_tool_without_an_estimate_may_still_say_what_it_cost():
    """Nothing is reserved; what it cost is recorded, in the unit it names."""
    trace = Trace()
    tools = priced(lambda arguments, result: tokens(7), estimate=0)
    async with open_books(asking(trace), tools=tools) as books:
        await books.run("go")
    assert books.tools() == [("weather", "recorded", 7)]
    [line] = [line for line in books.lines if line.kind == "tool.invoke"]
    assert line.charged == Amount(unit=Unit.TOKENS, amount=7)


async def test_a_tool_that_raised_costs_its_estimate():
    """Its side effect may have happened; its function is not asked, there is no result."""

    async def broken(city: str, days: int) -> str:
        raise ValueError("out of order")

    trace = Trace()
    tools = priced(lambda arguments, result: risk_points(1))
    agent = asking(trace, broken, failure_error_function=None)
    async with open_books(agent, tools=tools) as books:
        with pytest.raises(Exception, match="out of order"):
            await books.run("go")
    assert books.tools() == [("weather", "abandoned", 5)]


async def test_abandoned_work_is_released_where_the_policy_says_so():
    """The line still says that it was given up, and why."""

    async def broken(city: str, days: int) -> str:
        raise ValueError("out of order")

    trace = Trace()
    agent = asking(trace, broken, failure_error_function=None)
    async with open_books(agent, on_abandoned="release") as books:
        with pytest.raises(Exception, match="out of order"):
            await books.run("go")
    assert books.tools() == [("weather", "abandoned", None)]
    assert "out of order" in books.lines[1].reason
