"""Goal: the search finds each receiver's limit, however many there are and whatever else they lose, and it ends.

Method: simulated receivers with a capacity, a noise and hiccups; the plan is asked until it is done.
"""

from __future__ import annotations

import dataclasses
import math
import random

import pytest

from ghostcast.measure import plan
from ghostcast.measure.plan import FixedRates, RateSearch, Share, Trial, Verdict, judge, verdicts_of
from protocol.limits import MEGABIT


@dataclasses.dataclass
class Simulated:
    """A receiver behind a link that carries so much, loses so much anyway, and has a hiccup at some trials."""

    capacity: float = math.inf
    noise: float = 0.0
    hiccups: tuple[int, ...] = ()

    def share(self, rate: float, trial: int, rng: random.Random) -> Share:
        sent = max(200, round(rate / 1472))
        overload = max(0.0, 1 - self.capacity / rate)
        expected = sent * (1 - (1 - overload) * (1 - self.noise))
        lost = min(sent, max(0, round(rng.gauss(expected, math.sqrt(expected)))))
        if trial in self.hiccups:
            lost += 40
        return Share(sent, lost, lost if not overload else max(1, lost // 5))


def run(search: RateSearch | FixedRates, receivers: list[Simulated], limit: float = math.inf, seed: int = 1) -> int:
    """Make trials until the plan is done; return how many."""
    rng = random.Random(seed)
    count = 0
    while (wanted := search.next_rate()) is not None:
        rate = min(wanted, limit)
        shares = {index: one.share(rate, count, rng) for index, one in enumerate(receivers)}
        search.record(Trial(wanted, rate, shares))
        count += 1
        assert count < 100
    return count


@pytest.mark.parametrize("seed", range(20))
def test_limits_are_found_within_six_percent(seed: int) -> None:
    capacities = [200 * MEGABIT, 940 * MEGABIT, 4000 * MEGABIT]
    search = RateSearch()
    count = run(search, [Simulated(one) for one in capacities], limit=9000 * MEGABIT, seed=seed)
    verdicts = verdicts_of(search.trials)
    for index, capacity in enumerate(capacities):
        carried = verdicts[index].loss_free
        assert carried is not None
        assert 0.9 * capacity < carried <= capacity * 1.001
    assert count <= 24


@pytest.mark.parametrize("noise", [0.001, 0.01, 0.05])
def test_noise_is_told_from_a_limit(noise: float) -> None:
    search = RateSearch()
    run(search, [Simulated(200 * MEGABIT, noise), Simulated(noise=noise)], limit=2000 * MEGABIT)
    limited, free = verdicts_of(search.trials).values()
    assert limited.background == pytest.approx(noise, rel=0.3)
    assert limited.loss_free is None
    assert limited.carried is not None
    assert 160 * MEGABIT < limited.carried < 215 * MEGABIT
    assert free.failed is None
    assert free.carried == 2000 * MEGABIT


def test_a_hiccup_is_tried_again_and_forgotten() -> None:
    search = RateSearch()
    run(search, [Simulated(900 * MEGABIT, hiccups=(1,))], limit=2000 * MEGABIT)
    carried = verdicts_of(search.trials)[0].carried
    assert carried is not None
    assert carried > 800 * MEGABIT


def test_the_senders_own_limit_ends_the_climb() -> None:
    search = RateSearch()
    run(search, [Simulated(), Simulated()], limit=1234 * MEGABIT)
    assert search.sender_limit == 1234 * MEGABIT
    assert all(verdict.failed is None for verdict in verdicts_of(search.trials).values())


def test_a_process_that_slept_is_not_at_its_limit() -> None:
    search = RateSearch()
    for wanted, rate in ((20.0, 20.0), (60.0, 50.0), (150.0, 149.0)):
        search.record(Trial(wanted * MEGABIT, rate * MEGABIT, {0: Share(10_000, 0, 0)}))
    assert search.sender_limit is None
    assert search.next_rate() == pytest.approx(3 * 149 * MEGABIT)


def test_bounds_are_kept() -> None:
    search = RateSearch(50 * MEGABIT, 500 * MEGABIT)
    run(search, [Simulated()])
    rates = [trial.wanted for trial in search.trials]
    assert rates[0] == min(rates) == 50 * MEGABIT
    assert max(rates) == 500 * MEGABIT


def test_below_the_lowest_rate_it_goes_down_to_the_floor_and_ends() -> None:
    search = RateSearch()
    run(search, [Simulated(8 * MEGABIT)])
    carried = verdicts_of(search.trials)[0].carried
    assert carried is not None
    assert 7 * MEGABIT < carried < 8.8 * MEGABIT  # a second has 680 datagrams there: less is not to be told
    deaf = RateSearch()
    assert run(deaf, [Simulated(1)]) < 10
    assert verdicts_of(deaf.trials)[0].carried is None


def test_nobody_answering_ends_it() -> None:
    assert run(RateSearch(), []) == 1


@pytest.mark.parametrize("count", [30, 300])
def test_many_different_limits_end_within_the_bound(count: int) -> None:
    rng = random.Random(count)
    receivers = [Simulated(rng.uniform(10, 900) * MEGABIT) for _ in range(count)]
    search = RateSearch()
    assert run(search, receivers, limit=2000 * MEGABIT) <= plan.TRIALS_MAX
    slowest = min(range(count), key=lambda index: receivers[index].capacity)
    carried = verdicts_of(search.trials)[slowest].carried
    assert carried is not None
    assert carried > 0.9 * receivers[slowest].capacity


def test_fixed_rates_are_tried_once_in_order() -> None:
    rates = FixedRates([300.0, 100.0, 200.0])
    assert rates.steps_left == 3
    run(rates, [Simulated()])
    assert [trial.wanted for trial in rates.trials] == [100, 200, 300]


def test_overload_at_the_lowest_rate_is_no_noise() -> None:
    verdict = judge([(150.0, Share(10_000, 3300 * 2 // 3, 100)), (300.0, Share(20_000, 12_200, 100))])
    assert verdict.carried is None
    assert verdict.failed == 150
    assert verdict.hint == pytest.approx(117)


def test_no_loss_at_all_has_no_limit() -> None:
    assert judge([(100.0, Share(1000, 0, 0)), (50.0, Share(500, 0, 0))]) == Verdict(100.0, None, 0.0, None, False)


def test_steps_left_is_said_once_the_climb_is_over() -> None:
    search = RateSearch()
    search.record(Trial(20 * MEGABIT, 20 * MEGABIT, {0: Share(1000, 0, 0)}))
    assert search.steps_left is None
    search.record(Trial(60 * MEGABIT, 60 * MEGABIT, {0: Share(1000, 500, 20)}))
    assert search.steps_left == 3
