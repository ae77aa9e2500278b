"""What a dead process of this host has left reserved is settled under its old keys, by policy."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import repeat

import pytest
from agents import Agent
from runcycles import Action, ReservationCreateRequest, Subject

from comptroller import Policy, governed_run, open_ledger, open_supervisor, tokens, usd
from comptroller.runtime.process_registry import dead, directory, mark_of, this_process
from comptroller.runtime.recovery import recover
from comptroller.testing import CountingModel, Fault, ScriptedLedger, lost_request
from support.cli import done
from support.fake_cycles_server import open_bank
from support.run_harness import bench, reserved, tokens_spent
from support.subprocesses import PROCESSES, Python, environment

pytestmark = pytest.mark.anyio


@contextmanager
def doomed(*words):
    """A process with two calls in flight, and their keys; killed at the end."""
    process = Python(
        [sys.executable, "-P", PROCESSES / "crash_mid_call.py", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with process:
        try:
            yield [process.stdout.readline().strip() for _ in range(2)]
        finally:
            process.kill()


@pytest.fixture
async def ledger(tmp_path):
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.set_budget("tenant:acme", tokens(1_000))
        yield ledger


@pytest.mark.parametrize(("how", "spent"), [("charge", 200), ("release", 0)])
async def test_what_was_in_flight_is_settled_as_policy_says(ledger, tmp_path, how, spent):
    with doomed(tmp_path / "ledger.db") as keys:
        assert await recover(ledger, lambda _: how) == []  # it lives
        assert await reserved(ledger) == 200
    found = await recover(ledger, lambda _: how)
    assert sorted(each.key for each in found) == sorted(keys)
    assert {each.outcome for each in found} == {f"{how}d".replace("ee", "e")}
    assert (await reserved(ledger), await tokens_spent(ledger)) == (0, spent)
    assert await recover(ledger, lambda _: how) == []


async def test_what_the_ledger_does_not_accept_is_left_with_why(ledger, tmp_path):
    with doomed(tmp_path / "ledger.db"):
        pass
    silent = ScriptedLedger(ledger, {"commit": repeat(lost_request())})
    found = await recover(silent, lambda _: "charge")
    assert [each.outcome for each in found] == ["left", "left"]
    assert all("no answer" in each.reason for each in found)
    assert await reserved(ledger) == 200
    assert [each.outcome for each in await recover(ledger, lambda _: "charge")] == ["charged"] * 2


async def test_what_another_has_settled_meanwhile_is_settled(ledger, tmp_path):
    with doomed(tmp_path / "ledger.db"):
        pass
    settled = Fault(status=409, error_code="RESERVATION_FINALIZED")
    found = await recover(ScriptedLedger(ledger, {"commit": repeat(settled)}), lambda _: "charge")
    assert [(each.outcome, each.reason) for each in found] == [("charged", "")] * 2
    assert (await reserved(ledger), await tokens_spent(ledger)) == (0, 200)


async def test_what_others_hold_is_none_of_its_business(ledger):
    """A run of this process, and an execution of which this host knows nothing."""
    async with bench(ledger) as it:
        await it.granted()
        for key in ("run/0123456789ab-01234567/llm-1/reserve", "somebody-elses"):
            await ledger.reserve(
                ReservationCreateRequest(
                    idempotency_key=key,
                    subject=Subject(tenant="acme"),
                    action=Action(kind="k", name="n"),
                    estimate=tokens(1),
                )
            )
        assert await recover(ledger, lambda _: "charge") == []
        assert await reserved(ledger) == 102


async def test_a_supervisor_recovers_at_its_start_if_asked(ledger, tmp_path):
    with doomed(tmp_path / "ledger.db"):
        pass
    async with open_supervisor(ledger=ledger) as supervisor:
        assert supervisor.recovered == ()
    policy = Policy(on_abandoned="release")
    async with open_supervisor(ledger=ledger, policy=policy, recover=True) as supervisor:
        assert [each.outcome for each in supervisor.recovered] == ["released"] * 2
    assert (await reserved(ledger), await tokens_spent(ledger)) == (0, 0)


def test_at_a_server_what_is_known_is_charged_and_only_the_rest_by_policy(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPTROLLER_OUTBOX", str(tmp_path))
    monkeypatch.setenv("CYCLES_API_KEY", "key")
    with open_bank() as bank:
        bank.script["commit"] = ["hold"]
        with doomed(bank.url, "key", tmp_path) as keys:
            bank.wait_for("commit")
        shown = json.loads(done("recover", "--ledger", bank.url, "--json"))
        assert [(each["key"], each["outcome"]) for each in shown] == [(keys[1], "charged")]
        assert sorted(set(bank.of("commit"))) == [("commit", f"{key}/commit") for key in keys]
        assert bank.spent() == 30 + 100
        assert "hold nothing" in done("recover", "--ledger", bank.url)


async def test_what_is_known_of_a_process_that_died_meanwhile_is_charged_too(tmp_path):
    """The ledger was open already, and its outbox has long been looked through."""
    with open_bank() as bank:
        async with open_ledger(bank.url, api_key="key", outbox=tmp_path) as ledger:
            await ledger.drain()
            bank.script["commit"] = ["hold"]
            with doomed(bank.url, "key", tmp_path) as keys:
                bank.wait_for("commit")
            found = await recover(ledger, lambda _: "charge")
        assert [(each.key, each.outcome) for each in found] == [(keys[1], "charged")]
        assert bank.spent() == 30 + 100


def test_an_execution_is_new_each_time_and_names_its_process():
    first, second = (this_process.enter("ledger.db", "acme") for _ in range(2))
    try:
        assert first != second
        assert mark_of(first) == mark_of(second)
        assert mark_of(first) not in dead()
        assert (directory() / mark_of(first)).exists()
    finally:
        this_process.leave()
        this_process.leave()
    assert not (directory() / mark_of(first)).exists()
    assert mark_of("0123456789ab") is None


def test_what_is_long_dead_is_forgotten():
    """Nothing of it can be active: its file, and one whose process died while it made it."""
    directory().mkdir(parents=True)
    old = [directory() / name for name in ("0123456789ab", "0123456789ab.tmp")]
    new = [directory() / name for name in ("ba9876543210", "ba9876543210.tmp")]
    for path in (*old, *new):
        path.touch()
    for path in old:
        os.utime(path, (0, 0))
    this_process.enter("ledger.db", "acme")
    try:
        assert set(directory().iterdir()) & {*old, *new} == set(new)
    finally:
        this_process.leave()


def test_a_process_that_lived_long_is_not_long_dead():
    """Its file is as young as its last run, or the next process would forget it unrecovered."""
    mark = mark_of(this_process.enter("ledger.db", "acme"))
    try:
        os.utime(directory() / mark, (0, 0))
        this_process.enter("ledger.db", "acme")
        this_process.leave()
        assert (directory() / mark).stat().st_mtime > time.time() - 60
    finally:
        this_process.leave()


def test_a_file_that_another_process_has_just_removed_is_nothing_to_warn_of(caplog):
    directory().mkdir(parents=True, exist_ok=True)
    gone = directory() / "0123456789ab.tmp"
    gone.symlink_to(directory() / "nowhere")
    try:
        this_process.enter("ledger.db", "acme")
        this_process.leave()
    finally:
        gone.unlink()
    assert caplog.text == ""


def test_a_process_that_ends_in_peace_while_somebody_looks_is_not_dead(monkeypatch):
    """Its file is free for a moment, and gone when it is to be read."""
    mark = mark_of(this_process.enter("ledger.db", "acme"))

    def ends(path):
        if path.name == mark:
            this_process.leave()
        return True

    monkeypatch.setattr("comptroller.runtime.process_registry._is_free", ends)
    assert mark not in dead()


async def test_runs_that_end_in_peace_leave_no_file(tmp_path):
    """And a ledger in memory is nobody's to recover: its runs leave none while they run."""
    before = set(directory().glob("*"))
    agent = Agent(name="A", model=CountingModel())
    async with open_ledger(tmp_path / "ledger.db") as ledger, open_ledger("memory:") as memory:
        assert (ledger.durable, memory.durable) == (True, False)
        memory._name = "whatever it is called"
        for each, files in ((ledger, 1), (memory, 0)):
            await each.set_budget("tenant:acme", usd("1"))
            async with governed_run(agent, "acme", ledger=each) as run:
                await run("hi")
                assert len(set(directory().glob("*")) - before) == files
            assert set(directory().glob("*")) == before


@pytest.mark.filterwarnings("ignore")
def test_a_fork_holds_no_presence_and_has_its_own():
    """It would hide the death of its parent for as long as it lives."""
    mark = mark_of(this_process.enter("ledger.db", "acme"))
    ready, told = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            own = mark_of(this_process.enter("ledger.db", "acme"))
            os.write(told, own.encode())
            signal.pause()
            os._exit(1)
        other = os.read(ready, 12).decode()
        assert mark not in dead()
        this_process.leave(owing=True)
        assert mark in dead()
        assert other not in dead()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert {mark, other} <= set(dead())
    finally:
        os.close(ready)
        os.close(told)


def test_what_is_no_file_in_its_directory_keeps_nobody_waiting():
    directory().mkdir(parents=True)
    os.mkfifo(directory() / "0123456789ab")
    (directory() / "0123456789ac").mkdir()
    (directory() / "0123456789ad").symlink_to("/dev/zero")
    assert dead() == {}
    this_process.enter("ledger.db", "acme")
    this_process.leave()


def test_a_file_of_a_clock_that_was_ahead_ages_from_now_on():
    directory().mkdir(parents=True)
    path = directory() / "0123456789ab"
    path.touch()
    os.utime(path, (2**32, 2**32))
    this_process.enter("ledger.db", "acme")
    this_process.leave()
    assert path.stat().st_mtime < time.time() + 60
