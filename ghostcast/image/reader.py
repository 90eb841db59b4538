"""Open an image file: check what it says about itself, then hand out chunks that match their digests.

Knows files and ``layout``; must not write. The invariant: an ``ImageFile`` that exists has a manifest that agrees with
its seek table and its size, and ``read_frame`` and ``read_chunk`` return bytes that match the manifest or raise.

Opening reads only the tail of the file: it finds a cut, foreign or mixed-up file at once, and a flipped bit in the
manifest; a flipped bit in a chunk is found when that chunk is read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

import blake3
import numpy as np
import numpy.typing as npt

from ghostcast.image import layout
from ghostcast.image.frame import FrameDecoder
from protocol import limits
from protocol.errors import ImageError, UsageError
from protocol.manifest import Manifest


class ChunkError(ImageError):
    """One chunk of an image is damaged."""

    def __init__(self, path: Path, chunk_index: int, stored_range: tuple[int, int], reason: str) -> None:
        start, end = stored_range
        super().__init__(
            f"{path}: chunk {chunk_index} (file bytes {start} to {end}) is damaged: {reason}; "
            "make or copy the image again"
        )
        self.chunk_index = chunk_index
        self.stored_range = stored_range
        """Half-open range of the file that holds the chunk's frame."""
        self.reason = reason


class ImageFile:
    """An open image whose tail was checked. Safe for several threads at once: every read names its offset."""

    def __init__(self, path: Path, descriptor: int, manifest: Manifest, manifest_bytes: bytes) -> None:
        """Take over an open descriptor; use ``open``, which checks what this takes on trust."""
        self.path = path
        self.manifest = manifest
        self.manifest_bytes = manifest_bytes
        """The manifest as it is stored: what ``protocol.manifest.manifest_digest`` is made of."""
        self.stream_size = manifest.stream_size
        """The file's first ``stream_size`` bytes are the stream: stream offset and file offset are the same."""
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> ImageFile:
        """Open an image and check its tail. Cost: reads about 77 bytes a chunk, no chunk.

        Raises:
            UsageError: there is no such file.
            ImageError: it cannot be read, is cut, damaged, or no image.
        """
        descriptor = _open(path)
        try:
            size = os.fstat(descriptor).st_size
            try:
                manifest, manifest_bytes = _read_tail(descriptor, size)
            except ImageError as error:
                raise ImageError(f"{path}: {error}") from error
            return cls(path, descriptor, manifest, manifest_bytes)
        except BaseException:
            os.close(descriptor)
            raise

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def hold(self) -> None:
        """Keep every ghostcast on this machine from writing to the file, as a target, while it is open.

        Raises:
            ImageError: one does so already.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            # File systems that know no locks are no reason to refuse.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ImageError(f"{self.path}: another ghostcast writes to it at this moment") from error

    def fileno(self) -> int:
        """Return the descriptor, for positioned reads of the stream."""
        return self._descriptor

    def read_frame(self, chunk_index: int) -> bytes:
        """Return a chunk's frame, checked against its stored digest.

        Raises:
            ChunkError: the file is shorter than it was, cannot be read there, or the digest does not match.
        """
        start, end = self.manifest.stored_range(chunk_index)
        try:
            frame = _read(self._descriptor, start, end)
        except ImageError as error:
            raise self._chunk_error(chunk_index, str(error)) from error
        if blake3.blake3(frame).digest() != self.manifest.stored_digests[chunk_index].tobytes():
            raise self._chunk_error(chunk_index, "its stored bytes do not match their digest")
        return frame

    def read_chunk(self, chunk_index: int, decoder: FrameDecoder) -> bytes:
        """Return a chunk's raw bytes, checked: stored digest, size, zstd checksum, raw digest.

        Raises:
            ChunkError: any of them does not match.
        """
        frame = self.read_frame(chunk_index)
        start, end = self.manifest.raw_range(chunk_index)
        try:
            raw = decoder.decode(frame, end - start)
        except ImageError as error:
            raise self._chunk_error(chunk_index, str(error)) from error
        if blake3.blake3(raw).digest() != self.manifest.raw_digests[chunk_index].tobytes():
            raise self._chunk_error(chunk_index, "its raw bytes do not match their digest")
        return raw

    def _chunk_error(self, chunk_index: int, reason: str) -> ChunkError:
        return ChunkError(self.path, chunk_index, self.manifest.stored_range(chunk_index), reason)


def _open(path: Path) -> int:
    try:
        # Non-blocking: opening a FIFO would wait for a writer before we can say that it is no image.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: there is no such image") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{path}: cannot be opened as an image: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(f"{path}: is not a regular file, and an image is one")
    return descriptor


def _read(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    offset = start
    while offset < end:
        try:
            part = os.pread(descriptor, end - offset, offset)
        except OSError as error:
            raise ImageError(f"reading at byte {offset} failed: {error.strerror}") from error
        if not part:
            raise ImageError(f"the file ends at byte {offset}, where bytes up to {end} were expected")
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_tail(descriptor: int, size: int) -> tuple[Manifest, bytes]:
    """Check everything behind the stream, from the end; each size is held against the file's before it is allocated."""
    entries, table_start = _read_seek_table(descriptor, size)
    manifest_start = table_start - int(entries[-1, 0])
    stream_size = int(entries[:-1, 0].sum(dtype=np.int64))
    if stream_size != manifest_start:
        raise ImageError(
            f"its seek table accounts for {stream_size + size - manifest_start} bytes, but the file has {size}: "
            "bytes were lost or added"
        )
    manifest_bytes = layout.decode_manifest_frame(_read(descriptor, manifest_start, table_start))
    manifest = Manifest.decode(manifest_bytes)
    _compare(manifest, entries)
    return manifest, manifest_bytes


def _read_seek_table(descriptor: int, size: int) -> tuple[npt.NDArray[np.uint32], int]:
    """Return the seek table's entries and where the seek table starts."""
    if size < layout.TAIL_SIZE_MIN:
        raise ImageError(
            f"has {size} bytes; the smallest image has more than {layout.TAIL_SIZE_MIN}: {_hint(descriptor, size)}"
        )
    try:
        entry_count = layout.decode_footer(_read(descriptor, size - layout.FOOTER.size, size))
    except ImageError as error:
        raise ImageError(f"{error}: {_hint(descriptor, size)}") from error
    table_size = layout.seek_table_size(entry_count)
    if table_size + layout.MANIFEST_FRAME_OVERHEAD > size:
        raise ImageError(
            f"its seek table of {entry_count} entries would need {table_size} bytes, but the file has {size}"
        )
    entries = layout.decode_seek_table(_read(descriptor, size - table_size, size), entry_count)
    manifest_frame_size, manifest_raw_size = (int(value) for value in entries[-1])
    largest = min(size - table_size, limits.MANIFEST_SIZE_MAX + layout.MANIFEST_FRAME_OVERHEAD)
    if manifest_raw_size or not layout.MANIFEST_FRAME_OVERHEAD < manifest_frame_size <= largest:
        raise ImageError(
            f"the last entry of its seek table ({manifest_frame_size} bytes for {manifest_raw_size} raw ones) is no "
            "manifest: seekable zstd of another program, or damaged"
        )
    return entries, size - table_size


def _compare(manifest: Manifest, entries: npt.NDArray[np.uint32]) -> None:
    if len(entries) != manifest.chunk_count + 1:
        raise ImageError(f"its seek table has {len(entries) - 1} chunks, its manifest {manifest.chunk_count}")
    expected = np.column_stack((manifest.stored_sizes, layout.raw_sizes(manifest)))
    differing = np.flatnonzero((entries[:-1] != expected).any(axis=1))
    if len(differing):
        chunk_index = int(differing[0])
        raise ImageError(
            f"its seek table and its manifest disagree about {len(differing)} chunks; the first is chunk "
            f"{chunk_index}: {entries[chunk_index].tolist()} and {expected[chunk_index].tolist()} bytes (stored, raw)"
        )


def _hint(descriptor: int, size: int) -> str:
    start = int.from_bytes(_read(descriptor, 0, min(size, 4)), "little")
    if start in (layout.FRAME_MAGIC, layout.MANIFEST_MAGIC):
        return "cut short, still being copied, or a plain zstd file; copy it again, or make an image of it"
    return "it is not a ghostcast image; make one with: ghostcast image create SOURCE IMAGE"
