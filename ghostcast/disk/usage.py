"""Which blocks a file system uses: asked of partclone, which has each file system's own library.

Knows file systems' programs and their output; must not know partitions or images. The invariant: a range is called free
only if the file system was cleanly unmounted and its own tools say so; any doubt is ``UsageUnknown`` with the reason,
and then everything is stored.

A file system that was not cleanly unmounted has changes in its journal that its block map does not show yet: a block
that looks free may hold a file. Most of partclone's checks for that are not enough, so each file system is asked here.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ghostcast.disk import programs
from protocol import limits

Ranges = npt.NDArray[np.int64]
"""``int64[n, 2]``: half-open byte ranges, ascending, none empty, none overlapping or touching."""

NO_RANGES: Ranges = np.zeros((0, 2), np.int64)

_MAP_LINE = re.compile(r"^0x([0-9A-Fa-f]+)\s+0x([0-9A-Fa-f]+)\s+([+?])$", re.MULTILINE)
_DIRTY = "it was not cleanly unmounted; mount and unmount it, or check it, to have its free blocks left out"

_SWAP_HEADER_SIZE = 64 * limits.KIB
"""A swap area's header is its first page; pages have up to 64 KiB."""

_BTRFS_MIRRORS = (64 * limits.KIB, 64 * limits.MIB, 256 * limits.GIB)
_BTRFS_MIRROR_SIZE = 64 * limits.KIB


class UsageUnknown(Exception):
    """What a volume uses cannot be told; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a volume uses."""

    free: Ranges
    """Ranges from the volume's start that nothing uses."""
    size: int
    """Bytes that the file system itself has; the volume may be larger."""
    needed_size: int
    """Bytes that a smaller copy must have: up to the last used block where the file system can be shrunk afterwards."""


def find_usage(path: Path, content: str, size: int) -> Usage:
    """Find out what a volume uses.

    Args:
        path: a device or a file that shows the volume and nothing else; only read.
        content: what is in it, as blkid names it.
        size: bytes of the volume.

    Raises:
        UsageUnknown: nobody can tell.
    """
    if content == "swap":
        return _swap_usage(size)
    if content not in _CHECKS:
        raise UsageUnknown("nothing here knows which blocks of it are used" if content else "its content is not known")
    program, check = _CHECKS[content]
    try:
        programs.require(program)
        check(path)
        free, map_size = _domain_map(program, path)
        if content == "btrfs":
            free = _without(free, _btrfs_copies(path))
    except (programs.ProgramMissing, programs.ProgramFailed) as error:
        raise UsageUnknown(str(error)) from error
    if map_size > size:
        raise UsageUnknown(
            f"the file system has {map_size} bytes, more than the {size} of its partition: it is cut short, and no "
            "copy of it will be whole"
        )
    needed_size = map_size + _END_SIZE
    if content in _SHRINKABLE and len(free) and int(free[-1, 1]) == map_size:
        with contextlib.suppress(programs.ProgramMissing, programs.ProgramFailed, UsageUnknown):
            smallest = max(int(free[-1, 0]), _ext_minimum(path))
            needed_size = -(-smallest // _SHRINK_STEP) * _SHRINK_STEP
    return Usage(free, map_size, min(size, needed_size))


def _ext_minimum(path: Path) -> int:
    """Return the bytes below which its tool does not shrink a file system, wherever its blocks are.

    Inodes go with the groups that are cut off: many small files need many groups, however few blocks they have.

    Raises:
        ProgramFailed, ProgramMissing, UsageUnknown: the tool does not say.
    """
    block_size = re.search(r"^Block size:\s*(\d+)$", programs.run("dumpe2fs", "-h", path), re.MULTILINE)
    block_count = re.search(r"minimum size of the filesystem: (\d+)", programs.run("resize2fs", "-P", path))
    if block_size is None or block_count is None:
        raise UsageUnknown("resize2fs does not say how small it can be made")
    return int(block_count[1]) * int(block_size[1])


def check_unmounted(path: Path, content: str) -> None:
    """Check that a file system was cleanly unmounted; only reads.

    Raises:
        UsageUnknown: it was not, or that cannot be told.
    """
    try:
        _CHECKS[content][1](path)
    except (programs.ProgramMissing, programs.ProgramFailed) as error:
        raise UsageUnknown(str(error)) from error


def _swap_usage(size: int) -> Usage:
    if size <= _SWAP_HEADER_SIZE:
        raise UsageUnknown("it is too small for a swap area")
    return Usage(np.array([[_SWAP_HEADER_SIZE, size]], np.int64), size, size)


def _domain_map(program: str, path: Path) -> tuple[Ranges, int]:
    """Return the free ranges by partclone's domain map, and where the map ends.

    Raises:
        ProgramFailed, ProgramMissing: partclone did not make one.
        UsageUnknown: the map has gaps, or is none.
    """
    with tempfile.TemporaryDirectory(prefix="ghostcast-map-") as folder:
        output, log = Path(folder, "map"), Path(folder, "log")
        # Not -F, which would keep partclone from waiting for its progress bar, but also from refusing what is dirty.
        options = ("--domain", "-B", "--source", path, "--output", output, "--logfile", log)
        try:
            programs.run(program, *options)
        except programs.ProgramFailed as error:
            raise UsageUnknown(f"{program} refuses it: {_partclone_reason(log, error)}") from error
        text = output.read_text("ascii", "replace")
    rows = [(int(start, 16), int(length, 16), status) for start, length, status in _MAP_LINE.findall(text)]
    position = 0
    for start, length, _ in rows:
        if start != position or length <= 0:
            raise UsageUnknown(f"{program} gave a map with a gap at byte {position}")
        position = start + length
    if not rows:
        raise UsageUnknown(f"{program} gave an empty map")
    free = [(start, start + length) for start, length, status in rows if status == "?"]
    return np.array(free, np.int64).reshape(-1, 2), position


def _partclone_reason(log: Path, error: programs.ProgramFailed) -> str:
    """Return the line of partclone's log that says why; its last words are only where the log is."""
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return error.output
    said = [line.strip() for line in lines if ".c: " in line or "error" in line.lower()]
    return said[-1] if said else error.output


def _without(free: Ranges, used: list[tuple[int, int]]) -> Ranges:
    """Return the free ranges without what is used after all."""
    for start, end in used:
        before, after = free.copy(), free.copy()
        before[:, 1] = np.minimum(before[:, 1], start)
        after[:, 0] = np.maximum(after[:, 0], end)
        both = np.concatenate((before, after))
        both = both[both[:, 0] < both[:, 1]]
        free = both[np.argsort(both[:, 0], kind="stable")]
    return free


# --- was it cleanly unmounted? ---------------------------------------------------------------------------------------


def _check_ext(path: Path) -> None:
    output = programs.run("dumpe2fs", "-h", path)
    features = re.search(r"^Filesystem features:(.*)$", output, re.MULTILINE)
    state = re.search(r"^Filesystem state:\s*(.*)$", output, re.MULTILINE)
    if features is None or state is None or "needs_recovery" in features[1].split() or state[1].strip() != "clean":
        raise UsageUnknown(_DIRTY)


def _check_xfs(path: Path) -> None:
    # logprint ends with 1 after the first record of a log in good order, so only what it says counts.
    if "state: <CLEAN>" not in programs.run("xfs_logprint", "-t", path, good=(0, 1)):
        raise UsageUnknown(_DIRTY)


def _check_btrfs(path: Path) -> None:
    fields = dict(re.findall(r"^(\w+)\t+(\d+)", programs.run("btrfs", "inspect-internal", "dump-super", path), re.M))
    if fields.get("num_devices") != "1":
        raise UsageUnknown("it spans several devices")
    if fields.get("log_root") != "0":
        raise UsageUnknown(_DIRTY)


def _check_f2fs(path: Path) -> None:
    state = re.search(r"checkpoint state = (.*)$", programs.run("dump.f2fs", path), re.MULTILINE)
    if state is None or "unmount" not in state[1].split():
        raise UsageUnknown(_DIRTY)


def _check_ntfs(path: Path) -> None:
    flags = re.search(r"Volume Flags: (0x[0-9a-fA-F]+)", programs.run("ntfsinfo", "-m", path))
    if flags is None or int(flags[1], 16) & 1:
        raise UsageUnknown("Windows has not shut it down cleanly: let Windows check it")
    try:
        hibernation = programs.run("ntfscat", path, "hiberfil.sys")[:4]
    except programs.ProgramFailed:
        return  # there is no such file
    if hibernation.lower() == "hibr":
        raise UsageUnknown("Windows is hibernated, or was shut down with fast startup: shut it down with shutdown /s")


def _check_exfat(path: Path) -> None:
    # exFAT specification §3.1.13: VolumeFlags, bit 1 is VolumeDirty. exfatprogs tell it only while they repair.
    with path.open("rb", buffering=0) as file:
        flags = os.pread(file.fileno(), 2, 106)
    if len(flags) != 2 or flags[0] & 2:
        raise UsageUnknown(_DIRTY)


def _check_fat(path: Path) -> None:
    # partclone looks at the bits that Windows keeps in the table itself; Linux keeps one in the boot sector, behind the
    # drive number, whose place depends on whether the old field for the table's size is zero, as FAT32's is.
    with path.open("rb", buffering=0) as file:
        boot = os.pread(file.fileno(), 512, 0)
    if len(boot) != 512 or boot[37 if any(boot[22:24]) else 65] & 1:
        raise UsageUnknown(_DIRTY)
    kind, name = _fat_kind(boot)
    if kind == 12:
        # Measured: with partclone 0.3.23, clusters of files are free in its map of a FAT12.
        raise UsageUnknown("it is a FAT12, of which partclone's map is wrong")
    if name != b"FAT%d" % kind:  # partclone goes by the name, everybody else by the numbers
        raise UsageUnknown(f"it is a FAT{kind} that does not say so")


def _fat_kind(boot: bytes) -> tuple[int, bytes]:
    """Return how many bits an entry of a FAT has, as Linux decides it, and what its boot sector says that it is."""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(boot[offset : offset + size], "little")

    if not number(22, 2):
        return 32, boot[82:87]
    sector_size, cluster_sectors = number(11, 2), boot[13]
    if not sector_size or not cluster_sectors:
        raise UsageUnknown("its boot sector cannot be understood")
    before_data = number(14, 2) + boot[16] * number(22, 2) + -(-number(17, 2) * 32 // sector_size)
    cluster_count = ((number(19, 2) or number(32, 4)) - before_data) // cluster_sectors
    return 12 if cluster_count < 4085 else 16, boot[54:59]


_CHECKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "ext2": ("partclone.ext2", _check_ext),
    "ext3": ("partclone.ext3", _check_ext),
    "ext4": ("partclone.ext4", _check_ext),
    "xfs": ("partclone.xfs", _check_xfs),
    "btrfs": ("partclone.btrfs", _check_btrfs),
    "f2fs": ("partclone.f2fs", _check_f2fs),
    "ntfs": ("partclone.ntfs", _check_ntfs),
    "vfat": ("partclone.vfat", _check_fat),
    "exfat": ("partclone.exfat", _check_exfat),
}
"""What blkid calls it → who knows its used blocks, and who says whether it was cleanly unmounted."""

_SHRINKABLE = {"ext2", "ext3", "ext4"}
"""Can be shrunk by its tool although the end of its device, all of it free, is missing already."""

_END_SIZE = 64 * limits.MIB
"""What a file system may have behind the end of its map: an incomplete cluster, NTFS's second boot sector."""

_SHRINK_STEP = max(mmap.PAGESIZE, 64 * limits.KIB)
"""Blocks of ext4 have up to 64 KiB."""


def _btrfs_copies(path: Path) -> list[tuple[int, int]]:
    """Return what partclone leaves out of btrfs: the superblock's copies, and chunks that are stored twice.

    partclone keeps one copy of each. The other would be whatever was on the target before, which btrfs repairs when it
    notices and which is no copy until then.
    """
    used = [(offset, offset + _BTRFS_MIRROR_SIZE) for offset in _BTRFS_MIRRORS]
    output = programs.run("btrfs", "inspect-internal", "dump-tree", "-t", "chunk", path)
    for chunk in re.split(r"CHUNK_ITEM", output)[1:]:
        length = re.search(r"length (\d+)", chunk)
        stripes = re.findall(r"stripe \d+ devid \d+ offset (\d+)", chunk)
        if length is None or not stripes:
            raise UsageUnknown("its chunk tree cannot be understood")
        if len(stripes) > 1:
            used += [(int(offset), int(offset) + int(length[1])) for offset in stripes]
    return used
