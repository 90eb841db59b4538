"""The sender's side of a session: what each message means in which state, what goes out next, and when it is over.

Driven from outside by the five verbs ``receive_datagram``, ``handle_timeout``, ``next_timeout``, ``poll_transmit`` and
``poll_event``, plus ``poll_window`` for data. It knows no socket and no clock; it never touches a symbol: a ``Window``
says which symbols go out, and the engine lays them out. Who may take part is ``Membership``'s to say, what follows from
what receivers measure ``SenderFeedback``'s, and what everybody is told at intervals ``SenderNotices``'s.

Invariants: a receiver counts as verified only through its own DONE for this very manifest; the session never waits for
a receiver that has not been heard within ``RECEIVER_SILENCE_NS``; every queue is bounded.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
import numpy.typing as npt

from protocol import feedback, limits, messages, rate, wire
from protocol.fleet import Address, Fleet, Peer, PeerState
from protocol.lookahead import Lookahead
from protocol.membership import Membership
from protocol.messages import EndReason, SessionState
from protocol.partition import Partition
from protocol.schedule import Schedule, Window
from protocol.sender_events import Destination, Event, EventKind, Outbox, SentCounters, SessionParameters, Transmit
from protocol.sender_feedback import SenderFeedback
from protocol.sender_notices import SenderNotices, Standing

LAST_NS = 100 * limits.MILLISECOND_NS
"""What takes no longer to leave is sent last: about as long until those who lack something ask, and have it."""


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
        self.sent_below = 0
        """Data datagrams below it have left: whoever sends them says so here.

        Windows are handed out some ahead, and one may take minutes where the rate fell to the floor meanwhile. Guessed
        by the rates, such a rate looked as if nobody used it, and stayed where it was: a disk that stood still for two
        seconds cost a session of 1 GB a minute.
        """
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
        self._outbox = Outbox(parameters.session_id)
        control = rate.RateControl(start=parameters.rate_start, ceiling=parameters.rate_ceiling)
        self._feedback = SenderFeedback(
            self.fleet,
            self.schedules,
            control if parameters.rate is None else None,
            repair_symbols=parameters.repair_symbols,
            datagram_size=parameters.symbol_size + wire.DATA_HEADER_SIZE,
            now=now,
        )
        self._membership = Membership(
            parameters.target_size_min, self.fleet, self._feedback, self._outbox, self.drops, now
        )
        self._notices = SenderNotices(parameters, self.fleet, self.schedules, self._feedback, self._outbox, now)
        self._lookahead = Lookahead()
        self._plan_ns: int | None = None
        """When to plan more, where enough is planned."""
        self._opened_ns = now
        self._last_join_ns = now

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
    def started(self) -> bool:
        """Whether sending has begun."""
        return self.state is not SessionState.WAITING

    @property
    def finished(self) -> bool:
        """Whether the session is over and its last word was said."""
        return self.ended is not None and self._notices.end_ns is None

    @property
    def report_interval_ns(self) -> int:
        """How often each receiver reports."""
        if self.state is SessionState.WAITING:
            return feedback.waiting_interval_ns(max(self.fleet.live_count, self.parameters.start.receivers))
        return self._feedback.report_interval_ns

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
        self._notices.begin_end(now)
        self._outbox.tell(EventKind.ENDED, text=text)

    def poll_event(self) -> Event | None:
        """Return the next thing that happened."""
        return self._outbox.events.popleft() if self._outbox.events else None

    def poll_transmit(self) -> Transmit | None:
        """Return the next control datagram to send. Those for ``Destination.DATA`` keep their order with windows."""
        return self._outbox.transmits.popleft() if self._outbox.transmits else None

    def poll_window(self, now: int) -> Window | None:
        """Return the next window of data to send, or None while there is none, or while enough is planned."""
        self._plan_ns = None
        if self.state is SessionState.WAITING or self.ended is not None:
            return None
        wait_ns = self._lookahead.wait_ns(self.sequence, self.sent_below, now)
        if any(s.pending for s in self.schedules.values()):
            if not self._feedback.affordable(self.sequence, now):
                return None
            if wait_ns:
                self._plan_ns = now + wait_ns
                return None
        gathered, slices = self._feedback.gathered(now), self._window_slices(now)
        last = self._is_last(slices)
        surplus = self._feedback.surplus(slices, now, last=last)
        for schedule in self.schedules.values():
            window = schedule.poll_window(
                slices, self.sequence, surplus, wrap=gathered, repairs_last=self._feedback.flood_open(now)
            )
            if window is not None:
                return self._account(window, now, last=last)
        if self.state is SessionState.SENDING and not any(s.pending for s in self.schedules.values()):
            self.state = SessionState.IDLE
            self._notices.status_interval_ns = limits.STATUS_INTERVAL_IDLE_MIN_NS
            self._notices.say_status(self._standing, now)
        return None

    def next_timeout(self) -> int | None:
        """Return the instant at which ``handle_timeout`` wants to be called, or None when the session is over."""
        if self.ended is not None:
            return self._notices.end_ns
        due = [self._notices.next_timeout(), self._membership.silence_check_ns]
        if self.state is SessionState.WAITING:
            start = self.parameters.start
            if start.max_wait_ns is not None and (self.fleet.live_count or not start.endless):
                due.append(self._opened_ns + start.max_wait_ns)
            if start.quiet_ns is not None and self.fleet.live_count:
                due.append(self._last_join_ns + start.quiet_ns)
        due += [at for at in (self._feedback.gather_until_ns, self._plan_ns) if at is not None]
        return min(due)

    def handle_timeout(self, now: int) -> None:
        """Do what is due."""
        if self._plan_ns is not None and now >= self._plan_ns:
            self._plan_ns = None  # whoever drives this asks for a window now
        if self.ended is not None:
            self._notices.repeat_end(messages.End(self.ended, self.end_text), now)
            return
        notices = self._notices
        if now >= notices.announce_ns:
            notices.announce(self._standing, now)
        if self.state is SessionState.WAITING:
            self._check_start(now)
            self._membership.check_silence(self.report_interval_ns, now)
            return
        self._membership.check_silence(self.report_interval_ns, now)
        gather_until_ns = self._feedback.gather_until_ns
        if gather_until_ns is not None and now >= gather_until_ns:
            # Whoever is to be silenced by it must hear it before its backoff ends: it does not wait behind data.
            for advice in self._feedback.take_advice(self.sequence, self.sent_below, self._window_slices(now), now):
                self._outbox.say(Destination.GROUP, advice)
        if notices.status_ns is not None and now >= notices.status_ns:
            self._step_rate(now)
            self._feedback.step_valve(now)
            notices.say_status(self._standing, now)
        if notices.advice_ns is not None and now >= notices.advice_ns:
            notices.advise(self._standing, now)
        if notices.poll_ns is not None and now >= notices.poll_ns:
            notices.poll()
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
                    self._notices.announce_soon(now)
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

    # --- joins, start and end -------------------------------------------------------------------------------------

    def _join(self, message: messages.Join, address: Address, now: int) -> None:
        late, poll_number = self.started, self._notices.poll_number
        news = self._membership.join(message, address, late=late, poll_number=poll_number, now=now)
        if news is EventKind.JOINED or news is EventKind.LATE_JOIN:
            if self.parameters.start.endless and self.fleet.live_count == 1:
                self._opened_ns = now
            self._last_join_ns = now
            self._notices.count_join(late=late, now=now)
            self._notices.advise_if_news(self.report_interval_ns, now)
        if news is EventKind.JOINED:
            self._check_start(now)
        elif late and (news is EventKind.LATE_JOIN or news is EventKind.RETURNED):
            self._notices.status_soon(now)

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
            self._outbox.tell(EventKind.NOBODY_CAME)
            self.end(EndReason.FAILED, "no receiver joined in time", now)

    def _begin(self, now: int) -> None:
        self.state = SessionState.SENDING
        if any(peer.live and peer.wants_all for peer in self.peers):
            self.schedules[limits.OBJECT_IMAGE].require(self._wanted)
        for peer in self.peers:
            peer.heard_ns = now
        self._feedback.begin_rate(now)
        self._outbox.tell(EventKind.STARTED)
        self._notices.announce(self._standing, now)
        self._notices.say_status(self._standing, now)

    def _check_complete(self, now: int) -> None:
        if self.state is not SessionState.WAITING and self.peers and not self.fleet.live_count:
            verified = sum(peer.state is PeerState.VERIFIED for peer in self.peers)
            self.end(EndReason.COMPLETE, f"{verified} of {len(self.peers)} receivers verified", now)

    def _answer_after_end(self, message: messages.AnyMessage, address: Address) -> None:
        """Tell whoever still speaks that it is over; the engine lingers for a moment for this."""
        if isinstance(message, messages.Join | messages.Nack | messages.Report | messages.Done):
            assert self.ended is not None
            self._outbox.say(address, messages.End(self.ended, self.end_text))

    # --- feedback -------------------------------------------------------------------------------------------------

    def _nack(self, message: messages.Nack, address: Address, now: int) -> None:
        peer = self._membership.heard(message.receiver_index, address, now)
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
        peer = self._membership.heard(message.receiver_index, address, now)
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
        self._notices.advise_if_news(self.report_interval_ns, now)
        self._step_rate(now)
        self._serve_slow(now)

    # DEVIATES RFC 5740 §5.5.3: delivery is confirmed by each receiver's own DONE, after its disk is flushed, and
    # acknowledged by a bitmap, not asked for by watermark flushing: what counts is the disk, not the stream.
    def _done(self, message: messages.Done, address: Address, now: int) -> None:
        peer = self._membership.heard(message.receiver_index, address, now)
        if peer is None:
            return
        if message.manifest_digest != self.parameters.manifest_digest or self.state is SessionState.WAITING:
            self.drops.malformed += 1
            return
        if peer.state in (PeerState.FAILED, PeerState.REFUSED):
            self.drops.stale += 1
            return
        if peer.state is not PeerState.VERIFIED:
            self._membership.finish(peer, PeerState.VERIFIED, "", now)
            peer.done = message
            self._serve_slow(now)
            self._outbox.tell(EventKind.VERIFIED, peer)
        self._notices.poll_soon(now)
        self._check_complete(now)

    def _fail(self, message: messages.Fail, address: Address, now: int) -> None:
        peer = self._membership.heard(message.receiver_index, address, now)
        if peer is None or peer.state is PeerState.FAILED:
            return
        self._membership.finish(peer, PeerState.FAILED, message.reason, now)
        self._outbox.tell(EventKind.FAILED, peer, message.reason)
        if self.state is not SessionState.WAITING:
            self._check_complete(now)

    # --- planning -------------------------------------------------------------------------------------------------

    @property
    def _standing(self) -> Standing:
        return Standing(self.state, self.sequence, self.pass_count, self.rate_bytes_per_s, self.report_interval_ns)

    def _window_slices(self, now: int) -> int:
        """D, wider where bursts are lost, and less where a window would take so long that repairs would wait for it."""
        p = self.parameters
        wished = self._feedback.bursts.window_slices(p.window_slices, p.window_slices_max, now)
        datagram = p.symbol_size + wire.DATA_HEADER_SIZE
        slice_s = p.source_symbols * datagram / max(self.rate_bytes_per_s, 1.0)
        affordable = int(limits.STATUS_INTERVAL_NS / limits.SECOND_NS / slice_s)
        return max(1, min(wished, affordable))

    def _is_last(self, window_slices: int) -> bool:
        """Whether all that is needed beyond the next window has left before a repair of it could be asked for."""
        after = sum(schedule.pending_count for schedule in self.schedules.values()) - window_slices
        per_s = self._lookahead.per_s or self.rate_bytes_per_s / (self.parameters.symbol_size + wire.DATA_HEADER_SIZE)
        return after * self.parameters.source_symbols * limits.SECOND_NS <= per_s * LAST_NS

    def _account(self, window: Window, now: int, *, last: bool) -> Window:
        count = window.datagram_count
        self._feedback.window_planned(window, now, last=last)
        self.sequence += count
        self.sent.source_symbols += window.source_count
        self.sent.repair_symbols += count - window.source_count
        self.pass_count = max(self.pass_count, self.schedules[limits.OBJECT_IMAGE].pass_index)
        if self.state is SessionState.IDLE:
            self.state = SessionState.SENDING
        self._notices.status_interval_ns = limits.STATUS_INTERVAL_NS
        return window

    # --- slow receivers -------------------------------------------------------------------------------------------

    def _step_rate(self, now: int) -> None:
        verdict = self._feedback.step_rate(self.sequence, self.sent_below, now)
        if not self.parameters.leave_slow:
            return
        for index in sorted(verdict.leave):
            peer = self.peers[index]
            if peer.live and not peer.slow:
                self._feedback.set_slow(peer, True)
                peer.left_ns = now
                self._send_defer(peer, limits.DEFER_NS)
                self._outbox.tell(EventKind.LEFT_BEHIND, peer, "slower than the others: served after them")
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
        self._notices.say_status(self._standing, now)

    def _take_back(self, peer: Peer, text: str) -> None:
        if peer.slow:
            self._feedback.set_slow(peer, False)
            if peer.live:
                self._send_defer(peer, 0)
                self._outbox.tell(EventKind.TAKEN_BACK, peer, text)

    def _send_defer(self, peer: Peer, wait_ns: int) -> None:
        self._outbox.say(peer.address, messages.Defer(peer.index, wait_ns // limits.MILLISECOND_NS))
