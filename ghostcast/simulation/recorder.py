"""What is counted while a run goes on: control messages that reach the sender, and data that leave it, over time.

Everything is kept per interval of ``INTERVAL_NS``, from the first instant to the last, so that a peak at the start or
at the end counts like any other.
"""

from __future__ import annotations

import collections
import typing

import numpy as np
import numpy.typing as npt

from protocol import limits, messages, wire

INTERVAL_NS = 100 * limits.MILLISECOND_NS
INTERVALS_PER_S = limits.SECOND_NS // INTERVAL_NS

_NAMES: dict[int, str] = {kind.__struct_config__.tag: kind.__name__ for kind in typing.get_args(messages.AnyMessage)}
_FIXARRAY, _ARRAY16 = 0x90, 0xDC


def name_of(datagram: bytes) -> str:
    """Return which message a control datagram of ours carries, by its tag alone."""
    first = datagram[wire.CONTROL_BODY_OFFSET]
    tag = datagram[wire.CONTROL_BODY_OFFSET + (3 if first == _ARRAY16 else 1)]
    return _NAMES.get(tag, "?")


class Recorder:
    """Counters per interval."""

    def __init__(self, begin_ns: int) -> None:
        self._begin_ns = begin_ns
        self.control: collections.Counter[tuple[int, str]] = collections.Counter()
        """(interval, message) → how many reached the sender's network card."""
        self.multicast: collections.Counter[str] = collections.Counter()
        """Control messages that the sender multicast, by name."""
        self.source: collections.Counter[int] = collections.Counter()
        self.repair: collections.Counter[int] = collections.Counter()
        """Interval → symbols that left the sender."""
        self.rate: dict[int, float] = {}
        """Interval → the last pace in it, bytes per second."""
        self.ingest_dropped = 0
        """Control datagrams that found the sender's queue full."""

    def interval(self, now: int) -> int:
        """Return the interval of an instant."""
        return (now - self._begin_ns) // INTERVAL_NS

    def control_arrived(self, datagram: bytes, now: int) -> None:
        """A control datagram reached the sender."""
        self.control[self.interval(now), name_of(datagram)] += 1

    def multicast_sent(self, datagram: bytes) -> None:
        """The sender multicast a control datagram."""
        self.multicast[name_of(datagram)] += 1

    def sent(self, source: int, repair: int, rate: float, now: int) -> None:
        """A batch of data left the sender."""
        interval = self.interval(now)
        self.source[interval] += source
        self.repair[interval] += repair
        self.rate[interval] = rate

    def control_table(self, intervals: int) -> dict[str, npt.NDArray[np.int64]]:
        """Return ``int64[intervals]`` for each message that reached the sender."""
        table: dict[str, npt.NDArray[np.int64]] = {}
        for (interval, name), count in sorted(self.control.items()):
            table.setdefault(name, np.zeros(intervals, np.int64))[interval] = count
        return table

    def series(self, values: collections.Counter[int] | dict[int, float], intervals: int) -> npt.NDArray[np.float64]:
        """Return ``float64[intervals]`` of something that was counted; 0 where nothing was."""
        row = np.zeros(intervals)
        for interval, value in values.items():
            row[interval] = value
        return row
