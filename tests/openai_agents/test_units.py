"""A call that asks in a unit without a budget: who asks, why in that unit, and what helps."""

import pytest
from agents import Agent, function_tool
from agents.testing import function_call

from comptroller import (
    Policy,
    ToolEstimateMap,
    UnitMismatch,
    governed_run,
    risk_points,
    tokens,
    usd,
)
from comptroller.testing import CountingModel, FundedLedger

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@function_tool
def look_up_order(number: int) -> str:
    return f"order {number}"


async def refusal(check=None, **settings):
    """What a run of one LLM call and one tool call is told on a ledger of dollars."""
    asks = [function_call("look_up_order", {"number": 7}, call_id="1")]
    agent = Agent("Triage", model=CountingModel(asks, "done"), tools=[look_up_order])
    ledger = FundedLedger({"tenant:acme": [usd("10")]})
    policy = Policy(**settings)
    with pytest.raises(UnitMismatch) as caught:
        async with governed_run(agent, "acme", ledger=ledger, policy=policy, check=check) as run:
            await run("go")
    assert caught.value.run_id == run.id
    assert caught.value.details["expected_units"] == ["USD_MICROCENTS"]
    assert "tenant:acme has a budget in USD_MICROCENTS" in str(caught.value)
    return str(caught.value)


async def test_an_unlisted_tool_is_named_with_the_maps_default():
    text = await refusal(tools=ToolEstimateMap({"issue_refund": usd("0.01")}))
    assert text.startswith("acme: 1 risk point requested for tool look_up_order by agent Triage: ")
    assert "not in the map of tools, so it costs the map's default" in text
    assert "ToolEstimateMap({...}, default_estimate=0)" in text


async def test_a_listed_tool_is_named_with_its_price():
    text = await refusal(tools={"look_up_order": risk_points(5)})
    assert "5 risk points requested for tool look_up_order" in text
    assert "price the tool look_up_order in the unit of the budget" in text


async def test_an_llm_call_points_to_its_estimate():
    text = await refusal(llm_estimate=tokens(5))
    assert "5 tokens requested" in text
    assert "Policy.llm_estimate (fixed) asks in it" in text


async def test_a_mapping_of_amounts_lets_unlisted_tools_go_on():
    asks = [function_call("look_up_order", {"number": 7}, call_id="1")]
    agent = Agent("Triage", model=CountingModel(asks, "done"), tools=[look_up_order])
    ledger = FundedLedger({"tenant:acme": [usd("10")]})
    policy = Policy(tools={"issue_refund": usd("0.01")})
    async with governed_run(agent, "acme", ledger=ledger, policy=policy) as run:
        assert (await run("go")).final_output == "done"


async def test_the_pytest_fixture_hides_no_unit(governed):
    """Tests on it are refused what production, with its budget in dollars, refuses."""
    agent = Agent("Triage", model=CountingModel())
    for settings in ({"llm_estimate": tokens(5)}, {"llm_estimate": risk_points(5)}):
        with pytest.raises(UnitMismatch):
            async with governed(agent, policy=Policy(**settings)) as run:
                await run("go")
