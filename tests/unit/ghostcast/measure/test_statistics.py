"""Goal: a planted pattern of loss, order and delay is what the statistics say. Method: patterns with known answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ghostcast.measure.statistics import StepRecorder, StepStatistics, loss_runs, run_histogram, slice_loss
from protocol import limits, measurement

COUNT = 50_000


def record(sequences: npt.NDArray[np.int64], sent: int = COUNT, batch: int = 700) -> StepStatistics:
    """Feed numbers in batches, all with the same delay."""
    recorder = StepRecorder()
    for start in range(0, len(sequences), batch):
        part = sequences[start : start + batch]
        recorder.add(part, np.full(len(part), 1000))
    return recorder.close(sent)


def bursts(rng: np.random.Generator, length: int, share: float) -> npt.NDArray[np.bool_]:
    """Return ``bool[COUNT]``: what arrives where runs of ``length`` are lost, ``share`` of all datagrams."""
    seen = np.ones(COUNT, np.bool_)
    for start in rng.choice(COUNT // (2 * length), round(COUNT * share / length), replace=False) * 2 * length:
        seen[start : start + length] = False
    return seen


def test_nothing_lost() -> None:
    found = record(np.arange(COUNT))
    assert (found.sent, found.received, found.lost) == (COUNT, COUNT, 0)
    assert (found.duplicate, found.reordered, found.reorder_distance) == (0, 0, 0)
    assert (sum(found.run_counts), found.run_longest, found.delay_us) == (0, 0, (0, 0, 0))
    assert set(found.slice_losses[:5]) == {0}


def test_nothing_received() -> None:
    found = record(np.arange(0), sent=1000)
    assert (found.received, found.lost, found.run_longest) == (0, 1000, 1000)
    assert found.run_counts == (0,) * 9 + (1,) + (0,) * 6


def test_an_empty_step() -> None:
    assert record(np.arange(0), sent=0).lost == 0


@pytest.mark.parametrize(
    ("seen", "runs"),
    [
        ("", []),
        ("1111", []),
        ("0", [1]),
        ("0011", [2]),
        ("1100", [2]),
        ("0101001", [1, 1, 2]),
        ("000", [3]),
    ],
)
def test_runs(seen: str, runs: list[int]) -> None:
    assert loss_runs(np.array([digit == "1" for digit in seen], np.bool_)).tolist() == runs


def test_the_histogram_doubles() -> None:
    counts = run_histogram(np.array([1, 1, 2, 3, 4, 7, 8, 1023, 1024, 1 << 15, 1 << 22]))
    assert sum(counts) == 11
    assert counts[:4] == (2, 2, 2, 1)
    assert (counts[9], counts[10], counts[15]) == (1, 1, 2)


def test_independent_loss_and_bursts_of_the_same_share_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    alone = record(np.flatnonzero(rng.random(COUNT) >= 0.01))
    bursty = record(np.flatnonzero(bursts(rng, 50, 0.01)))
    assert alone.lost == pytest.approx(0.01 * COUNT, rel=0.2)
    assert bursty.lost == 0.01 * COUNT
    assert sum(alone.run_counts[1:]) < 0.05 * sum(alone.run_counts)
    assert bursty.run_counts[5] == 10
    assert sum(bursty.run_counts) == 10
    assert bursty.run_longest == 50


def test_interleaving_spreads_a_burst() -> None:
    seen = np.ones(128 * 256, np.bool_)
    seen[1024:1088] = False
    assert slice_loss(seen, 8) == 0  # one window of 32 holds all of it: not even a twentieth of the slices
    seen[:] = True
    seen.reshape(-1, 4096)[:, :64] = False  # a burst of 64 in every 4096
    assert [slice_loss(seen, interleave) for interleave in (8, 64)] == [8, 2]


def test_too_short_for_a_window_is_unknown() -> None:
    found = record(np.arange(128 * 16 + 5), sent=128 * 16 + 5)
    assert found.slice_losses == (0, 0, *[measurement.SLICE_LOSS_UNKNOWN] * 4)


def test_duplicates_are_neither_received_twice_nor_loss() -> None:
    found = record(np.concatenate((np.arange(COUNT), np.arange(100))))
    assert (found.received, found.duplicate) == (COUNT, 100)


def test_order() -> None:
    numbers = np.arange(COUNT)
    numbers[[10, 11]] = numbers[[11, 10]]
    moved = np.insert(np.delete(numbers, 500), 599, 500)  # a hundred places late, beyond a batch's end
    found = record(moved, batch=550)
    assert (found.received, found.reordered) == (COUNT, 2)
    assert found.reorder_distance == 99


@pytest.mark.parametrize("offset", [0, 5_000, (1 << 32) - 300, 1 << 31])
def test_delay_is_measured_with_clocks_that_do_not_agree(offset: int) -> None:
    delays = np.full(1000, 200)
    delays[0] = 150
    delays[900:980] = 700
    delays[999] = 5200
    recorder = StepRecorder()
    recorder.add(np.arange(1000), (delays + offset) & 0xFFFFFFFF)
    assert recorder.close(1000).delay_us == (50, 550, 5050)


def test_memory_is_bounded_and_impossible_numbers_are_ignored() -> None:
    recorder = StepRecorder()
    recorder.add(np.array([5, measurement.STEP_DATAGRAMS_MAX, (1 << 32) - 1]), np.zeros(3, np.int64))
    assert (recorder.arrived, recorder.highest) == (1, 6)
    recorder.add(np.array([measurement.STEP_DATAGRAMS_MAX - 1]), np.zeros(1, np.int64))
    found = recorder.close(10)
    assert (found.received, found.duplicate) == (1, 0)


def test_numbers_beyond_the_step_are_not_counted() -> None:
    found = record(np.arange(200), sent=100)
    assert (found.received, found.lost, found.duplicate) == (100, 0, 0)


def test_slices_are_those_of_a_clone() -> None:
    assert limits.WINDOW_SLICES_DEFAULT in measurement.INTERLEAVES
    assert measurement.INTERLEAVES[-1] == limits.WINDOW_SLICES_MAX
