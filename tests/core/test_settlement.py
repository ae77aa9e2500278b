"""What a call's end does to the ledger, row by row, and what the ledger's answers mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runcycles import Amount, Unit

from comptroller.core.pricing import TokenCount
from comptroller.core.settlement import (
    Abandoned,
    Commit,
    Finished,
    NotStarted,
    PartialUsage,
    Release,
    SettlementAction,
    next_action,
    refused_before_work,
    settlement,
)
from comptroller.errors import CredentialsMissing, LedgerError
from comptroller.money import risk_points, tokens, usd


class Book:
    """Ten microcents a token in, a hundred a token out; `unknown` models have no price."""

    def price(self, model: str, used: TokenCount, /) -> Amount | None:
        if model == "unknown":
            return None
        return Amount(unit=Unit.USD_MICROCENTS, amount=10 * used.input + 100 * used.output)


ESTIMATE = usd("0.05")
USED = TokenCount(input=1_000, cached=200, output=50, reasoning=20)
LLM = PartialUsage(model="openai:gpt", input_tokens=1_000)
UNPRICED = PartialUsage(model="unknown", input_tokens=1_000)
TOOL = PartialUsage()


def decide(end, spent=LLM, estimate=ESTIMATE, on_abandoned="charge"):
    return settlement(end, estimate, spent, Book(), on_abandoned)


# -- from the end to a decision


def test_an_answer_with_usage_costs_exactly_that():
    expected = Amount(unit=Unit.USD_MICROCENTS, amount=15_000)
    assert decide(Finished(USED)) == Commit(expected, "usage")


def test_where_the_budget_counts_tokens_usage_is_tokens():
    assert decide(Finished(USED), estimate=tokens(9_000)) == Commit(tokens(1_050), "usage")


def test_usage_above_the_estimate_is_told_as_it_is():
    """What the ledger makes of it is the overage policy's business, not ours."""
    commit = decide(Finished(USED), estimate=tokens(5))
    assert commit == Commit(tokens(1_050), "usage")


def test_an_answer_without_usage_costs_its_estimate():
    assert decide(Finished()) == Commit(ESTIMATE, "estimate")


def test_an_answer_of_unknown_price_costs_its_estimate():
    assert decide(Finished(USED), UNPRICED) == Commit(ESTIMATE, "estimate")


def test_usage_says_nothing_about_risk():
    assert decide(Finished(USED), estimate=risk_points(7)) == Commit(risk_points(7), "estimate")


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 415, 418, 422, 429, 451])
def test_what_never_began_is_released_a_client_error_among_it(status):
    assert refused_before_work(status)
    assert decide(NotStarted("no")) == Release("no")


@pytest.mark.parametrize("status", [None, 307, 408, 409, 425, 499, 500, 502, 503, 504])
def test_any_other_failure_may_have_been_billed(status):
    """A time-out, a lost connection, a 5xx, any exception: charged as policy says (law 3)."""
    assert not refused_before_work(status)
    assert decide(Abandoned("time-out")) == Commit(ESTIMATE, "estimate", "time-out")


def test_a_call_cancelled_in_flight_is_charged_its_estimate():
    assert decide(Abandoned("cancelled")) == Commit(ESTIMATE, "estimate", "cancelled")


def test_a_cut_stream_is_charged_its_input_and_what_was_streamed():
    spent = PartialUsage(model="openai:gpt", input_tokens=1_000, streamed=30)
    expected = Amount(unit=Unit.USD_MICROCENTS, amount=13_000)
    assert decide(Abandoned("cut"), spent) == Commit(expected, "streamed", "cut")


def test_a_cut_stream_is_never_charged_more_than_was_reserved():
    spent = PartialUsage(model="openai:gpt", input_tokens=1_000, streamed=10**9)
    assert decide(Abandoned("cut"), spent) == Commit(ESTIMATE, "streamed", "cut")


def test_a_cut_stream_of_unknown_price_is_charged_its_estimate():
    spent = PartialUsage(model="unknown", input_tokens=1_000, streamed=30)
    assert decide(Abandoned("cut"), spent) == Commit(ESTIMATE, "estimate", "cut")


def test_usage_of_a_response_that_the_sdk_rejected_is_charged():
    """It was answered, hence it is finished, whatever became of the answer."""
    assert isinstance(decide(Finished(USED)), Commit)


@pytest.mark.parametrize("spent", [LLM, TOOL])
def test_what_never_began_is_released(spent):
    assert decide(NotStarted("a sibling failed"), spent) == Release("a sibling failed")


def test_a_tool_costs_what_its_function_says():
    end = Finished(cost=risk_points(3))
    assert decide(end, TOOL, risk_points(10)) == Commit(risk_points(3), "tool")


def test_a_tool_that_says_nothing_costs_its_estimate():
    assert decide(Finished(), TOOL, risk_points(10)) == Commit(risk_points(10), "estimate")


def test_a_tool_given_up_after_it_began_costs_its_estimate():
    """Its side effect may have happened."""
    commit = decide(Abandoned("it raised"), TOOL, risk_points(10))
    assert commit == Commit(risk_points(10), "estimate", "it raised")


@pytest.mark.parametrize("spent", [LLM, TOOL, PartialUsage(model="openai:gpt", streamed=30)])
def test_policy_may_give_back_what_was_abandoned(spent):
    """And the receipt can still tell it from what never began."""
    assert decide(Abandoned("cut"), spent, on_abandoned="release") == Release("cut", abandoned=True)


ENDS = st.one_of(
    st.builds(Finished, st.none() | st.builds(TokenCount, input=st.integers(0, 10**6))),
    st.builds(Abandoned, st.text()),
)


@given(
    end=ENDS,
    model=st.sampled_from([None, "unknown", "openai:gpt"]),
    streamed=st.none() | st.integers(0, 10**6),
    unit=st.sampled_from([Unit.USD_MICROCENTS, Unit.TOKENS, Unit.RISK_POINTS]),
    estimate=st.integers(0, 10**7),
)
def test_work_that_ran_is_never_released(end, model, streamed, unit, estimate):
    """Law 3, for any end; the unit stays, and abandoned work stays within what was reserved."""
    reserved = Amount(unit=unit, amount=estimate)
    decision = decide(end, PartialUsage(model=model, input_tokens=9, streamed=streamed), reserved)
    assert isinstance(decision, Commit)
    assert decision.actual.unit is unit
    assert decision.actual.amount <= estimate or isinstance(end, Finished)


# -- from the ledger's answer to the next step


@pytest.mark.parametrize(
    ("status", "code", "then"),
    [
        # a 2xx that does not validate, or is not the protocol's: ambiguous
        (200, None, SettlementAction.RETRY),
        (201, None, SettlementAction.RETRY),
        (204, None, SettlementAction.RETRY),
        # no answer, 5xx
        (-1, None, SettlementAction.RETRY),
        (500, "INTERNAL_ERROR", SettlementAction.RETRY),
        (503, None, SettlementAction.RETRY),
        # 429, whatever it says
        (429, "LIMIT_EXCEEDED", SettlementAction.RETRY),
        (429, None, SettlementAction.RETRY),
        # the lease is over
        (410, "RESERVATION_EXPIRED", SettlementAction.RECORD),
        (410, None, SettlementAction.RECORD),
        (409, "RESERVATION_EXPIRED", SettlementAction.RECORD),
        # the key: spent budget is never released for it
        (401, "UNAUTHORIZED", SettlementAction.KEEP),
        (403, "FORBIDDEN", SettlementAction.KEEP),
        (401, None, SettlementAction.KEEP),
        # an earlier attempt arrived
        (409, "RESERVATION_FINALIZED", SettlementAction.SETTLED),
        # a defect of ours
        (409, "IDEMPOTENCY_MISMATCH", SettlementAction.STOP),
        # another recognised 4xx
        (400, "INVALID_REQUEST", SettlementAction.STOP),
        (400, "UNIT_MISMATCH", SettlementAction.STOP),
        (404, "NOT_FOUND", SettlementAction.STOP),
        (409, "BUDGET_EXCEEDED", SettlementAction.STOP),
        (409, "BUDGET_FROZEN", SettlementAction.STOP),
        (409, "OVERDRAFT_LIMIT_EXCEEDED", SettlementAction.STOP),
        (409, "DEBT_OUTSTANDING", SettlementAction.STOP),
        # an unrecognised 4xx
        (400, None, SettlementAction.KEEP),
        (418, "TEAPOT", SettlementAction.KEEP),
        (404, None, SettlementAction.KEEP),
    ],
)
def test_what_follows_on_an_answer_to_a_settlement(status, code, then):
    assert next_action(LedgerError("", status=status, error_code=code)) is then


def test_what_is_no_answer_of_a_ledger_can_be_mended():
    assert next_action(CredentialsMissing("no key")) is SettlementAction.KEEP
