"""The echo test: does multicast reach others, do they reach us, and is there an IGMP querier?

Sends a handful of datagrams for a few seconds and notes what comes back and how it travelled; answers others' echoes
all the while, so that two of these find each other. Knows sockets; what it means is ``doctor``'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

from ghostcast.net import sockets
from ghostcast.net.interfaces import Interface
from protocol import limits, measurement, wire
from protocol.messages import clip

ASK_INTERVAL_S = 0.25
ASK_IDLE_S = 2.0
"""How often a listener asks, if nobody asked it within the last second: each end then knows both directions."""

ANSWERS_MAX = 50
"""Echoes answered a second: a flood of them is no reason to flood."""

ANSWERERS = 32
"""About so many of any number of hosts answer one multicast echo."""

UDP_OVERHEAD = 28
ETH_P_IP = 0x0800
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_ALLMULTI = 263, 1, 2
SO_ATTACH_FILTER = 26
IGMP = 2
IGMP_QUERY = 0x11
WALL_CLOCK_MAX = (1 << 63) - 1

Address = tuple[str, int]


@dataclasses.dataclass(slots=True)
class Peer:
    """Another host that takes part in the test, as seen from here."""

    address: str
    host: str = ""
    mtu: int = 0
    ways: set[tuple[bool, bool]] = dataclasses.field(default_factory=set)
    """(our echo went by multicast, the answer came by multicast)."""
    echo_sizes: set[tuple[bool, int]] = dataclasses.field(default_factory=set)
    """(by multicast, UDP payload bytes) of our echoes that reached it."""
    answer_sizes: set[tuple[bool, int]] = dataclasses.field(default_factory=set)
    """(by multicast, UDP payload bytes) of its answers that reached us."""
    clock_ahead_ns: int = 0
    """How far its clock is ahead of ours, half a round trip exact."""
    asked_us: bool = False
    """Its own echoes reached us."""


@dataclasses.dataclass(frozen=True, slots=True)
class Querier:
    """Who asks for group memberships."""

    address: str
    version: int


@dataclasses.dataclass(slots=True)
class Heard:
    """All that came."""

    peers: dict[str, Peer] = dataclasses.field(default_factory=dict)
    loop: bool = False
    """Our own multicast came back to our own socket."""
    queriers: set[Querier] = dataclasses.field(default_factory=set)
    queries_visible: bool = False
    """Queries could have been seen: that takes root."""
    refused: str = ""
    """Why the kernel did not even take an echo."""


class EchoTest:
    """One run. Open it, ``run`` it, read ``heard``; a context manager."""

    def __init__(self, interface: Interface, port: int, ttl: int, peer: str | None) -> None:
        self.heard = Heard()
        self.size = min(interface.mtu - UDP_OVERHEAD, measurement.ECHO_SIZE_MAX)
        """UDP payload that fills the MTU."""
        self._interface, self._port, self._ttl, self._peer = interface, port, ttl, peer
        self._number = int.from_bytes(os.urandom(4))
        self._asked_ns: dict[str, int] = {}
        self._drops = wire.Drops()
        self._opened = contextlib.ExitStack()
        self._answered = (0, 0)
        self._asked_s = 0.0
        self._rng = random.Random(self._number)

    def __enter__(self) -> EchoTest:
        """Open the sockets.

        Raises:
            UsageError: the group cannot be joined, or the port is taken.
        """
        with contextlib.ExitStack() as opening:
            self._group = opening.enter_context(
                sockets.open_listener(self._interface, limits.DISCOVERY_GROUP, self._port, "discovery")
            )
            self._direct = opening.enter_context(sockets.open_control(self._interface, self._ttl))
            # Others ask us where everybody listens: at our address and the well-known port.
            self._door = opening.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._door.setblocking(False)
            with contextlib.suppress(OSError):
                self._door.bind((self._interface.address, self._port))
            if sys.platform == "linux":
                for opened in (self._direct, self._door):
                    opened.setsockopt(socket.IPPROTO_IP, sockets.IP_MTU_DISCOVER, sockets.IP_PMTUDISC_PROBE)
            self._igmp = _open_igmp(self._interface)
            if self._igmp is not None:
                opening.enter_context(self._igmp)
                self.heard.queries_visible = True
            self._opened = opening.pop_all()
        return self

    def __exit__(self, *_failure: object) -> None:
        """Close the sockets."""
        self._opened.close()

    def run(self, seconds: float, *, done: Callable[[], bool] = lambda: False, idle: bool = False) -> None:
        """Ask and answer for so long, or until ``done``.

        Args:
            seconds: how long.
            done: asked after everything that came.
            idle: ask only now and then while nobody else does.
        """
        poll = select.poll()
        for opened in (self._group, self._direct, self._door, *([self._igmp] if self._igmp is not None else [])):
            poll.register(opened.fileno(), select.POLLIN)
        end = time.monotonic() + seconds
        ask_due = time.monotonic()
        if not idle:
            _provoke_query(self._interface)
        while (now := time.monotonic()) < end and not done():
            if now >= ask_due:
                self._ask()
                ask_due = now + (ASK_INTERVAL_S if not idle or now - self._asked_s < 1 else ASK_IDLE_S)
            if idle and now - self._asked_s < ASK_INTERVAL_S:
                ask_due = min(ask_due, now + ASK_INTERVAL_S)
            poll.poll(max(0.0, min(end, ask_due) - now) * 1000)
            for opened in (self._group, self._direct, self._door):
                self._take(opened)
            if self._igmp is not None:
                self._take_queries(self._igmp)

    def _ask(self) -> None:
        """Send echoes, small and as large as the MTU, to the group and to everybody known."""
        group = (limits.DISCOVERY_GROUP, self._port)
        peers = {(peer, self._port) for peer in (*self.heard.peers, *([self._peer] if self._peer else []))}
        for target in (group, *sorted(peers)):
            echo = measurement.Echo(self._number, target == group)
            self._asked_ns[target[0]] = time.time_ns()
            for datagram in (measurement.encode(0, echo), measurement.pad_to(self.size, 0, echo)):
                try:
                    self._direct.sendto(datagram, target)
                except OSError as error:
                    if target == group and not self.heard.refused:
                        self.heard.refused = error.strerror or str(error)

    def _take(self, opened: socket.socket) -> None:
        """Take in what waits on a socket."""
        for _count in range(limits.INBOX_DATAGRAMS_MAX):
            try:
                datagram, address = opened.recvfrom(measurement.ECHO_SIZE_MAX + 1)
            except OSError:
                return  # nothing more, or an ICMP error of an earlier echo
            decoded = measurement.decode(datagram, self._drops)
            message = decoded[1] if decoded else None
            if isinstance(message, measurement.Echo):
                if message.number == self._number:
                    self.heard.loop = self.heard.loop or opened is self._group
                else:
                    self._answer(message, len(datagram), address)
            elif isinstance(message, measurement.EchoReply) and message.number == self._number:
                self._note(message, len(datagram), address[0])

    def _answer(self, echo: measurement.Echo, size: int, address: Address) -> None:
        second = int(time.monotonic())
        count = self._answered[1] + 1 if self._answered[0] == second else 1
        self._answered = (second, count)
        crowd = len(self.heard.peers)
        if count > ANSWERS_MAX or (echo.multicast and crowd > ANSWERERS and self._rng.random() > ANSWERERS / crowd):
            return
        self._asked_s = time.monotonic()
        if len(self.heard.peers) < limits.SESSIONS_HEARD_MAX:
            self.heard.peers.setdefault(address[0], Peer(address[0])).asked_us = True
        host = clip(socket.gethostname(), limits.HOST_LENGTH_MAX)
        for multicast in (True, False):
            target = (limits.DISCOVERY_GROUP, self._port) if multicast else address
            reply = measurement.EchoReply(
                echo.number,
                echo.multicast,
                multicast,
                size,
                host,
                self._interface.mtu,
                min(max(time.time_ns(), 0), WALL_CLOCK_MAX),
            )
            with contextlib.suppress(OSError):
                self._direct.sendto(measurement.pad_to(size, 0, reply), target)

    def _note(self, reply: measurement.EchoReply, size: int, address: str) -> None:
        if len(self.heard.peers) >= limits.SESSIONS_HEARD_MAX and address not in self.heard.peers:
            return
        peer = self.heard.peers.setdefault(address, Peer(address))
        peer.host, peer.mtu = reply.host, reply.mtu
        peer.ways.add((reply.asked_by_multicast, reply.multicast))
        peer.echo_sizes.add((reply.asked_by_multicast, reply.size))
        peer.answer_sizes.add((reply.multicast, size))
        asked = self._asked_ns.get(limits.DISCOVERY_GROUP if reply.asked_by_multicast else address)
        if asked is not None:
            peer.clock_ahead_ns = reply.wall_clock_ns - (asked + time.time_ns()) // 2

    def _take_queries(self, opened: socket.socket) -> None:
        for _count in range(1000):
            try:
                packet = opened.recv(2048)
            except OSError:
                return
            if (querier := parse_query(packet)) is not None and len(self.heard.queriers) < 16:
                self.heard.queriers.add(querier)


def parse_query(packet: bytes) -> Querier | None:
    """Return who sent an IGMP membership query, given an IP packet; None if it is none."""
    if len(packet) < 20 or packet[9] != IGMP:
        return None
    header_size = (packet[0] & 0x0F) * 4
    (total,) = struct.unpack_from("!H", packet, 2)
    message = packet[header_size:total]
    if len(message) < 8 or message[0] != IGMP_QUERY:
        return None
    version = 3 if len(message) >= 12 else 2 if message[1] else 1  # RFC 3376 §7.1
    return Querier(socket.inet_ntoa(packet[12:16]), version)


def _open_igmp(interface: Interface) -> socket.socket | None:
    """Open a socket that sees every IGMP packet on the interface; None where that is not allowed or not known."""
    if not hasattr(socket, "AF_PACKET") or interface.loopback:
        return None
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    except OSError:
        return None
    # The kernel leaves all other packets out: on a busy interface they would be a million a second.
    # ldb [9]; jeq #2, 0, 1; ret #65535; ret #0
    program = struct.pack("=" + "HBBI" * 4, 0x30, 0, 0, 9, 0x15, 0, 1, IGMP, 0x06, 0, 0, 0xFFFF, 0x06, 0, 0, 0)
    held = ctypes.create_string_buffer(program)
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(held)))
    opened.bind((interface.name, ETH_P_IP))
    # Queries for one group go to that group, which the card would keep from us.
    member = struct.pack("iHH8s", socket.if_nametoindex(interface.name), PACKET_MR_ALLMULTI, 0, b"")
    opened.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, member)
    opened.setblocking(False)
    return opened


def _provoke_query(interface: Interface) -> None:
    """Join a group and leave it again: a querier then asks at once whether anybody else is in it."""
    low = int.from_bytes(os.urandom(2))
    group = f"239.255.{low >> 8}.{max(1, low & 0xFE)}"
    membership = socket.inet_aton(group) + socket.inet_aton(interface.address)
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership)
