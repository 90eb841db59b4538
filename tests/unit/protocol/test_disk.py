"""Goal: a description of a disk survives the manifest, and one that would let a target lose data is refused.

Method: manifests with a description, consistent and lying one way each.
"""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from protocol.disk import DOS, GPT, Disk, Volume
from protocol.errors import ImageError
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest, Source
from tests.images import CHUNK_SIZE, digests

CHUNKS = 20
RAW_SIZE = CHUNKS * CHUNK_SIZE
VOLUME = Volume(number=1, start=CHUNK_SIZE, size=8 * CHUNK_SIZE, content="ext4", used_size=CHUNK_SIZE, label="root")
DISK = Disk(table=GPT, sector_size=512, smallest_size=10 * CHUNK_SIZE, free_size=CHUNK_SIZE, volumes=[VOLUME])


def manifest(disk: Disk | None = DISK, used: tuple[int, ...] = (0, 1, 19)) -> Manifest:
    """Return a manifest whose chunks are zero but for those used."""
    flags = np.full(CHUNKS, FLAG_ZERO, np.uint8)
    flags[list(used)] = 0
    flags[5] = FLAG_UNUSED

    raws = [bytes(CHUNK_SIZE)] * CHUNKS
    return Manifest(
        image_id=bytes(16),
        name="disk",
        created=0,
        raw_size=RAW_SIZE,
        chunk_size=CHUNK_SIZE,
        source=Source(),
        stored_sizes=np.full(CHUNKS, 20, np.uint32),
        stored_digests=digests(raws),
        raw_digests=digests(raws),
        flags=flags,
        disk=disk,
    )


def test_a_description_survives() -> None:
    read = Manifest.decode(manifest().encode())
    assert read.disk == DISK
    assert read.target_size_min == 10 * CHUNK_SIZE


def test_an_image_that_nobody_looked_into_needs_its_whole_size() -> None:
    assert manifest(None).target_size_min == RAW_SIZE
    assert b"disk\x85" not in manifest(None).encode()
    assert "disk" not in msgspec.msgpack.decode(manifest(None).encode())


def test_a_reader_of_yesterday_ignores_the_description() -> None:
    """And a reader of today what will be added to it."""
    document = msgspec.msgpack.decode(manifest().encode())
    document["disk"]["invented"] = 7
    document["disk"]["volumes"][0]["invented"] = [1, 2]
    assert Manifest.decode(msgspec.msgpack.encode(document)).disk == DISK


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"smallest_size": RAW_SIZE + 1}, "as the smallest target"),
        ({"smallest_size": 0}, "as the smallest target"),
        ({"free_size": RAW_SIZE + 1}, "contradicts itself"),
        ({"volumes": [msgspec.structs.replace(VOLUME, used_size=9 * CHUNK_SIZE)]}, "contradicts itself"),
        ({"volumes": [msgspec.structs.replace(VOLUME, start=RAW_SIZE - CHUNK_SIZE)]}, "of a disk of"),
        ({"smallest_size": CHUNK_SIZE}, "chunk 1 behind them has data"),
        ({"table": DOS}, "chunk 19 behind them has data"),
        ({"volumes": [VOLUME] * 300}, "cannot be read"),
    ],
)
def test_a_description_that_lies_is_refused(changes: dict[str, object], complaint: str) -> None:
    lying = dataclasses.replace(manifest(), disk=msgspec.structs.replace(DISK, **changes))
    with pytest.raises(ImageError, match=complaint):
        Manifest.decode(lying.encode())


def test_the_volume_that_ends_last_is_none_that_goes_around_others() -> None:
    frame = Volume(number=2, start=10, size=100, container=True)
    inner = Volume(number=5, start=20, size=50)
    assert Disk(volumes=[frame, inner]).last_volume() == inner
    assert Disk().last_volume() is None
