"""Which windows are planned ahead of what leaves: so many that the sender never waits for one, and no more.

What is planned has its place in the stream. Repairs that are asked for meanwhile come after it, and every receiver
keeps in memory what waits for them.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from protocol import limits
from protocol.partition import Partition

if TYPE_CHECKING:
    from protocol.schedule import Window
    from protocol.sender_events import SessionParameters

LARGE_WINDOWS = 3
"""Planned at a time: one that leaves, one that is ready, one that is laid out."""

SMALL_WINDOWS = 8
"""Planned beside them: repairs for a few slices. In the places of large ones, two of them left the line empty until the
next large one was laid out: for up to half a second, with sixteen receivers on the sender's two processors."""

_SMALL_SHARE = 8
"""A window of repairs is small if it has at most this part of a usual window's datagrams."""


class PlannedWindows:
    """The windows that are planned and have not left yet: at most ``LARGE_WINDOWS``, and ``SMALL_WINDOWS`` small ones.

    They leave in the order in which they were planned.
    """

    def __init__(self, parameters: SessionParameters) -> None:
        """Begin with none."""
        p = parameters
        slices = min(p.window_slices, Partition(p.stream_size, p.symbol_size, p.source_symbols).slice_count)
        self.usual = slices * (p.source_symbols + limits.REPAIR_SYMBOLS_START)
        """Datagrams of a window of the stream, before anything is measured."""
        self.small_max = max(1, self.usual // _SMALL_SHARE)
        """Datagrams of a small window, at most."""
        self._small: collections.deque[bool] = collections.deque()
        """Of each, whether it is small."""

    @property
    def room(self) -> bool:
        """Whether there is room for another one, whatever its size."""
        small = sum(self._small)
        return small < SMALL_WINDOWS and len(self._small) - small < LARGE_WINDOWS

    def is_small(self, window: Window) -> bool:
        """Whether a window is a small one; any thread may ask.

        What goes out for the first time never is: where the rate is low, windows of the stream have few datagrams too.
        """
        return window.repair_pass and window.datagram_count <= self.small_max

    def add(self, window: Window) -> None:
        """Take one in that was planned."""
        self._small.append(self.is_small(window))

    def first_left(self) -> None:
        """The one that was planned first has left."""
        self._small.popleft()
