"""Runs that stop for an approval and go on later."""

from agents import RunState

from openai_agents.scenarios.registry import Scenario, register
from support.governed_vs_plain import Play
from support.recording_models import call

SCENARIOS: list[Scenario] = []
scenario = register(SCENARIOS)


def asking_first(trace, *more, **fields):
    tool = trace.tool(needs_approval=True)
    turns = ([call("weather")], "Sunny.")
    return trace.agent("Triage agent", "quick", *turns, tools=[tool, *more], **fields)


def resuming(decide, *, serialised=False):
    async def script(stage):
        first = await stage.run("go")
        state = first.to_state()
        if serialised:
            state = await stage.aio(RunState.from_string)(stage.agent, state.to_string())
        for item in state.get_interruptions():
            decide(state, item)
        return [first, await stage.run(state)]

    return script


def approve(state, item):
    state.approve(item)


def reject(state, item):
    state.reject(item)


@scenario(nested=False)
def approved(trace):
    return Play(asking_first(trace), resuming(approve))


@scenario(nested=False)
def rejected(trace):
    return Play(asking_first(trace), resuming(reject))


@scenario(nested=False)
def approved_after_it_was_written_down(trace):
    return Play(asking_first(trace), resuming(approve, serialised=True))


@scenario(nested=False)
def rejected_after_it_was_written_down(trace):
    return Play(asking_first(trace), resuming(reject, serialised=True))


def nested_asking(trace, *, handed=False):
    inner = asking_first(trace)
    asks = trace.watched(inner.as_tool("ask", "asks"))
    turns = ([call("ask", input="?")], "They say it is sunny.")
    agent = trace.agent("Outer", "clever", *turns, tools=[asks])
    if not handed:
        return agent, ()
    first = trace.agent("First", "deep", [call("transfer_to_outer")], handoffs=[agent])
    return first, (("agent.handoff", "Outer", 0),)


@scenario(nested=False)
def approved_inside_an_agent_tool(trace):
    return Play(nested_asking(trace)[0], resuming(approve))


@scenario(nested=False)
def rejected_inside_an_agent_tool(trace):
    return Play(nested_asking(trace)[0], resuming(reject))


@scenario(nested=False)
def approved_inside_an_agent_tool_after_it_was_written_down(trace):
    return Play(nested_asking(trace)[0], resuming(approve, serialised=True))


@scenario(nested=False)
def approved_after_a_handoff(trace):
    agent, events = nested_asking(trace, handed=True)
    return Play(agent, resuming(approve, serialised=True), events=events)


@scenario(nested=False)
def approved_beside_a_tool_that_ran(trace):
    tool = trace.tool(needs_approval=True)
    other = trace.tool(name_override="clock")
    turns = ([call("weather"), call("clock")], "Sunny.")
    agent = trace.agent("Triage agent", "quick", *turns, tools=[tool, other])
    return Play(agent, resuming(approve))


@scenario()
def never_approved(trace):
    return Play(asking_first(trace))
