"""The contract of a ledger, held by every implementation.

What the recorded exchanges of the reference server do not reach, and what callers of ours rely on:
the errors' types and fields, concurrency, cancellation, operators, time.
"""

import math

import anyio
import hypothesis
import pytest
from hypothesis import strategies as st
from runcycles import Amount, Caps, CyclesMetrics, Decision, Unit

from comptroller.errors import (
    BudgetExceeded,
    BudgetNotFound,
    ComptrollerError,
    LedgerRefused,
    UnitMismatch,
)
from comptroller.ledger.memory import open_memory
from comptroller.money import MOST, tokens, usd
from ledger.asking import (
    OVERDRAFT,
    REJECT,
    amount,
    asking,
    balance_of,
    committing,
    counts,
    deciding,
    event,
    extending,
    releasing,
)
from ledger.clocks import Clock

pytestmark = pytest.mark.anyio

DAY = 86_400_000


async def granted(ledger, key, count, **more):
    return await ledger.reserve(asking(key, count, **more))


async def test_reserve_locks_and_commit_charges_in_every_budgeted_scope(ledger):
    for scope, count in (("tenant:acme", 1000), ("tenant:acme/agent:triage", 500)):
        await ledger.set_budget(scope, amount(count))
    answer = await granted(ledger, "k", 100, agent="triage")
    assert [b.reserved.amount for b in answer.balances] == [100, 100]
    done = await ledger.commit(answer.reservation_id, committing("c", 30))
    assert (done.charged.amount, done.released.amount) == (30, 70)
    for scope, allocated in (("tenant:acme", 1000), ("tenant:acme/agent:triage", 500)):
        assert await balance_of(ledger, scope) == {
            "allocated": allocated,
            "spent": 30,
            "reserved": 0,
            "debt": 0,
            "remaining": allocated - 30,
        }


async def test_when_all_is_accepted_draining_it_takes_no_time(ledger):
    """A program that drains a server's ledger runs with an embedded one, too."""
    await ledger.set_budget("tenant:acme", amount(1000))
    answer = await granted(ledger, "k", 100)
    await ledger.commit(answer.reservation_id, committing("c", 30))
    with anyio.fail_after(5):
        assert await ledger.drain() == await ledger.drain(600) == 0


@pytest.mark.parametrize("timeout", [None, -1, float("nan"), "5"])
async def test_draining_takes_seconds(ledger, timeout):
    with pytest.raises(ValueError, match=r"timeout=.*: a number of seconds is wanted, at least 0"):
        await ledger.drain(timeout)


async def test_a_denial_carries_what_a_message_needs(ledger):
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
    assert denial.details["allocated"] == usd("0.02").amount
    assert "$0.05 requested, $0.02 left of $0.02" in str(denial)


async def test_no_budget_says_how_to_set_one(embedded):
    with pytest.raises(BudgetNotFound) as caught:
        await granted(embedded, "k", 1)
    text = str(caught.value)
    assert text.startswith(f"no budget for tenant acme in {embedded.name}; set one with: ")
    assert "\n" not in text
    assert (caught.value.status, caught.value.error_code) == (404, "NOT_FOUND")


async def test_another_unit_names_the_units_that_exist(ledger):
    await ledger.set_budget("tenant:acme", tokens(10))
    with pytest.raises(UnitMismatch) as caught:
        await granted(ledger, "k", 1)
    assert "TOKENS" in str(caught.value)
    assert caught.value.details == {
        "scope": "tenant:acme",
        "requested_unit": "USD_MICROCENTS",
        "expected_units": ["TOKENS"],
    }


async def test_a_scope_with_budgets_in_two_units_keeps_them_apart(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    await ledger.set_budget("tenant:acme", tokens(50))
    await granted(ledger, "k1", 100)
    await granted(ledger, "k2", 50, unit=Unit.TOKENS)
    assert (await balance_of(ledger, "tenant:acme"))["remaining"] == 0
    assert (await balance_of(ledger, "tenant:acme", Unit.TOKENS))["remaining"] == 0


async def test_half_of_two_hundred_callers_get_what_allows_half(ledger):
    """Law 9: what is granted at once never exceeds what remained."""
    await ledger.set_budget("tenant:acme", amount(100))
    outcomes = []

    async def ask(number):
        try:
            await granted(ledger, f"k{number}", 1, agent=f"a{number % 7}")
        except BudgetExceeded:
            outcomes.append("denied")
        else:
            outcomes.append("granted")

    async with anyio.create_task_group() as callers:
        for number in range(200):
            callers.start_soon(ask, number)
    assert (outcomes.count("granted"), outcomes.count("denied")) == (100, 100)
    assert (await balance_of(ledger, "tenant:acme"))["remaining"] == 0


async def test_the_same_request_at_the_same_time_is_performed_once(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    answers = []

    async def ask():
        answers.append((await granted(ledger, "k", 10)).reservation_id)

    async with anyio.create_task_group() as callers:
        for _ in range(20):
            callers.start_soon(ask)
    assert len(answers) == 20
    assert len(set(answers)) == 1
    assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 10


async def test_a_cancelled_request_is_done_whole_or_not_at_all(ledger):
    """And whoever asked at the same moment is answered."""
    await ledger.set_budget("tenant:acme", amount(1000))
    answered = []

    async def ask(number):
        answered.append((await granted(ledger, f"k{number}", 1), number))

    async with anyio.create_task_group() as callers:
        for number in range(20):
            if number % 2:
                callers.start_soon(ask, number)
                continue
            doomed = anyio.CancelScope()

            async def give_up(number=number, scope=doomed):
                with scope:
                    await ask(number)

            callers.start_soon(give_up)
            doomed.cancel()
    assert {number for _, number in answered} >= set(range(1, 20, 2))
    reserved = (await balance_of(ledger, "tenant:acme"))["reserved"]
    listed = (await ledger.reservations(tenant="acme")).reservations
    assert reserved == len(listed) >= len(answered)


async def test_a_replay_repeats_the_first_answer_but_for_the_time_left(embedded, clock):
    await embedded.set_budget("tenant:acme", amount(100), caps=Caps(max_tokens=5))
    first = await granted(embedded, "k", 10, ttl_ms=10_000)
    await granted(embedded, "other", 20)
    clock.advance(4_000)
    again = await granted(embedded, "k", 10, ttl_ms=10_000)
    assert again.remaining_ttl_ms == 6_000
    unchanged = {"remaining_ttl_ms": None}
    assert again.model_copy(update=unchanged) == first.model_copy(update=unchanged)
    await embedded.commit(first.reservation_id, committing("c", 10))
    assert (await granted(embedded, "k", 10, ttl_ms=10_000)).remaining_ttl_ms == 0


async def test_a_commit_is_replayed_with_its_own_balances(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    one = await granted(ledger, "k", 10)
    first = await ledger.commit(one.reservation_id, committing("c", 4))
    await granted(ledger, "other", 20)
    assert await ledger.commit(one.reservation_id, committing("c", 4)) == first


async def test_members_in_another_order_are_the_same_request(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    first = await granted(ledger, "k", 10, metadata={"a": 1, "b": {"c": 2, "d": 3}})
    again = await granted(ledger, "k", 10, metadata={"b": {"d": 3, "c": 2}, "a": 1})
    assert again.reservation_id == first.reservation_id
    with pytest.raises(LedgerRefused) as caught:
        await granted(ledger, "k", 10, metadata={"a": 2})
    assert caught.value.error_code == "IDEMPOTENCY_MISMATCH"


async def test_metadata_that_is_no_json_is_a_bad_request(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    with pytest.raises(LedgerRefused) as caught:
        await granted(ledger, "k", 10, metadata={"a": object()})
    assert caught.value.error_code == "INVALID_REQUEST"


async def test_one_commit_key_serves_many_reservations(ledger):
    """The endpoint of a commit names its reservation, so keys of two do not meet."""
    await ledger.set_budget("tenant:acme", amount(100))
    one, two = await granted(ledger, "k1", 10), await granted(ledger, "k2", 10)
    await ledger.commit(one.reservation_id, committing("done", 1))
    await ledger.commit(two.reservation_id, committing("done", 2))
    assert (await balance_of(ledger, "tenant:acme"))["spent"] == 3


async def test_a_lease_ends_by_itself_and_its_estimate_is_free_again(ledger, clock):
    await ledger.set_budget("tenant:acme", amount(100))
    one = await granted(ledger, "k", 60, ttl_ms=1_000, grace_period_ms=500)
    clock.advance(1_500)
    assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 60
    clock.advance(1)
    assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 0
    with pytest.raises(LedgerRefused) as caught:
        await ledger.commit(one.reservation_id, committing("c", 1))
    assert (caught.value.status, caught.value.error_code) == (410, "RESERVATION_EXPIRED")
    [row] = (await ledger.reservations(tenant="acme", status="EXPIRED")).reservations
    assert row.reservation_id == one.reservation_id


async def test_extending_moves_the_end_and_replays_verbatim(ledger, clock):
    await ledger.set_budget("tenant:acme", amount(100))
    one = await granted(ledger, "k", 60, ttl_ms=10_000)
    clock.advance(9_000)
    first = await ledger.extend(one.reservation_id, extending("x", 10_000))
    assert first.expires_at_ms == one.expires_at_ms + 10_000
    assert first.remaining_ttl_ms == 11_000
    await ledger.extend(one.reservation_id, extending("y", 10_000))
    clock.advance(1_000)
    again = await ledger.extend(one.reservation_id, extending("x", 10_000))
    assert again.expires_at_ms == first.expires_at_ms
    assert again.remaining_ttl_ms == 10_000
    clock.advance(15_000)
    await ledger.commit(one.reservation_id, committing("c", 60))


async def test_an_extended_lease_that_ends_unnoticed_frees_its_estimate_once(ledger, clock):
    """Nobody asked anything between its first end and its last one."""
    await ledger.set_budget("tenant:acme", amount(100))
    one = await granted(ledger, "k", 60, ttl_ms=1_000)
    await ledger.extend(one.reservation_id, extending("x", 1_000))
    clock.advance(60_000)
    shown = await balance_of(ledger, "tenant:acme")
    assert (shown["reserved"], shown["remaining"]) == (0, 100)


async def test_a_budget_set_after_a_reservation_is_not_part_of_it(ledger):
    """What a commit settles are the accounts that hold its estimate."""
    await ledger.set_budget("tenant:acme", amount(100))
    one = await granted(ledger, "k", 60, agent="triage")
    await ledger.set_budget("tenant:acme/agent:triage", amount(100))
    await ledger.release(one.reservation_id, releasing("l"))
    assert await balance_of(ledger, "tenant:acme/agent:triage") == {
        "allocated": 100,
        "spent": 0,
        "reserved": 0,
        "debt": 0,
        "remaining": 100,
    }


async def test_a_freeze_with_a_unit_concerns_the_budget_in_that_unit_alone(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    await ledger.set_budget("tenant:acme", tokens(100))
    await ledger.freeze("tenant:acme", Unit.TOKENS)
    await granted(ledger, "k", 60)
    assert [one.frozen for one in await ledger.budgets()] == [
        one.allocated.unit is Unit.TOKENS for one in await ledger.budgets()
    ]
    with pytest.raises(UnitMismatch):
        await ledger.unfreeze("tenant:acme", Unit.RISK_POINTS)
    await ledger.unfreeze("tenant:acme")
    assert not any(one.frozen for one in await ledger.budgets())


async def test_a_frozen_scope_refuses_new_spend_and_settles_the_old(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    one = await granted(ledger, "k", 60)
    await ledger.freeze("tenant:acme")
    with pytest.raises(BudgetExceeded) as caught:
        await granted(ledger, "k2", 1)
    assert caught.value.error_code == "BUDGET_FROZEN"
    await ledger.commit(one.reservation_id, committing("c", 50))
    await ledger.unfreeze("tenant:acme")
    await granted(ledger, "k2", 50)


async def test_a_closed_tenant_grants_nothing_and_keeps_its_history(ledger):
    """A customer that has gone: what was reserved settles, and `set_budget` opens it again."""
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
    await ledger.commit(one.reservation_id, committing("c", 50))
    assert (await balance_of(ledger, "tenant:acme"))["spent"] == 50
    await ledger.set_budget("tenant:acme", amount(100))
    await granted(ledger, "k2", 50)


async def test_a_scope_within_a_tenant_is_closed_alone(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    await ledger.set_budget("tenant:acme/agent:triage", amount(100))
    await ledger.close_budget("tenant:acme/agent:Triage")
    with pytest.raises(BudgetExceeded) as caught:
        await granted(ledger, "k", 1, agent="triage")
    assert caught.value.error_code == "BUDGET_CLOSED"
    await granted(ledger, "k2", 1, agent="other")


async def test_a_tenant_is_closed_that_has_budgets_within_it_only(ledger):
    """No call of any agent is granted, whether it had a budget or not."""
    await ledger.set_budget("tenant:acme/agent:triage", amount(100))
    await ledger.close_budget("tenant:acme")
    for agent in ("triage", "other"):
        with pytest.raises(BudgetExceeded) as caught:
            await granted(ledger, f"k-{agent}", 1, agent=agent)
        assert caught.value.error_code == "TENANT_CLOSED"
    with pytest.raises(BudgetNotFound):
        await ledger.close_budget("tenant:globex")


async def test_a_closed_budget_stays_closed_through_its_periods(embedded, clock):
    await embedded.set_budget("tenant:acme", amount(100), per="day")
    await embedded.close_budget("tenant:acme")
    clock.advance(2 * DAY)
    with pytest.raises(BudgetExceeded) as caught:
        await granted(embedded, "k", 1)
    assert caught.value.error_code == "TENANT_CLOSED"
    await embedded.freeze("tenant:acme")
    await embedded.unfreeze("tenant:acme")
    await embedded.fund("tenant:acme", amount(5))
    [shown] = await embedded.budgets()
    assert (shown.closed, shown.frozen) == (True, False)
    assert [entry.kind for entry in await embedded.events(kinds=["close"])] == ["close"]
    assert (await embedded.verify()).differences == ()


async def test_an_over_limit_scope_names_the_remedy_which_helps(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    await ledger.record(event("e", 150))
    with pytest.raises(BudgetExceeded) as caught:
        await granted(ledger, "k", 1)
    assert caught.value.error_code == "OVERDRAFT_LIMIT_EXCEEDED"
    assert "fund" in str(caught.value)
    await ledger.fund("tenant:acme", amount(10))
    await granted(ledger, "k", 10)


async def test_debt_beyond_a_limit_that_was_cut_blocks_until_it_is_paid(ledger):
    await ledger.set_budget("tenant:acme", amount(100), overdraft_limit=50)
    one = await granted(ledger, "k", 100, overage_policy=OVERDRAFT)
    await ledger.commit(one.reservation_id, committing("c", 140))
    await ledger.set_budget("tenant:acme", amount(100), overdraft_limit=10)
    decision = await ledger.decide(deciding("d", 1))
    assert (decision.decision, decision.reason_code) == (Decision.DENY, "OVERDRAFT_LIMIT_EXCEEDED")
    await ledger.set_budget("tenant:acme", amount(100))
    await ledger.fund("tenant:acme", amount(5))
    assert counts((await ledger.budgets())[0])["debt"] == 35
    await ledger.fund("tenant:acme", amount(40))
    assert counts((await ledger.budgets())[0])["remaining"] == 5


async def test_debt_within_its_limit_does_not_stop_new_spend(ledger):
    await ledger.set_budget("tenant:acme", amount(100), overdraft_limit=50)
    one = await granted(ledger, "k", 100, overage_policy=OVERDRAFT)
    await ledger.commit(one.reservation_id, committing("c", 140))
    await ledger.set_budget("tenant:acme", amount(500), overdraft_limit=40)
    await granted(ledger, "k2", 1)


async def test_rejected_overage_changes_nothing(ledger):
    await ledger.set_budget("tenant:acme", amount(1000))
    one = await granted(ledger, "k", 100, overage_policy=REJECT)
    with pytest.raises(BudgetExceeded, match="overage policy is REJECT"):
        await ledger.commit(one.reservation_id, committing("c", 101))
    assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 100
    await ledger.commit(one.reservation_id, committing("c", 100))


async def test_caps_of_all_scopes_bind_a_grant(ledger):
    await ledger.set_budget("tenant:acme", amount(100), caps=Caps(max_tokens=100))
    caps = Caps(max_tokens=200, tool_denylist=["shell"])
    await ledger.set_budget("tenant:acme/agent:triage", amount(100), caps=caps)
    answer = await granted(ledger, "k", 1, agent="triage")
    assert answer.decision is Decision.ALLOW_WITH_CAPS
    assert answer.caps == Caps(max_tokens=100, tool_denylist=["shell"])


async def test_caps_below_a_share_come_with_what_is_granted_near_the_end(ledger):
    caps = Caps(max_tokens=5, tool_denylist=["shell"])
    await ledger.set_budget("tenant:acme", amount(100), caps=caps, caps_below="20%")
    for key, count, expected in (("k1", 80, None), ("k2", 1, None), ("k3", 19, caps)):
        answer = await granted(ledger, key, count)
        assert answer.caps == expected
    assert answer.decision is Decision.ALLOW_WITH_CAPS
    await ledger.release(answer.reservation_id, releasing("r"))
    await ledger.fund("tenant:acme", amount(100))
    assert (await ledger.decide(deciding("d", 1))).caps is None


async def test_setting_a_budget_again_keeps_what_was_spent(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    await ledger.record(event("e", 30))
    shown = await ledger.set_budget("tenant:acme", amount(20))
    assert counts(shown)["remaining"] == -10


async def test_a_budget_per_day_is_whole_again_the_next_day(ledger, clock):
    await ledger.set_budget("tenant:acme", amount(100), per="day")
    await ledger.record(event("e", 150))
    with pytest.raises(BudgetExceeded):
        await granted(ledger, "k", 1)
    clock.advance(DAY)
    shown = await balance_of(ledger, "tenant:acme")
    assert shown == {"allocated": 100, "spent": 0, "reserved": 0, "debt": 0, "remaining": 100}
    await granted(ledger, "k", 100)
    assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 100


async def test_scopes_are_written_as_people_write_them(ledger):
    await ledger.set_budget("tenant:Acme/agent:Triage agent", amount(100))
    answer = await granted(ledger, "k", 1, tenant="acme", agent="triage-agent")
    assert answer.balances[0].scope_path == "tenant:acme/agent:triage-agent"


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
async def test_bad_budgets_are_refused_with_one_clear_line(ledger, scope, given, kind):
    with pytest.raises(kind) as caught:
        await ledger.set_budget(scope, given)
    assert "\n" not in str(caught.value)
    assert await ledger.budgets() == []


@pytest.mark.parametrize("limit", [1.5, True, "1"])
async def test_an_overdraft_limit_is_a_whole_number(ledger, limit):
    with pytest.raises(TypeError, match="overdraft_limit"):
        await ledger.set_budget("tenant:acme", amount(1), overdraft_limit=limit)


async def test_a_negative_overdraft_limit_is_refused(ledger):
    with pytest.raises(ValueError, match="overdraft_limit=-1"):
        await ledger.set_budget("tenant:acme", amount(1), overdraft_limit=-1)


@pytest.mark.parametrize("count", [-1, True, MOST + 1])
async def test_an_amount_that_escaped_validation_is_refused(ledger, count):
    """A negative estimate would add to the budget."""
    await ledger.set_budget("tenant:acme", amount(100))
    one = await granted(ledger, "k", 10)
    wrong = Amount.model_construct(unit=Unit.USD_MICROCENTS, amount=count)
    for call in (
        ledger.reserve(asking("k2", 1).model_copy(update={"estimate": wrong})),
        ledger.record(event("e", 1).model_copy(update={"actual": wrong})),
        ledger.commit(one.reservation_id, committing("c", 1).model_copy(update={"actual": wrong})),
    ):
        with pytest.raises(LedgerRefused) as caught:
            await call
        assert caught.value.error_code == "INVALID_REQUEST"


async def test_how_money_moves_may_be_written_as_a_word(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    shown = await ledger.fund("tenant:acme", amount(30), operation="DEBIT")
    assert shown.allocated.amount == 70
    with pytest.raises(ValueError, match="operation='GIVE': write CREDIT, DEBIT, REPAY_DEBT"):
        await ledger.fund("tenant:acme", amount(30), operation="GIVE")


@pytest.mark.parametrize("wrong", [5, b"acme", ["acme"]])
async def test_a_filter_that_is_no_text_is_refused(embedded, wrong):
    for asked in (embedded.balances, embedded.reservations, embedded.usage, embedded.events):
        with pytest.raises(TypeError, match=r"tenant=.*: give a string"):
            await asked(tenant=wrong)
    with pytest.raises(TypeError, match=r"agent=.*: give a string"):
        await embedded.reservations(tenant="acme", agent=wrong)


async def test_funding_and_freezing_need_a_budget(ledger):
    with pytest.raises(BudgetNotFound, match="set one with"):
        await ledger.fund("tenant:acme/agent:x", amount(1))
    with pytest.raises(BudgetNotFound, match="set one with"):
        await ledger.freeze("tenant:acme")
    await ledger.set_budget("tenant:acme", tokens(1))
    with pytest.raises(UnitMismatch, match="TOKENS"):
        await ledger.fund("tenant:acme", amount(1))


async def test_no_amount_grows_beyond_what_the_protocol_carries(ledger):
    await ledger.set_budget("tenant:acme", amount(MOST), overdraft_limit=MOST)
    with pytest.raises(ComptrollerError):
        await ledger.fund("tenant:acme", amount(1))
    await ledger.record(event("e1", MOST))
    with pytest.raises(BudgetExceeded):
        await ledger.record(event("e2", MOST, policy=OVERDRAFT))
    assert (await balance_of(ledger, "tenant:acme"))["spent"] == MOST


async def test_tenants_do_not_see_each_other(ledger):
    for name in ("acme", "globex"):
        await ledger.set_budget(f"tenant:{name}", amount(100))
    one = await granted(ledger, "k", 10)
    for call in (
        ledger.commit(one.reservation_id, committing("c", 1), tenant="globex"),
        ledger.reservation(one.reservation_id, tenant="globex"),
        ledger.reserve(asking("k", 1), tenant="globex"),
    ):
        with pytest.raises(LedgerRefused) as caught:
            await call
        assert (caught.value.status, caught.value.error_code) == (403, "FORBIDDEN")
    assert (await ledger.reservations(tenant="globex")).reservations == []


@pytest.mark.parametrize("value", ["a/agent:b", "a b", "x" * 129, "ü", ""])
async def test_a_subject_cannot_smuggle_a_scope(ledger, value):
    await ledger.set_budget("tenant:acme", amount(100))
    with pytest.raises((LedgerRefused, ValueError)):
        await granted(ledger, "k", 1, workspace=value)


@pytest.mark.parametrize("name", ["rsv_1_0000000000000000", "rsv_zz", "", "1", "rsv_1_"])
async def test_an_id_is_not_guessed(ledger, name):
    await ledger.set_budget("tenant:acme", amount(100))
    await granted(ledger, "k", 1)
    with pytest.raises(LedgerRefused) as caught:
        await ledger.reservation(name)
    assert caught.value.error_code == "NOT_FOUND"


async def test_reservations_come_in_pages_newest_first(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    made = [(await granted(ledger, f"k{n}", 1)).reservation_id for n in range(5)]
    seen, cursor = [], None
    while True:
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
async def test_a_wrong_page_is_a_bad_request(ledger, wrong):
    with pytest.raises(LedgerRefused) as caught:
        await ledger.reservations(tenant="acme", **wrong)
    assert caught.value.error_code == "INVALID_REQUEST"


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [1, {"deep": (one,)}]])
async def test_a_number_that_is_none_to_json_is_a_bad_request_and_changes_nothing(
    embedded, number, wrap
):
    await embedded.set_budget("tenant:acme", amount(100))
    said = {"number": wrap(number)}
    one = await granted(embedded, "k", 10)
    for refused in (
        granted(embedded, "l", 10, metadata=said),
        embedded.commit(one.reservation_id, committing("c", 4, metadata=said)),
        embedded.commit(one.reservation_id, committing("c", 4, metrics=CyclesMetrics(custom=said))),
    ):
        with pytest.raises(LedgerRefused, match="no finite number") as caught:
            await refused
        assert (caught.value.status, caught.value.error_code) == (400, "INVALID_REQUEST")
    await embedded.commit(one.reservation_id, committing("c", 4, metadata={"number": [1.5]}))
    [shown] = await embedded.budgets()
    assert (shown.spent.amount, shown.reserved.amount) == (4, 0)


@pytest.mark.parametrize("text", ["\ud800", "\udfff-x", "x\udc80"])
@pytest.mark.parametrize("wrap", [lambda one: {"run": one}, lambda one: {one: [1, {one: (one,)}]}])
async def test_half_a_character_is_a_bad_request_and_disturbs_nobody(embedded, text, wrap):
    await embedded.set_budget("tenant:acme", amount(100))
    said = wrap(text)
    one = await granted(embedded, "k", 10)
    for refused in (
        granted(embedded, "l", 10, metadata=said),
        granted(embedded, "denied", 1000, metadata=said),
        embedded.commit(one.reservation_id, committing("c", 4, metadata=said)),
        embedded.commit(one.reservation_id, committing("c", 4, metrics=CyclesMetrics(custom=said))),
    ):
        with pytest.raises(LedgerRefused, match="surrogate") as caught:
            await refused
        assert (caught.value.status, caught.value.error_code) == (400, "INVALID_REQUEST")
    await embedded.commit(one.reservation_id, committing("c", 4, metadata=wrap("\U0001d11e")))
    [shown] = await embedded.budgets()
    assert (shown.spent.amount, shown.reserved.amount) == (4, 0)
    assert (await embedded.verify()).differences == ()


async def test_a_number_of_too_many_digits_is_a_bad_request(embedded):
    await embedded.set_budget("tenant:acme", amount(100))
    with pytest.raises(LedgerRefused, match="digits") as caught:
        await granted(embedded, "k", 10, metadata={"number": 10**5000})
    assert caught.value.error_code == "INVALID_REQUEST"


async def test_what_was_committed_is_found_on_the_reservation(ledger):
    await ledger.set_budget("tenant:acme", amount(100))
    one = await granted(ledger, "k", 10, metadata={"run": "r"})
    await ledger.commit(one.reservation_id, committing("c", 4, metadata={"tokens": 7}))
    shown = await ledger.reservation(one.reservation_id, tenant="acme")
    assert (shown.status.value, shown.committed.amount) == ("COMMITTED", 4)
    assert shown.metadata == {"run": "r"}


amounts = st.integers(min_value=0, max_value=60)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), amounts, st.sampled_from(["a", "b"])),
        st.tuples(st.just("commit"), amounts, st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("event"), amounts, st.sampled_from(["a", "b"])),
        st.tuples(st.just("fund"), amounts),
        st.tuples(st.just("pass"), st.integers(1, 90_000)),
    ),
    max_size=30,
)


@hypothesis.given(steps)
def test_charges_never_exceed_the_budget_and_balances_always_add_up(taken):
    """Under the default policy, whatever is asked in whatever order."""
    anyio.run(hold_the_invariants, taken, Clock())


async def hold_the_invariants(taken, clock):
    budget, charged, live = {"tenant:acme": 100, "tenant:acme/agent:a": 70}, {"*": 0, "a": 0}, []
    async with open_memory(now=clock) as ledger:
        for scope, count in budget.items():
            await ledger.set_budget(scope, amount(count))
        for number, step in enumerate(taken):
            try:
                done = await take(ledger, clock, live, number, *step)
            except (BudgetExceeded, LedgerRefused):
                done = None
            if step[0] == "fund":
                budget["tenant:acme"] += step[1]
            if done is not None:
                agent, count = done
                charged["*"] += count
                charged["a"] += count if agent == "a" else 0
            for shown in await ledger.budgets():
                figures = counts(shown)
                assert figures["remaining"] == (
                    figures["allocated"] - figures["spent"] - figures["reserved"] - figures["debt"]
                )
                assert figures["remaining"] >= 0
                assert figures["spent"] == charged["a" if "/" in shown.scope_path else "*"]
                assert figures["spent"] <= budget[shown.scope_path] == figures["allocated"]


async def take(ledger, clock, live, number, verb, *given):
    """Take one step; what it charged, and to whom."""
    if verb == "reserve":
        count, agent = given
        made = await ledger.reserve(asking(f"k{number}", count, agent=agent))
        live.append((made.reservation_id, agent))
    elif verb == "fund":
        await ledger.fund("tenant:acme", amount(given[0]))
    elif verb == "pass":
        clock.advance(given[0])
    elif verb == "event":
        count, agent = given
        answer = await ledger.record(event(f"e{number}", count, agent=agent))
        return agent, answer.charged.amount if answer.charged else count
    elif live:
        name, agent = live[given[-1] % len(live)]
        if verb == "commit":
            answer = await ledger.commit(name, committing(f"c{number}", given[0]))
            return agent, answer.charged.amount
        await ledger.release(name, releasing(f"l{number}"))
    return None
