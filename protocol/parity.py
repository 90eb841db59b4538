"""How many repair symbols a slice should carry: the model, and what it is fed with.

For N receivers that each lose symbols independently with probability p, the smallest surplus h such that a slice is
NACKed by anybody with probability at most ``NACK_PROBABILITY``: N * P[Bin(m + h, p) > h] <= epsilon, for a slice (or a
repair answer) of m symbols. Source: Nonnenmacher, Biersack, Towsley, "Parity-based loss recovery", ToN 6(4), 1998.
"""

from __future__ import annotations

import functools
import math

from protocol import limits

NACK_PROBABILITY = 0.05
"""Epsilon: the share of slices for which somebody may still have to ask (research §2.4)."""

LOSS_NEGLIGIBLE = 1e-6
"""Below it no surplus is sent: one lost datagram in a million is what repair is for."""

LOSS_DECAY_NS = 2 * limits.SECOND_NS
"""Time constant with which a loss estimate falls; it rises at once."""


@functools.lru_cache(maxsize=4096)
def _surplus(needed: int, receivers: int, loss_millionths: int) -> int:
    loss = loss_millionths / 1e6
    for surplus in range(limits.REPAIR_SYMBOLS_MAX):
        if receivers * _tail_probability(needed + surplus, loss, surplus) <= NACK_PROBABILITY:
            return surplus
    return limits.REPAIR_SYMBOLS_MAX


def _tail_probability(trials: int, loss: float, allowed: int) -> float:
    """Return P[Bin(trials, loss) > allowed]."""
    term = (1.0 - loss) ** trials
    if term == 0.0:
        return 1.0
    ratio = loss / (1.0 - loss)
    kept = term
    for lost in range(1, allowed + 1):
        term *= ratio * (trials - lost + 1) / lost
        kept += term
    return max(0.0, 1.0 - kept)


def surplus(needed: int, receivers: int, loss: float) -> int:
    """Return how many symbols to send beyond ``needed`` so that hardly anybody has to ask again.

    Args:
        needed: symbols that each receiver still needs, at least 1.
        receivers: how many receivers lose independently.
        loss: probability that one symbol is lost, in [0, 1).
    """
    if loss <= LOSS_NEGLIGIBLE or receivers <= 0:
        return 0
    # Two significant digits keep the cache small and change the answer by less than the estimate's own error.
    digits = 1 - math.floor(math.log10(loss))
    rounded = min(0.9, math.ceil(loss * 10**digits) / 10**digits)
    return _surplus(needed, receivers, round(rounded * 1e6))


class LossEstimate:
    """The loss that the surplus is planned for: the worst receiver's, up at once, down slowly."""

    def __init__(self) -> None:
        self._loss = 0.0
        self._updated_ns = 0

    def observe(self, loss: float, now: int) -> None:
        """Take a receiver's measured network loss into account."""
        self._loss = max(loss, self.value(now))
        self._updated_ns = now

    def value(self, now: int) -> float:
        """Return the current estimate."""
        return self._loss * math.exp(-(now - self._updated_ns) / LOSS_DECAY_NS) if self._loss else 0.0
