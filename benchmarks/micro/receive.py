"""How fast does the receiver take datagrams from the kernel, and how far is that from recvmmsg alone?

Loopback, one thread: the socket's buffer is filled, which is not counted, and then emptied, which is. *fetch*: with
the header columns gathered. *fetch and scatter*: with the payloads moved to their rows, too. *joined*: batches that the
kernel has joined (UDP_GRO). *single*: every datagram alone. The ceiling is the same recvmmsg into slots of the same
size and number, and nothing else.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from benchmarks.micro.datagrams import LOOPBACK, slice_and_esi, window_rows
from benchmarks.micro.measuring import Effort, Result, rates
from benchmarks.raw_loop import SlotReader
from ghostcast.net import ingest, sockets
from ghostcast.net.ingest import BatchReceiver
from protocol import limits

_BUFFER_SHARE = 4
"""Of the granted buffer, one part in so many is filled: the kernel counts more than payload against it."""

_FILL_BYTES_MAX = 8 << 20
_BATCH_SIZE_MAX = 65_507


class Loop:
    """A socket that sends to another on loopback, and a receiver at its end; a context manager."""

    def __init__(self, symbol_size: int, *, joined: bool) -> None:
        self._joined = joined
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listener.bind((LOOPBACK, 0))
        self._listener.setblocking(False)
        granted = sockets.enlarge_receive_buffer(self._listener).granted
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.connect(self._listener.getsockname())
        self._wakers = socket.socketpair()
        self._wakers[1].setblocking(False)
        self.receiver = BatchReceiver(self._listener, symbol_size, self._wakers[1])
        """What the receiving engine uses."""
        count = max(min(granted // _BUFFER_SHARE, _FILL_BYTES_MAX) // (symbol_size * (1 if joined else 3)), 1)
        self._rows = window_rows(count, symbol_size)
        self.size = count * symbol_size
        """Bytes of payload that ``fill`` leaves in the socket's buffer."""
        if not joined:
            self._teach_single()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in (self._listener, self._sender, *self._wakers):
            opened.close()

    def fill(self) -> None:
        """Put datagrams into the socket's buffer, all that are meant to be there and nothing else."""
        self.empty()
        size = self._rows.shape[1]
        if not self._joined:
            for row in self._rows:
                self._sender.send(row.data)
            return
        batch = max(1, min(64, _BATCH_SIZE_MAX // size))
        ancillary = [(sockets.SOL_UDP, sockets.UDP_SEGMENT, struct.pack("=H", size))]
        for start in range(0, len(self._rows), batch):
            self._sender.sendmsg((self._rows[start : start + batch].data,), ancillary)

    def empty(self) -> None:
        """Take everything out of the socket's buffer by ``fetch``."""
        while self.receiver.fetch() is not None:
            pass

    def slot_reader(self) -> SlotReader:
        """Return the bare loop over the same socket."""
        single = max(self._rows.shape[1], limits.CONTROL_SIZE_MAX) + 1
        return SlotReader(self._listener, self.receiver.slot_count, ingest.SLOT_SIZE if self._joined else single)

    def _teach_single(self) -> None:
        """Let the receiver find out that nothing joins datagrams here."""
        for _ in range(ingest.BUFFERS_TO_JUDGE):
            if not self.receiver.offload:
                return
            self.fill()
            self.empty()


def measure(effort: Effort, symbol_size: int) -> Iterator[Result]:
    """Yield every result."""
    for joined in (True, False):
        with Loop(symbol_size, joined=joined) as loop:
            reader = loop.slot_reader()

            def bare(reader: SlotReader = reader) -> None:
                while reader.fetch():
                    pass

            name = "joined" if joined else "single"
            limit = rates(bare, loop.size, effort, loop.fill)
            found = rates(loop.empty, loop.size, effort, loop.fill)
            yield Result.of("receive", f"fetch, {name}", found, "recvmmsg alone", limit)
            found = rates(_fetch_and_scatter(loop, effort, symbol_size), loop.size, effort, loop.fill)
            yield Result.of("receive", f"fetch and scatter, {name}", found, "recvmmsg alone", limit)


def _fetch_and_scatter(loop: Loop, effort: Effort, symbol_size: int) -> Callable[[], None]:
    row_count = max(effort.far_bytes, 2 * loop.size) // symbol_size
    pool = np.zeros((row_count, symbol_size), np.uint8)
    slices, esis = slice_and_esi(np.arange(row_count))
    places: npt.NDArray[np.int64] = (slices * limits.SOURCE_SYMBOLS_DEFAULT + esis) % row_count
    position = 0

    def work() -> None:
        nonlocal position
        while (batch := loop.receiver.fetch()) is not None:
            count = len(batch.headers)
            if position + count > row_count:
                position = 0
            loop.receiver.scatter(batch, None, places[position : position + count], pool)
            position += count

    return work
