"""Goal: a ring of slots holds slices by their symbols, forgets by rule, and counts what it lacks.

Method: a small object, rule by rule. Order, duplication and every mixture of calls are in tests/property.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from protocol.assembly import Assembly, SliceState
from protocol.partition import Partition

K = 4


def assembly(slices: int = 6, slots: int = 3, last: int = K, wanted: list[int] | None = None) -> Assembly:
    partition = Partition(64 * (K * (slices - 1) + last), 64, K)
    mask = np.ones(slices, np.bool_)
    if wanted is not None:
        mask[:] = False
        mask[wanted] = True
    return Assembly(partition, slots, mask)


def of(*slices: int) -> npt.NDArray[np.int64]:
    return np.array(slices, np.int64)


def put(ring: Assembly, *symbols: tuple[int, int], end: int = 100) -> npt.NDArray[np.int64]:
    """Place (slice, ESI) pairs of one window; returns their rows."""
    slices, esis = (np.array(column, np.int64) for column in zip(*symbols, strict=True))
    return ring.place(slices, esis, np.full(len(slices), end)).rows


def complete(ring: Assembly, slice_index: int, end: int = 100) -> None:
    put(ring, *((slice_index, esi) for esi in range(K)), end=end)
    assert ring.state[slice_index] == SliceState.COMPLETE


def test_source_rows_of_a_slice_are_consecutive_and_repair_rows_lie_behind_esi_by_esi() -> None:
    ring = assembly()
    repairs = 255 - K
    put(ring, (0, 0))
    rows = put(ring, (1, 0), (1, 3), (1, K), (1, 254))
    assert rows.tolist() == [K, K + 3, 3 * K + 1, 3 * K + 3 * (repairs - 1) + 1]
    assert ring.trash_row == 3 * (K + repairs) == ring.row_count - 1
    assert ring.rows_of(1, np.array([0, 3, K, 254])).tolist() == rows.tolist()


def test_a_slice_is_complete_with_any_k_symbols_and_says_what_to_decode() -> None:
    ring = assembly()
    placement = ring.place(np.full(4, 2), np.array([0, 200, 3, 9]), np.full(4, 50))
    assert placement.completed.tolist() == [2]
    assert placement.to_decode.tolist() == [True]
    erasures = ring.erasures(np.array([2]))
    assert erasures.erased.tolist() == [1, 2]
    assert erasures.repair_esis.tolist() == [9, 200]
    placement = ring.place(np.full(4, 1), np.arange(4), np.full(4, 60))
    assert placement.to_decode.tolist() == [False]
    assert ring.missing_count == 4
    assert ring.complete_slices().tolist() == [1, 2]


def test_the_short_last_slice_needs_its_own_symbols_only() -> None:
    ring = assembly(last=2)
    valid = ring.valid(np.full(5, 5), np.array([1, 2, 3, 4, 254]))
    assert valid.tolist() == [True, False, False, True, True]
    placement = ring.place(np.array([5, 5]), np.array([1, 77]), np.array([9, 9]))
    assert placement.completed.tolist() == [5]
    erasures = ring.erasures(np.array([5]))
    assert (erasures.erased.tolist(), erasures.repair_esis.tolist()) == ([0], [77])
    assert list(ring.source_rows(5)) == ring.rows_of(5, np.arange(2)).tolist()


def test_what_does_not_exist_is_not_valid() -> None:
    ring = assembly()
    assert ring.valid(np.array([5, 6, 1 << 32, 0]), np.array([254, 0, 0, 255])).tolist() == [True, False, False, False]


def test_duplicates_and_surplus_go_to_the_trash() -> None:
    ring = assembly(wanted=[0, 1])
    rows = put(ring, (0, 1), (0, 1), (2, 0))
    assert ring.counters.surplus == 1
    rows = put(ring, (0, 1), (0, 2))
    assert rows.tolist() == [ring.trash_row, 2]
    assert ring.counters.duplicate == 2
    assert ring.counters.accepted == 2
    complete(ring, 1)
    assert put(ring, (1, 9)).tolist() == [ring.trash_row]


def test_while_the_stream_goes_forward_the_newer_slice_takes_the_slot() -> None:
    ring = assembly()
    complete(ring, 0, end=10)
    put(ring, (1, 0), (2, 0), end=15)
    put(ring, (3, 0), end=20)
    assert ring.take_lost_complete().tolist() == [0]
    assert ring.take_lost_complete().tolist() == []
    assert ring.state[0] == SliceState.MISSING
    assert ring.missing_count == 6
    assert ring.counters.forgotten == 1
    assert ring.deficits_of(np.array([0, 1, 3])).tolist() == [K, K - 1, K - 1]


def test_slices_of_one_window_do_not_take_a_slot_from_one_another() -> None:
    ring = assembly()
    rows = put(ring, (0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (3, 1), end=50)
    assert (rows != ring.trash_row).tolist() == [True, True, True, False, True, False]
    assert ring.counters.pool_full == 0


def test_repair_symbols_alone_take_a_free_slot_only() -> None:
    ring = assembly()
    put(ring, (0, 0), (1, 0), end=10)
    assert put(ring, (4, 9), end=20).tolist() != [ring.trash_row]
    assert put(ring, (3, 9), end=20).tolist() == [ring.trash_row]


def test_a_pinned_slice_stays_and_the_newcomer_is_counted() -> None:
    ring = assembly(slices=9, slots=1)
    complete(ring, 0, end=10)
    ring.pin(of(0))
    ring.pin(of(0))
    assert ring.busy(of(0, 1)).tolist() == [True, False]
    assert ring.fill == 1
    assert put(ring, (3, 0), (3, 1), end=20).tolist() == [ring.trash_row] * 2
    assert ring.counters.pool_full == 2
    ring.unpin(of(0))
    assert ring.busy(of(0))
    ring.unpin(of(0))
    assert not ring.busy(of(0))
    assert ring.fill == 0
    assert put(ring, (6, 0), end=30).tolist() != [ring.trash_row]


@pytest.mark.parametrize(
    ("symbols", "end"),
    [
        pytest.param([(8, 0), (8, 1)], 20, id="of a later window"),
        pytest.param([(8, 0), (8, 1)], 10, id="of the same window"),
        pytest.param([(5, 0), (5, 1)], 20, id="sent again"),
        pytest.param([(8, K), (8, K + 1)], 20, id="repair"),
    ],
)
@pytest.mark.parametrize("pinned", [1, 2])
def test_symbols_without_a_slot_are_this_hosts_fault_where_workers_hold_half(
    symbols: list[tuple[int, int]], end: int, pinned: int
) -> None:
    ring = assembly(slices=9, slots=4)
    put(ring, (6, 0), end=5)
    put(ring, *((s, esi) for s in range(1, 5) for esi in range(K)), end=10)
    ring.release(of(4)) if ring.in_ring(np.array([4]))[0] else None
    for slice_index in range(1, 1 + pinned):
        ring.pin(of(slice_index))
    before = ring.counters.surplus
    rows = put(ring, *symbols, end=end)
    lost = int((rows == ring.trash_row).sum())
    assert ring.counters.surplus - before == lost
    assert ring.counters.pool_full == (lost if pinned == 2 else 0)


def test_where_a_worker_reads_the_oldest_the_next_one_is_forgotten() -> None:
    ring = assembly(slices=9)
    for slice_index in range(3):
        complete(ring, slice_index, end=10 + slice_index)
    ring.pin(of(0))
    assert put(ring, (3, 0), end=20).tolist() == [K]
    assert ring.take_lost_complete().tolist() == [1]
    assert ring.counters.pool_full == 0


def test_among_slices_sent_again_the_first_in_the_image_keeps_the_slot() -> None:
    """Were it the newer one, slices that wait for a neighbour would push one another out, pass after pass."""
    ring = assembly(slots=1)
    put(ring, (3, 0), end=10)
    assert put(ring, (0, 0), end=20).tolist() == [0]
    assert put(ring, (3, 0), end=30).tolist() == [ring.trash_row]
    assert ring.counters.pool_full == 0  # no worker's fault
    assert 3 not in ring.wholly_missing(0, 6)
    complete(ring, 0, end=40)
    ring.release(of(0))
    assert 3 in ring.wholly_missing(0, 6)
    assert put(ring, (3, 0), end=50).tolist() == [0]
    assert put(ring, (0, 0), end=60).tolist() == [ring.trash_row]  # released


def test_of_slices_sent_again_the_last_in_the_image_gives_way() -> None:
    ring = assembly()
    for slice_index in (5, 3, 4):
        put(ring, (slice_index, 0), end=10)
    put(ring, (1, 0), end=20)
    assert ring.deficits_of(np.array([1, 3, 4, 5])).tolist() == [K - 1, K - 1, K - 1, K]


def test_released_slices_are_never_asked_for_again() -> None:
    ring = assembly()
    complete(ring, 0)
    ring.release(of(0))
    ring.release(of(1))
    assert ring.missing_count == 4
    assert put(ring, (0, 0), (1, 0), end=200).tolist() == [ring.trash_row] * 2
    assert ring.wholly_missing(0, 6).tolist() == [2, 3, 4, 5]


def test_a_reset_slice_is_wanted_whole() -> None:
    ring = assembly()
    complete(ring, 0)
    ring.reset(of(0))
    assert ring.deficits_of(np.array([0])).tolist() == [K]
    assert ring.missing_count == 6
    assert 0 in ring.wholly_missing(0, 6)


def test_unwanting_spares_what_a_worker_reads() -> None:
    ring = assembly()
    complete(ring, 0)
    complete(ring, 1)
    put(ring, (2, 0))
    ring.pin(of(1))
    ring.unwant(np.zeros(6, np.bool_))
    assert ring.missing_count == 0
    assert ring.complete_slices().tolist() == [1]
    assert ring.state.tolist() == [0, 2, 0, 0, 0, 0]
    ring.unpin(of(1))
    ring.release(of(1))
    assert ring.complete_slices().tolist() == []


def test_deficits_are_told_when_the_window_has_passed() -> None:
    ring = assembly()
    put(ring, (1, 0), (1, 1), end=50)
    put(ring, (0, 0), end=80)
    assert [part.tolist() for part in ring.partial_deficits(49)] == [[], []]
    assert [part.tolist() for part in ring.partial_deficits(50)] == [[1], [2]]
    assert [part.tolist() for part in ring.partial_deficits(80)] == [[0, 1], [3, 2]]
    put(ring, (1, 3), end=90)
    assert ring.end_sequences(np.array([1])).tolist() == [90]
    assert [part.tolist() for part in ring.partial_deficits(80)] == [[0], [3]]
    assert ring.wholly_missing(0, 6).tolist() == [2, 3, 4, 5]
    put(ring, (4, 3), end=90)
    assert ring.wholly_missing(0, 6).tolist() == [2, 3]  # 5 would find all slots held by earlier slices


def test_bytes_lie_where_their_slices_have_slots() -> None:
    ring = assembly(slices=9, slots=4)
    size = K * 64
    for slice_index in range(3):
        put(ring, (slice_index, 0))
    assert ring.ranges(5, 2 * size + 9) == [(5, 2 * size + 9)]
    assert ring.ranges(size, size) == []
    ring.release(of(0))
    put(ring, (3, 0), (4, 0))
    assert ring.slots_of(np.array([1, 2, 3, 4])).tolist() == [1, 2, 3, 0]
    assert ring.ranges(2 * size - 1, 5 * size) == [(2 * size - 1, 4 * size), (0, size)]


def test_few_slots_are_used_while_they_suffice() -> None:
    ring = Assembly(Partition(64 * K * 1000, 64, K), 64, np.ones(1000, np.bool_), slots_first=4)
    for slice_index in range(100):
        complete(ring, slice_index, end=slice_index)
        ring.release(of(slice_index))
    assert ring.slots_in_turn == 4
    for slice_index in range(100, 130):
        complete(ring, slice_index, end=slice_index)
    assert ring.slots_in_turn == 64
    assert ring.counters.forgotten == 0


def test_window_ends_that_cannot_be_are_corrected() -> None:
    ring = assembly()
    put(ring, (0, 0), end=1 << 40)
    put(ring, (1, 0), end=300)
    ring.end_windows(200, all_sent=False)
    assert ring.end_sequences(np.array([0, 1])).tolist() == [200, 300]
    ring.end_windows(200, all_sent=True)
    assert ring.end_sequences(np.array([0, 1])).tolist() == [200, 200]


def test_how_far_the_stream_has_come_is_corrected_by_the_senders_word() -> None:
    """Else one forged header makes a receiver whose slots are full drop all that is new."""
    ring = assembly(slices=100, slots=4)
    put(ring, (99, 7), end=5)
    for slice_index in range(20):
        ring.limit_frontier(slice_index)
        put(ring, (slice_index, 0), end=10 + slice_index)
    assert ring.in_ring(np.array([17, 18, 19])).all()


@pytest.mark.parametrize("slots", [1, 2, 100])
def test_no_more_slots_than_slices_and_at_least_one(slots: int) -> None:
    assert assembly(slices=6, slots=slots).slots == min(slots, 6)
    empty = Assembly(Partition(0, 64, K), slots, np.zeros(0, np.bool_))
    assert empty.slots == 1
    assert empty.missing_count == 0
