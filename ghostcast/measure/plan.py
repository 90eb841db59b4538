"""Which rate to try next, and what the trials say of each receiver.

Pure: trials in, the next rate out. A receiver *carries* a rate at which it loses no more than it loses anyway; what it
loses anyway (its *background*: a noisy link) is learnt from the lowest rates. The search climbs by ``CLIMB`` until
every receiver has failed once or the sender can go no faster, then narrows each receiver's bracket, the slowest first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from protocol.limits import MEGABIT
from protocol.measurement import STEPS_MAX

LOSS_FREE = 1e-4
"""Share of datagrams below which a step counts as loss-free: a single microburst in a second is no limit."""

CLIMB = 3.0
"""Factor from one rate to the next while nobody fails: six steps from 20 Mbit/s to 10 Gbit/s."""

RESOLUTION = 1.06
"""A bracket is narrow enough when its ends differ by this factor."""

BACKGROUND_MAX = 0.3
"""Loss at the lowest rate beyond which it is not a noisy link but an overloaded one."""

NOISE_MAX = 0.02
"""Background loss beyond which it is checked that more arrives when more is sent."""

BACKGROUND_SLACK = 1.3
"""As ``rate.BACKGROUND_SLACK``: how far above the background loss must be to count."""

SURPRISE = 3.0
"""Standard deviations by which loss must exceed what is allowed before a rate counts as not carried."""

SENDER_LIMIT = 0.93
"""Share of the wanted rate below which the sender, not the network, was the limit."""

SAME_RATE = 1.02
"""Trials whose rates differ by less are repetitions, and the best of them counts."""

CREDIBLE = 0.05
"""Loss beyond the background that is believed at once; a smaller one is tried again, for it may have been a hiccup."""

SENDER_GAIN = 1.4
"""Growth that a climb must bring for the sender not to be the limit."""

TRIES_MAX = 2
"""How often one rate is asked for."""

CHANCE = 0.05
"""Probability below which it is no accident that the lower rates lost nothing."""

RATE_LOW = 20 * MEGABIT
RATE_FLOOR = 1 * MEGABIT
TRIALS_MAX = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What one receiver got of one trial."""

    sent: int
    lost: int
    runs: int
    """Into how many runs the lost ones fall."""

    @property
    def loss(self) -> float:
        """Share of datagrams that did not come."""
        return self.lost / self.sent if self.sent else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of ``loss``: runs come and go independently, datagrams within one do not."""
        return self.lost / math.sqrt(max(self.runs, 1)) / self.sent if self.sent else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One step that was made."""

    wanted: float
    """Bytes per second of UDP payload that were asked for."""
    rate: float
    """Bytes per second that really went out."""
    shares: dict[int, Share]
    """By receiver index; who said nothing is missing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What the trials say of one receiver; rates are bytes per second, None where there is none."""

    carried: float | None
    """Highest rate without loss beyond the background."""
    failed: float | None
    """Lowest rate above it that was not carried."""
    background: float
    """Loss that does not come from the rate, in [0, 1]."""
    hint: float | None
    """What got through at ``failed``: near the limit, where a queue is what limits."""
    doubtful: bool
    """The failure was seen once, and was small."""

    @property
    def loss_free(self) -> float | None:
        """Highest rate without loss."""
        return self.carried if self.background <= LOSS_FREE else None

    @property
    def open(self) -> bool:
        """Whether the limit is bracketed, but not closely."""
        if self.failed is None:
            return False
        if self.carried is None:
            return self.failed > RATE_FLOOR * RESOLUTION
        return self.failed > self.carried * RESOLUTION


def judge(tried: Sequence[tuple[float, Share]]) -> Verdict:
    """Return what a receiver's trials, (rate, share) in any order, say of it."""
    if _full_at_the_lowest(tried):
        lowest, share = min(tried, key=lambda pair: pair[0])
        return Verdict(None, lowest, 0.0, lowest * (1 - share.loss), False)
    carried: float | None = None
    sent = lost = runs = 0
    for rate, share, count in _merged(tried):
        pool = Share(sent, lost, runs)
        if share.loss > BACKGROUND_MAX or (sent and _exceeds(share, pool)):
            got_through = rate * (1 - share.loss) / max(1 - pool.loss, 0.01)
            doubtful = count == 1 and share.loss < pool.loss + CREDIBLE
            return Verdict(carried, rate, pool.loss, got_through, doubtful)
        carried = rate
        sent, lost, runs = sent + share.sent, lost + share.lost, runs + share.runs
    return Verdict(carried, None, Share(sent, lost, runs).loss, None, False)


def _exceeds(share: Share, pool: Share) -> bool:
    """Return whether a trial lost more than the trials at lower rates, and more than chance explains."""
    allowed = LOSS_FREE + BACKGROUND_SLACK * pool.loss
    if share.loss <= allowed:
        return False
    if share.loss > allowed + CREDIBLE:
        return True
    if pool.runs:
        return share.loss - SURPRISE * share.deviation > allowed + SURPRISE * pool.deviation
    # Of runs that come independently at one rate, each trial has its proportion; that this one has all is unlikely.
    return bool((share.sent / (share.sent + pool.sent)) ** share.runs < CHANCE)


def _full_at_the_lowest(tried: Sequence[tuple[float, Share]]) -> bool:
    """Return whether more was sent and no more came: then loss at the lowest rate is a full link, not noise."""
    lowest, share = min(tried, key=lambda pair: pair[0])
    higher = [rate * (1 - more.loss) for rate, more in tried if rate > 1.5 * lowest]
    return share.loss > NOISE_MAX and bool(higher) and max(higher) < 1.1 * lowest * (1 - share.loss)


def _merged(tried: Iterable[tuple[float, Share]]) -> list[tuple[float, Share, int]]:
    """Return (rate, best share, trials) of every rate that was tried, ascending."""
    merged: list[tuple[float, Share, int]] = []
    for rate, share in sorted(tried, key=lambda pair: pair[0]):
        if merged and rate < merged[-1][0] * SAME_RATE:
            first, best, count = merged[-1]
            merged[-1] = (first, min(best, share, key=lambda one: one.loss), count + 1)
        else:
            merged.append((rate, share, 1))
    return merged


class FixedRates:
    """Tries given rates, in ascending order."""

    def __init__(self, rates: Sequence[float]) -> None:
        self._left = sorted(rates, reverse=True)
        self.trials: list[Trial] = []

    def next_rate(self) -> float | None:
        """Return the next rate in bytes per second, or None when all is known."""
        return self._left.pop() if self._left else None

    def record(self, trial: Trial) -> None:
        """Take a trial's result into account."""
        self.trials.append(trial)

    @property
    def steps_left(self) -> int | None:
        """How many steps are still to come."""
        return len(self._left)


class RateSearch:
    """Finds each receiver's highest rate between two bounds."""

    def __init__(self, low: float = RATE_LOW, high: float = math.inf) -> None:
        self._low = min(low, high)
        self._high = high
        self.trials: list[Trial] = []
        self.sender_limit: float | None = None
        """Bytes per second beyond which this sender cannot go; None if it never showed."""

    def record(self, trial: Trial) -> None:
        """Take a trial's result into account."""
        top = max((earlier.rate for earlier in self.trials), default=0.0)
        self.trials.append(trial)
        # A process that slept too long is not at its limit: it is, when asking for much more brought little more.
        short = trial.rate < SENDER_LIMIT * trial.wanted
        if short and (trial.rate < top * SENDER_GAIN < trial.wanted or self._tried(trial.wanted) >= TRIES_MAX):
            self.sender_limit = max(top, trial.rate)

    def next_rate(self) -> float | None:
        """Return the next rate in bytes per second, or None when all is known."""
        if not self.trials:
            return self._low
        if len(self.trials) >= min(TRIALS_MAX, STEPS_MAX - 8):
            return None
        verdicts = list(verdicts_of(self.trials).values())
        if not verdicts:
            return None
        doubtful = [verdict.failed for verdict in verdicts if verdict.doubtful and verdict.failed is not None]
        for rate in sorted(doubtful):
            if self._tried(rate) < TRIES_MAX:
                return rate
        climb = self._climb(verdicts)
        if climb is not None:
            return climb
        open_ones = sorted((verdict for verdict in verdicts if verdict.open), key=lambda verdict: verdict.failed or 0.0)
        for verdict in open_ones:
            narrower = self._narrow(verdict)
            if narrower is not None:
                return narrower
        return None

    def _tried(self, rate: float) -> int:
        """Return how often a rate was asked for."""
        return sum(rate / SAME_RATE < trial.wanted < rate * SAME_RATE for trial in self.trials)

    def _climb(self, verdicts: list[Verdict]) -> float | None:
        """Return a higher rate while somebody has carried all there was, and the sender can go on."""
        top = max(trial.rate for trial in self.trials)
        if all(verdict.failed is not None for verdict in verdicts) or self.sender_limit is not None:
            return None
        if top >= self._high / RESOLUTION:
            return None
        return min(top * CLIMB, self._high)

    def _narrow(self, verdict: Verdict) -> float | None:
        """Return a rate inside a receiver's bracket; None if that was tried already."""
        failed = verdict.failed
        assert failed is not None
        if verdict.carried is None:
            # Not even the lowest: go down, unless the person said where to begin.
            rate = failed / CLIMB
            return rate if rate >= RATE_FLOOR and self._low <= RATE_LOW else None
        hint = verdict.hint
        if hint is not None and verdict.carried * RESOLUTION < hint * 0.98 and hint * RESOLUTION < failed:
            rate = hint * 0.98
        elif hint is not None and hint <= verdict.carried * 1.1 and verdict.carried * RESOLUTION**2 < failed:
            rate = verdict.carried * RESOLUTION
        else:
            rate = math.sqrt(verdict.carried * failed)
        return rate if self._tried(rate) < TRIES_MAX else None

    @property
    def steps_left(self) -> int | None:
        """How many steps are still to come, as far as one can say; None while the search still climbs."""
        verdicts = list(verdicts_of(self.trials).values())
        if not verdicts or self._climb(verdicts) is not None:
            return None
        open_ones = [verdict for verdict in verdicts if verdict.open]
        return 3 * len({round(math.log(verdict.failed or 1.0, RESOLUTION)) for verdict in open_ones}) or 1


def verdicts_of(trials: Sequence[Trial]) -> dict[int, Verdict]:
    """Return each receiver's verdict, by its index."""
    tried: dict[int, list[tuple[float, Share]]] = {}
    for trial in trials:
        for index, share in trial.shares.items():
            tried.setdefault(index, []).append((trial.rate, share))
    return {index: judge(pairs) for index, pairs in sorted(tried.items())}
