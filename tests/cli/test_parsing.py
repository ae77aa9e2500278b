"""What a person wrote, as values."""

import importlib

import pytest
from runcycles import Unit

from comptroller import risk_points, tokens, usd
from comptroller.cli import parsing
from comptroller.money import amount

loading = importlib.import_module("comptroller.cli.run")  # the package names its function


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10usd", usd(10)),
        ("10USD", usd(10)),
        ("$10", usd(10)),
        ("$0.05", usd("0.05")),
        ("$.05", usd("0.05")),
        (" $10usd ", usd(10)),
        ("10 usd", usd(10)),
        ("0usd", usd(0)),
        ("+1usd", usd(1)),
        ("5000tokens", tokens(5000)),
        ("1token", tokens(1)),
        ("50risk_points", risk_points(50)),
        ("50points", risk_points(50)),
        ("1point", risk_points(1)),
        ("7credits", amount(Unit.CREDITS, 7)),
    ],
)
def test_an_amount_as_people_write_it(text, value):
    assert parsing.amount(text) == value


@pytest.mark.parametrize("text", ["10", "10.5", "0", "+3"])
def test_a_bare_number_is_an_error_that_shows_how_to_write_it(text):
    with pytest.raises(ValueError, match="of what") as caught:
        parsing.amount(text)
    assert f"{text}usd" in str(caught.value)
    assert "5000tokens" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no amount"),
        ("usd", "is no amount"),
        ("ten usd", "is no amount"),
        ("1.2.3usd", "is no amount"),
        ("1,000usd", "is no amount"),
        ("1e3usd", "is no amount"),
        ("nanusd", "is no amount"),
        ("5eur", "'eur' is no unit"),
        ("$5tokens", "'tokens' is no unit"),
        ("-5usd", "at least 0"),
        ("-5tokens", "at least 0"),
        ("5.5tokens", "whole numbers"),
        ("99999999999999999999usd", "at most"),
        ("99999999999999999999tokens", "at most"),
    ],
)
def test_what_is_no_amount_says_why(text, why):
    with pytest.raises(ValueError, match=why):
        parsing.amount(text)


def test_an_option_that_is_left_out_is_no_amount():
    assert parsing.optional_amount("--budget", None) is None


def test_an_error_names_its_option():
    with pytest.raises(ValueError, match=r"^--budget: '10'"):
        parsing.optional_amount("--budget", "10")


def test_the_ledger_of_the_environment_is_used_when_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPTROLLER_LEDGER", str(tmp_path / "mine.db"))
    assert parsing.ledger(None, None, create=True).url == str(tmp_path / "mine.db")


def test_a_cycles_server_of_the_environment_keeps_its_settings(monkeypatch):
    monkeypatch.setenv("CYCLES_BASE_URL", "http://localhost:7878")
    monkeypatch.setenv("CYCLES_API_KEY", "key")
    monkeypatch.setenv("CYCLES_TENANT", "acme")
    monkeypatch.setenv("CYCLES_WORKSPACE", "prod")
    monkeypatch.setenv("OTHER", "another")
    settings = parsing.ledger(None, None)
    assert (settings.api_key, settings.workspace) == ("key", "prod")
    assert parsing.ledger(None, "OTHER").api_key == "another"


def test_a_servers_key_is_read_from_the_variable_that_is_named(monkeypatch):
    monkeypatch.setenv("CYCLES_API_KEY", "key")
    monkeypatch.setenv("OTHER", "another")
    assert parsing.ledger("http://localhost:1", None).api_key == "key"
    assert parsing.ledger("http://localhost:1", "OTHER").api_key == "another"


def test_a_key_that_is_missing_says_which_variable():
    with pytest.raises(ValueError, match="export OTHER="):
        parsing.ledger("https://cycles.example.com", "OTHER")


def test_looking_at_a_ledger_makes_none(tmp_path):
    with pytest.raises(Exception, match="comptroller budget set"):
        parsing.ledger(str(tmp_path / "none.db"), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("desk:agent", "Triage agent"),
        ("desk:make", "Triage agent"),
        ("desk:loop", "Loop"),
        ("desk:Place.inner", "Triage agent"),
    ],
)
def test_an_agent_is_found_in_the_current_directory(text, name):
    assert loading.imported_agent(text).name == name
