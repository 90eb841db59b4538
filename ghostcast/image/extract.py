"""Restore an image to a file or a block device.

Knows which chunk goes where; ``target`` knows how it gets there. The invariant: no byte is written that did not match
its digests, and a restore that failed does not look complete: a file keeps its old content (the new one was under a
temporary name), a device starts with zeros where its partition table would be.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ghostcast.image import layout
from ghostcast.image.fit import Fit
from ghostcast.image.frame import FrameDecoder
from ghostcast.image.pipeline import Progress, ordered
from ghostcast.image.readback import chunk_ranges
from ghostcast.image.reader import ImageFile
from ghostcast.image.target import Target
from ghostcast.image.unused import Unused, treat_unused
from ghostcast.net import libc
from protocol.errors import ImageError, TargetError
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest

_ZERO_RUN_SIZE_MAX = 256 << 20
"""Most bytes that one call zeroes: a device without a zeroing command takes seconds for so much."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One chunk with data, or neighbouring zero chunks, or neighbouring unused ones; half-open."""

    chunk_start: int
    chunk_end: int
    flag: int


def extract_image(
    image: ImageFile,
    path: Path,
    *,
    force: bool = False,
    unused: Unused = Unused.KEEP,
    grow: bool = False,
    progress: Progress | None = None,
    worker_count: int | None = None,
) -> list[str]:
    """Restore ``image`` to ``path``.

    Args:
        image: an open image.
        path: a block device, written in place; or a file, which appears when it is complete.
        force: replace a file that is there already. A device needs no force.
        unused: what becomes of the ranges that no file system uses.
        grow: make the last partition as large as the device allows.
        progress: called after each run of chunks.
        worker_count: threads that decompress and write; one a core unless told.

    Returns:
        what a person should know about how the disk was fitted to the target.

    Raises:
        TargetError: the target was refused, or writing failed.
        ImageError: a chunk is damaged; the target is not complete.
    """
    manifest = image.manifest
    with _open_target(image, path, force) as target:
        fit = Fit(target, manifest, grow=grow)
        target.require(manifest.target_size_min, _data_size(manifest))
        fit.check()
        target.begin(manifest.raw_size, manifest.second_table_size)
        for start, stop in chunk_ranges(manifest, np.flatnonzero(manifest.transferred)):
            target.reserve(start, stop - start)
        restore = _Restore(image, target, unused, progress, worker_count)
        try:
            if target.is_block_device and manifest.chunk_count and not manifest.flags[0] & FLAG_UNUSED:
                # The start of the disk comes last, when all else is on it: no partition table, no half-restored system.
                target.zero(*_extent(manifest, 0, 1))
                restore.run(_runs(manifest, 1, manifest.chunk_count))
                target.sync()
                restore.run(_runs(manifest, 0, 1))
            else:
                restore.run(_runs(manifest, 0, manifest.chunk_count))
        except ImageError as error:
            if target.is_block_device:
                raise ImageError(f"{error}; {path} is written in part only and starts with zeros") from error
            raise
        target.finish(manifest.raw_size)
        return fit.apply()


class _Restore:
    """Copies runs of chunks, on all cores, and counts what is done."""

    def __init__(
        self,
        image: ImageFile,
        target: Target,
        unused: Unused,
        progress: Progress | None,
        worker_count: int | None,
    ) -> None:
        self._image = image
        self._target = target
        self._unused = unused
        self._progress = progress
        self._worker_count = worker_count
        self._raw_done = 0
        self._stored_done = 0

    def run(self, runs: Iterator[_Run]) -> None:
        """Bring all of ``runs`` to the target."""
        manifest = self._image.manifest
        with contextlib.closing(ordered(runs, self._make_copy, worker_count=self._worker_count)) as done:
            for run in done:
                self._raw_done += _extent(manifest, run.chunk_start, run.chunk_end)[1]
                offsets = manifest.stored_offsets
                self._stored_done += int(offsets[run.chunk_end] - offsets[run.chunk_start])
                if self._progress is not None:
                    self._progress(self._raw_done, self._stored_done)

    def _make_copy(self) -> Callable[[_Run], _Run]:
        decoder = FrameDecoder()
        # Writes past the page cache need memory that starts on a page. The copy costs less than the page cache, whose
        # lock the workers would fight for (measured: 0.10 s of system time instead of 0.40 s for 500 MB).
        page_aligned = libc.fresh_pages(self._image.manifest.chunk_size)

        def copy(run: _Run) -> _Run:
            offset, size = _extent(self._image.manifest, run.chunk_start, run.chunk_end)
            if run.flag == FLAG_ZERO:
                if self._target.is_block_device:  # a new file is one hole already
                    self._target.zero(offset, size)
            elif run.flag == FLAG_UNUSED:
                if self._target.is_block_device:  # a new file is one hole already
                    treat_unused(self._target, self._unused, offset, size)
            else:
                page_aligned[:size] = self._image.read_chunk(run.chunk_start, decoder)
                self._target.write(offset, page_aligned[:size], run.chunk_start)
                self._target.start_writeback(offset, size)
            return run

        return copy


def _open_target(image: ImageFile, path: Path, force: bool) -> Target:
    try:
        status = os.stat(path)
    except OSError:
        return Target.open_replacement(path)  # missing, or refused there with the reason
    if not stat.S_ISREG(status.st_mode):
        return Target.open(path, raw_size=image.manifest.target_size_min)
    if os.path.samestat(status, os.fstat(image.fileno())):
        raise TargetError(f"{path}: is the image itself; name another file for the disk")
    if not force:
        raise TargetError(f"{path}: exists already; use --force to replace it, or name another file")
    return Target.open_replacement(path)


def _extent(manifest: Manifest, chunk_start: int, chunk_end: int) -> tuple[int, int]:
    """Return offset and size of the raw bytes of the chunks ``[chunk_start, chunk_end)``."""
    offset = manifest.raw_range(chunk_start)[0]
    return offset, manifest.raw_range(chunk_end - 1)[1] - offset


def _data_size(manifest: Manifest) -> int:
    """Return how many raw bytes the chunks that are neither zero nor unused have."""
    return int(layout.raw_sizes(manifest)[manifest.transferred].sum(dtype=np.int64))


def _runs(manifest: Manifest, chunk_start: int, chunk_end: int) -> Generator[_Run, None, None]:
    longest = max(1, _ZERO_RUN_SIZE_MAX // manifest.chunk_size)
    flags = manifest.flags.tobytes()
    while chunk_start < chunk_end:
        flag = flags[chunk_start]
        end = chunk_start + 1
        while flag and end < min(chunk_end, chunk_start + longest) and flags[end] == flag:
            end += 1
        yield _Run(chunk_start, end, flag)
        chunk_start = end
