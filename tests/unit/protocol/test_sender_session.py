"""Goal: what a sender answers to each message in each state, when it begins, and when it is over.

Method: the machine alone, as in ``sender_desk``. Whole sessions are in tests/simulation.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from protocol import limits, messages
from protocol.fleet import PeerState
from protocol.messages import EndReason, SessionState
from protocol.sender_events import Destination, EventKind, StartRule
from tests.unit.protocol.sender_desk import DIGEST, SESSION_ID, SLICES, Desk, K


def test_nothing_but_solicit_is_taken_without_a_session_or_from_another() -> None:
    desk = Desk()
    desk.tell(messages.Join(bytes(16), 1, "h", "t", -1, 0), session_id=0)
    desk.tell(messages.Join(bytes(16), 1, "h", "t", -1, 0), session_id=SESSION_ID + 1)
    assert desk.session.peers == []
    assert desk.session.drops.session == 2


def test_the_manifest_goes_first() -> None:
    desk = Desk()
    desk.join()
    assert desk.session.started
    windows = []
    while (window := desk.session.poll_window(desk.now)) is not None:
        windows.append(window)
    assert [window.object_id for window in windows] == [0, 1, 1, 1, 1, 1]
    assert windows[0].first_sequence == 0
    assert desk.session.sequence == sum(window.datagram_count for window in windows) == 2 + SLICES * K


def test_done_counts_for_this_manifest_and_is_acknowledged_by_a_cleared_bit() -> None:
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    desk.done(0, bytes(32))
    assert desk.session.peers[0].state is PeerState.RECEIVING
    desk.done(0)
    assert desk.events()[-1] is EventKind.VERIFIED
    desk.pass_time(limits.AGGREGATION_MAX_NS)
    (poll,) = desk.said(messages.Poll)
    assert poll == messages.Poll(0, 2, b"\x02", 0)
    desk.done(0)
    desk.pass_time(limits.AGGREGATION_MAX_NS)
    assert len(desk.said(messages.Poll)) == 1
    assert desk.session.ended is None


def test_done_before_the_start_is_nonsense() -> None:
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.done(0)
    assert desk.session.peers[0].state is PeerState.RECEIVING


def test_it_ends_with_the_last_done_and_says_so_several_times() -> None:
    desk = Desk()
    desk.join()
    desk.done()
    assert desk.session.ended is EndReason.COMPLETE
    assert not desk.session.finished
    desk.mail()
    desk.pass_time(limits.SECOND_NS)
    ends = [destination for destination, message in desk.mail() if isinstance(message, messages.End)]
    assert ends == [Destination.DATA, Destination.DISCOVERY] * limits.END_REPEAT_COUNT
    assert desk.session.finished
    assert desk.session.next_timeout() is None
    for message in (messages.Join(bytes(16), 5, "late", "t", -1, 0), messages.Done(0, DIGEST, 0, 0, 0)):
        desk.tell(message, 3)
        ((destination, answer),) = desk.mail()
        assert destination == ("10.0.0.3", 5000)
        assert isinstance(answer, messages.End)
    desk.tell(messages.Solicit(""), session_id=0)
    assert desk.mail() == []


@pytest.mark.parametrize(
    ("rule", "joins_at_s", "begins_at_s"),
    [
        (StartRule(receivers=2), [0, 3], 3),
        (StartRule(max_wait_ns=5 * limits.SECOND_NS), [1], 5),
        (StartRule(receivers=9, max_wait_ns=5 * limits.SECOND_NS), [1, 2], 5),
        (StartRule(quiet_ns=2 * limits.SECOND_NS), [1, 2], 4),
    ],
)
def test_start_rules(rule: StartRule, joins_at_s: list[int], begins_at_s: int) -> None:
    desk = Desk(rule)
    for second in range(10):
        if second in joins_at_s:
            desk.join(second)
        desk.pass_time(0)
        assert desk.session.started == (second >= begins_at_s), second
        desk.pass_time(limits.SECOND_NS)


def test_nobody_came() -> None:
    desk = Desk(StartRule(receivers=2, max_wait_ns=3 * limits.SECOND_NS))
    desk.pass_time(4 * limits.SECOND_NS)
    assert desk.events()[:1] == [EventKind.NOBODY_CAME]
    assert desk.session.ended is EndReason.FAILED
    assert desk.session.finished


@pytest.mark.parametrize("seed", range(20))
def test_no_bytes_make_it_raise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    desk = Desk()
    desk.join()
    for _datagram in range(200):
        good = bytearray(messages.encode(SESSION_ID, messages.Nack(0, 1, 0, 0, 0, 0, rng.bytes(9), 0)))
        good[rng.integers(len(good))] ^= int(rng.integers(256))
        for datagram in (bytes(good), rng.bytes(int(rng.integers(100)))):
            desk.session.receive_datagram(datagram, ("10.0.0.0", 5000), desk.now)
        desk.session.poll_window(desk.now)
    assert dataclasses.asdict(desk.session.drops)["foreign"] > 0


def test_nothing_of_the_image_is_sent_that_nobody_needs() -> None:
    desk = Desk(StartRule(receivers=2))
    for who in range(2):
        desk.tell(messages.Join(bytes([who] * 16), 1, f"host{who}", "/dev/x", -1, 0, wants_all=False), who)
    assert desk.session.started
    desk.send_all()
    assert desk.session.state is SessionState.IDLE
    assert not desk.session.schedules[limits.OBJECT_IMAGE].needed_symbols
    desk.mail()
    desk.pass_time(limits.STATUS_INTERVAL_NS)
    (status, *_more) = desk.said(messages.Status)
    assert isinstance(status, messages.Status)
    assert status.cursor == SLICES
    desk.tell(messages.Report(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, False, checking=True), 0)
    assert [peer.state for peer in desk.session.peers] == [PeerState.CHECKING, PeerState.RECEIVING]
    desk.nack([(3, 1, K)], who=1)
    window = desk.session.poll_window(desk.now)
    assert window is not None
    assert window.slices.tolist() == [3]
    desk.done(0)
    desk.done(1)
    assert desk.session.ended is EndReason.COMPLETE


def test_one_that_needs_everything_is_enough_to_send_everything() -> None:
    desk = Desk(StartRule(receivers=2))
    desk.tell(messages.Join(bytes(16), 1, "host0", "/dev/x", -1, 0, wants_all=False), 0)
    desk.join(1)
    assert desk.session.schedules[limits.OBJECT_IMAGE].needed_symbols == SLICES * K


def test_an_endless_session_waits_for_the_first_receiver_and_then_as_long_as_it_was_told() -> None:
    desk = Desk(StartRule(receivers=2, max_wait_ns=3 * limits.SECOND_NS, endless=True))
    desk.pass_time(100 * limits.SECOND_NS)
    assert desk.session.ended is None
    desk.join(0)
    desk.pass_time(2 * limits.SECOND_NS)
    assert not desk.session.started
    desk.pass_time(limits.SECOND_NS)
    assert desk.session.started
