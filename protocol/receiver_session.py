"""The receiver's side of a session: what it holds, what it asks for and when, and when it may say DONE.

Driven from outside by ``receive_datagram``, ``receive_symbols``, ``handle_timeout``, ``next_timeout``,
``poll_transmit`` and ``poll_event``. It knows no socket, no clock and no memory: ``receive_symbols`` says into which
buffer row each symbol goes, events say which slices to decode and which chunks to verify, and the engine reports back.

Invariants: DONE is said only after the engine reported every chunk verified and the target flushed; a slice is asked
for only after its window has passed; nothing that is done is ever asked for.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from typing import assert_never

import numpy as np
import numpy.typing as npt

from protocol import feedback, limits, messages, rate, symbols, wire
from protocol.assembly import Assembly, Placement
from protocol.discovery import Found
from protocol.extents import Extents
from protocol.manifest import Manifest
from protocol.messages import EndReason, SessionState
from protocol.partition import Partition
from protocol.receiver_events import (
    AllWritten,
    Ended,
    Event,
    ExtentReady,
    Identity,
    Outcome,
    ReceiverState,
    SliceToDecode,
    Welcomed,
)
from protocol.receiver_object import NEVER_NS, Int64Array, ReceiverObject
from protocol.report_interval import Measured, ReportInterval
from protocol.symbols import SymbolBatch


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectPlacement:
    """Where the symbols of one object in a batch go."""

    object_id: int
    indices: Int64Array | None
    """``int64[n]``: which datagrams of the batch; None for all of them, in order."""
    placement: Placement

    @property
    def rows(self) -> Int64Array:
        """``int64[n]``: buffer row for each; computed when asked for."""
        return self.placement.rows


@dataclasses.dataclass(slots=True)
class ReceivedCounters:
    """Data datagrams, from the join on."""

    received: int = 0
    lost_host: int = 0
    """Dropped in this host before we saw them, as the engine reports."""
    slices_decoded: int = 0
    """Slices that needed repair symbols."""
    slices_completed: int = 0
    slices_requested: int = 0
    chunks_damaged: int = 0
    """Chunks that were complete and did not match their digest."""
    nacks: int = 0


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
        self.counters = ReceivedCounters()
        self.bytes_done = 0
        self.sender_lost = False
        """Whether it ended because the sender fell silent or was replaced: it may come back."""
        self.checking = False
        """Whether the engine is still finding out what the target holds already: nothing is asked for until then."""
        self.backlog = 0.0
        """Share of the socket's buffer that waits to be fetched, as the engine measures it."""
        self.status: messages.Status | None = None
        manifest = Partition(announce.manifest_size, announce.symbol_size, announce.source_symbols)
        image = Partition(announce.stream_size, announce.symbol_size, announce.source_symbols)
        slots = max(pool_size // image.slice_size, 4)
        self._objects = {
            limits.OBJECT_MANIFEST: ReceiverObject(limits.OBJECT_MANIFEST, manifest, manifest.slice_count),
            limits.OBJECT_IMAGE: ReceiverObject(limits.OBJECT_IMAGE, image, slots),
        }
        self._objects[limits.OBJECT_MANIFEST].extents = Extents(
            manifest, np.array([0, announce.manifest_size], np.int64), np.ones(1, np.bool_)
        )
        self._rng = rng
        self._transmits: collections.deque[bytes] = collections.deque()
        self._group_transmits: collections.deque[bytes] = collections.deque()
        self._events: collections.deque[Event] = collections.deque()
        self._first_sequence: int | None = None
        self._highest = 0
        self._settled = 0
        self._heard_ns = now
        self._data_heard_ns = now
        """When the data group last said something, or nothing was to be expected of it yet."""
        self._echo_us = 0
        self._echo_ns = now
        self._grtt_ns = limits.GRTT_START_NS
        self._receivers = 1
        self._feedback_scale = 1
        self._report_interval_ns = announce.report_interval_ms * limits.MILLISECOND_NS
        self._join_spread_ns = announce.join_spread_ms * limits.MILLISECOND_NS
        self._join_ns: int | None = now + self._join_wait_ns()
        self._join_retry_ns = limits.JOIN_RETRY_NS
        self._joined_once = False
        self._scan_ns: int | None = None
        self._nack_ns: int | None = None
        self._backed_off: dict[int, Int64Array] = {}
        """Object → slices that the NACK is about that is sent at ``_nack_ns``."""
        self._copies: dict[int, Int64Array] = {}
        """Object → slices that are asked for once more, at ``_copy_ns``."""
        self._copy_ns: int | None = None
        self._report_ns: int | None = None
        self._done_ns: int | None = None
        self._poll_number = 0
        """POLLs below it answer an earlier start of this receiver."""
        self._done_retry_ns = limits.DONE_REPEAT_NS
        self._deferred_until_ns = 0
        self._interval = ReportInterval(now)
        self._watch = ReportInterval(now)
        """Looks for what limits the rate more often than this receiver reports."""
        self._watch_ns: int | None = None
        self._advice: messages.FeedbackAdvice | None = None
        """How the sender wants to be spoken to; nothing is asked for before it is known."""
        self._urgent_ns: int | None = None
        self._urgent: tuple[float, Measured] | None = None
        """``(bytes per second, what was measured)``: the limit that is to be told."""
        self._limiting = False
        """The last look found a limit, and it was told."""
        self._burst = 0
        self._burst_lost = 0
        self._loss_ppm = 0

    # --- what the engine asks -------------------------------------------------------------------------------------

    def assembly(self, object_id: int) -> Assembly:
        """Return the bookkeeping of one object, for its rows."""
        return self._objects[object_id].assembly

    def partition(self, object_id: int) -> Partition:
        """Return how one object is cut."""
        return self._objects[object_id].partition

    @property
    def datagrams_expected(self) -> int:
        """Data datagrams sent since the first one that was heard."""
        return 0 if self._first_sequence is None else self._highest - self._first_sequence

    @property
    def lost(self) -> int:
        """Datagrams that did not reach us, wherever they were lost."""
        return max(0, self.datagrams_expected - self.counters.received)

    @property
    def lost_network(self) -> int:
        """Datagrams lost on the way to this host."""
        return max(0, self.lost - self.counters.lost_host)

    @property
    def lost_host(self) -> int:
        """Datagrams that reached this host and were dropped in it: socket buffer or slice pool full."""
        image = self._objects[limits.OBJECT_IMAGE].assembly
        return min(self.counters.lost_host, self.lost) + image.counters.pool_full

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
        due = [self._heard_ns + limits.SENDER_SILENCE_NS, self._data_heard_ns + limits.DATA_SILENCE_NS]
        due += [
            when
            for when in (
                self._join_ns,
                self._scan_ns,
                self._nack_ns,
                self._copy_ns,
                self._report_ns,
                self._done_ns,
                self._watch_ns,
                self._urgent_ns,
            )
            if when is not None
        ]
        return min(due)

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
        if self._join_ns is not None and now >= self._join_ns:
            self._send_join(now)
        if self._scan_ns is not None and now >= self._scan_ns:
            self._scan(now)
        if self._nack_ns is not None and now >= self._nack_ns:
            self._send_nacks(now)
        if self._copy_ns is not None and now >= self._copy_ns:
            self._send_copies(now)
        if self._watch_ns is not None and now >= self._watch_ns:
            self._look(now)
        if self._urgent_ns is not None and now >= self._urgent_ns:
            self._send_urgent(now)
        if self._report_ns is not None and now >= self._report_ns:
            self._send_report(now)
        if self._done_ns is not None and now >= self._done_ns:
            self._send_done(now)

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
                self._take_announce(message, now)
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
                self._take_status(message, now)
            case messages.Poll():
                self._heard(frame.sent_us, now)
                self._take_poll(message)
            case messages.RepairAdvice():
                self._heard(frame.sent_us, now)
                self._take_advice(message, now)
            case messages.FeedbackAdvice():
                self._heard(frame.sent_us, now)
                self._take_feedback_advice(message, now)
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
        if sent_us:
            self._echo_us, self._echo_ns = sent_us, now

    def _take_announce(self, message: messages.Announce, now: int) -> None:
        if self._advice is None:
            self._report_interval_ns = message.report_interval_ms * limits.MILLISECOND_NS
        spread_ns = message.join_spread_ms * limits.MILLISECOND_NS
        if spread_ns > self._join_spread_ns and self._join_ns is not None and not self._joined_once:
            # More come than the sender knew: whoever has not spoken yet takes its time anew.
            self._join_spread_ns = spread_ns
            self._join_ns = now + self._join_wait_ns()
        self._join_spread_ns = spread_ns

    def _join_wait_ns(self) -> int:
        """Draw how long to wait before the first JOIN, so that few of a fleet speak before the sender can react."""
        if self._join_spread_ns > limits.JOIN_SPREAD_UNKNOWN_NS:
            return self._rng.randrange(self._join_spread_ns)
        if self._join_spread_ns == 0:
            return 0
        return feedback.truncated_exponential_ns(self._rng, self._join_spread_ns, limits.SOLICIT_GROUP)

    def _take_defer(self, message: messages.Defer, now: int) -> None:
        if message.receiver_index != self.receiver_index:
            self.drops.stale += 1
            return
        self._heard_ns = now
        self._deferred_until_ns = now + message.wait_ms * limits.MILLISECOND_NS
        self._nack_ns = None
        self._forget_copies()

    def _welcome(self, message: messages.Welcome, now: int) -> None:
        mine = message.receiver_id == self.identity.receiver_id and message.incarnation == self.identity.incarnation
        if not mine:
            self.drops.stale += 1
            return
        self._heard_ns = now
        if self.receiver_index is None:
            self._poll_number = message.poll_number
            self._events.append(Welcomed(message.receiver_index))
            # A small fleet may all say at once that it hears the sender; a large one takes turns from the beginning.
            interval_ns = self._report_interval_ns
            spread_ns = interval_ns if interval_ns > limits.SECOND_NS else 4 * self._join_spread_ns
            self._report_ns = now + self._rng.randrange(spread_ns + 1)
            self._scan_ns = now
        self.receiver_index = message.receiver_index
        self._join_ns = None
        if self.state is ReceiverState.JOINING:
            self.state = ReceiverState.MANIFEST if self.manifest is None else ReceiverState.RECEIVING
            # All of a small image may have come while the WELCOME was on its way.
            self._check_all_written()

    def _take_status(self, message: messages.Status, now: int) -> None:
        if self.status is None and self._joined_once and self._join_ns is not None:
            # It begins, and the WELCOME or the JOIN was lost: what is lacking cannot be asked for before there is one.
            self._join_retry_ns = limits.JOIN_RETRY_NS
            self._join_ns = min(self._join_ns, now + self._rng.randrange(self._join_retry_ns))
        self.status = message
        # The sender's word settles where the stream is: a forged or damaged sequence number does not last.
        if self._first_sequence is None:
            self._first_sequence = message.sequence
        self._first_sequence += round((message.sequence - self._highest) / (1 << 32)) << 32
        self._highest = self._settled = message.sequence
        self._first_sequence = min(self._first_sequence, self._highest)
        idle = message.state is SessionState.IDLE
        manifest, image = self._objects[limits.OBJECT_MANIFEST], self._objects[limits.OBJECT_IMAGE]
        manifest.sent_below = manifest.partition.slice_count if message.manifest_sent else 0
        image.sent_below = min(message.cursor, image.partition.slice_count)
        for item in self._objects.values():
            item.assembly.end_windows(message.sequence, all_sent=idle)
            item.whole_due = True
            item.sender_pass, item.sender_idle = message.pass_index, idle
        # The manifest goes before the image: a late joiner whose NACK is lost need not wait for the end of a long pass.
        manifest.sender_idle |= message.manifest_sent
        self._scan(now)

    def _take_feedback_advice(self, message: messages.FeedbackAdvice, now: int) -> None:
        """Speak as the sender wants it from now on, what was to be said already included."""
        first, self._advice = self._advice is None, message
        self._grtt_ns = max(message.grtt_us * limits.MICROSECOND_NS, limits.GRTT_MIN_NS)
        self._receivers = max(1, message.receivers)
        if self._nack_ns is not None and message.feedback_scale < self._feedback_scale:
            # The storm is over in which this backoff was drawn.
            self._nack_ns = now + (self._nack_ns - now) * message.feedback_scale // self._feedback_scale
        self._feedback_scale = message.feedback_scale
        before_ns, interval_ns = self._report_interval_ns, message.report_interval_ms * limits.MILLISECOND_NS
        self._report_interval_ns = interval_ns
        grown = 2 * before_ns < interval_ns > limits.REPORT_URGENT_NS
        if self._report_ns is not None and (grown or self._report_ns > now + interval_ns):
            # At random, because the whole fleet hears the same advice; and anew if a large fleet has doubled.
            self._report_ns = now + self._rng.randrange(interval_ns + 1)
        self._watch_limit(message, now)
        if first:
            self._scan(now)

    def _watch_limit(self, message: messages.FeedbackAdvice, now: int) -> None:
        """Begin or end to look for a limit, and leave one untold that another receiver has told."""
        if not message.report_below or self._report_ns is None:
            self._watch_ns = self._urgent_ns = None
        elif self._watch_ns is None:
            self._watch_ns = now + self._rng.randrange(limits.REPORT_URGENT_NS)
        if self._urgent is not None and not self._limiting and self._urgent[0] >= message.report_below:
            self._urgent_ns = None

    # DEVIATES RFC 5740 §5.5.1: a large fleet's receivers report seldom, and who limits the rate speaks at once, with a
    # backoff that the sender's word about a lower limit ends: nobody has to be elected for it.
    def _look(self, now: int) -> None:
        """Look whether this receiver limits the rate; if so, and if it is news, say so after a backoff."""
        advice = self._advice
        assert advice is not None
        self._watch_ns = now + limits.REPORT_URGENT_NS
        measured = self._measure(self._watch, now)
        sample = rate.Sample(
            loss=measured.loss_ppm / 1e6,
            overrun=measured.overrun_ppm / 1e6,
            pool_fill=self._fill_permille / 1e3,
            drain_rate=float(measured.drain_rate),
            datagrams=measured.datagrams,
        )
        if rate.lost(sample) < rate.TELLING_LOST and not rate.waits(sample):
            sample = dataclasses.replace(sample, loss=0.0, overrun=0.0)
        carried = rate.capacity(sample, float(advice.rate), advice.tolerated_ppm / 1e6)
        if carried is None or not (self._limiting or carried < advice.report_below):
            self._limiting, self._urgent_ns, self._urgent = False, None, None
            return
        self._urgent = carried, measured
        if self._limiting:
            # One interval is not believed: whoever spoke for the others goes on to do so.
            self._urgent_ns = now + self._rng.randrange(limits.REPORT_URGENT_NS // 2)
        elif self._urgent_ns is None:
            self._urgent_ns = now + feedback.backoff_ns(self._rng, self._grtt_ns, self._receivers, self._feedback_scale)

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

    def _take_advice(self, message: messages.RepairAdvice, now: int) -> None:
        """Stay silent about slices of which the sender is about to send as much as is missing here (suppression)."""
        item = self._objects.get(message.object_id)
        advised = None if item is None else messages.decode_deficits(message.items, item.partition.slice_count)
        if item is None or advised is None:
            self.drops.malformed += 1
            return
        if self.state in (ReceiverState.FINISHING, ReceiverState.CONFIRMING):
            return
        slices, repairs = advised
        lacking = item.assembly.deficits_of(slices)
        covered = slices[(lacking > 0) & (lacking <= repairs)]
        item.hold(covered, now, message.sequence)
        if item.object_id in self._copies:
            self._copies[item.object_id] = np.setdiff1d(self._copies[item.object_id], covered)

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
            headers: ``wire.DATA_HEADER[n]``, foreign bytes; anything that does not fit this session is counted and
                gets no row.
            now: instant in ns.
        Returns:
            Row for row where the payloads go; datagrams that are not named are not wanted.
        """
        if not len(headers):
            return []
        preambles = headers.view(">u4").reshape(len(headers), -1)[:, 0]
        chosen: Int64Array | None = None
        valid = (preambles == wire.PREAMBLE_VALUE) & (headers["session"] == self.found.session_id)
        if not valid.all():
            other = int(np.count_nonzero((preambles == wire.PREAMBLE_VALUE) & ~valid))
            self.drops.session += other
            self.drops.foreign += int(np.count_nonzero(~valid)) - other
            chosen = np.flatnonzero(valid)
            headers = headers[chosen]
        if not len(headers) or self.state is ReceiverState.ENDED:
            return []
        batches = symbols.from_headers(headers)
        if chosen is not None:
            batches = [(batch, chosen if places is None else chosen[places]) for batch, places in batches]
        return self.take_symbols(batches, int(headers["sent_us"][-1]), now)

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
        begins = self._first_sequence is None
        if begins:
            self._highest = int(batches[0][0].sequences[0])
        reference, highest = self._highest, -1
        placements = []
        for one, places in batches:
            batch, indices = one, places
            ends, low, high = symbols.unwrapped(batch, reference)
            if reference - low >= limits.SEQUENCE_JUMP_MAX or high - reference >= limits.SEQUENCE_JUMP_MAX:
                sequences = wire.unwrap_sequence(batch.sequences, reference)
                batch, indices = self._keep(batch, indices, np.abs(sequences - reference) < limits.SEQUENCE_JUMP_MAX)
                if not len(batch):
                    continue
                ends, low, high = symbols.unwrapped(batch, reference)
            if begins:
                self._first_sequence = low if self._first_sequence is None else min(self._first_sequence, low)
            self._note_bursts(batch, low, high, max(reference, highest + 1))
            highest = max(highest, high)
            item = self._objects.get(batch.object_id)
            if item is None:
                self.drops.malformed += len(batch)
                continue
            valid = item.assembly.valid_all(batch)
            if valid is not None:
                batch, indices = self._keep(batch, indices, valid)
                ends = ends if isinstance(ends, int) else ends[valid]
            if len(batch):
                placements.append(self._place(item, batch, ends, indices))
        if highest < 0:
            return []
        self._highest = max(reference, highest + 1)
        self._heard(sent_us, now)
        if self._scan_ns is None and self.receiver_index is not None:
            self._scan_ns = now + limits.SCAN_INTERVAL_NS
        return placements

    def _keep(
        self, batch: SymbolBatch, indices: Int64Array | None, kept: npt.NDArray[np.bool_]
    ) -> tuple[SymbolBatch, Int64Array | None]:
        """Return the symbols that are kept; the others count as malformed."""
        places = np.flatnonzero(kept)
        self.drops.malformed += len(batch) - len(places)
        return batch.take(places), places if indices is None else indices[places]

    def _note_bursts(self, batch: SymbolBatch, low: int, high: int, reference: int) -> None:
        if self.counters.received and low > reference:
            self._burst = max(self._burst, low - reference)
        if high - low >= len(batch) > 1:
            self._burst = max(self._burst, int(np.diff(batch.sequences).max()) - 1)

    def _take_burst(self) -> int:
        """Return the longest run that the network lost since the last call."""
        lost = self.lost_network
        burst = min(self._burst, max(0, lost - self._burst_lost), (1 << 32) - 1)
        self._burst, self._burst_lost = 0, lost
        return burst

    def _place(
        self, item: ReceiverObject, batch: SymbolBatch, ends: Int64Array | int, indices: Int64Array | None
    ) -> ObjectPlacement:
        self.counters.received += len(batch)
        placement = item.assembly.take(batch, ends)
        for lost in item.assembly.take_lost_complete():
            if item.extents is not None:
                item.extents.slice_lost(lost)
        # What was asked for whole and begins to arrive may be asked for again if it is forgotten.
        item.asked_ns[placement.touched] = NEVER_NS
        for slice_index, decode in zip(placement.completed.tolist(), placement.to_decode.tolist(), strict=True):
            self._completed(item, slice_index, decode=decode)
        return ObjectPlacement(item.object_id, indices, placement)

    def _completed(self, item: ReceiverObject, slice_index: int, *, decode: bool) -> None:
        self.counters.slices_completed += 1
        if decode:
            self.counters.slices_decoded += 1
            item.assembly.pin(slice_index)
            self._events.append(SliceToDecode(item.object_id, slice_index))
        elif item.extents is not None:
            self._ready(item, slice_index)

    def _ready(self, item: ReceiverObject, slice_index: int) -> None:
        assert item.extents is not None
        if not item.extents.needs(slice_index):
            item.assembly.release(slice_index)
            return
        for extent in item.extents.slice_ready(slice_index):
            for covering in item.extents.slices_of(extent):
                item.assembly.pin(covering)
            self._events.append(ExtentReady(item.object_id, extent))

    # --- what the engine reports ----------------------------------------------------------------------------------

    def data_unread(self, now: int) -> None:
        """Nothing is fetched from the data group for now, because the target is slow: its silence says nothing."""
        self._data_heard_ns = now

    def host_dropped(self, count: int) -> None:
        """The kernel dropped about so many datagrams because this process was too slow to fetch them."""
        self.counters.lost_host += count

    def slice_decoded(self, object_id: int, slice_index: int) -> None:
        """A ``SliceToDecode`` is done: all its source rows are filled in."""
        item = self._objects[object_id]
        item.assembly.unpin(slice_index)
        if item.extents is not None:
            self._ready(item, slice_index)
        else:
            item.assembly.mark_decoded(slice_index)

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
        self.bytes_done = bytes_done
        self.checking = checking
        own = self._objects[limits.OBJECT_MANIFEST].assembly
        own.unwant(np.zeros(own.partition.slice_count, np.bool_))
        item = self._objects[limits.OBJECT_IMAGE]
        item.extents = Extents(item.partition, manifest.stored_offsets, wanted)
        if item.extents.longest > item.assembly.slots:
            # Without this check such a chunk would be asked for, received and forgotten for ever.
            held = item.assembly.slots * item.partition.slice_size
            needed = item.extents.longest * item.partition.slice_size
            self.fail(f"the slice pool holds {held} bytes, but one chunk of this image covers {needed}: enlarge it")
            return
        item.assembly.unwant(item.extents.wanted_slices)
        for slice_index in item.assembly.complete_slices():
            if not item.assembly.busy(slice_index):
                self._ready(item, slice_index)
        if self.state is ReceiverState.MANIFEST:
            self.state = ReceiverState.RECEIVING
        self._check_all_written()

    def chunks_found(self, chunks: Int64Array) -> Int64Array:
        """The target holds these chunks (ascending) already, byte for byte: they need not come.

        Returns:
            Those of them that had not arrived meanwhile.
        """
        assert self.manifest is not None
        item = self._objects[limits.OBJECT_IMAGE]
        assert item.extents is not None
        found, released = item.extents.found(chunks)
        if len(found):
            start, stop = self.manifest.raw_range(int(found[-1]))  # only the last chunk may be a short one
            self.bytes_done += (len(found) - 1) * self.manifest.chunk_size + stop - start
        for slice_index in released:
            item.reset_later.discard(slice_index)
            if not item.assembly.busy(slice_index):  # what is being decoded is let go when that is done
                item.assembly.release(slice_index)
        self._check_all_written()
        return found

    def check_ended(self, now: int) -> None:
        """All that the target holds was found: ask for the rest."""
        self.checking = False
        self._objects[limits.OBJECT_IMAGE].whole_due = True
        if self.state is ReceiverState.RECEIVING:
            self._scan(now)

    def extent_checked(self, object_id: int, extent: int, *, good: bool) -> None:
        """An ``ExtentReady`` was checked, and if good, written (or, for the manifest, parsed)."""
        item = self._objects[object_id]
        assert item.extents is not None
        for slice_index in item.extents.slices_of(extent):
            item.assembly.unpin(slice_index)
        if good:
            for slice_index in item.extents.done(extent):
                item.reset_later.discard(slice_index)
                item.assembly.release(slice_index)
            if object_id == limits.OBJECT_IMAGE and self.manifest is not None:
                start, stop = self.manifest.raw_range(extent)
                self.bytes_done += stop - start
                stored = int(self.manifest.stored_sizes[extent])
                self._interval.stream_bytes += stored
                self._watch.stream_bytes += stored
                self._check_all_written()
        else:
            self.counters.chunks_damaged += 1
            item.damaged[extent] += 1
            item.reset_later.update(item.extents.damaged(extent))
            if item.damaged[extent] > limits.DAMAGED_CHUNK_RETRIES_MAX:
                what = "the manifest" if object_id == limits.OBJECT_MANIFEST else f"chunk {extent}"
                self.fail(
                    f"{what} arrived {item.damaged[extent]} times and never matched its digest: "
                    "the sender's image is damaged or was changed while it is sent"
                )
        for slice_index in list(item.reset_later):
            if not item.assembly.busy(slice_index):
                item.reset_later.discard(slice_index)
                item.assembly.reset(slice_index)

    def _check_all_written(self) -> None:
        extents = self._objects[limits.OBJECT_IMAGE].extents
        if extents is not None and extents.pending_count == 0 and self.state is ReceiverState.RECEIVING:
            self.state = ReceiverState.FINISHING
            self._events.append(AllWritten())

    def flushed(self, now: int) -> None:
        """The target is complete and durable: say DONE until the sender knows."""
        if self.state is ReceiverState.ENDED:
            return  # it ended while this was on its way
        assert self.state is ReceiverState.FINISHING
        self.state = ReceiverState.CONFIRMING
        self._scan_ns = self._nack_ns = self._copy_ns = self._report_ns = self._watch_ns = self._urgent_ns = None
        # A fleet that ends together spreads its DONEs over the time the sender needs to hear them.
        self._done_ns = now + self._rng.randrange(feedback.join_spread_ns(self._receivers) + 1)
        self._done_retry_ns = feedback.done_repeat_ns(self._receivers)

    def fail(self, reason: str, outcome: Outcome = Outcome.FAILED) -> None:
        """Give up: tell the sender why, and end."""
        if self.state is ReceiverState.ENDED:
            return
        if self.receiver_index is not None:
            for _copy in range(limits.FAIL_COPIES):
                self._send(messages.Fail(self.receiver_index, messages.clip(reason, limits.REASON_LENGTH_MAX)))
        self._end(outcome, reason)

    # --- asking ---------------------------------------------------------------------------------------------------

    def _hold_off_ns(self) -> int:
        """How long an unanswered request is left alone (RFC 5740 §5.3: (K + 2) * GRTT)."""
        hold_ns = (limits.BACKOFF_FACTOR + 2) * self._grtt_ns * self._feedback_scale
        return min(hold_ns, limits.HOLD_OFF_MAX_NS)

    def _closed_sequence(self) -> int:
        """Datagrams below it have arrived or are lost: the sender said so, or many later ones have arrived."""
        return max(self._settled, self._highest - limits.REORDER_GUARD)

    # DEVIATES RFC 5740 §5.3: a NACK cycle begins when a window has passed, not at an object or block boundary, and it
    # asks for everything that is open, because windows interleave many slices.
    def _scan(self, now: int) -> None:
        """Look for slices whose window has passed and that still lack something; begin the backoff if there are any."""
        self._scan_ns = None
        if (
            self.receiver_index is None
            or self._advice is None
            or self.state in (ReceiverState.FINISHING, ReceiverState.CONFIRMING)
        ):
            return
        asked = self._asked_objects()
        lacking = sum(item.assembly.missing_count for item in asked)
        if lacking:
            self._scan_ns = now + limits.SCAN_INTERVAL_NS
        if self._nack_ns is not None or not lacking or now < self._deferred_until_ns:
            return
        closed = self._closed_sequence()
        lacking_now = {item.object_id: item.open_deficits(closed, self._hold_off_ns(), now)[0] for item in asked}
        if any(map(len, lacking_now.values())):
            self._back_off(lacking_now, now)

    def _back_off(self, lacking: dict[int, Int64Array], now: int) -> None:
        """Begin to wait for somebody else to ask for these slices, by object."""
        delay_ns = feedback.backoff_ns(self._rng, self._grtt_ns, self._receivers, self._feedback_scale)
        self._nack_ns, self._backed_off = now + delay_ns, lacking

    def _asked_objects(self) -> list[ReceiverObject]:
        """Return the objects of which something may be asked for now."""
        if self.checking:
            return [self._objects[limits.OBJECT_MANIFEST]]
        return list(self._objects.values())

    def _send_nacks(self, now: int) -> None:
        self._nack_ns = None
        closed = self._closed_sequence()
        lacking = {
            item.object_id: item.open_deficits(closed, self._hold_off_ns(), now) for item in self._asked_objects()
        }
        if not any(np.isin(slices, self._backed_off.get(o, ())).any() for o, (slices, _deficits) in lacking.items()):
            # Somebody asked for all that this was about. What was found lacking since then, others lack as well.
            fresh = {object_id: slices for object_id, (slices, _deficits) in lacking.items() if len(slices)}
            if fresh:
                self._back_off(fresh, now)
            return
        for object_id, (slices, deficits) in lacking.items():
            item = self._objects[object_id]
            item.whole_due = False
            if not len(slices):
                continue
            items, covered = messages.encode_deficits(slices, deficits)
            item.hold(slices[:covered], now)
            item.whole_due = covered < len(slices)
            self.counters.nacks += 1
            self.counters.slices_requested += covered
            self._send_nack(item, items, now)
            if covered <= limits.NACK_COPY_SLICES_MAX and self._loss_ppm_now() > limits.NACK_COPY_LOSS_PPM:
                self._copies[item.object_id] = slices[:covered]
                self._copy_ns = now + limits.NACK_COPY_NS

    def _send_nack(self, item: ReceiverObject, items: bytes, now: int) -> None:
        assert self.receiver_index is not None
        self._send(
            messages.Nack(
                receiver_index=self.receiver_index,
                object_id=item.object_id,
                sequence=_sayable(self._closed_sequence()),
                echo_us=self._echo(),
                hold_us=self._hold_us(now),
                loss_ppm=self._loss_ppm_now(),
                items=items,
                burst=self._take_burst(),
            )
        )

    # DEVIATES RFC 5740 §5.3: where much is lost, a NACK for few slices is said twice. If it is lost, the next one comes
    # a hold-off and a backoff later: by then, a fast stream has pushed the slice out of the pool, with all its chunk.
    def _send_copies(self, now: int) -> None:
        """Ask once more for what was asked for a moment ago, as far as it is still lacking and was not advised."""
        for object_id, asked in self._copies.items():
            item = self._objects[object_id]
            deficits = item.assembly.deficits_of(asked)
            slices, deficits = asked[deficits > 0], deficits[deficits > 0]
            if len(slices):
                self._send_nack(item, messages.encode_deficits(slices, deficits)[0], now)
        self._forget_copies()

    def _forget_copies(self) -> None:
        self._copies.clear()
        self._copy_ns = None

    def _loss_ppm_now(self) -> int:
        """Return the network loss since the last report, or that report's where hardly anything came since."""
        recent = self._interval.loss_ppm(self.datagrams_expected, self.counters.received, self.counters.lost_host)
        return self._loss_ppm if recent is None else recent

    def _echo(self) -> int:
        """Return the send time to echo; 0 while much waits in the socket.

        What waited there measures this host, not the way to it: a receiver that is a second behind made the group's
        round trip a second, and every backoff six.
        """
        return self._echo_us if self.backlog * 1000 < limits.ECHO_BACKLOG_MAX_PERMILLE else 0

    def _hold_us(self, now: int) -> int:
        return min((now - self._echo_ns) // limits.MICROSECOND_NS, (1 << 32) - 1)

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
        if self._joined_once and self._join_spread_ns < limits.JOIN_SPREAD_UNKNOWN_NS:
            # Where the answer to a host's question for the sender's link address was lost, the host asks again after a
            # second and keeps everything back meanwhile. What goes to a group needs no answer; but all hear it.
            self._group_transmits.append(self._transmits[-1])
        # Jittered by a half, so that JOINs that were lost together are not lost together again.
        self._joined_once = True
        self._join_ns = now + self._join_retry_ns // 2 + self._rng.randrange(self._join_retry_ns)
        self._join_retry_ns = min(2 * self._join_retry_ns, max(limits.JOIN_RETRY_MAX_NS, self._join_spread_ns))

    @property
    def _fill_permille(self) -> int:
        return int(max(self._objects[limits.OBJECT_IMAGE].assembly.fill, self.backlog) * 1000)

    def _measure(self, interval: ReportInterval, now: int) -> Measured:
        pool_full = self._objects[limits.OBJECT_IMAGE].assembly.counters.pool_full
        return interval.close(now, self.datagrams_expected, self.counters.received, self.counters.lost_host, pool_full)

    def _send_report(self, now: int) -> None:
        self._tell(self._measure(self._interval, now), now)
        # Jittered by a quarter, so that a fleet that began together does not report together for ever.
        interval_ns = self._report_interval_ns
        self._report_ns = now + interval_ns - interval_ns // 8 + self._rng.randrange(interval_ns // 4 + 1)

    def _send_urgent(self, now: int) -> None:
        assert self._urgent is not None
        self._tell(self._urgent[1], now)
        self._limiting, self._urgent_ns, self._urgent = True, None, None

    def _tell(self, measured: Measured, now: int) -> None:
        assert self.receiver_index is not None
        self._loss_ppm = measured.loss_ppm
        self._send(
            messages.Report(
                receiver_index=self.receiver_index,
                echo_us=self._echo(),
                hold_us=self._hold_us(now),
                symbols_received=self.counters.received,
                lost_network=self.lost_network,
                lost_host=self.lost_host,
                loss_ppm=measured.loss_ppm,
                overrun_ppm=measured.overrun_ppm,
                pool_fill_permille=self._fill_permille,
                drain_rate=measured.drain_rate,
                bytes_done=self.bytes_done,
                finishing=self.state is ReceiverState.FINISHING,
                checking=self.checking,
                burst=self._take_burst(),
                sequence=_sayable(self._highest),
            )
        )

    def _send_done(self, now: int) -> None:
        assert self.receiver_index is not None
        self._send(
            messages.Done(
                receiver_index=self.receiver_index,
                manifest_digest=self.found.announce.manifest_digest,
                bytes_written=self.bytes_done,
                lost_network=self.lost_network,
                lost_host=self.lost_host,
            )
        )
        self._done_ns = now + self._done_retry_ns
        longest_ns = max(limits.DONE_REPEAT_MAX_NS, feedback.done_repeat_ns(self._receivers))
        self._done_retry_ns = min(2 * self._done_retry_ns, longest_ns)


def _sayable(sequence: int) -> int:
    """Return what a message can say of a sequence number, which foreign words may have put anywhere."""
    return min(max(0, sequence), limits.SEQUENCE_MAX - 1)
