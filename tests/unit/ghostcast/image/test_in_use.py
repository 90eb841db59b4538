"""Goal: whatever uses a disk or a file is found and named.

Method: small /proc and /sys trees, as Linux shows them, for what a test machine rarely has (LVM, swap, btrfs, RAID);
loop devices and mounts of the real kernel are tested with the target.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ghostcast.image import in_use

DISK = os.makedev(8, 0)
PARTITIONS = (os.makedev(8, 1), os.makedev(8, 2))
OTHER = os.makedev(8, 16)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with the disk sda, partitions sda1 and sda2, the disk sdb, and nothing in use."""
    block = tmp_path / "sys" / "block"
    for folder, number in (("sda", "8:0"), ("sda/sda1", "8:1"), ("sda/sda2", "8:2"), ("sdb", "8:16")):
        (block / folder / "holders").mkdir(parents=True)
        (block / folder / "dev").write_text(f"{number}\n")
        (block / folder / "ro").write_text("0\n")
        if "/" in folder:
            (block / folder / "partition").write_text("1\n")
        link = tmp_path / "sys" / "dev" / "block" / number
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(block / folder)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "mountinfo").write_text("22 27 0:21 / /proc rw,relatime - proc proc rw\n")
    (tmp_path / "proc" / "swaps").write_text("Filename\tType\tSize\tUsed\tPriority\n")
    monkeypatch.setattr(in_use, "PROC", tmp_path / "proc")
    monkeypatch.setattr(in_use, "SYS", tmp_path / "sys")
    return tmp_path


def mount(machine: Path, line: str) -> None:
    with (machine / "proc" / "self" / "mountinfo").open("a") as file:
        file.write(line + "\n")


def pretend(monkeypatch: pytest.MonkeyPatch, path: str, device: int) -> None:
    """Let ``path`` be a block device."""
    real = os.stat

    def stat(name: str | os.PathLike[str], **options: object) -> os.stat_result:
        if os.fspath(name) != path:
            return real(name, **options)  # type: ignore[arg-type]
        return os.stat_result((0o060660, 5, 6, 1, 0, 0, 0, 0, 0, 0), {"st_rdev": device})

    monkeypatch.setattr(os, "stat", stat)


def test_nobody_uses_an_idle_disk() -> None:
    for device in (DISK, *PARTITIONS, OTHER, os.makedev(99, 99)):
        assert in_use.device_use(device) is None
        assert not in_use.is_read_only(device)


def test_a_machine_without_proc_and_sys_has_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(in_use, "PROC", tmp_path / "none")
    monkeypatch.setattr(in_use, "SYS", tmp_path / "none")
    assert in_use.device_use(DISK) is None
    assert in_use.file_use(os.stat(__file__)) is None


def test_a_mounted_partition_is_in_use_and_so_is_its_disk(machine: Path) -> None:
    mount(machine, r"30 1 8:1 / /srv/my\040data rw,noatime shared:1 - ext4 /dev/sda1 rw")
    assert in_use.device_use(PARTITIONS[0]) == "/dev/sda1 is mounted on /srv/my data: unmount it first"
    assert in_use.device_use(DISK) == "/dev/sda1 is mounted on /srv/my data: unmount it first"
    assert in_use.device_use(PARTITIONS[1]) is None
    assert in_use.device_use(OTHER) is None


def test_a_mounted_disk_is_in_use_and_so_are_its_partitions(machine: Path) -> None:
    mount(machine, "30 1 8:0 / /mnt rw - ext4 /dev/sda rw")
    for device in (DISK, *PARTITIONS):
        assert in_use.device_use(device) == "/dev/sda is mounted on /mnt: unmount it first"


def test_btrfs_is_found_by_its_source(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "/dev/sda2", PARTITIONS[1])
    mount(machine, "30 1 0:45 /@home /home rw - btrfs /dev/sda2 rw,subvol=/@home")
    assert in_use.device_use(DISK) == "/dev/sda2 is mounted on /home: unmount it first"


def test_lines_that_we_do_not_know_are_passed_over(machine: Path) -> None:
    for line in ("", "nonsense", "30 1 8:x / /mnt rw - ext4 /dev/sda rw", "30 1 0:9 / /mnt rw -", "1 - a /b"):
        mount(machine, line)
    mount(machine, "30 1 8:0 / /mnt rw - ext4 /dev/sda rw")
    assert in_use.device_use(DISK) is not None


def test_swap_on_a_partition_is_found(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "/dev/sda2", PARTITIONS[1])
    with (machine / "proc" / "swaps").open("a") as file:
        file.write("/dev/sda2                               partition\t8388604\t0\t-2\n")
    assert in_use.device_use(DISK) == "/dev/sda2 is in use as swap: run swapoff /dev/sda2 first"
    assert in_use.device_use(PARTITIONS[0]) is None


def test_a_swap_file_is_found(machine: Path) -> None:
    swap = machine / "swap file"
    swap.write_bytes(bytes(4096))
    with (machine / "proc" / "swaps").open("a") as file:
        file.write(f"{str(swap).replace(' ', chr(92) + '040')} file 4 0 -2\n")
    assert in_use.file_use(swap.stat()) == f"it is in use as swap: run swapoff {swap} first"
    assert in_use.file_use(os.stat(__file__)) is None


def test_a_holder_is_found(machine: Path) -> None:
    (machine / "sys" / "block" / "sda" / "sda2" / "holders" / "dm-3").mkdir()
    for device in (DISK, PARTITIONS[1]):
        assert str(in_use.device_use(device)).startswith("/dev/sda2 is in use by /dev/dm-3 (device mapper, LVM")
    assert in_use.device_use(PARTITIONS[0]) is None


def test_a_loop_device_on_a_partition_or_a_file_is_found(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backing = machine / "backing"
    backing.write_bytes(bytes(512))
    for name, path in (("loop0", "/dev/sda1"), ("loop1", str(backing))):
        folder = machine / "sys" / "block" / name / "loop"
        folder.mkdir(parents=True)
        (folder / "backing_file").write_text(path + "\n")
    pretend(monkeypatch, "/dev/sda1", PARTITIONS[0])
    assert in_use.device_use(DISK) == "/dev/sda1 is attached as /dev/loop0: run losetup -d /dev/loop0 first"
    assert in_use.file_use(backing.stat()) == "it is attached as /dev/loop1: run losetup -d /dev/loop1 first"


def test_a_read_only_device_is_known(machine: Path) -> None:
    (machine / "sys" / "block" / "sdb" / "ro").write_text("1\n")
    assert in_use.is_read_only(OTHER)


def test_names_with_a_slash_are_shown_as_they_are_in_dev(machine: Path) -> None:
    folder = machine / "sys" / "block" / "cciss!c0d0"
    (folder / "holders" / "md0").mkdir(parents=True)
    (folder / "dev").write_text("104:0\n")
    (machine / "sys" / "dev" / "block" / "104:0").symlink_to(folder)
    assert str(in_use.device_use(os.makedev(104, 0))).startswith("/dev/cciss/c0d0 is in use by /dev/md0")


def test_the_kernel_is_asked_about_a_source(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows mounts of other namespaces too; where it cannot be asked, the rest has to do."""
    asked: list[tuple[str, int]] = []

    def busy(path: str, flags: int) -> int:
        asked.append((path, flags & os.O_EXCL))
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "open", busy)
    pretend(monkeypatch, "/dev/sda", OTHER)  # an odd machine: somebody else's name is no answer
    assert in_use.source_use(DISK) is None
    assert not asked
    pretend(monkeypatch, "/dev/sda", DISK)
    assert "/dev/sda is in use by something that cannot be seen" in str(in_use.source_use(DISK))
    assert asked == [("/dev/sda", os.O_EXCL)]
    mount(machine, "29 1 8:1 / /srv rw,relatime shared:1 - ext4 /dev/sda1 rw")
    assert in_use.source_use(DISK) == "/dev/sda1 is mounted on /srv: unmount it first"
