"""The receiver's side of a session: where it stands, what ends it, and when it may say DONE.

Driven from outside by ``receive_datagram``, ``receive_symbols``, ``handle_timeout``, ``next_timeout``,
``poll_transmit`` and ``poll_event``. It knows no socket, no clock and no memory: ``receive_symbols`` says into which
buffer row each symbol goes, events say which slices to decode and which chunks to verify, and the engine reports back.
What has come is kept by ``reception``; when to speak is decided by ``Joining`` before the WELCOME and by
``ReceiverFeedback`` after it. Both know nothing of the states here.

Invariant: DONE is said only after the engine reported every chunk verified and the target flushed.
"""

from __future__ import annotations

import collections
import random
from typing import assert_never

import numpy as np
import numpy.typing as npt

from protocol import limits, messages, wire
from protocol.discovery import Found
from protocol.joining import Joining
from protocol.manifest import Manifest
from protocol.messages import EndReason, SessionState
from protocol.receiver_events import AllWritten, Ended, Event, Identity, Outcome, ReceiverState, Welcomed
from protocol.receiver_feedback import ReceiverFeedback
from protocol.receiver_object import Int64Array
from protocol.reception import ObjectPlacement, Reception
from protocol.symbols import SymbolBatch


class ReceiverSession:
    """One receiver in one session. See the module's docstring for how it is driven."""

    def __init__(self, found: Found, identity: Identity, *, pool_size: int, rng: random.Random, now: int) -> None:
        """Begin to join.

        Args:
            found: the session.
            identity: who joins.
            pool_size: bytes of the ring of slices; repair symbols take at most as much again.
            rng: source of every jitter and backoff.
            now: instant in ns.
        """
        announce = found.announce
        self.found = found
        self.identity = identity
        self.state = ReceiverState.JOINING
        self.outcome: Outcome | None = None
        self.outcome_text = ""
        self.receiver_index: int | None = None
        self.manifest: Manifest | None = None
        self.drops = wire.Drops()
        self.sender_lost = False
        """Whether it ended because the sender fell silent or was replaced: it may come back."""
        self._transmits: collections.deque[bytes] = collections.deque()
        self._group_transmits: collections.deque[bytes] = collections.deque()
        self._events: collections.deque[Event] = collections.deque()
        self._heard_ns = now
        self._data_heard_ns = now
        """When the data group last said something, or nothing was to be expected of it yet."""
        self._poll_number = 0
        """POLLs below it answer an earlier start of this receiver."""
        self.reception = Reception(found, self.drops, self._events, pool_size)
        self._joining = Joining(announce.join_spread_ms * limits.MILLISECOND_NS, rng, now)
        self._feedback = ReceiverFeedback(announce, self.reception, rng, now)

    @property
    def sending_rate(self) -> float:
        """Bytes per second that the sender paces at, as it told last; the highest of all before it did."""
        return self._feedback.sending_rate

    def poll_event(self) -> Event | None:
        """Return the next thing for the engine to do."""
        return self._events.popleft() if self._events else None

    def poll_transmit(self) -> bytes | None:
        """Return the next control datagram for the sender."""
        return self._transmits.popleft() if self._transmits else None

    def poll_group_transmit(self) -> bytes | None:
        """Return the next datagram for the discovery group: a JOIN that also goes to the sender."""
        return self._group_transmits.popleft() if self._group_transmits else None

    def next_timeout(self) -> int | None:
        """Return when ``handle_timeout`` wants to be called, or None when it is over."""
        if self.state is ReceiverState.ENDED:
            return None
        due = min(self._heard_ns + limits.SENDER_SILENCE_NS, self._data_heard_ns + limits.DATA_SILENCE_NS)
        for when in (self._joining.due_ns, self._feedback.next_timeout()):
            if when is not None and when < due:
                due = when
        return due

    def handle_timeout(self, now: int) -> None:
        """Do what is due."""
        if self.state is ReceiverState.ENDED:
            return
        if now - self._heard_ns >= limits.SENDER_SILENCE_NS:
            self._sender_silent()
            return
        if now - self._data_heard_ns >= limits.DATA_SILENCE_NS:
            self._data_silent()
            return
        if self._joining.due_ns is not None and now >= self._joining.due_ns:
            self._send_join(now)
        for message in self._feedback.handle_timeout(now):
            self._send(message)

    # --- control in -----------------------------------------------------------------------------------------------

    def receive_datagram(self, datagram: bytes, now: int) -> None:
        """Take in one control datagram; whatever it is, this never raises."""
        frame = wire.parse_control(datagram, self.drops)
        if frame is None:
            return
        if frame.session_id != self.found.session_id:
            self.drops.session += 1
            return
        message = messages.decode(frame.body, self.drops)
        if message is None or self.state is ReceiverState.ENDED:
            return
        match message:
            case messages.Announce():
                self._heard_ns = now
                if message.state is SessionState.WAITING:
                    self._data_heard_ns = now
                self._joining.take_spread(message.join_spread_ms * limits.MILLISECOND_NS, now)
                self._feedback.take_announce(message)
            case messages.Welcome():
                self._welcome(message, now)
            case messages.Refuse():
                # It names no incarnation: who is welcome does not take what an earlier start was told for its own.
                if message.receiver_id == self.identity.receiver_id and self.state is ReceiverState.JOINING:
                    self._end(Outcome.REFUSED, message.reason)
                else:
                    self.drops.stale += 1
            case messages.Status():
                self._heard(frame.sent_us, now)
                self._joining.sending(now)
                self.reception.take_status(message)
                self._feedback.scan(now)
            case messages.Poll():
                self._heard(frame.sent_us, now)
                self._take_poll(message)
            case messages.RepairAdvice():
                self._heard(frame.sent_us, now)
                if not self._feedback.take_repair_advice(message, now):
                    self.drops.malformed += 1
            case messages.FeedbackAdvice():
                self._heard(frame.sent_us, now)
                self._feedback.take_feedback_advice(message, now)
            case messages.Defer():
                self._take_defer(message, now)
            case messages.End():
                self._take_end(message)
            case (
                messages.Solicit()
                | messages.Join()
                | messages.Nack()
                | messages.Report()
                | messages.Done()
                | messages.Fail()
            ):
                self.drops.stale += 1
            case _:
                assert_never(message)

    def _heard(self, sent_us: int, now: int) -> None:
        self._heard_ns = self._data_heard_ns = now
        self._feedback.heard(sent_us, now)

    def _take_defer(self, message: messages.Defer, now: int) -> None:
        if message.receiver_index != self.receiver_index:
            self.drops.stale += 1
            return
        self._heard_ns = now
        self._feedback.defer(message.wait_ms * limits.MILLISECOND_NS, now)

    def _welcome(self, message: messages.Welcome, now: int) -> None:
        mine = message.receiver_id == self.identity.receiver_id and message.incarnation == self.identity.incarnation
        if not mine:
            self.drops.stale += 1
            return
        self._heard_ns = now
        if self.receiver_index is None:
            self._poll_number = message.poll_number
            self._events.append(Welcomed(message.receiver_index))
        self.receiver_index = message.receiver_index
        self._feedback.welcome(message.receiver_index, self._joining.spread_ns, now)
        self._joining.due_ns = None
        if self.state is ReceiverState.JOINING:
            self.state = ReceiverState.MANIFEST if self.manifest is None else ReceiverState.RECEIVING
            # All of a small image may have come while the WELCOME was on its way.
            self._check_all_written()

    def _take_poll(self, message: messages.Poll) -> None:
        index = self.receiver_index
        if index is None or not message.first_index <= index < message.first_index + message.count:
            return
        bit = index - message.first_index
        if len(message.wanted) * 8 <= bit:
            self.drops.malformed += 1
            return
        if message.number < self._poll_number:
            self.drops.stale += 1
            return
        if self.state is ReceiverState.CONFIRMING and not message.wanted[bit >> 3] >> (bit & 7) & 1:
            self._end(Outcome.VERIFIED, "the sender has confirmed it")

    def _take_end(self, message: messages.End) -> None:
        if self.state is ReceiverState.CONFIRMING:
            self._end(Outcome.VERIFIED, "the sender has ended the session")
        elif message.reason is EndReason.COMPLETE:
            self._end(Outcome.SENDER_GONE, "the sender ended the session without waiting for this receiver")
        else:
            what = "was interrupted" if message.reason is EndReason.INTERRUPTED else "failed"
            self._end(Outcome.SENDER_GONE, f"the sender {what}" + (f": {message.text}" if message.text else ""))

    def _sender_silent(self) -> None:
        seconds = limits.SENDER_SILENCE_NS // limits.SECOND_NS
        if self.state is ReceiverState.CONFIRMING:
            self._end(Outcome.VERIFIED, f"the sender did not confirm it: nothing heard for {seconds} s")
        else:
            self.sender_lost = True
            self._end(Outcome.SENDER_GONE, f"nothing was heard from the sender for {seconds} s")

    def _data_silent(self) -> None:
        """Leave a session that others may end well, and that would wait for this receiver as long as it lives."""
        seconds = limits.DATA_SILENCE_NS // limits.SECOND_NS
        if self.state is ReceiverState.CONFIRMING:
            self._end(Outcome.VERIFIED, f"the sender did not confirm it: its data group was silent for {seconds} s")
            return
        group = ".".join(map(str, self.found.announce.group.to_bytes(4)))
        self.fail(
            f"the sender is there, but nothing came in its data group {group} for {seconds} s: do all switches on the "
            "way pass multicast? Where they snoop, they need a querier",
            Outcome.DEAF,
        )

    def sender_replaced(self, now: int) -> None:
        """Another session serves the same image under the same name: if this one's sender is silent, it is gone."""
        if self.state is not ReceiverState.ENDED and now - self._heard_ns >= limits.SENDER_REPLACED_NS:
            if self.state is ReceiverState.CONFIRMING:
                # The new session would count this receiver, and might not begin for hours.
                self._end(Outcome.VERIFIED, "the sender did not confirm it: it was started again")
                return
            self.sender_lost = True
            self._end(Outcome.SENDER_GONE, "the sender was started again")

    def _end(self, outcome: Outcome, text: str) -> None:
        self.state, self.outcome, self.outcome_text = ReceiverState.ENDED, outcome, text
        self._events.append(Ended(outcome, text))

    # --- data in --------------------------------------------------------------------------------------------------

    def receive_symbols(self, headers: npt.NDArray[np.void], now: int) -> list[ObjectPlacement]:
        """Take in a batch of data datagrams.

        Args:
            headers: ``DATA_HEADER[n]``, foreign bytes; anything that does not fit this session is counted and
                gets no row.
            now: instant in ns.
        Returns:
            Row for row where the payloads go; datagrams that are not named are not wanted.
        """
        batches, sent_us = self.reception.split(headers)
        return self.take_symbols(batches, sent_us, now) if batches else []

    def take_symbols(
        self, batches: list[tuple[SymbolBatch, Int64Array | None]], sent_us: int, now: int
    ) -> list[ObjectPlacement]:
        """As ``receive_symbols``, for headers of this session that were taken apart before.

        Args:
            batches: what arrived together, object by object, and which of the datagrams they were; at least one.
            sent_us: send time of the last one.
            now: instant in ns.
        """
        if self.state is ReceiverState.ENDED:
            return []
        placements = self.reception.take(batches)
        if placements is None:
            return []
        self._heard_ns = self._data_heard_ns = now
        self._feedback.data_came(sent_us, now)
        return placements

    # --- what the engine reports ----------------------------------------------------------------------------------

    def data_unread(self, now: int) -> None:
        """Nothing is fetched from the data group for now, because the target is slow: its silence says nothing."""
        self._data_heard_ns = now

    def slices_decoded(self, object_id: int, slices: Int64Array) -> None:
        """Some of a ``SlicesToDecode`` are done: all their source rows are filled in."""
        self.reception.slices_decoded(object_id, slices)

    def manifest_known(
        self, manifest: Manifest, wanted: npt.NDArray[np.bool_], bytes_done: int, *, checking: bool = False
    ) -> None:
        """The manifest was received, checked and parsed, or is known from a session before this one.

        Args:
            manifest: the parsed manifest.
            wanted: ``bool[chunk_count]``: chunks that must come over the network, as far as is known.
            bytes_done: raw bytes of the chunks that need not: zero, unused or already right.
            checking: the target is still being compared with the manifest. What arrives is used, but nothing of the
                image is asked for before ``check_ended``; ``chunks_found`` says what need not come.
        """
        assert self.manifest is None
        self.manifest = manifest
        reason = self.reception.take_manifest(manifest, wanted, bytes_done, checking=checking)
        if reason is not None:
            self.fail(reason)
            return
        if self.state is ReceiverState.MANIFEST:
            self.state = ReceiverState.RECEIVING
        self._check_all_written()

    def chunks_found(self, chunks: Int64Array) -> Int64Array:
        """The target holds these chunks (ascending) already, byte for byte: they need not come.

        Returns:
            Those of them that had not arrived meanwhile.
        """
        found = self.reception.chunks_found(chunks)
        self._check_all_written()
        return found

    def check_ended(self, now: int) -> None:
        """All that the target holds was found: ask for the rest."""
        self.reception.check_ended()
        if self.state is ReceiverState.RECEIVING:
            self._feedback.scan(now)

    def extent_checked(self, object_id: int, extent: int, *, good: bool) -> None:
        """An ``ExtentReady`` was checked, and if good, written (or, for the manifest, parsed)."""
        reason = self.reception.extent_checked(object_id, extent, good=good)
        if reason is not None:
            self.fail(reason)
        self._check_all_written()

    def _check_all_written(self) -> None:
        if self.reception.all_written and self.state is ReceiverState.RECEIVING:
            self.state = ReceiverState.FINISHING
            self._feedback.complete = True
            self._events.append(AllWritten())

    def flushed(self, now: int) -> None:
        """The target is complete and durable: say DONE until the sender knows."""
        if self.state is ReceiverState.ENDED:
            return  # it ended while this was on its way
        assert self.state is ReceiverState.FINISHING
        self.state = ReceiverState.CONFIRMING
        self._feedback.confirm(now)

    def fail(self, reason: str, outcome: Outcome = Outcome.FAILED) -> None:
        """Give up: tell the sender why, and end."""
        if self.state is ReceiverState.ENDED:
            return
        if self.receiver_index is not None:
            for _copy in range(limits.FAIL_COPIES):
                self._send(messages.Fail(self.receiver_index, messages.clip(reason, limits.REASON_LENGTH_MAX)))
        self._end(outcome, reason)

    def _send(self, message: messages.Message) -> None:
        self._transmits.append(messages.encode(self.found.session_id, message))

    def _send_join(self, now: int) -> None:
        identity = self.identity
        self._send(
            messages.Join(
                receiver_id=identity.receiver_id,
                incarnation=identity.incarnation,
                host=messages.clip(identity.host, limits.HOST_LENGTH_MAX),
                target=messages.clip(identity.target, limits.REASON_LENGTH_MAX),
                target_size=identity.target_size,
                link_rate=identity.link_rate,
                wants_all=identity.wants_all,
            )
        )
        if self._joining.said(now):
            self._group_transmits.append(self._transmits[-1])
