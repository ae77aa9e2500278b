"""Reports, the event log and the recomputed balances from the command line."""

import csv
import io
import json
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import anyio
import pytest
from runcycles import Action

from comptroller import open_ledger
from comptroller.cli.parsing import moment
from support.cli import call, done, ended, refused, start
from support.requests import event

LEDGER = ("--ledger", "ledger.db")
NOW = datetime(2025, 6, 15, 22, 30, tzinfo=UTC)


def rows(table):
    """The lines of a table below its head."""
    return [line for line in table.splitlines()[3:] if line.strip()]


@pytest.fixture
def spent(desk):
    """A run was paid for, and another one denied."""
    call("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER)
    done("budget", "set", "tenant:globex", "0.00001usd", *LEDGER)
    call("run", "desk:agent", "hi", "--tenant", "globex", *LEDGER)
    return desk


class TestReport:
    def test_what_a_run_came_to(self, spent):
        shown = done("report", "--since", "today", "--by", "tenant,agent,model", *LEDGER)
        head, acme, *rest = (line.split() for line in shown.splitlines() if line.strip(" ─"))
        assert head[:3] == ["tenant", "agent", "model"]
        assert acme[:5] == ["acme", "triage-agent", "desk:gpt-4.1-mini", "2", "$0.000864"]
        assert rest[0][:3] == ["globex", "triage-agent", "desk:gpt-4.1-mini"]

    def test_for_machines(self, spent):
        lines = json.loads(done("report", "--by", "tenant,tool", "--format", "json", *LEDGER))
        by = {(line["tenant"], line["tool"]): line for line in lines}
        llm = by["acme", ""]
        assert (llm["calls"], llm["tokens_input"], llm["tokens_output"]) == (2, 2000, 40)
        assert llm["unit"] == "USD_MICROCENTS"
        assert llm["charged"] > 0
        assert by["globex", ""]["denied"] == 1
        [found] = [line for line in lines if line["tenant"] == "globex"]
        assert (found["calls"], found["charged"]) == (0, 0)

    def test_for_spreadsheets(self, spent):
        text = done("report", "--by", "run", "--tenant", "acme", "--format", "csv", *LEDGER)
        [row] = csv.DictReader(io.StringIO(text))
        assert len(row["run"]) == 32
        assert int(row["charged"]) > 0

    def test_money_is_told_in_dollars_beside_its_microcents(self, spent):
        [row] = csv.DictReader(io.StringIO(
            done("report", "--tenant", "acme", "--format", "csv", *LEDGER)
        ))  # fmt: skip
        assert (row["charged"], row["charged_usd"]) == ("86400", "0.000864")
        [line] = json.loads(done("report", "--tenant", "acme", "--json", *LEDGER))
        assert (line["charged"], line["charged_usd"]) == (86_400, "0.000864")
        assert "name one of them" in refused("report", "--json", "--format", "csv", *LEDGER)

    def test_what_nobody_measured_is_marked_in_every_format(self, desk):
        async def charge():
            async with open_ledger("ledger.db") as ledger:
                for key, source in (("measured", "usage"), ("guessed", "estimate")):
                    more = {"metadata": {"actual_source": source}}
                    await ledger.record(event(key, 250_000).model_copy(update=more))

        anyio.run(charge)
        shown = done("report", *LEDGER).splitlines()
        head, line = (line for line in shown if line.strip(" ─"))
        assert head.split()[:4] == ["tenant", "calls", "charged", "estimated"]
        assert line.split()[:4] == ["acme", "2", "$0.005", "$0.0025"]
        [row] = csv.DictReader(io.StringIO(done("report", "--format", "csv", *LEDGER)))
        assert (row["estimated"], row["estimated_usd"]) == ("250000", "0.0025")
        [line] = json.loads(done("report", "--json", *LEDGER))
        assert (line["estimated"], line["estimated_usd"]) == (250_000, "0.0025")

    @pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", " =1", "\uff1d1"])
    def test_a_name_that_a_client_chose_is_no_formula_to_who_opens_the_file(self, desk, name):
        async def charge():
            async with open_ledger("ledger.db") as ledger:
                action = Action(kind="tool.invoke", name=name)
                await ledger.record(event("k", 1).model_copy(update={"action": action}))

        anyio.run(charge)
        shown = done("report", "--by", "tool", "--format", "csv", *LEDGER)
        [row] = csv.DictReader(io.StringIO(shown))
        assert row["tool"] == f"'{name}"

    def test_nothing_is_said_in_one_line(self, desk):
        shown = done("report", "--until", "yesterday", *LEDGER)
        assert shown == "nothing was charged, reserved or denied in ledger.db in that time\n"

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (("--by", "colour"), "any of tenant, workspace"),
            (("--since", "soon"), "write it like yesterday"),
            (("--zone", "Mars"), "Europe/Berlin"),
            (("--format", "xml"), "table, csv, json"),
        ],
    )
    def test_what_is_not_understood_is_one_line(self, desk, words, text):
        assert text in refused("report", *words, *LEDGER)


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "zone", "meant"),
        [
            ("today", "UTC", "2025-06-15T00:00+00:00"),
            ("yesterday", "UTC", "2025-06-14T00:00+00:00"),
            ("Today", "Europe/Berlin", "2025-06-16T00:00+02:00"),
            ("3h", "UTC", "2025-06-15T19:30+00:00"),
            ("45m", "UTC", "2025-06-15T21:45+00:00"),
            ("2 w", "UTC", "2025-06-01T22:30+00:00"),
            ("1d", "Europe/Berlin", "2025-06-14T22:30+00:00"),
            ("2025-06-01", "Europe/Berlin", "2025-06-01T00:00+02:00"),
            ("2025-06-01T08:30", "UTC", "2025-06-01T08:30+00:00"),
            ("2025-06-01T08:30-05:00", "Europe/Berlin", "2025-06-01T08:30-05:00"),
        ],
    )
    def test_times_as_people_write_them(self, text, zone, meant):
        assert moment("--since", text, NOW, zone) == datetime.fromisoformat(meant)

    @pytest.mark.parametrize("text", ["", "soon", "-3h", "3 fortnights", "2025-13-01", "999999w"])
    def test_what_is_no_time_names_its_option(self, text):
        with pytest.raises(ValueError, match=r"--until.*no time: write it like yesterday"):
            moment("--until", text, NOW)

    @pytest.mark.parametrize(
        ("now", "zone", "hours"),
        [
            ("2027-03-28T02:30+00:00", "Europe/Berlin", 3),  # an hour was skipped
            ("2027-10-31T03:30+00:00", "Europe/Berlin", 3),  # an hour came twice
            ("2027-03-14T16:00+00:00", "America/New_York", 24),
        ],
    )
    def test_a_span_is_as_long_as_it_says_whatever_the_clocks_on_the_wall_did(
        self, now, zone, hours
    ):
        now = datetime.fromisoformat(now)
        since = moment("--since", f"{hours}h", now, zone)
        assert now - since.astimezone(UTC) == timedelta(hours=hours)


class TestEvents:
    def test_what_was_done_and_denied(self, spent):
        shown = rows(done("events", *LEDGER))
        assert [line.split()[2] for line in shown] == ["set", "set", "denied"]
        assert shown[0].split()[3:5] == ["tenant:acme", "$1.00"]
        assert "code=BUDGET_EXCEEDED name=desk:gpt-4.1-mini remaining=$0.00001 run=" in shown[2]

    def test_some_of_them(self, spent):
        assert len(rows(done("events", "--limit", "1", *LEDGER))) == 1
        assert "denied" in done("events", "--kind", "denied", *LEDGER)
        assert done("events", "--tenant", "nobody", "--kind", "all", *LEDGER) == (
            "no such event in ledger.db\n"
        )
        assert done("events", "--since", "1w", *LEDGER) == done("events", *LEDGER)

    def test_an_amount_of_nothing_stands_in_its_event(self, desk):
        done("budget", "set", "tenant:acme", "0usd", *LEDGER)
        done("budget", "freeze", "tenant:acme", *LEDGER)
        *_, emptied, frozen = rows(done("events", *LEDGER))
        assert "$0.00" in emptied
        assert "$" not in frozen

    def test_requests_drown_nothing_else(self, spent):
        """Two of them a call come over HTTP: they are shown to who asks for them."""
        with closing(sqlite3.connect(spent / "ledger.db")) as other:
            asked = "INSERT INTO log (at_ms, kind, scope, amount, debt, since_ms, who) VALUES"
            (now_ms,) = other.execute("SELECT max(at_ms) FROM log").fetchone()
            added = [(now_ms, kind) for kind in ("reserve", "commit") * 50]
            other.executemany(f"{asked} (?, ?, 'tenant:acme', 0, 0, 0, 'key 7')", added)
            other.commit()
        shown = done("events", *LEDGER)
        assert [line.split()[2] for line in rows(shown)] == ["set", "set", "denied"]
        assert len(rows(done("events", "--kind", "request", *LEDGER))) == 50
        assert len(rows(done("events", "--kind", "all", "--limit", "200", *LEDGER))) == 103
        only = done("events", "--kind", "operator", "--kind", "Denied", *LEDGER)
        assert only == shown

    def test_where_there_are_only_requests_it_says_how_to_see_them(self, desk):
        shown = done("events", "--tenant", "nobody", *LEDGER)
        assert shown == "no such event in ledger.db (requests are shown with --kind request)\n"

    def test_a_kind_that_there_is_not_is_refused_with_those_there_are(self, desk):
        line = refused("events", "--kind", "nonsense", *LEDGER)
        assert "'nonsense'" in line
        assert all(kind in line for kind in ("operator", "request", "set", "renewed", "denied"))

    def test_for_machines_a_line_each(self, spent):
        first, *_, last = map(json.loads, done("events", "--json", *LEDGER).splitlines())
        assert (first["number"], first["kind"], first["amount"]) == (1, "set", 100_000_000)
        assert first["usd"] == "1.00"
        assert last["details"]["code"] == "BUDGET_EXCEEDED"

    def test_an_alert_is_told_as_people_read_it(self, desk):
        done("budget", "set", "tenant:acme", "0.0072usd", "--alert", "5%", *LEDGER)
        call("run", "desk:agent", "hi", "--tenant", "acme", *LEDGER)
        [line] = rows(done("events", "--kind", "alert", *LEDGER))
        assert "5% is spent: $0.000432 of $0.0072" in line

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
    )
    def test_followed_until_a_signal(self, desk, number, code):
        child = start("events", "--follow", *LEDGER)
        assert "set" in child.stdout.readline()
        done("budget", "fund", "tenant:acme", "1usd", *LEDGER)
        assert "fund" in child.stdout.readline()
        child.send_signal(number)
        assert ended(child) == (code, "", "")


class TestVerify:
    def test_a_ledger_that_is_as_its_history_says(self, spent):
        assert done("verify", *LEDGER) == (
            "ledger.db: the balances of 2 budgets are what the log and the reservations come to\n"
        )

    def test_a_balance_that_was_changed_by_another_hand(self, spent):
        with closing(sqlite3.connect(spent / "ledger.db")) as other:
            other.execute("UPDATE accounts SET reserved = 5 WHERE scope = 'tenant:globex'")
            other.commit()
        found = call("verify", *LEDGER)
        assert found.exit_code == 1
        assert "ledger.db: 1 balance differs from its history" in found.stdout
        shown = json.loads(call("verify", "--json", *LEDGER).stdout)
        assert shown["differences"] == [
            {
                "scope": "tenant:globex",
                "unit": "USD_MICROCENTS",
                "since_ms": 0,
                "balance": "reserved",
                "found": 5,
                "expected": 0,
                "found_usd": "0.00000005",
                "expected_usd": "0.00",
            }
        ]

    @pytest.mark.parametrize("value", [0.5, "much", b"0"])
    def test_what_is_no_amount_is_shown_as_it_stands_there(self, spent, value):
        with closing(sqlite3.connect(spent / "ledger.db")) as other:
            change = "UPDATE accounts SET reserved = ? WHERE scope = 'tenant:globex'"
            other.execute(change, (value,))
            other.commit()
        shown = call("verify", *LEDGER)
        assert shown.exit_code == 1
        assert repr(value) in shown.stdout
        assert "1 balance differs" in shown.stdout

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE accounts SET unit = 'EUR'",
            "UPDATE reservations SET since = 'x'",
            "UPDATE accounts SET alerts = '['",
        ],
    )
    def test_what_cannot_be_read_names_its_file(self, spent, change):
        with closing(sqlite3.connect(spent / "ledger.db")) as other:
            other.execute(change)
            other.commit()
        assert refused("verify", *LEDGER).startswith("ledger.db cannot be used")


class TestTermsOfABudget:
    def test_a_budget_of_a_zone(self, desk):
        done(
            "budget", "set", "tenant:acme", "1usd", "--per", "day", "--zone", "Asia/Tokyo", *LEDGER
        )
        assert "open, anew each day (Asia/Tokyo)" in done("budget", "list", *LEDGER)
        [shown] = json.loads(done("budget", "list", "--json", *LEDGER))
        midnight = datetime.fromtimestamp(shown["renews_at_ms"] / 1000, ZoneInfo("Asia/Tokyo"))
        assert (midnight.hour, midnight.minute) == (0, 0)

    def test_a_soft_landing(self, desk):
        words = "--caps-below 20% --max-tokens 500 --max-steps 3 --cooldown 100 --deny-tool shell"
        done("budget", "set", "tenant:acme", "1usd", *words.split(), *LEDGER)
        [shown] = json.loads(done("budget", "list", "--json", *LEDGER))
        assert shown["caps_below"] == 20
        assert shown["caps"] == {
            "max_tokens": 500, "max_steps_remaining": 3, "cooldown_ms": 100,
            "tool_denylist": ["shell"],
        }  # fmt: skip

    def test_what_may_be_owed(self, desk):
        done("budget", "set", "tenant:acme", "1usd", "--overdraft", "0.5usd", *LEDGER)
        [shown] = json.loads(done("budget", "list", "--json", *LEDGER))
        assert shown["overdraft_limit"]["amount"] == 50_000_000

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (("--zone", "Asia/Tokyo"), "per="),
            (("--per", "day", "--zone", "Mars"), "Europe/Berlin"),
            (("--alert", "0.8"), "80%"),
            (("--caps-below", "20%"), "caps"),
            (("--overdraft", "5tokens"), "unit of the budget"),
        ],
    )
    def test_terms_that_make_no_sense_are_one_line(self, desk, words, text):
        assert text in refused("budget", "set", "tenant:acme", "1usd", *words, *LEDGER)


@pytest.mark.parametrize("command", ["report", "events", "verify"])
def test_a_remote_ledgers_books_are_its_operators(desk, command):
    env = {"CYCLES_API_KEY": "key"}
    line = refused(command, "--ledger", "http://127.0.0.1:9", env=env)
    assert line == (
        f"comptroller {command} reads the ledger's file: run it on the machine that serves"
        " http://127.0.0.1:9, with --ledger FILE"
    )
