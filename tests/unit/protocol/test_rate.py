"""Goal: the rate follows what the slowest receiver carries, and takes neither noise nor one burst for congestion.

Method: a fluid model of a link (capacity, a queue that drops at its tail, noise) and of receivers (a drain rate and a
pool), stepped one control interval at a time, with seeded scatter.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import random

import pytest

from protocol import limits
from protocol.rate import NEAR_SHARE, TOLD_NS, RateControl
from protocol.sample import Sample

MB = 1e6
INTERVAL_NS = 200 * limits.MILLISECOND_NS


@dataclasses.dataclass
class Link:
    """One receiver behind a link."""

    capacity: float = 1e12
    noise: float = 0.0
    queue_s: float = 0.01
    """What the queue holds, in seconds of the capacity."""
    drain: float = 1e12
    pool: float = 144e6
    queued: float = 0.0
    filled: float = 0.0

    def interval(self, rate: float, seconds: float, rng: random.Random, burst: float = 0.0) -> Sample:
        sent = rate * seconds
        self.queued += sent - self.capacity * seconds
        overflow = max(0.0, self.queued - self.queue_s * self.capacity)
        self.queued = min(max(self.queued, 0.0), self.queue_s * self.capacity)
        noise = self.noise * rng.uniform(0.85, 1.15)
        loss = min(1.0, overflow / sent + noise + burst)
        arrived = sent * (1 - loss)
        self.filled += arrived - self.drain * seconds
        overrun = max(0.0, self.filled - self.pool) / sent
        drained = self.drain if self.filled > 0 else arrived / seconds
        self.filled = min(max(self.filled, 0.0), self.pool)
        return Sample(loss, overrun, self.filled / self.pool, drained)


def run(
    control: RateControl, links: list[Link], steps: int, seed: int = 1, bursts: dict[int, float] | None = None
) -> list[float]:
    """Return the rate after each interval; ``bursts`` adds loss at the first link in one interval."""
    rng, now, rates = random.Random(seed), 0, []
    for step in range(steps):
        now += INTERVAL_NS
        rate = control.rate
        for index, link in enumerate(links):
            burst = (bursts or {}).get(step, 0.0) if index == 0 else 0.0
            control.observe(index, link.interval(rate, INTERVAL_NS / 1e9, rng, burst), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=rate)
        rates.append(control.rate)
    return rates


@pytest.mark.parametrize("start", [10 * MB, 125 * MB, 1000 * MB])
@pytest.mark.parametrize("seed", range(3))
def test_a_full_link_is_found_and_used(start: float, seed: int) -> None:
    control = RateControl(start=start, ceiling=1250 * MB)
    rates = run(control, [Link(capacity=125 * MB)], 400, seed)
    settled = rates[100:]
    goodput = [min(rate, 125 * MB) for rate in settled]
    assert sum(goodput) / len(goodput) >= 0.85 * 125 * MB
    assert control.background < 0.01
    assert max(settled) <= 2.0 * 125 * MB
    assert min(settled) >= 0.5 * 125 * MB


def test_a_clean_link_is_used_to_its_ceiling() -> None:
    control = RateControl(start=10 * MB, ceiling=125 * MB)
    rates = run(control, [Link()] * 3, 40)
    assert rates[-1] == 125 * MB
    assert rates == sorted(rates)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_a_full_link(noise: float, seed: int) -> None:
    control = RateControl(start=100 * MB, ceiling=125 * MB)
    rates = run(control, [Link(noise=noise)], 200, seed)
    settled = rates[40:]
    assert sum(settled) / len(settled) >= 0.8 * 100 * MB
    assert control.background >= 0.5 * noise


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.35])
@pytest.mark.parametrize(("limit", "growth"), [(0.0, 1.5), (1000 * MB, 1.03)])
def test_noise_does_not_end_a_search_that_met_no_limit_yet(noise: float, limit: float, growth: float) -> None:
    control = RateControl(start=100 * MB, ceiling=1250 * MB)
    control._last_limit = limit
    rates = run(control, [Link(noise=noise)], 8)
    assert min(rates) < 100 * MB, "the experiment that tells it from a full link"
    found = len(rates) - rates[::-1].index(100 * MB) - 1
    assert rates[found:] == pytest.approx([100 * MB * growth**step for step in range(8 - found)])


def test_noise_on_a_full_link_still_finds_the_link() -> None:
    control = RateControl(start=250 * MB, ceiling=1250 * MB)
    rates = run(control, [Link(capacity=125 * MB, noise=0.03)], 400)
    settled = rates[200:]
    assert 0.6 * 125 * MB < sum(settled) / len(settled) < 1.6 * 125 * MB


def test_one_microburst_does_not_cut() -> None:
    control = RateControl(start=60 * MB, ceiling=125 * MB)
    control._startup = False
    rates = run(control, [Link(), Link()], 60, bursts={20: 0.2, 35: 0.02})
    assert all(after >= before for before, after in itertools.pairwise(rates))


def test_bursts_at_a_thousand_receivers_do_not_pull_the_rate_to_the_floor() -> None:
    """In every interval somebody has a burst, never the same one twice running."""
    control, rng, now = RateControl(start=100 * MB, ceiling=125 * MB), random.Random(5), 0
    for step in range(200):
        now += INTERVAL_NS
        for index in range(200):
            control.observe(index, Sample(0.3 if index == step % 200 else rng.uniform(0, 0.001), 0, 0, 1e12), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate >= 60 * MB


def test_a_slow_disk_is_waited_for() -> None:
    """The pool takes the first seconds; then the rate comes down to the disk before anything is lost."""
    control = RateControl(start=300 * MB, ceiling=1250 * MB)
    link = Link(drain=100 * MB)
    rates = run(control, [link, Link()], 300)
    settled = rates[150:]
    assert 0.7 * 100 * MB <= sum(settled) / len(settled) <= 1.25 * 100 * MB


def test_the_slowest_receiver_decides_until_it_leaves() -> None:
    control = RateControl(start=60 * MB, ceiling=125 * MB)
    slow = Link(capacity=30 * MB)
    run(control, [slow, Link()], 100)
    assert control.rate < 60 * MB
    control.forget(0)
    rng, now = random.Random(1), 200 * INTERVAL_NS
    fast = Link()
    for _step in range(60):
        now += INTERVAL_NS
        control.observe(1, fast.interval(control.rate, 0.2, rng), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate == 125 * MB


def test_the_rate_stays_within_its_limits() -> None:
    control = RateControl(start=1e15, ceiling=100 * MB)
    assert control.rate == 100 * MB
    control = RateControl(start=1, ceiling=100 * MB)
    assert control.rate == limits.RATE_FLOOR_BYTES_PER_S
    run(control, [Link(noise=0.9, capacity=1.0)], 100)
    assert limits.RATE_FLOOR_BYTES_PER_S <= control.rate <= 100 * MB
    assert RateControl(start=1, ceiling=5).rate == 5


def test_a_sender_that_does_not_use_its_rate_does_not_raise_it() -> None:
    control, now = RateControl(start=10 * MB, ceiling=125 * MB), 0
    for _step in range(50):
        now += INTERVAL_NS
        control.observe(0, Sample(0, 0, 0, 1e12), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=1 * MB)
    assert control.rate == 10 * MB


def test_without_reports_nothing_changes() -> None:
    control = RateControl(start=10 * MB, ceiling=125 * MB)
    for step in range(50):
        control.step(step * INTERVAL_NS, interval_ns=INTERVAL_NS, measured_rate=10 * MB)
    assert control.rate == 10 * MB


def test_a_flood_is_answered_with_what_gets_through_in_one_step() -> None:
    """A session that begins at 6 Gbit/s on a port of 800 Mbit/s loses six sevenths."""
    control = RateControl(start=750e6, ceiling=1250e6)
    assert not control.flooded()
    control.observe(0, Sample(loss=1 - 100 / 750, overrun=0.0, pool_fill=0.0, drain_rate=0.0), 50_000_000)
    assert control.flooded()
    control.step(50_000_000, interval_ns=50_000_000, measured_rate=750e6)
    assert control.rate == pytest.approx(97e6)


def test_what_arrived_says_more_than_its_share_of_a_burst() -> None:
    for arrived, believed in ((100e6, 100e6), (5e6, 0.5 * 0.2 * 750e6)):
        control = RateControl(start=750e6, ceiling=1250e6)
        control.observe(0, Sample(0.8, 0.0, 0.0, 0.0, arrival_rate=arrived), 50_000_000)
        control.step(50_000_000, interval_ns=50_000_000, measured_rate=750e6)
        assert control.rate == pytest.approx(0.97 * believed)


def test_one_lost_of_forty_is_no_loss_of_a_fortieth() -> None:
    for datagrams, rate in ((40, 750e6), (4000, 0.97 * 0.975 * 750e6)):
        control = RateControl(start=750e6, ceiling=1250e6)
        control.observe(0, Sample(0.025, 0.0, 0.0, 0.0, datagrams=datagrams), 1)
        control.step(1, interval_ns=10, measured_rate=750e6)
        assert control.rate == pytest.approx(rate)


def test_after_a_flood_those_that_told_it_speak_first() -> None:
    control = RateControl(start=750e6, ceiling=1250e6)
    control.observe(0, Sample(0.8, 0.0, 0.0, 0.0), 1)
    control.observe(1, Sample(0.0, 0.0, 0.0, 0.0), 1)
    control.step(1, interval_ns=10, measured_rate=750e6)
    cut, now = control.rate, 1
    assert (cut, control.flood_count) == (pytest.approx(0.97 * 0.2 * 750e6), 1)
    for now in range(20, 51, 10):
        control.observe(1, Sample(0.0, 0.0, 0.0, 0.0), now)
        control.step(now, interval_ns=10, measured_rate=cut)
        assert control.rate == cut  # whoever lost nothing knows nothing of the flood
    control.observe(0, Sample(0.0, 0.0, 0.0, 0.0), now + 1)
    control.step(now + 1, interval_ns=10, measured_rate=cut)
    assert control.rate > cut


def test_a_flood_is_open_until_somebody_says_what_became_of_it_or_for_five_intervals() -> None:
    control = RateControl(start=750e6, ceiling=1250e6)
    assert not control.flood_open(0)
    control.observe(0, Sample(0.8, 0.0, 0.0, 0.0), 1)
    control.step(1, interval_ns=10, measured_rate=control.rate)
    assert [control.flood_open(now) for now in (1, 50, 51, 1000)] == [True, True, False, False]
    control.observe(0, Sample(0.01, 0.0, 0.0, 0.0), 20)
    control.step(20, interval_ns=10, measured_rate=control.rate)
    assert not control.flood_open(20)


def test_noise_that_was_taken_for_a_limit_is_none_afterwards() -> None:
    """A flood showed the limit, 99 MB/s; what the noise looked like was less. Near the true one, steps are small."""
    control, now, rates = RateControl(start=750 * MB, ceiling=1250 * MB), 0, [0.0]
    for step in range(30):
        now += 3 * INTERVAL_NS
        loss = 1 - 0.99 * 100 / 750 if step == 0 else 0.01
        control.observe(0, Sample(loss, 0.0, 0.0, 0.0, 100_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
        if control.background:
            rates.append(control.rate)
    assert control.background == pytest.approx(0.01)
    near = [rate / before for before, rate in itertools.pairwise(rates[1:]) if rate <= NEAR_SHARE * 99 * MB]
    assert len(near) >= 3
    assert max(near) < 1.031
    assert control.rate > 300 * MB, "there is no other"


def test_one_of_a_thousand_that_is_flooded_at_the_start_is_a_microburst() -> None:
    control = RateControl(start=100 * MB, ceiling=125 * MB)
    for index in range(1000):
        control.observe(index, Sample(0.9 if index == 7 else 0.0, 0.0, 0.0, 0.0), 1)
    assert not control.flooded()


def start(capacity: float, noise: float, *, queue_s: float, interval_ms: int, seed: int) -> tuple[RateControl, float]:
    """Begin at 6 Gbit/s on a link with a queue; return what the control knows after 3 s and how many bytes were sent.

    Reports speak of what left the queue since the last one, so they come late. One that speaks of a time before the
    last flood was answered does not count, as in ``SenderFeedback``.
    """
    rng, control = random.Random(seed), RateControl(start=750e6, ceiling=1250e6)
    queued, total, sent, lost, arrived = 0.0, 0.0, 0.0, 0.0, 0.0
    report_ms, step_ms, delayed = (
        float(rng.randrange(interval_ms)),
        0,
        collections.deque[tuple[int, float, float, int]](),
    )
    oldest: int | None = None
    for now in range(1, 3001):
        offered = control.rate / 1000
        total += offered
        accepted = min(offered, queue_s * capacity - queued + capacity / 1000)
        queued = max(0.0, queued + accepted - capacity / 1000)
        delayed.append((now + int(1000 * queued / capacity), offered, accepted, control.flood_count))
        while delayed and delayed[0][0] <= now:
            _due, one_offered, one_accepted, cuts = delayed.popleft()
            oldest = cuts if oldest is None else oldest
            sent, arrived = sent + one_offered, arrived + one_accepted * (1 - noise)
            lost += one_offered - one_accepted * (1 - noise)
        if now >= report_ms:
            if sent and oldest == control.flood_count:
                rate_in = arrived * 1000 / interval_ms
                control.observe(0, Sample(lost / sent, 0.0, 0.0, 0.0, arrival_rate=rate_in), now * 1_000_000)
            sent = lost = arrived = 0.0
            oldest = None
            report_ms = now + interval_ms * rng.uniform(0.9, 1.1)
        interval = min(200, 4 * interval_ms)
        if now - step_ms >= interval or control.flooded():
            step_ms = now
            control.step(now * 1_000_000, interval_ns=interval * 1_000_000, measured_rate=control.rate)
    return control, total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("interval_ms", [15, 50])
@pytest.mark.parametrize("capacity", [5e6, 25e6, 100e6, 400e6])
def test_what_a_flooded_port_loses_is_never_taken_for_noise(capacity: float, interval_ms: int, seed: int) -> None:
    """Once, of 25 MB/s, 93 % was: the first report was half of a time before the flood. 28 images went out."""
    control, total = start(capacity, 0.01, queue_s=0.05, interval_ms=interval_ms, seed=seed)
    assert control.background < 0.05
    assert 0.7 * capacity < control.rate < 1.3 * capacity
    assert total < 3 * 1.3 * capacity + 0.2 * 750e6


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.35, 0.5, 0.7])
def test_much_noise_from_the_beginning_is_still_noise(noise: float, seed: int) -> None:
    control, _total = start(1e12, noise, queue_s=0.01, interval_ms=50, seed=seed)
    assert control.background == pytest.approx(noise, rel=0.1)
    assert control.rate > 0.9 * 750e6


def test_what_a_full_receiver_seems_to_lose_waits_in_its_socket() -> None:
    """It drains 10 MB/s; the rate goes there and not to the floor, from which it would take minutes to come back."""
    assert Sample(1.0, 0.0, 0.6, 10 * MB).capacity(100 * MB, 0.005) == pytest.approx(7.5 * MB)
    control = RateControl(start=20 * MB, ceiling=125 * MB)
    for interval in range(4):
        now = (interval + 1) * INTERVAL_NS
        control.observe(0, Sample(1.0, 0.0, 0.5, 10 * MB), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate >= 8 * MB


def test_who_keeps_the_rate_from_growing_holds_the_others_back_too() -> None:
    control = RateControl(start=10 * MB, ceiling=125 * MB)
    control.observe(0, Sample(0.0, 0.0, 0.2, 50 * MB), 1)
    control.observe(1, Sample(0.0, 0.0, 0.0, 50 * MB), 1)
    control.step(INTERVAL_NS, interval_ns=INTERVAL_NS, measured_rate=10 * MB)
    assert control.rate == 10 * MB
    assert (control.limiting, control.told(INTERVAL_NS)) == ({0}, math.inf)


def test_the_lowest_capacity_that_was_told_is_kept_for_a_moment_and_while_nothing_is_believed() -> None:
    control = RateControl(start=100 * MB, ceiling=125 * MB)
    assert control.told(1) == math.inf
    control.observe(0, Sample(0.1, 0.0, 0.0, 0), 1)
    control.observe(1, Sample(0.4, 0.0, 0.0, 0), 2)
    control.observe(2, Sample(0.1, 0.0, 0.0, 0), 3)
    told = control.told(3)
    assert told == pytest.approx(0.6 * 97 * MB, rel=0.01)
    assert control.told(2 + TOLD_NS) == math.inf, "the last of them does not speak for the one that told less"
    control.observe(1, Sample(0.4, 0.0, 0.0, 0), INTERVAL_NS)
    control.step(INTERVAL_NS, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate < 100 * MB
    assert control.told(INTERVAL_NS + TOLD_NS) == told, "it is heard again only when the cut can be judged"


@pytest.mark.parametrize(("datagrams", "cut"), [(30, False), (3000, True)])
def test_chance_does_not_cut_the_rate_where_little_is_sent(datagrams: int, cut: bool) -> None:
    """At the end of a session repairs trickle: 3 of 30 lost, twice, of those that lose 5 % always."""
    control = RateControl(start=100 * MB, ceiling=125 * MB)
    run(control, [Link(noise=0.05)], 20)
    assert control.background == pytest.approx(0.05, rel=0.2)
    now, before = 20 * INTERVAL_NS, control.rate
    for _interval in range(2):
        now += INTERVAL_NS
        control.observe(0, Sample(0.1, 0.0, 0.0, 0, datagrams), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert (control.rate < before) is cut


def test_a_disk_that_stood_still_is_taken_at_what_it_does_when_it_goes_on() -> None:
    """Its queue, being emptied, tells what it can; without that the climb from the floor takes half a minute."""
    control = RateControl(start=750 * MB, ceiling=1250 * MB)
    now = 0

    def hear(sample: Sample) -> None:
        nonlocal now
        now += INTERVAL_NS
        control.observe(0, sample, now)
        control.step(now, interval_ns=INTERVAL_NS // 2, measured_rate=control.rate)

    for interval in range(60):
        hear(Sample(0.0, 0.0, 0.75, 90 * MB / 2**interval))
    assert control.rate == control.floor
    for drained in (400 * MB, 700 * MB):
        hear(Sample(0.0, 0.0, 0.48, drained))
        assert control.rate == control.floor, "while it is being emptied, nothing is added"
    hear(Sample(0.0, 0.0, 0.0, 20 * MB))
    assert control.rate == pytest.approx(0.97 * 700 * MB)
    before = control.rate
    hear(Sample(0.0, 0.0, 0.0, 20 * MB))
    assert control.rate < 1.1 * before, "that was once"


def test_what_it_does_is_heard_while_loss_is_not_believed() -> None:
    control, now = RateControl(start=750 * MB, ceiling=1250 * MB), INTERVAL_NS
    for index in (0, 1):
        control.observe(index, Sample(0.0, 0.0, 0.75, 1 * MB), now)
    control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    for index in (0, 1):  # the queue is emptied before anything is believed again
        control.observe(index, Sample(0.0, 0.0, 0.2, 600 * MB), now + 1)
    now += 2 * INTERVAL_NS
    for index in (0, 1):
        control.observe(index, Sample(0.0, 0.0, 0.0, 10 * MB), now)
    control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate == pytest.approx(0.97 * 600 * MB)


def test_what_a_disk_does_when_it_goes_on_is_no_more_than_the_way_carried_before() -> None:
    control, now = RateControl(start=100 * MB, ceiling=1250 * MB), 0
    for sample in (Sample(0.0, 0.0, 0.75, 1 * MB), Sample(0.0, 0.0, 0.5, 700 * MB), Sample(0.0, 0.0, 0.0, 1 * MB)):
        now += INTERVAL_NS
        control.observe(0, sample, now)
        control.step(now, interval_ns=INTERVAL_NS // 2, measured_rate=control.rate)
    assert control.rate == pytest.approx(97 * MB)


def test_one_disk_that_goes_on_says_nothing_of_another() -> None:
    control, now = RateControl(start=300 * MB, ceiling=1250 * MB), 0
    for samples in (
        {0: Sample(0.0, 0.0, 0.75, 10 * MB), 1: Sample(0.0, 0.0, 0.75, 20 * MB)},
        {1: Sample(0.0, 0.0, 0.5, 200 * MB)},
        {0: Sample(0.0, 0.0, 0.0, 10 * MB), 1: Sample(0.0, 0.0, 0.0, 10 * MB)},
    ):
        now += INTERVAL_NS
        for index, sample in samples.items():
            control.observe(index, sample, now)
        before = control.rate
        control.step(now, interval_ns=INTERVAL_NS // 2, measured_rate=control.rate)
    assert control.rate == pytest.approx(max(9.7 * MB, 1.03 * before), rel=0.02)


def test_what_chance_loses_at_a_low_rate_does_not_keep_it_there() -> None:
    """Of forty datagrams, one in a hundred is none or two: somebody of sixteen always seems to lose too much."""
    rng, control, now = random.Random(3), RateControl(start=100 * MB, ceiling=125 * MB), 0

    def interval(samples: list[Sample]) -> None:
        nonlocal now
        now += INTERVAL_NS
        for index, sample in enumerate(samples):
            control.observe(index, sample, now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)

    for _step in range(8):
        interval([Sample(0.01, 0.0, 0.0, 0.0, 100_000)] * 16)
    assert control.background == pytest.approx(0.01)
    for _step in range(60):
        interval([Sample(0.01, 0.0, 0.9, 0.1 * MB, 4000)] * 16)
    assert control.rate < 0.2 * MB
    for _step in range(40):
        lost = [sum(rng.random() < 0.01 for _datagram in range(40)) for _receiver in range(16)]
        interval([Sample(count / 40, 0.0, 0.0, 0.0, 40) for count in lost])
    assert control.rate > 50 * MB


def test_a_lasting_loss_does_keep_it_there() -> None:
    control = RateControl(start=100 * MB, ceiling=125 * MB)
    for step in range(1, 200):
        lost = 0.004 if step > 100 else 0.05 if control.rate > 50 * MB else 0.0
        now = step * INTERVAL_NS
        if step == 100:
            rate = control.rate
        control.observe(0, Sample(lost, 0.0, 0.0, 0.0, 20_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate <= rate * 1.04


def test_a_few_datagrams_that_chance_loses_do_not_end_a_search_before_its_first_cut() -> None:
    """As above, and nothing is known of the noise yet: a single lost datagram might be the first of a flood."""
    rng, control, now = random.Random(3), RateControl(start=0.3 * MB, ceiling=125 * MB), 0
    for _step in range(120):
        now += INTERVAL_NS
        sent = int(control.rate / 1472 * 0.2)
        for index in range(16):
            lost = sum(rng.random() < 0.01 for _datagram in range(sent))
            control.observe(index, Sample(lost / sent, 0.0, 0.0, 0.0, sent), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate == 125 * MB
    assert 0.005 < control.background < 0.03, "of sixteen, what the unluckiest lost"


@pytest.mark.parametrize("noise", [0.0025, 0.0045])
def test_noise_that_is_too_little_for_a_cut_is_learned_by_going_on(noise: float) -> None:
    control, now = RateControl(start=600 * MB, ceiling=1250 * MB), 0
    for _step in range(16):
        now += INTERVAL_NS
        control.observe(0, Sample(noise, 0.0, 0.0, 0.0, 100_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate == control.ceiling
    assert control.background == pytest.approx(noise)


def test_a_little_that_a_full_link_loses_is_no_noise() -> None:
    control, now = RateControl(start=100.3 * MB, ceiling=1250 * MB), 0
    for _step in range(200):
        now += 3 * INTERVAL_NS
        control.observe(0, Sample(max(0.0, 1 - 100 * MB / control.rate), 0.0, 0.0, 0.0, 100_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
        assert 90 * MB < control.rate < 112 * MB
    assert control.background == 0


def test_what_was_lost_before_a_small_step_says_nothing_of_it() -> None:
    """Reports that come seldom speak of the time before, mostly; and of that time, they say the same again."""
    control, now = RateControl(start=100.4 * MB, ceiling=1250 * MB), 0
    for _step in range(60):
        now += INTERVAL_NS
        control.observe(0, Sample(0.004, 0.0, 0.0, 0.0, 100_000, current=False), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.background == 0
    assert control.rate < 104 * MB


def test_what_was_lost_before_a_cut_says_nothing_of_it() -> None:
    """Where a fleet reports seldom, what is told after a cut is still of the time before it, for however long."""
    control, now = RateControl(start=750 * MB, ceiling=1250 * MB), INTERVAL_NS
    control.observe(0, Sample(0.2, 0.0, 0.0, 0.0, 100_000), now)
    control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    cut = control.rate
    assert cut < 650 * MB
    for _step in range(4):
        now += INTERVAL_NS
        control.observe(0, Sample(0.2, 0.0, 0.0, 0.0, 100_000, current=False), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
        assert control.rate == cut
    for _step in range(4):
        now += INTERVAL_NS
        control.observe(0, Sample(0.0, 0.0, 0.0, 0.0, 100_000, current=False), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.background == 0
    assert control.rate > cut


def test_a_full_queue_that_hides_noise_does_not_hide_it_from_an_experiment() -> None:
    control, now = RateControl(start=750 * MB, ceiling=1250 * MB), 0
    for fill in (0.05, 0.05, 0.5):
        now += 3 * INTERVAL_NS
        control.observe(0, Sample(0.01, 0.0, fill, 50 * MB, 100_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.background == pytest.approx(0.01)
    assert control.rate < 400 * MB


def test_a_full_queue_is_no_noise() -> None:
    """The first cut was for loss that stays, which is the link's own: but by then, the disk is what is waited for."""
    control, now = RateControl(start=750 * MB, ceiling=1250 * MB), 0
    for fill, waiting in ((0.05, False), (0.05, False), (0.05, True), (0.05, True)):
        now += 3 * INTERVAL_NS
        control.observe(0, Sample(0.01, 0.0, fill, 50 * MB, 100_000), now)
        if waiting:
            control.observe(1, Sample(0.0, 0.0, 0.5, 50 * MB, 100_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.background == pytest.approx(0.01)
    assert control.rate < 200 * MB


def test_what_a_receiver_that_reads_late_seems_to_lose_is_no_noise() -> None:
    """The link of 125 MB/s is clean, its disk is slow, and what it has not read yet looks lost."""
    control, now = RateControl(start=100 * MB, ceiling=1250 * MB), 0
    for _step in range(20):
        now += 3 * INTERVAL_NS
        control.observe(0, Sample(0.2, 0.0, 0.6, 50 * MB, 100_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.background == 0
    for _step in range(100):
        now += 3 * INTERVAL_NS
        control.observe(0, Sample(max(0.0, 1 - 125 * MB / control.rate), 0.0, 0.0, 0.0, 100_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.background == 0
    assert 110 * MB < control.rate < 140 * MB


def test_what_a_host_cannot_hold_is_no_noise_of_anybody_s_link() -> None:
    """One link is noisy, which is known; another receiver's host overruns by less than that noise."""
    control, now = RateControl(start=300 * MB, ceiling=1250 * MB), 0
    for step in range(200):
        now += 3 * INTERVAL_NS
        overrun = max(0.0, 1 - 300 * MB / control.rate) if step > 6 else 0.0
        control.observe(0, Sample(0.1, 0.0, 0.0, 300 * MB, 40_000), now)
        control.observe(1, Sample(0.0, overrun, 0.0, 300 * MB, 40_000), now)
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
        if step == 6:
            assert control.background == pytest.approx(0.1)
        assert step < 20 or control.rate < 400 * MB


def test_a_single_sample_of_two_datagrams_is_not_believed_because_somebody_is_full() -> None:
    control, now = RateControl(start=750 * MB, ceiling=1250 * MB), 0
    for fill, overrun in ((0.05, 0.0), (0.05, 0.0), (0.5, 0.5)):
        now += 3 * INTERVAL_NS
        control.observe(0, Sample(0.01, 0.0, fill, 0.0, 100_000), now)
        if overrun:
            control.observe(1, Sample(0.01, overrun, 0.0, 0.0, 2), now)
        before = control.rate
        control.step(now, interval_ns=INTERVAL_NS, measured_rate=control.rate)
    assert control.rate >= before
