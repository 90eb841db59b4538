"""The sender's side of a session: who takes part, what they lack, what goes out next, and when it is over.

Driven from outside by the five verbs ``receive_datagram``, ``handle_timeout``, ``next_timeout``, ``poll_transmit`` and
``poll_event``, plus ``poll_window`` for data. It knows no socket and no clock; it never touches a symbol: a ``Window``
says which symbols go out, and the engine lays them out.

Invariants: a receiver counts as verified only through its own DONE for this very manifest; the session never waits for
a receiver that has not been heard within ``RECEIVER_SILENCE_NS``; every queue is bounded.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from typing import assert_never

import numpy as np
import numpy.typing as npt

from protocol import limits, messages, parity, rate, wire
from protocol.feedback import GroupRoundTrip
from protocol.messages import EndReason, SessionState
from protocol.partition import Partition
from protocol.schedule import Schedule, Window

Address = tuple[str, int]


class Destination(enum.Enum):
    """Where a control datagram goes when it is not for one receiver."""

    DISCOVERY = "discovery"
    """The discovery group."""
    DATA = "data"
    """The data group, in order with the data."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transmit:
    """One control datagram to send."""

    destination: Destination | Address
    datagram: bytes


class PeerState(enum.Enum):
    """Where one receiver stands. The last four are final, but a vanished receiver may come back."""

    RECEIVING = "receiving"
    FINISHING = "finishing"
    """Everything is written; the final flush is under way."""
    VERIFIED = "verified"
    FAILED = "failed"
    VANISHED = "vanished"
    REFUSED = "refused"


LIVE_STATES = frozenset({PeerState.RECEIVING, PeerState.FINISHING})


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
    replaced_incarnation: int | None = None
    """The start before this one: its JOINs may still be under way."""

    @property
    def live(self) -> bool:
        """Whether the session still waits for this receiver."""
        return self.state in LIVE_STATES


@dataclasses.dataclass(frozen=True, slots=True)
class StartRule:
    """When to begin. Whatever comes first wins; a person may begin earlier by hand."""

    receivers: int = 0
    """Begin when so many have joined; 0: no such rule."""
    max_wait_ns: int | None = None
    """Begin after this long with whoever is there; with nobody there, the session ends."""
    quiet_ns: int | None = None
    """Begin when at least one has joined and nobody joined for so long."""


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
    NOBODY_CAME = "nobody_came"
    ENDED = "ended"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something happened; ``peer`` is the receiver it happened to."""

    kind: EventKind
    peer: Peer | None = None
    text: str = ""


@dataclasses.dataclass(slots=True)
class SentCounters:
    """What was handed out for sending."""

    source_symbols: int = 0
    repair_symbols: int = 0
    nacks: int = 0


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
        self.peers: list[Peer] = []
        self.refused: list[Peer] = []
        self.sent = SentCounters()
        self.drops = wire.Drops()
        self.pass_count = 0
        self._by_id: dict[bytes, Peer] = {}
        self._live_count = 0
        """How many peers are live; kept, because a fleet is too large to be counted for every message."""
        manifest = Partition(parameters.manifest_size, parameters.symbol_size, parameters.source_symbols)
        image = Partition(parameters.stream_size, parameters.symbol_size, parameters.source_symbols)
        self.schedules = {
            limits.OBJECT_MANIFEST: Schedule(limits.OBJECT_MANIFEST, manifest, np.ones(manifest.slice_count, np.bool_)),
            limits.OBJECT_IMAGE: Schedule(limits.OBJECT_IMAGE, image, wanted),
        }
        self.sequence = 0
        self._transmits: collections.deque[Transmit] = collections.deque()
        self._events: collections.deque[Event] = collections.deque()
        self._round_trip = GroupRoundTrip()
        self._loss = parity.LossEstimate()
        self._reported = False
        self._rate = (
            None
            if parameters.rate is not None
            else rate.RateControl(start=parameters.rate_start, ceiling=parameters.rate_ceiling)
        )
        self._rate_step_ns = now
        self._rate_step_sequence = 0
        self._feedback_scale = 1
        self._nack_count = 0
        self._feedback_window_ns = now
        self._opened_ns = now
        self._last_join_ns = now
        self._announce_ns = now
        self._announced_ns = now - limits.ANNOUNCE_INTERVAL_NS
        self._status_ns: int | None = None
        self._status_interval_ns = limits.STATUS_INTERVAL_NS
        self._gather_until_ns: int | None = None
        self._advice: dict[int, dict[int, int]] = {limits.OBJECT_MANIFEST: {}, limits.OBJECT_IMAGE: {}}
        self._poll_ns: int | None = None
        self._ends_left = 0
        self._end_ns = 0

    # --- what the engine asks -------------------------------------------------------------------------------------

    @property
    def rate_bytes_per_s(self) -> float:
        """The pace of the data, headers included."""
        return self._rate.rate if self._rate is not None else float(self.parameters.rate or 0)

    @property
    def loss(self) -> float:
        """The worst network loss that was measured lately, in [0, 1]."""
        return max((peer.loss for peer in self.peers if peer.live), default=0.0)

    @property
    def grtt_ns(self) -> int:
        """The group round-trip time."""
        return self._round_trip.value_ns

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
        """How often each receiver reports; grows with the fleet so that the sender is never flooded."""
        return max(limits.REPORT_INTERVAL_MIN_NS, 2 * len(self.peers) * limits.SECOND_NS // limits.FEEDBACK_PER_S)

    @property
    def silence_ns(self) -> int:
        """After how long without a word a receiver has vanished."""
        return max(limits.RECEIVER_SILENCE_NS, limits.REPORTS_MISSED_MAX * self.report_interval_ns)

    @property
    def remaining_symbols(self) -> int:
        """Symbols still to send as far as is known now."""
        return sum(schedule.needed_symbols for schedule in self.schedules.values())

    def start(self, now: int) -> bool:
        """Begin by hand; returns whether there was anybody to begin with."""
        if self.state is SessionState.WAITING and self._live_count:
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
        gathered = self._gather_until_ns is None or now >= self._gather_until_ns
        for schedule in self.schedules.values():
            window = schedule.poll_window(self._window_slices(), self.sequence, self._surplus(now), rolling=gathered)
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
        due = [self._announce_ns]
        if self.state is SessionState.WAITING:
            start = self.parameters.start
            if start.max_wait_ns is not None:
                due.append(self._opened_ns + start.max_wait_ns)
            if start.quiet_ns is not None and self._live_count:
                due.append(self._last_join_ns + start.quiet_ns)
        due += [when for when in (self._status_ns, self._gather_until_ns, self._poll_ns) if when is not None]
        return min(due)

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
        if self._gather_until_ns is not None and now >= self._gather_until_ns:
            self._gather_until_ns = None
            self._advise()
        if self._status_ns is not None and now >= self._status_ns:
            self._check_silence(now)
            self._step_rate(now)
            self._step_valve(now)
            self._send_status(now)
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
        peer = self._by_id.get(message.receiver_id)
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
            joined_ns=now,
            heard_ns=now,
        )
        reason = self._refusal(peer)
        if reason:
            self._refuse(peer, reason, now)
            return
        self.peers.append(peer)
        self._live_count += 1
        self._by_id[message.receiver_id] = peer
        self._last_join_ns = now
        self._limit_rate()
        self._welcome(peer)
        late = self.state is not SessionState.WAITING
        self._events.append(Event(EventKind.LATE_JOIN if late else EventKind.JOINED, peer))
        if late:
            self._send_status(now)
        else:
            self._check_start(now)

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
            peer.host, peer.target, peer.link_rate = message.host, message.target, message.link_rate
            self._revive(peer)
            peer.report = None
            peer.done = None
            peer.target_size = message.target_size
            reason = self._refusal(peer)
            if reason:
                self._finish_peer(peer, PeerState.REFUSED, reason, now)
                self._events.append(Event(EventKind.REFUSED, peer, reason))
                self._send_refuse(peer, reason, address)
                return
            self._events.append(Event(EventKind.RETURNED, peer))
            self._limit_rate()
            if self.state is not SessionState.WAITING:
                self._send_status(now)
        peer.address = address
        self._welcome(peer)

    def _refusal(self, peer: Peer) -> str:
        """Return why a receiver cannot take part, or an empty string."""
        if 0 <= peer.target_size < self.parameters.raw_size:
            return (
                f"the target has {peer.target_size} bytes, the image needs {self.parameters.raw_size}: "
                f"use a larger target than {peer.target}"
            )
        if peer.index >= limits.RECEIVERS_MAX:
            return f"the session is full: {limits.RECEIVERS_MAX} receivers"
        return ""

    def _refuse(self, peer: Peer, reason: str, now: int) -> None:
        self._send_refuse(peer, reason, peer.address)
        known = any(
            other.receiver_id == peer.receiver_id and other.incarnation == peer.incarnation for other in self.refused
        )
        if known or len(self.refused) >= limits.RECEIVERS_MAX:
            return
        peer.state, peer.reason, peer.ended_ns = PeerState.REFUSED, reason, now
        self.refused.append(peer)
        self._events.append(Event(EventKind.REFUSED, peer, reason))

    def _send_refuse(self, peer: Peer, reason: str, address: Address) -> None:
        message = messages.Refuse(peer.receiver_id, messages.clip(reason, limits.REASON_LENGTH_MAX))
        self._transmits.append(Transmit(address, self._encode(message)))

    def _welcome(self, peer: Peer) -> None:
        message = messages.Welcome(peer.receiver_id, peer.incarnation, peer.index)
        self._transmits.append(Transmit(peer.address, self._encode(message)))

    def _limit_rate(self) -> None:
        """Never send faster than the slowest receiver's own link: what it cannot carry is lost for certain."""
        rates = [peer.link_rate for peer in self.peers if peer.live and peer.link_rate]
        if self._rate is not None and rates:
            self._rate.ceiling = min(self.parameters.rate_ceiling, float(min(rates)))
            self._rate.rate = min(self._rate.rate, self._rate.ceiling)

    def _heard(self, receiver_index: int, address: Address, now: int) -> Peer | None:
        """Return the live receiver that speaks, or count the message as stale."""
        if receiver_index >= len(self.peers):
            self.drops.stale += 1
            return None
        peer = self.peers[receiver_index]
        if peer.address != address:
            self.drops.stale += 1
            return None
        peer.heard_ns = now
        if peer.state is PeerState.VANISHED:
            self._revive(peer)
            self._events.append(Event(EventKind.RETURNED, peer))
        return peer

    def _check_silence(self, now: int) -> None:
        for peer in self.peers:
            if peer.live and now - peer.heard_ns > self.silence_ns:
                seconds = (now - peer.heard_ns) // limits.SECOND_NS
                self._finish_peer(peer, PeerState.VANISHED, f"not heard for {seconds} s", now)
                self._events.append(Event(EventKind.VANISHED, peer, peer.reason))

    def _revive(self, peer: Peer) -> None:
        self._live_count += not peer.live
        peer.state, peer.reason, peer.ended_ns = PeerState.RECEIVING, "", None

    def _finish_peer(self, peer: Peer, state: PeerState, reason: str, now: int) -> None:
        self._live_count -= peer.live
        peer.state, peer.reason, peer.ended_ns = state, reason, now
        peer.loss = peer.lasting_loss = 0.0
        if self._rate is not None:
            self._rate.forget(peer.index)
        self._limit_rate()

    # --- start and end --------------------------------------------------------------------------------------------

    def _check_start(self, now: int) -> None:
        start = self.parameters.start
        joined = self._live_count
        if joined and (
            (start.receivers and joined >= start.receivers)
            or (start.max_wait_ns is not None and now - self._opened_ns >= start.max_wait_ns)
            or (start.quiet_ns is not None and now - self._last_join_ns >= start.quiet_ns)
        ):
            self._begin(now)
        elif not joined and start.max_wait_ns is not None and now - self._opened_ns >= start.max_wait_ns:
            self._events.append(Event(EventKind.NOBODY_CAME))
            self.end(EndReason.FAILED, "no receiver joined in time", now)

    def _begin(self, now: int) -> None:
        self.state = SessionState.SENDING
        for peer in self.peers:
            peer.heard_ns = now
        self._rate_step_ns = now
        self._events.append(Event(EventKind.STARTED))
        self._announce(now)
        self._send_status(now)

    def _check_complete(self, now: int) -> None:
        if self.state is not SessionState.WAITING and self.peers and not self._live_count:
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
        schedule = self.schedules.get(message.object_id)
        deficits = None if schedule is None else messages.decode_deficits(message.items, schedule.partition.slice_count)
        if schedule is None or deficits is None or message.sequence > self.sequence:
            self.drops.malformed += 1
            return
        if self.state is SessionState.WAITING or not peer.live:
            self.drops.stale += 1
            return
        self.sent.nacks += 1
        self._nack_count += 1
        self._sample_round_trip(message.echo_us, message.hold_us, now)
        slices, counted = schedule.request(*deficits, message.sequence)
        if not len(slices):
            return
        self.state = SessionState.SENDING
        if self._live_count > 1:
            advice = self._advice[message.object_id]
            for slice_index, deficit in zip(
                slices[: limits.NACK_ITEMS_MAX].tolist(), counted[: limits.NACK_ITEMS_MAX].tolist(), strict=True
            ):
                advice[slice_index] = max(deficit, advice.get(slice_index, 0))
            if self._gather_until_ns is None:
                # Others may lack the same: wait for one round trip, then answer all of them at once (RFC 5740 §5.4).
                self._gather_until_ns = now + min(self.grtt_ns, limits.AGGREGATION_MAX_NS)

    def _advise(self) -> None:
        """Tell everybody what will be repaired, so that those who lack no more than that stay silent."""
        for object_id, advice in self._advice.items():
            if advice:
                slices = np.array(sorted(advice), np.int64)
                deficits = np.array([advice[s] for s in slices.tolist()], np.int64)
                items, _covered = messages.encode_deficits(slices, deficits)
                self._transmits.append(
                    Transmit(Destination.DATA, self._encode(messages.RepairAdvice(object_id, items)))
                )
                advice.clear()

    def _report(self, message: messages.Report, address: Address, now: int) -> None:
        peer = self._heard(message.receiver_index, address, now)
        if peer is None:
            return
        if not peer.live:
            self.drops.stale += 1
            return
        peer.report = message
        peer.state = PeerState.FINISHING if message.finishing else PeerState.RECEIVING
        self._reported = True
        self._sample_round_trip(message.echo_us, message.hold_us, now)
        loss = message.loss_ppm / 1e6
        peer.lasting_loss, peer.loss = min(loss, peer.loss), loss
        self._loss.observe(peer.lasting_loss, now)
        if self._rate is not None:
            self._rate.observe(
                peer.index,
                rate.Sample(
                    loss=message.loss_ppm / 1e6,
                    overrun=message.overrun_ppm / 1e6,
                    pool_fill=message.pool_fill_permille / 1e3,
                    drain_rate=float(message.drain_rate),
                ),
                now,
            )
            self._step_rate(now)

    def _sample_round_trip(self, echo_us: int, hold_us: int, now: int) -> None:
        round_trip_us = ((now // limits.MICROSECOND_NS) - echo_us - hold_us) & 0xFFFFFFFF
        if echo_us and round_trip_us < limits.GRTT_MAX_NS // limits.MICROSECOND_NS:
            self._round_trip.observe(round_trip_us * limits.MICROSECOND_NS, now, self.report_interval_ns)

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
            self._events.append(Event(EventKind.VERIFIED, peer))
        # Acknowledged by a POLL; several DONEs share one.
        soon = now + limits.AGGREGATION_MAX_NS
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
            window_slices=p.window_slices,
            group=p.group,
            port=p.port,
            control_port=p.control_port,
            receivers_expected=p.start.receivers,
            state=self.state,
        )
        self._transmits.append(Transmit(Destination.DISCOVERY, self._encode(message)))
        self._announced_ns = now
        self._announce_ns = now + limits.ANNOUNCE_INTERVAL_NS

    def _send_status(self, now: int) -> None:
        message = messages.Status(
            sequence=self.sequence,
            state=self.state,
            cursor=self.schedules[limits.OBJECT_IMAGE].first_pass_cursor,
            manifest_sent=not self.schedules[limits.OBJECT_MANIFEST].pending,
            pass_index=self.pass_count,
            grtt_us=self.grtt_ns // limits.MICROSECOND_NS,
            receivers=self._live_count,
            feedback_scale=self._feedback_scale,
            report_interval_ms=self.report_interval_ns // limits.MILLISECOND_NS,
            rate=int(self.rate_bytes_per_s),
        )
        self._transmits.append(Transmit(Destination.DATA, self._encode(message)))
        self._status_ns = now + self._status_interval_ns
        self._status_interval_ns = min(2 * self._status_interval_ns, limits.STATUS_INTERVAL_NS)

    def _send_poll(self, now: int) -> None:
        """Acknowledge DONEs: a cleared bit says that the sender knows."""
        for first in range(0, len(self.peers), limits.POLL_RECEIVERS_MAX):
            part = self.peers[first : first + limits.POLL_RECEIVERS_MAX]
            wanted = np.packbits([peer.state is not PeerState.VERIFIED for peer in part], bitorder="little")
            message = messages.Poll(first, len(part), wanted.tobytes())
            self._transmits.append(Transmit(Destination.DATA, self._encode(message)))
        self._poll_ns = None

    # --- planning -------------------------------------------------------------------------------------------------

    def _surplus(self, now: int) -> SurplusOf:
        whole = self.parameters.repair_symbols
        if whole is None and not self._reported:
            whole = limits.REPAIR_SYMBOLS_START
        losing = sum(peer.lasting_loss > parity.LOSS_NEGLIGIBLE for peer in self.peers if peer.live)
        loss = min(self._loss.value(now), 0.9)
        return SurplusOf(whole, max(1, losing), loss)

    def _window_slices(self) -> int:
        """D, or less where one window would take so long to send that repairs and status would wait for it."""
        datagram = self.parameters.symbol_size + wire.DATA_HEADER_SIZE
        slice_s = self.parameters.source_symbols * datagram / max(self.rate_bytes_per_s, 1.0)
        affordable = int(limits.STATUS_INTERVAL_NS / limits.SECOND_NS / slice_s)
        return max(1, min(self.parameters.window_slices, affordable))

    def _account(self, window: Window, now: int) -> Window:
        count = window.datagram_count
        self.sequence += count
        self.sent.source_symbols += window.source_count
        self.sent.repair_symbols += count - window.source_count
        self.pass_count = max(self.pass_count, self.schedules[limits.OBJECT_IMAGE].pass_index)
        if self.state is SessionState.IDLE:
            self.state = SessionState.SENDING
        self._status_interval_ns = limits.STATUS_INTERVAL_NS
        return window

    def _step_rate(self, now: int) -> None:
        # GRTT grows with the queue in a slow receiver, and that is when a decision must not be late.
        interval_ns = max(self.report_interval_ns, min(4 * self.grtt_ns, limits.CONTROL_INTERVAL_MAX_NS))
        elapsed_ns = now - self._rate_step_ns
        if self._rate is None or elapsed_ns < interval_ns:
            return
        datagram = self.parameters.symbol_size + wire.DATA_HEADER_SIZE
        sent = (self.sequence - self._rate_step_sequence) * datagram
        self._rate_step_ns, self._rate_step_sequence = now, self.sequence
        self._rate.step(now, interval_ns=interval_ns, measured_rate=sent * limits.SECOND_NS / elapsed_ns)

    def _step_valve(self, now: int) -> None:
        """Widen every backoff while more NACKs come than the sender wants to hear; narrow it again when quiet.

        Only NACKs are counted, for only they back off. Reports take the other half of what the sender hears, always;
        with them in the count, a valve that had opened in a fleet of fifty never closed again.
        """
        elapsed_ns = now - self._feedback_window_ns
        if elapsed_ns < limits.STATUS_INTERVAL_NS:
            return
        per_s = self._nack_count * limits.SECOND_NS / elapsed_ns
        if per_s > limits.FEEDBACK_PER_S / 2:
            self._feedback_scale = min(2 * self._feedback_scale, limits.FEEDBACK_SCALE_MAX)
        elif per_s < limits.FEEDBACK_PER_S / 8:
            self._feedback_scale = max(1, self._feedback_scale // 2)
        self._nack_count, self._feedback_window_ns = 0, now

    def _encode(self, message: messages.Message) -> bytes:
        return messages.encode(self.parameters.session_id, message)


@dataclasses.dataclass(frozen=True, slots=True)
class SurplusOf:
    """The surplus rule of one poll: a fixed number for whole slices where one is set, else the model's answer."""

    whole: int | None
    """Repair symbols for a slice that is sent whole; None: as the model says."""
    receivers: int
    loss: float

    def __call__(self, needed: int, whole: bool) -> int:
        """Return how many symbols to add for a slice of which somebody needs ``needed``, perhaps the whole of it."""
        if self.whole is not None and whole:
            return self.whole
        return parity.surplus(needed, self.receivers, self.loss)
