"""Goal: two echo tests find each other and learn every direction; queries are told from what resembles them.

Method: two on loopback, in threads of this process, one of them under another address; packets made by hand.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
import threading

import pytest

from ghostcast.measure.echo import EchoTest, Querier, parse_query
from ghostcast.net.interfaces import choose_interface

LOOPBACK = choose_interface("127.0.0.1")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_two_hosts_learn_all_directions() -> None:
    port = free_port()
    other = dataclasses.replace(LOOPBACK, address="127.0.0.2", mtu=9000)
    ended = threading.Event()
    with EchoTest(LOOPBACK, port, 0, "127.0.0.2") as here, EchoTest(other, port, 0, None) as there:
        listener = threading.Thread(target=lambda: there.run(20, done=ended.is_set, idle=True))
        listener.start()
        try:
            here.run(20, done=lambda: len(here.heard.peers.get("127.0.0.2", _NOBODY).ways) == 4)
        finally:
            ended.set()
            listener.join()
    found = here.heard.peers["127.0.0.2"]
    assert here.heard.loop
    assert found.ways == {(True, True), (True, False), (False, True), (False, False)}
    assert (True, here.size) in found.echo_sizes
    assert found.mtu == 9000
    assert abs(found.clock_ahead_ns) < 10**9
    assert there.heard.peers["127.0.0.1"].asked_us


class _Nobody:
    ways: frozenset[tuple[bool, bool]] = frozenset()


_NOBODY = _Nobody()


def test_alone_there_is_only_the_loop() -> None:
    with EchoTest(LOOPBACK, free_port(), 0, None) as alone:
        alone.run(20, done=lambda: alone.heard.loop)
    assert alone.heard.peers == {}
    assert alone.heard.queriers == set()


def packet(message: bytes, protocol: int = 2, options: bytes = b"") -> bytes:
    header_size = 20 + len(options)
    source, target = socket.inet_aton("10.0.0.1"), socket.inet_aton("224.0.0.1")
    fields = (0x40 | header_size // 4, 0, header_size + len(message), 0, 0, 1, protocol, 0, source, target)
    return struct.pack("!BBHHHBBH4s4s", *fields) + options + message


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (packet(b"\x11\x00" + bytes(6)), 1),
        (packet(b"\x11\x64" + bytes(6)), 2),
        (packet(b"\x11\x64" + bytes(10)), 3),
        (packet(b"\x11\x64" + bytes(6), options=b"\x94\x04\0\0"), 2),
        (packet(b"\x11\x64" + bytes(6)) + bytes(18), 2),  # Ethernet's padding is not the message's
        (packet(b"\x16\x00" + bytes(6)), None),
        (packet(b"\x11\x64" + bytes(6), protocol=17), None),
        (packet(b"\x11\x64"), None),
        (b"", None),
    ],
)
def test_queries(data: bytes, version: int | None) -> None:
    assert parse_query(data) == (None if version is None else Querier("10.0.0.1", version))
