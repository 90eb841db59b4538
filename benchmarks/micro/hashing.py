"""How fast is a chunk's frame checked against its digest, and how far is that from reading it?

One thread, frames of 1 MiB. *near*: one frame again and again. *far*: one of many, as they come out of the pool. The
ceiling is memcpy of the same frames; the peer is SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import blake3
import numpy as np
import numpy.typing as npt

from benchmarks.micro.measuring import Effort, Result, copy_rates, random_bytes, rates

FRAME_SIZE = 1 << 20

_DIGESTS: dict[str, Callable[[memoryview], object]] = {
    "blake3": lambda frame: blake3.blake3(frame).digest(),
    "sha256, a peer": lambda frame: hashlib.sha256(frame).digest(),
}


def measure(effort: Effort, symbol_size: int) -> Iterator[Result]:
    """Yield every result; symbols play no part."""
    for place, count in (("near", 1), ("far", max(effort.far_bytes // FRAME_SIZE, 1))):
        frames: list[npt.NDArray[np.uint8]] = list(random_bytes(count, FRAME_SIZE))
        limit = copy_rates(frames, effort)
        for name, digest in _DIGESTS.items():

            def work(
                digest: Callable[[memoryview], object] = digest, frames: list[npt.NDArray[np.uint8]] = frames
            ) -> None:
                for frame in frames:
                    digest(frame.data)

            found = rates(work, count * FRAME_SIZE, effort)
            yield Result.of("hashing", f"{name} {place}", found, "memcpy", limit)
