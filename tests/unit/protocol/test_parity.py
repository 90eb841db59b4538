"""Goal: the surplus is the smallest that meets its promise. Method: exact binomials with integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from protocol import limits, parity


def exact_tail(trials: int, loss: Fraction, allowed: int) -> Fraction:
    """Return P[Bin(trials, loss) > allowed] without rounding."""
    kept = sum(math.comb(trials, lost) * loss**lost * (1 - loss) ** (trials - lost) for lost in range(allowed + 1))
    return 1 - kept


@pytest.mark.parametrize("receivers", [1, 10, 1000, 100_000])
@pytest.mark.parametrize("loss", ["0.00001", "0.001", "0.01", "0.05", "0.2"])
@pytest.mark.parametrize("needed", [1, 16, 128])
def test_the_surplus_is_the_smallest_that_suffices(needed: int, loss: str, receivers: int) -> None:
    p = Fraction(loss)
    found = parity.surplus(needed, receivers, float(p))
    promise = Fraction(parity.NACK_PROBABILITY).limit_denominator(100)
    if found < limits.REPAIR_SYMBOLS_MAX:
        assert receivers * exact_tail(needed + found, p, found) <= promise
    if found:
        assert receivers * exact_tail(needed + found - 1, p, found - 1) > promise * Fraction(999, 1000)


@pytest.mark.parametrize(("loss", "receivers", "surplus"), [(0.001, 10_000, 4), (0.01, 1000, 8), (0.05, 100, 17)])
def test_the_research_table_is_met(loss: float, receivers: int, surplus: int) -> None:
    assert parity.surplus(128, receivers, loss) == surplus


def test_more_loss_and_more_receivers_never_need_less() -> None:
    losses = [10 ** (-exponent / 4) for exponent in range(24, 1, -1)]
    answers = [parity.surplus(128, 100, loss) for loss in losses]
    assert answers == sorted(answers)
    answers = [parity.surplus(128, 10**exponent, 0.01) for exponent in range(6)]
    assert answers == sorted(answers)


@pytest.mark.parametrize("loss", [0.0, 1e-9, parity.LOSS_NEGLIGIBLE])
def test_negligible_loss_needs_no_surplus(loss: float) -> None:
    assert parity.surplus(128, 100_000, loss) == 0


@pytest.mark.parametrize("loss", [0.89, 0.9, 0.95, 0.999, 0.9999999])
def test_hopeless_loss_is_bounded(loss: float) -> None:
    assert parity.surplus(128, 1, loss) == limits.REPAIR_SYMBOLS_MAX
    assert 0 < parity.surplus(1, 1, loss) <= limits.REPAIR_SYMBOLS_MAX


def test_an_estimate_rises_at_once_and_falls_slowly() -> None:
    estimate = parity.LossEstimate()
    assert estimate.value(0) == 0
    estimate.observe(0.05, limits.SECOND_NS)
    assert estimate.value(limits.SECOND_NS) == 0.05
    later = limits.SECOND_NS + parity.LOSS_DECAY_NS
    assert estimate.value(later) == pytest.approx(0.05 / math.e)
    estimate.observe(0.01, later)
    assert estimate.value(later) == pytest.approx(0.05 / math.e)
    estimate.observe(0.1, later)
    assert estimate.value(later) == 0.1
