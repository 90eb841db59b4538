"""Goal: a file that is no whole image is refused when it is opened, with the reason, whatever is wrong with it.

Method: a small image is cut at every length, has every one of its bits flipped, or has its tail replaced by one that
contradicts itself; and files of other programs are opened.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import pyzstd
import zstandard

from ghostcast.image import layout
from ghostcast.image.frame import FrameDecoder
from ghostcast.image.reader import ChunkError, ImageFile
from protocol import limits
from protocol.errors import ImageError, UsageError
from tests.images import CHUNK_SIZE, assemble, make_image

RAWS = (b"one" * 1000 + bytes(CHUNK_SIZE - 3000), bytes(CHUNK_SIZE), b"the last chunk is short")


def open_bytes(path: Path, data: bytes) -> ImageFile:
    path.write_bytes(data)
    return ImageFile.open(path)


def read_all(image: ImageFile) -> bytes:
    decoder = FrameDecoder()
    return b"".join(image.read_chunk(index, decoder) for index in range(image.manifest.chunk_count))


def test_an_open_image_gives_what_the_engines_need(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", b"".join(RAWS), name="three")
    with ImageFile.open(path) as image:
        assert image.path == path
        assert image.manifest.name == "three"
        assert image.manifest.encode() == image.manifest_bytes
        assert image.stream_size == image.manifest.stream_size
        assert read_all(image) == b"".join(RAWS)
        stream = os.pread(image.fileno(), image.stream_size, 0)
        assert stream == b"".join(image.read_frame(index) for index in range(3))
    image.close()


def test_a_missing_image_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "missing" / "deeper"):
        with pytest.raises(UsageError, match="no such image"):
            ImageFile.open(path)


def test_what_is_no_file_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ImageError, match="not a regular file"):
            ImageFile.open(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_image_is_an_image_error(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", b"x")
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        ImageFile.open(path)


@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_an_impossible_name_is_an_image_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="cannot be opened"):
        ImageFile.open(tmp_path / name)


def test_every_cut_is_found(tmp_path: Path) -> None:
    whole = assemble(RAWS)
    for size in range(len(whole)):
        with pytest.raises(ImageError):
            open_bytes(tmp_path / "cut", whole[:size])


@pytest.mark.parametrize("size", [3, 60, 200])
def test_a_cut_image_is_called_cut(tmp_path: Path, size: int) -> None:
    expected = "it is not a ghostcast image" if size < 4 else "cut short"
    with pytest.raises(ImageError, match=expected):
        open_bytes(tmp_path / "cut", assemble(RAWS)[:size])


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    whole = assemble(RAWS)
    path = tmp_path / "flipped"
    path.write_bytes(whole)
    with path.open("r+b", buffering=0) as file:
        for bit in range(len(whole) * 8):
            position, mask = bit // 8, 1 << bit % 8
            os.pwrite(file.fileno(), bytes([whole[position] ^ mask]), position)
            with pytest.raises(ImageError), ImageFile.open(path) as image:
                read_all(image)
            os.pwrite(file.fileno(), whole[position : position + 1], position)
    with ImageFile.open(path) as image:
        assert read_all(image) == b"".join(RAWS)


@pytest.mark.parametrize("added", [b"\0", b"a longer piece of something else" * 10])
def test_added_bytes_are_found(tmp_path: Path, added: bytes) -> None:
    whole = assemble(RAWS)
    with pytest.raises(ImageError):
        open_bytes(tmp_path / "longer", whole + added)
    with pytest.raises(ImageError, match="bytes were lost or added"):
        open_bytes(tmp_path / "longer", added + whole)


def test_files_of_other_programs_are_no_images(tmp_path: Path) -> None:
    with pyzstd.SeekableZstdFile(tmp_path / "seekable", "w") as file:
        file.write(b"seekable zstd without a manifest" * 100)
    foreign = {
        "text": b"#!/bin/sh\n" * 100,
        "zeros": bytes(10_000),
        "zstd": zstandard.compress(os.urandom(1000)),
        "seekable": (tmp_path / "seekable").read_bytes(),
    }
    expected = {"text": "make one with", "zeros": "make one with", "zstd": "plain zstd", "seekable": "no manifest|cut"}
    for name, data in foreign.items():
        with pytest.raises(ImageError, match=expected[name]) as caught:
            open_bytes(tmp_path / name, data)
        assert str(caught.value).startswith(str(tmp_path / name))


def test_a_seek_table_of_another_program_is_named(tmp_path: Path) -> None:
    """The same tail with the manifest's place taken by data, or with a checksum column."""
    frame = zstandard.compress(b"data")
    entries = np.array([[len(frame), 4]], np.uint32)
    padded = bytes(100) + frame  # longer than the smallest image
    entries[0, 0] += 100
    with pytest.raises(ImageError, match="no manifest"):
        open_bytes(tmp_path / "data", padded + layout.encode_seek_table(entries))
    table = bytearray(layout.encode_seek_table(entries))
    table[-5] = 0x80
    with pytest.raises(ImageError, match="descriptor 0x80"):
        open_bytes(tmp_path / "checksums", padded + table)


def test_a_skippable_frame_without_our_tag_is_no_manifest(tmp_path: Path) -> None:
    foreign = layout.FRAME_HEADER.pack(layout.MANIFEST_MAGIC, 100) + bytes(100)
    entries = np.array([[len(foreign), 0]], np.uint32)
    with pytest.raises(ImageError, match="tag GHOSTIMG"):
        open_bytes(tmp_path / "foreign", foreign + layout.encode_seek_table(entries))


@pytest.mark.parametrize("entry_count", [0, layout.CHUNK_COUNT_MAX + 2, 0xFFFFFFFF])
def test_an_impossible_entry_count_is_refused_before_it_is_allocated(tmp_path: Path, entry_count: int) -> None:
    path = tmp_path / "huge"
    path.write_bytes(bytes(1000))
    os.truncate(path, 1 << 40)  # sparse: the file's size alone would allow the table
    with path.open("r+b") as file:
        file.seek(-layout.FOOTER.size, os.SEEK_END)
        file.write(layout.FOOTER.pack(entry_count, 0, layout.SEEKABLE_MAGIC))
    with pytest.raises(ImageError, match=f"claims {entry_count} entries"):
        ImageFile.open(path)


def test_a_seek_table_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    whole = assemble(RAWS)
    footer = layout.FOOTER.pack(100_000, 0, layout.SEEKABLE_MAGIC)
    with pytest.raises(ImageError, match="would need 800017 bytes"):
        open_bytes(tmp_path / "image", whole[: -len(footer)] + footer)


def test_a_manifest_larger_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    size = limits.MANIFEST_SIZE_MAX + layout.MANIFEST_FRAME_OVERHEAD + 1
    table = layout.encode_seek_table(np.array([[size, 0]], np.uint32))
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, size)
    with path.open("ab") as file:
        file.write(table)
    with pytest.raises(ImageError, match="no manifest"):
        ImageFile.open(path)


def test_a_seek_table_that_disagrees_with_the_manifest_is_refused(tmp_path: Path) -> None:
    """Another seekable reader would go by the table, we by the manifest: they must say the same."""
    whole = assemble(RAWS)
    table_start = len(whole) - layout.seek_table_size(len(RAWS) + 1)
    shifted = bytearray(whole)
    for entry, step in ((0, +1), (1, -1)):  # the sum stays right
        offset = table_start + 8 + entry * layout.ENTRY_SIZE
        struct.pack_into("<I", shifted, offset, struct.unpack_from("<I", shifted, offset)[0] + step)
    with pytest.raises(ImageError, match="disagree about 2 chunks; the first is chunk 0"):
        open_bytes(tmp_path / "shifted", bytes(shifted))


def test_a_table_of_fewer_chunks_than_the_manifest_is_refused(tmp_path: Path) -> None:
    whole = assemble(RAWS)
    table_start = len(whole) - layout.seek_table_size(len(RAWS) + 1)
    entries = np.frombuffer(whole, "<u4", 8, table_start + 8).reshape(4, 2).astype(np.uint32)
    merged = np.array([entries[0], entries[1] + entries[2], entries[3]], np.uint32)
    with pytest.raises(ImageError, match="2 chunks, its manifest 3"):
        open_bytes(tmp_path / "merged", whole[:table_start] + layout.encode_seek_table(merged))


def test_a_chunk_that_changed_since_the_image_was_opened_is_found(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with open_bytes(path, assemble(RAWS)) as image:
        start, end = image.manifest.stored_range(1)
        with path.open("r+b") as file:
            file.seek(start)
            file.write(b"?")
        with pytest.raises(ChunkError, match=rf"chunk 1 \(file bytes {start} to {end}\)") as caught:
            image.read_frame(1)
        assert (caught.value.chunk_index, caught.value.stored_range) == (1, (start, end))
        os.truncate(path, end)
        with pytest.raises(ChunkError, match=f"ends at byte {end}"):
            image.read_frame(2)


def test_a_read_error_names_the_chunk_and_the_reason(tmp_path: Path) -> None:
    with open_bytes(tmp_path / "image", assemble(RAWS)) as image:
        os.close(image.fileno())
        try:
            with pytest.raises(ChunkError, match=r"chunk 0 .* reading at byte 0 failed: Bad file descriptor"):
                image.read_frame(0)
        finally:
            assert os.open(tmp_path / "image", os.O_RDONLY) == image.fileno()
