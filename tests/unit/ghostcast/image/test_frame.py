"""Goal: a frame gives its chunk or an ImageError, and never allocates what it announces.

Method: frames made by hand that lie about their size, their window or their kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import zstandard

from ghostcast.image.frame import LEVEL_MAX, LEVEL_MIN, FrameDecoder, FrameEncoder, copy_stored, stored_blocks
from protocol import limits
from protocol.errors import ImageError

RAW = bytes(range(256)) * 16
SKIPPABLE = (0x184D2A50).to_bytes(4, "little") + len(RAW).to_bytes(4, "little") + RAW


def decode(frame: bytes, raw_size: int) -> bytes:
    return FrameDecoder().decode(frame, raw_size)


def decode_into(frame: bytes, raw_size: int) -> bytes:
    raw = bytearray(raw_size)
    FrameDecoder().decode_into(frame, memoryview(raw))
    return bytes(raw)


both = pytest.mark.parametrize("decode", [decode, decode_into])


@both
@pytest.mark.parametrize("level", [LEVEL_MIN, 3, LEVEL_MAX])
def test_a_frame_gives_its_chunk_back(decode: Callable[[bytes, int], bytes], level: int) -> None:
    frame = FrameEncoder(level).encode(RAW)
    parameters = zstandard.get_frame_parameters(frame)
    assert (parameters.content_size, parameters.dict_id, parameters.has_checksum) == (len(RAW), 0, True)
    assert len(frame) <= limits.stored_size_max(len(RAW))
    assert decode(frame, len(RAW)) == RAW


@both
def test_a_size_that_is_not_the_chunk_s_is_refused_before_it_is_allocated(
    decode: Callable[[bytes, int], bytes],
) -> None:
    bomb = b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little") + b"\x01\0\0"
    with pytest.raises(ImageError, match=f"announces {1 << 60} bytes instead of 4096"):
        decode(bomb, len(RAW))


@both
def test_a_frame_that_holds_less_than_it_announces_is_refused(decode: Callable[[bytes, int], bytes]) -> None:
    frame = zstandard.ZstdCompressor(write_checksum=False).compress(RAW)
    short = bytearray(frame)
    short[5:7] = (len(RAW) + 1 - 256).to_bytes(2, "little")  # the header's two-byte content size is minus 256
    assert zstandard.frame_content_size(bytes(short)) == len(RAW) + 1
    with pytest.raises(ImageError, match=r"cannot be decompressed|decompresses to"):
        decode(bytes(short), len(RAW) + 1)


@both
def test_a_window_that_plain_zstd_would_refuse_is_refused(decode: Callable[[bytes, int], bytes]) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    unsized = stream.compress(RAW) + stream.flush()
    # Magic, descriptor, window: make the two-byte content size explicit, which a stream's frame does not have.
    frame = unsized[:4] + bytes([0x40 | unsized[4] & 0x0F]) + unsized[5:6] + (len(RAW) - 256).to_bytes(2, "little")
    with pytest.raises(ImageError, match=f"window of {1 << 27} bytes"):
        decode(frame + unsized[6:], len(RAW))


@both
def test_what_is_not_exactly_one_frame_is_refused(decode: Callable[[bytes, int], bytes]) -> None:
    frame = FrameEncoder().encode(RAW)
    for data in (b"", b"\0" * 20, frame[:-5], frame + b"\0", frame + frame, SKIPPABLE):
        with pytest.raises(ImageError):
            decode(data, len(RAW))


def test_decode_finds_what_decode_into_leaves_to_the_digest() -> None:
    frame = FrameEncoder().encode(RAW)
    for data in (frame[:-1], frame[:-4], SKIPPABLE + frame, frame + SKIPPABLE):
        assert decode_into(data, len(RAW)) == RAW
        with pytest.raises(ImageError):
            decode(data, len(RAW))


@both
def test_a_flipped_bit_is_found_by_the_checksum(decode: Callable[[bytes, int], bytes]) -> None:
    frame = bytearray(FrameEncoder().encode(RAW))
    frame[-1] ^= 1
    with pytest.raises(ImageError):
        decode(bytes(frame), len(RAW))


# --- frames in which nothing is compressed ----------------------------------------------------------------------------

BLOCK = 128 << 10


def random_frame(size: int, *, checksum: bool = True) -> tuple[bytes, bytes]:
    """Return what cannot be compressed, and its frame."""
    raw = np.random.default_rng(size).bytes(size)
    return raw, zstandard.ZstdCompressor(write_checksum=checksum).compress(raw)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("size", [1, 100, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 8 * BLOCK, 8 * BLOCK + 5, 16 << 20])
def test_stored_blocks_are_found_and_copied(size: int, checksum: bool) -> None:
    raw, frame = random_frame(size, checksum=checksum)
    for data in (frame, memoryview(frame)):
        start = stored_blocks(data, size)
        assert start is not None
        target = bytearray(size)
        copy_stored(data, start, memoryview(target))
        assert target == raw


@pytest.mark.parametrize("size", [100, BLOCK, 3 * BLOCK + 77])
def test_a_frame_that_is_damaged_anywhere_has_no_stored_blocks_or_says_what_zstd_says(size: int) -> None:
    """Each bit of every header, one after another; what is still a frame of such blocks has the bytes that it has."""
    raw, frame = random_frame(size)
    start = stored_blocks(frame, size)
    assert start is not None
    blocks = [start + block * (BLOCK + 3) for block in range(-(-size // BLOCK))]
    for offset in (*range(start), *(block + place for block in blocks for place in range(3))):
        for bit in range(8):
            damaged = bytearray(frame)
            damaged[offset] ^= 1 << bit
            found = stored_blocks(memoryview(damaged), size)
            if found is not None:
                target = bytearray(size)
                copy_stored(damaged, found, memoryview(target))
                assert target == raw
                assert decode_into(bytes(damaged), size) == raw


def test_other_frames_have_no_stored_blocks() -> None:
    raw, frame = random_frame(3 * BLOCK)
    mixed = np.random.default_rng(1).bytes(BLOCK) + bytes(BLOCK) + np.random.default_rng(2).bytes(BLOCK)
    small_blocks = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=16)
    ).compress(raw)
    assert len(small_blocks) > len(frame)
    start = stored_blocks(frame, 3 * BLOCK)
    assert start is not None
    # Magic, descriptor (four bytes of size, a window, no checksum), window of 2 GiB, size.
    wide = frame[:4] + b"\x80\xa8" + (3 * BLOCK).to_bytes(4, "little") + frame[start:-4]
    assert zstandard.get_frame_parameters(wide).window_size == 1 << 31
    for data in (
        b"",
        wide,
        bytes(len(frame)),
        b"\0" + frame,
        frame[:-1],
        frame + b"\0",
        frame[:-4],
        SKIPPABLE + frame,
        small_blocks,
        FrameEncoder().encode(mixed),
        FrameEncoder().encode(bytes(3 * BLOCK)),
    ):
        assert stored_blocks(data, 3 * BLOCK) is None, data[:20]
    for size in (0, 1, 3 * BLOCK - 1, 3 * BLOCK + 1, 1 << 60):
        assert stored_blocks(frame, size) is None


def test_a_skippable_frame_that_looks_like_stored_blocks_is_none() -> None:
    """It says a size too, and that of 480 bytes is what a header of 13 bytes begins with."""
    size = 0x1E0
    block = (size << 3 | 1).to_bytes(3, "little") + bytes(size)
    for length in (size, 5 + len(block)):
        frame = SKIPPABLE[:4] + length.to_bytes(4, "little") + bytes(5) + block
        assert zstandard.get_frame_parameters(frame).content_size == length
        assert stored_blocks(frame, length) is None
        assert stored_blocks(frame, size) is None
