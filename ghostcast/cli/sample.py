"""A sample disk for the demo: compressible, random, zero and sparse parts, the same for the same size."""

from __future__ import annotations

from pathlib import Path

import blake3
import numpy as np

from protocol.limits import MIB

PIECE_SIZE = MIB


def write_sample(path: Path, size: int) -> bytes:
    """Write a sample disk of ``size`` bytes and return its BLAKE3 digest.

    Pieces of 1 MiB cycle through text-like, random, written zeros and holes, so that every kind of chunk occurs.
    """
    rng = np.random.default_rng(size)
    words = rng.integers(97, 123, (512, 8), np.uint8)
    with path.open("wb") as disk:
        for number, offset in enumerate(range(0, size, PIECE_SIZE)):
            length = min(PIECE_SIZE, size - offset)
            kind = number // 4 % 4
            if kind == 3:
                disk.seek(length, 1)
                continue
            if kind == 0:
                piece = words[rng.integers(0, 512, PIECE_SIZE // 8)].reshape(-1)[:length]
            elif kind == 1:
                piece = rng.integers(0, 256, length, np.uint8)
            else:
                piece = np.zeros(length, np.uint8)
            disk.write(piece.data)
        disk.truncate(size)
    return file_digest(path)


def file_digest(path: Path) -> bytes:
    """Return the BLAKE3 digest of a file's content."""
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    buffer = bytearray(8 * MIB)
    with path.open("rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            hasher.update(memoryview(buffer)[:count])
    return hasher.digest()
