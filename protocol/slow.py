"""Whom a session does not wait for: a few receivers that hold the many back are served when the many have everything.

Knows indices, rates and instants. A receiver that is left behind keeps what it collects, and asks for the rest when the
others need nothing more: a second stream, after the first instead of beside it, at the pace of those that it is for.

What a fleet could do without its slowest member cannot be measured while it is there. So leaving somebody behind is an
experiment: if the rate is not much higher some seconds later, the others were no faster, and it is taken back.
"""

from __future__ import annotations

import dataclasses

from protocol import limits

RATE_SHARE_LOW = 0.7
"""Share of what the links carry below which the session is held back (research §3.4, phi)."""

PATIENCE_NS = 5 * limits.SECOND_NS
"""How long a receiver holds the others back before it is left behind, and how long an experiment lasts."""

MEMORY_NS = 3 * limits.SECOND_NS
"""For how long a receiver that asked for a lower rate counts as one that holds back: the rate probes upwards, and finds
the same limit again, well within this."""

SHARE_MAX = 0.05
"""More of the fleet than this is no few: the fleet is slow, and the rate is right (research §3.4). In a fleet
below twenty, everybody is waited for."""

GAIN_MIN = 1.25
"""By how much the rate must have risen for an experiment to have been worth it."""


@dataclasses.dataclass(slots=True)
class _Brake:
    """One receiver that holds the others back."""

    limited_ns: int
    """When it last did."""
    held_ns: int = 0
    """For how long it has."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Experiment:
    left: frozenset[int]
    rate_before: float
    judged_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Whose standing changes."""

    leave: frozenset[int] = frozenset()
    take_back: frozenset[int] = frozenset()


class SlowReceivers:
    """Decides whom to go without. Memory and time: the receivers that hold back, not the fleet."""

    def __init__(self) -> None:
        self._brakes: dict[int, _Brake] = {}
        self._experiment: _Experiment | None = None
        self._patience_ns = PATIENCE_NS
        self._stepped_ns: int | None = None

    def forget(self, receiver_index: int) -> None:
        """A receiver left the session."""
        self._brakes.pop(receiver_index, None)

    def step(
        self, limiting: frozenset[int], rate: float, ceiling: float, *, receivers: int, left: int, now: int
    ) -> Verdict:
        """Decide once per control interval.

        Args:
            limiting: receivers that asked for a lower rate, believably, since the last step.
            rate: what the session sends at, bytes per second.
            ceiling: what its links carry.
            receivers: how many are live, those that were left behind included.
            left: how many of them were left behind.
            now: instant in ns.
        """
        elapsed_ns = 0 if self._stepped_ns is None else min(now - self._stepped_ns, limits.SECOND_NS)
        self._stepped_ns = now
        if self._experiment is not None:
            return self._judge(rate, now)
        for index in limiting:
            self._brakes.setdefault(index, _Brake(now)).limited_ns = now
        held_back = rate < RATE_SHARE_LOW * ceiling
        for index, brake in list(self._brakes.items()):
            if now - brake.limited_ns > MEMORY_NS:
                del self._brakes[index]
            else:
                brake.held_ns = max(0, brake.held_ns + (elapsed_ns if held_back else -elapsed_ns // 8))
        few = int(receivers * SHARE_MAX)
        ripe = any(brake.held_ns >= self._patience_ns for brake in self._brakes.values())
        if not held_back or not ripe or len(self._brakes) + left > few:
            return Verdict()
        leave = frozenset(self._brakes)
        self._brakes.clear()
        self._experiment = _Experiment(leave, rate, now + PATIENCE_NS)
        return Verdict(leave=leave)

    def _judge(self, rate: float, now: int) -> Verdict:
        experiment = self._experiment
        assert experiment is not None
        if now < experiment.judged_ns:
            return Verdict()
        self._experiment = None
        if rate >= GAIN_MIN * experiment.rate_before:
            self._patience_ns = PATIENCE_NS
            return Verdict()
        # The others were no faster. Ask again, but not soon.
        self._patience_ns *= 4
        return Verdict(take_back=experiment.left)
