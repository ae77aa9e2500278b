"""What a person reads."""

import pytest
from runcycles import Amount, Balance, SignedAmount, Unit

from comptroller import CallReceipt, Outcome, Receipt, TokenCount, console, usd
from comptroller.money import amount


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
    assert console.state(given) == state


def shown(table):
    out = console.open_console()
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
    rows = shown(console.receipts_table([receipt(line(), line(id="llm-2", episode="1.2"))]))
    first, second = (row for row in rows.splitlines() if "llm-" in row)
    assert second.index("llm-2") == first.index("llm-1") + 2


def test_what_was_not_charged_is_shown():
    short = line(actual=usd("0.03"), charged=usd("0.02"), tokens=TokenCount(1000, output=2))
    rows = shown(console.receipts_table([receipt(short)]))
    assert "short $0.01" in rows
    assert "1,000+2" in rows


def test_a_retry_is_numbered():
    assert "gpt #2" in shown(console.receipts_table([receipt(line(attempt=2))]))


def test_sums_of_several_units_stand_one_below_the_other():
    points = line(id="tool-2", charged=amount(Unit.RISK_POINTS, 4))
    rows = shown(console.receipts_table([receipt(line(charged=usd(1)), points)])).splitlines()
    at = next(number for number, row in enumerate(rows) if row.strip().startswith("run"))
    assert "$1.00" in rows[at]
    assert "4 risk points" in rows[at + 1]


def test_names_of_others_are_neither_markup_nor_commands_to_the_terminal():
    name = "[red]Robert[/red] :smile: \x1b[31m\x07\nsecond"
    rows = shown(console.receipts_table([receipt(line(agent=name))]))
    assert "[red]Robert[/red] :smile:" in rows
    assert "\x1b" not in rows
    assert "\x07" not in rows
    assert sum("llm-1" in row or "second" in row for row in rows.splitlines()) == 1


def test_notes_say_what_neither_the_table_nor_the_error_says():
    calls = (
        line(reason="user closed the tab", outcome=Outcome.ABANDONED),
        line(reason=console.NOTHING_RESERVED, outcome=Outcome.UNRESERVED),
        line(reason="too much", outcome=Outcome.DENIED),
        line(reason="no answer", outcome=Outcome.LAPSING),
        line(),
    )
    assert console.notes(receipt(*calls), "no answer") == [
        "llm-1 abandoned: user closed the tab",
    ]
