"""The options that say what kind of file a disk is kept in, and what shows how far work on it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghostcast.cli.progress import show_progress
from ghostcast.cli.run import print_json
from ghostcast.cli.size import format_size

if TYPE_CHECKING:
    from ghostcast.image.pipeline import Progress

_VIRTUAL_DISKS = ("qcow2", "vmdk", "vhdx", "vhd", "vdi")
_SOURCES = ("raw", *_VIRTUAL_DISKS, "gz", "xz", "zst", "bz2", "lz4", "partclone", "clonezilla")
TARGETS = ("raw", *_VIRTUAL_DISKS)


def one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    """Return what checks that an option's value is one of these."""

    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text!r} is none of: {', '.join(names)}")
        return text

    return parse


FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        parser=one_of(_SOURCES),
        help=f"What SOURCE is: {', '.join(_SOURCES)}.",
        show_default="what its name ends in; raw",
    ),
]
ScratchOption = Annotated[
    Path | None,
    typer.Option(
        "--scratch",
        metavar="DIR",
        help="Where a disk is laid out for a while that cannot be read in one pass.",
        show_default="beside the image",
        readable=False,
    ),
]
DiskOption = Annotated[
    str | None, typer.Option("--disk", metavar="NAME", help="Which disk of a directory that holds several.")
]


def begin_stage(room: Path, json_lines: bool) -> Callable[[str, int | None], AbstractContextManager[Progress | None]]:
    """Return what shows the parts of long work; says before it begins where a disk is laid out, and how large."""

    def stage(action: str, size: int | None) -> AbstractContextManager[Progress | None]:
        if action == "expand":
            assert size is not None
            if json_lines:
                print_json({"event": "expanding", "directory": str(room), "bytes_at_most": size})
            else:
                print(f"laying the disk out in {room} for a while: {format_size(size)} at most", file=sys.stderr)
        return show_progress(action, size, json_lines)

    return stage
