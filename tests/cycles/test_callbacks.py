"""Hooks that something else calls: a runner of another's, or a program, callback by callback."""

from types import SimpleNamespace

import anyio
import pytest
from agents import ModelResponse, RunContextWrapper, Runner, Usage
from agents.run import AgentRunner
from agents.testing import assistant_message, function_call
from runcycles import BudgetExceededError

from comptroller.testing import FailingModel, assert_settled, no_task_left, open_reservations
from support.hooks_fixture import hooks_on, search, searcher, statuses, talker
from support.hooks_scenarios import Beside

pytestmark = pytest.mark.anyio


def answer():
    usage = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
    return ModelResponse([assistant_message("hi")], usage, "r")


async def test_under_a_runner_of_anothers_the_callbacks_govern():
    """The SDK's own runner class, called past the one that is in place."""
    async with hooks_on() as (hooks, ledger), no_task_left():
        agent, model = searcher()
        result = await AgentRunner().run(agent, "hi", hooks=hooks)
        assert result.final_output == "found it"
        assert model.dispatches == 2
        kinds = ["llm.completion", "tool.invoke", "llm.completion"]
        assert await statuses(ledger) == [(kind, "COMMITTED") for kind in kinds]
        assert hooks._carried == hooks._begun == {}


async def test_there_a_denial_comes_out_unwrapped():
    async with hooks_on(dollars="0") as (hooks, _), no_task_left():
        agent, model = talker()
        with pytest.raises(BudgetExceededError):
            await AgentRunner().run(agent, "hi", hooks=hooks)
        assert model.dispatches == 0
        await hooks.release_pending("it was denied")


async def test_there_a_failed_run_is_ended_by_release_pending():
    """The SDK tells hooks of no failure: the program says so."""
    async with hooks_on() as (hooks, ledger), no_task_left():
        agent, _ = talker()
        agent.model = FailingModel(ValueError("broken"))
        with pytest.raises(ValueError, match="broken"):
            await AgentRunner().run(agent, "hi", hooks=hooks)
        assert len(await open_reservations(ledger)) == 1
        await hooks.release_pending("it failed")
        await assert_settled(ledger)
        (line,) = hooks.receipt.calls
        assert (line.outcome, line.reason) == ("abandoned", "it failed")


async def test_callbacks_by_hand():
    async with hooks_on() as (hooks, ledger), no_task_left():
        agent, _ = talker()
        context = RunContextWrapper(None)
        await hooks.on_agent_start(context, agent)
        await hooks.on_llm_start(context, agent, "be kind", [])
        assert len(await open_reservations(ledger)) == 1
        await hooks.on_llm_end(context, agent, answer())
        await hooks.on_tool_start(context, agent, search)
        await hooks.on_tool_end(context, agent, search, "found")
        await hooks.on_handoff(context, agent, SimpleNamespace(name="Desk two"))
        await hooks.on_agent_end(context, agent, "done")
        assert [line.kind for line in hooks.receipt.calls] == [
            "llm.completion", "tool.invoke", "agent.handoff",
        ]  # fmt: skip
        assert all(line.charged is not None for line in hooks.receipt.calls)


async def test_a_call_that_was_begun_and_never_ended_is_given_up_with_its_run():
    async with hooks_on() as (hooks, _), no_task_left():
        agent, _ = talker()
        context = RunContextWrapper(None)
        await hooks.on_llm_start(context, agent, None, [])
        await hooks.on_llm_start(context, agent, None, [])  # the first one never came back
        await hooks.on_llm_end(context, agent, answer())
        await hooks.on_agent_end(context, agent, "done")
        assert [line.outcome.value for line in hooks.receipt.calls] == ["abandoned", "committed"]


async def test_an_agents_end_inside_a_tool_is_not_the_runs_end():
    """Nested runs share what has been used: only the outermost end, with no call open, is one."""
    async with hooks_on() as (hooks, _), no_task_left():
        agent, _ = talker()
        outer = RunContextWrapper(None)
        inner = RunContextWrapper(None, usage=outer.usage)
        await hooks.on_tool_start(outer, agent, search)
        await hooks.on_llm_start(inner, agent, None, [])
        await hooks.on_llm_end(inner, agent, answer())
        await hooks.on_agent_end(inner, agent, "inner done")
        assert len(hooks._begun) == 1
        await hooks.on_tool_end(outer, agent, search, "found")
        await hooks.on_agent_end(outer, agent, "done")
        assert hooks._begun == {}
        assert len(hooks.runs) == 1


async def test_parallel_nested_runs_are_not_mixed_up():
    async with hooks_on() as (hooks, _), no_task_left():
        agent, _ = talker()
        usage = Usage()
        one, two = (RunContextWrapper(None, usage=usage) for _ in range(2))
        async with anyio.create_task_group() as group:
            for context in (one, two):
                group.start_soon(hooks.on_llm_start, context, agent, None, [])
        await hooks.on_llm_end(two, agent, ModelResponse([], Usage(), "r"))
        await hooks.on_llm_end(one, agent, answer())
        await hooks.on_agent_end(one, agent, "done")
        sizes = [(line.tokens.total if line.tokens else None) for line in hooks.receipt.calls]
        assert sorted(sizes, key=str) == [15, None]


async def test_an_end_that_nobody_began_is_nobodys():
    async with hooks_on() as (hooks, ledger), no_task_left():
        agent, _ = talker()
        context = RunContextWrapper(None)
        await hooks.on_llm_end(context, agent, answer())
        await hooks.on_tool_end(context, agent, search, "found")
        await hooks.on_agent_end(context, agent, "done")
        assert await statuses(ledger) == []
        assert hooks._begun == {}


async def test_release_pending_inside_a_followed_run_does_not_end_it():
    """The `Runner.run` around it goes on, and so does what runs inside its tools."""
    async with hooks_on() as (hooks, ledger), no_task_left():
        inner, _ = talker("inner")
        turn = [function_call("ask", {"input": "y"}, call_id="c")]
        agent, _ = talker(turn, "done", tools=[inner.as_tool("ask", "asks")])

        class Releasing(Beside):
            async def on_tool_start(self, *args):
                await super().on_tool_start(*args)
                await hooks.release_pending("so far")

        result = await Runner.run(agent, "hi", hooks=Releasing(hooks))
        assert result.final_output == "done"
        assert len(hooks.runs) == 1
        outcomes = [(line.kind, line.outcome.value) for line in hooks.receipt.calls]
        answered = ("llm.completion", "committed")
        assert sorted(outcomes) == [*[answered] * 3, ("tool.invoke", "abandoned")]
        assert await open_reservations(ledger) == []
