"""From slices in memory to verified bytes on the target: decode, check, decompress, write.

Everything here runs on worker threads, on slices that are pinned. The invariant: no byte reaches the target before its
chunk, or the frame it came from, matched the digest in the manifest, and the manifest itself matched the digest in the
ANNOUNCE.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import blake3
import numpy as np
import numpy.typing as npt
import psutil

from ghostcast.image.frame import FrameDecoder, copy_stored, stored_blocks
from ghostcast.image.readback import chunk_ranges
from ghostcast.image.target import Target
from ghostcast.image.unused import Unused, treat_unused
from ghostcast.net import libc
from ghostcast.net.ingest import SLOTS_SIZE_MAX
from ghostcast.stages import OFF, Stages
from protocol import limits
from protocol.assembly import Assembly
from protocol.erasures import Erasures
from protocol.errors import ImageError
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest, manifest_digest
from protocol.partition import Partition
from protocol.reed_solomon import Codec, SymbolRows

RANGE_SIZE_MAX = 1 << 30
"""Bytes zeroed or set aside by one call: bounds how long a worker is busy with one, and so, how long a receiver that
was interrupted goes on."""


_NICENESS, _STEP_SIZE = 19, 2 << 20
"""How memory is provided that may never be used: by a thread that gives way to all others, so many bytes at a time."""

_REST, _YIELD, _REST_MAX_S = 2.0, 30.0, 0.1
"""After each step that thread rests: twice as long as it took, and thirty times as long as it waited, for a processor
or the kernel, a tenth of a second at most. Niceness is not heeded between sessions of different terminals (autogroups):
sixteen receivers that were started on two processors held up for 1.3 s what was started a second later."""

_FREE_SHARE = 16
"""No more than this part of the memory that is free."""


class Pool:
    """Memory for what a fetch brings and for the image's slices, provided by the kernel before there is any data.

    Left to the data, page faults slow the first tenths of a second of a fast session to a third. So it is provided
    while nobody needs this host, all of it where much is free; when a session begins, what is used, and as much again.
    What may never be used gives way to all others. Of the slices' memory, the first half is for source symbols; the
    second, for repair symbols, is touched only where they arrive, a few pages here and there.
    """

    def __init__(self, size: int) -> None:
        """Reserve ``size`` bytes for source symbols and as much again, and begin to provide the former."""
        self._memory = np.zeros(2 * size + limits.SYMBOL_SIZE_MAX, np.uint8)
        libc.use_small_pages(self._memory[size:])
        self.fetched = np.zeros(SLOTS_SIZE_MAX, np.uint8)
        """For what a fetch brings."""
        self._size = size
        self._provided = 0
        self._provided_lock = threading.Lock()
        self._used = 0
        enough = min(size, psutil.virtual_memory().available // _FREE_SHARE)
        self._goal = enough
        """Bytes to provide while nobody needs this host."""
        self._start(functools.partial(self._provide_in_advance, enough))

    @staticmethod
    def _start(work: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # no more threads are allowed: the memory comes with the data
            threading.Thread(target=work, name="pool", daemon=True).start()

    def _provide_in_advance(self, enough: int) -> None:
        libc.provide(self.fetched[:enough])
        libc.provide(self._up_to(min(2 * limits.RING_SIZE_FIRST, enough)))
        self._provide_gently()

    def _provide_gently(self) -> None:
        if sys.platform != "linux":
            return
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)  # of this thread alone, here
        while len(more := self._up_to(min(self._provided + _STEP_SIZE, self._goal))):
            begun_s, had_run_s = time.monotonic(), time.thread_time()
            libc.provide(more)
            time.sleep(rest_s(time.monotonic() - begun_s, time.thread_time() - had_run_s))

    def _up_to(self, size: int) -> npt.NDArray[np.uint8]:
        """Return what was not asked for yet of the first ``size`` bytes, once."""
        with self._provided_lock:
            begin, self._provided = self._provided, max(self._provided, min(size, self._size))
            return self._memory[begin : self._provided]

    def will_use(self, size: int) -> None:
        """The first ``size`` bytes are in use: have them provided, and as many again, in the background."""
        if size <= self._used:
            return
        self._used = size
        if len(more := self._up_to(size)):
            self._start(functools.partial(libc.provide, more))
        self._goal = min(2 * size, self._size)
        if self._provided < self._goal:
            self._start(self._provide_gently)

    def take(self, row_count: int, symbol_size: int) -> npt.NDArray[np.uint8]:
        """Return ``uint8[row_count, symbol_size]``, once a session, with whatever is in it.

        Freshly reserved where it is more than the pool holds.
        """
        self._used = self._goal = 0  # until it is known how much of it is used
        if row_count * symbol_size > len(self._memory):
            return np.zeros((row_count, symbol_size), np.uint8)
        return self._memory[: row_count * symbol_size].reshape(row_count, symbol_size)


def rest_s(took_s: float, ran_s: float) -> float:
    """Return how long to leave the processors to others after a step that took so long and ran for so much of it."""
    return min(_REST * took_s + _YIELD * max(0.0, took_s - ran_s), _REST_MAX_S)


class ObjectMemory:
    """The buffer of one object: the slots of its slices, its repair rows, one row for what is not wanted."""

    def __init__(self, partition: Partition, assembly: Assembly, pool: Pool | None = None) -> None:
        """Lay the object's rows out in the pool, or in memory of their own."""
        self.assembly = assembly
        shape = (assembly.row_count, partition.symbol_size)
        self.rows = np.zeros(shape, np.uint8) if pool is None else pool.take(*shape)
        self.symbols = SymbolRows(self.rows)
        self._flat = self.rows.reshape(-1)

    def pieces(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return half-open ranges of bytes of the rows (``Assembly.ranges``) without a copy."""
        return [self._flat[start:stop].data for start, stop in ranges]


def decode_slices(
    memory: ObjectMemory,
    codec: Codec,
    source_rows: Sequence[range],
    repair_rows: npt.NDArray[np.int64],
    erasures: Erasures,
) -> None:
    """Fill the erased source rows of some slices in place.

    Args:
        memory: the object's buffer.
        codec: the code.
        source_rows: for each slice, the rows of all its source symbols, erased ones included; equally many.
        repair_rows: ``int64[e]``: rows of the repair symbols that ``erasures`` names.
        erasures: what to fill in.
    """
    symbols = memory.symbols
    codec.decode([symbols.run(rows) for rows in source_rows], symbols.take(repair_rows), erasures)


class ChunkWriter:
    """Checks chunks against the manifest and writes them. Safe for several threads at once."""

    def __init__(self, target: Target, manifest: Manifest, stages: Stages = OFF) -> None:
        """Make the target ready for this image; the first thing that touches it."""
        self._stages = stages
        target.begin(manifest.raw_size, manifest.second_table_size)
        self._target = target
        self._manifest = manifest
        self._local = threading.local()

    def check_and_write(self, pieces: Sequence[memoryview], chunk: int) -> bool:
        """Write one chunk if it, or its frame, which lies in ``pieces``, matches its digest; returns whether it did.

        Raises:
            TargetError: the target failed.
            ImageError: the frame matches its digest and still is not the chunk: the manifest lies.
        """
        worker = self._worker()
        frame = pieces[0] if len(pieces) == 1 else worker.join(pieces)
        raw_start, raw_stop = self._manifest.raw_range(chunk)
        raw = worker.page[: raw_stop - raw_start]
        raw_digest: bytes = self._manifest.raw_digests[chunk].tobytes()
        stored = stored_blocks(frame, len(raw))
        if stored is not None:
            with self._stages("decompress", len(raw)):
                copy_stored(frame, stored, raw)
        # Where nothing is compressed, what will be written is held against its own digest. With that of the frame,
        # zstd's checksum would have to be computed besides: both together take half as much again.
        if stored is None or self._digest(raw) != raw_digest:
            if self._digest(frame) != self._manifest.stored_digests[chunk].tobytes():
                return False
            try:
                with self._stages("decompress", len(raw)):
                    worker.decoder.decode_into(frame, raw)
                if stored is not None and self._digest(raw) != raw_digest:
                    raise ImageError("it does not match its own digest")
            except ImageError as error:
                raise ImageError(f"the image is damaged at its source: chunk {chunk}: {error}") from error
        with self._stages("write", len(raw)):
            self._target.write(raw_start, raw, chunk)
        return True

    def _digest(self, data: memoryview) -> bytes:
        with self._stages("hash", len(data)):
            return blake3.blake3(data).digest()

    def preparing(self, zeros: npt.NDArray[np.int64], unused: Unused) -> Iterator[Callable[[], None]]:
        """Return the steps that make room for what comes over the network and clear what does not, in a fixed order.

        Args:
            zeros: chunks (ascending) whose raw ranges are to read as zeros, neighbours together.
            unused: what becomes of the ranges that no file system uses.
        """
        for offset, size in self._ranges(np.flatnonzero(self._manifest.transferred)):
            yield functools.partial(self._target.reserve, offset, size)
        for offset, size in self._ranges(zeros):
            yield functools.partial(self._target.zero, offset, size)
        if unused is not Unused.KEEP:
            for offset, size in self._ranges(np.flatnonzero(self._manifest.flags & FLAG_UNUSED)):
                yield functools.partial(treat_unused, self._target, unused, offset, size)

    def _ranges(self, chunks: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Return offset and size of the raw ranges of these chunks (ascending), neighbours together."""
        for start, stop in chunk_ranges(self._manifest, chunks):
            for offset in range(start, stop, RANGE_SIZE_MAX):
                yield offset, min(RANGE_SIZE_MAX, stop - offset)

    def _worker(self) -> _Worker:
        worker: _Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            # On a page: writes past the page cache need it.
            page = libc.fresh_pages(self._manifest.chunk_size)
            joined = libc.fresh_pages(max(1, int(self._manifest.stored_sizes.max(initial=0))))
            worker = self._local.worker = _Worker(FrameDecoder(), page, joined)
        return worker


@dataclasses.dataclass(frozen=True, slots=True)
class _Worker:
    """What one thread keeps between chunks."""

    decoder: FrameDecoder
    page: memoryview
    """Room for one raw chunk."""
    joined: memoryview
    """Room for the longest frame, where one lies in pieces: memory that is asked for anew each time stays with whoever
    asked for it."""

    def join(self, pieces: Sequence[memoryview]) -> memoryview:
        """Return the pieces as one, valid until the next call."""
        end = 0
        for piece in pieces:
            self.joined[end : end + len(piece)] = piece
            end += len(piece)
        return self.joined[:end]


def zero_chunks(manifest: Manifest) -> npt.NDArray[np.int64]:
    """Return the chunks that are to read as zeros: flagged zero and not unused, ascending."""
    return np.flatnonzero((manifest.flags & (FLAG_ZERO | FLAG_UNUSED)) == FLAG_ZERO)


def read_manifest(data: bytes, digest: bytes, raw_size: int, stream_size: int) -> Manifest | None:
    """Return the manifest that ``data`` holds, or None if it does not match the announced digest.

    Raises:
        ImageError: it matches, and contradicts itself or the ANNOUNCE.
    """
    if manifest_digest(data) != digest:
        return None
    manifest = Manifest.decode(data)
    if manifest.raw_size != raw_size or manifest.stream_size != stream_size:
        raise ImageError(
            f"the sender announced an image of {raw_size} bytes in a stream of {stream_size}, but its manifest says "
            f"{manifest.raw_size} in {manifest.stream_size}: nothing was written"
        )
    return manifest
