"""How long the ingest thread leaves datagrams in the kernel, so that one fetch brings many.

A fetch and all that follows costs 0.3 ms whatever it brings, and a millisecond or two where many receivers share the
processor's caches. Knows figures only. The invariant: what comes during a pause at the rate that the sender told fits a
part of the receive buffer.
"""

from __future__ import annotations

PAUSE_MIN_S, PAUSE_MAX_S = 0.001, 0.1
"""A shorter pause is none; a longer one would keep control messages waiting for too long, and what they ask for."""

PAUSE_TRICKLE_S = 0.006
"""After a trickle, which is control, the end of a repair, or the beginning of a stream; and the shortest pause where a
fetch is to bring less because little is lacking: what comes may be for others."""

TRICKLE = 32

FETCH = 1600
"""Datagrams that a fetch should bring."""

LACKING_SHARE = 0.25
"""Share of what is still lacking that a fetch should bring at most: the last datagrams are not left waiting."""

BUFFER_SHARE = 0.25
"""Share of the receive buffer that may fill up during a pause at the rate that was told: a datagram takes up to twice
its size there, and a search for the rate goes up by half at each step, faster than it is told."""


def pause_s(datagrams: int, elapsed_s: float, *, lacking: int, buffer_size: int, rate: float) -> float:
    """Return how long to wait after a fetch; 0 where that is not worth while.

    Args:
        datagrams: data datagrams that the last fetch brought.
        elapsed_s: time since the fetch before it.
        lacking: datagrams that have to come, at least.
        buffer_size: bytes of the receive buffer.
        rate: bytes per second that the sender paces at.
    """
    pause = PAUSE_TRICKLE_S
    if datagrams > TRICKLE:
        each_s = elapsed_s / datagrams
        pause = min(max(LACKING_SHARE * lacking * each_s, PAUSE_TRICKLE_S), FETCH * each_s)
    pause = min(pause, PAUSE_MAX_S, BUFFER_SHARE * buffer_size / rate)
    return pause if pause >= PAUSE_MIN_S else 0.0
