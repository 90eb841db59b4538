"""Where the raw bytes of a new image come from: a file, a block device, or a stream.

Knows how to walk a source once, from start to end; must not know frames or images. The invariant: the blocks that
``blocks`` yields cover the source without a gap or an overlap, or it raises: a source that shrinks or grows while it is
read, or that fails to read, never makes an image.
"""

from __future__ import annotations

import errno
import itertools
import os
import platform
import select
import stat
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np

from ghostcast.disk import kernel
from ghostcast.disk.survey import InUse, Survey, block_device_in_use, spare_range, survey
from ghostcast.disk.usage import NO_RANGES
from ghostcast.image import in_use
from protocol import limits
from protocol.disk import Disk
from protocol.errors import ImageError, UsageError
from protocol.manifest import Source

STREAM_PATH = Path("-")
"""Standard input."""

_STREAM_POLL_MS = 200
"""How long a read of a silent stream goes on after the image was given up."""

_HOLE_CHUNKS_MAX = 1024
"""Most chunks of one hole in one block, so that progress stays visible and the writer's batch small (45 KiB)."""


@dataclass(frozen=True, slots=True)
class Block:
    """One data chunk, or a run of hole chunks of the same size."""

    chunk_size: int
    """Raw size of each chunk of the block, in bytes; only the source's last chunk is a short one."""
    chunk_count: int
    data: bytes | bytearray | None
    """The raw bytes of the one chunk; None for holes and unused chunks, which were not even read."""
    unused: bool = False
    """Whether no file system uses any byte of it."""


class RawSource:
    """An open source, good for one walk."""

    def __init__(self, path: Path, descriptor: int, kind: str, size: int | None, sector_size: int) -> None:
        """Take over an open descriptor; use ``open``."""
        self.path = path
        self.kind = kind
        """``file``, ``block device`` or ``stream``."""
        self.size = size
        """Bytes; None for a stream, which is as long as it is."""
        self.sector_size = sector_size
        """Logical sector size in bytes; 0 where the source has none."""
        self.use = self._find_use(descriptor)
        """Who uses a device, or a file as one, and so may write to it while it is read; None if nobody does."""
        self._descriptor = descriptor
        self._disk: Disk | None = None
        self._free = NO_RANGES
        self._spare = (0, 0)
        self._spare_used = False
        self.shown_path = path
        """Where the disk comes from, as people know it: not always the file that is read."""
        self.at_start: Callable[[bytes | bytearray], None] | None = None
        """Called with the first bytes of a stream; may refuse them."""
        self.at_end: Callable[[], None] | None = None
        """Called when a stream has ended; may refuse to take that for the end of the disk."""

    @classmethod
    def open(cls, path: Path) -> RawSource:
        """Open a file, a block device, a FIFO, or standard input (``-``).

        Raises:
            UsageError: missing, not permitted, a directory or a character device; standard input is a terminal.
        """
        if path == STREAM_PATH:
            if os.isatty(0):
                raise UsageError("- reads a disk from standard input, which is a terminal: pipe or redirect one in")
            return cls(path, os.dup(0), "stream", None, 0)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"{path}: cannot be opened as a source: {reason}") from error
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode):
                return cls(path, descriptor, "file", os.fstat(descriptor).st_size, 0)
            if stat.S_ISBLK(mode):
                size = os.lseek(descriptor, 0, os.SEEK_END)
                kernel.drop_cache(descriptor)
                return cls(path, descriptor, "block device", size, kernel.sector_size(descriptor))
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                return cls(path, descriptor, "stream", None, 0)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        found = "a directory" if stat.S_ISDIR(mode) else "a character device"
        raise UsageError(f"{path}: is {found}; a source is a file, a block device, or - for standard input")

    def __enter__(self) -> RawSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the source; closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """Return the descriptor, for a program that reads the source in our place."""
        return self._descriptor

    def is_file(self, path: Path) -> bool:
        """Tell whether ``path`` names this very file or device."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))
        except OSError:
            return False

    def describe(self, architecture: str, labels: dict[str, str]) -> Source:
        """Return the description that the manifest carries."""
        # A file name may hold any byte; msgpack's strings may not.
        path = os.fsencode(self.shown_path if self.shown_path == STREAM_PATH else self.shown_path.absolute()).decode(
            "utf-8", "replace"
        )
        return Source(
            kind=self.kind,
            path=path[: limits.LABEL_LENGTH_MAX],
            host=platform.node()[: limits.LABEL_LENGTH_MAX],
            architecture=architecture,
            sector_size=self.sector_size,
            labels=labels,
        )

    def _find_use(self, descriptor: int) -> str | None:
        status = os.fstat(descriptor)
        if self.kind == "block device":
            return in_use.source_use(status.st_rdev)
        return in_use.file_mount(status) if self.kind == "file" else None

    def look(self, step: Callable[[str], None] | None = None) -> list[str]:
        """Find out what file systems use, and leave the rest out of the walk to come; streams are stored as they come.

        Args:
            step: called with the name of what is looked at next.

        Returns:
            what a person should know about how their disk is stored.
        """
        if self.size is None:
            return []
        users: InUse = lambda _start, _size: self.use  # noqa: E731
        if self.kind == "block device":
            users = block_device_in_use(self.path, in_use.source_use)
        found = survey(self.path, self.size, self.sector_size, users, step, self.shown_path)
        self.take_survey(found)
        return found.warnings

    def take_survey(self, found: Survey) -> None:
        """Leave out, in the walk to come, what a survey of this source calls free."""
        assert self.size is not None
        self._disk, self._free = (found.disk if self.size else None), found.free
        self._spare = spare_range(found.disk, self.size)

    @property
    def disk(self) -> Disk | None:
        """What is known of the disk; complete once the source was walked."""
        if self._disk is None or self.size is None or not self._spare_used:
            return self._disk
        return msgspec.structs.replace(self._disk, smallest_size=self.size)  # there is something behind the last volume

    def blocks(self, chunk_size: int, stop: threading.Event) -> Generator[Block, None, None]:
        """Walk the source; blocks while it has nothing to give, but not long after ``stop`` is set.

        Raises:
            ImageError: reading failed, or the source changed its size; names the source and the offset.
        """
        if self.size is None:
            return self._stream_blocks(chunk_size, stop)
        return self._sized_blocks(chunk_size, self.size)

    def _sized_blocks(self, chunk_size: int, size: int) -> Generator[Block, None, None]:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        offset = 0
        data_start = self._next_data(0, size)
        while offset < size:
            block_size = min(chunk_size, size - offset)
            used = self._used(offset, offset + block_size)
            if not len(used):
                free_end = int(self._free[np.searchsorted(self._free[:, 1], offset, "right"), 1])
                count = self._run_length(offset, free_end, block_size, chunk_size)
                yield Block(block_size, count, None, unused=True)
                offset += count * block_size
                continue
            if data_start < offset:
                data_start = self._next_data(offset, size)
            if offset + block_size <= data_start:
                count = self._run_length(offset, self._used_until(offset, data_start), block_size, chunk_size)
                yield Block(block_size, count, None)
                offset += count * block_size
            else:
                yield Block(block_size, 1, self._read_used(offset, block_size, used))
                offset += block_size
        if self.kind == "file" and (size_now := os.fstat(self._descriptor).st_size) != size:
            # A hole at the end is not read, so that only this finds a file cut there.
            raise self._changed(size, size_now)

    def _used(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of a range that are not free, as ranges."""
        free = self._free[np.searchsorted(self._free[:, 1], start, "right") : np.searchsorted(self._free[:, 0], end)]
        used, position = [], start
        for free_start, free_end in free.tolist():
            if free_start > position:
                used.append((position, free_start))
            position = free_end
        if position < end:
            used.append((position, end))
        return used

    def _used_until(self, offset: int, end: int) -> int:
        """Return where the first chunk may start that is wholly free: ``end``, or the next free range before it."""
        free = self._free[np.searchsorted(self._free[:, 0], offset, "right") :]
        return min(end, int(free[0, 0])) if len(free) else end

    @staticmethod
    def _run_length(offset: int, end: int, block_size: int, chunk_size: int) -> int:
        """Return how many chunks a block from ``offset`` has that stays before ``end``; at least the one it is."""
        count = (end - offset) // block_size if block_size == chunk_size else 1
        return max(1, min(count, _HOLE_CHUNKS_MAX))

    def _read_used(self, offset: int, size: int, used: list[tuple[int, int]]) -> bytes | bytearray:
        """Return a chunk, zeros where nothing uses it: what was deleted there compresses badly and serves nobody."""
        start, end = used[0][0], used[-1][1]
        if used == [(offset, offset + size)]:
            data: bytes | bytearray = self._read(offset, size)
        else:
            data = bytearray(size)
            data[start - offset : end - offset] = self._read(start, end - start)
            for (_, free_start), (free_end, _) in itertools.pairwise(used):
                data[free_start - offset : free_end - offset] = bytes(free_end - free_start)
        spare_start, spare_end = max(self._spare[0], offset) - offset, min(self._spare[1], offset + size) - offset
        if spare_start < spare_end and any(memoryview(data)[spare_start:spare_end]):
            self._spare_used = True
        return data

    def _next_data(self, offset: int, size: int) -> int:
        """Return where the next byte that is not in a hole is; ``offset`` itself where holes cannot be told."""
        if self.kind != "file" or not hasattr(os, "SEEK_DATA"):
            return offset
        try:
            return min(size, os.lseek(self._descriptor, offset, os.SEEK_DATA))
        except OSError as error:
            return size if error.errno == errno.ENXIO else offset

    def _read(self, offset: int, size: int) -> bytes:
        parts = []
        end = offset + size
        while offset < end:
            try:
                part = os.pread(self._descriptor, end - offset, offset)
            except OSError as error:
                raise self._unreadable(offset, error) from error
            if not part:
                raise self._changed(self.size or 0, offset)
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _stream_blocks(self, chunk_size: int, stop: threading.Event) -> Generator[Block, None, None]:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        offset = 0
        while True:
            data = bytearray(chunk_size)
            view = memoryview(data)
            filled = 0
            while filled < chunk_size:
                while not poll.poll(_STREAM_POLL_MS):
                    if stop.is_set():
                        return
                try:
                    count = os.readv(self._descriptor, [view[filled:]])
                except OSError as error:
                    raise self._unreadable(offset + filled, error) from error
                if not count:
                    break
                filled += count
            view.release()
            if filled:
                del data[filled:]
                if not offset and self.at_start is not None:
                    self.at_start(data)
                yield Block(filled, 1, data)
                offset += filled
            if filled < chunk_size:
                break
        if self.at_end is not None:
            self.at_end()
        if not offset:
            raise ImageError(
                f"{self.path}: gave not a single byte: what was to write into it failed, or nothing is connected; "
                "no image was made"
            )

    def _unreadable(self, offset: int, error: OSError) -> ImageError:
        return ImageError(f"{self.path}: reading at byte {offset} failed: {error.strerror}; no image was made")

    def _changed(self, expected: int, found: int) -> ImageError:
        return ImageError(
            f"{self.path}: had {expected} bytes when it was opened and now ends at byte {found}: something writes to "
            "it; no image was made"
        )
