"""The bytes of an image file behind its stream: the manifest frame and the seek table (``docs/IMAGE-FORMAT.md``).

Knows the layout and nothing of files: ``reader`` fetches the bytes, ``writer`` stores them. The invariant: an image is
a valid seekable-zstd file, so every tool that knows zstd restores it, and the stream is the file's prefix.

All integers are little-endian and unsigned, as everywhere in zstd (RFC 8878 §3.1.2, and the contrib specification
``zstd_seekable_compression_format.md`` 0.1.0).
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from protocol import limits
from protocol.errors import ImageError
from protocol.manifest import Manifest, manifest_digest

FRAME_MAGIC = 0xFD2FB528
"""First four bytes of a zstd frame; only used to tell a cut image from a foreign file."""

MANIFEST_MAGIC = 0x184D2A5C
"""Skippable frame that holds the manifest."""

SEEK_TABLE_MAGIC = 0x184D2A5E
"""Skippable frame that holds the seek table; this number and the next are the seekable format's."""

SEEKABLE_MAGIC = 0x8F92EAB1
"""Last four bytes of every seekable-zstd file."""

MANIFEST_TAG = b"GHOSTIMG"
"""First bytes of the manifest frame's payload: skippable magics are free for all, so the magic alone proves nothing."""

FRAME_HEADER = struct.Struct("<II")
"""Magic and payload size of a skippable frame."""

FOOTER = struct.Struct("<IBI")
"""Seek table footer: entry count, descriptor, ``SEEKABLE_MAGIC``."""

DESCRIPTOR = 0
"""No checksum column: the manifest's digests are stronger, and zstd's own checksum is in each frame."""

ENTRY_SIZE = 8
MANIFEST_FRAME_OVERHEAD = FRAME_HEADER.size + len(MANIFEST_TAG) + limits.DIGEST_SIZE
SEEK_TABLE_OVERHEAD = FRAME_HEADER.size + FOOTER.size
TAIL_SIZE_MIN = MANIFEST_FRAME_OVERHEAD + ENTRY_SIZE + SEEK_TABLE_OVERHEAD

CHUNK_ROW_SIZE = 4 + limits.DIGEST_SIZE + limits.DIGEST_SIZE + 1
"""Bytes that one chunk takes in the manifest's four columns."""

CHUNK_COUNT_MAX = (limits.MANIFEST_SIZE_MAX - limits.MIB) // CHUNK_ROW_SIZE
"""Most chunks that a manifest holds; the mebibyte is for names and labels at their longest (512 KiB)."""


def raw_sizes(manifest: Manifest) -> npt.NDArray[np.uint32]:
    """Return ``uint32[chunk_count]``: the raw size of each chunk; only the last can be shorter than ``chunk_size``."""
    sizes = np.full(manifest.chunk_count, manifest.chunk_size, np.uint32)
    if manifest.chunk_count:
        start, end = manifest.raw_range(manifest.chunk_count - 1)
        sizes[-1] = end - start
    return sizes


def encode_tail(manifest: Manifest) -> bytes:
    """Return everything that follows the stream in an image file."""
    manifest_frame = encode_manifest_frame(manifest.encode())
    entries = np.zeros((manifest.chunk_count + 1, 2), "<u4")
    entries[:-1, 0] = manifest.stored_sizes
    entries[:-1, 1] = raw_sizes(manifest)
    entries[-1, 0] = len(manifest_frame)  # raw size 0: readers that seek by raw offset never land in it
    return manifest_frame + encode_seek_table(entries)


def encode_manifest_frame(manifest_bytes: bytes) -> bytes:
    """Wrap a manifest's msgpack bytes in its skippable frame: tag, bytes, BLAKE3-256 of the bytes."""
    payload_size = len(MANIFEST_TAG) + len(manifest_bytes) + limits.DIGEST_SIZE
    header = FRAME_HEADER.pack(MANIFEST_MAGIC, payload_size)
    return b"".join((header, MANIFEST_TAG, manifest_bytes, manifest_digest(manifest_bytes)))


def encode_seek_table(entries: npt.NDArray[np.uint32]) -> bytes:
    """Return the seek table frame for ``uint32[entry_count, 2]``: stored and raw size of each frame."""
    body = entries.astype("<u4").tobytes() + FOOTER.pack(len(entries), DESCRIPTOR, SEEKABLE_MAGIC)
    return FRAME_HEADER.pack(SEEK_TABLE_MAGIC, len(body)) + body


def decode_footer(footer: bytes) -> int:
    """Return the seek table's entry count from the last ``FOOTER.size`` bytes of a file.

    Raises:
        ImageError: these are not the last bytes of an image.
    """
    entry_count, descriptor, magic = FOOTER.unpack(footer)
    if magic != SEEKABLE_MAGIC:
        raise ImageError("its last bytes are not those of a seek table")
    if descriptor != DESCRIPTOR:
        raise ImageError(f"its seek table has descriptor {descriptor:#04x} where an image has {DESCRIPTOR:#04x}")
    if not 1 <= entry_count <= CHUNK_COUNT_MAX + 1:
        raise ImageError(f"its seek table claims {entry_count} entries where an image has 1 to {CHUNK_COUNT_MAX + 1}")
    return int(entry_count)


def seek_table_size(entry_count: int) -> int:
    """Return the size of the whole seek table frame."""
    return SEEK_TABLE_OVERHEAD + entry_count * ENTRY_SIZE


def decode_seek_table(table: bytes, entry_count: int) -> npt.NDArray[np.uint32]:
    """Return ``uint32[entry_count, 2]`` from the whole seek table frame, whose footer was decoded before.

    Raises:
        ImageError: the frame's header contradicts its footer.
    """
    expected = (SEEK_TABLE_MAGIC, seek_table_size(entry_count) - FRAME_HEADER.size)
    found = FRAME_HEADER.unpack_from(table)
    if found != expected:
        raise ImageError(
            f"its seek table starts with {found[0]:#010x}, size {found[1]}; for {entry_count} entries it must start "
            f"with {expected[0]:#010x}, size {expected[1]}"
        )
    return np.frombuffer(table, "<u4", entry_count * 2, FRAME_HEADER.size).reshape(entry_count, 2).astype(np.uint32)


def decode_manifest_frame(frame: bytes) -> bytes:
    """Return the manifest's msgpack bytes from its skippable frame.

    Raises:
        ImageError: another program's frame, or the digest does not match.
    """
    magic, payload_size = FRAME_HEADER.unpack_from(frame)
    if (magic, payload_size) != (MANIFEST_MAGIC, len(frame) - FRAME_HEADER.size):
        raise ImageError(
            f"its last entry starts with {magic:#010x}, size {payload_size}; a manifest frame here would start with "
            f"{MANIFEST_MAGIC:#010x}, size {len(frame) - FRAME_HEADER.size}"
        )
    tag_end = FRAME_HEADER.size + len(MANIFEST_TAG)
    if frame[FRAME_HEADER.size : tag_end] != MANIFEST_TAG:
        raise ImageError(f"its last entry does not carry the tag {MANIFEST_TAG.decode()} of a manifest")
    manifest_bytes = frame[tag_end : -limits.DIGEST_SIZE]
    if manifest_digest(manifest_bytes) != frame[-limits.DIGEST_SIZE :]:
        raise ImageError("its manifest does not match the digest stored with it")
    return manifest_bytes
