"""The heartbeat's schedule: the protocol's clauses one by one, then against simulated ledgers."""

import math

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comptroller.core.heartbeat import (
    ExtendAfter,
    Lease,
    Permanent,
    Stop,
    Throttled,
    Transient,
    failure_of,
)
from comptroller.errors import LedgerError

LOST = Transient("no answer")


@attrs.frozen
class Answer:
    remaining_ttl_ms: int | None = None
    expires_at_ms: int | None = None


def granted(remaining_ms=60_000, rtt_ms=0, timeout_ms=10_000, at=100.0, **settings):
    """A lease whose create was answered at `at`, and its first step."""
    lease = Lease.first(60_000, timeout_ms, **settings)
    return lease.answered(Answer(remaining_ms), at - rtt_ms / 1000, at)


def failing(lease, failure, *instants):
    """`lease` after one failure at each instant, and the last step."""
    step = None
    for instant in instants:
        lease, step = lease.failed(failure, instant, instant)
    return lease, step


# -- PRIMARY ALGORITHM: the schedule


def test_the_documents_own_example():
    """60 000 ms of lead, a 10 000 ms timeout, 1 500 ms of rtt seen: about 37 000 ms."""
    lease, step = granted(remaining_ms=61_500, rtt_ms=1_500)
    assert lease.lead_floor_ms == 60_000
    assert lease.attempt_budget_ms == 10_000
    assert lease.safety_margin_ms == 3_000
    assert lease.retry_reserve_ms == 23_000
    assert step == ExtendAfter(37.0, same_key=False)


def test_the_rtt_is_deducted_from_what_remains():
    assert granted(60_000, rtt_ms=0)[1] == ExtendAfter(39.0)
    assert granted(60_000, rtt_ms=250)[1] == ExtendAfter(38.75)


def test_a_timeout_of_half_the_lease_leaves_no_delay():
    """The document: 30 000 ms of timeout make the reserve at least 61 000 ms."""
    lease, step = granted(60_000, timeout_ms=30_000)
    assert lease.retry_reserve_ms == 61_000
    assert step == ExtendAfter(0.0)


def test_budget_and_margin_are_at_least_a_second():
    lease, step = granted(60_000, timeout_ms=10)
    assert (lease.attempt_budget_ms, lease.safety_margin_ms) == (1_000, 1_000)
    assert step == ExtendAfter(57.0)


def test_the_longest_rtt_counts_even_when_later_ones_are_short():
    lease, _ = granted(60_000, rtt_ms=8_000)
    lease, _ = lease.answered(Answer(60_000), 139.0, 139.1)
    assert lease.attempt_budget_ms == 16_000
    assert lease.safety_margin_ms == 16_000


def test_each_answer_decides_alone():
    """Nothing is added up: the second answer says less remains, so less remains."""
    lease, _ = granted(60_000)
    _, step = lease.answered(Answer(31_000), 139.0, 139.0)
    assert step == ExtendAfter(10.0)


def test_durations_are_rounded_so_that_the_margin_is_kept():
    """An rtt of a third of a millisecond costs one; a timeout is rounded up as well."""
    lease, step = Lease.first(60_000, 9_999.2).answered(Answer(60_000), 100.0, 100.00033)
    assert lease.lead_floor_ms == 59_999
    assert lease.attempt_budget_ms == 10_000
    assert step == ExtendAfter(38.999)


def test_nothing_overflows():
    lease, step = granted(2**63 - 1, rtt_ms=1)
    assert 0 < step.delay_seconds < math.inf
    lease, step = granted(10**400)
    assert 0 < step.delay_seconds < math.inf
    lease, step = lease.answered(Answer(60_000), 0.0, 1e306)
    assert step == ExtendAfter(0.0)


@pytest.mark.parametrize(
    ("sent", "received"),
    [(None, 100.0), (100.0, None), (None, None), (math.nan, 100.0), (101.0, 100.0), (0, math.inf)],
)
def test_without_reliable_timing_there_is_no_lead(sent, received):
    lease, step = Lease.first(60_000, 10_000).answered(Answer(60_000), sent, received)
    assert lease.lead_floor_ms == 0
    assert step == ExtendAfter(0.0)
    assert isinstance(lease.answered(Answer(60_000), sent, received)[1], Stop)


def test_an_attempt_without_timing_is_forgotten_by_the_next_with_one():
    lease, _ = Lease.first(60_000, 10_000).answered(Answer(60_000), None, None)
    assert lease.answered(Answer(60_000), 100.0, 100.0)[1] == ExtendAfter(39.0)


def test_an_unbounded_timeout_leaves_no_delay():
    lease, step = granted(60_000, timeout_ms=None)
    assert lease.attempt_budget_ms == math.inf
    assert step == ExtendAfter(0.0)
    assert isinstance(lease.answered(Answer(10**9), 100.0, 100.0)[1], Stop)


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_timeout_is_positive(timeout):
    with pytest.raises(ValueError, match="timeout"):
        Lease.first(60_000, timeout)


# -- PRIMARY ALGORITHM: no zero-delay loop


def test_one_immediate_extension_may_establish_a_lead():
    """A ledger that adds to the lease: none of the reserve fits at first, then it does."""
    lease, step = granted(15_000)
    assert step == ExtendAfter(0.0, same_key=False)
    lease, step = lease.answered(Answer(75_000), 100.0, 100.0)
    assert step == ExtendAfter(54.0)
    assert isinstance(lease.answered(Answer(15_000), 154.0, 154.0)[1], ExtendAfter)


def test_two_answers_without_a_delay_stop_it():
    """A ledger that holds a maximum lead is not asked again and again."""
    lease, _ = granted(15_000)
    _, step = lease.answered(Answer(15_000), 100.0, 100.0)
    assert isinstance(step, Stop)
    assert "ttl_ms" in step.reason


def test_a_delay_of_a_millisecond_is_the_same_loop():
    lease, step = granted(21_001)
    assert step == ExtendAfter(0.001)
    assert isinstance(lease.answered(Answer(21_001), 100.0, 100.0)[1], Stop)


# -- PRIMARY ALGORITHM: failures


def test_a_lost_answer_is_retried_with_the_same_key():
    lease, _ = granted(60_000)
    # 20 s later: 40 s are left, a quarter of them is the shortest of the three bounds
    assert failing(lease, LOST, 120.0)[1] == ExtendAfter(10.0, same_key=True)


@pytest.mark.parametrize(
    ("elapsed", "delay"),
    [
        (0, 30.0),  # 200 s left: 30 s is the most
        (100, 25.0),  # 100 s left: a quarter
        (186, 3.0),  # 14 s left: the window, after a budget of 10 s and a margin of 1 s
        (189, 0.0),  # 11 s left: at once
    ],
)
def test_a_retry_waits_for_the_least_of_its_three_bounds(elapsed, delay):
    lease, _ = granted(200_000)
    assert failing(lease, LOST, 100.0 + elapsed)[1] == ExtendAfter(delay, same_key=True)


def test_no_retry_without_room_for_a_whole_attempt():
    lease, _ = granted(60_000)
    assert isinstance(failing(lease, LOST, 149.0005)[1], Stop)


def test_the_lead_counts_from_the_last_success_through_all_failures():
    lease, _ = granted(60_000)
    _, step = failing(lease, LOST, 120.0, 130.0, 140.0)
    assert step == ExtendAfter(5.0, same_key=True)  # 20 s left: a quarter


def test_a_window_of_nothing_is_retried_once():
    """Even where a coarse clock reports the same instant again."""
    lease, _ = granted(60_000)
    lease, step = failing(lease, LOST, 149.0)
    assert step == ExtendAfter(0.0, same_key=True)
    assert isinstance(failing(lease, LOST, 149.0)[1], Stop)


def test_a_clock_that_does_not_advance_ends_the_recovery():
    lease, _ = granted(60_000)
    lease, step = failing(lease, LOST, 120.0)
    assert isinstance(step, ExtendAfter)
    assert isinstance(failing(lease, LOST, 120.0)[1], Stop)


def test_a_success_forgets_the_failures_before_it():
    lease, _ = granted(60_000)
    lease, _ = failing(lease, LOST, 149.0)
    lease, step = lease.answered(Answer(60_000), 149.0, 149.0)
    assert step == ExtendAfter(39.0)
    assert isinstance(failing(lease, LOST, 149.0)[1], ExtendAfter)


@pytest.mark.parametrize("now", [None, math.nan, 99.0])
def test_a_failure_at_an_unknown_time_leaves_no_room(now):
    lease, _ = granted(60_000)
    assert isinstance(lease.failed(LOST, now, now)[1], Stop)


def test_nothing_is_retried_before_a_first_success():
    assert isinstance(failing(Lease.first(60_000, 10_000), LOST, 100.0)[1], Stop)


def test_an_attempt_that_outlasts_its_timeout_raises_the_budget():
    """A time-out that is not enforced is no bound: what was seen is."""
    lease, _ = granted(60_000)
    lease, step = lease.failed(LOST, 100.0, 118.0)
    assert lease.attempt_budget_ms == 18_000
    assert step == ExtendAfter(10.5, same_key=True)
    assert isinstance(lease.failed(LOST, 128.5, 146.5)[1], Stop)


# -- PRIMARY ALGORITHM: throttling


def test_retry_after_is_kept_exactly():
    lease, _ = granted(60_000)
    assert failing(lease, Throttled(7_000), 120.0)[1] == ExtendAfter(7.0, same_key=True)


def test_retry_after_may_use_the_whole_window():
    lease, _ = granted(60_000)
    assert failing(lease, Throttled(29_000), 120.0)[1] == ExtendAfter(29.0, same_key=True)
    assert isinstance(failing(lease, Throttled(29_001), 120.0)[1], Stop)


@pytest.mark.parametrize("unusable", [None, -1, 10**400])
def test_an_unusable_retry_after_stops_it(unusable):
    lease, _ = granted(60_000)
    assert isinstance(failing(lease, Throttled(unusable), 120.0)[1], Stop)


def test_retry_after_zero_ends_with_the_window():
    lease, _ = granted(60_000)
    step, now, beats = ExtendAfter(0.0), 100.0, 0
    while isinstance(step, ExtendAfter):
        now, beats = now + 0.5, beats + 1
        lease, step = failing(lease, Throttled(0), now)
    assert now <= 150.0
    assert beats > 90


# -- what an answer means


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (-1, None, Transient("no answer")),
        (200, None, Transient("an answer 200 that is no valid success")),
        (204, None, Transient("an answer 204 that is no valid success")),
        (500, "INTERNAL_ERROR", Transient("500 INTERNAL_ERROR")),
        (503, None, Transient("503")),
        (429, "LIMIT_EXCEEDED", Throttled(2_000)),
        (302, None, Permanent("302")),
        (400, "INVALID_REQUEST", Permanent("400 INVALID_REQUEST")),
        (401, "UNAUTHORIZED", Permanent("401 UNAUTHORIZED")),
        (403, "FORBIDDEN", Permanent("403 FORBIDDEN")),
        (404, "NOT_FOUND", Permanent("404 NOT_FOUND")),
        (409, "RESERVATION_FINALIZED", Permanent("409 RESERVATION_FINALIZED")),
        (409, "MAX_EXTENSIONS_EXCEEDED", Permanent("409 MAX_EXTENSIONS_EXCEEDED")),
        (409, "TENANT_CLOSED", Permanent("409 TENANT_CLOSED")),
        (410, "RESERVATION_EXPIRED", Permanent("410 RESERVATION_EXPIRED")),
    ],
)
def test_what_an_extends_answer_means(status, code, meaning):
    assert (
        failure_of(LedgerError("", status=status, error_code=code, retry_after_ms=2_000)) == meaning
    )


@pytest.mark.parametrize("remaining", [60_000, None])
def test_a_permanent_answer_stops_it_on_both_paths(remaining):
    lease, _ = granted(remaining)
    assert failing(lease, Permanent("410 RESERVATION_EXPIRED"), 101.0)[1] == Stop(
        "410 RESERVATION_EXPIRED"
    )


# -- caps of one's own


def test_the_age_of_a_lease_can_be_capped():
    lease, step = granted(60_000, max_age=100)
    assert step == ExtendAfter(39.0)
    lease, step = lease.answered(Answer(60_000), 139.0, 139.0)
    assert step == ExtendAfter(39.0)
    assert isinstance(lease.answered(Answer(60_000), 178.0, 178.0)[1], Stop)
    assert isinstance(failing(lease, LOST, 150.0)[1], ExtendAfter)


def test_the_number_of_extensions_can_be_capped():
    lease, step = granted(60_000, max_extensions=2)
    lease, step = lease.answered(Answer(60_000), 139.0, 139.0)
    assert isinstance(step, ExtendAfter)
    assert isinstance(failing(lease, LOST, 150.0)[1], ExtendAfter)
    lease, step = lease.answered(Answer(60_000), 178.0, 178.0)
    assert isinstance(step, Stop)
    assert "max_extensions" in step.reason


def test_no_extension_at_all_can_be_asked_for():
    assert isinstance(granted(60_000, max_extensions=0)[1], Stop)


# -- FALLBACK: answers without remaining_ttl_ms


def measured(*answers, ttl_ms=60_000):
    """The step after (expires_at_ms, seconds) of a create and then of extensions."""
    lease, step = Lease.first(ttl_ms, 10_000), None
    for expires_at_ms, at in answers:
        lease, step = lease.answered(Answer(None, expires_at_ms), at, at)
    return lease, step


def test_the_first_extension_comes_early():
    """Nothing bounds the first lease: half the shortest one that the protocol allows."""
    assert measured((1_000_000, 100.0))[1] == ExtendAfter(0.5)


def test_a_full_grant_beats_at_half_of_it():
    assert measured((1_000_000, 100.0), (1_060_000, 100.5))[1] == ExtendAfter(30.0)
    assert measured((1_000_000, 100.0), (1_054_000, 100.5))[1] == ExtendAfter(27.0)


def test_nine_tenths_of_what_was_asked_are_a_full_grant_even_after_as_long_a_time():
    assert measured((1_000_000, 100.0), (1_054_000, 154.0))[1] == ExtendAfter(27.0)
    assert measured((1_000_000, 100.0), (1_053_999, 154.0))[1].notice is not None


def test_a_smaller_grant_is_a_smaller_lease():
    assert measured((1_000_000, 100.0), (1_010_000, 100.5))[1] == ExtendAfter(5.0)


def test_beats_never_come_faster_than_half_a_second():
    assert measured((1_000_000, 100.0), (1_000_100, 110.0))[1] == ExtendAfter(0.5)


@pytest.mark.parametrize("grant", [-5, 0, 7_500, 10_000, 12_500])
def test_a_grant_like_the_time_since_the_last_is_a_maximum_lead(grant):
    """A fixed cadence is held, and its owner is told that the extensions may run out."""
    _, step = measured((1_000_000, 100.0), (1_000_000 + grant, 110.0))
    assert step.delay_seconds == 30.0
    assert "run out" in step.notice
    _, step = measured((1_000_000, 100.0), (1_000_000 + grant, 110.0), ttl_ms=24_000)
    assert step.delay_seconds == 12.0


@pytest.mark.parametrize("grant", [7_499, 12_501])
def test_beside_the_band_a_grant_is_taken_at_its_word(grant):
    _, step = measured((1_000_000, 100.0), (1_000_000 + grant, 110.0))
    assert step == ExtendAfter(grant // 2 / 1000)


def test_a_beat_is_skipped_while_a_lead_and_a_half_is_certain():
    """Three grants of a minute within a second: 90 s of lead are reached after 90 s."""
    early = [(1_000_000 + 60_000 * n, 100.0 + n / 10) for n in range(4)]
    _, step = measured(*early)
    assert step == ExtendAfter(90.0)  # at 60 s the lead is still 119.7 s, at 90 s it is 89.7 s


def test_an_expiry_that_is_missing_measures_nothing():
    _, step = measured((None, 100.0), (1_000_000, 100.5))
    assert step.delay_seconds == 30.0


def test_the_field_brings_the_primary_path_back_and_its_absence_the_fallback():
    lease, _ = measured((1_000_000, 100.0))
    lease, step = lease.answered(Answer(60_000, 1_060_000), 100.5, 100.5)
    assert step == ExtendAfter(39.0)
    assert lease.answered(Answer(None, 1_120_000), 139.5, 139.5)[1] == ExtendAfter(0.5)


def test_only_answers_in_a_row_are_a_loop_without_delay():
    lease, _ = granted(15_000)
    lease, _ = lease.answered(Answer(None, 1_000_000), 100.0, 100.0)
    assert lease.answered(Answer(15_000), 100.5, 100.5)[1] == ExtendAfter(0.0)


def test_the_fallback_is_not_chosen_because_local_timing_is_missing():
    lease, _ = Lease.first(60_000, 10_000).answered(Answer(60_000, 1_000_000), None, None)
    assert isinstance(lease.answered(Answer(60_000, 1_060_000), None, None)[1], Stop)


def test_the_fallback_without_timing_still_waits():
    lease, step = Lease.first(60_000, 10_000), None
    for expires in range(1_000_000, 2_000_000, 60_000):
        lease, step = lease.answered(Answer(None, expires), None, None)
        assert step.delay_seconds >= 0.5


def test_a_lost_answer_is_repeated_under_its_key_unhurried():
    lease, _ = measured((1_000_000, 100.0))
    assert failing(lease, LOST, 110.0, 500.0)[1] == ExtendAfter(7.5, same_key=True)


def test_throttling_is_honoured_on_the_fallback_too():
    lease, _ = measured((1_000_000, 100.0))
    assert failing(lease, Throttled(4_000), 101.0)[1] == ExtendAfter(4.0, same_key=True)
    assert failing(lease, Throttled(0), 101.0)[1] == ExtendAfter(0.5, same_key=True)
    assert isinstance(failing(lease, Throttled(None), 101.0)[1], Stop)
    assert isinstance(failing(lease, Throttled(60_001), 101.0)[1], Stop)


# -- against simulated ledgers, in virtual time


@attrs.define
class Ledger:
    """A reservation on a ledger: its clock is ours plus an offset nobody knows."""

    first_cap_ms: int
    grant_cap_ms: int
    max_lead_ms: int
    says_remaining: bool
    expires_ms: int = 0
    seen: dict = attrs.field(factory=dict)

    def create(self, ttl_ms, now_ms):
        self.expires_ms = now_ms + min(ttl_ms, self.first_cap_ms, self.max_lead_ms)
        return self.answer(self.expires_ms, now_ms)

    def extend(self, key, by_ms, now_ms):
        """A success, or None when the lease had lapsed. A key is applied once."""
        if key not in self.seen:
            if now_ms > self.expires_ms:
                return None
            longer = self.expires_ms + min(by_ms, self.grant_cap_ms)
            self.expires_ms = max(self.expires_ms, min(longer, now_ms + self.max_lead_ms))
            self.seen[key] = self.expires_ms
        return self.answer(self.seen[key], now_ms)

    def answer(self, expires_ms, now_ms):
        remaining = max(0, expires_ms - now_ms) if self.says_remaining else None
        return Answer(remaining, expires_ms + 7_777_777)


@attrs.frozen
class Attempt:
    """What happens to one attempt: how long each way, how late we wake, what is lost."""

    there_ms: int = 10
    back_ms: int = 10
    late_ms: int = 0
    fate: str = "answered"
    retry_after_ms: int | None = None


@attrs.define
class Run:
    """A call that lasts, its heartbeat, and what came of them."""

    lease: Lease
    ledger: Ledger
    timeout_ms: int
    now_ms: int = 0
    attempts: int = 0
    extensions: int = 0
    lapsed_unannounced: bool = False
    stop: Stop | None = None

    def keep(self, network, until_ms):
        sent = self.now_ms
        answer = self.ledger.create(self.lease.ttl_ms, self.now_ms + 10)
        self.now_ms += 20
        lease, step = self.lease.answered(answer, sent / 1000, self.now_ms / 1000)
        while isinstance(step, ExtendAfter) and self.now_ms < until_ms:
            promised = step.delay_seconds > 0 or step.same_key
            fate = network(self.attempts)
            self.now_ms += math.ceil(step.delay_seconds * 1000) + fate.late_ms
            self.extensions += not step.same_key
            lease, step, lapsed = self.attempt(lease, fate)
            self.attempts += 1
            self.lapsed_unannounced |= promised and lapsed
        self.lease, self.stop = lease, step if isinstance(step, Stop) else None

    def attempt(self, lease, fate):
        """One extend; whether the lease was found, or left, lapsed."""
        sent, arrives = self.now_ms, self.now_ms + fate.there_ms
        answer, lapsed = None, False
        if fate.fate in ("answered", "answer lost"):
            answer = self.ledger.extend(self.extensions, lease.ttl_ms, arrives)
            lapsed = answer is None
        lost = fate.fate in ("answer lost", "request lost")
        seen_lost = self.timeout_ms + fate.late_ms
        self.now_ms = sent + (seen_lost if lost else fate.there_ms + fate.back_ms)
        at = (sent / 1000, self.now_ms / 1000)
        if fate.fate == "answered" and answer is not None:
            lease, step = lease.answered(answer, *at)
        elif fate.fate == "answered":
            lease, step = lease.failed(
                failure_of(LedgerError("", status=410, error_code="RESERVATION_EXPIRED")), *at
            )
        else:
            status = {"unavailable": 503, "throttled": 429}.get(fate.fate, -1)
            lease, step = lease.failed(
                failure_of(LedgerError("", status=status, retry_after_ms=fate.retry_after_ms)), *at
            )
        return lease, step, lapsed or self.now_ms > self.ledger.expires_ms


TIMEOUT_MS = 5_000
BOUND_MS = 5_500  # with what it takes to notice a time-out
TEN_MINUTES_MS, AN_HOUR_MS = 600_000, 3_600_000

attempts = st.builds(
    Attempt,
    there_ms=st.integers(1, 2_000),
    back_ms=st.integers(1, 2_000),
    late_ms=st.integers(0, 200),
    fate=st.sampled_from(
        ["answered", "answered", "answer lost", "request lost", "unavailable", "throttled"]
    ),
    retry_after_ms=st.none() | st.integers(1, 90).map(lambda seconds: 1_000 * seconds),
)
caps = st.just(10**9) | st.integers(1_000, 120_000)


def networks(drawn):
    """The drawn attempts, over and over."""
    return lambda number: drawn[number % len(drawn)]


def simulate(ttl_ms, first, grant, lead, drawn, *, says_remaining=True, until=TEN_MINUTES_MS):
    run = Run(Lease.first(ttl_ms, BOUND_MS), Ledger(first, grant, lead, says_remaining), TIMEOUT_MS)
    run.keep(networks(drawn), until)
    return run


@settings(max_examples=300, deadline=None)
@given(st.integers(1_000, 200_000), caps, caps, caps, st.lists(attempts, min_size=1, max_size=12))
def test_a_lease_never_lapses_while_the_heartbeat_says_it_is_safe(ttl, first, grant, lead, drawn):
    """Whatever the ledger clamps and the network loses: it is extended in time, or it stops.

    A beat without delay promises nothing (the document says so): only what follows from a
    positive delay, or from a retry, must find and leave the lease alive.
    """
    run = simulate(ttl, first, grant, lead, drawn)
    assert not run.lapsed_unannounced


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1_000, 200_000),
    caps,
    caps,
    caps,
    st.lists(attempts, min_size=1, max_size=12),
    st.booleans(),
)
def test_no_ledger_is_flooded(ttl, first, grant, lead, drawn, says_remaining):
    """At most two extensions to each shortest beat, and the simulated time passes."""
    run = simulate(ttl, first, grant, lead, drawn, says_remaining=says_remaining)
    assert run.extensions <= 2 * TEN_MINUTES_MS / 500 + 2
    assert run.attempts <= 4 * TEN_MINUTES_MS / 500 + 2
    assert run.stop is not None or run.now_ms >= TEN_MINUTES_MS


CALM = [Attempt()]


@pytest.mark.parametrize(
    ("ledger", "most"),
    [
        ({}, 61),  # adds a minute a time: one extension a minute
        ({"lead": 60_000}, 76),  # 60 s at most: one each 48 s, when only the reserve is left
        ({"grant": 30_000}, 121),
        ({"first": 5_000}, 62),
    ],
)
def test_an_hour_is_held_with_few_extensions(ledger, most):
    clamps = {"first": 10**9, "grant": 10**9, "lead": 10**9} | ledger
    run = simulate(60_000, **clamps, drawn=CALM, until=AN_HOUR_MS)
    assert run.stop is None
    assert run.ledger.expires_ms > run.now_ms >= AN_HOUR_MS
    assert 0.8 * most <= run.extensions <= most


@pytest.mark.parametrize(
    ("fate", "lost"), [("answer lost", 1), ("request lost", 1), ("unavailable", 2)]
)
def test_a_lease_outlives_a_network_that_loses_many_attempts(fate, lost):
    """One attempt of two that runs into its time-out, or two of three that fail at once."""
    drawn = [*[Attempt(fate=fate, late_ms=100)] * lost, Attempt(late_ms=100)]
    run = simulate(60_000, 10**9, 10**9, 60_000, drawn, until=AN_HOUR_MS)
    assert run.stop is None
    assert not run.lapsed_unannounced
    assert run.ledger.expires_ms > run.now_ms >= AN_HOUR_MS


def test_a_bound_that_leaves_out_the_noticing_has_no_room_for_a_retry():
    """Why `request_timeout_ms` is more than the client's time-out."""
    for bound, outcome in ((10_000, Stop), (10_500, ExtendAfter)):
        lease, step = granted(60_000, timeout_ms=bound)
        due = 100.0 + step.delay_seconds
        assert isinstance(lease.failed(LOST, due, due + 10.003)[1], outcome)


@pytest.mark.parametrize(
    ("ledger", "most"),
    [
        ({}, 70),  # adds in full
        ({"lead": 60_000}, 122),  # a maximum lead: held at 30 s
        ({"grant": 10_000}, 370),  # a grant of 10 s a time
        ({"first": 1_000}, 70),  # a first lease of a second: the early beat saves it
    ],
)
def test_the_fallback_holds_an_hour_against_the_ledgers_it_is_made_for(ledger, most):
    clamps = {"first": 10**9, "grant": 10**9, "lead": 10**9} | ledger
    run = simulate(60_000, **clamps, drawn=CALM, says_remaining=False, until=AN_HOUR_MS)
    assert run.stop is None
    assert run.ledger.expires_ms > run.now_ms >= AN_HOUR_MS
    assert not run.lapsed_unannounced
    assert run.extensions <= most
