"""What has come to a receiver: where each symbol goes, what was lost on the way, and which slices and chunks are whole.

Knows headers, sequence numbers and the extents of both objects; must not know when something is asked for, nor where
the session stands. Events say which slices to decode and which extents to check. Invariant: a slice that a worker may
be reading is pinned, and stays as it is until that is reported done.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import numpy.typing as npt

from protocol import limits, messages, symbols, wire
from protocol.assembly import Assembly, Placement
from protocol.discovery import Found
from protocol.extents import Extents
from protocol.manifest import Manifest
from protocol.messages import SessionState
from protocol.partition import Partition
from protocol.receiver_events import Event, ExtentReady, SlicesToDecode
from protocol.receiver_object import NEVER_NS, Int64Array, ReceiverObject
from protocol.symbols import SymbolBatch, unwrap_sequence


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


class Reception:
    """See the module's docstring."""

    def __init__(self, found: Found, drops: wire.Drops, events: collections.deque[Event], pool_size: int) -> None:
        """Begin with nothing: what does not fit is counted in ``drops``, what is to be done goes into ``events``."""
        announce = found.announce
        manifest = Partition(announce.manifest_size, announce.symbol_size, announce.source_symbols)
        image = Partition(announce.stream_size, announce.symbol_size, announce.source_symbols)
        slots = max(pool_size // image.slice_size, 4)
        self.objects = {
            limits.OBJECT_MANIFEST: ReceiverObject(limits.OBJECT_MANIFEST, manifest, manifest.slice_count),
            limits.OBJECT_IMAGE: ReceiverObject(limits.OBJECT_IMAGE, image, slots),
        }
        self.objects[limits.OBJECT_MANIFEST].extents = Extents(
            manifest, np.array([0, announce.manifest_size], np.int64), np.ones(1, np.bool_)
        )
        self.counters = ReceivedCounters()
        self.bytes_done = 0
        """Raw bytes that are right on the target."""
        self.stream_bytes = 0
        """Stored bytes of the chunks that came, matched and were written."""
        self.checking = False
        """Whether the engine is still finding out what the target holds already: nothing is asked for until then."""
        self.backlog = 0.0
        """Share of the socket's buffer that waits to be fetched, as the engine measures it."""
        self.overdue = False
        """Whether the newest that was fetched may have waited in this host, by the engine's doing."""
        self.highest = 0
        """Data datagrams below it were sent, as far as is known."""
        self._session_id = found.session_id
        self._drops = drops
        self._events = events
        self._manifest: Manifest | None = None
        self._first_sequence: int | None = None
        self._settled = 0
        self._burst = 0
        self._burst_lost = 0

    # --- what is known --------------------------------------------------------------------------------------------

    def assembly(self, object_id: int) -> Assembly:
        """Return the bookkeeping of one object, for its rows."""
        return self.objects[object_id].assembly

    def partition(self, object_id: int) -> Partition:
        """Return how one object is cut."""
        return self.objects[object_id].partition

    @property
    def closed_sequence(self) -> int:
        """Datagrams below it have arrived or are lost: the sender said so, or many later ones have arrived."""
        return max(self._settled, self.highest - limits.REORDER_GUARD)

    @property
    def datagrams_expected(self) -> int:
        """Data datagrams sent since the first one that was heard."""
        return 0 if self._first_sequence is None else self.highest - self._first_sequence

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
        return min(self.counters.lost_host, self.lost) + self.pool_full

    @property
    def pool_full(self) -> int:
        """Datagrams that were dropped because the slice pool was full."""
        return self.objects[limits.OBJECT_IMAGE].assembly.counters.pool_full

    @property
    def fill_permille(self) -> int:
        """How full the slice pool is, or the socket if that is fuller."""
        return int(max(self.objects[limits.OBJECT_IMAGE].assembly.fill, self.backlog) * 1000)

    @property
    def all_written(self) -> bool:
        """Whether every chunk that has to come is verified and written."""
        extents = self.objects[limits.OBJECT_IMAGE].extents
        return extents is not None and extents.pending_count == 0

    def take_burst(self) -> int:
        """Return the longest run that the network lost since the last call."""
        lost = self.lost_network
        burst = min(self._burst, max(0, lost - self._burst_lost), (1 << 32) - 1)
        self._burst, self._burst_lost = 0, lost
        return burst

    # --- data in --------------------------------------------------------------------------------------------------

    def split(self, headers: npt.NDArray[np.void]) -> tuple[list[tuple[SymbolBatch, Int64Array | None]], int]:
        """Take foreign headers, ``DATA_HEADER[n]``, apart: return what ``take`` wants, and the last send time."""
        if not len(headers):
            return [], 0
        preambles = headers.view(">u4").reshape(len(headers), -1)[:, 0]
        chosen: Int64Array | None = None
        valid = (preambles == wire.PREAMBLE_VALUE) & (headers["session"] == self._session_id)
        if not valid.all():
            other = int(np.count_nonzero((preambles == wire.PREAMBLE_VALUE) & ~valid))
            self._drops.session += other
            self._drops.foreign += int(np.count_nonzero(~valid)) - other
            chosen = np.flatnonzero(valid)
            headers = headers[chosen]
            if not len(headers):
                return [], 0
        batches = symbols.from_headers(headers)
        if chosen is not None:
            batches = [(batch, chosen if places is None else chosen[places]) for batch, places in batches]
        return batches, int(headers["sent_us"][-1])

    def take(self, batches: list[tuple[SymbolBatch, Int64Array | None]]) -> list[ObjectPlacement] | None:
        """See ``ReceiverSession.take_symbols``; returns None where no sequence number is near the stream."""
        begins = self._first_sequence is None
        if begins:
            self.highest = int(batches[0][0].sequences[0])
        reference, highest = self.highest, -1
        placements = []
        for one, places in batches:
            batch, indices = one, places
            ends, low, high = symbols.unwrapped(batch, reference)
            if reference - low >= limits.SEQUENCE_JUMP_MAX or high - reference >= limits.SEQUENCE_JUMP_MAX:
                sequences = unwrap_sequence(batch.sequences, reference)
                batch, indices = self._keep(batch, indices, np.abs(sequences - reference) < limits.SEQUENCE_JUMP_MAX)
                if not len(batch):
                    continue
                ends, low, high = symbols.unwrapped(batch, reference)
            if begins:
                self._first_sequence = low if self._first_sequence is None else min(self._first_sequence, low)
            self._note_bursts(batch, low, high, max(reference, highest + 1))
            highest = max(highest, high)
            item = self.objects.get(batch.object_id)
            if item is None:
                self._drops.malformed += len(batch)
                continue
            valid = item.assembly.valid_all(batch)
            if valid is not None:
                batch, indices = self._keep(batch, indices, valid)
                ends = ends if isinstance(ends, int) else ends[valid]
            if len(batch):
                placements.append(self._place(item, batch, ends, indices))
        if highest < 0:
            return None
        self.highest = max(reference, highest + 1)
        return placements

    def _keep(
        self, batch: SymbolBatch, indices: Int64Array | None, kept: npt.NDArray[np.bool_]
    ) -> tuple[SymbolBatch, Int64Array | None]:
        """Return the symbols that are kept; the others count as malformed."""
        places = np.flatnonzero(kept)
        self._drops.malformed += len(batch) - len(places)
        return batch.take(places), places if indices is None else indices[places]

    def _note_bursts(self, batch: SymbolBatch, low: int, high: int, reference: int) -> None:
        if self.counters.received and low > reference:
            self._burst = max(self._burst, low - reference)
        if high - low >= len(batch) > 1:
            self._burst = max(self._burst, int(np.diff(batch.sequences).max()) - 1)

    def _place(
        self, item: ReceiverObject, batch: SymbolBatch, ends: Int64Array | int, indices: Int64Array | None
    ) -> ObjectPlacement:
        self.counters.received += len(batch)
        placement = item.assembly.take(batch, ends)
        lost = item.assembly.take_lost_complete()
        if len(lost) and item.extents is not None:
            item.extents.slices_lost(lost)
        # What was asked for whole and begins to arrive may be asked for again if it is forgotten.
        item.asked_ns[placement.touched] = NEVER_NS
        if len(placement.completed):
            self._completed(item, placement.completed, placement.to_decode)
        return ObjectPlacement(item.object_id, indices, placement)

    def _completed(self, item: ReceiverObject, slices: Int64Array, to_decode: npt.NDArray[np.bool_]) -> None:
        self.counters.slices_completed += len(slices)
        lacking = slices[to_decode]
        if len(lacking):
            self.counters.slices_decoded += len(lacking)
            item.assembly.pin(lacking)
            self._events.append(SlicesToDecode(item.object_id, tuple(lacking.tolist())))
        if len(lacking) < len(slices) and item.extents is not None:
            self._ready(item, slices[~to_decode])

    def _ready(self, item: ReceiverObject, slices: Int64Array) -> None:
        assert item.extents is not None
        needed = item.extents.needs(slices)
        if not needed.all():
            item.assembly.release(slices[~needed])
            slices = slices[needed]
        for extent in item.extents.slices_ready(slices):
            item.assembly.pin(item.extents.slices_of(extent))
            self._events.append(ExtentReady(item.object_id, extent))

    def take_status(self, message: messages.Status) -> None:
        """Take the sender's word for what was sent so far."""
        # That settles where the stream is: a forged or damaged sequence number does not last.
        if self._first_sequence is None:
            self._first_sequence = message.sequence
        self._first_sequence += round((message.sequence - self.highest) / (1 << 32)) << 32
        self.highest = self._settled = message.sequence
        self._first_sequence = min(self._first_sequence, self.highest)
        idle = message.state is SessionState.IDLE
        manifest, image = self.objects[limits.OBJECT_MANIFEST], self.objects[limits.OBJECT_IMAGE]
        manifest.sent_below = manifest.partition.slice_count if message.manifest_sent else 0
        image.sent_below = min(message.cursor, image.partition.slice_count)
        for item in self.objects.values():
            item.assembly.end_windows(message.sequence, all_sent=idle)
            item.assembly.limit_frontier(item.sent_below)
            item.whole_due = True
            item.sender_pass, item.sender_idle = message.pass_index, idle
        # The manifest goes before the image: a late joiner whose NACK is lost need not wait for the end of a long pass.
        manifest.sender_idle |= message.manifest_sent

    # --- what the engine reports ----------------------------------------------------------------------------------

    def host_dropped(self, count: int) -> None:
        """The kernel dropped about so many datagrams because this process was too slow to fetch them."""
        self.counters.lost_host += count

    def slices_decoded(self, object_id: int, slices: Int64Array) -> None:
        """See ``ReceiverSession``."""
        item = self.objects[object_id]
        item.assembly.unpin(slices)
        if item.extents is not None:
            self._ready(item, slices)
        else:
            item.assembly.mark_decoded(slices)

    def take_manifest(
        self, manifest: Manifest, wanted: npt.NDArray[np.bool_], bytes_done: int, *, checking: bool
    ) -> str | None:
        """See ``ReceiverSession.manifest_known``; returns why this receiver has to give up, or None."""
        self._manifest = manifest
        self.bytes_done = bytes_done
        self.checking = checking
        own = self.objects[limits.OBJECT_MANIFEST].assembly
        own.unwant(np.zeros(own.partition.slice_count, np.bool_))
        item = self.objects[limits.OBJECT_IMAGE]
        item.extents = Extents(item.partition, manifest.stored_offsets, wanted)
        if item.extents.longest > item.assembly.slots:
            # Without this check such a chunk would be asked for, received and forgotten for ever.
            held = item.assembly.slots * item.partition.slice_size
            needed = item.extents.longest * item.partition.slice_size
            return f"the slice pool holds {held} bytes, but one chunk of this image covers {needed}: enlarge it"
        item.assembly.unwant(item.extents.wanted_slices)
        complete = item.assembly.complete_slices()
        self._ready(item, complete[~item.assembly.busy(complete)])
        return None

    def chunks_found(self, chunks: Int64Array) -> Int64Array:
        """See ``ReceiverSession.chunks_found``."""
        assert self._manifest is not None
        item = self.objects[limits.OBJECT_IMAGE]
        assert item.extents is not None
        found, released = item.extents.found(chunks)
        if len(found):
            start, stop = self._manifest.raw_range(int(found[-1]))  # only the last chunk may be a short one
            self.bytes_done += (len(found) - 1) * self._manifest.chunk_size + stop - start
        item.reset_later.difference_update(released.tolist())
        # What is being decoded is let go when that is done.
        item.assembly.release(released[~item.assembly.busy(released)])
        return found

    def check_ended(self) -> None:
        """All that the target holds was found."""
        self.checking = False
        self.objects[limits.OBJECT_IMAGE].whole_due = True

    def extent_checked(self, object_id: int, extent: int, *, good: bool) -> str | None:
        """See ``ReceiverSession.extent_checked``; returns why this receiver has to give up, or None."""
        item = self.objects[object_id]
        assert item.extents is not None
        item.assembly.unpin(item.extents.slices_of(extent))
        if good:
            released = item.extents.done(extent)
            item.reset_later.difference_update(released.tolist())
            item.assembly.release(released)
            if object_id == limits.OBJECT_IMAGE and self._manifest is not None:
                start, stop = self._manifest.raw_range(extent)
                self.bytes_done += stop - start
                self.stream_bytes += int(self._manifest.stored_sizes[extent])
        else:
            self.counters.chunks_damaged += 1
            item.damaged[extent] += 1
            item.reset_later.update(item.extents.damaged(extent).tolist())
        if item.reset_later:
            waiting = np.array(sorted(item.reset_later))
            idle = waiting[~item.assembly.busy(waiting)]
            item.reset_later.difference_update(idle.tolist())
            item.assembly.reset(idle)
        if good or item.damaged[extent] <= limits.DAMAGED_CHUNK_RETRIES_MAX:
            return None
        what = "the manifest" if object_id == limits.OBJECT_MANIFEST else f"chunk {extent}"
        return (
            f"{what} arrived {item.damaged[extent]} times and never matched its digest: "
            "the sender's image is damaged or was changed while it is sent"
        )
