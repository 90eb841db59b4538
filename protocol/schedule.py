"""What the sender sends next: per object, how many symbols of which slice somebody needs, and in which order they go.

There is one mechanism. Every slice has a *need*: k at the start, the largest deficit anybody reported later, 0 when
served. A walk with a cursor serves needs in ascending order, window by window; when it comes to the end with needs left
behind it, the next pass begins. *Rolling* repair is the one exception to the order: partial deficits go out at once,
because receivers hold the rest of such slices in memory. The first pass, repair passes, late joiners and restarted
receivers are all just needs.

Invariants: a need computed before a slice's last transmission passed the receiver is never counted (so nothing is sent
twice for one loss), and the positions sent of one slice continue where the last transmission ended (so every repair
answer is fresh, until all 255 points were used).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from protocol import limits
from protocol.partition import Partition

SurplusRule = Callable[[int, bool], int]
"""How many symbols to add for a slice of which somebody needs so many, and whether that is all of it."""

_SHORT = 16
"""After an answer of so many symbols or fewer, once all of a slice was sent, the next begins elsewhere: a receiver may
hold a run of what comes next, such as what a queue took in before it was full, and answers would go for nothing."""

_SCAN_BLOCK = 1 << 16
"""Slices looked at together while searching for the next need: bounds one poll to microseconds for any image."""


def window_slices(symbol_size: int) -> tuple[int, int]:
    """Return D where nothing is known of bursts of loss, and where they are measured, for symbols of so many bytes.

    Larger symbols make fewer slices: what a window brings is complete at its end only, and receivers' pools have to
    hold several.
    """
    size = symbol_size * limits.SOURCE_SYMBOLS_DEFAULT
    usual = min(limits.WINDOW_SLICES_DEFAULT, limits.WINDOW_SIZE_DEFAULT // size)
    widest = min(limits.WINDOW_SLICES_BURSTS, limits.WINDOW_SIZE_BURSTS // size)
    return max(1, usual), max(1, widest)


@functools.cache
def _step(count: int, points: int) -> int:
    """Return how far on the next answer begins, after one of ``count``: in time, at every point."""
    step = count + 3 * points // 8
    while math.gcd(step, points) > 1:
        step += 1
    return step


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Up to D slices to be sent interleaved, symbol by symbol: datagram order is by symbol, then by slice."""

    object_id: int
    slices: npt.NDArray[np.int64]
    """``int64[d]``, ascending."""
    positions: npt.NDArray[np.int64]
    """``int64[d]``: first position to send of each slice (see ``Partition.esi``)."""
    counts: npt.NDArray[np.int64]
    """``int64[d]``: how many consecutive positions to send."""
    first_sequence: int
    source_count: int
    """How many of the datagrams are source symbols."""
    repair_pass: bool
    """True unless every slice goes out for the first time."""

    @property
    def datagram_count(self) -> int:
        """How many datagrams the window has."""
        return int(self.counts.sum())

    def wire_order(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return, datagram by datagram, the row into ``slices`` and the ordinal of the symbol within its slice."""
        ordinals = np.arange(int(self.counts.max()))[:, None]
        mask = ordinals < self.counts[None, :]
        symbol, row = np.nonzero(mask)
        return row, symbol


class Schedule:
    """Needs of one object's slices, and the walk that serves them. Memory: 12 bytes a slice."""

    def __init__(self, object_id: int, partition: Partition, wanted: npt.NDArray[np.bool_]) -> None:
        """Begin with every wanted slice needed whole.

        Args:
            object_id: ``limits.OBJECT_*``.
            partition: how the object is cut.
            wanted: ``bool[slice_count]``: slices that a blank receiver needs; none of them, if all are to be asked for.
        """
        self.object_id = object_id
        self.partition = partition
        symbols = partition.symbols_of(np.arange(partition.slice_count))
        self._need = np.where(wanted, symbols, 0).astype(np.uint8)
        self._next_position = np.zeros(partition.slice_count, np.uint16)
        self._exhausted = np.zeros(partition.slice_count, np.bool_)
        """Whether every position was sent: a symbol more may be one that a receiver holds."""
        self._sent_end = np.full(partition.slice_count, -1, np.int64)
        self._rolling: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._gathering: list[npt.NDArray[np.int64]] = []
        """Repairs that are held until ``release``: others may lack more of the same."""
        self._cursor = 0
        self._pending = int(np.count_nonzero(self._need))
        self._first_pass = self._pending > 0
        """Whether the walk was ever told to serve everything; otherwise all is by request, and anything may be."""
        self.pass_index = 0

    @property
    def pending(self) -> bool:
        """Whether anything is needed that was not sent."""
        return self._pending > 0

    @property
    def pending_count(self) -> int:
        """Slices that anything is needed of that was not sent."""
        return self._pending

    @property
    def first_pass_cursor(self) -> int:
        """Slices below it were sent at least once, or nobody needed them."""
        first = self._first_pass and self.pass_index == 0 and self._pending > 0
        return self._cursor if first else self.partition.slice_count

    @property
    def needed_symbols(self) -> int:
        """Symbols still to be sent as far as is known."""
        return int(self._need.sum(dtype=np.int64))

    def require(self, wanted: npt.NDArray[np.bool_]) -> None:
        """Need all of these slices whole, as if the schedule had begun with them; before anything was sent.

        Args:
            wanted: ``bool[slice_count]``: slices that a blank receiver needs.
        """
        symbols = self.partition.symbols_of(np.flatnonzero(wanted))
        self._need[wanted] = symbols
        self._pending = int(np.count_nonzero(self._need))
        self._first_pass = self._pending > 0

    def needed(self, slices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which slices somebody needs symbols of that were not sent yet."""
        found: npt.NDArray[np.bool_] = self._need[slices] > 0
        return found

    def ends(self, slices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the sequence number at which the last window with each slice ended, -1 where there was none."""
        return self._sent_end[slices]

    def sent_beyond(self, slices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many different symbols of each slice went out, beyond its number of symbols."""
        beyond = self._next_position[slices] - self.partition.symbols_of(slices)
        return np.where(self._exhausted[slices], self.partition.repair_symbols, beyond)

    def request(
        self, slices: npt.NDArray[np.int64], deficits: npt.NDArray[np.int64], sequence: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Merge a receiver's deficits; per slice the maximum counts.

        Args:
            slices: ``int64[n]``, ascending, within the object.
            deficits: ``int64[n]``; more than k of a slice means all of it.
            sequence: the receiver's point in the data stream: symbols sent at or after it are still to reach it.
        Returns:
            The part of the request that was counted, as ``(slices, deficits)``.
        """
        current = self._sent_end[slices] <= sequence
        slices, deficits = slices[current], deficits[current]
        symbols = self.partition.symbols_of(slices)
        deficits = np.minimum(deficits, symbols)
        before = self._need[slices]
        self._need[slices] = np.maximum(before, deficits)
        self._pending += int(np.count_nonzero(before == 0))
        # DEVIATES RFC 5740 §5.4: repairs of slices held in part go out before new data, others after it: what is held
        # in part takes memory at a receiver, and what is not held costs the same later, when more may share it.
        partial = slices[(deficits < symbols) & (self._sent_end[slices] >= 0)]
        if len(partial):
            self._gathering.append(partial)
        return slices, deficits

    def release(self) -> None:
        """Let the repairs go out that were requested until now."""
        if self._gathering:
            merged = np.sort(np.concatenate((self._rolling, *self._gathering)))
            self._rolling = merged[np.diff(merged, prepend=-1) > 0]
            self._gathering.clear()

    def rolling_end(self, sequence: int, surplus: SurplusRule) -> int:
        """Return the sequence number below which all released repairs go out, if nothing is added to them.

        Args:
            sequence: the next datagram's number.
            surplus: as of ``poll_window``.
        """
        slices = self._rolling[self._need[self._rolling] > 0]
        return sequence + int(self._counts(slices, surplus).sum())

    def _counts(self, slices: npt.NDArray[np.int64], surplus: SurplusRule) -> npt.NDArray[np.int64]:
        """Return how many symbols answer the needs of ``slices``, which have one."""
        symbols, need = self.partition.symbols_of(slices), self._need[slices].astype(np.int64)
        points, whole = symbols + self.partition.repair_symbols, need >= symbols
        # Whoever lacks so many holds the rest: about that share of what is sent again is nothing new.
        again = -(-need * points // (points - symbols + need))
        need = np.where(self._exhausted[slices] & ~whole, again, need)
        wishes, which = np.unique(2 * need + whole, return_inverse=True)
        extra = np.array([surplus(wish >> 1, bool(wish & 1)) for wish in wishes.tolist()], np.int64)
        counts: npt.NDArray[np.int64] = np.minimum(need + extra[which], points)
        return counts

    def poll_window(
        self,
        window_slices: int,
        first_sequence: int,
        surplus: SurplusRule,
        *,
        wrap: bool = True,
        repairs_last: bool = False,
    ) -> Window | None:
        """Take the next window out of the needs, or return None where nothing is needed.

        Args:
            window_slices: D, the most slices in the window.
            first_sequence: the data sequence number the window's first datagram will have.
            surplus: how many repair symbols to add to a slice that needs so many.
            wrap: False holds the next pass back, while NACKs are still being gathered.
            repairs_last: what was never sent goes first: repairs would be lost, too, and use up points of the code.
        """
        if self._pending == 0:
            return None
        if repairs_last and self._first_pass and self.pass_index == 0:
            slices = self._walk(window_slices, wrap=False)
            if len(slices):
                return self._take(slices, first_sequence, surplus)
        if len(self._rolling):
            slices = self._rolling[:window_slices]
            self._rolling = self._rolling[window_slices:]
            slices = slices[self._need[slices] > 0]
            if len(slices):
                return self._take(slices, first_sequence, surplus)
        slices = self._walk(window_slices, wrap=wrap)
        return self._take(slices, first_sequence, surplus) if len(slices) else None

    def _walk(self, window_slices: int, *, wrap: bool) -> npt.NDArray[np.int64]:
        """Return the next needed slices in ascending order; begin a new pass at the end where ``wrap`` allows it."""
        for _turn in range(2):
            while self._cursor < self.partition.slice_count:
                block = self._need[self._cursor : self._cursor + _SCAN_BLOCK]
                found = np.flatnonzero(block)[:window_slices]
                if len(found):
                    slices = found + self._cursor
                    self._cursor = int(slices[-1]) + 1
                    return slices
                self._cursor += len(block)
            if not wrap:
                return np.empty(0, np.int64)
            self._cursor = 0
            self.pass_index += 1
        raise AssertionError("a pending need was not found")

    def _take(self, slices: npt.NDArray[np.int64], first_sequence: int, surplus: SurplusRule) -> Window:
        symbols = self.partition.symbols_of(slices)
        whole = self._need[slices] >= symbols
        points = symbols + self.partition.repair_symbols
        counts = self._counts(slices, surplus)
        # A slice needed whole is sent from its first source symbol: receivers that hold part of it are served as well,
        # and those that hold nothing need not decode. Everything else continues with symbols nobody has seen.
        positions = np.where(whole, 0, self._next_position[slices])
        repeated = bool(np.any(self._sent_end[slices] >= 0))
        ends = positions + counts
        exhausted = self._exhausted[slices] | (ends >= points)
        following = np.where(whole, np.maximum(self._next_position[slices], ends), ends)
        for i in np.flatnonzero(exhausted & ~whole & (counts <= _SHORT)).tolist():
            following[i] = positions[i] + _step(int(counts[i]), int(points[i]))
        self._next_position[slices] = following % points
        self._exhausted[slices] = exhausted
        source = np.clip(symbols - positions, 0, counts) + np.clip(ends - points, 0, symbols)
        self._need[slices] = 0
        self._pending -= len(slices)
        self._sent_end[slices] = first_sequence + int(counts.sum())
        return Window(self.object_id, slices, positions, counts, first_sequence, int(source.sum()), repeated)
