"""A sender and a receiver of one multicast group on loopback: real sockets, a port that the kernel chose."""

from __future__ import annotations

import dataclasses
import random
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ghostcast.net import sockets
from ghostcast.net.ingest import Batch, BatchReceiver
from ghostcast.net.interfaces import choose_interface
from ghostcast.net.transmit import BatchSender
from protocol import wire
from protocol.symbols import DATA_HEADER

PATIENCE_S = 20.0
"""What was sent over loopback is there at once; only a failing test waits so long."""

FAST = 1e12
"""Bytes per second: no pace at all."""


@dataclasses.dataclass(slots=True)
class Fetched:
    """All that arrived: payloads where ``scatter`` put them, and the rest."""

    sequences: list[int]
    payloads: npt.NDArray[np.uint8]
    control: list[bytes]


class Link:
    """One group, one sender, one receiver."""

    def __init__(self, symbol_size: int = 1440) -> None:
        self.symbol_size = symbol_size
        self.interface = choose_interface("127.0.0.1")
        self.group = sockets.data_group(random.getrandbits(32))
        self.listener = sockets.open_listener(self.interface, self.group, 0, "data", source=self.interface.address)
        sockets.enlarge_receive_buffer(self.listener)
        self.outgoing = sockets.open_data_sender(self.interface, 0)
        self.wake, self._wake_out = socket.socketpair()
        self._wake_out.setblocking(False)
        self.sender = BatchSender(
            self.outgoing, self.group, self.listener.getsockname()[1], wire.DATA_HEADER_SIZE + symbol_size
        )
        self.receiver = BatchReceiver(self.listener, symbol_size, self._wake_out)

    def close(self) -> None:
        for opened in (self.listener, self.outgoing, self.wake, self._wake_out):
            opened.close()

    def rows(self, count: int, first_sequence: int = 0) -> npt.NDArray[np.uint8]:
        """Return datagrams with random payloads and ascending sequence numbers."""
        size = wire.DATA_HEADER_SIZE + self.symbol_size
        rows = np.random.default_rng(first_sequence).integers(0, 256, (count, size), np.uint8)
        rows[:, : wire.DATA_HEADER_SIZE].view(DATA_HEADER)["sequence"][:, 0] = first_sequence + np.arange(count)
        return rows

    def send_segmented(self, data: bytes, segment_size: int) -> None:
        """Have the kernel cut ``data`` into datagrams; a receiver that joins gets them as one buffer."""
        self.outgoing.sendmsg([data], [(sockets.SOL_UDP, sockets.UDP_SEGMENT, struct.pack("=H", segment_size))])

    def batches(self) -> Iterator[Batch]:
        """Yield what arrives; the caller leaves when it has enough."""
        begun = time.monotonic()
        while time.monotonic() < begun + PATIENCE_S:
            self.receiver.wait(100)
            if (batch := self.receiver.fetch()) is not None:
                yield batch
        raise AssertionError("what was sent did not arrive")

    def fetch(self, data_count: int, control_count: int = 0) -> Fetched:
        """Fetch until so much has arrived; payload ``i`` of the result belongs to the ``i``-th data datagram."""
        fetched = Fetched([], np.zeros((data_count, self.symbol_size), np.uint8), [])
        if not data_count and not control_count:
            return fetched
        for batch in self.batches():
            rows = np.arange(len(batch.headers)) + len(fetched.sequences)
            self.receiver.scatter(batch, None, rows, fetched.payloads)
            fetched.sequences += batch.headers["sequence"].tolist()
            fetched.control += batch.control
            if len(fetched.sequences) >= data_count and len(fetched.control) >= control_count:
                break
        return fetched
