"""Which slices a chunk waits for, and which chunks a slice serves: the two-way link between stream and image.

An extent is a half-open byte range of an object that is used as one piece: a chunk's frame within the stream, or the
whole manifest. Extents tile the object. Invariants: an extent is reported ready exactly when every slice that covers it
is decoded; a slice is released exactly when no wanted extent needs it any more.
"""

from __future__ import annotations

import array

import numpy as np
import numpy.typing as npt

from protocol.partition import Partition

Int64Array = npt.NDArray[np.int64]


# Plain numbers in a bytearray: a slice has two extents or so, and for two a loop beats numpy by far.
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
        self._state = bytearray(np.where(wanted, _WAITING, _DONE).astype(np.uint8).tobytes())
        self._remaining = array.array("q", np.where(wanted, self._stop - self._first, 0).astype(np.int64).tobytes())
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
        wanted = np.frombuffer(self._state, np.uint8) != _DONE
        return int((self._stop - self._first)[wanted].max(initial=0))

    def needs(self, slice_index: int) -> bool:
        """Whether a wanted extent still needs a slice."""
        return bool(self._users[slice_index])

    def slices_of(self, extent: int) -> range:
        """Return the slices that cover an extent."""
        return range(int(self._first[extent]), int(self._stop[extent]))

    def _waiting(self, slice_index: int) -> list[int]:
        """Return the extents over a slice that wait, not those that are taken or done."""
        state = self._state
        over = range(int(self._extent_first[slice_index]), int(self._extent_stop[slice_index]))
        return [extent for extent in over if state[extent] == _WAITING]

    def slice_ready(self, slice_index: int) -> list[int]:
        """A slice is decoded. Returns the extents that can be used now; each counts as taken."""
        assert not self._ready[slice_index]
        self._ready[slice_index] = True
        usable = []
        for extent in self._waiting(slice_index):
            self._remaining[extent] -= 1
            if not self._remaining[extent]:
                self._state[extent] = _TAKEN
                usable.append(extent)
        return usable

    def slice_lost(self, slice_index: int) -> None:
        """A slice that was decoded or complete is no longer held."""
        if self._ready[slice_index]:
            self._ready[slice_index] = False
            for extent in self._waiting(slice_index):
                self._remaining[extent] += 1

    def done(self, extent: int) -> list[int]:
        """A taken extent is verified and safe. Returns the slices that nothing needs any more."""
        assert self._state[extent] == _TAKEN
        self._state[extent] = _DONE
        self.pending_count -= 1
        slices = np.arange(self._first[extent], self._stop[extent])
        self._users[slices] -= 1
        released: list[int] = slices[self._users[slices] == 0].tolist()
        return released

    def found(self, extents: Int64Array) -> tuple[Int64Array, list[int]]:
        """These extents need not come after all.

        Args:
            extents: ``int64[n]``, ascending; those that are taken or done already are left as they are.
        Returns:
            The extents that were waited for until now, and the slices that nothing needs any more.
        """
        waiting = extents[np.frombuffer(self._state, np.uint8)[extents] == _WAITING]
        if not len(waiting):
            return waiting, []
        for extent in waiting.tolist():
            self._state[extent] = _DONE
        self.pending_count -= len(waiting)
        steps = np.zeros(len(self._users) + 1, np.int32)
        np.add.at(steps, self._first[waiting], -1)
        np.add.at(steps, self._stop[waiting], 1)
        first, stop = int(self._first[waiting[0]]), int(self._stop[waiting[-1]])
        steps = np.cumsum(steps[first:stop], dtype=np.int32)
        self._users[first:stop] += steps
        released: list[int] = (np.flatnonzero((steps < 0) & (self._users[first:stop] == 0)) + first).tolist()
        return waiting, released

    def damaged(self, extent: int) -> list[int]:
        """A taken extent's bytes are wrong: it waits for all its slices again. Returns those slices."""
        assert self._state[extent] == _TAKEN
        self._state[extent] = _WAITING
        slices = list(self.slices_of(extent))
        for slice_index in slices:
            self.slice_lost(slice_index)
        self._remaining[extent] = len(slices)
        return slices
