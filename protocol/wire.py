"""Datagrams as bytes: the preamble that every one begins with, and the frame of a control message.

All integers are in network byte order. The layouts are specified in ``SPEC.md`` §3 and pinned by golden vectors. A
datagram that is foreign or malformed increments a counter of ``Drops`` and never raises.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib

from protocol import limits

MAGIC = 0x6743  # "gC"
VERSION = 1

KIND_DATA = 1
KIND_CONTROL = 2
KIND_MEASURE = 3
"""Messages of ``protocol.measurement``: to a session they are malformed, and nothing more."""

DATA_HEADER_SIZE = 32
"""Before every symbol; ``symbols.DATA_HEADER`` has its fields."""

PREAMBLE = struct.Struct(">HBBII")
"""Magic, version, kind, session id, send time: the first twelve bytes of every datagram."""

SENT_US_OFFSET = 8
"""Where the send time stands in every datagram; filled in by whoever hands the datagram to the kernel."""

CONTROL_BODY_OFFSET = 16
"""A control message's msgpack begins here; the four bytes before it are its checksum."""

_CHECKSUM = struct.Struct(">I")
_CHECKSUM_OFFSET = 12

PREAMBLE_VALUE = (MAGIC << 16) | (VERSION << 8) | KIND_DATA
"""The first four bytes of a data datagram as one integer, so that a batch is checked with one comparison."""


@dataclasses.dataclass(slots=True)
class Drops:
    """Datagrams that were not used, by reason. Counting is all that ever happens to them."""

    foreign: int = 0
    """Not ours: wrong magic, too short to tell."""
    version: int = 0
    """A ghostcast of another protocol version."""
    session: int = 0
    """Another session's."""
    malformed: int = 0
    """Ours, but its fields contradict the session: a slice or symbol that does not exist, a message that cannot be."""
    stale: int = 0
    """Well-formed, but not expected here and now."""
    overflow: int = 0
    """A bounded queue was full."""

    def total(self) -> int:
        """Return the sum of all reasons."""
        return self.foreign + self.version + self.session + self.malformed + self.stale + self.overflow


def control_datagram(session_id: int, body: bytes, kind: int = KIND_CONTROL) -> bytes:
    """Return a control datagram: preamble, send time zero, checksum, msgpack body."""
    preamble = PREAMBLE.pack(MAGIC, VERSION, kind, session_id, 0)
    return preamble + _CHECKSUM.pack(_checksum(preamble, body)) + body


def _checksum(preamble: bytes, body: bytes) -> int:
    """Return the CRC-32 of all of a control datagram but the send time, which is filled in later, and the CRC itself.

    UDP's own checksum misses one damaged datagram in 65 536, and is often reckoned anew by the very card or switch that
    does the damage. Chunks have their digests; a bit flipped in a JOIN would be a receiver that never was.
    """
    return zlib.crc32(body, zlib.crc32(preamble[:SENT_US_OFFSET]))


@dataclasses.dataclass(frozen=True, slots=True)
class ControlFrame:
    """A control datagram's outside: whose it is, when it was sent, and the msgpack inside."""

    session_id: int
    sent_us: int
    body: bytes


def parse_control(
    datagram: bytes, drops: Drops, kind_expected: int = KIND_CONTROL, size_max: int = limits.CONTROL_SIZE_MAX
) -> ControlFrame | None:
    """Return a control datagram's frame, or count it and return None."""
    if len(datagram) < CONTROL_BODY_OFFSET or len(datagram) > size_max:
        drops.foreign += 1
        return None
    magic, version, kind, session_id, sent_us = PREAMBLE.unpack_from(datagram)
    if magic != MAGIC:
        drops.foreign += 1
        return None
    if version != VERSION:
        drops.version += 1
        return None
    body = datagram[CONTROL_BODY_OFFSET:]
    (checksum,) = _CHECKSUM.unpack_from(datagram, _CHECKSUM_OFFSET)
    if kind != kind_expected or checksum != _checksum(datagram, body):
        drops.malformed += 1
        return None
    return ControlFrame(session_id, sent_us, body)
