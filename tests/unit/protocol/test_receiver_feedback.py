"""Goal: a receiver asks for what is lacking, reports what limits it, and stays silent where another has spoken.

Method: the machine alone, by ``receiver_desk``; how a whole fleet's feedback adds up is in tests/simulation.
"""

from __future__ import annotations

import numpy as np
import pytest

from protocol import limits, messages
from protocol.deficits import DEFICIT
from protocol.messages import EndReason, SessionState
from protocol.receiver_events import SlicesToDecode
from protocol.receiver_feedback import Timer
from tests.unit.protocol.receiver_desk import CHUNKS, IMAGE, MANIFEST, MS, Desk, K, ready_desk


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
    assert desk.events(SlicesToDecode) == [SlicesToDecode(IMAGE, (0,))]
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
        items = np.array([(1, 1, 1), (2, 1, 1)], DEFICIT).tobytes()
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
    items = np.array([(0, 1, 1), (1, 1, 1)], DEFICIT).tobytes()
    desk.tell(messages.RepairAdvice(IMAGE, items, 0))
    desk.pass_time(61 * MS)
    assert desk.needs() == {1: 2}


@pytest.mark.parametrize("then", ["passed", "idle", "long ago"])
def test_what_was_promised_is_waited_for_until_the_stream_has_come_so_far(then: str) -> None:
    """Repairs stand in line behind windows that are laid out already."""
    desk = ready_desk()
    desk.window(IMAGE, [0], list(range(K)), lose=((0, 2),))
    desk.tell(messages.RepairAdvice(IMAGE, np.array([(0, 1, 1)], DEFICIT).tobytes(), desk.sequence + 3 * K))
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
    desk.tell(messages.RepairAdvice(IMAGE, np.array([(0, 1, 3)], DEFICIT).tobytes(), desk.sequence + 4))
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
    end = desk.session._feedback._due[Timer.NACK]
    desk.tell(messages.RepairAdvice(IMAGE, np.array([(0, 1, 1)], DEFICIT).tobytes(), 0))
    desk.window(IMAGE, [1], list(range(K)), lose=((1, 2),))
    desk.status()
    desk.pass_time(end - desk.now)
    assert desk.needs() == {}
    again = desk.session._feedback._due[Timer.NACK]
    desk.pass_time(again - desk.now)
    assert desk.needs()[1] == 1


def test_what_is_got_done_is_told_as_of_when_data_came() -> None:
    """Else a large fleet's first reports, of half a second of which data came in a tenth, tell a fifth of it."""
    desk = ready_desk()
    desk.report_interval_ms = 1000
    desk.session._feedback._data_came = False
    desk.status()
    desk.pass_time(900 * MS)
    desk.said(messages.Report)
    desk.window(IMAGE, [0], list(range(K)))
    desk.session.reception.stream_bytes += 1_000_000
    begun = desk.now
    while not (reports := desk.said(messages.Report)):
        desk.pass_time(MS)
    (report,) = reports
    assert isinstance(report, messages.Report)
    assert report.drain_rate == pytest.approx(1_000_000 * limits.SECOND_NS / (desk.now - begun), rel=0.1)


def test_a_backoff_is_as_long_as_a_queue_that_has_just_filled_makes_a_word_of_the_others_take() -> None:
    """What the sender says of it stands in that queue; a thousand would ask before they hear that one did."""
    waits = []
    for queued_ms in (0, 100):
        desk = ready_desk()
        desk.receivers = 1000
        desk.status()
        for waited_ms in (0, 0, queued_ms, queued_ms):
            desk.now += 10 * MS
            desk.session._feedback.heard((desk.now // 1000 - 1000 * waited_ms) & 0xFFFFFFFF, desk.now)
        desk.window(IMAGE, [0], list(range(K)), lose=((0, 2),))
        begun, desk.sequence = desk.now, desk.sequence + limits.REORDER_GUARD
        desk.window(IMAGE, [1], list(range(K)))
        while not (asked := desk.needs()):
            desk.pass_time(MS)
        assert asked[0] == 1
        waits.append((desk.now - begun) / MS)
    assert waits[0] < 6 * 10 + 20
    assert waits[1] > 3 * 100


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


def test_what_is_told_out_of_turn_says_where_in_the_stream_it_was_lost() -> None:
    """It is told some time after it was measured, and by then the sender may have cut the rate for it."""
    desk = limited_desk(500)
    reports: list[messages.AnyMessage] = []
    while not reports:
        desk.pass_time(MS)
        desk.window(IMAGE, [0], list(range(K)))
        reports = desk.said(messages.Report)
    (report,) = reports
    assert isinstance(report, messages.Report)
    assert report.loss_ppm / 1e6 * (report.sequence - report.since) == pytest.approx(500, abs=1)
    assert report.sequence < desk.sequence - 5 * K, "what came between looking and telling is not in it"


@pytest.mark.parametrize(
    "why", ["another told less", "nobody need", "hardly anything was lost", "ended", "the rate was lowered since"]
)
def test_nobody_speaks_out_of_turn_where(why: str) -> None:
    desk = limited_desk(8 if why == "hardly anything was lost" else 500)
    if why == "another told less":
        desk.advise(1000, 5000, 800)
    elif why == "nobody need":
        desk.advise(1000, 5000, 0)
    elif why == "the rate was lowered since":
        desk.advise(1000, 5000, 1000, since=desk.sequence - 100)
    elif why == "ended":
        desk.tell(messages.End(EndReason.COMPLETE, ""))
    desk.pass_time(2 * limits.REPORT_URGENT_NS)
    assert desk.said(messages.Report) == []


def test_no_round_trip_is_measured_through_a_full_socket_nor_while_the_host_looked_away() -> None:
    desk = ready_desk()
    echoes = []
    for backlog, overdue in ((0.0, False), (0.5, False), (0.0, True), (0.0, False)):
        desk.status()
        desk.session.reception.backlog, desk.session.reception.overdue = backlog, overdue
        desk.said(messages.Report)
        desk.session._feedback._echo_us = 77
        desk.pass_time(200 * MS)
        echoes += [report.echo_us for report in desk.said(messages.Report) if isinstance(report, messages.Report)][-1:]
    assert echoes == [77, 0, 0, 77]


@pytest.mark.parametrize(("backlog", "overdue", "late"), [(0.0, False, True), (0.5, False, False), (0.0, True, False)])
def test_what_waited_in_the_host_is_no_queue_on_the_way(backlog: float, overdue: bool, late: bool) -> None:
    """Backoffs are as long as that queue, and a disk that stood still for a second would make them six."""
    desk = ready_desk()
    session, at_us = desk.session, desk.now // 1000
    for later_us in range(4):
        session._feedback.heard(at_us + later_us, desk.now + later_us * 1000)
    session.reception.backlog, session.reception.overdue = backlog, overdue
    for later_us in range(2):
        session._feedback.heard(at_us + later_us, desk.now + (800_000 + later_us) * 1000)
    assert session._feedback._queue_delay.value_ns == (800 * MS if late else 0)
