"""Amounts are exact whole numbers, and what cannot be exact is refused with a line that helps."""

import decimal
import math
import pickle
import string
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runcycles import Amount, Unit

from comptroller import CallReceipt, Receipt, open_ledger
from comptroller.ledger.models import Usage
from comptroller.money import MAX_AMOUNT, amount, formatted, risk_points, show, tokens, usd

DOLLARS = st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("dollars", "microcents"),
    [
        ("0.05", 5_000_000),
        (1, 100_000_000),
        (Decimal("12.5"), 1_250_000_000),
        ("1e-8", 1),
        (" 2 ", 200_000_000),
        ("0", 0),
        ("-0", 0),
        ("0e99999999", 0),
        ("92233720368.54775807", MAX_AMOUNT),
    ],
)
def test_a_dollar_is_a_hundred_million_microcents(dollars, microcents):
    assert usd(dollars) == Amount(unit=Unit.USD_MICROCENTS, amount=microcents)


@pytest.mark.parametrize(
    ("dollars", "microcents"),
    [
        ("0.000000001", 1),
        ("1e-999999999", 1),
        ("0." + "0" * 5000 + "1", 1),
        ("10000000000.0000000000000000001", 10**18 + 1),  # more digits than decimal's default 28
    ],
)
def test_a_fraction_of_a_microcent_is_rounded_up(dollars, microcents):
    assert usd(dollars).amount == microcents


@given(DOLLARS)
def test_rounding_up_is_exact_for_any_number_of_digits(dollars):
    assert usd(dollars).amount == math.ceil(Fraction(dollars) * 10**8)


@given(DOLLARS)
def test_the_caller_s_decimal_context_changes_nothing(dollars):
    """A program that computes with two digits and traps inexact results still pays exactly."""
    exact = usd(dollars)
    with decimal.localcontext(prec=2, rounding=decimal.ROUND_DOWN, traps=[decimal.Inexact]):
        assert usd(dollars) == exact
        assert usd(str(dollars)) == exact
        shown = show(exact)
    assert Decimal(shown.replace("$", "").replace(",", "")) * 10**8 == exact.amount


@pytest.mark.parametrize("dollars", [0.05, 1e-7, 1e20])
def test_a_float_is_refused_with_the_string_to_write(dollars):
    with pytest.raises(TypeError) as refused:
        usd(dollars)
    assert str(refused.value) == f'usd({dollars!r}): money must be exact: write usd("{dollars}")'


@pytest.mark.parametrize("given", [True, None, b"1", [], 1j, math.nan, math.inf])
def test_what_is_no_number_of_dollars_is_refused(given):
    with pytest.raises(TypeError, match=r'^usd\(.*\): give a string such as usd\("0.05"\)'):
        usd(given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("$5", "not an amount: write it like usd"),
        ("five", "not an amount"),
        ("", "not an amount"),
        ("0,05", "not an amount"),
        ("1\n2", "not an amount"),
        ("nan", "not an amount that the protocol can carry"),
        ("Infinity", "not an amount that the protocol can carry"),
        (Decimal("sNaN"), "not an amount that the protocol can carry"),
        ("1e999999", "not an amount that the protocol can carry"),
        pytest.param(10**5000, "not an amount that the protocol can carry", id="huge"),
        ("9" * 5000, "not an amount that the protocol can carry"),
        (-1, "at least 0"),
        ("-0.000000001", "at least 0"),  # not rounded up to nothing
        ("92233720368.54775808", r"at most \$92,233,720,368.54775807"),
    ],
)
def test_an_impossible_amount_is_refused_in_one_short_line(given, problem):
    with pytest.raises(ValueError, match=problem) as refused:
        usd(given)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("make", [tokens, risk_points])
class TestCounts:
    def test_a_count_is_kept(self, make):
        assert make(5000).amount == 5000
        assert make(MAX_AMOUNT).amount == MAX_AMOUNT
        assert make(0).amount == 0

    @pytest.mark.parametrize("given", [True, 5.0, "5", None, Decimal(5)])
    def test_what_is_no_int_is_refused(self, make, given):
        with pytest.raises(TypeError, match="amounts are whole numbers: write an int"):
            make(given)

    @pytest.mark.parametrize("given", [-1, MAX_AMOUNT + 1, pytest.param(10**5000, id="huge")])
    def test_what_the_protocol_cannot_carry_is_refused(self, make, given):
        with pytest.raises(ValueError, match="at least 0 and at most 9,223,372,036,854,775,807 "):
            make(given)


def test_each_maker_has_its_unit():
    units = [usd(1).unit, tokens(1).unit, risk_points(1).unit, amount(Unit.CREDITS, 1).unit]
    assert units == [Unit.USD_MICROCENTS, Unit.TOKENS, Unit.RISK_POINTS, Unit.CREDITS]


@pytest.mark.parametrize(
    ("unit", "count", "text"),
    [
        (Unit.USD_MICROCENTS, 5_000_000, "$0.05"),
        (Unit.USD_MICROCENTS, 10**9, "$10.00"),
        (Unit.USD_MICROCENTS, 1, "$0.00000001"),
        (Unit.USD_MICROCENTS, 12_345_678_900, "$123.456789"),
        (Unit.USD_MICROCENTS, 0, "$0.00"),
        (Unit.USD_MICROCENTS, -150_000_000, "-$1.50"),
        (Unit.USD_MICROCENTS, MAX_AMOUNT, "$92,233,720,368.54775807"),
        (Unit.TOKENS, 5000, "5,000 tokens"),
        (Unit.TOKENS, 1, "1 token"),
        (Unit.TOKENS, -1, "-1 token"),
        (Unit.RISK_POINTS, 50, "50 risk points"),
        (Unit.CREDITS, 0, "0 credits"),
    ],
)
def test_people_read_amounts(unit, count, text):
    assert formatted(unit, count) == text


@given(st.integers(min_value=-MAX_AMOUNT, max_value=MAX_AMOUNT))
def test_a_shown_amount_of_money_loses_nothing(count):
    text = formatted(Unit.USD_MICROCENTS, count).replace("$", "").replace(",", "")
    assert Fraction(text) * 10**8 == count
    assert len(text.partition(".")[2]) >= 2
    assert set(text) <= set(string.digits + "-.")


def test_sums_and_what_holds_amounts_are_read_by_people():
    """`str` of whatever holds an amount is what a person would write, never an enum's repr."""
    charged = CallReceipt(
        id="llm-1", episode="1", kind="llm.completion", agent="A", name="m",
        reserved=usd("0.05"), charged=usd("0.01416"),
    )  # fmt: skip
    receipt = Receipt(run_id="r", tenant="acme", calls=(charged,))
    assert str(receipt.charged) == "$0.01416"
    assert receipt.charged == {Unit.USD_MICROCENTS: 1_416_000}
    assert str(receipt.by_agent["A"]) == str(receipt.by_model["m"]) == "$0.01416"
    assert receipt.cost == Decimal("0.01416")
    assert str(Receipt(run_id="r", tenant="acme").charged) == "nothing"
    assert Receipt(run_id="r", tenant="acme").cost == 0
    assert pickle.loads(pickle.dumps(receipt.charged)) == receipt.charged
    assert str(Usage({"agent": "A", "tool": ""}, Unit.TOKENS, calls=1, charged=5)) == (
        "agent A, tool -: 5 tokens charged, 1 call"
    )


@pytest.mark.anyio
async def test_a_budget_is_read_by_people():
    async with open_ledger("memory:") as ledger:
        await ledger.set_budget("tenant:acme", usd("10"), per="day")
        [budget] = await ledger.budgets()
    assert str(budget) == "tenant:acme: $10.00 left of $10.00 each day (UTC)"
    assert show(budget.remaining) == "$10.00"
