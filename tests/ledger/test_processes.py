"""One ledger file, several processes: the sum is exact, and nothing acknowledged is lost."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from comptroller.ledger.sqlite import open_sqlite
from ledger.asking import amount, balance_of

pytestmark = pytest.mark.anyio

PAIRS, CALLERS = 150, 5
HERE = Path(__file__).parent


def hammering(path, name, pairs):
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", HERE / "hammer.py", path, name, str(pairs), str(CALLERS)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


def acknowledged(lines):
    return {name: int(charged) for name, charged in map(str.split, lines)}


async def every(ledger):
    """All reservations, over all pages."""
    found, cursor = [], None
    while True:
        page = await ledger.reservations(tenant="acme", limit=200, cursor=cursor)
        found += page.reservations
        cursor = page.next_cursor
        if not page.has_more:
            return found


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_three_processes_hammer_one_file_and_one_of_them_is_killed(tmp_path):
    """Two finish; the third dies by SIGKILL in the middle of its work."""
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000_000))
        await ledger.set_budget("tenant:acme/agent:a", amount(1_000_000))
    with contextlib.ExitStack() as running:
        two = [running.enter_context(hammering(path, name, PAIRS)) for name in ("a", "b")]
        doomed = running.enter_context(hammering(path, "doomed", 1_000_000))
        heard = [doomed.stdout.readline() for _ in range(40)]
        doomed.kill()
        heard += doomed.stdout.readlines()
        finished = [acknowledged(one.communicate(timeout=90)[0].splitlines()) for one in two]
    assert [one.returncode for one in two] == [0, 0]
    assert [len(one) for one in finished] == [PAIRS, PAIRS]

    async with open_sqlite(path) as ledger:
        rows = {one.reservation_id: one for one in await every(ledger)}
        told = finished[0] | finished[1] | acknowledged(heard)
        assert {name: rows[name].committed.amount for name in told} == told
        charged = sum(one.committed.amount for one in rows.values() if one.committed)
        held = [one for one in rows.values() if one.status.value == "ACTIVE"]
        assert len(held) <= CALLERS
        shown = await balance_of(ledger, "tenant:acme")
        assert (shown["spent"], shown["reserved"]) == (charged, 5 * len(held))
        assert (await balance_of(ledger, "tenant:acme/agent:a"))["spent"] == sum(
            finished[0].values()
        )
