"""Whatever people have, opened as a raw disk to make an image of.

Knows which format is expanded how, each by its own tool. The invariant: a tool that failed makes no image, for its
status is looked at before the image gets its name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from ghostcast.image.clonezilla import expand_clonezilla
from ghostcast.image.formats import (
    CLONEZILLA,
    EXPANDERS,
    RAW,
    START_SIZE,
    VIRTUAL_DISKS,
    check_raw,
    find_format,
)
from ghostcast.image.source import STREAM_PATH, RawSource
from ghostcast.image.tools import Pipeline
from ghostcast.image.virtual_disk import Stage, expand_virtual_disk
from protocol.errors import ImageError, UsageError


@contextlib.contextmanager
def open_source(
    path: Path, format_name: str | None, stage: Stage, *, scratch_directory: Path, disk: str | None = None
) -> Generator[RawSource, None, None]:
    """Open a disk in any format; what had to be laid out is gone when the block ends.

    Args:
        path: a file, a device, a directory of Clonezilla's, or ``-``.
        format_name: what the person says it is; None: what its name says.
        stage: shows how far work is that comes before reading.
        scratch_directory: where disks are laid out that cannot be read in one pass.
        disk: which disk of a directory that holds several.

    Raises:
        UsageError: there is no such thing, it is not what its name says, or a tool is missing.
        ImageError: it is damaged.
        TargetError: not enough room to lay it out.
    """
    found = find_format(path, format_name)
    if disk is not None and found != CLONEZILLA:
        raise UsageError(f"{path}: is one disk; --disk {disk} chooses among those of a directory that Clonezilla made")
    if found == RAW:
        with RawSource.open(path) as source:
            if format_name is None:
                source.at_start = lambda start: check_raw(path, start)
            yield source
    elif found in EXPANDERS:
        with _expanded(path, found) as source:
            yield source
    else:
        if path == STREAM_PATH or (found == CLONEZILLA) != path.is_dir():
            raise UsageError(f"{path}: cannot be of the format {found}")
        if found in VIRTUAL_DISKS:
            RawSource.open(path).close()  # says what is wrong with a path better than a tool could
            scratch = expand_virtual_disk(path, found, scratch_directory, stage)
        else:
            scratch = expand_clonezilla(path, disk, scratch_directory, stage)
        with scratch, RawSource.open(scratch.path) as source:
            source.shown_path = path
            yield source


@contextlib.contextmanager
def _expanded(path: Path, found: str) -> Generator[RawSource, None, None]:
    """Open what a tool expands in one pass."""
    with contextlib.ExitStack() as stack:
        packed = stack.enter_context(RawSource.open(path))
        pipeline = stack.enter_context(Pipeline(str(path), [EXPANDERS[found]], packed.fileno()))
        source = stack.enter_context(RawSource(path, os.dup(pipeline.output.fileno()), "stream", None, 0))
        begun = False

        def at_start(start: bytes | bytearray) -> None:
            nonlocal begun
            begun = True
            check_raw(path, start[:START_SIZE], wrapping=found)

        def at_end() -> None:
            pipeline.check()
            if not begun:
                raise ImageError(f"{path}: nothing is in it; no image was made")

        source.at_start, source.at_end = at_start, at_end
        yield source
