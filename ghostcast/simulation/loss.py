"""How a link loses datagrams: models, each with a random stream of its own, a batch at a time.

A model is a frozen description; ``begin`` makes the process that it describes. Every datagram that is offered takes one
step of the process, so bursts go on from batch to batch. Invariant: what a process loses depends on its generator and
on how many datagrams it was offered, never on how they were cut into batches of the same total by other links.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from protocol.errors import UsageError

Int64Array = npt.NDArray[np.int64]

NOTHING: Int64Array = np.empty(0, np.int64)


class LossProcess(Protocol):
    """A model at work on one link."""

    def lost(self, count: int) -> Int64Array:
        """Return which of the next ``count`` datagrams are lost: ``int64[m]``, ascending, in ``[0, count)``."""


class LossModel(Protocol):
    """What a link does to datagrams."""

    @property
    def mean(self) -> float:
        """Share of datagrams lost in the long run, in [0, 1]."""

    def begin(self, rng: np.random.Generator) -> LossProcess:
        """Return the process, at its beginning."""


def _check_share(share: float, what: str) -> None:
    if not 0 <= share <= 1:
        raise UsageError(f"{what} is a share in [0, 1], not {share}")


@dataclasses.dataclass(frozen=True, slots=True)
class Bernoulli:
    """Each datagram is lost by itself, with probability ``share``."""

    share: float

    def __post_init__(self) -> None:
        _check_share(self.share, "loss")

    @property
    def mean(self) -> float:
        """See ``LossModel``."""
        return self.share

    def begin(self, rng: np.random.Generator) -> LossProcess:
        """See ``LossModel``."""
        return _Gaps(self.share, rng) if self.share else _Nothing()


@dataclasses.dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Two states; in the bad one ``bad_loss`` of the datagrams are lost, in the good one none.

    Gilbert 1960; Elliott 1963. Given by what can be measured: the share lost, and the mean length of a bad stretch.
    """

    share: float
    burst_length: float
    """Mean datagrams from the first to the last of a bad stretch, at least 1."""
    bad_loss: float = 1.0

    def __post_init__(self) -> None:
        _check_share(self.share, "loss")
        _check_share(self.bad_loss, "the loss within a burst")
        if self.burst_length < 1:
            raise UsageError(f"a burst is at least one datagram long, not {self.burst_length}")
        if self.share >= self.bad_loss:
            raise UsageError(f"a loss of {self.share:g} needs more than {self.bad_loss:g} of the datagrams in bursts")

    @property
    def mean(self) -> float:
        """See ``LossModel``."""
        return self.share

    def begin(self, rng: np.random.Generator) -> LossProcess:
        """See ``LossModel``."""
        if not self.share:
            return _Nothing()
        bad = self.share / self.bad_loss
        enter = min(1.0, bad / (self.burst_length * (1 - bad)))
        return _Stretches(rng, enter, leave=1 / self.burst_length, bad_loss=self.bad_loss)


@dataclasses.dataclass(frozen=True, slots=True)
class Bursts:
    """Bursts of exactly ``length`` consecutive datagrams, one in ``interval`` datagrams on the average."""

    length: int
    interval: float

    def __post_init__(self) -> None:
        if self.length < 1 or self.interval <= self.length:
            raise UsageError(
                f"bursts are at least 1 datagram long and further apart than that: {self.length} in {self.interval:g}"
            )

    @property
    def mean(self) -> float:
        """See ``LossModel``."""
        return self.length / self.interval

    def begin(self, rng: np.random.Generator) -> LossProcess:
        """See ``LossModel``."""
        return _Stretches(rng, 1 / (self.interval - self.length), length=self.length)


class _Nothing:
    """Loses nothing."""

    def lost(self, count: int) -> Int64Array:
        return NOTHING


class _Gaps:
    """Bernoulli losses by the gaps between them: as many draws as losses, not as datagrams."""

    __slots__ = ("_next", "_rng", "_share")

    def __init__(self, share: float, rng: np.random.Generator) -> None:
        self._share = share
        self._rng = rng
        self._next = int(rng.geometric(share)) - 1

    def lost(self, count: int) -> Int64Array:
        first = self._next
        if first >= count:
            self._next = first - count
            return NOTHING
        draws = int((count - first) * self._share * 1.1) + 8
        gaps = self._rng.geometric(self._share, draws)
        gaps[0] += first
        places = np.cumsum(gaps)
        while places[-1] < count:
            places = np.concatenate((places, places[-1] + np.cumsum(self._rng.geometric(self._share, draws))))
        stop = int(np.searchsorted(places, count))
        self._next = int(places[stop]) - count
        found = np.empty(stop + 1, np.int64)
        found[0], found[1:] = first, places[:stop]
        return found


class _Stretches:
    """Good and bad stretches in turn, of geometric length or, the bad ones, of a fixed one."""

    def __init__(
        self,
        rng: np.random.Generator,
        enter: float,
        *,
        leave: float = 1.0,
        bad_loss: float = 1.0,
        length: int | None = None,
    ) -> None:
        self._rng = rng
        self._enter = enter
        self._leave = leave
        self._bad_loss = bad_loss
        self._length = length
        self._pairs_per_datagram = 1.2 / (1 / enter + (length or 1 / leave))
        self._bad = False
        self._left = int(rng.geometric(enter)) - 1

    def lost(self, count: int) -> Int64Array:
        if self._left >= count:
            self._left -= count
            places = np.arange(count) if self._bad else NOTHING
        else:
            places = self._several(count)
        if self._bad_loss < 1 and len(places):
            places = places[self._rng.random(len(places)) < self._bad_loss]
        return places

    def _several(self, count: int) -> Int64Array:
        parts = [np.array([self._left], np.int64)]
        bad, total = self._bad, self._left
        while total <= count:
            pairs = int(count * self._pairs_per_datagram) + 4
            drawn = np.empty((pairs, 2), np.int64)
            good_column, bad_column = (1, 0) if not bad else (0, 1)
            drawn[:, good_column] = self._rng.geometric(self._enter, pairs)
            drawn[:, bad_column] = self._length or self._rng.geometric(self._leave, pairs)
            parts.append(drawn.reshape(-1))
            total += int(drawn.sum())
        lengths = np.concatenate(parts)
        ends = np.cumsum(lengths)
        stop = int(np.searchsorted(ends, count, "right"))
        states = (np.arange(stop + 1) & 1).astype(np.bool_) ^ bad
        self._left = int(ends[stop]) - count
        self._bad = bool(states[stop])
        lengths = lengths[: stop + 1]
        lengths[stop] -= self._left
        return np.flatnonzero(np.repeat(states, lengths))
