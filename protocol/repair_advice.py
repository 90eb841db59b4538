"""What was asked for in one gathering, and the advice that is made of it, so that those who lack no more stay silent.

Knows deficits and where slices were sent; must not know who asked, nor when a gathering ends (``sender_feedback``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocol import limits, messages
from protocol.deficits import encode_deficits
from protocol.schedule import Schedule

Int64Array = npt.NDArray[np.int64]

ADVICE_DATAGRAMS_MAX = 4
"""Of advice about one gathering: 600 runs of slices; who lacks others asks for them again."""

STORM_NS = 150 * limits.MILLISECOND_NS
"""What about the same time is: a backoff."""


class Asked:
    """The largest deficit of each slice that was asked for in one gathering. Memory: one byte a slice."""

    def __init__(self, slice_count: int) -> None:
        self._deficits = np.zeros(slice_count, np.uint8)
        self._first, self._stop = slice_count, 0

    def add(self, slices: Int64Array, deficits: Int64Array) -> None:
        """Note deficits of slices, ascending."""
        if len(slices):
            self._deficits[slices] = np.maximum(self._deficits[slices], deficits)
            self._first, self._stop = min(self._first, int(slices[0])), max(self._stop, int(slices[-1]) + 1)

    def take(self) -> tuple[Int64Array, Int64Array]:
        """Return ``(slices, deficits)``, both ``int64[n]``, and begin anew."""
        part = self._deficits[self._first : self._stop]
        slices = np.flatnonzero(part)
        deficits = part[slices].astype(np.int64)
        part[:] = 0
        slices, self._first, self._stop = slices + self._first, len(self._deficits), 0
        return slices, deficits


class UnderWay:
    """What was asked for of late while its symbols were on their way to whoever asked, and how often."""

    def __init__(self, slice_count: int) -> None:
        self._asked = Asked(slice_count)
        self._count = 0
        self._since_ns = 0

    @property
    def many(self) -> bool:
        """Whether these alone are half of what the sender wants to hear, and the rest of the fleet is about to ask."""
        return 2 * self._count * limits.SECOND_NS > limits.NACK_PER_S * STORM_NS

    def add(self, slices: Int64Array, deficits: Int64Array, now: int) -> None:
        """Note one receiver's deficits of slices, ascending."""
        if now - self._since_ns > STORM_NS:
            self._asked.take()
            self._count, self._since_ns = 0, now
        self._asked.add(slices, deficits)
        self._count += 1

    def take_advice(self, schedule: Schedule, object_id: int, sent_below: int) -> list[messages.RepairAdvice]:
        """Return advice on what is laid out and has not left yet, to be waited for until it has passed; begin anew.

        Nothing unless many asked.
        """
        if not self.many:
            return []
        self._count = 0
        slices, deficits = self._asked.take()
        # Of what somebody needs beyond that, more was just promised.
        due = (schedule.ends(slices) > sent_below) & ~schedule.needed(slices)
        slices, deficits = slices[due], deficits[due]
        ends = schedule.ends(slices)
        told: list[messages.RepairAdvice] = []
        for end in sorted(set(ends.tolist())):  # np.unique would load numpy's masked arrays for it, in a storm
            told += advice(object_id, slices[ends == end], deficits[ends == end], end)
        return told[-ADVICE_DATAGRAMS_MAX:]


def advice(object_id: int, slices: Int64Array, deficits: Int64Array, sequence: int) -> list[messages.RepairAdvice]:
    """Return the advice to wait for these until the stream has come to ``sequence``, so many datagrams at most."""
    told: list[messages.RepairAdvice] = []
    while len(slices) and len(told) < ADVICE_DATAGRAMS_MAX:
        items, covered = encode_deficits(slices, deficits)
        slices, deficits = slices[covered:], deficits[covered:]
        told.append(messages.RepairAdvice(object_id, items, min(sequence, limits.SEQUENCE_MAX - 1)))
    return told
