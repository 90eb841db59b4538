"""``ghostcast image list``, ``label`` and ``delete``: the library, and what is noted about an image.

Knows the command line and the terminal; the work is ``ghostcast.image``'s, imported where it is used.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostcast.cli.choose import ImageArgument, LibraryOption, choose_image
from ghostcast.cli.image import app, image_facts, parse_labels
from ghostcast.cli.match import MatchOption, apply_match
from ghostcast.cli.options import JsonLines
from ghostcast.cli.run import print_json, printable
from ghostcast.cli.size import format_size
from protocol.errors import GhostcastError, UsageError
from protocol.match import describe

if TYPE_CHECKING:
    from ghostcast.image.library import Entry
    from protocol.manifest import Manifest

LIST_EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast image list\n"
    "  ghostcast image list golden\n"
    "  ghostcast image list --json | jq -r 'select(.source.labels.rack == \"7\").reference'"
)

LABEL_EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast image label golden rack=7 owner=ops\n"
    "  ghostcast image label golden@3 --remove owner\n"
    "  ghostcast image label golden --match product='OptiPlex 70*' --match memory=16GiB\n"
    "  ghostcast image label golden --match none"
)

DELETE_EXAMPLES = (
    "Examples:\n\n\b\n  ghostcast image delete golden@3\n  ghostcast image delete golden --all-versions --yes"
)


def list_images(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this name.", show_default=False)] = None,
    library: LibraryOption = None,
    json_lines: JsonLines = False,
) -> None:
    """List the images of the library.

    Reads what each image says about itself, no chunk: image verify --all does.
    """
    from ghostcast.image.labels import open_labelled
    from ghostcast.image.library import Library

    chosen = Library(library)
    entries = [entry for entry in chosen.entries() if name in (None, entry.name)]
    if name is not None and not entries:
        chosen.require(name)
    rows: list[tuple[str, ...]] = [("IMAGE", "CREATED (UTC)", "DISK", "STORED", "FOR, LABELS")]
    for entry in entries:
        try:
            with open_labelled(entry.path) as opened:
                manifest, stored_size = opened.manifest, os.fstat(opened.fileno()).st_size
        except GhostcastError as error:
            if json_lines:
                print_json({"reference": str(entry), "image": str(entry.path), "error": str(error)})
            rows.append((str(entry), "", "", "", f"damaged: {error}"))
            continue
        if json_lines:
            print_json({"reference": str(entry), "version": entry.version, **image_facts(entry.path, manifest)})
        rows.append(_row(entry, manifest, stored_size))
    if json_lines:
        return
    for stranger in chosen.strangers():
        print(f"{stranger}: not listed: its name is not NAME@VERSION.img.zst", file=sys.stderr)
    if not entries:
        print(
            f"{chosen.directory}: no images; make one with: ghostcast image create SOURCE --name NAME", file=sys.stderr
        )
        return
    _print_table(rows)


def label(
    image: ImageArgument,
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="Labels to set; without any, show them.", show_default=False),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", help="A label to take away; repeatable.")
    ] = None,
    match: MatchOption = None,
    library: LibraryOption = None,
    json_lines: JsonLines = False,
) -> None:
    """Note labels about an image, or say which machines it is for.

    They are kept in a small file beside the image, IMAGE.labels.json; the image itself is not touched. --match FACT=
    takes one fact out of the rule, --match none all.
    """
    from ghostcast.image.labels import change, open_labelled

    path = choose_image(image, library)
    with open_labelled(path) as opened:
        manifest = opened.manifest
    changes: dict[str, str | None] = {**parse_labels(labels or []), **dict.fromkeys(remove or [])}
    if changes or match:
        manifest = change(path, changes, lambda rule: apply_match(rule, match or []))
    if json_lines:
        print_json(image_facts(path, manifest))
        return
    for key, value in manifest.source.labels.items():
        print(printable(f"{key}={value}"))
    if manifest.match:
        print(printable(f"for: {describe(manifest.match)}"))


def delete(
    image: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="An image of the library.", show_default=False)],
    all_versions: Annotated[bool, typer.Option("--all-versions", help="Every version of NAME.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    library: LibraryOption = None,
    json_lines: JsonLines = False,
) -> None:
    """Delete an image from the library, after a question.

    A session that is sending it goes on to its end. Its version is not given to another image.
    """
    from ghostcast.image.library import Library

    chosen = Library(library)
    entry = chosen.require(image)
    named = "@" in image
    versions = [other for other in chosen.entries() if other.name == entry.name]
    if all_versions and named:
        raise UsageError(f"{image}: names one version; leave it out with --all-versions")
    if not all_versions and not named and len(versions) > 1:
        shown = ", ".join(map(str, versions))
        raise UsageError(f"{image}: which version? There are {shown}; name one, or say --all-versions")
    doomed = versions if all_versions else [entry]
    if not yes:
        _confirm(doomed)
    for each in doomed:
        size = each.path.lstat().st_size if os.path.lexists(each.path) else 0
        chosen.delete(each)
        if json_lines:
            print_json({"event": "deleted", "reference": str(each), "path": str(each.path), "stored_bytes": size})
        else:
            print(f"{each}: deleted, {format_size(size)} freed", file=sys.stderr)


def _confirm(doomed: list[Entry]) -> None:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked: say --yes to delete without a question")
    for entry in doomed:
        print(f"{entry}  {format_size(entry.path.stat().st_size)}  {entry.path}", file=sys.stderr)
    what = str(doomed[0]) if len(doomed) == 1 else f"these {len(doomed)} images"
    try:
        agreed = typer.confirm(f"Delete {what}?", err=True)
    except typer.Abort:  # its own way out is status 1, which is for our mistakes
        raise KeyboardInterrupt from None
    if not agreed:
        raise UsageError("nothing was deleted")


def _row(entry: Entry, manifest: Manifest, stored_size: int) -> tuple[str, ...]:
    import datetime

    created = datetime.datetime.fromtimestamp(manifest.created, datetime.UTC)
    labels = (f"{key}={value}" for key, value in manifest.source.labels.items())
    notes = [describe(manifest.match) or manifest.source.architecture, " ".join(labels)]
    return (
        str(entry),
        f"{created:%Y-%m-%d %H:%M}",
        format_size(manifest.raw_size),
        format_size(stored_size),
        printable("; ".join(filter(None, notes))),
    )


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print columns under one another; on a terminal the last one is cut where the line ends."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    width: Any = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for *columns, last in rows:
        line = "  ".join([*(text.ljust(size) for text, size in zip(columns, widths, strict=True)), last]).rstrip()
        print(line if width is None or len(line) <= width else line[: width - 1] + "…")


app.command("list", epilog=LIST_EXAMPLES)(list_images)
app.command("label", epilog=LABEL_EXAMPLES)(label)
app.command("delete", epilog=DELETE_EXAMPLES)(delete)
