"""Laws of what is shown, and to whom."""

from collections.abc import Awaitable
from typing import Any

import pytest

from comptroller.errors import LedgerRefused
from comptroller.ledger.interface import Ledger
from comptroller.testing.contract.asking import amount, asking, committing, granted
from comptroller.testing.contract.given import Given, SetBudget, law


class RecordLaws(Given):
    """Reservations, their ids, their pages, and the tenants that may see them."""

    @law
    async def test_tenants_do_not_see_each_other(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """What is another tenant's is 403 FORBIDDEN and in no list (protocol, AUTH & TENANCY)."""
        for name in ("acme", "globex"):
            await set_budget(f"tenant:{name}", amount(100))
        one = await granted(ledger, "k", 10)
        calls: tuple[Awaitable[object], ...] = (
            ledger.commit(one, committing("c", 1), tenant="globex"),
            ledger.reservation(one, tenant="globex"),
            ledger.reserve(asking("k", 1), tenant="globex"),
        )
        for call in calls:
            with pytest.raises(LedgerRefused) as caught:
                await call
            assert (caught.value.status, caught.value.error_code) == (403, "FORBIDDEN")
        assert (await ledger.reservations(tenant="globex")).reservations == []

    @pytest.mark.parametrize("value", ["a/agent:b", "a b", "x" * 129, "ü", ""])
    @law
    async def test_a_subject_cannot_smuggle_a_scope(
        self, ledger: Ledger, set_budget: SetBudget, value: str
    ) -> None:
        """Values of a subject are 1 to 128 letters, digits, `_`, `.` and `-` (protocol, CHARSET):
        a slash in one would name another scope.
        """
        await set_budget("tenant:acme", amount(100))
        with pytest.raises((LedgerRefused, ValueError)):
            await granted(ledger, "k", 1, workspace=value)

    @pytest.mark.parametrize("name", ["rsv_1_0000000000000000", "rsv_zz", "", "1", "rsv_1_"])
    @law
    async def test_an_id_is_not_guessed(
        self, ledger: Ledger, set_budget: SetBudget, name: str
    ) -> None:
        """A reservation that does not exist is 404 NOT_FOUND, and ids cannot be guessed."""
        await set_budget("tenant:acme", amount(100))
        await granted(ledger, "k", 1)
        with pytest.raises(LedgerRefused) as caught:
            await ledger.reservation(name)
        assert caught.value.error_code == "NOT_FOUND"

    @law
    async def test_reservations_come_in_pages_newest_first(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A list comes newest first, in pages of which each cursor continues, and by its key one
        is found again (protocol, listReservations).
        """
        await set_budget("tenant:acme", amount(100))
        made = [await granted(ledger, f"k{n}", 1) for n in range(5)]
        seen: list[str] = []
        cursor: str | None = None
        for _ in made:
            page = await ledger.reservations(tenant="acme", limit=2, cursor=cursor)
            seen += [one.reservation_id for one in page.reservations]
            cursor = page.next_cursor
            if not page.has_more:
                break
        assert seen == made[::-1]
        [one] = (await ledger.reservations(tenant="acme", idempotency_key="k3")).reservations
        assert one.reservation_id == made[3]

    @pytest.mark.parametrize(
        "wrong", [{"limit": 0}, {"limit": 201}, {"status": "NOPE"}, {"cursor": "x"}]
    )
    @law
    async def test_a_wrong_page_is_a_bad_request(
        self, ledger: Ledger, wrong: dict[str, Any]
    ) -> None:
        """A limit is 1 to 200, a status one of the protocol's, a cursor one that was given: else
        INVALID_REQUEST (protocol, listReservations).
        """
        with pytest.raises(LedgerRefused) as caught:
            await ledger.reservations(tenant="acme", **wrong)
        assert caught.value.error_code == "INVALID_REQUEST"

    @law
    async def test_what_was_committed_is_found_on_the_reservation(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A reservation shows its status, what was committed, and the metadata that it was made
        with (protocol, getReservation).
        """
        await set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k", 10, metadata={"run": "r"})
        await ledger.commit(one, committing("c", 4, metadata={"tokens": 7}))
        shown = await ledger.reservation(one, tenant="acme")
        assert (shown.status.value, shown.committed) == ("COMMITTED", amount(4))
        assert shown.metadata == {"run": "r"}
