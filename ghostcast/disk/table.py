"""Read a partition table: where the partitions are, by partx, which uses libblkid as the system itself does.

Knows tables; must not know what is in the partitions. The invariant: partitions that are handed out lie within the
disk and do not overlap, logical ones in their extended one aside; where that does not hold, there is a reason instead.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ghostcast.disk import programs
from protocol import limits
from protocol.disk import DOS, GPT

_UNIT = 512
"""What partx counts in, whatever the disk's sectors are."""

_SECTOR_SIZES = (512, 4096)
_GPT_SIGNATURE = b"EFI PART"
_EXTENDED_TYPES = {"0x5", "0xf", "0x85"}
_PROTECTIVE_TYPE = "0xee"
_FIELD = re.compile(r'([A-Z]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Entry:
    """One partition; sizes in bytes."""

    number: int
    start: int
    size: int
    type: str
    id: str
    name: str
    container: bool

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table, in the order of the partitions' starts."""

    scheme: str = ""
    """``gpt``, ``dos``, or empty: no table, or one that cannot be trusted."""
    sector_size: int = 0
    entries: tuple[Entry, ...] = ()
    problem: str = ""
    """Why a table that is there was not taken; for people."""


def read_table(path: Path, size: int, sector_size: int) -> Table:
    """Read the table of a disk or a disk image.

    Args:
        path: the disk.
        size: its size in bytes.
        sector_size: its logical sector size in bytes, 0 if it has none of its own, as a file.

    Raises:
        ProgramMissing: partx is not installed.
    """
    found_size = _gpt_sector_size(path)
    try:
        unit = ("--sector-size", str(found_size)) if found_size else ()
        output = programs.run("partx", *unit, "--pairs", "--output", "NR,START,SECTORS,NAME,UUID,TYPE,SCHEME", path)
    except programs.ProgramFailed:
        output = ""
    rows = [{key: _unescape(value) for key, value in _FIELD.findall(line)} for line in output.splitlines()]
    entries = sorted((_entry(row) for row in rows), key=lambda entry: (entry.start, -entry.size))
    scheme = rows[0]["SCHEME"] if rows else ""
    # A table of the old kind with real partitions may stand on a disk that once had a GPT.
    if scheme != GPT and (any(entry.type == _PROTECTIVE_TYPE for entry in entries) or (found_size and not entries)):
        return Table(problem="there are traces of a GPT, but it is damaged or the disk is cut short (sgdisk --verify)")
    if not entries:
        return Table()
    if scheme not in (GPT, DOS):
        return Table(problem=f"its partition table is of the kind {scheme!r}, which is not understood")
    if len(entries) > limits.VOLUME_COUNT_MAX:
        return Table(problem=f"it has {len(entries)} partitions; at most {limits.VOLUME_COUNT_MAX} are understood")
    if scheme == GPT:
        if sector_size and found_size and sector_size != found_size:
            return Table(
                problem=f"its GPT was made for sectors of {found_size} bytes, but the disk has sectors of {sector_size}"
            )
        sector_size = found_size or sector_size
    if problem := _contradiction(entries, size):
        return Table(problem=problem)
    return Table(scheme, sector_size or _UNIT, tuple(entries))


def _contradiction(entries: list[Entry], size: int) -> str:
    """Return what is wrong with a table, or an empty string."""
    for entry in entries:
        if entry.end > size:
            return (
                f"its partition {entry.number} ends at byte {entry.end}, behind the end of the disk at {size}: "
                "the disk is cut short, or its table belongs to another one"
            )
    real = [entry for entry in entries if not entry.container]
    for before, after in itertools.pairwise(real):
        if after.start < before.end:
            return (
                f"its partitions {before.number} and {after.number} overlap: partition {before.number} ends at byte "
                f"{before.end}, partition {after.number} starts at {after.start}"
            )
    return ""


def _entry(row: dict[str, str]) -> Entry:
    return Entry(
        number=int(row["NR"]),
        start=int(row["START"]) * _UNIT,
        size=int(row["SECTORS"]) * _UNIT,
        type=row["TYPE"],
        id=row["UUID"],
        name=row["NAME"][: limits.LABEL_LENGTH_MAX],
        container=row["SCHEME"] == DOS and row["TYPE"] in _EXTENDED_TYPES,
    )


def _gpt_sector_size(path: Path) -> int:
    """Return the sector size that a GPT on the disk counts in; 0 without a GPT.

    A file has no sectors of its own: only the place of the header tells.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for size in _SECTOR_SIZES:
            if os.pread(descriptor, len(_GPT_SIGNATURE), size) == _GPT_SIGNATURE:
                return size
    finally:
        os.close(descriptor)
    return 0


def _unescape(text: str) -> str:
    r"""Undo util-linux's ``\xNN``, bytes of UTF-8."""
    data = re.sub(
        rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode("utf-8", "surrogateescape")
    )
    return data.decode("utf-8", "replace")
