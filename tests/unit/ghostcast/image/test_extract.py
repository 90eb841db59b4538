"""Goal: extract restores exactly, or leaves nothing that could be taken for a restored disk.

Method: files with and without an old content, damaged images, and loop devices with an old content.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ghostcast.image.extract import extract_image
from ghostcast.image.reader import ImageFile
from ghostcast.image.target import Target
from protocol.errors import ExitStatus, ImageError, TargetError
from protocol.manifest import FLAG_UNUSED
from tests.images import CHUNK_SIZE, assemble, extract, make_image
from tests.lab.disks import LoopUnavailable, loop_device


def damage(path: Path, chunk_index: int) -> None:
    with ImageFile.open(path) as image:
        offset = image.manifest.stored_range(chunk_index)[0]
    with path.open("r+b") as file:
        file.seek(offset + 8)
        file.write(b"damaged!")


def test_zero_chunks_become_holes(tmp_path: Path) -> None:
    raw = b"x" * CHUNK_SIZE + bytes(1000 * CHUNK_SIZE) + b"y" * CHUNK_SIZE + bytes(500 * CHUNK_SIZE + 99)
    path = make_image(tmp_path / "image", raw)
    assert extract(path, tmp_path / "disk") == raw
    assert (tmp_path / "disk").stat().st_blocks * 512 <= 100 * CHUNK_SIZE


def test_room_is_set_aside_for_data_before_any_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"x" * 3 * CHUNK_SIZE + bytes(5 * CHUNK_SIZE) + b"y" * (CHUNK_SIZE + 9)
    path = make_image(tmp_path / "image", raw)
    calls: list[tuple[str, int, int]] = []
    reserve, write = Target.reserve, Target.write

    def reserving(target: Target, offset: int, length: int) -> None:
        calls.append(("reserve", offset, length))
        reserve(target, offset, length)

    def writing(target: Target, offset: int, data: memoryview, chunk_index: int | None = None) -> None:
        calls.append(("write", offset, len(data)))
        write(target, offset, data, chunk_index)

    monkeypatch.setattr(Target, "reserve", reserving)
    monkeypatch.setattr(Target, "write", writing)
    assert extract(path, tmp_path / "disk") == raw
    assert calls[:2] == [("reserve", 0, 3 * CHUNK_SIZE), ("reserve", 8 * CHUNK_SIZE, CHUNK_SIZE + 9)]
    assert {call[0] for call in calls[2:]} == {"write"}


def test_a_file_is_not_replaced_unless_forced(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", b"new")
    (tmp_path / "disk").write_bytes(b"old and longer")
    with (
        ImageFile.open(path) as image,
        pytest.raises(TargetError, match="exists already; use --force") as caught,
    ):
        extract_image(image, tmp_path / "disk")
    assert caught.value.exit_status == ExitStatus.TARGET
    assert (tmp_path / "disk").read_bytes() == b"old and longer"
    assert extract(path, tmp_path / "disk") == b"new"


def test_an_image_is_never_its_own_target(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", b"raw")
    with pytest.raises(TargetError, match="is the image itself"):
        extract(path, path)
    assert extract(path, tmp_path / "disk") == b"raw"


def test_a_damaged_image_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", os.urandom(50 * CHUNK_SIZE))
    damage(path, 40)
    (tmp_path / "disk").write_bytes(b"old")
    with pytest.raises(ImageError, match="chunk 40 "):
        extract(path, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["disk", "image", "image.raw"]


def test_a_zero_chunk_s_frame_is_not_needed(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", b"x" * CHUNK_SIZE + bytes(CHUNK_SIZE))
    damage(path, 1)
    assert extract(path, tmp_path / "disk") == b"x" * CHUNK_SIZE + bytes(CHUNK_SIZE)


def test_unused_chunks_are_holes_in_a_file(tmp_path: Path) -> None:
    raws = (b"used" * 1024, b"free" * 1024, b"used" * 1024)
    path = tmp_path / "image"
    path.write_bytes(assemble(raws, flags=np.array([0, FLAG_UNUSED, 0], np.uint8)))
    assert extract(path, tmp_path / "disk") == raws[0] + bytes(CHUNK_SIZE) + raws[2]


def test_progress_ends_at_the_sizes_of_the_image(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", os.urandom(3 * CHUNK_SIZE) + bytes(9 * CHUNK_SIZE + 1))
    seen: list[tuple[int, int]] = []
    with ImageFile.open(path) as image:
        extract_image(image, tmp_path / "disk", progress=lambda raw, stored: seen.append((raw, stored)))
        assert seen[-1] == (image.manifest.raw_size, image.stream_size)


@pytest.mark.parametrize(
    ("name", "reason"), [(".", "a directory"), ("no/disk", "does not exist"), ("/dev/zero", "a character device")]
)
def test_what_cannot_be_a_target_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    path = make_image(tmp_path / "image", b"raw")
    with pytest.raises(TargetError, match=reason):
        extract(path, tmp_path / name)


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(raw_done: int, stored_done: int) -> None:
        raise KeyboardInterrupt

    path = make_image(tmp_path / "image", os.urandom(9 * CHUNK_SIZE))
    with ImageFile.open(path) as image, pytest.raises(KeyboardInterrupt):
        extract_image(image, tmp_path / "disk", progress=interrupt)
    assert sorted(os.listdir(tmp_path)) == ["image", "image.raw"]


def on_device(tmp_path: Path, image: Path, size: int) -> bytes:
    """Extract to a loop device full of old bytes and return what is on it, whether that succeeded or not."""
    backing = tmp_path / "backing"
    backing.write_bytes(b"o" * size)
    try:
        with loop_device(backing, size) as device:
            try:
                with ImageFile.open(image) as opened:
                    extract_image(opened, device, worker_count=2)
            finally:
                content = device.read_bytes()
                backing.with_name("content").write_bytes(content)
            return content
    except LoopUnavailable as error:
        pytest.skip(str(error))


def test_a_device_is_restored_in_place(tmp_path: Path) -> None:
    raw = b"x" * CHUNK_SIZE + bytes(5 * CHUNK_SIZE) + b"y" * 1000
    path = make_image(tmp_path / "image", raw)
    size = 8 * CHUNK_SIZE
    assert on_device(tmp_path, path, size) == raw + b"o" * (size - len(raw))


def test_a_device_keeps_what_unused_chunks_leave_alone(tmp_path: Path) -> None:
    raws = (b"free" * 1024, b"used" * 1024, b"free" * 1024)
    path = tmp_path / "image"
    path.write_bytes(assemble(raws, flags=np.array([FLAG_UNUSED, 0, FLAG_UNUSED], np.uint8)))
    old = b"o" * CHUNK_SIZE
    assert on_device(tmp_path, path, 3 * CHUNK_SIZE) == old + raws[1] + old


def test_a_device_that_was_not_restored_whole_starts_with_zeros(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", os.urandom(20 * CHUNK_SIZE))
    damage(path, 15)
    with pytest.raises(ImageError, match=r"chunk 15 .* written in part only and starts with zeros"):
        on_device(tmp_path, path, 20 * CHUNK_SIZE)
    assert (tmp_path / "content").read_bytes()[:CHUNK_SIZE] == bytes(CHUNK_SIZE)


def test_a_device_that_is_too_small_is_not_touched(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", os.urandom(20 * CHUNK_SIZE))
    with pytest.raises(TargetError, match=f"has {19 * CHUNK_SIZE} bytes, the image needs {20 * CHUNK_SIZE}"):
        on_device(tmp_path, path, 19 * CHUNK_SIZE)
    assert (tmp_path / "content").read_bytes() == b"o" * 19 * CHUNK_SIZE
