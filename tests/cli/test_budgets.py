"""Budgets and reservations from the command line."""

import json

import pytest

from support.cli import call, done, refused

LEDGER = ("--ledger", "ledger.db")
pytestmark = pytest.mark.usefixtures("desk")


def rows(table):
    """The cells of a table's rows, without its head."""
    return [line.split() for line in table.splitlines()[3:] if line.strip()]


def test_a_budget_is_set_and_listed():
    done("budget", "set", "tenant:acme", "$10", *LEDGER)
    shown = done("budget", "list", *LEDGER)
    assert shown.splitlines()[1].split() == [
        "scope", "allocated", "spent", "reserved", "remaining", "debt", "state",
    ]  # fmt: skip
    assert rows(shown) == [["tenant:acme", "$10.00", "$0.00", "$0.00", "$10.00", "-", "open"]]


def test_a_name_is_fitted_as_the_ledger_keeps_it():
    line = done("budget", "set", "tenant:acme/agent:Triage agent", "5000tokens", *LEDGER)
    assert line == (
        "tenant:acme/agent:triage-agent in ledger.db: 5,000 tokens left of 5,000 tokens,"
        " 0 tokens spent, 0 tokens reserved\n"
    )
    done("budget", "set", "tenant:acme/agent:triage-agent", "6000tokens", *LEDGER)
    budgets = json.loads(done("budget", "list", "--json", *LEDGER))
    agents = [one for one in budgets if one["scope"] == "agent:triage-agent"]
    assert [one["allocated"]["amount"] for one in agents] == [6000]


def test_each_unit_has_its_budget():
    done("budget", "set", "tenant:acme", "50points", *LEDGER)
    budgets = json.loads(done("budget", "list", "--json", *LEDGER))
    assert {one["allocated"]["unit"] for one in budgets} == {"USD_MICROCENTS", "RISK_POINTS"}


def test_a_budget_is_funded():
    line = done("budget", "fund", "tenant:acme", "0.50usd", *LEDGER)
    assert "$1.50 left of $1.50" in line
    shown = json.loads(done("budget", "fund", "tenant:acme", "0.50usd", "--json", *LEDGER))
    assert shown["remaining"] == {
        "unit": "USD_MICROCENTS", "amount": 200_000_000, "usd": "2.00",
    }  # fmt: skip


def test_a_budget_that_renews_says_so():
    done("budget", "set", "tenant:acme", "1usd", "--per", "day", *LEDGER)
    assert "open, anew each day" in done("budget", "list", *LEDGER)


def test_a_frozen_budget_denies_and_says_how_to_open_it():
    assert "is frozen" in done("budget", "freeze", "tenant:acme", *LEDGER)
    assert rows(done("budget", "list", *LEDGER))[0][-1] == "frozen"
    denied = call("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER)
    assert denied.exit_code == 3
    assert "comptroller budget unfreeze tenant:acme --ledger ledger.db" in denied.stderr
    opened = json.loads(done("budget", "unfreeze", "tenant:acme", "--json", *LEDGER))
    assert opened == {"scope": "tenant:acme", "frozen": False}
    assert rows(done("budget", "list", *LEDGER))[0][-1] == "open"


def test_a_closed_tenant_is_denied_and_shown_and_stays_in_the_list():
    assert "is closed" in done("budget", "close", "tenant:acme", *LEDGER)
    assert rows(done("budget", "list", *LEDGER))[0][-1] == "closed"
    denied = call("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER)
    assert denied.exit_code == 3
    assert "is closed; open it again with: comptroller budget set tenant:acme" in denied.stderr
    closed = json.loads(done("budget", "close", "tenant:acme", "--json", *LEDGER))
    assert closed == {"scope": "tenant:acme", "closed": True}
    done("budget", "set", "tenant:acme", "1usd", *LEDGER)
    assert rows(done("budget", "list", *LEDGER))[0][-1] == "open"


def test_budgets_of_one_tenant_alone():
    for scope in ("tenant:acme/agent:one", "tenant:acme-2"):
        done("budget", "set", scope, "1usd", *LEDGER)
    shown = rows(done("budget", "list", "--tenant", "acme", *LEDGER))
    assert [row[0] for row in shown] == ["tenant:acme", "tenant:acme/agent:one"]
    assert done("budget", "list", "--tenant", "none", *LEDGER) == (
        "no budget for tenant none in ledger.db\n"
    )


def test_the_ledger_of_the_environment(tmp_path):
    env = {"COMPTROLLER_LEDGER": str(tmp_path / "mine.db")}
    done("budget", "set", "tenant:acme", "3usd", env=env)
    assert "$3.00" in done("budget", "list", env=env)


def test_reservations_newest_first():
    assert done("reservations", *LEDGER) == "no reservation in ledger.db\n"
    call("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER)
    shown = rows(done("reservations", *LEDGER))
    assert [row[1] for row in shown] == ["tenant:acme/agent:triage-agent"] * 2
    assert {row[4] for row in shown} == {"committed"}
    listed = json.loads(done("reservations", "--json", "--status", "committed", *LEDGER))
    assert [one["reservation_id"] for one in listed] == [row[0] for row in shown]
    assert listed[0]["created_at_ms"] >= listed[1]["created_at_ms"]


def test_reservations_of_one_tenant_and_one_status():
    call("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER)
    assert done("reservations", "--tenant", "globex", *LEDGER) == "no reservation in ledger.db\n"
    assert done("reservations", "--status", "active", *LEDGER) == (
        "no active reservation in ledger.db\n"
    )


def test_no_more_reservations_than_asked_for():
    call("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER)
    shown = done("reservations", "--limit", "1", *LEDGER)
    assert len(rows(shown)) == 2  # and the line that there are more
    assert shown.endswith("the newest 1; more with --limit\n")


def test_a_pipe_gets_whole_lines(monkeypatch):
    """Nothing is folded or cut where no terminal has a width."""
    name = "a-tenant-" + "with-a-long-name-" * 6
    done("budget", "set", f"tenant:{name}", "1usd", *LEDGER)
    assert f"tenant:{name} " in done("budget", "list", *LEDGER)
    monkeypatch.setenv("COLUMNS", "60")
    assert f"scope tenant:{name}\n" in done("budget", "list", *LEDGER)


@pytest.mark.parametrize(
    "command",
    [
        ("set", "tenant:acme", "1usd"),
        ("fund", "tenant:acme", "1usd"),
        ("freeze", "tenant:acme"),
        ("unfreeze", "tenant:acme"),
    ],
)
def test_a_remote_ledger_is_its_operators(command):
    line = refused(
        "budget", *command, "--ledger", "http://127.0.0.1:9", env={"CYCLES_API_KEY": "key"}
    )
    assert line == (
        "http://127.0.0.1:9 is a remote ledger: its operator sets its budgets, with the key that"
        " it was started with: export COMPTROLLER_ADMIN_KEY=..."
    )


@pytest.mark.parametrize("command", [("budget", "list"), ("reservations",)])
def test_a_remote_ledger_wants_a_tenant(command):
    line = refused(*command, "--ledger", "http://127.0.0.1:9", env={"CYCLES_API_KEY": "key"})
    assert "--tenant NAME" in line


class TestOneUnit:
    """A freeze of one unit leaves the scope's other budgets as they are."""

    def states(self):
        listed = json.loads(done("budget", "list", "--json", *LEDGER))
        return {one["remaining"]["unit"]: one["frozen"] for one in listed}

    def test_is_frozen_and_unfrozen_alone(self, desk):
        done("budget", "set", "tenant:acme", "1usd", *LEDGER)
        done("budget", "set", "tenant:acme", "500tokens", *LEDGER)
        said = done("budget", "freeze", "tenant:acme", "--unit", "tokens", *LEDGER)
        assert said == "tenant:acme (its tokens) in ledger.db is frozen\n"
        assert self.states() == {"USD_MICROCENTS": False, "TOKENS": True}
        done("budget", "freeze", "tenant:acme", *LEDGER)
        done("budget", "unfreeze", "tenant:acme", "--unit", "usd", *LEDGER)
        assert self.states() == {"USD_MICROCENTS": False, "TOKENS": True}

    def test_that_is_none_is_refused_with_those_there_are(self, desk):
        done("budget", "set", "tenant:acme", "1usd", *LEDGER)
        line = refused("budget", "freeze", "tenant:acme", "--unit", "euros", *LEDGER)
        assert "--unit 'euros' is no unit: write usd, tokens, points or credits" in line
        assert self.states() == {"USD_MICROCENTS": False}
