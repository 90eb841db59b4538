"""Goal: the limits of the layout hold at their extremes; its bytes are proven by the reader and golden tests.

Method: arithmetic against manifests of extreme shape, never one of full size.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ghostcast.image import layout
from protocol import limits
from protocol.manifest import Manifest, Source


def manifest(chunk_count: int, source: Source, name: str) -> Manifest:
    return Manifest(
        image_id=bytes(limits.IMAGE_ID_SIZE),
        name=name,
        created=(1 << 63) - 1,
        raw_size=chunk_count * limits.CHUNK_SIZE_MAX,
        chunk_size=limits.CHUNK_SIZE_MAX,
        source=source,
        stored_sizes=np.ones(chunk_count, np.uint32),
        stored_digests=np.zeros((chunk_count, limits.DIGEST_SIZE), np.uint8),
        raw_digests=np.zeros((chunk_count, limits.DIGEST_SIZE), np.uint8),
        flags=np.zeros(chunk_count, np.uint8),
    )


def test_the_largest_manifest_is_within_its_limit() -> None:
    text = "\N{MUSICAL SYMBOL G CLEF}" * limits.LABEL_LENGTH_MAX  # four bytes a character
    labels = {text[:-1] + chr(0x1F600 + number): text for number in range(limits.LABEL_COUNT_MAX)}
    source = Source(kind=text, path=text, host=text, architecture=text, sector_size=1 << 20, labels=labels)
    largest = manifest(0, source, text[: limits.NAME_LENGTH_MAX])
    assert Manifest.decode(largest.encode()).source == source
    overhead = 4 * 5  # longer length prefixes of the four columns
    assert len(largest.encode()) + overhead + layout.CHUNK_COUNT_MAX * layout.CHUNK_ROW_SIZE <= limits.MANIFEST_SIZE_MAX


def test_a_chunk_takes_one_row_of_the_manifest() -> None:
    sizes = [len(manifest(chunk_count, Source(), "").encode()) for chunk_count in (70_000, 70_100)]
    assert sizes[1] - sizes[0] == 100 * layout.CHUNK_ROW_SIZE


def test_raw_sizes_end_with_the_rest() -> None:
    full = manifest(3, Source(), "")
    assert layout.raw_sizes(full).tolist() == [full.chunk_size] * 3
    assert layout.raw_sizes(dataclasses.replace(full, raw_size=full.raw_size - 5)).tolist() == [
        full.chunk_size,
        full.chunk_size,
        full.chunk_size - 5,
    ]
    assert layout.raw_sizes(manifest(0, Source(), "")).tolist() == []
