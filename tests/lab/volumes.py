"""Real file systems of every kind that images understand: made, filled, partly emptied, checked and read back.

Knows mkfs, mount, mtools and the checkers; must not know pytest. The invariant: what is compared are files, read by the
file system's own driver or tools, never the bytes that ghostcast wrote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import random
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator

from ghostcast.disk.loop import loop_device as part
from ghostcast.image.extract import extract_image
from ghostcast.image.reader import ImageFile
from ghostcast.image.source import RawSource
from ghostcast.image.writer import ImageOptions, create_image
from protocol.manifest import Manifest

MIB = 1 << 20
KEPT_SIZE, DELETED_SIZE = 8 * MIB, 28 * MIB
_NOISE = random.Random(7).randbytes(MIB)

Place = tuple[pathlib.Path, int, int]
"""A file or device, and where in it a file system starts and how many bytes it has."""


class Unsupported(Exception):
    """This machine cannot make, fill or check this kind of file system."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file system."""

    make: tuple[str, ...]
    check: tuple[str, ...]
    mount: tuple[str, ...] = ("mount",)
    """How it is mounted; empty: it is filled without."""


KINDS = {
    "ext2": Kind(("mkfs.ext2", "-q"), ("e2fsck", "-fn")),
    "ext3": Kind(("mkfs.ext3", "-q"), ("e2fsck", "-fn")),
    "ext4": Kind(("mkfs.ext4", "-q"), ("e2fsck", "-fn")),
    "ext4 without groups of groups": Kind(("mkfs.ext4", "-q", "-b4096", "-O^flex_bg"), ("e2fsck", "-fn")),
    "xfs": Kind(("mkfs.xfs", "-q"), ("xfs_repair", "-n"), ("mount", "-o", "nouuid")),
    "btrfs": Kind(("mkfs.btrfs", "-q"), ("btrfs", "check")),
    "ntfs": Kind(("mkfs.ntfs", "-F", "-Q", "-q"), ("ntfsfix", "-n"), ("mount", "-t", "ntfs-3g")),
    "exfat": Kind(("mkfs.exfat",), ("fsck.exfat", "-n"), ("mount.exfat-fuse",)),
    "vfat": Kind(("mkfs.vfat", "-F", "32", "-s", "1"), ("fsck.fat", "-n"), ()),
    "f2fs": Kind(("mkfs.f2fs", "-q"), ("fsck.f2fs", "--dry-run"), ()),
}


def run(*command: str | os.PathLike[str], stdin: str = "") -> str:
    """Run a command; what it said is part of the error if it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", timeout=120)
    if done.returncode:
        raise AssertionError(f"{command} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def noise(path: pathlib.Path, size: int) -> pathlib.Path:
    """Make a file of random bytes: what is left alone on a target does not look like anything that belongs there."""
    with path.open("wb") as file:
        for offset in range(0, size, MIB):
            file.write(_NOISE[: min(MIB, size - offset)])
    return path


def make(kind: str, place: Place) -> dict[str, bytes]:
    """Make a file system with files in it, on which others were deleted; returns the digest of each file.

    Raises:
        Unsupported: this kind cannot be filled here.
    """
    recipe = KINDS[kind]
    with part(*place, writable=True) as device, tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as folder:
        run(*recipe.make, device)
        tree = pathlib.Path(folder, "tree")
        _write_files(tree)
        if recipe.mount:
            with mounted(kind, device, pathlib.Path(folder, "mount")) as mount_point:
                _fill(tree, mount_point)
        elif kind == "vfat":
            junk = noise(pathlib.Path(folder, "junk"), DELETED_SIZE)
            run("mcopy", "-i", device, junk, "::/junk")
            run("mcopy", "-s", "-Q", "-i", device, tree, "::/tree")
            run("mdel", "-i", device, "::/junk")
        else:
            run("sload.f2fs", "-f", tree, "-t", "/", device)
    return files_of(kind, place)


def _write_files(tree: pathlib.Path) -> None:
    """Files of many sizes, some compressible, in a few directories."""
    rng = random.Random(3)
    left, number = KEPT_SIZE, 0
    while left > 0:
        size = min(left, rng.choice((0, 1, 700, 5000, 70_000, 900_000)))
        file = tree / f"d{number % 7}" / f"file-{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(rng.randbytes(size) if number % 2 else b"the same line again\n" * (size // 20))
        left -= max(size, 4096)
        number += 1


def _fill(tree: pathlib.Path, mount_point: pathlib.Path) -> None:
    """Copy files to a file system between others, which are deleted."""
    junk = mount_point / "junk"
    junk.mkdir()
    for number, folder in enumerate(sorted(tree.iterdir())):
        noise(junk / str(number), DELETED_SIZE // 7)
        run("cp", "-r", folder, mount_point)
    run("sync", "-f", mount_point)
    run("rm", "-r", junk)


def files_of(kind: str, place: Place) -> dict[str, bytes]:
    """Return the SHA-256 of each file of a file system, by its path."""
    writable = kind == "exfat"  # exfat-fuse does not look at what is read-only
    with part(*place, writable=writable) as device, tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as folder:
        if kind == "vfat":
            run("mcopy", "-s", "-i", device, "::/tree", folder)
            return _digests(pathlib.Path(folder, "tree"))
        if kind == "f2fs":
            return _f2fs_blocks(device)
        with mounted(kind, device, pathlib.Path(folder, "mount"), "-o", "ro") as mount_point:
            return _digests(mount_point)


def _f2fs_blocks(device: pathlib.Path) -> dict[str, bytes]:
    """Return what stands for the files where no driver reads F2FS: its tree as fsck prints it, and which blocks of the
    files that went in are anywhere on the device."""
    data = device.read_bytes()
    there = {hashlib.sha256(data[offset : offset + 4096]).digest() for offset in range(0, len(data), 4096)}
    tree = run("fsck.f2fs", "--dry-run", "-t", device)
    found = {"tree": hashlib.sha256(tree.encode()).digest()}
    with tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as folder:
        _write_files(pathlib.Path(folder))
        for file in sorted(pathlib.Path(folder).rglob("file-*")):
            blocks = file.read_bytes()
            digests = [hashlib.sha256(blocks[at : at + 4096]).digest() for at in range(0, len(blocks) - 4095, 4096)]
            assert all(digest in there for digest in digests), f"{file.name} is not whole"
    return found


def _digests(tree: pathlib.Path) -> dict[str, bytes]:
    files = (file for file in sorted(tree.rglob("*")) if file.is_file())
    return {str(file.relative_to(tree)): hashlib.sha256(file.read_bytes()).digest() for file in files}


@contextlib.contextmanager
def mounted(kind: str, device: pathlib.Path, mount_point: pathlib.Path, *options: str) -> Iterator[pathlib.Path]:
    """Mount a file system for the time of the block."""
    mount_point.mkdir(exist_ok=True)
    try:
        run(*KINDS[kind].mount, *options, device, mount_point)
    except (AssertionError, OSError) as error:
        raise Unsupported(f"{kind} cannot be mounted here: {error}") from error
    try:
        yield mount_point
    finally:
        run("umount", mount_point)


def check(kind: str, place: Place) -> None:
    """Have the file system's own checker look at it."""
    with part(*place) as device:
        said = run(*KINDS[kind].check, device)
    for word in ("[Fail]", "[ERROR]", "Dirty bit"):
        assert word not in said, said


def capture(source: pathlib.Path, image: pathlib.Path, warnings: list[str] | None = None) -> Manifest:
    """Make an image of a disk as the command does."""
    with RawSource.open(source) as raw:
        found = raw.look()
        if warnings is not None:
            warnings += found
        else:
            assert found == [], found
        return create_image(raw, image, ImageOptions(), force=True)


def restore(image: pathlib.Path, target: pathlib.Path, **options: object) -> list[str]:
    """Restore an image to a device."""
    with ImageFile.open(image) as opened:
        return extract_image(opened, target, **options)  # type: ignore[arg-type]


Attach = Callable[[str, int], pathlib.Path]


def identifier(number: int) -> str:
    """Return a GUID for tests."""
    return str(uuid.UUID(int=number + (1 << 100), version=4))
