"""Goal: what a sender answers to each message in each state, and what it says when.

Method: the machine alone, messages by hand, a clock that the test moves. Whole sessions are in tests/simulation.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from protocol import limits, messages, wire
from protocol.fleet import PeerState
from protocol.messages import EndReason, SessionState
from protocol.sender_events import Destination, EventKind, SessionParameters, StartRule
from protocol.sender_session import SenderSession

K = 8
SYMBOL = 64
SLICES = 20
SESSION_ID = 77
DIGEST = bytes(range(32))
MS = limits.MILLISECOND_NS


def parameters(start: StartRule, **changes: object) -> SessionParameters:
    fields: dict[str, object] = {
        "session_id": SESSION_ID, "name": "lab", "image_id": bytes(16), "image_name": "image",
        "manifest_digest": DIGEST, "manifest_size": 100, "stream_size": SLICES * K * SYMBOL, "raw_size": 1_000_000,
        "target_size_min": 1_000_000,
        "symbol_size": SYMBOL, "group": 1, "port": 7767, "control_port": 4000, "start": start, "rate": 1e6,
        "repair_symbols": 0, "source_symbols": K, "window_slices": 4,
    }  # fmt: skip
    return SessionParameters(**fields | changes)  # type: ignore[arg-type]


class Desk:
    """A sender machine, its clock and its outgoing mail."""

    def __init__(self, start: StartRule | None = None, **changes: object) -> None:
        self.now = limits.SECOND_NS
        rule = StartRule(receivers=1) if start is None else start
        self.session = SenderSession(parameters(rule, **changes), np.ones(SLICES, np.bool_), self.now)

    def tell(self, message: messages.Message, who: int = 0, session_id: int = SESSION_ID) -> None:
        self.session.receive_datagram(messages.encode(session_id, message), (f"10.0.0.{who}", 5000), self.now)

    def join(self, who: int = 0, incarnation: int = 1, size: int = -1, link: int = 0) -> None:
        self.tell(messages.Join(bytes([who] * 16), incarnation, f"host{who}", "/dev/x", size, link), who)

    def pass_time(self, ns: int) -> None:
        until = self.now + ns
        while (due := self.session.next_timeout()) is not None and due <= until:
            self.now = max(due, self.now)
            self.session.handle_timeout(self.now)
        self.now = until

    def mail(self) -> list[tuple[object, messages.AnyMessage]]:
        found = []
        while (transmit := self.session.poll_transmit()) is not None:
            frame = wire.parse_control(transmit.datagram, wire.Drops())
            assert frame is not None
            message = messages.decode(frame.body, wire.Drops())
            assert message is not None
            found.append((transmit.destination, message))
        return found

    def said(self, kind: type[messages.Message]) -> list[messages.AnyMessage]:
        return [message for _destination, message in self.mail() if isinstance(message, kind)]

    def events(self) -> list[EventKind]:
        found = []
        while (event := self.session.poll_event()) is not None:
            found.append(event.kind)
        return found

    def send_all(self) -> None:
        while self.session.poll_window(self.now) is not None:
            pass

    def nack(self, needs: list[tuple[int, int, int]], who: int = 0, sequence: int | None = None) -> None:
        items = np.array(needs, messages.DEFICIT).tobytes()
        at = self.session.sequence if sequence is None else sequence
        self.tell(messages.Nack(who, limits.OBJECT_IMAGE, at, 0, 0, 0, items, 0), who)

    def done(self, who: int = 0, digest: bytes = DIGEST) -> None:
        self.tell(messages.Done(who, digest, 1, 0, 0), who)

    def report(self, who: int = 0, loss_ppm: int = 0) -> None:
        self.tell(messages.Report(who, 0, 0, 0, 0, 0, loss_ppm, 0, 0, 0, 0, False), who)


def test_it_announces_every_second_sooner_at_first_and_when_asked() -> None:
    desk = Desk()
    desk.pass_time(0)
    ((destination, announce),) = desk.mail()
    assert destination is Destination.DISCOVERY
    assert isinstance(announce, messages.Announce)
    assert announce.state is SessionState.WAITING
    desk.pass_time(limits.ANNOUNCE_FIRST_NS)
    assert len(desk.said(messages.Announce)) == 1, "who lost the first one need not wait for a second"
    desk.pass_time(2 * limits.SECOND_NS)
    desk.mail()
    desk.pass_time(3 * limits.ANNOUNCE_INTERVAL_NS)
    assert len(desk.said(messages.Announce)) == 3
    for _receiver in range(100):
        desk.tell(messages.Solicit("lab"), session_id=0)
        desk.tell(messages.Solicit(""), session_id=0)
    desk.pass_time(limits.SOLICITED_GAP_NS)
    assert len(desk.said(messages.Announce)) == 1
    desk.tell(messages.Solicit("other"), session_id=0)
    desk.pass_time(limits.SOLICITED_GAP_NS)
    assert desk.said(messages.Announce) == []


def test_a_join_is_welcomed_and_a_repeat_is_welcomed_again() -> None:
    desk = Desk(StartRule(receivers=3))
    desk.join(1)
    desk.join(2)
    desk.join(1)
    welcomes = [(to, m.receiver_index) for to, m in desk.mail() if isinstance(m, messages.Welcome)]
    assert welcomes == [(("10.0.0.1", 5000), 0), (("10.0.0.2", 5000), 1), (("10.0.0.1", 5000), 0)]
    assert desk.events() == [EventKind.JOINED] * 2
    assert not desk.session.started


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


def test_status_says_where_the_stream_stands() -> None:
    desk = Desk()
    desk.join()
    (first,) = desk.said(messages.Status)
    assert isinstance(first, messages.Status)
    assert (first.sequence, first.cursor, first.manifest_sent, first.state) == (0, 0, False, SessionState.SENDING)
    desk.session.poll_window(desk.now)
    desk.session.poll_window(desk.now)
    desk.pass_time(limits.STATUS_INTERVAL_NS)
    (second,) = desk.said(messages.Status)
    assert isinstance(second, messages.Status)
    assert (second.sequence, second.cursor, second.manifest_sent) == (desk.session.sequence, 4, True)
    desk.send_all()
    (third,) = desk.said(messages.Status)
    assert isinstance(third, messages.Status)
    assert (third.state, third.cursor) == (SessionState.IDLE, SLICES)
    desk.report()
    desk.pass_time(limits.SECOND_NS)
    assert 9 <= len(desk.said(messages.Status)) <= 16


def test_a_nack_is_answered_at_once_where_nobody_else_may_lack_the_same() -> None:
    desk = Desk()
    desk.join()
    desk.send_all()
    desk.nack([(3, 2, 1)])
    window = desk.session.poll_window(desk.now)
    assert window is not None
    assert window.slices.tolist() == [3, 4]
    assert desk.session.sent.nacks == 1
    assert desk.said(messages.RepairAdvice) == []


def test_nacks_of_several_receivers_are_gathered_advised_and_answered_once() -> None:
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    desk.send_all()
    desk.mail()
    desk.nack([(3, 1, 2)], 0)
    assert desk.session.poll_window(desk.now) is None
    desk.nack([(3, 1, 3), (7, 1, 1)], 1)
    desk.pass_time(limits.AGGREGATION_MAX_NS)
    (advice,) = desk.said(messages.RepairAdvice)
    assert isinstance(advice, messages.RepairAdvice)
    assert np.frombuffer(advice.items, messages.DEFICIT).tolist() == [(3, 1, 3), (7, 1, 1)]
    window = desk.session.poll_window(desk.now)
    assert window is not None
    assert advice.sequence == window.first_sequence + window.datagram_count
    assert window.slices.tolist() == [3, 7]
    assert window.counts.tolist() == [3, 1]
    desk.nack([(3, 1, 2)], 0, sequence=window.first_sequence)
    assert desk.session.poll_window(desk.now) is None


def test_whoever_limits_the_rate_silences_at_once_those_that_do_not_more() -> None:
    """STATUS stands in line behind the data, and by then all have spoken."""
    desk = Desk(StartRule(receivers=100), rate=None, rate_start=1e6, rate_ceiling=1e6)
    for who in range(100):
        desk.join(who)
    (first,) = desk.said(messages.FeedbackAdvice)
    desk.send_all()
    desk.pass_time(50 * MS)
    desk.mail()
    desk.report(3, loss_ppm=200_000)
    desk.pass_time(0)
    ((destination, advice),) = desk.mail()
    assert destination is Destination.GROUP
    assert isinstance(first, messages.FeedbackAdvice)
    assert isinstance(advice, messages.FeedbackAdvice)
    assert (first.rate, first.report_below) == (1_000_000, 1_000_000)
    assert advice.report_below == pytest.approx(0.9 * 0.97 * 0.8 * 1e6, rel=0.01)
    desk.report(4, loss_ppm=210_000)
    desk.pass_time(MS)
    assert desk.mail() == []
    desk.report(5, loss_ppm=400_000)
    desk.pass_time(limits.FEEDBACK_ADVICE_GAP_NS - 2 * MS)
    assert desk.said(messages.FeedbackAdvice) == [], "news comes together"
    desk.pass_time(2 * MS)
    (lower,) = desk.said(messages.FeedbackAdvice)
    assert isinstance(lower, messages.FeedbackAdvice)
    assert lower.report_below < 0.8 * advice.report_below


@pytest.mark.parametrize(("receivers", "rate"), [(4, None), (100, 1e6)])
def test_where_reports_are_frequent_or_the_rate_is_fixed_nobody_speaks_out_of_turn(
    receivers: int, rate: float | None
) -> None:
    desk = Desk(StartRule(receivers=receivers), rate=rate, rate_start=1e6, rate_ceiling=1e6)
    for who in range(receivers):
        desk.join(who)
    desk.send_all()
    desk.report(3, loss_ppm=200_000)
    desk.pass_time(limits.SECOND_NS)
    for advice in desk.said(messages.FeedbackAdvice):
        assert isinstance(advice, messages.FeedbackAdvice)
        assert advice.report_below == 0


def test_those_that_come_together_are_told_together_and_at_once_that_the_fleet_has_grown() -> None:
    desk = Desk()
    desk.join(200)
    desk.pass_time(70 * MS)
    desk.mail()
    for who in range(100):
        desk.join(who)
        desk.pass_time(MS // 5)
    desk.pass_time(limits.FEEDBACK_ADVICE_GAP_NS)
    mail = desk.mail()
    advices = [message for _destination, message in mail if isinstance(message, messages.FeedbackAdvice)]
    assert 2 <= len(advices) <= 4
    assert (advices[-1].receivers, advices[-1].report_interval_ms) == (101, 252)
    assert sum(isinstance(message, messages.Status) for _destination, message in mail) <= 4


def test_a_range_that_is_lacking_whole_is_advised_whole() -> None:
    """Late joiners all lack what went out before they came: more than may be named one by one."""
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    desk.send_all()
    desk.nack([(0, SLICES, K)], 0)
    desk.nack([(2, 1, 3)], 1)
    desk.pass_time(limits.AGGREGATION_MAX_NS)
    (advice,) = desk.said(messages.RepairAdvice)
    assert isinstance(advice, messages.RepairAdvice)
    assert np.frombuffer(advice.items, messages.DEFICIT).tolist() == [(0, SLICES, K)]


def test_what_went_out_while_requests_were_gathered_is_not_advised() -> None:
    """Its symbols are there before the advice is: whoever still lacks some then would wait for nothing."""
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    desk.send_all()
    desk.nack([(3, 1, 2)], 0)
    desk.pass_time(limits.AGGREGATION_MAX_NS)
    desk.mail()
    desk.nack([(3, 1, 3), (7, 1, 1)], 1)  # of slice 3, something is about to go out anyway
    window = desk.session.poll_window(desk.now)
    assert window is not None
    assert (window.slices.tolist(), window.counts.tolist()) == ([3], [3])
    desk.pass_time(limits.AGGREGATION_MAX_NS)
    (advice,) = desk.said(messages.RepairAdvice)
    assert isinstance(advice, messages.RepairAdvice)
    assert np.frombuffer(advice.items, messages.DEFICIT).tolist() == [(7, 1, 1)]


@pytest.mark.parametrize(
    "needs", [[(0, 0, 1)], [(SLICES, 1, 1)], [(0, (1 << 32) - 1, 1)], [(5, 1, 1), (4, 1, 1)], [(0, 1, 0)]]
)
def test_a_nack_that_cannot_be_is_malformed(needs: list[tuple[int, int, int]]) -> None:
    desk = Desk()
    desk.join()
    desk.send_all()
    desk.nack(needs)
    desk.nack([(1, 1, 1)], sequence=desk.session.sequence + 1)
    assert desk.session.drops.malformed == 2
    assert desk.session.poll_window(desk.now) is None


def test_only_the_receiver_itself_speaks_for_itself() -> None:
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    for index in (0, 5, limits.RECEIVERS_MAX):
        desk.tell(messages.Done(index, DIGEST, 0, 0, 0), who=9)
    assert desk.session.drops.stale == 3
    assert [peer.state for peer in desk.session.peers] == [PeerState.RECEIVING] * 2


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


def test_the_valve_opens_under_a_storm_and_closes_although_reports_go_on() -> None:
    desk = Desk(StartRule(receivers=60))
    for who in range(60):
        desk.join(who)
    desk.send_all()
    for _interval in range(10):
        for who in range(60):
            for slice_index in range(4):
                desk.nack([(slice_index, 1, 1)], who)
        desk.pass_time(limits.STATUS_INTERVAL_NS)
    storm = desk.said(messages.FeedbackAdvice)[-1]
    assert isinstance(storm, messages.FeedbackAdvice)
    assert storm.feedback_scale > 4
    for _interval in range(15):
        for who in range(60):
            desk.report(who)
        desk.pass_time(limits.STATUS_INTERVAL_NS)
    calm = desk.said(messages.FeedbackAdvice)[-1]
    assert isinstance(calm, messages.FeedbackAdvice)
    assert calm.feedback_scale == 1


def test_a_slow_link_bounds_the_rate() -> None:
    desk = Desk(StartRule(receivers=9), rate=None, rate_start=1e8, rate_ceiling=1e9)
    desk.join(0, link=50_000_000)
    assert desk.session.rate_bytes_per_s == 5e7
    desk.join(1, link=10_000_000)
    assert desk.session.rate_bytes_per_s == 1e7


def test_a_fleet_is_asked_to_report_less_often() -> None:
    desk = Desk(StartRule(receivers=5000))
    for who in range(3000):
        receiver_id = who.to_bytes(16)
        desk.tell(messages.Join(receiver_id, 1, "h", "t", -1, 0), who)
    interval_s = desk.session.report_interval_ns / limits.SECOND_NS
    assert 3000 / interval_s <= limits.FEEDBACK_PER_S / 2
    assert desk.session.silence_ns >= limits.REPORTS_MISSED_MAX * desk.session.report_interval_ns


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


# --- the beginning of a stream whose rate is to be found --------------------------------------------------------------

IMAGE_SLICES = 400
WIDE = 1440


def finding_desk(slices: int = IMAGE_SLICES, **changes: object) -> Desk:
    """Return a desk that has begun to send so many slices of 184 kB at 6 Gbit/s to one receiver."""
    desk = Desk()
    fields = {
        "stream_size": slices * 128 * WIDE, "symbol_size": WIDE, "source_symbols": 128, "window_slices": 32,
        "rate": None, "rate_start": 750e6, "rate_ceiling": 1250e6,
    }  # fmt: skip
    wide = parameters(StartRule(receivers=1), **fields | changes)
    desk.session = SenderSession(wide, np.ones(slices, np.bool_), desk.now)
    desk.tell(messages.Join(bytes(16), 1, "host", "/dev/x", -1, 0, wants_all=True))
    assert desk.session.started
    return desk


def handed_out(desk: Desk) -> int:
    """Return the bytes of all windows, after every window that may go out did."""
    desk.send_all()
    return desk.session.sequence * (WIDE + wire.DATA_HEADER_SIZE)


def tell_of(desk: Desk, received: int, lost: int, *, loss: float = 0.0, fill: float = 0.0, sequence: int = 0) -> None:
    ppm, permille = round(loss * 1e6), round(fill * 1e3)
    at = sequence or received + lost
    desk.tell(messages.Report(0, 0, 0, received, lost, 0, ppm, 0, permille, 1_000_000, 0, False, sequence=at))


def test_so_much_goes_out_at_first_and_the_rest_when_somebody_has_heard_some() -> None:
    desk = finding_desk()
    window = 32 * 130 * (WIDE + wire.DATA_HEADER_SIZE)
    assert limits.START_CREDIT <= handed_out(desk) < limits.START_CREDIT + window
    advice = desk.said(messages.FeedbackAdvice)[-1]
    assert isinstance(advice, messages.FeedbackAdvice)
    assert advice.report_interval_ms == limits.START_REPORT_INTERVAL_MIN_NS // MS
    tell_of(desk, received=100, lost=0)
    assert handed_out(desk) < limits.START_CREDIT + window, "a hundred datagrams say nothing of sixteen million bytes"
    tell_of(desk, received=4000, lost=10)
    assert handed_out(desk) > IMAGE_SLICES * 128 * WIDE
    desk.pass_time(limits.STATUS_INTERVAL_NS)
    advice = desk.said(messages.FeedbackAdvice)[-1]
    assert isinstance(advice, messages.FeedbackAdvice)
    assert advice.report_interval_ms == limits.REPORT_INTERVAL_MIN_NS // MS


def test_where_nobody_is_heard_the_stream_goes_on_after_a_moment() -> None:
    desk = finding_desk()
    desk.send_all()
    desk.pass_time(limits.START_WAIT_NS)
    assert handed_out(desk) > IMAGE_SLICES * 128 * WIDE


def test_whoever_has_handed_out_everything_says_so_without_waiting() -> None:
    slices = -(-limits.START_CREDIT // (128 * WIDE))
    desk = finding_desk(slices)
    assert handed_out(desk) >= limits.START_CREDIT
    assert desk.session.state is SessionState.IDLE


def test_a_rate_that_was_chosen_waits_for_nobody() -> None:
    assert handed_out(finding_desk(rate=750e6)) > IMAGE_SLICES * 128 * WIDE


def test_a_flood_is_answered_at_once_and_what_is_told_of_it_afterwards_does_not_count() -> None:
    desk = finding_desk()
    desk.send_all()
    desk.pass_time(20 * MS)
    tell_of(desk, received=100, lost=0)
    desk.pass_time(20 * MS)
    sent = desk.session.sequence
    tell_of(desk, received=600, lost=5500, loss=0.9, sequence=sent // 2)
    cut = desk.session.rate_bytes_per_s
    assert cut < 0.1 * 750e6
    for late in range(1, 9):  # a receiver without time, that has not yet read what was sent before the cut
        desk.pass_time(100 * MS)
        tell_of(desk, received=600, lost=5500 + late, loss=0.9, sequence=sent // 2 + late)
        assert desk.session.rate_bytes_per_s == cut
    for now in range(1, 9):
        desk.send_all()
        desk.pass_time(100 * MS)
        tell_of(desk, received=600 + 9000 * now, lost=5500, loss=0.0, sequence=desk.session.sequence)
    assert desk.session.rate_bytes_per_s > cut


def test_a_full_receiver_is_heeded_however_far_behind_it_is() -> None:
    desk = finding_desk()
    desk.send_all()
    desk.pass_time(20 * MS)
    tell_of(desk, received=600, lost=5500, loss=0.9, sequence=100)
    cut = desk.session.rate_bytes_per_s
    for _report in range(8):
        desk.pass_time(100 * MS)
        tell_of(desk, received=600, lost=5500, fill=0.9, sequence=100)
    assert desk.session.rate_bytes_per_s < 0.5 * cut
