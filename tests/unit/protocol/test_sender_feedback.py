"""Goal: what a sender makes of NACKs and reports: repairs, advice, the valve, and the rate.

Method: its machine alone, as in ``sender_desk``.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from protocol import limits, messages, wire
from protocol.deficits import DEFICIT
from protocol.messages import SessionState
from protocol.sender_events import StartRule
from protocol.sender_session import SenderSession
from tests.unit.protocol.sender_desk import MS, SLICES, SYMBOL, Desk, K, parameters


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
    assert np.frombuffer(advice.items, DEFICIT).tolist() == [(3, 1, 3), (7, 1, 1)]
    window = desk.session.poll_window(desk.now)
    assert window is not None
    assert advice.sequence == window.first_sequence + window.datagram_count
    assert window.slices.tolist() == [3, 7]
    assert window.counts.tolist() == [3, 1]
    desk.nack([(3, 1, 2)], 0, sequence=window.first_sequence)
    assert desk.session.poll_window(desk.now) is None


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
    assert np.frombuffer(advice.items, DEFICIT).tolist() == [(0, SLICES, K)]


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
    assert np.frombuffer(advice.items, DEFICIT).tolist() == [(7, 1, 1)]


@pytest.mark.parametrize(
    ("asking", "where", "told"),
    [(30, "laid out", False), (60, "laid out", True), (60, "gone", False), (60, "needed", False)],
)
def test_many_who_ask_for_what_is_on_its_way_to_them_are_told_so(asking: int, where: str, told: bool) -> None:
    """They had no word of it, and the rest of the fleet has none either. A few do not matter, nor what has left."""
    desk = Desk(StartRule(receivers=200))
    for who in range(200):
        desk.join(who)
    desk.send_all()
    seen = desk.session.sequence
    desk.nack([(3, 1, 2)], 0, seen)
    desk.pass_time(limits.AGGREGATION_MAX_NS)
    desk.sends_at_once = False
    desk.send_all()
    end = desk.session.sequence
    assert end > seen
    desk.said(messages.RepairAdvice)
    if where == "needed":
        desk.nack([(3, 1, 2)], 199, end)
    for who in range(1, asking):
        desk.nack([(3, 1, 2)], who, seen)
    desk.sends_at_once = where == "gone"
    desk.pass_time(limits.AGGREGATION_MAX_NS)
    advices = [advice for advice in desk.said(messages.RepairAdvice) if isinstance(advice, messages.RepairAdvice)]
    assert any(advice.sequence == end for advice in advices) == told
    assert (where == "needed") == any(advice.sequence > end for advice in advices)


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


# --- the beginning of a stream whose rate is to be found --------------------------------------------------------------

IMAGE_SLICES = 400
WIDE = 1440


def finding_desk(slices: int = IMAGE_SLICES, receivers: int = 1, **changes: object) -> Desk:
    """Return a desk that has begun to send so many slices of 184 kB at 6 Gbit/s to its receivers."""
    desk = Desk()
    fields = {
        "stream_size": slices * 128 * WIDE, "symbol_size": WIDE, "source_symbols": 128, "window_slices": 32,
        "rate": None, "rate_start": 750e6, "rate_ceiling": 1250e6,
    }  # fmt: skip
    wide = parameters(StartRule(receivers=receivers), **fields | changes)
    desk.session = SenderSession(wide, np.ones(slices, np.bool_), desk.now)
    for who in range(receivers):
        desk.tell(messages.Join(bytes([who] * 16), 1, "host", "/dev/x", -1, 0, wants_all=True), who)
    assert desk.session.started
    return desk


def handed_out(desk: Desk) -> int:
    """Return the bytes of all windows, after every window that may go out did."""
    desk.send_all()
    return desk.session.sequence * (WIDE + wire.DATA_HEADER_SIZE)


def tell_of(desk: Desk, received: int, lost: int, *, loss: float = 0.0, fill: float = 0.0, sequence: int = 0) -> None:
    ppm, permille = round(loss * 1e6), round(fill * 1e3)
    at, since = sequence or received + lost, desk.session.fleet.peers[0].reported_sequence
    desk.tell(
        messages.Report(0, 0, 0, received, lost, 0, ppm, 0, permille, 1_000_000, 0, False, sequence=at, since=since)
    )


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


def climb(desk: Desk, steps: int, *, loss: float = 0.0, fill: float = 0.0, used: float = 1.0) -> list[float]:
    """Have a receiver report every 15 ms, of what left 2 ms before; return the rates meanwhile, 6 Gbit/s being 1."""
    desk.sends_at_once, rates = False, []
    for _step in range(steps):
        rates.append(desk.session.rate_bytes_per_s / 750e6)
        per_ms = used * desk.session.rate_bytes_per_s / (WIDE + wire.DATA_HEADER_SIZE) / 1000
        desk.send_all()
        desk.pass_time(15 * MS)
        desk.session.sent_below += int(15 * per_ms)
        assert desk.session.sent_below <= desk.session.sequence
        heard = desk.session.sent_below - int(2 * per_ms)
        tell_of(desk, received=heard - round(loss * heard), lost=round(loss * heard), loss=loss, fill=fill)
    return rates


def asked_interval_ms(desk: Desk) -> int:
    """Return how often receivers are to report, as they were told last."""
    desk.pass_time(2 * limits.FEEDBACK_ADVICE_GAP_NS)
    advice = desk.said(messages.FeedbackAdvice)[-1]
    assert isinstance(advice, messages.FeedbackAdvice)
    return advice.report_interval_ms


def test_a_rate_that_everybody_keeps_up_with_is_raised_as_soon_as_they_say_so() -> None:
    """Every second report is the first that speaks of the new rate alone."""
    desk = finding_desk(10_000, rate_ceiling=12_500e6)
    assert climb(desk, 7) == [1, 1.5, 1.5, 1.5**2, 1.5**2, 1.5**3, 1.5**3]
    assert asked_interval_ms(desk) == limits.START_REPORT_INTERVAL_MIN_NS // MS


@pytest.mark.parametrize("trouble", [{"loss": 0.003}, {"loss": 0.015}, {"fill": 0.2}, {"used": 0.5}], ids=str)
def test_a_rate_that_is_not_used_or_not_kept_up_with_stays(trouble: dict[str, float]) -> None:
    """Nor is it cut any sooner: of two short reports in a row, a single burst may be in both."""
    desk = finding_desk(10_000, rate_ceiling=12_500e6)
    assert climb(desk, 4, **trouble) == [1, 1, 1, 1]
    climb(desk, 20, **trouble)
    assert asked_interval_ms(desk) == limits.REPORT_INTERVAL_MIN_NS // MS, "nothing is being found out any more"


@pytest.mark.parametrize(("interval_ms", "counts"), [(15, False), (60, True)])
def test_one_short_report_of_much_loss_is_a_burst_and_one_of_a_usual_time_is_not(
    interval_ms: int, counts: bool
) -> None:
    for loss, flood in ((0.03, False), (0.4, True)):
        desk = finding_desk(10_000, rate_ceiling=12_500e6)
        before = climb(desk, 2)[-1]
        desk.send_all()
        desk.pass_time(interval_ms * MS)
        desk.session.sent_below += int(interval_ms / 1000 * before * 750e6 / (WIDE + wire.DATA_HEADER_SIZE))
        tell_of(desk, received=desk.session.sent_below, lost=0, loss=loss)
        control = desk.session._feedback.control
        assert control is not None
        assert bool(control.flood_count) is (flood and counts)
        desk.pass_time(60 * MS)
        desk.session.sent_below += int(0.06 * before * 750e6 / (WIDE + wire.DATA_HEADER_SIZE))
        desk.send_all()
        desk.pass_time(60 * MS)
        assert (desk.session.rate_bytes_per_s < before * 750e6) is (flood or counts)


def test_a_pool_that_fills_is_no_reason_to_go_on_sooner() -> None:
    desk = finding_desk(10_000, rate_ceiling=12_500e6)
    assert climb(desk, 2, fill=0.08) == [1, 1], "from empty to eight hundredths in 15 ms"


def test_of_a_slow_stream_a_short_report_says_too_little_to_go_on() -> None:
    desk = finding_desk(10_000, rate_start=0.05 * 750e6, rate_ceiling=12_500e6)
    assert climb(desk, 4) == pytest.approx([0.05, 0.05, 0.05, 0.075]), "an interval is 4 GRTT, 40 ms"


def test_reports_are_as_seldom_as_ever_once_the_ceiling_is_reached() -> None:
    desk = finding_desk(10_000)
    assert climb(desk, 6)[-1] == pytest.approx(1250 / 750)
    assert asked_interval_ms(desk) == limits.REPORT_INTERVAL_MIN_NS // MS


def test_a_rate_is_not_raised_before_everybody_has_answered() -> None:
    desk = finding_desk(10_000, receivers=2, rate_ceiling=12_500e6)
    assert climb(desk, 3) == [1, 1, 1]


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
    desk.pass_time(limits.STATUS_INTERVAL_NS)
    advice = desk.said(messages.FeedbackAdvice)[-1]
    assert isinstance(advice, messages.FeedbackAdvice)
    assert advice.since == desk.session.sent_below, "who looks whether it carries the rate counts from here"
    for late in range(1, 9):  # a receiver without time, that has not yet read what was sent before the cut
        desk.pass_time(100 * MS)
        tell_of(desk, received=600, lost=5500 + late, loss=0.9, sequence=sent // 2 + late)
        assert desk.session.rate_bytes_per_s == cut
    desk.sends_at_once = False
    for now in range(1, 9):
        desk.send_all()
        desk.pass_time(100 * MS)
        desk.session.sent_below += int(0.1 * desk.session.rate_bytes_per_s / WIDE)
        tell_of(desk, received=600 + 9000 * now, lost=5500, loss=0.0, sequence=desk.session.sequence)
    assert desk.session.rate_bytes_per_s > cut


@pytest.mark.parametrize("twice", [True, False])
def test_a_loss_that_is_told_twice_is_no_loss_that_lasts(twice: bool) -> None:
    desk = finding_desk()
    desk.send_all()
    desk.pass_time(60 * MS)
    tell_of(desk, received=5000, lost=0)
    desk.pass_time(60 * MS)
    tell_of(desk, received=5980, lost=20, loss=0.019)
    begun = desk.session.rate_bytes_per_s
    desk.pass_time(60 * MS)
    if twice:  # in turn: of all since the last report in turn
        regular = messages.Report(0, 0, 0, 7000, 20, 0, 10_000, 0, 0, 1_000_000, 0, False, sequence=7000, since=5000)
        desk.tell(regular)
    else:
        tell_of(desk, received=6960, lost=40, loss=0.019)
    desk.pass_time(60 * MS)
    assert (desk.session.rate_bytes_per_s < begun) == (not twice)


@pytest.mark.parametrize("since", ["told", "missing"])
def test_a_loss_that_lasts_is_heard_beside_reports_in_turn_and_without_a_since(since: str) -> None:
    desk = finding_desk()
    desk.send_all()
    begun = desk.session.rate_bytes_per_s
    spans = [(0, 5000, 0), (5000, 6000, 19_000), (5000, 6900, 10_000), (6500, 7500, 19_000)]
    if since == "missing":
        spans = [(0, 5000, 0), (0, 6000, 19_000), (0, 7000, 19_000)]
    for first, stop, ppm in spans:
        desk.pass_time(40 * MS)
        assert desk.session.rate_bytes_per_s == begun
        desk.tell(messages.Report(0, 0, 0, stop, 0, 0, ppm, 0, 0, 1_000_000, 0, False, sequence=stop, since=first))
    desk.pass_time(limits.STATUS_INTERVAL_NS)
    assert desk.session.rate_bytes_per_s < begun


@pytest.mark.parametrize("by", ["network", "host"])
def test_the_gaps_of_a_full_socket_keep_nobody_from_returning_to_speed(by: str) -> None:
    """They show when it is read again, an interval after its receiver was full, and speak of a rate that is over."""
    desk = finding_desk(10_000)
    before = climb(desk, 4)[-1]
    tell_of(desk, received=desk.session.sent_below, lost=0, fill=0.9)
    desk.pass_time(60 * MS)
    tell_of(desk, received=desk.session.sent_below, lost=0, fill=0.9)
    cut = desk.session.rate_bytes_per_s / 750e6
    assert cut < 0.6 * before
    desk.pass_time(110 * MS)
    at = desk.session.sent_below
    for lost, ppm in ((300, 300_000), (60, 60_000), (0, 0)):
        loss, overrun = (ppm, 0) if by == "network" else (0, ppm)
        desk.send_all()
        desk.pass_time(55 * MS)
        desk.session.sent_below += int(0.055 * desk.session.rate_bytes_per_s / (WIDE + wire.DATA_HEADER_SIZE))
        sent, since = desk.session.sent_below, desk.session.fleet.peers[0].reported_sequence
        told = messages.Report(0, 0, 0, sent, lost, 0, loss, overrun, 0, 700_000_000, 0, False)
        desk.tell(msgspec.structs.replace(told, sequence=sent, since=since))
        assert desk.session.rate_bytes_per_s / 750e6 >= cut
    assert desk.session.sent_below > at
    assert desk.session.rate_bytes_per_s >= 0.9 * 700e6


def test_a_disk_that_never_did_anything_holds_the_stream_while_its_socket_drops() -> None:
    """Its reports say that it is full, one after another, that nothing is done, and what it drops."""
    desk = finding_desk(10_000)
    climb(desk, 4)
    for _report in range(40):
        desk.send_all()
        desk.pass_time(55 * MS)
        desk.session.sent_below = desk.session.sequence
        sent, since = desk.session.sent_below, desk.session.fleet.peers[0].reported_sequence
        desk.tell(messages.Report(0, 0, 0, sent, 0, 0, 0, 900_000, 1000, 0, 0, False, sequence=sent, since=since))
    assert desk.session.rate_bytes_per_s < 0.01 * 750e6


def test_what_a_disk_does_is_heard_in_a_report_that_is_good_for_nothing_else() -> None:
    """One in turn, whose interval was told out of turn already."""
    desk = finding_desk(10_000)
    before = climb(desk, 4)[-1] * 750e6
    for _report in range(2):
        tell_of(desk, received=desk.session.sent_below, lost=0, fill=0.9)
        desk.pass_time(60 * MS)
    assert desk.session.rate_bytes_per_s < 0.6 * before
    desk.pass_time(110 * MS)
    for drain, outdated in ((2_000_000, True), (800_000_000, True), (2_000_000, False)):
        desk.send_all()
        desk.pass_time(55 * MS)
        desk.session.sent_below += int(0.055 * desk.session.rate_bytes_per_s / (WIDE + wire.DATA_HEADER_SIZE))
        sent, since = desk.session.sent_below, desk.session.fleet.peers[0].reported_sequence - outdated
        desk.tell(messages.Report(0, 0, 0, sent, 0, 0, 0, 0, 0, drain, 0, False, sequence=sent, since=since))
    desk.pass_time(55 * MS)
    assert desk.session.rate_bytes_per_s > 0.6 * before


def test_after_a_flood_so_much_goes_out_and_the_rest_when_somebody_has_heard_some() -> None:
    desk = finding_desk()
    window = 32 * 140 * (WIDE + wire.DATA_HEADER_SIZE)
    before, sent = handed_out(desk), desk.session.sequence
    desk.pass_time(20 * MS)
    tell_of(desk, received=600, lost=5500, loss=0.9)
    assert limits.START_CREDIT <= handed_out(desk) - before < limits.START_CREDIT + window
    tell_of(desk, received=700, lost=sent + 4000, loss=0.9)
    assert handed_out(desk) - before < limits.START_CREDIT + window, "half of that was lost before the rate was cut"
    tell_of(desk, received=8000, lost=sent + 4000, loss=0.0)
    assert handed_out(desk) > IMAGE_SLICES * 128 * WIDE


@pytest.mark.parametrize(("loss", "told", "more"), [(0.05, None, True), (0.0, None, False), (0.05, 1, False)])
def test_what_is_sent_last_carries_more(loss: float, told: int | None, more: bool) -> None:
    """Of 208 datagrams a second, 21 leave in 100 ms: two slices of eight symbols, which is what a window holds here."""
    desk = Desk(repair_symbols=told, rate=2e4)
    desk.join()
    for report in range(1, 4):
        desk.pass_time(100 * MS)
        tell_of(desk, received=round(1000 * report * (1 - loss)), lost=round(1000 * report * loss), loss=loss)
    counts: dict[int, int] = {}
    while (window := desk.session.poll_window(desk.now)) is not None:
        if window.object_id == limits.OBJECT_IMAGE:
            counts |= dict(zip(window.slices.tolist(), window.counts.tolist(), strict=True))
        desk.pass_time(window.datagram_count * limits.SECOND_NS // 208)
    extra = np.array([counts[slice_index] for slice_index in range(SLICES)]) - K
    assert len(set(extra[:-4].tolist())) == 1
    assert bool((extra[-4:] > extra[0]).all()) is more
    assert bool((extra[-4:] == extra[0]).all()) is not more


def test_a_storm_is_answered_for_what_went_out_as_what_it_asks_for() -> None:
    """A queue was full for the second half: the first half, of which little is lacking, needs no repair for all."""
    desk = Desk(StartRule(receivers=9), repair_symbols=None, rate=1e9, window_slices=10)
    for who in range(9):
        desk.join(who)
    desk.send_all()
    for who in range(8):
        items = np.array([(2, 1, 1), (10, 10, 3)], DEFICIT).tobytes()
        desk.tell(messages.Nack(who, limits.OBJECT_IMAGE, desk.session.sequence, 0, 0, 250_000, items), who)
    desk.pass_time(1)
    repaired: dict[int, int] = {}
    while (window := desk.session.poll_window(desk.now)) is not None:
        repaired |= dict(zip(window.slices.tolist(), window.counts.tolist(), strict=True))
    assert sorted(repaired) == [2, *range(10, 20)]
    assert min(repaired[slice_index] for slice_index in range(10, 20)) > 4, (
        "the model's answer, for those who are silent"
    )


def storm_desk(receivers: int = 200) -> Desk:
    """So many receivers, and two windows of ten slices of 64 symbols that went out."""
    k = 64
    desk = Desk(
        StartRule(receivers=receivers), repair_symbols=None, rate=1e9, window_slices=10, source_symbols=k,
        stream_size=SLICES * k * SYMBOL,
    )  # fmt: skip
    for who in range(receivers):
        desk.join(who)
    desk.send_all()
    return desk


def storm(desk: Desk, first: int, runs: list[tuple[int, int, int]], loss_ppm: int = 1_000) -> dict[int, int]:
    """Let eight receivers ask for the same; return what then goes out."""
    for who in range(first, first + 8):
        items = np.array(runs, DEFICIT).tobytes()
        desk.tell(messages.Nack(who, limits.OBJECT_IMAGE, desk.session.sequence, 0, 0, loss_ppm, items), who)
    desk.pass_time(1)
    repaired: dict[int, int] = {}
    while (window := desk.session.poll_window(desk.now)) is not None:
        repaired |= dict(zip(window.slices.tolist(), window.counts.tolist(), strict=True))
    return repaired


def test_what_a_sample_of_the_fleet_lacks_goes_out_before_the_others_ask() -> None:
    """A rate that grew filled their queues: they lost little before, and that is what they tell."""
    repaired = storm(storm_desk(), 0, [(10, 4, 4), (15, 5, 6)])
    assert sorted(repaired) == list(range(10, 20)), "slice 14, too, of which nobody has asked for any"
    assert min(repaired.values()) >= 12


@pytest.mark.parametrize(
    ("lacking", "receivers"),
    [((10, 10, 20), 200), ((12, 1, 1), 200), ((10, 10, 4), 20)],
    ids=["a flood", "one slice", "a few"],
)
def test_a_sample_that_says_nothing_of_others_or_of_few_changes_nothing(
    lacking: tuple[int, int, int], receivers: int
) -> None:
    first, count, deficit = lacking
    repaired = storm(storm_desk(receivers), 0, [lacking])
    assert sorted(repaired) == list(range(first, first + count))
    assert max(repaired.values()) <= deficit + 2


def test_a_later_storm_that_lacks_more_of_a_window_gets_more() -> None:
    desk = storm_desk()
    storm(desk, 0, [(10, 2, 1)])
    repaired = storm(desk, 8, [(12, 4, 4), (16, 4, 6)])
    assert sorted(repaired) == list(range(10, 20))
    assert min(repaired.values()) >= 8


@pytest.mark.parametrize("used", [True, False])
def test_a_rate_is_used_where_what_was_handed_out_long_ago_is_still_leaving(used: bool) -> None:
    """Windows that were handed out at a high rate take minutes at the lowest, and no new one is asked for meanwhile."""
    desk = finding_desk()
    desk.sends_at_once = False
    desk.session.sent_below = received = 0
    desk.send_all()
    for _report in range(12):
        desk.pass_time(100 * MS)
        desk.session.sent_below += 200
        received += 200
        tell_of(desk, received=received, lost=0, fill=0.9, sequence=desk.session.sequence)
    low = desk.session.rate_bytes_per_s
    assert low < 0.1 * 750e6
    for _report in range(60):
        desk.pass_time(100 * MS)
        desk.session.sent_below += round(0.1 * desk.session.rate_bytes_per_s / WIDE) if used else 0
        tell_of(desk, received=received, lost=0, sequence=desk.session.sequence)
    assert (desk.session.rate_bytes_per_s > 2 * low) == used


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
