"""What a receiver says of what comes, and when: requests for what is lacking, reports, and DONE.

Knows measures, requests and instants, not membership or states of the session; it sends nothing, it hands over what is
due to be said. It reads the reception, and notes there what was asked for. Invariants: a slice is asked for only after
its window has passed; nothing that is done is ever asked for.
"""

from __future__ import annotations

import dataclasses
import enum
import random

import numpy as np
import numpy.typing as npt

from protocol import feedback, limits, messages
from protocol.deficits import decode_deficits, encode_deficits
from protocol.receiver_object import Int64Array, ReceiverObject
from protocol.reception import Reception
from protocol.report_interval import Measured, ReportInterval
from protocol.sample import TELLING_LOST, Sample

_NONE: Int64Array = np.empty(0, np.int64)


class Timer(enum.IntEnum):
    """What may be due; of what is due together, the first goes first."""

    SCAN = enum.auto()
    """Look for what is lacking."""
    NACK = enum.auto()
    """The backoff ends."""
    COPY = enum.auto()
    """Say a NACK once more."""
    WATCH = enum.auto()
    """Look for what limits the rate."""
    URGENT = enum.auto()
    """Report that out of turn."""
    REPORT = enum.auto()
    DONE = enum.auto()


class ReceiverFeedback:
    """See the module's docstring."""

    def __init__(self, announce: messages.Announce, reception: Reception, rng: random.Random, now: int) -> None:
        """Begin with nothing to say; ``rng`` is the source of every jitter and backoff."""
        self.complete = False
        """Every chunk is written: nothing is asked for any more."""
        self._reception = reception
        self._rng = rng
        self._manifest_digest = announce.manifest_digest
        self._receiver_index: int | None = None
        self._due: dict[Timer, int] = {}
        """When each timer that runs goes off."""
        self._echo_us = 0
        self._echo_ns = now
        self._grtt_ns = limits.GRTT_START_NS
        self._queue_delay = feedback.QueueDelay()
        self._receivers = 1
        self._feedback_scale = 1
        self._advice: messages.FeedbackAdvice | None = None
        """How the sender wants to be spoken to; nothing is asked for before it is known."""
        self._report_interval_ns = announce.report_interval_ms * limits.MILLISECOND_NS
        self._backed_off: dict[int, Int64Array] = {}
        """Object → slices that the NACK is about that is sent when the backoff ends."""
        self._copies: dict[int, Int64Array] = {}
        """Object → slices that are asked for once more."""
        self._deferred_until_ns = 0
        self._interval = ReportInterval(now)
        self._watch = ReportInterval(now)
        """Looks for what limits the rate more often than this receiver reports."""
        self._urgent: tuple[float, Measured] | None = None
        """``(bytes per second, what was measured)``: the limit that is to be told."""
        self._limiting = False
        """The last look found a limit, and it was told."""
        self._loss_ppm = 0
        self._data_came = False
        self._done_repeats = 0

    def next_timeout(self) -> int | None:
        """Return when ``handle_timeout`` wants to be called, or None while no timer runs."""
        return min(self._due.values(), default=None)

    def handle_timeout(self, now: int) -> list[messages.Message]:
        """Do what is due, and return what is to be said."""
        said: list[messages.Message] = []
        for timer in Timer:
            if self._due.get(timer, now + 1) > now:
                continue
            del self._due[timer]
            match timer:
                case Timer.SCAN:
                    self.scan(now)
                case Timer.NACK:
                    said += self._nacks(now)
                case Timer.COPY:
                    said += self._nack_copies(now)
                case Timer.WATCH:
                    self._look(now)
                case Timer.URGENT:
                    said.append(self._urgent_report(now))
                case Timer.REPORT:
                    said.append(self._regular_report(now))
                case Timer.DONE:
                    said.append(self._done(now))
        return said

    # --- what the session tells -----------------------------------------------------------------------------------

    def take_announce(self, message: messages.Announce) -> None:
        """Report as often as is announced, before there is advice."""
        if self._advice is None:
            self._report_interval_ns = message.report_interval_ms * limits.MILLISECOND_NS

    def welcome(self, receiver_index: int, join_spread_ns: int, now: int) -> None:
        """The sender took this receiver in, or says so again: from now on it reports and asks."""
        if self._receiver_index is None:
            # A small fleet may all say at once that it hears the sender; a large one takes turns from the beginning.
            interval_ns = self._report_interval_ns
            spread_ns = interval_ns if interval_ns > limits.SECOND_NS else 4 * join_spread_ns
            self._due[Timer.REPORT] = now + self._rng.randrange(spread_ns + 1)
            self._due[Timer.SCAN] = now
        self._receiver_index = receiver_index

    def heard(self, sent_us: int, now: int) -> None:
        """Something came that tells when it was sent."""
        if sent_us:
            self._echo_us, self._echo_ns = sent_us, now
            if not self._waited:
                self._queue_delay.observe(sent_us, now)

    def data_came(self, sent_us: int, now: int) -> None:
        """Symbols came: look soon whether some are lacking."""
        self.heard(sent_us, now)
        if not self._data_came:
            self._data_came = True
            self._interval.begin(now)
            self._watch.begin(now)
        if Timer.SCAN not in self._due and self._receiver_index is not None:
            self._due[Timer.SCAN] = now + limits.SCAN_INTERVAL_NS

    def defer(self, wait_ns: int, now: int) -> None:
        """Ask for nothing for so long."""
        self._deferred_until_ns = now + wait_ns
        self._due.pop(Timer.NACK, None)
        self._forget_copies()

    def confirm(self, now: int) -> None:
        """The target is complete and durable: from now on only DONE is said, until nobody asks any more."""
        self._due.clear()
        # A fleet that ends together spreads its DONEs over the time the sender needs to hear them.
        self._due[Timer.DONE] = now + self._rng.randrange(feedback.join_spread_ns(self._receivers) + 1)

    @property
    def sending_rate(self) -> float:
        """See ``ReceiverSession``."""
        told = 0 if self._advice is None else self._advice.rate
        return float(told or limits.RATE_CEILING_BYTES_PER_S)

    # --- what the sender advises ----------------------------------------------------------------------------------

    def take_feedback_advice(self, message: messages.FeedbackAdvice, now: int) -> None:
        """Speak as the sender wants it from now on, what was to be said already included."""
        first, self._advice = self._advice is None, message
        self._grtt_ns = max(message.grtt_us * limits.MICROSECOND_NS, limits.GRTT_MIN_NS)
        self._receivers = max(1, message.receivers)
        if Timer.NACK in self._due and message.feedback_scale < self._feedback_scale:
            # The storm is over in which this backoff was drawn.
            left_ns = self._due[Timer.NACK] - now
            self._due[Timer.NACK] = now + left_ns * message.feedback_scale // self._feedback_scale
        self._feedback_scale = message.feedback_scale
        before_ns, interval_ns = self._report_interval_ns, message.report_interval_ms * limits.MILLISECOND_NS
        self._report_interval_ns = interval_ns
        grown = 2 * before_ns < interval_ns > limits.REPORT_URGENT_NS
        if Timer.REPORT in self._due and (grown or self._due[Timer.REPORT] > now + interval_ns):
            # At random, because the whole fleet hears the same advice; and anew if a large fleet has doubled.
            self._due[Timer.REPORT] = now + self._rng.randrange(interval_ns + 1)
        self._watch_limit(message, now)
        if first:
            self.scan(now)

    def take_repair_advice(self, message: messages.RepairAdvice, now: int) -> bool:
        """Stay silent about slices of which the sender is about to send as much as is missing here (suppression).

        Returns whether the message can be right.
        """
        item = self._reception.objects.get(message.object_id)
        advised = None if item is None else decode_deficits(message.items, item.partition.slice_count)
        if item is None or advised is None:
            return False
        if self.complete:
            return True
        slices, repairs = advised
        lacking = item.assembly.deficits_of(slices)
        covered = slices[(lacking > 0) & (lacking <= repairs)]
        item.hold(covered, now, message.sequence)
        if item.object_id in self._copies:
            copies = self._copies[item.object_id]
            self._copies[item.object_id] = copies[~_among(copies, covered)]
        return True

    # --- asking ---------------------------------------------------------------------------------------------------

    @property
    def _round_trip_ns(self) -> int:
        """How long a word of the group takes to be heard, and to be answered.

        A queue that has just filled is in no advice yet, for that stands in it.
        """
        return max(self._grtt_ns, self._queue_delay.value_ns)

    def _hold_off_ns(self) -> int:
        """How long an unanswered request is left alone (RFC 5740 §5.3: (K + 2) * GRTT)."""
        hold_ns = (limits.BACKOFF_FACTOR + 2) * self._round_trip_ns * self._feedback_scale
        return min(hold_ns, limits.HOLD_OFF_MAX_NS)

    # DEVIATES RFC 5740 §5.3: a NACK cycle begins when a window has passed, not at an object or block boundary, and it
    # asks for everything that is open, because windows interleave many slices.
    def scan(self, now: int) -> None:
        """Look for slices whose window has passed and that still lack something; begin the backoff if there are any."""
        self._due.pop(Timer.SCAN, None)
        if self._receiver_index is None or self._advice is None or self.complete:
            return
        asked = self._asked_objects()
        lacking = sum(item.assembly.missing_count for item in asked)
        if lacking:
            self._due[Timer.SCAN] = now + limits.SCAN_INTERVAL_NS
        if Timer.NACK in self._due or not lacking or now < self._deferred_until_ns:
            return
        closed = self._reception.closed_sequence
        lacking_now = {item.object_id: item.open_deficits(closed, self._hold_off_ns(), now)[0] for item in asked}
        if any(map(len, lacking_now.values())):
            self._back_off(lacking_now, now)

    def _back_off(self, lacking: dict[int, Int64Array], now: int) -> None:
        """Begin to wait for somebody else to ask for these slices, by object."""
        delay_ns = feedback.backoff_ns(self._rng, self._round_trip_ns, self._receivers, self._feedback_scale)
        self._due[Timer.NACK], self._backed_off = now + delay_ns, lacking

    def _asked_objects(self) -> list[ReceiverObject]:
        """Return the objects of which something may be asked for now."""
        if self._reception.checking:
            return [self._reception.objects[limits.OBJECT_MANIFEST]]
        return list(self._reception.objects.values())

    def _nacks(self, now: int) -> list[messages.Message]:
        closed = self._reception.closed_sequence
        lacking = {
            item.object_id: item.open_deficits(closed, self._hold_off_ns(), now) for item in self._asked_objects()
        }
        if not any(_among(slices, self._backed_off.get(o, _NONE)).any() for o, (slices, _deficits) in lacking.items()):
            # Somebody asked for all that this was about. What was found lacking since then, others lack as well.
            fresh = {object_id: slices for object_id, (slices, _deficits) in lacking.items() if len(slices)}
            if fresh:
                self._back_off(fresh, now)
            return []
        said: list[messages.Message] = []
        for object_id, (slices, deficits) in lacking.items():
            item = self._reception.objects[object_id]
            item.whole_due = False
            if not len(slices):
                continue
            items, covered = encode_deficits(slices, deficits)
            item.hold(slices[:covered], now)
            item.whole_due = covered < len(slices)
            self._reception.counters.nacks += 1
            self._reception.counters.slices_requested += covered
            said.append(self._nack(item, items, now))
            if covered <= limits.NACK_COPY_SLICES_MAX and self._loss_ppm_now() > limits.NACK_COPY_LOSS_PPM:
                self._copies[item.object_id] = slices[:covered]
                self._due[Timer.COPY] = now + limits.NACK_COPY_NS
        return said

    def _nack(self, item: ReceiverObject, items: bytes, now: int) -> messages.Nack:
        assert self._receiver_index is not None
        return messages.Nack(
            receiver_index=self._receiver_index,
            object_id=item.object_id,
            sequence=_sayable(self._reception.closed_sequence),
            echo_us=self._echo(),
            hold_us=self._hold_us(now),
            loss_ppm=self._loss_ppm_now(),
            items=items,
            burst=self._reception.take_burst(),
        )

    # DEVIATES RFC 5740 §5.3: where much is lost, a NACK for few slices is said twice. If it is lost, the next one comes
    # a hold-off and a backoff later: by then, a fast stream has pushed the slice out of the pool, with all its chunk.
    def _nack_copies(self, now: int) -> list[messages.Message]:
        """Ask once more for what was asked for a moment ago, as far as it is still lacking and was not advised."""
        said: list[messages.Message] = []
        for object_id, asked in self._copies.items():
            item = self._reception.objects[object_id]
            deficits = item.assembly.deficits_of(asked)
            slices, deficits = asked[deficits > 0], deficits[deficits > 0]
            if len(slices):
                said.append(self._nack(item, encode_deficits(slices, deficits)[0], now))
        self._forget_copies()
        return said

    def _forget_copies(self) -> None:
        self._copies.clear()
        self._due.pop(Timer.COPY, None)

    # --- reporting, and DONE --------------------------------------------------------------------------------------

    def _regular_report(self, now: int) -> messages.Report:
        # Jittered by a quarter, so that a fleet that began together does not report together for ever.
        interval_ns = self._report_interval_ns
        self._due[Timer.REPORT] = now + interval_ns - interval_ns // 8 + self._rng.randrange(interval_ns // 4 + 1)
        return self._report(self._measure(self._interval, now), now)

    def _watch_limit(self, message: messages.FeedbackAdvice, now: int) -> None:
        """Begin or end to look for a limit, and leave one untold that another receiver has told."""
        if not message.report_below or Timer.REPORT not in self._due:
            self._due.pop(Timer.WATCH, None)
            self._due.pop(Timer.URGENT, None)
        elif Timer.WATCH not in self._due:
            self._due[Timer.WATCH] = now + self._rng.randrange(limits.REPORT_URGENT_NS)
        if self._urgent is not None and not self._limiting and self._urgent[0] >= message.report_below:
            self._due.pop(Timer.URGENT, None)

    # DEVIATES RFC 5740 §5.5.1: a large fleet's receivers report seldom, and who limits the rate speaks at once, with a
    # backoff that the sender's word about a lower limit ends: nobody has to be elected for it.
    def _look(self, now: int) -> None:
        """Look whether this receiver limits the rate; if so, and if it is news, say so after a backoff."""
        advice = self._advice
        assert advice is not None
        self._due[Timer.WATCH] = now + limits.REPORT_URGENT_NS
        measured = self._measure(self._watch, now)
        sample = Sample(
            loss=measured.loss_ppm / 1e6,
            overrun=measured.overrun_ppm / 1e6,
            pool_fill=self._reception.fill_permille / 1e3,
            drain_rate=float(measured.drain_rate),
            datagrams=measured.datagrams,
        )
        if sample.lost < TELLING_LOST and not sample.waits:
            sample = dataclasses.replace(sample, loss=0.0, overrun=0.0)
        if self._since(measured) < advice.since and not sample.waits:
            # Lost at a higher rate, which was lowered for it. Who spoke for the others will say what came of that.
            self._due.pop(Timer.URGENT, None)
            self._urgent = None
            return
        carried = sample.capacity(float(advice.rate), advice.tolerated_ppm / 1e6)
        if carried is None or not (self._limiting or carried < advice.report_below):
            self._due.pop(Timer.URGENT, None)
            self._limiting, self._urgent = False, None
            return
        self._urgent = carried, measured
        if self._limiting:
            # One interval is not believed: whoever spoke for the others goes on to do so.
            self._due[Timer.URGENT] = now + self._rng.randrange(limits.REPORT_URGENT_NS // 2)
        elif Timer.URGENT not in self._due:
            delay_ns = feedback.backoff_ns(self._rng, self._round_trip_ns, self._receivers, self._feedback_scale)
            self._due[Timer.URGENT] = now + delay_ns

    def _urgent_report(self, now: int) -> messages.Report:
        assert self._urgent is not None
        measured = self._urgent[1]
        self._limiting, self._urgent = True, None
        return self._report(measured, now)

    def _report(self, measured: Measured, now: int) -> messages.Report:
        assert self._receiver_index is not None
        reception = self._reception
        self._loss_ppm = measured.loss_ppm
        # What is told out of turn was measured a while ago; where in the stream, the sender has to know.
        since = self._since(measured)
        return messages.Report(
            receiver_index=self._receiver_index,
            echo_us=self._echo(),
            hold_us=self._hold_us(now),
            symbols_received=reception.counters.received,
            lost_network=reception.lost_network,
            lost_host=reception.lost_host,
            loss_ppm=measured.loss_ppm,
            overrun_ppm=measured.overrun_ppm,
            pool_fill_permille=reception.fill_permille,
            drain_rate=measured.drain_rate,
            bytes_done=reception.bytes_done,
            finishing=self.complete,
            checking=reception.checking,
            burst=reception.take_burst(),
            sequence=_sayable(since + measured.datagrams),
            since=_sayable(since),
        )

    def _since(self, measured: Measured) -> int:
        """Return the sequence number at which that began."""
        return self._reception.highest - self._reception.datagrams_expected + measured.expected

    def _measure(self, interval: ReportInterval, now: int) -> Measured:
        reception, counters = self._reception, self._reception.counters
        sent, full, stored = reception.datagrams_expected, reception.pool_full, reception.stream_bytes
        return interval.close(now, sent, counters.received, counters.lost_host, full, stored, waiting=self._much_waits)

    def _loss_ppm_now(self) -> int:
        """Return the network loss since the last report, or that report's where hardly anything came since."""
        sent, counters = self._reception.datagrams_expected, self._reception.counters
        recent = self._interval.loss_ppm(sent, counters.received, counters.lost_host)
        return self._loss_ppm if recent is None else recent

    def _echo(self) -> int:
        """Return the send time to echo; 0 while much waits in the socket, and where it may have waited there itself.

        What waited there measures this host, not the way to it: a receiver that is a second behind made the group's
        round trip a second, and every backoff six.
        """
        return 0 if self._waited else self._echo_us

    @property
    def _waited(self) -> bool:
        """Whether the newest that came may have waited in this host."""
        return self._reception.overdue or self._much_waits

    @property
    def _much_waits(self) -> bool:
        """Whether so much waits in the socket that it matters how long."""
        return self._reception.backlog * 1000 >= limits.ECHO_BACKLOG_MAX_PERMILLE

    def _hold_us(self, now: int) -> int:
        return min((now - self._echo_ns) // limits.MICROSECOND_NS, (1 << 32) - 1)

    def _done(self, now: int) -> messages.Done:
        assert self._receiver_index is not None
        repeat_ns = feedback.done_repeat_ns(self._receivers, self._grtt_ns)
        doubled_ns = repeat_ns << min(self._done_repeats, 16)
        self._due[Timer.DONE] = now + min(doubled_ns, max(limits.DONE_REPEAT_MAX_NS, repeat_ns))
        self._done_repeats += 1
        return messages.Done(
            receiver_index=self._receiver_index,
            manifest_digest=self._manifest_digest,
            bytes_written=self._reception.bytes_done,
            lost_network=self._reception.lost_network,
            lost_host=self._reception.lost_host,
        )


def _among(slices: Int64Array, known: Int64Array) -> npt.NDArray[np.bool_]:
    """Return which slices are among ``known``, ascending.

    As ``np.isin``, which loads numpy's masked arrays when slices first lie far apart: 15 ms in the middle of a session.
    """
    if not len(known):
        return np.zeros(len(slices), np.bool_)
    found: npt.NDArray[np.bool_] = known.take(np.searchsorted(known, slices), mode="clip") == slices
    return found


def _sayable(sequence: int) -> int:
    """Return what a message can say of a sequence number, which foreign words may have put anywhere."""
    return min(max(0, sequence), limits.SEQUENCE_MAX - 1)
