"""Goal: a walk over a source covers every byte once, reads no hole, and fails aloud when the source changes or breaks.

Method: sparse files, FIFOs fed in odd pieces, files that are cut or grow during the walk, a kernel that returns EIO.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from ghostcast.image.source import RawSource
from protocol.errors import ImageError, UsageError
from tests.lab.disks import LoopUnavailable, loop_device

CHUNK_SIZE = 4096


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was read of the source: (offset, size)."""
    seen = []
    pread = os.pread

    def record(descriptor: int, size: int, offset: int) -> bytes:
        seen.append((offset, size))
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", record)
    return seen


def content(source: RawSource) -> bytes:
    """Walk a source and put its blocks together again."""
    parts = []
    for block in source.blocks(CHUNK_SIZE, threading.Event()):
        assert block.data is None or (block.chunk_count == 1 and len(block.data) == block.chunk_size)
        parts.append(bytes(block.chunk_size * block.chunk_count) if block.data is None else bytes(block.data))
    return b"".join(parts)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 12_288, 50_001])
def test_a_file_is_walked_whole(tmp_path: Path, size: int) -> None:
    raw = os.urandom(size)
    (tmp_path / "disk").write_bytes(raw)
    with RawSource.open(tmp_path / "disk") as source:
        assert (source.kind, source.size, source.sector_size, source.use) == ("file", size, 0, None)
        assert content(source) == raw


def test_holes_are_not_read(tmp_path: Path, reads: list[tuple[int, int]]) -> None:
    path = tmp_path / "disk"
    size = (1 << 30) + 777  # a walk that read it would be noticed
    data_start = 700 << 20
    with path.open("wb") as file:
        file.write(b"start")
        file.seek(data_start)
        file.write(b"middle")
        file.truncate(size)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes")
    with RawSource.open(path) as source:
        blocks = list(source.blocks(1 << 20, threading.Event()))
    assert sum(block.chunk_size * block.chunk_count for block in blocks) == size
    assert sum(block.chunk_size for block in blocks if block.data is not None) == 2 << 20
    assert blocks[-1].chunk_size == 777
    assert {offset for offset, _ in reads} == {0, data_start}


def test_a_hole_smaller_than_a_chunk_is_read_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.seek(CHUNK_SIZE * 3)
        file.write(b"x" * 100)
        file.truncate(CHUNK_SIZE * 8 + 1)
    with RawSource.open(path) as source:
        assert content(source) == path.read_bytes()


def test_a_stream_is_cut_into_chunks_whatever_its_pieces(tmp_path: Path) -> None:
    raw = os.urandom(3 * CHUNK_SIZE + 17)
    os.mkfifo(tmp_path / "fifo")

    def feed() -> None:
        with (tmp_path / "fifo").open("wb", buffering=0) as file:
            for start in range(0, len(raw), 1001):
                file.write(raw[start : start + 1001])

    feeder = threading.Thread(target=feed)
    feeder.start()
    with RawSource.open(tmp_path / "fifo") as source:
        assert (source.kind, source.size) == ("stream", None)
        blocks = list(source.blocks(CHUNK_SIZE, threading.Event()))
    feeder.join()
    assert [block.chunk_size for block in blocks] == [CHUNK_SIZE] * 3 + [17]
    assert b"".join(block.data or b"" for block in blocks) == raw


def test_a_stream_without_a_byte_makes_no_image() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    source = RawSource(Path("-"), reading, "stream", None, 0)
    with source, pytest.raises(ImageError, match="gave not a single byte"):
        content(source)


def test_a_silent_stream_is_left_when_it_is_stopped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    stop = threading.Event()
    stop.set()
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        with RawSource.open(tmp_path / "fifo") as source:
            assert list(source.blocks(CHUNK_SIZE, stop)) == []
    finally:
        os.close(writer)


@pytest.mark.parametrize("size", [0, CHUNK_SIZE - 1, 100 * CHUNK_SIZE])
def test_a_source_that_changes_its_size_is_an_error(tmp_path: Path, size: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 10 * CHUNK_SIZE)
    with RawSource.open(path) as source:
        blocks = source.blocks(CHUNK_SIZE, threading.Event())
        next(blocks)
        os.truncate(path, size)
        with pytest.raises(ImageError, match=rf"{path}: had 40960 bytes .* now ends at byte"):
            list(blocks)


def test_a_source_cut_in_a_hole_that_is_not_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 10 * CHUNK_SIZE)
    with RawSource.open(path) as source:
        blocks = source.blocks(CHUNK_SIZE, threading.Event())
        next(blocks)
        os.truncate(path, 5 * CHUNK_SIZE)
        with pytest.raises(ImageError, match="now ends at byte 20480"):
            list(blocks)


def test_a_read_error_names_source_and_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 3 * CHUNK_SIZE)

    def fail(descriptor: int, size: int, offset: int) -> bytes:
        if offset >= CHUNK_SIZE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return b"x" * size

    monkeypatch.setattr(os, "pread", fail)
    with (
        RawSource.open(path) as source,
        pytest.raises(ImageError, match=rf"{path}: reading at byte {CHUNK_SIZE} failed: Input/output error"),
    ):
        list(source.blocks(CHUNK_SIZE, threading.Event()))


def test_a_stream_that_fails_names_the_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, buffers: list[memoryview]) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    os.mkfifo(tmp_path / "fifo")
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    os.write(writer, b"x")
    monkeypatch.setattr(os, "readv", fail)
    try:
        with RawSource.open(tmp_path / "fifo") as source, pytest.raises(ImageError, match="reading at byte 0 failed"):
            list(source.blocks(CHUNK_SIZE, threading.Event()))
    finally:
        os.close(writer)


def test_what_cannot_be_a_source_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, reason in (
        (tmp_path, "a directory"),
        (tmp_path / "missing", "No such file"),
        (Path("/dev/zero"), "a character device"),
        (tmp_path / "a\0b", "null byte"),
    ):
        with pytest.raises(UsageError, match=reason):
            RawSource.open(path)
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    with pytest.raises(UsageError, match="terminal"):
        RawSource.open(Path("-"))


def test_a_description_survives_any_file_name(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/disk\xff\xfe"))
    path.touch()
    with RawSource.open(path) as source:
        description = source.describe("riscv64", {"rack": "7"})
    assert description.path.endswith("/disk\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}")
    assert (description.kind, description.architecture, description.labels) == ("file", "riscv64", {"rack": "7"})


def test_a_block_device_knows_its_size_and_sectors(tmp_path: Path) -> None:
    raw = os.urandom(5 * CHUNK_SIZE)
    (tmp_path / "disk").write_bytes(raw)
    try:
        with loop_device(tmp_path / "disk", len(raw)) as device, RawSource.open(device) as source:
            assert (source.kind, source.size, source.sector_size) == ("block device", len(raw), 512)
            assert content(source) == raw
    except LoopUnavailable as error:
        pytest.skip(str(error))


def test_a_block_device_that_somebody_holds_is_in_use(tmp_path: Path) -> None:
    """A mount in another namespace holds it too, and nothing in /proc shows that here."""
    (tmp_path / "disk").write_bytes(bytes(5 * CHUNK_SIZE))
    try:
        with loop_device(tmp_path / "disk", 5 * CHUNK_SIZE) as device:
            held = os.open(device, os.O_RDONLY | os.O_EXCL)
            try:
                with RawSource.open(device) as source:
                    assert "cannot be seen from here" in str(source.use)
            finally:
                os.close(held)
            with RawSource.open(device) as source:
                assert source.use is None
    except LoopUnavailable as error:
        pytest.skip(str(error))


def test_a_file_whose_loop_device_somebody_holds_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(5 * CHUNK_SIZE))
    try:
        with loop_device(tmp_path / "disk", 5 * CHUNK_SIZE) as device:
            held = os.open(device, os.O_RDONLY | os.O_EXCL)
            try:
                with RawSource.open(tmp_path / "disk") as source:
                    assert f"attached as {device}, and {device} is in use" in str(source.use)
            finally:
                os.close(held)
            with RawSource.open(tmp_path / "disk") as source:
                assert source.use is None
    except LoopUnavailable as error:
        pytest.skip(str(error))
