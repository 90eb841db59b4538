"""Which slot of a receiver's memory each slice of an object has: a ring that turns in as little memory as it needs.

Consecutive slices get consecutive slots, but for those that are still taken: a chunk's frame is one piece of memory
nearly always. The ring begins small: what comes is then still in the processor's caches when it is checked and written,
and memory that a slow stream never needs is never touched. It grows when three quarters are taken, and shrinks
when hardly any of it is.

Knows slices and slots, nothing of symbols. Invariants: a slot has one slice at most, a slice one slot; a slice that has
a slot keeps it until it is let go, whatever becomes of the ring meanwhile.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

NOWHERE = -1

_GROW_QUARTERS = 3
"""It grows where more than so many quarters would be taken: fuller, and slices find no neighbouring slots."""

_SHRINK_SHARE = 8
"""It shrinks where at the end of a turn no more than one slot in so many is taken."""


class Ring:
    """The slots of one object; see the module's docstring."""

    def __init__(self, slice_count: int, slots: int, first: int) -> None:
        """Begin with nothing held.

        Args:
            slice_count: slices of the object.
            slots: how many there are.
            first: how many are in turn at least, and in the beginning.
        """
        self.slots = slots
        self.size = self._size_min = min(first, slots)
        """Slots in turn: new slices go to ``[0, size)``, from the next call of ``give`` on."""
        self.owner = np.full(slots, NOWHERE, np.int64)
        """``int64[slots]``: the slice in each slot, or ``NOWHERE``."""
        self.place = np.full(slice_count, NOWHERE, np.int32)
        """``int32[slice_count]``: the slot of each slice, or ``NOWHERE``."""
        self.taken = 0
        self._next = 0
        """New slices go to the first free slots from here on."""

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return self.taken == self.slots

    def locate(self, slices: Int64Array) -> Int64Array:
        """Return the slot of each slice, or ``NOWHERE``."""
        return self.place[slices].astype(np.int64)

    def give(self, slices: Int64Array) -> int:
        """Give slots to slices that have none (ascending), in order; returns to how many: the rest found none free."""
        while self.size < self.slots and 4 * (self.taken + len(slices)) > _GROW_QUARTERS * self.size:
            self.size = min(2 * self.size, self.slots)
        free = np.flatnonzero(self.owner[: self.size] < 0)
        ahead = int(np.searchsorted(free, self._next))
        chosen = free[ahead : ahead + len(slices)]
        if len(chosen) < len(slices):
            chosen = np.concatenate((chosen, free[: min(ahead, len(slices) - len(chosen))]))
            if self.taken * _SHRINK_SHARE <= self.size:
                self.size = max(self.size // 2, self._size_min)
        given = len(chosen)
        if given:
            self.owner[chosen] = slices[:given]
            self.place[slices[:given]] = chosen
            self.taken += given
            self._next = int(chosen[-1]) + 1
        return given

    def let_go(self, slots: Int64Array) -> None:
        """Free slots that are taken."""
        self.place[self.owner[slots]] = NOWHERE
        self.owner[slots] = NOWHERE
        self.taken -= len(slots)
