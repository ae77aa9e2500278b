"""The command as a process: signals, pipes, terminals, encodings, what it loads."""

import contextlib
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from support.cli import done, ended, environment, start

LEDGER = ("--ledger", "ledger.db")


def waiting(agent, says, *options):
    """A child whose agent has come so far that it says `says`."""
    child = start("run", f"desk:{agent}", "hi", "--tenant", "acme", *options, *LEDGER)
    for line in child.stderr:
        if line == f"{says}\n":
            return child
    raise AssertionError(f"it ended with {child.wait()}")


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_cancels_settles_and_shows_the_receipt(number, code):
    child = waiting("sleeper", "asked")
    child.send_signal(number)
    ended_with, out, err = ended(child)
    assert ended_with == code
    assert err.splitlines()[-1] == (
        f"comptroller: interrupted by {number.name}: cancelled, and settled"
    )
    assert "Traceback" not in err
    assert f"llm-1 abandoned: interrupted by {number.name}" in out
    [held] = json.loads(done("reservations", "--json", *LEDGER))
    assert held["status"] == "COMMITTED"
    assert json.loads(done("reservations", "--json", "--status", "active", *LEDGER)) == []


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_second_signal_leaves_at_once_and_recovery_settles(second):
    """Its ledger is held by somebody: settling would wait for that, as long as it may."""
    child = waiting("sleeper", "asked")
    with contextlib.closing(sqlite3.connect("ledger.db", isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        child.send_signal(signal.SIGINT)
        assert any(line == "given up\n" for line in child.stderr)
        before = time.monotonic()
        child.send_signal(second)
        code, out, _ = ended(child)
        assert (code, out) == (-second, "")
        assert time.monotonic() - before < 4  # it would have been five seconds, and one to exit
    [held] = json.loads(done("reservations", "--json", "--status", "active", *LEDGER))
    [settled] = json.loads(done("recover", "--json", *LEDGER))
    assert settled["reservation_id"] == held["reservation_id"]
    assert json.loads(done("reservations", "--json", "--status", "active", *LEDGER)) == []


@pytest.mark.usefixtures("desk")
def test_a_signal_under_json_leaves_json_alone_on_stdout():
    child = waiting("sleeper", "asked", "--json")
    child.send_signal(signal.SIGINT)
    code, out, _ = ended(child)
    shown = json.loads(out)
    assert (code, shown["status"]) == (130, "cancelled")
    assert shown["receipt"]["calls"][0]["outcome"] == "abandoned"


@pytest.mark.usefixtures("desk")
def test_a_thread_that_blocks_does_not_hold_an_interrupted_command():
    """A tool in a thread cannot be cancelled; the receipt is shown all the same."""
    child = waiting("blocker", "blocked")
    child.send_signal(signal.SIGINT)
    code, out, _ = ended(child)
    assert code == 130
    assert "block" in out


@pytest.mark.usefixtures("desk")
def test_another_process_sees_what_a_run_holds():
    child = waiting("sleeper", "asked")
    try:
        [held] = json.loads(done("reservations", "--json", "--status", "active", *LEDGER))
        [budget] = json.loads(done("budget", "list", "--json", *LEDGER))
        assert held["reserved"] == budget["reserved"]
        assert held["reserved"]["amount"] > 0
    finally:
        child.send_signal(signal.SIGINT)
        ended(child)


def test_bad_input_is_one_line_of_a_process_too(tmp_path):
    code, out, err = ended(
        start(
            "run", "nowhere:agent", "hi", "--tenant", "acme", cwd=tmp_path, program=subprocess.Popen
        )
    )
    assert (code, out) == (2, "")
    assert err.startswith("comptroller: no module 'nowhere'")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("desk")
def test_a_reader_that_goes_away_ends_it_quietly():
    read, written = os.pipe()
    os.close(read)
    child = start("budget", "list", *LEDGER, stdout=written)
    os.close(written)
    code, _, err = ended(child)
    assert (code, err) == (1, "")


@pytest.mark.usefixtures("desk")
def test_an_encoding_that_cannot_show_everything_shows_the_rest():
    env = environment(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    code, out, err = ended(start("budget", "list", *LEDGER, env=env, program=subprocess.Popen))
    assert (code, err) == (0, "")
    assert "tenant:acme" in out
    assert out.isascii()


def on_a_terminal(*words, **variables):
    """(exit code, everything) of a command whose stdout and stderr are a terminal."""
    ours, its = pty.openpty()
    terminal = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "50"}
    env = environment(**{**terminal, **variables})
    child = start(*words, stdout=its, stderr=its, stdin=subprocess.DEVNULL, env=env, text=False)
    os.close(its)
    seen = bytearray()
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # its end was closed
        pass
    finally:
        os.close(ours)
    return child.wait(timeout=60), seen.decode()


@pytest.mark.usefixtures("desk")
def test_a_terminal_sees_the_run_live_and_in_colour():
    code, seen = on_a_terminal("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER)
    assert code == 0
    assert "\x1b[1A" in seen  # the table is drawn again in its place
    assert "\x1b[32mcommitted" in seen
    assert "completed" in seen


@pytest.mark.usefixtures("desk")
def test_no_color_means_no_colour():
    _, seen = on_a_terminal("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER, NO_COLOR="1")
    assert "committed" in seen
    assert "\x1b[32m" not in seen


@pytest.mark.usefixtures("desk")
def test_a_dumb_terminal_gets_lines():
    _, seen = on_a_terminal("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER, TERM="dumb")
    assert "\x1b" not in seen


def test_help_loads_nothing_that_only_a_command_needs():
    """Beyond the package itself, which brings the SDK."""
    code = (
        "import sys, comptroller; before = set(sys.modules)\n"
        "import comptroller.cli\n"
        "print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    ).stdout.split()
    ours = {name for name in loaded if name.startswith("comptroller")}
    assert {name for name in ours if not name.endswith("_commands")} == {
        "comptroller.cli",
        "comptroller.cli.exit_codes",
        "comptroller.cli.options",
    }
    assert not {"rich.live", "rich.table", "agents.testing"} & set(loaded)
