"""Laws of budgets: what is granted, charged and given back."""

import random
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest
from runcycles import Amount, Unit

from comptroller.errors import BudgetExceeded, BudgetNotFound, LedgerRefused, UnitMismatch
from comptroller.ledger.interface import MEMBERS, Ledger
from comptroller.money import MAX_AMOUNT, tokens
from comptroller.testing.contract.asking import (
    REJECT,
    amount,
    asking,
    balance_of,
    committing,
    counts,
    deciding,
    event,
    granted,
    releasing,
)
from comptroller.testing.contract.given import Given, SetBudget, law

WHOLE = {"allocated": 100, "spent": 0, "reserved": 0, "debt": 0, "remaining": 100}


class BudgetLaws(Given):
    """Reserve, commit, release, decide, record and drain."""

    @law
    async def test_it_has_the_members_of_a_ledger(self, ledger: Ledger) -> None:
        """A ledger has every member of `Ledger`, and says how it is to be treated."""
        assert [name for name in MEMBERS if not hasattr(ledger, name)] == []
        assert isinstance(ledger.name, str)
        assert ledger.request_timeout > 0
        assert isinstance(ledger.remote, bool)
        assert isinstance(ledger.durable, bool)

    @law
    async def test_reserve_locks_and_commit_charges_in_every_budgeted_scope(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A reserve locks its estimate in every budgeted scope of its subject, a commit charges
        the actual there and gives back the rest (protocol, CORE INVARIANTS).
        """
        for scope, count in (("tenant:acme", 1000), ("tenant:acme/agent:triage", 500)):
            await set_budget(scope, amount(count))
        answer = await ledger.reserve(asking("k", 100, agent="triage"))
        assert [counts(one)["reserved"] for one in answer.balances or ()] == [100, 100]
        done = await ledger.commit(answer.reservation_id or "", committing("c", 30))
        assert (done.charged, done.released) == (amount(30), amount(70))
        for scope, allocated in (("tenant:acme", 1000), ("tenant:acme/agent:triage", 500)):
            assert await balance_of(ledger, scope) == {
                "allocated": allocated,
                "spent": 30,
                "reserved": 0,
                "debt": 0,
                "remaining": allocated - 30,
            }

    @law
    async def test_a_reserve_that_one_scope_denies_locks_nothing_in_another(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A reserve is made in all budgeted scopes of its subject or in none (protocol, CORE
        INVARIANTS).
        """
        for scope, count in (("tenant:acme", 100), ("tenant:acme/agent:triage", 10)):
            await set_budget(scope, amount(count))
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(asking("k", 11, agent="triage"))
        assert await balance_of(ledger, "tenant:acme") == WHOLE

    @law
    async def test_a_release_gives_everything_back(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A release gives the whole estimate back and charges nothing."""
        await set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k", 60)
        assert (await ledger.release(one, releasing("l"))).released == amount(60)
        assert await balance_of(ledger, "tenant:acme") == WHOLE

    @law
    async def test_an_event_charges_what_was_not_reserved(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """An event charges its actual in every budgeted scope of its subject."""
        await set_budget("tenant:acme", amount(100))
        await ledger.record(event("e", 30, agent="triage"))
        shown = await balance_of(ledger, "tenant:acme")
        assert (shown["spent"], shown["remaining"]) == (30, 70)

    @law
    async def test_a_decision_locks_nothing_and_a_denial_is_an_answer(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """`decide` says what a reserve would be answered, and changes nothing; a denial is no
        error there.
        """
        await set_budget("tenant:acme", amount(100))
        assert (await ledger.decide(deciding("d1", 100))).is_allowed()
        refused = await ledger.decide(deciding("d2", 101))
        assert (refused.is_denied(), refused.reason_code) == (True, "BUDGET_EXCEEDED")
        assert await balance_of(ledger, "tenant:acme") == WHOLE

    @law
    async def test_when_all_is_accepted_draining_it_takes_no_time(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """`drain` answers 0 at once when no charge waits, so that a program which drains a
        server's ledger runs with any.
        """
        await set_budget("tenant:acme", amount(1000))
        answer = await granted(ledger, "k", 100)
        await ledger.commit(answer, committing("c", 30))
        with anyio.fail_after(5):
            assert await ledger.drain() == await ledger.drain(600) == 0

    @pytest.mark.parametrize("timeout", [None, -1, float("nan"), "5"])
    @law
    async def test_draining_takes_seconds(self, ledger: Ledger, timeout: Any) -> None:
        """`drain` refuses what is no number of seconds with a ValueError that names it."""
        with pytest.raises(
            ValueError, match=r"timeout=.*: a number of seconds is wanted, at least 0"
        ):
            await ledger.drain(timeout)

    @law
    async def test_what_does_not_fit_is_denied(self, ledger: Ledger, set_budget: SetBudget) -> None:
        """What exceeds what remains is denied as BudgetExceeded, 409 BUDGET_EXCEEDED (protocol,
        ERROR SEMANTICS).
        """
        await set_budget("tenant:acme", amount(100))
        with pytest.raises(BudgetExceeded) as caught:
            await ledger.reserve(asking("k", 101))
        assert (caught.value.status, caught.value.error_code) == (409, "BUDGET_EXCEEDED")
        assert await balance_of(ledger, "tenant:acme") == WHOLE

    @law
    async def test_where_no_scope_has_a_budget_nothing_is_granted(self, ledger: Ledger) -> None:
        """At least one scope of a subject has a budget: else BudgetNotFound, 404 NOT_FOUND
        (protocol, SCOPE DERIVATION).
        """
        with pytest.raises(BudgetNotFound) as caught:
            await ledger.reserve(asking("k", 1))
        assert (caught.value.status, caught.value.error_code) == (404, "NOT_FOUND")

    @law
    async def test_another_unit_names_the_units_that_exist(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A request in a unit that no budget of its scopes has is refused as UnitMismatch, whose
        details name the units that exist (protocol, ERROR SEMANTICS).
        """
        await set_budget("tenant:acme", tokens(10))
        with pytest.raises(UnitMismatch) as caught:
            await ledger.reserve(asking("k", 1))
        assert "TOKENS" in str(caught.value)
        assert caught.value.details == {
            "scope": "tenant:acme",
            "requested_unit": "USD_MICROCENTS",
            "expected_units": ["TOKENS"],
        }

    @law
    async def test_a_scope_with_budgets_in_two_units_keeps_them_apart(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A scope may have one budget in each unit; a request touches those of its own unit."""
        await set_budget("tenant:acme", amount(100))
        await set_budget("tenant:acme", tokens(50))
        await ledger.reserve(asking("k1", 100))
        await ledger.reserve(asking("k2", 50, unit=Unit.TOKENS))
        assert (await balance_of(ledger, "tenant:acme"))["remaining"] == 0
        assert (await balance_of(ledger, "tenant:acme", Unit.TOKENS))["remaining"] == 0

    @law
    async def test_half_of_two_hundred_callers_get_what_allows_half(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """What is granted at once never exceeds what remained, however many ask."""
        await set_budget("tenant:acme", amount(100))
        outcomes = []

        async def ask(number: int) -> None:
            try:
                await ledger.reserve(asking(f"k{number}", 1, agent=f"a{number % 7}"))
            except BudgetExceeded:
                outcomes.append("denied")
            else:
                outcomes.append("granted")

        async with anyio.create_task_group() as callers:
            for number in range(200):
                callers.start_soon(ask, number)
        assert (outcomes.count("granted"), outcomes.count("denied")) == (100, 100)
        assert (await balance_of(ledger, "tenant:acme"))["remaining"] == 0

    @law
    async def test_a_cancelled_request_is_done_whole_or_not_at_all(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A request that is cancelled was done whole or not at all, and whoever asked at the same
        moment is answered.
        """
        await set_budget("tenant:acme", amount(1000))
        answered = []

        async def ask(number: int, scope: anyio.CancelScope) -> None:
            with scope:
                await ledger.reserve(asking(f"k{number}", 1))
                answered.append(number)

        async with anyio.create_task_group() as callers:
            for number in range(20):
                scope = anyio.CancelScope()
                callers.start_soon(ask, number, scope)
                if number % 2 == 0:
                    scope.cancel()
        assert set(answered) >= set(range(1, 20, 2))
        reserved = (await balance_of(ledger, "tenant:acme"))["reserved"]
        listed = (await ledger.reservations(tenant="acme")).reservations
        assert reserved == len(listed) >= len(answered)

    @law
    async def test_a_budget_set_after_a_reservation_is_not_part_of_it(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """What settles a reservation touches the budgets that hold its estimate, and no other."""
        await set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k", 60, agent="triage")
        await set_budget("tenant:acme/agent:triage", amount(100))
        await ledger.release(one, releasing("l"))
        assert await balance_of(ledger, "tenant:acme/agent:triage") == WHOLE

    @law
    async def test_rejected_overage_changes_nothing(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """Under REJECT a commit of more than was reserved is refused, and its reservation lives on
        (protocol, CommitOveragePolicy).
        """
        await set_budget("tenant:acme", amount(1000))
        one = await granted(ledger, "k", 100, overage_policy=REJECT)
        with pytest.raises(BudgetExceeded):
            await ledger.commit(one, committing("c", 101))
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 100
        await ledger.commit(one, committing("c", 100))

    @pytest.mark.parametrize("count", [-1, True, MAX_AMOUNT + 1])
    @law
    async def test_an_amount_that_escaped_validation_is_refused(
        self, ledger: Ledger, set_budget: SetBudget, count: int
    ) -> None:
        """An amount is a whole number from 0 to 2**63 - 1, else INVALID_REQUEST: a negative
        estimate would add to the budget.
        """
        await set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k", 10)
        wrong = Amount.model_construct(unit=Unit.USD_MICROCENTS, amount=count)
        calls: tuple[Awaitable[object], ...] = (
            ledger.reserve(asking("k2", 1).model_copy(update={"estimate": wrong})),
            ledger.record(event("e", 1).model_copy(update={"actual": wrong})),
            ledger.commit(one, committing("c", 1).model_copy(update={"actual": wrong})),
        )
        for call in calls:
            with pytest.raises(LedgerRefused) as caught:
                await call
            assert caught.value.error_code == "INVALID_REQUEST"

    @pytest.mark.parametrize("seed", range(5))
    @law
    async def test_whatever_is_asked_the_balances_add_up(
        self, ledger: Ledger, set_budget: SetBudget, seed: int
    ) -> None:
        """Under ALLOW_IF_AVAILABLE charges never exceed a budget, and remaining is allocated less
        spent, reserved and debt, after any requests (protocol, LEDGER INVARIANT).
        """
        await set_budget("tenant:acme", amount(100))
        dice, live, charged = random.Random(seed), list[str](), 0  # noqa: S311 - no secret
        for number in range(40):
            key, count, spent = str(number), dice.randrange(30), None
            try:
                match dice.choice(["reserve", "commit", "release", "event"]):
                    case "reserve":
                        live.append(await granted(ledger, key, count))
                    case "event":
                        spent = (await ledger.record(event(key, count))).charged or amount(count)
                    case "commit" if live:
                        one = dice.choice(live)
                        spent = (await ledger.commit(one, committing(key, count))).charged
                    case "release" if live:
                        await ledger.release(dice.choice(live), releasing(key))
            except (BudgetExceeded, LedgerRefused):
                spent = None
            charged += spent.amount if spent else 0
            shown = await balance_of(ledger, "tenant:acme")
            held = shown["spent"] + shown["reserved"] + shown["debt"]
            assert shown["remaining"] == shown["allocated"] - held >= 0
            assert shown["spent"] == charged <= shown["allocated"]
