"""How fast do chunks reach the disk through a target, and how far is that from the disk itself?

1 MiB chunks of random bytes in page-aligned memory to a new file in the directory of temporary files (``$TMPDIR``),
until they are flushed: by one thread, and by as many as a receiver has. The ceiling is pwrite of 8 MiB at a time past
the page cache by as many threads, and fsync.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.micro.measuring import Effort, Result, random_bytes, rates
from ghostcast.image.target import Target
from ghostcast.net import libc
from receivers.workers import worker_count

CHUNK_SIZE = 1 << 20
_PIECE_SIZE = 8 << 20
_SIZE_SHARE = 4
"""Of what far figures walk through: a disk is slower than memory, and steadier."""


def measure(effort: Effort, symbol_size: int) -> Iterator[Result]:
    """Yield every result; symbols play no part."""
    size = max(effort.far_bytes * _SIZE_SHARE // _PIECE_SIZE, 1) * _PIECE_SIZE
    with tempfile.TemporaryDirectory(prefix="ghostcast-bench-") as directory:
        view = libc.fresh_pages(_PIECE_SIZE)
        view[:] = random_bytes(_PIECE_SIZE).tobytes()
        path = Path(directory, "target")
        for threads in (1, worker_count()):
            with ThreadPoolExecutor(threads) as pool:
                limit = rates(_bare(path, view, size, pool), size, effort, lambda: path.unlink(missing_ok=True))
                found = rates(_target(path, view, size, pool), size, effort, lambda: path.unlink(missing_ok=True))
                yield Result.of("write", f"{threads} threads", found, "disk: pwrite, fsync", limit)


def _target(path: Path, view: memoryview, size: int, pool: ThreadPoolExecutor) -> Callable[[], None]:
    chunk = view[:CHUNK_SIZE]

    def work() -> None:
        with Target.open(path, raw_size=size) as target:
            target.begin(size)
            list(pool.map(lambda offset: target.write(offset, chunk), range(0, size, CHUNK_SIZE)))
            target.finish(size)

    return work


def _bare(path: Path, view: memoryview, size: int, pool: ThreadPoolExecutor) -> Callable[[], None]:
    def work() -> None:
        flags = os.O_RDWR | os.O_CREAT
        try:
            descriptor = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
        except OSError:  # this file system has no way past the page cache
            descriptor = os.open(path, flags, 0o600)
        try:
            os.ftruncate(descriptor, size)
            list(pool.map(lambda offset: os.pwrite(descriptor, view, offset), range(0, size, _PIECE_SIZE)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    return work
