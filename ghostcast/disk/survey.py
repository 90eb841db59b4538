"""Look at a disk before it is imaged: its partitions, what is in them, which bytes nobody uses.

Knows the order of events; tables, loop devices and file systems are others' business. The invariant: only what a file
system's own tools call free is left out; partition tables, gaps, unknown and doubtful volumes are stored byte by byte,
and for each of them there is a sentence that says why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from ghostcast.disk import programs
from ghostcast.disk.loop import LoopUnavailable, loop_device
from ghostcast.disk.table import Entry, Table, read_table
from ghostcast.disk.usage import NO_RANGES, Ranges, Usage, UsageUnknown, find_usage
from protocol import limits
from protocol.disk import Disk, Volume

SYS = Path("/sys")

InUse = Callable[[int, int], str | None]
"""Says who uses the bytes ``[start, start + size)`` of the disk and may change them meanwhile; None if nobody does."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found."""

    disk: Disk
    """The description; its ``smallest_size`` holds if there is nothing but zeros behind the last volume."""
    free: Ranges
    """Ranges of the disk that no file system uses."""
    warnings: list[str] = field(default_factory=list)
    """What a person should know about how their disk is stored."""


def survey(
    path: Path,
    size: int,
    sector_size: int,
    in_use: InUse,
    step: Callable[[str], None] | None = None,
    name: Path | None = None,
) -> Survey:
    """Look at a disk or a disk image of ``size`` bytes; reads only.

    Args:
        path: the disk, a device or a file.
        size: its bytes.
        sector_size: its logical sector size in bytes, 0 for a file.
        in_use: see there.
        step: called with the name of what is looked at next.
        name: what people call the disk, if that is not ``path``.
    """
    if not size:
        return Survey(Disk(), NO_RANGES)
    look = _Look(path, name or path, size, sector_size, in_use, step or (lambda _name: None))
    try:
        return look.run()
    except programs.ProgramMissing as error:
        return look.raw(f"{error}: everything on it is stored, used or not")


class _Look:
    def __init__(
        self, path: Path, name: Path, size: int, sector_size: int, in_use: InUse, step: Callable[[str], None]
    ) -> None:
        self.path = path
        self.name = name
        self.size = size
        self.sector_size = sector_size
        self.in_use = in_use
        self.step = step
        self.warnings: list[str] = []

    def raw(self, warning: str = "") -> Survey:
        """Return a survey of a disk that nobody understands."""
        warnings = [f"{self.name}: {warning}"] if warning else []
        return Survey(Disk(sector_size=self.sector_size, smallest_size=self.size), NO_RANGES, warnings)

    def run(self) -> Survey:
        table = read_table(self.path, self.size, self.sector_size)
        whole = self._probe(0, 0)
        if not table.entries and whole.get("USAGE") == "filesystem":
            table = Table()
        elif table.entries and (whole.get("TYPE") or whole.get("AMBIGUOUS")):
            marks = (
                f"a {whole['TYPE']} file system" if whole.get("TYPE") else "one with the marks of several file systems"
            )
            return self.raw(
                f"it is both a disk of {len(table.entries)} partitions and {marks}: "
                "everything on it is stored, used or not"
            )
        elif table.problem:
            return self.raw(f"{table.problem}: everything on it is stored as it is, used or not")
        elif not table.scheme and not whole.get("TYPE"):
            several = "it has the marks of several file systems: everything on it is stored as it is, used or not"
            return self.raw(several if whole.get("AMBIGUOUS") else "")
        entries = table.entries or (Entry(0, 0, self.size, "", "", "", container=False),)
        volumes, parts = [], []
        for entry in entries:
            volume, free = self._volume(entry, whole if not entry.number else None, table)
            volumes.append(volume)
            parts.append(free + entry.start)
        free = np.concatenate(parts)
        disk = Disk(
            table=table.scheme,
            sector_size=table.sector_size or self.sector_size,
            free_size=int((free[:, 1] - free[:, 0]).sum()),
            volumes=volumes,
        )
        return Survey(
            msgspec.structs.replace(disk, smallest_size=smallest_size(disk, self.size)), _joined(free), self.warnings
        )

    def _volume(self, entry: Entry, found: dict[str, str] | None, table: Table) -> tuple[Volume, Ranges]:
        """Describe one volume; returns its free ranges from its start too."""
        if entry.container:
            return _describe(entry, {}, None, ""), NO_RANGES
        if found is None:
            found = self._probe(entry.start, entry.size)
        content = found.get("TYPE", "")
        self.step(
            f"{content or 'unknown content'} {'in partition ' + str(entry.number) if entry.number else ''}".strip()
        )
        usage, note = None, ""
        if user := self.in_use(entry.start, entry.size):
            note = f"{user}; its free blocks cannot be told while they change"
        elif found.get("AMBIGUOUS"):
            note = "it has the marks of several file systems"
        else:
            try:
                usage = self._usage(entry, content, table.sector_size or 512)
            except (UsageUnknown, LoopUnavailable) as error:
                note = str(error)
        if note and (content or user):
            place = f"partition {entry.number} ({content or 'unknown'})" if entry.number else content
            self.warnings.append(f"{self.name}: {place} is stored whole, used or not: {note}")
        return _describe(entry, found, usage, note), usage.free if usage is not None else NO_RANGES

    def _usage(self, entry: Entry, content: str, sector_size: int) -> Usage:
        if not entry.number:
            return find_usage(self.path, content, entry.size)
        if content == "swap" or not content:  # no program has to look into these
            return find_usage(self.path, content, entry.size)
        with loop_device(self.path, entry.start, entry.size, sector_size=sector_size) as device:
            return find_usage(device, content, entry.size)

    def _probe(self, start: int, size: int) -> dict[str, str]:
        """Ask blkid what is in a range; ``size`` 0: the whole disk. Empty if it does not know."""
        place = ("--offset", str(start), "--size", str(size)) if size else ()
        try:
            output = programs.run("blkid", "--probe", "--output", "export", *place, self.path, good=(0, 2))
        except programs.ProgramFailed as error:
            return {"AMBIGUOUS": "yes"} if error.status == 8 else {}
        pairs = (line.partition("=") for line in output.splitlines())
        return {key: _unescape(value) for key, _, value in pairs if value}


def _describe(entry: Entry, found: dict[str, str], usage: Usage | None, note: str) -> Volume:
    free_size = int((usage.free[:, 1] - usage.free[:, 0]).sum()) if usage is not None else 0
    return Volume(
        number=entry.number,
        start=entry.start,
        size=entry.size,
        type=entry.type,
        id=entry.id,
        name=entry.name,
        content=found.get("TYPE", ""),
        label=found.get("LABEL", "")[: limits.LABEL_LENGTH_MAX],
        uuid=found.get("UUID", "")[: limits.LABEL_LENGTH_MAX],
        used_size=0 if entry.container else entry.size - free_size,
        needed_size=usage.needed_size if usage is not None else entry.size,
        container=entry.container,
        note=note[: limits.LABEL_LENGTH_MAX],
    )


def smallest_size(disk: Disk, raw_size: int) -> int:
    """Return the smallest target: only the volume that ends last may lose its end, and only if none goes around it."""
    ends = [volume.end for volume in disk.volumes]
    last = disk.last_volume()
    if last is None:
        return raw_size
    around = any(volume.container and volume.end >= last.end > volume.start for volume in disk.volumes)
    if not around:
        ends.remove(last.end)
        ends.append(last.start + last.needed_size)
    sector = max(disk.sector_size, 1)
    return min(raw_size, -(-max(ends) // sector) * sector + disk.table_reserve)


def spare_range(disk: Disk, raw_size: int) -> tuple[int, int]:
    """Return the range that a target of ``smallest_size`` loses; it may, if there are only zeros and free blocks."""
    return disk.smallest_size - disk.table_reserve, raw_size - disk.table_reserve


def _joined(free: Ranges) -> Ranges:
    """Return ranges in order, those that touch joined."""
    free = free[np.argsort(free[:, 0], kind="stable")]
    if len(free) < 2:
        return free
    begins = np.concatenate(([True], free[1:, 0] != free[:-1, 1]))
    ends = np.concatenate((begins[1:], [True]))
    return np.column_stack((free[begins, 0], free[ends, 1]))


def _unescape(text: str) -> str:
    """Undo blkid's backslashes before characters that a shell would take."""
    return re.sub(r"\\(.)", r"\1", text)


def block_device_in_use(path: Path, whole: Callable[[int], str | None]) -> InUse:
    """Return an ``InUse`` for a disk: each partition that the kernel knows is asked by itself.

    Args:
        path: the disk.
        whole: ``ghostcast.image.in_use.source_use``.
    """
    device = os.stat(path).st_rdev
    folder = SYS / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"

    def in_use(start: int, _size: int) -> str | None:
        for partition in sorted(folder.glob("*/partition")):
            try:
                if int((partition.parent / "start").read_text()) * 512 == start:
                    major, minor = (partition.parent / "dev").read_text().split(":")
                    return whole(os.makedev(int(major), int(minor)))
            except (OSError, ValueError):
                continue
        # A partition that the kernel does not know may be mapped by somebody else (kpartx, multipath): whoever uses
        # anything of the disk may be using it.
        return whole(device)

    return in_use
