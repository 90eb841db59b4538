"""Who takes part in a session: every receiver that ever joined, where it stands, and how many are still waited for.

Knows identities, addresses and instants; says nothing and decides nothing. Counts are kept, never recounted, because a
fleet is too large to be walked for every message.

Invariants: an index is never given twice; only the address of a receiver's JOIN speaks for it.
"""

from __future__ import annotations

import dataclasses
import enum

from protocol import messages

Address = tuple[str, int]


class PeerState(enum.Enum):
    """Where one receiver stands. The last four are final, but a vanished receiver may come back."""

    RECEIVING = "receiving"
    CHECKING = "checking"
    """It looks for what its target holds already; what arrives meanwhile is taken."""
    FINISHING = "finishing"
    """Everything is written; the final flush is under way."""
    VERIFIED = "verified"
    FAILED = "failed"
    VANISHED = "vanished"
    REFUSED = "refused"


LIVE_STATES = frozenset({PeerState.RECEIVING, PeerState.CHECKING, PeerState.FINISHING})


@dataclasses.dataclass(slots=True)
class Peer:
    """What the sender knows of one receiver."""

    index: int
    receiver_id: bytes
    incarnation: int
    address: Address
    host: str
    target: str
    target_size: int
    link_rate: int
    joined_ns: int
    heard_ns: int
    state: PeerState = PeerState.RECEIVING
    reason: str = ""
    ended_ns: int | None = None
    loss: float = 0.0
    """Network loss of the last report interval, in [0, 1]."""
    lasting_loss: float = 0.0
    """The lower loss of the last two intervals: one bad interval is a burst or a queue, not the link."""
    report: messages.Report | None = None
    done: messages.Done | None = None
    wants_all: bool = True
    """Nothing on its target is of use: it needs the whole image, and says so before it has the manifest."""
    replaced_incarnation: int | None = None
    """The start before this one: its JOINs may still be under way."""

    @property
    def live(self) -> bool:
        """Whether the session still waits for this receiver."""
        return self.state in LIVE_STATES


class Fleet:
    """The receivers of one session, by index and by id."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.refused: list[Peer] = []
        self.live_count = 0
        self._by_id: dict[bytes, Peer] = {}

    def __len__(self) -> int:
        """Return how many ever joined."""
        return len(self.peers)

    def find(self, receiver_id: bytes) -> Peer | None:
        """Return the receiver with an id that stays over its restarts."""
        return self._by_id.get(receiver_id)

    def add(self, peer: Peer) -> None:
        """Take a receiver in; its index is the next one."""
        assert peer.index == len(self.peers)
        self.peers.append(peer)
        self._by_id[peer.receiver_id] = peer
        self.live_count += peer.live

    def speaker(self, receiver_index: int, address: Address) -> Peer | None:
        """Return the receiver that speaks from this address, or None where index and address do not belong together."""
        if receiver_index >= len(self.peers):
            return None
        peer = self.peers[receiver_index]
        return peer if peer.address == address else None

    def revive(self, peer: Peer) -> None:
        """Wait for a receiver again."""
        self.live_count += not peer.live
        peer.state, peer.reason, peer.ended_ns = PeerState.RECEIVING, "", None

    def finish(self, peer: Peer, state: PeerState, reason: str, now: int) -> None:
        """Note how it ended for a receiver, and wait for it no more."""
        self.live_count -= peer.live
        peer.state, peer.reason, peer.ended_ns = state, reason, now
        peer.loss = peer.lasting_loss = 0.0

    def silent(self, since_ns: int) -> list[Peer]:
        """Return the live receivers that were not heard since an instant."""
        return [peer for peer in self.peers if peer.live and peer.heard_ns < since_ns]
