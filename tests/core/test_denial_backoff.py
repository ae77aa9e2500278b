"""A denial is repeated for a short, growing time."""

from runcycles import Subject

from comptroller.core.circuit_breaker import (
    FIRST_DENIAL_BACKOFF,
    MAX_DENIAL_BACKOFF,
    DenialBackoff,
    scopes,
)

NO = "BUDGET_EXCEEDED"


def denied(times, amount=100, now=0.0, code=NO):
    known = DenialBackoff(code, amount, since=now)
    for _ in range(times - 1):
        known = known.again(code, amount, now, now)
    return known


def test_the_first_is_not_repeated():
    assert not denied(1).holds(100, 0.0)


def test_the_time_grows_up_to_a_bound():
    assert [denied(times).until for times in range(2, 6)] == [
        FIRST_DENIAL_BACKOFF,
        FIRST_DENIAL_BACKOFF * 2,
        FIRST_DENIAL_BACKOFF * 4,
        FIRST_DENIAL_BACKOFF * 8,
    ]
    assert denied(100).until == MAX_DENIAL_BACKOFF


def test_it_ends():
    assert denied(2).holds(100, FIRST_DENIAL_BACKOFF - 0.01)
    assert not denied(2).holds(100, FIRST_DENIAL_BACKOFF)


def test_less_than_was_ever_refused_may_fit_unless_the_scope_is_closed():
    known = denied(2).again(NO, 80, 0.0, 0.0)
    assert (known.holds(80, 0.0), known.holds(79, 0.0)) == (True, False)
    assert denied(2, code="BUDGET_FROZEN").holds(1, 0.0)


def test_what_a_closed_scope_refused_might_fit_once_it_is_open():
    known = denied(2, amount=10, code="BUDGET_FROZEN")
    for sent in (-1.0, 0.0):
        later = known.again(NO, 100, sent, 0.0)
        assert (later.holds(100, 0.0), later.holds(50, 0.0)) == (True, False)


def test_a_subject_that_no_ledger_takes_has_no_scopes():
    assert scopes(Subject(tenant="acme", agent="a")) == ("tenant:acme", "tenant:acme/agent:a")
    assert scopes(Subject(tenant="not a name")) == ()


def test_denials_that_lie_far_apart_are_no_loop():
    known = denied(9)
    now = known.until + MAX_DENIAL_BACKOFF + 1
    later = known.again(NO, 500, now, now)
    assert (later.times, later.least) == (1, 500)


def test_those_under_way_together_count_as_one():
    known = DenialBackoff(NO, 100, since=2.0)
    for amount in range(99, 0, -1):
        known = known.again(NO, amount, sent=1.0, now=2.0)
    assert (known.times, known.least, known.holds(100, 2.0)) == (1, 1, False)
    assert known.again(NO, 100, sent=2.0, now=3.0).until == 3.0 + FIRST_DENIAL_BACKOFF
