"""Who speaks: one agent, handoffs, agents as tools, tools that run agents."""

import asyncio

import anyio
from agents import AgentHooks, RunConfig, Runner, handoff

from openai_agents.scenarios.registry import Scenario, register
from support.governed_vs_plain import Play
from support.recording_models import call

SCENARIOS: list[Scenario] = []
scenario = register(SCENARIOS)


@scenario()
def plain(trace):
    return Play(trace.agent("Triage agent", "quick", "It is sunny."))


@scenario()
def plain_with_instructions_made_at_run_time(trace):
    async def instructions(context, agent):
        return f"You are {agent.name}."

    return Play(trace.agent("Triage agent", "quick", "I am.", instructions=instructions))


@scenario()
def handed_over(trace):
    """Two handoffs: three agents, three voices, two events."""
    third = trace.agent("Third desk", "deep", "Hola.")
    second = trace.agent(
        "Second desk / Español", "clever", [call("transfer_to_third_desk")], handoffs=[third]
    )
    turns = [[call("up")]]
    first = trace.agent(
        "Triage agent", "quick", *turns, handoffs=[handoff(second, tool_name_override="up")]
    )
    events = (("agent.handoff", second.name, 0), ("agent.handoff", third.name, 0))
    return Play(first, events=events)


@scenario()
def handed_over_with_a_tool_beside(trace):
    second = trace.agent("Second desk", "clever", [call("clock")], "Noon.",
                         tools=[trace.tool(name_override="clock")])  # fmt: skip
    first = trace.agent("Triage agent", "quick", [call("weather"), call("transfer_to_second_desk")],
                        handoffs=[second], tools=[trace.tool()])  # fmt: skip
    return Play(first, events=(("agent.handoff", "Second desk", 0),))


def asking(trace, inner, name="ask", **options):
    return trace.watched(inner.as_tool(name, "asks", **options))


@scenario()
def an_agent_as_a_tool(trace):
    inner = trace.agent("Expert", "clever", [call("weather")], "Rain.", tools=[trace.tool()])
    turns = ([call("ask", input="weather?")], "It rains.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[asking(trace, inner)]))


@scenario()
def agents_as_tools_in_two_levels(trace):
    innermost = trace.agent("Oracle", "deep", [call("clock")], "Yes.",
                            tools=[trace.tool(name_override="clock")])  # fmt: skip
    inner = trace.agent("Expert", "clever", [call("ask", input="is it?")], "It is.",
                        tools=[asking(trace, innermost)])  # fmt: skip
    turns = ([call("ask", input="well?")], "So it is.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[asking(trace, inner)]))


@scenario()
def an_agent_as_a_tool_with_hooks(trace):
    """Hooks of the tool's own hear the nested run, as they do without us."""
    inner = trace.agent("Expert", "clever", [call("weather")], "Rain.", tools=[trace.tool()])
    turns = ([call("ask", input="weather?")], "It rains.")
    asks = asking(trace, inner, hooks=trace.hooks())
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[asks]))


@scenario(nested=False)
def an_agent_as_a_tool_with_the_same_hooks(trace):
    hooks = trace.hooks()
    inner = trace.agent("Expert", "clever", "Rain.")
    turns = ([call("ask", input="weather?")], "It rains.")
    asks = asking(trace, inner, hooks=hooks)
    agent = trace.agent("Triage agent", "quick", *turns, tools=[asks])
    return Play(agent, options={"hooks": hooks})


@scenario()
def an_agent_as_a_tool_with_a_run_config(trace):
    """The tool's own run config wins over the inherited one."""
    other = trace.agent("nobody", "deep", "From the other voice.").model
    inner = trace.agent("Expert", "clever", "never")
    turns = ([call("ask", input="weather?")], "It rains.")
    asks = asking(trace, inner, run_config=RunConfig(model=other))
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[asks]))


@scenario()
def a_streamed_agent_as_a_tool(trace):
    def heard(event):
        trace.heard.append(event["event"].type)

    inner = trace.agent("Expert", "clever", [call("weather")], "Rain.", tools=[trace.tool()])
    turns = ([call("ask", input="weather?")], "It rains.")
    asks = asking(trace, inner, on_stream=heard)
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[asks]))


@scenario()
def an_agent_as_a_tool_that_fails(trace):
    """Its model raises; the outer model reads a text and goes on."""
    inner = trace.agent("Expert", "clever", ValueError("broken"))
    turns = ([call("ask", input="weather?")], "No idea.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[asking(trace, inner)]))


@scenario()
def two_agents_as_tools_at_once(trace):
    one = trace.agent("One", "clever", "1")
    two = trace.agent("Two", "deep", [call("weather")], "2", tools=[trace.tool()])
    turns = ([call("ask_one", input="?"), call("ask_two", input="?")], "12")
    tools = [asking(trace, one, "ask_one"), asking(trace, two, "ask_two")]
    return Play(trace.agent("Triage agent", "quick", *turns, tools=tools), unordered=True)


@scenario()
def a_tool_that_runs_an_agent(trace):
    inner = trace.agent("Expert", "clever", [call("clock")], "Noon.",
                        tools=[trace.tool(name_override="clock")])  # fmt: skip

    async def consult() -> str:
        return (await Runner.run(inner, "?", hooks=trace.hooks())).final_output

    turns = ([call("weather")], "Noon, they say.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[trace.tool(consult)]))


@scenario()
def a_tool_that_streams_an_agent(trace):
    inner = trace.agent("Expert", "clever", "Noon, as ever, as I said.")

    async def consult() -> str:
        result = Runner.run_streamed(inner, "?")
        return str(len([event async for event in result.stream_events()]))

    turns = ([call("weather")], "Noon, they say.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[trace.tool(consult)]))


@scenario()
def a_synchronous_tool_that_runs_an_agent(trace):
    """`run_sync` in the tool's worker thread, on a loop of that thread."""
    inner = trace.agent("Expert", "clever", [call("clock")], "Noon.",
                        tools=[trace.tool(name_override="clock")])  # fmt: skip

    def consult() -> str:
        with own_loop():
            return Runner.run_sync(inner, "?").final_output

    turns = ([call("weather")], "Noon, they say.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[trace.tool(consult)]))


@scenario()
def a_tool_that_runs_an_agent_in_a_thread(trace):
    """`asyncio.run` in a thread of the tool's own."""
    inner = trace.agent("Expert", "clever", [call("clock")], "Noon.",
                        tools=[trace.tool(name_override="clock")])  # fmt: skip

    async def consult() -> str:
        work = asyncio.to_thread(lambda: asyncio.run(Runner.run(inner, "?")))
        return (await work).final_output

    turns = ([call("weather")], "Noon, they say.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[trace.tool(consult)]))


@scenario()
def a_tool_that_streams_an_agent_in_a_thread(trace):
    inner = trace.agent("Expert", "clever", [call("clock")], "Noon, as ever.",
                        tools=[trace.tool(name_override="clock")])  # fmt: skip

    async def read() -> str:
        result = Runner.run_streamed(inner, "?")
        return str(len([event async for event in result.stream_events()]))

    async def consult() -> str:
        return await asyncio.to_thread(lambda: asyncio.run(read()))

    turns = ([call("weather")], "Noon, they say.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[trace.tool(consult)]))


@scenario()
def callbacks_that_run_agents(trace):
    """Instructions, a hook of the agent's and a handoff's filter, each asks somebody."""
    helper = trace.agent("Helper", "clever", "one", "two", "three")

    async def instructions(context, agent):
        return (await Runner.run(helper, "What shall I say?")).final_output

    class Asking(AgentHooks):
        async def on_end(self, context, agent, output):
            trace.heard.append((await Runner.run(helper, "Was it good?")).final_output)

    async def taken(context):
        trace.heard.append((await Runner.run(helper, "Shall I?")).final_output)

    second = trace.agent("Second desk", "deep", "Done.", hooks=Asking())
    fields = {"instructions": instructions, "handoffs": [handoff(second, on_handoff=taken)]}
    agent = trace.agent("Triage agent", "quick", [call("transfer_to_second_desk")], **fields)
    return Play(agent, events=(("agent.handoff", "Second desk", 0),))


@scenario(nested=False)
def run_twice(trace):
    """Two runs in one scope, the second goes on where the first ended."""
    agent = trace.agent("Triage agent", "quick", "One.", [call("weather")], "Two.",
                        tools=[trace.tool()])  # fmt: skip

    async def script(stage):
        first = await stage.run("go")
        return [first, await stage.run(first.to_input_list())]

    return Play(agent, script)


@scenario(nested=False)
def three_runs_at_once(trace):
    agent = trace.agent("Triage agent", "quick", "same", "same", "same")

    async def script(stage):
        results = []

        async def one():
            results.append(await stage.run("go"))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
        usages = sorted(result.context_wrapper.usage.total_tokens for result in results)
        return [results[0]] if usages == [123, 125, 127] else results

    return Play(agent, script, unordered=True)


class own_loop:  # noqa: N801 - used like a function
    """A loop for `run_sync` in this thread, closed afterwards (the SDK leaves its own open).

    Made where the SDK looks for it: trio-asyncio gives asyncio's own functions another policy.
    """

    def __enter__(self):
        self.policy = asyncio.get_event_loop_policy()
        self.loop = self.policy.new_event_loop()
        self.policy.set_event_loop(self.loop)

    def __exit__(self, *exc):
        self.policy.set_event_loop(None)
        self.loop.close()
