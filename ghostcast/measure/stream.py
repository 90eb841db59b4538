"""The synthetic stream of one step: datagrams like a clone's, full of noise, sent at one pace for so long.

Drives the same ``BatchSender`` as a clone does; numbers datagrams from 0 in every step.
"""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Callable

import numpy as np

from ghostcast.net.transmit import BatchSender
from protocol import wire
from protocol.measurement import STEP_DATAGRAMS_MAX
from protocol.symbols import DATA_HEADER

BLOCK_S = 0.004
"""Time that one block of rows takes: how soon the stream ends when its time is over."""

CATCH_UP_MAX = 1.3
CATCH_UP_S = 0.05
"""A stream that is behind, because the process slept too long, is paced faster: twice as fast if it were behind by so
much, but never beyond ``CATCH_UP_MAX``. On the average of a step the rate is then what was asked for."""

BATCHES_MAX = 48
"""Batches of a block, 3 MB: about what a clone's window has in the processor's cache."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """What went out."""

    count: int
    """Numbers used."""
    refused: int
    """Of these, datagrams that the kernel did not take."""
    seconds: float
    datagram_size: int

    @property
    def rate(self) -> float:
        """Bytes per second of UDP payload that really left."""
        return (self.count - self.refused) * self.datagram_size / max(self.seconds, 1e-9)


class Stream:
    """Sends steps of one symbol size. Not thread-safe: one thread uses it at a time."""

    def __init__(self, opened: socket.socket, group: str, port: int, session_id: int, symbol_size: int) -> None:
        self.symbol_size = symbol_size
        self.sender = BatchSender(opened, group, port, wire.DATA_HEADER_SIZE + symbol_size)
        self._datagram_size = wire.DATA_HEADER_SIZE + symbol_size
        rows = np.random.default_rng(session_id).integers(
            0, 256, (BATCHES_MAX * self.sender.batch_count, self._datagram_size), np.uint8
        )
        headers = rows[:, : wire.DATA_HEADER_SIZE].view(DATA_HEADER)[:, 0]
        headers[:] = 0
        headers["magic"], headers["version"], headers["kind"] = wire.MAGIC, wire.VERSION, wire.KIND_DATA
        headers["session"] = session_id
        self._rows, self._headers = rows, headers
        self.progress = 0
        """Datagrams of the running step that were sent."""

    def send(
        self, step: int, rate: float, seconds: float, stop: Callable[[], bool], count_max: int | None = None
    ) -> Sent:
        """Send one step.

        Args:
            step: its number, which every datagram carries.
            rate: bytes per second of UDP payload.
            seconds: how long.
            stop: returns whether to end early.
            count_max: end after so many datagrams, whatever the time.
        """
        batch = self.sender.batch_count
        wanted = rate * BLOCK_S / (batch * self._datagram_size)
        block = batch * max(1, min(BATCHES_MAX, round(wanted)))
        limit = min(count_max or STEP_DATAGRAMS_MAX, STEP_DATAGRAMS_MAX)
        refused_before = self.sender.datagrams_refused
        self._headers["slice"] = step
        self.progress = 0
        begun = time.monotonic()
        while self.progress < limit and not stop():
            rows = min(block, limit - self.progress)
            self._headers["sequence"][:rows] = np.arange(self.progress, self.progress + rows)
            self.sender.send_rows(self._rows[:rows], lambda: self._pace(rate, begun))
            self.progress += rows
            if time.monotonic() - begun >= seconds:
                break
        # The last batch takes its time on the wire as well, though nobody waits for it.
        elapsed = max(time.monotonic() - begun, self.progress * self._datagram_size / rate)
        return Sent(self.progress, self.sender.datagrams_refused - refused_before, elapsed, self._datagram_size)

    def _pace(self, rate: float, begun: float) -> float:
        """Return the pace that makes up for what is behind."""
        behind_s = time.monotonic() - begun - self.progress * self._datagram_size / rate
        return rate * min(CATCH_UP_MAX, 1 + max(0.0, behind_s) / CATCH_UP_S)
