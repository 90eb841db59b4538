"""When to speak: the receiver's NACK backoff and the sender's estimate of the group round-trip time."""

from __future__ import annotations

import math
import random

from protocol import limits

SMALL_GROUP = 32
"""Up to so many receivers the backoff shrinks with the group: their messages fit into one round trip anyway."""


def backoff_ns(rng: random.Random, grtt_ns: int, receivers: int, feedback_scale: int) -> int:
    """Draw how long to wait before a NACK: truncated exponential, most receivers long, a few short.

    Args:
        rng: the caller's generator.
        grtt_ns: group round-trip time.
        receivers: how many may have the same to say (GSIZE; known here, because receivers register).
        feedback_scale: the sender's valve, at least 1.
    Returns:
        Nanoseconds in ``[0, BACKOFF_FACTOR * grtt_ns * feedback_scale]`` and at most ``BACKOFF_MAX_NS``; 0 for a single
        receiver.
    Source:
        RFC 5401 §2 (RandomBackoff).
    """
    if receivers <= 1:
        return 0
    # DEVIATES RFC 5401 §2: below SMALL_GROUP the interval shrinks with the group, because a rack of eight would
    # otherwise wait six round trips to avoid seven messages.
    scale = min(1.0, receivers / SMALL_GROUP) * feedback_scale
    longest = min(limits.BACKOFF_FACTOR * grtt_ns * scale, limits.BACKOFF_MAX_NS)
    rate = math.log(receivers) + 1.0
    x = rng.uniform(0.0, rate / longest) + rate / (longest * (math.exp(rate) - 1.0))
    return int((longest / rate) * math.log(x * (math.exp(rate) - 1.0) * (longest / rate)))


class GroupRoundTrip:
    """GRTT: the largest round trip of the group; rises at once, falls by a tenth per report interval at most."""

    def __init__(self) -> None:
        self.value_ns = limits.GRTT_START_NS
        self._interval_max_ns = 0
        self._interval_end_ns = 0

    def observe(self, round_trip_ns: int, now: int, interval_ns: int) -> None:
        """Take one round-trip sample into account.

        Source:
            RFC 5401 §2 (GRTT collection).
        """
        # DEVIATES RFC 5401 §2: the estimate is bounded from below by GRTT_MIN_NS and told in microseconds, because
        # scheduling jitter and not the wire sets the round trip in a machine room.
        sample = min(max(round_trip_ns, limits.GRTT_MIN_NS), limits.GRTT_MAX_NS)
        self._interval_max_ns = max(self._interval_max_ns, sample)
        if sample > self.value_ns:
            self.value_ns = sample
        if now >= self._interval_end_ns:
            if self._interval_end_ns:
                self.value_ns = max(self._interval_max_ns, self.value_ns * 9 // 10, limits.GRTT_MIN_NS)
            self._interval_max_ns = 0
            self._interval_end_ns = now + interval_ns
