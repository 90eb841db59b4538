"""Timing a piece of work many times, and a figure beside its ceiling."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure, and over how much memory."""

    repeats: int
    seconds: float
    """For each repeat."""
    far_bytes: int
    """What *far* figures walk through: more than the level 3 cache, or a smoke run's excuse for it."""


THOROUGH = Effort(repeats=9, seconds=0.05, far_bytes=64 << 20)
QUICK = Effort(repeats=3, seconds=0.01, far_bytes=64 << 20)
SMOKE = Effort(repeats=1, seconds=0.0, far_bytes=2 << 20)
"""For tests: whether it still runs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: GB/s of payload, and the share of a ceiling."""

    benchmark: str
    what: str
    gb_per_s: float
    """Median of n."""
    worst: float
    best: float
    n: int
    ceiling: str
    """What limits it."""
    ceiling_gb_per_s: float
    of_ceiling: float

    @classmethod
    def of(cls, benchmark: str, what: str, found: Sequence[float], ceiling: str, limit: Sequence[float]) -> Self:
        """Return the figure ``found`` below the ceiling ``limit``, both GB/s, one or more of each."""
        middle, top = statistics.median(found), statistics.median(limit)
        return cls(benchmark, what, middle, min(found), max(found), len(found), ceiling, top, middle / top)


def rates(
    work: Callable[[], None], work_bytes: int, effort: Effort, prepare: Callable[[], None] | None = None
) -> list[float]:
    """Return GB/s of ``repeats`` measurements of ``work``, which handles ``work_bytes``, after one that is not counted.

    With ``prepare``, that is called before every single ``work``, and not counted.
    """
    spent = _seconds(work, prepare)
    spent = _seconds(work, prepare)
    calls = max(1, int(effort.seconds / max(spent, 1e-7)))
    found = []
    for _ in range(effort.repeats):
        if prepare is None:
            start = time.perf_counter()
            for _ in range(calls):
                work()
            spent = time.perf_counter() - start
        else:
            spent = sum(_seconds(work, prepare) for _ in range(calls))
        found.append(calls * work_bytes / max(spent, 1e-9) / 1e9)
    return found


def _seconds(work: Callable[[], None], prepare: Callable[[], None] | None) -> float:
    if prepare is not None:
        prepare()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copy_rates(sources: Sequence[npt.NDArray[np.uint8]], effort: Effort) -> list[float]:
    """Return GB/s of copying every source into one buffer: the ceiling of whatever must read them."""
    target = np.zeros_like(sources[0])

    def work() -> None:
        for source in sources:
            np.copyto(target, source)

    return rates(work, sum(source.nbytes for source in sources), effort)


def random_bytes(*shape: int) -> npt.NDArray[np.uint8]:
    """Return bytes that are not all alike."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
