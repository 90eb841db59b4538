"""Goal: what slices lack, and what stands in for it, is told slice by slice, and nothing is mixed up between slices.

Method: small slices by hand, and random ones beside a plain loop over one slice after the other.
"""

from __future__ import annotations

import numpy as np
import pytest

from protocol.erasures import Erasures

K, CODE = 6, 15


def columns(erasures: Erasures) -> list[tuple[list[int], list[int]]]:
    """Erased and repair ESIs of each slice."""
    stops = np.cumsum(erasures.counts).tolist()
    return [
        (erasures.erased[start:stop].tolist(), erasures.repair_esis[start:stop].tolist())
        for start, stop in zip(erasures.starts.tolist(), stops, strict=True)
    ]


def bits(*held: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    have = np.zeros((len(held), CODE), np.uint8)
    for number, esis in enumerate(held):
        have[number, esis] = 1
    return have


def test_the_first_repair_symbols_of_each_slice_stand_in() -> None:
    erasures = Erasures.of_bits(bits([0, 2, 3, 4, 5, 9, 11, 14], [1, 2, 3, 4, 6, 7]), K, K)
    assert columns(erasures) == [([1], [9]), ([0, 5], [6, 7])]
    assert erasures.slices.tolist() == [0, 1, 1]
    assert len(erasures) == 2


def test_a_short_slice_lacks_no_padding() -> None:
    assert columns(Erasures.of_bits(bits([0, 8]), K, 2)) == [([1], [8])]


def test_many_slices_are_told_as_one_by_one() -> None:
    chance = np.random.default_rng(1)
    held = [np.sort(chance.permutation(CODE)[: int(chance.integers(K, CODE))]).tolist() for _ in range(200)]
    held = [esis for esis in held if set(range(K)) - set(esis)]
    expected = []
    for esis in held:
        erased = sorted(set(range(K)) - set(esis))
        expected.append((erased, [esi for esi in esis if esi >= K][: len(erased)]))
    assert len(held) > 100
    assert columns(Erasures.of_bits(bits(*held), K, K)) == expected


@pytest.mark.parametrize(
    ("counts", "erased", "repair_esis"),
    [([1], [0], []), ([1], [], [9]), ([0], [], []), ([2, 0], [0, 1], [7, 8]), ([1, 1], [0], [9])],
)
def test_columns_that_do_not_belong_together_are_refused(
    counts: list[int], erased: list[int], repair_esis: list[int]
) -> None:
    with pytest.raises(ValueError, match="want so many symbols"):
        Erasures(np.array(counts), np.array(erased, np.intp), np.array(repair_esis, np.intp))


def test_a_slice_that_cannot_be_restored_is_refused() -> None:
    with pytest.raises(ValueError, match="want so many symbols"):
        Erasures.of_bits(bits([0, 1, 2, 3, 8]), K, K)


def test_nothing_erased_is_no_slice() -> None:
    erasures = Erasures.of_slice([], [])
    assert (len(erasures), erasures.starts.tolist(), erasures.slices.tolist()) == (0, [], [])
