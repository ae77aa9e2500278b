"""Hooks inside scopes, scopes inside hooks, hooks inside hooks: one of them governs each call."""

import asyncio

import pytest
from agents import Agent, RunHooks, Runner, function_tool
from agents.run import AgentRunner
from agents.testing import function_call
from runcycles import BudgetExceededError

from comptroller import (
    LimitReached,
    Limits,
    as_client,
    governed_run,
    open_supervisor,
    risk_points,
    usd,
)
from comptroller.cycles import CyclesRunHooks
from comptroller.testing import BlockedModel, CountingModel, no_task_left
from support.hooks_fixture import funded, hooks_on, searcher, statuses, talker
from support.hooks_scenarios import Beside, Watched

pytestmark = pytest.mark.anyio


def calling(body, *rest):
    """An agent whose one tool runs `body`."""
    tool = function_tool(body, name_override="ask")
    turn = [function_call("ask", {}, call_id="c")]
    return talker(turn, *(rest or ("done",)), tools=[tool])


async def test_hooks_that_another_runner_calls_inside_a_scope_still_govern():
    """Their callbacks are not handed on by the scope: nobody else sees these calls."""
    async with hooks_on() as (hooks, ledger), no_task_left():
        agent, model = searcher()
        async with governed_run(agent, "acme", ledger=ledger) as run:
            await AgentRunner().run(agent, "hi", hooks=hooks)
        assert model.dispatches == 2
        assert len(await statuses(ledger)) == 3
        assert run.receipt.calls == ()


@pytest.mark.parametrize("start", ["hooks.run", "Runner.run"])
async def test_inside_a_scope_the_scope_governs_however_it_is_started(start):
    async with hooks_on() as (hooks, ledger):
        agent, model = searcher()
        run = {"hooks.run": lambda: hooks.run(agent, "hi"),
               "Runner.run": lambda: Runner.run(agent, "hi", hooks=hooks)}[start]  # fmt: skip
        async with governed_run(agent, "acme", ledger=ledger, limits=Limits(llm_calls=1)) as scope:
            with pytest.raises(LimitReached):
                await run()
        assert model.dispatches == 1
        assert hooks.runs == []
        assert len(scope.receipt.calls) == 3


@pytest.mark.parametrize("start", ["hooks.run", "Runner.run", "streamed"])
async def test_inside_a_run_of_the_same_hooks_that_run_governs(start):
    """So a refusal inside ends it: the outer model is not asked again."""
    async with hooks_on(dollars="0.016", llm_estimate=800_000) as (hooks, _), no_task_left():
        inner, inner_model = talker("one", "two")

        async def ask() -> str:
            if start == "hooks.run":
                return (await hooks.run(inner, "?")).final_output
            if start == "Runner.run":
                return (await Runner.run(inner, "?", hooks=hooks)).final_output
            stream = hooks.run_streamed(inner, "?")
            async for _ in stream.stream_events():
                pass
            return stream.final_output

        agent, model = calling(ask, [function_call("ask", {}, call_id="d")], "done")
        with pytest.raises(BudgetExceededError):
            await hooks.run(agent, "hi")
        assert len(hooks.runs) == 1
        assert model.dispatches + inner_model.dispatches == 2


async def test_inside_a_run_of_other_hooks_these_bring_their_own():
    """Who is given a tenant's hooks means that tenant's budget."""
    async with hooks_on() as (hooks, ledger):
        await ledger.set_budget("tenant:globex", usd("1"))
        await ledger.set_budget("tenant:globex", risk_points(5))
        others = Watched(as_client(ledger), tenant="globex")
        inner, _ = talker("inner")

        async def ask() -> str:
            await others.run(inner, "?")
            return (await Runner.run(inner, "?", hooks=others)).final_output

        agent, _ = calling(ask)
        await hooks.run(agent, "hi")
        assert [run.tenant for run in [*hooks.runs, *others.runs]] == ["acme", "globex", "globex"]
        assert len(others.receipt.calls) == 2


@pytest.mark.parametrize("hooks_of", [lambda hooks: hooks, Beside])
async def test_a_background_task_outlives_the_run_that_started_it(hooks_of):
    """Its run is over: an agent that it runs is no call of that any more."""
    async with hooks_on() as (hooks, ledger):
        later, gate, tasks = talker("later")[0], asyncio.Event(), []

        async def background():
            await gate.wait()
            plain = (await Runner.run(later, "?")).final_output
            return plain, (await Runner.run(later, "?", hooks=hooks)).final_output

        async def ask() -> str:
            tasks.append(asyncio.create_task(background()))
            return "started"

        agent, _ = calling(ask)
        await Runner.run(agent, "hi", hooks=hooks_of(hooks))
        before = len(await statuses(ledger))
        gate.set()
        assert await tasks[0] == ("later", "later")
        assert len(await statuses(ledger)) == before + 1


async def test_a_refusal_behind_hooks_of_ones_own_is_raised_wherever_it_fell():
    """The SDK makes a text of it for the outer model; the run still ends with it."""
    async with hooks_on(dollars="0.012") as (hooks, _), no_task_left():
        inner = Agent(name="Inner", model=CountingModel("inner"))
        for streamed in (False, True):
            agent = Agent(
                name="Outer",
                model=CountingModel([function_call("ask", {"input": "?"}, call_id="c")]),
                tools=[inner.as_tool("ask", "asks")],
                tool_use_behavior="stop_on_first_tool",
            )
            hooks._policy = CyclesRunHooks(
                hooks._lender.client, tenant="acme", llm_estimate=700_000
            )._policy
            with pytest.raises(BudgetExceededError):
                await played(agent, Beside(hooks), streamed)


async def played(agent, hooks, streamed):
    if not streamed:
        return await Runner.run(agent, "hi", hooks=hooks)
    async for _ in Runner.run_streamed(agent, "hi", hooks=hooks).stream_events():
        pass
    return None


async def test_a_supervisors_concurrency_counts_runs_that_are_started_inside_hooks():
    async with (
        hooks_on() as (hooks, ledger),
        open_supervisor(ledger=ledger, max_concurrency=1) as supervisor,
    ):
        model = BlockedModel()

        async def ask() -> str:
            handles = [
                supervisor.start(Agent(name="A", model=model), "hi", tenant="acme")
                for _ in range(3)
            ]
            await model.started()
            stands = sorted(handle.status for handle in handles)
            model.release()
            for handle in handles:
                await handle.outcome()
            return " ".join(stands)

        agent, _ = calling(ask)
        agent.tool_use_behavior = "stop_on_first_tool"
        result = await hooks.run(agent, "hi")
        assert result.final_output == "running waiting waiting"


async def test_hooks_of_a_users_own_see_every_callback_once():
    heard = []

    class Own(RunHooks):
        async def on_llm_start(self, *args):
            heard.append("llm")

        async def on_tool_start(self, *args):
            heard.append("tool")

    async with funded() as ledger:
        hooks = Watched(as_client(ledger), tenant="acme")
        await Runner.run(searcher()[0], "hi", hooks=Beside(Own(), hooks))
        assert heard == ["llm", "tool", "llm"]
