"""Goal: an endpoint of the control plane holds so much and no more, and nothing that the network does ends it.

Method: real sockets on loopback, one event loop a test; waits end by what arrives, never by time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ghostcast.net import sockets
from ghostcast.net.control import ControlEndpoint
from ghostcast.net.interfaces import choose_interface
from protocol import limits
from tests.unit.ghostcast.net.link import PATIENCE_S


class Woken:
    """What a wake-up call sets, and a wait for a condition over it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.wait_for(self._event.wait(), PATIENCE_S)
            self._event.clear()


def open_socket() -> socket.socket:
    return sockets.open_control(choose_interface("127.0.0.1"), 0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


async def next_datagram(endpoint: ControlEndpoint, woken: Woken) -> bytes:
    taken: list[bytes] = []

    def arrived() -> bool:
        taken.extend(datagram for datagram, _address in endpoint.take())
        return bool(taken)

    await woken.until(arrived)
    return taken[0]


def test_datagrams_come_with_their_sender_in_order_and_once() -> None:
    async def main() -> None:
        woken = Woken()
        one = await ControlEndpoint.open(first := open_socket(), woken)
        two = await ControlEndpoint.open(second := open_socket(), Woken())
        address, origin = first.getsockname(), second.getsockname()
        for number in range(10):
            await two.send(b"%d" % number, address)
        taken: list[tuple[bytes, tuple[str, int]]] = []

        def complete() -> bool:
            taken.extend(one.take())
            return len(taken) == 10

        await woken.until(complete)
        assert taken == [(b"%d" % number, origin) for number in range(10)]
        assert one.take() == []
        assert one.overflow == 0
        await one.close()
        await two.close()

    run(main)


def test_a_full_inbox_drops_the_newest_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INBOX_DATAGRAMS_MAX", 5)

    async def main() -> None:
        woken = Woken()
        endpoint = await ControlEndpoint.open(opened := open_socket(), woken)
        with open_socket() as sender:
            for number in range(12):
                sender.sendto(b"%d" % number, opened.getsockname())
            await woken.until(lambda: endpoint.overflow == 7)
            assert [datagram for datagram, _ in endpoint.take()] == [b"0", b"1", b"2", b"3", b"4"]
            sender.sendto(b"again", opened.getsockname())
            assert await next_datagram(endpoint, woken) == b"again"
        assert endpoint.overflow == 7
        await endpoint.close()

    run(main)


def test_an_absent_peer_does_not_end_it() -> None:
    """Datagrams to a port that nobody has come back as ICMP errors, which the kernel hands to the next call."""

    async def main() -> None:
        woken = Woken()
        opened = open_socket()
        opened.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: errors reach unconnected sockets too
        endpoint = await ControlEndpoint.open(opened, woken)
        with open_socket() as gone:
            nobody = gone.getsockname()
        for _attempt in range(20):
            await endpoint.send(b"anybody there?", nobody)
        with open_socket() as sender:
            sender.sendto(b"here", opened.getsockname())
            assert await next_datagram(endpoint, woken) == b"here"
        await endpoint.close()

    run(main)


def test_a_network_that_refuses_is_as_good_as_one_that_loses() -> None:
    async def main() -> None:
        endpoint = await ControlEndpoint.open(open_socket(), Woken())
        await endpoint.send(bytes(70_000), ("127.0.0.1", 9))
        await endpoint.send(b"", ("127.0.0.1", 9))
        await endpoint.close()

    run(main)


def test_after_close_the_socket_is_closed_and_sending_is_harmless() -> None:
    async def main() -> None:
        endpoint = await ControlEndpoint.open(opened := open_socket(), Woken())
        await endpoint.close()
        await endpoint.send(b"too late", ("127.0.0.1", 9))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert opened.fileno() == -1
        assert endpoint.take() == []

    run(main)
