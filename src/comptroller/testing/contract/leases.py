"""Laws of time: a lease ends by itself."""

import pytest

from comptroller.errors import LedgerRefused
from comptroller.ledger.interface import Ledger
from comptroller.testing.contract.asking import (
    amount,
    asking,
    balance_of,
    committing,
    extending,
    granted,
)
from comptroller.testing.contract.given import Clock, Given, SetBudget, law


class LeaseLaws(Given):
    """Those that let time pass, on the fixture `clock`."""

    @law
    async def test_a_lease_ends_by_itself_and_its_estimate_is_free_again(
        self, ledger: Ledger, set_budget: SetBudget, clock: Clock
    ) -> None:
        """A reservation takes a commit through `expires_at_ms + grace_period_ms`, and after that
        its estimate is free and a commit is 410 RESERVATION_EXPIRED (protocol, EXPIRY). Does the
        fixture `ledger` go by the fixture `clock`?
        """
        await set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k", 60, ttl_ms=1_000, grace_period_ms=500)
        clock.advance(1_500)
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 60
        clock.advance(1)
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 0
        with pytest.raises(LedgerRefused) as caught:
            await ledger.commit(one, committing("c", 1))
        assert (caught.value.status, caught.value.error_code) == (410, "RESERVATION_EXPIRED")
        [row] = (await ledger.reservations(tenant="acme", status="EXPIRED")).reservations
        assert row.reservation_id == one

    @law
    async def test_extending_moves_the_end_and_replays_verbatim(
        self, ledger: Ledger, set_budget: SetBudget, clock: Clock
    ) -> None:
        """An extension moves the lease's end outward from where it was; its replay repeats that
        end, and says how much time is left now (protocol, IDEMPOTENCY).
        """
        await set_budget("tenant:acme", amount(100))
        answer = await ledger.reserve(asking("k", 60, ttl_ms=10_000))
        one, ends = answer.reservation_id, answer.expires_at_ms
        assert one is not None
        assert ends is not None
        clock.advance(9_000)
        first = await ledger.extend(one, extending("x", 10_000))
        assert first.expires_at_ms == ends + 10_000
        assert first.remaining_ttl_ms == 11_000
        await ledger.extend(one, extending("y", 10_000))
        clock.advance(1_000)
        again = await ledger.extend(one, extending("x", 10_000))
        assert again.expires_at_ms == first.expires_at_ms
        assert again.remaining_ttl_ms == 10_000
        clock.advance(15_000)
        await ledger.commit(one, committing("c", 60))

    @law
    async def test_a_replayed_grant_says_how_much_time_is_left(
        self, ledger: Ledger, set_budget: SetBudget, clock: Clock
    ) -> None:
        """The replay of a reserve repeats the first answer verbatim, but for `remaining_ttl_ms`,
        which counts from now (protocol, IDEMPOTENCY).
        """
        await set_budget("tenant:acme", amount(100))
        request, unchanged = asking("k", 10, ttl_ms=10_000), {"remaining_ttl_ms": None}
        first = await ledger.reserve(request)
        await granted(ledger, "other", 20)
        clock.advance(4_000)
        again = await ledger.reserve(request)
        assert again.remaining_ttl_ms == 6_000
        assert again.model_copy(update=unchanged) == first.model_copy(update=unchanged)

    @law
    async def test_an_extended_lease_that_ends_unnoticed_frees_its_estimate_once(
        self, ledger: Ledger, set_budget: SetBudget, clock: Clock
    ) -> None:
        """An estimate is freed once, though nobody asked anything between a lease's first end and
        its last one.
        """
        await set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k", 60, ttl_ms=1_000)
        await ledger.extend(one, extending("x", 1_000))
        clock.advance(60_000)
        shown = await balance_of(ledger, "tenant:acme")
        assert (shown["reserved"], shown["remaining"]) == (0, 100)
