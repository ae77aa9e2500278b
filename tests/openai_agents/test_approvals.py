"""A run that waits for an approval goes on in another scope, each charged for its own."""

import json

import pytest
from agents import RunState

from comptroller import BudgetExceeded, governed_run, risk_points, tokens
from comptroller._eventloop import open_host
from comptroller.ledger.embedded.memory import open_memory
from comptroller.testing import assert_settled, spent
from openai_agents.scenarios.approvals import asking_first, nested_asking
from support.governed_vs_plain import Way, policy_for
from support.recording_models import Trace

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
kept = pytest.mark.parametrize("written", [False, True], ids=["in-memory", "written-down"])


async def go(run, given, streamed):
    if not streamed:
        return await run(given)
    stream = run.stream(given)
    async for _ in stream:
        pass
    return stream


async def two_scopes(agent, streamed, written, *, frozen=False):
    """The receipts of a scope that stopped for an approval, and of the one that went on."""
    receipts = []
    async with open_memory() as ledger:
        for budget in (tokens(10**6), risk_points(100)):
            await ledger.set_budget("tenant:acme", budget)
        policy = policy_for(Way())
        async with governed_run(agent, "acme", ledger=ledger, policy=policy) as run:
            state = (await go(run, "go", streamed)).to_state()
        receipts.append(run.receipt)
        await assert_settled(ledger)
        if written:
            text = state.to_string()
            assert "comptroller" not in json.dumps(json.loads(text)).lower()
            async with open_host() as host:
                state = await host.aio(RunState.from_string)(agent, text)
        for item in state.get_interruptions():
            state.approve(item)
        if frozen:
            await ledger.freeze("tenant:acme")
        async with governed_run(agent, "acme", ledger=ledger, policy=policy) as run:
            result = None if frozen else await go(run, state, streamed)
            if frozen:
                with pytest.raises(BudgetExceeded):
                    await go(run, state, streamed)
        receipts.append(run.receipt)
        await assert_settled(ledger)
        total = await spent(ledger, "acme")
    for unit, amount in total.items():
        assert amount == sum(receipt.charged.get(unit, 0) for receipt in receipts)
    return result, receipts


def told(receipt):
    return [
        (line.agent, line.kind, line.outcome.value, line.charged and line.charged.amount)
        for line in receipt.calls
    ]


@both_ways
@kept
async def test_an_approved_tool_is_charged_where_it_runs(streamed, written):
    """The first scope paid for the question, the second for the tool and the answer."""
    trace = Trace()
    agent = asking_first(trace)
    result, (first, second) = await two_scopes(agent, streamed, written)
    assert result.final_output == "Sunny."
    assert trace.tools == ["weather"]
    assert told(first) == [("Triage agent", "llm.completion", "committed", 122)]
    assert told(second) == [("Triage agent", "tool.invoke", "committed", 3),
                            ("Triage agent", "llm.completion", "committed", 124)]  # fmt: skip


@both_ways
@kept
async def test_an_agent_tool_that_waits_is_settled_where_it_began(streamed, written):
    """Its continuation is nobody's; what runs inside it is charged where it runs."""
    trace = Trace()
    agent, _ = nested_asking(trace)
    result, (first, second) = await two_scopes(agent, streamed, written)
    assert result.final_output == "They say it is sunny."
    inner, outer = "Triage agent", "Outer"
    assert told(first) == [
        (outer, "llm.completion", "committed", 242), (outer, "tool.invoke", "committed", 2),
        (inner, "llm.completion", "committed", 122),
    ]  # fmt: skip
    assert told(second) == [
        (inner, "tool.invoke", "committed", 3), (inner, "llm.completion", "committed", 124),
        (outer, "llm.completion", "committed", 244),
    ]  # fmt: skip


@both_ways
@kept
@pytest.mark.parametrize("build", [asking_first, lambda trace: nested_asking(trace)[0]])
async def test_an_approval_does_not_help_without_budget(build, streamed, written):
    """The approved tool is denied before it runs, and the whole run ends with that."""
    trace = Trace()
    _, (_, second) = await two_scopes(build(trace), streamed, written, frozen=True)
    assert "weather" not in trace.tools
    assert [line.outcome for line in second.calls] == ["denied"]
