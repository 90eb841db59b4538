"""Read a disk or a file back and hold it against a manifest: which chunks are the image's, and which are not.

Resume, differential cloning, ``receive --verify read`` and ``verify`` ask the same question and share this answer. Only
reads. The invariant: a chunk counts as right only if the raw digest in the manifest is that of bytes that came from the
disk just now: no journal, no time stamp, and where the system allows, not the page cache either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import blake3
import numpy as np
import numpy.typing as npt

from ghostcast.image import in_use
from ghostcast.image.pipeline import core_count, ordered
from ghostcast.net import libc
from protocol import limits
from protocol.errors import TargetError
from protocol.manifest import FLAG_UNUSED, Manifest

BATCH_SIZE = 8 * limits.MIB
"""Raw bytes that one piece of work reads: long enough that handing it out costs nothing, short enough that whoever
waits behind it does not wait long on a slow disk."""

_ALIGNMENT = 4096
"""Offset, length and address of a read past the page cache are multiples of it: a page, and any sector."""

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]


class TargetReader:
    """Positioned reads of a disk or a file, past the page cache. Safe for several threads at once."""

    def __init__(self, path: Path, descriptor: int, *, size: int | None) -> None:
        """Read through a descriptor that is somebody else's and stays theirs to close; ``open`` makes its own.

        Args:
            path: the name that people know, for messages.
            descriptor: open for reading.
            size: a block device's capacity in bytes; None for a file.
        """
        self.path = path
        self.size = size
        self.touched = False
        """Whether anything was written: never."""
        self.use: str | None = None
        """Who uses the device, and so may write while it is read; None if nobody does or if it is a file."""
        self._descriptor = descriptor
        self._owned = False
        self._local = threading.local()
        self._direct: int | None = None
        if hasattr(os, "O_DIRECT"):
            with contextlib.suppress(OSError):
                # By way of /proc it is certainly the same file, whatever has its name by now.
                self._direct = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)

    @classmethod
    def open(cls, path: Path) -> TargetReader:
        """Open a block device or a file to be read.

        Raises:
            TargetError: missing, not permitted, or neither a device nor a file.
        """
        try:
            # Non-blocking: opening a FIFO would wait for a writer before it can be refused.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise TargetError(f"{path}: cannot be opened for reading: {_reason(error)}") from error
        try:
            status = os.fstat(descriptor)
            if stat.S_ISBLK(status.st_mode):
                reader = cls(path, descriptor, size=os.lseek(descriptor, 0, os.SEEK_END))
                reader.use = in_use.device_use(status.st_rdev)
            elif stat.S_ISREG(status.st_mode):
                reader = cls(path, descriptor, size=None)
            else:
                raise TargetError(f"{path}: is neither a block device nor a file")
        except BaseException:
            os.close(descriptor)
            raise
        reader._owned = True
        return reader

    def __enter__(self) -> TargetReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def length(self) -> int:
        """Bytes that there are: a device's capacity, a file's length now."""
        return self.size if self.size is not None else os.fstat(self._descriptor).st_size

    def surplus(self, manifest: Manifest) -> list[tuple[int, int]]:
        """Return the range by which a file is longer than the image, if it is."""
        if self.size is None and self.length > manifest.raw_size:
            return [(manifest.raw_size, self.length)]
        return []

    def read(self, offset: int, size: int) -> memoryview:
        """Return up to ``size`` bytes at ``offset``, fewer where the file or device ends; good until the next call.

        Args:
            offset: a multiple of 4096, as every chunk's is.
            size: at most ``limits.CHUNK_SIZE_MAX``.

        Raises:
            OSError: the disk could not read it.
        """
        page = self._page()
        direct = self._direct
        if direct is not None:
            try:
                done = _fill(direct, page[: -(-size // _ALIGNMENT) * _ALIGNMENT], offset)
                return page[: min(done, size)]
            except OSError as error:
                if error.errno != errno.EINVAL:  # another alignment than we know: by way of the page cache, then
                    raise
        if hasattr(os, "posix_fadvise"):
            # What is clean leaves the cache, so that the bytes come from the disk here too.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_DONTNEED)
        return page[: _fill(self._descriptor, page[:size], offset)]

    def _page(self) -> memoryview:
        page: memoryview | None = getattr(self._local, "page", None)
        if page is None:
            page = self._local.page = libc.fresh_pages(limits.CHUNK_SIZE_MAX)
        return page

    def close(self) -> None:
        """Close what this object opened; closing twice is harmless."""
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
        if self._owned:
            os.close(self._descriptor)
            self._owned = False


def right_chunks(reader: TargetReader, manifest: Manifest, chunks: Int64Array, *, forgiving: bool = False) -> BoolArray:
    """Return which of these chunks are on the target: ``bool[n]``. What is behind the target's end is not.

    Args:
        reader: the target.
        manifest: of the image.
        chunks: ``int64[n]``.
        forgiving: a chunk that cannot be read is one that is not there.

    Raises:
        OSError: the disk could not read one of them.
    """
    right = np.zeros(len(chunks), np.bool_)
    for place, chunk in enumerate(chunks.tolist()):
        start, stop = manifest.raw_range(chunk)
        try:
            data = reader.read(start, stop - start)
        except OSError:
            if not forgiving:
                raise
            continue
        right[place] = (
            len(data) == stop - start and blake3.blake3(data).digest() == manifest.raw_digests[chunk].tobytes()
        )
    return right


def batches(manifest: Manifest, chunks: Int64Array) -> Iterator[Int64Array]:
    """Cut chunks into pieces of work of about ``BATCH_SIZE`` bytes."""
    step = max(1, BATCH_SIZE // manifest.chunk_size)
    for start in range(0, len(chunks), step):
        yield chunks[start : start + step]


def checked_chunks(manifest: Manifest, device_size: int | None) -> Int64Array:
    """Return the chunks that a copy has to hold, ascending.

    All but the unused ones, whose ranges are left alone, and on a device that is smaller than the source but takes the
    image all the same, those that do not fit whole: nothing that is needed lies in what was cut off.

    Args:
        manifest: of the image.
        device_size: a block device's capacity in bytes; None for a file.
    """
    chunks = np.flatnonzero((manifest.flags & FLAG_UNUSED) == 0)
    if device_size is not None and manifest.target_size_min <= device_size < manifest.raw_size:
        chunks = chunks[chunks < device_size // manifest.chunk_size]
    return chunks


def compare(
    reader: TargetReader, manifest: Manifest, progress: Callable[[int], None] | None = None
) -> list[tuple[int, int]]:
    """Read a whole copy and return where it differs from the image, with one thread a core.

    Args:
        reader: the copy.
        manifest: of the image.
        progress: called with the raw bytes read so far.
    Returns:
        Half-open byte ranges, ascending; neighbouring chunks that differ are one. A file that is longer than the image
        differs behind it.

    Raises:
        TargetError: the disk could not read.
    """
    chunks = checked_chunks(manifest, reader.size)

    def make() -> Callable[[Int64Array], tuple[Int64Array, BoolArray]]:
        return lambda batch: (batch, right_chunks(reader, manifest, batch))

    wrong = np.zeros(manifest.chunk_count, np.bool_)
    done = 0
    try:
        with contextlib.closing(ordered(batches(manifest, chunks), make, worker_count=core_count())) as results:
            for batch, right in results:
                wrong[batch[~right]] = True
                done += raw_bytes(manifest, batch)
                if progress is not None:
                    progress(done)
    except OSError as error:
        raise read_error(reader.path, error) from error
    return chunk_ranges(manifest, np.flatnonzero(wrong)) + reader.surplus(manifest)


def raw_bytes(manifest: Manifest, chunks: Int64Array) -> int:
    """Return how many raw bytes these chunks (ascending) hold together."""
    if not len(chunks):
        return 0
    start, stop = manifest.raw_range(int(chunks[-1]))
    return (len(chunks) - 1) * manifest.chunk_size + stop - start


def chunk_ranges(manifest: Manifest, chunks: Int64Array) -> list[tuple[int, int]]:
    """Return the raw ranges of these chunks (ascending), neighbours as one."""
    if not len(chunks):
        return []
    runs = np.split(chunks, np.flatnonzero(np.diff(chunks) != 1) + 1)
    return [(manifest.raw_range(int(run[0]))[0], manifest.raw_range(int(run[-1]))[1]) for run in runs]


def describe_ranges(ranges: list[tuple[int, int]], shown_max: int = 3) -> str:
    """Return ranges as people read them, the first few of them: ``bytes 0 to 4096, 8192 to 12288, and 7 more``."""
    text = ", ".join(f"{start} to {stop}" for start, stop in ranges[:shown_max])
    return f"bytes {text}" + (f", and {len(ranges) - shown_max} more" if len(ranges) > shown_max else "")


def read_error(path: Path, error: OSError) -> TargetError:
    """Return what to say when a target cannot be read."""
    return TargetError(f"{path}: reading it back failed: {_reason(error)}")


def _fill(descriptor: int, page: memoryview, offset: int) -> int:
    done = 0
    while done < len(page):
        count = os.preadv(descriptor, [page[done:]], offset + done)
        done += count
        if not count or count % _ALIGNMENT:
            break  # the end: a disk's reads end within a page nowhere else
    return done


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
