"""Goal: a disk that is damaged, cut, or in use is imaged byte for byte with a clear word, or refused; nothing is lost.

Method: disks broken one way each; what the image gives back is compared with the disk, byte by byte.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from ghostcast.disk import programs
from ghostcast.image.source import RawSource
from tests.images import extract, plain_zstd
from tests.lab import volumes
from tests.lab.volumes import MIB, run

pytestmark = pytest.mark.lab

SIZE = 64 * MIB
START, END = 10 * MIB, 60 * MIB


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> pathlib.Path:
    """A GPT disk with two partitions, the second an ext4 with deleted files."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    run("sgdisk", "--new=1:2048:+4M", f"--new=2:{START // 512}:{END // 512 - 1}", path)
    volumes.make("ext4", (path, START, END - START))
    return path


def assert_stored_whole(disk: pathlib.Path, warning: str) -> None:
    """Check that an image of the disk says this, and holds every byte of it."""
    warnings: list[str] = []
    image = disk.with_name("image")
    manifest = volumes.capture(disk, image, warnings)
    assert len(warnings) == 1
    assert warning in warnings[0]
    assert str(disk) in warnings[0]
    assert manifest.disk is not None
    assert manifest.disk.free_size == 0
    assert extract(image, disk.with_name("copy")) == disk.read_bytes() == plain_zstd(image)


def test_a_cut_disk(disk: pathlib.Path) -> None:
    os.truncate(disk, SIZE - 9 * MIB)
    assert_stored_whole(disk, "there are traces of a GPT, but it is damaged or the disk is cut short")


def test_a_cut_disk_with_an_old_table(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    volumes.noise(disk, 20 * MIB)
    run("sfdisk", "--wipe", "never", disk, stdin="label: dos\n,10M,83\n,,83\n")
    os.truncate(disk, 15 * MIB)
    assert_stored_whole(disk, "partition 2 ends at byte 20971520, behind the end of the disk at 15728640")


def test_partitions_that_overlap(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    volumes.noise(disk, 20 * MIB)
    run("sfdisk", "--wipe", "never", disk, stdin="label: dos\n2048,20480,83\n22528,,83\n")
    with disk.open("r+b") as file:
        file.seek(446 + 16 + 8)
        file.write((10_000).to_bytes(4, "little"))
    assert_stored_whole(
        disk, "its partitions 1 and 2 overlap: partition 1 ends at byte 11534336, partition 2 starts at"
    )


def test_a_gpt_whose_entries_are_damaged(disk: pathlib.Path) -> None:
    with disk.open("r+b") as file:
        for offset in (1024 + 40, SIZE - 33 * 512 + 40):
            file.seek(offset)
            file.write(b"\x11")
    assert_stored_whole(disk, "there are traces of a GPT, but it is damaged")


def test_a_gpt_whose_first_copy_is_damaged_is_read_from_the_second(disk: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with disk.open("r+b") as file:
        file.seek(1024 + 40)
        file.write(b"\x11")
    manifest = volumes.capture(disk, tmp_path / "image")
    assert manifest.disk is not None
    assert manifest.disk.free_size > 20 * MIB
    copy = extract(tmp_path / "image", tmp_path / "copy")
    assert copy[:START] == disk.read_bytes()[:START]


def test_a_file_system_that_is_larger_than_its_partition(disk: pathlib.Path) -> None:
    run("sgdisk", "--delete=2", f"--new=2:{START // 512}:{(END - 8 * MIB) // 512 - 1}", disk)
    assert_stored_whole(disk, "partition 2 (ext4) is stored whole, used or not: ")


def test_a_damaged_file_system(disk: pathlib.Path) -> None:
    with disk.open("r+b") as file:
        file.seek(START + 1024 + 56 + 8)  # the superblock's checksum no longer fits
        file.write(b"\x55\x55\x55")
    assert_stored_whole(disk, "partition 2 (ext4) is stored whole, used or not: ")


def test_what_nobody_knows_is_stored_without_a_word(tmp_path: pathlib.Path) -> None:
    disk = volumes.noise(tmp_path / "disk", 3 * MIB + 5)
    assert volumes.capture(disk, tmp_path / "image").disk is not None
    assert extract(tmp_path / "image", tmp_path / "copy") == disk.read_bytes()


def test_data_behind_the_last_partition_is_not_lost(disk: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert volumes.capture(disk, tmp_path / "image").target_size_min < END
    with disk.open("r+b") as file:
        file.seek(SIZE - MIB)
        file.write(b"hidden")
    manifest = volumes.capture(disk, tmp_path / "image")
    assert manifest.target_size_min == SIZE
    assert extract(tmp_path / "image", tmp_path / "copy")[END:] == disk.read_bytes()[END:]


def test_a_disk_that_is_in_use(disk: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "ghostcast.cli.main", "image", "create", disk, tmp_path / "image"]
    with (
        volumes.part(disk, START, END - START, writable=True) as device,
        volumes.mounted("ext4", device, tmp_path / "mount"),
    ):
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode == 2
        assert "is mounted on" in refused.stderr
        assert "--allow-mounted" in refused.stderr
        assert not (tmp_path / "image").exists()
        allowed = subprocess.run([*command, "--allow-mounted"], capture_output=True, text=True)
        assert allowed.returncode == 0
        assert "is stored whole" in allowed.stderr


def test_an_interrupt_leaves_no_loop_device(disk: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look is interrupted while partclone has the loop device open."""
    run_program = programs.run
    before = run("losetup", "--list", "--noheadings")

    def interrupted(name: str, *arguments: str | pathlib.Path, **options: object) -> str:
        if name == "partclone.ext4":
            assert len(run("losetup", "--list", "--noheadings")) > len(before)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return run_program(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(programs, "run", interrupted)
    with RawSource.open(disk) as source, pytest.raises(KeyboardInterrupt):
        source.look()
    assert str(disk) not in run("losetup", "--list", "--noheadings")
