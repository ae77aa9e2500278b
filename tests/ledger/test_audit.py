"""The event log, denials counted in it, and balances recomputed from it."""

import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import anyio
import attrs
import hypothesis
import pytest
from hypothesis import strategies as st
from runcycles import Caps, Unit

from comptroller.core.budgets import Funding
from comptroller.errors import BudgetExceeded, BudgetNotFound, ComptrollerError
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.engine.denial_counter import DenialCounter, DenialKey
from comptroller.ledger.models import FORGOTTEN, RequestOrigin, request_origin
from comptroller.ledger.sqlite import open_sqlite
from comptroller.ledger.sqlite.retention import Retention
from comptroller.money import tokens
from support.manual_clock import Clock
from support.requests import (
    OVERDRAFT,
    amount,
    asking,
    committing,
    event,
    extending,
    releasing,
)

pytestmark = pytest.mark.anyio

SCOPE, DAY = "tenant:acme", 86_400_000
ORIGIN = RequestOrigin("key 7", "req_1", "a" * 32)


def told(entries):
    return [(entry.kind, entry.scope, entry.amount, entry.debt) for entry in entries]


class TestTheLog:
    async def test_what_an_operator_does_stands_there_with_its_terms(self, embedded, clock):
        caps = Caps(max_tokens=5)
        await embedded.set_budget(
            SCOPE, amount(100), per="day", overdraft_limit=7, caps=caps, caps_below=20, alerts=80
        )
        await embedded.fund(SCOPE, amount(50))
        await embedded.fund(SCOPE, amount(20), operation=Funding.DEBIT)
        await embedded.freeze(SCOPE)
        await embedded.unfreeze(SCOPE)
        entries = await embedded.events()
        assert told(entries) == [
            ("set", SCOPE, 100, 0),
            ("fund", SCOPE, 50, 0),
            ("debit", SCOPE, -20, 0),
            ("freeze", SCOPE, 0, 0),
            ("unfreeze", SCOPE, 0, 0),
        ]
        assert entries[0].details == {
            "per": "day",
            "overdraft_limit": 7,
            "caps": {"max_tokens": 5},
            "caps_below": 20,
            "alerts": [80],
        }
        assert {entry.at_ms for entry in entries} == {clock.now}
        assert all(entry.origin.who for entry in entries)
        assert [entry.number for entry in entries] == [1, 2, 3, 4, 5]

    async def test_a_request_of_somebody_is_logged_with_its_ids(self, embedded):
        await embedded.set_budget(SCOPE, amount(100))
        token = request_origin.set(ORIGIN)
        try:
            one = await embedded.reserve(asking("k", 10))
            await embedded.extend(one.reservation_id, extending("x", 1000))
            await embedded.commit(one.reservation_id, committing("c", 5))
            two = await embedded.reserve(asking("k2", 10))
            await embedded.release(two.reservation_id, releasing("r"))
            made = await embedded.record(event("e", 3))
            await embedded.fund(SCOPE, amount(1))
            with pytest.raises(BudgetExceeded):
                await embedded.reserve(asking("k3", 1000))
            await embedded.reserve(asking("k", 10))  # answered again: nothing happened
        finally:
            request_origin.reset(token)
        entries = (await embedded.events())[1:]
        assert [(entry.kind, entry.about) for entry in entries] == [
            ("reserve", one.reservation_id),
            ("extend", one.reservation_id),
            ("commit", one.reservation_id),
            ("reserve", two.reservation_id),
            ("release", two.reservation_id),
            ("record", made.event_id),
            ("fund", None),
            ("denied", None),
        ]
        assert {entry.origin for entry in entries} == {ORIGIN}

    async def test_calls_of_this_process_are_no_rows_of_the_log(self, embedded):
        """They are reservations, which say by their metadata what they are."""
        await embedded.set_budget(SCOPE, amount(100))
        one = await embedded.reserve(asking("k", 10))
        await embedded.commit(one.reservation_id, committing("c", 5))
        assert [entry.kind for entry in await embedded.events()] == ["set"]

    async def test_a_refused_act_is_none(self, embedded):
        await embedded.set_budget(SCOPE, amount(100))
        with pytest.raises(BudgetExceeded):
            await embedded.fund(SCOPE, amount(101), operation=Funding.DEBIT)
        with pytest.raises(BudgetNotFound):
            await embedded.fund("tenant:globex", amount(1))
        assert [entry.kind for entry in await embedded.events()] == ["set"]

    async def test_entries_are_found_by_number_kind_tenant_and_time(self, embedded, clock):
        for scope in (SCOPE, "tenant:globex", "tenant:acme-2", f"{SCOPE}/agent:a"):
            await embedded.set_budget(scope, amount(100))
            await embedded.fund(scope, amount(1))
            clock.advance(1000)
        events = embedded.events
        assert [entry.number for entry in await events(after=6)] == [7, 8]
        assert [entry.number for entry in await events(limit=2)] == [1, 2]
        assert [entry.number for entry in await events(limit=2, newest=True)] == [7, 8]
        assert [entry.number for entry in await events(kinds=["fund"])] == [2, 4, 6, 8]
        assert [entry.number for entry in await events(tenant="Acme")] == [1, 2, 7, 8]
        since = datetime.fromtimestamp(clock.start / 1000 + 2, UTC)
        assert [entry.number for entry in await events(since=since)] == [5, 6, 7, 8]

    async def test_it_lasts_and_is_never_changed(self, tmp_path):
        path = tmp_path / "ledger.db"
        async with open_sqlite(path) as ledger:
            await ledger.set_budget(SCOPE, amount(100), alerts="80%")
            before = await ledger.events()
        async with open_sqlite(path) as ledger:
            assert await ledger.events() == before
        with closing(sqlite3.connect(path)) as other:
            for statement in ("UPDATE log SET amount = 0", "DELETE FROM log"):
                with pytest.raises(sqlite3.Error, match="append-only"):
                    other.execute(statement)


@pytest.mark.parametrize("name", ["log", "requests"])
async def test_only_the_ids_of_requests_are_ever_forgotten(tmp_path, name):
    """In time, by `retention`: here by another hand."""
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget(SCOPE, amount(100))
        before = request_origin.set(ORIGIN)
        await ledger.reserve(asking("k", 10))
        request_origin.reset(before)
    with closing(sqlite3.connect(path)) as other:
        if name == "requests":
            other.execute("DELETE FROM log WHERE kind = 'reserve'")
        else:
            with pytest.raises(sqlite3.Error, match="append-only"):
                other.execute("DELETE FROM log")


class TestDenials:
    async def test_the_first_of_a_scope_in_a_minute_is_told(self, embedded, clock):
        await embedded.set_budget(SCOPE, amount(10))
        for number in range(5):
            with pytest.raises(BudgetExceeded):
                await embedded.reserve(asking(f"k{number}", 20, metadata={"run": "r1"}))
        clock.advance(60_000)
        with pytest.raises(BudgetExceeded):
            await embedded.reserve(asking("k9", 20, agent="a"))
        first, second = await embedded.events(kinds=["denied"])
        assert (first.scope, first.amount, first.details["code"]) == (SCOPE, 20, "BUDGET_EXCEEDED")
        assert (first.details["remaining"], first.details["run"]) == (10, "r1")
        assert second.scope == f"{SCOPE}/agent:a"
        [line] = await embedded.usage()
        assert (line.denied, line.refused, line.calls) == (6, 120, 0)

    async def test_a_denied_request_changes_nothing_else(self, embedded):
        await embedded.set_budget(SCOPE, amount(10))
        before = await embedded.budgets()
        with pytest.raises(BudgetExceeded):
            await embedded.reserve(asking("k", 20))
        assert await embedded.budgets() == before
        await embedded.fund(SCOPE, amount(10))
        await embedded.reserve(asking("k", 20))

    def test_a_request_that_is_sent_again_is_counted_once(self):
        denials, denied = DenialCounter(), a_denial()
        assert denials.counted(denied, b"k") == denied
        assert denials.counted(denied, b"k") is None

    def test_past_a_bound_only_the_code_is_told(self):
        denials = DenialCounter()
        counted = [denials.counted(a_denial(run=str(n)), str(n).encode()) for n in range(10_000)]
        assert len(set(counted)) == 1001
        assert set(counted[1000:]) == {a_denial(path="", kind="", name="", run="")}
        later = a_denial(quarter_ms=900_000)
        assert denials.counted(later, b"later") == later

    def test_the_log_is_told_of_no_more_than_a_bound_in_a_minute(self):
        denials = DenialCounter()
        said = [
            denials.newsworthy(f"tenant:t{n}", Unit.TOKENS, "BUDGET_EXCEEDED", 0)
            for n in range(5000)
        ]
        assert sum(said) == 1000
        assert denials.newsworthy("tenant:t4999", Unit.TOKENS, "BUDGET_EXCEEDED", 60_000)


def a_denial(**more):
    members = {
        "path": SCOPE, "unit": Unit.TOKENS, "code": "BUDGET_EXCEEDED", "kind": "llm.completion",
        "name": "m", "run": "r", "quarter_ms": 0,
    }  # fmt: skip
    return DenialKey(**members | more)


class TestVerify:
    async def test_a_ledger_is_as_its_history_says(self, embedded, clock):
        await embedded.set_budget(SCOPE, amount(100), overdraft_limit=50)
        await embedded.set_budget(f"{SCOPE}/agent:a", amount(80), per="day")
        await embedded.set_budget(SCOPE, tokens(1000))
        one = await embedded.reserve(asking("k1", 60, agent="a", overage_policy=OVERDRAFT))
        await embedded.reserve(asking("k2", 10, agent="a"))
        await embedded.commit(one.reservation_id, committing("c", 130))
        clock.advance(DAY)
        await embedded.record(event("e", 7, agent="a"))
        await embedded.fund(SCOPE, amount(15))
        await embedded.fund(SCOPE, amount(5), operation=Funding.REPAY_DEBT)
        found = await embedded.verify()
        assert (found.differences, found.accounts, found.periods) == ((), 3, 1)

    @pytest.mark.parametrize(
        ("change", "differences"),
        [
            (
                "UPDATE accounts SET spent = spent + 1",
                [("tenant:acme", "spent", 31, 30)],
            ),
            (
                "UPDATE accounts SET allocated = 200, reserved = 0",
                [("tenant:acme", "allocated", 200, 100), ("tenant:acme", "reserved", 0, 20)],
            ),
            (
                "UPDATE reservations SET charged = 10 WHERE status = 'COMMITTED'",
                [("tenant:acme", "spent", 30, 10)],
            ),
            (
                "DELETE FROM reservations WHERE status = 'ACTIVE'",
                [("tenant:acme", "reserved", 20, 0)],
            ),
            (
                "DELETE FROM accounts",
                [
                    ("tenant:acme", "allocated", 0, 100),
                    ("tenant:acme", "spent", 0, 30),
                    ("tenant:acme", "reserved", 0, 20),
                ],
            ),
        ],
    )
    async def test_every_difference_is_found(self, tmp_path, change, differences):
        path = tmp_path / "ledger.db"
        async with open_sqlite(path) as ledger:
            await ledger.set_budget(SCOPE, amount(100))
            one = await ledger.reserve(asking("k", 40))
            await ledger.commit(one.reservation_id, committing("c", 30))
            await ledger.reserve(asking("k2", 20))
        with closing(sqlite3.connect(path)) as other:
            other.execute(change)
            other.commit()
        async with open_sqlite(path) as ledger:
            found = (await ledger.verify()).differences
        shown = [(one.scope, one.balance, one.found, one.expected) for one in found]
        assert shown == differences


amounts = st.integers(min_value=0, max_value=60)
scopes = st.sampled_from([SCOPE, f"{SCOPE}/agent:a", f"{SCOPE}/agent:b"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), amounts, st.sampled_from("ab"), st.booleans()),
        st.tuples(st.just("commit"), amounts, st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("event"), amounts, st.sampled_from("ab"), st.booleans()),
        st.tuples(st.just("fund"), amounts, scopes, st.sampled_from(Funding)),
        st.tuples(st.just("set"), amounts, scopes, st.sampled_from([None, "day", "month"])),
        st.tuples(st.just("pass"), st.integers(1, 40_000_000)),
    ),
    max_size=40,
)


@hypothesis.settings(max_examples=50)
@hypothesis.given(steps)
def test_whatever_happens_every_balance_is_what_its_history_says(taken):
    anyio.run(hold, taken, open_memory)


@hypothesis.settings(max_examples=15)
@hypothesis.given(steps)
def test_a_file_says_the_same_as_memory(tmp_path_factory, taken):
    path = tmp_path_factory.mktemp("ledgers") / "ledger.db"
    in_memory = anyio.run(hold, taken, open_memory)
    assert anyio.run(hold, taken, partial(open_sqlite, path)) == in_memory


async def hold(taken, opening):
    """What the ledger shows in the end; its balances verified on the way."""
    clock, live = Clock(), []
    async with opening(now=clock) as ledger:
        await ledger.set_budget(SCOPE, amount(100), per="day", overdraft_limit=40, alerts=[50])
        await ledger.set_budget(f"{SCOPE}/agent:a", amount(70), alerts=["50%", "100%"])
        for number, (verb, *given) in enumerate(taken):
            with suppress(ComptrollerError):
                await take(ledger, clock, live, number, verb, *given)
            assert (await ledger.verify()).differences == ()
        usage = await ledger.usage(by="agent,model,day")
        entries = [attrs.evolve(entry, about=None) for entry in await ledger.events()]
        return await ledger.budgets(), usage, entries


@hypothesis.settings(max_examples=25)
@hypothesis.given(steps, st.integers(0, 3))
def test_whatever_was_forgotten_every_balance_is_what_its_history_says(
    tmp_path_factory, taken, age_days
):
    """Rows go as soon as they may, after every step, and the sums that are left say the same."""
    path = tmp_path_factory.mktemp("ledgers") / "ledger.db"
    anyio.run(hold_and_forget, taken, path, timedelta(days=age_days))


async def hold_and_forget(taken, path, kept):
    clock, live = Clock(), []
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget(SCOPE, amount(100), per="day", overdraft_limit=40, alerts=[50])
        await ledger.set_budget(f"{SCOPE}/agent:a", amount(70), overdraft_limit=20)
        for number, (verb, *given) in enumerate(taken):
            with suppress(ComptrollerError):
                await take(ledger, clock, live, number, verb, *given)
            clock.advance(1)
            forget(path, Retention(kept), clock())
            assert (await ledger.verify()).differences == ()
        kinds = {entry.kind for entry in (await ledger.events())[:-1]}  # the newest row stays
        assert kept or not kinds & set(FORGOTTEN)


def forget(path, retention, now_ms):
    """One pass, with nothing kept for requests that may come again."""
    retention._answers_ms = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        while (due := retention.look(connection, now_ms)) is not None:
            connection.execute("BEGIN")
            due.forget(connection)
            connection.execute("COMMIT")


async def take(ledger, clock, live, number, verb, *given):
    if verb == "reserve":
        count, agent, owing = given
        policy = {"overage_policy": OVERDRAFT} if owing else {}
        request = asking(f"k{number}", count, agent=agent, ttl_ms=DAY, **policy)
        live.append((await ledger.reserve(request)).reservation_id)
    elif verb == "event":
        count, agent, owing = given
        policy = OVERDRAFT if owing else None
        await ledger.record(event(f"e{number}", count, agent=agent, policy=policy))
    elif verb == "fund":
        await ledger.fund(given[1], amount(given[0]), operation=given[2])
    elif verb == "set":
        await ledger.set_budget(given[1], amount(given[0]), per=given[2], overdraft_limit=30)
    elif verb == "pass":
        clock.advance(given[0])
    elif live:
        name = live[given[-1] % len(live)]
        if verb == "commit":
            await ledger.commit(name, committing(f"c{number}", given[0]))
        else:
            await ledger.release(name, releasing(f"l{number}"))
