"""Where the raw bytes of a new image come from: a file, a block device, or a stream.

Knows how to walk a source once, from start to end; must not know frames or images. The invariant: the blocks that
``blocks`` yields cover the source without a gap or an overlap, or it raises: a source that shrinks or grows while it is
read, or that fails to read, never makes an image.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import select
import stat
import struct
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ghostcast.image import in_use
from protocol import limits
from protocol.errors import ImageError, UsageError
from protocol.manifest import Source

STREAM_PATH = Path("-")
"""Standard input."""

_BLKSSZGET = 0x1268
"""ioctl: logical sector size of a block device, an ``int`` (linux/fs.h)."""

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
    """The raw bytes of the one chunk; None for holes, which were not even read."""


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
        self.use = in_use.device_use(os.fstat(descriptor).st_rdev) if kind == "block device" else None
        """Who uses a block device, and so may write to it while it is read; None if nobody does."""
        self._descriptor = descriptor

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
                return cls(path, descriptor, "block device", size, _sector_size(descriptor))
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

    def is_file(self, path: Path) -> bool:
        """Tell whether ``path`` names this very file or device."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))
        except OSError:
            return False

    def describe(self, architecture: str, labels: dict[str, str]) -> Source:
        """Return the description that the manifest carries."""
        # A file name may hold any byte; msgpack's strings may not.
        path = os.fsencode(self.path.absolute() if self.size is not None else self.path).decode("utf-8", "replace")
        return Source(
            kind=self.kind,
            path=path[: limits.LABEL_LENGTH_MAX],
            host=platform.node()[: limits.LABEL_LENGTH_MAX],
            architecture=architecture,
            sector_size=self.sector_size,
            labels=labels,
        )

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
            if data_start < offset:
                data_start = self._next_data(offset, size)
            if offset + block_size <= data_start:
                in_hole = (data_start - offset) // block_size if block_size == chunk_size else 1
                count = min(in_hole, _HOLE_CHUNKS_MAX)
                yield Block(block_size, count, None)
                offset += count * block_size
            else:
                yield Block(block_size, 1, self._read(offset, block_size))
                offset += block_size
        if self.kind == "file" and (size_now := os.fstat(self._descriptor).st_size) != size:
            # A hole at the end is not read, so that only this finds a file cut there.
            raise self._changed(size, size_now)

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
                yield Block(filled, 1, data)
                offset += filled
            if filled < chunk_size:
                return

    def _unreadable(self, offset: int, error: OSError) -> ImageError:
        return ImageError(f"{self.path}: reading at byte {offset} failed: {error.strerror}; no image was made")

    def _changed(self, expected: int, found: int) -> ImageError:
        return ImageError(
            f"{self.path}: had {expected} bytes when it was opened and now ends at byte {found}: something writes to "
            "it; no image was made"
        )


def _sector_size(descriptor: int) -> int:
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, struct.pack("i", 0)))
    except OSError:
        return 0
    return int(size)
