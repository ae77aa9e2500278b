"""Laws of budgets that are set, funded, frozen and closed at the ledger itself."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from runcycles import Balance, Caps, Decision, Unit

from comptroller.errors import BudgetExceeded, BudgetNotFound, ComptrollerError, UnitMismatch
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.money import MAX_AMOUNT, tokens, usd
from comptroller.testing.contract.asking import (
    OVERDRAFT,
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
from comptroller.testing.contract.given import Clock, Given, law

DAY = 86_400_000


class OperatorLaws(Given):
    """What operators do, and the texts that tell them what to do."""

    @law
    async def test_a_denial_carries_what_a_message_needs(self, ledger: EmbeddedLedger) -> None:
        """A denial names the scope, what was requested and what is left of what, in fields and
        in text.
        """
        await ledger.set_budget("tenant:acme", usd("10"))
        await ledger.set_budget("tenant:acme/agent:triage", usd("0.02"))
        with pytest.raises(BudgetExceeded) as caught:
            await granted(ledger, "k", usd("0.05").amount, agent="triage")
        denial = caught.value
        assert (denial.status, denial.error_code) == (409, "BUDGET_EXCEEDED")
        assert denial.reason_code == "BUDGET_EXCEEDED"
        assert denial.scope == "tenant:acme/agent:triage"
        assert denial.unit is Unit.USD_MICROCENTS
        assert (denial.requested, denial.remaining) == (usd("0.05").amount, usd("0.02").amount)
        assert (denial.details or {})["allocated"] == usd("0.02").amount
        assert "$0.05 requested, $0.02 left of $0.02" in str(denial)

    @law
    async def test_a_freeze_with_a_unit_concerns_the_budget_in_that_unit_alone(
        self, ledger: EmbeddedLedger
    ) -> None:
        """A freeze, or its end, with a unit concerns the budget in that unit alone; without, all
        there.
        """
        await ledger.set_budget("tenant:acme", amount(100))
        await ledger.set_budget("tenant:acme", tokens(100))
        await ledger.freeze("tenant:acme", Unit.TOKENS)
        await granted(ledger, "k", 60)
        for one in await ledger.budgets():
            assert one.model_dump()["frozen"] is (one.remaining.unit is Unit.TOKENS)
        with pytest.raises(UnitMismatch):
            await ledger.unfreeze("tenant:acme", Unit.RISK_POINTS)
        await ledger.unfreeze("tenant:acme")
        assert not any(one.model_dump()["frozen"] for one in await ledger.budgets())

    @law
    async def test_a_frozen_scope_refuses_new_spend_and_settles_the_old(
        self, ledger: EmbeddedLedger
    ) -> None:
        """A frozen scope refuses new spend, BUDGET_FROZEN, and settles what was reserved."""
        await ledger.set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k", 60)
        await ledger.freeze("tenant:acme")
        with pytest.raises(BudgetExceeded) as caught:
            await granted(ledger, "k2", 1)
        assert caught.value.error_code == "BUDGET_FROZEN"
        await ledger.commit(one, committing("c", 50))
        await ledger.unfreeze("tenant:acme")
        await granted(ledger, "k2", 50)

    @law
    async def test_a_closed_tenant_grants_nothing_and_keeps_its_history(
        self, ledger: EmbeddedLedger
    ) -> None:
        """A customer that has gone: TENANT_CLOSED; what was reserved settles, `set_budget` opens
        it again.
        """
        await ledger.set_budget("tenant:acme", amount(100))
        await ledger.set_budget("tenant:acme", tokens(100))
        one = await granted(ledger, "k", 60)
        await ledger.close_budget("tenant:acme")
        for asked in (
            ledger.reserve(asking("k2", 1)),
            ledger.reserve(asking("k3", 1, unit=Unit.TOKENS)),
            ledger.reserve(asking("k4", 1, agent="triage")),
            ledger.record(event("e", 1)),
        ):
            with pytest.raises(BudgetExceeded) as caught:
                await asked
            assert (caught.value.status, caught.value.error_code) == (409, "TENANT_CLOSED")
            assert caught.value.public == "This account is closed."
        decision = await ledger.decide(deciding("d", 1))
        assert (decision.decision, decision.reason_code) == (Decision.DENY, "TENANT_CLOSED")
        await ledger.commit(one, committing("c", 50))
        assert (await balance_of(ledger, "tenant:acme"))["spent"] == 50
        await ledger.set_budget("tenant:acme", amount(100))
        await granted(ledger, "k2", 50)

    @law
    async def test_a_scope_within_a_tenant_is_closed_alone(self, ledger: EmbeddedLedger) -> None:
        """A scope within a tenant is closed alone: BUDGET_CLOSED."""
        await ledger.set_budget("tenant:acme", amount(100))
        await ledger.set_budget("tenant:acme/agent:triage", amount(100))
        await ledger.close_budget("tenant:acme/agent:Triage")
        with pytest.raises(BudgetExceeded) as caught:
            await granted(ledger, "k", 1, agent="triage")
        assert caught.value.error_code == "BUDGET_CLOSED"
        await granted(ledger, "k2", 1, agent="other")

    @law
    async def test_a_tenant_is_closed_that_has_budgets_within_it_only(
        self, ledger: EmbeddedLedger
    ) -> None:
        """No call of any agent of a closed tenant is granted, whether it had a budget or not."""
        await ledger.set_budget("tenant:acme/agent:triage", amount(100))
        await ledger.close_budget("tenant:acme")
        for agent in ("triage", "other"):
            with pytest.raises(BudgetExceeded) as caught:
                await granted(ledger, f"k-{agent}", 1, agent=agent)
            assert caught.value.error_code == "TENANT_CLOSED"
        with pytest.raises(BudgetNotFound):
            await ledger.close_budget("tenant:globex")

    @law
    async def test_an_over_limit_scope_names_the_remedy_which_helps(
        self, ledger: EmbeddedLedger
    ) -> None:
        """A scope over its limit denies, OVERDRAFT_LIMIT_EXCEEDED, until it is funded (protocol,
        ERROR SEMANTICS).
        """
        await ledger.set_budget("tenant:acme", amount(100))
        await ledger.record(event("e", 150))
        with pytest.raises(BudgetExceeded) as caught:
            await granted(ledger, "k", 1)
        assert caught.value.error_code == "OVERDRAFT_LIMIT_EXCEEDED"
        assert "fund" in str(caught.value)
        await ledger.fund("tenant:acme", amount(10))
        await granted(ledger, "k", 10)

    @law
    async def test_debt_beyond_a_limit_that_was_cut_blocks_until_it_is_paid(
        self, ledger: EmbeddedLedger
    ) -> None:
        """Debt beyond its limit blocks, and funding pays debt first (protocol, OVER-LIMIT
        BLOCKING).
        """
        await ledger.set_budget("tenant:acme", amount(100), overdraft_limit=50)
        one = await granted(ledger, "k", 100, overage_policy=OVERDRAFT)
        await ledger.commit(one, committing("c", 140))
        await ledger.set_budget("tenant:acme", amount(100), overdraft_limit=10)
        decision = await ledger.decide(deciding("d", 1))
        assert (decision.decision, decision.reason_code) == (
            Decision.DENY,
            "OVERDRAFT_LIMIT_EXCEEDED",
        )
        await ledger.set_budget("tenant:acme", amount(100))
        await ledger.fund("tenant:acme", amount(5))
        assert counts((await ledger.budgets())[0])["debt"] == 35
        await ledger.fund("tenant:acme", amount(40))
        assert counts((await ledger.budgets())[0])["remaining"] == 5

    @law
    async def test_debt_within_its_limit_does_not_stop_new_spend(
        self, ledger: EmbeddedLedger
    ) -> None:
        """Debt within its limit does not stop new spend (protocol, OVERDRAFT LIMIT)."""
        await ledger.set_budget("tenant:acme", amount(100), overdraft_limit=50)
        one = await granted(ledger, "k", 100, overage_policy=OVERDRAFT)
        await ledger.commit(one, committing("c", 140))
        await ledger.set_budget("tenant:acme", amount(500), overdraft_limit=40)
        await granted(ledger, "k2", 1)

    @law
    async def test_caps_of_all_scopes_bind_a_grant(self, ledger: EmbeddedLedger) -> None:
        """A grant is bound by the caps of all its scopes, the strictest of each."""
        await ledger.set_budget("tenant:acme", amount(100), caps=Caps(max_tokens=100))
        caps = Caps(max_tokens=200, tool_denylist=["shell"])
        await ledger.set_budget("tenant:acme/agent:triage", amount(100), caps=caps)
        answer = await ledger.reserve(asking("k", 1, agent="triage"))
        assert answer.decision is Decision.ALLOW_WITH_CAPS
        assert answer.caps == Caps(max_tokens=100, tool_denylist=["shell"])

    @law
    async def test_caps_below_a_share_come_with_what_is_granted_near_the_end(
        self, ledger: EmbeddedLedger
    ) -> None:
        """`caps_below` binds only what is granted while less than that share remains."""
        caps = Caps(max_tokens=5, tool_denylist=["shell"])
        await ledger.set_budget("tenant:acme", amount(100), caps=caps, caps_below="20%")
        for key, count, expected in (("k1", 80, None), ("k2", 1, None), ("k3", 19, caps)):
            answer = await ledger.reserve(asking(key, count))
            assert answer.caps == expected
        assert answer.decision is Decision.ALLOW_WITH_CAPS
        await ledger.release(answer.reservation_id or "", releasing("r"))
        await ledger.fund("tenant:acme", amount(100))
        assert (await ledger.decide(deciding("d", 1))).caps is None

    @law
    async def test_setting_a_budget_again_keeps_what_was_spent(
        self, ledger: EmbeddedLedger
    ) -> None:
        """Setting a budget again keeps what was spent."""
        await ledger.set_budget("tenant:acme", amount(100))
        await ledger.record(event("e", 30))
        shown = await ledger.set_budget("tenant:acme", amount(20))
        assert counts(shown)["remaining"] == -10

    @law
    async def test_a_budget_per_day_is_whole_again_the_next_day(
        self, ledger: EmbeddedLedger, clock: Clock
    ) -> None:
        """A budget per day is whole again the next day."""
        await ledger.set_budget("tenant:acme", amount(100), per="day")
        await ledger.record(event("e", 150))
        with pytest.raises(BudgetExceeded):
            await granted(ledger, "k", 1)
        clock.advance(DAY)
        shown = await balance_of(ledger, "tenant:acme")
        assert shown == {"allocated": 100, "spent": 0, "reserved": 0, "debt": 0, "remaining": 100}
        await granted(ledger, "k", 100)
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 100

    @law
    async def test_scopes_are_written_as_people_write_them(self, ledger: EmbeddedLedger) -> None:
        """Scopes of operators are made to fit subjects: without case, spaces as dashes."""
        await ledger.set_budget("tenant:Acme/agent:Triage agent", amount(100))
        answer = await ledger.reserve(asking("k", 1, tenant="acme", agent="triage-agent"))
        assert answer.affected_scopes[-1] == "tenant:acme/agent:triage-agent"
        assert [one.scope_path for one in answer.balances or ()] == answer.affected_scopes[-1:]

    @pytest.mark.parametrize(
        ("scope", "given", "kind"),
        [
            ("tenant:acme", 10, TypeError),
            ("tenant:acme", 10.0, TypeError),
            ("tenant:acme", True, TypeError),
            ("tenant:acme", "10usd", TypeError),
            ("acme", amount(1), ValueError),
            ("tenant:", amount(1), ValueError),
            ("agent:triage", amount(1), ValueError),
            ("tenant:acme/agent:a/workspace:w", amount(1), ValueError),
            ("", amount(1), ValueError),
            (None, amount(1), TypeError),
        ],
    )
    @law
    async def test_bad_budgets_are_refused_with_one_clear_line(
        self, ledger: EmbeddedLedger, scope: Any, given: Any, kind: type[Exception]
    ) -> None:
        """A budget is an amount at a scope, else it is refused in one line and none is set."""
        with pytest.raises(kind) as caught:
            await ledger.set_budget(scope, given)
        assert "\n" not in str(caught.value)
        assert await ledger.budgets() == []

    @pytest.mark.parametrize("limit", [1.5, True, "1"])
    @law
    async def test_an_overdraft_limit_is_a_whole_number(
        self, ledger: EmbeddedLedger, limit: Any
    ) -> None:
        """An overdraft limit is a whole number."""
        with pytest.raises(TypeError, match="overdraft_limit"):
            await ledger.set_budget("tenant:acme", amount(1), overdraft_limit=limit)

    @law
    async def test_a_negative_overdraft_limit_is_refused(self, ledger: EmbeddedLedger) -> None:
        """An overdraft limit is at least 0."""
        with pytest.raises(ValueError, match="overdraft_limit=-1"):
            await ledger.set_budget("tenant:acme", amount(1), overdraft_limit=-1)

    @law
    async def test_how_money_moves_may_be_written_as_a_word(self, ledger: EmbeddedLedger) -> None:
        """How money moves may be written as a word, and another word is refused with those there
        are.
        """
        await ledger.set_budget("tenant:acme", amount(100))
        fund: Callable[..., Awaitable[Balance]] = ledger.fund
        shown = await fund("tenant:acme", amount(30), operation="DEBIT")
        assert counts(shown)["allocated"] == 70
        with pytest.raises(ValueError, match="operation='GIVE': write CREDIT, DEBIT, REPAY_DEBT"):
            await fund("tenant:acme", amount(30), operation="GIVE")

    @law
    async def test_funding_and_freezing_need_a_budget(self, ledger: EmbeddedLedger) -> None:
        """What is funded or frozen has a budget in that unit."""
        with pytest.raises(BudgetNotFound, match="set one with"):
            await ledger.fund("tenant:acme/agent:x", amount(1))
        with pytest.raises(BudgetNotFound, match="set one with"):
            await ledger.freeze("tenant:acme")
        await ledger.set_budget("tenant:acme", tokens(1))
        with pytest.raises(UnitMismatch, match="TOKENS"):
            await ledger.fund("tenant:acme", amount(1))

    @law
    async def test_no_amount_grows_beyond_what_the_protocol_carries(
        self, ledger: EmbeddedLedger
    ) -> None:
        """No amount grows beyond 2**63 - 1, the most that the protocol carries."""
        await ledger.set_budget("tenant:acme", amount(MAX_AMOUNT), overdraft_limit=MAX_AMOUNT)
        with pytest.raises(ComptrollerError):
            await ledger.fund("tenant:acme", amount(1))
        await ledger.record(event("e1", MAX_AMOUNT))
        with pytest.raises(BudgetExceeded):
            await ledger.record(event("e2", MAX_AMOUNT, policy=OVERDRAFT))
        assert (await balance_of(ledger, "tenant:acme"))["spent"] == MAX_AMOUNT

    @law
    async def test_a_rejected_overage_says_so(self, ledger: EmbeddedLedger) -> None:
        """What is refused for its overage policy says so."""
        await ledger.set_budget("tenant:acme", amount(1000))
        one = await granted(ledger, "k", 100, overage_policy=REJECT)
        with pytest.raises(BudgetExceeded, match="overage policy is REJECT"):
            await ledger.commit(one, committing("c", 101))
