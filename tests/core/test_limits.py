"""The caller's ceilings and the ledger's caps, before any round trip."""

from datetime import timedelta

import pytest
from runcycles import Caps, Unit

from comptroller.core.limits import LimitBreach, UsageTotals, breach, tool_allowed
from comptroller.money import risk_points, tokens, usd
from comptroller.policy import Limits

NOTHING = risk_points(0)


def used(*, calls=(), tokens_used=0, spend=()) -> UsageTotals:
    tally = UsageTotals(tokens=tokens_used)
    tally.calls.update(dict(calls))
    tally.spend.update(dict(spend))
    return tally


def of(
    kind="llm", name="openai:gpt", estimate=NOTHING, tally=None, *, caps=None, steps=None, **limits
):
    return breach(kind, name, estimate, tally or UsageTotals(), Limits(**limits), caps, steps)


def test_without_limits_everything_may_begin():
    busy = used(calls={"llm": 10**6, "tool": 10**6}, tokens_used=10**12)
    assert of(tally=busy) is None
    assert of("tool", "search", tally=busy) is None


@pytest.mark.parametrize(("before", "allowed"), [(0, True), (1, True), (2, False), (3, False)])
def test_llm_calls_are_counted(before, allowed):
    found = of(tally=used(calls={"llm": before, "tool": 99}), llm_calls=2)
    assert (found is None) is allowed


def test_a_limit_of_none_at_all_is_a_limit():
    assert of(llm_calls=0) == LimitBreach("the run's limit of llm_calls=0 is reached")
    assert of("tool", "search", tool_calls=0) is not None


def test_tool_calls_are_counted_together():
    busy = used(calls={"tool": 2, "tool:search": 2})
    assert of("tool", "mail", tally=busy, tool_calls=2) is not None
    assert of("llm", tally=busy, tool_calls=2) is None


def test_tool_calls_are_counted_by_name():
    """A tool that is not named has no limit; the text names the one that has."""
    busy = used(calls={"tool": 9, "tool:search": 2, "tool:mail": 7})
    found = of("tool", "search", tally=busy, tool_calls={"search": 2})
    assert found == LimitBreach("the run's limit of tool_calls[search]=2 is reached")
    assert of("tool", "mail", tally=busy, tool_calls={"search": 2}) is None


def test_tokens_stop_the_next_llm_call_not_the_tools():
    busy = used(tokens_used=1_000)
    found = of(tally=busy, tokens=1_000)
    assert found == LimitBreach(
        "the run's limit of 1,000 tokens is reached (1,000 used)", unit=Unit.TOKENS, remaining=0
    )
    assert of("tool", "search", tally=busy, tokens=1_000) is None
    assert of(tally=used(tokens_used=999), tokens=1_000) is None


def test_spend_has_to_have_room_for_the_estimate():
    busy = used(spend={Unit.USD_MICROCENTS: usd("0.08").amount})
    assert of(estimate=usd("0.02"), tally=busy, spend=usd("0.10")) is None
    found = of(estimate=usd("0.03"), tally=busy, spend=usd("0.10"))
    assert found == LimitBreach(
        "the run's limit of $0.10: $0.03 requested, $0.02 left",
        unit=Unit.USD_MICROCENTS,
        requested=3_000_000,
        remaining=2_000_000,
    )


def test_what_is_overdrawn_is_nothing_left():
    busy = used(spend={Unit.TOKENS: 150})
    found = of(estimate=tokens(1), tally=busy, spend=tokens(100))
    assert found is not None
    assert found.remaining == 0


def test_a_limit_in_one_unit_does_not_bind_another():
    busy = used(spend={Unit.RISK_POINTS: 10**6})
    assert of(estimate=risk_points(5), tally=busy, spend=usd("0.01")) is None


def test_what_costs_nothing_never_exceeds_a_spend():
    busy = used(spend={Unit.RISK_POINTS: 10})
    assert of("tool", "free", risk_points(0), busy, spend=risk_points(5)) is None


@pytest.mark.parametrize("kind", ["llm", "tool"])
def test_the_ledgers_cap_on_steps_comes_first(kind):
    found = of(kind, "search", steps=0, llm_calls=0, tool_calls=0)
    assert found is not None
    assert found.by_caps
    assert of(kind, "search", steps=1) is None


def test_a_forbidden_tool_is_the_ledgers_word():
    caps = Caps(tool_denylist=["delete"])
    found = of("tool", "delete", caps=caps)
    assert found == LimitBreach("the ledger's caps forbid the tool delete", by_caps=True)
    assert of("tool", "read", caps=caps) is None
    assert of("llm", "delete", caps=caps) is None


@pytest.mark.parametrize(
    ("caps", "name", "allowed"),
    [
        (Caps(), "read", True),
        (Caps(tool_allowlist=["read"]), "read", True),
        (Caps(tool_allowlist=["read"]), "Read", False),
        (Caps(tool_allowlist=["read"]), "write", False),
        (Caps(tool_allowlist=["read"], tool_denylist=["read"]), "read", True),
        (Caps(tool_allowlist=[]), "read", True),
        (Caps(tool_allowlist=[], tool_denylist=["read"]), "read", False),
        (Caps(tool_denylist=["Read"]), "read", True),
    ],
)
def test_a_full_allowlist_wins_and_an_empty_one_is_none(caps, name, allowed):
    """Protocol, Caps; names are case-sensitive."""
    assert tool_allowed(caps, name) is allowed


def test_seconds_are_a_number_or_a_timedelta():
    assert Limits(seconds=timedelta(minutes=2)).seconds == 120
    assert Limits(seconds=1.5).seconds == 1.5
