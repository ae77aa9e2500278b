"""When a charge that was not accepted is sent again."""

import pytest

from comptroller.core.backoff import FIRST, MAX_BACKOFF, MAX_FLOOR, floor, honoured, pause


def test_pauses_double_up_to_a_bound():
    assert [pause(attempt, 1.0) for attempt in range(1, 5)] == [FIRST * 2**n for n in range(4)]
    assert pause(1_000_000, 1.0) == MAX_BACKOFF


@pytest.mark.parametrize("attempt", [1, 3, 50])
def test_chance_spreads_them_over_the_upper_half(attempt):
    most = pause(attempt, 1.0)
    assert pause(attempt, 0.0) == most / 2
    assert most / 2 < pause(attempt, 0.5) < most


def test_the_ledgers_own_time_counts_within_reason():
    assert floor(None, 5_000) == 0
    assert floor(4_000, 5_000) == 0
    assert floor(9_000, 5_000) == 4
    assert floor(10**15, 5_000) == MAX_FLOOR
    assert floor(10**400, 5_000) == MAX_FLOOR


@pytest.mark.parametrize(
    ("asked", "waited"), [(-1, 0), (0, 0), (7_000, 7_000), (10**400, 3_600_000)]
)
def test_a_wait_that_the_ledger_asks_for_has_an_end(asked, waited):
    assert honoured(asked) == waited
