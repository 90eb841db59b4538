"""Goal: a frame gives its chunk or an ImageError, and never allocates what it announces.

Method: frames made by hand that lie about their size, their window or their kind.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import zstandard

from ghostcast.image.frame import LEVEL_MAX, LEVEL_MIN, FrameDecoder, FrameEncoder
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
