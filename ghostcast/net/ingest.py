"""Fetching datagrams from the kernel, many at a time, and offering them as numpy columns.

A ``Receiver`` owns preallocated slots of memory. One ``fetch`` fills them with one recvmmsg; where the kernel joins the
datagrams of a flow (UDP GRO), a slot holds up to a batch of them. The headers of all are then columns of one array, and
the payloads move to their buffer rows in a few large copies. Nothing here handles one datagram at a time in Python.

Falls back to one recv call a datagram, still collected into the same arrays, where recvmmsg is missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import select
import socket

import numpy as np
import numpy.typing as npt

from ghostcast.net import libc
from ghostcast.net.sockets import SOL_UDP, UDP_GRO
from protocol import limits, wire
from protocol.symbols import DATA_HEADER

SLOT_COUNT = 40
"""Slots with GRO: 40 batches of 44 datagrams are 2.6 MB. More than that has left the processor's cache when it is moved
on: with 96, a clone took 2.4 % longer (measured)."""

SLOT_COUNT_SINGLE = 4096
"""Slots without GRO: as many datagrams as one fetch takes then. With 1024, a receiver of 16 that share two cores needs
a sixth more processor time, and one of 4 on a fast link a twentieth; with 2048, a fiftieth (measured)."""

SLOTS_SIZE_MAX = 8 << 20
"""Bytes that all slots take at most: of large datagrams there are fewer, for a fetch costs by bytes then."""

FETCH_JOINED = 1600
"""Datagrams that a fetch with GRO should bring."""

FETCH_SHARE = 0.78
"""Share of the slots that one without should fill: there is room for more than is expected."""

SLOT_SIZE = 65_536
SLOT_SPACING = SLOT_SIZE + 4096 + 64
"""Distance of slots: an odd number of cache lines, so that the fronts of all slots do not share cache sets."""

BUFFERS_TO_JUDGE = 512
"""Kernel buffers after which it is clear whether datagrams come joined."""

JOINED_WORTHWHILE = 1.5
"""Datagrams a buffer below which large slots are a waste: a fetch then brings 96 datagrams instead of 1024."""

MSG_DONTWAIT = 0x40

_NOTHING_NOW = frozenset({errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED, errno.ENETDOWN})
"""What a socket says when there is nothing to fetch, when an earlier datagram was answered with an ICMP error, and when
its interface went down: it will come up again, and the session's own timers say when that took too long."""

_HEADER_BYTES = np.dtype((np.void, wire.DATA_HEADER_SIZE))
"""A header as it is moved: numpy moves what has fields field by field, which takes five to ten times as long."""

_CMSG_SIZE = 32
_CMSG = np.dtype([("length", np.uint64), ("level", np.int32), ("type", np.int32), ("value", np.int32)])


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one fetch brought. Valid until the next fetch."""

    headers: npt.NDArray[np.void]
    """``DATA_HEADER[n]``: the first 32 bytes of every datagram of data size, foreign ones included."""
    control: list[bytes]
    """Datagrams of any other size, and those of data size that call themselves control; the latter are in ``headers``
    too, as foreign ones."""
    full: bool
    """All slots were filled: more is probably waiting."""
    counts: npt.NDArray[np.int64]
    """``int64[messages]``: how many data datagrams each filled slot holds; they are in order in ``headers``."""
    datagram_size: int

    @property
    def messages(self) -> int:
        """How many slots were filled."""
        return len(self.counts)

    @property
    def size(self) -> int:
        """Payload bytes of the data datagrams, headers included."""
        return len(self.headers) * self.datagram_size

    @functools.cached_property
    def slots(self) -> npt.NDArray[np.int64]:
        """``int64[n]``: the slot that each header's datagram lies in."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @functools.cached_property
    def segments(self) -> npt.NDArray[np.int64]:
        """``int64[n]``: its place within the slot."""
        starts = np.cumsum(self.counts) - self.counts
        return np.arange(len(self.headers)) - np.repeat(starts, self.counts)


class BatchReceiver:
    """Receives datagrams of one size on one socket. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        opened: socket.socket,
        symbol_size: int,
        waker: socket.socket,
        memory: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Prepare the slots.

        Args:
            opened: a non-blocking UDP socket, bound and joined; it stays the caller's to close.
            symbol_size: payload bytes of a data datagram.
            waker: a non-blocking socket; anything that arrives on it ends a ``wait`` early.
            memory: ``uint8[SLOTS_SIZE_MAX]`` for them, whatever is in it; None: their own.
        """
        self._given = np.zeros(SLOTS_SIZE_MAX, np.uint8) if memory is None else memory
        self._socket = opened
        self._waker = waker
        self._datagram_size = wire.DATA_HEADER_SIZE + symbol_size
        self._poll_waker = select.poll()
        self._poll_waker.register(waker.fileno(), select.POLLIN)
        self._poll_both = select.poll()
        self._poll_both.register(opened.fileno(), select.POLLIN)
        self._poll_both.register(waker.fileno(), select.POLLIN)
        self._lay_out(offload=libc.HAVE_RECVMMSG and self._join_segments(True))
        self._joined_average = 1.0
        self._buffers_seen = 0
        self._datagrams_seen = 0

    def _join_segments(self, wanted: bool) -> bool:
        """Tell the kernel whether to join datagrams into batches; returns whether it knows how."""
        try:
            self._socket.setsockopt(SOL_UDP, UDP_GRO, int(wanted))
        except OSError:
            return False
        return True

    def _lay_out(self, *, offload: bool) -> None:
        """Reserve the slots: few that hold a batch each, or many that hold a datagram each."""
        self.offload = offload
        """Whether the kernel joins datagrams into batches."""
        # A single slot shows a datagram that is too long by holding one byte more than any may have.
        single = max(self._datagram_size, limits.CONTROL_SIZE_MAX) + 1
        spacing = SLOT_SPACING if offload else -(-single // 64) * 64 + 64
        self.slot_count = SLOT_COUNT if offload else min(SLOT_COUNT_SINGLE, SLOTS_SIZE_MAX // spacing)
        self._segments_max = max(1, SLOT_SIZE // self._datagram_size) if offload else 1
        self._slot_size = SLOT_SIZE if offload else single
        width = max(spacing, self._slot_size)
        self._memory = self._given[: self.slot_count * width].reshape(self.slot_count, width)
        self._control_memory = np.zeros((self.slot_count, _CMSG_SIZE), np.uint8)
        self._control = self._control_memory[:, : _CMSG.itemsize].view(_CMSG)[:, 0]
        data = self._segments_max * self._datagram_size
        by_segment = self._memory[:, :data].reshape(self.slot_count, self._segments_max, self._datagram_size)
        self._payloads = by_segment[:, :, wire.DATA_HEADER_SIZE :]
        self._headers = by_segment[:, :, : wire.DATA_HEADER_SIZE].view(_HEADER_BYTES)[:, :, 0]
        self._vectors = np.zeros(self.slot_count, libc.IOVEC)
        self._messages = np.zeros(self.slot_count, libc.MMSGHDR)
        self._prepare()

    def _adapt(self) -> None:
        """Change to many small slots where it turns out that nothing on the way joins datagrams."""
        seen_enough = self._buffers_seen >= BUFFERS_TO_JUDGE
        if self.offload and seen_enough and self._datagrams_seen < JOINED_WORTHWHILE * self._buffers_seen:
            self._join_segments(False)
            self._lay_out(offload=False)

    def _prepare(self) -> None:
        slots = np.arange(self.slot_count, dtype=np.uint64)
        memory = libc.address(self._memory)
        self._vectors["base"] = memory + slots * np.uint64(self._memory.strides[0])
        self._vectors["length"] = self._slot_size
        header = self._messages["header"]
        header["vector"] = libc.address(self._vectors) + slots * np.uint64(libc.IOVEC.itemsize)
        header["vector_length"] = 1
        if self.offload:
            control = libc.address(self._control_memory)
            header["control"] = control + slots * np.uint64(_CMSG_SIZE)
            header["control_length"] = _CMSG_SIZE
        self._messages_address = libc.address(self._messages)

    @property
    def fetch_aim(self) -> int:
        """How many datagrams should wait to be fetched together: at the usual MTU, most of what there is room for."""
        return FETCH_JOINED if self.offload else round(FETCH_SHARE * self.slot_count)

    @property
    def joined_average(self) -> float:
        """How many datagrams one kernel buffer held on average lately: what one kernel drop stands for."""
        return self._joined_average

    def wait(self, timeout_ms: float, *, data: bool = True) -> None:
        """Wait until something can be fetched (if ``data`` matters), the waker is used, or the time is over."""
        (self._poll_both if data else self._poll_waker).poll(max(timeout_ms, 0))
        with contextlib.suppress(BlockingIOError):
            self._waker.recv(4096)

    def fetch(self) -> Batch | None:
        """Fetch what is waiting, up to all slots; None if nothing is."""
        self._adapt()
        count = self._receive()
        if count == 0:
            return None
        lengths = self._messages["length"][:count].astype(np.int64)
        size = self._datagram_size
        pieces = lengths
        if self.offload:
            joined = (self._control["level"][:count] == SOL_UDP) & (
                self._messages["header"]["control_length"][:count] > 0
            )
            pieces = np.where(joined, self._control["value"][:count], lengths)
            self._messages["header"]["control_length"][:count] = _CMSG_SIZE
        whole = np.where(pieces == size, np.minimum(lengths // size, self._segments_max), 0)
        control = self._other_datagrams(lengths, pieces, whole) if np.any(whole * size != lengths) else []
        headers = self._gather_headers(whole)
        if size <= limits.CONTROL_SIZE_MAX and (headers["kind"] == wire.KIND_CONTROL).any():
            control += self._control_of_data_size(headers, whole)
        self._buffers_seen += count
        self._datagrams_seen += len(headers)
        self._joined_average += 0.05 * (len(headers) / count - self._joined_average)
        return Batch(headers, control, count == self.slot_count, whole, self._datagram_size)

    def _gather_headers(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
        """Return the headers of the first ``counts`` datagrams of each slot, as one array."""
        # Neighbouring slots that hold equally many are one strided block: usually all but the last of a window.
        edges = (np.flatnonzero(np.diff(counts)) + 1).tolist()
        gathered = np.empty(int(counts.sum()), _HEADER_BYTES)
        start = 0
        for first, stop in zip((0, *edges), (*edges, len(counts)), strict=True):
            block = self._headers[first:stop, : counts[first]]
            gathered[start : start + block.size].reshape(block.shape)[:] = block
            start += block.size
        return gathered.view(DATA_HEADER)

    def _receive(self) -> int:
        if libc.HAVE_RECVMMSG:
            try:
                return libc.recvmmsg(self._socket.fileno(), self._messages_address, self.slot_count, MSG_DONTWAIT)
            except OSError as error:
                if error.errno in _NOTHING_NOW:
                    return 0
                raise
        count = 0
        while count < self.slot_count:
            try:
                self._messages["length"][count] = self._socket.recv_into(self._memory[count, : self._slot_size].data)
            except OSError as error:
                if error.errno in _NOTHING_NOW:
                    break
                raise
            count += 1
        return count

    def _other_datagrams(
        self, lengths: npt.NDArray[np.int64], pieces: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]
    ) -> list[bytes]:
        """Return datagrams that are not of data size: control messages, and a shorter one at the end of a batch."""
        found: list[bytes] = []
        for slot in np.flatnonzero(whole * self._datagram_size != lengths).tolist():
            length, piece = int(lengths[slot]), max(int(pieces[slot]), 1)
            start = int(whole[slot]) * self._datagram_size
            while start < length and len(found) < 4 * self.slot_count:
                stop = min(start + piece, length)
                found.append(self._memory[slot, start:stop].tobytes())
                start = stop
        return found

    def _control_of_data_size(self, headers: npt.NDArray[np.void], counts: npt.NDArray[np.int64]) -> list[bytes]:
        """Return the control messages that are by chance exactly as long as a data datagram."""
        places = np.flatnonzero((headers["kind"] == wire.KIND_CONTROL) & (headers["magic"] == wire.MAGIC))
        stops = np.cumsum(counts)
        found = []
        for place in places[: 4 * self.slot_count].tolist():
            slot = int(np.searchsorted(stops, place, side="right"))
            start = (place - int(stops[slot]) + int(counts[slot])) * self._datagram_size
            found.append(self._memory[slot, start : start + self._datagram_size].tobytes())
        return found

    def scatter(
        self,
        batch: Batch,
        indices: npt.NDArray[np.int64] | None,
        rows: npt.NDArray[np.int64],
        buffer: npt.NDArray[np.uint8],
    ) -> None:
        """Copy payloads to their rows.

        Args:
            batch: the last fetch.
            indices: ``int64[n]``: which of its datagrams; None for all in order.
            rows: ``int64[n]``: the row of ``buffer`` for each.
            buffer: ``uint8[row_count, symbol_size]``.
        Cost:
            One copy at 15 to 25 GB/s (measured, 1440-byte symbols); one numpy call a slot where slots are ragged.
        """
        if not len(rows):
            return
        if indices is not None:
            self._scatter_chosen(batch.slots[indices], batch.segments[indices], rows, buffer)
            return
        # Neighbouring slots that hold equally many datagrams move together: usually all but the last of a window.
        counts = batch.counts
        edges = np.flatnonzero(np.diff(counts)) + 1
        start = 0
        for first, stop in zip((0, *edges.tolist()), (*edges.tolist(), batch.messages), strict=True):
            count = int(counts[first])
            moved = rows[start : start + (stop - first) * count]
            buffer[moved.reshape(stop - first, count)] = self._payloads[first:stop, :count]
            start += len(moved)

    def _scatter_chosen(
        self,
        slots: npt.NDArray[np.int64],
        segments: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        buffer: npt.NDArray[np.uint8],
    ) -> None:
        """Copy some of the payloads: one numpy call, or, where slots hold a batch each, one a slot.

        One fancy index over slots that hold many would copy every payload twice.
        """
        if self._segments_max == 1:
            buffer[rows] = self._payloads[slots, 0]
            return
        edges = (np.flatnonzero(np.diff(slots)) + 1).tolist()
        for start, stop in zip((0, *edges), (*edges, len(slots)), strict=True):
            buffer[rows[start:stop]] = self._payloads[slots[start]][segments[start:stop]]
