"""Real disks for the lab: a partitioned image with real file systems, what proves a copy of it good, and loop devices.

Knows sgdisk, mke2fs, debugfs, mkfs.vfat and losetup; must not know pytest. No disk image is ever mounted. The
invariant: ``check_disk`` trusts nothing of the copy but its bytes, and everything it compares with comes from the files
that went in; a loop device is gone with the process that made it, even if that is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import random
import shutil
import subprocess
import sysconfig
import tempfile
import uuid
from collections.abc import Iterator

MIB = 1 << 20

DISK_SIZE = 300 * MIB
FAT_START, FAT_SIZE = 1 * MIB, 36 * MIB
EXT4_START, EXT4_SIZE = 40 * MIB, 240 * MIB  # the last 20 MiB belong to no partition: all zero but for the second GPT
_CONTENT_SIZE = 90 * MIB
_RANDOM_FILE_SIZE = 8 * MIB  # incompressible, as photographs and archives on a real disk are
_RANDOM_FILE = "var/random.bin"
_COMPARED_COUNT = 20
_COPY_SIZE = 1 * MIB
_COMMAND_TIMEOUT_S = 120


class DiskDamaged(AssertionError):
    """A copy is not the disk that it should be."""


class LoopUnavailable(Exception):
    """This machine gives no loop device."""


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """A disk image and what is known to be on it."""

    path: pathlib.Path
    digest: str
    """SHA-256 of the whole image."""
    compared: dict[str, bytes]
    """Files of the ext4 partition whose content ``check_disk`` reads back: path inside → SHA-256."""


def make_disk(path: pathlib.Path, seed: int) -> Disk:
    """Build a sparse, GPT-partitioned image: a FAT partition, and an ext4 root file system of real files.

    The files are a part of this Python's standard library and of /usr/share/doc; ``seed`` decides which are compared,
    the one random file and the identifiers of disk and file systems.
    """
    rng = random.Random(seed)
    tree = path.with_name(f"{path.name}.tree")
    try:
        _stage_files(tree, rng)
        with path.open("xb") as disk:
            disk.truncate(DISK_SIZE)
        _run(
            *("sgdisk", "--disk-guid", _identifier(rng)),
            *("--new", f"1:{_sector(FAT_START)}:{_sector(FAT_START + FAT_SIZE) - 1}", "--typecode", "1:ef00"),
            *("--new", f"2:{_sector(EXT4_START)}:{_sector(EXT4_START + EXT4_SIZE) - 1}", "--typecode", "2:8300"),
            *("--partition-guid", f"1:{_identifier(rng)}", "--partition-guid", f"2:{_identifier(rng)}", path),
        )
        options = f"offset={EXT4_START},nodiscard"
        _run(
            *("mke2fs", "-q", "-t", "ext4", "-L", "root", "-U", _identifier(rng), "-d", tree, "-E", options),
            *(path, f"{EXT4_SIZE // 1024}k"),
        )
        fat = path.with_name(f"{path.name}.fat")
        with fat.open("xb") as partition:
            partition.truncate(FAT_SIZE)
        _run("mkfs.vfat", "-F", "32", "-s", "1", "-n", "EFI", "-i", f"{rng.getrandbits(32):08x}", fat)
        _copy_range(fat, 0, path, FAT_START, FAT_SIZE)
        fat.unlink()
        files = sorted(file for file in tree.rglob("*") if file.is_file() and not file.is_symlink())
        compared = [tree / _RANDOM_FILE, *rng.sample(files, _COMPARED_COUNT)]
        return Disk(
            path=path,
            digest=digest(path),
            compared={str(file.relative_to(tree)): hashlib.sha256(file.read_bytes()).digest() for file in compared},
        )
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def check_disk(copy: pathlib.Path, disk: Disk) -> None:
    """Prove a copy (file or block device) good as a disk: partition table, file systems, and file contents.

    Raises:
        DiskDamaged: a checker complains, or a file inside differs from the one that went in.
    """
    table = _check("sgdisk", "--verify", copy)
    if "No problems found" not in table:
        raise DiskDamaged(f"sgdisk --verify {copy}:\n{table}")
    ext4 = f"{copy}?offset={EXT4_START}"  # e2fsprogs' own syntax for a file system inside a larger file
    _check("e2fsck", "-fn", ext4)
    with _scratch_directory(copy) as scratch:
        fat = scratch / "fat"
        _copy_range(copy, FAT_START, fat, 0, FAT_SIZE)
        _check("fsck.fat", "-n", fat)
        for number, (inside, expected) in enumerate(disk.compared.items()):
            dumped = scratch / str(number)
            _check("debugfs", "-R", f'dump "/{inside}" {dumped}', ext4)
            if not dumped.exists() or hashlib.sha256(dumped.read_bytes()).digest() != expected:
                raise DiskDamaged(f"{copy}: the file /{inside} of the ext4 partition is not the one that went in")


def digest(path: pathlib.Path, size: int | None = None) -> str:
    """Return the SHA-256 of a file's or device's first ``size`` bytes (all of them by default)."""
    hasher = hashlib.sha256()
    left = size
    with path.open("rb") as file:
        while block := file.read(_COPY_SIZE if left is None else min(_COPY_SIZE, left)):
            hasher.update(block)
            left = None if left is None else left - len(block)
    return hasher.hexdigest()


@contextlib.contextmanager
def loop_device(backing: pathlib.Path, size: int) -> Iterator[pathlib.Path]:
    """Give a block device of ``size`` bytes, backed by a file that is made if it is not there.

    It is detached as soon as it is attached: the kernel obeys when the last one closes it, and this process holds it
    open. So it goes away whatever ends this process.

    Raises:
        LoopUnavailable: no loop device can be had here.
    """
    with backing.open("ab") as file:
        file.truncate(size)
    try:
        device = _run("losetup", "--find", "--show", backing).strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise LoopUnavailable(f"losetup gives no loop device: {getattr(error, 'stderr', '') or error}") from error
    held = os.open(device, os.O_RDONLY)
    try:
        _run("losetup", "--detach", device)
        yield pathlib.Path(device)
    finally:
        os.close(held)


@contextlib.contextmanager
def failing_device(directory: pathlib.Path, size: int, bad_offset: int, bad_size: int) -> Iterator[pathlib.Path]:
    """Give a block device that cannot be written in one place.

    A loop device on a file of a full tmpfs, in which only that place, whole pages, has no memory of its own yet: what
    is to be written there finds none. So no fault device of the kernel is needed. A write that begins at
    ``bad_offset`` fails with ENOSPC. One that begins before it and reaches into it is cut short, and the loop driver
    (Linux 6.18) reports it complete: such a disk lies, and only reading back finds it.

    Raises:
        LoopUnavailable: no loop device can be had here.
    """
    slack = 8 * MIB
    with mounted("none", directory, "-t", "tmpfs", "-o", f"size={size + slack}") as tmpfs:
        backing = tmpfs / "backing"
        with backing.open("xb", buffering=0) as file:
            for start, stop in ((0, bad_offset), (bad_offset + bad_size, size)):
                os.posix_fallocate(file.fileno(), start, stop - start)
            file.truncate(size)
        with loop_device(backing, size) as device, (tmpfs / "filler").open("xb", buffering=0) as filler:
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(4096))
            yield device


@contextlib.contextmanager
def mounted(source: str | os.PathLike[str], mount_point: pathlib.Path, *options: str) -> Iterator[pathlib.Path]:
    """Mount something at ``mount_point`` (made if not there) for the time of the block."""
    mount_point.mkdir(exist_ok=True)
    _run("mount", *options, source, mount_point)
    try:
        yield mount_point
    finally:
        _run("umount", mount_point)


def _stage_files(tree: pathlib.Path, rng: random.Random) -> None:
    """Copy real files below ``tree`` until there is enough of them."""
    left = _CONTENT_SIZE
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    for source, share in ((library, 0.7), (pathlib.Path("/usr/share/doc"), 1.0)):
        reserve = left - int(left * share)
        for file in sorted(source.rglob("*")):
            if left <= reserve:
                break
            if "site-packages" in file.parts or "__pycache__" in file.parts or not file.is_file():
                continue
            copied = tree / source.name / file.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)
            left -= copied.stat().st_size
    (tree / _RANDOM_FILE).parent.mkdir(parents=True)
    (tree / _RANDOM_FILE).write_bytes(rng.randbytes(_RANDOM_FILE_SIZE))


def _identifier(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _sector(offset: int) -> int:
    return offset // 512


def _copy_range(source: pathlib.Path, offset: int, target: pathlib.Path, target_offset: int, size: int) -> None:
    """Copy bytes between files; runs of zeros are skipped, so that sparse stays sparse."""
    with source.open("rb") as reader, target.open("r+b" if target.exists() else "xb") as writer:
        writer.truncate(max(target_offset + size, os.fstat(writer.fileno()).st_size))
        reader.seek(offset)
        for position in range(0, size, _COPY_SIZE):
            block = reader.read(min(_COPY_SIZE, size - position))
            if any(block):
                writer.seek(target_offset + position)
                writer.write(block)


@contextlib.contextmanager
def _scratch_directory(copy: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory for extracted parts, next to the copy where that is a file."""
    with tempfile.TemporaryDirectory(prefix="check-disk-", dir=copy.parent if copy.is_file() else None) as scratch:
        yield pathlib.Path(scratch)


def _check(*command: str | os.PathLike[str]) -> str:
    """Run a checker; its complaint is what the failure shows."""
    try:
        return _run(*command)
    except subprocess.CalledProcessError as error:
        line = " ".join(str(part) for part in command)
        raise DiskDamaged(f"{line} ended with status {error.returncode}:\n{error.stdout}{error.stderr}") from error


def _run(*command: str | os.PathLike[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, errors="replace", timeout=_COMMAND_TIMEOUT_S
    ).stdout
