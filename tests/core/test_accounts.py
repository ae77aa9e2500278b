"""Admission: the protocol's answers, decided on accounts alone."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runcycles import Caps, CommitOveragePolicy, Unit

from comptroller.core.accounts import (
    Account,
    Alerts,
    Authorization,
    Charge,
    Denial,
    admit,
    budgeted,
    charge,
    release,
    settle,
)
from comptroller.core.budgets import BudgetTerms, Funding, apply_terms, due_alerts, fund, renewed
from comptroller.core.limits import merged
from comptroller.money import amount

USD = Unit.USD_MICROCENTS
REJECT = CommitOveragePolicy.REJECT
IF_AVAILABLE = CommitOveragePolicy.ALLOW_IF_AVAILABLE
OVERDRAFT = CommitOveragePolicy.ALLOW_WITH_OVERDRAFT


def account(scope="tenant:acme", allocated=100, **more):
    return Account(scope, USD, allocated, **more)


def terms(allocated=100, **more):
    return BudgetTerms(amount(USD, allocated), **more)


def outer_and_inner(outer=None, inner=None):
    return (
        account(**{"allocated": 1000} | (outer or {})),
        account("tenant:acme/agent:a", **(inner or {})),
    )


class TestBudgeted:
    SCOPES = ("tenant:acme", "tenant:acme/agent:a")

    def test_scopes_without_a_budget_are_skipped(self):
        inner = account(self.SCOPES[1])
        assert budgeted(self.SCOPES, USD, 1, [{}, {USD: inner}]) == (inner,)

    def test_no_budget_anywhere_is_not_found(self):
        assert budgeted(self.SCOPES, USD, 1, [{}, {}]) == Denial(
            "BUDGET_NOT_FOUND", self.SCOPES[1], USD, 1
        )

    def test_budgets_in_other_units_only_are_named(self):
        """In the protocol's order of units, whichever budget was set first."""
        units = {Unit.CREDITS: account(), Unit.TOKENS: account()}
        denial = budgeted(self.SCOPES, USD, 1, [{}, units])
        assert denial.code == "UNIT_MISMATCH"
        assert (denial.scope, denial.expected_units) == (
            self.SCOPES[1],
            (Unit.TOKENS, Unit.CREDITS),
        )


class TestAdmit:
    def test_a_grant_locks_the_estimate_in_every_account(self):
        grant = admit(outer_and_inner(), 40)
        assert [one.reserved for one in grant.accounts] == [40, 40]
        assert [one.remaining for one in grant.accounts] == [960, 60]

    def test_exactly_what_remains_is_granted_and_one_more_is_not(self):
        assert isinstance(admit((account(),), 100), Authorization)
        denial = admit((account(),), 101)
        assert denial == Denial("BUDGET_EXCEEDED", "tenant:acme", USD, 101, 100, 100)

    def test_the_scope_that_is_short_is_named(self):
        assert admit(outer_and_inner(), 101).scope == "tenant:acme/agent:a"
        assert admit(outer_and_inner(outer={"allocated": 1}), 50).scope == "tenant:acme"

    @pytest.mark.parametrize(
        ("inner", "code"),
        [
            ({"frozen": True, "is_over_limit": True, "debt": 5}, "BUDGET_FROZEN"),
            ({"is_over_limit": True, "debt": 5}, "OVERDRAFT_LIMIT_EXCEEDED"),
            ({"debt": 5}, "DEBT_OUTSTANDING"),
            ({"debt": 5, "overdraft_limit": 10, "spent": 100}, "BUDGET_EXCEEDED"),
        ],
    )
    def test_precedence_holds_over_all_scopes(self, inner, code):
        """A short outer scope does not hide that an inner one is closed for another reason."""
        denial = admit(outer_and_inner(outer={"allocated": 10}, inner=inner), 11)
        assert denial.code == code

    def test_debt_that_may_be_owed_does_not_stop(self):
        assert isinstance(admit((account(debt=5, overdraft_limit=5),), 95), Authorization)

    def test_nothing_is_granted_below_zero(self):
        assert admit((account(spent=120),), 0).code == "BUDGET_EXCEEDED"


class TestSettle:
    def test_less_than_the_estimate_gives_back_the_rest(self):
        result = settle((account(reserved=40),), 40, 10, REJECT)
        assert result == Charge((account(spent=10),), 10)

    def test_more_is_rejected_where_the_policy_says_so(self):
        denial = settle((account(reserved=40),), 40, 41, REJECT)
        assert (denial.code, denial.requested, denial.remaining) == ("BUDGET_EXCEEDED", 41, 40)

    def test_more_is_charged_where_there_is_room(self):
        result = settle((account(reserved=40),), 40, 90, IF_AVAILABLE)
        assert result == Charge((account(spent=90),), 90)

    def test_the_shortest_scope_bounds_the_charge_and_is_over_limit(self):
        accounts = outer_and_inner(outer={"reserved": 80}, inner={"reserved": 80})
        result = settle(accounts, 80, 150, IF_AVAILABLE)
        assert result.charged == 100
        assert [one.spent for one in result.accounts] == [100, 100]
        assert [one.is_over_limit for one in result.accounts] == [False, True]

    def test_what_may_be_owed_becomes_debt_there_alone(self):
        accounts = outer_and_inner(
            outer={"reserved": 100}, inner={"reserved": 100, "overdraft_limit": 50}
        )
        result = settle(accounts, 100, 150, OVERDRAFT)
        assert result.charged == 150
        assert [(one.spent, one.debt) for one in result.accounts] == [(150, 0), (100, 50)]
        assert result.accounts[1].remaining == -50

    def test_more_debt_than_the_limit_is_refused(self):
        denial = settle((account(reserved=100, overdraft_limit=49),), 100, 150, OVERDRAFT)
        assert denial.code == "OVERDRAFT_LIMIT_EXCEEDED"

    @pytest.mark.parametrize(("limit", "accepted"), [(20, True), (19, False)])
    def test_only_what_remains_cannot_cover_is_owed_and_counts_against_the_limit(
        self, limit, accepted
    ):
        of_130 = account(allocated=130, reserved=100, overdraft_limit=limit)
        result = settle((of_130,), 100, 150, OVERDRAFT)
        if accepted:
            assert (result.charged, result.accounts[0].spent, result.accounts[0].debt) == (
                150,
                130,
                20,
            )
        else:
            assert result.code == "OVERDRAFT_LIMIT_EXCEEDED"

    def test_without_a_limit_overdraft_is_if_available(self):
        accounts = (account(reserved=100),)
        assert settle(accounts, 100, 150, OVERDRAFT) == settle(accounts, 100, 150, IF_AVAILABLE)


class TestCharge:
    def test_an_event_of_nothing_never_closes_a_scope(self):
        result = charge((account(spent=120),), 0, IF_AVAILABLE)
        assert result == Charge((account(spent=120),), 0)

    def test_a_frozen_scope_takes_no_event(self):
        assert charge((account(frozen=True),), 1, IF_AVAILABLE).code == "BUDGET_FROZEN"

    def test_an_over_limit_scope_takes_events(self):
        result = charge((account(is_over_limit=True),), 1, IF_AVAILABLE)
        assert result.accounts[0].is_over_limit

    def test_reject_refuses_more_than_remains(self):
        assert charge((account(),), 101, REJECT).code == "BUDGET_EXCEEDED"

    def test_in_debt_less_than_nothing_remains(self):
        """So nothing at all is more than that, to an event as to a reservation."""
        owing = account(spent=100, debt=1, overdraft_limit=5)
        assert charge((owing,), 0, REJECT).code == "BUDGET_EXCEEDED"
        assert admit((owing,), 0).code == "BUDGET_EXCEEDED"
        assert charge((owing,), 0, IF_AVAILABLE).accounts == (owing,)


class TestFund:
    def test_a_credit_repays_debt_first_and_remaining_grows_by_all_of_it(self):
        owing = account(spent=100, debt=30, overdraft_limit=20, is_over_limit=True)
        funded = fund(owing, 50, Funding.CREDIT)
        assert (funded.debt, funded.allocated, funded.is_over_limit) == (0, 120, False)
        assert funded.remaining == owing.remaining + 50

    def test_a_credit_that_leaves_too_much_debt_leaves_the_scope_closed(self):
        owing = account(spent=100, debt=30, overdraft_limit=20, is_over_limit=True)
        assert fund(owing, 5, Funding.CREDIT).is_over_limit
        assert not fund(owing, 10, Funding.CREDIT).is_over_limit

    @pytest.mark.parametrize(("amount", "debt", "allocated"), [(20, 10, 100), (50, 0, 120)])
    def test_a_repayment_beyond_the_debt_adds_the_rest_to_the_budget(self, amount, debt, allocated):
        owing = account(spent=100, debt=30)
        repaid = fund(owing, amount, Funding.REPAY_DEBT)
        assert (repaid.debt, repaid.allocated) == (debt, allocated)
        assert repaid.remaining == owing.remaining + amount

    def test_a_debit_takes_what_remains_and_no_more(self):
        assert fund(account(reserved=40), 60, Funding.DEBIT).remaining == 0
        assert fund(account(reserved=40), 61, Funding.DEBIT).code == "BUDGET_EXCEEDED"

    def test_setting_a_budget_keeps_what_was_used(self):
        known = account(spent=5, reserved=6, debt=7, frozen=True)
        changed = apply_terms(known, known.scope, terms(50, overdraft_limit=10))
        assert changed == attrs.evolve(known, allocated=50, overdraft_limit=10)


NOON = 1_750_000_000_000 // 86_400_000 * 86_400_000 + 43_200_000
DAY = 86_400_000


class TestRenewal:
    def test_the_next_period_begins_anew_and_pays_debt_first(self):
        given_budget = apply_terms(None, "tenant:acme", terms(per="day"), NOON)
        used = attrs.evolve(fund(given_budget, 50, Funding.CREDIT), spent=150, reserved=0, debt=5)
        assert renewed(used, NOON + DAY // 2 - 1) == used
        anew = renewed(used, NOON + DAY // 2)
        assert (anew.allocated, anew.spent, anew.debt, anew.remaining) == (100, 5, 0, 95)
        assert anew.renewal.at_ms == NOON + DAY // 2 + DAY

    def test_what_is_reserved_stays_in_the_period_of_its_reservation(self):
        held = attrs.evolve(apply_terms(None, "tenant:acme", terms(per="day"), NOON), reserved=60)
        anew = renewed(held, NOON + DAY)
        assert (held.since_ms, held.reserved) == (0, 60)
        assert (anew.since_ms, anew.reserved) == (NOON + DAY // 2, 0)

    def test_periods_that_nobody_asked_in_are_passed_at_once(self):
        given_budget = apply_terms(None, "tenant:acme", terms(per="day"), NOON)
        anew = renewed(given_budget, NOON + 10 * DAY)
        assert anew.since_ms == NOON + 9 * DAY + DAY // 2
        assert anew.renewal.at_ms == NOON + 10 * DAY + DAY // 2


class TestCapsBelowAShare:
    CAPS = Caps(max_tokens=5)

    @pytest.mark.parametrize(("spent", "caps"), [(0, None), (80, None), (81, CAPS), (100, CAPS)])
    def test_caps_bind_where_less_than_their_share_remains(self, spent, caps):
        given_budget = apply_terms(None, "tenant:acme", terms(caps=self.CAPS, caps_below="20%"))
        granted = admit((attrs.evolve(given_budget, spent=spent),), 0)
        assert granted.caps == caps

    def test_caps_without_a_share_always_bind(self):
        assert (
            admit((apply_terms(None, "tenant:acme", terms(caps=self.CAPS)),), 1).caps == self.CAPS
        )


class TestAlerts:
    def at(self, *shares, **more):
        return attrs.evolve(apply_terms(None, "tenant:acme", terms(alerts=shares)), **more)

    @pytest.mark.parametrize(
        ("spent", "debt", "due"),
        [(0, 0, ()), (49, 0, ()), (50, 0, (50,)), (79, 1, (50, 80)), (120, 0, (50, 80))],
    )
    def test_a_share_is_due_once_it_is_spent_or_owed(self, spent, debt, due):
        assert due_alerts(self.at(80, 50, spent=spent, debt=debt))[1] == due

    def test_what_is_only_reserved_is_not_spent(self):
        assert due_alerts(self.at(50, reserved=90))[1] == ()

    def test_each_is_told_once(self):
        once, due = due_alerts(self.at(50, 80, spent=60))
        assert due == (50,)
        assert due_alerts(once) == (once, ())
        assert due_alerts(attrs.evolve(once, spent=90))[1] == (80,)

    def test_setting_the_budget_again_does_not_tell_it_again(self):
        once, _ = due_alerts(self.at(50, spent=60))
        again = apply_terms(once, "tenant:acme", terms(alerts=["50%"]))
        assert due_alerts(again)[1] == ()
        without = apply_terms(once, "tenant:acme", terms())
        assert due_alerts(apply_terms(without, "tenant:acme", terms(alerts=["50%"])))[1] == ()

    def test_a_new_period_tells_anew(self):
        each_day = apply_terms(None, "tenant:acme", terms(alerts=[50], per="day"), NOON)
        once, _ = due_alerts(attrs.evolve(each_day, spent=60))
        anew = attrs.evolve(renewed(once, NOON + DAY), spent=60)
        assert due_alerts(anew)[1] == (50,)

    def test_money_begins_a_period_of_its_own_where_there_is_no_other(self):
        once, _ = due_alerts(self.at(50, spent=60))
        assert due_alerts(attrs.evolve(fund(once, 100, Funding.CREDIT), spent=100))[1] == (50,)
        each_day = apply_terms(None, "tenant:acme", terms(alerts=[50], per="day"), NOON)
        once, _ = due_alerts(attrs.evolve(each_day, spent=60))
        assert due_alerts(attrs.evolve(fund(once, 100, Funding.CREDIT), spent=190))[1] == ()

    def test_a_budget_of_nothing_is_never_told(self):
        nothing = apply_terms(None, "tenant:acme", terms(0, alerts=[50]))
        assert due_alerts(nothing)[1] == ()
        assert nothing.alerts == Alerts((50,))


class TestMergedCaps:
    def test_no_caps_are_none(self):
        assert merged([]) is None
        assert merged([Caps()]) is None

    def test_one_scopes_caps_are_left_as_they_are(self):
        only = Caps(max_tokens=1, tool_allowlist=[])
        assert merged([Caps(), only]) is only

    def test_the_strictest_of_each_holds(self):
        assert merged(
            [
                Caps(max_tokens=5, cooldown_ms=10, tool_denylist=["a", "b"]),
                Caps(max_tokens=7, max_steps_remaining=3, cooldown_ms=20, tool_denylist=["b", "c"]),
            ]
        ) == Caps(
            max_tokens=5,
            max_steps_remaining=3,
            cooldown_ms=20,
            tool_denylist=["a", "b", "c"],
        )

    def test_a_denied_tool_leaves_the_allowlist_which_would_hide_the_denial(self):
        both = merged([Caps(tool_denylist=["a"]), Caps(tool_allowlist=["a", "b"])])
        assert both == Caps(tool_allowlist=["b"])

    def test_allowlists_without_a_tool_in_common_allow_none(self):
        both = merged([Caps(tool_allowlist=["a"]), Caps(tool_allowlist=["b"])])
        assert not both.is_tool_allowed("a")
        assert not both.is_tool_allowed("b")
        assert both.tool_allowlist


counts = st.integers(0, 200)
accounts = st.lists(
    st.builds(
        Account,
        scope=st.just("tenant:acme"),
        unit=st.just(USD),
        allocated=counts,
        spent=counts,
        reserved=counts,
        debt=counts,
        overdraft_limit=counts,
        is_over_limit=st.booleans(),
        frozen=st.booleans(),
    ),
    min_size=1,
    max_size=4,
).map(tuple)


@given(accounts, counts)
def test_law_9_a_grant_never_takes_more_than_remains(before, estimate):
    grant = admit(before, estimate)
    if isinstance(grant, Authorization):
        assert all(one.remaining >= 0 for one in grant.accounts)
        assert release(grant.accounts, estimate) == before


@given(accounts, counts, st.sampled_from(CommitOveragePolicy))
def test_a_charge_is_the_same_everywhere_and_never_more_than_the_actual(before, actual, policy):
    result = charge(before, actual, policy)
    if isinstance(result, Charge):
        assert 0 <= result.charged <= actual
        for old, new in zip(before, result.accounts, strict=True):
            assert old.remaining - new.remaining == result.charged
            assert new.debt <= max(old.debt, new.overdraft_limit)
            assert new.remaining >= min(old.remaining, 0) or new.debt > old.debt


@given(accounts, counts, counts, st.sampled_from(CommitOveragePolicy))
def test_a_commit_opens_the_lock_of_its_estimate_whatever_was_spent(
    before, estimate, actual, policy
):
    held = tuple(one.moved(reserved=estimate) for one in before)
    result = settle(held, estimate, actual, policy)
    if isinstance(result, Charge):
        assert [one.reserved for one in result.accounts] == [one.reserved for one in before]
        assert min(actual, estimate) <= result.charged <= actual
