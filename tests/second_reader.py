"""A second reader of images, written from docs/IMAGE-FORMAT.md alone: zstd and msgpack, nothing of ghostcast.

It checks no digests: it proves that the document says where everything is, and what becomes of zero and unused chunks.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import zstandard

ZERO, UNUSED = 1, 2


def read_manifest(image: BinaryIO) -> dict[str, Any]:
    """Find the manifest from the end of the file, and unpack its columns."""
    size = image.seek(0, 2)
    image.seek(size - 9)
    count, _, magic = struct.unpack("<IBI", image.read(9))
    if magic != 0x8F92EAB1:
        raise ValueError("not a seekable zstd file")
    table_start = size - (17 + 8 * count)
    image.seek(size - 9 - 8)
    (manifest_size, _) = struct.unpack("<II", image.read(8))
    image.seek(table_start - manifest_size)
    frame = image.read(manifest_size)
    if frame[8:16] != b"GHOSTIMG":
        raise ValueError("a seekable zstd file, but no image")
    manifest: dict[str, Any] = msgpack.unpackb(frame[16:-32])
    if manifest["format"] != 1:
        raise ValueError("an image of another format")
    return manifest


def restore(image: BinaryIO, target: BinaryIO) -> None:
    """Write an image over a disk: used chunks, zeros; what nothing uses stays as it is."""
    manifest = read_manifest(image)
    sizes = struct.unpack(f"<{len(manifest['stored_sizes']) // 4}I", manifest["stored_sizes"])
    offset = 0
    for chunk, (size, flag) in enumerate(zip(sizes, manifest["flags"], strict=True)):
        start = chunk * manifest["chunk_size"]
        raw_size = min(manifest["chunk_size"], manifest["raw_size"] - start)
        if flag != UNUSED:
            image.seek(offset)
            raw = bytes(raw_size) if flag == ZERO else zstandard.ZstdDecompressor().decompress(image.read(size))
            target.seek(start)
            target.write(raw)
        offset += size


def volumes(path: Path) -> list[tuple[int, int, int, str]]:
    """Return number, start, size and content of what is on the disk."""
    with path.open("rb") as image:
        disk = read_manifest(image).get("disk", {})
    keys = ("number", "start", "size", "content")
    return [tuple(volume.get(key, "") for key in keys) for volume in disk.get("volumes", [])]  # type: ignore[misc]
