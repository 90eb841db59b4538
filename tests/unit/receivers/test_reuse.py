"""Goal: what a target holds is found, and blank and foreign ones are told by a sample.

Method: the look at a target driven by hand, piece by piece, over files that hold all, some or nothing of an image.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from ghostcast.image import readback
from ghostcast.image.readback import TargetReader
from ghostcast.image.reader import ImageFile
from protocol.manifest import Manifest
from receivers.copy import Copy
from receivers.reuse import BLANK_PROBE_SIZE, Reuse, ReusePolicy, looks_blank, sample
from tests.images import CHUNK_SIZE, make_image

CHUNKS = 300
RAW = os.urandom(CHUNKS * CHUNK_SIZE - 7)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    with ImageFile.open(make_image(tmp_path / "image", RAW)) as image:
        return image.manifest


def look(reuse: Reuse, copy: Copy) -> tuple[set[int], int]:
    """Do all the work there is; returns the chunks found and the bytes read."""
    found: set[int] = set()
    read = 0
    while (scan := reuse.scan) is not None:
        for job in scan.take_jobs(2):
            compared = job()
            read += len(compared.chunks) * CHUNK_SIZE
            chunks = reuse.take(compared)
            copy.right[chunks] = True
            found.update(chunks.tolist())
    assert not reuse.checking
    return found, read


def looked(manifest: Manifest, target: Path, held: bytes, policy: ReusePolicy = ReusePolicy.AUTO) -> set[int]:
    target.write_bytes(held)
    copy = Copy(manifest)
    with TargetReader.open(target) as reader:
        return look(Reuse(copy, reader, policy), copy)[0]


def test_a_sample_is_spread_and_dense_at_the_front() -> None:
    chosen = sample(np.arange(1000, 5000)).tolist()
    assert chosen == sorted(set(chosen))
    assert {1000, 1001, 1003, 1007, 4999} <= set(chosen)
    assert len(chosen) < 30
    assert max(np.diff(chosen)) <= 1 + 4000 / 15
    for few in (0, 1, 2, 3):
        assert sample(np.arange(few)).tolist() == list(range(few))


@pytest.mark.parametrize("count", [1, 2, 9, 150, CHUNKS])
def test_what_an_interrupted_run_wrote_is_found(tmp_path: Path, manifest: Manifest, count: int) -> None:
    assert looked(manifest, tmp_path / "target", RAW[: count * CHUNK_SIZE]) == set(range(count))


def test_an_older_version_is_found_but_for_what_changed(tmp_path: Path, manifest: Manifest) -> None:
    old = bytearray(RAW)
    for chunk in (0, 5, 250):
        old[chunk * CHUNK_SIZE] ^= 1
    assert looked(manifest, tmp_path / "target", bytes(old)) == set(range(CHUNKS)) - {0, 5, 250}


def test_a_foreign_target_costs_a_sample(tmp_path: Path, manifest: Manifest) -> None:
    target, copy = tmp_path / "target", Copy(manifest)
    target.write_bytes(os.urandom(len(RAW)))
    with TargetReader.open(target) as reader:
        found, read = look(Reuse(copy, reader, ReusePolicy.AUTO), copy)
    assert not found
    assert read < len(RAW) / 8
    assert copy.unchecked is not None
    assert not len(copy.unchecked)


def test_one_chunk_in_the_middle_is_found_only_if_it_was_asked_for(tmp_path: Path, manifest: Manifest) -> None:
    chunk = next(chunk for chunk in range(100, 200) if chunk not in sample(np.arange(CHUNKS)))
    held = bytes(chunk * CHUNK_SIZE) + RAW[chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE]
    assert looked(manifest, tmp_path / "target", held) == set()
    assert looked(manifest, tmp_path / "target", held, ReusePolicy.ALWAYS) == {chunk}
    assert looked(manifest, tmp_path / "target", RAW, ReusePolicy.NEVER) == set()


def test_what_was_written_meanwhile_is_no_sign_of_an_older_copy(tmp_path: Path, manifest: Manifest) -> None:
    target, copy = tmp_path / "target", Copy(manifest)
    target.write_bytes(RAW)
    copy.touched[:] = True
    with TargetReader.open(target) as reader:
        assert look(Reuse(copy, reader, ReusePolicy.AUTO), copy)[0] == set()


def test_a_second_session_goes_on_where_the_first_was_broken_off(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readback, "BATCH_SIZE", 16 * CHUNK_SIZE)
    target, copy = tmp_path / "target", Copy(manifest)
    target.write_bytes(RAW)
    with TargetReader.open(target) as reader:
        first = Reuse(copy, reader, ReusePolicy.ALWAYS)
        assert first.scan is not None
        (job,) = first.scan.take_jobs(1)
        copy.right[first.take(job())] = True
        second = Reuse(copy, reader, ReusePolicy.ALWAYS)
        assert second.scan is not None
        assert second.scan.bytes_total == len(RAW) - 16 * CHUNK_SIZE
        look(second, copy)
        assert copy.right.all()
        assert not Reuse(copy, reader, ReusePolicy.ALWAYS).checking
    assert copy.reused_count == CHUNKS
    assert copy.bytes_done == len(RAW)


def test_a_place_that_cannot_be_read_is_one_to_fetch(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TargetReader.read

    def read(reader: TargetReader, offset: int, size: int) -> memoryview:
        if offset == 7 * CHUNK_SIZE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(reader, offset, size)

    monkeypatch.setattr(TargetReader, "read", read)
    assert looked(manifest, tmp_path / "target", RAW) == set(range(CHUNKS)) - {7}


def test_what_looks_blank(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for held, blank in (
        (bytes(10 * BLANK_PROBE_SIZE), True),
        (b"x" + bytes(10 * BLANK_PROBE_SIZE), False),
        (bytes(10 * BLANK_PROBE_SIZE) + b"x", False),
        (bytes(5), True),
        (b"abc", False),
    ):
        target.write_bytes(held)
        with TargetReader.open(target) as reader:
            assert looks_blank(reader, len(held)) is blank
