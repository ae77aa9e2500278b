"""What an error says to whom: operators read what to do, customers and models nothing internal."""

import re
from datetime import UTC, datetime

import pytest
from agents import Agent, ModelSettings, function_tool
from agents.testing import function_call
from runcycles import Caps

from comptroller import (
    BudgetExceeded,
    CallDenied,
    ComptrollerError,
    Learned,
    LimitReached,
    Limits,
    Policy,
    governed_run,
    open_ledger,
    usd,
)
from comptroller.testing import CountingModel

pytestmark = pytest.mark.anyio

INTERNAL = re.compile(
    r"/|:\w|\$|comptroller|acme|triage|_|await|gpt|http|\d+ tokens", re.IGNORECASE
)


@function_tool
def look_up() -> str:
    return "found"


def agent(*turns, **settings):
    model = CountingModel(*turns)
    model.model = "gpt-4.1"
    return Agent("Triage", model=model, tools=[look_up], model_settings=ModelSettings(**settings))


async def used_up(ledger):
    await ledger.set_budget("tenant:acme", usd("0.0001"), per="day")


async def frozen(ledger):
    await ledger.set_budget("tenant:acme", usd("1"))
    await ledger.freeze("tenant:acme")


async def no_budget(ledger):
    del ledger


async def points_only(ledger):
    from comptroller import risk_points

    await ledger.set_budget("tenant:acme", risk_points(1))


async def no_step_left(ledger):
    await ledger.set_budget("tenant:acme", usd("1"), caps=Caps(max_steps_remaining=0))


@pytest.mark.parametrize("prepare", [used_up, frozen, no_budget, points_only, no_step_left])
async def test_a_customer_reads_nothing_internal(prepare, tmp_path):
    asks = [function_call("look_up", {}, call_id="1")]
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await prepare(ledger)
        with pytest.raises(ComptrollerError) as caught:
            async with governed_run(agent(asks, "done"), "acme", ledger=ledger) as run:
                await run("go")
    text = re.sub(r"It renews at \d{4}-\d\d-\d\d 00:00 UTC\.", "", caught.value.public)
    assert text.strip()
    assert not INTERNAL.search(text), text


async def test_a_customer_reads_when_the_budget_begins_anew(tmp_path):
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await used_up(ledger)
        with pytest.raises(BudgetExceeded) as caught:
            async with governed_run(agent(), "acme", ledger=ledger) as run:
                await run("go")
    denial = caught.value
    assert denial.renews_at > datetime.now(UTC)
    assert (denial.renews_at.hour, denial.renews_at.minute) == (0, 0)
    assert denial.public == (
        "What is left of the budget does not cover this request."
        f" It renews at {denial.renews_at:%Y-%m-%d} 00:00 UTC."
    )


@pytest.mark.parametrize("at_ms", [None, "soon", -1, 10**18, True])
def test_a_server_that_says_nonsense_of_a_renewal_is_not_believed(at_ms):
    denial = BudgetExceeded("no", details={"renews_at_ms": at_ms})
    assert denial.public.startswith("What is left of the budget does not cover this request.")


async def test_a_model_is_not_told_the_operators_command(tmp_path):
    """It would tell the customer."""
    asks = [function_call("look_up", {}, call_id="1")]
    model = CountingModel(asks, "Then without.")
    triage = Agent("Triage", model=model, tools=[look_up])
    policy = Policy(
        llm_estimate=usd("0.01"), tools={"look_up": usd("0.01")}, on_tool_denied="tell_model"
    )
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.set_budget("tenant:acme", usd("1"))
        await ledger.set_budget("tenant:acme/agent:Triage/toolset:look_up", usd("1"))
        await ledger.freeze("tenant:acme/agent:Triage/toolset:look_up")
        async with governed_run(triage, "acme", ledger=ledger, policy=policy) as run:
            result = await run("go")
    [read] = [item["output"] for item in result.to_input_list() if "output" in item]
    assert read == "The tool look_up was not run: The budget for this request is suspended."


async def denied(limits=None, llm_estimate=None, **settings):
    async with open_ledger("memory:") as ledger:
        await ledger.set_budget("tenant:acme", usd("0.01") if limits is None else usd("1"))
        policy = Policy(llm_estimate=llm_estimate)
        with pytest.raises(CallDenied) as caught:
            async with governed_run(
                agent(**settings), "acme", ledger=ledger, policy=policy, limits=limits
            ) as run:
                await run("go")
        return caught.value


async def test_a_denied_worst_case_says_which_one_and_what_asks_for_less():
    hint = "output tokens; set ModelSettings(max_tokens=...) or Policy(llm_estimate=Learned()))"
    assert str(await denied()).endswith(f"(tenant:acme) (worst case: 4,096 {hint}")
    assert f"(worst case: 2,000 {hint}" in str(await denied(max_tokens=2_000))
    assert f"(worst case: 4,096 {hint}" in str(await denied(llm_estimate=Learned()))
    limited = await denied(Limits(spend=usd("0.01")))
    assert isinstance(limited, LimitReached)
    assert str(limited).endswith(hint)


async def test_what_is_no_worst_case_does_not_say_so():
    assert "worst case" not in str(await denied(llm_estimate=usd("0.02")))
    assert "worst case" not in str(await denied(Limits(llm_calls=0)))
