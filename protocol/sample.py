"""What one receiver measured in an interval, and what that says of the rate it carries.

The receiver asks this of its own measurements, to know whether the sender has to hear at once, and the sender of every
report: so both ends come to the same answer. Must not know who said what before (``rate``).
"""

from __future__ import annotations

import dataclasses
import math

LOSS_HIGH = 0.005
"""Persistent loss above the background beyond which the rate is cut (research §3.3, p_hi)."""

CUT_MARGIN = 0.97
"""A cut goes a little below what was measured to get through, so that the queue drains."""

POOL_FILL_HIGH = 0.35
"""Share of a receiver's slice pool waiting for its own disk beyond which its drain rate limits the sender."""

TELLING_LOST = 10
"""Lost datagrams from which a share is known, before the first cut: of forty, one is lost now and then."""

SAME_SHARE = 0.9
"""Capacities that differ by less are about the same."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What one receiver reported for one interval."""

    loss: float
    """Share of datagrams that the network lost, in [0, 1]."""
    overrun: float
    """Share of datagrams that arrived and that the receiver's host could not hold, in [0, 1]."""
    pool_fill: float
    """Share of the slice pool that waits for the receiver's workers and disk, in [0, 1]."""
    drain_rate: float
    """Stream bytes per second that the receiver finished."""
    datagrams: int = 1 << 30
    """Of how many datagrams this speaks."""
    arrival_rate: float = math.inf
    """Bytes per second that reached it, headers included; infinite where that is not known."""
    current: bool = True
    """Whether all of it was sent at the present rate."""
    share: float = 1.0
    """Of a usual interval, the share that it speaks of; 1 where reports are no more frequent than usual. A short one is
    easily filled by a burst."""

    @property
    def waits(self) -> bool:
        """Whether what it seems to lose may lie in its socket, which it does not read while its pool is full."""
        return self.pool_fill > POOL_FILL_HIGH and self.drain_rate > 0

    @property
    def lost(self) -> float:
        """Datagrams that this says to be lost."""
        return max(self.loss, self.overrun) * self.datagrams

    def capacity(self, rate: float, tolerated: float) -> float | None:
        """Return the bytes per second that the receiver carries, or None where it knows no limit.

        Args:
            rate: what was sent at meanwhile.
            tolerated: loss that is not the rate's fault, and ``LOSS_HIGH``.
        """
        if self.waits:
            return self.drain_rate * (1.0 - (self.pool_fill - POOL_FILL_HIGH))
        excess = max(0.0, self.loss - (tolerated - LOSS_HIGH))
        if excess + self.overrun > LOSS_HIGH:
            return CUT_MARGIN * rate * (1.0 - excess - self.overrun)
        return None
