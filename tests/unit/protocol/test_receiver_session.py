"""Goal: what a receiver says in each state, what it asks for, and that DONE is said last and only in truth.

Method: the machine alone; headers and messages by hand, a clock that the test moves. Whole sessions are in
tests/simulation.
"""

from __future__ import annotations

import random

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from protocol import limits, messages, wire
from protocol.discovery import Found
from protocol.manifest import Manifest, Source
from protocol.messages import EndReason, SessionState
from protocol.receiver_events import (
    AllWritten,
    Ended,
    ExtentReady,
    Identity,
    Outcome,
    ReceiverState,
    SliceToDecode,
    Welcomed,
)
from protocol.receiver_session import ReceiverSession

K = 4
SYMBOL = 64
CHUNKS = 5
SESSION_ID = 77
MS = limits.MILLISECOND_NS
IMAGE, MANIFEST = limits.OBJECT_IMAGE, limits.OBJECT_MANIFEST


def manifest() -> Manifest:
    """Five chunks of one slice each."""
    return Manifest(
        bytes(16), "image", 0, CHUNKS * 4096, 4096, Source(), np.full(CHUNKS, K * SYMBOL, np.uint32),
        np.zeros((CHUNKS, 32), np.uint8), np.zeros((CHUNKS, 32), np.uint8), np.zeros(CHUNKS, np.uint8),
    )  # fmt: skip


class Desk:
    """A receiver machine, its clock, and a sender played by hand."""

    def __init__(self, *, pool_slices: int = 100, join_spread_ms: int = 0) -> None:
        self.now = limits.SECOND_NS
        announce = messages.Announce(
            "lab", bytes(16), "image", bytes(range(32)), 100, CHUNKS * K * SYMBOL, CHUNKS * 4096, SYMBOL, K, 4, 1, 2,
            3, 0, SessionState.WAITING, join_spread_ms, 1000,
        )  # fmt: skip
        self.identity = Identity(bytes(range(16)), 9, "host", "/dev/x", -1)
        self.session = ReceiverSession(
            Found(SESSION_ID, announce, "10.0.0.1"),
            self.identity,
            pool_size=pool_slices * K * SYMBOL,
            rng=random.Random(1),
            now=self.now,
        )
        self.sequence = 0
        self.state = SessionState.SENDING
        self.cursor = 0
        self.manifest_sent = False
        self.pass_index = 0
        self.receivers = 1
        self.report_interval_ms = 100
        self.feedback_scale = 1

    def tell(self, message: messages.Message, session_id: int = SESSION_ID) -> None:
        self.session.receive_datagram(messages.encode(session_id, message), self.now)

    def welcome(self, index: int = 3) -> None:
        self.tell(messages.Welcome(self.identity.receiver_id, self.identity.incarnation, index, 5))

    def status(self) -> None:
        self.tell(
            messages.Status(
                self.sequence, self.state, self.cursor, self.manifest_sent, self.pass_index,
            )
        )  # fmt: skip
        self.advise()

    def advise(self, rate: int = 1, tolerated_ppm: int = 5000, report_below: int = 0) -> None:
        self.tell(
            messages.FeedbackAdvice(
                10_000, self.receivers, self.feedback_scale, self.report_interval_ms, rate, tolerated_ppm, report_below
            )
        )

    def window(
        self, object_id: int, slices: list[int], esis: list[int], lose: tuple[tuple[int, int], ...] = ()
    ) -> list[npt.NDArray[np.int64]]:
        """Send one interleaved window; ``lose`` names (slice, ESI) that do not arrive."""
        pairs = [(s, esi) for esi in esis for s in slices]
        headers = np.zeros(len(pairs), wire.DATA_HEADER)
        headers["magic"], headers["version"], headers["kind"] = wire.MAGIC, wire.VERSION, wire.KIND_DATA
        headers["session"] = SESSION_ID
        headers["sequence"] = (self.sequence + np.arange(len(pairs))) & 0xFFFFFFFF
        headers["slice"] = [s for s, _esi in pairs]
        headers["esi"] = [esi for _s, esi in pairs]
        headers["object"] = object_id
        headers["window_left"] = len(pairs) - 1 - np.arange(len(pairs))
        self.sequence += len(pairs)
        kept = np.array([pair not in lose for pair in pairs])
        return [placement.rows for placement in self.session.receive_symbols(headers[kept], self.now)]

    def send_manifest(self) -> None:
        self.window(MANIFEST, [0], [0, 1])
        self.manifest_sent = True
        (ready,) = self.events(ExtentReady)
        assert ready == ExtentReady(MANIFEST, 0)
        self.session.extent_checked(MANIFEST, 0, good=True)
        self.session.manifest_known(manifest(), np.ones(CHUNKS, np.bool_), 0)

    def pass_time(self, ns: int) -> None:
        until = self.now + ns
        while (due := self.session.next_timeout()) is not None and due <= until:
            self.now = max(due, self.now)
            self.session.handle_timeout(self.now)
        self.now = until

    def said(self, kind: type[messages.Message]) -> list[messages.AnyMessage]:
        found = []
        while (datagram := self.session.poll_transmit()) is not None:
            frame = wire.parse_control(datagram, wire.Drops())
            assert frame is not None
            message = messages.decode(frame.body, wire.Drops())
            if isinstance(message, kind):
                found.append(message)
        return found

    def needs(self) -> dict[int, int]:
        """Return what the NACKs since the last call asked for."""
        asked: dict[int, int] = {}
        for nack in self.said(messages.Nack):
            assert isinstance(nack, messages.Nack)
            decoded = messages.decode_deficits(nack.items, 1 << 32)
            assert decoded is not None
            asked |= dict(zip(decoded[0].tolist(), decoded[1].tolist(), strict=True))
        return asked

    def events(self, kind: type[object] = object) -> list[object]:
        found = []
        while (event := self.session.poll_event()) is not None:
            if isinstance(event, kind):
                found.append(event)
        return found


def ready_desk() -> Desk:
    desk = Desk()
    desk.welcome()
    desk.send_manifest()
    desk.said(messages.Message)
    desk.events()
    return desk


def test_it_joins_until_it_is_welcome() -> None:
    desk = Desk()
    desk.pass_time(0)
    desk.pass_time(7 * limits.SECOND_NS)
    joins = desk.said(messages.Join)
    assert 4 <= len(joins) <= 8
    assert joins[0] == messages.Join(bytes(range(16)), 9, "host", "/dev/x", -1, 0)
    desk.tell(messages.Welcome(bytes(16), 9, 3, 0))
    desk.tell(messages.Welcome(bytes(range(16)), 8, 3, 0))
    assert desk.session.receiver_index is None
    desk.welcome()
    desk.welcome()
    assert desk.events(Welcomed) == [Welcomed(3)]
    assert desk.session.state is ReceiverState.MANIFEST
    desk.pass_time(5 * limits.SECOND_NS)
    assert desk.said(messages.Join) == []


@pytest.mark.parametrize(("join_spread_ms", "told"), [(0, True), (249, True), (250, False), (2000, False)])
def test_a_small_fleet_that_is_not_answered_also_joins_by_way_of_the_group(join_spread_ms: int, told: bool) -> None:
    """A host that does not know the sender's link address yet keeps back what goes to the sender alone."""
    desk = Desk(join_spread_ms=join_spread_ms)
    desk.pass_time(join_spread_ms * limits.MILLISECOND_NS)
    joins = []
    for _second in range(10):
        desk.pass_time(limits.SECOND_NS)
        while (datagram := desk.session.poll_transmit()) is not None:
            joins.append(datagram)
    in_group = []
    while (datagram := desk.session.poll_group_transmit()) is not None:
        in_group.append(datagram)
    assert len(joins) > 1
    assert in_group == (joins[1:] if told else [])


def test_who_has_no_welcome_when_sending_begins_does_not_wait_for_its_turn() -> None:
    """What a fast stream pushes out of the pool meanwhile would have to come again."""
    desk = Desk()
    desk.pass_time(3 * limits.SECOND_NS)
    desk.said(messages.Join)
    desk.status()
    desk.pass_time(limits.JOIN_RETRY_NS)
    assert len(desk.said(messages.Join)) in (1, 2)
    for _status in range(3):
        desk.status()
    assert desk.said(messages.Join) == [], "once, however often the sender speaks"


def test_it_reports_as_often_as_it_is_told() -> None:
    desk = Desk()
    desk.welcome()
    for _second in range(5):
        desk.pass_time(limits.SECOND_NS)
        desk.tell(desk.session.found.announce)
    assert 4 <= len(desk.said(messages.Report)) <= 8
    for _status in range(20):
        desk.status()
        desk.pass_time(100 * MS)
    assert 15 <= len(desk.said(messages.Report)) <= 25


def test_a_lossless_image_is_asked_nothing_and_done_is_said_after_the_flush() -> None:
    desk = ready_desk()
    desk.window(IMAGE, [0, 1, 2, 3, 4], list(range(K)))
    chunks = [event.extent for event in desk.events(ExtentReady) if isinstance(event, ExtentReady)]
    assert chunks == [0, 1, 2, 3, 4]
    for chunk in chunks:
        assert desk.session.state is ReceiverState.RECEIVING
        desk.session.extent_checked(IMAGE, chunk, good=True)
    assert desk.events() == [AllWritten()]
    desk.status()
    desk.pass_time(limits.SECOND_NS)
    assert desk.needs() == {}
    assert desk.session.bytes_done == CHUNKS * 4096
    desk.status()
    assert desk.said(messages.Done) == []
    desk.session.flushed(desk.now)
    desk.pass_time(limits.SECOND_NS)
    dones = desk.said(messages.Done)
    assert len(dones) >= 3
    assert dones[0] == messages.Done(3, bytes(range(32)), CHUNKS * 4096, 0, 0)
    desk.tell(messages.Poll(0, 4, b"\x0f", 5))
    assert desk.session.state is ReceiverState.CONFIRMING
    desk.tell(messages.Poll(0, 4, b"\x07", 4))
    assert desk.session.state is ReceiverState.CONFIRMING, "said before the WELCOME: of an earlier start"
    desk.tell(messages.Poll(0, 4, b"\x07", 6))
    assert desk.session.outcome is Outcome.VERIFIED
    assert desk.session.next_timeout() is None


def test_a_deficit_is_asked_for_when_its_window_has_passed_and_not_again_too_soon() -> None:
    desk = ready_desk()
    desk.window(IMAGE, [0, 1], list(range(K)), lose=((0, 2), (1, 0), (1, 3)))
    desk.pass_time(20 * MS)
    assert desk.needs() == {}
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {0: 1, 1: 2}
    desk.status()
    desk.pass_time(60 * MS)
    assert desk.needs() == {}
    desk.pass_time(60 * MS)
    assert desk.needs() == {0: 1, 1: 2}
    desk.window(IMAGE, [0], [K])
    assert desk.events(SliceToDecode) == [SliceToDecode(IMAGE, 0)]
    desk.window(IMAGE, [1], [K])
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: 1}


def test_many_later_datagrams_close_a_window_without_a_word_from_the_sender() -> None:
    desk = ready_desk()
    desk.advise()
    desk.window(IMAGE, [0], list(range(K)), lose=((0, 1),))
    for _repeat in range(1 + limits.REORDER_GUARD // K):
        desk.window(IMAGE, [1], list(range(K)))
    desk.pass_time(10 * MS)
    assert desk.needs() == {0: 1}


def test_what_passed_unheard_is_asked_for_whole_once_the_manifest_says_it_is_wanted() -> None:
    desk = Desk()
    desk.sequence, desk.cursor, desk.manifest_sent = 500, 3, True
    desk.welcome()
    desk.status()
    desk.pass_time(10 * MS)
    (nack,) = desk.said(messages.Nack)
    assert isinstance(nack, messages.Nack)
    assert nack.object_id == MANIFEST
    assert nack.sequence == 500
    desk.send_manifest()
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {0: K, 1: K, 2: K}
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {}
    desk.cursor = CHUNKS
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {3: K, 4: K}


def test_an_unanswered_whole_request_is_repeated_when_the_sender_is_idle() -> None:
    desk = ready_desk()
    desk.cursor, desk.state = CHUNKS, SessionState.IDLE
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == dict.fromkeys(range(CHUNKS), K)
    for _status in range(2):
        desk.pass_time(100 * MS)
        desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == dict.fromkeys(range(CHUNKS), K)


def test_an_unanswered_request_for_the_manifest_is_repeated_within_a_pass() -> None:
    desk = Desk()
    desk.sequence, desk.cursor, desk.manifest_sent = 500, 3, True
    desk.welcome()
    desk.status()
    desk.pass_time(10 * MS)
    assert len(desk.said(messages.Nack)) == 1
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.said(messages.Nack) == []  # the answer may be under way
    desk.manifest_sent = False
    desk.status()
    desk.pass_time(100 * MS)
    assert desk.said(messages.Nack) == []  # it is still to be sent
    desk.manifest_sent = True
    desk.status()
    desk.pass_time(10 * MS)
    (nack,) = desk.said(messages.Nack)
    assert isinstance(nack, messages.Nack)
    assert nack.object_id == MANIFEST


@pytest.mark.parametrize("meanwhile", ["nothing", "one came", "all came", "advised", "deferred"])
def test_where_much_is_lost_a_request_is_said_again_as_far_as_it_still_stands(meanwhile: str) -> None:
    desk = ready_desk()
    desk.window(IMAGE, [0], list(range(K)))
    desk.sequence += 2000  # lost, whatever it was
    desk.window(IMAGE, [1, 2], list(range(K)), lose=((1, 0), (2, 0), (2, 1)))
    desk.status()
    desk.pass_time(0)
    assert desk.needs() == {1: 1, 2: 2}
    if meanwhile == "one came":
        desk.window(IMAGE, [1], [K])
    elif meanwhile == "all came":
        desk.window(IMAGE, [1, 2], [K, K + 1])
    elif meanwhile == "advised":
        items = np.array([(1, 1, 1), (2, 1, 1)], messages.DEFICIT).tobytes()
        desk.tell(messages.RepairAdvice(IMAGE, items, 0))
    elif meanwhile == "deferred":
        desk.tell(messages.Defer(3, 1000))
    desk.pass_time(limits.NACK_COPY_NS)
    again = {"nothing": {1: 1, 2: 2}, "one came": {2: 2}, "advised": {2: 2}}
    assert desk.needs() == again.get(meanwhile, {})
    desk.pass_time(2 * limits.NACK_COPY_NS)
    assert desk.needs() == {}


@pytest.mark.parametrize("why", ["little is lost", "much is asked for"])
def test_a_request_is_said_once_where(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = ready_desk()
    desk.window(IMAGE, [0], list(range(K)))
    if why == "much is asked for":
        monkeypatch.setattr(limits, "NACK_COPY_SLICES_MAX", 0)
        desk.sequence += 2000
    desk.window(IMAGE, [1], list(range(K)), lose=((1, 2),))
    desk.status()
    desk.pass_time(3 * limits.NACK_COPY_NS)
    assert len(desk.said(messages.Nack)) == 1


def test_advice_keeps_silent_whom_it_covers() -> None:
    desk = ready_desk()
    desk.receivers = 1000
    desk.window(IMAGE, [0, 1], list(range(K)), lose=((0, 2), (1, 0), (1, 3)))
    desk.status()
    items = np.array([(0, 1, 1), (1, 1, 1)], messages.DEFICIT).tobytes()
    desk.tell(messages.RepairAdvice(IMAGE, items, 0))
    desk.pass_time(61 * MS)
    assert desk.needs() == {1: 2}


@pytest.mark.parametrize("then", ["passed", "idle", "long ago"])
def test_what_was_promised_is_waited_for_until_the_stream_has_come_so_far(then: str) -> None:
    """Repairs stand in line behind windows that are laid out already."""
    desk = ready_desk()
    desk.window(IMAGE, [0], list(range(K)), lose=((0, 2),))
    desk.tell(messages.RepairAdvice(IMAGE, np.array([(0, 1, 1)], messages.DEFICIT).tobytes(), desk.sequence + 3 * K))
    for slice_index in (1, 2):
        desk.window(IMAGE, [slice_index], list(range(K)))
        desk.status()
        desk.pass_time(100 * MS)
    assert desk.needs() == {}
    if then == "passed":
        desk.window(IMAGE, [3], list(range(K)))
    elif then == "idle":
        desk.state = SessionState.IDLE  # all is out that was asked for, and the promise was more
    else:
        for _second in range(limits.HOLD_OFF_MAX_NS // limits.SECOND_NS + 1):
            desk.status()
            desk.pass_time(limits.SECOND_NS)
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {0: 1}


def test_what_was_asked_for_in_a_storm_is_asked_for_again_soon_after_it() -> None:
    """The hold-off is that of now, and not the one that was believed when it began."""
    desk = ready_desk()
    desk.feedback_scale = 64
    desk.window(IMAGE, [0], list(range(K)), lose=((0, 2),))
    desk.status()
    desk.pass_time(MS)
    assert desk.needs() == {0: 1}
    desk.feedback_scale = 1
    desk.status()
    desk.pass_time(90 * MS)
    assert desk.needs() == {0: 1}


def test_a_backoff_that_was_drawn_in_a_storm_ends_soon_after_it() -> None:
    desk = ready_desk()
    desk.receivers, desk.feedback_scale = 1000, limits.FEEDBACK_SCALE_MAX
    desk.window(IMAGE, [0], list(range(K)), lose=((0, 2),))
    desk.status()
    desk.pass_time(100 * MS)
    assert desk.needs() == {}
    desk.feedback_scale = 1
    desk.status()
    desk.pass_time(61 * MS)
    assert desk.needs() == {0: 1}


def test_what_comes_of_an_earlier_answer_does_not_end_the_wait_for_what_was_promised() -> None:
    """Two answers stand in line: the first is not the second one, which was advised before it came."""
    desk = ready_desk()
    desk.receivers = 1000
    desk.window(IMAGE, [0], list(range(K)), lose=((0, 0), (0, 1), (0, 2)))
    desk.status()
    desk.tell(messages.RepairAdvice(IMAGE, np.array([(0, 1, 3)], messages.DEFICIT).tobytes(), desk.sequence + 4))
    desk.window(IMAGE, [0], [K])
    desk.status()
    desk.pass_time(150 * MS)
    assert desk.needs() == {}
    desk.window(IMAGE, [0], [K + 1, K + 2, K + 3], lose=((0, K + 2), (0, K + 3)))
    desk.status()
    desk.pass_time(61 * MS)
    assert desk.needs() == {0: 1}


def test_a_backoff_is_about_what_it_began_with() -> None:
    """Or all of a fleet whose backoffs another's NACK has made void asks at once for what was lost meanwhile."""
    desk = ready_desk()
    desk.receivers = 1000
    desk.window(IMAGE, [0], list(range(K)), lose=((0, 2),))
    desk.status()
    end = desk.session._nack_ns
    assert end is not None
    desk.tell(messages.RepairAdvice(IMAGE, np.array([(0, 1, 1)], messages.DEFICIT).tobytes(), 0))
    desk.window(IMAGE, [1], list(range(K)), lose=((1, 2),))
    desk.status()
    desk.pass_time(end - desk.now)
    assert desk.needs() == {}
    again = desk.session._nack_ns
    assert again is not None
    desk.pass_time(again - desk.now)
    assert desk.needs()[1] == 1


def test_nothing_is_asked_for_before_it_is_known_how_many_may_ask() -> None:
    desk = ready_desk()
    desk.window(IMAGE, [0], list(range(K)), lose=((0, 2),))
    desk.tell(messages.Status(desk.sequence, desk.state, desk.cursor, desk.manifest_sent, 0))
    desk.pass_time(50 * MS)
    assert desk.needs() == {}
    desk.advise()
    desk.pass_time(MS)
    assert desk.needs() == {0: 1}


def limited_desk(lost: int) -> Desk:
    """A receiver of a large fleet that lost so many of 5000 datagrams, and the advice that it should speak of that."""
    desk = ready_desk()
    desk.receivers, desk.report_interval_ms = 1000, 600_000
    desk.status()
    desk.advise(1000, 5000, 1000)
    desk.pass_time(limits.REPORT_URGENT_NS)
    desk.said(messages.Report)
    desk.sequence += lost
    for _window in range((5000 - lost) // K):
        desk.window(IMAGE, [0], list(range(K)))
    return desk


def test_who_limits_the_rate_of_a_large_fleet_says_so_out_of_turn_and_goes_on_until_it_does_not() -> None:
    desk = limited_desk(500)
    desk.pass_time(limits.REPORT_URGENT_NS + 60 * MS)
    (report,) = desk.said(messages.Report)
    assert isinstance(report, messages.Report)
    assert report.loss_ppm == pytest.approx(100_000, rel=0.1)
    desk.sequence += 500
    desk.window(IMAGE, [1], list(range(K)))
    desk.pass_time(limits.REPORT_URGENT_NS + 100 * MS)
    assert len(desk.said(messages.Report)) == 1
    for _look in range(5):
        desk.window(IMAGE, [2], list(range(K)))
        desk.pass_time(limits.REPORT_URGENT_NS)
    assert len(desk.said(messages.Report)) <= 1


@pytest.mark.parametrize("why", ["another told less", "nobody need", "hardly anything was lost", "ended"])
def test_nobody_speaks_out_of_turn_where(why: str) -> None:
    desk = limited_desk(8 if why == "hardly anything was lost" else 500)
    if why == "another told less":
        desk.advise(1000, 5000, 800)
    elif why == "nobody need":
        desk.advise(1000, 5000, 0)
    elif why == "ended":
        desk.tell(messages.End(EndReason.COMPLETE, ""))
    desk.pass_time(2 * limits.REPORT_URGENT_NS)
    assert desk.said(messages.Report) == []


def test_resume_asks_for_the_rest_only() -> None:
    desk = Desk()
    desk.welcome()
    desk.cursor = CHUNKS
    desk.window(MANIFEST, [0], [0, 1])
    desk.manifest_sent = True
    desk.events()
    desk.session.extent_checked(MANIFEST, 0, good=True)
    desk.session.manifest_known(manifest(), np.array([False, True, False, False, True]), 3 * 4096)
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: K, 4: K}
    assert desk.session.bytes_done == 3 * 4096


def test_nothing_wanted_is_written_at_once() -> None:
    desk = Desk()
    desk.welcome()
    desk.window(MANIFEST, [0], [0, 1])
    desk.events()
    desk.session.extent_checked(MANIFEST, 0, good=True)
    desk.session.manifest_known(manifest(), np.zeros(CHUNKS, np.bool_), CHUNKS * 4096)
    assert desk.events() == [AllWritten()]


def test_all_may_come_before_the_welcome() -> None:
    desk = Desk()
    desk.send_manifest()
    desk.window(IMAGE, list(range(CHUNKS)), list(range(K)))
    for event in desk.events(ExtentReady):
        assert isinstance(event, ExtentReady)
        desk.session.extent_checked(IMAGE, event.extent, good=True)
    assert desk.events() == []
    desk.welcome()
    assert desk.events() == [Welcomed(3), AllWritten()]


def test_image_slices_may_come_before_the_manifest() -> None:
    desk = Desk()
    desk.welcome()
    desk.window(IMAGE, [0, 1, 2], [*range(K), K], lose=((1, 0),))
    assert desk.events(SliceToDecode) == [SliceToDecode(IMAGE, 1)]
    desk.send_manifest()
    chunks = [event.extent for event in desk.events(ExtentReady) if isinstance(event, ExtentReady)]
    assert chunks == [0, 2]
    desk.session.slice_decoded(IMAGE, 1)
    assert desk.events() == [ExtentReady(IMAGE, 1)]


def test_a_damaged_chunk_is_wanted_whole_again_and_given_up_in_the_end() -> None:
    desk = ready_desk()
    desk.cursor = 1
    for attempt in range(limits.DAMAGED_CHUNK_RETRIES_MAX + 1):
        desk.window(IMAGE, [0], list(range(K)))
        assert desk.events(ExtentReady) == [ExtentReady(IMAGE, 0)]
        desk.session.extent_checked(IMAGE, 0, good=False)
        assert desk.session.counters.chunks_damaged == attempt + 1
        if attempt < limits.DAMAGED_CHUNK_RETRIES_MAX:
            desk.status()
            desk.pass_time(10 * MS)
            assert desk.needs() == {0: K}
    assert desk.session.outcome is Outcome.FAILED
    fails = desk.said(messages.Fail)
    assert len(fails) == limits.FAIL_COPIES


@pytest.mark.parametrize("reason", list(EndReason))
def test_the_end_before_done_is_no_success(reason: EndReason) -> None:
    for prepare in (lambda desk: None, Desk.welcome, Desk.status):
        desk = Desk()
        prepare(desk)
        desk.tell(messages.End(reason, "text"))
        assert desk.session.outcome is Outcome.SENDER_GONE
        assert desk.events(Ended) == [Ended(Outcome.SENDER_GONE, desk.session.outcome_text)]
        desk.status()
        desk.pass_time(limits.SECOND_NS)
        assert desk.events() == []


def test_silence_ends_it() -> None:
    desk = Desk()
    desk.welcome()
    desk.pass_time(limits.SENDER_SILENCE_NS - MS)
    desk.tell(desk.session.found.announce)
    desk.pass_time(limits.SENDER_SILENCE_NS - MS)
    assert desk.session.outcome is None
    desk.pass_time(2 * MS)
    assert desk.session.outcome is Outcome.SENDER_GONE


def test_announcements_alone_keep_a_receiver_only_while_the_session_waits() -> None:
    desk = Desk()
    desk.welcome()
    waiting = desk.session.found.announce
    for _second in range(2 * limits.DATA_SILENCE_NS // limits.SECOND_NS):
        desk.pass_time(limits.SECOND_NS)
        desk.tell(waiting)
    assert desk.session.outcome is None
    begun = desk.now
    while desk.session.outcome is None:
        desk.pass_time(limits.SECOND_NS)
        desk.tell(msgspec.structs.replace(waiting, state=SessionState.SENDING))
    assert limits.DATA_SILENCE_NS <= desk.now - begun <= limits.DATA_SILENCE_NS + limits.SECOND_NS
    assert desk.session.outcome is Outcome.DEAF
    assert "data group 0.0.0.1" in desk.session.outcome_text
    assert len(desk.said(messages.Fail)) == limits.FAIL_COPIES


def test_a_slow_target_that_leaves_the_data_group_unread_is_not_deaf() -> None:
    desk = Desk()
    desk.welcome()
    sending = msgspec.structs.replace(desk.session.found.announce, state=SessionState.SENDING)
    for _second in range(2 * limits.DATA_SILENCE_NS // limits.SECOND_NS):
        desk.pass_time(limits.SECOND_NS)
        desk.tell(sending)
        desk.session.data_unread(desk.now)
    assert desk.session.outcome is None


def test_a_sender_that_is_started_again_takes_nobody_back_who_said_done() -> None:
    for confirming in (False, True):
        desk = ready_desk()
        if confirming:
            desk.session.chunks_found(np.arange(CHUNKS))
            desk.session.flushed(desk.now)
        desk.pass_time(limits.SENDER_REPLACED_NS - MS)
        desk.session.sender_replaced(desk.now)
        assert desk.session.outcome is None
        desk.pass_time(MS)
        desk.session.sender_replaced(desk.now)
        assert desk.session.outcome is (Outcome.VERIFIED if confirming else Outcome.SENDER_GONE)
        assert desk.session.sender_lost is not confirming


def test_a_flush_that_ends_after_the_session_says_nothing() -> None:
    desk = ready_desk()
    desk.session.chunks_found(np.arange(CHUNKS))
    desk.tell(messages.End(EndReason.INTERRUPTED, ""))
    desk.session.flushed(desk.now)
    assert desk.session.outcome is Outcome.SENDER_GONE
    assert desk.said(messages.Done) == []


def test_a_refusal_for_me_ends_it_and_for_another_does_not() -> None:
    desk = Desk()
    desk.tell(messages.Refuse(bytes(16), "not you"))
    assert desk.session.outcome is None
    desk.tell(messages.Refuse(bytes(range(16)), "too small"))
    assert desk.session.outcome is Outcome.REFUSED
    assert desk.session.outcome_text == "too small"


def test_who_is_welcome_does_not_heed_what_an_earlier_start_was_told() -> None:
    desk = ready_desk()
    desk.tell(messages.Refuse(bytes(range(16)), "too small"))
    assert desk.session.outcome is None
    assert desk.session.drops.stale == 1


def test_foreign_headers_are_counted_and_get_no_row() -> None:
    desk = ready_desk()
    drops = desk.session.drops
    for field, value, reason in (
        ("magic", 1, "foreign"), ("version", 9, "foreign"), ("kind", 2, "foreign"), ("session", 5, "session"),
        ("object", 7, "malformed"), ("slice", CHUNKS, "malformed"), ("slice", (1 << 32) - 1, "malformed"),
        ("esi", 255, "malformed"), ("sequence", 1 << 31, "malformed"),
    ):  # fmt: skip
        headers = np.zeros(2, wire.DATA_HEADER)
        headers["magic"], headers["version"], headers["kind"] = wire.MAGIC, wire.VERSION, wire.KIND_DATA
        headers["session"], headers["object"], headers["sequence"] = SESSION_ID, IMAGE, desk.sequence
        headers[field][0] = value
        before = getattr(drops, reason)
        placements = desk.session.receive_symbols(headers, desk.now)
        assert sum(len(placement.rows) for placement in placements) == 1, field
        assert getattr(drops, reason) == before + 1, field
    assert desk.session.receive_symbols(headers[:0], desk.now) == []


def test_a_huge_sequence_number_from_the_sender_is_survived() -> None:
    desk = ready_desk()
    desk.sequence = limits.SEQUENCE_MAX - 1
    desk.status()
    desk.window(IMAGE, [0], list(range(K)))
    desk.sequence = 2
    desk.status()
    desk.window(IMAGE, [1], list(range(K)), lose=((1, 0),))
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: 1}


def test_loss_in_the_network_and_in_the_host_are_told_apart() -> None:
    desk = ready_desk()
    desk.status()
    desk.pass_time(200 * MS)
    desk.said(messages.Report)
    desk.window(IMAGE, [0, 1, 2, 3, 4], list(range(K)), lose=((0, 0), (1, 1), (2, 2), (3, 3)))
    desk.session.host_dropped(1)
    desk.status()
    desk.pass_time(200 * MS)
    reports = [report for report in desk.said(messages.Report) if isinstance(report, messages.Report)]
    assert reports[0].lost_network == 3
    assert reports[0].lost_host == 1
    assert reports[0].loss_ppm == 3 * 1_000_000 // 20
    assert reports[0].overrun_ppm == 1_000_000 // 20


def test_no_round_trip_is_measured_through_a_full_socket() -> None:
    desk = ready_desk()
    echoes = []
    for backlog in (0.0, 0.5, 0.0):
        desk.status()
        desk.session.backlog = backlog
        desk.said(messages.Report)
        desk.session._echo_us = 77
        desk.pass_time(200 * MS)
        echoes += [report.echo_us for report in desk.said(messages.Report) if isinstance(report, messages.Report)][-1:]
    assert echoes == [77, 0, 77]


def test_a_long_identity_still_joins() -> None:
    desk = Desk()
    identity = Identity(bytes(16), 1, "語" * 64, "/mnt/" + "語" * 400 + "\udcff", -1)
    session = ReceiverSession(desk.session.found, identity, pool_size=1 << 20, rng=random.Random(1), now=desk.now)
    session.handle_timeout(desk.now + limits.SECOND_NS)
    assert session.poll_transmit() is not None
    session.fail("語" * 1000)
    assert session.outcome is Outcome.FAILED


def check_begun() -> Desk:
    """Return a receiver that looks through its target while the sender has nothing to send."""
    desk = Desk()
    desk.welcome()
    desk.cursor = CHUNKS
    desk.window(MANIFEST, [0], [0, 1])
    desk.manifest_sent = True
    desk.events()
    desk.session.extent_checked(MANIFEST, 0, good=True)
    desk.session.manifest_known(manifest(), np.ones(CHUNKS, np.bool_), 0, checking=True)
    desk.status()
    desk.pass_time(200 * MS)
    assert desk.needs() == {}
    return desk


def test_nothing_is_asked_for_while_the_target_is_being_looked_through() -> None:
    desk = check_begun()
    desk.pass_time(limits.SECOND_NS)
    desk.status()
    desk.pass_time(limits.SECOND_NS)
    reports = desk.said(messages.Report)
    assert reports
    assert all(isinstance(report, messages.Report) and report.checking for report in reports)
    assert desk.session.chunks_found(np.array([0, 2])).tolist() == [0, 2]
    desk.session.check_ended(desk.now)
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: K, 3: K, 4: K}
    assert desk.session.bytes_done == 2 * 4096


def test_what_comes_while_the_target_is_looked_through_is_taken() -> None:
    desk = check_begun()
    desk.window(IMAGE, [1], list(range(K)))
    assert desk.events(ExtentReady) == [ExtentReady(IMAGE, 1)]
    assert desk.session.chunks_found(np.arange(CHUNKS)).tolist() == [0, 2, 3, 4]
    assert desk.events(AllWritten) == []
    desk.session.extent_checked(IMAGE, 1, good=True)
    assert desk.events() == [AllWritten()]
    assert desk.session.bytes_done == CHUNKS * 4096


def test_a_slice_that_is_being_decoded_is_let_go_afterwards() -> None:
    desk = check_begun()
    desk.window(IMAGE, [2], [*range(1, K), K])
    assert desk.events() == [SliceToDecode(IMAGE, 2)]
    desk.session.chunks_found(np.arange(CHUNKS))
    desk.session.slice_decoded(IMAGE, 2)
    assert desk.session.assembly(IMAGE).fill == 0
    assert desk.session.assembly(IMAGE).complete_slices() == []


def test_a_manifest_that_is_known_already_is_not_asked_for() -> None:
    desk = Desk()
    desk.session.manifest_known(manifest(), np.arange(CHUNKS) == 1, 4 * 4096)
    desk.welcome()
    desk.cursor, desk.manifest_sent = CHUNKS, True
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: K}
    desk.window(MANIFEST, [0], [0, 1])
    assert desk.events(ExtentReady) == []
