"""``ghostcast verify``: does this disk or file hold that image, byte for byte? Only reads."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostcast.cli.choose import LibraryOption, choose_image
from ghostcast.cli.options import PORT_DEFAULT, WAIT_MAX_S, InterfaceName, JsonLines, Port, ReportFile, Ttl
from ghostcast.cli.progress import show_progress
from ghostcast.cli.run import begin_report, failure_status, print_json, write_report
from ghostcast.cli.size import format_rate, format_size
from protocol import limits
from protocol.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from ghostcast.image.readback import TargetReader
    from protocol.manifest import Manifest
    from receivers.options import ReceiveOptions

EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast verify /dev/sda --image golden.img.zst\n"
    "  ghostcast verify copy.raw --image golden.img.zst --json\n"
    "  ghostcast verify /dev/sda --session lab                        (on each machine, while lab is being sent)\n\n"
    "The target is only read. Ranges that the image calls unused are not looked at. The exit status is 0 if everything "
    "else is the image's, 5 if something differs or cannot be read, 6 if IMAGE is damaged or no image. In a session, "
    "the sender's report names this machine as verified or failed. A disk larger or smaller than the image's differs "
    "where its partition table was fitted to it."
)

POOL_SIZE = 16 * limits.MIB
"""Memory for slices while taking part in a session: nothing but the manifest is kept."""

RANGES_SHOWN_MAX = 20
"""Differing ranges that people are shown; --json lists all."""

RANGES_REPORTED_MAX = 10_000
"""Differing ranges in a report file."""


def verify(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A disk, or a file.", show_default=False, readable=False)
    ],
    image: Annotated[
        str | None,
        typer.Option(
            "--image", metavar="IMAGE", help="The image it should hold: a path, or a name.", show_default=False
        ),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="NAME", help="Or the session that sends it.", show_default=False),
    ] = None,
    library: LibraryOption = None,
    interface: InterfaceName = None,
    max_wait: Annotated[
        float | None,
        typer.Option(
            "--max-wait",
            metavar="S",
            min=0,
            max=WAIT_MAX_S,
            help="Give up if the session is not found in S seconds.",
            show_default="for ever",
        ),
    ] = None,
    port: Port = PORT_DEFAULT,
    ttl: Ttl = 1,
    report: ReportFile = None,
    json_lines: JsonLines = False,
) -> None:
    """Check whether a disk or a file holds an image, byte for byte. Writes nothing to it.

    Reads past the page cache, on all cores, and compares every chunk with its digest in the image's manifest.
    """
    from ghostcast.image.readback import TargetReader

    if (image is None) == (session is None):
        raise UsageError("name what the target should hold: either --image IMAGE or --session NAME")
    path = None if image is None else choose_image(image, library)
    begin_report(report, [target, *([] if path is None else [path])])
    status, reason = ExitStatus.INTERNAL, ""
    facts: dict[str, Any] = {"target": str(target), "session": session, "image": None}
    ranges: list[tuple[int, int]] = []
    begun = time.monotonic()
    try:
        with TargetReader.open(target) as reader:
            if reader.use is not None and not json_lines:
                print(f"warning: {reader.use}, or what is read may change meanwhile", file=sys.stderr)
            if path is not None:
                manifest, ranges = _compare_with_image(path, reader, json_lines=json_lines)
                status = ExitStatus.TARGET if ranges else ExitStatus.VERIFIED
                reason = verdict(target, manifest, ranges, time.monotonic() - begun)
                facts["image"] = _image_facts(manifest.image_id, manifest.name, manifest.raw_size)
            else:
                options = _receive_options(session, interface, max_wait, port, ttl)
                status, reason, ranges, facts["image"] = _compare_with_session(reader, options, json_lines=json_lines)
    except BaseException as failure:
        status, reason = failure_status(failure), str(failure)
        raise
    finally:
        facts["differs"] = ranges[:RANGES_REPORTED_MAX]
        facts["bytes_differing"] = sum(stop - start for start, stop in ranges)
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


def _compare_with_image(
    path: Path, reader: TargetReader, *, json_lines: bool
) -> tuple[Manifest, list[tuple[int, int]]]:
    from ghostcast.image.readback import compare
    from ghostcast.image.reader import ImageFile

    with ImageFile.open(path) as opened:
        manifest = opened.manifest
    with show_progress("verify", manifest.raw_size, json_lines) as progress:
        return manifest, compare(reader, manifest, None if progress is None else lambda done: progress(done, 0))


def _receive_options(
    session: str | None, interface: str | None, max_wait: float | None, port: int, ttl: int
) -> ReceiveOptions:
    from ghostcast.cli.run import check_session_name
    from ghostcast.net.interfaces import choose_interface
    from receivers.options import ReceiveOptions

    check_session_name(session)
    return ReceiveOptions(
        interface=choose_interface(interface),
        session_name=session,
        port=port,
        ttl=ttl,
        max_wait_ns=None if max_wait is None else round(max_wait * limits.SECOND_NS),
        pool_size=POOL_SIZE,
    )


def _compare_with_session(
    reader: TargetReader, options: ReceiveOptions, *, json_lines: bool
) -> tuple[ExitStatus, str, list[tuple[int, int]], dict[str, Any] | None]:
    """Take part in a session as a receiver that writes nothing: the sender's report says what was found, too."""
    from ghostcast.cli.receive import exit_status
    from ghostcast.cli.receiver_view import choose_view
    from ghostcast.cli.run import run_interruptible
    from receivers.engine import ReceiveEngine

    engine = ReceiveEngine(reader, options)
    view = choose_view(engine, json_lines)
    with view:
        run_interruptible(lambda: engine.run(view), engine.interrupt)
    status, ranges, found = exit_status(engine), engine.work.wrong_ranges, engine.found
    image = None
    if found is not None:
        announce = found.announce
        image = _image_facts(announce.image_id, announce.image_name, announce.raw_size)
    if engine.manifest is not None and (ranges or status is ExitStatus.VERIFIED):
        return status, verdict(reader.path, engine.manifest, ranges, engine.seconds), ranges, image
    if status is ExitStatus.INTERRUPTED or engine.session is None:
        return status, "Interrupted.", ranges, image
    return status, f"Not verified: {engine.session.outcome_text}.", ranges, image


def _image_facts(image_id: bytes, name: str, raw_size: int) -> dict[str, Any]:
    return {"id": image_id.hex(), "name": name, "raw_bytes": raw_size}


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
