"""Goal: what a target holds already is neither asked for nor sent, whoever else takes part, and every copy ends exact.

Method: the real machines on a virtual clock; disks that hold everything, an older version, a half, rubbish or nothing;
what was sent is counted slice by slice, and copies are compared byte by byte.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from protocol import limits
from protocol.extents import Extents
from protocol.receiver_events import Outcome
from protocol.sender_events import StartRule
from tests.simulation.image import Image, make_image
from tests.simulation.network import MILLISECOND, PERFECT, SECOND, Faults
from tests.simulation.pair import World
from tests.simulation.receiver_node import ReceiverNode

IMAGE = limits.OBJECT_IMAGE


def older(image: Image, changed: list[int]) -> dict[int, bytes]:
    """Return a disk that holds the image but for these chunks."""
    disk = image.transferred()
    for chunk in changed:
        disk[chunk] = b"older" + disk[chunk][5:]
    return disk


def slices_sent(world: World) -> set[int]:
    return {slice_index for object_id, slice_index, _esi in world.sender.sent if object_id == IMAGE}


def symbols_sent(world: World) -> int:
    return sum(times for (object_id, _slice, _esi), times in world.sender.sent.items() if object_id == IMAGE)


def slices_of(world: World, chunks: list[int]) -> set[int]:
    wanted = np.zeros(world.image.manifest.chunk_count, np.bool_)
    wanted[chunks] = True
    extents = Extents(world.sender.partitions[IMAGE], world.image.manifest.stored_offsets, wanted)
    return set(np.flatnonzero(extents.wanted_slices).tolist())


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_one_changed_chunk_in_a_hundred_moves_three_hundredths_of_the_stream(loss: float) -> None:
    image = make_image(1, 400, frame_size=(4000, 4096), zero=0)
    changed = [17, 140, 141, 333]
    world = World(1, image, start=StartRule(receivers=4))
    for _receiver in range(4):
        world.receiver(Faults(loss=loss), disk=older(image, changed), check_ns=MILLISECOND)
    world.run()
    world.assert_all_verified()
    assert slices_sent(world) == slices_of(world, changed)
    if not loss:
        # The stream of a real image with as many chunks has slices a sixth as long as its chunks, as here.
        assert symbols_sent(world) <= 0.03 * world.sender.partitions[IMAGE].symbol_count
    assert [node.reused for node in world.receivers] == [396] * 4


def test_what_is_complete_already_leaves_without_a_symbol_of_the_image() -> None:
    image = make_image(2, 60)
    world = World(2, image, start=StartRule(receivers=3))
    for _receiver in range(3):
        world.receiver(disk=image.transferred(), check_ns=10 * MILLISECOND)
    world.run()
    world.assert_all_verified()
    assert symbols_sent(world) == 0
    assert world.sender.session.sent.nacks == 0


def test_the_union_of_what_is_lacking_is_sent_once() -> None:
    image = make_image(3, 300, frame_size=(4000, 4096), zero=0)
    world = World(3, image, start=StartRule(receivers=3))
    changes = [[1, 50, 51], [50, 51, 200], [200, 299]]
    for number, changed in enumerate(changes):
        world.receiver(disk=older(image, changed), check_ns=(1 + number) * MILLISECOND)
    world.run()
    world.assert_all_verified()
    assert slices_sent(world) == slices_of(world, sorted({chunk for changed in changes for chunk in changed}))
    union = len(slices_of(world, [1, 50, 51, 200, 299])) * world.sender.partitions[IMAGE].source_symbols
    assert symbols_sent(world) < 1.35 * union


def test_blank_targets_wait_for_no_request() -> None:
    world = World(4, start=StartRule(receivers=2))
    for _receiver in range(2):
        world.receiver()
    world.run_until(lambda: bool(slices_sent(world)), limit_s=10)
    assert world.sender.session.sent.nacks == 0
    world.run()
    world.assert_all_verified()


def test_one_blank_target_among_complete_ones_is_served_at_once() -> None:
    image = make_image(5, 60)
    world = World(5, image, start=StartRule(receivers=3))
    for disk in (image.transferred(), {}, image.transferred()):
        world.receiver(disk=disk, check_ns=20 * MILLISECOND)
    world.run_until(lambda: bool(slices_sent(world)), limit_s=10)
    assert world.sender.session.sent.nacks == 0
    world.run()
    world.assert_all_verified()
    assert symbols_sent(world) < 1.3 * world.sender.partitions[IMAGE].symbol_count


def test_targets_full_of_something_else_cost_one_round_of_requests() -> None:
    """Nobody knows before the manifest that everything is needed; then everybody says so, and one of them is enough."""
    image = make_image(6, 100, zero=0)
    rubbish = dict.fromkeys(range(100), b"rubbish")
    world = World(6, image, start=StartRule(receivers=20), source_symbols=16)
    for _receiver in range(20):
        world.receiver(disk=dict(rubbish))
    world.run()
    world.assert_all_verified()
    assert symbols_sent(world) < 1.3 * world.sender.partitions[IMAGE].symbol_count


@pytest.mark.parametrize("seed", range(12))
def test_a_mixed_fleet_ends_exact(seed: int) -> None:
    rng = random.Random(seed)
    image = make_image(seed, rng.randrange(30, 200), zero=rng.choice([0, 0.2]))
    chunks = sorted(image.transferred())
    world = World(seed, image, start=StartRule(receivers=rng.randrange(1, 6), max_wait_ns=2 * SECOND))
    for _receiver in range(8):
        kind = rng.choice(["blank", "older", "complete", "interrupted", "rubbish"])
        disk = {
            "blank": {},
            "older": older(image, rng.sample(chunks, rng.randrange(1, len(chunks)))),
            "complete": image.transferred(),
            "interrupted": {chunk: image.frame(chunk) for chunk in chunks[: rng.randrange(1, len(chunks))]},
            "rubbish": dict.fromkeys(rng.sample(chunks, 5), b"rubbish"),
        }[kind]
        faults = Faults(loss=0.05, control_loss=0.05) if rng.random() < 0.5 else PERFECT
        node = world.receiver(
            faults,
            disk=disk,
            check_ns=rng.choice([0, 100_000, 5 * MILLISECOND]),
            wants_all=rng.choice([None, None, False, True]),
            born_ns=rng.randrange(3 * SECOND),
        )
        if rng.random() < 0.3:
            restart_later(world, node, rng.randrange(4 * SECOND))
    world.run()
    world.assert_no_survivor_failed()
    for node in world.receivers:
        if node.over and node.outcome is Outcome.VERIFIED:
            assert node.disk == image.transferred(), world.describe()


def restart_later(world: World, node: ReceiverNode, delay_ns: int) -> None:
    """Kill a receiver, whatever it does by then, and start it again on what it wrote."""

    def restart() -> None:
        if not node.over:
            world.receivers.append(node.restart())

    world.clock.after(delay_ns, restart)


def test_planted_a_receiver_that_believes_its_disk_is_caught() -> None:
    """The rig finds a receiver that takes what its disk holds for right without looking."""
    image = make_image(7, 40, zero=0)
    world = World(7, image, start=StartRule(receivers=1))
    node = world.receiver(disk=older(image, [3]))
    node._compare = lambda session, manifest, chunks: (  # type: ignore[method-assign]
        session.chunks_found(np.array(chunks)),
        session.check_ended(world.clock.now),
    )[1]
    world.run()
    with pytest.raises(AssertionError, match="r1 says verified and is not"):
        world.assert_safe()
