"""Plain multicast traffic for proving the rig, and junk for annoying the engines; runs as a command inside a host.

``send`` numbers its datagrams, one by one or in GSO batches; ``listen`` reports which numbers were missing; ``junk``
overhears all UDP on its host's cable and answers with noise that resembles it. Uses nothing of ghostcast, so that what
it proves about the rig does not hang on what the rig is to prove.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import socket
import struct
import time
import zlib
from typing import Any

JUNK_KINDS = ("random", "truncated", "flipped")

_UDP_SEGMENT = 103  # linux/udp.h; the socket module has no name for it before Python 3.13
_ETH_P_IP = 0x0800
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 263, 1, 1  # linux/if_packet.h
_PACKET_IGNORE_OUTGOING = 23
_CATCH_UP_S = 0.01
_SLEEP_MIN_S = 0.001  # a shorter sleep takes longer than it should
_NUMBER = struct.Struct("!I")
_END = 0xFFFFFFFF
_END_COPIES = 300  # at 30 % loss all are lost once in 10^157 runs
_RECEIVE_BUFFER_SIZE = 64 << 20
_ETHERNET_HEADER_SIZE = 14


def send(group: str, port: int, address: str, *, count: int, batch: int, size: int) -> None:
    """Multicast ``count`` numbered datagrams of ``size`` bytes, ``batch`` of them to a system call."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        sender.connect((group, port))
        if batch > 1:
            sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, size)
        for start in range(0, count, batch):
            numbers = range(start, min(start + batch, count))
            sender.send(b"".join(_NUMBER.pack(number).ljust(size, b".") for number in numbers))
        for _ in range(_END_COPIES):
            sender.send(_NUMBER.pack(_END))
    _say(event="finished", sent=count)


def listen(group: str, port: int, address: str, *, count: int) -> None:
    """Join the group, then report the ranges of missing numbers once the sender says that it is through."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), _RECEIVE_BUFFER_SIZE)
        listener.bind((group, port))
        membership = socket.inet_aton(group) + socket.inet_aton(address)
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        _say(event="ready")
        missing = set(range(count))
        while (number := _NUMBER.unpack_from(listener.recv(65536))[0]) != _END:
            missing.discard(number)
    _say(event="finished", received=count - len(missing), missing=_ranges(sorted(missing)))


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Return the runs of consecutive numbers as (first, how many)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


@dataclasses.dataclass(frozen=True, slots=True)
class _Overheard:
    """One UDP datagram seen on the cable."""

    target: tuple[str, int]
    payload: bytes


def junk(
    address: str, *, targets: list[tuple[str, int]], kinds: list[str], rate_per_s: int, each_target: bool, seed: int
) -> None:
    """Spray noise until killed: ``random`` bytes, and overheard datagrams ``truncated`` or with bits ``flipped``.

    Datagrams go to ``targets`` and to every address and port that others were seen to send to: ``rate_per_s`` of them
    altogether, or to each of these. Says how many of each kind it has sent, once a hundred.
    """
    rng = random.Random(seed)
    seen: dict[tuple[str, int], list[bytes]] = {target: [] for target in targets}
    sent = dict.fromkeys(kinds, 0)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP)) as cable,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        cable.bind(("eth0", _ETH_P_IP))
        promiscuous = struct.pack("iHH8s", socket.if_nametoindex("eth0"), _PACKET_MR_PROMISC, 0, b"")
        cable.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, promiscuous)  # also what is addressed to other hosts
        cable.setblocking(False)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        cable.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        _say(event="ready")
        due = time.monotonic()
        while True:
            for datagram in _overhear(cable, address):
                kept = seen.setdefault(datagram.target, [])
                kept.append(datagram.payload)
                del kept[:-16]
            rate = rate_per_s * (len(seen) if each_target else 1)
            due = max(due + 1 / rate, time.monotonic() - _CATCH_UP_S)
            if (left := due - time.monotonic()) > _SLEEP_MIN_S:
                time.sleep(left)
            target = rng.choice(list(seen))
            kind = rng.choice(kinds)
            if kind != "random" and not seen[target]:
                continue  # nothing overheard yet that could be spoilt
            payload = _spoil(rng, kind, seen[target])
            try:
                sender.sendto(payload, target)
            except ConnectionRefusedError:
                continue  # a closed port answered an earlier datagram
            sent[kind] += 1
            if sum(sent.values()) % 100 == 0:
                _say(event="progress", sent=sent, targets=len(seen))


def _spoil(rng: random.Random, kind: str, models: list[bytes]) -> bytes:
    if kind == "random":
        return rng.randbytes(rng.choice((0, 1, 31, 32, 33, 64, 500, 1472)))
    model = rng.choice(models)
    if kind == "truncated":
        return model[: rng.randrange(len(model))]
    spoilt = bytearray(model)
    for _ in range(rng.randint(1, 4)):
        # Half of the flips hit the first 64 bytes, where headers are.
        reach = len(spoilt) if rng.random() < 0.5 else min(64, len(spoilt))
        spoilt[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    if rng.random() < 0.5 and spoilt[3] == 2:
        # A control datagram (protocol/SPEC.md §3.2) of a liar who knows how to reckon its checksum.
        spoilt[12:16] = zlib.crc32(spoilt[:8] + spoilt[16:]).to_bytes(4)
    return bytes(spoilt)


def _overhear(cable: socket.socket, own_address: str) -> list[_Overheard]:
    """Return the UDP datagrams that wait on the cable and that are not our own; at most 64, so that sending goes on."""
    found = []
    for _ in range(64):
        try:
            frame = cable.recv(65536)
        except BlockingIOError:
            break
        packet = frame[_ETHERNET_HEADER_SIZE:]
        header_size = (packet[0] & 0x0F) * 4
        if packet[9] != socket.IPPROTO_UDP or socket.inet_ntoa(packet[12:16]) == own_address:
            continue
        port, udp_size = struct.unpack_from("!HH", packet, header_size + 2)
        payload = packet[header_size + 8 : header_size + udp_size]
        if payload:
            found.append(_Overheard((socket.inet_ntoa(packet[16:20]), port), payload))
    return found


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def _endpoint(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    return address, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="this host's own address")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("send", "listen"):
        command = commands.add_parser(name)
        command.add_argument("--group", default="239.255.1.1")
        command.add_argument("--port", type=int, default=9999)
        command.add_argument("--count", type=int, required=True)
        if name == "send":
            command.add_argument("--batch", type=int, default=1)
            command.add_argument("--size", type=int, default=200)
    command = commands.add_parser("junk")
    command.add_argument("--target", type=_endpoint, action="append", default=[], dest="targets")
    command.add_argument("--kind", choices=JUNK_KINDS, action="append", required=True, dest="kinds")
    command.add_argument("--rate-per-s", type=int, default=200)
    command.add_argument("--each-target", action="store_true", help="so many to each address and port")
    command.add_argument("--seed", type=int, required=True)
    arguments = vars(parser.parse_args())
    command_name = arguments.pop("command")
    if command_name == "send":
        send(**arguments)
    elif command_name == "listen":
        listen(**arguments)
    else:
        junk(**arguments)


if __name__ == "__main__":
    main()
