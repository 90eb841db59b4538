"""The control plane's endpoints: small UDP datagrams in and out of an asyncio loop.

A thin edge over asyncio-dgram. Its receive queue is unbounded, so an endpoint empties it at every turn of the loop into
a bounded inbox; what does not fit is dropped and counted, as a kernel would.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
from collections.abc import Callable
from typing import Protocol, cast

import asyncio_dgram

from protocol import limits

Address = tuple[str, int]


class _Stream(Protocol):
    """What asyncio-dgram makes of an unconnected socket."""

    async def recv(self) -> tuple[bytes, Address]: ...

    async def send(self, data: bytes, addr: Address) -> None: ...

    def close(self) -> None: ...


class ControlEndpoint:
    """One socket of the control plane."""

    def __init__(self, stream: _Stream, wake: Callable[[], None]) -> None:
        self._stream = stream
        self._wake = wake
        self._inbox: collections.deque[tuple[bytes, Address]] = collections.deque()
        self.overflow = 0
        """Datagrams dropped because the inbox was full."""
        self._task = asyncio.get_running_loop().create_task(self._drain())

    @classmethod
    async def open(cls, opened: socket.socket, wake: Callable[[], None]) -> ControlEndpoint:
        """Take over a bound, non-blocking socket; ``wake`` is called whenever something arrived."""
        return cls(cast(_Stream, await asyncio_dgram.from_socket(opened)), wake)

    async def _drain(self) -> None:
        while True:
            try:
                datagram, address = await self._stream.recv()
            except asyncio_dgram.TransportClosed:
                return
            except OSError:
                # ICMP errors of earlier sends surface here; the protocol's own timers deal with absent peers.
                continue
            if len(self._inbox) < limits.INBOX_DATAGRAMS_MAX:
                self._inbox.append((datagram, address))
            else:
                self.overflow += 1
            self._wake()

    def take(self) -> list[tuple[bytes, Address]]:
        """Return what has arrived since the last call."""
        taken = list(self._inbox)
        self._inbox.clear()
        return taken

    async def send(self, datagram: bytes, address: Address) -> None:
        """Send one datagram; a network that refuses it is as good as one that loses it."""
        with contextlib.suppress(OSError, asyncio_dgram.TransportClosed):
            await self._stream.send(datagram, address)

    async def close(self) -> None:
        """Stop and close the socket."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._stream.close()
