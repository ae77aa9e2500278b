"""The patterns of the SDK's own examples, alone and governed: user code sees the same.

Each is played twice with plain `Runner` calls: as it is, and inside a scope. All that code of the
user's sees is written down in order and compared: what every model was asked, which tools ran with
what, what each hook and guardrail heard, every event of a stream, outputs, usage, and errors. The
receipt has one line for each call of a model or a tool.
"""

import asyncio
import dataclasses
import types

import pytest
from agents import (
    Agent,
    AgentHooks,
    GuardrailFunctionOutput,
    ModelSettings,
    RunConfig,
    RunHooks,
    Runner,
    SQLiteSession,
    ToolGuardrailFunctionOutput,
    ToolsToFinalOutputResult,
    function_tool,
    handoff,
    input_guardrail,
    output_guardrail,
    tool_input_guardrail,
    tool_output_guardrail,
    trace,
)
from agents.extensions import handoff_filters
from agents.testing import function_call
from pydantic import BaseModel

from comptroller.testing import CountingModel
from support.scope_fixture import open_books

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),
]


class Heard(CountingModel):
    """Writes down what it is asked."""

    def __init__(self, log, *turns):
        super().__init__(*turns)
        self.log = log

    def _note(self, names):
        self.log.append((
            "model", names["system_instructions"], str(names["input"]), names["model_settings"],
            [tool.name for tool in names["tools"]],
            names["output_schema"] and names["output_schema"].name(),
            [each.tool_name for each in names["handoffs"]],
        ))  # fmt: skip

    async def get_response(self, *places, **names):
        self._note(dict(zip(PLACES, places, strict=False)) | names)
        return await super().get_response(*places, **names)

    async def stream_response(self, *places, **names):
        self._note(dict(zip(PLACES, places, strict=False)) | names)
        async for event in super().stream_response(*places, **names):
            yield event


PLACES = ("system_instructions", "input", "model_settings", "tools", "output_schema", "handoffs")


def noting(log, kind):
    """Hooks, of a run or of an agent, that write down what they hear."""

    def noted(callback):
        async def heard(self, *args, **named):
            shown = [getattr(arg, "name", None) or type(arg).__name__ for arg in args]
            log.append((str(kind), callback, shown, sorted(named)))

        return heard

    callbacks = {name: noted(name) for name in dir(kind) if name.startswith("on_")}
    return types.new_class("Noting", (kind,), exec_body=lambda body: body.update(callbacks))()


async def ask(log, agent, given, **options):
    """Run it, plain and streamed; write down all that can be seen of both."""
    for run in (Runner.run, streamed):
        options["hooks"] = noting(log, RunHooks)
        try:
            result = await run(agent, given, **options)
        except Exception as error:  # noqa: BLE001 - it is what user code sees
            log.append(("raised", type(error), str(error)))
            continue
        log.extend(result.seen if run is streamed else [])
        usage = result.context_wrapper.usage
        log.append((
            "result", result.final_output, result.last_agent.name, str(result.to_input_list()),
            usage.requests, usage.total_tokens, [type(item) for item in result.new_items],
            len(result.input_guardrail_results), len(result.output_guardrail_results),
        ))  # fmt: skip


async def streamed(agent, given, **options):
    result = Runner.run_streamed(agent, given, **options)
    result.seen = []
    async for event in result.stream_events():
        of = getattr(event, "name", None) or getattr(getattr(event, "data", None), "type", None)
        result.seen.append(("event", event.type, of))
    return result


def weather_tool(log, **settings):
    @function_tool(**settings)
    def weather(city: str) -> str:
        """The weather there."""
        log.append(("tool", city))
        return f"sunny in {city}"

    return weather


OSLO = [function_call("weather", {"city": "Oslo"}, call_id="w")]


async def basic(log):
    await ask(log, Agent("A", instructions="In haiku.", model=Heard(log, "hello")), "hi")


async def tools(log):
    model = Heard(log, OSLO, "Sunny.", OSLO, "Sunny.")
    await ask(log, Agent("A", model=model, tools=[weather_tool(log)]), "hi")


async def dynamic_prompt(log):
    async def instructions(context, agent):
        log.append(("instructions", context.context, agent.name))
        return f"You speak to {context.context}."

    await ask(
        log, Agent("A", instructions=instructions, model=Heard(log, "hi")), "hi", context="Ann"
    )


async def lifecycle(log):
    """The SDK calls a run's hooks and an agent's at once: each are in order by themselves."""
    own = []
    last = Agent("Last", model=Heard(log, "done"), hooks=noting(own, AgentHooks))
    over = [function_call("transfer_to_last", {}, call_id="h")]
    model = Heard(log, OSLO, over, OSLO, over)
    agent = Agent("First", model=model, hooks=noting(own, AgentHooks),
                  tools=[weather_tool(log)], handoffs=[last])  # fmt: skip
    await ask(log, agent, "hi")
    log.extend(own)


async def filtered_handoff(log):
    def taken(context):
        log.append(("handed over",))

    last = Agent("Last", model=Heard(log, "done"))
    over = [function_call("transfer_to_last", {}, call_id="h")]
    given = handoff(last, on_handoff=taken, input_filter=handoff_filters.remove_all_tools)
    agent = Agent("First", model=Heard(log, OSLO, over, OSLO, over),
                  tools=[weather_tool(log)], handoffs=[given])  # fmt: skip
    await ask(log, agent, "hi")


async def agents_as_tools(log):
    inner = Agent("Spanish", model=Heard(log, "hola"), hooks=noting(log, AgentHooks))
    tool = inner.as_tool("translate", "to Spanish", is_enabled=lambda context, agent: True)
    calls = [function_call("translate", {"input": "hi"}, call_id="t")]
    await ask(log, Agent("A", model=Heard(log, calls, "done", calls, "done"), tools=[tool]), "hi")


def tripping(log, trips):
    judge = Agent("Judge", model=Heard(log, "fine"))

    async def looked(context, agent, given):
        verdict = await Runner.run(judge, str(given), context=context.context)
        log.append(("guardrail", agent.name, verdict.final_output))
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=trips)

    return looked


async def output_guardrails(log):
    for trips in (False, True):
        judge = output_guardrail(tripping(log, trips))
        await ask(log, Agent("A", model=Heard(log, "hello"), output_guardrails=[judge]), "hi")


async def input_guardrails(log):
    for trips in (False, True):
        judge = input_guardrail(tripping(log, trips), run_in_parallel=False)
        await ask(log, Agent("A", model=Heard(log, "hello"), input_guardrails=[judge]), "hi")


async def tool_guardrails(log):
    @tool_input_guardrail
    def before(data):
        log.append(("before", data.context.tool_arguments))
        rejects = "Oslo" in data.context.tool_arguments
        behaves = ToolGuardrailFunctionOutput
        return behaves.reject_content("not there") if rejects else behaves.allow()

    @tool_output_guardrail
    def after(data):
        log.append(("after", data.output))
        return ToolGuardrailFunctionOutput.allow()

    tool = weather_tool(log)
    tool.tool_input_guardrails, tool.tool_output_guardrails = [before], [after]
    rome = [function_call("weather", {"city": "Rome"}, call_id="r")]
    await ask(
        log, Agent("A", model=Heard(log, OSLO, rome, "so", OSLO, rome, "so"), tools=[tool]), "hi"
    )


class Verdict(BaseModel):
    score: int


async def structured_output(log):
    agent = Agent(
        "A", model=Heard(log, '{"score": 3}', '{"score": 3}', "no JSON"), output_type=Verdict
    )
    for _ in range(2):
        await ask(log, agent, "hi")


async def forced_tool_use(log):
    async def finish(context, results):
        log.append(("results", [result.output for result in results]))
        return ToolsToFinalOutputResult(is_final_output=True, final_output=results[0].output)

    for behaviour in ("run_llm_again", "stop_on_first_tool", finish):
        agent = Agent("A", model=Heard(log, OSLO, "so", OSLO, "so"), tools=[weather_tool(log)],
                      tool_use_behavior=behaviour,
                      model_settings=ModelSettings(tool_choice="required"))  # fmt: skip
        await ask(log, agent, "hi")


async def deterministic_flow(log):
    first, second = (Agent(name, model=Heard(log, name)) for name in ("Outline", "Story"))
    with trace("flow"):
        outline = await Runner.run(first, "hi")
        await ask(log, second, outline.final_output)


async def parallelisation(log):
    logs = [[] for _ in range(3)]
    agents = [Agent(f"A{n}", model=Heard(logs[n], f"hello {n}")) for n in range(3)]
    results = await asyncio.gather(*(Runner.run(agent, "hi") for agent in agents))
    log.append([result.final_output for result in results])
    log.extend(logs)


async def llm_as_a_judge(log):
    writer = Agent("Writer", model=Heard(log, "first", "second"))
    judge = Agent("Judge", model=Heard(log, '{"score": 1}', '{"score": 9}'), output_type=Verdict)
    given, score = [{"role": "user", "content": "write"}], 0
    while score < 5:
        written = await Runner.run(writer, given)
        judged = await Runner.run(judge, written.to_input_list())
        score = judged.final_output.score
        given = [*written.to_input_list(), {"role": "user", "content": f"score {score}"}]
    log.append(given)


async def sessions(log):
    session = SQLiteSession("s")
    try:
        for _ in range(2):
            await ask(log, Agent("A", model=Heard(log, "hello")), "hi", session=session)
        log.append(await session.get_items())
    finally:
        session.close()


async def turns_run_out(log):
    agent = Agent("A", model=Heard(log, OSLO), tools=[weather_tool(log)])
    await ask(log, agent, "hi", max_turns=2)


async def failing_tools(log):
    @function_tool
    def broken() -> str:
        raise ValueError("broken")

    @function_tool(failure_error_function=None)
    def loud() -> str:
        raise ValueError("loud")

    for tool in (broken, loud):
        calls = [function_call(tool.name, {}, call_id="b")]
        await ask(log, Agent("A", model=Heard(log, calls, "so", calls, "so"), tools=[tool]), "hi")


async def human_in_the_loop(log):
    agent = Agent("A", model=Heard(log, OSLO, "so"), tools=[weather_tool(log, needs_approval=True)])
    paused = await Runner.run(agent, "hi")
    log.append([item.tool_name for item in paused.interruptions])
    state = paused.to_state()
    for item in paused.interruptions:
        state.approve(item)
    log.append((await Runner.run(agent, state)).final_output)


async def configured(log):
    def shorter(data):
        log.append(("filter", data.agent.name, len(data.model_data.input)))
        return dataclasses.replace(data.model_data, instructions="Short.")

    config = RunConfig(model=Heard(log, "hello"), call_model_input_filter=shorter,
                       model_settings=ModelSettings(temperature=0.2))  # fmt: skip
    await ask(log, Agent("A", model="gpt-4.1"), "hi", run_config=config)


PATTERNS = [
    basic, tools, dynamic_prompt, lifecycle, filtered_handoff, agents_as_tools, output_guardrails,
    input_guardrails, tool_guardrails, structured_output, forced_tool_use, deterministic_flow,
    parallelisation, llm_as_a_judge, sessions, turns_run_out, failing_tools, human_in_the_loop,
    configured,
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_user_code_sees_the_same(pattern):
    alone, other = [], []
    await pattern(alone)
    async with open_books(None) as books:
        await pattern(other)
    assert other == alone
    models = [line for line in _flat(other) if line[0] == "model"]
    begun = [line for line in _flat(other) if line[0] == "tool"]
    kinds = [line.kind for line in books.lines if line.outcome != "released"]
    assert kinds.count("llm.completion") == len(models) > 0
    assert kinds.count("tool.invoke") >= len(begun)


def _flat(log):
    for line in log:
        if isinstance(line, tuple):
            yield line
        elif isinstance(line, list):
            yield from _flat(line)
