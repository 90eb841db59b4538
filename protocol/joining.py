"""When a receiver says JOIN: spread over the fleet at first, then again and again until it is heard.

Knows instants only, neither what a JOIN says nor how the sender answers.
"""

from __future__ import annotations

import random

from protocol import feedback, limits


class Joining:
    """The times of one receiver's JOINs."""

    def __init__(self, spread_ns: int, rng: random.Random, now: int) -> None:
        """Begin to wait for the first one; ``rng`` is the source of every wait."""
        self.spread_ns = spread_ns
        """Over how long the sender wants the JOINs of its fleet to be spread."""
        self._rng = rng
        self._repeats = 0
        self._said = False
        self._sending = False
        self.due_ns: int | None = now + self._wait_ns()
        """When the next one is due; None once the receiver is welcome."""

    def take_spread(self, spread_ns: int, now: int) -> None:
        """The sender announces again over how long JOINs are spread."""
        grown, self.spread_ns = spread_ns > self.spread_ns, spread_ns
        if grown and self.due_ns is not None and not self._said:
            # More come than the sender knew: whoever has not spoken yet takes its time anew.
            self.due_ns = now + self._wait_ns()

    def _wait_ns(self) -> int:
        """Draw how long to wait before the first JOIN, so that few of a fleet speak before the sender can react."""
        if self.spread_ns > limits.JOIN_SPREAD_UNKNOWN_NS:
            return self._rng.randrange(self.spread_ns)
        if self.spread_ns == 0:
            return 0
        return feedback.truncated_exponential_ns(self._rng, self.spread_ns, limits.SOLICIT_GROUP)

    def sending(self, now: int) -> None:
        """The sender speaks of what it has sent."""
        if not self._sending and self._said and self.due_ns is not None:
            # It begins, and the WELCOME or the JOIN was lost: what is lacking cannot be asked for before there is one.
            self._repeats = 0
            self.due_ns = min(self.due_ns, now + self._rng.randrange(self._retry_ns))
        self._sending = True

    def said(self, now: int) -> bool:
        """A JOIN goes out. Returns whether it goes to the discovery group, too."""
        # Where the answer to a host's question for the sender's link address was lost, the host asks again after a
        # second and keeps everything back meanwhile. What goes to a group needs no answer; but all hear it.
        in_group = self._said and self.spread_ns < limits.JOIN_SPREAD_UNKNOWN_NS
        # Jittered by a half, so that JOINs that were lost together are not lost together again.
        self._said = True
        self.due_ns = now + self._retry_ns // 2 + self._rng.randrange(self._retry_ns)
        self._repeats += 1
        return in_group

    @property
    def _retry_ns(self) -> int:
        """How long to wait for the answer to the next JOIN, about."""
        # All wait for the last of a small fleet; in a large one, the sender may be busy with the others for longer.
        first_ns = min(max(limits.JOIN_RETRY_MIN_NS, self.spread_ns), limits.JOIN_RETRY_NS)
        return min(first_ns << min(self._repeats, 16), max(limits.JOIN_RETRY_MAX_NS, self.spread_ns))
