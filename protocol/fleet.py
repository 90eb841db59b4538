"""Who takes part in a session: every receiver that ever joined, where it stands, and how many are still waited for.

Knows identities, addresses and instants; says nothing and decides nothing. Counts are kept, never recounted, because a
fleet is too large to be walked for every message.

Invariants: an index is never given twice; only the address of a receiver's JOIN speaks for it.
"""

from __future__ import annotations

import collections
import dataclasses
import enum

from protocol import limits, messages

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
    lasting_loss: float | None = None
    """Network loss over several intervals, single bad ones left out; None: not measured yet."""
    loss_weight: int = 0
    """Datagrams behind ``lasting_loss``, up to where older ones are forgotten."""
    reported_sequence: int = 0
    """Up to where in the stream its last report spoke."""
    reported_ns: int = 0
    slow: bool = False
    """The session does not go at its pace: it is served when the others have everything."""
    left_ns: int | None = None
    """When it was left behind last, even if it is served again by now."""
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
        self.slow_count = 0
        """How many of the live ones are slow."""
        self.lacking_count = 0
        """How many still need data, or may, and are not slow."""
        self._by_id: dict[bytes, Peer] = {}
        self._link_rates: collections.Counter[int] = collections.Counter()
        self._refused: set[tuple[bytes, int]] = set()

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
        self._count(peer, 1)

    def refuse(self, peer: Peer, reason: str, now: int) -> bool:
        """Note a receiver that cannot take part; returns whether it is news."""
        key = peer.receiver_id, peer.incarnation
        if key in self._refused or len(self.refused) >= limits.RECEIVERS_MAX:
            return False
        peer.state, peer.reason, peer.ended_ns = PeerState.REFUSED, reason, now
        self._refused.add(key)
        self.refused.append(peer)
        return True

    def _count(self, peer: Peer, step: int) -> None:
        """Count a receiver in or out, as it is now."""
        if peer.live:
            self.live_count += step
            self.slow_count += step * peer.slow
            self.lacking_count += step * (not peer.slow and peer.state is not PeerState.FINISHING)
            if peer.link_rate and not peer.slow:
                self._link_rates[peer.link_rate] += step
                if not self._link_rates[peer.link_rate]:
                    del self._link_rates[peer.link_rate]

    @property
    def slowest_link(self) -> int:
        """Bytes per second of the slowest link of those that the session goes with; 0 where none is known."""
        return min(self._link_rates, default=0)

    def speaker(self, receiver_index: int, address: Address) -> Peer | None:
        """Return the receiver that speaks from this address, or None where index and address do not belong together."""
        if receiver_index >= len(self.peers):
            return None
        peer = self.peers[receiver_index]
        return peer if peer.address == address else None

    def revive(self, peer: Peer, link_rate: int) -> None:
        """Wait for a receiver again."""
        self._count(peer, -1)
        peer.state, peer.reason, peer.ended_ns, peer.link_rate = PeerState.RECEIVING, "", None, link_rate
        self._count(peer, 1)

    def proceed(self, peer: Peer, state: PeerState) -> None:
        """Note that a live receiver went on to another live state."""
        if peer.state is not state:
            self._count(peer, -1)
            peer.state = state
            self._count(peer, 1)

    def set_slow(self, peer: Peer, slow: bool) -> None:
        """Go without a receiver, or with it again."""
        self._count(peer, -1)
        peer.slow = slow
        self._count(peer, 1)

    def finish(self, peer: Peer, state: PeerState, reason: str, now: int) -> None:
        """Note how it ended for a receiver, and wait for it no more."""
        self._count(peer, -1)
        peer.state, peer.reason, peer.ended_ns = state, reason, now
        peer.loss = 0.0

    def silent(self, since_ns: int) -> list[Peer]:
        """Return the live receivers that were not heard since an instant."""
        return [peer for peer in self.peers if peer.live and peer.heard_ns < since_ns]
