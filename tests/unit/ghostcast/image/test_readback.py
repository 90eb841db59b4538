"""Goal: a copy is right exactly where every byte of it is the image's, whatever it lies on, and is never written to.

Method: copies of small images, changed at chosen bytes, cut and lengthened, read past the page cache and through it; a
FIFO, a directory; a disk that cannot read.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from ghostcast.image.readback import TargetReader, chunk_ranges, compare, describe_ranges, raw_bytes, right_chunks
from ghostcast.image.reader import ImageFile
from protocol.errors import TargetError
from protocol.manifest import Manifest, Source
from tests.images import CHUNK_SIZE, assemble, make_image

RAW = os.urandom(5 * CHUNK_SIZE) + bytes(3 * CHUNK_SIZE) + os.urandom(CHUNK_SIZE + 77)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    with ImageFile.open(make_image(tmp_path / "image", RAW)) as image:
        return image.manifest


def differences(copy: Path, manifest: Manifest, *, cached: bool = False) -> list[tuple[int, int]]:
    with TargetReader.open(copy) as reader:
        if cached:
            reader._direct = None
        return compare(reader, manifest)


@pytest.mark.parametrize("cached", [False, True])
def test_a_copy_differs_where_it_was_changed_and_nowhere_else(tmp_path: Path, manifest: Manifest, cached: bool) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(RAW)
    assert differences(copy, manifest, cached=cached) == []
    for place in (0, 2 * CHUNK_SIZE - 1, 6 * CHUNK_SIZE, len(RAW) - 1):
        changed = bytearray(RAW)
        changed[place] ^= 1
        copy.write_bytes(changed)
        start = place - place % CHUNK_SIZE
        expected = [(start, min(start + CHUNK_SIZE, len(RAW)))]
        assert differences(copy, manifest, cached=cached) == expected
        assert copy.read_bytes() == changed


def test_neighbours_that_differ_are_one_range(tmp_path: Path, manifest: Manifest) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(bytes(len(RAW)))
    assert differences(copy, manifest) == [(0, 5 * CHUNK_SIZE), (8 * CHUNK_SIZE, len(RAW))]


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, 4 * CHUNK_SIZE + 5, len(RAW) - 1])
def test_what_is_behind_the_end_differs(tmp_path: Path, manifest: Manifest, size: int) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(RAW[:size])
    assert differences(copy, manifest) == [(size - size % CHUNK_SIZE, len(RAW))]


def test_a_file_that_is_longer_differs_behind_the_image(tmp_path: Path, manifest: Manifest) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(RAW + b"more")
    assert differences(copy, manifest) == [(len(RAW), len(RAW) + 4)]


def test_unused_ranges_may_hold_anything(tmp_path: Path) -> None:
    raws = [b"a" * CHUNK_SIZE, b"b" * CHUNK_SIZE, b"c" * 10]
    image = tmp_path / "image"
    image.write_bytes(assemble(raws, flags=np.array([0, 2, 0], np.uint8)))
    copy = tmp_path / "copy"
    copy.write_bytes(raws[0] + bytes(CHUNK_SIZE) + raws[2])
    with ImageFile.open(image) as opened:
        assert differences(copy, opened.manifest) == []


def test_some_chunks_of_a_target_that_somebody_else_holds_open(tmp_path: Path, manifest: Manifest) -> None:
    copy = tmp_path / "copy"
    changed = bytearray(RAW)
    changed[3 * CHUNK_SIZE] ^= 0xFF
    copy.write_bytes(changed)
    with copy.open("r+b") as file:
        reader = TargetReader(copy, file.fileno(), size=None)
        assert right_chunks(reader, manifest, np.array([1, 3, 9])).tolist() == [True, False, True]
        reader.close()
        reader.close()
        assert os.fstat(file.fileno()).st_size == len(RAW)


def test_progress_ends_at_the_image(tmp_path: Path, manifest: Manifest) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(RAW)
    seen: list[int] = []
    with TargetReader.open(copy) as reader:
        compare(reader, manifest, seen.append)
    assert seen[-1] == len(RAW)


def test_a_disk_that_cannot_read_is_no_copy(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(RAW)

    def fail(descriptor: int, buffers: object, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(TargetError, match=r"reading it back failed: Input/output error"):
        differences(copy, manifest)


def test_what_is_no_disk_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(TargetError, match="neither a block device nor a file"):
            TargetReader.open(path)
    with pytest.raises(TargetError, match="cannot be opened"):
        TargetReader.open(tmp_path / "missing")


def test_ranges_for_people(manifest: Manifest) -> None:
    ranges = chunk_ranges(manifest, np.array([0, 1, 3, 5, 9]))
    assert ranges == [
        (0, 2 * CHUNK_SIZE),
        (3 * CHUNK_SIZE, 4 * CHUNK_SIZE),
        (5 * CHUNK_SIZE, 6 * CHUNK_SIZE),
        (9 * CHUNK_SIZE, len(RAW)),
    ]
    assert describe_ranges(ranges) == "bytes 0 to 8192, 12288 to 16384, 20480 to 24576, and 1 more"
    assert chunk_ranges(manifest, np.array([], np.int64)) == []


@pytest.mark.parametrize("raw_size", [0, 1, CHUNK_SIZE, 3 * CHUNK_SIZE - 1, 3 * CHUNK_SIZE])
def test_the_raw_bytes_of_chosen_chunks_are_summed(raw_size: int) -> None:
    count = -(-raw_size // CHUNK_SIZE)
    digests = np.zeros((count, 32), np.uint8)
    ones = np.ones(count, np.uint32)
    manifest = Manifest(
        bytes(16), "", 0, raw_size, CHUNK_SIZE, Source(), ones, digests, digests, np.zeros(count, np.uint8)
    )
    for pattern in range(1 << count):
        chosen = np.array([bool(pattern >> chunk & 1) for chunk in range(count)], np.bool_)
        expected = sum(stop - start for start, stop in map(manifest.raw_range, np.flatnonzero(chosen).tolist()))
        assert raw_bytes(manifest, np.flatnonzero(chosen)) == expected
