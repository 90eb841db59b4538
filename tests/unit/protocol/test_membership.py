"""Goal: who is taken in, refused, heard, missed and taken back.

Method: a sender's machine alone, as in ``sender_desk``.
"""

from __future__ import annotations

from protocol import limits, messages
from protocol.fleet import PeerState
from protocol.sender_events import EventKind, StartRule
from tests.unit.protocol.sender_desk import DIGEST, Desk


def test_a_join_is_welcomed_and_a_repeat_is_welcomed_again() -> None:
    desk = Desk(StartRule(receivers=3))
    desk.join(1)
    desk.join(2)
    desk.join(1)
    welcomes = [(to, m.receiver_index) for to, m in desk.mail() if isinstance(m, messages.Welcome)]
    assert welcomes == [(("10.0.0.1", 5000), 0), (("10.0.0.2", 5000), 1), (("10.0.0.1", 5000), 0)]
    assert desk.events() == [EventKind.JOINED] * 2
    assert not desk.session.started


def test_only_the_receiver_itself_speaks_for_itself() -> None:
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    for index in (0, 5, limits.RECEIVERS_MAX):
        desk.tell(messages.Done(index, DIGEST, 0, 0, 0), who=9)
    assert desk.session.drops.stale == 3
    assert [peer.state for peer in desk.session.peers] == [PeerState.RECEIVING] * 2


def test_silence_makes_a_receiver_vanish_and_a_word_brings_it_back() -> None:
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    for _second in range(10):
        desk.pass_time(limits.SECOND_NS)
        desk.report(0)
    assert [peer.state for peer in desk.session.peers] == [PeerState.RECEIVING, PeerState.VANISHED]
    desk.report(1)
    assert desk.session.peers[1].state is PeerState.RECEIVING
    assert desk.events()[-2:] == [EventKind.VANISHED, EventKind.RETURNED]


def test_a_fleet_that_is_asked_to_report_rarely_is_borne_with_for_longer() -> None:
    desk = Desk(StartRule(receivers=5000))
    for who in range(3000):
        desk.tell(messages.Join(who.to_bytes(16), 1, "h", "t", -1, 0), who)
    borne_ns = limits.REPORTS_MISSED_MAX * desk.session.report_interval_ns
    assert borne_ns > 2 * limits.RECEIVER_SILENCE_NS
    desk.pass_time(borne_ns)
    assert desk.session.fleet.live_count == 3000
    desk.pass_time(borne_ns)
    assert {peer.state for peer in desk.session.peers} == {PeerState.VANISHED}


def test_a_restart_takes_its_old_index_back_from_any_state() -> None:
    for end in ("fail", "done", "vanish", "live"):
        desk = Desk(StartRule(receivers=2))
        desk.join(0)
        desk.join(1)
        if end == "fail":
            desk.tell(messages.Fail(0, "disk"), 0)
            assert desk.session.peers[0].state is PeerState.FAILED
        elif end == "done":
            desk.done(0)
        elif end == "vanish":
            for _second in range(10):
                desk.pass_time(limits.SECOND_NS)
                desk.report(1)
        desk.join(0, incarnation=2)
        assert desk.session.peers[0].state is PeerState.RECEIVING
        assert len(desk.session.peers) == 2
        desk.join(0, incarnation=1)
        assert desk.session.peers[0].incarnation == 2
        assert desk.session.fleet.live_count == 2


def test_a_refused_receiver_is_told_why_and_is_not_waited_for() -> None:
    desk = Desk(StartRule(receivers=1))
    desk.join(0, size=10)
    desk.join(0, size=10)
    refusals = desk.said(messages.Refuse)
    assert len(refusals) == 2
    assert isinstance(refusals[0], messages.Refuse)
    assert "the image needs 1000000" in refusals[0].reason
    assert len(desk.session.refused) == 1
    assert not desk.session.started


def test_a_long_target_name_does_not_keep_a_refusal_from_arriving() -> None:
    desk = Desk()
    target = messages.clip("語" * 400, limits.REASON_LENGTH_MAX)
    desk.tell(messages.Join(bytes(16), 1, "h" * 64, target, 5, 0))
    assert len(desk.said(messages.Refuse)) == 1


def test_a_restart_on_a_smaller_target_is_refused() -> None:
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    desk.join(0, incarnation=2, size=5)
    assert desk.session.peers[0].state is PeerState.REFUSED
    assert desk.events()[-1] is EventKind.REFUSED
    desk.done(0)
    assert desk.session.peers[0].state is PeerState.REFUSED
