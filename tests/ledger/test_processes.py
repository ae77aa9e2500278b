"""One ledger file, several processes: the sum is exact, and nothing acknowledged is lost."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from comptroller.ledger.sqlite import open_sqlite
from support.requests import amount, balance_of
from support.subprocesses import PROCESSES, Python, environment

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("COMPTROLLER_KILLS", "1"))
"""How often a process is killed; with 20 of them it takes a few minutes."""
LATE = 0.2 if "COMPTROLLER_KILLS" in os.environ else 2.0
"""Seconds within which the others go on: as promised where it is asked for, on an idle machine."""
CALLERS = 5


def hammering(path, name):
    return started("concurrent_writer.py", path, name, "0", str(CALLERS))


def started(script, *arguments):
    """A script beside this one as a process of its own."""
    return Python(
        [sys.executable, "-P", PROCESSES / script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def acknowledged(lines):
    return {name: int(charged) for name, charged, _ in map(str.split, lines)}


def went_on(lines, since):
    """Seconds from a moment to the first acknowledgement after it."""
    return min(at for at in (float(line.split()[2]) for line in lines) if at > since) - since


async def every(ledger):
    """All reservations, over all pages."""
    found, cursor = [], None
    while True:
        page = await ledger.reservations(tenant="acme", limit=200, cursor=cursor)
        found += page.reservations
        cursor = page.next_cursor
        if not page.has_more:
            return found


def three_of_which_one_is_killed(path):
    """What each of them was acknowledged, the killed one last, and when that was killed."""
    with contextlib.ExitStack() as running:
        three = [running.enter_context(hammering(path, name)) for name in ("a", "b", "doomed")]
        assert [one.stdout.readline() for one in three] == ["ready\n"] * 3
        for one in three:
            one.stdin.write("go\n")
            one.stdin.flush()
        heard = [[one.stdout.readline() for _ in range(20)] for one in three]
        three[2].kill()
        killed = time.monotonic()
        heard[2] += three[2].stdout.readlines()
        for lines, one in zip(heard[:2], three[:2], strict=True):
            while float(lines[-1].split()[2]) < killed:
                lines.append(one.stdout.readline())
            one.stdin.close()
            lines.extend(one.stdout.readlines())
    assert [one.returncode for one in three] == [0, 0, -signal.SIGKILL]
    return heard, killed


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("trial", range(KILLS))
async def test_one_of_three_processes_is_killed_in_the_middle_of_its_work(tmp_path, trial):
    """The other two go on at once, and nothing is lost that anybody was told."""
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000_000))
        await ledger.set_budget("tenant:acme/agent:a", amount(1_000_000))
    heard, killed = three_of_which_one_is_killed(path)
    assert max(went_on(lines, killed) for lines in heard[:2]) < LATE
    told = [acknowledged(lines) for lines in heard]

    async with open_sqlite(path) as ledger:
        rows = {one.reservation_id: one for one in await every(ledger)}
        for one in told:
            assert {name: rows[name].committed.amount for name in one} == one
        charged = sum(one.committed.amount for one in rows.values() if one.committed)
        held = [one for one in rows.values() if one.status.value == "ACTIVE"]
        assert len(held) <= 3 * CALLERS
        shown = await balance_of(ledger, "tenant:acme")
        assert (shown["spent"], shown["reserved"]) == (charged, 5 * len(held))
        assert (await balance_of(ledger, "tenant:acme/agent:a"))["spent"] >= sum(told[0].values())
        assert (await ledger.verify()).differences == ()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_three_processes_pass_midnight_and_each_day_is_charged_what_it_reserved(tmp_path):
    path, midnight_ms = tmp_path / "ledger.db", 1_750_032_000_000  # 2025-06-16T00:00Z
    async with open_sqlite(path, now=lambda: midnight_ms - 1000) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000_000), per="day")
        await ledger.set_budget("tenant:acme/agent:a", amount(1_000_000), per="day")
    with contextlib.ExitStack() as running:
        processes = [
            running.enter_context(started("period_rollover.py", path, name, str(midnight_ms)))
            for name in ("a", "b", "c")
        ]
        assert [one.stdout.readline() for one in processes] == ["ready\n"] * 3
        begins = f"{time.time()}\n"
        for one in processes:
            one.stdin.write(begins)
            one.stdin.flush()
        lines = [line for one in processes for line in one.communicate(timeout=90)[0].splitlines()]
    assert [one.returncode for one in processes] == [0, 0, 0]
    charged = {"before": 0, "after": 0}
    for line in lines:
        reserved_ms, count = map(int, line.split())
        charged["before" if reserved_ms < midnight_ms else "after"] += count
    assert min(charged.values()) > 0

    async with open_sqlite(path, now=lambda: midnight_ms + 90_000) as ledger:
        found = await ledger.verify()
        assert (found.differences, found.periods) == ((), 2)
        periods = await ledger._read(lambda records: list(records.periods()))
        assert [(one.spent, one.reserved) for one in periods] == [(charged["before"], 0)] * 2
        for scope in ("tenant:acme", "tenant:acme/agent:a"):
            assert (await balance_of(ledger, scope))["spent"] == charged["after"]
        assert len(await ledger.events(kinds=["renewed"])) == 2
