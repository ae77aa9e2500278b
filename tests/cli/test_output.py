"""Where nothing can be written: no secret is made that nobody has seen, no traceback told.

A full disk is `/dev/full`; a closed stdout is one that the shell closed before the command began.
"""

import json
import shlex
import subprocess
import sys

import pytest

from cli.commands import done, environment

LEDGER = ("--ledger", "ledger.db")
pytestmark = pytest.mark.usefixtures("desk")


def shell(line):
    """(exit code, stderr) of a command line in which `comptroller` is ours."""
    program = f"{shlex.quote(sys.executable)} -m comptroller"
    run = subprocess.run(
        ["/bin/sh", "-c", line.replace("comptroller", program)],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    return run.returncode, run.stderr


TO_NOWHERE = pytest.mark.parametrize(
    ("where", "why"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")]
)


@TO_NOWHERE
@pytest.mark.parametrize("form", ["", "--json"])
def test_a_key_that_cannot_be_shown_is_not_made(where, why, form):
    told = shell(f"comptroller key create acme {form} --ledger ledger.db {where}")
    assert told == (1, f"comptroller: stdout cannot be written ({why}): no key was made\n")
    assert json.loads(done("key", "list", "--json", *LEDGER)) == []


@TO_NOWHERE
@pytest.mark.parametrize("form", ["", "--json"])
def test_a_webhook_whose_secret_cannot_be_shown_is_not_added(where, why, form):
    url = "https://example.com/alerts"
    told = shell(f"comptroller webhook add {url} {form} --ledger ledger.db {where}")
    assert told == (1, f"comptroller: stdout cannot be written ({why}): no webhook was added\n")
    assert json.loads(done("webhook", "list", "--json", *LEDGER)) == []


@TO_NOWHERE
@pytest.mark.parametrize(
    "command", ["budget set tenant:acme 2usd", "budget list", "report", "events --json", "demo"]
)
def test_what_cannot_be_told_was_done(where, why, command):
    ledger = "" if command == "demo" else "--ledger ledger.db"
    told = shell(f"comptroller {command} {ledger} {where}")
    line = f"comptroller: stdout cannot be written ({why}): what was done stays done\n"
    assert told == (1, line)


@pytest.mark.parametrize("command", ["--help", "budget list --ledger ledger.db", "demo"])
def test_a_reader_that_has_seen_enough_is_no_news(command):
    code, said = shell(f"comptroller {command} | head -1 >/dev/null; exit 0")
    assert (code, said) == (0, "")


def test_a_command_whose_stderr_takes_nothing_does_its_work():
    code, _ = shell("comptroller run desk:agent hi --tenant acme --ledger ledger.db 2>/dev/full")
    assert code == 0
    assert shell("comptroller budget list --ledger none.db 2>/dev/full")[0] == 2
    assert shell("comptroller budget list --ledger none.db 2>&-")[0] == 2


def test_a_run_whose_answer_cannot_be_told_is_settled():
    code, said = shell("comptroller run desk:agent hi --tenant acme --ledger ledger.db >/dev/full")
    assert (code, said.count("Traceback")) == (1, 0)
    [budget] = json.loads(done("budget", "list", "--json", *LEDGER))
    assert (budget["spent"]["usd"], budget["reserved"]["amount"]) == ("0.000864", 0)
