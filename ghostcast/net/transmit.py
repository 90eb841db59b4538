"""Handing a buffer of equally long datagrams to the kernel, many at a time, at a given pace.

Knows the kernel's batch interfaces: UDP segmentation offload (one message, up to 64 datagrams) and sendmmsg (one call,
many messages), which add up; where one of them is missing, the other. Must not know what the datagrams mean, but fills
in the send time that every datagram carries, since only the moment of sending is the truth.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ghostcast.net import libc
from ghostcast.net.sockets import SOL_UDP, UDP_SEGMENT
from ghostcast.stages import OFF, Stages
from protocol.errors import UsageError
from protocol.wire import SENT_US_OFFSET

SEGMENTS_MAX = 64
"""UDP_MAX_SEGMENTS of older kernels; newer ones take 128."""

BATCH_SIZE_MAX = 65_507
"""Largest UDP payload over IPv4: a segmented batch counts as one datagram until it is cut."""

REFUSED_SLEEP_S = 0.001
"""How long to leave a full queue or a lost link alone."""

SLEEP_MIN_S = 200e-6
"""Two batches at 5 Gbit/s. A sleep of half that is not one, for the scheduler takes as long; this way there are half as
many sleeps, and at 6 Gbit/s at most 160 KB leave in one burst."""

BURST_BATCHES_MAX = 4
"""Batches between which there would be no sleep leave with one call: as many as the send buffer takes. At 8 Gbit/s,
where it is three, 1 GB takes the transmitter 0.34 processor seconds instead of 0.38."""


CATCH_UP_S, CATCH_UP_SIZE = 0.002, 128 << 10
"""What a late wake-up missed and is sent after it, the larger of both: more is a burst that finds no room in queues.
Where sixteen receivers share two cores with the sender, 190 Mbit/s were 170 with the former alone: a batch takes longer
than that."""


MADE_UP_S = 0.1
"""Time lost by later wake-ups, at most, that is made up for by and by, where the pace is to be kept on average."""

MADE_UP_SHARE = 1 / 32
"""By sending so much faster meanwhile. 100 MB at 190 Mbit/s, to sixteen receivers on the sender's two cores, took
5.24 s without this, and 5.08 s with it."""


class Pacer:
    """A token bucket whose rate may change at any time. Its depth is one batch, plus what a late wake-up missed.

    Time in which there was nothing to send is no such: ``rested`` says so.
    """

    def __init__(self, *, keep_average: bool = False) -> None:
        """Begin; ``keep_average`` makes up for what a wake-up missed beyond that, by and by."""
        self._due = time.monotonic()
        self._keep_average = keep_average
        self._lost_s = 0.0
        """Time still to be made up for."""

    def rested(self) -> None:
        """Nothing was there to be sent until now."""
        self._due = max(self._due, time.monotonic() - CATCH_UP_S)

    def wait(self, size: int, rate_bytes_per_s: float) -> None:
        """Sleep until ``size`` more bytes may be sent, then account for them."""
        now = time.monotonic()
        if self._due - now > SLEEP_MIN_S:
            time.sleep(self._due - now)
            now = time.monotonic()
        # Time that was not used is gone, slept too long or not, but for so much.
        caught_up_s = max(CATCH_UP_S, CATCH_UP_SIZE / rate_bytes_per_s)
        lost_s = max(now - caught_up_s - self._due, 0.0)
        takes_s = size / rate_bytes_per_s
        made_up_s = min(self._lost_s, takes_s * MADE_UP_SHARE)
        if self._keep_average:
            self._lost_s = min(self._lost_s - made_up_s + lost_s, MADE_UP_S)
        self._due += lost_s + takes_s - made_up_s


class BatchSender:
    """Sends rows of ``uint8[n, datagram_size]`` to one group. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        opened: socket.socket,
        group: str,
        port: int,
        datagram_size: int,
        stages: Stages = OFF,
        *,
        keep_average: bool = False,
    ) -> None:
        """Prepare to send.

        Args:
            opened: a socket from ``sockets.open_data_sender``; it stays the caller's to close.
            group: the data group.
            port: its port.
            datagram_size: bytes of every row.
            stages: told how long sending and waiting take.
            keep_average: whether the pace holds on average too, where this process gets to run late: for one that was
                told. One that is searched for is found by what comes of it, and a bench's is not to be exceeded.
        """
        try:
            opened.connect((group, port))
        except OSError as error:
            raise UsageError(
                f"cannot send to group {group}: {error.strerror}; a route is missing: ip route add 224.0.0.0/4 dev IF"
            ) from error
        self._socket = opened
        self._stages = stages
        self._datagram_size = datagram_size
        self._pacer = Pacer(keep_average=keep_average)
        self.batch_count = max(1, min(SEGMENTS_MAX, BATCH_SIZE_MAX // datagram_size))
        self.offload = _segmentation_known(opened, datagram_size)
        """Whether the kernel cuts batches into datagrams itself."""
        segment = struct.pack("=H", datagram_size)
        self._ancillary = [(SOL_UDP, UDP_SEGMENT, segment)]
        self._segment = libc.control_message(SOL_UDP, UDP_SEGMENT, segment)
        self._vectors, self._messages = np.zeros(0, libc.IOVEC), np.zeros(0, libc.MMSGHDR)
        self._messages_at = 0
        self._each = 1
        """Datagrams that one message has, but for the last."""
        self.bytes_sent = 0
        self.rows_done = 0
        """Rows that have left, or were refused."""
        self.datagrams_refused = 0
        """Datagrams that the kernel did not take: full queue, or the link was down."""

    def rested(self) -> None:
        """Nothing was there to be sent until now: that time is not made up for."""
        self._pacer.rested()

    def send_control(self, datagram: bytes) -> None:
        """Send one datagram of any size to the group, send time filled in."""
        stamped = bytearray(datagram)
        struct.pack_into(">I", stamped, SENT_US_OFFSET, _now_us())
        try:
            self._socket.send(stamped)
            self.bytes_sent += len(stamped)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                # Longer than a small MTU allows: only the longest advice is, and advice saves messages, not data.
                self.datagrams_refused += 1
            else:
                self._refused(error, 1)

    def send_rows(
        self, rows: npt.NDArray[np.uint8], rate: Callable[[], float], stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Send every row in order, paced.

        Args:
            rows: ``uint8[n, datagram_size]``, contiguous.
            rate: returns the pace in UDP payload bytes per second; asked before every burst, so that it may change.
            stop: returns whether to leave the rest; asked before every burst.
        """
        stamps = rows[:, SENT_US_OFFSET : SENT_US_OFFSET + 4].view(">u4")[:, 0]
        if len(rows):
            self._describe(rows)
        start = 0
        while start < len(rows) and not stop():
            pace = rate()
            end = min(start + self._burst_count(pace), len(rows))
            size = (end - start) * self._datagram_size
            with self._stages("pace"):
                self._pacer.wait(size, pace)
            stamps[start:end] = _now_us()
            with self._stages("send", size):
                self._send_burst(rows, start, end)
            self.rows_done += end - start
            start = end

    def _burst_count(self, rate_bytes_per_s: float) -> int:
        """Return how many datagrams leave without a sleep between them: whole batches, one at least."""
        batches = rate_bytes_per_s * SLEEP_MIN_S / (self.batch_count * self._datagram_size)
        return self.batch_count * int(min(max(batches, 1), BURST_BATCHES_MAX))

    def _describe(self, rows: npt.NDArray[np.uint8]) -> None:
        """Describe rows as messages, all at once: numpy takes a microsecond for one, and no more for hundreds."""
        each = self.batch_count if self.offload else 1
        count, size = -(-len(rows) // each), each * self._datagram_size
        steps = np.arange(count, dtype=np.uint64)
        if count > len(self._messages):
            self._vectors, self._messages = np.zeros(count, libc.IOVEC), np.zeros(count, libc.MMSGHDR)
            headers = self._messages["header"]
            headers["vector"] = libc.address(self._vectors) + steps * np.uint64(libc.IOVEC.itemsize)
            headers["vector_length"] = 1
            headers["control"] = libc.address(self._segment)
            self._messages_at = libc.address(self._messages)
        self._vectors["base"][:count] = libc.address(rows) + steps * np.uint64(size)
        self._vectors["length"][:count] = size
        self._vectors["length"][count - 1] = rows.nbytes - (count - 1) * size
        self._messages["header"]["control_length"] = self._segment.nbytes if self.offload else 0
        self._each = each

    def _send_burst(self, rows: npt.NDArray[np.uint8], start: int, end: int) -> None:
        """Send described rows from ``start``, where a batch begins, to ``end``, where another or nothing does.

        What a full queue or a lost link refuses, to the end of its batch, is counted and left to repair.
        """
        while start < end:
            try:
                sent = self._send_some(rows, start, end)
                self.bytes_sent += sent * self._datagram_size
                start += sent
            except InterruptedError:
                continue
            except OSError as error:
                # A device without checksum offload, or a tunnel, refuses segmentation only when it is tried.
                if self.offload and error.errno in (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP):
                    self.offload = False
                    self._describe(rows)
                    continue
                batch_end = min((start // self.batch_count + 1) * self.batch_count, end)
                self._refused(error, batch_end - start)
                start = batch_end

    def _send_some(self, rows: npt.NDArray[np.uint8], first: int, end: int) -> int:
        """Send as many as one call takes of the rows from ``first`` to ``end``; returns how many those were."""
        each = self._each
        if libc.HAVE_SENDMMSG:
            start, count = first // each, -(-(end - first) // each)
            messages = self._messages_at + start * libc.MMSGHDR.itemsize
            return min(libc.sendmmsg(self._socket.fileno(), messages, count, 0) * each, end - first)
        message = rows[first : min(first + each, end)]
        self._socket.sendmsg((message.data,), self._ancillary if self.offload else ())
        return len(message)

    def _refused(self, error: OSError, count: int) -> None:
        """Count what the kernel did not take and leave it alone for a moment; raise what is no passing trouble."""
        if error.errno == errno.EMSGSIZE:
            raise UsageError(
                f"a datagram of {self._datagram_size} bytes does not fit the interface: was its MTU lowered? "
                "Start again, or give the smaller --symbol-size"
            ) from error
        if error.errno not in _TRANSIENT:
            raise error
        self.datagrams_refused += count
        time.sleep(REFUSED_SLEEP_S)


_TRANSIENT = frozenset(
    {errno.ENOBUFS, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAGAIN, errno.ENODEV, errno.EPERM}
)


def _segmentation_known(opened: socket.socket, datagram_size: int) -> bool:
    """Return whether this kernel knows UDP segmentation offload; the socket is left as it was."""
    try:
        opened.setsockopt(SOL_UDP, UDP_SEGMENT, datagram_size)
        opened.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


def _now_us() -> int:
    return time.monotonic_ns() // 1000 & 0xFFFFFFFF
