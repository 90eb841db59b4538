"""How fast does the sender hand datagrams to the kernel, and how far is that from the system call alone?

Loopback, one thread, a group that nobody has joined, so that the kernel carries every datagram to where it would be
delivered and drops it there. Rows are sent as the engine sends windows: send times filled in, paced at a rate that
never waits. The ceiling is the same batches in a bare loop of the same system call.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from benchmarks.micro.datagrams import LOOPBACK, window_rows
from benchmarks.micro.measuring import Effort, Result, rates
from ghostcast.net import sockets
from ghostcast.net.transmit import BatchSender

_GROUP, _PORT = "239.195.1.2", 7991
_SIZE_MAX = 6 << 20
"""As large as a window."""

_NO_LIMIT_BYTES_PER_S = 1e15


def measure(effort: Effort, symbol_size: int) -> Iterator[Result]:
    """Yield every result."""
    rows = window_rows(max(min(_SIZE_MAX, effort.far_bytes) // symbol_size, 1), symbol_size)
    payload = len(rows) * symbol_size
    with _open_sender() as opened:
        sender = BatchSender(opened, _GROUP, _PORT, rows.shape[1])
        count = sender.batch_count

        def engine() -> None:
            sender.send_rows(rows, lambda: _NO_LIMIT_BYTES_PER_S)

        def segmented() -> None:
            ancillary = [(sockets.SOL_UDP, sockets.UDP_SEGMENT, struct.pack("=H", rows.shape[1]))]
            for start in range(0, len(rows), count):
                opened.sendmsg((rows[start : start + count].data,), ancillary)

        def single() -> None:
            for row in rows:
                opened.send(row.data)

        if sender.offload:
            limit = rates(segmented, payload, effort)
            found = rates(engine, payload, effort)
            yield Result.of("send", "segmentation offload", found, "sendmsg alone", limit)
        sender.offload = False
        limit = rates(single, payload, effort)
        found = rates(engine, payload, effort)
        yield Result.of("send", "no offload, sendmmsg", found, "send, one by one", limit)


def _open_sender() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sockets.SEND_BUFFER_SIZE)
    return opened
