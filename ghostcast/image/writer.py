"""Make an image: walk a source once, compress its chunks on all cores, write the frames in order.

Knows the order of events; the source, the frames, the layout and the target are others' business. The invariant: the
image appears under its name only when it is complete and on disk; a failure or an interrupt leaves nothing behind.

Memory: about four chunks a core and sixteen more, and 69 bytes for each chunk of the manifest (72 MiB a tebibyte at
1 MiB chunks).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import blake3
import numpy as np

from ghostcast.image import layout
from ghostcast.image.frame import LEVEL_DEFAULT, LEVEL_MAX, LEVEL_MIN, FrameEncoder
from ghostcast.image.pipeline import Progress, ordered
from ghostcast.image.source import STREAM_PATH, Block, RawSource
from ghostcast.image.target import Target
from protocol import limits
from protocol.errors import UsageError
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest
from protocol.match import ANY_MACHINE, MatchRule

IMAGE_SUFFIX = ".img.zst"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What a person may choose about a new image; checked when it is made.

    Raises:
        UsageError: a value outside its range.
    """

    chunk_size: int = limits.CHUNK_SIZE_DEFAULT
    level: int = LEVEL_DEFAULT
    name: str | None = None
    """None takes the source's file name, or the image's when the source is a stream."""
    architecture: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    match: MatchRule = ANY_MACHINE
    """Which machines the image is meant for."""

    def __post_init__(self) -> None:
        smallest, largest, step = limits.CHUNK_SIZE_MIN, limits.CHUNK_SIZE_MAX, limits.CHUNK_SIZE_STEP
        if not smallest <= self.chunk_size <= largest or self.chunk_size % step:
            raise UsageError(
                f"a chunk has {smallest} to {largest} bytes, a multiple of {step}; {self.chunk_size} is not such a size"
            )
        if not LEVEL_MIN <= self.level <= LEVEL_MAX:
            raise UsageError(f"compression levels are {LEVEL_MIN} to {LEVEL_MAX}; {self.level} is none")
        if self.name is not None and not 1 <= len(self.name) <= limits.NAME_LENGTH_MAX:
            raise UsageError(f"a name has 1 to {limits.NAME_LENGTH_MAX} characters; this one has {len(self.name)}")
        if len(self.labels) > limits.LABEL_COUNT_MAX:
            raise UsageError(f"an image has at most {limits.LABEL_COUNT_MAX} labels, not {len(self.labels)}")
        texts = [self.architecture, *self.labels.keys(), *self.labels.values()]
        if any(len(text) > limits.LABEL_LENGTH_MAX for text in texts):
            raise UsageError(f"a label or an architecture has at most {limits.LABEL_LENGTH_MAX} characters")


@dataclass(frozen=True, slots=True)
class _Frames:
    """A compressed ``Block``: the same frame ``chunk_count`` times."""

    frame: bytes
    raw_size: int
    """Raw size of each chunk."""
    chunk_count: int
    stored_digest: bytes
    raw_digest: bytes
    flag: int


@dataclass(frozen=True, slots=True)
class _Columns:
    """The manifest's columns while they grow."""

    stored_sizes: array[int] = field(default_factory=lambda: array("I"))
    stored_digests: bytearray = field(default_factory=bytearray)
    raw_digests: bytearray = field(default_factory=bytearray)
    flags: bytearray = field(default_factory=bytearray)

    def append(self, frames: _Frames) -> None:
        self.stored_sizes.extend([len(frames.frame)] * frames.chunk_count)
        self.stored_digests.extend(frames.stored_digest * frames.chunk_count)
        self.raw_digests.extend(frames.raw_digest * frames.chunk_count)
        self.flags.extend(bytes([frames.flag]) * frames.chunk_count)


def create_image(
    source: RawSource,
    path: Path,
    options: ImageOptions,
    *,
    force: bool = False,
    progress: Progress | None = None,
    worker_count: int | None = None,
) -> Manifest:
    """Make the image ``path`` of everything ``source`` holds.

    Args:
        source: an open source that was not walked yet.
        path: the image; it appears when it is complete.
        options: how to make it.
        force: replace an image that is there already.
        progress: called after each block.
        worker_count: compressing threads; one a core unless told.

    Raises:
        UsageError: ``path`` exists, is the source, or the source is too large for the chunk size.
        ImageError: the source cannot be read, or changed while it was.
        TargetError: the image cannot be written.
    """
    if source.is_file(path):
        raise UsageError(f"{path}: is the source itself; name another file for the image")
    if os.path.isfile(path) and not force:
        raise UsageError(f"{path}: exists already; use --force to replace it, or name another file")
    if source.size is not None:
        _check_chunk_count(-(-source.size // options.chunk_size), options.chunk_size)
    with Target.open_replacement(path) as target:
        columns = _Columns()
        raw_size = stored_size = 0
        stop = threading.Event()
        blocks = source.blocks(options.chunk_size, stop)
        with contextlib.closing(ordered(blocks, _make_compress(options), stop=stop, worker_count=worker_count)) as done:
            for frames in done:
                columns.append(frames)
                _check_chunk_count(len(columns.flags), options.chunk_size)
                data = frames.frame * frames.chunk_count
                target.write(stored_size, data)
                target.start_writeback(stored_size, len(data))
                raw_size += frames.raw_size * frames.chunk_count
                stored_size += len(data)
                if progress is not None:
                    progress(raw_size, stored_size)
        manifest = _manifest(source, path, options, columns, raw_size)
        tail = layout.encode_tail(manifest)
        target.write(stored_size, tail)
        target.finish(stored_size + len(tail))
    return manifest


def _make_compress(options: ImageOptions) -> Callable[[], Callable[[Block], _Frames]]:
    """Return what makes each worker thread's function; the threads share the frames of zero chunks."""
    zeros = bytes(options.chunk_size)
    zero_frames = _compress(FrameEncoder(options.level), zeros, FLAG_ZERO)

    def make() -> Callable[[Block], _Frames]:
        encoder = FrameEncoder(options.level)

        def compress(block: Block) -> _Frames:
            full = block.chunk_size == len(zeros)
            if block.data is not None and block.data != (zeros if full else bytes(block.chunk_size)):
                return _compress(encoder, block.data, 0)
            frames = zero_frames if full else _compress(encoder, bytes(block.chunk_size), FLAG_ZERO)
            return _Frames(
                frames.frame,
                frames.raw_size,
                block.chunk_count,
                frames.stored_digest,
                frames.raw_digest,
                FLAG_UNUSED if block.unused else FLAG_ZERO,
            )

        return compress

    return make


def _compress(encoder: FrameEncoder, raw: bytes | bytearray, flag: int) -> _Frames:
    frame = encoder.encode(raw)
    return _Frames(frame, len(raw), 1, blake3.blake3(frame).digest(), blake3.blake3(raw).digest(), flag)


def _check_chunk_count(chunk_count: int, chunk_size: int) -> None:
    if chunk_count > layout.CHUNK_COUNT_MAX:
        raise UsageError(
            f"the source has more than {layout.CHUNK_COUNT_MAX} chunks of {chunk_size} bytes, the most that an image "
            f"holds: choose a larger --chunk-size (at most {limits.CHUNK_SIZE_MAX})"
        )


def _manifest(source: RawSource, path: Path, options: ImageOptions, columns: _Columns, raw_size: int) -> Manifest:
    chunk_count = len(columns.flags)
    manifest = Manifest(
        image_id=os.urandom(limits.IMAGE_ID_SIZE),
        name=options.name or _default_name(source, path),
        created=int(time.time()),
        raw_size=raw_size,
        chunk_size=options.chunk_size,
        source=source.describe(options.architecture, options.labels),
        stored_sizes=np.array(columns.stored_sizes, np.uint32),
        stored_digests=np.frombuffer(columns.stored_digests, np.uint8).reshape(chunk_count, limits.DIGEST_SIZE),
        raw_digests=np.frombuffer(columns.raw_digests, np.uint8).reshape(chunk_count, limits.DIGEST_SIZE),
        flags=np.frombuffer(columns.flags, np.uint8),
        match=options.match,
        disk=source.disk,
    )
    # What a reader would refuse must not be written: our own mistakes are found here, not in ten years.
    return Manifest.decode(manifest.encode())


def _default_name(source: RawSource, path: Path) -> str:
    file_name = path.name.removesuffix(IMAGE_SUFFIX) if source.shown_path == STREAM_PATH else source.shown_path.name
    return os.fsencode(file_name).decode("utf-8", "replace")[: limits.NAME_LENGTH_MAX] or "image"
