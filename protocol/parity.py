"""How many repair symbols a slice should carry: the model, what it is fed with, and the correction by what happened.

The model: if receiver r loses each symbol with probability p_r, the smallest surplus h such that a slice is NACKed by
anybody with probability at most ``NACK_PROBABILITY``: sum over r of P[Bin(m + h, p_r) > h] <= epsilon, for a slice (or
a repair answer) of m symbols. Source: Nonnenmacher, Biersack, Towsley, "Parity-based loss recovery", ToN 6(4), 1998,
there for one p.

The correction: receivers behind one switch lose the same datagrams, which needs less than the model says, and bursts
need more. Neither can be told from counts of losses, both show in how many slices are asked for: ``Correction`` moves
the surplus until that share is what it should be.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from protocol import limits

NACK_PROBABILITY = 0.05
"""Epsilon: the share of slices for which somebody may still have to ask (research §2.4)."""

LAST_NACK_PROBABILITY = 0.005
"""The same for what is sent last. Nothing comes after it behind which its repairs could be had: with 0.05, somebody
asks for a slice of the last window in four of five sessions, and all wait for that round."""

REPAIR_NACK_PROBABILITY = 0.02
"""The same for an answer to those who asked. There, the next round is late: by then a fast stream may have pushed what
waits for it out of a receiver's pool, with its whole chunk, and that costs a hundred times what another symbol does."""

LOSS_NEGLIGIBLE = 1e-6
"""Below it no surplus is sent: one lost datagram in a million is what repair is for."""

LOSS_MAX = 0.9

BIN_RATIO = 1.07
"""Width of a bin of losses: less than what any estimate scatters."""

BIN_COUNT = math.ceil(math.log(LOSS_MAX / LOSS_NEGLIGIBLE) / math.log(BIN_RATIO))

SETTLED_DATAGRAMS = 4_000
"""Datagrams after which a new measurement of a receiver's loss counts as much as all before it: one window."""

_BIN_LOSS = LOSS_NEGLIGIBLE * BIN_RATIO ** (np.arange(BIN_COUNT) + 0.5)


def _tails_of(losses: npt.NDArray[np.floating], needed: int) -> npt.NDArray[np.float64]:
    """Return ``float64[len(losses), REPAIR_SYMBOLS_MAX + 1]``: the chance that ``needed`` + h symbols are not enough.

    With loss p, more than h are lost of needed + h exactly if more than h failures come before ``needed`` successes:
    the tail of a negative binomial distribution, whose terms follow from one another.
    """
    failures = np.arange(1, limits.REPAIR_SYMBOLS_MAX + 1)
    steps = losses[:, None] * ((needed + failures - 1) / failures)[None, :]
    terms = np.concatenate((np.ones((len(losses), 1)), np.cumprod(steps, axis=1)), axis=1)
    tails: npt.NDArray[np.float64] = np.clip(1.0 - np.cumsum(terms * (1.0 - losses[:, None]) ** needed, axis=1), 0, 1)
    return tails


@functools.lru_cache(maxsize=64)
def _tails(needed: int) -> npt.NDArray[np.float64]:
    return _tails_of(_BIN_LOSS, needed)


def _smallest(expected: npt.NDArray[np.float64], most: float = NACK_PROBABILITY) -> int:
    """Return the smallest h at which at most so many receivers are expected to ask; ``expected`` is ``float64[h]``."""
    enough = np.flatnonzero(expected <= most)
    return int(enough[0]) if len(enough) else limits.REPAIR_SYMBOLS_MAX


def bin_of(loss: float) -> int:
    """Return the bin of a loss, or -1 where it is negligible."""
    if loss <= LOSS_NEGLIGIBLE:
        return -1
    return min(BIN_COUNT - 1, int(math.log(loss / LOSS_NEGLIGIBLE) / math.log(BIN_RATIO)))


def surplus(needed: int, receivers: int, loss: float) -> int:
    """Return how many symbols to send beyond ``needed`` so that hardly anybody has to ask again.

    Args:
        needed: symbols that each receiver still needs, at least 1.
        receivers: how many receivers lose independently.
        loss: probability that one symbol is lost, in [0, 1).
    """
    if loss <= LOSS_NEGLIGIBLE or receivers <= 0:
        return 0
    return _smallest(receivers * _tails_of(np.array([min(loss, LOSS_MAX)]), needed)[0])


class FleetLoss:
    """How many receivers lose how much: kept by bins, so that neither a message nor a window walks the fleet."""

    def __init__(self) -> None:
        self._counts = np.zeros(BIN_COUNT)
        self._known = 0
        self._surplus: dict[tuple[int, int, float], int] = {}

    @property
    def known(self) -> int:
        """Receivers whose loss was measured."""
        return self._known

    def worst(self) -> float:
        """Return the largest loss of all, within a bin's width."""
        used = np.flatnonzero(self._counts)
        return float(_BIN_LOSS[used[-1]]) if len(used) else 0.0

    def move(self, before: float | None, after: float | None) -> None:
        """A receiver's loss changed; None: it was not, or is no longer, counted."""
        old = None if before is None else bin_of(before)
        new = None if after is None else bin_of(after)
        if old == new:
            return
        self._known += (new is not None) - (old is not None)
        if old is not None and old >= 0:
            self._counts[old] -= 1
        if new is not None and new >= 0:
            self._counts[new] += 1
        self._surplus.clear()

    def surplus(self, needed: int, receivers: int, most: float = NACK_PROBABILITY) -> int:
        """Return the model's surplus for slices of which all of ``receivers`` need so much.

        Those that were not heard yet are taken to be like those that were.

        Args:
            needed: symbols that each of them needs.
            receivers: how many they are.
            most: share of the slices for which somebody may still have to ask.
        """
        key = (needed, receivers, most)
        if key not in self._surplus:
            scale = max(1.0, receivers / self._known) if self._known else 1.0
            self._surplus[key] = _smallest((self._counts * scale) @ _tails(needed), most)
        return self._surplus[key]

    def asked_share(self, symbols: int, surplus: int) -> float:
        """Return of how many slices, that went out with so much more, somebody who is counted here lacks any."""
        expected = float(self._counts @ _tails(symbols)[:, min(surplus, limits.REPAIR_SYMBOLS_MAX)])
        return -math.expm1(-expected)

    def repair_surplus(self, needed: int, symbols: int, surplus: int, receivers: int) -> int:
        """Return the surplus for a repair answer: those who lack the most are few, and the others need less.

        Args:
            needed: the largest deficit.
            symbols: how many the slice has.
            surplus: how many more went out with it.
            receivers: how many it went to.
        """
        scale = max(1.0, receivers / self._known) if self._known else 1.0
        before = min(surplus + needed - 1, limits.REPAIR_SYMBOLS_MAX)
        lacking = self._counts * scale * _tails(symbols)[:, before]
        total = float(lacking.sum())
        if total == 0.0:
            return 0
        # Somebody does lack so much: whatever the model says, it is one at least.
        return _smallest((lacking / min(1.0, total)) @ _tails(needed), REPAIR_NACK_PROBABILITY)


SAMPLE_RECEIVERS_MIN, SAMPLE_RECEIVERS_MAX = 2, 32
"""So many receivers that lack some of a window, slice by slice, say how much the others lack; more need not be kept."""

SAMPLE_SHARE = 0.5
"""Share of a window's slices that must have been asked for. Those that ask are those that lack something: where chance
has them lack a slice here and there, they say nothing of the others."""


class Sample:
    """What the first that asked for some of a window lack of each of its slices: a sample of what their fleet does.

    Where a rate that grew fills short queues, what is lost is neither what was lost before, which is what a NACK tells,
    nor independent: what was asked for is all that is known of how it scatters. Memory: a byte a slice and receiver.
    """

    def __init__(self, slices: int) -> None:
        """Begin with nobody heard, for a window of so many slices."""
        self._slices = slices
        self._lacking: dict[int, npt.NDArray[np.uint8]] = {}

    def add(self, receiver: int, places: npt.NDArray[np.int64], deficits: npt.NDArray[np.int64]) -> None:
        """A receiver lacks so much of some slices, by their places in the window; perhaps it names others elsewhere."""
        if receiver not in self._lacking and len(self._lacking) >= SAMPLE_RECEIVERS_MAX:
            return
        row = self._lacking.setdefault(receiver, np.zeros(self._slices, np.uint8))
        row[places] = np.maximum(row[places], deficits)

    def most(self, receivers: int) -> int:
        """Return how much of any slice hardly any of ``receivers`` lacks more; 0 where too little was heard."""
        if len(self._lacking) < SAMPLE_RECEIVERS_MIN:
            return 0
        lacking = np.array(list(self._lacking.values()), np.float64)
        if np.count_nonzero(lacking.any(axis=0)) < SAMPLE_SHARE * self._slices:
            return 0
        # A bound of the largest of n that scatter normally. With the quantile that a surplus promises, 3.7 deviations
        # for 500 receivers instead of 4.4, two of ten simulated fleets asked all the same.
        deviations = math.sqrt(2 * math.log(max(2, receivers * self._slices)))
        return math.ceil(float(lacking.mean()) + deviations * float(lacking.std()))


EPOCH_SLICES = 64
"""Slices sent with one and the same surplus before it is judged: two windows, and a share of 5 % can be seen."""


CORRECTION_STEP_MAX = 4
CORRECTION_MAX = 16
"""A full queue takes half of a slice; that is not what a surplus is for, and it is over before this falls again."""


class Correction:
    """How far the surplus must be from what the model says, learnt from how many slices are asked for.

    One step an epoch, and an epoch counts only windows that were planned after the last step: however late the requests
    come, it cannot swing.
    """

    def __init__(self) -> None:
        self.symbols = 0
        """What to add to the model's surplus; may be negative."""
        self.epoch = 0
        self._slices = self._asked = self._lacking = 0

    def observe(self, epoch: int, slices: int, asked: int, lacking: int, surplus: int) -> None:
        """A window that went out whole has settled.

        Args:
            epoch: ``epoch`` when it was planned.
            slices: how many slices it had.
            asked: how many of them somebody asked for.
            lacking: sum of the largest deficits of these.
            surplus: repair symbols that each slice went out with.
        """
        if epoch != self.epoch:
            return
        self._slices += slices
        self._asked += asked
        self._lacking += lacking
        if self._slices < EPOCH_SLICES:
            return
        share = self._asked / self._slices
        if share > 2 * NACK_PROBABILITY:
            # Where most slices fell short, by how much on average is how much is lacking.
            self.symbols += min(max(1, self._lacking // self._slices), CORRECTION_STEP_MAX)
        elif share < NACK_PROBABILITY / 2 and surplus > 0:
            self.symbols -= 1
        self.symbols = min(max(self.symbols, -limits.REPAIR_SYMBOLS_MAX), CORRECTION_MAX)
        self._slices = self._asked = self._lacking = 0
        self.epoch += 1


BURST_LENGTH_MIN = 16
"""Datagrams in a row beyond which a loss is a burst; less than one symbol of a slice of the smallest window."""

BURST_LENGTH_MAX = 2048
"""A longer one is an outage, and cheaper to repair."""

BURST_MEMORY_NS = 4 * limits.SECOND_NS
"""How long a burst is expected to come again."""

BURST_SYMBOLS = 4
"""Symbols of each slice that a burst may cost before the window is widened: 3 % of a slice."""


class Bursts:
    """How long the runs of lost datagrams are that keep coming back.

    A single run is repaired. Of two within ``BURST_MEMORY_NS`` the shorter one counts: another like it is expected.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, int]] = []
        """``(length, instant)`` of the longest and the second longest run."""

    def observe(self, length: int, now: int) -> None:
        """Somebody lost so many datagrams in a row."""
        if BURST_LENGTH_MIN < length <= BURST_LENGTH_MAX:
            recent = [seen for seen in self._seen if now - seen[1] < BURST_MEMORY_NS]
            # The later of two that are alike is kept, so that what goes on is not forgotten.
            self._seen = sorted([*recent, (length, now)], reverse=True)[:8]

    def length(self, now: int) -> int:
        """Return the length of the run that is to be expected, 0 for none."""
        recent = [seen for seen in self._seen if now - seen[1] < BURST_MEMORY_NS]
        return recent[1][0] if len(recent) > 1 else 0

    def window_slices(self, narrow: int, wide: int, now: int) -> int:
        """Return how many slices to interleave, between what is quickest and what memory allows."""
        slices = narrow
        while slices < wide and self.length(now) > BURST_SYMBOLS * slices:
            slices *= 2
        return min(slices, max(narrow, wide))

    def symbols(self, window_slices: int, now: int) -> int:
        """Return how many symbols of each slice the expected run takes."""
        return -(-self.length(now) // window_slices)
