"""Goal: measuring messages come back as they went in, fit their datagrams at their largest, and are no session's.

Method: one of each, at its limits where that is what matters; each way to be foreign, once.
"""

from __future__ import annotations

import msgspec
import pytest

from protocol import limits, measurement, messages, wire
from protocol.messages import EndReason

U32, U63 = (1 << 32) - 1, (1 << 63) - 1
RECEIVER_ID = bytes(range(16))

LARGEST: list[measurement.AnyMeasurement] = [
    measurement.Offer("n" * 128, U32, 65535, 65535),
    measurement.Seek("n" * 128),
    measurement.Enter(RECEIVER_ID, "h" * 64, U63, U32, U63),
    measurement.Entered(RECEIVER_ID, limits.RECEIVERS_MAX - 1),
    measurement.Begin(255, 8928, U63, 60_000),
    measurement.Ready(limits.RECEIVERS_MAX - 1, 255),
    measurement.Close(255, 1 << 24, 60_000),
    measurement.Outcome(
        limits.RECEIVERS_MAX - 1, 255, 1 << 24, U63, U63, U63, U32, (U32,) * 16, U32, (U32,) * 3, (255,) * 6, U63
    ),
    measurement.Finish(EndReason.FAILED, "t" * 400),
    measurement.Leave(limits.RECEIVERS_MAX - 1),
    measurement.Echo(U32, True, bytes(8000)),
    measurement.EchoReply(U32, True, True, U32, "h" * 64, U32, U63, bytes(8000)),
]


@pytest.mark.parametrize("message", LARGEST, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_went_in(message: measurement.AnyMeasurement) -> None:
    drops = wire.Drops()
    datagram = measurement.encode(7, message)
    assert measurement.decode(datagram, drops) == (7, message)
    assert drops.total() == 0
    # To a session it is a counter.
    assert wire.parse_control(datagram, drops) is None
    assert drops.total() == 1


@pytest.mark.parametrize(
    ("datagram", "counter"),
    [
        (b"", "foreign"),
        (b"x" * 40, "foreign"),
        (bytes(9000), "foreign"),
        (messages.encode(1, messages.Solicit("x")), "stale"),
        (measurement.encode(1, measurement.Seek("x"))[:-1], "malformed"),
        (wire.control_datagram(1, b"\x92\x63\xa1x", wire.KIND_MEASURE), "malformed"),
        (b"\x67\x43\x02" + measurement.encode(1, measurement.Seek("x"))[3:], "version"),
    ],
)
def test_anything_else_is_counted(datagram: bytes, counter: str) -> None:
    drops = wire.Drops()
    assert measurement.decode(datagram, drops) is None
    assert getattr(drops, counter) == drops.total() == 1


@pytest.mark.parametrize(
    "message",
    [
        measurement.Begin(256, 1440, 1, 0),
        measurement.Begin(0, 1441, 1, 0),
        measurement.Close(0, (1 << 24) + 1, 0),
        measurement.Ready(limits.RECEIVERS_MAX, 0),
        measurement.Offer("n" * 129, 0, 1, 1),
    ],
)
def test_bounds_are_checked(message: measurement.AnyMeasurement) -> None:
    drops = wire.Drops()
    datagram = wire.control_datagram(1, msgspec.msgpack.encode(message), wire.KIND_MEASURE)
    assert measurement.decode(datagram, drops) is None
    assert drops.malformed == 1


@pytest.mark.parametrize("size", [60, 255, 256, 300, 1372, 1472, 8972])
def test_an_echo_is_padded_to_the_byte(size: int) -> None:
    reply = measurement.EchoReply(1, True, False, 5, "host", 1500, 1)
    for message in (measurement.Echo(1, True), reply):
        datagram = measurement.pad_to(size, 0, message)
        assert len(datagram) == size
        assert measurement.decode(datagram, wire.Drops()) is not None


def test_what_is_longer_already_stays() -> None:
    bare = measurement.encode(0, measurement.Echo(1, True))
    assert measurement.pad_to(5, 0, measurement.Echo(1, True)) == bare
