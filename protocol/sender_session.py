"""The sender's side of a session: who takes part, what they lack, what goes out next, and when it is over.

Driven from outside by the five verbs ``receive_datagram``, ``handle_timeout``, ``next_timeout``, ``poll_transmit`` and
``poll_event``, plus ``poll_window`` for data. It knows no socket and no clock; it never touches a symbol: a ``Window``
says which symbols go out, and the engine lays them out.

Invariants: a receiver counts as verified only through its own DONE for this very manifest; the session never waits for
a receiver that has not been heard within ``RECEIVER_SILENCE_NS``; every queue is bounded.
"""

from __future__ import annotations

import collections
from typing import assert_never

import numpy as np
import numpy.typing as npt

from protocol import feedback, limits, messages, rate, wire
from protocol.fleet import Address, Fleet, Peer, PeerState
from protocol.messages import EndReason, SessionState
from protocol.partition import Partition
from protocol.schedule import Schedule, Window
from protocol.sender_events import Destination, Event, EventKind, SentCounters, SessionParameters, Transmit
from protocol.sender_feedback import SenderFeedback


class SenderSession:
    """One session of one image. See the module's docstring for how it is driven."""

    def __init__(self, parameters: SessionParameters, wanted: npt.NDArray[np.bool_], now: int) -> None:
        """Begin to announce.

        Args:
            parameters: the settled facts.
            wanted: ``bool[slice_count]`` of the stream: slices that hold anything a blank target needs.
            now: instant in ns.
        """
        self.parameters = parameters
        self.state = SessionState.WAITING
        self.ended: EndReason | None = None
        self.end_text = ""
        self.rival: str | None = None
        """Who else announces this session's name, if this session gave way to it."""
        self.fleet = Fleet()
        self.sent = SentCounters()
        self.drops = wire.Drops()
        self.pass_count = 0
        manifest = Partition(parameters.manifest_size, parameters.symbol_size, parameters.source_symbols)
        image = Partition(parameters.stream_size, parameters.symbol_size, parameters.source_symbols)
        self.schedules = {
            limits.OBJECT_MANIFEST: Schedule(limits.OBJECT_MANIFEST, manifest, np.ones(manifest.slice_count, np.bool_)),
            # Empty until the start: whether anybody needs everything shows only then.
            limits.OBJECT_IMAGE: Schedule(limits.OBJECT_IMAGE, image, np.zeros(image.slice_count, np.bool_)),
        }
        self._wanted = wanted
        self.sequence = 0
        self._transmits: collections.deque[Transmit] = collections.deque()
        self._events: collections.deque[Event] = collections.deque()
        self._feedback = SenderFeedback(
            self.fleet,
            self.schedules,
            None
            if parameters.rate is not None
            else rate.RateControl(start=parameters.rate_start, ceiling=parameters.rate_ceiling),
            repair_symbols=parameters.repair_symbols,
            datagram_size=parameters.symbol_size + wire.DATA_HEADER_SIZE,
            now=now,
        )
        self._opened_ns = now
        self._last_join_ns = now
        self._join_spread_ns = max(
            limits.JOIN_SPREAD_UNKNOWN_NS * (parameters.start.receivers == 0),
            feedback.join_spread_ns(parameters.start.receivers),
        )
        self._join_count = 0
        """JOINs of receivers that were not known, since ``_join_count_ns``."""
        self._join_count_ns = now
        self._silence_check_ns = now
        self._silence_interval_ns = 0
        self._silence_from_ns = now
        self._announce_ns = now
        self._announced_ns = now - limits.ANNOUNCE_INTERVAL_NS
        self._announce_interval_ns = limits.ANNOUNCE_FIRST_NS
        self._status_ns: int | None = None
        self._status_interval_ns = limits.STATUS_INTERVAL_NS
        self._advice_ns: int | None = None
        self._advised_ns = now
        self._advised: messages.FeedbackAdvice | None = None
        """What was last said of how to speak."""
        self._poll_ns: int | None = None
        self._poll_number = 0
        self._ends_left = 0
        self._end_ns = 0

    # --- what the engine asks -------------------------------------------------------------------------------------

    @property
    def rate_bytes_per_s(self) -> float:
        """The pace of the data, headers included."""
        control = self._feedback.control
        return control.rate if control is not None else float(self.parameters.rate or 0)

    @property
    def peers(self) -> list[Peer]:
        """Everybody who ever joined, by index."""
        return self.fleet.peers

    @property
    def refused(self) -> list[Peer]:
        """Those that asked to join and could not."""
        return self.fleet.refused

    @property
    def loss(self) -> float:
        """The worst network loss that was measured lately, in [0, 1]."""
        return self._feedback.loss

    @property
    def grtt_ns(self) -> int:
        """The group round-trip time."""
        return self._feedback.grtt_ns

    @property
    def started(self) -> bool:
        """Whether sending has begun."""
        return self.state is not SessionState.WAITING

    @property
    def finished(self) -> bool:
        """Whether the session is over and its last word was said."""
        return self.ended is not None and self._ends_left == 0

    @property
    def report_interval_ns(self) -> int:
        """How often each receiver reports."""
        if self.state is SessionState.WAITING:
            return feedback.waiting_interval_ns(max(self.fleet.live_count, self.parameters.start.receivers))
        return self._feedback.report_interval_ns

    @property
    def silence_ns(self) -> int:
        """After how long without a word a receiver has vanished."""
        interval_ns = max(self._silence_interval_ns, self.report_interval_ns)
        return max(limits.RECEIVER_SILENCE_NS, limits.REPORTS_MISSED_MAX * interval_ns)

    @property
    def remaining_symbols(self) -> int:
        """Symbols still to send as far as is known now."""
        return sum(schedule.needed_symbols for schedule in self.schedules.values())

    def start(self, now: int) -> bool:
        """Begin by hand; returns whether there was anybody to begin with."""
        if self.state is SessionState.WAITING and self.fleet.live_count:
            self._begin(now)
        return self.state is not SessionState.WAITING

    def end(self, reason: EndReason, text: str, now: int) -> None:
        """End the session for everybody; the last word is repeated a few times before ``finished``."""
        if self.ended is not None:
            return
        self.ended = reason
        self.end_text = messages.clip(text, limits.REASON_LENGTH_MAX)
        self._ends_left = limits.END_REPEAT_COUNT
        self._end_ns = now
        self._events.append(Event(EventKind.ENDED, text=text))

    def poll_event(self) -> Event | None:
        """Return the next thing that happened."""
        return self._events.popleft() if self._events else None

    def poll_transmit(self) -> Transmit | None:
        """Return the next control datagram to send. Those for ``Destination.DATA`` keep their order with windows."""
        return self._transmits.popleft() if self._transmits else None

    def poll_window(self, now: int) -> Window | None:
        """Return the next window of data to send, or None while there is none."""
        if self.state is SessionState.WAITING or self.ended is not None:
            return None
        if any(s.pending for s in self.schedules.values()) and not self._feedback.affordable(self.sequence, now):
            return None
        gathered, slices = self._feedback.gathered(now), self._window_slices(now)
        surplus = self._feedback.surplus(slices, now)
        for schedule in self.schedules.values():
            window = schedule.poll_window(slices, self.sequence, surplus, wrap=gathered)
            if window is not None:
                return self._account(window, now)
        if self.state is SessionState.SENDING and not any(s.pending for s in self.schedules.values()):
            self.state = SessionState.IDLE
            self._status_interval_ns = limits.STATUS_INTERVAL_IDLE_MIN_NS
            self._send_status(now)
        return None

    def next_timeout(self) -> int | None:
        """Return the instant at which ``handle_timeout`` wants to be called, or None when the session is over."""
        if self.ended is not None:
            return self._end_ns if self._ends_left else None
        due = [self._announce_ns, self._silence_check_ns]
        if self.state is SessionState.WAITING:
            start = self.parameters.start
            if start.max_wait_ns is not None and (self.fleet.live_count or not start.endless):
                due.append(self._opened_ns + start.max_wait_ns)
            if start.quiet_ns is not None and self.fleet.live_count:
                due.append(self._last_join_ns + start.quiet_ns)
        others = self._status_ns, self._feedback.gather_until_ns, self._poll_ns, self._advice_ns
        return min(due + [when for when in others if when is not None])

    def handle_timeout(self, now: int) -> None:
        """Do what is due."""
        if self.ended is not None:
            self._repeat_end(now)
            return
        if now >= self._announce_ns:
            self._announce(now)
        if self.state is SessionState.WAITING:
            self._check_start(now)
            self._check_silence(now)
            return
        self._check_silence(now)
        gather_until_ns = self._feedback.gather_until_ns
        if gather_until_ns is not None and now >= gather_until_ns:
            # Whoever is to be silenced by it must hear it before its backoff ends: it does not wait behind data.
            for advice in self._feedback.take_advice(self.sequence, self._window_slices(now), now):
                self._transmits.append(Transmit(Destination.GROUP, self._encode(advice)))
        if self._status_ns is not None and now >= self._status_ns:
            self._step_rate(now)
            self._feedback.step_valve(now)
            self._send_status(now)
        if self._advice_ns is not None and now >= self._advice_ns:
            self._send_feedback_advice(now)
        if self._poll_ns is not None and now >= self._poll_ns:
            self._send_poll(now)
        self._check_complete(now)

    def receive_datagram(self, datagram: bytes, address: Address, now: int) -> None:
        """Take in one control datagram; whatever it is, this never raises."""
        frame = wire.parse_control(datagram, self.drops)
        if frame is None:
            return
        if frame.session_id not in (0, self.parameters.session_id):
            self._take_foreign(frame, address, now)
            return
        message = messages.decode(frame.body, self.drops)
        if message is None:
            return
        if frame.session_id == 0 and not isinstance(message, messages.Solicit):
            self.drops.session += 1
            return
        if self.ended is not None:
            self._answer_after_end(message, address)
            return
        match message:
            case messages.Solicit():
                if message.name in ("", self.parameters.name):
                    # A fleet that boots at once solicits at once: one answer serves all that ask within the gap.
                    soonest = self._announced_ns + limits.SOLICITED_GAP_NS
                    self._announce_ns = min(self._announce_ns, max(now, soonest))
            case messages.Join():
                self._join(message, address, now)
            case messages.Nack():
                self._nack(message, address, now)
            case messages.Report():
                self._report(message, address, now)
            case messages.Done():
                self._done(message, address, now)
            case messages.Fail():
                self._fail(message, address, now)
            case messages.Announce():
                pass  # our own, which multicast brings back
            case (
                messages.Welcome()
                | messages.Refuse()
                | messages.Status()
                | messages.Poll()
                | messages.RepairAdvice()
                | messages.End()
                | messages.Defer()
                | messages.FeedbackAdvice()
            ):
                self.drops.stale += 1
            case _:
                assert_never(message)

    def _take_foreign(self, frame: wire.ControlFrame, address: Address, now: int) -> None:
        """Give way to another sender of the same name, or receivers would be split over two images by chance."""
        self.drops.session += 1
        if self.state is not SessionState.WAITING or self.ended is not None:
            return
        message = messages.decode(frame.body, self.drops)
        if not isinstance(message, messages.Announce) or message.name != self.parameters.name:
            return
        # Two that began at the same moment: the lower id stays. One that is sending already always stays.
        if frame.session_id < self.parameters.session_id or message.state is not SessionState.WAITING:
            self.rival = address[0]
            self.end(EndReason.FAILED, f"another sender at {address[0]} announces the same session name", now)

    # --- membership -----------------------------------------------------------------------------------------------

    # DEVIATES RFC 5740 §5.5.4: receivers register: the size of the group is known, and a report can name each of them.
    def _join(self, message: messages.Join, address: Address, now: int) -> None:
        peer = self.fleet.find(message.receiver_id)
        if peer is not None:
            self._rejoin(peer, message, address, now)
            return
        peer = Peer(
            index=len(self.peers),
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
            self._refuse(peer, reason, now)
            return
        if self.parameters.start.endless and not self.fleet.live_count:
            self._opened_ns = now
        self.fleet.add(peer)
        self._last_join_ns = now
        self._spread_joins(now)
        self._feedback.limit_rate()
        self._welcome(peer)
        self._advise_if_news(now)
        late = self.state is not SessionState.WAITING
        self._events.append(Event(EventKind.LATE_JOIN if late else EventKind.JOINED, peer))
        if late:
            self._status_soon(now)
        else:
            self._check_start(now)

    def _spread_joins(self, now: int) -> None:
        """Have those who are still to join take their time, where more come than was said or than can be heard."""
        if now - self._join_count_ns > limits.SECOND_NS:
            self._join_count, self._join_count_ns = 0, now
        self._join_count += 1
        late = self.state is not SessionState.WAITING
        shortest_ns = limits.JOIN_COUNT_LATE_MIN_NS if late else limits.JOIN_COUNT_MIN_NS
        elapsed_ns = max(now - self._join_count_ns, shortest_ns)
        if self._join_count * limits.SECOND_NS > limits.JOIN_PER_S * elapsed_ns * 5 // 4:
            wider = min(max(2 * self._join_spread_ns, 2 * limits.SECOND_NS), limits.JOIN_SPREAD_MAX_NS)
            self._join_spread_ns = wider
            self._join_count, self._join_count_ns = 0, now
            self._announce_ns = now

    def _rejoin(self, peer: Peer, message: messages.Join, address: Address, now: int) -> None:
        """Answer a repeated JOIN, or take a restarted receiver back under its old index."""
        moved = message.incarnation == peer.incarnation and address != peer.address
        if message.incarnation == peer.replaced_incarnation or moved:
            # An echo of an earlier start, or somebody else who repeats what was heard: a receiver that really moved has
            # started again. The address must not change, or the real receiver would not be heard any more.
            self.drops.stale += 1
            return
        peer.heard_ns = now
        if message.incarnation != peer.incarnation or peer.state is PeerState.VANISHED:
            if message.incarnation != peer.incarnation:
                peer.replaced_incarnation = peer.incarnation
            peer.incarnation = message.incarnation
            peer.host, peer.target = message.host, message.target
            self._feedback.set_slow(peer, False)
            self.fleet.revive(peer, message.link_rate)
            peer.report = None
            peer.done = None
            peer.target_size, peer.wants_all = message.target_size, message.wants_all
            reason = self._refusal(peer)
            if reason:
                self._finish_peer(peer, PeerState.REFUSED, reason, now)
                self._events.append(Event(EventKind.REFUSED, peer, reason))
                self._send_refuse(peer, reason, address)
                return
            self._events.append(Event(EventKind.RETURNED, peer))
            self._feedback.limit_rate()
            if self.state is not SessionState.WAITING:
                self._status_soon(now)
        peer.address = address
        self._welcome(peer)

    def _refusal(self, peer: Peer) -> str:
        """Return why a receiver cannot take part, or an empty string."""
        if 0 <= peer.target_size < self.parameters.target_size_min:
            return (
                f"the target has {peer.target_size} bytes, the image needs {self.parameters.target_size_min}: "
                f"use a larger target than {peer.target}"
            )
        if peer.index >= limits.RECEIVERS_MAX:
            return f"the session is full: {limits.RECEIVERS_MAX} receivers"
        return ""

    def _refuse(self, peer: Peer, reason: str, now: int) -> None:
        self._send_refuse(peer, reason, peer.address)
        if self.fleet.refuse(peer, reason, now):
            self._events.append(Event(EventKind.REFUSED, peer, reason))

    def _send_refuse(self, peer: Peer, reason: str, address: Address) -> None:
        message = messages.Refuse(peer.receiver_id, messages.clip(reason, limits.REASON_LENGTH_MAX))
        self._transmits.append(Transmit(address, self._encode(message)))

    def _welcome(self, peer: Peer) -> None:
        message = messages.Welcome(peer.receiver_id, peer.incarnation, peer.index, self._poll_number)
        self._transmits.append(Transmit(peer.address, self._encode(message)))

    def _heard(self, receiver_index: int, address: Address, now: int) -> Peer | None:
        """Return the live receiver that speaks, or count the message as stale."""
        peer = self.fleet.speaker(receiver_index, address)
        if peer is None:
            self.drops.stale += 1
            return None
        peer.heard_ns = now
        if peer.state is PeerState.VANISHED:
            self.fleet.revive(peer, peer.link_rate)
            self._events.append(Event(EventKind.RETURNED, peer))
        return peer

    def _check_silence(self, now: int) -> None:
        if now < self._silence_check_ns:
            return
        self._silence_check_ns = now + limits.SILENCE_CHECK_NS
        interval_ns = self.report_interval_ns
        if interval_ns > self._silence_interval_ns:
            self._silence_interval_ns = interval_ns
        elif 2 * interval_ns < self._silence_interval_ns:
            # The fleet became smaller and is to report more often: nobody is late by the new interval before its time.
            self._silence_interval_ns, self._silence_from_ns = interval_ns, now
        if now - self._silence_from_ns <= self.silence_ns:
            return
        for peer in self.fleet.silent(now - self.silence_ns):
            seconds = (now - peer.heard_ns) // limits.SECOND_NS
            self._finish_peer(peer, PeerState.VANISHED, f"not heard for {seconds} s", now)
            self._events.append(Event(EventKind.VANISHED, peer, peer.reason))

    def _finish_peer(self, peer: Peer, state: PeerState, reason: str, now: int) -> None:
        self.fleet.finish(peer, state, reason, now)
        self._feedback.forget(peer)

    # --- start and end --------------------------------------------------------------------------------------------

    def _check_start(self, now: int) -> None:
        start = self.parameters.start
        joined = self.fleet.live_count
        if joined and (
            (start.receivers and joined >= start.receivers)
            or (start.max_wait_ns is not None and now - self._opened_ns >= start.max_wait_ns)
            or (start.quiet_ns is not None and now - self._last_join_ns >= start.quiet_ns)
        ):
            self._begin(now)
        elif start.endless or joined:
            return
        elif start.max_wait_ns is not None and now - self._opened_ns >= start.max_wait_ns:
            self._events.append(Event(EventKind.NOBODY_CAME))
            self.end(EndReason.FAILED, "no receiver joined in time", now)

    def _begin(self, now: int) -> None:
        self.state = SessionState.SENDING
        if any(peer.live and peer.wants_all for peer in self.peers):
            self.schedules[limits.OBJECT_IMAGE].require(self._wanted)
        for peer in self.peers:
            peer.heard_ns = now
        self._feedback.begin_rate(now)
        self._events.append(Event(EventKind.STARTED))
        self._announce(now)
        self._send_status(now)

    def _check_complete(self, now: int) -> None:
        if self.state is not SessionState.WAITING and self.peers and not self.fleet.live_count:
            verified = sum(peer.state is PeerState.VERIFIED for peer in self.peers)
            self.end(EndReason.COMPLETE, f"{verified} of {len(self.peers)} receivers verified", now)

    def _repeat_end(self, now: int) -> None:
        if self._ends_left and now >= self._end_ns:
            assert self.ended is not None
            datagram = self._encode(messages.End(self.ended, self.end_text))
            self._transmits.append(Transmit(Destination.DATA, datagram))
            self._transmits.append(Transmit(Destination.DISCOVERY, datagram))
            self._ends_left -= 1
            self._end_ns = now + limits.END_REPEAT_NS

    def _answer_after_end(self, message: messages.AnyMessage, address: Address) -> None:
        """Tell whoever still speaks that it is over; the engine lingers for a moment for this."""
        if isinstance(message, messages.Join | messages.Nack | messages.Report | messages.Done):
            assert self.ended is not None
            self._transmits.append(Transmit(address, self._encode(messages.End(self.ended, self.end_text))))

    # --- feedback -------------------------------------------------------------------------------------------------

    def _nack(self, message: messages.Nack, address: Address, now: int) -> None:
        peer = self._heard(message.receiver_index, address, now)
        if peer is None:
            return
        if message.sequence > self.sequence:
            self.drops.malformed += 1
            return
        if self.state is SessionState.WAITING or not peer.live:
            self.drops.stale += 1
            return
        counted = self._feedback.take_nack(peer, message, now)
        if counted is None:
            self.drops.malformed += 1
            return
        self.sent.nacks += 1
        if peer.slow:
            self._send_defer(peer, limits.DEFER_NS)
        if counted:
            self.state = SessionState.SENDING

    def _report(self, message: messages.Report, address: Address, now: int) -> None:
        peer = self._heard(message.receiver_index, address, now)
        if peer is None:
            return
        if not peer.live:
            self.drops.stale += 1
            return
        if message.finishing:
            state = PeerState.FINISHING
        else:
            state = PeerState.CHECKING if message.checking else PeerState.RECEIVING
        self.fleet.proceed(peer, state)
        self._feedback.take_report(peer, message, self.sequence, now)
        self._advise_if_news(now)
        self._step_rate(now)
        self._serve_slow(now)

    # DEVIATES RFC 5740 §5.5.3: delivery is confirmed by each receiver's own DONE, after its disk is flushed, and
    # acknowledged by a bitmap, not asked for by watermark flushing: what counts is the disk, not the stream.
    def _done(self, message: messages.Done, address: Address, now: int) -> None:
        peer = self._heard(message.receiver_index, address, now)
        if peer is None:
            return
        if message.manifest_digest != self.parameters.manifest_digest or self.state is SessionState.WAITING:
            self.drops.malformed += 1
            return
        if peer.state in (PeerState.FAILED, PeerState.REFUSED):
            self.drops.stale += 1
            return
        if peer.state is not PeerState.VERIFIED:
            self._finish_peer(peer, PeerState.VERIFIED, "", now)
            peer.done = message
            self._serve_slow(now)
            self._events.append(Event(EventKind.VERIFIED, peer))
        # Acknowledged by a POLL; several DONEs share one.
        soon = now + feedback.poll_delay_ns(len(self.fleet))
        self._poll_ns = soon if self._poll_ns is None else min(self._poll_ns, soon)
        self._check_complete(now)

    def _fail(self, message: messages.Fail, address: Address, now: int) -> None:
        peer = self._heard(message.receiver_index, address, now)
        if peer is None or peer.state is PeerState.FAILED:
            return
        self._finish_peer(peer, PeerState.FAILED, message.reason, now)
        self._events.append(Event(EventKind.FAILED, peer, message.reason))
        if self.state is not SessionState.WAITING:
            self._check_complete(now)

    # --- what is said at intervals --------------------------------------------------------------------------------

    def _announce(self, now: int) -> None:
        p = self.parameters
        message = messages.Announce(
            name=p.name,
            image_id=p.image_id,
            image_name=p.image_name,
            manifest_digest=p.manifest_digest,
            manifest_size=p.manifest_size,
            stream_size=p.stream_size,
            raw_size=p.raw_size,
            symbol_size=p.symbol_size,
            source_symbols=p.source_symbols,
            window_slices=max(p.window_slices, p.window_slices_max),
            group=p.group,
            port=p.port,
            control_port=p.control_port,
            receivers_expected=p.start.receivers,
            state=self.state,
            join_spread_ms=self._join_spread_ns // limits.MILLISECOND_NS,
            report_interval_ms=self.report_interval_ns // limits.MILLISECOND_NS,
        )
        self._transmits.append(Transmit(Destination.DISCOVERY, self._encode(message)))
        self._announced_ns = now
        self._announce_ns = now + self._announce_interval_ns
        self._announce_interval_ns = min(2 * self._announce_interval_ns, limits.ANNOUNCE_INTERVAL_NS)

    def _send_status(self, now: int) -> None:
        message = messages.Status(
            sequence=self.sequence,
            state=self.state,
            cursor=self.schedules[limits.OBJECT_IMAGE].first_pass_cursor,
            manifest_sent=not self.schedules[limits.OBJECT_MANIFEST].pending,
            pass_index=self.pass_count,
        )
        self._transmits.append(Transmit(Destination.DATA, self._encode(message)))
        self._send_feedback_advice(now)
        self._status_ns = now + self._status_interval_ns
        self._status_interval_ns = min(2 * self._status_interval_ns, limits.STATUS_INTERVAL_NS)

    def _status_soon(self, now: int) -> None:
        """Say where the session stands to one who has just come; many that come together hear it together."""
        due_ns = max(now, self._advised_ns + limits.FEEDBACK_ADVICE_GAP_NS)
        self._status_ns = due_ns if self._status_ns is None else min(self._status_ns, due_ns)

    def _send_feedback_advice(self, now: int) -> None:
        """Say how to speak: not behind the data, or a whole fleet speaks before it hears that one did."""
        self._advice_ns = None
        self._advised_ns = now
        self._advised = messages.FeedbackAdvice(
            grtt_us=self.grtt_ns // limits.MICROSECOND_NS,
            receivers=self.fleet.live_count,
            feedback_scale=self._feedback.feedback_scale,
            report_interval_ms=self.report_interval_ns // limits.MILLISECOND_NS,
            rate=int(self.rate_bytes_per_s),
            tolerated_ppm=int(self._feedback.tolerated * 1e6),
            report_below=int(self._feedback.report_below(now)),
        )
        self._transmits.append(Transmit(Destination.GROUP, self._encode(self._advised)))

    def _advise_if_news(self, now: int) -> None:
        """Say it before its time if more have come, or somebody told a lower limit: others would speak meanwhile."""
        advised = self._advised
        if advised is None:
            return
        more = self.report_interval_ns * rate.SAME_SHARE > advised.report_interval_ms * limits.MILLISECOND_NS
        if more or self._feedback.report_below(now) < rate.SAME_SHARE * advised.report_below:
            self._advice_ns = self._advised_ns + limits.FEEDBACK_ADVICE_GAP_NS

    def _send_poll(self, now: int) -> None:
        """Acknowledge DONEs: a cleared bit says that the sender knows."""
        for first in range(0, len(self.peers), limits.POLL_RECEIVERS_MAX):
            part = self.peers[first : first + limits.POLL_RECEIVERS_MAX]
            wanted = np.packbits([peer.state is not PeerState.VERIFIED for peer in part], bitorder="little")
            message = messages.Poll(first, len(part), wanted.tobytes(), self._poll_number)
            self._transmits.append(Transmit(Destination.GROUP, self._encode(message)))
        self._poll_number = (self._poll_number + 1) & 0xFFFFFFFF
        self._poll_ns = None

    # --- planning -------------------------------------------------------------------------------------------------

    def _window_slices(self, now: int) -> int:
        """D, wider where bursts are lost, and less where a window would take so long that repairs would wait for it."""
        p = self.parameters
        wished = self._feedback.bursts.window_slices(p.window_slices, p.window_slices_max, now)
        datagram = p.symbol_size + wire.DATA_HEADER_SIZE
        slice_s = p.source_symbols * datagram / max(self.rate_bytes_per_s, 1.0)
        affordable = int(limits.STATUS_INTERVAL_NS / limits.SECOND_NS / slice_s)
        return max(1, min(wished, affordable))

    def _account(self, window: Window, now: int) -> Window:
        count = window.datagram_count
        self._feedback.window_planned(window, now)
        self.sequence += count
        self.sent.source_symbols += window.source_count
        self.sent.repair_symbols += count - window.source_count
        self.pass_count = max(self.pass_count, self.schedules[limits.OBJECT_IMAGE].pass_index)
        if self.state is SessionState.IDLE:
            self.state = SessionState.SENDING
        self._status_interval_ns = limits.STATUS_INTERVAL_NS
        return window

    # --- slow receivers -------------------------------------------------------------------------------------------

    def _step_rate(self, now: int) -> None:
        verdict = self._feedback.step_rate(self.sequence, now)
        if not self.parameters.leave_slow:
            return
        for index in sorted(verdict.leave):
            peer = self.peers[index]
            if peer.live and not peer.slow:
                self._feedback.set_slow(peer, True)
                peer.left_ns = now
                self._send_defer(peer, limits.DEFER_NS)
                self._events.append(Event(EventKind.LEFT_BEHIND, peer, "slower than the others: served after them"))
        if verdict.leave:
            self._feedback.restart_rate()
        for index in sorted(verdict.take_back):
            self._take_back(self.peers[index], "the others were no faster without it")
        self._serve_slow(now)

    def _serve_slow(self, now: int) -> None:
        """Serve those that were left behind, as soon as nobody else lacks anything."""
        if not self.fleet.slow_count or self.fleet.lacking_count:
            return
        slow = [peer for peer in self.peers if peer.live and peer.slow]
        self._feedback.restart_rate(slow)
        for peer in slow:
            self._take_back(peer, "the others have everything")
        self._send_status(now)

    def _take_back(self, peer: Peer, text: str) -> None:
        if peer.slow:
            self._feedback.set_slow(peer, False)
            if peer.live:
                self._send_defer(peer, 0)
                self._events.append(Event(EventKind.TAKEN_BACK, peer, text))

    def _send_defer(self, peer: Peer, wait_ns: int) -> None:
        message = messages.Defer(peer.index, wait_ns // limits.MILLISECOND_NS)
        self._transmits.append(Transmit(peer.address, self._encode(message)))

    def _encode(self, message: messages.Message) -> bytes:
        return messages.encode(self.parameters.session_id, message)
