"""Who may take part in a session: JOIN, WELCOME and REFUSE, who speaks, who has vanished, and who is back.

Knows addresses, incarnations and instants, and nothing of data or of how far the session is. It says no more than the
answer to a JOIN; what else follows from one is the session's to decide, by the event that it was.

Invariants: a receiver keeps its index over its restarts; a JOIN of an earlier start, or from another address without a
new start, changes nothing; nobody has vanished by a report interval that it had no time to hear of.
"""

from __future__ import annotations

from protocol import limits, messages, wire
from protocol.fleet import Address, Fleet, Peer, PeerState
from protocol.sender_events import EventKind, Outbox
from protocol.sender_feedback import SenderFeedback


class Membership:
    """See the module's docstring."""

    def __init__(
        self, target_size_min: int, fleet: Fleet, feedback: SenderFeedback, outbox: Outbox, drops: wire.Drops, now: int
    ) -> None:
        """Begin with nobody; ``feedback`` is told who comes and goes, ``drops`` counts who has nothing to say here."""
        self.silence_check_ns = now
        """When ``check_silence`` wants to be called."""
        self._fleet = fleet
        self._feedback = feedback
        self._outbox = outbox
        self._drops = drops
        self._target_size_min = target_size_min
        self._silence_interval_ns = 0
        self._silence_from_ns = now

    # DEVIATES RFC 5740 §5.5.4: receivers register: the size of the group is known, and a report can name each of them.
    def join(
        self, message: messages.Join, address: Address, *, late: bool, poll_number: int, now: int
    ) -> EventKind | None:
        """Answer a JOIN; returns what it was: new, ``late`` or not, RETURNED, REFUSED, or None where it is no news."""
        peer = self._fleet.find(message.receiver_id)
        if peer is not None:
            return self._rejoin(peer, message, address, poll_number, now)
        peer = Peer(
            index=len(self._fleet),
            receiver_id=message.receiver_id,
            incarnation=message.incarnation,
            address=address,
            host=message.host,
            target=message.target,
            target_size=message.target_size,
            link_rate=message.link_rate,
            wants_all=message.wants_all,
            joined_ns=now,
            heard_ns=now,
        )
        reason = self._refusal(peer)
        if reason:
            self._send_refuse(peer, reason, address)
            if not self._fleet.refuse(peer, reason, now):
                return None
            return self._outbox.tell(EventKind.REFUSED, peer, reason)
        self._fleet.add(peer)
        self._feedback.limit_rate()
        self._welcome(peer, poll_number)
        return self._outbox.tell(EventKind.LATE_JOIN if late else EventKind.JOINED, peer)

    def _rejoin(
        self, peer: Peer, message: messages.Join, address: Address, poll_number: int, now: int
    ) -> EventKind | None:
        """Answer a repeated JOIN, or take a restarted receiver back under its old index."""
        moved = message.incarnation == peer.incarnation and address != peer.address
        if message.incarnation == peer.replaced_incarnation or moved:
            # An echo of an earlier start, or somebody else who repeats what was heard: a receiver that really moved has
            # started again. The address must not change, or the real receiver would not be heard any more.
            self._drops.stale += 1
            return None
        peer.heard_ns = now
        news = None
        if message.incarnation != peer.incarnation or peer.state is PeerState.VANISHED:
            if message.incarnation != peer.incarnation:
                peer.replaced_incarnation = peer.incarnation
            peer.incarnation = message.incarnation
            peer.host, peer.target = message.host, message.target
            self._feedback.set_slow(peer, False)
            self._fleet.revive(peer, message.link_rate)
            peer.report = None
            peer.done = None
            peer.target_size, peer.wants_all = message.target_size, message.wants_all
            reason = self._refusal(peer)
            if reason:
                self.finish(peer, PeerState.REFUSED, reason, now)
                self._send_refuse(peer, reason, address)
                return self._outbox.tell(EventKind.REFUSED, peer, reason)
            news = self._outbox.tell(EventKind.RETURNED, peer)
            self._feedback.limit_rate()
        peer.address = address
        self._welcome(peer, poll_number)
        return news

    def _refusal(self, peer: Peer) -> str:
        """Return why a receiver cannot take part, or an empty string."""
        if 0 <= peer.target_size < self._target_size_min:
            return (
                f"the target has {peer.target_size} bytes, the image needs {self._target_size_min}: "
                f"use a larger target than {peer.target}"
            )
        if peer.index >= limits.RECEIVERS_MAX:
            return f"the session is full: {limits.RECEIVERS_MAX} receivers"
        return ""

    def _send_refuse(self, peer: Peer, reason: str, address: Address) -> None:
        self._outbox.say(address, messages.Refuse(peer.receiver_id, messages.clip(reason, limits.REASON_LENGTH_MAX)))

    def _welcome(self, peer: Peer, poll_number: int) -> None:
        self._outbox.say(peer.address, messages.Welcome(peer.receiver_id, peer.incarnation, peer.index, poll_number))

    def heard(self, receiver_index: int, address: Address, now: int) -> Peer | None:
        """Return the receiver that speaks, back if it had vanished, or count the message as stale."""
        peer = self._fleet.speaker(receiver_index, address)
        if peer is None:
            self._drops.stale += 1
            return None
        peer.heard_ns = now
        if peer.state is PeerState.VANISHED:
            self._fleet.revive(peer, peer.link_rate)
            self._outbox.tell(EventKind.RETURNED, peer)
        return peer

    def silence_ns(self, report_interval_ns: int) -> int:
        """After how long without a word a receiver has vanished, if each reports so often."""
        interval_ns = max(self._silence_interval_ns, report_interval_ns)
        return max(limits.RECEIVER_SILENCE_NS, limits.REPORTS_MISSED_MAX * interval_ns)

    def check_silence(self, interval_ns: int, now: int) -> None:
        """Wait no more for those that were not heard; ``interval_ns`` is how often each reports now."""
        if now < self.silence_check_ns:
            return
        self.silence_check_ns = now + limits.SILENCE_CHECK_NS
        if interval_ns > self._silence_interval_ns:
            self._silence_interval_ns = interval_ns
        elif 2 * interval_ns < self._silence_interval_ns:
            # The fleet became smaller and is to report more often: nobody is late by the new interval before its time.
            self._silence_interval_ns, self._silence_from_ns = interval_ns, now
        silence_ns = self.silence_ns(interval_ns)
        if now - self._silence_from_ns <= silence_ns:
            return
        for peer in self._fleet.silent(now - silence_ns):
            seconds = (now - peer.heard_ns) // limits.SECOND_NS
            self.finish(peer, PeerState.VANISHED, f"not heard for {seconds} s", now)
            self._outbox.tell(EventKind.VANISHED, peer, peer.reason)

    def finish(self, peer: Peer, state: PeerState, reason: str, now: int) -> None:
        """Wait for a receiver no more: it is verified, has failed, has vanished or cannot take part."""
        self._fleet.finish(peer, state, reason, now)
        self._feedback.forget(peer)
