"""How far ahead of what leaves the sender plans, in time: so far that a late turn does no harm, and no further.

What is planned has its place in the stream. Repairs that are asked for meanwhile come after it, and until then every
receiver keeps in memory what waits for them. Where something else than the pace holds the stream back, windows that
are as long as the pace allows take long to leave: of 6 Gbit/s told and 0.2 carried, three are three quarters of a
second.
"""

from __future__ import annotations

import collections

from protocol import limits

LOOKAHEAD_NS = 200 * limits.MILLISECOND_NS
"""Nothing more is planned while what is planned takes longer to leave. To lay a window out takes a tenth of it, or all
of it on a host with many busy processes."""

_SAMPLE_NS = 100 * limits.MILLISECOND_NS
_SAMPLES = 3
"""For how long is measured what leaves, and how many such times count: the quickest of them does."""

_WAIT_MIN_NS = 5 * limits.MILLISECOND_NS


class Lookahead:
    """When to plan the next window, by what is measured to leave."""

    def __init__(self) -> None:
        self._samples: collections.deque[float] = collections.deque(maxlen=_SAMPLES)
        """Datagrams per second."""
        self._since_ns: int | None = None
        self._since_below = 0
        self._ran_empty = False

    @property
    def per_s(self) -> float:
        """Datagrams that left per second lately; 0 before that is known."""
        return max(self._samples, default=0.0)

    def wait_ns(self, sequence: int, sent_below: int, now: int) -> int:
        """Return for how long nothing more is to be planned.

        Args:
            sequence: datagrams below it are planned.
            sent_below: those below it have left.
            now: instant in ns.
        """
        self._measure(sequence, sent_below, now)
        if not self._samples:
            return 0
        left_ns = round((sequence - sent_below) * limits.SECOND_NS / max(self._samples))
        return 0 if left_ns < LOOKAHEAD_NS else max(_WAIT_MIN_NS, left_ns - LOOKAHEAD_NS)

    def _measure(self, sequence: int, sent_below: int, now: int) -> None:
        self._ran_empty |= sequence == sent_below
        if self._since_ns is not None:
            elapsed_ns, sent = now - self._since_ns, sent_below - self._since_below
            if elapsed_ns < _SAMPLE_NS or not sent:
                return
            rate = sent * limits.SECOND_NS / elapsed_ns
            # A line that ran empty says only that it carries at least so much.
            if not self._ran_empty or (self._samples and rate > max(self._samples)):
                self._samples.append(rate)
        self._since_ns, self._since_below, self._ran_empty = now, sent_below, sequence == sent_below
