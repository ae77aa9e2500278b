"""Tables: whatever the width, no name is cut or dropped and no figure loses a digit."""

import sys

import pytest
import typer
import typer.rich_utils
from rich.console import Console

from comptroller.cli.tables import Table
from support.cli import done

LONG = "a" * 300
WIDTHS = [300, 120, 100, 80, 72, 40]


def shown(table, width):
    out = Console(width=width)
    with out.capture() as captured:
        out.print(table, crop=False)
    return captured.get()


def report(*rows):
    numbers = ("calls", "charged", "abandoned", "denied", "tokens in", "out")
    table = Table("tenant", "model", *numbers, amounts=numbers, models=("model",))
    for row in rows:
        table.add_row(*row)
    return table


FULL = (
    "northwind",
    "openai:gpt-4.1-mini",
    "2",
    "$58.734967",
    "$0.25",
    "7",
    "122,469,134",
    "17,530",
)


@pytest.mark.parametrize("width", [*WIDTHS, 39, 10, 1])
@pytest.mark.parametrize("name", ["acme", LONG, "研究者" * 20, "חוקר" * 30])
def test_every_name_and_figure_stands_whole_at_every_width(width, name):
    text = shown(report(FULL, (name, *FULL[1:])), max(width, 40))
    for word in (name, "northwind", "gpt-4.1-mini", *FULL[2:]):
        assert word in text


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_longer_than_the_terminal_but_for_a_name(width):
    lines = shown(report(FULL), width).splitlines()
    assert max(map(len, lines)) <= width


def test_columns_that_say_nothing_go_first_from_the_right_and_are_counted():
    row = ("northwind", "openai:gpt-4.1-mini", "2", "$58.734967", "-", "-", "122,469,134", "-")
    text = shown(report(row), 66)
    assert text.splitlines()[0].split() == [
        "tenant", "model", "calls", "charged", "abandoned", "tokens", "in",
    ]  # fmt: skip
    assert text.endswith("2 columns hidden: denied, out; --wide or a pipe shows all\n")


def test_where_no_table_fits_each_record_is_a_paragraph_that_hides_nothing():
    assert shown(report(FULL, ("acme", "-", "1", "$0.01", *["-"] * 4)), 50).splitlines() == [
        "tenant northwind  model openai:gpt-4.1-mini",
        "  calls 2  charged $58.734967  abandoned $0.25",
        "  denied 7  tokens in 122,469,134  out 17,530",
        "",
        "tenant acme  model -",
        "  calls 1  charged $0.01",
        "",
    ]


def test_ids_are_shortened_to_what_tells_them_apart_and_units_to_what_people_write():
    one, other = "0123456789" + "a" * 22, "0123456789" + "b" * 22
    table = Table("run", "charged", amounts=("charged",))
    table.add_row(one, "100 risk points")
    table.add_row(other, "1 risk point")
    assert [line.split() for line in shown(table, 40).splitlines()[2:]] == [
        [one[:11], "100", "pts"],
        [other[:11], "1", "pt"],
    ]


def test_a_model_keeps_its_provider_where_only_that_tells_it_apart():
    rows = [("acme", f"{who}:gpt", *["-"] * 6) for who in ("openai", "azure")]
    assert "azure:gpt" in shown(report(*rows), 66)


def test_words_of_a_text_stay_whole():
    table = Table("scope", "state", prose=("state",))
    table.add_row("tenant:acme", "open, anew each day (America/Argentina/ComodRivadavia)")
    for width in (60, 45):
        words = shown(table, width).split()
        assert "(America/Argentina/ComodRivadavia)" in words


@pytest.fixture
def unread_width(monkeypatch):
    """As in a process that begins: typer reads `TERMINAL_WIDTH` once, where it first shows help."""
    monkeypatch.setenv("TERMINAL_WIDTH", "")
    monkeypatch.delitem(sys.modules, "typer.rich_utils")
    monkeypatch.delattr(typer, "rich_utils")


@pytest.mark.usefixtures("desk", "unread_width")
@pytest.mark.parametrize("columns", ["0", "1", "-5", "many", "", "²", "٣", "9" * 30, "80.5", "40"])
@pytest.mark.parametrize("variable", ["COLUMNS", "LINES", "TERMINAL_WIDTH"])
@pytest.mark.parametrize("words", [("budget", "list", "--ledger", "ledger.db"), ("--help",)])
def test_a_terminal_of_any_size(words, variable, columns):
    text = done(*words, env={variable: columns})
    if words[0] == "budget":
        assert "tenant:acme" in text
        assert text.count("$1.00") == 2
        assert "open" in text


@pytest.mark.usefixtures("unread_width")
@pytest.mark.parametrize("columns", ["1", "40", "79", "80", "200"])
@pytest.mark.parametrize("variable", ["COLUMNS", "TERMINAL_WIDTH"])
@pytest.mark.parametrize(
    "command", ["", "run", "serve", "budget set", "outbox replay", "events", "backup"]
)
def test_help_cuts_no_option_at_any_width(command, variable, columns):
    assert "…" not in done(*command.split(), "--help", env={variable: columns})


@pytest.mark.usefixtures("desk")
def test_wide_shows_every_column_however_narrow_the_terminal_is():
    command = ("budget", "list", "--ledger", "ledger.db")
    assert done(*command, "--wide", env={"COLUMNS": "40"}) == done(*command)


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    "command", ["key list", "webhook list", "events", "reservations", "report"]
)
def test_every_listing_can_be_wide(command):
    done(*command.split(), "--wide", "--ledger", "ledger.db")
