"""Goal: a chunk is reported exactly when all its slices are there, and a slice let go exactly when nobody needs it.

Method: chunks that share slices, drawn by hand: slices of 100 bytes, chunks at 0, 50, 120, 300 and 310.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from protocol.extents import Extents
from protocol.partition import Partition

OFFSETS = np.array([0, 50, 120, 300, 310, 400], np.int64)
PARTITION = Partition(400, 50, 2)


def of(*slices: int) -> npt.NDArray[np.int64]:
    return np.array(slices, np.int64)


def extents(wanted: list[int] | None = None) -> Extents:
    mask = np.zeros(5, np.bool_)
    mask[[0, 1, 2, 3, 4] if wanted is None else wanted] = True
    return Extents(PARTITION, OFFSETS, mask)


def test_which_slices_cover_which_chunk() -> None:
    table = extents()
    assert [list(table.slices_of(chunk)) for chunk in range(5)] == [[0], [0, 1], [1, 2], [3], [3]]
    assert table.longest == 2
    assert table.wanted_slices.tolist() == [True] * 4
    assert extents([0, 4]).wanted_slices.tolist() == [True, False, False, True]
    assert extents([4]).longest == 1


def test_chunks_are_ready_with_their_last_slice() -> None:
    table = extents()
    assert table.slices_ready(of(1)) == []
    assert table.slices_ready(of(0)) == [0, 1]
    assert table.slices_ready(of(3)) == [3, 4]
    assert table.slices_ready(of(2)) == [2]


def test_slices_that_are_ready_together_count_together() -> None:
    table = extents()
    assert table.slices_ready(of(1, 2)) == [2]
    assert table.slices_ready(of(0, 3)) == [0, 1, 3, 4]
    assert table.slices_ready(of()) == []


def test_slices_are_let_go_with_their_last_chunk() -> None:
    table = extents()
    for slice_index in range(4):
        table.slices_ready(of(slice_index))
    assert table.done(0).tolist() == []
    assert table.needs(of(0)).all()
    assert table.done(1).tolist() == [0]
    assert not table.needs(of(0)).all()
    assert table.done(2).tolist() == [1, 2]
    assert table.pending_count == 2
    assert table.done(4).tolist() == []
    assert table.done(3).tolist() == [3]
    assert table.pending_count == 0


def test_a_lost_slice_is_waited_for_again() -> None:
    table = extents()
    table.slices_ready(of(1))
    table.slices_lost(of(1, 2))
    table.slices_lost(of(1))
    assert table.slices_ready(of(0)) == [0]
    assert table.slices_ready(of(1)) == [1]
    assert table.slices_ready(of(2)) == [2]


def test_a_damaged_chunk_takes_its_slices_from_its_neighbours_that_wait() -> None:
    table = extents()
    assert table.slices_ready(of(0)) == [0]
    assert table.slices_ready(of(1)) == [1]
    assert table.damaged(1).tolist() == [0, 1]
    # Chunk 2 waits for slice 1 again; chunk 0 had its bytes already and is done.
    assert table.done(0).tolist() == []
    assert table.slices_ready(of(2)) == []
    assert table.slices_ready(of(1)) == [2]
    assert table.slices_ready(of(0)) == [1]
    assert table.pending_count == 4


def test_unwanted_chunks_are_done_from_the_start() -> None:
    table = extents([2])
    assert table.pending_count == 1
    assert not table.needs(of(0)).all()
    assert table.needs(of(1)).all()
    assert table.slices_ready(of(1)) == []
    assert table.slices_ready(of(2)) == [2]


@pytest.mark.parametrize("size", [0, 1])
def test_an_object_without_chunks(size: int) -> None:
    table = Extents(Partition(size, 50, 2), np.array([0] if size == 0 else [0, 1]), np.zeros(size, np.bool_))
    assert table.pending_count == 0
    assert table.longest == 0


def test_what_is_found_elsewhere_lets_its_slices_go() -> None:
    table = extents()
    found, released = table.found(np.array([0, 1]))
    assert (found.tolist(), released.tolist()) == ([0, 1], [0])  # slice 1 serves chunk 2 as well
    found, released = table.found(np.array([0, 2, 3]))
    assert (found.tolist(), released.tolist()) == ([2, 3], [1, 2])
    assert table.pending_count == 1
    assert table.wanted_slices.tolist() == [False, False, False, True]
    assert table.slices_ready(of(3)) == [4]
    assert table.done(4).tolist() == [3]


def test_what_is_being_written_is_not_found_any_more() -> None:
    table = extents()
    table.slices_ready(of(0))
    found, released = table.found(np.array([0]))
    assert (found.tolist(), released.tolist()) == ([], [])
    assert table.done(0).tolist() == []
    assert table.found(np.array([0, 1]))[0].tolist() == [1]
