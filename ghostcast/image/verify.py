"""Verify an image: read every chunk, check everything that can be checked, name what is damaged.

Knows chunks and their errors; must not write. The invariant: an image that passes restores exactly the bytes that it
was made of, by ghostcast and by ``zstd -d`` alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ghostcast.image.frame import FrameDecoder
from ghostcast.image.pipeline import Progress, ordered
from ghostcast.image.reader import ChunkError, ImageFile
from protocol.errors import ImageError


def verify_image(
    image: ImageFile,
    *,
    damaged: Callable[[ChunkError], None] | None = None,
    progress: Progress | None = None,
    worker_count: int | None = None,
) -> None:
    """Check every chunk: stored digest, frame, announced size, zstd checksum, raw digest.

    Zero flags need no check of their own: a manifest whose zero chunks lack the digest of zeros cannot be opened.

    Args:
        image: an open image.
        damaged: called with each damaged chunk as it is found, in order; checking goes on.
        progress: called after each chunk.
        worker_count: checking threads; one a core unless told.

    Raises:
        ImageError: chunks are damaged; the message counts them and describes the first.
    """
    manifest = image.manifest

    def make() -> Callable[[int], ChunkError | None]:
        decoder = FrameDecoder()

        def check(chunk_index: int) -> ChunkError | None:
            try:
                image.read_chunk(chunk_index, decoder)
            except ChunkError as error:
                return error
            return None

        return check

    damaged_count = 0
    first: ChunkError | None = None
    chunk_indexes = range(manifest.chunk_count)
    with contextlib.closing(ordered(chunk_indexes, make, worker_count=worker_count)) as results:
        for chunk_index, error in zip(chunk_indexes, results, strict=True):
            if error is not None:
                damaged_count += 1
                first = first or error
                if damaged is not None:
                    damaged(error)
            if progress is not None:
                progress(manifest.raw_range(chunk_index)[1], manifest.stored_range(chunk_index)[1])
    if first is not None:
        start, end = first.stored_range
        raise ImageError(
            f"{image.path}: {damaged_count} of {manifest.chunk_count} chunks are damaged; the first is chunk "
            f"{first.chunk_index} (file bytes {start} to {end}): {first.reason}; make or copy the image again"
        ) from first
