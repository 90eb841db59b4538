"""Images for tests: made of bytes, taken apart again, and made to lie."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import zstandard

from ghostcast.image import layout
from ghostcast.image.extract import extract_image
from ghostcast.image.reader import ImageFile
from ghostcast.image.source import RawSource
from ghostcast.image.verify import verify_image
from ghostcast.image.writer import ImageOptions, create_image
from protocol.manifest import FLAG_ZERO, Manifest, Source

CHUNK_SIZE = 4096


def make_image(path: Path, raw: bytes, **options: Any) -> Path:
    """Make the image ``path`` of these bytes, in chunks of ``CHUNK_SIZE`` unless told."""
    source = path.with_name(path.name + ".raw")
    source.write_bytes(raw)
    with RawSource.open(source) as opened:
        create_image(opened, path, ImageOptions(**{"chunk_size": CHUNK_SIZE, **options}), force=True, worker_count=2)
    return path


def assemble(raws: Sequence[bytes], frames: Sequence[bytes] | None = None, **changes: Any) -> bytes:
    """Return the bytes of an image of these chunks, without the writer; ``frames`` and ``changes`` may lie."""
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    frames = [compressor.compress(raw) for raw in raws] if frames is None else frames
    manifest = Manifest(
        image_id=bytes(16),
        name="assembled",
        created=0,
        raw_size=sum(map(len, raws)),
        chunk_size=CHUNK_SIZE,
        source=Source(),
        stored_sizes=np.array([len(frame) for frame in frames], np.uint32),
        stored_digests=digests(frames),
        raw_digests=digests(raws),
        flags=np.array([0 if any(raw) else FLAG_ZERO for raw in raws], np.uint8),
    )
    return b"".join(frames) + layout.encode_tail(dataclasses.replace(manifest, **changes))


def digests(parts: Sequence[bytes]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return ``uint8[len(parts), 32]``: the BLAKE3-256 of each."""
    joined = b"".join(blake3.blake3(part).digest() for part in parts)
    return np.frombuffer(joined, np.uint8).reshape(len(parts), 32)


def unfinished(folder: Path, process: int | str = "self") -> bool:
    """Tell whether a process has a file open in a folder that has no name yet, or a name that says so."""
    opened = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            opened.append(os.readlink(descriptor))
    nameless = [path for path in opened if path.startswith(f"{folder}/") and path.endswith(" (deleted)")]
    return bool(nameless or list(folder.glob(".ghostcast-*.part")))


def verify(path: Path) -> None:
    """Open and verify an image; raises ImageError if anything is wrong with it."""
    with ImageFile.open(path) as image:
        verify_image(image, worker_count=2)


def extract(path: Path, target: Path) -> bytes:
    """Extract an image to a file and return what is in it."""
    with ImageFile.open(path) as image:
        extract_image(image, target, force=True, worker_count=2)
    return target.read_bytes()


def plain_zstd(path: Path) -> bytes:
    """Return what a program makes of an image that knows nothing but zstd."""
    if zstd := shutil.which("zstd"):
        return subprocess.run([zstd, "-dc", path], check=True, capture_output=True).stdout
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
        return reader.read()
