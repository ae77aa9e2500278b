"""The terms of a budget: what is taken, and how what is not is refused."""

import pytest
from runcycles import Caps

from comptroller.core.budgets import BudgetTerms, percent
from comptroller.money import usd


@pytest.mark.parametrize("given", ["80%", " 80 % ", 80])
def test_a_share_is_written_as_a_percentage_or_as_its_number(given):
    assert percent(given, "alerts") == 80


@pytest.mark.parametrize("given", [0, 101, "0%", "101%", -1])
def test_a_share_is_of_the_whole(given):
    with pytest.raises(ValueError, match="1% to 100%"):
        percent(given, "alerts")


@pytest.mark.parametrize("given", [0.8, True, None, "0.8", "much", "80"])
def test_what_is_no_share_is_shown_how_to_be_written(given):
    with pytest.raises(TypeError, match="'80%'"):
        percent(given, "alerts")


def test_alerts_rise_and_are_each_of_them_one():
    assert BudgetTerms(usd(1), alerts=["80%", 50, "50%"]).alerts == (50, 80)
    assert BudgetTerms(usd(1), alerts="80%").alerts == (80,)


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        ({"per": "week"}, ValueError, "day"),
        ({"zone": "Europe/Berlin"}, ValueError, "per="),
        ({"per": "day", "zone": "Mars"}, ValueError, "Europe/Berlin"),
        ({"caps": {"max_tokens": 5}}, TypeError, "Caps"),
        ({"caps_below": "20%"}, ValueError, "caps"),
        ({"caps_below": 0.2, "caps": Caps(max_tokens=5)}, TypeError, "80%"),
        ({"overdraft_limit": -1}, ValueError, "overdraft_limit=-1"),
    ],
)
def test_terms_that_make_no_sense_are_refused_in_one_line(wrong, kind, text):
    with pytest.raises(kind, match=text) as caught:
        BudgetTerms(usd(1), **wrong)
    assert "\n" not in str(caught.value)
