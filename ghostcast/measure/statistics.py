"""What happened to the numbered datagrams of one step: loss and its pattern, order, delay.

Knows arrays of sequence numbers and delays; must not know sockets, clocks or messages. Everything is done a batch at a
time in numpy, and memory is bounded by ``STEP_DATAGRAMS_MAX`` whatever arrives.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from protocol import limits
from protocol.measurement import INTERLEAVES, RUN_BINS, SLICE_LOSS_UNKNOWN, STEP_DATAGRAMS_MAX

Integers = npt.NDArray[np.int64]

SLICE_LOSS_QUANTILE = 0.95
"""The share of slices that redundancy should cover without anybody asking: 1 - ``parity.NACK_PROBABILITY``."""

_GROWTH_MIN = 1 << 14


@dataclasses.dataclass(frozen=True, slots=True)
class StepStatistics:
    """One step, as one listener saw it."""

    sent: int
    received: int
    """Different datagrams, at most ``sent``."""
    duplicate: int
    reordered: int
    """Datagrams that came after one with a higher number (RFC 4737 §3)."""
    reorder_distance: int
    """How far behind the highest number the latest of them was."""
    run_counts: tuple[int, ...]
    """Histogram of loss runs: bin i holds runs of 2**i to 2**(i+1) - 1 lost in a row, the last one all longer."""
    run_longest: int
    delay_us: tuple[int, int, int]
    """One-way delay above the smallest: median, 99th percentile, largest."""
    slice_losses: tuple[int, ...]
    """For each of ``INTERLEAVES``: how many symbols a slice of 128 lost, 95th percentile; 255 where unknown."""

    @property
    def lost(self) -> int:
        """Datagrams that never came."""
        return self.sent - self.received


class StepRecorder:
    """Collects one step's datagrams. Not thread-safe: one thread owns it."""

    def __init__(self) -> None:
        self._seen = np.zeros(_GROWTH_MIN, np.bool_)
        self._delays = np.zeros(_GROWTH_MIN, np.int32)
        self._first_delay: int | None = None
        self._next = 0
        self.arrived = 0
        """Datagrams taken in, duplicates included."""
        self.reordered = 0
        self.reorder_distance = 0

    @property
    def highest(self) -> int:
        """One more than the highest number seen."""
        return self._next

    def add(self, sequences: Integers, delays_us: Integers) -> None:
        """Take in a batch in the order of its arrival.

        Args:
            sequences: ``int64[n]``, numbers within the step from 0 on; what no step can have is ignored.
            delays_us: ``int64[n]``: arrival minus sending, modulo 2**32, from clocks that need not agree.
        Cost:
            About 30 ns a datagram.
        """
        possible = sequences < STEP_DATAGRAMS_MAX
        if not possible.all():
            sequences, delays_us = sequences[possible], delays_us[possible]
        if not len(sequences):
            return
        highest = int(sequences.max()) + 1
        if highest > len(self._seen):
            self._grow(highest)
        ahead = np.maximum.accumulate(np.concatenate(([self._next - 1], sequences)))[:-1]
        behind = ahead - sequences
        late = int(np.count_nonzero(behind > 0))
        if late:
            self.reordered += late
            self.reorder_distance = max(self.reorder_distance, int(behind.max()))
        if self._first_delay is None:
            self._first_delay = int(delays_us[0])
        # A difference of clocks that wraps is small again once the first delay is taken away.
        relative = (delays_us - self._first_delay + (1 << 31) & 0xFFFFFFFF) - (1 << 31)
        self._seen[sequences] = True
        self._delays[sequences] = relative
        self._next = max(self._next, highest)
        self.arrived += len(sequences)

    def _grow(self, size: int) -> None:
        size = min(STEP_DATAGRAMS_MAX, max(2 * len(self._seen), 1 << (size - 1).bit_length()))
        for name in ("_seen", "_delays"):
            old = getattr(self, name)
            new = np.zeros(size, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def close(self, sent: int) -> StepStatistics:
        """Return what came of a step of ``sent`` datagrams; may be called again."""
        seen = np.zeros(sent, np.bool_)
        known = min(sent, len(self._seen))
        seen[:known] = self._seen[:known]
        received = int(np.count_nonzero(seen))
        surplus = int(np.count_nonzero(self._seen[known:]))
        runs = loss_runs(seen)
        return StepStatistics(
            sent=sent,
            received=received,
            duplicate=max(0, self.arrived - surplus - received),
            reordered=self.reordered,
            reorder_distance=self.reorder_distance,
            run_counts=run_histogram(runs),
            run_longest=int(runs.max()) if len(runs) else 0,
            delay_us=_spread(self._delays[:known][seen[:known]]),
            slice_losses=tuple(slice_loss(seen, interleave) for interleave in INTERLEAVES),
        )


def loss_runs(seen: npt.NDArray[np.bool_]) -> Integers:
    """Return ``int64[runs]``: how many datagrams each run of lost ones is long."""
    edges = np.diff(np.concatenate(([True], seen, [True])).astype(np.int8))
    return np.flatnonzero(edges > 0) - np.flatnonzero(edges < 0)


def run_histogram(runs: Integers) -> tuple[int, ...]:
    """Return how many runs fall into each of ``RUN_BINS`` bins that double in width."""
    if not len(runs):
        return (0,) * RUN_BINS
    # frexp is exact where log2 rounds: 2**n has exponent n + 1.
    bins = np.minimum(np.frexp(runs.astype(np.float64))[1] - 1, RUN_BINS - 1)
    return tuple(np.bincount(bins, minlength=RUN_BINS).tolist())


def slice_loss(seen: npt.NDArray[np.bool_], interleave: int) -> int:
    """Return how many of its 128 symbols a slice would have lost (95th percentile), had this stream been a clone's.

    Args:
        seen: ``bool[sent]``: which datagrams came.
        interleave: how many slices are sent symbol by symbol in turn.
    """
    per_window = limits.SOURCE_SYMBOLS_DEFAULT * interleave
    windows = len(seen) // per_window
    if not windows:
        return SLICE_LOSS_UNKNOWN
    shape = (windows, limits.SOURCE_SYMBOLS_DEFAULT, interleave)
    lost = limits.SOURCE_SYMBOLS_DEFAULT - np.count_nonzero(seen[: windows * per_window].reshape(shape), axis=1)
    return int(np.quantile(lost, SLICE_LOSS_QUANTILE, method="higher"))


def _spread(delays: npt.NDArray[np.int32]) -> tuple[int, int, int]:
    """Return the median, the 99th percentile and the largest of delays, above the smallest."""
    if not len(delays):
        return 0, 0, 0
    above = delays - delays.min()
    median, high, largest = np.quantile(above, (0.5, 0.99, 1.0), method="higher")
    return int(median), int(high), int(largest)
