"""The bytes to copy, and whether a copy holds them.

Knows files and e2fsprogs. The invariant: a copy is compared by a SHA-256 that none of the tools computes; where the
source is a file system, what it marks as free may differ, and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.head_to_head.machine import GHOSTCAST, Unusable, run_command

FILE_SYSTEM_TREE = pathlib.Path("/usr")
FILE_SYSTEM_SIZE_MIN = 32 << 20
"""A file system of less holds little but itself."""

_FILLED_SHARE = 0.8
"""Of the file system, taken by files at first: the rest is for inodes, journal and slack."""

_DELETED_SHARE = 0.35
"""Of the file system, taken by files that are then deleted: with what was never used, about half of it is free."""

_JOURNAL_SIZE_MIN = 6 << 20
_BLOCK_SIZE = 4096

_PIECE_SIZE = 1 << 24

Range = tuple[int, int]
"""Bytes, half-open."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """The bytes to copy: raw for the peers, as an image for ghostcast, made before anything is timed."""

    raw: pathlib.Path
    image: pathlib.Path
    digest: str
    free: tuple[Range, ...]
    """What the file system in the source does not use, ascending; empty where every byte counts."""
    used_digest: str
    """Of the bytes that are not free."""
    image_seconds: float

    @property
    def stored_size(self) -> int:
        """Return the bytes of the image."""
        return self.image.stat().st_size

    def compare(self, copy: pathlib.Path) -> str:
        """Return ``whole`` or ``used``: how much of the source the copy holds; an empty text if it is no copy."""
        if copy.stat().st_size != self.raw.stat().st_size:
            return ""
        if digest(copy) == self.digest:
            return "whole"
        if self.free and digest(copy, self.free) == self.used_digest:
            return "used"
        return ""


def make_source(directory: pathlib.Path, content: str, size: int) -> Source:
    """Write the bytes to copy, and make the image of them.

    Raises:
        Unusable: a program that this needs failed, or there are too few files to fill a file system with.
    """
    raw, image = directory / "source.raw", directory / "source.img.zst"
    CONTENTS[content](raw, size)
    free = free_ranges(raw) if content == "filesystem" else ()
    started_s = time.monotonic()
    run_command(*GHOSTCAST, "image", "create", str(raw), str(image))
    image_seconds = time.monotonic() - started_s
    whole = digest(raw)
    return Source(raw, image, whole, free, digest(raw, free) if free else whole, image_seconds)


def digest(path: pathlib.Path, without: Sequence[Range] = ()) -> str:
    """Return the SHA-256 of a file, some ranges left out."""
    with path.open("rb") as file:
        if not without:
            return hashlib.file_digest(file, "sha256").hexdigest()
        hashed = hashlib.sha256()
        for start, stop in _between(without, path.stat().st_size):
            file.seek(start)
            while start < stop:
                piece = file.read(min(_PIECE_SIZE, stop - start))
                hashed.update(piece)
                start += len(piece)
        return hashed.hexdigest()


def _between(ranges: Sequence[Range], end: int) -> Iterator[Range]:
    position = 0
    for start, stop in (*ranges, (end, end)):
        if position < start:
            yield position, start
        position = stop


def _write_random(raw: pathlib.Path, size: int) -> None:
    rng = np.random.default_rng(1)
    with raw.open("xb") as file:
        for start in range(0, size, _PIECE_SIZE):
            file.write(rng.bytes(min(_PIECE_SIZE, size - start)))


def _write_file_system(raw: pathlib.Path, size: int) -> None:
    """Make an ext4 that was filled from a real tree and then lost files here and there, as disks in use do.

    What deleted files held stays on the disk: the free half is not zeros. Nothing is mounted.
    """
    assert size >= FILE_SYSTEM_SIZE_MIN
    staged = raw.with_suffix(".tree")
    staged.mkdir()
    try:
        files = _stage_files(staged, int(size * _FILLED_SHARE) - _JOURNAL_SIZE_MIN)
        with raw.open("xb") as file:
            file.truncate(size)
        options = ("-q", "-F", "-b", str(_BLOCK_SIZE), "-m", "0", "-E", "nodiscard,lazy_itable_init=0")
        run_command("mkfs.ext4", *options, "-d", str(staged), str(raw), str(size // _BLOCK_SIZE))
    finally:
        shutil.rmtree(staged)
    names = list(files)
    np.random.default_rng(1).shuffle(names)
    removed, to_remove = [], size * _DELETED_SHARE
    while names and to_remove > 0:
        removed.append(names.pop())
        to_remove -= files[removed[-1]]
    script = raw.with_suffix(".debugfs")
    script.write_text("".join(f"rm {name}\n" for name in removed))
    run_command("debugfs", "-w", "-f", str(script), str(raw))
    script.unlink()


def _stage_files(staged: pathlib.Path, budget: int) -> dict[str, int]:
    """Copy files of a real tree to ``staged`` until they take ``budget`` bytes; return their names and sizes there."""
    staged_files: dict[str, int] = {}
    while True:
        left_before = budget
        for directory, directories, names in os.walk(FILE_SYSTEM_TREE):
            directories.sort()
            for name in sorted(names):
                path = pathlib.Path(directory, name)
                if path.is_symlink() or not path.is_file():
                    continue
                taken = -(-path.stat().st_size // _BLOCK_SIZE) * _BLOCK_SIZE + 256  # its blocks and its inode
                if path.stat().st_size and taken <= budget:
                    staged_name = f"{len(staged_files):07d}"
                    shutil.copyfile(path, staged / staged_name)
                    staged_files[staged_name] = taken
                    budget -= taken
            if budget < _BLOCK_SIZE * 16:
                return staged_files
        if budget == left_before:  # a whole walk found nothing that fits
            if not staged_files:
                raise Unusable(f"{FILE_SYSTEM_TREE} holds no files to fill a file system with")
            return staged_files


def free_ranges(raw: pathlib.Path) -> tuple[Range, ...]:
    """Return what an ext4 file system does not use."""
    shown = run_command("dumpe2fs", str(raw))
    block_size = int(_only_match(r"^Block size:\s+(\d+)$", shown))
    blocks: list[Range] = []
    for line in re.findall(r"^ +Free blocks: (.+)$", shown, re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", line):
            blocks.append((int(first), int(last or first) + 1))
    return tuple((start * block_size, stop * block_size) for start, stop in sorted(blocks))


def _only_match(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise Unusable(f"dumpe2fs says nothing that matches {pattern}")
    return match[1]


CONTENTS: dict[str, Callable[[pathlib.Path, int], None]] = {"random": _write_random, "filesystem": _write_file_system}
"""What the source holds: bytes that no tool can compress, or half a file system."""

CONTENT_PROGRAMS = {
    "random": (),
    "filesystem": (("mkfs.ext4", "e2fsprogs"), ("debugfs", "e2fsprogs"), ("dumpe2fs", "e2fsprogs")),
}
"""What making them needs, with the Debian packages that have it."""
