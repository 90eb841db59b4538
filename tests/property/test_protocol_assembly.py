"""Goal: the ring and the extents never lose count, whatever the order of what happens.

Method: stateful machines call everything in every order beside an oracle of plain sets; and one object is sent with
losses, duplicates and shuffles, of which the set of symbols alone may decide the outcome.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.assembly import Assembly, SliceState
from protocol.extents import Extents
from protocol.partition import Partition


@st.composite
def streams(draw: st.DrawFn) -> tuple[Partition, list[tuple[int, int]], list[list[tuple[int, int]]]]:
    """An object, the symbols that arrive of it, and the same symbols shuffled, repeated and cut into batches."""
    k = draw(st.integers(1, 12))
    symbols = draw(st.integers(1, 60))
    partition = Partition(64 * symbols, 64, k)
    every = [
        (s, esi)
        for s in range(partition.slice_count)
        for esi in [*range(int(partition.symbols_of(np.array([s]))[0])), *range(k, k + 6)]
    ]
    arrived = draw(st.sets(st.sampled_from(every), max_size=len(every)))
    chance: random.Random = draw(st.randoms(use_true_random=False))
    order = sorted(arrived) + chance.choices(sorted(arrived), k=len(arrived) // 2) if arrived else []
    chance.shuffle(order)
    batches = []
    while order:
        size = chance.randrange(1, 40)
        batches.append(order[:size])
        order = order[size:]
    return partition, sorted(arrived), batches


@settings(max_examples=300, deadline=None)
@given(streams())
def test_only_the_set_of_symbols_decides(
    drawn: tuple[Partition, list[tuple[int, int]], list[list[tuple[int, int]]]],
) -> None:
    partition, arrived, batches = drawn
    ring = Assembly(partition, partition.slice_count, np.ones(partition.slice_count, np.bool_))
    rows: dict[int, tuple[int, int]] = {}
    completed: list[int] = []
    for batch in batches:
        slices, esis = (np.array(column, np.int64) for column in zip(*batch, strict=True))
        placement = ring.place(slices, esis, np.full(len(batch), 7))
        for symbol, row in zip(batch, placement.rows.tolist(), strict=True):
            if row != ring.trash_row:
                assert rows.get(row, symbol) == symbol, "two symbols in one row"
                rows[row] = symbol
        completed += placement.completed.tolist()
    need = partition.symbols_of(np.arange(partition.slice_count)).tolist()
    held = [sum(s == index for s, _esi in arrived) for index in range(partition.slice_count)]
    assert sorted(completed) == [index for index, count in enumerate(held) if count >= need[index]]
    deficits = ring.deficits_of(np.arange(partition.slice_count)).tolist()
    assert deficits == [max(0, n - h) for n, h in zip(need, held, strict=True)]
    assert ring.missing_count == sum(deficit > 0 for deficit in deficits)
    assert set(rows.values()) <= set(arrived)
    for index in range(partition.slice_count):
        stored = {esi for s, esi in rows.values() if s == index}
        wanted = {esi for s, esi in arrived if s == index}
        assert stored == wanted if deficits[index] else len(stored) >= need[index]
    slices, partial = ring.partial_deficits(7)
    assert slices.tolist() == [i for i, (d, h) in enumerate(zip(deficits, held, strict=True)) if d and h]
    assert partial.tolist() == [deficits[i] for i in slices.tolist()]


class RingMachine(RuleBasedStateMachine):
    """An Assembly and its Extents, driven as a receiver drives them, in any order."""

    @initialize(
        k=st.integers(1, 4),
        slots=st.integers(1, 6),
        slots_first=st.integers(1, 3),
        sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12),
        unwanted=st.sets(st.integers(0, 11)),
    )
    def begin(self, k: int, slots: int, slots_first: int, sizes: list[int], unwanted: set[int]) -> None:
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        self.partition = Partition(int(offsets[-1]), 64, k)
        wanted = np.array([index not in unwanted for index in range(len(sizes))])
        self.extents = Extents(self.partition, offsets, wanted)
        self.ring = Assembly(self.partition, slots, self.extents.wanted_slices, slots_first=slots_first)
        self.offsets = offsets
        self.pinned: dict[int, int] = {}
        """Slices that a worker reads, and their slots."""
        self.sequence = 0
        self.decoding: set[int] = set()
        self.decoded: set[int] = set()
        """Slices in the ring whose bytes are usable."""
        self.checking: set[int] = set()
        self.waiting = {index for index in range(len(sizes)) if wanted[index]}
        self.reset_later: set[int] = set()

    def ready(self, slices: list[int]) -> None:
        self.decoded.update(slices)
        named = np.array(slices, np.int64)
        needed = self.extents.needs(named)
        self.release(named[~needed])
        found = self.extents.slices_ready(named[needed])
        expected = {e for e in self.waiting if set(self.extents.slices_of(e)) <= self.decoded - self.reset_later}
        assert found == sorted(expected)
        for extent in found:
            self.waiting.discard(extent)
            self.checking.add(extent)
            self.ring.pin(self.extents.slices_of(extent))

    def release(self, slices: npt.NDArray[np.int64]) -> None:
        self.ring.release(slices)
        self.decoded.difference_update(slices.tolist())
        self.reset_later.difference_update(slices.tolist())

    @rule(data=st.data(), count=st.integers(1, 12))
    def symbols_arrive(self, data: st.DataObject, count: int) -> None:
        """A window of up to three slices, some of its symbols, in wire order."""
        chosen = sorted(data.draw(st.sets(st.integers(0, self.partition.slice_count - 1), min_size=1, max_size=3)))
        first = data.draw(st.integers(0, self.partition.source_symbols + 4))
        pairs = [(s, esi) for esi in range(first, first + count) for s in chosen if esi < 255]
        slices = np.array([s for s, _esi in pairs], np.int64)
        esis = np.array([esi for _s, esi in pairs], np.int64)
        valid = self.ring.valid(slices, esis)
        slices, esis = slices[valid], esis[valid]
        self.sequence += len(pairs)
        pinned = set(np.flatnonzero(self.ring.busy(np.arange(self.partition.slice_count))).tolist())
        placement = self.ring.place(slices, esis, np.full(len(slices), self.sequence))
        lost = self.ring.take_lost_complete()
        assert not pinned & set(lost.tolist())
        self.decoded.difference_update(lost.tolist())
        self.extents.slices_lost(lost)
        assert not set(placement.completed.tolist()) & (self.decoded | self.decoding)
        lacking = placement.completed[placement.to_decode]
        self.ring.pin(lacking)
        self.decoding.update(lacking.tolist())
        self.ready(placement.completed[~placement.to_decode].tolist())

    @precondition(lambda self: self.decoding)
    @rule(data=st.data())
    def decoded_some(self, data: st.DataObject) -> None:
        slices = sorted(data.draw(st.sets(st.sampled_from(sorted(self.decoding)), min_size=1)))
        for slice_index in slices:
            erasures = self.ring.erasures(np.array([slice_index]))
            assert len(erasures.erased) == len(erasures.repair_esis) > 0
        self.decoding.difference_update(slices)
        self.ring.unpin(np.array(slices))
        self.ready(slices)

    @precondition(lambda self: self.checking)
    @rule(data=st.data(), good=st.booleans())
    def checked_one(self, data: st.DataObject, good: bool) -> None:
        extent = data.draw(st.sampled_from(sorted(self.checking)))
        self.checking.discard(extent)
        self.ring.unpin(self.extents.slices_of(extent))
        if good:
            released = self.extents.done(extent)
            assert not set(released) & {s for e in self.waiting | self.checking for s in self.extents.slices_of(e)}
            self.release(released)
        else:
            self.waiting.add(extent)
            self.reset_later.update(self.extents.damaged(extent).tolist())
        late = np.array(sorted(self.reset_later), np.int64)
        idle = late[~self.ring.busy(late)]
        self.reset_later.difference_update(idle.tolist())
        self.decoded.difference_update(idle.tolist())
        self.ring.reset(idle)

    @rule(idle=st.booleans(), sent_below=st.integers(0, 12))
    def the_sender_speaks(self, idle: bool, sent_below: int) -> None:
        self.ring.end_windows(self.sequence, all_sent=idle)
        self.ring.limit_frontier(sent_below)

    @invariant()
    def nothing_is_miscounted(self) -> None:
        if not hasattr(self, "ring"):
            return
        ring, every = self.ring, np.arange(self.partition.slice_count)
        state = ring.state
        assert ring.missing_count == np.count_nonzero(state == SliceState.MISSING)
        assert ring.complete_slices().tolist() == np.flatnonzero(state == SliceState.COMPLETE).tolist()
        assert set(ring.complete_slices().tolist()) == self.decoded | self.decoding
        assert ((ring.deficits_of(every) > 0) == (state == SliceState.MISSING)).all()
        short = self.partition.source_symbols - self.partition.symbols_of(every)
        assert ring.lacking_count == ring.deficits_of(every).sum() + short[state == SliceState.MISSING].sum()
        pinned = {s for e in self.checking for s in self.extents.slices_of(e)} | self.decoding
        assert set(every[ring.busy(every)].tolist()) == pinned
        assert round(ring.fill * ring.slots) == len(pinned)
        held = every[ring.in_ring(every)]
        slots = dict(zip(held.tolist(), ring.slots_of(held).tolist(), strict=True))
        assert len(set(slots.values())) == len(slots)
        assert all(slot == self.pinned.get(s, slot) for s, slot in slots.items())
        self.pinned = {s: slots[s] for s in pinned}
        size = self.partition.slice_size
        for extent in self.checking:
            start, stop = self.offsets[extent : extent + 2].tolist()
            pieces = ring.ranges(start, stop)
            assert [place for piece in pieces for place in range(*piece)] == [
                slots[offset // size] * size + offset % size for offset in range(start, stop)
            ]
            assert all(one[1] != other[0] for one, other in itertools.pairwise(pieces))
        assert self.extents.pending_count == len(self.waiting | self.checking)
        needed = {s for e in self.waiting | self.checking for s in self.extents.slices_of(e)}
        assert needed == set(np.flatnonzero(self.extents.wanted_slices).tolist())
        # What somebody waits for is on its way to being ready, or is missing and can be asked for.
        for slice_index in needed:
            assert state[slice_index] != SliceState.UNWANTED
        missing = np.flatnonzero(state == SliceState.MISSING)
        if len(missing) and not pinned and self.extents.longest <= ring.slots:  # else the session fails at once
            # Whatever the ring is full of, the first one is asked for, and so, all are in the end.
            first = int(missing[0])
            assert ring.in_ring(missing[:1])[0] or first in ring.wholly_missing(0, self.partition.slice_count)


RingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRing = RingMachine.TestCase
