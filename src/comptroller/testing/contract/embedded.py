"""Laws of an embedded ledger: its event log, and what would break the file that it keeps."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from runcycles import Caps, CyclesMetrics

from comptroller.errors import BudgetExceeded, BudgetNotFound, LedgerRefused
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.testing.contract.asking import amount, asking, committing, counts, granted
from comptroller.testing.contract.given import Clock, Given, law
from comptroller.testing.contract.operators import DAY


class EmbeddedLaws(Given):
    """Those of `EmbeddedLedger`."""

    @law
    async def test_no_budget_says_how_to_set_one(self, ledger: EmbeddedLedger) -> None:
        """Where there is no budget, one line says how to set one."""
        with pytest.raises(BudgetNotFound) as caught:
            await granted(ledger, "k", 1)
        text = str(caught.value)
        assert text.startswith(f"no budget for tenant acme in {ledger.name}; set one with: ")
        assert "\n" not in text
        assert (caught.value.status, caught.value.error_code) == (404, "NOT_FOUND")

    @law
    async def test_a_replay_repeats_the_first_answer_but_for_the_time_left(
        self, ledger: EmbeddedLedger, clock: Clock
    ) -> None:
        """A replay repeats the first answer verbatim but for the time that is left (protocol,
        IDEMPOTENCY).
        """
        await ledger.set_budget("tenant:acme", amount(100), caps=Caps(max_tokens=5))
        request = asking("k", 10, ttl_ms=10_000)
        first = await ledger.reserve(request)
        await granted(ledger, "other", 20)
        clock.advance(4_000)
        again = await ledger.reserve(request)
        assert again.remaining_ttl_ms == 6_000
        unchanged = {"remaining_ttl_ms": None}
        assert again.model_copy(update=unchanged) == first.model_copy(update=unchanged)
        await ledger.commit(first.reservation_id or "", committing("c", 10))
        assert (await ledger.reserve(request)).remaining_ttl_ms == 0

    @law
    async def test_a_closed_budget_stays_closed_through_its_periods(
        self, ledger: EmbeddedLedger, clock: Clock
    ) -> None:
        """What is closed stays closed in later periods, whatever else an operator does there."""
        await ledger.set_budget("tenant:acme", amount(100), per="day")
        await ledger.close_budget("tenant:acme")
        clock.advance(2 * DAY)
        with pytest.raises(BudgetExceeded) as caught:
            await granted(ledger, "k", 1)
        assert caught.value.error_code == "TENANT_CLOSED"
        await ledger.freeze("tenant:acme")
        await ledger.unfreeze("tenant:acme")
        await ledger.fund("tenant:acme", amount(5))
        [shown] = await ledger.budgets()
        state = shown.model_dump()
        assert (state["closed"], state["frozen"]) == (True, False)
        assert [entry.kind for entry in await ledger.events(kinds=["close"])] == ["close"]
        assert (await ledger.verify()).differences == ()

    @pytest.mark.parametrize("wrong", [5, b"acme", ["acme"]])
    @law
    async def test_a_filter_that_is_no_text_is_refused(
        self, ledger: EmbeddedLedger, wrong: Any
    ) -> None:
        """A filter is text, else a TypeError names it."""
        for asked in (ledger.balances, ledger.reservations, ledger.usage, ledger.events):
            with pytest.raises(TypeError, match=r"tenant=.*: give a string"):
                await asked(tenant=wrong)
        with pytest.raises(TypeError, match=r"agent=.*: give a string"):
            await ledger.reservations(tenant="acme", agent=wrong)

    @pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
    @pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [1, {"deep": (one,)}]])
    @law
    async def test_a_number_that_is_none_to_json_is_a_bad_request_and_changes_nothing(
        self, ledger: EmbeddedLedger, number: float, wrap: Callable[[Any], Any]
    ) -> None:
        """Numbers of metadata are finite, else INVALID_REQUEST, and nothing is changed."""
        await ledger.set_budget("tenant:acme", amount(100))
        said = {"number": wrap(number)}
        one = await granted(ledger, "k", 10)
        for refused in (
            granted(ledger, "l", 10, metadata=said),
            ledger.commit(one, committing("c", 4, metadata=said)),
            ledger.commit(one, committing("c", 4, metrics=CyclesMetrics(custom=said))),
        ):
            with pytest.raises(LedgerRefused, match="no finite number") as caught:
                await refused
            assert (caught.value.status, caught.value.error_code) == (400, "INVALID_REQUEST")
        await ledger.commit(one, committing("c", 4, metadata={"number": [1.5]}))
        [shown] = await ledger.budgets()
        assert (counts(shown)["spent"], counts(shown)["reserved"]) == (4, 0)

    @pytest.mark.parametrize("text", ["\ud800", "\udfff-x", "x\udc80"])
    @pytest.mark.parametrize(
        "wrap", [lambda one: {"run": one}, lambda one: {one: [1, {one: (one,)}]}]
    )
    @law
    async def test_half_a_character_is_a_bad_request_and_disturbs_nobody(
        self, ledger: EmbeddedLedger, text: str, wrap: Callable[[Any], Any]
    ) -> None:
        """Text is Unicode without lone surrogates, else INVALID_REQUEST, and nobody else is
        disturbed.
        """
        await ledger.set_budget("tenant:acme", amount(100))
        said = wrap(text)
        one = await granted(ledger, "k", 10)
        for refused in (
            granted(ledger, "l", 10, metadata=said),
            granted(ledger, "denied", 1000, metadata=said),
            ledger.commit(one, committing("c", 4, metadata=said)),
            ledger.commit(one, committing("c", 4, metrics=CyclesMetrics(custom=said))),
        ):
            with pytest.raises(LedgerRefused, match="surrogate") as caught:
                await refused
            assert (caught.value.status, caught.value.error_code) == (400, "INVALID_REQUEST")
        await ledger.commit(one, committing("c", 4, metadata=wrap("\U0001d11e")))
        [shown] = await ledger.budgets()
        assert (counts(shown)["spent"], counts(shown)["reserved"]) == (4, 0)
        assert (await ledger.verify()).differences == ()

    @law
    async def test_a_number_of_too_many_digits_is_a_bad_request(
        self, ledger: EmbeddedLedger
    ) -> None:
        """A number of metadata has as many digits as can be read again, else INVALID_REQUEST."""
        await ledger.set_budget("tenant:acme", amount(100))
        with pytest.raises(LedgerRefused, match="digits") as caught:
            await granted(ledger, "k", 10, metadata={"number": 10**5000})
        assert caught.value.error_code == "INVALID_REQUEST"
