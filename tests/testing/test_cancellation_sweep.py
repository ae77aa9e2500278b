"""The sweep finds what a program leaves: each kind of residue, at the point where it is left."""

import asyncio
import gc
import logging
import os
import threading
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest
from agents import Agent, function_tool
from agents.testing import function_call

from comptroller import Policy, risk_points, tokens
from comptroller.testing import (
    CountingModel,
    Trial,
    cancel_everywhere,
    cancellation_sweep,
    deny_everywhere,
    lose_everywhere,
)
from comptroller.testing.assertions import residue

pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")

POLICY = Policy(llm_estimate=tokens(100), tools={"work": risk_points(7)})


@function_tool
async def work() -> str:
    await asyncio.sleep(0.5)
    return "worked"


def agent():
    calls = [function_call("work", {}, call_id=f"c{n}") for n in range(2)]
    return Agent("Agent", model=CountingModel(calls, "done"), tools=[work])


async def whole(trial: Trial):
    async with trial.governed(agent(), policy=POLICY) as run:
        await run("go")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_that_leaves_nothing_is_clean(backend):
    report = cancel_everywhere(whole, backend=backend, most=10)
    report.assert_clean()
    assert report.points > report.tried > 5
    for disturb in (deny_everywhere, lose_everywhere):
        report = disturb(whole, backend=backend)
        report.assert_clean()
        assert report.points == report.tried == 4


async def forgets_a_task(trial: Trial):
    forgotten.append(asyncio.create_task(asyncio.sleep(60)))
    await whole(trial)


async def forgets_a_lease(trial: Trial):
    """It reserves by itself, and gives back only where nobody gives it up."""
    request, release = requests()
    granted = await trial.ledger.reserve(request)
    await anyio.sleep(1)
    await trial.ledger.release(granted.reservation_id, release)


async def forgets_a_file(trial: Trial):
    forgotten.append(os.dup(0))
    await whole(trial)


async def forgets_a_thread(trial: Trial):
    thread = threading.Thread(target=let_go.wait, name="forgotten")
    forgotten.append(thread)
    thread.start()
    await whole(trial)


async def goes_on_waiting(trial: Trial):
    """Given up, it begins to wait for nothing, out of every scope's reach."""
    cancelled = anyio.get_cancelled_exc_class()
    with suppress(cancelled):
        await whole(trial)
        return
    with anyio.CancelScope(shield=True):
        while True:
            with suppress(cancelled):
                await anyio.sleep_forever()


async def spins(trial: Trial):
    """Given up, it does not notice."""
    with suppress(anyio.get_cancelled_exc_class()):
        await whole(trial)
        return
    while True:
        await anyio.lowlevel.cancel_shielded_checkpoint()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("program", [goes_on_waiting, spins])
def test_a_program_that_never_ends_is_found(program, backend, monkeypatch):
    monkeypatch.setattr(cancellation_sweep, "SWEEP_TIMEOUT", 0.3)
    report = str(cancel_everywhere(program, backend=backend, most=1, first=20))
    gc.collect()  # what stood in the loop that was abandoned
    assert "it did not end in 0.3 s of real time, whatever cancelled it" in report


async def complains(trial: Trial):
    try:
        await whole(trial)
    finally:
        logging.getLogger("mine").error("it went wrong")


async def lingers(trial: Trial):
    try:
        await whole(trial)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)


async def wraps(trial: Trial):
    try:
        await whole(trial)
    except anyio.get_cancelled_exc_class():
        raise ValueError("something else") from None


async def breaks_its_promise(trial: Trial):
    async def check():
        assert trial.ledger.asked("commit"), "nothing was charged"

    trial.afterwards(check)
    await whole(trial)


def requests():
    from runcycles import Action, ReleaseRequest, ReservationCreateRequest, Subject

    request = ReservationCreateRequest(
        idempotency_key="mine",
        subject=Subject(tenant="acme"),
        action=Action(kind="llm.completion", name="mine"),
        estimate=tokens(5),
    )
    return request, ReleaseRequest(idempotency_key="mine/release")


forgotten = []
let_go = threading.Event()


@pytest.fixture
def _tidy():
    let_go.clear()
    yield
    let_go.set()
    for each in forgotten:
        if isinstance(each, threading.Thread):
            each.join()
        elif isinstance(each, int):
            os.close(each)
    forgotten.clear()


@pytest.mark.usefixtures("_tidy")
@pytest.mark.parametrize(
    ("program", "found"),
    [
        (forgets_a_task, "tasks left: .*sleep"),
        (forgets_a_lease, r"given up at turn \d+ \(scope\): open on memory:: .* key mine"),
        (forgets_a_file, "files left open: 1"),
        (forgets_a_thread, "thread left: forgotten"),
        (complains, "logged by mine: it went wrong"),
        (lingers, "it took 30.0 s to end, and may take 13 s"),
        (wraps, "ValueError..something else"),
        (breaks_its_promise, "nothing was charged"),
    ],
)
def test_what_a_program_leaves_is_found(program, found, monkeypatch):
    monkeypatch.setattr("comptroller.testing.assertions._ENDING", 0.05)
    report = cancel_everywhere(program, most=8)
    with pytest.raises(AssertionError, match=found):
        report.assert_clean()


@pytest.mark.usefixtures("_tidy")
def test_what_a_process_opens_once_is_no_finding():
    async def keeps_one(trial):
        await anyio.lowlevel.checkpoint()
        if not forgotten:
            await forgets_a_file(trial)

    cancel_everywhere(keeps_one, most=2).assert_clean()
    assert len(forgotten) == 1


def test_threads_that_trio_keeps_for_its_next_job_are_no_finding():
    async def works_in_a_thread(trial):
        await anyio.to_thread.run_sync(lambda: None)

    cancel_everywhere(works_in_a_thread, backend="trio", most=3).assert_clean()


def test_a_denial_must_come_out_as_what_it_is():
    async def grouped(trial):
        async with anyio.create_task_group() as group:
            group.start_soon(whole, trial)

    report = deny_everywhere(grouped)
    assert [str(each.when) for each in report.findings] == [
        f"reserve {number} denied" for number in (1, 2, 3, 4)
    ]
    with pytest.raises(AssertionError, match="4 findings at 4 of 4 points") as raised:
        report.assert_clean()
    assert isinstance(raised.value.__cause__, ExceptionGroup)


async def is_refused(trial: Trial):
    async with trial.governed(agent(), "globex", policy=POLICY) as run:  # it has no budget
        await run("go")


@pytest.mark.parametrize("sweep", [cancel_everywhere, deny_everywhere, lose_everywhere])
def test_a_program_that_is_refused_from_the_start_is_not_called_clean(sweep):
    with pytest.raises(AssertionError, match=r"undisturbed: raised BudgetNotFound.*globex"):
        sweep(is_refused).assert_clean()


async def does_nothing(trial: Trial):
    pass


def test_a_sweep_that_tried_nothing_is_not_clean():
    for sweeping, told in (
        (cancel_everywhere, "nothing to try in 0 turns"),
        (deny_everywhere, "it asked for no reserve"),
        (lose_everywhere, "it asked for no commit"),
    ):
        with pytest.raises(AssertionError, match=told):
            sweeping(does_nothing).assert_clean()
    with pytest.raises(AssertionError, match="from turn 100000 on: nothing to try"):
        cancel_everywhere(whole, first=100_000).assert_clean()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"how": "softly"}, "how"),
        ({"how": "task", "backend": "trio"}, "how='task' is for asyncio"),
        ({"backend": "curio"}, "backend"),
        ({"most": 0}, "most=0"),
        ({"first": 0}, "turn"),
    ],
)
def test_a_setting_that_makes_no_sense_is_an_error(settings, told):
    with pytest.raises(ValueError, match=told):
        cancel_everywhere(whole, **settings)


def test_a_cancellation_that_nobody_asked_for_is_a_finding():
    async def is_gone(trial):
        await whole(trial)
        raise asyncio.CancelledError

    with pytest.raises(AssertionError, match="undisturbed: CancelledError"):
        cancel_everywhere(is_gone, most=2).assert_clean()


@pytest.mark.usefixtures("_tidy")
def test_one_finding_can_be_had_again_alone():
    (first, *_) = cancel_everywhere(forgets_a_lease, most=8).findings
    turn = int(first.when.split()[4])
    (again,) = cancel_everywhere(forgets_a_lease, first=turn, most=1).findings
    assert again.when == first.when


def test_without_residue_nothing_is_found():
    found = []
    with residue(found):
        logging.getLogger("mine").warning("no error")
    assert found == []
