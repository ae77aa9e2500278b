"""`comptroller backup`: while a server has the ledger, and what it is refused for."""

import json
import sqlite3
from contextlib import closing

import pytest

from support.cli import call, done, refused
from support.serve_command import key_of, served

LEDGER = ("--ledger", "ledger.db")


def test_beside_a_server_it_has_all_that_was_answered(desk):
    """The case in which a plain copy lacks the last minutes."""
    import httpx

    key = key_of("acme", "ledger.db")
    with served(desk / "ledger.db") as running:
        for number in range(20):
            paid = httpx.post(
                f"{running.url}/v1/events",
                json={
                    "idempotency_key": str(number),
                    "subject": {"tenant": "acme"},
                    "action": {"kind": "llm.completion", "name": "model"},
                    "actual": {"unit": "USD_MICROCENTS", "amount": 1_000},
                },
                headers={"X-Cycles-API-Key": key},
                trust_env=False,
            )
            assert paid.status_code == 201
        said = done("backup", "copy.db", *LEDGER)
        assert said.startswith("copy.db: a whole copy of ledger.db, ")
        assert "balances were recomputed (budgets: 1)" in said
    [shown] = json.loads(done("budget", "list", "--json", "--ledger", "copy.db"))
    assert shown["spent"]["amount"] == 20_000
    [listed] = json.loads(done("key", "list", "--json", "--ledger", "copy.db"))
    assert listed["key_id"] == key.split("_")[1]


def test_for_machines(desk):
    assert json.loads(done("backup", "copy.db", "--json", *LEDGER)) == {
        "ledger": "ledger.db",
        "backup": "copy.db",
        "bytes": (desk / "copy.db").stat().st_size,
        "budgets": 1,
        "differences": 0,
    }


def test_one_that_is_there_is_kept_without_force(desk):
    done("backup", "copy.db", *LEDGER)
    assert "--force" in refused("backup", "copy.db", *LEDGER)
    done("budget", "fund", "tenant:acme", "1usd", *LEDGER)
    done("backup", "copy.db", "--force", *LEDGER)
    assert "$2.00" in done("budget", "list", "--ledger", "copy.db")


def test_a_ledger_that_differs_from_its_history_is_copied_and_told(desk):
    with closing(sqlite3.connect(desk / "ledger.db")) as other:
        other.execute("UPDATE accounts SET reserved = 5")
        other.commit()
    found = call("backup", "copy.db", *LEDGER)
    assert found.exit_code == 1
    assert "comptroller verify --ledger ledger.db" in found.stderr
    assert (desk / "copy.db").exists()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("copy.db", "--ledger", "memory:"), "only a ledger in a file"),
        (("copy.db", "--ledger", "none.db"), "there is no ledger none.db"),
        (("copy.db", "--ledger", "http://127.0.0.1:9"), "on its machine"),
        (("ledger.db", *LEDGER, "--force"), "belongs to the ledger"),
        (("none/copy.db", *LEDGER), "mkdir -p"),
        ((".", *LEDGER), "name a file in it"),
    ],
)
def test_what_cannot_be_is_one_line(desk, words, remedy):
    env = {"CYCLES_API_KEY": "key"}
    assert remedy in refused("backup", *words, env=env)
