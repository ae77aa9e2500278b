"""Listings as the protocol has them: filters, windows, orders, pages; on every ledger alike."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from comptroller.errors import LedgerRefused
from comptroller.ledger.engine import responses
from comptroller.ledger.engine.queries import cursor
from comptroller.ledger.protocol import query_params
from comptroller.ledger.protocol.codec import MalformedError
from support.requests import amount, asking, committing, releasing

pytestmark = pytest.mark.anyio

STEP = 1_000  # milliseconds between two reservations
ESTIMATES = {"a": 30, "b": 10, "c": 20, "d": 10, "e": 40}
AGENTS = {"a": "one", "b": "two", "c": "one", "d": "Three", "e": None}


@pytest.fixture
async def made(ledger, clock):
    """Five reservations, one each second: the ids by the key of each."""
    await ledger.set_budget("tenant:acme", amount(10**6))
    await ledger.set_budget("tenant:globex", amount(10**6))
    ids = {}
    for key, count in ESTIMATES.items():
        request = asking(key, count, agent=AGENTS[key], ttl_ms=60_000 + (50 - count) * STEP,
                         metadata={"key": key})  # fmt: skip
        ids[key] = (await ledger.reserve(request, tenant="acme")).reservation_id
        clock.advance(STEP)
    await ledger.reserve(asking("other", 1, tenant="globex"), tenant="globex")
    await ledger.commit(ids["a"], committing("x", 5, metadata={"done": True}), tenant="acme")
    clock.advance(STEP)
    await ledger.release(ids["b"], releasing("x"), tenant="acme")
    return ids


async def keys(ledger, **query):
    """The keys of the rows, in their order."""
    page = await ledger.reservations(tenant="acme", **query)
    return "".join(row.idempotency_key for row in page.reservations)


async def pages(ledger, **query):
    """The keys of all pages, each page as a text."""
    found, cursor = [], None
    while True:
        page = await ledger.reservations(tenant="acme", cursor=cursor, **query)
        found.append("".join(row.idempotency_key for row in page.reservations))
        assert page.has_more == (page.next_cursor is not None)
        if not page.has_more:
            return found
        cursor = page.next_cursor


@pytest.mark.usefixtures("made")
class TestOrders:
    @pytest.mark.parametrize(
        ("by", "ascending"),
        [
            ("created_at_ms", "abcde"),
            ("reserved", "bdcae"),
            ("expires_at_ms", "eacbd"),
            ("status", "cdeab"),
            ("scope_path", "eacdb"),
            ("tenant", "abcde"),
            ("reservation_id", "abcde"),
        ],
    )
    async def test_each_key_sorts_and_a_tie_is_decided_by_age(self, ledger, by, ascending):
        assert await keys(ledger, sort_by=by, sort_dir="asc") == ascending
        assert await keys(ledger, sort_by=by, sort_dir="desc") == ascending[::-1]
        assert await keys(ledger, sort_by=by) == ascending[::-1]  # downwards is the default

    async def test_without_one_the_newest_come_first(self, ledger):
        assert await keys(ledger) == "edcba"
        assert await keys(ledger, sort_dir="asc") == "abcde"

    @pytest.mark.parametrize("by", [None, "reserved", "scope_path", "reservation_id", "status"])
    @pytest.mark.parametrize("way", ["asc", "desc"])
    @pytest.mark.parametrize("limit", [1, 2, 5])
    async def test_pages_hold_every_row_once_in_order(self, ledger, by, way, limit):
        whole = await keys(ledger, sort_by=by, sort_dir=way)
        found = await pages(ledger, sort_by=by, sort_dir=way, limit=limit)
        assert "".join(found) == whole
        assert all(len(page) == limit for page in found[:-1])

    async def test_rows_that_come_meanwhile_move_nothing(self, ledger):
        first = await ledger.reservations(tenant="acme", sort_by="reserved", limit=2)
        await ledger.reserve(asking("f", 50), tenant="acme")
        rest = await keys(ledger, sort_by="reserved", cursor=first.next_cursor)
        assert rest == "cdb"


@pytest.mark.usefixtures("made")
class TestFilters:
    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"status": "ACTIVE"}, "edc"),
            ({"status": "COMMITTED"}, "a"),
            ({"status": "RELEASED"}, "b"),
            ({"idempotency_key": "c"}, "c"),
            ({"idempotency_key": "other"}, ""),
            ({"agent": "one"}, "ca"),
            ({"agent": "tHREE"}, "d"),
            ({"agent": "one", "status": "ACTIVE"}, "c"),
            ({"workspace": "one"}, ""),
        ],
    )
    async def test_each_filter_and_all_together(self, ledger, query, found):
        assert await keys(ledger, **query) == found

    async def test_an_expired_one_is_listed_as_such(self, ledger, clock):
        clock.advance(80_000)
        assert await keys(ledger, status="EXPIRED") == "e"

    @pytest.mark.parametrize(
        ("window", "found"),
        [
            ({"created_from_ms": 2 * STEP}, "edc"),
            ({"created_to_ms": 2 * STEP}, "cba"),
            ({"created_from_ms": STEP, "created_to_ms": 3 * STEP}, "dcb"),
            ({"created_from_ms": 2 * STEP + 1, "created_to_ms": 3 * STEP - 1}, ""),
            ({"expires_from_ms": 60_000 + 32 * STEP}, "dcb"),
            ({"expires_to_ms": 60_000 + 20 * STEP}, "ea"),
            ({"finalized_from_ms": 0}, "ba"),
            ({"finalized_to_ms": 5 * STEP}, "a"),
            ({"finalized_from_ms": 6 * STEP, "created_to_ms": 2 * STEP}, "b"),
        ],
    )
    async def test_windows_are_inclusive_and_bind_their_own_time(
        self, ledger, clock, window, found
    ):
        """Rows without the time (the end of what has not ended) are in no window of it."""
        shifted = {name: bound + clock.start for name, bound in window.items()}
        assert await keys(ledger, **shifted) == found
        assert await keys(ledger, **shifted, sort_by="reserved", sort_dir="asc") == "".join(
            key for key in "bdcae" if key in found
        )

    async def test_metadata_is_shown_where_it_is_asked_for(self, ledger):
        shown = {}
        for include in ((), ("metadata",), ("committed_metadata", "evidence", "nonsense")):
            page = await ledger.reservations(tenant="acme", include=include)
            [row] = [row for row in page.reservations if row.idempotency_key == "a"]
            shown[include] = (row.metadata, row.committed_metadata)
        assert list(shown.values()) == [
            (None, None),
            ({"key": "a"}, None),
            (None, {"done": True}),
        ]


@pytest.mark.usefixtures("made")
class TestCursors:
    async def cursor(self, ledger):
        page = await ledger.reservations(tenant="acme", sort_by="reserved", limit=2, agent="one")
        assert page.next_cursor is None
        return (await ledger.reservations(tenant="acme", sort_by="reserved", limit=2)).next_cursor

    @pytest.mark.parametrize(
        "other",
        [
            {"sort_by": "status"},
            {"sort_dir": "asc"},
            {"agent": "one"},
            {"status": "ACTIVE"},
            {"created_from_ms": 1_750_000_000_001},
            {"finalized_to_ms": 1_750_000_000_001},
            {"tenant": "globex"},
        ],
    )
    async def test_a_cursor_of_another_query_is_refused(self, ledger, other):
        cursor = await self.cursor(ledger)
        query = {"tenant": "acme", "sort_by": "reserved", "cursor": cursor} | other
        with pytest.raises(LedgerRefused) as caught:
            await ledger.reservations(**query)
        assert (caught.value.status, caught.value.error_code) == (400, "INVALID_REQUEST")

    async def test_limit_and_include_may_change_on_the_way(self, ledger):
        cursor = await self.cursor(ledger)
        more = {"limit": 50, "include": ("metadata",)}
        assert await keys(ledger, sort_by="reserved", cursor=cursor, **more) == "cdb"

    @pytest.mark.parametrize(
        ("query", "same", "rest"),
        [
            ({"sort_by": "reserved"}, {}, "cdb"),
            ({"sort_by": "reserved"}, {"sort_by": "reserved", "sort_dir": "desc"}, "cdb"),
            ({"sort_by": "reserved", "sort_dir": "asc"}, {}, "cae"),
            ({"sort_dir": "asc"}, {}, "cde"),
            ({"sort_dir": "asc"}, {"sort_by": "created_at_ms", "sort_dir": "asc"}, "cde"),
            ({"sort_by": "created_at_ms"}, {"sort_dir": "desc"}, "cba"),
        ],
    )
    async def test_a_cursor_knows_the_order_that_it_continues(self, ledger, query, same, rest):
        first = await ledger.reservations(tenant="acme", limit=2, **query)
        assert await keys(ledger, cursor=first.next_cursor, **same) == rest

    @pytest.mark.parametrize(
        "place",
        [
            ("reserved", "desc", "text", 1), ("status", "desc", 1, 1), ("color", "desc", "red", 1),
            ("row", "down", 1, 1), ("row", "desc", 2**63, 1), ("row", "desc", True, 1), ("row", 1),
        ],
    )  # fmt: skip
    async def test_a_place_that_there_cannot_be_is_refused(self, ledger, place):
        assert await keys(ledger, cursor=cursor({"tenant": "acme"}, ("row", "desc", 3, 3))) == "ba"
        with pytest.raises(LedgerRefused, match="next_cursor"):
            await ledger.reservations(tenant="acme", cursor=cursor({"tenant": "acme"}, place))

    @pytest.mark.parametrize("cursor", [5, "x", "Zm9v", "é", "=" * 9, "9" * 5_000, "A" * 40])
    async def test_what_is_no_cursor_is_refused(self, ledger, cursor):
        with pytest.raises(LedgerRefused, match="next_cursor"):
            await ledger.reservations(tenant="acme", cursor=cursor)

    @pytest.mark.parametrize(
        "query",
        [
            {"sort_by": "nonsense"},
            {"sort_by": "row"},
            {"sort_dir": "up"},
            {"limit": 0},
            {"limit": 201},
            {"created_from_ms": 2_000_000_000_000, "created_to_ms": 1_900_000_000_000},
            {"finalized_from_ms": 2_000_000_000_000, "finalized_to_ms": 1_900_000_000_000},
        ],
    )
    async def test_a_query_that_is_none_is_refused(self, ledger, query):
        with pytest.raises(LedgerRefused) as caught:
            await ledger.reservations(tenant="acme", **query)
        assert (caught.value.status, caught.value.error_code) == (400, "INVALID_REQUEST")


class TestBalances:
    SCOPES = ("tenant:acme", "tenant:acme/agent:a", "tenant:acme/agent:b", "tenant:acme-2")

    @pytest.fixture
    async def budgets(self, ledger):
        for scope in self.SCOPES:
            await ledger.set_budget(scope, amount(10))

    @pytest.mark.usefixtures("budgets")
    @pytest.mark.parametrize("limit", [1, 2, 3])
    async def test_pages_hold_every_balance_once(self, ledger, limit):
        found, cursor = [], None
        while True:
            page = await ledger.balances(tenant="acme", limit=limit, cursor=cursor)
            found += [one.scope_path for one in page.balances]
            if not page.has_more:
                break
            cursor = page.next_cursor
        assert found == list(self.SCOPES[:3])
        whole = await ledger.balances(tenant="acme")
        assert [one.scope_path for one in whole.balances] == found
        assert whole.has_more is False

    @pytest.mark.usefixtures("budgets")
    @pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 201}, {"cursor": "x"}])
    async def test_a_query_that_is_none_is_refused(self, ledger, query):
        with pytest.raises(LedgerRefused):
            await ledger.balances(tenant="acme", **query)


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-01-31T12:00:00Z", 0),
            ("2026-01-31t12:00:00z", 0),
            ("2026-01-31T13:30:00+01:30", 0),
            ("2026-01-31T12:00:00.5Z", 500),
            ("2026-01-31T12:00:00.123000000Z", 123),
        ],
    )
    def test_times_are_rfc_3339(self, text, moment):
        noon = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)
        query = query_params.reservation_query({"from": text, "to": text})
        assert query == {"created_from_ms": noon + moment, "created_to_ms": noon + moment}

    def test_a_bound_between_two_milliseconds_is_moved_inward(self):
        text = "1970-01-01T00:00:00.0015Z"
        query = query_params.reservation_query({"expires_from": text, "expires_to": text})
        assert query == {"expires_from_ms": 2, "expires_to_ms": 1}

    @pytest.mark.parametrize(
        "text",
        ["now", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "20260131T120000Z",
         "2026-01-31T25:00:00Z", "0000-01-01T00:00:00Z", "2026-01-31T12:00:00 01:30"],
    )  # fmt: skip
    def test_what_is_no_time_is_refused(self, text):
        with pytest.raises(MalformedError, match=r"finalized_to: .* write it like"):
            query_params.reservation_query({"finalized_to": text})

    def test_an_empty_text_is_left_out(self):
        """But for words of a list: clients fill templates with what may be unset."""
        names = [*query_params.parameters(include=("x",), limit=1, cursor="c")]
        bounds = ["from", "to", "expires_from", "expires_to", "finalized_from", "finalized_to"]
        assert query_params.reservation_query(dict.fromkeys(names + bounds, "")) == {}

    def test_tokens_are_trimmed_and_unknown_parameters_are_ignored(self):
        texts = {"include": " metadata,, evidence ,", "surprise": "1"}
        assert query_params.reservation_query(texts) == {"include": ("metadata", "evidence")}

    def test_what_is_written_is_read_as_it_was(self):
        query = {
            "status": "ACTIVE", "created_from_ms": 1_750_000_000_123, "include": ("metadata",),
            "limit": 7, "agent": "a", "sort_by": "reserved", "finalized_to_ms": 0,
        }  # fmt: skip
        assert (
            query_params.reservation_query(query_params.parameters(**query, cursor=None)) == query
        )


class TestSizes:
    """What one caller has added to its reservations is not what others wait for."""

    @pytest.fixture
    async def long(self, ledger):
        """Four of acme's with half a page of metadata each."""
        await ledger.set_budget("tenant:acme", amount(10**6))
        for key in "abcd":
            request = asking(key, 1, agent="Triage", metadata={"note": "x" * 2**19, "key": key})
            one = await ledger.reserve(request, tenant="acme")
        await ledger.commit(one.reservation_id, committing("c", 1), tenant="acme")

    @pytest.mark.usefixtures("long")
    async def test_a_page_ends_where_it_would_show_too_much(self, ledger):
        assert await pages(ledger, include=("metadata",)) == ["d", "c", "b", "a"]
        assert await pages(ledger, include=("metadata",), sort_by="status") == ["d", "c", "b", "a"]
        assert await pages(ledger, limit=3) == ["dcb", "a"]
        whole = await ledger.reservations(tenant="acme", include=("metadata",))
        assert whole.reservations[0].metadata == {"note": "x" * 2**19, "key": "d"}

    @pytest.mark.usefixtures("long")
    async def test_what_is_not_shown_is_not_parsed(self, ledger, monkeypatch):
        parsed = []

        def loads(text):
            parsed.append(len(text))
            return json.loads(text)

        monkeypatch.setattr(responses, "json", SimpleNamespace(loads=loads))
        page = await ledger.reservations(tenant="acme")
        assert [row.subject.agent for row in page.reservations] == ["Triage"] * 4
        assert {row.action.name for row in page.reservations} == {asking("a", 1).action.name}
        assert len(parsed) == 4
        assert max(parsed) < 1_000
