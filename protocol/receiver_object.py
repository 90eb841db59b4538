"""One object at a receiver: what is held and what is lacking of it, what was asked for, and what may be asked for now.

Knows slices, sequence numbers and instants; sends nothing. The invariant: a slice that was asked for is not asked for
again before its answer could have come.
"""

from __future__ import annotations

import collections

import numpy as np
import numpy.typing as npt

from protocol import limits
from protocol.assembly import Assembly
from protocol.extents import Extents
from protocol.partition import Partition

Int64Array = npt.NDArray[np.int64]

NEVER_NS = -(1 << 62)

_NOTHING: Int64Array = np.empty(0, np.int64)
_NOTHING.setflags(write=False)


class ReceiverObject:
    """One object under way: its ring, its extents, and what was asked for."""

    def __init__(self, object_id: int, partition: Partition, slots: int) -> None:
        self.object_id = object_id
        self.partition = partition
        self.assembly = Assembly(partition, slots, np.ones(partition.slice_count, np.bool_))
        self.extents: Extents | None = None
        self.held_ns = np.full(self.assembly.slots, NEVER_NS, np.int64)
        """When a slice held in part was last asked for, or promised."""
        self.held_end = np.full(self.assembly.slots, -1, np.int64)
        self.held_slice = np.full(self.assembly.slots, -1, np.int64)
        self.held_sequence = np.zeros(self.assembly.slots, np.int64)
        """Where in the stream the symbols that were promised for a slice have passed."""
        self.asked_ns = np.full(partition.slice_count, NEVER_NS, np.int64)
        """When a slice was last asked for, or promised, and nothing of it has come since."""
        self.asked_pass = np.zeros(partition.slice_count, np.uint32)
        """The sender's pass when it was asked for."""
        self.sent_below = 0
        """Slices below it have been sent at least once, by the sender's word."""
        self.whole_due = False
        self.sender_pass = 0
        self.sender_idle = False
        self.reset_later: set[int] = set()
        self.damaged: collections.Counter[int] = collections.Counter()

    def open_deficits(self, closed: int, hold_off_ns: int, now: int) -> tuple[Int64Array, Int64Array]:
        """Return ``(slices, deficits)`` to ask for now: partial ones that are not held back, and whole ones if due.

        Args:
            closed: datagrams below it have arrived or are lost.
            hold_off_ns: how long an answer may take by what is known now: what was believed when it was asked for may
                have been a storm that is over.
            now: instant in ns.
        """
        if not self.assembly.missing_count:
            return _NOTHING, _NOTHING
        slices, deficits = self.assembly.partial_deficits(closed)
        fresh = ~self._held(slices, closed, hold_off_ns, now)
        slices, deficits = slices[fresh], deficits[fresh]
        if self.whole_due and self.sent_below and self.extents is not None:
            whole = self.assembly.wholly_missing(0, self.sent_below)
            whole = whole[self.may_ask(whole, hold_off_ns, now)]
            if len(whole):
                order = np.argsort(np.concatenate((slices, whole)), kind="stable")
                deficits = np.concatenate((deficits, self.partition.symbols_of(whole)))[order]
                slices = np.concatenate((slices, whole))[order]
        return slices, deficits

    def _held(self, slices: Int64Array, closed: int, hold_off_ns: int, now: int) -> npt.NDArray[np.bool_]:
        """Return for which of these slices, held in part, the answer may still come."""
        slots = self.assembly.slots_of(slices)
        waited_ns = now - self.held_ns[slots]
        asked = (waited_ns < hold_off_ns) & (self.held_end[slots] == self.assembly.end_sequences(slices))
        # Repairs stand in line behind what is laid out already, earlier repairs of the same slice too: on a slow link,
        # for longer than a hold-off.
        promised = (self.held_sequence[slots] > closed) & (waited_ns < limits.HOLD_OFF_MAX_NS)
        if self.sender_idle:
            promised[:] = False
        held: npt.NDArray[np.bool_] = (self.held_slice[slots] == slices) & (asked | promised)
        return held

    def hold(self, slices: Int64Array, now: int, sequence: int = 0) -> None:
        """Do not ask for these again for a hold-off, unless a window that was not promised brings some of them.

        Args:
            slices: which, ascending.
            now: instant in ns.
            sequence: those held in part not before the stream has come so far, either, if it gets there.
        """
        assembly = self.assembly
        in_ring = slices[assembly.in_ring(slices)]
        slots = assembly.slots_of(in_ring)
        self.held_ns[slots] = now
        self.held_slice[slots] = in_ring
        self.held_sequence[slots] = sequence
        self.held_end[slots] = assembly.end_sequences(in_ring)
        self.asked_ns[slices] = now
        self.asked_pass[slices] = self.sender_pass

    def may_ask(self, slices: Int64Array, hold_off_ns: int, now: int) -> npt.NDArray[np.bool_]:
        """Return which slices, nothing of which is held, are not on their way already.

        What was asked for in pass p is served in pass p or p + 1. If it did not come by then, or if the sender has
        nothing left to send, the request or the answer was lost.
        """
        asked_ns = self.asked_ns[slices]
        served = self.sender_idle | (self.sender_pass >= self.asked_pass[slices] + 2)
        allowed: npt.NDArray[np.bool_] = (asked_ns == NEVER_NS) | ((now - asked_ns >= hold_off_ns) & served)
        return allowed
