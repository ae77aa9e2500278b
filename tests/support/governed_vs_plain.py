"""Plays a scenario with and without governance, and says what must come out the same.

A scenario is a function that writes its cast into a fresh `Trace` and returns a `Play`. It is
played first as the SDK alone plays it. Then it is played governed, and compared: the same model
and tool calls, the same callbacks, the same result or exception; the ledger was charged exactly
what the models reported and the tools cost; nothing is left open; the user's objects are unchanged.
"""

import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import attrs
import httpx
from agents import Agent, RunConfig, Runner
from runcycles import Unit

from comptroller import Policy, ToolEstimateMap, governed_run, risk_points, tokens, usd
from comptroller._eventloop import open_host
from comptroller.core.pricing import Price
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.server import serve_ledger
from comptroller.testing import no_task_left, open_reservations
from support.recording_models import Attempt, Trace, call

RATES = {
    "quick": (100, 400), "clever": (250, 1000), "deep": (1000, 4000), "gpt-4.1": (200, 800),
}  # fmt: skip
"""Microcents of an input and an output token of each model in the scenarios."""
PRICES = {
    model: Price(str(given), str(made)) for model, (given, made) in
    {"quick": (1, 4), "clever": ("2.50", 10), "deep": (10, 40), "gpt-4.1": (2, 8)}.items()
}  # fmt: skip
ESTIMATES = {Unit.TOKENS: tokens(40_000), Unit.USD_MICROCENTS: usd("0.4")}
TOOL_COSTS = {"weather": 3, "clock": 5}
OTHER_TOOLS = 2
TOOLS = ToolEstimateMap(TOOL_COSTS, default_estimate=OTHER_TOOLS)

Script = Callable[["Stage"], Awaitable[Any]]


@attrs.frozen(kw_only=True)
class Way:
    """How a scenario is played."""

    unit: Unit = Unit.TOKENS
    streamed: bool = False
    nested: bool = False
    remote: bool = False
    hooked: bool = False

    def __str__(self) -> str:
        words = ["usd" if self.unit is Unit.USD_MICROCENTS else "tokens"]
        words += [
            name for name in ("streamed", "nested", "remote", "hooked") if getattr(self, name)
        ]
        return "-".join(words)


async def _once(stage: "Stage") -> Any:
    return await stage.run("go")


@attrs.frozen
class Play:
    """A scenario's cast and course.

    Attributes:
        agent: what is started.
        script: what is done with it; by default it is run once.
        options: keyword arguments for every `Runner.run`.
        events: what must be recorded besides calls: (kind, name, amount).
        unordered: calls go on at the same time, so their order is nobody's promise.
    """

    agent: Agent[Any]
    script: Script = _once
    options: dict[str, Any] = attrs.Factory(dict)
    events: tuple[Any, ...] = ()
    unordered: bool = False


class Stage:
    """Where a script runs agents: governed or not, plain or streamed."""

    def __init__(self, agent: Agent[Any], options: dict[str, Any], way: Way, host: Any) -> None:
        self.agent, self.way, self._options, self._host = agent, way, options, host
        self.governed: Any = None

    @property
    def aio(self) -> Any:
        """Makes the SDK's own functions awaitable, whatever carries its loop."""
        return (self.governed or self)._host.aio

    async def run(self, given: Any, **options: Any) -> Any:
        options = {**self._options, **options}
        if self.way.streamed:
            return await self._streamed(given, options)
        if self.governed is not None:
            return await self.governed(given, **options)
        return await self._host.aio(Runner.run)(self.agent, given, **options)

    async def _streamed(self, given: Any, options: dict[str, Any]) -> Any:
        if self.governed is not None:
            stream = self.governed.stream(given, **options)
            async for _ in stream:
                pass
            return stream
        return await self._host.aio(self._consume)(given, options)

    async def _consume(self, given: Any, options: dict[str, Any]) -> Any:
        result = Runner.run_streamed(self.agent, given, **options)
        async for _ in result.stream_events():
            pass
        return result


@attrs.define
class Outcome:
    """What the user saw."""

    said: Any
    trace: Trace
    play: Play
    result: Any = None


def digest(result: Any, trace: Trace) -> Any:
    """What a user can see of a result, without identities."""
    if isinstance(result, list):
        return [digest(each, trace) for each in result]
    usage = result.context_wrapper.usage
    return {
        "output": result.final_output,
        "items": [type(item).__name__ for item in result.new_items],
        "raw": [str(item.raw_item) for item in result.new_items],
        "last": [agent is result.last_agent for agent in trace.agents],
        "usage": (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens),
        "responses": len(result.raw_responses),
        "asks": [item.tool_name for item in result.interruptions],
        "next": str(result.to_input_list()),
    }


def cast_for(scenario: Callable[[Trace], Play], way: Way) -> tuple[Trace, Play, Stage]:
    trace = Trace()
    play = scenario(trace)
    agent, options = play.agent, dict(play.options)
    if way.nested:
        inner = trace.watched(agent.as_tool("ask_inner", "knows more"))
        turns = ([call("ask_inner", input="go")], "all done")
        agent = trace.agent("Outer desk", "deep", *turns, tools=[inner])
    if way.hooked:
        options["hooks"] = trace.hooks()
    return trace, play, Stage(agent, options, way, None)


async def perform(trace: Trace, play: Play, stage: Stage) -> Outcome:
    try:
        result = await play.script(stage)
    except Exception as error:  # noqa: BLE001 - it is the outcome
        return Outcome((type(error), str(error)), trace, play, error)
    return Outcome(digest(result, trace), trace, play, result)


async def ungoverned(scenario: Callable[[Trace], Play], way: Way) -> Outcome:
    trace, play, stage = cast_for(scenario, way)
    async with open_host() as stage._host:
        return await perform(trace, play, stage)


@asynccontextmanager
async def open_ledgers(*, remote: bool = False):
    """(the ledger to use, the one behind it that an operator sees), without any budget."""
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(open_memory())
        if not remote:
            yield behind, behind
            return
        served = httpx.ASGITransport(serve_ledger(behind, {"key": "acme"}))
        yield await stack.enter_async_context(
            open_cycles("http://cycles", api_key="key", transport=served)
        ), behind  # fmt: skip


def policy_for(way: Way, **changes: Any) -> Policy:
    given = {"llm_estimate": ESTIMATES[way.unit], "prices": PRICES, "tools": TOOLS}
    return Policy(**(given | changes))


@dataclasses.dataclass
class Governed:
    """A governed performance, its receipt, and the ledger's own books."""

    outcome: Outcome
    receipt: Any
    details: list[Any]
    spent: dict[Unit, int]


async def governed(scenario: Callable[[Trace], Play], way: Way, **policy: Any) -> Governed:
    trace, play, stage = cast_for(scenario, way)
    async with open_ledgers(remote=way.remote) as (ledger, behind):
        for budget in (ESTIMATES[way.unit].model_copy(update={"amount": 10**12}),
                       risk_points(10**6)):  # fmt: skip
            await behind.set_budget("tenant:acme", budget)
        before = snapshot(trace, play)
        async with no_task_left():
            async with governed_run(
                stage.agent, "acme", ledger=ledger, policy=policy_for(way, **policy)
            ) as stage.governed:
                with anyio.fail_after(600):
                    outcome = await perform(trace, play, stage)
        assert snapshot(trace, play) == before
        assert await open_reservations(behind) == [], stage.governed.receipt
        receipt = stage.governed.receipt
        details = [
            await behind.reservation(line.reservation_id)
            for line in receipt.calls
            if line.reservation_id is not None
        ]
        listed = await behind.reservations(tenant="acme", limit=200)
        assert len(listed.reservations) == len(details)
        balances = (await behind.balances(tenant="acme")).balances
        spent = {Unit(b.spent.unit): b.spent.amount for b in balances}
    return Governed(outcome, receipt, details, spent)


def snapshot(trace: Trace, play: Play) -> Any:
    """The user's objects, field by field, lists by their elements."""

    def fields(thing: Any) -> dict[str, Any]:
        return {
            field.name: list(value) if isinstance(value, list) else id(value)
            for field in dataclasses.fields(thing)
            for value in [getattr(thing, field.name)]
        }

    config = play.options.get("run_config")
    kept = fields(config) if isinstance(config, RunConfig) else config
    return [fields(agent) for agent in trace.agents], kept


def charge(attempt: Attempt, unit: Unit) -> int | None:
    """What settlement.md says of an attempt that ended like this; None: released."""
    estimate = ESTIMATES[unit].amount
    if attempt.ended == "refused":
        return None
    if attempt.used is not None:
        given, made = attempt.used.input, attempt.used.output
    elif attempt.ended == "abandoned" and attempt.heard:
        given = -(-attempt.input_characters // 4)
        made = sum(-(-len(delta) // 4) for delta in attempt.heard)
    else:
        return estimate
    if unit is Unit.TOKENS:
        cost = given + made
    else:
        rate = RATES[attempt.model]
        cost = given * rate[0] + made * rate[1]
    return cost if attempt.ended == "answered" else min(cost, estimate)


_OUTCOMES = {"answered": "committed", "refused": "released", "abandoned": "abandoned"}


def expected_calls(trace: Trace, unit: Unit) -> Counter[Any]:
    """(kind, name, outcome, charged) of every call."""
    lines: Counter[Any] = Counter()
    for attempt in [*trace.attempts, *trace.compacted]:
        outcome = _OUTCOMES[attempt.ended]
        lines[("llm.completion", attempt.model, outcome, charge(attempt, unit))] += 1
    for name in trace.tools:
        lines[("tool.invoke", name, "settled", TOOL_COSTS.get(name, OTHER_TOOLS))] += 1
    return lines


def shown_calls(receipt: Any) -> tuple[Counter[Any], list[Any]]:
    """The same of a receipt, and its events."""
    lines: Counter[Any] = Counter()
    events = []
    for line in receipt.calls:
        charged = line.charged and line.charged.amount
        if line.kind == "tool.invoke" and line.outcome == "released":
            continue  # reserved when the model asked for it, and not run
        if line.kind in ("llm.completion", "tool.invoke"):
            outcome = line.outcome.value
            if line.kind == "tool.invoke" and outcome in ("committed", "abandoned"):
                outcome = "settled"
            name = line.name.partition(":")[2] if line.kind == "llm.completion" else line.name
            lines[(line.kind, name, outcome, charged)] += 1
        else:
            assert line.outcome == "recorded", line
            events.append((line.kind, line.name, charged))
    return lines, events


def compare(alone: Outcome, other: Governed, way: Way) -> None:
    """Everything that must hold of a governed performance."""
    trace, play = other.outcome.trace, other.outcome.play
    assert other.outcome.said == alone.said
    in_order: Any = (lambda things: sorted(things, key=repr)) if play.unordered else list
    for of in (asked, lambda each: each.tools, lambda each: each.heard):
        assert in_order(of(trace)) == in_order(of(alone.trace))
    assert len(trace.compacted) == len(alone.trace.compacted)
    lines, events = shown_calls(other.receipt)
    assert lines == expected_calls(trace, way.unit)
    assert sorted(events) == sorted(play.events)
    check_books(other)


def asked(trace: Trace) -> list[Any]:
    """What every model was asked."""
    return [(a.model, a.asked, a.streamed, a.ended, a.heard, a.settings) for a in trace.attempts]


def check_books(governed: Governed) -> None:
    """Receipt and ledger say the same, call by call and in sum."""
    by_id = {detail.reservation_id: detail for detail in governed.details}
    for line in governed.receipt.calls:
        if line.reservation_id is None:
            continue
        detail = by_id[line.reservation_id]
        assert detail.reserved == line.reserved
        if line.charged is None:
            assert detail.status == "RELEASED", line
        else:
            assert (detail.status, detail.committed) == ("COMMITTED", line.charged), line
    charged = {unit: total for unit, total in governed.receipt.charged.items() if total}
    assert charged == {unit: total for unit, total in governed.spent.items() if total}
    assert governed.receipt.shortfall == {}
