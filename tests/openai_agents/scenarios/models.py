"""What models do: fail, are retried, time out, answer nonsense; and how they are found."""

import asyncio

import httpx
import openai
from agents import (
    ModelProvider,
    ModelRetrySettings,
    ModelSettings,
    RunConfig,
    RunErrorHandlerResult,
    Usage,
)
from openai.types.shared import Reasoning
from pydantic import BaseModel

from openai_agents.scenarios.registry import Scenario, register
from support.governed_vs_plain import Play
from support.recording_models import Turn, Voice, assistant_message, call

SCENARIOS: list[Scenario] = []
scenario = register(SCENARIOS)

REQUEST = httpx.Request("POST", "http://127.0.0.1/v1/responses")


def status_error(status):
    kinds = {400: openai.BadRequestError, 401: openai.AuthenticationError,
             403: openai.PermissionDeniedError, 404: openai.NotFoundError,
             429: openai.RateLimitError}  # fmt: skip
    kind = kinds.get(status, openai.InternalServerError)
    return kind(f"status {status}", response=httpx.Response(status, request=REQUEST), body=None)


def refused_connection():
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = httpx.ConnectError("refused")
    return error


def failing(name, error, *, refused):
    @scenario()
    def fails(trace):
        step = Turn(error=error(), refused=refused)
        return Play(trace.agent("Triage agent", "quick", step))

    SCENARIOS[-1].build.__name__ = f"a_model_that_fails_with_{name}"


for status in (400, 401, 403, 404, 429):
    failing(status, lambda status=status: status_error(status), refused=True)
for status in (500, 503):
    failing(status, lambda status=status: status_error(status), refused=False)
failing("a_refused_connection", refused_connection, refused=True)
failing("a_time_out", lambda: openai.APITimeoutError(request=REQUEST), refused=False)
failing("a_lost_connection", lambda: ConnectionResetError("lost"), refused=False)
failing("anything_else", lambda: ValueError("else"), refused=False)


def retrying(retries=3, **more):
    settings = ModelRetrySettings(max_retries=retries, policy=_always, **more)
    return ModelSettings(retry=settings)


def _always(context):
    return True


@scenario()
def a_model_that_is_asked_again(trace):
    """Two attempts fail, the third answers: three reservations."""
    turns = [
        Turn(error=status_error(429), refused=True), Turn(error=status_error(500), refused=False),
        [call("weather")], Turn(error=status_error(503), refused=False), "Sunny.",
    ]  # fmt: skip
    agent = trace.agent("Triage agent", "quick", *turns, tools=[trace.tool()],
                        model_settings=retrying())  # fmt: skip
    return Play(agent)


@scenario()
def a_model_that_is_asked_again_in_vain(trace):
    turns = [Turn(error=status_error(500)) for _ in range(3)]
    agent = trace.agent("Triage agent", "quick", *turns, model_settings=retrying(2))
    return Play(agent)


@scenario()
def a_stream_that_breaks(trace):
    """Streamed: what was heard of it is charged."""
    step = Turn(
        [assistant_message("A long and winding answer.")], error=ConnectionResetError("cut")
    )
    return Play(trace.agent("Triage agent", "clever", step))


class Iterated(Voice):
    """A voice whose stream is an iterator and no generator: it cannot be closed."""

    def stream_response(self, *args, **kwargs):
        events = super().stream_response(*args, **kwargs)

        class Events:
            def __aiter__(self):
                return self

            async def __anext__(self):
                return await anext(events)

        return Events()


@scenario()
def a_stream_that_cannot_be_closed(trace):
    voice = Iterated(trace, "quick", [call("weather")], "Sunny.")
    return Play(trace.agent("Triage agent", voice, tools=[trace.tool()]))


@scenario()
def a_model_without_usage(trace):
    """Usage unknown: the estimate is charged, marked so."""
    turns = (Turn([call("weather")], usage=None), Turn([assistant_message("Sunny.")], usage=None))
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[trace.tool()]))


@scenario()
def a_model_that_reports_zero_tokens(trace):
    step = Turn([assistant_message("Sunny.")], usage=Usage(requests=1))
    return Play(trace.agent("Triage agent", "quick", step))


@scenario()
def an_answer_of_the_wrong_shape(trace):
    """The SDK rejects what was paid for."""

    class Forecast(BaseModel):
        degrees: int

    return Play(trace.agent("Triage agent", "quick", "not json", output_type=Forecast))


@scenario(nested=False)
def too_many_turns(trace):
    turns = [[call("weather", n)] for n in range(3)]
    agent = trace.agent("Triage agent", "quick", *turns, tools=[trace.tool()])
    return Play(agent, options={"max_turns": 3})


@scenario(nested=False)
def too_many_turns_with_a_handler(trace):
    turns = [[call("weather", n)] for n in range(3)]
    agent = trace.agent("Triage agent", "quick", *turns, tools=[trace.tool()])

    async def handled(data):
        return RunErrorHandlerResult(final_output="enough")

    options = {"max_turns": 3, "error_handlers": {"max_turns": handled}}
    return Play(agent, options=options)


@scenario(nested=False)
def a_model_that_takes_too_long(trace):
    """The SDK's own time-out for a call: it may have been billed."""
    slow = Turn([assistant_message("late")], after=lambda: asyncio.sleep(100))
    agent = trace.agent("Triage agent", "quick", slow, model_settings=ModelSettings(timeout=5.0))
    return Play(agent)


# -- how a model is found


class Voices(ModelProvider):
    """Knows voices by name; remembers what it was asked, and whether it was closed."""

    def __init__(self, trace, **voices):
        self.trace, self.voices = trace, voices

    def get_model(self, model_name):
        return self.voices[str(model_name).replace("-", "_")]

    async def aclose(self):
        self.trace.heard.append("closed")


@scenario()
def a_model_by_name(trace):
    provider = Voices(trace, clever=Voice(trace, "clever", [call("weather")], "Sunny."),
                      deep=Voice(trace, "deep", [call("ask_inner", input="go")], "all done")
                      )  # fmt: skip
    agent = trace.agent("Triage agent", "clever", tools=[trace.tool()])
    return Play(agent, options={"run_config": RunConfig(model_provider=provider)})


@scenario(nested=False)
def no_model_but_a_provider(trace):
    provider = Voices(trace, **{"None": Voice(trace, "quick", "Sunny.")})
    agent = trace.agent("Triage agent", None)
    return Play(agent, options={"run_config": RunConfig(model_provider=provider)})


@scenario(nested=False)
def a_run_configs_model_by_name(trace):
    """The run config's model wins over every agent's, handoffs included."""
    voice = Voice(trace, "clever", [call("transfer_to_second_desk")], "Sunny.")
    second = trace.agent("Second desk", "unused")
    agent = trace.agent("Triage agent", "unused too", handoffs=[second])
    config = RunConfig(model="clever", model_provider=Voices(trace, clever=voice))
    events = (("agent.handoff", "Second desk", 0),)
    return Play(agent, options={"run_config": config}, events=events)


@scenario(nested=False)
def a_run_configs_model_itself(trace):
    voice = Voice(trace, "clever", [call("ask", input="?")], "inner", "Sunny.")
    inner = trace.agent("Expert", "unused")
    asks = trace.watched(inner.as_tool("ask", "asks"))
    agent = trace.agent("Triage agent", "unused too", tools=[asks])
    return Play(agent, options={"run_config": RunConfig(model=voice)})


@scenario(nested=False)
def a_run_config_as_a_mapping(trace):
    voice = Voice(trace, "clever", "Sunny.")
    provider = Voices(trace, clever=voice)
    agent = trace.agent("Triage agent", "unused")
    config = {"model": "clever", "model_provider": provider, "workflow_name": "mapped"}
    return Play(agent, options={"run_config": config})


def named(name, *, config_model=None, settings=None, run_settings=None):
    """Which default settings go with a model's name (the SDK has some for reasoning models)."""

    @scenario(nested=False)
    def found(trace):
        voice = Voice(trace, "quick", "Sunny.")
        provider = Voices(trace, **{
            str(key).replace("-", "_"): voice for key in ("gpt-5", "gpt-4.1", "gpt-5-mini", None)
        })  # fmt: skip
        fields = {} if settings is None else {"model_settings": settings}
        agent = trace.agent("Triage agent", name, **fields)
        config = RunConfig(model=config_model, model_provider=provider, model_settings=run_settings)
        return Play(agent, options={"run_config": config})

    words = ["default_settings", name, "under", config_model, settings and "own",
             run_settings and "and_the_runs"]  # fmt: skip
    SCENARIOS[-1].build.__name__ = "_".join(str(word) for word in words if word)


WARM = ModelSettings(temperature=0.5)
HARD = ModelSettings(reasoning=Reasoning(effort="high"))
for name in ("gpt-5", "gpt-4.1", None):
    named(name)
    named(name, settings=WARM, run_settings=HARD)
    named(name, config_model="gpt-5-mini", run_settings=WARM)
    named(name, config_model="gpt-4.1", settings=HARD)


class CacheKeyed(Voice):
    """A model for which the SDK makes a prompt cache key."""

    def _supports_default_prompt_cache_key(self):
        return True


@scenario(nested=False)
def a_model_with_a_prompt_cache_key(trace):
    agent = trace.agent("Triage agent", CacheKeyed(trace, "quick", [call("weather")], "Sunny."),
                        tools=[trace.tool()])  # fmt: skip
    return Play(agent, options={"run_config": RunConfig(group_id="case 42")})


@scenario()
def agents_with_names_of_all_kinds(trace):
    """Spaces, slashes, any script, 300 characters: what a ledger cannot take is made to fit."""
    agents = [
        trace.agent(name, "quick", f"I am {number}.")
        for number, name in enumerate(("A / b:c", "客服代理", "Ünïcødé 🤖", "x" * 300, " "))
    ]
    tools = [trace.watched(agent.as_tool(f"ask_{n}", "asks")) for n, agent in enumerate(agents)]
    turns = [[call(tool.name, input="?")] for tool in tools]
    return Play(trace.agent("Tür zu / dóór", "quick", *turns, "All.", tools=tools))
