"""Which slices a chunk waits for, and which chunks a slice serves: the two-way link between stream and image.

An extent is a half-open byte range of an object that is used as one piece: a chunk's frame within the stream, or the
whole manifest. Extents tile the object. Invariants: an extent is reported ready exactly when every slice that covers it
is decoded; a slice is released exactly when no wanted extent needs it any more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocol.partition import Partition

Int64Array = npt.NDArray[np.int64]


_DONE, _WAITING, _TAKEN = range(3)


class Extents:
    """The extents of one object and how far each is. Memory: 25 bytes an extent, 13 bytes a slice."""

    def __init__(self, partition: Partition, offsets: Int64Array, wanted: npt.NDArray[np.bool_]) -> None:
        """Begin with nothing decoded.

        Args:
            partition: how the object is cut.
            offsets: ``int64[extent_count + 1]``: strictly ascending boundaries, from 0 to the object's size.
            wanted: ``bool[extent_count]``: extents that are needed; the others are done from the start.
        """
        size = partition.slice_size
        self._first = offsets[:-1] // size
        self._stop = -(-offsets[1:] // size)
        slices = np.arange(partition.slice_count)
        self._extent_first = np.searchsorted(self._stop, slices, "right").astype(np.int32)
        self._extent_stop = np.searchsorted(self._first, slices, "right").astype(np.int32)
        """Half-open range of the extents over each slice."""
        self._state = np.where(wanted, _WAITING, _DONE).astype(np.uint8)
        self._remaining = np.where(wanted, self._stop - self._first, 0).astype(np.int64)
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
        return int((self._stop - self._first)[self._state != _DONE].max(initial=0))

    def needs(self, slices: Int64Array) -> npt.NDArray[np.bool_]:
        """Return which slices a wanted extent still needs."""
        needed: npt.NDArray[np.bool_] = self._users[slices] > 0
        return needed

    def slices_of(self, extent: int) -> Int64Array:
        """Return the slices that cover an extent, ascending."""
        return np.arange(self._first[extent], self._stop[extent])

    def _waiting(self, slices: Int64Array) -> Int64Array:
        """Return the extents that wait, not those that are taken or done, once for each of the slices they cover."""
        first = self._extent_first[slices]
        counts = self._extent_stop[slices] - first
        extents = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        waiting: Int64Array = extents[self._state[extents] == _WAITING]
        return waiting

    def slices_ready(self, slices: Int64Array) -> list[int]:
        """Slices, each named once, are decoded. Returns the extents that can be used now; each counts as taken."""
        assert not np.count_nonzero(self._ready[slices])
        self._ready[slices] = True
        waiting = self._waiting(slices)
        np.subtract.at(self._remaining, waiting, 1)
        usable = waiting[self._remaining[waiting] == 0]
        self._state[usable] = _TAKEN
        return sorted(set(usable.tolist()))

    def slices_lost(self, slices: Int64Array) -> None:
        """Slices, each named once, that were decoded or complete are no longer held."""
        lost = slices[self._ready[slices]]
        self._ready[lost] = False
        np.add.at(self._remaining, self._waiting(lost), 1)

    def done(self, extent: int) -> Int64Array:
        """A taken extent is verified and safe. Returns the slices that nothing needs any more."""
        assert self._state[extent] == _TAKEN
        self._state[extent] = _DONE
        self.pending_count -= 1
        slices = self.slices_of(extent)
        self._users[slices] -= 1
        released: Int64Array = slices[self._users[slices] == 0]
        return released

    def found(self, extents: Int64Array) -> tuple[Int64Array, Int64Array]:
        """These extents need not come after all.

        Args:
            extents: ``int64[n]``, ascending; those that are taken or done already are left as they are.
        Returns:
            The extents that were waited for until now, and the slices that nothing needs any more.
        """
        waiting = extents[self._state[extents] == _WAITING]
        if not len(waiting):
            return waiting, waiting
        self._state[waiting] = _DONE
        self.pending_count -= len(waiting)
        steps = np.zeros(len(self._users) + 1, np.int32)
        np.add.at(steps, self._first[waiting], -1)
        np.add.at(steps, self._stop[waiting], 1)
        first, stop = int(self._first[waiting[0]]), int(self._stop[waiting[-1]])
        steps = np.cumsum(steps[first:stop], dtype=np.int32)
        self._users[first:stop] += steps
        released: Int64Array = np.flatnonzero((steps < 0) & (self._users[first:stop] == 0)) + first
        return waiting, released

    def damaged(self, extent: int) -> Int64Array:
        """A taken extent's bytes are wrong: it waits for all its slices again. Returns those slices."""
        assert self._state[extent] == _TAKEN
        self._state[extent] = _WAITING
        slices = self.slices_of(extent)
        self.slices_lost(slices)
        self._remaining[extent] = len(slices)
        return slices
