"""A disk that Clonezilla saved, laid out again as it was.

Knows the files of such a directory: one a partition, in partclone's format or raw, compressed and perhaps split; the
partition table as sgdisk or sfdisk saved it; and the sectors before the first partition. The invariants: a partition
never runs over its end; a missing piece, a tool that fails, or a kind of disk that is not understood is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ghostcast.image.formats import EXPANDERS, PARTCLONE, begins_like
from ghostcast.image.pipeline import Progress
from ghostcast.image.scratch import Scratch
from ghostcast.image.tools import Pipeline, absolute, run_tool
from ghostcast.image.virtual_disk import Stage
from protocol.errors import ImageError, UsageError

_SECTOR_SIZE = 512
"""Tools that work on a file take it for a disk of such sectors."""

_PIECE_SIZE = 1 << 20
_SWAP_HEADER_SIZE = 64 << 10
"""The largest page that a swap area's header fills."""

_COMPRESSIONS = {**{name: name for name in EXPANDERS if name != PARTCLONE}, "uncomp": ""}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class _Partition:
    """One saved partition and where it belongs."""

    name: str
    start: int
    """Bytes."""
    size: int
    """Bytes."""
    pieces: tuple[Path, ...]
    """The files that hold it, in order; none for swap."""
    compression: str
    raw: bool
    """Whether the files hold the partition as it is, not partclone's format."""


def expand_clonezilla(directory: Path, disk: str | None, scratch_directory: Path, stage: Stage) -> Scratch:
    """Return the raw disk that a directory of Clonezilla's holds, in a file without a name.

    Args:
        directory: what Clonezilla made.
        disk: which of its disks, such as ``sda``; None: the only one.
        scratch_directory: where there is room.
        stage: shows how far it is.

    Raises:
        UsageError: several disks and none chosen, or something that only Clonezilla itself restores.
        ImageError: files are missing or damaged.
        TargetError: not enough room.
    """
    _refuse_links(directory)
    name = _choose_disk(directory, disk)
    size = _disk_size(directory, name)
    scratch = Scratch(scratch_directory, size)
    try:
        _restore_table(directory, name, scratch)
        partitions = _partitions(directory, name, scratch)
        scratch.require(sum(piece.stat().st_size for partition in partitions for piece in partition.pieces))
        total = sum(partition.size for partition in partitions)
        with stage("expand", total) as progress:
            done = 0
            for partition in partitions:
                _restore_partition(directory, partition, scratch, progress, done)
                done += partition.size
    except BaseException:
        scratch.close()
        raise
    return scratch


def _refuse_links(directory: Path) -> None:
    """Clonezilla makes none: one could lead to any file of this machine, and put it on every disk."""
    links = sorted(entry.name for entry in os.scandir(directory) if entry.is_symlink())
    if links:
        raise UsageError(f"{directory}: {links[0]} is a link, which is not followed; put the file itself there")


def _choose_disk(directory: Path, disk: str | None) -> str:
    for file, what in (("lvm_vg_dev.list", "LVM volumes"), ("luks-dev.list", "LUKS encryption")):
        if (directory / file).is_file() and (directory / file).stat().st_size:
            raise UsageError(f"{directory}: has {what}, which only Clonezilla restores; make the image of that disk")
    if not (directory / "disk").is_file():
        raise UsageError(f"{directory}: holds partitions and not a whole disk (it has no file called disk)")
    disks = _read(directory, "disk").split()
    if disk is None and len(disks) == 1:
        disk = disks[0]
    if disk not in disks or _NAME.fullmatch(disk) is None:
        raise UsageError(f"{directory}: holds the disks {', '.join(disks)}: choose one by --disk")
    return disk


def _disk_size(directory: Path, name: str) -> int:
    table = _read(directory, f"{name}-pt.parted")
    size = re.search(rf"^Disk /dev/{re.escape(name)}: (\d+)s$", table, re.MULTILINE)
    sector = re.search(r"^Sector size \(logical/physical\): (\d+)B", table, re.MULTILINE)
    if size is None:
        raise ImageError(f"{directory}: {name}-pt.parted does not say how many sectors the disk has")
    if sector is not None and int(sector[1]) != _SECTOR_SIZE:
        raise UsageError(
            f"{directory}: {name} has sectors of {sector[1]} bytes; only those of 512 can be laid out here"
        )
    return int(size[1]) * _SECTOR_SIZE


def _restore_table(directory: Path, name: str, scratch: Scratch) -> None:
    for file, offset in ((f"{name}-mbr", 0), (f"{name}-hidden-data-after-mbr", _SECTOR_SIZE)):
        with contextlib.suppress(FileNotFoundError):
            scratch.write(offset, (directory / file).read_bytes()[: scratch.size - offset])
    gpt = directory / f"{name}-gpt.gdisk"
    if gpt.is_file():
        run_tool(str(gpt), ["sgdisk", f"--load-backup={absolute(gpt)}", str(scratch.path)])
    else:
        text = _read(directory, f"{name}-pt.sf")
        command = ["sfdisk", "--force", "--no-reread", "--no-tell-kernel", "--wipe", "never", str(scratch.path)]
        run_tool(str(directory / f"{name}-pt.sf"), command, text=text)


def _partitions(directory: Path, name: str, scratch: Scratch) -> list[_Partition]:
    """Return what was saved of the disk, with its place from the table that was just restored."""
    printed = run_tool(str(directory), ["sfdisk", "--json", str(scratch.path)])[1]
    places = {}
    for row in json.loads(printed)["partitiontable"].get("partitions", []):
        number = re.search(r"(\d+)$", row["node"].removeprefix(str(scratch.path)))
        assert number is not None
        places[int(number[1])] = (row["start"] * _SECTOR_SIZE, row["size"] * _SECTOR_SIZE)
    partitions = []
    for part in _read(directory, "parts").split():
        match = re.fullmatch(rf"{re.escape(name)}p?(\d+)", part)
        if match is None:
            continue  # of another disk
        if int(match[1]) not in places:
            raise ImageError(f"{directory}: {part} was saved, but the disk's table has no such partition")
        start, size = places[int(match[1])]
        if start + size > scratch.size:
            raise ImageError(f"{directory}: {part} ends behind the end of the disk")
        partitions.append(_saved(directory, part, start, size))
    if not partitions:
        raise ImageError(f"{directory}: nothing was saved of {name}")
    return partitions


def _saved(directory: Path, part: str, start: int, size: int) -> _Partition:
    kinds = "|".join(_COMPRESSIONS)
    pattern = re.compile(
        rf"{re.escape(part)}\.(?P<kind>[A-Za-z0-9_+-]+?-ptcl|dd)-img(?:\.(?P<compression>{kinds}))?(?:\.(?P<piece>[a-z]{{2,}}))?"
    )
    found = sorted((match for match in map(pattern.fullmatch, os.listdir(directory)) if match), key=lambda m: m[0])
    if not found:
        if (directory / f"swappt-{part}.info").is_file():
            return _Partition(part, start, size, (), "", raw=False)
        strange = [file for file in os.listdir(directory) if file.startswith(f"{part}.") and "-img" in file]
        known = ", ".join(kind for kind in _COMPRESSIONS if kind != "uncomp")
        hint = f"; {strange[0]} is of a kind that is not understood ({known} are)" if strange else ""
        raise ImageError(f"{directory}: there is no image of {part}, although it was saved{hint}")
    pieces = [match["piece"] for match in found]
    if pieces != [None] and pieces != [_piece_name(index, len(pieces[0] or "")) for index in range(len(pieces))]:
        shown = ", ".join(map(str, pieces))
        raise ImageError(f"{directory}: pieces of {part} are missing, or of a kind that is not understood: {shown}")
    return _Partition(
        name=part,
        start=start,
        size=size,
        pieces=tuple(directory / match[0] for match in found),
        compression=_COMPRESSIONS[found[0]["compression"] or "uncomp"],
        raw=found[0]["kind"] == "dd",
    )


def _piece_name(index: int, width: int) -> str:
    """Return split(1)'s suffix: aa, ab, …, ba, …"""
    letters = ""
    for _ in range(width):
        letters = chr(ord("a") + index % 26) + letters
        index //= 26
    return letters


def _restore_partition(
    directory: Path, partition: _Partition, scratch: Scratch, progress: Progress | None, done: int
) -> None:
    if not partition.pieces:
        _restore_swap(directory, partition, scratch)
        return
    with partition.pieces[0].open("rb") as file:
        start = file.read(64)
    compression = partition.compression or begins_like(start) or ""
    commands = [("cat", *map(absolute, partition.pieces))]
    if compression in EXPANDERS and compression != PARTCLONE:
        commands.append(EXPANDERS[compression])
    if not partition.raw:
        commands.append(EXPANDERS[PARTCLONE])
    subject = str(partition.pieces[0])
    with open(os.devnull, "rb") as nothing, Pipeline(subject, commands, nothing) as pipeline:
        offset = 0
        while data := pipeline.output.read(_PIECE_SIZE):
            if offset + len(data) > partition.size:
                raise ImageError(
                    f"{subject}: holds more than the {partition.size} bytes that {partition.name} has in the table"
                )
            if data.count(0) != len(data):
                scratch.write(partition.start + offset, data)
            offset += len(data)
            if progress is not None:
                progress(done + offset, 0)
        pipeline.check()
    if not offset:
        raise ImageError(f"{subject}: nothing is in it")
    if partition.raw and offset != partition.size:  # partclone counts for itself
        raise ImageError(
            f"{subject}: holds {offset} bytes where {partition.name} has {partition.size} in the table: the last piece "
            "is missing or cut short"
        )


def _restore_swap(directory: Path, partition: _Partition, scratch: Scratch) -> None:
    """Make a swap area as it was: its name and its number are all there is to it."""
    facts = dict(
        re.findall(r'^(UUID|LABEL)="?(.*?)"?$', _read(directory, f"swappt-{partition.name}.info"), re.MULTILINE)
    )
    options = [f"--{key.lower()}={value}" for key, value in facts.items() if value]
    if partition.size < _SWAP_HEADER_SIZE:
        raise ImageError(f"{directory}: {partition.name} is too small for swap")
    with Scratch(scratch.directory, partition.size) as area:
        run_tool(str(directory), ["mkswap", *options, str(area.path)])
        scratch.write(partition.start, area.path.read_bytes()[:_SWAP_HEADER_SIZE])


def _read(directory: Path, file: str) -> str:
    try:
        return (directory / file).read_text(errors="replace")
    except OSError as error:
        raise ImageError(
            f"{directory / file}: cannot be read: {error.strerror}; the directory is not complete"
        ) from error
