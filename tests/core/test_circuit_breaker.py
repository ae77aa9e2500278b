"""A ledger that gives no answer is left in peace, for a growing time, and tried now and then."""

from comptroller.core.circuit_breaker import CLOSED, FIRST, MAX_COOLDOWN, TOLERATED, CircuitBreaker


def after(failures, now=100.0):
    circuit = CLOSED
    for _ in range(failures):
        circuit = circuit.unanswered(now, now)
    return circuit


def test_a_few_silences_are_tolerated():
    for failures in range(TOLERATED):
        circuit = after(failures)
        assert (circuit.open, circuit.rest(100.0)) == (False, 0.0)


def test_it_rests_longer_each_time_and_not_for_ever():
    rests = [after(TOLERATED + more).rest(100.0) for more in range(40)]
    assert rests[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert rests == sorted(rests)
    assert rests[-1] == MAX_COOLDOWN


def test_when_it_has_rested_one_goes_through_and_the_others_wait_for_that():
    circuit = after(TOLERATED)
    assert circuit.rest(100.0 + FIRST) == 0
    probing = circuit.sent(100.0 + FIRST)
    assert probing.rest(100.0 + FIRST) > 0


def test_a_closed_circuit_lets_everything_through():
    assert CLOSED.sent(5.0) is CLOSED
    assert CircuitBreaker(failures=1).rest(5.0) == 0


def test_those_under_way_together_count_as_one():
    circuit = CLOSED
    for _ in range(100):
        circuit = circuit.unanswered(sent=1.0, now=2.0)
    assert (circuit.failures, circuit.open) == (1, False)
    assert circuit.unanswered(sent=2.0, now=3.0).failures == 2
