"""One link and the queue before it: what of a batch, and which control datagrams, come through, and how late.

Knows counts, sizes and instants; must not know sessions. Data is handled a batch at a time; a control datagram by
itself. A damaged datagram fails its checksum and is a lost one, counted apart. Invariant: every draw of a link comes
from its own streams, so that adding a receiver changes nothing at another.
"""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import numpy.typing as npt

from ghostcast.simulation.loss import NOTHING, Int64Array, LossModel
from protocol import limits
from protocol.errors import UsageError

REORDER_DISTANCE = 30
"""How many datagrams one may be overtaken by: less than what a receiver waits for before it calls a gap a loss."""


@dataclasses.dataclass(frozen=True, slots=True)
class Queue:
    """A port: a bounded queue, drained at a fixed rate; what finds it full is dropped (tail drop)."""

    rate_bytes_per_s: float
    size_bytes: int = 750_000
    """Of a shallow switch's port (research: 500 datagrams of MTU 1500)."""

    def __post_init__(self) -> None:
        if not self.rate_bytes_per_s > 0 or self.size_bytes < 1:
            raise UsageError("a queue is drained at more than 0 bytes a second and holds at least one byte")


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """What happens on the way through one link. The default is a perfect cable. Shares are in [0, 1]."""

    loss: tuple[LossModel, ...] = ()
    """Of data; all of them apply."""
    delay_ns: int = 0
    jitter_ns: int = 0
    """Most extra delay of a control datagram towards the sender."""
    reorder: float = 0.0
    """Share of data datagrams that fall back by up to ``REORDER_DISTANCE`` places."""
    duplicate: float = 0.0
    """Share of datagrams that arrive twice."""
    corrupt: float = 0.0
    """Share of datagrams that arrive damaged and fail their checksum."""
    control_loss: float = 0.0
    """Share of the sender's control datagrams lost."""
    feedback_loss: float = 0.0
    """Share of the receiver's control datagrams lost."""
    queue: Queue | None = None
    outages: tuple[tuple[int, int], ...] = ()
    """Half-open ranges of virtual time, in ns from the beginning, in which nothing passes in either direction."""

    def __post_init__(self) -> None:
        for name in ("reorder", "duplicate", "corrupt", "control_loss", "feedback_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is a share in [0, 1], not {getattr(self, name)}")
        if self.delay_ns < 0 or self.jitter_ns < 0:
            raise UsageError("a delay is not negative")


PERFECT = Way()


class Link:
    """A ``Way`` at work."""

    __slots__ = ("_begin_ns", "_chance", "_numbers", "_processes", "_queue", "corrupted", "lost", "way")

    def __init__(self, way: Way, seed: int, key: tuple[int, ...], begin_ns: int) -> None:
        """``key`` names the link among all that share ``seed``; outages count from ``begin_ns``."""
        self.way = way
        self.lost = 0
        """Data datagrams that did not come through, for whatever reason."""
        self.corrupted = 0
        self._begin_ns = begin_ns
        self._processes = [
            model.begin(np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(*key, number)))))
            for number, model in enumerate(way.loss)
        ]
        self._numbers: np.random.Generator | None = None
        if way.reorder or way.duplicate or way.corrupt:
            sequence = np.random.SeedSequence(seed, spawn_key=(*key, len(way.loss)))
            self._numbers = np.random.Generator(np.random.PCG64(sequence))
        self._chance: random.Random | None = None
        if way.control_loss or way.feedback_loss or way.jitter_ns or way.duplicate or way.corrupt:
            self._chance = random.Random(f"{seed} {key}")
        self._queue = None if way.queue is None else _TailDrop(way.queue)

    # --- data -----------------------------------------------------------------------------------------------------

    def lose(self, count: int, already: Int64Array, start_ns: int, spacing_ns: float, size: int) -> Int64Array:
        """Return which datagrams of a batch are lost here or were before.

        Args:
            count: datagrams in the batch.
            already: ``int64[m]``, ascending: those lost before this link.
            start_ns: when the first of them comes to this link.
            spacing_ns: time between two.
            size: bytes of each.
        Returns:
            ``int64[n]``, ascending; ``already`` itself where nothing is added.
        """
        way = self.way
        parts = [places for process in self._processes if len(places := process.lost(count))]
        if way.corrupt:
            assert self._numbers is not None
            damaged = np.flatnonzero(self._numbers.random(count) < way.corrupt)
            self.corrupted += len(damaged)
            parts.append(damaged)
        if way.outages and self.down(start_ns):
            parts.append(np.arange(count))
        if len(parts) == 1 and not len(already):
            lost = parts[0]
        elif parts:
            lost = np.unique(np.concatenate((already, *parts)))
        else:
            lost = already
        if self._queue is not None:
            lost = self._queue.offer(count, lost, start_ns, spacing_ns, size)
        self.lost += len(lost) - len(already)
        return lost

    def arrange(self, picked: Int64Array) -> Int64Array:
        """Return datagrams that come through, in the order and as often as they arrive."""
        way = self.way
        if way.duplicate:
            assert self._numbers is not None
            picked = np.repeat(picked, 1 + (self._numbers.random(len(picked)) < way.duplicate))
        if way.reorder:
            assert self._numbers is not None
            late = (self._numbers.random(len(picked)) < way.reorder) * self._numbers.integers(
                1, REORDER_DISTANCE, len(picked)
            )
            picked = picked[np.argsort(np.arange(len(picked)) + late, kind="stable")]
        return picked

    @property
    def arranges(self) -> bool:
        """Whether ``arrange`` changes anything."""
        return bool(self.way.duplicate or self.way.reorder)

    # --- control --------------------------------------------------------------------------------------------------

    def copies_down(self, now: int) -> int:
        """Return how often a control datagram of the sender arrives."""
        return self._copies(self.way.control_loss, now)

    def copies_up(self, now: int) -> int:
        """Return how often a control datagram of the receiver arrives."""
        return self._copies(self.way.feedback_loss, now)

    def _copies(self, loss: float, now: int) -> int:
        chance, way = self._chance, self.way
        if way.outages and self.down(now):
            return 0
        if chance is None:
            return 1
        if loss and chance.random() < loss:
            return 0
        if way.corrupt and chance.random() < way.corrupt:
            self.corrupted += 1
            return 0
        return 2 if way.duplicate and chance.random() < way.duplicate else 1

    def jitter_ns(self) -> int:
        """Draw the extra delay of one control datagram towards the sender."""
        return 0 if self._chance is None or not self.way.jitter_ns else self._chance.randrange(self.way.jitter_ns)

    def backlog_ns(self, now: int) -> int:
        """Return how long what comes now waits in the queue."""
        return 0 if self._queue is None else self._queue.backlog_ns(now)

    def down(self, now: int) -> bool:
        """Whether the link is cut at an instant."""
        return any(first <= now - self._begin_ns < stop for first, stop in self.way.outages)


class _TailDrop:
    """A queue at work: bytes that wait, as of the last arrival."""

    __slots__ = ("_drain", "_filled", "_size", "_updated_ns")

    def __init__(self, queue: Queue) -> None:
        self._drain = queue.rate_bytes_per_s / limits.SECOND_NS
        """Bytes per nanosecond."""
        self._size = queue.size_bytes
        self._filled = 0.0
        self._updated_ns = 0

    def backlog_ns(self, now: int) -> int:
        """Return how long what waits takes to drain."""
        return int(max(0.0, self._filled / self._drain - max(0, now - self._updated_ns)))

    def offer(self, count: int, lost: Int64Array, start_ns: int, spacing_ns: float, size: int) -> Int64Array:
        """Take in what is not lost, and return what is lost now."""
        begin = max(0.0, self._filled - self._drain * max(0, start_ns - self._updated_ns))
        step = self._drain * spacing_ns
        arrives = np.ones(count, np.bool_)
        arrives[lost] = False
        filled = self._without_drops(begin, arrives, step, size)
        if filled.max(initial=0.0) > self._size:
            lost = self._with_drops(begin, arrives, step, size)
        else:
            self._filled = float(filled[-1])
        self._updated_ns = start_ns + int(spacing_ns * max(0, count - 1))
        return lost

    @staticmethod
    def _without_drops(begin: float, arrives: npt.NDArray[np.bool_], step: float, size: int) -> npt.NDArray[np.float64]:
        """Return the fill after each arrival, if nothing is dropped (Lindley's recursion, unrolled)."""
        steps = arrives * float(size)
        steps[1:] -= step
        steps[0] += begin
        walk = np.cumsum(steps)
        # The fill cannot fall below what arrived last; each time it would, the walk begins anew.
        floor = np.minimum.accumulate(np.minimum(walk - arrives * float(size), 0.0))
        filled: npt.NDArray[np.float64] = walk - floor
        return filled

    def _with_drops(self, begin: float, arrives: npt.NDArray[np.bool_], step: float, size: int) -> Int64Array:
        filled, dropped = begin + step, []
        limit = self._size
        for place, here in enumerate(arrives.tolist()):
            filled -= step
            if filled < 0:
                filled = 0.0
            if here:
                if filled + size > limit:
                    dropped.append(place)
                else:
                    filled += size
        self._filled = filled
        arrives[dropped] = False
        return np.flatnonzero(~arrives)


def complement(count: int, lost: Int64Array) -> Int64Array:
    """Return the datagrams of a batch that are not lost: ``int64[count - len(lost)]``, ascending."""
    arrives = np.ones(count, np.bool_)
    arrives[lost] = False
    return np.flatnonzero(arrives)


__all__ = ["NOTHING", "PERFECT", "REORDER_DISTANCE", "Link", "Queue", "Way", "complement"]
