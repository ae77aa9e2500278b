"""Models and tools that write down what happened to them: the truth a ledger is compared with.

A `Trace` holds one performance: every attempt that reached a model and how it ended, every tool
that was invoked, every callback the user's hooks heard. Each answer reports its own usage, so that
a charge given to the wrong call shows.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from agents import Agent, FunctionTool, Model, RunHooks, Usage, function_tool
from agents.items import ModelResponse
from agents.lifecycle import AgentHooksBase, RunHooksBase
from agents.testing import assistant_message, function_call
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseOutputItemDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from comptroller.core.pricing import TokenCount
from comptroller.openai_agents.convert import input_characters
from comptroller.testing.models import text_delta

REPORTED = object()
"""The usage of a `Turn` that reports one: the voice counts it."""


@attrs.frozen
class Turn:
    """What a model does when it is asked once.

    Attributes:
        output: the items of its answer.
        error: raised in place of the answer; in a stream after the answer's deltas.
        refused: the error came before any work (nothing to pay).
        usage: REPORTED, a `Usage`, or None for an answer that says nothing of it.
        after: what is awaited first, e.g. a latch or a sleep.
        between: what is awaited after each delta of a stream.
    """

    output: Sequence[Any] = ()
    error: BaseException | None = None
    refused: bool = False
    usage: Any = REPORTED
    after: Callable[[], Any] | None = None
    between: Callable[[], Any] | None = None


def turn(step: Any) -> Turn:
    if isinstance(step, Turn):
        return step
    if isinstance(step, str):
        return Turn([assistant_message(step)])
    if isinstance(step, BaseException):
        return Turn(error=step)
    return Turn(step)


@attrs.define
class Attempt:
    """One request that reached a model. `ended`: open, answered, refused or abandoned."""

    model: str
    asked: tuple[Any, ...]
    input_characters: int
    settings: Any
    streamed: bool
    ended: str = "open"
    used: TokenCount | None = None
    heard: list[str] = attrs.Factory(list)


def call(name: str, number: int = 1, **arguments: Any) -> Any:
    """A function call by the model, its id made of the tool's name."""
    return function_call(name, arguments, call_id=f"{name}-{number}")


def told(counted: TokenCount) -> Usage:
    return Usage(
        requests=1,
        input_tokens=counted.input,
        output_tokens=counted.output,
        total_tokens=counted.total,
        input_tokens_details=InputTokensDetails(
            cached_tokens=counted.cached, cache_write_tokens=counted.cache_write
        ),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=counted.reasoning),
    )


class Voice(Model):
    """Takes its turns one after another, plain or streamed.

    `size` is what its answers cost: the n-th reports `100 * size + n` tokens in, and so on.
    """

    def __init__(self, trace: "Trace", model: str, *turns: Any, size: int | None = None) -> None:
        self.model, self.trace = model, trace
        self.size = len(trace.voices) + 1 if size is None else size
        self.turns = [turn(step) for step in turns]
        self.asked = 0
        trace.voices.append(self)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, streamed: bool) -> Attempt:
        names = ("system_instructions", "input", "model_settings", "tools", "output_schema",
                 "handoffs", "tracing")  # fmt: skip
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        asked = (
            given["system_instructions"],
            json.dumps(given["input"], default=str, sort_keys=True),
            [tool.name for tool in given["tools"]],
            given["output_schema"] and given["output_schema"].name(),
            [handoff.tool_name for handoff in given["handoffs"]],
            given["previous_response_id"],
            given["conversation_id"],
        )
        size = input_characters(given["system_instructions"], given["input"], given["tools"])
        settings = given["model_settings"]
        attempt = Attempt(self.model, asked, size, settings, streamed)
        self.trace.attempts.append(attempt)
        self.asked += 1
        return attempt

    def _counted(self) -> TokenCount:
        size, number = self.size, self.asked
        return TokenCount(
            input=100 * size + number, cached=10 * size, output=20 * size + number, reasoning=size
        )

    def _next(self) -> Turn:
        if not self.turns:
            raise AssertionError(f"{self.model} was asked {self.asked} times, once too often")
        return self.turns.pop(0)

    def _fail(self, attempt: Attempt, step: Turn) -> None:
        if step.error is not None:
            attempt.ended = "refused" if step.refused else "abandoned"
            raise step.error

    def _answered(self, attempt: Attempt, step: Turn) -> Usage | None:
        counted = self._counted()
        if step.usage is REPORTED:
            attempt.used = counted
            usage = told(counted)
        else:
            usage = step.usage
            said = usage is not None and usage.total_tokens > 0
            attempt.used = TokenCount(usage.input_tokens, 0, usage.output_tokens) if said else None
        attempt.ended = "answered"
        return usage

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        attempt, step = self._begin(args, kwargs, streamed=False), self._next()
        try:
            if step.after is not None:
                await step.after()
            self._fail(attempt, step)
            usage = self._answered(attempt, step)
            return ModelResponse(list(step.output), usage or Usage(), f"r-{self.asked}")
        finally:
            attempt.ended = "abandoned" if attempt.ended == "open" else attempt.ended

    async def stream_response(self, *args: Any, **kwargs: Any):
        attempt, step = self._begin(args, kwargs, streamed=True), self._next()
        number = self.asked
        try:
            if step.after is not None:
                await step.after()
            if step.refused:
                self._fail(attempt, step)
            for delta in _deltas(step):
                attempt.heard.append(delta)
                yield text_delta(delta, len(attempt.heard))
                if step.between is not None:
                    await step.between()
            self._fail(attempt, step)
            for index, item in enumerate(step.output):
                yield ResponseOutputItemDoneEvent(
                    type="response.output_item.done", item=item, output_index=index,
                    sequence_number=index,
                )  # fmt: skip
            usage = self._answered(attempt, step)
            yield finished(f"r-{number}", list(step.output), usage)
        finally:
            attempt.ended = "abandoned" if attempt.ended == "open" else attempt.ended


def _deltas(step: Turn) -> list[str]:
    texts = [part.text for item in step.output if getattr(item, "type", "") == "message"
             for part in item.content]  # fmt: skip
    return [text[at : at + 5] for text in texts for at in range(0, len(text), 5)]


def finished(response_id: str, output: list[Any], usage: Usage | None) -> Any:
    """The terminal event of a stream."""
    response = Response.model_construct(
        id=response_id, created_at=0, model="voice", object="response", output=output,
        parallel_tool_calls=True, tool_choice="auto", tools=[], status="completed",
        usage=usage and ResponseUsage(
            input_tokens=usage.input_tokens, output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens, input_tokens_details=usage.input_tokens_details,
            output_tokens_details=usage.output_tokens_details,
        ),
    )  # fmt: skip
    return ResponseCompletedEvent.model_construct(
        type="response.completed", response=response, sequence_number=10_000
    )


def _recorder(base: type, log: list[Any]) -> Any:
    """Hooks of the user's own, that write down which callback named which agents and tools."""

    def callback(name: str) -> Any:
        async def heard(self: Any, *args: Any, **kwargs: Any) -> None:
            said = [*args[1:], *(kwargs[key] for key in sorted(kwargs) if key != "context")]
            log.append((name, *(each.name for each in said if hasattr(each, "name"))))

        return heard

    class Recorder(base):
        pass

    for name in dir(base):
        if name.startswith("on_"):
            setattr(Recorder, name, callback(name))
    return Recorder()


@attrs.define
class Trace:
    """One performance."""

    attempts: list[Attempt] = attrs.Factory(list)
    tools: list[str] = attrs.Factory(list)
    heard: list[Any] = attrs.Factory(list)
    voices: list[Voice] = attrs.Factory(list)
    agents: list[Agent[Any]] = attrs.Factory(list)
    compacted: list[Attempt] = attrs.Factory(list)

    def hooks(self) -> RunHooks[Any]:
        return _recorder(RunHooksBase, self.heard)

    def agent(self, name: str, model: Any, *turns: Any, **fields: Any) -> Agent[Any]:
        """An agent with its own hooks, and a voice for `model` unless that is one already."""
        if isinstance(model, str) and turns:
            model = Voice(self, model, *turns)
        fields.setdefault("hooks", _recorder(AgentHooksBase, self.heard))
        self.agents.append(Agent(name, model=model, **fields))
        return self.agents[-1]

    def tool(self, body: Callable[..., Any] | None = None, **options: Any) -> FunctionTool:
        """A function tool that is written down; without a body it says that it is done."""
        options.setdefault("name_override", "weather")
        return self.watched(function_tool(body or _done, **options))

    def watched(self, tool: FunctionTool) -> FunctionTool:
        """Any function tool, written down when it is invoked; resumed, it is still one call."""
        inner, begun = tool.on_invoke_tool, set()

        @functools.wraps(inner)
        async def invoked(context: Any, given: str) -> Any:
            if context.tool_call_id not in begun:
                begun.add(context.tool_call_id)
                self.tools.append(tool.name)
            return await inner(context, given)

        tool.on_invoke_tool = invoked
        return tool


async def _done() -> str:
    return "done"
