"""The scenarios, by what the SDK does in them."""

from collections.abc import Callable
from typing import Any

import attrs

from openai_agents.stage import Play
from openai_agents.voices import Trace, call


@attrs.frozen
class Scenario:
    """One of them. `streamed`, `nested`, `trio`: whether it can be played like that."""

    build: Callable[[Trace], Play]
    streamed: bool = True
    nested: bool = True
    trio: bool = True

    @property
    def name(self) -> str:
        return self.build.__name__


SCENARIOS: list[Scenario] = []


def scenario(**can: Any) -> Callable[[Callable[[Trace], Play]], Callable[[Trace], Play]]:
    def register(build: Callable[[Trace], Play]) -> Callable[[Trace], Play]:
        SCENARIOS.append(Scenario(build, **can))
        return build

    return register


@scenario()
def plain(trace: Trace) -> Play:
    """One question, one answer."""
    return Play(trace.agent("Triage agent", "quick", "It is sunny."))


@scenario()
def a_tool(trace: Trace) -> Play:
    """The model calls a tool, reads its result, answers."""
    turns = ([call("weather")], "It is sunny.")
    return Play(trace.agent("Triage agent", "quick", *turns, tools=[trace.tool()]))
