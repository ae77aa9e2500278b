"""Trees of agents that write down what they really did: the truth that a ledger is held against.

A tree is an agent whose model asks for tools and for nested agents, in parallel, several times.
Models and tools take their time, fail, or report nothing.
"""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import attrs
from agents import Agent, Model, ModelResponse, RunHooks, Usage, function_tool
from agents.testing import assistant_message, function_call
from runcycles import Unit

from comptroller import Policy
from comptroller.money import risk_points, tokens
from comptroller.testing import assert_settled, spent
from comptroller.testing.models import completed
from support.agent_scenarios import policy

ESTIMATE, POINTS = 100, 7


@attrs.frozen
class Work:
    """A tool call."""

    seconds: float
    ends: str  # "returns", "raises", "reports" (an error that the model reads)


@attrs.frozen
class Turn:
    """One answer of a model: what it asks for, in parallel; nothing: it is the last."""

    seconds: float
    ends: str  # "answers", "silent" (no usage), "raises"
    used: int
    asks: Sequence[Any] = ()  # Work, or a nested tree


@attrs.frozen
class Tree:
    turns: Sequence[Turn]


class Truth:
    """What models and tools really did."""

    def __init__(self) -> None:
        self.tokens = 0
        self.tools_begun = 0
        self.tools_dispatched = 0
        self.ids = itertools.count()


class TruthfulModel(Model):
    """Follows its turns, and writes down what each attempt cost."""

    def __init__(self, tree: Tree, truth: Truth) -> None:
        self._turns, self._truth = iter(tree.turns), truth

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        turn = next(self._turns, None) or Turn(0, "answers", 1)
        cost = ESTIMATE  # what cannot be known: in flight when it was given up, or unreported
        try:
            await asyncio.sleep(turn.seconds)
            if turn.ends == "raises":
                raise RuntimeError("the model's own")
            if turn.ends == "answers":
                cost = turn.used
        finally:
            self._truth.tokens += cost
        usage = Usage(requests=1, input_tokens=cost, total_tokens=cost)
        asks = [self._call(number, ask) for number, ask in enumerate(turn.asks)]
        return ModelResponse(
            asks or [assistant_message("done")],
            usage if turn.ends == "answers" else Usage(),
            response_id=None,
        )

    def _call(self, number: int, ask: Any) -> Any:
        call_id = f"call-{next(self._truth.ids)}"
        if isinstance(ask, Work):
            return function_call("work", attrs.asdict(ask), call_id=call_id)
        return function_call(_name(ask), {"input": "?"}, call_id=call_id)

    async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        response = await self.get_response()
        used = response.usage if response.usage.total_tokens else None
        yield completed("response", response.output, used)


def _name(tree: Tree) -> str:
    return f"ask_{id(tree)}"


class Dispatched(RunHooks[Any]):
    """Counts the tools that the SDK was free to begin."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self._truth.tools_dispatched += tool.name == "work"


def made(tree: Tree, truth: Truth) -> Agent[Any]:
    hooks = Dispatched(truth)

    @function_tool(name_override="work", failure_error_function=None)
    async def work(seconds: float, ends: str) -> str:
        truth.tools_begun += 1
        await asyncio.sleep(seconds)
        if ends == "raises":
            raise RuntimeError("the tool's own")
        return "an error occurred" if ends == "reports" else "worked"

    nested = [ask for turn in tree.turns for ask in turn.asks if isinstance(ask, Tree)]
    tools = [
        made(inner, truth).as_tool(_name(inner), "asks", hooks=hooks)
        for inner in {id(inner): inner for inner in nested}.values()
    ]
    return Agent("Agent", model=TruthfulModel(tree, truth), tools=[work, *tools])


def rules(tree: Tree) -> Policy:
    costs = {"work": risk_points(POINTS), **_free(tree)}
    return policy(
        llm_estimate=tokens(ESTIMATE), tools=costs, settle_timeout=30, teardown_timeout=30
    )


def _free(tree: Tree) -> dict[str, Any]:
    """Nested agents are tools that cost nothing by themselves."""
    found = {}
    for turn in tree.turns:
        for ask in turn.asks:
            if isinstance(ask, Tree):
                found |= {_name(ask): risk_points(0)} | _free(ask)
    return found


async def act(run: Any, streams: bool, hooks: Any) -> None:
    if not streams:
        await run("go", hooks=hooks)
        return
    async for _ in run.stream("go", hooks=hooks):
        pass


async def is_true(memory: Any, receipt: Any, truth: Truth) -> None:
    """The ledger holds nothing, and it, the receipt and the truth say the same."""
    assert not any(line.open for line in receipt.calls)
    await assert_settled(memory)
    charged = {Unit.TOKENS: 0, Unit.RISK_POINTS: 0, **receipt.charged}
    assert await spent(memory, "acme") == charged
    assert receipt.shortfall == {}
    assert charged[Unit.TOKENS] == truth.tokens
    assert truth.tools_begun <= charged[Unit.RISK_POINTS] / POINTS <= truth.tools_dispatched


async def each_ended_once(memory: Any, ledger: Any, *, lapsing: bool = False) -> None:
    """Every reservation: one end; every message: one key for all its attempts."""
    seen = (await memory.reservations(limit=200)).reservations
    ends = {"COMMITTED", "RELEASED", "EXPIRED"} | ({"ACTIVE"} if lapsing else set())
    assert {each.status.value for each in seen} <= ends
    for verb in ("commit", "release"):
        keys: dict[str, set[str]] = {}
        for request in ledger.asked(verb):
            keys.setdefault(request.reservation_id, set()).add(request.key)
        assert all(len(used) == 1 for used in keys.values())
    both = {request.reservation_id for request in ledger.asked("commit")} & {
        request.reservation_id for request in ledger.asked("release")
    }
    assert both == set()
