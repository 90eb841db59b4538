"""What a receiver measures between two reports: loss in the network, loss in its own host, and what it got done.

Knows counters and instants only.
"""

from __future__ import annotations

import dataclasses

from protocol import limits

TELLING_DATAGRAMS = 1000
"""Datagrams from which a loss of a percent can be told within a third of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What happened between two reports."""

    loss_ppm: int
    overrun_ppm: int
    drain_rate: int
    expected: int
    """How many had been sent before."""
    datagrams: int
    """How many were sent meanwhile."""


class ReportInterval:
    """Counters at the last report, so that the next one can speak of the time between."""

    def __init__(self, now: int) -> None:
        self._begun_ns = now
        self._expected = 0
        self._received = 0
        self._dropped = 0
        self._pool_full = 0
        self._stream_bytes = 0
        self._unexplained = 0
        self._read_out = False
        """Whether nothing waited in the socket at the last report before which data came."""
        self._drain_rate = 0.0

    def begin(self, now: int) -> None:
        """Data come from now on: the time before, in which there was nothing to do, says nothing of a disk."""
        self._begun_ns = now

    def loss_ppm(self, expected: int, received: int, dropped: int) -> int | None:
        """Return the network loss since the last report in millionths, or None where too little came to tell."""
        sent = expected - self._expected
        if sent < TELLING_DATAGRAMS:
            return None
        lost = sent - (received - self._received) - (dropped - self._dropped) - self._unexplained
        return min(max(0, lost) * 1_000_000 // sent, 1_000_000)

    def close(
        self,
        now: int,
        expected: int,
        received: int,
        dropped: int,
        pool_full: int,
        stream_bytes: int,
        *,
        waiting: bool,
    ) -> Measured:
        """Return network loss and host overrun in millionths and the smoothed drain rate, and begin anew.

        The kernel drops at the tail of a queue, whose gap is seen only when the queue has been read: drops wait in
        ``_unexplained`` until the gap they made comes by, and are not mistaken for loss in the network. Where what had
        waited made up for a gap, it never comes by: once data came and nothing was ``waiting`` in the socket, now and
        at the last report, drops from before this interval are not waited for any more, or the network's loss would be
        taken for theirs.
        """
        before, sent = self._expected, expected - self._expected
        lost = max(0, sent - (received - self._received))
        dropped_now = dropped - self._dropped
        self._unexplained += dropped_now
        host = min(lost, self._unexplained)
        self._unexplained -= host
        if sent > 0 or waiting:
            if self._read_out and not waiting:
                self._unexplained = min(self._unexplained, dropped_now)
            self._read_out = not waiting
        overrun = host + pool_full - self._pool_full
        seconds = max(now - self._begun_ns, 1) / limits.SECOND_NS
        # Up at once, down by half: nothing is got done before the first chunk is whole.
        latest = (stream_bytes - self._stream_bytes) / seconds
        self._drain_rate = max(latest, (latest + self._drain_rate) / 2)
        self._begun_ns, self._stream_bytes = now, stream_bytes
        self._expected, self._received, self._dropped, self._pool_full = expected, received, dropped, pool_full
        if sent <= 0:
            return Measured(0, 0, int(self._drain_rate), expected, 0)
        return Measured(
            loss_ppm=min(1_000_000, (lost - host) * 1_000_000 // sent),
            overrun_ppm=min(1_000_000, overrun * 1_000_000 // sent),
            drain_rate=int(self._drain_rate),
            expected=before,
            datagrams=sent,
        )
