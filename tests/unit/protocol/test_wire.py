"""Goal: the bytes on the wire are those of SPEC §3, for ever; what is not ours is counted, never raised.

Method: golden vectors, decoded field by field; datagrams that break one rule each.
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct

import numpy as np
import pytest

from protocol import limits, wire
from protocol.symbols import DATA_HEADER, unwrap_sequence

VECTORS = pathlib.Path(__file__).parents[2] / "vectors"


def test_the_data_header_is_the_golden_one() -> None:
    golden = (VECTORS / "wire-data.bin").read_bytes()
    header = np.zeros(1, DATA_HEADER)
    header["magic"] = wire.MAGIC
    header["version"] = wire.VERSION
    header["kind"] = wire.KIND_DATA
    header["session"] = 0x5E551011
    header["sent_us"] = 0x01020304
    header["sequence"] = 0xFFFFFFF0
    header["slice"] = 0x00ABCDEF
    header["window_left"] = 4095
    header["object"] = limits.OBJECT_IMAGE
    header["esi"] = 200
    assert header.tobytes() + bytes(range(64)) == golden


def test_every_field_stands_where_the_specification_says() -> None:
    offsets = {name: DATA_HEADER.fields[name][1] for name in DATA_HEADER.names or ()}
    assert offsets == {
        "magic": 0, "version": 2, "kind": 3, "session": 4, "sent_us": 8, "sequence": 12, "slice": 16,
        "window_left": 20, "object": 22, "esi": 23, "authentication": 24,
    }  # fmt: skip
    assert DATA_HEADER.itemsize == wire.DATA_HEADER_SIZE == 32
    golden = (VECTORS / "wire-data.bin").read_bytes()
    assert struct.unpack(">HBBIIIIHBBQ", golden[:32]) == (
        0x6743, 1, 1, 0x5E551011, 0x01020304, 0xFFFFFFF0, 0x00ABCDEF, 4095, 1, 200, 0,
    )  # fmt: skip
    assert struct.unpack(">I", golden[:4])[0] == wire.PREAMBLE_VALUE
    assert golden[wire.SENT_US_OFFSET : wire.SENT_US_OFFSET + 4] == bytes([1, 2, 3, 4])


def test_a_control_datagram_comes_back_as_it_went_in() -> None:
    drops = wire.Drops()
    frame = wire.parse_control(wire.control_datagram(7, b"body"), drops)
    assert frame == wire.ControlFrame(7, 0, b"body")
    assert drops.total() == 0


def test_the_send_time_is_not_in_the_checksum() -> None:
    stamped = bytearray(wire.control_datagram(7, b"body"))
    stamped[wire.SENT_US_OFFSET : wire.SENT_US_OFFSET + 4] = b"\1\2\3\4"
    assert wire.parse_control(bytes(stamped), wire.Drops()) == wire.ControlFrame(7, 0x01020304, b"body")


GOOD = wire.control_datagram(0x5E551011, b"\x92\x02\xa0")


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "foreign"),
        (GOOD[:15], "foreign"),
        (b"XX" + GOOD[2:], "foreign"),
        (GOOD + bytes(limits.CONTROL_SIZE_MAX), "foreign"),
        (GOOD[:2] + b"\x02" + GOOD[3:], "version"),
        (GOOD[:3] + b"\x01" + GOOD[4:], "malformed"),
        (GOOD[:3] + b"\x09" + GOOD[4:], "malformed"),
        (GOOD[:12] + b"\0\0\0\0" + GOOD[16:], "malformed"),
        (GOOD[:7] + bytes([GOOD[7] ^ 4]) + GOOD[8:], "malformed"),
        (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "malformed"),
    ],
)
def test_what_is_not_a_control_datagram_is_counted_by_reason(datagram: bytes, reason: str) -> None:
    drops = wire.Drops()
    assert wire.parse_control(datagram, drops) is None
    assert dataclasses.asdict(drops) == dataclasses.asdict(wire.Drops()) | {reason: 1}
    assert drops.total() == 1


@pytest.mark.parametrize("reference", [0, 5, (1 << 31) - 1, 1 << 32, (1 << 32) - 3, (1 << 40) + 12345, 1 << 60])
def test_sequence_numbers_are_unwrapped_around_the_reference(reference: int) -> None:
    truth = reference + np.array([-(1 << 31) + 1, -70000, -1, 0, 1, 70000, (1 << 31) - 1])
    assert np.array_equal(unwrap_sequence(truth & 0xFFFFFFFF, reference), truth)
