"""The checkpoint sweep: a run is given up at every single turn of its event loop.

Each time: the scope exits within its bound, no task, thread or file is left, nothing was logged as
an error, the ledger holds no reservation, and what was spent is what the models and tools saw.
"""

import asyncio
import gc
import random
from contextlib import asynccontextmanager

import attrs
import pytest
from runcycles import Unit

from comptroller import governed_run, open_supervisor
from comptroller.ledger.embedded.memory import MemoryLedger
from comptroller.ledger.sqlite import open_sqlite
from comptroller.money import risk_points, tokens
from comptroller.testing import (
    Faults,
    StalledLedger,
    assert_settled,
    cancel_everywhere,
    deny_everywhere,
    lose_everywhere,
    spent,
)
from comptroller.testing.assertions import innermost
from comptroller.testing.virtual_time.counted import counted_loop
from comptroller.testing.virtual_time.steps import StepCounter
from soak import audited_ledgers
from soak.trials import UNSURE
from support.random_agents import (
    POINTS,
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
from support.run_harness import EPOCH_MS, funded

NESTED = Tree([Turn(0.5, "answers", 20, [Work(0.5, "returns")]), Turn(0, "answers", 10)])
TREE = Tree(
    [
        Turn(0.5, "answers", 40, [Work(0.5, "returns"), Work(1, "returns"), NESTED]),
        Turn(0, "silent", 0, [Work(0, "reports")]),
        Turn(0.25, "answers", 30),
    ]
)
PLAIN = Tree([Turn(0.5, "answers", 40)])
TOOLS = Tree([Turn(0.5, "answers", 40, [Work(s, "returns") for s in (0, 0.5, 1)]), PLAIN.turns[0]])
OUTER = Tree([Turn(0.5, "answers", 40, [NESTED]), PLAIN.turns[0]])

# The SDK starts tasks; one that is cancelled before its first step never takes it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine '.*' was never awaited:RuntimeWarning",
    "ignore:Exception ignored in. <coroutine object:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def _no_garbage_of_others():
    """A client of another test, collected in a loop of this one, would begin a task there."""
    gc.collect()


SETTLING = 1
LAPSE = 120  # seconds until the leases have run out that nobody settled


def rules_of(tree):
    return attrs.evolve(rules(tree), settle_timeout=SETTLING)


RULES = rules_of(TREE)

# -- programs


def one(tree, *, streams=False, tenant="acme", check=None):
    """A program: one governed run of the tree. `check(trial, receipt, truth)` afterwards."""

    async def program(trial):
        truth = Truth()

        async def checked():
            if not trial.governed.runs:
                assert trial.ledger.asked("reserve") == []
            else:
                receipt = trial.governed.runs[0].receipt
                await (check or whole)(trial, receipt, truth)

        trial.afterwards(checked)
        async with trial.governed(made(tree, truth), tenant, policy=rules_of(tree)) as run:
            await act(run, streams, Dispatched(truth))

    return program


async def whole(trial, receipt, truth):
    await each_ended_once(innermost(trial.ledger), trial.ledger)
    await is_true(innermost(trial.ledger), receipt, truth)


async def stalled(trial, receipt, truth):
    await each_ended_once(innermost(trial.ledger), trial.ledger, lapsing=True)


async def three(trial):
    """A program: a supervisor with three runs."""
    truths = [Truth() for _ in range(3)]
    handles = []

    async def checked():
        receipts = [handle.receipt for handle in handles]
        charged = sum(receipt.charged.get(Unit.TOKENS, 0) for receipt in receipts)
        points = sum(receipt.charged.get(Unit.RISK_POINTS, 0) for receipt in receipts)
        assert charged == sum(truth.tokens for truth in truths)
        assert await spent(innermost(trial.ledger), "acme") == {
            Unit.TOKENS: charged,
            Unit.RISK_POINTS: points,
        }
        begun, dispatched = (
            sum(getattr(truth, name) for truth in truths)
            for name in ("tools_begun", "tools_dispatched")
        )
        assert begun <= points / POINTS <= dispatched

    trial.afterwards(checked)
    async with open_supervisor(ledger=trial.ledger, policy=RULES) as supervisor:
        for truth in truths:
            agent, hooks = made(TREE, truth), Dispatched(truth)
            handles.append(supervisor.start(agent, "go", tenant="acme", hooks=hooks))
            trial.watch(handles[-1])
        for handle in handles:
            await handle.outcome()


# -- ledgers


def ample():
    return funded(100_000, 1_000)


def scant():
    """Enough for the first of the calls only."""
    return funded(150, 1_000)


@asynccontextmanager
async def hanging():
    async with ample() as memory:
        yield StalledLedger(memory, ["commit", "release"])


# -- how it is given up


@attrs.frozen
class Way:
    """How it is given up: `how`, again after so many turns, on what ledger, plain or streamed."""

    how: str = "scope"
    again: int | None = None
    stalls: bool = False
    streams: bool = False


WAYS = {
    "scope": Way("scope"),
    "handle": Way("handle"),
    "task": Way("task"),
    "task_twice": Way("task", again=1),
    "task_again": Way("task", again=9),
    "task_stalled": Way("task", stalls=True),
    "scope_stalled": Way("scope", stalls=True),
    "task_twice_stalled": Way("task", again=4, stalls=True),
    "scope_streamed": Way("scope", streams=True),
    "handle_streamed": Way("handle", streams=True),
    "task_streamed": Way("task", streams=True),
}
ON_TRIO = ["scope", "handle", "scope_stalled", "scope_streamed", "handle_streamed"]
MANY, FEW = 40, 12  # turns of a sweep


def spread(most):
    """Somewhere else each time."""
    return {"most": most, "first": 1 + random.randrange(5)}


@pytest.mark.parametrize(
    ("backend", "way"),
    [*(("asyncio", way) for way in WAYS), *(("trio", way) for way in ON_TRIO)],
)
def test_given_up_at_any_turn_it_leaves_nothing_and_charges_what_was_spent(backend, way):
    way = WAYS[way]
    report = cancel_everywhere(
        one(TREE, streams=way.streams, check=stalled if way.stalls else whole),
        how=way.how,
        again=way.again,
        backend=backend,
        ledger=hanging if way.stalls else ample,
        within=SETTLING if way.stalls else 0,
        lapse=LAPSE if way.stalls else 0,
        **spread(MANY),
    )
    report.assert_clean()
    assert report.tried > MANY / 4


PROGRAMS = {
    "plain": (one(PLAIN), ample),
    "tools": (one(TOOLS), ample),
    "nested": (one(OUTER), ample),
    "streamed": (one(TOOLS, streams=True), ample),
    "denied": (one(TREE), scant),
    "supervised": (three, ample),
}
TWICE = {"asyncio": {"how": "task", "again": 3}, "trio": {"how": "scope", "again": 7}}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_every_kind_of_program_leaves_nothing(name, backend, twice):
    program, ledger = PROGRAMS[name]
    how = TWICE[backend] if twice else {"how": "handle"}
    report = cancel_everywhere(
        program, **how, backend=backend, ledger=ledger, within=0, **spread(FEW)
    )
    report.assert_clean()
    assert report.tried > FEW / 3


@pytest.mark.parametrize("how", ["scope", "task"])
def test_on_a_file_it_leaves_nothing(how, tmp_path):
    numbers = iter(range(10**6))

    @asynccontextmanager
    async def file():
        path = tmp_path / f"{next(numbers)}.db"
        async with open_sqlite(path, now=audited_ledgers.loops_clock()) as ledger:
            await ledger.set_budget("tenant:acme", tokens(100_000))
            await ledger.set_budget("tenant:acme", risk_points(1_000))
            yield ledger

    report = cancel_everywhere(one(TREE), how=how, ledger=file, within=SETTLING, **spread(FEW))
    report.assert_clean()
    assert report.tried > FEW / 3


@pytest.mark.parametrize(
    ("how", "again", "backend"),
    [("scope", None, "asyncio"), ("task", 2, "asyncio"), ("handle", None, "trio")],
)
def test_over_http_through_faults_it_leaves_nothing(how, again, backend):
    """What the receipt calls unsettled is sent again afterwards, under its key."""
    numbers, held = iter(range(10**6)), []

    @asynccontextmanager
    async def remote():
        faults = Faults(seed=f"sweep {next(numbers)}", rate=0.3, slowest=0.5)
        async with audited_ledgers.http(faults) as opened:
            behind = opened.witness.inner
            await behind.set_budget("tenant:ample", tokens(100_000))
            await behind.set_budget("tenant:ample", risk_points(1_000))
            held.append(opened)
            yield opened.ledger

    async def check(trial, receipt, truth):
        await held[-1].calm()
        charged = {Unit.TOKENS: 0, Unit.RISK_POINTS: 0}
        for line in receipt.calls:
            took = line.charged.amount if line.charged else 0
            if line.outcome in UNSURE:
                call = (receipt.run_id, line.id)
                took = await held[-1].sent_again(call, "ample", line.actual)
            charged[Unit(line.reserved.unit)] += took
        assert await spent(held[-1].witness, "ample") == charged
        assert charged[Unit.TOKENS] == truth.tokens
        assert truth.tools_begun <= charged[Unit.RISK_POINTS] / POINTS <= truth.tools_dispatched
        assert (held[-1].witness.duplicates, held[-1].witness.overspent) == ([], [])

    report = cancel_everywhere(
        one(TREE, tenant="ample", check=check),
        how=how,
        again=again,
        backend=backend,
        ledger=remote,
        within=SETTLING,
        **spread(FEW),
    )
    report.assert_clean()
    assert report.tried > FEW / 3


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", ["nested", "streamed", "supervised"])
@pytest.mark.parametrize("disturb", [deny_everywhere, lose_everywhere])
def test_denied_or_unheard_at_any_call_it_leaves_nothing(disturb, name, backend):
    program, ledger = PROGRAMS[name]
    report = disturb(program, backend=backend, ledger=ledger)
    report.assert_clean()
    assert report.tried > 3


class LoopStops(Exception):
    pass


def test_a_loop_that_ends_at_any_turn_leaves_nothing():
    """`asyncio.run` cancels all tasks at once, natively, those that have not begun among them."""
    turns = cancel_everywhere(one(TREE), ledger=ample, most=1).points
    assert turns > MANY / 4
    for turn in range(1 + random.randrange(2), turns, 2):
        try:
            _stopped_at(turn)
        except BaseException as error:
            error.add_note(f"the loop ended at turn {turn} of {turns}")
            raise


def _stopped_at(turn: int) -> None:
    ledger, truth, held = MemoryLedger(lambda: EPOCH_MS), Truth(), []

    def stop() -> None:
        raise LoopStops

    async def program(turns: StepCounter) -> None:
        await ledger.set_budget("tenant:acme", tokens(100_000))
        await ledger.set_budget("tenant:acme", risk_points(1_000))
        turns.at([turn], stop)
        async with governed_run(made(TREE, truth), "acme", ledger=ledger, policy=RULES) as run:
            held.append(run)
            await act(run, False, Dispatched(truth))

    turns = StepCounter()
    with asyncio.Runner(loop_factory=counted_loop(turns)) as runner:
        with pytest.raises(LoopStops):
            runner.run(program(turns))
        before = runner.get_loop().time()
        loop = runner.get_loop()
    assert loop.time() - before <= SETTLING + 1.1  # an actor that has not begun is waited for
    if held:
        asyncio.run(is_true(ledger, held[0].receipt, truth))
    else:
        asyncio.run(assert_settled(ledger))
