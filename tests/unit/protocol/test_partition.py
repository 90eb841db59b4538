"""Goal: slices tile the object. Method: all small shapes, one by one; ESIs counted out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from protocol import limits
from protocol.partition import Partition


@pytest.mark.parametrize(("symbol_size", "k"), list(itertools.product([64, 96], [1, 2, 5, 128])))
def test_slices_tile_the_object(symbol_size: int, k: int) -> None:
    for size in {0, 1, symbol_size, symbol_size + 1, symbol_size * k - 1, symbol_size * k, symbol_size * k * 3 + 7}:
        partition = Partition(size, symbol_size, k)
        ranges = [partition.slice_range(index) for index in range(partition.slice_count)]
        assert [start for start, _stop in ranges] == [index * symbol_size * k for index in range(len(ranges))]
        assert all(left[1] == right[0] for left, right in itertools.pairwise(ranges))
        assert (ranges[-1][1] if ranges else 0) == size
        symbols = partition.symbols_of(np.arange(partition.slice_count))
        assert symbols.sum() == partition.symbol_count == -(-size // symbol_size)
        for (start, stop), count in zip(ranges, symbols.tolist(), strict=True):
            assert (count - 1) * symbol_size < stop - start <= count * symbol_size
            assert partition.slices_of(start, stop) == (
                start // partition.slice_size,
                start // partition.slice_size + 1,
            )


def test_positions_number_what_can_be_sent_and_go_around() -> None:
    partition = Partition(64 * 130, 64, 128)
    whole, short = np.array([128]), np.array([2])
    positions = np.arange(600)
    esis = partition.esi(positions, np.full(600, 128))
    assert np.array_equal(esis, np.arange(600) % limits.CODE_LENGTH)
    # The short slice has two source symbols; 2 .. 127 are padding and are never sent.
    esis = partition.esi(positions, np.full(600, 2))
    turn = [0, 1, *range(128, 255)]
    assert esis.tolist() == (turn * 5)[:600]
    assert partition.symbols_of(np.array([0, 1])).tolist() == [128, 2]
    assert partition.esi(np.array([254]), whole).tolist() == [254]
    assert partition.esi(np.array([128]), short).tolist() == [254]
