"""Goal: receivers come late, come back, die and are refused, and nobody pays for them who need not.

Method: virtual clock; nodes are born, killed and restarted at chosen instants.
"""

from __future__ import annotations

import pytest

from protocol import limits, messages
from protocol.fleet import PeerState
from protocol.messages import EndReason
from protocol.receiver_events import Outcome
from protocol.sender_events import EventKind, StartRule
from tests.simulation.image import make_image
from tests.simulation.network import MILLISECOND, SECOND, Faults, Headers, Payloads
from tests.simulation.pair import World
from tests.simulation.receiver_node import UnmovedReceiverNode
from tests.simulation.sender_node import SenderNode


def test_a_late_joiner_is_served_what_it_missed_and_no_more() -> None:
    world = World(1, make_image(1, 200, zero=0), start=StartRule(receivers=1), rate=200_000.0, repair_symbols=0)
    world.receiver()
    world.run_until(lambda: world.sender.session.started, limit_s=20)
    count = world.sender.partitions[limits.OBJECT_IMAGE].slice_count
    world.run_until(lambda: world.sender.session.schedules[1].first_pass_cursor >= 0.6 * count, limit_s=20)
    world.receiver()
    world.run(limit_s=60)
    world.assert_all_verified()
    assert EventKind.LATE_JOIN in world.sender.events
    resent = sum(times - 1 for (object_id, _s, _e), times in world.sender.sent.items() if object_id == 1)
    total = world.sender.partitions[limits.OBJECT_IMAGE].symbol_count
    assert 0.5 * total < resent < 0.75 * total


def test_many_late_joiners_share_one_pass() -> None:
    world = World(2, make_image(2, 150, zero=0), start=StartRule(receivers=1), rate=200_000.0, repair_symbols=0)
    world.receiver()
    for index in range(6):
        world.receiver(born_ns=(200 + 60 * index) * MILLISECOND)
    world.run(limit_s=60)
    world.assert_all_verified()
    total = world.sender.partitions[limits.OBJECT_IMAGE].symbol_count
    sent = sum(times for (object_id, _s, _e), times in world.sender.sent.items() if object_id == 1)
    assert sent < 2.3 * total


def test_who_joins_after_the_last_pass_is_served_while_the_session_lasts() -> None:
    world = World(3, make_image(3, 40), start=StartRule(receivers=1))
    slow = world.receiver(flush_ns=3 * SECOND)
    world.receiver(born_ns=2 * SECOND)
    world.run(limit_s=60)
    world.assert_all_verified()
    assert slow.over


def test_one_that_vanishes_holds_nobody_longer_than_the_silence_limit() -> None:
    world = World(4, start=StartRule(receivers=3))
    dead, *_others = [world.receiver(Faults(loss=0.02)) for _receiver in range(3)]
    world.run_until(lambda: world.sender.session.sequence > 100, limit_s=20)
    dead.die()
    begun = world.clock.now
    world.run(limit_s=60)
    world.assert_all_verified()
    assert world.sender.peer_states().count(PeerState.VANISHED) == 1
    assert world.clock.now - begun < limits.RECEIVER_SILENCE_NS + 2 * SECOND
    assert EventKind.VANISHED in world.sender.events


def test_all_vanish_and_the_session_ends_incomplete() -> None:
    world = World(5, start=StartRule(receivers=2))
    for _receiver in range(2):
        world.receiver()
    world.run_until(lambda: world.sender.session.sequence > 100, limit_s=20)
    for node in world.receivers:
        node.die()
    world.run(limit_s=60)
    assert world.sender.peer_states() == [PeerState.VANISHED] * 2


def test_a_restarted_receiver_keeps_its_index_and_what_it_wrote() -> None:
    world = World(6, make_image(6, 120, zero=0), start=StartRule(receivers=1), rate=200_000.0)
    node = world.receiver()
    world.run_until(lambda: len(node.disk) > 60, limit_s=30)
    again = node.restart()
    world.receivers.append(again)
    world.run(limit_s=60)
    world.assert_all_verified()
    assert again.reused > 60
    assert len(world.sender.session.peers) == 1
    assert EventKind.RETURNED in world.sender.events


def test_a_restart_while_welcomes_are_lost() -> None:
    world = World(7, start=StartRule(receivers=1), rate=100_000.0)
    node = world.receiver(Faults(control_loss=0.5, lost_kinds=frozenset({messages.Welcome, messages.Join})))
    for _restart in range(4):
        world.clock.run(lambda until=world.clock.now + 300 * MILLISECOND: world.clock.now >= until, SECOND * 2)
        node = node.restart()
        world.receivers.append(node)
    world.run(limit_s=60)
    world.assert_all_verified()
    assert len(world.sender.session.peers) == 1


def test_a_late_echo_of_the_former_start_changes_nothing() -> None:
    world = World(8, start=StartRule(receivers=1), rate=100_000.0)
    node = world.receiver()
    world.run_until(lambda: world.sender.session.sequence > 50, limit_s=20)
    old_address = node.address
    assert node.session is not None
    echo = messages.encode(
        world.sender.session.parameters.session_id,
        messages.Join(node.session.identity.receiver_id, node.incarnation, node.host, "/dev/sim", -1, 0),
    )
    again = node.restart()
    world.receivers.append(again)
    world.run_until(lambda: again.session is not None and again.session.receiver_index is not None, limit_s=20)
    world.sender.take_control(echo, old_address)
    assert world.sender.session.peers[0].address == again.address
    world.run(limit_s=60)
    world.assert_all_verified()


@pytest.mark.parametrize("when", ["waiting", "sending"])
def test_when_the_sender_disappears_receivers_know_it_in_time(when: str) -> None:
    world = World(9, start=StartRule(receivers=3 if when == "waiting" else 2), rate=20_000.0)
    for _receiver in range(2):
        world.receiver()
    world.run_until(lambda: len(world.sender.session.peers) == 2, limit_s=20)
    if when == "sending":
        world.run_until(lambda: world.sender.session.sequence > 50, limit_s=20)
    world.sender.alive = False
    begun = world.clock.now
    world.run(limit_s=30)
    assert [node.outcome for node in world.receivers] == [Outcome.SENDER_GONE] * 2
    assert world.clock.now - begun < limits.SENDER_SILENCE_NS + SECOND


def test_an_interrupted_session_tells_everybody() -> None:
    world = World(10, start=StartRule(receivers=2), rate=20_000.0)
    for _receiver in range(2):
        world.receiver()
    world.run_until(lambda: world.sender.session.sequence > 50, limit_s=20)
    world.sender.session.end(EndReason.INTERRUPTED, "stopped", world.clock.now)
    world.sender.turn()
    begun = world.clock.now
    world.run(limit_s=30)
    assert [node.outcome for node in world.receivers] == [Outcome.SENDER_GONE] * 2
    assert world.clock.now - begun < SECOND


def test_an_end_while_joining_ends_the_receiver() -> None:
    world = World(11, start=StartRule(receivers=2, max_wait_ns=60 * SECOND))
    node = world.receiver(Faults(control_loss=1.0, lost_kinds=frozenset({messages.Join})))
    world.run_until(lambda: node.session is not None, limit_s=5)
    world.sender.session.end(EndReason.INTERRUPTED, "stopped", world.clock.now)
    world.sender.turn()
    world.run(limit_s=5)
    assert node.outcome is Outcome.SENDER_GONE


@pytest.mark.parametrize("start", [StartRule(receivers=2), StartRule(max_wait_ns=2 * SECOND)])
def test_a_target_that_is_too_small_is_refused_on_both_ends(start: StartRule) -> None:
    world = World(12, start=start)
    small = world.receiver(target_size=1)
    for _receiver in range(2):
        world.receiver(target_size=world.image.manifest.raw_size)
    world.run(limit_s=60)
    assert small.outcome is Outcome.REFUSED
    assert small.session is not None
    assert "use a larger target" in small.session.outcome_text
    assert small.disk == {}
    assert [peer.state for peer in world.sender.session.refused] == [PeerState.REFUSED]
    assert world.sender.peer_states() == [PeerState.VERIFIED] * 2


def test_nobody_comes() -> None:
    world = World(13, start=StartRule(receivers=2, max_wait_ns=3 * SECOND))
    world.run(limit_s=20)
    assert EventKind.NOBODY_CAME in world.sender.events
    assert world.sender.session.ended is EndReason.FAILED


def test_start_rules() -> None:
    quiet = World(14, start=StartRule(quiet_ns=2 * SECOND))
    for born_ns in (0, SECOND, 2 * SECOND):
        quiet.receiver(born_ns=born_ns)
    quiet.run(limit_s=60)
    quiet.assert_all_verified()
    assert EventKind.LATE_JOIN not in quiet.sender.events

    by_hand = World(15, start=StartRule())
    assert not by_hand.sender.session.start(by_hand.clock.now)
    by_hand.receiver()
    by_hand.run_until(lambda: bool(by_hand.sender.session.peers), limit_s=5)
    assert by_hand.sender.session.start(by_hand.clock.now)
    by_hand.sender.turn()
    by_hand.run(limit_s=60)
    by_hand.assert_all_verified()


def test_two_sessions_on_one_network_do_not_mix() -> None:
    world = World(16, make_image(16, 50), start=StartRule(receivers=2))
    image = make_image(17, 50)
    second = SenderNode(
        world.network,
        image,
        session_id=0xBADCAB1E,
        name="other",
        address=("10.0.0.2", 4000),
        start=StartRule(receivers=2),
    )
    for _receiver in range(2):
        world.receiver(Faults(loss=0.02))
    strangers = [world.receiver(Faults(loss=0.02), session_name="other") for _receiver in range(2)]
    world.run_until(lambda: second.over and world.sender.over and all(n.over for n in world.receivers), limit_s=60)
    for node in world.receivers:
        assert node.disk == (image if node in strangers else world.image).transferred()
        assert node.outcome is Outcome.VERIFIED
        assert node.session is not None
        assert node.session.drops.session > 0
    assert world.sender.peer_states() == second.peer_states() == [PeerState.VERIFIED] * 2


def test_a_receiver_that_names_no_session_takes_the_only_one() -> None:
    world = World(18)
    world.receiver(session_name=None)
    world.run(limit_s=20)
    world.assert_all_verified()


def test_a_hundred_receivers_are_not_an_implosion() -> None:
    """All lose the same, more than the first surplus covers: suppression keeps the NACKs far below one a receiver."""
    world = World(19, make_image(19, 80, zero=0), start=StartRule(receivers=100), window_slices=2, payload=False)
    for index in range(100):
        world.receivers.append(
            UnmovedReceiverNode(
                world.network, world.image.manifest, host=f"r{index}", faults=Faults(delay_ns=MILLISECOND)
            )
        )
    lost = {200, 201, 400, *range(650, 662)}
    seen = 0

    def tap(headers: Headers, payloads: Payloads) -> None:
        nonlocal seen
        for place in range(len(headers)):
            if seen + place in lost:
                headers["magic"][place] = 0  # lost for everybody
        seen += len(headers)

    world.network.tap = tap
    world.run(limit_s=60)
    assert world.sender.peer_states() == [PeerState.VERIFIED] * 100
    assert world.network.carried["RepairAdvice"] >= 1
    assert 1 <= world.network.carried["Nack"] < 60
