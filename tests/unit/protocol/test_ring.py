"""Goal: a ring turns in as few slots as it needs, and no slice loses its slot by that.

Method: small rings by hand. Any order of events is in tests/property (``test_protocol_assembly``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocol.ring import NOWHERE, Ring


def take(ring: Ring, *slices: int) -> list[int]:
    """Ask for slots; returns where the slices are then."""
    ring.give(np.array(slices))
    return where(ring, *slices)


def where(ring: Ring, *slices: int) -> list[int]:
    found: list[int] = ring.locate(np.array(slices)).tolist()
    return found


def let_go(ring: Ring, *slices: int) -> None:
    ring.let_go(ring.locate(np.array(slices)))


def consistent(ring: Ring) -> bool:
    held: npt.NDArray[np.int64] = np.flatnonzero(ring.place >= 0)
    slots = ring.locate(held)
    return bool(
        (ring.owner[slots] == held).all() and ring.taken == len(held) == np.count_nonzero(ring.owner != NOWHERE)
    )


def test_a_stream_that_is_kept_up_with_stays_in_the_first_slots() -> None:
    ring = Ring(1000, 100, 4)
    for slice_index in range(1000):
        assert take(ring, slice_index) == [slice_index % 4]
        let_go(ring, slice_index)
    assert ring.size == 4


def test_it_grows_when_three_quarters_are_taken_and_everybody_keeps_its_slot() -> None:
    ring = Ring(1000, 100, 4)
    assert take(ring, 0, 1, 2) == [0, 1, 2]
    assert ring.size == 4
    assert take(ring, 3, 4) == [3, 4]
    assert ring.size == 8
    assert take(ring, *range(5, 30)) == list(range(5, 30))
    assert ring.size == 64
    assert where(ring, *range(31)) == [*range(30), NOWHERE]
    assert consistent(ring)


def test_what_is_still_taken_is_passed_over() -> None:
    ring = Ring(1000, 8, 8)
    take(ring, *range(8))
    let_go(ring, 0, 1, 3, 4, 6)
    assert take(ring, 20, 21, 22) == [0, 1, 3]
    assert take(ring, 23, 24) == [4, 6]
    assert ring.full
    assert consistent(ring)


def test_the_first_of_too_many_get_what_there_is() -> None:
    ring = Ring(1000, 10, 4)
    assert ring.give(np.arange(3, 15)) == 10
    assert ring.full
    assert where(ring, 12, 13) == [9, NOWHERE]
    assert ring.give(np.array([13])) == 0
    let_go(ring, 7)
    assert take(ring, 13) == [4]
    assert consistent(ring)


def test_it_shrinks_when_hardly_any_is_taken_and_not_below_where_it_began() -> None:
    ring = Ring(5000, 90, 6)
    take(ring, *range(60))
    assert ring.size == 90
    let_go(ring, *range(1, 60))
    kept = where(ring, 0)
    for slice_index in range(60, 1000):
        take(ring, slice_index)
        let_go(ring, slice_index)
        assert consistent(ring)
    assert ring.size == 6
    assert where(ring, 0) == kept
    assert ring.taken == 1


def test_a_slot_behind_the_end_of_a_ring_that_shrank_stays_whose_it_is() -> None:
    ring = Ring(5000, 64, 4)
    take(ring, *range(60))
    let_go(ring, *range(59))
    for slice_index in range(60, 1000):
        take(ring, slice_index)
        let_go(ring, slice_index)
    assert ring.size == 4
    assert where(ring, 59) == [59]
    assert take(ring, *range(2000, 2060)) == [slot for slot in where(ring, *range(2000, 2060)) if slot != 59]
    assert consistent(ring)
