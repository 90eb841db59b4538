"""Goal: no combination of faults makes a fleet's session wrong, and none makes it hang.

Method: each seed draws an image, a tree, a fleet and what befalls it: losses of every sort on every link, queues that
overflow, cuts, slow and failing disks, tiny pools, receivers that come late, die and start again, a sender that does.
``simulate`` checks every invariant while it runs and that everybody who could end well did, within a computed bound.
No bytes are moved here; ``test_swarm.py`` does that, with fewer receivers.

``GHOSTCAST_SEEDS=5000 pytest tests/simulation/test_fleet_swarm.py`` runs more seeds, ``GHOSTCAST_SEEDS=17:18`` one.
"""

from __future__ import annotations

import random

import pytest

from ghostcast.simulation import Bernoulli, Bursts, Disk, GilbertElliott, Member, Queue, Scenario, Way, simulate
from protocol import limits
from tests.simulation.test_swarm import seeds

SEEDS_DEFAULT = 150
MILLISECOND, SECOND = limits.MILLISECOND_NS, limits.SECOND_NS


def draw_way(rng: random.Random, *, shared: bool = False) -> Way:
    """Return a link: most are fair, some are terrible."""

    def sometimes(most: float, chance: float = 0.4) -> float:
        return rng.random() ** 2 * most if rng.random() < chance else 0.0

    loss = []
    if share := sometimes(0.02 if shared else 0.2):
        loss.append(Bernoulli(share))
    if share := sometimes(0.02 if shared else 0.08):
        loss.append(GilbertElliott(share, rng.uniform(1, 100), bad_loss=rng.choice([1.0, 0.6])))
    if rng.random() < 0.1:
        loss.append(Bursts(rng.choice([50, 500]), rng.uniform(5_000, 50_000)))
    outages = []
    if rng.random() < 0.15:
        start = rng.randrange(3 * SECOND)
        outages.append((start, start + rng.randrange(2 * SECOND)))
    return Way(
        loss=tuple(loss),
        delay_ns=rng.choice([0, 50_000, 2 * MILLISECOND]),
        jitter_ns=rng.choice([0, 0, 5 * MILLISECOND]),
        reorder=sometimes(0.1, 0.2),
        duplicate=sometimes(0.1, 0.2),
        corrupt=sometimes(0.01, 0.2),
        control_loss=sometimes(0.02 if shared else 0.25),
        feedback_loss=sometimes(0.02 if shared else 0.25),
        queue=Queue(rng.choice([2e6, 20e6, 200e6]), rng.choice([50_000, 750_000])) if rng.random() < 0.15 else None,
        outages=tuple(outages),
    )


def draw_disk(rng: random.Random, size: int) -> Disk:
    """Return a disk: most are quick, some are slow, a few fail."""
    fate = rng.random()
    return Disk(
        rate_bytes_per_s=rng.choice([None, None, 5e6, 100e6]),
        latency_ns=rng.choice([0, 100_000, 3 * MILLISECOND]),
        outlier_share=rng.choice([0.0, 0.0, 0.02]),
        outlier_ns=300 * MILLISECOND,
        flush_ns=rng.choice([0, MILLISECOND, 2 * SECOND]),
        eio_at_byte=rng.randrange(size + 1) if fate < 0.03 else None,
        enospc_at_byte=rng.randrange(size + 1) if 0.03 < fate < 0.06 else None,
    )


def draw_member(rng: random.Random, size: int, slice_size: int, chunk_size: int) -> Member:
    """Return a receiver and its fate."""
    fate = rng.random()
    join = rng.choice([0, 0, 0, rng.randrange(5 * SECOND)])
    die = join + rng.randrange(4 * SECOND) if fate < 0.2 else None
    smallest = (3 + -(-chunk_size // slice_size)) * slice_size
    return Member(
        link=draw_way(rng),
        disk=draw_disk(rng, size),
        pool_size=rng.choice([limits.POOL_SIZE_DEFAULT, 4 * smallest, smallest]),
        socket_size=rng.choice([64 * limits.MIB, 256 * limits.KIB]),
        decode_ns=rng.choice([0, 100_000, 5 * MILLISECOND]),
        check_ns=rng.choice([0, MILLISECOND]),
        join_ns=join,
        die_ns=die,
        restart_ns=die + 1 + rng.randrange(2 * SECOND) if die is not None and fate < 0.15 else None,
    )


def draw_scenario(seed: int) -> Scenario:
    """Return everything about one run."""
    rng = random.Random(f"fleet {seed}")
    k = rng.choice([4, 16, 64, 128, 128])
    symbol_size = rng.choice([64, 1440, 1440])
    chunk_size = rng.choice([4 * limits.KIB, 64 * limits.KIB])
    size = min(rng.choice([0, 1, 5000, 300_000, 1_000_000, 3_000_000]), 1500 * symbol_size)
    count = rng.choice([1, 2, 3, 5, 8, 12])
    slice_size = k * symbol_size
    sorts = [draw_member(rng, size, slice_size, chunk_size) for _sort in range(rng.randrange(1, 5))]
    # The first one is there from the beginning and stays, so that there is a session at all.
    exceptions = {index: rng.choice(sorts) for index in range(1, count)}
    rate = rng.choice([1e6, 10e6, 10e6, 100e6, None])
    dies = rng.randrange(3 * SECOND) if rng.random() < 0.06 else None
    return Scenario(
        receivers=count,
        size=size,
        stored_share=rng.choice([1.0, 0.4]),
        chunk_size=chunk_size,
        rate=rate,
        rate_start=1e6,
        rate_ceiling=100e6,
        repair_symbols=rng.choice([None, None, 0, 3]),
        source_symbols=k,
        window_slices=rng.choice([1, 8, 32]),
        symbol_size=symbol_size,
        uplink=draw_way(rng, shared=True) if rng.random() < 0.3 else Way(),
        racks=min(count, rng.choice([1, 1, 3])),
        rack_link=draw_way(rng, shared=True) if rng.random() < 0.2 else Way(),
        member=Member(link=Way(loss=(Bernoulli(0.01),), delay_ns=100_000)),
        exceptions=exceptions,
        max_wait_ns=3 * SECOND,
        resume=rng.random() < 0.7,
        sender_dies_ns=dies,
        sender_restarts_ns=dies + rng.randrange(1, 3 * SECOND) if dies is not None else None,
        damaged_chunks=(0,) if size and rng.random() < 0.04 else (),
        ingest_ns=rng.choice([10_000, 1 * MILLISECOND]),
        ingest_size=rng.choice([limits.INBOX_DATAGRAMS_MAX, 8]),
        resolution_ns=rng.choice([None, 500_000]),
        seed=seed,
    )


@pytest.mark.parametrize("seed", seeds(SEEDS_DEFAULT))
def test_a_fleet_ends_and_ends_right(seed: int) -> None:
    scenario = draw_scenario(seed)
    result = simulate(scenario)
    if scenario.damaged_chunks:
        assert result.verified == 0
