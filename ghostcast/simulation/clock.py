"""Virtual time: nanoseconds that pass only when nothing is left to do at this instant.

Knows instants and calls; must not know what is called. Invariant: the same calls asked for in the same order are made
in the same order, whatever the machine and however long it took.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from protocol import limits
from protocol.errors import GhostcastError

START_NS = 5 * limits.SECOND_NS
"""Where time begins: not at 0, which stands for "never" in some fields of the wire."""

SPIN_MAX = 20_000
"""Calls at one and the same instant beyond which somebody must be spinning, at least; a fleet brings more."""


class StuckError(GhostcastError):
    """Nothing happens any more, or it goes on for ever."""


class Clock:
    """The present, and what is to happen when."""

    def __init__(self, *, spin_max: int = SPIN_MAX) -> None:
        self.now = START_NS
        self._spin_max = spin_max
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: int, call: Callable[[], None]) -> None:
        """Have ``call`` called at an instant; calls for one instant keep the order in which they were asked for."""
        heapq.heappush(self._calls, (max(when, self.now), next(self._order), call))

    def after(self, delay_ns: int, call: Callable[[], None]) -> None:
        """Have ``call`` called later."""
        self.at(self.now + delay_ns, call)

    def run(self, over: Callable[[], bool], limit_ns: int) -> None:
        """Run until ``over()``.

        Raises:
            StuckError: ``limit_ns`` have passed, nothing is left to happen, or time stands still.
        """
        deadline, here = self.now + limit_ns, 0
        while not over():
            if not self._calls:
                raise StuckError("nothing is left to happen, and it is not over")
            when, _order, call = heapq.heappop(self._calls)
            if when > deadline:
                raise StuckError(f"not over after {limit_ns / limits.SECOND_NS:g} s of virtual time")
            here = here + 1 if when == self.now else 0
            if here > self._spin_max:
                raise StuckError("time stands still: somebody asks to be called again at once, for ever")
            self.now = when
            call()


class Alarm:
    """One wake-up of a node, moved forward as its machine asks; a wake-up that came too early is asked for again."""

    __slots__ = ("_call", "_clock", "_due")

    def __init__(self, clock: Clock, call: Callable[[], None]) -> None:
        self._clock = clock
        self._call = call
        self._due: int | None = None

    def set(self, when: int | None) -> None:
        """Be called at ``when`` at the latest."""
        if when is None:
            return
        now = self._clock.now
        if when < now:
            when = now
        due = self._due
        if due is not None and due <= when:
            return
        self._due = when

        def ring() -> None:
            if self._due == when:
                self._due = None
                self._call()

        self._clock.at(when, ring)
