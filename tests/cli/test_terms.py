"""Terms of a budget: those that are not named stay, on every way on which a budget is set."""

import json

import anyio
import pytest
from runcycles import Caps

from comptroller import open_ledger, usd
from support.cli import done, refused

SCOPE = "tenant:acme"

LEDGER = ("--ledger", "ledger.db")


def listed():
    [budget] = json.loads(done("budget", "list", "--json", *LEDGER))
    return budget


def set_to(*words):
    return done("budget", "set", "tenant:acme", *words, *LEDGER)


@pytest.fixture
def termed(desk):
    """Acme has every term."""
    words = "--per day --zone Asia/Tokyo --alert 50% --alert 100% --overdraft 1usd --caps-below 20%"
    set_to("1usd", *words.split(), "--max-tokens", "500", "--deny-tool", "shell")
    return desk


TERMS = {"per": "day", "zone": "Asia/Tokyo", "alerts": [50, 100], "caps_below": 20}


def test_what_is_not_named_stays_and_the_terms_are_printed(termed):
    line = set_to("4usd")
    assert line == (
        "tenant:acme in ledger.db: $4.00 left of $4.00, $0.00 spent, $0.00 reserved; $4.00 a day"
        " (Asia/Tokyo), $1.00 may be owed, alerts at 50%, 100%, caps below 20%: max_tokens 500,"
        " tool_denylist shell\n"
    )
    assert {name: listed()[name] for name in TERMS} == TERMS
    assert listed()["caps"] == {"max_tokens": 500, "tool_denylist": ["shell"]}


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["--per", "never"], ["per", "zone", "renews_at_ms", "renews_with"]),
        (["--no-alerts"], ["alerts"]),
        (["--no-caps"], ["caps", "caps_below"]),
        (["--overdraft", "0usd"], ["overdraft_limit"]),
    ],
)
def test_each_term_has_a_way_to_end_it_that_ends_no_other(termed, words, gone):
    before = listed()
    set_to("1usd", *words)
    assert set(before) - set(listed()) == set(gone)


def test_a_term_that_is_named_takes_the_place_of_the_old_one(termed):
    set_to("1usd", "--per", "month", "--alert", "80%", "--cooldown", "5", "--max-tokens", "9")
    now = listed()
    assert (now["per"], now["zone"], now["alerts"]) == ("month", "Asia/Tokyo", [80])
    assert now["caps"] == {"max_tokens": 9, "cooldown_ms": 5, "tool_denylist": ["shell"]}
    set_to("1usd", "--no-caps", "--max-tokens", "7", "--no-alerts", "--alert", "90%")
    assert (listed()["caps"], listed()["alerts"]) == ({"max_tokens": 7}, [90])


def test_funding_says_until_when_it_lasts(termed):
    line = done("budget", "fund", "tenant:acme", "2usd", *LEDGER)
    assert "what was added lasts until 20" in line
    assert line.endswith(" 00:00 (Asia/Tokyo), when it begins anew with $1.00\n")


def test_a_budget_that_never_renews_says_nothing_of_terms(desk):
    assert set_to("4usd").endswith("$0.00 reserved\n")
    assert done("budget", "fund", "tenant:acme", "1usd", *LEDGER).endswith("$0.00 reserved\n")


def test_a_zone_of_what_never_renews_is_refused(termed):
    words = ("1usd", "--per", "never", "--zone", "Asia/Tokyo")
    assert "whose days?" in refused("budget", "set", "tenant:acme", *words, *LEDGER)
    assert listed()["per"] == "day"


def test_in_code_what_is_left_out_stays_and_none_ends_it():
    async def check():
        async with open_ledger("memory:") as ledger:
            await in_code(ledger)

    anyio.run(check)


async def in_code(embedded):
    caps = Caps(max_tokens=5)
    terms = {"per": "day", "zone": "Asia/Tokyo", "alerts": ("50%",), "overdraft_limit": 7}
    await embedded.set_budget(SCOPE, usd(1), caps=caps, caps_below="20%", **terms)
    kept = await embedded.set_budget(SCOPE, usd(4))
    assert (kept.per, kept.zone, kept.alerts, kept.caps_below) == ("day", "Asia/Tokyo", [50], 20)
    assert (kept.caps, kept.overdraft_limit.amount) == (caps, 7)
    assert kept.renews_with == usd(4)
    ended = await embedded.set_budget(
        SCOPE, usd(4), per=None, alerts=(), caps=None, overdraft_limit=0
    )
    assert (ended.per, ended.zone, ended.alerts, ended.caps_below) == (None,) * 4
    assert (ended.caps, ended.overdraft_limit) == (None, None)
