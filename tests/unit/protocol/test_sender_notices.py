"""Goal: what a sender says to everybody, and when. Method: its machine alone, as in ``sender_desk``."""

from __future__ import annotations

import pytest

from protocol import limits, messages
from protocol.messages import SessionState
from protocol.sender_events import Destination, StartRule
from tests.unit.protocol.sender_desk import MS, SLICES, Desk


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


def test_receivers_are_told_at_once_how_long_a_word_takes() -> None:
    """They back off by that: told 80 ms later, all of a window's receivers asked for the same."""
    desk = Desk(StartRule(receivers=2))
    desk.join(0)
    desk.join(1)
    desk.pass_time(limits.FEEDBACK_ADVICE_GAP_NS)
    desk.mail()
    sent_us = (desk.now - 30 * MS) // limits.MICROSECOND_NS
    desk.tell(messages.Report(0, sent_us & 0xFFFFFFFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, False))
    desk.pass_time(limits.FEEDBACK_ADVICE_GAP_NS)
    advices = [
        message.grtt_us
        for message in desk.said(messages.FeedbackAdvice)
        if isinstance(message, messages.FeedbackAdvice)
    ]
    assert advices == [30_000]
