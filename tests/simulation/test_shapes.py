"""Goal: images and sessions of every shape work: empty, tiny, huge, all zero, long past 32 bits of sequence numbers.

Method: virtual clock; the huge image moves no bytes and has the work of one machine counted instead of timed.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from protocol import limits
from protocol.manifest import FLAG_ZERO
from protocol.sender_events import StartRule
from tests.simulation.image import make_image
from tests.simulation.network import Faults
from tests.simulation.pair import World
from tests.simulation.receiver_node import UnmovedReceiverNode


def run(world: World, count: int = 2, faults: Faults | None = None) -> None:
    for _receiver in range(count):
        world.receiver(Faults(loss=0.05) if faults is None else faults)
    world.run(limit_s=120)
    world.assert_all_verified()


def test_nothing_is_loaded_in_the_middle_of_a_session() -> None:
    """numpy loads its masked arrays at the first plain ``np.unique``: 20 ms of every machine at once, at the start."""
    look = (
        "import sys\n"
        "from tests.simulation.test_shapes import World, make_image, StartRule, run\n"
        "world = World(1, make_image(1, 60), start=StartRule(receivers=2))\n"
        "before = set(sys.modules)\n"
        "run(world)\n"
        "print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name.startswith("numpy.")] == []


def test_an_empty_image() -> None:
    world = World(1, make_image(1, 0), start=StartRule(receivers=2))
    run(world)
    assert world.sender.session.schedules[limits.OBJECT_IMAGE].partition.slice_count == 0


def test_an_image_of_one_symbol() -> None:
    world = World(2, make_image(2, 1, frame_size=(5, 5), zero=0), start=StartRule(receivers=2))
    run(world)
    assert world.sender.partitions[limits.OBJECT_IMAGE].symbol_count == 1


@pytest.mark.parametrize("last", range(1, 17))
def test_a_short_last_slice_of_any_length(last: int) -> None:
    size = 16 * 64 + 64 * last - 3
    world = World(last, make_image(last, 1, frame_size=(size, size), zero=0), start=StartRule(receivers=2))
    assert world.sender.partitions[limits.OBJECT_IMAGE].last_symbols == last
    run(world, faults=Faults(loss=0.2))


def test_an_all_zero_image_sends_its_manifest_only() -> None:
    image = make_image(3, 30, zero=1.0)
    assert not image.manifest.transferred.any()
    assert (image.manifest.flags == FLAG_ZERO).any()
    world = World(3, image, start=StartRule(receivers=2))
    run(world)
    assert not any(object_id == limits.OBJECT_IMAGE for object_id, _slice, _esi in world.sender.sent)


def test_zero_chunks_are_never_requested_or_sent() -> None:
    image = make_image(4, 60, frame_size=(2500, 3500), zero=0.6)
    world = World(4, image, start=StartRule(receivers=2), repair_symbols=0)
    run(world, faults=Faults())
    sent = {slice_index for object_id, slice_index, _esi in world.sender.sent if object_id == limits.OBJECT_IMAGE}
    assert len(sent) < world.sender.partitions[limits.OBJECT_IMAGE].slice_count


@pytest.mark.parametrize("first", [(1 << 32) - 1000, (1 << 32) - 1, (1 << 33) - 700, (1 << 40) + 5])
def test_sequence_numbers_wrap(first: int) -> None:
    world = World(5, make_image(5, 60), start=StartRule(receivers=1), first_sequence=first)
    for index in range(3):
        world.receiver(Faults(loss=0.05), born_ns=index * 40_000_000)
    world.run(limit_s=60)
    world.assert_all_verified()
    assert world.sender.session.sequence > first + 1000
    needed = sum(partition.symbol_count for partition in world.sender.partitions.values())
    assert world.sender.session.sequence - first < 3 * needed


@pytest.mark.parametrize("k", [1, 2, 127, 128, 200, 254])
def test_every_k_works(k: int) -> None:
    world = World(k, make_image(k, 20, frame_size=(500, 4000)), start=StartRule(receivers=2), source_symbols=k)
    run(world, faults=Faults(loss=0.1))


def test_the_default_code_and_window() -> None:
    world = World(
        6,
        make_image(6, 60, frame_size=(3000, 5000)),
        start=StartRule(receivers=2),
        source_symbols=128,
        window_slices=32,
    )
    run(world)


def test_a_hundred_thousand_slices() -> None:
    """The largest image here: 100 000 slices of two symbols, without payloads, with loss and a late joiner."""
    image = make_image(7, 6000, frame_size=(2000, 2300), zero=0)
    world = World(
        7, image, start=StartRule(receivers=1), source_symbols=2, window_slices=64, payload=False, rate=20_000_000.0
    )
    assert world.sender.partitions[limits.OBJECT_IMAGE].slice_count > 100_000
    for host, born_ns in (("r1", 0), ("r2", 400_000_000)):
        faults = Faults(loss=0.01)
        node = UnmovedReceiverNode(
            world.network, image.manifest, host=host, faults=faults, born_ns=born_ns, work_ns=1000, pool_size=4096 * 128
        )
        world.receivers.append(node)
    world.run(limit_s=120)
    for node in world.receivers:
        assert len(node.disk) == 6000
    assert all(state.value == "verified" for state in world.sender.peer_states())


def test_memory_of_the_machines_does_not_grow_with_time() -> None:
    world = World(8, make_image(8, 200), start=StartRule(receivers=2), rate=100_000.0)
    nodes = [world.receiver(Faults(loss=0.05, control_loss=0.2, duplicate=0.2)) for _receiver in range(2)]
    sizes: list[int] = []

    def weigh() -> None:
        session = world.sender.session
        sizes.append(len(session._outbox.transmits) + len(session._outbox.events))
        machines = [node.session for node in nodes if node.session is not None]
        sizes.extend(len(machine._transmits) + len(machine._events) for machine in machines)
        if not world.sender.over:
            world.clock.after(10_000_000, weigh)

    world.clock.after(0, weigh)
    world.run(limit_s=120)
    world.assert_all_verified()
    assert len(sizes) > 100
    assert max(sizes) <= 64
    assert np.mean(sizes[len(sizes) // 2 :]) < 5
