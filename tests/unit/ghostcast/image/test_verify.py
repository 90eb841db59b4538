"""Goal: verify names every damaged chunk, and passes nothing that would not restore.

Method: chunks damaged in the file, and images assembled whole but with frames or manifests that lie.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from ghostcast.image.reader import ChunkError, ImageFile
from ghostcast.image.verify import verify_image
from protocol.errors import ExitStatus, ImageError
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO
from tests.images import CHUNK_SIZE, assemble, digests, make_image, plain_zstd, verify

RAWS = (b"a" * CHUNK_SIZE, bytes(CHUNK_SIZE), b"c" * CHUNK_SIZE, b"the end")
compress = zstandard.ZstdCompressor(write_checksum=True).compress


def test_every_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", os.urandom(20 * CHUNK_SIZE))
    found: list[ChunkError] = []
    progress: list[int] = []
    with ImageFile.open(path) as image:
        with path.open("r+b") as file:
            for chunk_index in (3, 4, 19):
                last = image.manifest.stored_range(chunk_index)[1] - 1
                file.seek(last)
                byte = file.read(1)[0]
                file.seek(last)
                file.write(bytes([byte ^ 1]))
        start, end = image.manifest.stored_range(3)
        with pytest.raises(ImageError, match=rf"3 of 20 chunks .* chunk 3 \(file bytes {start} to {end}\)"):
            verify_image(image, damaged=found.append, progress=lambda raw, stored: progress.append(raw))
    assert [error.chunk_index for error in found] == [3, 4, 19]
    assert progress == [(chunk_index + 1) * CHUNK_SIZE for chunk_index in range(20)]  # it goes on after damage


@pytest.mark.parametrize(
    ("frames", "changes", "reason"),
    [
        pytest.param([b"no frame", *map(compress, RAWS[1:])], {}, "cannot be decompressed", id="no frame"),
        pytest.param(
            [compress(RAWS[2]), *map(compress, RAWS[1:])], {}, "raw bytes do not match", id="another chunk's frame"
        ),
        pytest.param([compress(b"short"), *map(compress, RAWS[1:])], {}, "announces 5 bytes", id="short frame"),
        pytest.param(
            [compress(RAWS[0]) + compress(b"more"), *map(compress, RAWS[1:])],
            {},
            "cannot be decompressed",
            id="two frames",
        ),
        pytest.param(
            None,
            {"stored_digests": np.zeros((4, 32), np.uint8)},
            "4 of 4 chunks are damaged.*stored bytes do not match",
            id="stored digests",
        ),
        pytest.param(
            None,
            {"raw_digests": digests([b"x", *RAWS[1:]])},
            "1 of 4 chunks are damaged.*raw bytes do not match",
            id="raw digest",
        ),
        pytest.param(
            [compress(RAWS[0]), compress(RAWS[2]), *map(compress, RAWS[2:])],
            {},
            "1 of 4 chunks are damaged.*raw bytes do not match",
            id="zero chunk with a frame of data",
        ),
        pytest.param(
            None,
            {"flags": np.array([FLAG_ZERO, FLAG_ZERO, 0, 0], np.uint8)},
            "chunk 0 zero, but",
            id="data flagged zero",
        ),
        pytest.param(
            None,
            {"flags": np.array([0, FLAG_ZERO, 0, FLAG_ZERO], np.uint8)},
            "chunk 3 zero, but",
            id="short data flagged zero",
        ),
        pytest.param(
            None,
            {"flags": np.array([0, FLAG_ZERO | FLAG_UNUSED, 0, 0], np.uint8)},
            "chunk 1 both zero and unused",
            id="zero and unused",
        ),
    ],
)
def test_an_image_that_lies_does_not_pass(
    tmp_path: Path, frames: list[bytes] | None, changes: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(assemble(RAWS, frames, **changes))
    with pytest.raises(ImageError, match=reason) as caught:
        verify(path)
    assert caught.value.exit_status == ExitStatus.IMAGE


def test_a_zero_chunk_that_is_not_flagged_passes(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(assemble(RAWS, flags=np.zeros(4, np.uint8)))
    verify(path)
    assert plain_zstd(path) == b"".join(RAWS)
