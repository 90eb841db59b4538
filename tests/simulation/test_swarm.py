"""Goal: no combination of faults makes a session wrong, and none makes it hang.

Method: each seed draws an image, the session's parameters, a fleet and every fault there is; receivers join late, die,
restart and run on tiny pools. Safety is judged on bytes: who is called verified, by himself or by the sender, has an
exact copy. Liveness: without corruption everybody who stays alive ends verified, with it everybody ends.

``GHOSTCAST_SEEDS=5000 pytest tests/simulation/test_swarm.py`` runs more seeds, ``GHOSTCAST_SEEDS=17:18`` replays one.
"""

from __future__ import annotations

import os
import random

import pytest

from protocol import limits
from protocol.sender_events import StartRule
from tests.simulation.image import make_image
from tests.simulation.network import MILLISECOND, SECOND, Faults
from tests.simulation.pair import World
from tests.simulation.sender_node import SYMBOL_SIZE

SEEDS_DEFAULT = 60


def seeds(default: int = SEEDS_DEFAULT) -> range:
    """Return the seeds to run: ``FIRST:STOP`` or a count."""
    first, _colon, stop = os.environ.get("GHOSTCAST_SEEDS", str(default)).rpartition(":")
    return range(int(first or 0), int(stop))


def draw_faults(rng: random.Random, *, corrupt: bool) -> Faults:
    """Return a link: most are fair, some are terrible."""

    def sometimes(most: float) -> float:
        return rng.random() ** 2 * most if rng.random() < 0.5 else 0.0

    return Faults(
        loss=sometimes(0.35),
        burst_start=sometimes(0.01),
        burst_length=rng.uniform(2, 80),
        control_loss=sometimes(0.4),
        delay_ns=rng.randrange(20_000, 20 * MILLISECOND),
        jitter_ns=rng.choice([0, 0, MILLISECOND, 30 * MILLISECOND]),
        reorder=sometimes(0.2),
        duplicate=sometimes(0.2),
        corrupt=sometimes(0.02) if corrupt else 0.0,
        junk=sometimes(0.1) if corrupt else 0.0,
    )


def draw_world(seed: int) -> tuple[World, bool]:
    """Return a world and whether its links corrupt datagrams."""
    rng = random.Random(seed)
    corrupt = rng.random() < 0.3
    k = rng.choice([1, 4, 8, 16, 16, 64, 200])
    slice_size = k * SYMBOL_SIZE
    frame_sizes = [(1, 40), (200, 2500), (slice_size // 2, 3 * slice_size)]
    image = make_image(
        seed,
        rng.choice([0, 1, 3, 20, 40, 40, 80]),
        frame_size=rng.choice([(low, min(high, 12 * slice_size, 5000)) for low, high in frame_sizes if low < 5000]),
        zero=rng.choice([0.0, 0.1, 0.5, 1.0]),
    )
    count = rng.choice([1, 1, 2, 5, 9])
    start = rng.choice(
        [
            StartRule(receivers=count, max_wait_ns=10 * SECOND),
            StartRule(receivers=1),
            StartRule(max_wait_ns=2 * SECOND),
            StartRule(quiet_ns=SECOND),
        ]
    )
    chunk_slices = 2 + max(image.manifest.stored_sizes.tolist(), default=0) // slice_size
    world = World(
        seed,
        image,
        start=start,
        rate=rng.choice([100_000.0, 1_000_000.0, 1_000_000.0, 10_000_000.0, None]),
        source_symbols=k,
        window_slices=rng.choice([1, 4, 8, 32]),
        repair_symbols=rng.choice([None, None, 0, 3]),
        first_sequence=rng.choice([0, 0, (1 << 32) - 300, (1 << 40) + 7]),
    )
    for index in range(count):
        node = world.receiver(
            draw_faults(rng, corrupt=corrupt),
            pool_size=rng.choice([limits.POOL_SIZE_DEFAULT, (3 * chunk_slices + rng.randrange(8)) * slice_size]),
            work_ns=rng.choice([1000, 200_000, 3 * MILLISECOND]),
            flush_ns=rng.choice([0, MILLISECOND, SECOND]),
            born_ns=rng.choice([0, 0, rng.randrange(3 * SECOND)]) if index else 0,
        )
        fate = rng.random() if index else 1.0  # the first one stays, so that somebody is served
        when_ns = rng.randrange(100 * MILLISECOND, 3 * SECOND)
        if fate < 0.15:
            world.clock.after(when_ns, node.die)
        elif fate < 0.35:
            world.clock.after(when_ns, lambda node=node: world.receivers.append(node.restart()))
    return world, corrupt


@pytest.mark.parametrize("seed", seeds())
def test_a_session_ends_and_ends_right(seed: int) -> None:
    world, corrupt = draw_world(seed)
    world.run(limit_s=900)
    world.assert_safe()
    if not corrupt:
        world.assert_no_survivor_failed()
