"""Goal: of a file system, an image holds what it uses and nothing else, and a restored copy is as good as the original.

Method: real file systems made, filled and partly emptied by their own tools; restored to devices full of noise, so that
a block that was left out and should not have been cannot go unnoticed; their own checkers and their own drivers judge.
"""

from __future__ import annotations

import pathlib
import subprocess

import numpy as np
import pytest

from ghostcast.disk import programs
from ghostcast.image.unused import Unused
from protocol.manifest import FLAG_UNUSED, Manifest
from tests.lab import volumes
from tests.lab.volumes import MIB

pytestmark = pytest.mark.lab

SIZE = 160 * MIB
XFS_SIZE = 300 * MIB  # the smallest that mkfs.xfs makes


def size_of(kind: str) -> int:
    return XFS_SIZE if kind == "xfs" else SIZE


def make(kind: str, path: pathlib.Path) -> dict[str, bytes]:
    with path.open("wb") as file:
        file.truncate(size_of(kind))
    try:
        return volumes.make(kind, (path, 0, size_of(kind)))
    except volumes.Unsupported as error:
        pytest.skip(str(error))


def unused_ranges(manifest: Manifest) -> list[tuple[int, int]]:
    return [manifest.raw_range(int(chunk)) for chunk in np.flatnonzero(manifest.flags & FLAG_UNUSED)]


@pytest.mark.parametrize("kind", volumes.KINDS)
def test_a_restored_file_system_is_whole(tmp_path: pathlib.Path, loop_device: volumes.Attach, kind: str) -> None:
    disk, image, size = tmp_path / "disk", tmp_path / "image", size_of(kind)
    files = make(kind, disk)
    manifest = volumes.capture(disk, image)
    assert manifest.disk is not None
    assert [volume.content for volume in manifest.disk.volumes] == [kind.split()[0]]
    assert manifest.stream_size < volumes.KEPT_SIZE + 8 * MIB  # 28 MiB of noise were deleted
    assert len(unused_ranges(manifest)) > 20
    device = loop_device("target", size)
    volumes.noise(device, size)
    assert volumes.restore(image, device) == []
    volumes.check(kind, (device, 0, size))
    assert volumes.files_of(kind, (device, 0, size)) == files
    if kind == "btrfs":  # both copies of what btrfs keeps twice
        with (
            volumes.part(device, 0, size, writable=True) as part,
            volumes.mounted(kind, part, tmp_path / "mount") as mount_point,
        ):
            assert "no errors found" in volumes.run("btrfs", "scrub", "start", "-B", mount_point)


@pytest.mark.parametrize("unused", Unused)
def test_what_nothing_uses_is_kept_zeroed_or_discarded(
    tmp_path: pathlib.Path, loop_device: volumes.Attach, unused: Unused
) -> None:
    disk, image = tmp_path / "disk", tmp_path / "image"
    files = make("ext4", disk)
    manifest = volumes.capture(disk, image)
    device = loop_device("target", SIZE)
    volumes.noise(device, SIZE)
    volumes.restore(image, device, unused=unused)
    volumes.check("ext4", (device, 0, SIZE))
    assert volumes.files_of("ext4", (device, 0, SIZE)) == files
    expected = bytes(MIB) if unused is not Unused.KEEP else volumes._NOISE  # a loop device discards to zeros
    with device.open("rb") as opened:
        for start, end in unused_ranges(manifest):
            opened.seek(start)
            assert opened.read(end - start) == expected[: end - start]


def mounted_copy(kind: str, tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a file system as a power cut leaves it, with a file whose blocks no map on the disk shows yet."""
    disk, cut = tmp_path / "disk", tmp_path / "cut"
    make(kind, disk)
    with (
        volumes.part(disk, 0, size_of(kind), writable=True) as device,
        volumes.mounted(kind, device, tmp_path / "mount") as mount_point,
    ):
        (mount_point / "late").write_bytes(b"x" * 5 * MIB)
        volumes.run("sync", "-f", mount_point)
        cut.write_bytes(device.read_bytes())
    return cut


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_file_system_that_was_not_unmounted_is_stored_whole(
    tmp_path: pathlib.Path, loop_device: volumes.Attach, kind: str
) -> None:
    cut, warnings = mounted_copy(kind, tmp_path), list[str]()
    manifest = volumes.capture(cut, tmp_path / "image", warnings)
    assert "not cleanly unmounted" in warnings[0]
    assert not unused_ranges(manifest)
    assert manifest.disk is not None
    assert "not cleanly unmounted" in manifest.disk.volumes[0].note
    device = loop_device("target", size_of(kind))
    volumes.restore(tmp_path / "image", device)
    assert device.read_bytes() == cut.read_bytes()


def test_a_fat_that_was_not_unmounted_is_stored_whole(tmp_path: pathlib.Path) -> None:
    disk, warnings = tmp_path / "disk", list[str]()
    make("vfat", disk)
    with disk.open("r+b") as file:
        reserved = int.from_bytes(file.read(16)[14:16], "little") * 512
        file.seek(reserved + 7)  # the top byte of FAT entry 1: bit 3 says that it was shut down cleanly
        file.write(b"\x07")
    assert not unused_ranges(volumes.capture(disk, tmp_path / "image", warnings))
    assert "partclone.vfat refuses it" in warnings[0]


def test_without_partclone_everything_is_stored_and_it_says_so(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, warnings = tmp_path / "disk", list[str]()
    make("ext4", disk)
    find = programs.find
    monkeypatch.setattr(programs, "find", lambda name: None if name.startswith("partclone") else find(name))
    warnings: list[str] = []
    manifest = volumes.capture(disk, tmp_path / "image", warnings)
    assert not unused_ranges(manifest)
    assert "partclone.ext4 is not installed (Debian package partclone)" in warnings[0]
    zstd = subprocess.run(["zstd", "-dc", tmp_path / "image"], check=True, capture_output=True).stdout
    assert zstd == disk.read_bytes()


def test_a_stored_file_system_is_as_small_as_partclone_makes_it(tmp_path: pathlib.Path) -> None:
    """The full measurement has 4 GB; a twelfth of it tells whether something is stored that should not be."""
    disk = tmp_path / "disk"
    make("ext4", disk)
    manifest = volumes.capture(disk, tmp_path / "image")
    peer = subprocess.run(
        f"partclone.ext4 -c -q -s {disk} -L {tmp_path}/log 2>/dev/null | zstd -3 -q | wc -c",
        shell=True, check=True, capture_output=True,
    )  # fmt: skip
    assert manifest.stream_size < 1.05 * int(peer.stdout)


def test_a_small_fat_is_stored_whole(tmp_path: pathlib.Path, loop_device: volumes.Attach) -> None:
    """partclone's map of a FAT12, as small EFI partitions have, calls clusters of files free."""
    disk, file = tmp_path / "disk", volumes.noise(tmp_path / "file", 3 * MIB)
    with disk.open("wb") as opened:
        opened.truncate(8 * MIB)
    volumes.run("mkfs.vfat", "-F", "12", disk)
    volumes.run("mcopy", "-i", disk, file, "::/file")
    warnings: list[str] = []
    manifest = volumes.capture(disk, tmp_path / "image", warnings)
    assert manifest.disk is not None
    assert "FAT12" in manifest.disk.volumes[0].note
    device = volumes.noise(loop_device("target", 8 * MIB), 8 * MIB)
    volumes.restore(tmp_path / "image", device)
    volumes.run("mcopy", "-i", device, "::/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
