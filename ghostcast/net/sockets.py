"""Opening the four kinds of UDP socket a session uses, with the options each needs.

Knows socket options and their absence on some systems; must not know what the datagrams mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import socket
import struct
import sys
from collections.abc import Generator

from ghostcast.net.interfaces import Interface
from protocol import limits
from protocol.errors import UsageError

RECEIVE_BUFFER_SIZE = 64 << 20
"""Bytes asked for: 30 ms at 10 Gbit/s, which covers a scheduler's or a disk's hiccup (research §2.5)."""

SEND_BUFFER_SIZE = 256 << 10
"""Less than an interface queues (the kernel counts twice as much, bookkeeping included): where the interface sends more
slowly than the pace asks for, the call waits for it. With more, its queue would drop what the receivers then lack."""

SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
IP_MTU_DISCOVER = 10
IP_PMTUDISC_PROBE = 3
IP_MULTICAST_ALL = 49
IP_ADD_SOURCE_MEMBERSHIP = 39
SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

_LINUX = sys.platform == "linux"


def data_group(session_id: int) -> str:
    """Return the data group of a session: its id's low bits within 239.192.0.0/14."""
    base = int(ipaddress.IPv4Address(limits.DATA_GROUP_BASE))
    # The last octet is 1 to 254: some switches treat 0 and 255 as network and broadcast addresses.
    high, low = divmod(session_id % ((1 << limits.DATA_GROUP_BITS - 8) * 254), 254)
    return str(ipaddress.IPv4Address(base + (high << 8) + low + 1))


def group_number(group: str) -> int:
    """Return a group address as the 32-bit number that ANNOUNCE carries."""
    return int(ipaddress.IPv4Address(group))


def group_address(number: int) -> str | None:
    """Return the address of a 32-bit number if it is a multicast group, else None."""
    address = ipaddress.IPv4Address(number)
    return str(address) if address.is_multicast else None


def check_group(group: str) -> str:
    """Return a multicast group address, or raise ``UsageError``."""
    try:
        address = ipaddress.IPv4Address(group)
    except ValueError as error:
        raise UsageError(f"--group {group!r} is not an IPv4 address; take one in 239.0.0.0/8") from error
    if not address.is_multicast:
        raise UsageError(f"--group {group} is not a multicast address; take one in 239.0.0.0/8")
    return str(address)


@contextlib.contextmanager
def _udp_socket() -> Generator[socket.socket, None, None]:
    """Give a new socket, which is closed if the block that prepares it fails."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        yield opened
    except BaseException:
        opened.close()
        raise


def _bind(opened: socket.socket, address: tuple[str, int], what: str) -> None:
    try:
        opened.bind(address)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {address[0]}:{address[1]} for {what}: {error.strerror}; choose another --port"
        ) from error


def _multicast_out(opened: socket.socket, interface: Interface, ttl: int) -> None:
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface.address))
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)


def open_listener(interface: Interface, group: str, port: int, what: str, source: str | None = None) -> socket.socket:
    """Open a socket that hears one group on one interface; several processes of a host may hear the same.

    With ``source`` only datagrams from that address are heard (RFC 3376), where the system can do that: the kernel then
    keeps strangers' datagrams from the data path.
    """
    with _udp_socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT") and not _LINUX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if _LINUX:
            # Without it a socket hears every group that anybody on this host has joined.
            opened.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        _bind(opened, (group, port), what)
        membership = struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton(interface.address))
        try:
            if source is not None and _LINUX:
                option, membership = IP_ADD_SOURCE_MEMBERSHIP, membership + socket.inet_aton(source)
            else:
                option = socket.IP_ADD_MEMBERSHIP
            opened.setsockopt(socket.IPPROTO_IP, option, membership)
        except OSError as error:
            raise UsageError(
                f"cannot join group {group} on {interface.name} ({interface.address}): {error.strerror}; "
                "is multicast enabled on it (ip link set dev IF multicast on)?"
            ) from error
        opened.setblocking(False)
    return opened


def open_control(interface: Interface, ttl: int) -> socket.socket:
    """Open the unicast control socket; it may send to the discovery group as well."""
    with _udp_socket() as opened:
        _bind(opened, (interface.address, 0), "control messages")
        _multicast_out(opened, interface, ttl)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        opened.setblocking(False)
    return opened


def open_data_sender(interface: Interface, ttl: int) -> socket.socket:
    """Open the socket that multicasts data; datagrams are never fragmented."""
    with _udp_socket() as opened:
        _bind(opened, (interface.address, 0), "data")
        _multicast_out(opened, interface, ttl)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_SIZE)
        if _LINUX:
            opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    return opened


@dataclasses.dataclass(frozen=True, slots=True)
class ReceiveBuffer:
    """What the kernel granted of the receive buffer that was asked for."""

    granted: int
    """Bytes of payload and bookkeeping that may wait."""

    @property
    def advice(self) -> str | None:
        """One sentence for people if the kernel capped it, with the command that mends it."""
        if self.granted >= RECEIVE_BUFFER_SIZE:
            return None
        return (
            f"the kernel caps the receive buffer at {self.granted >> 10} KiB; bursts beyond it are lost in this host. "
            f"As root: sysctl -w net.core.rmem_max={RECEIVE_BUFFER_SIZE}"
        )


def enlarge_receive_buffer(opened: socket.socket) -> ReceiveBuffer:
    """Ask for the buffer the data path wants, by force where allowed."""
    if _LINUX:
        try:
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_SIZE)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_SIZE)
        # Linux reports twice what was granted, to account for its own bookkeeping.
        return ReceiveBuffer(opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2)
    size = RECEIVE_BUFFER_SIZE
    while size > 1 << 16:
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            break
        except OSError:
            size //= 2
    return ReceiveBuffer(opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))


@dataclasses.dataclass(frozen=True, slots=True)
class SocketState:
    """What the kernel says of a receiving socket at a moment."""

    dropped: int
    """Buffers dropped so far, modulo 2**32. A buffer holds one datagram, or a batch that offload has joined."""
    backlog: float
    """Share of the receive buffer that waits to be fetched, in [0, 1]."""


def socket_state(opened: socket.socket) -> SocketState:
    """Return a socket's drops and backlog, both 0 where the system does not say."""
    if not _LINUX:
        return SocketState(0, 0.0)
    try:
        information = opened.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    except OSError:
        return SocketState(0, 0.0)
    if len(information) < 36:
        return SocketState(0, 0.0)
    allocated, buffer, *_rest, dropped = struct.unpack("9I", information)
    return SocketState(dropped, min(1.0, allocated / max(buffer, 1)))
