"""What the sender makes of what its receivers say: needs, advice, the round trip, the loss, the valve and the rate.

Knows measures and requests, not membership or states of the session; it sends nothing, it only has advice ready. One
object per session, fed with messages whose speaker is known. Nothing here walks the fleet: what a message changes is
counted when it comes.
"""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np
import numpy.typing as npt

from protocol import feedback, limits, messages, parity, rate
from protocol.deficits import decode_deficits
from protocol.feedback import GroupRoundTrip
from protocol.fleet import Fleet, Peer
from protocol.repair_advice import STORM_NS, Asked, UnderWay, advice
from protocol.sample import POOL_FILL_HIGH, SAME_SHARE, Sample
from protocol.schedule import Schedule, Window
from protocol.slow import SlowReceivers, Verdict

Int64Array = npt.NDArray[np.int64]

STORM_NACKS = 8
"""Receivers that ask at about the same time, and are taken for a sample of the fleet (research §1.3): all that was sent
like what they lack is then repaired for the whole fleet, by the model, before the fleet asks."""

STORM_SHARE = 0.5
"""Of what such a sample asks for by the model, if a window went out like what they lack, so much is asked for then."""

CROWD = round(limits.NACK_PER_S * STORM_NS / limits.SECOND_NS)
"""So many receivers that ask at about the same time are more than a sender wants to hear; fewer may well ask."""

KNOWN_SHARE = 0.25
KNOWN_ENOUGH = 50
"""So many receivers, or such a share of the fleet, are measured before less than the first surplus is sent."""

SENT_TOGETHER = 1 << 16
"""Bytes that leave at once: at a low rate, a batch takes many control intervals."""

WINDOWS_REMEMBERED = 512

SETTLE_NS = 300 * limits.MILLISECOND_NS
"""After which a window that nobody asked for is taken to have needed no repair: planned, sent, and backed off."""

STORM_LOSS_DATAGRAMS = parity.SETTLED_DATAGRAMS
"""What the loss told by a NACK is based on, about: it speaks of the window that it asks for."""

FIRST_WEIGHT = 500
"""Datagrams without loss that are taken to have come before a receiver's first measurement."""

LONG_INTERVAL_NS = limits.SECOND_NS
"""A receiver's loss over so long is no single bad moment."""


@dataclasses.dataclass(slots=True)
class _SentWindow:
    """A window that went out whole, while it may still be asked for."""

    object_id: int
    slices: Int64Array
    surplus: int
    epoch: int
    planned_ns: int
    last: bool
    """It carries more than the others."""
    asked: dict[int, int] = dataclasses.field(default_factory=dict)
    """Slice → largest deficit."""
    repaired: int = 0
    """The surplus that repair for the whole fleet was planned up to."""
    lacking: parity.Sample = dataclasses.field(init=False)
    """What the first that asked lack of it, receiver by receiver."""

    def __post_init__(self) -> None:
        self.lacking = parity.Sample(len(self.slices))


class SenderFeedback:
    """See the module's docstring."""

    def __init__(
        self,
        fleet: Fleet,
        schedules: dict[int, Schedule],
        control: rate.RateControl | None,
        *,
        repair_symbols: int | None,
        datagram_size: int,
        now: int,
    ) -> None:
        """Begin with nothing heard.

        Args:
            fleet: who takes part.
            schedules: what NACKs are merged into, by object.
            control: finds the rate, or None where it is fixed.
            repair_symbols: fixed proactive repair symbols per slice, or None to follow the measured loss.
            datagram_size: bytes of a data datagram.
            now: instant in ns.
        """
        self.control = control
        self.feedback_scale = 1
        self.gather_until_ns: int | None = None
        """Until when NACKs are gathered before they are answered together."""
        self.bursts = parity.Bursts()
        self._fleet = fleet
        self._schedules = schedules
        self._repair_symbols = repair_symbols
        self._datagram_size = datagram_size
        self._rate_ceiling = control.ceiling if control is not None else 0.0
        self._round_trip = GroupRoundTrip()
        self._loss = parity.FleetLoss()
        self._correction = parity.Correction()
        self._slow = SlowReceivers()
        self._starting = control is not None
        """Nobody has said yet that the first data passed, or the first after a flood."""
        self._credit_ns = now
        """When the data began, or the rate was last cut for a flood."""
        self._rate_step_ns = now
        self._sent_ns = now
        self._measured_rate = 0.0
        self._sent_below = 0
        """Data datagrams below it had left at ``_sent_ns``, and some of them not long before."""
        self._cut_sequence = 0
        """Datagrams below it went out before the rate was last cut for a flood."""
        self._rate_sequence = 0
        """Datagrams below it went out before the rate was last changed."""
        self.lowered_sequence = 0
        """Datagrams below it went out before the rate was last lowered."""
        self._nack_count = 0
        self._valve_ns = now
        self._asked = {object_id: Asked(each.partition.slice_count) for object_id, each in schedules.items()}
        self._under_way = {object_id: UnderWay(each.partition.slice_count) for object_id, each in schedules.items()}
        self._speakers: dict[int, dict[int, tuple[int, float]]] = {object_id: {} for object_id in schedules}
        """Object → receiver → ``(instant, loss)`` of its last NACK."""
        self._storm = parity.FleetLoss()
        """What those lost that asked together last, at ``_storm_rate``."""
        self._storm_rate = 0.0
        self._asked_sequence = 0
        self._windows: collections.OrderedDict[tuple[int, int], _SentWindow] = collections.OrderedDict()
        """``(object, sequence at which it ended)`` → window."""

    @property
    def grtt_ns(self) -> int:
        """The group round-trip time."""
        return self._round_trip.value_ns

    @property
    def loss(self) -> float:
        """The worst network loss among those that are waited for, in [0, 1]."""
        return self._loss.worst()

    @property
    def report_interval_ns(self) -> int:
        """How often each receiver reports; grows with the fleet so that the sender is never flooded."""
        if self.control is not None and self.control.climbing:
            return feedback.report_interval_ns(self._fleet.live_count, starting=True)
        return self._usual_interval_ns

    @property
    def _usual_interval_ns(self) -> int:
        return feedback.report_interval_ns(self._fleet.live_count, starting=self._starting)

    @property
    def tolerated(self) -> float:
        """Loss up to which no receiver limits the rate, in [0, 1]."""
        return min(1.0, self.control.tolerated) if self.control is not None else 1.0

    def flood_open(self, now: int) -> bool:
        """Whether what goes out now may be lost like what went before."""
        return self.control is not None and self.control.flood_open(now)

    def report_below(self, now: int) -> float:
        """Bytes per second: a receiver that carries less says so out of turn; 0 where nobody need.

        Where all report often enough, or the rate is fixed, nobody has to.
        """
        if self.control is None or self.report_interval_ns <= limits.REPORT_URGENT_NS:
            return 0.0
        return min(self.control.rate, SAME_SHARE * self.control.told(now))

    # DEVIATES RFC 5740 §5.5.2: no slow start: it costs a fast network more than it saves a slow one. The stream begins
    # at full pace, with no more than may be lost on the way before anybody can say so.
    def affordable(self, sequence: int, now: int) -> bool:
        """Whether more may be handed out after ``sequence`` datagrams: only so much at first, and after a flood."""
        if self._starting and now - self._credit_ns >= limits.START_WAIT_NS:
            self._starting = False
        return not self._starting or (sequence - self._cut_sequence) * self._datagram_size < limits.START_CREDIT

    def gathered(self, now: int) -> bool:
        """Whether repairs may go out: nobody's NACKs are being waited for."""
        return self.gather_until_ns is None or now >= self.gather_until_ns

    # --- what receivers say ---------------------------------------------------------------------------------------

    def take_nack(self, peer: Peer, message: messages.Nack, now: int) -> bool | None:
        """Merge a receiver's request into the needs.

        Returns:
            Whether anything in it counted; None if the message cannot be right.
        """
        schedule = self._schedules.get(message.object_id)
        deficits = None if schedule is None else decode_deficits(message.items, schedule.partition.slice_count)
        if schedule is None or deficits is None:
            return None
        self._nack_count += 1
        self._sample_round_trip(message.echo_us, message.hold_us, now)
        self._observe_burst(message.burst, message.loss_ppm / 1e6, now)
        if peer.slow:
            return False
        slices, counted = schedule.request(*deficits, message.sequence)
        if self._fleet.live_count > 1 and len(slices) < len(deficits[0]):
            self._note_under_way(message, *deficits, now)
        if not len(slices):
            return False
        # What is lacking whole was not there, or had no memory for it: no surplus would have helped.
        partial = counted < schedule.partition.symbols_of(slices)
        ends = schedule.ends(slices)
        for end in sorted(set(ends[partial].tolist())):
            window = self._windows.get((message.object_id, end))
            if window is not None:
                chosen = partial & (ends == end)
                window.lacking.add(peer.index, np.searchsorted(window.slices, slices[chosen]), counted[chosen])
                for slice_index, deficit in zip(slices[chosen].tolist(), counted[chosen].tolist(), strict=True):
                    window.asked[slice_index] = max(deficit, window.asked.get(slice_index, 0))
        if self._fleet.live_count <= 1:
            schedule.release()
        else:
            self._asked[message.object_id].add(slices, counted)
            if partial.any():
                self._speakers[message.object_id][peer.index] = now, message.loss_ppm / 1e6
                self._asked_sequence = max(self._asked_sequence, message.sequence)
            if self.gather_until_ns is None:
                # Others may lack the same: wait for one round trip, then answer all of them at once (RFC 5740 §5.4).
                self.gather_until_ns = now + min(self.grtt_ns, limits.AGGREGATION_MAX_NS)
            if self._repair_symbols is None and len(self._speakers[message.object_id]) >= STORM_NACKS:
                # A sample of the fleet is all that is needed: the sooner it hears the answer, the fewer ask.
                self.gather_until_ns = now
        return True

    def _note_under_way(self, message: messages.Nack, slices: Int64Array, deficits: Int64Array, now: int) -> None:
        """Note what was asked for and is laid out already: many who do that had no word of it, nor have the others."""
        under_way = self._schedules[message.object_id].ends(slices) > message.sequence
        item = self._under_way[message.object_id]
        item.add(slices[under_way], deficits[under_way], now)
        if item.many:
            self.gather_until_ns = now

    def take_report(self, peer: Peer, message: messages.Report, sequence: int, now: int) -> None:
        """Take in how a live receiver fares; ``sequence`` is the number of the next data datagram."""
        before, peer.report = peer.report, message
        self._sample_round_trip(message.echo_us, message.hold_us, now)
        self._observe_burst(message.burst, message.loss_ppm / 1e6, now)
        loss = message.loss_ppm / 1e6
        heard = message.symbols_received + message.lost_network
        earlier = 0 if before is None else before.symbols_received + before.lost_network
        # One bad interval is a queue or a pause, and not what repair symbols are for; a long one is no single moment,
        # and the first one is all that is known.
        believed = peer.lasting_loss is None or now - peer.reported_ns >= LONG_INTERVAL_NS
        if heard > earlier:
            self._note_loss(peer, loss if believed else min(loss, peer.loss), heard - earlier)
        arrival_rate, since_ns = math.inf, self._credit_ns if before is None else peer.reported_ns
        # Of a small fleet, reports during a climb speak of a shorter time than usual.
        usual_ns = self._usual_interval_ns
        share = min(1.0, (now - since_ns) / usual_ns) if self.report_interval_ns < usual_ns else 1.0
        if now - since_ns >= limits.START_REPORT_INTERVAL_MIN_NS // 2:
            arrived = max(0, message.symbols_received - (0 if before is None else before.symbols_received))
            arrival_rate = arrived * self._datagram_size * limits.SECOND_NS / (now - since_ns)
        # A receiver that had no time reports late, and of the flood that is over: it cannot say what the cut ended. Nor
        # is one and the same loss told twice, out of turn and in turn, a loss that lasts. How full it is, it does know.
        begun, ended = min(message.since or peer.reported_sequence, sequence), min(message.sequence, sequence)
        outdated = begun < max(self._cut_sequence, peer.reported_sequence)
        if not outdated and 4 * (ended - self._cut_sequence) * self._datagram_size >= limits.START_CREDIT:
            self._starting = False
        full = _tells_full(message)
        # What a socket dropped that was not read shows as a gap when it is read again. While it is not read, drops are
        # all that a receiver can tell whose disk has not done anything yet.
        was_full = not full and before is not None and _tells_full(before)
        peer.loss, peer.reported_ns = loss, now
        if begun >= peer.reported_sequence:
            peer.reported_sequence = ended
        if self.control is None or peer.slow:
            return
        if outdated and not full:
            self.control.drained(peer.index, float(message.drain_rate))
        else:
            self.control.observe(
                peer.index,
                Sample(
                    loss=0.0 if outdated or was_full else loss,
                    overrun=0.0 if was_full else message.overrun_ppm / 1e6,
                    pool_fill=message.pool_fill_permille / 1e3,
                    drain_rate=float(message.drain_rate),
                    datagrams=max(0, ended - begun),
                    arrival_rate=arrival_rate,
                    current=begun >= self._rate_sequence,
                    share=share,
                ),
                now,
            )

    def _observe_burst(self, length: int, loss: float, now: int) -> None:
        # What a full queue drops comes in runs, too, and a lower rate ends it.
        if loss <= self.tolerated:
            self.bursts.observe(length, now)

    def _note_loss(self, peer: Peer, loss: float, datagrams: int) -> None:
        before = peer.lasting_loss
        # One datagram lost of the first three is no loss of a third.
        weight = FIRST_WEIGHT if before is None else peer.loss_weight
        known = 0.0 if before is None else before
        # More than the rate control puts up with is a full queue, until its experiment says otherwise: a lower rate
        # mends that, and repair symbols would make it worse.
        loss = min(loss, self.tolerated)
        peer.lasting_loss = (known * weight + loss * datagrams) / (weight + datagrams)
        peer.loss_weight = min(weight + datagrams, parity.SETTLED_DATAGRAMS)
        if not peer.slow:
            self._loss.move(before, peer.lasting_loss)

    def _sample_round_trip(self, echo_us: int, hold_us: int, now: int) -> None:
        round_trip_us = ((now // limits.MICROSECOND_NS) - echo_us - hold_us) & 0xFFFFFFFF
        if echo_us and round_trip_us < limits.GRTT_MAX_NS // limits.MICROSECOND_NS:
            interval_ns = min(self.report_interval_ns, limits.SECOND_NS)
            self._round_trip.observe(round_trip_us * limits.MICROSECOND_NS, now, interval_ns)

    # --- what follows from it -------------------------------------------------------------------------------------

    def take_advice(self, sequence: int, sent_below: int, window_slices: int, now: int) -> list[messages.RepairAdvice]:
        """End the gathering: return what is to be told to everybody, so that those who lack no more stay silent.

        Args:
            sequence: number of the next data datagram.
            sent_below: datagrams below it have left.
            window_slices: most slices of the next window.
            now: instant in ns.
        """
        self.gather_until_ns = None
        surplus = self.surplus(window_slices, now)
        told = []
        for object_id, asked in self._asked.items():
            speakers = self._speakers[object_id]
            for index in [index for index, (heard_ns, _loss) in speakers.items() if now - heard_ns > STORM_NS]:
                del speakers[index]
            if len(speakers) >= STORM_NACKS and self._repair_symbols is None:
                self._take_storm([(index, loss) for index, (_heard_ns, loss) in speakers.items()])
                self._repair_for_all(object_id, asked, now)
                speakers.clear()
            self._schedules[object_id].release()
            sequence = self._schedules[object_id].rolling_end(sequence, surplus)
            slices, deficits = asked.take()
            # What went out while NACKs were gathered is on its way or has arrived; whoever still lacks some then must
            # not wait for more of it.
            due = self._schedules[object_id].needed(slices)
            told += advice(object_id, slices[due], deficits[due], sequence)
            told += self._under_way[object_id].take_advice(self._schedules[object_id], object_id, sent_below)
        return told

    def _take_storm(self, speakers: list[tuple[int, float]]) -> None:
        """Note what those that ask lose, ``(receiver, loss)``: most of the fleet will, at this rate."""
        self._storm = parity.FleetLoss()
        self._storm_rate = 0.0 if self.control is None else self.control.rate
        for index, loss in speakers:
            self._note_loss(self._fleet.peers[index], loss, STORM_LOSS_DATAGRAMS)
            self._storm.move(None, min(loss, rate.FLOODED_LOSS))

    def _repair_for_all(self, object_id: int, asked: Asked, now: int) -> None:
        """Repair every window that went out with too little, for the whole fleet, before the rest of it asks."""
        schedule = self._schedules[object_id]
        k = schedule.partition.source_symbols
        for (of_object, end), window in self._windows.items():
            if of_object != object_id or end > self._asked_sequence:
                continue
            if len(window.asked) < STORM_SHARE * self._storm.asked_share(k, window.surplus) * len(window.slices):
                continue  # it went out before the storm
            # The model answers a window once; a later storm may lack more of it than the first one did.
            whole = 0 if window.repaired else self._whole_surplus(k, len(window.slices), now)
            most = window.lacking.most(self._receivers) if self._receivers >= CROWD else 0
            if 0 < most <= rate.FLOODED_LOSS * k:  # what a flood took, all will ask for, and it went on for longer
                whole = max(whole, min(window.surplus + most, limits.REPAIR_SYMBOLS_MAX))
            if whole > max(window.surplus, window.repaired):
                window.repaired = whole
                # What was repaired meanwhile went out for those that had asked by then. A need of all of a slice would
                # wait for the next pass.
                enough = np.minimum(whole, np.maximum(schedule.partition.symbols_of(window.slices) - 1, 1))
                lacking = np.minimum(whole - schedule.sent_beyond(window.slices), enough)
                slices, lacking = window.slices[lacking > 0], lacking[lacking > 0]
                needs = np.array([self._need_for(count, whole) for count in lacking.tolist()], np.int64)
                schedule.request(slices, needs, limits.SEQUENCE_MAX)
                asked.add(slices, lacking)

    def _need_for(self, count: int, whole: int) -> int:
        """Return the need that is answered with about ``count`` symbols, its own surplus included."""
        k, need = self._schedules[limits.OBJECT_IMAGE].partition.source_symbols, count
        while need > 1 and need - 1 + self._loss.repair_surplus(need - 1, k, whole, self._receivers) >= count:
            need -= 1
        return need

    def surplus(self, window_slices: int, now: int, *, last: bool = False) -> SurplusOf:
        """Return how many repair symbols each slice of the next window gets.

        Args:
            window_slices: how many slices it has.
            now: instant in ns.
            last: hardly anything is to be sent after it.
        """
        k = self._schedules[limits.OBJECT_IMAGE].partition.source_symbols
        if self._repair_symbols is not None:
            usual = whole = self._repair_symbols
        else:
            usual = self._whole_surplus(k, window_slices, now)
            if self._loss.known < min(KNOWN_SHARE * self._receivers, KNOWN_ENOUGH):
                usual = max(usual, limits.REPAIR_SYMBOLS_START)
            whole = max(usual, self._whole_surplus(k, window_slices, now, parity.LAST_NACK_PROBABILITY) if last else 0)
        return SurplusOf(whole, usual, k, self._loss, self._receivers)

    @property
    def _receivers(self) -> int:
        return max(1, self._fleet.live_count - self._fleet.slow_count)

    def _whole_surplus(self, symbols: int, window_slices: int, now: int, most: float = parity.NACK_PROBABILITY) -> int:
        modelled = max(0, self._loss.surplus(symbols, self._receivers, most) + self._correction.symbols)
        # Loss beyond what is tolerated is a full queue, or else the link's own. While nobody knows, and the rate stays
        # what it was, what all will ask for may as well go out before they do; not into a flood.
        same_rate = self.control is not None and self.control.rate == self._storm_rate
        if same_rate and not self.flood_open(now) and self._storm.worst() > self.tolerated:
            modelled = max(modelled, self._storm.surplus(symbols, self._receivers))
        return min(max(modelled, self.bursts.symbols(window_slices, now)), limits.REPAIR_SYMBOLS_MAX)

    def window_planned(self, window: Window, now: int, *, last: bool) -> None:
        """Remember a window, to learn later whether its surplus was right; of one that is ``last``, it is another."""
        self._settle(now)
        symbols = self._schedules[window.object_id].partition.symbols_of(window.slices)
        if window.repair_pass or self._repair_symbols is not None:
            return
        key = window.object_id, window.first_sequence + window.datagram_count
        surplus = int((window.counts - symbols).min())
        self._windows[key] = _SentWindow(window.object_id, window.slices, surplus, self._correction.epoch, now, last)
        if len(self._windows) > WINDOWS_REMEMBERED:
            self._windows.popitem(last=False)

    def _settle(self, now: int) -> None:
        """Learn from the windows that nobody will ask for any more."""
        settle_ns = SETTLE_NS + 2 * limits.BACKOFF_FACTOR * self.grtt_ns * self.feedback_scale
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if now - window.planned_ns < settle_ns:
                return
            del self._windows[key]
            current = self._whole_surplus(
                self._schedules[window.object_id].partition.source_symbols, len(window.slices), now
            )
            # A window that went out before the loss was known says nothing about the model.
            if self._loss.known and not window.last and abs(window.surplus - current) <= 1:
                self._correction.observe(
                    window.epoch, len(window.slices), len(window.asked), sum(window.asked.values()), window.surplus
                )

    # --- the rate -------------------------------------------------------------------------------------------------

    def limit_rate(self) -> None:
        """Never send faster than the slowest receiver's own link: what it cannot carry is lost for certain."""
        if self.control is not None:
            slowest = self._fleet.slowest_link
            self.control.ceiling = min(self._rate_ceiling, float(slowest)) if slowest else self._rate_ceiling
            self.control.rate = min(self.control.rate, self.control.ceiling)

    def forget(self, peer: Peer) -> None:
        """A receiver left: it limits nobody any more."""
        if self.control is not None:
            self.control.forget(peer.index)
        self._slow.forget(peer.index)
        if not peer.slow:
            self._loss.move(peer.lasting_loss, None)
        peer.lasting_loss, peer.loss_weight = None, 0
        self.limit_rate()

    def set_slow(self, peer: Peer, slow: bool) -> None:
        """Go without a receiver, or with it again."""
        if peer.slow is slow:
            return
        if slow:
            self._loss.move(peer.lasting_loss, None)
            if self.control is not None:
                self.control.forget(peer.index)
        else:
            self._loss.move(None, peer.lasting_loss)
        self._fleet.set_slow(peer, slow)
        self.limit_rate()

    def restart_rate(self, slow: list[Peer] | None = None) -> None:
        """Find the rate anew: for the rest of the fleet, or for those that were left behind, from what they did."""
        if self.control is None:
            return
        drained = [peer.report.drain_rate for peer in slow or () if peer.report is not None and peer.report.drain_rate]
        self.control.restart(float(min(drained)) if drained else self.control.rate)

    def begin_rate(self, now: int) -> None:
        """The data begins: the first control interval does, too."""
        self._credit_ns = self._rate_step_ns = self._sent_ns = now

    def step_rate(self, sequence: int, sent_below: int, now: int) -> Verdict:
        """Decide about the rate, if a control interval has passed; returns whom the session goes without.

        Args:
            sequence: data datagrams below it were handed out.
            sent_below: those below it have left.
            now: instant in ns.
        """
        # GRTT grows with the queue in a slow receiver, and that is when a decision must not be late.
        interval_ns = max(
            min(self._usual_interval_ns, limits.CONTROL_INTERVAL_MAX_NS),
            min(4 * self.grtt_ns, limits.CONTROL_INTERVAL_MAX_NS),
        )
        if self.control is None:
            return Verdict()
        if self.control.flooded():
            wait_ns = 1
        elif self.control.answered(self._fleet.live_count - self._fleet.slow_count) and self._is_used(sent_below, now):
            wait_ns = limits.START_REPORT_INTERVAL_MIN_NS // 2
        else:
            wait_ns = interval_ns
        if now - self._rate_step_ns < wait_ns:
            return Verdict()
        self._rate_step_ns = now
        sent = (sent_below - self._sent_below) * self._datagram_size
        since_ns = now - self._sent_ns
        if sent > 0:
            self._measured_rate = sent * limits.SECOND_NS / since_ns
            self._sent_below, self._sent_ns = sent_below, now
        elif sequence <= sent_below or self.control.rate * since_ns > SENT_TOGETHER * limits.SECOND_NS:
            self._measured_rate = 0.0
        floods, rate_before = self.control.flood_count, self.control.rate
        self.control.step(now, interval_ns=interval_ns, measured_rate=self._measured_rate)
        if self.control.rate != rate_before:
            self._rate_sequence = sent_below
        if self.control.rate < rate_before:
            self.lowered_sequence = sent_below
        if self.control.flood_count != floods:
            self._cut_sequence = sent_below
            self._credit_ns, self._starting = now, True
        return self._slow.step(
            self.control.limiting,
            self.control.rate,
            self.control.ceiling,
            receivers=self._fleet.live_count,
            left=self._fleet.slow_count,
            now=now,
        )

    def _is_used(self, sent_below: int, now: int) -> bool:
        """Whether the rate has been used since the last step, of which it is otherwise too soon to tell."""
        assert self.control is not None
        sent = (sent_below - self._sent_below) * self._datagram_size * limits.SECOND_NS
        return sent > rate.USED_SHARE * self.control.rate * (now - self._sent_ns)

    def step_valve(self, now: int) -> None:
        """Widen every backoff while more NACKs come than the sender wants to hear; narrow it again when quiet.

        Only NACKs are counted, for only they back off. Reports have their own share of what the sender hears; with them
        in the count, a valve that had opened in a fleet of fifty never closed again.
        """
        elapsed_ns = now - self._valve_ns
        if elapsed_ns < limits.STATUS_INTERVAL_NS:
            return
        per_s = self._nack_count * limits.SECOND_NS / elapsed_ns
        if per_s > limits.NACK_PER_S:
            self.feedback_scale = min(2 * self.feedback_scale, limits.FEEDBACK_SCALE_MAX)
        elif per_s < limits.NACK_PER_S / 4:
            self.feedback_scale = max(1, self.feedback_scale // 2)
        self._nack_count, self._valve_ns = 0, now


def _tells_full(report: messages.Report) -> bool:
    """Return whether a receiver's pool or socket is so full that its own pace limits it."""
    return report.pool_fill_permille / 1e3 > POOL_FILL_HIGH


@dataclasses.dataclass(frozen=True, slots=True)
class SurplusOf:
    """The surplus rule of one poll: so many for slices that go out whole, the model's answer for repairs."""

    whole: int
    usual: int
    """What slices that are repaired went out with, but for the last ones."""
    symbols: int
    """k."""
    loss: parity.FleetLoss
    receivers: int

    def __call__(self, needed: int, whole: bool) -> int:
        """Return how many symbols to add for a slice of which somebody needs ``needed``, perhaps the whole of it."""
        if whole:
            return self.whole
        return self.loss.repair_surplus(needed, self.symbols, self.usual, self.receivers)
