"""What a receiver's session is told at its start and what it tells its engine: identity, states, outcomes, events."""

from __future__ import annotations

import dataclasses
import enum


class ReceiverState(enum.Enum):
    """Where this receiver stands."""

    JOINING = "joining"
    MANIFEST = "manifest"
    """Welcome; the manifest is still missing."""
    RECEIVING = "receiving"
    FINISHING = "finishing"
    """Every chunk is written; the engine flushes the target."""
    CONFIRMING = "confirming"
    """Verified; DONE is repeated until the sender shows that it knows."""
    ENDED = "ended"


class Outcome(enum.Enum):
    """How it ended."""

    VERIFIED = "verified"
    REFUSED = "refused"
    FAILED = "failed"
    SENDER_GONE = "sender_gone"
    """The sender fell silent, was interrupted, or ended the session without this receiver."""
    DEAF = "deaf"
    """The sender is there, but nothing of its data group comes here."""


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Who joins."""

    receiver_id: bytes
    incarnation: int
    host: str
    target: str
    target_size: int
    """Bytes, -1 for a file that can grow."""
    link_rate: int = 0
    """Bytes per second, 0 where unknown."""
    wants_all: bool = True
    """The target holds nothing: no need to wait for a request."""


@dataclasses.dataclass(frozen=True, slots=True)
class Welcomed:
    """Event: the sender took this receiver in."""

    receiver_index: int


@dataclasses.dataclass(frozen=True, slots=True)
class SlicesToDecode:
    """Event: slices are complete but lack source symbols; decode them in place, then call ``slices_decoded``, for all
    of them or for some at a time."""

    object_id: int
    slices: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ExtentReady:
    """Event: all bytes of a chunk (or of the manifest) are in the ring; check them, then call ``extent_checked``."""

    object_id: int
    extent: int


@dataclasses.dataclass(frozen=True, slots=True)
class AllWritten:
    """Event: every transferred chunk is verified and written; flush, then call ``flushed``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """Event: over."""

    outcome: Outcome
    text: str


Event = Welcomed | SlicesToDecode | ExtentReady | AllWritten | Ended
