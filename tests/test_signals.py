"""SIGTERM and Ctrl-C of a supervisor in a plain script: they settle; who insists leaves."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from children import Python, environment
from cli.commands import done
from stopped import ESTIMATE, RUNS

SCRIPT = Path(__file__).with_name("stopped.py")
SETTLED = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: -signal.SIGINT}

both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@contextlib.contextmanager
def script(ledger, backend):
    """It runs, and each of its runs waits for a model."""
    child = Python(
        [sys.executable, SCRIPT, ledger, backend],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with child:
        try:
            for _ in range(RUNS):
                assert child.stdout.readline() == "asked\n"
            yield child
        finally:
            child.kill()


def rows(ledger):
    """What is left of its calls: status and charge of each."""
    with contextlib.closing(sqlite3.connect(ledger)) as looking:
        return looking.execute("SELECT status, charged FROM reservations").fetchall()


@pytest.mark.parametrize(
    ("number", "backend"),
    [(signal.SIGTERM, "asyncio"), (signal.SIGTERM, "trio"), (signal.SIGINT, "asyncio")],
)
def test_the_first_signal_cancels_settles_and_reports(tmp_path, backend, number):
    ledger = str(tmp_path / "ledger.db")
    with script(ledger, backend) as child:
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == SETTLED[number], err
    assert out.count("given up") == RUNS
    assert "charged" in out
    assert rows(ledger) == [("COMMITTED", ESTIMATE.amount)] * RUNS


@both
def test_a_second_sigterm_ends_it_at_once_and_nothing_is_lost_but_the_wait(tmp_path, backend):
    """Its ledger is held by somebody: settling would wait for that, up to a minute."""
    ledger = str(tmp_path / "ledger.db")
    with (
        script(ledger, backend) as child,
        contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as somebody,
    ):
        somebody.execute("BEGIN IMMEDIATE")
        child.send_signal(signal.SIGTERM)
        for _ in range(RUNS):
            assert child.stdout.readline() == "given up\n"
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)
        assert time.monotonic() - began < 4
        assert child.returncode != 0
    assert {status for status, _ in rows(ledger)} == {"ACTIVE"}
    recovered = json.loads(done("recover", "--json", "--ledger", ledger))
    assert len(recovered) == RUNS
    assert rows(ledger) == [("COMMITTED", ESTIMATE.amount)] * RUNS
