"""Guardrails, of runs and of tools, some of which ask an agent of their own."""

import asyncio

from agents import (
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    Runner,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolOutputGuardrail,
)

from openai_agents.scenarios.registry import Scenario, register
from support.governed_vs_plain import Play
from support.recording_models import Turn, call

SCENARIOS: list[Scenario] = []
scenario = register(SCENARIOS)


def judging(trace, *verdicts, after=0.0):
    """A guardrail function that asks an agent: it trips on "no"."""
    judge = trace.agent("Judge", "clever", *verdicts)

    async def judged(context, agent, given):
        await asyncio.sleep(after)
        said = (await Runner.run(judge, "Is it right?", hooks=trace.hooks())).final_output
        return GuardrailFunctionOutput(said, tripwire_triggered=said == "no")

    return judged


@scenario()
def an_input_guardrail_beside(trace):
    guard = InputGuardrail(judging(trace, "yes"))
    agent = trace.agent("Triage agent", "quick", "Sunny.", input_guardrails=[guard])
    return Play(agent, unordered=True)


@scenario()
def an_input_guardrail_before(trace):
    guard = InputGuardrail(judging(trace, "yes"), run_in_parallel=False)
    return Play(trace.agent("Triage agent", "quick", "Sunny.", input_guardrails=[guard]))


@scenario()
def an_input_guardrail_that_trips_before(trace):
    guard = InputGuardrail(judging(trace, "no"), run_in_parallel=False)
    return Play(trace.agent("Triage agent", "quick", "Sunny.", input_guardrails=[guard]))


@scenario()
def an_input_guardrail_that_trips_in_mid_call(trace):
    """The model is thinking when the run is given up: that call is abandoned."""
    guard = InputGuardrail(judging(trace, "no", after=1.0))
    slow = Turn(after=lambda: asyncio.sleep(60))
    agent = trace.agent("Triage agent", "quick", slow, input_guardrails=[guard])
    return Play(agent, unordered=True)


@scenario()
def an_output_guardrail(trace):
    guard = OutputGuardrail(judging(trace, "yes"))
    return Play(trace.agent("Triage agent", "quick", "Sunny.", output_guardrails=[guard]))


@scenario()
def an_output_guardrail_that_trips(trace):
    guard = OutputGuardrail(judging(trace, "no"))
    return Play(trace.agent("Triage agent", "quick", "Sunny.", output_guardrails=[guard]))


def guarded_tool(trace, *, before=None, after=None):
    tool = trace.tool()
    tool.tool_input_guardrails = before and [ToolInputGuardrail(before)]
    tool.tool_output_guardrails = after and [ToolOutputGuardrail(after)]
    return trace.agent("Triage agent", "quick", [call("weather")], "Sunny.", tools=[tool])


def _asks(trace, outcome):
    judge = trace.agent("Judge", "clever", "hm")

    async def judged(data):
        await Runner.run(judge, "Is it right?")
        return outcome

    return judged


@scenario()
def a_tool_guardrail_that_asks_an_agent(trace):
    allowed = ToolGuardrailFunctionOutput.allow()
    agent = guarded_tool(trace, before=_asks(trace, allowed), after=_asks(trace, allowed))
    return Play(agent)


@scenario()
def a_tool_guardrail_that_rejects_the_result(trace):
    rejected = ToolGuardrailFunctionOutput.reject_content("not that")
    return Play(guarded_tool(trace, after=_asks(trace, rejected)))


@scenario()
def a_tool_guardrail_that_raises(trace):
    raised = ToolGuardrailFunctionOutput.raise_exception()
    return Play(guarded_tool(trace, after=_asks(trace, raised)))


@scenario()
def a_tool_guardrail_that_rejects_the_call(trace):
    """The tool does not run: nothing is reserved for it, or it is released."""
    rejected = ToolGuardrailFunctionOutput.reject_content("not that")
    return Play(guarded_tool(trace, before=_asks(trace, rejected)))
