"""``ghostcast verify``: does this disk or file hold that image, byte for byte? Only reads."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostcast.cli.choose import LibraryOption, choose_image
from ghostcast.cli.options import JsonLines, ReportFile
from ghostcast.cli.progress import show_progress
from ghostcast.cli.run import begin_report, failure_status, print_json, write_report
from ghostcast.cli.size import format_rate, format_size
from protocol.errors import ExitStatus

if TYPE_CHECKING:
    from protocol.manifest import Manifest

EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast verify /dev/sda --image golden.img.zst\n"
    "  ghostcast verify copy.raw --image golden.img.zst --json\n\n"
    "The target is only read. Ranges that the image calls unused are not looked at. The exit status is 0 if everything "
    "else is the image's, 5 if something differs or cannot be read, 6 if IMAGE is damaged or no image."
)

RANGES_SHOWN_MAX = 20
"""Differing ranges that people are shown; --json lists all."""

RANGES_REPORTED_MAX = 10_000
"""Differing ranges in a report file."""


def verify(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A disk, or a file.", show_default=False, readable=False)
    ],
    image: Annotated[
        str,
        typer.Option(
            "--image", metavar="IMAGE", help="The image it should hold: a path, or a name.", show_default=False
        ),
    ],
    library: LibraryOption = None,
    report: ReportFile = None,
    json_lines: JsonLines = False,
) -> None:
    """Check whether a disk or a file holds an image, byte for byte. Writes nothing to it.

    Reads past the page cache, on all cores, and compares every chunk with its digest in the image's manifest.
    """
    from ghostcast.image.readback import TargetReader, compare
    from ghostcast.image.reader import ImageFile

    path = choose_image(image, library)
    begin_report(report, [target, path])
    status, reason = ExitStatus.INTERNAL, ""
    facts: dict[str, Any] = {"target": str(target), "image": None, "differs": [], "bytes_differing": 0}
    begun = time.monotonic()
    try:
        with ImageFile.open(path) as opened, TargetReader.open(target) as reader:
            manifest = opened.manifest
            facts["image"] = {"id": manifest.image_id.hex(), "name": manifest.name, "raw_bytes": manifest.raw_size}
            if reader.use is not None and not json_lines:
                print(f"warning: {reader.use}, or what is read may change meanwhile", file=sys.stderr)
            with show_progress("verify", manifest.raw_size, json_lines) as progress:
                ranges = compare(reader, manifest, None if progress is None else lambda done: progress(done, 0))
        facts["differs"] = ranges[:RANGES_REPORTED_MAX]
        facts["bytes_differing"] = sum(stop - start for start, stop in ranges)
        status = ExitStatus.TARGET if ranges else ExitStatus.VERIFIED
        reason = verdict(target, manifest, ranges, time.monotonic() - begun)
    except BaseException as failure:
        status, reason = failure_status(failure), str(failure)
        raise
    finally:
        seconds = round(time.monotonic() - begun, 3)
        write_report(report, {"status": int(status), "reason": reason, "seconds": seconds, **facts})
    if json_lines:
        for start, stop in ranges:
            print_json({"event": "differs", "start": start, "stop": stop})
        print_json({"event": "finished", "status": int(status), "text": reason})
    else:
        for line in range_lines(ranges):
            print(line, file=sys.stderr)
        print(reason, file=sys.stderr)
    raise typer.Exit(status)


def verdict(target: Path, manifest: Manifest, ranges: list[tuple[int, int]], seconds: float) -> str:
    """Return one sentence that says what was found."""
    rate = f"{seconds:.1f} s ({format_rate(manifest.raw_size / max(seconds, 1e-9))})"
    if not ranges:
        return f"{target} holds {manifest.name}: {format_size(manifest.raw_size)} compared in {rate}."
    size = sum(stop - start for start, stop in ranges)
    places = "one place" if len(ranges) == 1 else f"{len(ranges)} places"
    return f"{target} does not hold {manifest.name}: {format_size(size)} in {places} differ; compared in {rate}."


def range_lines(ranges: list[tuple[int, int]]) -> list[str]:
    """Return the first differing ranges as lines for people."""
    lines = [f"bytes {start} to {stop} differ" for start, stop in ranges[:RANGES_SHOWN_MAX]]
    if len(ranges) > RANGES_SHOWN_MAX:
        lines.append(f"and {len(ranges) - RANGES_SHOWN_MAX} more ranges; --json lists them all")
    return lines
