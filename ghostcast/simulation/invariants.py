"""What must hold at every moment of a run, judged from outside: by what was carried, not by what the machines say.

The judge keeps its own record of what each receiver was sent, what is on its disk and what it asked for, and raises at
the first contradiction. It never helps a machine, and no machine reads it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghostcast.simulation.scenario import Scenario
from protocol import limits, messages, wire
from protocol.deficits import decode_deficits
from protocol.errors import GhostcastError
from protocol.manifest import Manifest
from protocol.partition import Partition

Int64Array = npt.NDArray[np.int64]

WITNESSES_MAX = 64
"""Receivers whose every symbol the judge records itself; the others are judged by chunks and messages alone."""


class InvariantError(GhostcastError):
    """A run broke a rule that must never be broken. The message holds what is needed to see it again."""


class Record:
    """The judge's own account of one receiver."""

    __slots__ = ("flushed", "known", "symbols", "written")

    def __init__(self, chunk_count: int, slice_count: int | None) -> None:
        self.written = np.zeros(chunk_count, np.bool_)
        """``bool[chunk_count]``: on the disk, and right."""
        self.known = np.zeros(chunk_count, np.bool_)
        """``bool[chunk_count]``: of these, what this start of the receiver knows of."""
        self.flushed = False
        self.symbols = None if slice_count is None else np.zeros((slice_count, limits.CODE_LENGTH), np.bool_)
        """``bool[slice_count, 255]``: image symbols that were delivered at least once; None: not a witness."""


class Judge:
    """Watches a run."""

    def __init__(self, scenario: Scenario, manifest: Manifest) -> None:
        self._scenario = scenario
        self._partition: Partition = scenario.partition(manifest)
        self._wanted = manifest.transferred
        self._damaged = np.zeros(manifest.chunk_count, np.bool_)
        self._damaged[list(scenario.damaged_chunks)] = True
        size = self._partition.slice_size
        offsets = manifest.stored_offsets
        slices = np.arange(self._partition.slice_count)
        self._first_chunk = np.searchsorted(-(-offsets[1:] // size), slices, "right")
        self._stop_chunk = np.searchsorted(offsets[:-1] // size, slices, "right")
        step = max(1, scenario.receivers // WITNESSES_MAX)
        self.records = [
            Record(manifest.chunk_count, self._partition.slice_count if index % step == 0 else None)
            for index in range(scenario.receivers)
        ]
        self._symbols_of = self._partition.symbols_of(slices)

    def fault(self, text: str) -> None:
        """Raise: something is as it must never be."""
        raise InvariantError(text)

    # --- what happens at receivers ----------------------------------------------------------------------------------

    def delivered(self, index: int, slices: Int64Array, esis: Int64Array) -> None:
        """A witness was handed symbols of the image."""
        symbols = self.records[index].symbols
        assert symbols is not None
        symbols[slices, esis] = True

    def is_witness(self, index: int) -> bool:
        """Whether ``delivered`` must be told what this receiver gets."""
        return self.records[index].symbols is not None

    def restarted(self, index: int) -> None:
        """A receiver starts again: its memory is empty, its disk is as it was, which it knows nothing of as yet."""
        record = self.records[index]
        if record.symbols is not None:
            record.symbols[:] = False
        record.known[:] = False

    def looked_at_disk(self, index: int) -> npt.NDArray[np.bool_]:
        """A receiver compared its disk with the manifest: ``bool[chunk_count]``, what it found to be right."""
        record = self.records[index]
        record.known[:] = record.written
        return record.known.copy()

    def chunk_complete(self, index: int, chunk: int, slices: range) -> None:
        """A receiver's machine calls a chunk complete: it must have been sent enough for that."""
        symbols = self.records[index].symbols
        if symbols is None:
            return
        span = slice(slices.start, slices.stop)
        held = np.count_nonzero(symbols[span], axis=1)
        short = np.flatnonzero(held < self._symbols_of[span])
        if len(short):
            which = slices.start + int(short[0])
            self.fault(
                f"receiver {index} calls chunk {chunk} complete, but of slice {which} it was sent "
                f"{held[short[0]]} of {self._symbols_of[which]} symbols"
            )

    def wrote(self, index: int, chunk: int, *, checked: bool) -> None:
        """A receiver wrote a chunk."""
        if self._damaged[chunk] or not checked:
            self.fault(f"receiver {index} wrote chunk {chunk}, which did not match its digest")
        if not self._wanted[chunk]:
            self.fault(f"receiver {index} wrote chunk {chunk}, which nobody wants")
        self.records[index].written[chunk] = self.records[index].known[chunk] = True

    def asked(self, index: int, datagram: bytes) -> None:
        """A receiver sends a NACK: nothing that is done may be in it."""
        drops = wire.Drops()
        frame = wire.parse_control(datagram, drops)
        message = None if frame is None else messages.decode(frame.body, drops)
        if not isinstance(message, messages.Nack) or message.object_id != limits.OBJECT_IMAGE:
            return
        deficits = decode_deficits(message.items, self._partition.slice_count)
        if deficits is None:
            self.fault(f"receiver {index} sent a NACK that nobody can read")
            return
        open_chunks = self._wanted & ~self.records[index].known
        # How many open chunks lie below each chunk: a slice is needed where that number grows over its chunks.
        below = np.concatenate(([0], np.cumsum(open_chunks)))
        slices = deficits[0]
        needed = below[self._stop_chunk[slices]] > below[self._first_chunk[slices]]
        if not needed.all():
            which = int(slices[~needed][0])
            self.fault(f"receiver {index} asks for slice {which}, although every chunk in it is on its disk")

    def flushed(self, index: int) -> None:
        """A receiver's target is flushed."""
        record = self.records[index]
        missing = int(np.count_nonzero(self._wanted & ~record.written))
        if missing:
            self.fault(f"receiver {index} flushed its target as complete with {missing} chunks missing")
        record.flushed = True

    # --- what is claimed --------------------------------------------------------------------------------------------

    def claims_verified(self, index: int, who: str) -> None:
        """Somebody calls a receiver's copy verified."""
        record = self.records[index]
        missing = int(np.count_nonzero(self._wanted & ~record.written))
        if missing or not record.flushed:
            what = f"{missing} chunks are missing" if missing else "its target was not flushed"
            self.fault(f"{who} calls receiver {index} verified, but {what}")

    def complete(self, index: int) -> bool:
        """Whether a receiver's copy is whole and flushed."""
        record = self.records[index]
        return record.flushed and not bool((self._wanted & ~record.written).any())
