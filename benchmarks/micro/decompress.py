"""How fast do frames become chunks again, and how far is that from copying the chunks?

GB/s of raw bytes, one thread, 1 MiB chunks at the level that images are made with, into page-aligned memory as before a
write. *files*: of the Python that runs this, which compress as disks do. *random*: what cannot be compressed, and is
copied without a look at zstd's checksum, for a receiver then compares the chunk's digest. The ceiling is memcpy of the
raw bytes; the peer is the zstandard library's own call into memory of its own.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zstandard

from benchmarks.micro.measuring import Effort, Result, copy_rates, random_bytes, rates
from ghostcast.image.frame import FrameDecoder, FrameEncoder, copy_stored, stored_blocks
from ghostcast.net import libc

CHUNK_SIZE = 1 << 20


def measure(effort: Effort, symbol_size: int) -> Iterator[Result]:
    """Yield every result; symbols play no part."""
    count = max(effort.far_bytes // CHUNK_SIZE // 2, 1)
    decoder, library, page = FrameDecoder(), zstandard.ZstdDecompressor(), libc.fresh_pages(CHUNK_SIZE)
    for content, chunks in (("files", _file_chunks(count)), ("random", list(random_bytes(count, CHUNK_SIZE)))):
        encoder = FrameEncoder()
        frames = [encoder.encode(chunk.tobytes()) for chunk in chunks]
        share = sum(map(len, frames)) / (len(chunks) * CHUNK_SIZE)

        def into_page(frames: list[bytes] = frames) -> None:
            for frame in frames:
                start = stored_blocks(frame, CHUNK_SIZE)
                if start is None:
                    decoder.decode_into(frame, page)
                else:
                    copy_stored(frame, start, page)

        def at_once(frames: list[bytes] = frames) -> None:
            for frame in frames:
                library.decompress(frame, max_output_size=CHUNK_SIZE)

        limit = copy_rates(chunks, effort)
        for what, work in (("", into_page), (", zstandard at once, a peer", at_once)):
            found = rates(work, len(chunks) * CHUNK_SIZE, effort)
            yield Result.of("decompress", f"{content} ({1 / share:.2f}:1){what}", found, "memcpy", limit)


def _file_chunks(count: int) -> list[npt.NDArray[np.uint8]]:
    """Return chunks full of files, one after another; the same files again where there are too few."""
    collected = bytearray()
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    while len(collected) < count * CHUNK_SIZE:
        for path in paths:
            collected += path.read_bytes()
            if len(collected) >= count * CHUNK_SIZE:
                break
    return list(np.frombuffer(bytes(collected[: count * CHUNK_SIZE]), np.uint8).reshape(count, CHUNK_SIZE))
