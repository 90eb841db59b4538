"""Fit a restored disk to a target of another size: mend its partition table, shrink or grow what ends last.

Knows the tools that do it and their order; must not know how the bytes came to the target. The invariants: everything
that can be refused is refused by ``check``, before the first byte is written; when ``apply`` returns, the target is
whole and flushed, and the kernel has been asked to look at its partitions again.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Generator
from pathlib import Path

from ghostcast.disk import kernel, programs
from ghostcast.disk.loop import LoopUnavailable, loop_device
from ghostcast.disk.table import Table, read_table
from ghostcast.disk.usage import UsageUnknown, check_unmounted
from ghostcast.image.target import Target
from protocol.disk import DOS, GPT, Disk, Volume
from protocol.errors import TargetError
from protocol.manifest import Manifest

_EXT = ("ext2", "ext3", "ext4")
_GROW_PROGRAMS = {
    **dict.fromkeys(_EXT, ("e2fsck", "resize2fs")),
    "xfs": ("xfs_growfs", "mount", "umount"),
    "btrfs": ("btrfs", "mount", "umount"),
    "ntfs": ("ntfsresize",),
    "f2fs": ("resize.f2fs",),
}
"""What grows a file system."""

_BTRFS_MOUNTED = Path("/sys/fs/btrfs")


class Fit:
    """One image on one target."""

    def __init__(self, target: Target, manifest: Manifest, *, grow: bool = False) -> None:
        """Take a target that is open, and stays the caller's.

        Args:
            target: only block devices have anything to be fitted; a file is made as large as the image.
            manifest: the image's.
            grow: make the last partition and its file system as large as the target allows.
        """
        self._target = target
        self._manifest = manifest
        self._disk = manifest.disk or Disk(smallest_size=manifest.raw_size)
        self._grow = grow
        self._last = self._disk.last_volume()

    def check(self) -> None:
        """Refuse what cannot be done. Writes nothing.

        Raises:
            TargetError: the sectors have another size than the table counts in, a program is missing, or there is
                nothing that could be grown.
        """
        target, disk, size = self._target, self._disk, self._target.size
        if size is None:
            if self._grow:
                raise TargetError(f"{target.path}: --grow is for disks; a file gets the size of the image")
            return
        if disk.table and target.sector_size and disk.sector_size != target.sector_size:
            raise TargetError(
                f"{target.path}: has sectors of {target.sector_size} bytes, but the image's partition table counts in "
                f"sectors of {disk.sector_size}: its partitions would not be found; use a disk of such sectors"
            )
        try:
            if size < self._manifest.raw_size:
                self._require_programs_to_shrink(size)
            if self._grow:
                self._require_programs_to_grow()
        except programs.ProgramMissing as error:
            raise TargetError(f"{target.path}: refused before anything was written: {error}") from error

    def _require_programs_to_shrink(self, size: int) -> None:
        if self._disk.table:
            programs.require("sgdisk" if self._disk.table == GPT else "sfdisk", "partx")
        if self._last is not None and self._is_cut(self._last, size):
            if ":" in self._last.name:
                programs.require("sfdisk")
            if self._last.content in _EXT:
                programs.require("resize2fs", "e2fsck", "losetup")

    def _require_programs_to_grow(self) -> None:
        last, path = self._last, self._target.path
        if last is None or last.content not in _GROW_PROGRAMS:
            what = f"its last partition ({last.content or 'of unknown content'})" if last else "an unknown disk"
            raise TargetError(f"{path}: --grow: there is no tool here that grows {what}: restore it without --grow")
        if last.number and self._around(last):
            raise TargetError(f"{path}: --grow: its last partition is a logical one: restore it without --grow")
        if last.number:
            programs.require("sfdisk", "partx")
        if self._disk.table == GPT:
            programs.require("sgdisk")
        programs.require("losetup", *_GROW_PROGRAMS[last.content])

    def apply(self) -> list[str]:
        """Fit the disk, once every byte of the image is on the target and flushed.

        Returns:
            what a person should know.

        Raises:
            TargetError: it failed; the disk is not to be used.
        """
        target, disk, size = self._target, self._disk, self._target.size
        if size is None:
            return []
        notes: list[str] = []
        try:
            if size < self._manifest.raw_size:
                notes += self._shrink(size)
            elif size > self._manifest.raw_size and disk.table == GPT:
                notes += self._move_second_header()
            if self._grow:
                notes += self._grow_last()
        except (programs.ProgramMissing, programs.ProgramFailed, LoopUnavailable, OSError) as error:
            raise TargetError(
                f"{target.path}: the image is on it, but fitting it to the size of the disk failed: {error}"
            ) from error
        target.sync()
        if not kernel.reread_table(target.fileno()):
            with contextlib.suppress(programs.ProgramMissing, programs.ProgramFailed):
                programs.run("partx", "--update", target.path)
        return notes

    # --- smaller ------------------------------------------------------------------------------------------------------

    def _is_cut(self, volume: Volume, size: int) -> bool:
        return volume.end > size - self._disk.table_reserve

    def _around(self, volume: Volume) -> bool:
        """Whether a volume lies in an extended partition."""
        return any(other.container and other.start < volume.start < other.end for other in self._disk.volumes)

    def _shrink(self, size: int) -> list[str]:
        last, notes = self._last, []
        cut = last is not None and self._is_cut(last, size)
        if self._disk.table == GPT:
            self._shrink_gpt(last if cut else None)
        elif self._disk.table == DOS and cut:
            assert last is not None
            sectors = (size - last.start) // self._disk.sector_size
            self._sfdisk(last.number, f",{sectors}")
        if cut:
            assert last is not None
            start, length = self._place(last)
            if last.content in _EXT:
                with self._part(start, length) as device:
                    programs.run("resize2fs", "-f", device)
                    # Preening stops at whatever could cost a file, where -y would say yes to losing it.
                    programs.run("e2fsck", "-f", "-p", device, good=(0, 1))
            name = f"partition {last.number}" if last.number else "the file system"
            notes.append(f"{name} was made smaller: {length} bytes instead of {last.size}")
        return notes

    def _shrink_gpt(self, cut: Volume | None) -> None:
        """Move the second header to the end of the disk, and the cut partition's end before it."""
        path = self._target.path
        if cut is None:
            programs.run("sgdisk", "--move-second-header", path)
            return
        number = cut.number
        flags = re.search(r"Attribute flags: ([0-9A-Fa-f]+)", programs.run("sgdisk", "--info", str(number), path))
        # sgdisk does this in order, and refuses to write a table that its disk cannot hold.
        programs.run(
            *("sgdisk", "--delete", str(number), "--move-second-header", "--set-alignment", "1"),
            *("--new", f"{number}:{cut.start // self._disk.sector_size}:0"),
            *("--typecode", f"{number}:{cut.type}", "--partition-guid", f"{number}:{cut.id}"),
            *(("--change-name", f"{number}:{cut.name}") if cut.name else ()),
            *("--attributes", f"{number}:=:{flags[1] if flags else '0'}"),
            path,
        )
        if ":" in cut.name:  # where sgdisk ends a name
            options = ("--no-reread", "--no-tell-kernel", "--wipe", "never", "--part-label")
            programs.run("sfdisk", *options, "--", path, str(number), cut.name)

    def _place(self, volume: Volume) -> tuple[int, int]:
        """Return where a volume now starts and how large it is, by the table on the target."""
        if not volume.number:
            assert self._target.size is not None
            return 0, self._target.size
        entry = next((entry for entry in self._table().entries if entry.number == volume.number), None)
        if entry is None or entry.start != volume.start:
            raise TargetError(f"{self._target.path}: partition {volume.number} is not in the table that was mended")
        return entry.start, entry.size

    def _table(self) -> Table:
        assert self._target.size is not None
        table = read_table(self._target.path, self._target.size, self._target.sector_size)
        if table.problem:
            raise TargetError(f"{self._target.path}: {table.problem}")
        return table

    # --- larger -------------------------------------------------------------------------------------------------------

    def _move_second_header(self) -> list[str]:
        if programs.find("sgdisk") is None:
            return [
                f"{self._target.path} is larger than the image: its second partition table is not at its end; install "
                f"gdisk and run: sgdisk -e {self._target.path}"
            ]
        programs.run("sgdisk", "--move-second-header", self._target.path)
        return []

    def _grow_last(self) -> list[str]:
        last = self._last
        assert last is not None
        assert self._target.size is not None
        if last.content == "btrfs" and (_BTRFS_MOUNTED / last.uuid).exists():
            return [f"partition {last.number} was not grown: a btrfs of the same UUID is mounted on this machine"]
        if last.content == "ntfs":
            with self._part(*self._place(last)) as device:
                try:
                    check_unmounted(device, last.content)
                except UsageUnknown as doubt:
                    return [f"partition {last.number} was not grown: {doubt}"]
        if last.number:
            self._sfdisk(last.number, ",+")
        start, length = self._place(last)
        if length <= last.size:
            return ["there is no room to grow into"]
        with self._part(start, length) as device:
            _grow_file_system(last.content, device)
        name = f"partition {last.number} ({last.content})" if last.number else f"the {last.content} file system"
        return [f"{name} was grown: {length} bytes instead of {last.size}"]

    def _sfdisk(self, number: int, change: str) -> None:
        # The kernel is told at the end, once; file systems keep their signatures.
        options = ("--no-reread", "--no-tell-kernel", "--wipe", "never", "--wipe-partitions", "never", "--force")
        programs.run("sfdisk", *options, "--partno", str(number), self._target.path, stdin=change + "\n")

    @contextlib.contextmanager
    def _part(self, start: int, length: int) -> Generator[Path, None, None]:
        """Give a part of the target as a device; the target itself is held exclusively, by us."""
        self._target.sync()
        sector_size = self._target.sector_size or 512
        with loop_device(self._target.path, start, length, writable=True, sector_size=sector_size) as device:
            yield device


def _grow_file_system(content: str, device: Path) -> None:
    """Make a file system as large as its device."""
    if content in _EXT:
        programs.run("e2fsck", "-f", "-p", device, good=(0, 1))
        programs.run("resize2fs", device)
    elif content == "ntfs":
        # Not --force, which would go on where Windows has to check or is hibernated.
        programs.run("ntfsresize", device, stdin="y\n")
    elif content == "f2fs":
        programs.run("resize.f2fs", device)
    else:
        _grow_mounted(content, device)


def _grow_mounted(content: str, device: Path) -> None:
    """Grow a file system that only its driver grows.

    What is mounted is somebody's disk. So the mount point is removed by rmdir alone, which refuses one that is still
    mounted: to clean up like a temporary directory would delete every file of the disk where unmounting failed, or
    where an interrupt came between mounting and unmounting.
    """
    folder = tempfile.mkdtemp(prefix="ghostcast-grow-")
    try:
        programs.run("mount", "-t", content, "-o", "nouuid" if content == "xfs" else "defaults", device, folder)
        if content == "xfs":
            programs.run("xfs_growfs", folder)
        else:
            programs.run("btrfs", "filesystem", "resize", "max", folder)
        programs.run("umount", folder)
    except BaseException:
        with contextlib.suppress(programs.ProgramMissing, programs.ProgramFailed):
            programs.run("umount", folder)
        raise
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
