"""What a sender's session is told at its start and what it tells its engine: parameters, control to send, events."""

from __future__ import annotations

import collections
import dataclasses
import enum

from protocol import limits, messages
from protocol.fleet import Address, Peer


class Destination(enum.Enum):
    """Where a control datagram goes when it is not for one receiver."""

    DISCOVERY = "discovery"
    """The discovery group."""
    DATA = "data"
    """The data group, in order with the data."""
    GROUP = "group"
    """The data group, at once: whatever is still to be sent there goes after it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transmit:
    """One control datagram to send."""

    destination: Destination | Address
    datagram: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class StartRule:
    """When to begin. Whatever comes first wins; a person may begin earlier by hand."""

    receivers: int = 0
    """Begin when so many have joined; 0: no such rule."""
    max_wait_ns: int | None = None
    """Begin after this long with whoever is there; with nobody there, the session ends."""
    quiet_ns: int | None = None
    """Begin when at least one has joined and nobody joined for so long."""
    endless: bool = False
    """That nobody is there ends nothing, and ``max_wait_ns`` counts from the first join on."""


@dataclasses.dataclass(frozen=True, slots=True)
class SessionParameters:
    """Everything about a session that is settled before it is announced."""

    session_id: int
    name: str
    image_id: bytes
    image_name: str
    manifest_digest: bytes
    manifest_size: int
    stream_size: int
    raw_size: int
    target_size_min: int
    """Bytes of the smallest target that the image fits on."""
    symbol_size: int
    group: int
    port: int
    control_port: int
    start: StartRule
    rate: float | None = None
    """Fixed rate in bytes per second, or None to find it."""
    rate_start: float = limits.RATE_START_BYTES_PER_S
    rate_ceiling: float = limits.RATE_CEILING_BYTES_PER_S
    repair_symbols: int | None = None
    """Fixed proactive repair symbols per slice, or None to follow the measured loss."""
    source_symbols: int = limits.SOURCE_SYMBOLS_DEFAULT
    window_slices: int = limits.WINDOW_SLICES_DEFAULT
    window_slices_max: int = 0
    """The widest window, for links with bursts of loss; 0: always ``window_slices``."""
    leave_slow: bool = True
    """Whether a few slow receivers are served after the others instead of slowing them down."""


class EventKind(enum.Enum):
    """What a person watching the sender would want to know."""

    JOINED = "joined"
    REFUSED = "refused"
    STARTED = "started"
    LATE_JOIN = "late_join"
    VERIFIED = "verified"
    FAILED = "failed"
    VANISHED = "vanished"
    RETURNED = "returned"
    LEFT_BEHIND = "left_behind"
    """Too slow for the others: it is served after them."""
    TAKEN_BACK = "taken_back"
    """It is served again."""
    NOBODY_CAME = "nobody_came"
    ENDED = "ended"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something happened; ``peer`` is the receiver it happened to."""

    kind: EventKind
    peer: Peer | None = None
    text: str = ""


class Outbox:
    """What the engine has not taken yet: control datagrams and events, each in the order in which they came to be."""

    def __init__(self, session_id: int) -> None:
        self.transmits: collections.deque[Transmit] = collections.deque()
        self.events: collections.deque[Event] = collections.deque()
        self._session_id = session_id

    def say(self, destination: Destination | Address, message: messages.Message) -> None:
        """Have a message of this session sent."""
        self.transmits.append(Transmit(destination, messages.encode(self._session_id, message)))

    def tell(self, kind: EventKind, peer: Peer | None = None, text: str = "") -> EventKind:
        """Have the engine know of something that happened; returns what."""
        self.events.append(Event(kind, peer, text))
        return kind


@dataclasses.dataclass(slots=True)
class SentCounters:
    """What was handed out for sending."""

    source_symbols: int = 0
    repair_symbols: int = 0
    nacks: int = 0
