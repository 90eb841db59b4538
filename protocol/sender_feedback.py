"""What the sender makes of what its receivers say: needs, advice, the round trip, the loss, the valve and the rate.

Knows measures and requests, not membership or states of the session; it sends nothing, it only has advice ready. One
object per session, fed with messages whose speaker is known.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from protocol import limits, messages, parity, rate
from protocol.feedback import GroupRoundTrip
from protocol.fleet import Fleet, Peer
from protocol.schedule import Schedule


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
        self._fleet = fleet
        self._schedules = schedules
        self._repair_symbols = repair_symbols
        self._datagram_size = datagram_size
        self._rate_ceiling = control.ceiling if control is not None else 0.0
        self._round_trip = GroupRoundTrip()
        self._loss = parity.LossEstimate()
        self._reported = False
        self._rate_step_ns = now
        self._rate_step_sequence = 0
        self._nack_count = 0
        self._valve_ns = now
        self._advice: dict[int, dict[int, int]] = {object_id: {} for object_id in schedules}

    @property
    def grtt_ns(self) -> int:
        """The group round-trip time."""
        return self._round_trip.value_ns

    @property
    def report_interval_ns(self) -> int:
        """How often each receiver reports; grows with the fleet so that the sender is never flooded."""
        return max(limits.REPORT_INTERVAL_MIN_NS, 2 * len(self._fleet) * limits.SECOND_NS // limits.FEEDBACK_PER_S)

    def gathered(self, now: int) -> bool:
        """Whether repairs may go out: nobody's NACKs are being waited for."""
        return self.gather_until_ns is None or now >= self.gather_until_ns

    # --- what receivers say ---------------------------------------------------------------------------------------

    def take_nack(self, message: messages.Nack, now: int) -> bool | None:
        """Merge a receiver's request into the needs.

        Returns:
            Whether anything in it counted; None if the message cannot be right.
        """
        schedule = self._schedules.get(message.object_id)
        deficits = None if schedule is None else messages.decode_deficits(message.items, schedule.partition.slice_count)
        if schedule is None or deficits is None:
            return None
        self._nack_count += 1
        self._sample_round_trip(message.echo_us, message.hold_us, now)
        slices, counted = schedule.request(*deficits, message.sequence)
        if not len(slices):
            return False
        if self._fleet.live_count > 1:
            advice = self._advice[message.object_id]
            for slice_index, deficit in zip(
                slices[: limits.NACK_ITEMS_MAX].tolist(), counted[: limits.NACK_ITEMS_MAX].tolist(), strict=True
            ):
                advice[slice_index] = max(deficit, advice.get(slice_index, 0))
            if self.gather_until_ns is None:
                # Others may lack the same: wait for one round trip, then answer all of them at once (RFC 5740 §5.4).
                self.gather_until_ns = now + min(self.grtt_ns, limits.AGGREGATION_MAX_NS)
        return True

    def take_report(self, peer: Peer, message: messages.Report, sequence: int, now: int) -> None:
        """Take in how a live receiver fares; ``sequence`` is the number of the next data datagram."""
        peer.report = message
        self._reported = True
        self._sample_round_trip(message.echo_us, message.hold_us, now)
        loss = message.loss_ppm / 1e6
        peer.lasting_loss, peer.loss = min(loss, peer.loss), loss
        self._loss.observe(peer.lasting_loss, now)
        if self.control is not None:
            self.control.observe(
                peer.index,
                rate.Sample(
                    loss=message.loss_ppm / 1e6,
                    overrun=message.overrun_ppm / 1e6,
                    pool_fill=message.pool_fill_permille / 1e3,
                    drain_rate=float(message.drain_rate),
                ),
                now,
            )
            self.step_rate(sequence, now)

    def _sample_round_trip(self, echo_us: int, hold_us: int, now: int) -> None:
        round_trip_us = ((now // limits.MICROSECOND_NS) - echo_us - hold_us) & 0xFFFFFFFF
        if echo_us and round_trip_us < limits.GRTT_MAX_NS // limits.MICROSECOND_NS:
            self._round_trip.observe(round_trip_us * limits.MICROSECOND_NS, now, self.report_interval_ns)

    # --- what follows from it -------------------------------------------------------------------------------------

    def take_advice(self) -> list[messages.RepairAdvice]:
        """End the gathering: return what is to be told to everybody, so that those who lack no more stay silent."""
        self.gather_until_ns = None
        told = []
        for object_id, advice in self._advice.items():
            if advice:
                slices = np.array(sorted(advice), np.int64)
                deficits = np.array([advice[s] for s in slices.tolist()], np.int64)
                items, _covered = messages.encode_deficits(slices, deficits)
                told.append(messages.RepairAdvice(object_id, items))
                advice.clear()
        return told

    def surplus(self, now: int) -> SurplusOf:
        """Return how many repair symbols each slice of the next window gets."""
        whole = self._repair_symbols
        if whole is None and not self._reported:
            whole = limits.REPAIR_SYMBOLS_START
        losing = sum(peer.lasting_loss > parity.LOSS_NEGLIGIBLE for peer in self._fleet.peers if peer.live)
        loss = min(self._loss.value(now), 0.9)
        return SurplusOf(whole, max(1, losing), loss)

    def limit_rate(self) -> None:
        """Never send faster than the slowest receiver's own link: what it cannot carry is lost for certain."""
        rates = [peer.link_rate for peer in self._fleet.peers if peer.live and peer.link_rate]
        if self.control is not None and rates:
            self.control.ceiling = min(self._rate_ceiling, float(min(rates)))
            self.control.rate = min(self.control.rate, self.control.ceiling)

    def forget(self, peer: Peer) -> None:
        """A receiver left: it limits nobody any more."""
        if self.control is not None:
            self.control.forget(peer.index)
        self.limit_rate()

    def begin_rate(self, now: int) -> None:
        """The data begins: the first control interval does, too."""
        self._rate_step_ns = now

    def step_rate(self, sequence: int, now: int) -> None:
        """Decide about the rate, if a control interval has passed."""
        # GRTT grows with the queue in a slow receiver, and that is when a decision must not be late.
        interval_ns = max(self.report_interval_ns, min(4 * self.grtt_ns, limits.CONTROL_INTERVAL_MAX_NS))
        elapsed_ns = now - self._rate_step_ns
        if self.control is None or elapsed_ns < interval_ns:
            return
        sent = (sequence - self._rate_step_sequence) * self._datagram_size
        self._rate_step_ns, self._rate_step_sequence = now, sequence
        self.control.step(now, interval_ns=interval_ns, measured_rate=sent * limits.SECOND_NS / elapsed_ns)

    def step_valve(self, now: int) -> None:
        """Widen every backoff while more NACKs come than the sender wants to hear; narrow it again when quiet.

        Only NACKs are counted, for only they back off. Reports take the other half of what the sender hears, always;
        with them in the count, a valve that had opened in a fleet of fifty never closed again.
        """
        elapsed_ns = now - self._valve_ns
        if elapsed_ns < limits.STATUS_INTERVAL_NS:
            return
        per_s = self._nack_count * limits.SECOND_NS / elapsed_ns
        if per_s > limits.FEEDBACK_PER_S / 2:
            self.feedback_scale = min(2 * self.feedback_scale, limits.FEEDBACK_SCALE_MAX)
        elif per_s < limits.FEEDBACK_PER_S / 8:
            self.feedback_scale = max(1, self.feedback_scale // 2)
        self._nack_count, self._valve_ns = 0, now


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
