"""Goal: every row goes out once, in order and in time; what the network refuses is counted, or told in words.

Method: real sockets on loopback; a socket that fails on command stands for a full queue or a lost link; the pacer runs
on a clock that the test moves.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from ghostcast.net import libc, transmit
from ghostcast.net.transmit import BatchSender, Pacer
from protocol import limits, wire
from protocol.errors import UsageError
from protocol.symbols import DATA_HEADER
from tests.unit.ghostcast.net.link import FAST, Link


class FailingSocket(socket.socket):
    """Refuses with the errors it is told, 0 for none, in order; then sends."""

    refusals: list[int]

    def refuse(self) -> None:
        if self.refusals and (number := self.refusals.pop(0)):
            raise OSError(number, os.strerror(number))

    def send(self, *arguments: Any) -> int:
        self.refuse()
        return super().send(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        self.refuse()
        return super().sendmsg(*arguments)


@pytest.fixture(params=[True, False], ids=["sendmmsg", "one by one"])
def failing(link: Link, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchSender]:
    """The link's sender, on a socket that refuses what ``refusals`` says, with sendmmsg and without."""

    def sendmmsg(*arguments: int) -> int:
        opened.refuse()
        return real(*arguments)

    real = libc.sendmmsg
    monkeypatch.setattr(libc, "sendmmsg", sendmmsg)
    monkeypatch.setattr(libc, "HAVE_SENDMMSG", request.param)
    with FailingSocket(fileno=os.dup(link.outgoing.fileno())) as opened:
        opened.refusals = []
        port = link.listener.getsockname()[1]
        yield BatchSender(opened, link.group, port, wire.DATA_HEADER_SIZE + link.symbol_size)


def refuse(sender: BatchSender, *numbers: int) -> None:
    assert isinstance(sender._socket, FailingSocket)
    sender._socket.refusals += numbers


def test_send_times_are_filled_in_and_bytes_counted(link: Link) -> None:
    rows = link.rows(3)
    rows[:, wire.SENT_US_OFFSET : wire.SENT_US_OFFSET + 4] = 0
    link.sender.send_rows(rows, lambda: FAST)
    link.sender.send_control(wire.control_datagram(1, b"abc"))
    times = rows[:, : wire.DATA_HEADER_SIZE].view(DATA_HEADER)["sent_us"]
    assert len(np.unique(times)) == 1
    said = link.fetch(3, 1).control[0]
    later = int.from_bytes(said[wire.SENT_US_OFFSET : wire.SENT_US_OFFSET + 4])
    assert (later - int(times[0, 0])) & 0xFFFFFFFF < 60_000_000
    assert link.sender.bytes_sent == rows.nbytes + len(said)
    assert link.sender.datagrams_refused == 0


@pytest.mark.parametrize("number", sorted(transmit._TRANSIENT))
@pytest.mark.parametrize("offload", [True, False])
def test_what_a_full_queue_refuses_is_counted_and_the_rest_goes_out(
    number: int, offload: bool, link: Link, failing: BatchSender
) -> None:
    if offload and not failing.offload:
        pytest.skip("this kernel does not segment")
    failing.offload = offload
    rows = link.rows(failing.batch_count + 2)
    refuse(failing, number)
    failing.send_rows(rows, lambda: FAST)
    assert failing.datagrams_refused == failing.batch_count
    assert failing.bytes_sent == 2 * rows.shape[1]
    assert link.fetch(2).sequences == [failing.batch_count, failing.batch_count + 1]
    refuse(failing, number)
    failing.send_control(wire.control_datagram(1, b"lost"))
    failing.send_control(wire.control_datagram(1, b"heard"))
    assert [said[wire.CONTROL_BODY_OFFSET :] for said in link.fetch(0, 1).control] == [b"heard"]
    assert failing.datagrams_refused == failing.batch_count + 1


@pytest.mark.parametrize("have_sendmmsg", [True, False])
def test_of_a_batch_that_is_refused_in_the_middle_the_first_part_counts_as_sent(
    have_sendmmsg: bool, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, calls = 3, iter([True])

    def sendmmsg(descriptor: int, headers: int, count: int, flags: int) -> int:
        if next(calls, None):
            return real(descriptor, headers, taken, flags)
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    real = libc.sendmmsg
    monkeypatch.setattr(libc, "sendmmsg", sendmmsg)
    monkeypatch.setattr(libc, "HAVE_SENDMMSG", have_sendmmsg)
    with FailingSocket(fileno=os.dup(link.outgoing.fileno())) as opened:
        opened.refusals = [0] * taken + [errno.ENOBUFS]
        sender = BatchSender(
            opened, link.group, link.listener.getsockname()[1], wire.DATA_HEADER_SIZE + link.symbol_size
        )
        sender.offload = False
        rows = link.rows(10)
        sender.send_rows(rows, lambda: FAST)
        assert sender.bytes_sent == taken * rows.shape[1]
        assert sender.datagrams_refused == len(rows) - taken
    assert link.fetch(taken).sequences == list(range(taken))


def test_a_burst_that_is_refused_in_the_middle_loses_one_batch_and_what_interrupts_it_nothing(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal, then two batches, then a full queue, then a device that cannot segment after all, then the rest."""
    if not link.sender.offload:
        pytest.skip("this kernel does not segment")
    refusals, real, sender = [errno.EINTR, 0, errno.ENOBUFS, errno.EIO], libc.sendmmsg, link.sender

    def sendmmsg(descriptor: int, headers: int, count: int, flags: int) -> int:
        if not refusals:
            return real(descriptor, headers, count, flags)
        if number := refusals.pop(0):
            raise OSError(number, os.strerror(number))
        return real(descriptor, headers, min(count, 2), flags)

    monkeypatch.setattr(libc, "sendmmsg", sendmmsg)
    batch = sender.batch_count
    rows = link.rows(4 * batch)
    sender.send_rows(rows, lambda: FAST)
    assert not sender.offload
    assert sender.datagrams_refused == batch
    assert sender.bytes_sent == 3 * batch * rows.shape[1]
    assert link.fetch(3 * batch).sequences == [*range(2 * batch), *range(3 * batch, 4 * batch)]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_device_that_cannot_segment_gets_datagrams(number: int, link: Link, failing: BatchSender) -> None:
    failing.offload = True
    rows = link.rows(2 * failing.batch_count)
    refuse(failing, number)
    failing.send_rows(rows, lambda: FAST)
    assert not failing.offload
    assert failing.datagrams_refused == 0
    assert link.fetch(len(rows)).sequences == list(range(len(rows)))


def test_any_other_error_is_not_hidden(link: Link, failing: BatchSender) -> None:
    refuse(failing, errno.EBADF)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        failing.send_rows(link.rows(1), lambda: FAST)


@pytest.mark.parametrize("have_sendmmsg", [True, False])
def test_a_datagram_that_does_not_fit_is_told(have_sendmmsg: bool, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "HAVE_SENDMMSG", have_sendmmsg and libc.HAVE_SENDMMSG)
    size = 65_535
    sender = BatchSender(link.outgoing, link.group, link.listener.getsockname()[1], size)
    sender.offload = False
    with pytest.raises(UsageError, match=r"a datagram of 65535 bytes does not fit .* --symbol-size"):
        sender.send_rows(np.zeros((1, size), np.uint8), lambda: FAST)


def test_a_group_without_a_route_is_told(link: Link) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        bound.close()
        with pytest.raises(UsageError, match=r"cannot send to group 239\.1\.2\.3: .* ip route add"):
            BatchSender(bound, "239.1.2.3", 9, 100)


def test_sending_stops_between_batches_when_told(link: Link) -> None:
    answers = iter([False, False, True])
    slow = link.sender.batch_count * (wire.DATA_HEADER_SIZE + link.symbol_size) / transmit.SLEEP_MIN_S
    link.sender.send_rows(link.rows(5 * link.sender.batch_count), lambda: slow, lambda: next(answers))
    assert link.fetch(2 * link.sender.batch_count).sequences == list(range(2 * link.sender.batch_count))
    assert link.receiver.fetch() is None


@pytest.mark.parametrize(("batches", "together"), [(0.1, 1), (1.9, 1), (3.1, 3), (1e6, transmit.BURST_BATCHES_MAX)])
def test_batches_without_a_sleep_between_them_leave_together(
    batches: float, together: int, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts: list[int] = []
    sender, batch = link.sender, link.sender.batch_count
    sending = sender._send_burst

    def send_burst(rows: npt.NDArray[np.uint8], start: int, end: int) -> None:
        bursts.append(end - start)
        sending(rows, start, end)

    monkeypatch.setattr(sender, "_send_burst", send_burst)
    pace = batches * batch * (wire.DATA_HEADER_SIZE + link.symbol_size) / transmit.SLEEP_MIN_S
    rows = link.rows(together * batch + 1)
    sender.send_rows(rows, lambda: pace)
    assert bursts == [together * batch, 1]
    assert link.fetch(len(rows)).sequences == list(range(len(rows)))


def test_nothing_is_no_reason_to_fail(link: Link) -> None:
    link.sender.send_rows(link.rows(0), lambda: FAST)
    assert link.sender.bytes_sent == 0


@pytest.mark.parametrize("symbol_size", [limits.SYMBOL_SIZE_MIN, 1440, limits.SYMBOL_SIZE_MAX])
def test_a_batch_is_one_udp_payload_at_most(symbol_size: int) -> None:
    link = Link(symbol_size)
    try:
        assert link.sender.batch_count * (wire.DATA_HEADER_SIZE + symbol_size) <= transmit.BATCH_SIZE_MAX
        assert link.sender.batch_count <= transmit.SEGMENTS_MAX
        rows = link.rows(link.sender.batch_count + 1)
        link.sender.send_rows(rows, lambda: FAST)
        assert np.array_equal(link.fetch(len(rows)).payloads, rows[:, wire.DATA_HEADER_SIZE :])
    finally:
        link.close()


# --- the pacer --------------------------------------------------------------------------------------------------------


class Clock:
    """Stands for the module ``time``; a sleep takes as long as it should, plus what ``late_s`` says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.late_s = 0.0
        self.slept = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= transmit.SLEEP_MIN_S
        self.slept += 1
        self.now += seconds + self.late_s


durations = st.one_of(st.just(0.0), st.floats(0, 0.003), st.floats(0, 1.0))
sizes = st.one_of(st.just(transmit.BATCH_SIZE_MAX), st.integers(1, transmit.BATCH_SIZE_MAX))


@hypothesis.given(
    rate=st.floats(3, 10).map(lambda exponent: 10**exponent),
    steps=st.lists(st.tuples(durations, durations, sizes), min_size=1, max_size=12),
    keep_average=st.booleans(),
)
@hypothesis.settings(deadline=None, max_examples=500)
def test_no_interval_carries_more_than_the_rate_and_one_burst(
    rate: float, steps: list[tuple[float, float, int]], keep_average: bool
) -> None:
    """Between any two moments: at most the rate, one batch, what was missed, and a sleep too short to make.

    Where the average is to be kept, the rate may be a little more.
    """
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(transmit, "time", clock)
        pacer = Pacer(keep_average=keep_average)
        moments, totals = [], [0]
        for idle_s, late_s, size in steps:
            clock.now += idle_s
            clock.late_s = late_s
            pacer.wait(size, rate)
            moments.append(clock.now)
            totals.append(totals[-1] + size)
    caught_up = max(rate * transmit.CATCH_UP_S, transmit.CATCH_UP_SIZE)
    slack = caught_up + rate * (transmit.SLEEP_MIN_S + 1e-9)
    for first in range(len(moments)):
        for last in range(first, len(moments)):
            sent = totals[last + 1] - totals[first]
            made_up = sent * transmit.MADE_UP_SHARE if keep_average else 0
            allowed = rate * (moments[last] - moments[first]) + transmit.BATCH_SIZE_MAX + slack + made_up
            assert sent <= allowed * (1 + 1e-9)


def test_late_wake_ups_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(transmit, "time", clock)
    clock.late_s = 0.001
    pacer = Pacer()
    begun = clock.now
    for _batch in range(1000):
        pacer.wait(65_000, 65_000 / 0.0005)
    assert clock.now - begun == pytest.approx(1000 * 0.0005, abs=0.003)
    assert clock.slept > 100


def test_at_a_low_rate_a_wake_up_that_is_a_batch_late_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(transmit, "time", clock)
    clock.late_s = 0.005
    pacer = Pacer()
    begun = clock.now
    for _batch in range(1000):
        pacer.wait(64_768, 190 * limits.MEGABIT)
    assert clock.now - begun == pytest.approx(1000 * 64_768 / (190 * limits.MEGABIT), rel=0.01)


def test_a_told_pace_holds_on_average_where_wake_ups_are_very_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(transmit, "time", clock)
    rate, size, batches = 190 * limits.MEGABIT, 64_768, 5000

    def seconds(pacer: Pacer) -> float:
        begun = clock.now
        for batch in range(batches):
            clock.late_s = 0.03 if batch % 500 == 250 else 0.0
            pacer.wait(size, rate)
        return clock.now - begun

    told = batches * size / rate
    assert seconds(Pacer(keep_average=True)) == pytest.approx(told, abs=0.01)
    lost = 10 * (0.03 - transmit.CATCH_UP_SIZE / rate)
    assert seconds(Pacer()) == pytest.approx(told + lost, abs=0.03)


def test_of_a_long_standstill_a_bounded_part_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(transmit, "time", clock)
    rate, size, batches = 1000 * limits.MEGABIT, 64_768, 20_000
    pacer = Pacer(keep_average=True)
    clock.now += 60
    begun = clock.now
    for _batch in range(batches):
        pacer.wait(size, rate)
    # What is sent at once after a late wake-up, and what is made up for by and by.
    assert clock.now - begun == pytest.approx(batches * size / rate - transmit.MADE_UP_S, abs=0.004)


@pytest.mark.parametrize(("megabit", "made_up_s"), [(10, 0.002), (190, 0.002), (10_000, 0.002)])
def test_time_in_which_there_was_nothing_to_send_is_gone(
    monkeypatch: pytest.MonkeyPatch, megabit: int, made_up_s: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(transmit, "time", clock)
    pacer = Pacer()
    clock.now += 10
    pacer.rested()
    rate = megabit * limits.MEGABIT
    begun = clock.now
    for _batch in range(100):
        pacer.wait(64_768, rate)
    assert clock.now - begun >= 99 * 64_768 / rate - made_up_s - transmit.SLEEP_MIN_S


def test_a_new_rate_counts_from_the_next_batch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(transmit, "time", clock)
    pacer = Pacer()
    pacer.wait(1000, 1000.0)
    begun = clock.now
    pacer.wait(1000, 10_000.0)
    assert clock.now - begun == pytest.approx(1.0)
    pacer.wait(1000, 10_000.0)
    assert clock.now - begun == pytest.approx(1.1)
