"""A bad cable: frames pass between two interfaces and are damaged, doubled and overtaken on the way; runs as a command.

Uses nothing of ghostcast. A damaged datagram gets a correct UDP checksum, so that no kernel finds the damage: only the
receiving program can. Frames that are no UDP over IPv4 pass as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import random
import select
import signal
import socket
import struct
import sys
import time

FLIP_PLACES = ("anywhere", "header", "payload")
"""Where in a UDP datagram bits are flipped: ``header`` is its first 48 bytes."""

FLIP_KINDS = ("everything", "data", "control")
"""Which datagrams are damaged: all, or only those whose fourth byte says that they are data or control."""

_KIND_OFFSET = 3
_HEADER_REACH = 48
_ETH_P_ALL = 0x0003
_ETH_P_IP = b"\x08\x00"
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23  # linux/if_packet.h
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_SIZE = 32 << 20
_ETHERNET_HEADER_SIZE = 14
_UDP_HEADER_SIZE = 8
_DELAY_MAX_S = 0.02
_FETCH_MAX = 64  # frames of one direction before the other has its turn


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """How often each fault strikes, in thousandths of the UDP datagrams that pass."""

    flip_per_mille: float
    duplicate_per_mille: float
    reorder_per_mille: float
    flip_where: str
    flip_what: str


class Relay:
    """Passes frames on, both ways."""

    def __init__(self, left: str, right: str, faults: Faults, seed: int) -> None:
        self._faults = faults
        self._rng = random.Random(seed)
        self._ends = [_open(left), _open(right)]
        self._held: list[tuple[float, int, int, bytes]] = []
        """Frames that others overtake: when they go on, a number for ties, to which end."""
        self.counts = dict.fromkeys(("passed", "flipped", "duplicated", "reordered", "refused"), 0)

    def run(self) -> None:
        """Pass frames on until killed; say the counts when told to end by SIGTERM, and once a second."""
        poll = select.poll()
        for end in self._ends:
            poll.register(end, select.POLLIN)
        _say(event="ready")
        due = time.monotonic() + 1
        while True:
            wait_s = 0.2 if not self._held else max(0.0, self._held[0][0] - time.monotonic())
            poll.poll(min(wait_s, 0.2) * 1000)
            for index, end in enumerate(self._ends):
                self._pass_on(end, 1 - index)
            now = time.monotonic()
            while self._held and self._held[0][0] <= now:
                _, _, target, frame = heapq.heappop(self._held)
                self._send(target, frame)
            if now >= due:
                due = now + 1
                _say(event="progress", **self.counts)

    def _pass_on(self, end: socket.socket, target: int) -> None:
        rng, faults = self._rng, self._faults
        for _ in range(_FETCH_MAX):
            try:
                frame = end.recv(65536)
            except (BlockingIOError, OSError):
                return
            self.counts["passed"] += 1
            if frame[12:14] == _ETH_P_IP and frame[23] == socket.IPPROTO_UDP:
                if rng.random() * 1000 < faults.flip_per_mille:
                    frame = self._flip(frame)
                if rng.random() * 1000 < faults.duplicate_per_mille:
                    self.counts["duplicated"] += 1
                    for _copy in range(rng.randint(1, 3)):
                        self._send(target, frame)
                if rng.random() * 1000 < faults.reorder_per_mille:
                    self.counts["reordered"] += 1
                    when = time.monotonic() + rng.random() * _DELAY_MAX_S
                    heapq.heappush(self._held, (when, self.counts["reordered"], target, frame))
                    continue
            self._send(target, frame)

    def _send(self, target: int, frame: bytes) -> None:
        try:
            self._ends[target].send(frame)
        except OSError:
            self.counts["refused"] += 1

    def _flip(self, frame: bytes) -> bytes:
        """Return the frame with one to eight bits of its UDP payload flipped, and a checksum that says all is well."""
        rng, spoilt = self._rng, bytearray(frame)
        start = _ETHERNET_HEADER_SIZE + (frame[_ETHERNET_HEADER_SIZE] & 0x0F) * 4
        (size,) = struct.unpack_from("!H", frame, start + 4)
        first, last = start + _UDP_HEADER_SIZE, start + size
        kind = FLIP_KINDS.index(self._faults.flip_what)
        if first + _KIND_OFFSET >= last or (kind and frame[first + _KIND_OFFSET] != kind):
            return frame
        if self._faults.flip_where == "header":
            last = min(last, first + _HEADER_REACH)
        elif self._faults.flip_where == "payload":
            first = min(first + _HEADER_REACH, last - 1)
        for _ in range(rng.randint(1, 8)):
            spoilt[rng.randrange(first, last)] ^= 1 << rng.randrange(8)
        struct.pack_into("!H", spoilt, start + 6, _udp_checksum(spoilt, start, size))
        self.counts["flipped"] += 1
        return bytes(spoilt)


def _udp_checksum(frame: bytearray, start: int, size: int) -> int:
    """Return the checksum (RFC 768) of the UDP datagram at ``start``: a sum of 16-bit words with end-around carry."""
    addresses = _ETHERNET_HEADER_SIZE + 12
    summed = bytes(frame[addresses : addresses + 8]) + struct.pack("!HH", socket.IPPROTO_UDP, size)
    summed += bytes(frame[start : start + 6]) + b"\0\0" + bytes(frame[start + 8 : start + size])
    summed += b"\0" * (len(summed) % 2)
    # 2**16 is 1 modulo 65535: the remainder of the whole number is the folded sum of its words.
    folded = int.from_bytes(summed) % 0xFFFF
    return (0xFFFF - folded) or 0xFFFF


def _open(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    end.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_SIZE)
    end.bind((interface, 0))
    end.setblocking(False)
    return end


def _say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("left")
    parser.add_argument("right")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--flip-per-mille", type=float, default=0)
    parser.add_argument("--flip-where", choices=FLIP_PLACES, default="anywhere")
    parser.add_argument("--flip-what", choices=FLIP_KINDS, default="everything")
    parser.add_argument("--duplicate-per-mille", type=float, default=0)
    parser.add_argument("--reorder-per-mille", type=float, default=0)
    arguments = vars(parser.parse_args())
    left, right, seed = (arguments.pop(name) for name in ("left", "right", "seed"))
    relay = Relay(left, right, Faults(**arguments), seed)

    def end(_number: int, _frame: object) -> None:
        _say(event="finished", **relay.counts)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    relay.run()


if __name__ == "__main__":
    main()
