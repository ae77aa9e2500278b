"""Random run trees against a model of the truth: what was consumed, and nothing else, is charged.

A tree is an agent whose model asks for tools and for nested agents, in parallel, several times.
Models and tools take their time, fail, or report nothing; the run is cancelled in one of four ways
at any moment; the ledger loses answers and budgets run out. The models and tools write down what
they really did: that is the truth.
"""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import anyio
import attrs
import pytest
from agents import Agent, Model, ModelResponse, RunHooks, Usage, function_tool
from agents.testing import assistant_message, function_call
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from runcycles import Unit

from comptroller import Limits, Policy, governed_run
from comptroller.money import risk_points, tokens
from comptroller.testing import (
    ScriptedLedger,
    assert_settled,
    delayed,
    expired,
    lost_answer,
    lost_request,
    malformed,
    no_task_left,
    rate_limited,
    server_error,
    spent,
    virtual_backend,
)
from comptroller.testing.events import completed
from plays import policy
from runtime.bench import funded

ESTIMATE, POINTS, AMPLE = 100, 7, 100_000

# -- trees


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


def times(most):
    return st.sampled_from([0.0, 0.25, 0.5, 1.0, most])


works = st.builds(Work, times(3.0), st.sampled_from(["returns"] * 6 + ["raises", "reports"]))


def turns(asks):
    ends = st.sampled_from(["answers"] * 8 + ["silent", "raises"])
    return st.builds(Turn, times(2.0), ends, st.integers(1, ESTIMATE), asks)


def trees(inside):
    asks = st.lists(st.one_of(works, inside), max_size=3)
    return st.builds(Tree, st.lists(turns(asks), min_size=1, max_size=3))


leaves = st.builds(Tree, st.lists(turns(st.lists(works, max_size=2)), min_size=1, max_size=2))
forest = st.recursive(leaves, trees, max_leaves=6)

settling_faults = [
    lost_answer(), lost_request(), lost_answer(0.5), malformed(), server_error(), delayed(0.4),
    server_error(503, reaches=True), rate_limited(200), None, None,
]  # fmt: skip
reserving_faults = [
    *[None] * 10, *[delayed(0.3)] * 6, *[delayed(0.7)] * 3, lost_answer(), lost_request(),
    malformed(),
]  # fmt: skip


def script(*more):
    """At most three faults in a row, so that a settlement gets through within its bound."""
    return st.lists(st.sampled_from([*settling_faults, *more]), max_size=3)


scripts = st.fixed_dictionaries(
    {},
    optional={
        "commit": script(),
        "release": script(),
        "extend": script(),
        "record": script(),
        "reserve": st.lists(st.sampled_from(reserving_faults), max_size=8),
    },
)


@attrs.frozen
class End:
    """How the run is given up: not at all, by its handle, from outside, by its limit of time."""

    how: str | None
    after: float


ends = st.one_of(
    st.just(End(None, 0)),
    st.builds(
        End,
        st.sampled_from(["handle", "scope", "limit", "leave"]),
        st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.5]),
    ),
)

# -- the truth


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


# -- a run of it


@attrs.frozen
class Scene:
    tree: Tree
    streams: bool
    end: End
    faults: dict[str, list[Any]]
    budget: int


scenes = st.builds(
    Scene, forest, st.booleans(), ends, scripts, st.sampled_from([AMPLE, AMPLE, 150, 350, 800])
)


class Watching(ScriptedLedger):
    """Scripted, and looks at the balances whenever something was changed."""

    async def _handle(self, request, forward):
        try:
            return await super()._handle(request, forward)
        finally:
            with anyio.CancelScope(shield=True):
                for balance in (await self.inner.balances(tenant="acme")).balances:
                    held = balance.spent.amount + balance.reserved.amount
                    assert held <= balance.allocated.amount


async def drive(scene: Scene) -> None:
    truth = Truth()
    async with funded(scene.budget, AMPLE) as memory:
        ledger = Watching(memory, {verb: list(faults) for verb, faults in scene.faults.items()})
        async with no_task_left():
            error, run = await performed(scene, ledger, truth)
        assert not isinstance(error, BaseExceptionGroup), error
        event(f"ended by {type(error).__name__}")
        receipt = run.receipt
        assert not any(line.open for line in receipt.calls)
        await anyio.sleep(300)  # leases of lost reserves and releases run out
        await assert_settled(memory)
        books = await spent(memory, "acme")
        charged = {Unit.TOKENS: 0, Unit.RISK_POINTS: 0, **receipt.charged}
        assert books == charged
        assert receipt.shortfall == {}
        assert charged[Unit.TOKENS] == truth.tokens
        tools = charged[Unit.RISK_POINTS] / POINTS
        assert truth.tools_begun <= tools <= truth.tools_dispatched
        await each_ended_once(memory, ledger)


async def each_ended_once(memory, ledger):
    """Every reservation: one end; every message: one key for all its attempts."""
    seen = (await memory.reservations(limit=200)).reservations
    assert {each.status.value for each in seen} <= {"COMMITTED", "RELEASED", "EXPIRED"}
    for verb in ("commit", "release"):
        keys = {}
        for request in ledger.asked(verb):
            keys.setdefault(request.reservation_id, set()).add(request.key)
        assert all(len(used) == 1 for used in keys.values())
    both = {request.reservation_id for request in ledger.asked("commit")} & {
        request.reservation_id for request in ledger.asked("release")
    }
    assert both == set()


async def performed(scene: Scene, ledger: Any, truth: Truth) -> tuple[Exception | None, Any]:
    """Run it, give it up as the scene says; (what came out of the scope, the run)."""
    end, held = scene.end, []

    async def program() -> None:
        async with governed_run(
            made(scene.tree, truth), "acme", ledger=ledger, policy=rules(scene.tree),
            limits=Limits(seconds=end.after if end.how == "limit" else None),
        ) as run:  # fmt: skip
            held.append(run)
            errors: list[Exception] = []
            async with anyio.create_task_group() as group:
                if end.how == "handle":
                    group.start_soon(cancelled, run, end.after)
                with anyio.move_on_after(end.after if end.how == "leave" else None):
                    await caught(act(run, scene.streams, Dispatched(truth)), errors)
                group.cancel_scope.cancel()
            if errors:
                raise errors[0]

    came_out: list[Exception] = []
    with anyio.move_on_after(end.after if end.how == "scope" else None):
        await caught(program(), came_out)
    return next(iter(came_out), None), held[0]


def rules(tree: Tree) -> Policy:
    costs = {"work": risk_points(POINTS), **_free(tree)}
    return policy(
        llm_estimate=tokens(ESTIMATE), tools=costs, settle_timeout=30, teardown_timeout=30
    )


async def cancelled(run: Any, after: float) -> None:
    await anyio.sleep(after)
    run.cancel("as the scene has it")


async def act(run: Any, streams: bool, hooks: Any) -> None:
    if not streams:
        await run("go", hooks=hooks)
        return
    async for _ in run.stream("go", hooks=hooks):
        pass


async def caught(awaitable: Any, errors: list[Exception]) -> None:
    """Keeps the exception out of the test's own task group."""
    try:
        await awaitable
    except Exception as error:  # noqa: BLE001 - raised again outside of the group
        errors.append(error)


def _free(tree: Tree) -> dict[str, Any]:
    """Nested agents are tools that cost nothing by themselves."""
    found = {}
    for turn in tree.turns:
        for ask in turn.asks:
            if isinstance(ask, Tree):
                found |= {_name(ask): risk_points(0)} | _free(ask)
    return found


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scene=scenes)
def test_what_was_consumed_is_charged_and_nothing_else(backend, scene):
    """Charged = consumed; never above the budget; every reservation ends once; no task is left."""
    name, options = virtual_backend(backend)
    anyio.run(drive, scene, backend=name, backend_options=options)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scene=scenes.filter(lambda scene: scene.budget == AMPLE), lapsed=script(expired()))
def test_leases_that_run_out_are_charged_as_events(scene, lapsed):
    """The same where the ledger says that a lease is over."""
    scene = attrs.evolve(scene, faults={**scene.faults, "commit": [*lapsed, expired()]})
    name, options = virtual_backend("asyncio")
    anyio.run(drive, scene, backend=name, backend_options=options)
