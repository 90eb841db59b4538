"""Which session a receiver joins: by name at once, or the only one there is after listening for a moment."""

from __future__ import annotations

import dataclasses
import random

from protocol import feedback, limits, messages, wire

Address = tuple[str, int]

LISTEN_NS = 300 * limits.MILLISECOND_NS
"""How long a receiver without a session name listens for a second session before it takes the first. It solicits within
100 ms of its start and every second from then on, and whoever is there answers within 50 ms."""

SOLICIT_INTERVAL_NS = limits.SECOND_NS


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """An announced session and who announced it."""

    session_id: int
    announce: messages.Announce
    sender_host: str

    @property
    def control_address(self) -> Address:
        """Where control messages go."""
        return self.sender_host, self.announce.control_port


class Discovery:
    """Listens for ANNOUNCEs until one session is chosen, or until the choice is a person's."""

    def __init__(self, name: str | None, now: int, rng: random.Random) -> None:
        """Begin to listen.

        Args:
            name: the session that is wanted, or None for the only one there is.
            now: instant in ns.
            rng: source of the jitter that keeps a fleet from soliciting all at once.
        """
        self.name = name
        self._rng = rng
        self.drops = wire.Drops()
        self.found: dict[int, Found] = {}
        self._solicit_ns = now + self._jitter_ns()
        self._decide_ns: int | None = None

    def receive_datagram(self, datagram: bytes, address: Address, now: int) -> None:
        """Take in a datagram from the discovery group."""
        frame = wire.parse_control(datagram, self.drops)
        message = None if frame is None else messages.decode(frame.body, self.drops)
        if frame is None or message is None:
            return
        if isinstance(message, messages.End):
            self.found.pop(frame.session_id, None)
            if not self.found:
                self._decide_ns = None
            return
        if isinstance(message, messages.Solicit):
            if message.name == (self.name or ""):
                # The answer is multicast: one question is enough for a fleet that starts at the same moment.
                self._solicit_ns = max(self._solicit_ns, now + SOLICIT_INTERVAL_NS + self._jitter_ns())
            return
        if not isinstance(message, messages.Announce) or (self.name is not None and message.name != self.name):
            self.drops.stale += 1
            return
        if not _fits(message):
            self.drops.malformed += 1
            return
        known = self.found.get(frame.session_id)
        if known is not None and known.sender_host != address[0]:
            self.drops.stale += 1  # Whoever was heard first is the sender; a repeat from elsewhere changes nothing.
            return
        if known is not None or len(self.found) < limits.SESSIONS_HEARD_MAX:
            self.found[frame.session_id] = Found(frame.session_id, message, address[0])
        if self._decide_ns is None:
            self._decide_ns = now if self.name is not None else now + LISTEN_NS

    def _jitter_ns(self) -> int:
        return feedback.truncated_exponential_ns(self._rng, limits.SOLICIT_SPREAD_NS, limits.SOLICIT_GROUP)

    def next_timeout(self) -> int:
        """Return when ``poll`` has something to say."""
        return self._solicit_ns if self._decide_ns is None else min(self._solicit_ns, self._decide_ns)

    def poll_transmit(self, now: int) -> bytes | None:
        """Return a SOLICIT for the discovery group, once a second."""
        if now < self._solicit_ns:
            return None
        self._solicit_ns = now + SOLICIT_INTERVAL_NS + self._jitter_ns()
        return messages.encode(0, messages.Solicit(self.name or ""))

    def poll_choice(self, now: int) -> list[Found]:
        """Return nothing while undecided, one session when it is clear, several when a person must choose."""
        if self._decide_ns is None or now < self._decide_ns or not self.found:
            return []
        found = list(self.found.values())
        if self.name is not None and len({one.announce.image_id for one in found}) == 1:
            return found[:1]
        return found


class Successor:
    """Listens for a sender that serves the same image under the same name again, after the first one was lost."""

    def __init__(self, lost: Found) -> None:
        self.found: Found | None = None
        """The session to go on with, if one is announced."""
        self.lost = False
        """Whether the first one is given up: from then on it may itself come back, as one that was stopped does."""
        self._lost = lost
        self._drops = wire.Drops()

    def receive_datagram(self, datagram: bytes, address: Address) -> None:
        """Take in a datagram from the discovery group."""
        frame = wire.parse_control(datagram, self._drops)
        message = None if frame is None else messages.decode(frame.body, self._drops)
        if frame is None or message is None:
            return
        if isinstance(message, messages.End):
            if self.found is not None and frame.session_id == self.found.session_id:
                self.found = None
            return
        lost = self._lost.announce
        if frame.session_id == self._lost.session_id and not self.lost:
            return
        if (
            isinstance(message, messages.Announce)
            and _image(message) == _image(lost)
            and _fits(message)
            and (
                self.found is None or frame.session_id != self.found.session_id or address[0] == self.found.sender_host
            )
        ):
            self.found = Found(frame.session_id, message, address[0])

    def poll_transmit(self) -> bytes:
        """Return a SOLICIT for it."""
        return messages.encode(0, messages.Solicit(self._lost.announce.name))


def _image(announce: messages.Announce) -> tuple[object, ...]:
    """Return what two sessions must share for a receiver to go on. Sizes follow from the digest, unless one lies."""
    sizes = announce.manifest_size, announce.stream_size, announce.raw_size
    return announce.name, announce.image_id, announce.manifest_digest, *sizes


def _fits(announce: messages.Announce) -> bool:
    """Whether the stream has no more slices than a receiver's tables may have."""
    return -(-announce.stream_size // (announce.symbol_size * announce.source_symbols)) <= limits.SLICE_COUNT_MAX
