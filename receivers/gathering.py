"""How long the ingest thread leaves datagrams in the kernel, so that one fetch brings many.

A fetch and all that follows costs 0.3 ms whatever it brings, and a millisecond or two where many receivers share the
processor's caches. Knows figures only. The invariant: what comes during a pause fits the receive buffer, even where the
stream is suddenly as fast as the sender told.
"""

from __future__ import annotations

import collections
import dataclasses

from protocol import limits

PAUSE_MIN_S, PAUSE_MAX_S = 0.001, 0.1
"""A shorter pause is none; a longer one would keep control messages waiting for too long, and what they ask for."""

PAUSE_TRICKLE_S = 0.006
"""After a trickle, which is control, the end of a repair, or the beginning of a stream; and the shortest pause where a
fetch is to bring less because little is lacking: what comes may be for others."""

TRICKLE = 32

LACKING_SHARE = 0.25
"""Share of what is still lacking that a fetch should bring at most: the last datagrams are not left waiting."""

BUFFER_SHARE, BUFFER_SHARE_MAX = 0.25, 0.75
"""Shares of the receive buffer that may fill up during a pause, at the rate that is expected and at the one that was
told: a search for the rate goes up by half at each step, faster than it is told, and this thread may be late. (That a
datagram takes up to twice its size there is no part of it: Linux grants twice of what counts as the buffer here.)"""

SURGE = 4.0
"""So many times as much as came lately is expected. Where something else than its pace holds the sender back, for which
6 Gbit/s were told and 0.2 came, pauses for the former had sixteen receivers on two processors turn 220 times where 80
did."""

_SAMPLE_S = 0.02
_SAMPLES = 25
_SAMPLES_MIN = 10


class Arrivals:
    """The most that arrived lately."""

    def __init__(self) -> None:
        self._samples: collections.deque[float] = collections.deque(maxlen=_SAMPLES)
        self._bytes, self._seconds = 0, 0.0

    def add(self, size: int, elapsed_s: float) -> None:
        """Take in that a fetch brought so many bytes, so long after the one before it; none say nothing of a rate."""
        if not size:
            return
        self._bytes, self._seconds = self._bytes + size, self._seconds + elapsed_s
        if self._seconds >= _SAMPLE_S:
            self._samples.append(self._bytes / self._seconds)
            self._bytes, self._seconds = 0, 0.0

    def expected(self, told: float) -> float:
        """Return how many bytes per second to expect now, where the sender paces at ``told``."""
        return told if len(self._samples) < _SAMPLES_MIN else min(told, SURGE * max(self._samples))


class Succession:
    """Whether a fetch goes on with what the one before it brought.

    Only then does the time between them say how fast it comes. The first fetch with something of the image has most of
    that time from before the image came: taken for a rate, it made receivers pause for 22 ms, in which 16 MB came.
    """

    def __init__(self) -> None:
        self._before: int | None = None

    def goes_on(self, newest: int | None) -> bool:
        """Return whether it does; ``newest`` is the last object that the fetch brought symbols of, None if of none."""
        same, self._before = newest == self._before, newest
        return same and newest is not None


class Backlog:
    """Whether what is fetched lay in the kernel since before nothing was fetched any more, or may have."""

    def __init__(self) -> None:
        self._left = False

    def leave(self) -> None:
        """Nothing is fetched at present."""
        self._left = True

    def take(self, *, more: bool) -> bool:
        """Something, or nothing, was fetched; return whether it had been left there.

        Args:
            more: whether there may be more of what was there.
        """
        left, self._left = self._left, self._left and more
        return left


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """How long nothing is fetched."""

    seconds: float = 0.0
    expected: float = 0.0
    """Datagrams that come meanwhile if the stream goes on as it was."""

    def overdue(self, datagrams: int) -> bool:
        """Return whether the newest of so many that were fetched afterwards may have waited for long.

        Where a stream stops during a pause, its last datagram waits for the rest of it.
        """
        return self.seconds * limits.SECOND_NS > limits.GRTT_MIN_NS and datagrams < self.expected / 2


def pause_after(
    datagrams: int, elapsed_s: float, *, aim: int, lacking: int, buffer_size: int, told: float, expected: float
) -> Pause:
    """Return how long to wait after a fetch; 0 s where that is not worth while.

    Args:
        datagrams: data datagrams that the last fetch brought; 0 where it does not go on with the one before it.
        elapsed_s: time since the fetch before it.
        aim: datagrams that the next one should bring.
        lacking: datagrams that have to come.
        buffer_size: bytes of the receive buffer.
        told: bytes per second that the sender paces at.
        expected: bytes per second that come, for all that is known (``Arrivals``).
    """
    seconds = PAUSE_TRICKLE_S
    if datagrams > TRICKLE:
        each_s = elapsed_s / datagrams
        seconds = min(max(LACKING_SHARE * lacking * each_s, PAUSE_TRICKLE_S), aim * each_s)
    room_s = buffer_size * min(BUFFER_SHARE / expected, BUFFER_SHARE_MAX / told)
    seconds = min(seconds, PAUSE_MAX_S, room_s)
    if seconds < PAUSE_MIN_S:
        return Pause()
    return Pause(seconds, datagrams * seconds / elapsed_s if elapsed_s else 0.0)  # a coarse clock may not have moved
