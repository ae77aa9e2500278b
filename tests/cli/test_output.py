"""Where nothing can be written: no secret is made that nobody has seen, no traceback told.

A full disk is `/dev/full`; a closed stdout is one that the shell closed before the command began.

What a person reads.
"""

import io
import json
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.live import Live
from runcycles import Amount, Balance, SignedAmount, Unit

from comptroller import CallReceipt, Outcome, Receipt, TokenCount, usd
from comptroller.cli import output, progress
from comptroller.money import amount
from support.cli import done, environment

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


def budget(remaining=1, debt=0, *, over=False):
    unit = Unit.USD_MICROCENTS
    return Balance(
        scope="tenant:acme",
        scope_path="tenant:acme",
        remaining=SignedAmount(unit=unit, amount=remaining),
        debt=Amount(unit=unit, amount=debt),
        is_over_limit=over or None,
    )


@pytest.mark.parametrize(
    ("given", "state"),
    [
        (budget(), "open"),
        (budget(0), "used up"),
        (budget(-1), "used up"),
        (budget(-1, 1), "in debt"),
        (budget(-1, 2, over=True), "over limit"),
    ],
)
def test_the_state_of_a_budget(given, state):
    assert output.state(given) == state


def shown(table):
    out = output.open_console()
    with out.capture() as captured:
        out.print(table)
    return captured.get()


def line(**more):
    given = {
        "id": "llm-1", "episode": "1", "kind": "llm.completion", "agent": "Triage", "name": "gpt",
        "reserved": usd("0.01"), "outcome": Outcome.COMMITTED,
    }  # fmt: skip
    return CallReceipt(**{**given, **more})


def receipt(*calls):
    return Receipt(run_id="run", tenant="acme", calls=calls)


def test_a_nested_call_is_indented_under_its_tool():
    rows = shown(output.receipts_table([receipt(line(), line(id="llm-2", episode="1.2"))]))
    first, second = (row for row in rows.splitlines() if "llm-" in row)
    assert second.index("llm-2") == first.index("llm-1") + 2


def test_what_was_not_charged_is_shown():
    short = line(actual=usd("0.03"), charged=usd("0.02"), tokens=TokenCount(1000, output=2))
    rows = shown(output.receipts_table([receipt(short)]))
    assert "short $0.01" in rows
    assert "1,000+2" in rows


def test_a_cost_that_is_an_estimate_is_marked_in_its_line_and_in_the_sum():
    guess = line(id="llm-2", actual=usd(1), charged=usd(1), actual_source="estimate")
    known = line(actual=usd(2), charged=usd(2), actual_source="usage")
    rows = shown(output.receipts_table([receipt(known, guess)])).splitlines()
    first, second, total = (row for row in rows if "$" in row)
    assert "estimate" not in first
    assert second.rstrip().endswith("committed (estimate)")
    assert total.rstrip().endswith("$1.00 by estimate")
    assert "$3.00" in total


@pytest.mark.parametrize("terminal", [True, False])
def test_an_estimate_is_marked_while_the_run_goes_on(terminal):
    guess = line(actual=usd(1), charged=usd(1), actual_source="streamed")
    run = SimpleNamespace(receipt=receipt(guess), status="running")
    out = Console(file=io.StringIO(), width=120, force_terminal=terminal, color_system=None)
    if terminal:
        with Live(console=out, auto_refresh=False) as live:
            progress.LiveTable(live).look({"run": run})
    else:
        progress.Lines(out).look({"run": run})
    assert ("$1.00 (est. $1.00)" if terminal else "$1.00  (estimate)") in out.file.getvalue()


def test_a_retry_is_numbered():
    assert "gpt #2" in shown(output.receipts_table([receipt(line(attempt=2))]))


def test_sums_of_several_units_stand_one_below_the_other():
    points = line(id="tool-2", charged=amount(Unit.RISK_POINTS, 4))
    rows = shown(output.receipts_table([receipt(line(charged=usd(1)), points)])).splitlines()
    at = next(number for number, row in enumerate(rows) if row.strip().startswith("run"))
    assert "$1.00" in rows[at]
    assert "4 risk points" in rows[at + 1]


def test_names_of_others_are_neither_markup_nor_commands_to_the_terminal():
    name = "[red]Robert[/red] :smile: \x1b[31m\x07\nsecond"
    rows = shown(output.receipts_table([receipt(line(agent=name))]))
    assert "[red]Robert[/red] :smile:" in rows
    assert "\x1b" not in rows
    assert "\x07" not in rows
    assert sum("llm-1" in row or "second" in row for row in rows.splitlines()) == 1


def test_notes_say_what_neither_the_table_nor_the_error_says():
    calls = (
        line(reason="user closed the tab", outcome=Outcome.ABANDONED),
        line(reason=output.NOTHING_RESERVED, outcome=Outcome.UNRESERVED),
        line(reason="too much", outcome=Outcome.DENIED),
        line(reason="no answer", outcome=Outcome.LAPSING),
        line(),
    )
    assert output.notes(receipt(*calls), "no answer") == [
        "llm-1 abandoned: user closed the tab",
    ]
