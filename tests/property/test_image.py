"""Goal: any disk comes back byte for byte; anything else is an ImageError, or did no harm.

Method: hypothesis draws disks (sparse, short, empty), chunk sizes, and damage: flipped bits, cuts, splices, arbitrary
files, and manifests that lie but carry the right digest. Whatever ``open``, ``verify`` and ``extract`` then say, bytes
that were restored must be the disk's.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ghostcast.image import layout
from ghostcast.image.reader import ImageFile
from protocol import limits
from protocol.errors import ImageError
from protocol.manifest import Manifest
from tests.images import CHUNK_SIZE, assemble, extract, make_image, plain_zstd, verify

RAWS = (b"some text, " * 372 + b"1234", bytes(CHUNK_SIZE), bytes(range(256)) * 16, b"the end")
DISK = b"".join(RAWS)
WHOLE = assemble(RAWS)
TAIL_START = WHOLE.index(layout.MANIFEST_MAGIC.to_bytes(4, "little"))

settings.register_profile("image", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
image_settings = settings(settings.get_profile("image"), max_examples=100)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: each example flushes to disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ghostcast-", dir=memory) as name:
        yield Path(name)


@st.composite
def disks(draw: st.DrawFn) -> bytes:
    """Pieces of noise and of nothing, of sizes that are a multiple of nothing."""
    piece = st.one_of(
        st.integers(0, 40_000).map(bytes),
        st.binary(max_size=300),
        st.tuples(st.binary(min_size=1, max_size=8), st.integers(1, 3000)).map(lambda pair: pair[0] * pair[1]),
        st.sampled_from([CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1]).map(lambda size: b"\x55" * size),
    )
    return b"".join(draw(st.lists(piece, max_size=5)))


def check_harmless(path: Path, data: bytes, disk: bytes = DISK) -> None:
    """Whatever is wrong with these bytes, they are refused, or restore the disk."""
    path.write_bytes(data)
    restored = None
    try:
        restored = extract(path, path.with_name("restored"))
    except ImageError:
        pass
    else:
        assert restored == disk
    try:
        verify(path)
    except ImageError:
        return
    assert restored == disk  # what passes verify restores, by us and by others
    assert plain_zstd(path) == disk


@given(disk=disks(), chunk_size=st.sampled_from([4096, 8192, 20_480]), level=st.sampled_from([1, 3, 12]))
@example(disk=b"", chunk_size=4096, level=3)
@example(disk=b"\0", chunk_size=4096, level=3)
@image_settings
def test_any_disk_comes_back(folder: Path, disk: bytes, chunk_size: int, level: int) -> None:
    path = make_image(folder / "image", disk, chunk_size=chunk_size, level=level)
    verify(path)
    assert extract(path, folder / "restored") == disk
    assert plain_zstd(path) == disk
    with ImageFile.open(path) as image:
        manifest = image.manifest
    chunks = [disk[start : start + chunk_size] for start in range(0, len(disk), chunk_size)]
    assert manifest.transferred.tolist() == [any(chunk) for chunk in chunks]


@given(data=st.data())
@image_settings
def test_a_sparse_file_comes_back(folder: Path, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 50 * CHUNK_SIZE))
    writes = data.draw(st.lists(st.tuples(st.integers(0, size), st.binary(max_size=5000)), max_size=5))
    source = folder / "image.raw"
    source.unlink(missing_ok=True)
    with source.open("wb") as file:
        for offset, content in writes:
            file.seek(offset)
            file.write(content)
        file.truncate(size)
    disk = source.read_bytes()
    path = make_image(folder / "image", disk)
    assert extract(path, folder / "restored") == disk


@given(bit=st.integers(0, len(WHOLE) * 8 - 1))
@image_settings
def test_a_flipped_bit_is_found_or_harmless(folder: Path, bit: int) -> None:
    data = bytearray(WHOLE)
    data[bit // 8] ^= 1 << bit % 8
    check_harmless(folder / "image", bytes(data))
    with pytest.raises(ImageError):  # harmless to extract, if it hit a zero chunk's frame; never unnoticed by verify
        verify(folder / "image")


@given(size=st.integers(0, len(WHOLE) - 1))
@image_settings
def test_a_cut_is_found(folder: Path, size: int) -> None:
    (folder / "image").write_bytes(WHOLE[:size])
    with pytest.raises(ImageError):
        ImageFile.open(folder / "image")


@given(start=st.integers(0, len(WHOLE)), end=st.integers(0, len(WHOLE)), other=st.binary(max_size=200))
@image_settings
def test_a_splice_is_found_or_harmless(folder: Path, start: int, end: int, other: bytes) -> None:
    check_harmless(folder / "image", WHOLE[:start] + other + WHOLE[end:])


@given(data=st.one_of(st.binary(max_size=1000), st.binary(max_size=500).map(lambda noise: noise + WHOLE[TAIL_START:])))
@image_settings
def test_any_other_file_is_refused(folder: Path, data: bytes) -> None:
    (folder / "image").write_bytes(data)
    with pytest.raises(ImageError):
        verify(folder / "image")


@given(noise=st.binary(max_size=300))
@image_settings
def test_any_manifest_with_the_right_digest_is_refused_or_read(folder: Path, noise: bytes) -> None:
    frame = layout.encode_manifest_frame(noise)
    table = layout.encode_seek_table(np.array([[len(frame), 0]], np.uint32))
    check_harmless(folder / "image", frame + table, b"")


def lies() -> st.SearchStrategy[dict[str, Any]]:
    """Fields of the manifest with another value than the truth, which is ``WHOLE``'s."""
    counts = st.sampled_from([4, 4, 4, 3, 5])
    flag = st.sampled_from([0, 0, 1, 2, 3, 128])
    flags = counts.flatmap(lambda count: st.lists(flag, min_size=count, max_size=count))
    size = st.integers(0, 5000)
    sizes = counts.flatmap(lambda count: st.lists(size, min_size=count, max_size=count))
    rows = counts.flatmap(lambda count: st.binary(min_size=count * 32, max_size=count * 32))
    digests = rows.map(lambda data: np.frombuffer(data, np.uint8).reshape(-1, limits.DIGEST_SIZE))
    return st.fixed_dictionaries(
        {},
        optional={
            "raw_size": st.integers(0, 5 * CHUNK_SIZE),
            "chunk_size": st.sampled_from([4096, 8192, 16_384, 5000]),
            "flags": flags.map(lambda rows: np.array(rows, np.uint8)),
            "stored_sizes": sizes.map(lambda rows: np.array(rows, np.uint32)),
            "stored_digests": digests,
            "raw_digests": digests,
        },
    )


@given(changes=lies(), retable=st.booleans())
@image_settings
def test_a_manifest_that_lies_is_found_or_harmless(folder: Path, changes: dict[str, Any], retable: bool) -> None:
    """With a seek table that tells the same lie, or the truth."""
    path = folder / "image"
    path.write_bytes(WHOLE)
    with ImageFile.open(path) as image:
        truth = image.manifest
    lie = dataclasses.replace(truth, **changes)
    frame = layout.encode_manifest_frame(lie.encode())
    entries = np.zeros((truth.chunk_count + 1, 2), np.uint32)
    entries[:-1, 0], entries[:-1, 1] = truth.stored_sizes, layout.raw_sizes(truth)
    if retable and lie.chunk_count == truth.chunk_count and lie.raw_size > 3 * lie.chunk_size:
        entries[:-1, 0], entries[:-1, 1] = lie.stored_sizes, np.minimum(layout.raw_sizes(lie), lie.chunk_size)
    entries[-1, 0] = len(frame)
    data = WHOLE[: truth.stream_size] + frame + layout.encode_seek_table(entries)
    if any(flag & 2 for flag in lie.flags.tolist()):  # "unused" may not be a lie: nobody can tell from the bytes
        return
    check_harmless(path, data)


@given(noise=st.binary(max_size=2000))
@settings(deadline=None, max_examples=300)
def test_arbitrary_bytes_as_a_manifest_are_refused(noise: bytes) -> None:
    with pytest.raises(ImageError):
        Manifest.decode(noise)
