"""What a call reserves, and what it turns out to have cost."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runcycles import Amount, Unit

from comptroller.core.estimates import (
    DEFAULT_ESTIMATE,
    ActualCost,
    Estimate,
    Fixed,
    Learned,
    LlmRequest,
    WorstCase,
    actual,
    resolve_estimate,
)
from comptroller.core.pricing import Price, PriceBook, TokenCount
from comptroller.money import risk_points, tokens, usd
from comptroller.policy import Policy

PRICES = PriceBook({"acme:large": Price("1", "10")})  # 100 and 1 000 microcents a token


def request(model="acme:large", agent="triage", characters=4_000, max_tokens=None):
    return LlmRequest(model, agent, characters, max_tokens)


def microcents(count):
    return Amount(unit=Unit.USD_MICROCENTS, amount=count)


# -- the request


@pytest.mark.parametrize(("characters", "count"), [(0, 0), (1, 1), (4, 1), (5, 2), (4_000, 1_000)])
def test_input_is_counted_at_four_characters_a_token_rounded_up(characters, count):
    assert request(characters=characters).input_tokens == count


# -- strategies


def test_fixed_reserves_its_amount_for_any_call():
    assert Fixed(tokens(9)).estimate(request("nobody:knows"), PRICES) == tokens(9)


def test_the_worst_case_is_the_input_and_all_the_output_that_the_call_allows():
    estimate = WorstCase().estimate(request(max_tokens=50), PRICES)
    assert estimate == microcents(1_000 * 100 + 50 * 1_000)


def test_a_call_that_sets_no_limit_is_assumed_to_have_the_strategys():
    assert WorstCase().estimate(request(), PRICES) == microcents(1_000 * 100 + 4_096 * 1_000)
    assert WorstCase(7).estimate(request(), PRICES) == microcents(1_000 * 100 + 7 * 1_000)


def test_a_limit_of_zero_is_a_limit():
    assert WorstCase().estimate(request(max_tokens=0), PRICES) == microcents(1_000 * 100)


def test_a_limit_below_zero_is_none():
    """What some servers take for "no limit" ends no run."""
    assert WorstCase(7).estimate(request(max_tokens=-1), PRICES) == WorstCase(7).estimate(
        request(), PRICES
    )


def test_tokens_beyond_what_a_ledger_can_carry_are_the_most_it_can():
    in_tokens = WorstCase(unit=Unit.TOKENS)
    assert in_tokens.estimate(request(max_tokens=2**63 - 1), PRICES) == tokens(2**63 - 1)
    used = TokenCount(input=2**63 - 1, output=1)
    assert actual(Unit.TOKENS, "m", used, PRICES, tokens(1)).amount == tokens(2**63 - 1)


def test_the_worst_case_of_an_unknown_price_is_unknown():
    assert WorstCase().estimate(request("nobody:knows"), PRICES) is None


def test_the_worst_case_in_tokens_needs_no_price():
    in_tokens = WorstCase(unit=Unit.TOKENS)
    assert in_tokens.estimate(request("nobody:knows", max_tokens=5), PRICES) == tokens(1_005)


@pytest.mark.parametrize("unit", [Unit.RISK_POINTS, Unit.CREDITS, "EUROS"])
def test_the_worst_case_is_known_in_money_and_tokens_only(unit):
    with pytest.raises(ValueError, match=r"EUROS|unit"):
        WorstCase(unit=unit)


# -- learning


def test_what_was_learned_is_a_quantile_of_the_past():
    strategy = Learned(quantile=0.95, seen=20)
    for cost in range(1, 101):
        strategy.learn("triage", "acme:large", microcents(cost))
    assert strategy.estimate(request(), PRICES) == microcents(95)


def test_until_enough_is_known_the_fallback_decides():
    strategy = Learned(seen=3, fallback=Fixed(usd("1")))
    for _ in range(2):
        strategy.learn("triage", "acme:large", usd("2"))
        assert strategy.estimate(request(), PRICES) == usd("1")
    strategy.learn("triage", "acme:large", usd("2"))
    assert strategy.estimate(request(), PRICES) == usd("2")


def test_what_one_agent_or_model_cost_says_nothing_of_another():
    strategy = Learned(seen=1, fallback=Fixed(usd("1")))
    strategy.learn("triage", "acme:large", usd("2"))
    assert strategy.estimate(request(agent="writer"), PRICES) == usd("1")
    assert strategy.estimate(request(model="acme:small"), PRICES) == usd("1")


def test_only_the_last_calls_are_remembered():
    strategy = Learned(quantile=1, seen=1, keep=3)
    for cost in (9_000, 1, 2, 3):
        strategy.learn("triage", "acme:large", microcents(cost))
    assert strategy.estimate(request(), PRICES) == microcents(3)


def test_agents_named_anew_for_every_run_do_not_fill_the_memory():
    strategy = Learned(seen=1)
    for number in range(3_000):
        strategy.learn(f"agent-{number}", "acme:large", usd("2"))
    assert len(strategy._past) <= 1_024
    assert strategy.learned(request(agent="agent-2999")) == usd("2")
    assert strategy.learned(request(agent="agent-0")) is None


def test_amounts_of_two_units_are_not_mixed():
    strategy = Learned(quantile=1, seen=1)
    strategy.learn("triage", "acme:large", usd("2"))
    strategy.learn("triage", "acme:large", tokens(30))
    assert strategy.estimate(request(), PRICES) == tokens(30)


def test_threads_may_learn_and_ask_at_once():
    strategy = Learned(quantile=1, seen=1, keep=10)

    def work(cost):
        strategy.learn("triage", "acme:large", microcents(cost))
        return strategy.estimate(request(), PRICES).amount

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, [5] * 400)) == {5}


@pytest.mark.parametrize("wrong", [{"quantile": 0}, {"quantile": 1.1}, {"seen": 0}, {"keep": 0}])
def test_a_learner_that_could_not_learn_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Learned(**wrong)


# -- what Policy.llm_estimate means


class Half:
    """A strategy of the user's own."""

    def __init__(self, answer):
        self.answer = answer

    def estimate(self, request, prices, /):
        return self.answer


@pytest.mark.parametrize(
    ("given", "model", "amount", "source"),
    [
        (None, "acme:large", microcents(100_000 + 4_096_000), "worst-case"),
        (None, "nobody:knows", DEFAULT_ESTIMATE, "default"),
        (usd("0.05"), "nobody:knows", usd("0.05"), "fixed"),
        (Fixed(tokens(3)), "nobody:knows", tokens(3), "fixed"),
        (WorstCase(max_tokens=1), "acme:large", microcents(101_000), "worst-case"),
        (WorstCase(), "nobody:knows", DEFAULT_ESTIMATE, "default"),
        (WorstCase(1, Unit.TOKENS), "nobody:knows", tokens(1_001), "worst-case"),
        (Learned(fallback=Fixed(usd("1"))), "acme:large", usd("1"), "fixed"),
        (Learned(fallback=usd("1")), "acme:large", usd("1"), "fixed"),
        (Learned(), "nobody:knows", DEFAULT_ESTIMATE, "default"),
        (Half(usd("3")), "acme:large", usd("3"), "custom"),
        (Half(None), "acme:large", DEFAULT_ESTIMATE, "default"),
    ],
)
def test_the_reservation_and_its_source(given, model, amount, source):
    policy = Policy(llm_estimate=given)
    resolved = resolve_estimate(policy.llm_estimate, request(model), PRICES)
    assert (resolved.amount, resolved.source) == (amount, source)
    assert (resolved.output is not None) is (source == "worst-case")


def test_a_learner_that_knows_enough_is_the_source():
    strategy = Learned(seen=1)
    strategy.learn("triage", "acme:large", usd("2"))
    assert resolve_estimate(strategy, request(), PRICES) == Estimate(usd("2"), "learned")


def test_the_default_is_half_a_cent():
    assert usd("0.005") == DEFAULT_ESTIMATE


def test_a_strategy_that_returns_no_amount_is_named():
    with pytest.raises(TypeError, match=r"returned 0\.5: return an Amount"):
        resolve_estimate(Half(0.5), request(), PRICES)


# -- what a call cost

USED = TokenCount(input=100, cached=40, output=7, reasoning=2)


class PricedInTokens:
    def price(self, model, used, /):
        return tokens(1)


@pytest.mark.parametrize(
    ("unit", "model", "used", "estimate", "expected"),
    [
        (Unit.TOKENS, "nobody:knows", USED, tokens(500), ActualCost(tokens(107), "usage")),
        (Unit.TOKENS, "acme:large", None, tokens(500), ActualCost(tokens(500), "estimate")),
        (
            Unit.USD_MICROCENTS,
            "acme:large",
            USED,
            usd("1"),
            ActualCost(microcents(17_000), "usage"),
        ),
        (Unit.USD_MICROCENTS, "acme:large", None, usd("1"), ActualCost(usd("1"), "estimate")),
        (Unit.USD_MICROCENTS, "nobody:knows", USED, usd("1"), ActualCost(usd("1"), "estimate")),
        (
            Unit.RISK_POINTS,
            "acme:large",
            USED,
            risk_points(5),
            ActualCost(risk_points(5), "estimate"),
        ),
        (
            Unit.CREDITS,
            "acme:large",
            USED,
            Amount(unit=Unit.CREDITS, amount=2),
            ActualCost(Amount(unit=Unit.CREDITS, amount=2), "estimate"),
        ),
    ],
)
def test_what_a_call_cost_and_where_that_is_known_from(unit, model, used, estimate, expected):
    assert actual(unit, model, used, PRICES, estimate) == expected


def test_a_price_in_another_unit_is_no_price():
    cost = actual(Unit.USD_MICROCENTS, "acme:large", USED, PricedInTokens(), usd("1"))
    assert cost == ActualCost(usd("1"), "estimate")


counts = st.integers(0, 10**9)


@given(st.sampled_from([Unit.TOKENS, Unit.USD_MICROCENTS]), counts, counts, counts)
def test_an_actual_is_whole_not_negative_and_grows_with_the_tokens(unit, given_in, given_out, more):
    estimate = Amount(unit=unit, amount=1)

    def cost(input_tokens, output_tokens):
        used = TokenCount(input=input_tokens, output=output_tokens)
        known = actual(unit, "acme:large", used, PRICES, estimate)
        assert known.source == "usage"
        assert known.amount.unit is unit
        assert type(known.amount.amount) is int
        return known.amount.amount

    assert 0 <= cost(given_in, given_out) <= cost(given_in + more, given_out)
    assert cost(given_in, given_out) <= cost(given_in, given_out + more)


@given(st.integers(0, 10**8), st.none() | st.integers(0, 10**7))
def test_a_reservation_covers_any_call_that_keeps_to_the_request(characters, max_tokens):
    """Whatever part of the input was cached, and however short the answer."""
    call = request(characters=characters, max_tokens=max_tokens)
    reserved = resolve_estimate(None, call, PRICES).amount
    most = TokenCount(
        input=call.input_tokens,
        cached=call.input_tokens // 2,
        output=4_096 if max_tokens is None else max_tokens,
    )
    cost = actual(Unit.USD_MICROCENTS, call.model, most, PRICES, reserved)
    assert cost.amount.amount <= reserved.amount


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (lambda: Fixed(0.05), TypeError, r"amount=0.05: give an amount such as usd\("),
        (lambda: WorstCase("4096"), TypeError, "max_tokens: '4096' is not a whole number"),
        (lambda: WorstCase(-1), ValueError, "max_tokens: -1: the least is 0"),
        (lambda: WorstCase(unit=Unit.RISK_POINTS), ValueError, "unit=RISK_POINTS: write USD_MICRO"),
        (lambda: WorstCase(unit="dollars"), ValueError, "unit='dollars': write USD_MICROCENTS or"),
        (lambda: Learned(fallback=0.5), TypeError, r'fallback: 0.5 is no.*: write usd\("0.5"\)'),
        (lambda: Learned(fallback=WorstCase), TypeError, r"fallback: .*: write WorstCase\(\)"),
        (lambda: Learned(quantile="high"), TypeError, "quantile='high': give a number such as"),
        (lambda: Learned(quantile=0), ValueError, "quantile=0: more than 0, and at most 1"),
        (lambda: Learned(seen=0), ValueError, "seen: 0: the least is 1"),
        (lambda: Learned(keep=2.5), TypeError, "keep: 2.5 is not a whole number"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_line_that_says_what_to_write(wrong, kind, message):
    with pytest.raises(kind, match=message) as raised:
        wrong()
    assert "\n" not in str(raised.value)
