"""Goal: an image of anything restores it, by us and by plain zstd; and a failure leaves nothing behind.

Method: sources of awkward sizes and contents go through the writer and come back through three readers; the writer is
interrupted, starved of space, and refused its source half way.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import pyzstd

from ghostcast.image import layout, writer
from ghostcast.image.reader import ImageFile
from ghostcast.image.source import RawSource
from ghostcast.image.writer import ImageOptions, create_image
from protocol import limits
from protocol.errors import ExitStatus, ImageError, TargetError, UsageError
from protocol.manifest import FLAG_ZERO, Manifest
from tests.images import CHUNK_SIZE, extract, make_image, plain_zstd, unfinished, verify
from tests.lab.disks import mounted

SIZES = (0, 1, 511, 4095, 4096, 4097, 3 * 4096, 10 * 4096 + 1)


def create(source: Path, image: Path, *, force: bool = False) -> Manifest:
    with RawSource.open(source) as opened:
        return create_image(opened, image, ImageOptions(chunk_size=CHUNK_SIZE), force=force, worker_count=1)


@pytest.mark.parametrize("size", SIZES)
def test_every_reader_restores_the_same_bytes(tmp_path: Path, size: int) -> None:
    raw = os.urandom(size)
    path = make_image(tmp_path / "image", raw)
    verify(path)
    assert extract(path, tmp_path / "restored") == raw
    assert plain_zstd(path) == raw
    with pyzstd.SeekableZstdFile(path) as file:
        assert file.read() == raw
        for start in {0, size // 3, max(0, size - 5)}:
            file.seek(start)
            assert file.read(7) == raw[start : start + 7]


def test_zero_chunks_are_flagged_and_still_have_frames(tmp_path: Path) -> None:
    raw = b"x" * CHUNK_SIZE + bytes(3 * CHUNK_SIZE) + b"y" * CHUNK_SIZE + bytes(10)
    path = make_image(tmp_path / "image", raw)
    with ImageFile.open(path) as image:
        assert image.manifest.flags.tolist() == [0, FLAG_ZERO, FLAG_ZERO, FLAG_ZERO, 0, FLAG_ZERO]
        assert image.manifest.transferred.tolist() == [True, False, False, False, True, False]
        assert len(image.read_frame(1)) < 32
    assert plain_zstd(path) == raw


def test_one_byte_that_is_not_zero_makes_a_chunk_that_is_not(tmp_path: Path) -> None:
    for position in (0, CHUNK_SIZE // 2, CHUNK_SIZE - 1):
        raw = bytearray(2 * CHUNK_SIZE)
        raw[position] = 1
        with ImageFile.open(make_image(tmp_path / "image", bytes(raw))) as image:
            assert image.manifest.flags.tolist() == [0, FLAG_ZERO]


def test_a_sparse_disk_of_64_gib_takes_moments(tmp_path: Path) -> None:
    source = tmp_path / "disk"
    with source.open("wb") as file:
        file.seek(33 << 30)
        file.write(b"in the middle of nowhere")
        file.truncate(64 << 30)
    if source.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes")
    with RawSource.open(source) as opened:
        manifest = create_image(opened, tmp_path / "image", ImageOptions(chunk_size=limits.CHUNK_SIZE_MAX))
    assert manifest.chunk_count == 4096
    assert np.flatnonzero(manifest.transferred).tolist() == [33 * 64]
    with pyzstd.SeekableZstdFile(tmp_path / "image") as file:
        file.seek(33 << 30)
        assert file.read(24) == b"in the middle of nowhere"


def test_what_was_chosen_is_recorded(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", b"x", name="golden", architecture="aarch64", labels={"rack": "7"})
    with ImageFile.open(path) as image:
        manifest = image.manifest
    assert (manifest.name, manifest.chunk_size, manifest.raw_size) == ("golden", CHUNK_SIZE, 1)
    assert (manifest.source.kind, manifest.source.path) == ("file", str(tmp_path / "image.raw"))
    assert (manifest.source.architecture, manifest.source.labels) == ("aarch64", {"rack": "7"})
    assert manifest.created > 1_700_000_000


def test_two_images_of_one_disk_differ_by_their_id_only(tmp_path: Path) -> None:
    manifests = []
    for _ in range(2):
        with ImageFile.open(make_image(tmp_path / "image", b"x" * 10_000)) as image:
            manifests.append(image.manifest)
    assert manifests[0].image_id != manifests[1].image_id
    assert manifests[0].stored_digests.tobytes() == manifests[1].stored_digests.tobytes()


def test_the_default_name_is_the_file_s(tmp_path: Path) -> None:
    with ImageFile.open(make_image(tmp_path / "web.img.zst", b"x")) as image:
        assert image.manifest.name == "web.img.zst.raw"


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_size": 1000},
        {"chunk_size": 0},
        {"chunk_size": 32 << 20},
        {"chunk_size": 6000},
        {"level": 0},
        {"level": 23},
        {"level": -1},
        {"name": ""},
        {"name": "n" * 129},
        {"labels": {"long": "x" * 1025}},
        {"labels": {str(number): "" for number in range(65)}},
        {"architecture": "x" * 1025},
    ],
)
def test_impossible_options_are_usage_errors(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ImageOptions(**options)  # type: ignore[arg-type]


def test_an_image_is_not_replaced_unless_forced(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image", b"first")
    before = path.read_bytes()
    (tmp_path / "other").write_bytes(b"second")
    with pytest.raises(UsageError, match="exists already; use --force"):
        create(tmp_path / "other", path)
    assert path.read_bytes() == before
    create(tmp_path / "other", path, force=True)
    assert plain_zstd(path) == b"second"


def test_a_source_is_never_its_own_image(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"precious")
    (tmp_path / "hard").hardlink_to(tmp_path / "disk")
    (tmp_path / "soft").symlink_to("disk")
    for name in ("disk", "hard", "soft"):
        with pytest.raises(UsageError, match="is the source itself"):
            create(tmp_path / "disk", tmp_path / name, force=True)
    assert (tmp_path / "disk").read_bytes() == b"precious"


def test_an_image_can_replace_what_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"raw")
    (tmp_path / "v1").write_bytes(b"old")
    (tmp_path / "current").symlink_to("v1")
    create(tmp_path / "disk", tmp_path / "current", force=True)
    assert (tmp_path / "current").is_symlink()
    assert plain_zstd(tmp_path / "v1") == b"raw"


@pytest.mark.parametrize(("name", "reason"), [("", "a directory"), ("no/image", "does not exist")])
def test_an_image_that_cannot_be_written_is_a_target_error(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "disk").write_bytes(b"raw")
    with pytest.raises(TargetError, match=reason):
        create(tmp_path / "disk", tmp_path / name, force=True)
    assert os.listdir(tmp_path) == ["disk"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    """A real signal, while the source is silent and the writer waits for it."""
    os.mkfifo(tmp_path / "fifo")
    held_open = os.open(tmp_path / "fifo", os.O_RDWR)
    os.write(held_open, os.urandom(CHUNK_SIZE))

    def interrupt(raw_done: int, stored_done: int) -> None:
        assert unfinished(tmp_path)  # so that the check below means something
        signal.raise_signal(signal.SIGINT)

    try:
        with RawSource.open(tmp_path / "fifo") as source, pytest.raises(KeyboardInterrupt):
            create_image(source, tmp_path / "image", ImageOptions(chunk_size=CHUNK_SIZE), progress=interrupt)
    finally:
        os.close(held_open)
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_source_that_shrinks_leaves_the_old_image(tmp_path: Path) -> None:
    source = tmp_path / "disk"
    source.write_bytes(os.urandom(50 * CHUNK_SIZE))
    (tmp_path / "image").write_bytes(b"old")

    def shrink(raw_done: int, stored_done: int) -> None:
        os.truncate(source, 10 * CHUNK_SIZE)

    with RawSource.open(source) as opened, pytest.raises(ImageError, match="something writes to it"):
        create_image(
            opened,
            tmp_path / "image",
            ImageOptions(chunk_size=CHUNK_SIZE),
            force=True,
            progress=shrink,
            worker_count=1,
        )
    assert (tmp_path / "image").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["disk", "image"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_a_target_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(2 << 20))
    with mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=1m") as small:
        with pytest.raises(TargetError, match=rf"{small}/image: writing at byte \d+ failed: No space left") as caught:
            create(tmp_path / "disk", small / "image")
        assert caught.value.exit_status == ExitStatus.TARGET
        assert os.listdir(small) == []


def test_more_chunks_than_a_manifest_holds_are_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "CHUNK_COUNT_MAX", 3)
    (tmp_path / "disk").write_bytes(bytes(4 * CHUNK_SIZE))
    with pytest.raises(UsageError, match="choose a larger --chunk-size"):
        create(tmp_path / "disk", tmp_path / "image")
    os.mkfifo(tmp_path / "fifo")
    held_open = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        os.write(held_open, bytes(4 * CHUNK_SIZE))
        with pytest.raises(UsageError, match="more than 3 chunks of 4096"):
            create(tmp_path / "fifo", tmp_path / "image")
    finally:
        os.close(held_open)
    assert not (tmp_path / "image").exists()


def test_progress_ends_at_the_sizes_of_the_image(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(5 * CHUNK_SIZE + 1) + bytes(9 * CHUNK_SIZE))
    seen: list[tuple[int, int]] = []
    with RawSource.open(tmp_path / "disk") as source:
        manifest = create_image(
            source,
            tmp_path / "image",
            ImageOptions(chunk_size=CHUNK_SIZE),
            progress=lambda raw_done, stored_done: seen.append((raw_done, stored_done)),
        )
    assert seen == sorted(seen)
    assert seen[-1] == (manifest.raw_size, manifest.stream_size)


def test_a_manifest_that_no_reader_would_take_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: a digest of the wrong bytes in a zero chunk."""
    monkeypatch.setattr(writer, "FLAG_ZERO", 0x80)
    (tmp_path / "disk").write_bytes(bytes(CHUNK_SIZE))
    with pytest.raises(ImageError, match="flags that this version does not know"):
        create(tmp_path / "disk", tmp_path / "image")
    assert os.listdir(tmp_path) == ["disk"]
