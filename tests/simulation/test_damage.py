"""Goal: wrong bytes never reach a disk, and a machine that is shown nonsense counts it and goes on.

Method: payloads, headers and control messages are damaged on the way; random bytes are shown to both machines. Planted
faults (a receiver that writes unchecked, a sender that ignores NACKs) prove that the harness sees what it is to see.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from ghostcast.simulation import StuckError
from protocol import limits, messages, wire
from protocol.fleet import PeerState
from protocol.receiver_events import Outcome
from protocol.sender_events import StartRule
from protocol.sender_session import SenderSession
from protocol.symbols import DATA_HEADER
from tests.simulation.image import make_image
from tests.simulation.network import SECOND, Faults, Headers, Payloads
from tests.simulation.pair import World


class Damage:
    """A tap that spoils the payloads of one slice of an object the first few times it passes."""

    def __init__(self, object_id: int, slice_index: int, times: int) -> None:
        self._what = (object_id, slice_index)
        self._left = times

    def __call__(self, headers: Headers, payloads: Payloads) -> None:
        object_id, slice_index = self._what
        hit = np.flatnonzero((headers["object"] == object_id) & (headers["slice"] == slice_index))[: self._left]
        payloads[hit, 0] ^= 0xFF
        self._left -= len(hit)


@pytest.mark.parametrize("object_id", [limits.OBJECT_MANIFEST, limits.OBJECT_IMAGE])
@pytest.mark.parametrize("times", [1, 40])
def test_a_damaged_chunk_is_asked_for_again(object_id: int, times: int) -> None:
    world = World(1, make_image(1, 30, zero=0))
    world.network.tap = Damage(object_id, 2, times)
    node = world.receiver(Faults(loss=0.05))
    world.run(limit_s=60)
    world.assert_all_verified()
    assert node.session is not None
    assert node.session.reception.counters.chunks_damaged >= 1


def test_chunks_that_share_a_damaged_slice_all_come_right() -> None:
    """Frames far smaller than a slice: one bad symbol spoils one chunk, its neighbours in the slice are good."""
    world = World(2, make_image(2, 80, frame_size=(20, 300), zero=0.1))
    world.network.tap = Damage(limits.OBJECT_IMAGE, 3, 1)
    nodes = [world.receiver(Faults(loss=0.02), work_ns=work_ns) for work_ns in (1000, 400_000, 5_000_000)]
    world.run(limit_s=60)
    world.assert_all_verified()
    assert all(node.session is not None and node.session.reception.counters.chunks_damaged for node in nodes)


def test_an_image_that_is_not_what_its_manifest_says_fails_and_ends() -> None:
    image = make_image(3, 20, zero=0)
    spoiled = bytearray(image.stream)
    spoiled[len(spoiled) // 2] ^= 1
    world = World(3, image, stream=bytes(spoiled))
    node = world.receiver()
    world.run(limit_s=60)
    world.assert_safe()
    assert node.outcome is Outcome.FAILED
    assert node.session is not None
    assert "never matched its digest" in node.session.outcome_text
    assert node.session.reception.counters.chunks_damaged == limits.DAMAGED_CHUNK_RETRIES_MAX + 1
    assert world.sender.peer_states() == [PeerState.FAILED]


def test_a_pool_that_cannot_hold_a_chunk_fails_at_once() -> None:
    world = World(4, make_image(4, 10, frame_size=(4000, 5000), zero=0), source_symbols=4)
    node = world.receiver(pool_size=8 * 4 * 64)
    world.run(limit_s=10)
    assert node.outcome is Outcome.FAILED
    assert node.session is not None
    assert "enlarge it" in node.session.outcome_text
    assert world.sender.peer_states() == [PeerState.FAILED]


@pytest.mark.parametrize("seed", range(8))
def test_damaged_headers_and_messages_never_raise_and_never_lie(seed: int) -> None:
    world = World(seed, make_image(seed, 40), start=StartRule(receivers=1))
    for _receiver in range(3):
        world.receiver(Faults(loss=0.02, corrupt=0.05, junk=0.2, duplicate=0.05))
    world.run(limit_s=300)
    world.assert_safe()


def test_a_header_from_the_far_future_does_not_stop_the_stream() -> None:
    """One datagram claims a sequence number as far ahead as is believed, in every slice once."""
    world = World(5, make_image(5, 30, zero=0), repair_symbols=0)
    seen: set[int] = set()

    def tap(headers: Headers, payloads: Payloads) -> None:
        for place in range(0, len(headers), 7):
            key = int(headers["slice"][place]) << 1 | int(headers["object"][place])
            if key not in seen:
                seen.add(key)
                headers["sequence"][place] = (
                    int(headers["sequence"][place]) + limits.SEQUENCE_JUMP_MAX // 2
                ) & 0xFFFFFFFF

    world.network.tap = tap
    world.receiver(Faults(loss=0.1))
    world.run(limit_s=60)
    world.assert_all_verified()


def forged(rng: random.Random, session_id: int) -> bytes:
    """Return a message of the right session with wild values, as a liar or a broken machine might send it."""
    big = rng.choice([0, 1, 1 << 20, (1 << 32) - 1])
    items = rng.randbytes(9 * rng.randrange(5))
    message = rng.choice(
        [
            messages.Status(
                rng.choice([0, limits.SEQUENCE_MAX - 1, 1 << 33]),
                rng.choice(list(messages.SessionState)),
                rng.choice([0, (1 << 63) - 1]),
                rng.random() < 0.5,
                big,
            ),
            messages.FeedbackAdvice(
                rng.randrange(2_000_001),
                rng.randrange(100_001),
                rng.randrange(1, limits.FEEDBACK_SCALE_MAX + 1),
                rng.randrange(10, 600_001),
                rng.choice([0, (1 << 63) - 1]),
                rng.choice([0, 1_000_000]),
                rng.choice([0, 1, (1 << 63) - 1]),
                rng.choice([0, 1 << 61]),
            ),
            messages.Poll(big, rng.randrange(10_001), rng.randbytes(rng.randrange(9)), big),
            messages.RepairAdvice(rng.randrange(4), items, rng.randrange(limits.SEQUENCE_MAX)),
            messages.Welcome(rng.randbytes(16), big, rng.randrange(100_000), rng.choice([0, big])),
            messages.Nack(rng.randrange(3), rng.randrange(3), rng.choice([0, 1 << 61]), big, big, 5, items, 9),
            messages.Report(
                rng.randrange(3),
                big,
                big,
                big,
                big,
                big,
                1_000_000,
                1_000_000,
                1000,
                big,
                big,
                True,
                False,
                9,
                rng.choice([0, 1 << 61]),
                rng.choice([0, 1 << 61]),
            ),
            messages.Done(rng.randrange(3), rng.randbytes(32), big, 0, 0),
            messages.Join(rng.randbytes(16), big, "x" * 64, "y" * 400, -1, (1 << 63) - 1),
            messages.Solicit("sim"),
            messages.Defer(rng.randrange(3), rng.randrange(60_001)),
        ]
    )
    return messages.encode(session_id, message)


@pytest.mark.parametrize("seed", range(6))
def test_forged_messages_never_raise(seed: int) -> None:
    """Every receiver and the sender are shown forgeries all along; they may fail, but not break, and not lie."""
    world = World(seed, make_image(seed, 40), start=StartRule(receivers=2))
    for _receiver in range(2):
        world.receiver(Faults(loss=0.02))
    rng = random.Random(seed)

    def forge() -> None:
        datagram = forged(rng, world.sender.session.parameters.session_id)
        for node in world.receivers:
            if node.session is not None:
                node.take_control(datagram, node.session.found.control_address)
        world.sender.take_control(datagram, rng.choice(world.receivers).address)
        if world.clock.now < 9 * SECOND:
            world.clock.after(3_000_000, forge)

    world.clock.after(0, forge)
    world.run(limit_s=300)
    world.assert_safe()


def test_junk_is_counted_by_both_machines() -> None:
    world = World(6)
    node = world.receiver()
    world.run_until(lambda: node.session is not None, limit_s=5)
    assert node.session is not None
    session_id, rng = world.sender.session.parameters.session_id, random.Random(6)
    for size in range(300):
        for datagram in (rng.randbytes(size), wire.control_datagram(session_id, rng.randbytes(size))):
            node.session.receive_datagram(datagram, world.clock.now)
            world.sender.session.receive_datagram(datagram, node.address, world.clock.now)
        headers = np.frombuffer(rng.randbytes(32 * size), DATA_HEADER)
        assert node.session.receive_symbols(headers, world.clock.now) == []
    for drops in (node.session.drops, world.sender.session.drops):
        assert drops.total() >= 600
    world.run(limit_s=20)
    world.assert_all_verified()


# --- the harness itself: faults that it must find ---------------------------------------------------------------------


def test_a_planted_receiver_that_writes_unchecked_bytes_is_found() -> None:
    world = World(7, make_image(7, 30, zero=0))
    world.network.tap = Damage(limits.OBJECT_IMAGE, 2, 1)
    world.receiver(checks=False)
    world.run(limit_s=60)
    with pytest.raises(AssertionError, match="is wrong"):
        world.assert_safe()


class DeafSession(SenderSession):
    """Planted: takes NACKs in and does nothing about them."""

    def _nack(self, message: messages.Nack, address: tuple[str, int], now: int) -> None:
        self._membership.heard(message.receiver_index, address, now)


def test_a_planted_sender_that_ignores_nacks_is_found() -> None:
    world = World(8, session_class=DeafSession, repair_symbols=0)
    world.receiver(Faults(loss=0.05))
    with pytest.raises(StuckError, match="not over after 60 s"):
        world.run(limit_s=60)


class BelievingSession(SenderSession):
    """Planted: calls a receiver verified as soon as it reports anything."""

    def _report(self, message: messages.Report, address: tuple[str, int], now: int) -> None:
        peer = self._membership.heard(message.receiver_index, address, now)
        if peer is not None and self.started and peer.live:
            self._membership.finish(peer, PeerState.VERIFIED, "", now)


def test_a_planted_sender_that_believes_too_much_is_found() -> None:
    world = World(9, session_class=BelievingSession)
    world.receiver(Faults(loss=0.05), work_ns=50_000_000)
    world.run(limit_s=60)
    with pytest.raises(AssertionError, match="the sender calls r1 verified"):
        world.assert_safe()
