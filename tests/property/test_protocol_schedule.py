"""Goal: the schedule sends what is needed, in order, once, and fresh; slices tile their object.

Method: a naive schedule of dictionaries and lists beside the real one, through any sequence of requests and windows.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.partition import Partition
from protocol.schedule import Schedule


class ScheduleMachine(RuleBasedStateMachine):
    """A Schedule beside its oracle."""

    @initialize(
        k=st.integers(1, 8), symbols=st.integers(0, 60), wanted=st.integers(0, (1 << 60) - 1), first=st.integers(0, 9)
    )
    def begin(self, k: int, symbols: int, wanted: int, first: int) -> None:
        self.partition = Partition(64 * symbols, 64, k)
        count = self.partition.slice_count
        self.symbols = self.partition.symbols_of(np.arange(count)).tolist()
        mask = np.array([bool(wanted >> index & 1) for index in range(count)], np.bool_)
        self.plan = Schedule(1, self.partition, mask)
        self.need = {index: self.symbols[index] for index in range(count) if mask[index]}
        self.sent_end = dict.fromkeys(range(count), -1)
        self.sent: dict[int, list[int]] = {index: [] for index in range(count)}
        self.rolling: set[int] = set()
        self.gathering: set[int] = set()
        self.cursor = 0
        self.sequence = first

    @rule(data=st.data(), back=st.integers(0, 40))
    def request(self, data: st.DataObject, back: int) -> None:
        if not self.symbols:
            return
        slices = sorted(data.draw(st.sets(st.integers(0, len(self.symbols) - 1), max_size=6)))
        deficits = [data.draw(st.integers(1, 255)) for _slice in slices]
        sequence = max(0, self.sequence - back)
        counted = self.plan.request(np.array(slices, np.int64), np.array(deficits, np.int64), sequence)
        expected = {}
        for index, deficit in zip(slices, deficits, strict=True):
            if self.sent_end[index] <= sequence:
                deficit = min(deficit, self.symbols[index])
                expected[index] = deficit
                self.need[index] = max(deficit, self.need.get(index, 0))
                if deficit < self.symbols[index] and self.sent_end[index] >= 0:
                    self.gathering.add(index)
        assert dict(zip(counted[0].tolist(), counted[1].tolist(), strict=True)) == expected

    @rule()
    def release(self) -> None:
        self.plan.release()
        self.rolling |= self.gathering
        self.gathering.clear()

    @rule(size=st.integers(1, 5), extra=st.integers(0, 4), wrap=st.booleans())
    def poll(self, size: int, extra: int, wrap: bool) -> None:
        window = self.plan.poll_window(size, self.sequence, lambda needed, whole: extra, wrap=wrap)
        expected = self.expected(size, wrap)
        assert (window.slices.tolist() if window is not None else []) == expected
        if window is None:
            return
        assert window.first_sequence == self.sequence
        row, ordinal = window.wire_order()
        assert (np.diff(ordinal) >= 0).all()
        assert len(row) == window.datagram_count
        self.sequence += window.datagram_count
        sources = 0
        for index, position, count in zip(expected, window.positions.tolist(), window.counts.tolist(), strict=True):
            symbols = self.symbols[index]
            need = self.need.pop(index)
            points = symbols + self.partition.repair_symbols
            assert count == min(need + extra, points)
            esis = self.partition.esi(position + np.arange(count), np.full(count, symbols)).tolist()
            assert len(set(esis)) == count
            sources += sum(esi < self.partition.source_symbols for esi in esis)
            if need == symbols:
                assert esis[0] == 0
            elif len(self.sent[index]) + count <= points and len(set(self.sent[index])) == len(self.sent[index]):
                assert not set(esis) & set(self.sent[index]), "a repair answer repeats what was sent before"
            self.sent[index] += esis
            self.sent_end[index] = self.sequence
        assert window.source_count == sources

    def expected(self, size: int, wrap: bool) -> list[int]:
        """Return which slices the next window has, and move the oracle's cursor."""
        if not self.need:
            return []
        if self.rolling:
            first = sorted(self.rolling)[:size]
            self.rolling -= set(first)
            first = [index for index in first if index in self.need]
            if first:
                return first
        ahead = [index for index in sorted(self.need) if index >= self.cursor]
        if not ahead and wrap:
            ahead = sorted(self.need)
        if ahead:
            self.cursor = ahead[:size][-1] + 1
        elif not wrap:
            self.cursor = len(self.symbols)
        return ahead[:size]

    @invariant()
    def the_same_is_needed(self) -> None:
        if hasattr(self, "plan"):
            assert self.plan.pending == bool(self.need)
            assert self.plan.needed_symbols == sum(self.need.values())


ScheduleMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSchedule = ScheduleMachine.TestCase


@settings(deadline=None)
@given(st.integers(0, 1 << 50), st.integers(2, 279).map(lambda n: 32 * n), st.integers(1, 254))
def test_slices_tile_any_object(size: int, symbol_size: int, k: int) -> None:
    partition = Partition(size, symbol_size, k)
    count = partition.slice_count
    assert (count - 1) * partition.slice_size < size <= count * partition.slice_size or size == count == 0
    for index in {0, 1, count // 2, count - 2, count - 1}:
        if 0 <= index < count:
            start, stop = partition.slice_range(index)
            assert start == index * partition.slice_size
            assert stop == size if index == count - 1 else stop == start + partition.slice_size
            symbols = int(partition.symbols_of(np.array([index]))[0])
            assert symbols == -(-(stop - start) // symbol_size)
            esis = partition.esi(np.arange(symbols + 255 - k), np.full(symbols + 255 - k, symbols))
            assert len(np.unique(esis)) == len(esis)
            assert esis.max() <= 254
