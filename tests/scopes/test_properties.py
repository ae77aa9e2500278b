"""Random run trees against the truth: what was consumed, and nothing else, is charged.

Models and tools fail, the run is given up in one of four ways at any moment, the ledger loses
answers and budgets run out.
"""

from typing import Any

import anyio
import attrs
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from comptroller import Limits, governed_run
from comptroller.testing import (
    ScriptedLedger,
    delayed,
    expired,
    lost_answer,
    lost_request,
    malformed,
    no_task_left,
    rate_limited,
    server_error,
    virtual_backend,
)
from support.random_agents import (
    ESTIMATE,
    Dispatched,
    Tree,
    Truth,
    Turn,
    Work,
    act,
    each_ended_once,
    is_true,
    made,
    rules,
)
from support.run_harness import funded

AMPLE = 100_000

# -- scenes


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
        await anyio.sleep(300)  # leases of lost reserves and releases run out
        await is_true(memory, run.receipt, truth)
        await each_ended_once(memory, ledger)


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


async def cancelled(run: Any, after: float) -> None:
    await anyio.sleep(after)
    run.cancel("as the scene has it")


async def caught(awaitable: Any, errors: list[Exception]) -> None:
    """Keeps the exception out of the test's own task group."""
    try:
        await awaitable
    except Exception as error:  # noqa: BLE001 - raised again outside of the group
        errors.append(error)


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
