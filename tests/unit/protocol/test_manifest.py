"""Goal: a manifest comes back as it went in, and none that contradicts itself is accepted.

Method: a small valid one, its msgpack edited one field at a time.
"""

from __future__ import annotations

import dataclasses

import blake3
import msgspec
import numpy as np
import pytest

from protocol import limits
from protocol.errors import ImageError
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest, Source, manifest_digest
from protocol.match import MatchRule

CHUNK = limits.CHUNK_SIZE_MIN
RAW_SIZE = 3 * CHUNK + 100


def manifest() -> Manifest:
    raw_digests = np.arange(128, dtype=np.uint8).reshape(4, 32)
    raw_digests[1] = np.frombuffer(blake3.blake3(bytes(CHUNK)).digest(), np.uint8)
    return Manifest(
        image_id=bytes(range(16)),
        name="small",
        created=1_700_000_000,
        raw_size=RAW_SIZE,
        chunk_size=CHUNK,
        source=Source(kind="file", labels={"os": "debian"}),
        stored_sizes=np.array([10, 20, 30, 40], np.uint32),
        stored_digests=np.arange(128, 256, dtype=np.uint8).reshape(4, 32),
        raw_digests=raw_digests,
        flags=np.array([0, FLAG_ZERO, FLAG_UNUSED, 0], np.uint8),
    )


def edited(**fields: object) -> bytes:
    document = msgspec.msgpack.decode(manifest().encode())
    return msgspec.msgpack.encode(document | fields)


def test_a_manifest_comes_back_as_it_went_in() -> None:
    before = manifest()
    after = Manifest.decode(before.encode())
    assert after.encode() == before.encode()
    assert manifest_digest(before.encode()) == blake3.blake3(before.encode()).digest()
    assert after.source == before.source
    for column in ("stored_sizes", "stored_digests", "raw_digests", "flags"):
        assert np.array_equal(getattr(after, column), getattr(before, column))


def test_a_match_rule_comes_back_and_none_takes_no_byte() -> None:
    rule = MatchRule(vendors=("Dell*",), memory_size_min=8 << 30)
    assert Manifest.decode(dataclasses.replace(manifest(), match=rule).encode()).match == rule
    assert "match" not in msgspec.msgpack.decode(manifest().encode())
    assert Manifest.decode(edited(match={"vendors": ["a"], "colour": "red"}, unheard_of=1)).match.vendors == ("a",)


def test_what_follows_from_the_columns() -> None:
    image = manifest()
    assert image.chunk_count == 4
    assert image.stored_offsets.tolist() == [0, 10, 30, 60, 100]
    assert image.stream_size == 100
    assert image.transferred.tolist() == [True, False, False, True]
    assert image.raw_range(3) == (3 * CHUNK, RAW_SIZE)
    assert image.stored_range(1) == (10, 30)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"format": 2}, "this version reads format 1"),
        ({"chunk_size": CHUNK + 1}, "is not a multiple"),
        ({"chunk_size": CHUNK // 2}, "cannot be read"),
        ({"chunk_size": 2 * limits.CHUNK_SIZE_MAX}, "cannot be read"),
        ({"raw_size": RAW_SIZE + CHUNK}, "contradicts itself"),
        ({"raw_size": -1}, "cannot be read"),
        ({"raw_size": limits.RAW_SIZE_MAX}, "contradicts itself"),
        ({"stored_sizes": bytes(15)}, "column stored_sizes"),
        ({"stored_sizes": bytes(16)}, "frame of no bytes"),
        ({"stored_sizes": b"\xff" * 16}, "compresses to more"),
        ({"stored_digests": bytes(127)}, "column stored_digests"),
        ({"raw_digests": b""}, "column raw_digests"),
        ({"flags": bytes([0, 0, 0, 4])}, "does not know"),
        ({"flags": bytes([0, 3, 0, 0])}, "both zero and unused"),
        ({"flags": bytes([1, 0, 0, 0])}, "calls chunk 0 zero"),
        ({"flags": bytes([0, 1, 0, 1])}, "calls chunk 3 zero"),
        ({"image_id": bytes(15)}, "cannot be read"),
        ({"name": "x" * 129}, "cannot be read"),
        ({"match": {"memory_size_min": -1}}, "cannot be read"),
        ({"source": {"labels": {str(n): "" for n in range(65)}}}, "cannot be read"),
    ],
)
def test_a_contradiction_is_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        Manifest.decode(edited(**fields))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xc1", b"\x90" * 10_000, b"x" * (limits.MANIFEST_SIZE_MAX + 1)])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        Manifest.decode(data)


def test_the_short_last_chunk_may_be_zero() -> None:
    image = manifest()
    raw_digests = image.raw_digests.copy()
    raw_digests[3] = np.frombuffer(blake3.blake3(bytes(100)).digest(), np.uint8)
    Manifest.decode(edited(flags=bytes([0, 1, 0, 1]), raw_digests=raw_digests.tobytes()))


def test_an_empty_image_has_a_manifest() -> None:
    empty = Manifest.decode(edited(raw_size=0, stored_sizes=b"", stored_digests=b"", raw_digests=b"", flags=b""))
    assert empty.chunk_count == empty.stream_size == 0
    assert empty.transferred.tolist() == []
