"""``ghostcast image export``: an image's disk as a file for virtual machines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ghostcast.cli.choose import ImageArgument, LibraryOption, choose_image
from ghostcast.cli.formats import TARGETS, begin_stage, one_of
from ghostcast.cli.image import app
from ghostcast.cli.options import JsonLines
from ghostcast.cli.run import print_json
from ghostcast.cli.size import format_size

EXPORT_EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast image export golden disk.qcow2\n"
    "  ghostcast image export golden@3 disk.raw\n"
    "  ghostcast image export golden.img.zst disk.img --format vmdk --force"
)


def export(
    image: ImageArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to make.", show_default=False, readable=False)],
    target_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            parser=one_of(TARGETS),
            help=f"What to make: {', '.join(TARGETS)}.",
            show_default="what OUT ends in; raw",
        ),
    ] = None,
    compress: Annotated[bool, typer.Option("--compress", help="Compress its blocks: qcow2 and vmdk.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists already.")] = False,
    library: LibraryOption = None,
    json_lines: JsonLines = False,
) -> None:
    """Write the disk that an image holds as a file for virtual machines, or as a raw one.

    For other formats than raw the disk is laid out beside OUT for a while, and qemu-img compares the two in the end.
    """
    import time

    from ghostcast.image.reader import ImageFile
    from ghostcast.image.virtual_disk import export_image

    path = choose_image(image, library)
    chosen = target_format or (out.suffix[1:].lower() if out.suffix[1:].lower() in TARGETS else "raw")
    start = time.monotonic()
    with ImageFile.open(path) as opened:
        stage = begin_stage(out.absolute().parent, json_lines)
        export_image(opened, out, chosen, stage, compress=compress, force=force)
        raw_size = opened.manifest.raw_size
    seconds, size = time.monotonic() - start, out.stat().st_size
    if json_lines:
        print_json(
            {
                "event": "exported",
                "path": str(out),
                "format": chosen,
                "bytes": size,
                "raw_bytes": raw_size,
                "seconds": round(seconds, 3),
            }
        )
    else:
        print(
            f"{out}: exported as {chosen}: {format_size(raw_size)} of disk in a file of {format_size(size)}, "
            f"{seconds:.1f} s",
            file=sys.stderr,
        )


app.command("export", epilog=EXPORT_EXAMPLES)(export)
