"""Goal: the surplus is the smallest that meets its promise. Method: exact binomials with integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
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


def fleet(losses: dict[float, int]) -> parity.FleetLoss:
    found = parity.FleetLoss()
    for loss, receivers in losses.items():
        for _receiver in range(receivers):
            found.move(None, loss)
    return found


@pytest.mark.parametrize(("loss", "receivers"), [(0.001, 10_000), (0.01, 1000), (0.05, 100), (0.0001, 10)])
def test_a_fleet_of_equals_gets_what_the_closed_form_says(loss: float, receivers: int) -> None:
    assert abs(fleet({loss: receivers}).surplus(128, receivers) - parity.surplus(128, receivers, loss)) <= 1


@pytest.mark.parametrize(("loss", "receivers"), [(0.0001, 1), (0.01, 16), (0.05, 4), (0.01, 1000)])
def test_of_what_is_sent_last_a_tenth_is_asked_for(loss: float, receivers: int) -> None:
    losses = fleet({loss: receivers})
    usual, last = (losses.surplus(128, receivers, most) for most in (0.05, 0.005))
    assert usual < last <= usual + 5
    assert losses.asked_share(128, last) <= 0.005 < losses.asked_share(128, last - 1)
    assert losses.surplus(128, receivers) == usual
    assert fleet({0.0: receivers}).surplus(128, receivers, 0.005) == 0


def test_the_worst_count_for_themselves_and_the_clean_not_at_all() -> None:
    mixed = fleet({0.0: 9000, 0.001: 990, 0.05: 10})
    assert mixed.known == 10_000
    assert abs(mixed.surplus(128, 10_000) - parity.surplus(128, 10, 0.05)) <= 1
    assert fleet({0.0: 10_000}).surplus(128, 10_000) == 0


def test_those_that_were_not_heard_are_like_those_that_were() -> None:
    assert fleet({0.01: 8}).surplus(128, 10_000) == fleet({0.01: 10_000}).surplus(128, 10_000)
    assert parity.FleetLoss().surplus(128, 10_000) == 0


def test_who_leaves_is_not_counted_any_more() -> None:
    losses = fleet({0.001: 10, 0.2: 1})
    losses.move(0.2, None)
    assert losses.surplus(128, 10) == fleet({0.001: 10}).surplus(128, 10)
    assert losses.worst() == pytest.approx(0.001, rel=0.1)
    losses.move(0.001, 0.1)
    assert losses.known == 10
    assert losses.worst() == pytest.approx(0.1, rel=0.1)


def test_a_repair_is_for_the_few_that_lack_the_most() -> None:
    losses = fleet({0.05: 10_000})
    whole = losses.surplus(128, 10_000)
    few = losses.repair_surplus(whole - 2, 128, 2, 10_000)
    assert 0 < few < losses.surplus(whole - 2, 10_000)
    assert losses.repair_surplus(1, 128, whole, 10_000) <= 2
    # One symbol that one receiver lacks is lost on its way with 5 %: that is too often for a second round.
    assert fleet({0.05: 1}).repair_surplus(1, 128, 20, 1) == 1
    assert fleet({0.001: 1}).repair_surplus(1, 128, 2, 1) == 0
    assert fleet({0.0: 5}).repair_surplus(3, 128, 0, 5) == 0


def sampled(rows: npt.NDArray[np.int64]) -> parity.Sample:
    sample = parity.Sample(rows.shape[1])
    for receiver, row in enumerate(rows):
        places = np.flatnonzero(row)
        sample.add(receiver, places, row[places])
    return sample


@pytest.mark.parametrize(("speakers", "receivers"), [(2, 500), (8, 500), (8, 10_000), (8, 9)])
def test_a_sample_covers_nearly_all_that_others_lack(speakers: int, receivers: int) -> None:
    """Deficits that scatter more than independent losses would, by a queue that is full now and then."""
    rng = np.random.default_rng(speakers + receivers)
    deficits = np.clip(np.round(rng.normal(4, 3, (receivers, 32))), 0, 127).astype(np.int64)
    most = sampled(deficits[:speakers]).most(receivers)
    silent = (deficits[speakers:] <= most).all(axis=1)
    assert silent.mean() > 0.9
    assert most < 2 * deficits.max()


def test_a_sample_is_of_receivers_however_often_and_in_how_many_messages_they_speak() -> None:
    whole, split = sampled(np.full((8, 32), 12)), parity.Sample(32)
    for receiver in range(8):
        for half in (np.arange(16), np.arange(16, 32), np.arange(16)):
            split.add(receiver, half, np.full(16, 12))
    assert whole.most(500) == split.most(500) == 12, "all lack the same"
    assert sampled(np.full((1, 32), 12)).most(500) == 0, "one receiver is no sample"


def test_those_that_lack_a_slice_here_and_there_say_nothing_of_the_others() -> None:
    rows = np.zeros((8, 32), np.int64)
    rows[np.arange(8), np.arange(8)] = 3
    assert sampled(rows).most(500) == 0
    rows[:, 8:17] = 1
    assert sampled(rows).most(500) > 0


def test_a_sample_keeps_to_its_bound() -> None:
    rows = np.full((200, 32), 5)
    rows[40:] = 100
    assert sampled(rows).most(500) == 5


def settle(correction: parity.Correction, *, asked: int, lacking: int, surplus: int = 9, windows: int = 2) -> None:
    for _window in range(windows):
        correction.observe(correction.epoch, 32, asked, lacking, surplus)


def test_the_correction_follows_how_many_slices_are_asked_for() -> None:
    correction = parity.Correction()
    settle(correction, asked=0, lacking=0)
    assert correction.symbols == -1
    settle(correction, asked=2, lacking=2)
    assert correction.symbols == -1
    settle(correction, asked=32, lacking=160)
    assert correction.symbols == 3
    settle(correction, asked=0, lacking=0, surplus=0)
    assert correction.symbols == 3


def test_windows_from_before_the_last_step_do_not_count() -> None:
    correction = parity.Correction()
    old = correction.epoch
    settle(correction, asked=32, lacking=32 * 3)
    assert correction.symbols == 3
    for _late in range(20):
        correction.observe(old, 32, 32, 32 * 3, 9)
    assert correction.symbols == 3


def test_a_burst_counts_when_it_comes_again_and_until_it_stays_away() -> None:
    bursts, now = parity.Bursts(), limits.SECOND_NS
    bursts.observe(500, now)
    assert bursts.length(now) == 0
    bursts.observe(480, now + 1)
    assert bursts.length(now + 1) == 480
    assert bursts.length(now + parity.BURST_MEMORY_NS) == 0
    for length in (0, 3, parity.BURST_LENGTH_MIN, parity.BURST_LENGTH_MAX + 1):
        bursts.observe(length, now + 2)
    assert bursts.length(now + 2) == 480


@pytest.mark.parametrize(("length", "slices", "symbols"), [(44, 32, 2), (128, 32, 4), (200, 64, 4), (500, 128, 4)])
def test_longer_bursts_widen_the_window_so_that_few_symbols_cover_them(length: int, slices: int, symbols: int) -> None:
    bursts = parity.Bursts()
    bursts.observe(length, 5)
    bursts.observe(length, 6)
    assert bursts.window_slices(32, 128, 7) == slices
    assert bursts.symbols(slices, 7) == symbols
    assert bursts.window_slices(32, 0, 7) == 32
