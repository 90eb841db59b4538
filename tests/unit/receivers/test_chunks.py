"""Goal: nothing reaches the target that did not match its digest, and what reaches it is in its place.

Method: real images, and real files as targets; damage in every place it can be.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import blake3
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from ghostcast.fec.kernel import load_kernel
from ghostcast.image.reader import ImageFile
from ghostcast.image.target import Target
from ghostcast.image.unused import Unused
from ghostcast.net import libc
from ghostcast.net.ingest import SLOTS_SIZE_MAX
from protocol import limits
from protocol.assembly import Assembly
from protocol.erasures import Erasures
from protocol.errors import ImageError
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest, Source, manifest_digest
from protocol.partition import Partition
from protocol.reed_solomon import Code, Codec, SymbolRows
from receivers import chunks
from receivers.chunks import ChunkWriter, ObjectMemory, Pool, decode_slices, read_manifest, rest_s, zero_chunks
from tests.images import CHUNK_SIZE, make_image

K = 4
SYMBOL_SIZE = 64
CHECKSUM_SIZE = 4
"""Of zstd, behind each frame."""


# --- memory -----------------------------------------------------------------------------------------------------------


def test_the_pool_is_given_out_as_rows_that_are_its_own_memory() -> None:
    pool = Pool(1 << 20)
    rows = pool.take(1000, 1440)
    assert rows.shape == (1000, 1440)
    assert np.shares_memory(rows, pool._memory)
    assert not rows.any()


def test_more_than_the_pool_holds_is_reserved_afresh() -> None:
    pool = Pool(4096)
    rows = pool.take(100, 8928)
    assert rows.shape == (100, 8928)
    assert not np.shares_memory(rows, pool._memory)


def test_the_pool_holds_the_rings_of_a_session() -> None:
    """Source rows, repair rows and the row for what is not wanted, as the receiver session sizes them."""
    size = 4 << 20
    partition = Partition(100 << 20, 1440)
    assembly = Assembly(partition, size // partition.slice_size, np.ones(partition.slice_count, np.bool_))
    pool = Pool(size)
    assert np.shares_memory(ObjectMemory(partition, assembly, pool).rows, pool._memory)


def alone(test: Callable[[], None]) -> Callable[[], None]:
    """Run a test that measures memory in a process of its own: here, large arrays may get what earlier tests freed."""

    @functools.wraps(test)
    def run() -> None:
        code = f"from {__name__} import {test.__name__} as test; test.__wrapped__()"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[3])

    return run


def resident() -> int:
    """Return this process's memory, after all that is being provided is there and what is garbage is gone."""
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "pool":
            thread.join()
    size: int = psutil.Process().memory_info().rss
    return size


needs_populate = pytest.mark.skipif(
    not libc.provide(np.zeros(1, np.uint8)), reason="this kernel cannot be asked for pages (MADV_POPULATE_WRITE)"
)


@needs_populate
@alone
def test_memory_is_provided_while_a_receiver_waits() -> None:
    before = resident()
    pool = Pool(96 << 20)
    grown = resident() - before
    assert 90 << 20 < grown < 110 << 20
    assert not pool._memory.any()


@alone
def test_repair_symbols_here_and_there_take_a_page_each() -> None:
    """With huge pages each would take 2 MiB: as much as all slots for every few slices."""
    size = 96 << 20
    pool = Pool(size)
    before = resident()
    pool._memory[size :: 2 << 20] = 1
    assert resident() - before < 4 << 20


def test_what_a_fetch_brings_has_memory_of_its_own() -> None:
    pool = Pool(4096)
    resident()
    assert pool.fetched.nbytes == SLOTS_SIZE_MAX
    assert not np.shares_memory(pool.fetched, pool._memory)


@needs_populate
@alone
def test_in_a_session_memory_is_provided_ahead_of_its_use_and_keeps_what_is_in_it() -> None:
    pool = Pool(0)
    resident()
    pool._memory, pool._size = np.zeros(200 << 20, np.uint8), 96 << 20  # as if it had been needed at once
    before = resident()
    pool.take(1000, 1440)[:] = 7
    pool.will_use(20 << 20)
    grown = resident() - before
    assert 30 << 20 < grown < 50 << 20
    pool.will_use(5 << 20)
    assert resident() - before < 50 << 20
    pool.will_use(1 << 40)
    assert resident() - before < 110 << 20
    assert (pool._memory[: 1000 * 1440] == 7).all()
    assert not pool._memory[1000 * 1440 :].any()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, threads have no niceness of their own")
def test_in_a_session_only_what_is_in_use_is_provided_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(0)
    resident()
    pool._memory, pool._size = np.zeros(96 << 20, np.uint8), 64 << 20
    usual, provided = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), {False: 0, True: 0}

    def provide(memory: npt.NDArray[np.uint8]) -> bool:
        gentle = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) > usual
        provided[gentle] += memory.nbytes
        return True

    monkeypatch.setattr(libc, "provide", provide)
    pool.take(1000, 1440)
    pool.will_use(20 << 20)
    resident()
    assert provided == {False: 20 << 20, True: 20 << 20}
    pool.will_use(1 << 40)
    resident()
    assert provided == {False: (20 + 24) << 20, True: 20 << 20}


def test_whoever_provides_memory_in_advance_leaves_the_processors_to_others() -> None:
    """Alone it is done within three times what the memory takes; among sixteen on two processors, it hardly runs."""
    assert rest_s(0.004, 0.004) <= 2 * 0.004
    waited = rest_s(0.032, 0.004)
    assert 0.004 / (0.032 + waited) < 1 / 16
    assert rest_s(10.0, 0.004) <= 0.1, "a session may begin meanwhile"
    assert rest_s(0.003, 0.004) >= 0, "one clock is coarser than the other"


def test_where_memory_or_threads_are_short_it_comes_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    before = resident()
    pool = Pool(96 << 20)
    assert resident() - before < 20 << 20

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.will_use(64 << 20)
    Pool(4096).take(1, 1440)[:] = 1


def test_pieces_are_the_rows_own_memory() -> None:
    partition = Partition(10 * K * SYMBOL_SIZE, SYMBOL_SIZE, K)
    memory = ObjectMemory(partition, Assembly(partition, 3, np.ones(10, np.bool_)))
    memory.rows[:] = np.random.default_rng(1).integers(0, 256, memory.rows.shape, np.uint8)
    flat = memory.rows.tobytes()
    pieces = memory.pieces([(700, 768), (0, 5), (300, 301)])
    assert b"".join(pieces) == flat[700:768] + flat[:5] + flat[300:301]
    assert all(np.shares_memory(np.frombuffer(piece, np.uint8), memory.rows) for piece in pieces)
    assert memory.pieces([]) == []


@pytest.mark.parametrize("last", [K, 3])
def test_erased_symbols_are_filled_in_where_they_lie(last: int) -> None:
    partition = Partition(((2 * K) + last) * SYMBOL_SIZE - 7, SYMBOL_SIZE, K)
    assembly = Assembly(partition, 3, np.ones(3, np.bool_))
    memory = ObjectMemory(partition, assembly)
    codec = Codec(Code(K), load_kernel())
    source_rows = np.arange(2 * K, 2 * K + last)
    memory.rows[source_rows] = np.random.default_rng(2).integers(0, 256, (last, SYMBOL_SIZE), np.uint8)
    expected = memory.rows[source_rows].copy()
    repairs = np.zeros((2, SYMBOL_SIZE), np.uint8)
    codec.encode(memory.symbols.take(source_rows), SymbolRows(repairs), K + 5)
    esis, repair_rows = np.array([K + 5, K + 6]), np.array([3 * K + 9, 3 * K + 20])
    memory.rows[repair_rows] = repairs
    memory.rows[source_rows[[0, 2]]] = 0xEE
    before = memory.rows.copy()
    rows = range(2 * K, 2 * K + last)
    decode_slices(memory, codec, [rows], repair_rows, Erasures.of_slice([0, 2], esis))
    assert np.array_equal(memory.rows[source_rows], expected)
    before[source_rows] = expected
    assert np.array_equal(memory.rows, before)


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Case:
    raw: bytes
    manifest: Manifest
    stream: bytearray
    path: Path
    target: Target
    writer: ChunkWriter

    def frame(self, chunk: int) -> memoryview:
        """Return a chunk's bytes as they came."""
        start, stop = self.manifest.stored_range(chunk)
        return memoryview(self.stream)[start:stop]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Six chunks, compressible and not, the last one short; the target holds something else."""
    raw = os.urandom(CHUNK_SIZE) + b"text " * 820 + os.urandom(3 * CHUNK_SIZE + 100)
    image = make_image(tmp_path / "image", raw)
    with ImageFile.open(image) as opened:
        manifest = opened.manifest
    stream = bytearray(image.read_bytes()[: manifest.stream_size])
    path = tmp_path / "target"
    path.write_bytes(b"\xdd" * 100_000)
    target = Target.open(path, raw_size=None)
    return Case(raw, manifest, stream, path, target, ChunkWriter(target, manifest))


def test_good_chunks_are_written_in_any_order_each_in_its_place(case: Case) -> None:
    order = list(range(case.manifest.chunk_count))
    random.Random(1).shuffle(order)
    for chunk in order:
        assert case.writer.check_and_write([case.frame(chunk)], chunk)
    case.target.finish(case.manifest.raw_size)
    case.target.close()
    assert case.path.read_bytes() == case.raw


def test_a_frame_that_lies_in_pieces_is_joined(case: Case) -> None:
    rng = random.Random(2)
    for chunk in range(case.manifest.chunk_count):
        frame = case.frame(chunk)
        cuts = sorted({0, len(frame), *(rng.randrange(len(frame)) for _cut in range(3))})
        pieces = [frame[start:stop] for start, stop in itertools.pairwise(cuts)]
        assert not case.writer.check_and_write(pieces[::-1], chunk)
        assert case.writer.check_and_write(pieces, chunk)
    case.target.finish(case.manifest.raw_size)
    case.target.close()
    assert case.path.read_bytes() == case.raw


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_chunk_with_one_wrong_bit_is_refused_and_nothing_is_written(case: Case, place: str) -> None:
    before = case.path.read_bytes()
    for chunk in range(case.manifest.chunk_count):
        start, stop = case.manifest.stored_range(chunk)
        last = stop - 1 - CHECKSUM_SIZE  # of the chunk itself
        offset = {"first": start, "middle": (start + stop) // 2, "last": last}[place]
        case.stream[offset] ^= 0x10
        assert not case.writer.check_and_write([case.frame(chunk)], chunk)
        case.stream[offset] ^= 0x10
    assert case.path.read_bytes() == before
    assert case.writer.check_and_write([case.frame(0)], 0)
    case.target.close()


def test_the_digest_of_what_is_written_decides_for_a_chunk_that_could_not_be_compressed(case: Case) -> None:
    """Of one that was, the frame's: nothing is decompressed before it matched."""
    wrong = np.zeros_like(case.manifest.stored_digests)
    writer = ChunkWriter(case.target, dataclasses.replace(case.manifest, stored_digests=wrong))
    raw_sizes = [stop - start for start, stop in map(case.manifest.raw_range, range(case.manifest.chunk_count))]
    compressed = case.manifest.stored_sizes < raw_sizes
    assert 0 < np.count_nonzero(compressed) < case.manifest.chunk_count
    for chunk in range(case.manifest.chunk_count):
        case.stream[case.manifest.stored_range(chunk)[1] - 1] ^= 1  # zstd's checksum
        assert writer.check_and_write([case.frame(chunk)], chunk) == (not compressed[chunk])
    case.target.finish(case.manifest.raw_size)
    case.target.close()
    written = case.path.read_bytes()
    for chunk in np.flatnonzero(~compressed).tolist():
        start, stop = case.manifest.raw_range(chunk)
        assert written[start:stop] == case.raw[start:stop]


def test_a_chunk_that_came_as_it_was_made_and_contradicts_its_own_digest_is_the_images_fault(case: Case) -> None:
    before = case.path.read_bytes()
    wrong = np.zeros_like(case.manifest.raw_digests)
    writer = ChunkWriter(case.target, dataclasses.replace(case.manifest, raw_digests=wrong))
    case.stream[100] ^= 1
    assert not writer.check_and_write([case.frame(0)], 0), "this may be the network's"
    case.stream[100] ^= 1
    with pytest.raises(ImageError, match="damaged at its source: chunk 0: it does not match its own digest"):
        writer.check_and_write([case.frame(0)], 0)
    assert case.path.read_bytes() == before
    case.target.close()


def test_a_frame_that_is_not_the_chunk_is_the_images_fault_and_is_not_written(case: Case) -> None:
    """The digest matches, since whoever made the manifest lied: no repeat would help."""
    before = case.path.read_bytes()
    frame = np.frombuffer(case.frame(1), np.uint8)
    for damage in ("other size", "no frame"):
        if damage == "other size":
            manifest = dataclasses.replace(case.manifest, chunk_size=2 * CHUNK_SIZE)
        else:
            frame[:] = 7
            digests = case.manifest.stored_digests.copy()
            digests[1] = np.frombuffer(blake3.blake3(frame.tobytes()).digest(), np.uint8)
            manifest = dataclasses.replace(case.manifest, stored_digests=digests)
        writer = ChunkWriter(case.target, manifest)
        with pytest.raises(ImageError, match="the image is damaged at its source: chunk 1: "):
            writer.check_and_write([case.frame(1)], 1)
    assert case.path.read_bytes() == before
    case.target.close()


class RecordingTarget(Target):
    """A target that remembers which ranges were zeroed."""

    zeroed: list[tuple[int, int]]

    def zero(self, offset: int, length: int) -> None:
        self.zeroed.append((offset, length))
        super().zero(offset, length)


def clear(writer: ChunkWriter, zeros: npt.NDArray[np.int64]) -> None:
    for step in writer.preparing(zeros, Unused.KEEP):
        step()


def test_neighbouring_zero_chunks_are_zeroed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = empty_manifest(10 * CHUNK_SIZE - 100)
    (tmp_path / "target").write_bytes(b"\xdd" * 10 * CHUNK_SIZE)
    target = RecordingTarget.open(tmp_path / "target", raw_size=None)
    assert isinstance(target, RecordingTarget)
    target.zeroed = []
    writer = ChunkWriter(target, manifest)
    clear(writer, np.array([], np.int64))
    clear(writer, np.array([0, 2, 3, 4, 8, 9]))
    size = CHUNK_SIZE
    assert target.zeroed == [(0, size), (2 * size, 3 * size), (8 * size, 2 * size - 100)]
    target.zeroed.clear()
    monkeypatch.setattr(chunks, "RANGE_SIZE_MAX", 2 * size)
    clear(writer, np.arange(5))
    assert target.zeroed == [(0, 2 * size), (2 * size, 2 * size), (4 * size, size)]
    target.close()
    content = (tmp_path / "target").read_bytes()
    assert content[: 5 * size] == bytes(5 * size)
    assert content[5 * size : 8 * size] == b"\xdd" * 3 * size
    assert content[8 * size : manifest.raw_size] == bytes(2 * size - 100)


def test_only_zero_chunks_are_to_be_zeroed() -> None:
    manifest = empty_manifest(4 * CHUNK_SIZE)
    flags = np.array([0, FLAG_ZERO, FLAG_UNUSED, FLAG_ZERO], np.uint8)
    assert zero_chunks(dataclasses.replace(manifest, flags=flags)).tolist() == [1, 3]
    assert zero_chunks(empty_manifest(0)).tolist() == []


# --- the manifest -----------------------------------------------------------------------------------------------------


def empty_manifest(raw_size: int) -> Manifest:
    """Return a manifest that decodes, of chunks whose frames are one byte."""
    count = -(-raw_size // CHUNK_SIZE)
    return Manifest(
        image_id=bytes(16),
        name="made up",
        created=0,
        raw_size=raw_size,
        chunk_size=CHUNK_SIZE,
        source=Source(),
        stored_sizes=np.ones(count, np.uint32),
        stored_digests=np.zeros((count, limits.DIGEST_SIZE), np.uint8),
        raw_digests=np.zeros((count, limits.DIGEST_SIZE), np.uint8),
        flags=np.zeros(count, np.uint8),
    )


@pytest.mark.parametrize("raw_size", [0, 1, 300 * CHUNK_SIZE])
def test_the_manifest_that_was_announced_is_read(raw_size: int) -> None:
    data = empty_manifest(raw_size).encode()
    count = -(-raw_size // CHUNK_SIZE)
    found = read_manifest(data, manifest_digest(data), raw_size, count)
    assert found is not None
    assert (found.raw_size, found.chunk_count) == (raw_size, count)


def test_a_manifest_that_was_not_announced_is_none() -> None:
    data = empty_manifest(9 * CHUNK_SIZE).encode()
    assert read_manifest(data, bytes(32), 9 * CHUNK_SIZE, 9) is None
    damaged = bytearray(data)
    damaged[131] ^= 1
    assert read_manifest(bytes(damaged), manifest_digest(data), 9 * CHUNK_SIZE, 9) is None
    assert read_manifest(data[:-1], manifest_digest(data), 9 * CHUNK_SIZE, 9) is None


@pytest.mark.parametrize(("raw_size", "stream_size"), [(9 * CHUNK_SIZE - 1, 9), (9 * CHUNK_SIZE, 10), (0, 0)])
def test_a_manifest_that_contradicts_the_announcement_is_refused(raw_size: int, stream_size: int) -> None:
    data = empty_manifest(9 * CHUNK_SIZE).encode()
    with pytest.raises(ImageError, match="nothing was written"):
        read_manifest(data, manifest_digest(data), raw_size, stream_size)


def test_a_manifest_that_contradicts_itself_is_refused() -> None:
    data = dataclasses.replace(empty_manifest(9 * CHUNK_SIZE), raw_size=20 * CHUNK_SIZE).encode()
    with pytest.raises(ImageError, match="contradicts itself"):
        read_manifest(data, manifest_digest(data), 20 * CHUNK_SIZE, 9)
