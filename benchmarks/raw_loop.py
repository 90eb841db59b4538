"""A multicast loop with nothing in it but the kernel: how fast batches can be carried at all, from memory to memory.

    python -m benchmarks.raw_loop listen 239.195.1.1 7990 10.77.0.2
    python -m benchmarks.raw_loop send   239.195.1.1 7990 10.77.0.1 --size 1472 --seconds 1

The ceiling of the other benchmarks: no disk, no code, no protocol, no pace, and nobody asks for what is lost. Sends as
the kernel likes it best, batches of up to 64 KB that it cuts itself (UDP_SEGMENT), and receives batches that it has
joined (UDP_GRO), many to a system call. Each side prints one JSON object at its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import struct
import time

import numpy as np

from ghostcast.net import libc

UDP_SEGMENT, UDP_GRO, SOL_UDP = 103, 104, 17  # linux/udp.h
SO_RCVBUFFORCE = 33
BATCH_SIZE_MAX = 65_507
SEGMENTS_MAX = 64
SLOT_COUNT, SLOT_SIZE = 64, 65_536
_SLOT_GAP = 4160
"""Between slots: an odd number of cache lines, so that the fronts of all slots do not share cache sets."""

RING_SIZE = 8 << 20
"""Bytes that are sent again and again: more than the processor's level 2 cache, as a real sender's windows are."""

_RECEIVE_BUFFER_SIZE = 64 << 20
_SEND_BUFFER_SIZE = 4 << 20
_END = b"the end"
_END_COPIES, _END_INTERVAL_S = 20, 0.01
_SILENCE_S = 2.0
"""After so much silence, once there was something, all ends were lost."""

_FIRST_S = 30.0


class SlotReader:
    """recvmmsg into slots of memory, and no more: no header is looked at, nothing is copied."""

    def __init__(self, opened: socket.socket, slot_count: int = SLOT_COUNT, slot_size: int = SLOT_SIZE) -> None:
        self._descriptor = opened.fileno()
        self._memory = np.zeros((slot_count, slot_size + _SLOT_GAP), np.uint8)
        self._vectors = np.zeros(slot_count, libc.IOVEC)
        slots = np.arange(slot_count, dtype=np.uint64)
        start = self._memory.__array_interface__["data"][0]
        self._vectors["base"] = start + slots * np.uint64(self._memory.strides[0])
        self._vectors["length"] = slot_size
        self._messages = np.zeros(slot_count, libc.MMSGHDR)
        header = self._messages["header"]
        header["vector"] = self._vectors.__array_interface__["data"][0] + slots * np.uint64(libc.IOVEC.itemsize)
        header["vector_length"] = 1
        self._address = self._messages.__array_interface__["data"][0]

    def fetch(self) -> int:
        """Return how many slots were filled without waiting."""
        try:
            return libc.recvmmsg(self._descriptor, self._address, len(self._messages), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def sizes(self, count: int) -> int:
        """Return the bytes in the first ``count`` slots."""
        return int(self._messages["length"][:count].sum())

    def ended(self, count: int) -> bool:
        """Return whether one of the first ``count`` slots holds the end."""
        short = np.flatnonzero(self._messages["length"][:count] == len(_END)).tolist()
        return any(self._memory[slot, : len(_END)].tobytes() == _END for slot in short)


def open_sender(address: str) -> socket.socket:
    """Return a socket that multicasts from an address."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_SIZE)
    return opened


def open_listener(group: str, port: int, address: str) -> socket.socket:
    """Return a non-blocking socket that hears a group, batches joined, with as large a buffer as the kernel gives."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BUFFER_SIZE)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_SIZE)
    opened.bind((group, port))
    membership = socket.inet_aton(group) + socket.inet_aton(address)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    with contextlib.suppress(OSError):
        opened.setsockopt(SOL_UDP, UDP_GRO, 1)
    opened.setblocking(False)
    return opened


def batches(datagram_size: int) -> list[memoryview]:
    """Return what is sent in turn: batches of datagrams, out of one ring of random bytes."""
    segments = max(1, min(SEGMENTS_MAX, BATCH_SIZE_MAX // datagram_size))
    count = max(1, RING_SIZE // (segments * datagram_size))
    ring = memoryview(np.random.default_rng(0).bytes(count * segments * datagram_size))
    size = segments * datagram_size
    return [ring[start : start + size] for start in range(0, len(ring), size)]


def send(group: str, port: int, address: str, datagram_size: int, seconds: float) -> dict[str, float]:
    """Multicast for some seconds, as fast as the kernel takes it; return bytes and seconds."""
    ring = batches(datagram_size)
    ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", datagram_size))]
    with open_sender(address) as sender:
        sender.connect((group, port))
        sent, refused, started_s = 0, 0, time.monotonic()
        while (now_s := time.monotonic()) - started_s < seconds:
            for batch in ring:
                try:
                    sent += sender.sendmsg((batch,), ancillary)
                except (BlockingIOError, OSError) as error:
                    if not isinstance(error, BlockingIOError) and error.errno != 105:  # ENOBUFS: a queue is full
                        raise
                    refused += 1
                if time.monotonic() - started_s >= seconds:
                    break
        for _ in range(_END_COPIES):
            with contextlib.suppress(OSError):
                sender.send(_END)
            time.sleep(_END_INTERVAL_S)
    return {"bytes": sent, "seconds": now_s - started_s, "refused": refused}


def listen(group: str, port: int, address: str) -> dict[str, float]:
    """Count what comes until the sender says that it is through; return bytes, and seconds from first to last."""
    with open_listener(group, port, address) as listener:
        reader = SlotReader(listener)
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        print("ready", flush=True)
        received, calls, first_s, last_s = 0, 0, 0.0, 0.0
        while poll.poll(1000 * (_SILENCE_S if received else _FIRST_S)):
            now_s = time.monotonic()
            count = reader.fetch()
            if reader.ended(count):
                break
            first_s = first_s or now_s
            received += reader.sizes(count)
            calls += 1
            last_s = time.monotonic()
    return {"bytes": received, "seconds": max(last_s - first_s, 1e-9), "calls": calls}


def main() -> None:
    """Send or listen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.raw_loop", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("side", choices=("send", "listen"))
    parser.add_argument("group")
    parser.add_argument("port", type=int)
    parser.add_argument("address", help="of the interface")
    parser.add_argument("--size", type=int, default=1472, help="bytes of a datagram to send")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to send")
    options = parser.parse_args()
    common = (options.group, options.port, options.address)
    if options.side == "send":
        print(json.dumps(send(*common, options.size, options.seconds)), flush=True)
    else:
        print(json.dumps(listen(*common)), flush=True)


if __name__ == "__main__":
    main()
