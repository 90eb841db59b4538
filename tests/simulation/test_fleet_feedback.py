"""Goal: what a fleet says, what its losses cost, and how long the last one waits stay within what was promised.

Method: the fleet simulator with the real machines, fleets of hundreds; ``GHOSTCAST_FLEET=10000`` runs the same with as
many receivers and an image of 256 MB (hours of processor time; the promises are those of ten thousand anyway).
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from ghostcast.simulation.disk import Disk
from ghostcast.simulation.link import Queue, Way
from ghostcast.simulation.loss import Bernoulli, Bursts, LossModel
from ghostcast.simulation.result import Result
from ghostcast.simulation.scenario import GIGABIT, Member, Scenario
from ghostcast.simulation.world import Machines, simulate
from protocol import limits
from protocol.schedule import Window
from protocol.sender_events import Event, EventKind
from protocol.sender_session import SenderSession

FLEET = int(os.environ.get("GHOSTCAST_FLEET", "300"))
SIZE = 256 * limits.MIB if FLEET >= 10_000 else 16 * limits.MIB
DELAY_NS = 100 * limits.MICROSECOND_NS


def link(*loss: LossModel) -> Member:
    return Member(link=Way(loss=loss, delay_ns=DELAY_NS))


def assert_promises(result: Result, overhead: float) -> None:
    assert result.verified == result.scenario.receivers
    assert result.control_peak_per_s < limits.FEEDBACK_PER_S
    assert result.overhead <= overhead
    assert result.data_last_s <= 1.05 * result.ideal_s + 0.5


@pytest.mark.parametrize(("loss", "overhead"), [(0.001, 1.04), (0.01, 1.08), (0.05, 1.18)])
def test_independent_loss(loss: float, overhead: float) -> None:
    assert_promises(simulate(Scenario(receivers=FLEET, size=SIZE, member=link(Bernoulli(loss)))), overhead)


@pytest.mark.parametrize("rate", [GIGABIT / 5, GIGABIT])
def test_repairs_that_stand_in_line_for_longer_than_a_hold_off_are_not_asked_for_again(rate: float) -> None:
    """Windows are laid out ahead: up to 300 ms pass between the advice and its symbols where a rate is low."""
    lossy = Member(link=Way(loss=(Bernoulli(0.05),), delay_ns=DELAY_NS, control_loss=0.05, feedback_loss=0.05))
    result = simulate(Scenario(receivers=FLEET, size=2 * SIZE, rate=rate, member=lossy))
    assert_promises(result, 1.18)
    assert result.nacks < FLEET


@pytest.mark.parametrize(("loss", "overhead"), [(0.01, 1.08), (0.05, 1.18)])
@pytest.mark.parametrize("link_rate", [GIGABIT, 10 * GIGABIT])
def test_a_fleet_whose_rate_is_being_found_says_no_more(link_rate: float, loss: float, overhead: float) -> None:
    """All of it limits the rate, until the sender knows that this loss is the links' own."""
    lossy = Member(link=Way(loss=(Bernoulli(loss),), delay_ns=DELAY_NS, control_loss=loss, feedback_loss=loss))
    scenario = Scenario(
        receivers=FLEET, size=4 * SIZE, rate=None, rate_start=0.6 * link_rate, rate_ceiling=link_rate, member=lossy
    )
    result = simulate(scenario)
    assert result.verified == FLEET
    assert result.control_peak_per_s < limits.FEEDBACK_PER_S
    assert result.nacks < FLEET
    assert result.overhead <= overhead
    assert result.data_last_s < 2 * result.ideal_s + 0.5


@pytest.mark.parametrize(("loss", "overhead"), [(0.001, 1.04), (0.05, 1.18)])
def test_loss_that_all_share(loss: float, overhead: float) -> None:
    scenario = Scenario(receivers=FLEET, size=SIZE, uplink=Way(loss=(Bernoulli(loss),)), member=link())
    assert_promises(simulate(scenario), overhead)


def test_one_burst_that_hits_all_at_once() -> None:
    """About one run of 500 datagrams in the image, lost before the fan-out."""
    symbols = SIZE / 1440
    scenario = Scenario(receivers=FLEET, size=SIZE, uplink=Way(loss=(Bursts(500, symbols),)), member=link(), seed=2)
    result = simulate(scenario)
    assert_promises(result, 1.08)


class Watching(SenderSession):
    """A sender that remembers its windows and events."""

    windows: list[tuple[int, Window]]
    happened: list[Event]

    def poll_window(self, now: int) -> Window | None:
        if not hasattr(self, "windows"):
            type(self).windows, type(self).happened = [], []
            self.windows, self.happened = type(self).windows, type(self).happened
        window = super().poll_window(now)
        if window is not None:
            self.windows.append((now, window))
        return window

    def poll_event(self) -> Event | None:
        event = super().poll_event()
        if event is not None and hasattr(self, "happened"):
            self.happened.append(event)
        return event


def test_bursts_that_come_again_cost_few_repairs_once_the_window_and_the_surplus_have_adapted() -> None:
    """Twenty receivers lose 500 datagrams in a row often enough that the next one is expected."""
    early = late = 0
    for seed in range(4):

        class Sender(Watching):
            pass

        size, member = 256 * limits.MIB, link(Bursts(500, 400_000))
        result = simulate(
            Scenario(receivers=20, size=size, rate=GIGABIT, member=member, seed=seed), machines=Machines(sender=Sender)
        )
        assert result.verified == 20
        begun = Sender.windows[0][0]
        repairs = [now - begun < limits.SECOND_NS for now, window in Sender.windows if window.repair_pass]
        early, late = early + sum(repairs), late + len(repairs) - sum(repairs)
        assert max(len(window.slices) for _now, window in Sender.windows) > limits.WINDOW_SLICES_DEFAULT
        assert result.overhead < 1.08
    assert early >= 4, "before anything was measured a burst costs a repair"
    assert late <= early / 2, "of 2.4 seconds, the first one has most of them"


def test_hardly_ever_has_a_fleet_to_wait_for_repairs_of_what_was_sent_last() -> None:
    """With one and the same surplus for all of the stream, 17 of 24 sessions wait for a round, and so 5."""
    member, waited = link(Bernoulli(0.01)), 0
    for seed in range(24):
        result = simulate(Scenario(receivers=16, size=48 * limits.MIB, rate=GIGABIT, member=member, seed=seed))
        waited += result.data_last_s > result.ideal_s + 0.01
    assert waited <= 10


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_a_done_is_said_again_only_where_it_or_its_answer_was_lost(loss: float) -> None:
    """A fleet for which DONEs are gathered for longer the more of it is left, and each hears how many are."""
    lossy = Member(link=Way(delay_ns=DELAY_NS, control_loss=loss, feedback_loss=loss))
    result = simulate(Scenario(receivers=2500, size=4 * limits.MIB, rate=GIGABIT, member=lossy))
    assert result.verified == 2500
    assert 2500 * (1 - loss) <= result.control["Done"].sum() <= 2500 * (1 + 2 * loss)
    assert result.control_peak_per_s < limits.FEEDBACK_PER_S


@pytest.mark.parametrize(
    ("receivers", "size", "rate"), [(40, 64 * limits.MIB, GIGABIT / 2), (1000, 32 * limits.MIB, GIGABIT / 10)]
)
def test_late_joiners_cost_the_union_of_what_they_missed_and_nobody_waits(
    receivers: int, size: int, rate: float
) -> None:
    """Half of them join at 60 % of the pass, as fast as JOINs are heard."""
    whole_s, joining_s = size / 1440 * 1472 / rate, receivers / 2 / limits.JOIN_PER_S
    late = Member(link=Way(delay_ns=DELAY_NS), join_ns=int((joining_s + 0.6 * whole_s) * limits.SECOND_NS))
    scenario = Scenario(
        receivers=receivers, size=size, rate=rate, member=link(), start_when=receivers // 2,
        exceptions=dict.fromkeys(range(receivers // 2, receivers), late), seed=3,
    )  # fmt: skip
    result = simulate(scenario)
    assert result.verified == receivers
    missed = 0.6 + (joining_s + 0.2) / whole_s  # by the last of them, who takes a moment to be heard
    assert 1.5 < result.overhead < 1 + missed + 2 / 128
    early = result.data_s[: receivers // 2]
    assert float(np.max(early)) < 1.3 * whole_s, "who was there from the beginning ends with the first pass"
    assert result.data_last_s < 1.05 * result.ideal_s + 0.5


def test_a_rack_that_is_switched_on_late_says_no_more_than_can_be_heard() -> None:
    """Reports: it was said that twenty take part. NACKs: all lack the same, more than can be named slice by slice."""
    late = Member(link=Way(loss=(Bernoulli(0.01),), delay_ns=DELAY_NS), join_ns=limits.SECOND_NS)
    scenario = Scenario(
        receivers=320, size=128 * limits.MIB, rate=GIGABIT / 3, start_when=20,
        member=dataclasses.replace(late, join_ns=0), exceptions=dict.fromkeys(range(20, 320), late),
    )  # fmt: skip
    result = simulate(scenario)
    assert result.verified == 320
    assert result.control_peak_per_s < limits.FEEDBACK_PER_S


@pytest.mark.parametrize("seed", [5, 6, 9])
def test_a_slow_receiver_is_left_behind_by_name_and_served_after_the_others(seed: int) -> None:
    """Its data waits in its socket and seems lost, and a window takes a second at its pace: it does not end there."""

    class Sender(Watching):
        pass

    slow = Member(link=Way(delay_ns=DELAY_NS), disk=Disk(rate_bytes_per_s=10e6), pool_size=16 * limits.MIB)
    fast = Member(link=Way(delay_ns=DELAY_NS), pool_size=16 * limits.MIB)
    scenario = Scenario(
        receivers=20, size=300 * limits.MIB, rate=None, rate_start=GIGABIT / 2, rate_ceiling=GIGABIT,
        member=fast, exceptions={4: slow}, seed=seed,
    )  # fmt: skip
    result = simulate(scenario, machines=Machines(sender=Sender))
    assert result.verified == 20
    left = [event for event in Sender.happened if event.kind is EventKind.LEFT_BEHIND]
    assert len(left) == 1
    assert left[0].peer is not None
    assert left[0].peer.left_ns is not None
    back = [event for event in Sender.happened if event.kind is EventKind.TAKEN_BACK]
    assert [event.peer for event in back] == [left[0].peer]
    others = np.delete(result.durable_s, 4)
    alone_s = 300 * limits.MIB / 10e6
    assert float(np.max(others)) < 0.5 * alone_s
    assert result.durable_s[4] < 2 * alone_s


@pytest.mark.parametrize("loss", [0.001, 0.01])
@pytest.mark.parametrize(("receivers", "stalled"), [(1, 1), (16, 1), (16, 16)])
def test_disks_that_stand_still_for_a_second_cost_little_more(receivers: int, stalled: int, loss: float) -> None:
    """The rate goes to its floor meanwhile, windows under way and all; half a second is what it takes undisturbed."""
    quick = Member(link=Way(loss=(Bernoulli(loss),), delay_ns=DELAY_NS), disk=Disk(rate_bytes_per_s=1.2e9))
    begin_ns, stall_ns = 200 * limits.MILLISECOND_NS, limits.SECOND_NS
    slow = dataclasses.replace(quick, disk=dataclasses.replace(quick.disk, stall=(begin_ns, begin_ns + stall_ns)))
    scenario = Scenario(
        receivers=receivers, size=512 * limits.MIB, rate=None, rate_start=6 * GIGABIT, rate_ceiling=10 * GIGABIT,
        member=quick, exceptions=dict.fromkeys(range(stalled), slow),
    )  # fmt: skip
    result = simulate(scenario)
    assert result.verified == receivers
    assert float(np.max(result.durable_s)) < 0.5 + 1.0 + 1.5


@pytest.mark.parametrize(("receivers", "stall_s"), [(1, 10), (4, 3)])
def test_nothing_is_sent_in_vain_while_a_disk_does_not_begin(receivers: int, stall_s: int) -> None:
    """Its receiver cannot tell how fast it is, only that it drops: the stream went by again and again.

    A simulated host hears STATUS past its full socket, and so knows of its drops; a real one does not.
    """
    usual = Member(link=Way(loss=(Bernoulli(0.001),), delay_ns=DELAY_NS), disk=Disk(rate_bytes_per_s=1.2e9))
    still = dataclasses.replace(usual, disk=dataclasses.replace(usual.disk, stall=(0, stall_s * limits.SECOND_NS)))
    scenario = Scenario(
        receivers=receivers, size=1024 * limits.MIB, rate=None, rate_start=6 * GIGABIT, rate_ceiling=10 * GIGABIT,
        member=usual, exceptions={0: still},
    )  # fmt: skip
    result = simulate(scenario)
    assert result.verified == receivers
    assert result.overhead < 1.5
    assert float(np.max(result.durable_s)) < stall_s + 3


@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_a_start_that_floods_slow_links_costs_a_fleet_little_more_than_one_receiver(loss: float) -> None:
    """Repairs that go out into the flood are lost, and then the code has no points left that nobody holds."""
    port = Queue(GIGABIT / 5, 1_250_000)
    link = Way(loss=(Bernoulli(loss),) if loss else (), delay_ns=DELAY_NS, control_loss=loss, queue=port)
    size = 60_000_000
    for receivers, share in ((1, 1.1), (16, 1.18)):
        scenario = Scenario(
            receivers=receivers, size=size, rate=None, rate_start=5 * GIGABIT, rate_ceiling=10 * GIGABIT,
            uplink=Way(queue=port), member=Member(link=link),
        )  # fmt: skip
        result = simulate(scenario)
        assert result.verified == receivers
        assert result.data_last_s < share * size / port.rate_bytes_per_s
        assert result.overhead < 1.7, "sixteen MiB twice, and what is lost while nobody knows"


@pytest.mark.parametrize("queue_ms", [6, 50])
def test_a_fleet_behind_slower_ports_than_the_sender_s_is_heard_and_not_overrun(queue_ms: int) -> None:
    """Most report after the flood: what they say of it is no noise, and no news, and few have to ask for the same.

    One fleet of ten goes beyond 1.4 times the image by chance.
    """
    port = Queue(GIGABIT, queue_ms * GIGABIT // 1000)
    link = Way(loss=(Bernoulli(0.002),), delay_ns=DELAY_NS, control_loss=0.002, feedback_loss=0.002, queue=port)
    scenario = Scenario(
        receivers=FLEET, size=8 * SIZE, rate=None, rate_start=6 * GIGABIT, rate_ceiling=10 * GIGABIT,
        uplink=Way(queue=port if queue_ms > 20 else None), member=Member(link=link),
    )  # fmt: skip
    results = [simulate(dataclasses.replace(scenario, seed=seed)) for seed in (1, 2, 3)]
    for result in results:
        assert result.verified == FLEET
        assert result.control_peak_per_s < limits.FEEDBACK_PER_S
    assert np.mean([result.overhead for result in results]) < 1.35
    assert np.mean([result.data_last_s for result in results]) < 1.5 * scenario.size / GIGABIT + 0.5


@pytest.mark.parametrize(
    "fate",
    ["stays", "dies", "is started again", "fails", "comes late"],
)
def test_a_search_goes_on_whatever_becomes_of_one_receiver(fate: str) -> None:
    """A step that nobody can answer any more is taken after an interval; undisturbed the others take 0.22 s."""
    moment_ns, usual = 15 * limits.MILLISECOND_NS, Member(link=Way(delay_ns=DELAY_NS))
    one = {
        "stays": usual,
        "dies": dataclasses.replace(usual, die_ns=moment_ns),
        "is started again": dataclasses.replace(usual, die_ns=moment_ns, restart_ns=10 * moment_ns),
        "fails": dataclasses.replace(usual, disk=Disk(eio_at_byte=limits.MIB)),
        "comes late": dataclasses.replace(usual, join_ns=moment_ns),
    }[fate]
    scenario = Scenario(
        receivers=4, size=512 * limits.MIB, rate=None, rate_start=6 * GIGABIT, rate_ceiling=25 * GIGABIT,
        member=usual, exceptions={2: one},
    )  # fmt: skip
    result = simulate(scenario)
    assert result.verified == 4 - (fate in ("dies", "fails"))
    assert float(np.max(np.delete(result.data_s, 2))) < 0.35


@pytest.mark.parametrize(("loss", "megabits", "megabytes"), [(0.003, 1000, 100), (0.01, 10, 4)])
def test_a_search_passes_a_loss_of_which_it_learns_nothing(loss: float, megabits: int, megabytes: int) -> None:
    """Too little for a cut, or too few datagrams to tell: it began at six tenths of the port, and stayed there."""
    port = Queue(megabits * limits.MEGABIT, max(130_000, megabits * limits.MEGABIT // 20))
    link = Way(loss=(Bernoulli(loss),), delay_ns=DELAY_NS, control_loss=loss, queue=port)
    result = simulate(
        Scenario(
            receivers=16, size=megabytes * 1_000_000, rate=None, rate_start=0.6 * port.rate_bytes_per_s,
            rate_ceiling=port.rate_bytes_per_s, uplink=Way(queue=port), member=Member(link=link),
        )
    )  # fmt: skip
    assert result.verified == 16
    assert result.data_last_s < 1.25 * megabytes * 1_000_000 / port.rate_bytes_per_s
