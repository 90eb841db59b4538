"""Which slices a chunk waits for, and which chunks a slice serves: the two-way link between stream and image.

An extent is a half-open byte range of an object that is used as one piece: a chunk's frame within the stream, or the
whole manifest. Extents tile the object. Invariants: an extent is reported ready exactly when every slice that covers it
is decoded; a slice is released exactly when no wanted extent needs it any more.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from protocol.partition import Partition

Int64Array = npt.NDArray[np.int64]


class _ExtentState(enum.IntEnum):
    DONE = 0
    WAITING = 1
    TAKEN = 2


class Extents:
    """The extents of one object and how far each is. Memory: 30 bytes an extent, 5 bytes a slice."""

    def __init__(self, partition: Partition, offsets: Int64Array, wanted: npt.NDArray[np.bool_]) -> None:
        """Begin with nothing decoded.

        Args:
            partition: how the object is cut.
            offsets: ``int64[extent_count + 1]``: strictly ascending boundaries, from 0 to the object's size.
            wanted: ``bool[extent_count]``: extents that are needed; the others are done from the start.
        """
        self._offsets = offsets
        self._partition = partition
        size = partition.slice_size
        self._first = offsets[:-1] // size
        self._stop = -(-offsets[1:] // size)
        self._state = np.where(wanted, _ExtentState.WAITING, _ExtentState.DONE).astype(np.uint8)
        self._remaining = np.where(wanted, self._stop - self._first, 0)
        self._ready = np.zeros(partition.slice_count, np.bool_)
        # Each wanted extent adds one user to its slices: +1 where it begins, -1 where it stops, summed up.
        steps = np.zeros(partition.slice_count + 1, np.int64)
        np.add.at(steps, self._first[wanted], 1)
        np.add.at(steps, self._stop[wanted], -1)
        self._users = np.cumsum(steps[:-1]).astype(np.int32)
        self.pending_count = int(np.count_nonzero(wanted))

    @property
    def wanted_slices(self) -> npt.NDArray[np.bool_]:
        """``bool[slice_count]``: slices that a wanted extent needs."""
        users: npt.NDArray[np.bool_] = self._users > 0
        return users

    @property
    def longest(self) -> int:
        """Slices of the wanted extent that takes most of them: so many must be held at once."""
        return int((self._stop - self._first)[self._state != _ExtentState.DONE].max(initial=0))

    def needs(self, slice_index: int) -> bool:
        """Whether a wanted extent still needs a slice."""
        return bool(self._users[slice_index])

    def slices_of(self, extent: int) -> range:
        """Return the slices that cover an extent."""
        return range(int(self._first[extent]), int(self._stop[extent]))

    def _waiting(self, slice_index: int) -> Int64Array:
        """Return the extents over a slice that wait, not those that are taken or done."""
        start, stop = self._partition.slice_range(slice_index)
        first = int(np.searchsorted(self._offsets, start, "right")) - 1
        last = int(np.searchsorted(self._offsets, stop, "left"))
        return np.flatnonzero(self._state[first:last] == _ExtentState.WAITING) + first

    def slice_ready(self, slice_index: int) -> list[int]:
        """A slice is decoded. Returns the extents that can be used now; each counts as taken."""
        assert not self._ready[slice_index]
        self._ready[slice_index] = True
        waiting = self._waiting(slice_index)
        self._remaining[waiting] -= 1
        usable = waiting[self._remaining[waiting] == 0]
        self._state[usable] = _ExtentState.TAKEN
        found: list[int] = usable.tolist()
        return found

    def slice_lost(self, slice_index: int) -> None:
        """A slice that was decoded or complete is no longer held."""
        if self._ready[slice_index]:
            self._ready[slice_index] = False
            self._remaining[self._waiting(slice_index)] += 1

    def done(self, extent: int) -> list[int]:
        """A taken extent is verified and safe. Returns the slices that nothing needs any more."""
        assert self._state[extent] == _ExtentState.TAKEN
        self._state[extent] = _ExtentState.DONE
        self.pending_count -= 1
        slices = np.arange(self._first[extent], self._stop[extent])
        self._users[slices] -= 1
        released: list[int] = slices[self._users[slices] == 0].tolist()
        return released

    def damaged(self, extent: int) -> list[int]:
        """A taken extent's bytes are wrong: it waits for all its slices again. Returns those slices."""
        assert self._state[extent] == _ExtentState.TAKEN
        self._state[extent] = _ExtentState.WAITING
        slices = list(self.slices_of(extent))
        for slice_index in slices:
            self.slice_lost(slice_index)
        self._remaining[extent] = len(slices)
        return slices
