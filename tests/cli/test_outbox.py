"""`comptroller outbox`: what is owed to a Cycles server, on the command line."""

import json

import attrs
import pytest
from runcycles import Action, CommitRequest, EventCreateRequest, Subject

from comptroller.ledger.interface import PendingCharge
from comptroller.ledger.remote.outbox import Entry, OutboxDirectory
from comptroller.money import usd
from support.cli import call, done, refused

ADDRESS = "http://127.0.0.1:9"  # where nobody listens


def entry(key, *, tenant="acme", reserved=True):
    event = EventCreateRequest(
        idempotency_key=f"{key}/commit",
        subject=Subject(tenant=tenant),
        action=Action(kind="k", name="n"),
        actual=usd("0.05"),
    )
    commit = CommitRequest(idempotency_key=event.idempotency_key, actual=usd("0.05"))
    owed = PendingCharge(
        key=key,
        reservation_id=key if reserved else None,
        commit=commit if reserved else None,
        event=event,
    )
    return Entry.of(owed, ADDRESS)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPTROLLER_OUTBOX", str(tmp_path / "outbox"))
    return OutboxDirectory(tmp_path / "outbox", ADDRESS)


def test_nothing_owed_is_said():
    assert "nothing is owed" in done("outbox", "list")
    assert json.loads(done("outbox", "list", "--json")) == {"owed": [], "set_aside": []}


def test_what_is_owed_to_whom_is_listed(shelf):
    shelf.put(entry("rsv_1"))
    shelf.put(entry("run/1/llm-1", tenant="globex", reserved=False))
    shelf.set_aside(entry("rsv_2"))
    listed = done("outbox", "list")
    for text in (ADDRESS, "acme", "globex", "commit", "event", "$0.05", "set aside", ".rejected"):
        assert text in listed
    plain = json.loads(done("outbox", "list", "--json"))
    assert {each["key"]: each["as"] for each in plain["owed"]} == {
        "rsv_1": "commit", "run/1/llm-1": "event",
    }  # fmt: skip
    assert len(plain["set_aside"]) == 1


def test_a_file_that_cannot_be_read_is_listed_and_left_where_it_is(shelf):
    shelf.put(entry("rsv_1"))
    (place,) = shelf.root.iterdir()
    (place / "v2-torn.json").write_text("{")
    assert "cannot be read" in done("outbox", "list")
    assert (place / "v2-torn.json").exists()


def test_whatever_a_file_holds_the_others_are_listed_and_shown(shelf):
    shelf.put(attrs.evolve(entry("rsv_1"), not_before_ms=10**18))
    (place,) = shelf.root.iterdir()
    (place / "v2-deep.json").write_text("[" * 200_000)
    listed = done("outbox", "list")
    assert "cannot be read" in listed
    assert "beyond any date" in listed
    assert json.loads(done("outbox", "show", "rsv_1"))["not_before_ms"] == 10**18
    assert done("outbox", "show", "deep").startswith("[[[")


def test_one_is_shown_by_its_reservation_or_by_the_lists_name(shelf):
    shelf.put(entry("rsv_1"))
    shelf.put(entry("rsv_2"))
    for name in ("rsv_1", entry("rsv_1").file_name.removeprefix("v2-")[:12]):
        shown = json.loads(done("outbox", "show", name))
        assert (shown["reservation_id"], shown["mode"]) == ("rsv_1", "commit")
    assert "no charge is named 'rsv_9'" in refused("outbox", "show", "rsv_9")
    assert "several charges" in refused("outbox", "show", "")


def test_what_cannot_be_sent_is_left_and_the_exit_code_says_so(shelf):
    shelf.put(entry("rsv_1"))
    words = ("outbox", "replay", "--ledger", ADDRESS, "--timeout", "0", "--json")
    result = call(*words, env={"CYCLES_API_KEY": "key"})
    assert (result.exit_code, json.loads(result.stdout)) == (
        1, {"left": 1, "set_aside": 0, "elsewhere": {}},
    )  # fmt: skip
    assert len(list(shelf.root.rglob("*.json"))) == 1


def test_what_is_owed_to_other_addresses_than_the_one_that_is_asked_is_told(shelf):
    """The same server may have another name there."""
    shelf.put(entry("rsv_1"))
    shelf.put(attrs.evolve(entry("rsv_2"), address="http://cycles.example.com"))
    asked = "http://localhost:9"
    words = ("outbox", "replay", "--ledger", asked, "--timeout", "0")
    owed, key = [ADDRESS, "http://cycles.example.com"], {"CYCLES_API_KEY": "key"}
    nothing_left, *others = done(*words, env=key).splitlines()
    assert nothing_left == f"0 left to send to {asked} in {shelf.root}"
    assert others == [
        f"1 owed to {each}, not asked now: comptroller outbox replay --ledger {each}"
        for each in owed
    ]
    plain = json.loads(done(*words, "--json", env=key))
    assert plain == {"left": 0, "set_aside": 0, "elsewhere": dict.fromkeys(owed, 1)}


def test_an_embedded_ledger_is_owed_nothing(tmp_path):
    done("budget", "set", "tenant:acme", "1usd", "--ledger", str(tmp_path / "ledger.db"))
    line = refused("outbox", "replay", "--ledger", str(tmp_path / "ledger.db"))
    assert "is an embedded ledger" in line
