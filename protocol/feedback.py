"""When to speak: the receiver's backoff, how a fleet's messages are spread out, and the group round-trip time.

All that reaches a sender together stays below ``limits.FEEDBACK_PER_S`` messages a second: each kind of message has its
share, and a fleet spreads what everybody has to say over the time in which that share carries it.
"""

from __future__ import annotations

import math
import random

from protocol import limits

SMALL_GROUP = 32
"""Up to so many receivers the backoff shrinks with the group: their messages fit into one round trip anyway."""

QUICKEST_NS = 5 * limits.SECOND_NS
"""For how long, or twice as long, the quickest datagram is remembered: clocks drift, and one that stood still for a
moment is another one. A queue that never drains is part of the group's round trip by then."""


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
    return truncated_exponential_ns(rng, longest, receivers)


def truncated_exponential_ns(rng: random.Random, longest: float, group: int) -> int:
    """Draw from ``[0, longest]`` ns: of ``group`` that draw, a few get a short wait and speak for the others.

    Source:
        RFC 5401 §2 (RandomBackoff).
    """
    rate = math.log(group) + 1.0
    x = rng.uniform(0.0, rate / longest) + rate / (longest * (math.exp(rate) - 1.0))
    return int((longest / rate) * math.log(x * (math.exp(rate) - 1.0) * (longest / rate)))


def join_spread_ns(receivers: int) -> int:
    """Return over how long so many JOINs, or DONEs, are spread."""
    return min(receivers * limits.SECOND_NS // limits.JOIN_PER_S, limits.JOIN_SPREAD_MAX_NS)


def report_interval_ns(receivers: int, *, starting: bool = False) -> int:
    """Return how often each of so many receivers reports while data is sent.

    Until it is known that the first data passed (``starting``), a small fleet says so sooner; of a large one, somebody
    always speaks soon.
    """
    shortest_ns = limits.START_REPORT_INTERVAL_MIN_NS if starting else limits.REPORT_INTERVAL_MIN_NS
    return max(shortest_ns, receivers * limits.SECOND_NS // limits.REPORT_PER_S)


def waiting_interval_ns(receivers: int) -> int:
    """Return how often each of so many receivers says that it lives before the start."""
    return max(limits.SECOND_NS, receivers * limits.SECOND_NS // limits.WAITING_REPORT_PER_S)


def poll_delay_ns(receivers: int) -> int:
    """Return how long the sender gathers DONEs before it acknowledges them together."""
    wished = receivers * limits.SECOND_NS // limits.POLL_PER_S_RECEIVERS
    return min(max(wished, limits.AGGREGATION_MAX_NS), limits.POLL_DELAY_MAX_NS)


def done_repeat_ns(receivers: int, grtt_ns: int) -> int:
    """Return after how long a DONE that was not acknowledged is said again: well after the POLL was due.

    No later, for where one of a fleet's DONEs is lost, all that is left to wait for is its repeat.
    """
    return 2 * (poll_delay_ns(receivers) + grtt_ns)


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


class QueueDelay:
    """How much longer the newest datagrams took than the quickest ones of late: what stands in queues on the way.

    Two in a row have to agree, either way: a single one may be damaged where no checksum is.
    """

    def __init__(self) -> None:
        self.value_ns = 0
        self._took_us: int | None = None
        """What the newest took, by two clocks that do not know each other, modulo 2**32; differences tell."""
        self._least_us: tuple[int, int] | None = None
        """The least of the present ``QUICKEST_NS``, and of those before."""
        self._begun_ns = 0

    def observe(self, sent_us: int, now: int) -> None:
        """Take into account what came now and says when it was sent."""
        took_us, before_us = now // limits.MICROSECOND_NS - sent_us, self._took_us
        self._took_us = took_us
        if before_us is None:
            return
        less_us, more_us = (took_us, before_us) if _beyond(before_us, took_us) > 0 else (before_us, took_us)
        if self._least_us is None:
            self._least_us, self._begun_ns = (more_us, more_us), now
        elif now - self._begun_ns >= QUICKEST_NS:
            self._least_us, self._begun_ns = (more_us, self._least_us[0]), now
        elif _beyond(self._least_us[0], more_us) > 0:
            self._least_us = more_us, self._least_us[1]
        late_us = max(0, *(_beyond(less_us, least_us) for least_us in self._least_us))
        self.value_ns = min(late_us * limits.MICROSECOND_NS, limits.GRTT_MAX_NS)


def _beyond(us: int, than_us: int) -> int:
    """Return by how much a time is the later of two that are known modulo 2**32."""
    return (us - than_us + (1 << 31)) % (1 << 32) - (1 << 31)
