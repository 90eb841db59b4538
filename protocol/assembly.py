"""Which symbols of an object a receiver holds, in which buffer rows, and what is still missing: bookkeeping by batch.

Knows rows, not memory: the engine owns a buffer with the rows that ``take`` names and moves the payloads there; the
simulator moves nothing. Slices live in the slots of a ``Ring``: consecutive ones are mostly consecutive in memory.

Invariants: a slot holds symbols of exactly one slice; a row is written only while its slice is incomplete; memory never
grows: when a slice that is being sent whole needs a slot and none is free, another slice is forgotten and is simply
missing again. A *pinned* slice, one that a worker reads, is never forgotten; the newcomer's symbols are dropped instead
and counted. Repair symbols alone never take another's slot: a slice of which nothing is held cannot be made from them.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import numpy.typing as npt

from protocol import limits, symbols
from protocol.erasures import Erasures
from protocol.partition import Partition
from protocol.ring import Ring
from protocol.symbols import SymbolBatch

Int64Array = npt.NDArray[np.int64]

_OVERTAKEN_MAX = 1 << 18
"""Datagrams a window may honestly end ahead of the sender's last word: four of the largest windows."""

_ROW_BYTES = -(-(limits.CODE_LENGTH + 1) // 64) * 8
"""Bytes of a slot's bits: whole words, so that a row of unpacked bits is counted in words."""

_SPARSE = 8
"""A table over all slices between the first and the last of a batch may be this many times as long as the batch."""

_SLOTS_FIRST_MIN = 16
"""Fewer slots in turn than this would be too few for the windows of a fast stream."""

_NO_SLICES: Int64Array = np.empty(0, np.int64)


def _by_slice(batch: SymbolBatch) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return a batch's slices, ascending; per symbol which of them it is of; and how many symbols each has."""
    local = batch.keys >> symbols.KEY_BITS
    span = batch.stop_slice - batch.first_slice
    if span > max(64, _SPARSE * len(batch)):
        present, local, per_slice = np.unique(local, return_inverse=True, return_counts=True)
        return present + batch.first_slice, local, per_slice
    per_slice = np.bincount(local, minlength=span)
    present = np.flatnonzero(per_slice)
    if len(present) < span:
        table = np.empty(span, np.int64)
        table[present] = np.arange(len(present))
        local, per_slice = table[local], per_slice[present]
    return present + batch.first_slice, local, per_slice


def _row_sums(bits: npt.NDArray[np.uint8]) -> Int64Array:
    """Return how many bits are set in each row of unpacked bits; eight at a time, which is far from overflowing."""
    lanes = bits.view(np.uint64).sum(axis=1)
    sums: Int64Array = lanes.view(np.uint8).reshape(len(bits), 8).sum(axis=1, dtype=np.int64)
    return sums


class SliceState(enum.IntEnum):
    """Where a slice stands at a receiver."""

    UNWANTED = 0
    """Nothing in it is needed here (any more)."""
    MISSING = 1
    """Incomplete; some of its symbols may be in the ring."""
    COMPLETE = 2
    """k symbols are in the ring; perhaps still to be decoded."""


# Plain numbers: looking an enum's member up costs more than the comparison it is for.
_UNWANTED, _MISSING, _COMPLETE = (int(state) for state in SliceState)


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """What to do with a batch of symbols."""

    count: int
    """n, the symbols of the batch."""
    completed: Int64Array
    """``int64[m]``: slices that became complete with this batch, ascending."""
    to_decode: npt.NDArray[np.bool_]
    """``bool[m]``: which of them lack source symbols."""
    touched: Int64Array
    """Slices in the ring of which symbols came, ascending."""
    _geometry: _Geometry
    _accepted: tuple[Int64Array | None, Int64Array, Int64Array, npt.NDArray[np.uint8]] | None
    """Which symbols have a slot (None: all), and of these the slot, the ESI, and whether it was held already."""

    @property
    def rows(self) -> Int64Array:
        """``int64[n]``: buffer row of each symbol; ``trash_row`` where it is not wanted. Computed when asked for."""
        rows = np.full(self.count, self._geometry.trash_row)
        if self._accepted is not None:
            chosen, slots, esis, held = self._accepted
            found = np.where(held, self._geometry.trash_row, self._geometry.rows(slots, esis))
            if chosen is None:
                return found
            rows[chosen] = found
        return rows


@dataclasses.dataclass(frozen=True, slots=True)
class _Geometry:
    """Which buffer row is whose."""

    slots: int
    source_symbols: int
    trash_row: int

    def rows(self, slots: Int64Array | int, esis: Int64Array) -> Int64Array:
        """Return the row of each ESI in its slot.

        Source rows lie slice by slice, so that a slice is one piece of memory; repair rows lie ESI by ESI: a few per
        slice then touch a few pages, not those of all 127.
        """
        k = self.source_symbols
        rows: Int64Array = np.where(esis < k, slots * k + esis, self.slots * esis + slots)
        return rows


@dataclasses.dataclass(slots=True)
class AssemblyCounters:
    """Symbols by what became of them."""

    accepted: int = 0
    duplicate: int = 0
    """Symbols held already."""
    surplus: int = 0
    """Symbols that were not kept: their slice was complete or not wanted, or there was no slot for it."""
    pool_full: int = 0
    """Of these, those for which there was no slot while workers held half of them or more: this host is too slow."""
    forgotten: int = 0
    """Slices whose symbols were given up for a newer slice."""


class Assembly:
    """The state of one object at one receiver."""

    def __init__(
        self, partition: Partition, slots: int, wanted: npt.NDArray[np.bool_], *, slots_first: int | None = None
    ) -> None:
        """Begin with nothing held.

        Args:
            partition: how the object is cut.
            slots: slices that there is memory for, at least 1; more than the object has are not used.
            wanted: ``bool[slice_count]``.
            slots_first: slots to make do with as long as they suffice; None for as many as are good for caches.
        """
        self.partition = partition
        self.slots = max(1, min(slots, partition.slice_count))
        self.counters = AssemblyCounters()
        self.trash_row = self.slots * (partition.source_symbols + partition.repair_symbols)
        self.row_count = self.trash_row + 1
        self._geometry = _Geometry(self.slots, partition.source_symbols, self.trash_row)
        self.state = np.where(wanted, _MISSING, _UNWANTED).astype(np.uint8)
        if slots_first is None:
            slots_first = max(_SLOTS_FIRST_MIN, limits.RING_SIZE_FIRST // partition.slice_size)
        self._ring = Ring(partition.slice_count, self.slots, slots_first)
        self._have = np.zeros((self.slots, _ROW_BYTES), np.uint8)
        """One bit per ESI, lowest bit first: a fleet of simulated receivers has thousands of these."""
        self._count = np.zeros(self.slots, np.int64)
        self._end_sequence = np.zeros(self.slots, np.int64)
        self._pins = np.zeros(self.slots, np.int64)
        self._pinned_count = 0
        self._frontier = 0
        self._lost_complete: list[int] = []
        self.missing_count = int(np.count_nonzero(wanted))

    # --- symbols in -----------------------------------------------------------------------------------------------

    def valid(self, slices: Int64Array, esis: Int64Array) -> npt.NDArray[np.bool_]:
        """Return which symbols exist at all: within the object, and no padding of the short last slice."""
        partition = self.partition
        inside = slices < partition.slice_count
        padding = (slices == partition.slice_count - 1) & (esis >= partition.last_symbols)
        padding &= esis < partition.source_symbols
        valid: npt.NDArray[np.bool_] = inside & ~padding & (esis < partition.source_symbols + partition.repair_symbols)
        return valid

    def valid_all(self, batch: SymbolBatch) -> npt.NDArray[np.bool_] | None:
        """Return which symbols of a batch exist, or None if all do: which its bounds nearly always show."""
        partition = self.partition
        if (
            batch.stop_slice < partition.slice_count
            and batch.esi_max < partition.source_symbols + partition.repair_symbols
        ):
            return None
        valid = self.valid(batch.slices, batch.esis)
        return None if valid.all() else valid

    def place(self, slices: Int64Array, esis: Int64Array, end_sequences: Int64Array) -> Placement:
        """Take a batch of valid symbols in.

        Args:
            slices: ``int64[n]`` slice numbers.
            esis: ``int64[n]``.
            end_sequences: ``int64[n]``: sequence number at which the window that carried each symbol ends.
        """
        if not len(slices):
            return self._nothing(0)
        return self.take(symbols.from_symbols(0, slices, esis), end_sequences)

    def take(self, batch: SymbolBatch, ends: Int64Array | int) -> Placement:
        """Take a batch of valid symbols in, at least one.

        Args:
            batch: the symbols; its places in the stream are not looked at.
            ends: where the window that carried each symbol ends: one number for all, or ``int64[n]``.
        Cost:
            A dozen numpy operations over the symbols, three dozen over the slices that they are of.
        """
        count = len(batch)
        slices, local, per_slice = _by_slice(batch)
        window_ends: Int64Array | int = ends
        if not isinstance(ends, int):
            window_ends = np.zeros(len(slices), np.int64)
            np.maximum.at(window_ends, local, ends)
        slots = self._ring.locate(slices)
        active = self.state[slices] == _MISSING
        foreign = active & (slots < 0)
        if foreign.any():
            self._claim_all(batch, slices, local, window_ends, np.flatnonzero(foreign))
            slots = self._ring.locate(slices)
            homeless = active & (slots < 0)
            if 2 * self._pinned_count >= self.slots and homeless.any():
                self.counters.pool_full += int(per_slice[homeless].sum())
            active &= ~homeless
        touched = slices[slots >= 0]
        esis = batch.esis
        chosen: Int64Array | None = None
        if not active.all():
            kept = active[local]
            chosen = np.flatnonzero(kept)
            self.counters.surplus += count - len(chosen)
            if not len(chosen):
                return dataclasses.replace(self._nothing(count), touched=touched)
            local = (np.cumsum(active) - 1)[local[chosen]]
            esis = esis[chosen]
            slices, slots = slices[active], slots[active]
            if not isinstance(window_ends, int):
                window_ends = window_ends[active]
        bits = np.unpackbits(self._have[slots], axis=1, bitorder="little")
        flat = bits.reshape(-1)
        places = (local << symbols.KEY_BITS) + esis
        held = flat[places]
        flat[places] = 1
        self._have[slots] = np.packbits(bits, axis=1, bitorder="little")
        self._end_sequence[slots] = np.maximum(self._end_sequence[slots], window_ends)
        counts = _row_sums(bits)
        accepted = int(counts.sum()) - int(self._count[slots].sum())
        self._count[slots] = counts
        self.counters.accepted += accepted
        self.counters.duplicate += len(esis) - accepted
        done = np.flatnonzero(counts >= self.partition.symbols_of(slices))
        full = slices[done]
        to_decode = np.empty(0, np.bool_)
        if len(full):
            self.state[full] = _COMPLETE
            self.missing_count -= len(full)
            sources = np.count_nonzero(bits[done, : self.partition.source_symbols], axis=1)
            to_decode = sources < self.partition.symbols_of(full)
        return Placement(count, full, to_decode, touched, self._geometry, (chosen, slots[local], esis, held))

    def _nothing(self, count: int) -> Placement:
        """Return the placement of symbols of which none is wanted."""
        return Placement(count, _NO_SLICES, np.empty(0, np.bool_), _NO_SLICES, self._geometry, None)

    def _claim_all(
        self,
        batch: SymbolBatch,
        slices: Int64Array,
        local: Int64Array,
        window_ends: Int64Array | int,
        newcomers: Int64Array,
    ) -> None:
        """Give slots to the slices that have none (``newcomers``: which of ``slices``), where they may have one."""
        ends = np.broadcast_to(window_ends, slices.shape)
        given = self._ring.give(slices[newcomers])
        slots = self._ring.locate(slices[newcomers[:given]])
        self._have[slots] = 0
        self._count[slots] = 0
        self._end_sequence[slots] = ends[newcomers[:given]]
        if given < len(newcomers) and ((self._pins == 0) & (self._end_sequence < ends.max())).any():
            sources = np.bincount(local[batch.esis < self.partition.source_symbols], minlength=len(slices))
            for index in newcomers[given:].tolist():
                if sources[index]:
                    self._claim(int(slices[index]), int(ends[index]))
        self._frontier = max(self._frontier, int(slices[newcomers[-1]]) + 1)

    def _claim(self, slice_index: int, end_sequence: int) -> None:
        """Give the slot of another slice to a new one, if any may be forgotten.

        While the stream goes forward, the newer slice wins: the oldest one waits for a repair that may take long. Among
        slices that are sent again, the one that comes first in the image wins. If the newer won there too, slices that
        wait for a neighbour would push one another out, pass after pass; so, the first incomplete chunk is complete
        after the next pass, whatever the others do.

        A slice whose own window is still under way keeps its slot: slices of one window would take it from one another
        at every symbol, and none would ever be complete.
        """
        owner = self._ring.owner
        forward = slice_index >= self._frontier
        idle = np.flatnonzero((self._pins == 0) & (self._end_sequence < end_sequence))
        if not forward:
            idle = idle[owner[idle] > slice_index]
        if not len(idle):
            return
        slot = int(idle[np.argmin(owner[idle]) if forward else np.argmax(owner[idle])])
        old = int(owner[slot])
        self.counters.forgotten += 1
        if self.state[old] == _COMPLETE:
            self.state[old] = _MISSING
            self.missing_count += 1
            self._lost_complete.append(old)
        self._let_go(np.array([slot]))
        self._ring.give(np.array([slice_index]))
        self._end_sequence[slot] = end_sequence

    def _let_go(self, slots: Int64Array) -> None:
        self._ring.let_go(slots)
        self._have[slots] = 0
        self._count[slots] = 0
        self._end_sequence[slots] = 0

    def take_lost_complete(self) -> Int64Array:
        """Return the complete slices that had to be forgotten since the last call."""
        if not self._lost_complete:
            return _NO_SLICES
        lost, self._lost_complete = np.array(self._lost_complete), []
        return lost

    # --- slices out -----------------------------------------------------------------------------------------------

    def slot_of(self, slice_index: int) -> int:
        """Return the slot of a slice that is in the ring."""
        slot = int(self._ring.place[slice_index])
        assert slot >= 0
        return slot

    def slots_of(self, slices: Int64Array) -> Int64Array:
        """Return the slots of slices that are in the ring."""
        return self._ring.locate(slices)

    @property
    def slots_in_turn(self) -> int:
        """Slots that the ring uses now: the first ones."""
        return self._ring.size

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return where bytes ``[start, stop)`` of the object, all of whose slices are in the ring, lie in its rows.

        Returns:
            half-open ranges of bytes from the first row on, in order, neighbours joined: usually one.
        """
        size = self.partition.slice_size
        found: list[tuple[int, int]] = []
        for slice_index in range(start // size, -(-stop // size) if stop > start else 0):
            offset = (self.slot_of(slice_index) - slice_index) * size
            piece = offset + max(start, slice_index * size), offset + min(stop, (slice_index + 1) * size)
            if found and found[-1][1] == piece[0]:
                piece = found.pop()[0], piece[1]
            found.append(piece)
        return found

    def erasures(self, slices: Int64Array) -> Erasures:
        """Return what complete slices lack, and which of their repair symbols to use.

        Args:
            slices: ``int64[n]``: slices to decode; the short last slice, if among them, alone.
        """
        slots = self._ring.locate(slices)
        assert (slots >= 0).all()
        count = int(self.partition.symbols_of(slices[:1])[0])
        have = np.unpackbits(self._have[slots], axis=1, bitorder="little")
        return Erasures.of_bits(have, self.partition.source_symbols, count)

    def source_rows(self, slice_index: int) -> range:
        """Return the buffer rows of all source symbols of a slice that is in the ring."""
        first = self.slot_of(slice_index) * self.partition.source_symbols
        last = slice_index == self.partition.slice_count - 1
        return range(first, first + (self.partition.last_symbols if last else self.partition.source_symbols))

    def rows_of(self, slices: Int64Array | int, esis: Int64Array) -> Int64Array:
        """Return the buffer rows of symbols of slices that are in the ring."""
        return self._geometry.rows(self._ring.locate(np.asarray(slices)), esis)

    def pin(self, slices: Int64Array) -> None:
        """Keep slices, each named once, in the ring until ``unpin``; pins are counted."""
        slots = self._ring.locate(slices)
        pins = self._pins[slots]
        assert not np.count_nonzero(slots < 0)
        self._pinned_count += len(pins) - int(np.count_nonzero(pins))
        self._pins[slots] = pins + 1

    def unpin(self, slices: Int64Array) -> None:
        """Undo one ``pin`` of each."""
        slots = self._ring.locate(slices)
        pins = self._pins[slots] - 1
        assert not np.count_nonzero((slots | pins) < 0)
        self._pinned_count -= len(pins) - int(np.count_nonzero(pins))
        self._pins[slots] = pins

    def release(self, slices: Int64Array) -> None:
        """Everything in the slices is done: their slots are free, and they are never asked for again."""
        self.missing_count -= int(np.count_nonzero(self.state[slices] == _MISSING))
        self.state[slices] = _UNWANTED
        slots = self._ring.locate(slices)
        held = slots[slots >= 0]
        assert not np.count_nonzero(self._pins[held])
        self._let_go(held)

    def unwant(self, needed: npt.NDArray[np.bool_]) -> None:
        """Give up every slice that is not needed, except those that a worker reads (see ``busy``).

        Args:
            needed: ``bool[slice_count]``.
        """
        idle = ~needed
        owner = self._ring.owner
        idle[owner[self._pins > 0]] = False
        self.missing_count -= int(np.count_nonzero(self.state[idle] == _MISSING))
        self.state[idle] = _UNWANTED
        taken = np.flatnonzero(owner >= 0)
        self._let_go(taken[idle[owner[taken]]])

    def reset(self, slices: Int64Array) -> None:
        """The slices' bytes turned out to be wrong: hold nothing of them, want all of them."""
        slots = self._ring.locate(slices)
        assert (slots >= 0).all()
        assert not self._pins[slots].any()
        assert (self.state[slices] == _COMPLETE).all()
        self.state[slices] = _MISSING
        self.missing_count += len(slices)
        self._let_go(slots)

    def mark_decoded(self, slices: Int64Array) -> None:
        """All source rows of complete slices are filled in: they need no repair symbols any more."""
        slots = self._ring.locate(slices)
        assert (slots >= 0).all()
        bits = np.unpackbits(self._have[slots], axis=1, bitorder="little")
        bits[:, : self.partition.source_symbols] = 1
        self._have[slots] = np.packbits(bits, axis=1, bitorder="little")

    def busy(self, slices: Int64Array) -> npt.NDArray[np.bool_]:
        """Return which slices are in the ring and pinned."""
        slots = self._ring.locate(slices)
        pinned: npt.NDArray[np.bool_] = (slots >= 0) & (self._pins[slots] > 0)
        return pinned

    def complete_slices(self) -> Int64Array:
        """Return the slices that are complete and in the ring, ascending."""
        owners = np.sort(self._ring.owner[self._ring.owner >= 0])
        found: Int64Array = owners[self.state[owners] == _COMPLETE]
        return found

    @property
    def lacking_count(self) -> int:
        """Symbols that have to come, nearly: a short last slice counts as a long one."""
        owner = self._ring.owner
        held = np.flatnonzero(owner >= 0)
        held = held[self.state[owner[held]] == _MISSING]
        return self.missing_count * self.partition.source_symbols - int(self._count[held].sum())

    @property
    def fill(self) -> float:
        """Share of the ring that waits for workers, in [0, 1]."""
        return self._pinned_count / self.slots

    # --- what is missing ------------------------------------------------------------------------------------------

    def end_windows(self, sequence: int, *, all_sent: bool) -> None:
        """Correct window ends that cannot be, by the sender's word: everything below ``sequence`` was sent.

        A damaged or forged header can put the end of a slice's window far ahead; the slice would neither be asked for
        nor give up its slot until the stream came so far, which it never does while the sender waits.

        Args:
            sequence: sequence number of the next data datagram.
            all_sent: nothing is under way; otherwise the next windows' datagrams may have overtaken the sender's word.
        """
        self._end_sequence[self._end_sequence > sequence + (0 if all_sent else _OVERTAKEN_MAX)] = sequence

    def limit_frontier(self, sent_below: int) -> None:
        """Correct how far the stream has come, by the sender's word: no slice from ``sent_below`` on was sent.

        A damaged or forged header can put it at the end of the image; all that follows would then count as sent again,
        and would not take a slot from an older slice any more.
        """
        self._frontier = min(self._frontier, sent_below)

    def partial_deficits(self, closed_sequence: int) -> tuple[Int64Array, Int64Array]:
        """Return ``(slices, deficits)`` of slices held in part whose windows have passed ``closed_sequence``."""
        owner = self._ring.owner
        occupied = np.flatnonzero((owner >= 0) & (self._end_sequence <= closed_sequence))
        slices = owner[occupied]
        missing = self.state[slices] == _MISSING
        slices, counts = slices[missing], self._count[occupied[missing]]
        order = np.argsort(slices)
        slices = slices[order]
        return slices, self.partition.symbols_of(slices) - counts[order]

    def in_ring(self, slices: Int64Array) -> npt.NDArray[np.bool_]:
        """Return which slices have a slot."""
        held: npt.NDArray[np.bool_] = self._ring.place[slices] >= 0
        return held

    def deficits_of(self, slices: Int64Array) -> Int64Array:
        """Return how many symbols each slice lacks; 0 where it is not missing."""
        slots = self._ring.locate(slices)
        held = np.where(slots >= 0, self._count[slots], 0)
        lacking: Int64Array = np.where(self.state[slices] == _MISSING, self.partition.symbols_of(slices) - held, 0)
        return lacking

    def end_sequences(self, slices: Int64Array) -> Int64Array:
        """Return where the last window of each slice in the ring ended."""
        return self._end_sequence[self._ring.locate(slices)]

    def wholly_missing(self, start: int, stop: int) -> Int64Array:
        """Return the wanted slices in ``[start, stop)`` of which nothing is held, ascending.

        Where earlier slices hold all slots, later ones are left out: until one is done, they would be dropped on
        arrival.
        """
        slices = np.flatnonzero(self.state[start:stop] == _MISSING) + start
        slices = slices[self._ring.place[slices] < 0]
        return slices[slices < self._ring.owner.max()] if self._ring.full else slices
