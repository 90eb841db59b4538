"""Goal: whatever the network loses, everybody ends with an exact copy, and nothing is sent that nobody needed.

Method: real machines on a virtual network; counts of symbols and messages, exact where nothing is lost, bounded where
something is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from protocol import limits, messages
from protocol.extents import Extents
from protocol.sender_events import StartRule
from tests.simulation.image import make_image
from tests.simulation.network import MILLISECOND, Faults
from tests.simulation.pair import World


def fleet(count: int, faults: Faults, seed: int = 1, chunk_count: int = 60, **sender: object) -> World:
    world = World(seed, make_image(seed, chunk_count), start=StartRule(receivers=count), **sender)
    for _receiver in range(count):
        world.receiver(faults)
    return world


def source_symbols(world: World) -> int:
    """Return how many source symbols of both objects anybody needs."""
    return sum(
        int(partition.symbols_of(wanted_slices(world, object_id)).sum())
        for object_id, partition in world.sender.partitions.items()
    )


def wanted_slices(world: World, object_id: int) -> npt.NDArray[np.int64]:
    """Return the slices of an object that a blank target needs."""
    partition = world.sender.partitions[object_id]
    if object_id == limits.OBJECT_MANIFEST:
        return np.arange(partition.slice_count)
    manifest = world.image.manifest
    return np.flatnonzero(Extents(partition, manifest.stored_offsets, manifest.transferred).wanted_slices)


@pytest.mark.parametrize("count", [1, 8])
def test_without_loss_nobody_asks_and_nothing_is_sent_twice(count: int) -> None:
    world = fleet(count, Faults(), repair_symbols=2)
    world.run(limit_s=20)
    world.assert_all_verified()
    assert world.network.carried["Nack"] == 0
    assert set(world.sender.sent.values()) == {1}
    assert world.sender.session.sent.source_symbols == source_symbols(world)
    slices = sum(len(wanted_slices(world, object_id)) for object_id in world.sender.partitions)
    assert world.sender.session.sent.repair_symbols == 2 * slices
    for node in world.receivers:
        assert node.session is not None
        assert node.session.reception.lost == 0
        assert node.session.reception.counters.nacks == 0


def test_a_clean_network_is_not_sent_repair_symbols_for_long() -> None:
    world = fleet(2, Faults(), chunk_count=300)
    world.run(limit_s=20)
    world.assert_all_verified()
    sent = world.sender.session.sent
    assert sent.repair_symbols < 0.1 * sent.source_symbols


@pytest.mark.parametrize(("loss", "overhead"), [(0.01, 0.25), (0.05, 0.45), (0.3, 1.2)])
@pytest.mark.parametrize("count", [1, 8])
def test_independent_loss_is_repaired_at_bounded_cost(count: int, loss: float, overhead: float) -> None:
    world = fleet(count, Faults(loss=loss), chunk_count=200)
    world.run(limit_s=60)
    world.assert_all_verified()
    needed, sent = source_symbols(world), world.sender.session.sent
    assert sent.source_symbols + sent.repair_symbols <= (1 + overhead) * needed, sent
    assert world.network.carried["Nack"] > 0


def test_one_repair_symbol_mends_different_losses_at_different_receivers() -> None:
    """Eight receivers lose 2 % each; what they lose together is eight times what is sent for it."""
    world = fleet(8, Faults(loss=0.02), chunk_count=200)
    world.run(limit_s=60)
    world.assert_all_verified()
    lost = sum(node.session.reception.lost for node in world.receivers if node.session is not None)
    assert world.sender.session.sent.repair_symbols < lost


def test_bursts_are_repaired() -> None:
    """A tenth is lost in bursts longer than a window interleaves; the model of independent loss answers generously."""
    needed = sent = 0
    for seed in range(6):
        world = fleet(4, Faults(burst_start=0.002, burst_length=60), seed, chunk_count=150)
        world.run(limit_s=60)
        world.assert_all_verified()
        counters = world.sender.session.sent
        needed, sent = needed + source_symbols(world), sent + counters.source_symbols + counters.repair_symbols
    assert sent < 2.5 * needed, "2.1 on average, 1.5 to 2.9 for one seed"


CONTROL = [
    messages.Announce,
    messages.Solicit,
    messages.Join,
    messages.Welcome,
    messages.Status,
    messages.Poll,
    messages.RepairAdvice,
    messages.FeedbackAdvice,
    messages.Nack,
    messages.Report,
    messages.Done,
    messages.End,
]


@pytest.mark.parametrize("kind", CONTROL, ids=lambda kind: kind.__name__)
def test_any_control_message_may_be_lost(kind: type[messages.Message]) -> None:
    world = fleet(4, Faults(loss=0.03, control_loss=0.3, lost_kinds=frozenset({kind})), chunk_count=100)
    world.run(limit_s=60)
    world.assert_all_verified()


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_every_control_message_may_be_lost(share: float) -> None:
    world = fleet(4, Faults(loss=0.03, control_loss=share), chunk_count=60)
    world.run(limit_s=120)
    world.assert_safe()
    assert all(node.outcomes for node in world.receivers)


def test_what_arrives_before_the_welcome_counts() -> None:
    """The whole image passes while WELCOMEs are lost; the receiver is complete at the moment it is taken in."""
    world = World(3, make_image(3, 10), start=StartRule(receivers=1))
    silent = frozenset({messages.Welcome})
    deaf = world.receiver(Faults(control_loss=1.0, lost_kinds=silent))
    other = world.receiver(Faults(), born_ns=10 * MILLISECOND, work_ns=300 * MILLISECOND)
    world.run_until(lambda: deaf.disk == world.image.transferred() and len(world.sender.session.peers) == 2, limit_s=20)
    assert not deaf.over
    deaf.faults = Faults()
    world.run(limit_s=60)
    world.assert_all_verified()
    assert other.over


def test_duplicates_and_reordering_cost_nothing() -> None:
    world = fleet(4, Faults(duplicate=0.2, reorder=0.3, jitter_ns=2 * MILLISECOND), repair_symbols=0)
    world.run(limit_s=20)
    world.assert_all_verified()
    needed, sent = source_symbols(world), world.sender.session.sent
    assert sent.source_symbols + sent.repair_symbols <= 1.02 * needed


@pytest.mark.parametrize("slots", [4, 8])
def test_a_tiny_pool_forgets_slices_and_completes(slots: int) -> None:
    world = World(4, make_image(4, 60, frame_size=(500, 2000), zero=0), start=StartRule(receivers=2), window_slices=8)
    faults = Faults(loss=0.05, delay_ns=5 * MILLISECOND)
    small = [world.receiver(faults, pool_size=slots * 16 * 64) for _receiver in range(2)]
    world.run(limit_s=120)
    world.assert_all_verified()
    assert (
        sum(
            n.session.reception.assembly(limits.OBJECT_IMAGE).counters.forgotten for n in small if n.session is not None
        )
        > 0
    )


def test_a_slow_disk_pins_slices_and_loses_nothing_for_good() -> None:
    world = World(5, make_image(5, 60, zero=0), start=StartRule(receivers=1))
    node = world.receiver(Faults(), pool_size=12 * 16 * 64, work_ns=20 * MILLISECOND)
    world.run(limit_s=120)
    world.assert_all_verified()
    assert node.session is not None
    assert node.session.reception.assembly(limits.OBJECT_IMAGE).counters.pool_full > 0
    assert node.session.reception.lost == 0


def test_a_flush_longer_than_every_silence_limit_is_waited_for() -> None:
    world = World(6, make_image(6, 4), start=StartRule(receivers=1))
    world.receiver(Faults(), flush_ns=3 * limits.RECEIVER_SILENCE_NS)
    world.run(limit_s=60)
    world.assert_all_verified()
    assert world.clock.now > 3 * limits.RECEIVER_SILENCE_NS


def test_adaptive_rate_settles_on_a_lossy_link() -> None:
    world = fleet(2, Faults(loss=0.03), chunk_count=300, rate=None)
    world.run(limit_s=60)
    world.assert_all_verified()
