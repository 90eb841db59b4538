"""One chunk, one zstd frame: the only place that calls zstd.

Knows frames and raw bytes; must not know files, digests or offsets. The invariant: what ``decode`` returns has exactly
the size that was asked for, and nothing larger was ever allocated on a frame's word.
"""

from __future__ import annotations

import numpy as np
import zstandard

from protocol import limits
from protocol.errors import ImageError

LEVEL_DEFAULT = 3
LEVEL_MIN = 1
LEVEL_MAX = 22


class FrameEncoder:
    """Compresses chunks. Not safe for two threads at once: give each its own."""

    def __init__(self, level: int = LEVEL_DEFAULT) -> None:
        # The checksum costs 4 bytes and 5 % of the time (measured): without it plain ``zstd -d`` would restore a
        # damaged image without a word, and plain ``zstd -d`` is what people will have in ten years.
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)

    def encode(self, raw: bytes | bytearray) -> bytes:
        """Return one independent frame, its content size in its header. Releases the GIL."""
        return self._compressor.compress(raw)


class FrameDecoder:
    """Decompresses chunks. Not safe for two threads at once: give each its own."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor()

    def decode(self, frame: bytes | memoryview, raw_size: int) -> bytes:
        """Return the ``raw_size`` bytes of one frame. Releases the GIL.

        Raises:
            ImageError: not one zstd frame, another size, or damaged; the message names no chunk, the caller knows it.
        """
        try:
            _check_header(frame, raw_size)
            return self._decompressor.decompress(frame, max_output_size=raw_size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ImageError(f"its frame cannot be decompressed: {error}") from error

    def decode_into(self, frame: bytes | memoryview, target: memoryview) -> None:
        """Fill ``target`` with the bytes of one frame, which must be exactly as many. Releases the GIL.

        For callers whose memory has to lie somewhere, such as on a page boundary: no copy is made on the way. Unlike
        with ``decode``, a cut-off checksum or a skippable frame beside the frame passes: the bytes are right all the
        same, if the frame's digest was.

        Raises:
            ImageError: as ``decode``; ``target`` then holds rubbish.
        """
        try:
            _check_header(frame, len(target))
            with self._decompressor.stream_reader(frame) as reader:
                done = 0
                while done < len(target) and (count := reader.readinto(target[done:])):
                    done += count
                # The frame's checksum is looked at when its end is reached: one more byte must not be there.
                surplus = reader.read(1)
        except zstandard.ZstdError as error:
            raise ImageError(f"its frame cannot be decompressed: {error}") from error
        if done != len(target) or surplus:
            raise ImageError(f"its frame decompresses to {done + len(surplus)} bytes or more instead of {len(target)}")


_BLOCK_SIZE = 128 << 10
"""Bytes of all blocks but the last, where nothing is compressed (RFC 8878 section 3.1.1.2.4)."""

_BLOCK_HEADER_SIZE = 3
_CHECKSUM_SIZE = 4


def stored_blocks(frame: bytes | memoryview, raw_size: int) -> int | None:
    """Return where the first block begins in a frame whose blocks are all stored as they are ("raw" in RFC 8878).

    That is what zstd makes of a chunk that it cannot shrink. None for any other frame, and for what is none of
    ``raw_size`` bytes that a ``FrameDecoder`` would take.
    """
    block_count = -(-raw_size // _BLOCK_SIZE)
    blocks_size = raw_size + block_count * _BLOCK_HEADER_SIZE
    if not block_count or len(frame) <= blocks_size:  # nearly always, at no cost
        return None
    if frame[: len(zstandard.FRAME_HEADER)] != zstandard.FRAME_HEADER:  # skippable frames have sizes too
        return None
    try:
        parameters = zstandard.get_frame_parameters(frame)
        start: int = zstandard.frame_header_size(frame)
    except zstandard.ZstdError:
        return None
    if parameters.content_size != raw_size or parameters.dict_id or parameters.window_size > limits.CHUNK_SIZE_MAX:
        return None
    if len(frame) != start + blocks_size + _CHECKSUM_SIZE * parameters.has_checksum:
        return None
    last_size = raw_size - (block_count - 1) * _BLOCK_SIZE
    for block in range(block_count):
        is_last = block == block_count - 1
        header = (last_size if is_last else _BLOCK_SIZE) << 3 | is_last  # size, type 0, whether it is the last
        at = start + block * (_BLOCK_SIZE + _BLOCK_HEADER_SIZE)
        if frame[at : at + _BLOCK_HEADER_SIZE] != header.to_bytes(_BLOCK_HEADER_SIZE, "little"):
            return None
    return start


def copy_stored(frame: bytes | memoryview, start: int, target: memoryview) -> None:
    """Fill ``target`` from the ``stored_blocks`` that begin at ``start``. Releases the GIL.

    The frame's checksum is not looked at: for callers that hold what comes out against a digest.
    """
    raw, stored = np.frombuffer(target, np.uint8), np.frombuffer(frame, np.uint8)[start:]
    count = len(raw) // _BLOCK_SIZE
    whole, pitch = count * _BLOCK_SIZE, _BLOCK_HEADER_SIZE + _BLOCK_SIZE
    raw[:whole].reshape(count, _BLOCK_SIZE)[:] = stored[: count * pitch].reshape(count, pitch)[:, _BLOCK_HEADER_SIZE:]
    rest = count * pitch + _BLOCK_HEADER_SIZE
    raw[whole:] = stored[rest : rest + len(raw) - whole]


def _check_header(frame: bytes | memoryview, raw_size: int) -> None:
    """Check before decompressing, which allocates whatever the header announces."""
    parameters = zstandard.get_frame_parameters(frame)
    if parameters.content_size != raw_size:
        raise ImageError(f"its frame announces {parameters.content_size} bytes instead of {raw_size}")
    if parameters.window_size > limits.CHUNK_SIZE_MAX:
        # A frame that is decompressed at once needs no window, but ``zstd -d`` allocates one, or refuses to.
        raise ImageError(
            f"its frame asks for a window of {parameters.window_size} bytes; "
            f"at most {limits.CHUNK_SIZE_MAX} are allowed"
        )
