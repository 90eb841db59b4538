"""Goal: backoffs have RFC 5401's distribution and bounds; GRTT rises at once and falls slowly; a queue shows.

Method: many draws from a seeded generator against the closed form of the distribution.
"""

from __future__ import annotations

import math
import random

import pytest

from protocol import limits
from protocol.feedback import SMALL_GROUP, GroupRoundTrip, QueueDelay, backoff_ns

GRTT = 20 * limits.MILLISECOND_NS
LONGEST = limits.BACKOFF_FACTOR * GRTT


@pytest.mark.parametrize("receivers", [SMALL_GROUP, 100, 10_000])
def test_backoffs_follow_the_truncated_exponential(receivers: int) -> None:
    """RFC 5401 §2: P[t < x] = (e^(λx/T) - 1) / (e^λ - 1), λ = ln(N) + 1."""
    rng = random.Random(receivers)
    draws = sorted(backoff_ns(rng, GRTT, receivers, 1) for _draw in range(20_000))
    rate = math.log(receivers) + 1
    for share in (0.1, 0.5, 0.9):
        expected = LONGEST / rate * math.log(1 + share * (math.exp(rate) - 1))
        assert draws[int(share * len(draws))] == pytest.approx(expected, rel=0.03)
    assert draws[0] >= 0
    assert draws[-1] <= LONGEST


def test_a_large_group_begins_with_few() -> None:
    """Of 10 000 receivers with the same loss only a handful speak within the first half of the interval."""
    rng = random.Random(1)
    early = sum(backoff_ns(rng, GRTT, 10_000, 1) < LONGEST / 2 for _receiver in range(10_000))
    assert early < 100


def test_a_single_receiver_speaks_at_once_and_small_groups_soon() -> None:
    rng = random.Random(2)
    assert backoff_ns(rng, GRTT, 1, 7) == backoff_ns(rng, GRTT, 0, 1) == 0
    for receivers in range(2, SMALL_GROUP):
        longest = max(backoff_ns(rng, GRTT, receivers, 1) for _draw in range(300))
        assert longest <= LONGEST * receivers / SMALL_GROUP + 1


def test_the_valve_scales_and_the_limit_holds() -> None:
    rng = random.Random(3)
    assert max(backoff_ns(rng, GRTT, 1000, 8) for _draw in range(500)) > 4 * LONGEST
    for _draw in range(500):
        wait_ns = backoff_ns(rng, limits.GRTT_MAX_NS, limits.RECEIVERS_MAX, limits.FEEDBACK_SCALE_MAX)
        assert 0 <= wait_ns <= limits.BACKOFF_MAX_NS


def test_grtt_rises_at_once_and_falls_by_a_tenth_an_interval() -> None:
    grtt, interval, now = GroupRoundTrip(), 100 * limits.MILLISECOND_NS, 0
    assert grtt.value_ns == limits.GRTT_START_NS
    grtt.observe(300 * limits.MILLISECOND_NS, now, interval)
    assert grtt.value_ns == 300 * limits.MILLISECOND_NS
    falls = []
    for _sample in range(1000):
        now += interval // 10
        before = grtt.value_ns
        grtt.observe(limits.MILLISECOND_NS, now, interval)
        falls.append(grtt.value_ns / before)
        assert grtt.value_ns >= before * 0.899
    assert sum(fall < 1 for fall in falls[:100]) <= 11
    assert grtt.value_ns == limits.GRTT_MIN_NS


def test_grtt_stays_within_its_limits() -> None:
    grtt = GroupRoundTrip()
    grtt.observe(1 << 60, 0, 1)
    assert grtt.value_ns == limits.GRTT_MAX_NS
    for now in range(1, 500):
        grtt.observe(0, now, 1)
    assert grtt.value_ns == limits.GRTT_MIN_NS


def delayed(delay: QueueDelay, now: int, waited_ms: list[float], clocks_apart_us: int = 0) -> tuple[int, list[float]]:
    """Have datagrams come, 1 ms apart, that took so long; return the time then, and what was seen after each, in ms."""
    seen = []
    for waited in waited_ms:
        now += limits.MILLISECOND_NS
        sent_us = (now // limits.MICROSECOND_NS - round(1000 * waited) + clocks_apart_us) & 0xFFFFFFFF
        delay.observe(sent_us, now)
        seen.append(delay.value_ns / limits.MILLISECOND_NS)
    return now, seen


@pytest.mark.parametrize("clocks_apart_us", [0, 5_000_000, (1 << 32) - 40_000])
@pytest.mark.parametrize("up_days", [0, 1, 130, 260, 400])
def test_a_queue_is_seen_by_how_much_longer_the_newest_took_than_the_quickest(
    clocks_apart_us: int, up_days: int
) -> None:
    """The clocks need not agree, and the sender's count of microseconds begins anew every 71 minutes."""
    took, delay = [7, 7, 2, 2, 52, 52, 90, 90, 2, 2, 1, 1, 3, 3], QueueDelay()
    _now, seen = delayed(delay, up_days * 86_400 * limits.SECOND_NS, [float(ms) for ms in took], clocks_apart_us)
    assert seen[1::2] == [0, 0, 50, 88, 0, 0, 2]


@pytest.mark.parametrize("odd_ms", [-30_000.0, 30_000.0, -1e6, 1e6])
@pytest.mark.parametrize("place", [0, 1, 5])
def test_one_damaged_send_time_is_no_queue(odd_ms: float, place: int) -> None:
    took = [2.0] * 10
    took[place] = odd_ms
    _now, seen = delayed(QueueDelay(), limits.SECOND_NS, took)
    assert seen[2:] == [0.0] * 8


@pytest.mark.parametrize("drift", [-500e-6, 500e-6])
def test_clocks_that_drift_apart_are_no_queue(drift: float) -> None:
    delay = QueueDelay()
    for second in range(3600):
        now = second * limits.SECOND_NS
        delay.observe(int(1e6 * second * (1 + drift)) & 0xFFFFFFFF, now)
        assert delay.value_ns < 6 * limits.MILLISECOND_NS


def test_a_clock_that_stood_still_is_a_queue_for_ten_seconds_at_most() -> None:
    delay = QueueDelay()
    now, _seen = delayed(delay, limits.SECOND_NS, [2.0] * 10)
    now, seen = delayed(delay, now, [1502.0] * 11_000)
    assert seen[1] == 1500
    assert seen[-1] == 0


def test_a_delay_stays_within_its_limits() -> None:
    _now, seen = delayed(QueueDelay(), limits.SECOND_NS, [0.0, 0.0, 1e6, 1e6])
    assert seen[-1] == limits.GRTT_MAX_NS / limits.MILLISECOND_NS
