"""Disks of virtual machines, in and out, through qemu-img.

Knows qemu-img; parses no format itself. The invariants: a file that was cut is refused, although qemu-img reads what is
missing as zeros; a disk that needs other files is refused, because its file could name any file of this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ghostcast.image.extract import extract_image
from ghostcast.image.formats import RAW, VIRTUAL_DISKS
from ghostcast.image.pipeline import Progress
from ghostcast.image.reader import ImageFile
from ghostcast.image.scratch import Scratch
from ghostcast.image.tools import absolute, run_tool
from protocol.errors import ImageError, TargetError, UsageError

Stage = Callable[[str, int | None], AbstractContextManager[Progress | None]]
"""Begins a part of long work: what is done, and how many bytes of it there are."""

_VHDX_SECTOR_SIZE = 512
"""Everything in a vhdx file is in whole ones; qemu-img rounds its end up to one and misses the rest of the last."""

_CHECKED_GOOD = (0, 3, 63)
"""Statuses of ``qemu-img check``: no errors; lost clusters, which harm nobody; a format without a check."""


def expand_virtual_disk(path: Path, format_name: str, directory: Path, stage: Stage) -> Scratch:
    """Return the raw disk that a virtual machine's disk holds, in a file without a name.

    Raises:
        UsageError: it needs other files, or qemu-img is not installed.
        ImageError: it is damaged, cut, or not of that format.
        TargetError: not enough room.
    """
    driver, name = VIRTUAL_DISKS[format_name], absolute(path)
    facts = _json(path, "info", "-f", driver, "--output=json", name)
    _refuse_other_files(path, facts)
    run_tool(str(path), ["qemu-img", "check", "-f", driver, name], good=_CHECKED_GOOD)
    extents = _json(path, "map", "-f", driver, "--output=json", name)
    stored = [extent for extent in extents if extent["data"] and not extent["zero"]]
    end = max((extent["offset"] + extent["length"] for extent in stored if "offset" in extent), default=0)
    file_size = os.stat(path).st_size
    if end > file_size:
        raise ImageError(f"{path}: is cut short: it has {file_size} bytes, and its data ends at byte {end}")
    if driver == "vhdx" and file_size % _VHDX_SECTOR_SIZE:
        raise ImageError(f"{path}: is cut short: it has {file_size} bytes, which is not a whole number of sectors")
    stored_size = sum(extent["length"] for extent in stored)
    scratch = Scratch(directory, int(facts["virtual-size"]))
    try:
        scratch.require(stored_size)
        with stage("expand", stored_size) as progress:
            run_tool(
                str(path),
                ["qemu-img", "convert", "-n", "--target-is-zero", "-f", driver, "-O", RAW, name, str(scratch.path)],
                poll=_poll(scratch, stored_size, progress),
            )
    except BaseException:
        scratch.close()
        raise
    return scratch


def export_image(
    image: ImageFile, path: Path, format_name: str, stage: Stage, *, compress: bool = False, force: bool = False
) -> None:
    """Write the disk that an image holds as a file of another format, and compare the two.

    Args:
        image: an open image.
        path: the file; it appears when it is complete.
        format_name: ``raw``, or one of ``VIRTUAL_DISKS``.
        stage: shows how far it is.
        compress: store the blocks compressed, where the format can.
        force: replace a file that is there.

    Raises:
        UsageError: qemu-img is not installed, or the format cannot be compressed.
        TargetError: the file is there already, or cannot be written.
        ImageError: the image is damaged, or qemu-img failed.
    """
    if compress and format_name not in ("qcow2", "vmdk"):
        raise UsageError(f"a file of the format {format_name} cannot be compressed; qcow2 can")
    if format_name == RAW:
        with stage("export", image.manifest.raw_size) as progress:
            extract_image(image, path, force=force, progress=progress)
        return
    _refuse_target(image, path, force)
    run_tool("qemu-img", ["qemu-img", "--version"])  # found missing now, not after the first half of the work
    raw, made = (path.absolute().with_name(f".ghostcast-{os.urandom(6).hex()}.part") for _ in range(2))
    driver = VIRTUAL_DISKS[format_name]
    options = ["-c"] if compress else []
    if driver == "vpc":
        options += ["-o", "force_size=on"]  # or the size would be rounded to what disks of 1990 could have
    if driver == "vmdk" and compress:
        options += ["-o", "subformat=streamOptimized"]
    held = contextlib.ExitStack()
    try:
        with stage("extract", image.manifest.raw_size) as progress:
            extract_image(image, raw, progress=progress)
        _hold(raw, held)
        with stage("convert", None):
            run_tool(str(path), ["qemu-img", "convert", *options, "-f", RAW, "-O", driver, str(raw), str(made)])
        _hold(made, held)
        with stage("compare", None):
            run_tool(str(path), ["qemu-img", "compare", "-f", RAW, "-F", driver, str(raw), str(made)])
        _name(made, path)
    finally:
        held.close()
        for each in (raw, made):
            with contextlib.suppress(OSError):
                each.unlink()


def _refuse_other_files(path: Path, facts: dict[str, Any]) -> None:
    specific = (facts.get("format-specific") or {}).get("data") or {}
    others = [facts.get("backing-filename"), specific.get("data-file")]
    # A disk in one file is its own only extent; further extents, or another file as the only one, are other files.
    extents = [extent["filename"] for extent in specific.get("extents") or []]
    others += [name for name in extents if os.path.realpath(path.parent / name) != os.path.realpath(path)]
    needed = [other for other in others if other]
    if needed:
        raise UsageError(
            f"{path}: needs other files ({', '.join(needed)}), which is not followed; if you trust it, join them "
            f"first: qemu-img convert -O qcow2 {path} joined.qcow2"
        )
    if specific.get("corrupt"):
        raise ImageError(f"{path}: is marked as corrupt: qemu-img check -r all may mend a copy of it")


def _refuse_target(image: ImageFile, path: Path, force: bool) -> None:
    try:
        status = os.stat(path)
    except OSError:
        if not path.absolute().parent.is_dir():
            raise TargetError(f"{path}: its directory does not exist") from None
        return
    if not stat.S_ISREG(status.st_mode):
        raise TargetError(f"{path}: is not a file; image extract writes disks")
    if os.path.samestat(status, os.fstat(image.fileno())):
        raise TargetError(f"{path}: is the image itself; name another file")
    if not force:
        raise TargetError(f"{path}: exists already; use --force to replace it, or name another file")


def _hold(path: Path, until: contextlib.ExitStack) -> None:
    """Let nobody take an unfinished file for what a killed command left: the library sweeps those away."""
    with contextlib.suppress(OSError):  # file systems without locks
        fcntl.flock(until.enter_context(path.open("rb")), fcntl.LOCK_SH | fcntl.LOCK_NB)


def _name(made: Path, path: Path) -> None:
    """Give a complete file its name, once it is on the disk."""
    try:
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.rename(os.path.realpath(path))
    except OSError as error:
        raise TargetError(f"{path}: giving the complete file its name failed: {error.strerror}") from error


def _json(path: Path, *arguments: str) -> Any:
    return json.loads(run_tool(str(path), ["qemu-img", *arguments])[1])


def _poll(scratch: Scratch, stored_size: int, progress: Progress | None) -> Callable[[], None] | None:
    if progress is None:
        return None
    return lambda: progress(min(scratch.allocated_size, stored_size), 0)
