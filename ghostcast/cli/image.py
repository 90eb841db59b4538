"""``ghostcast image``: make images, look into them, check them, restore them without a network.

Knows the command line and the terminal; the work is ``ghostcast.image``'s. What people read goes to standard error,
what programs read (``--json``, ``info``) to standard output. Errors are raised, never printed: ``main`` turns each
into one line and its exit status. Everything heavy is imported where it is used, so that ``--help`` comes at once.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostcast.cli.choose import ImageArgument, LibraryOption, choose_image
from ghostcast.cli.formats import DiskOption, FormatOption, ScratchOption, begin_stage
from ghostcast.cli.match import MatchOption, apply_match
from ghostcast.cli.options import JsonLines
from ghostcast.cli.progress import show_progress
from ghostcast.cli.run import print_json, printable
from ghostcast.cli.size import format_rate, format_size, parse_size
from ghostcast.image.unused import Unused
from protocol import limits
from protocol.errors import GhostcastError, ImageError, UsageError
from protocol.match import ANY_MACHINE, describe

if TYPE_CHECKING:
    from ghostcast.image.reader import ChunkError
    from protocol.manifest import Manifest

app = typer.Typer(
    name="image",
    help="Make, inspect, verify and restore images.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_DAMAGED_SHOWN_MAX = 20
"""Damaged chunks that people are shown; --json lists all."""

_Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists already.")]


@app.callback()
def end_tidily() -> None:
    """Let a polite kill end as Ctrl-C does: what is half done is removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's ignoring of SIGHUP is respected
            signal.signal(number, signal.default_int_handler)


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  ghostcast image create /dev/sda golden.img.zst\n"
    "  ghostcast image create disk.raw golden.img.zst --level 9 --name golden-2026\n"
    "  ghostcast image create debian.qcow2 --name debian\n"
    "  ghostcast image create /dev/sda --name golden --match vendor='Dell*' --match memory=8GiB\n"
    "  ssh web1 sudo dd if=/dev/sda bs=1M | ghostcast image create - web1.img.zst"
)
def create(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A disk, a file, a directory of Clonezilla's, or - for standard input.",
            show_default=False,
            readable=False,
        ),
    ],
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="IMAGE",
            help="The image file; without it the image goes into the library under --name.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    chunk_size: Annotated[
        int,
        typer.Option(
            "--chunk-size",
            metavar="SIZE",
            parser=parse_size,
            help="Raw bytes that are compressed, checked and written as one; 4KiB to 16MiB.",
            show_default="1MiB",
        ),
    ] = limits.CHUNK_SIZE_DEFAULT,
    level: Annotated[int, typer.Option("--level", help="zstd compression level, 1 (fast) to 22 (small).")] = 3,
    name: Annotated[
        str | None, typer.Option("--name", help="The image's name.", show_default="the source's file name")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A note to keep in the image; repeatable.")
    ] = None,
    match: MatchOption = None,
    library: LibraryOption = None,
    architecture: Annotated[
        str | None,
        typer.Option("--architecture", help="What the disk's system runs on.", show_default="this machine's"),
    ] = None,
    source_format: FormatOption = None,
    scratch: ScratchOption = None,
    disk: DiskOption = None,
    raw_blocks: Annotated[
        bool, typer.Option("--raw", help="Store every block, whatever the file systems use.")
    ] = False,
    allow_mounted: Annotated[
        bool, typer.Option("--allow-mounted", help="Read a disk that is in use; what is in use is stored whole.")
    ] = False,
    force: _Force = False,
    json_lines: JsonLines = False,
) -> None:
    """Make an image of a disk.

    Blocks that its file systems do not use are left out: ext2/3/4, XFS, btrfs, FAT16/32, exFAT, NTFS and F2FS are
    understood where partclone is installed; for partitions in a file, root is needed too. All else is stored byte by
    byte.

    Without IMAGE it goes into the library, as the next version of --name. It appears under its name when it is complete
    and flushed; zstd -d restores it too.
    """
    import platform

    from ghostcast.image.inputs import open_source
    from ghostcast.image.library import Library
    from ghostcast.image.writer import ImageOptions, create_image

    _check_destination(image, name, library)
    if image is not None and image.is_file() and not force and not _same_file(source, image):
        # Found again by whoever writes it, but then a large disk may have been laid out for nothing.
        raise UsageError(f"{image}: exists already; use --force to replace it, or name another file")
    if str(image) == "-":
        raise UsageError("an image cannot be written to standard output, for its end is written last: name a file")
    options = ImageOptions(
        chunk_size=chunk_size,
        level=level,
        name=name,
        architecture=platform.machine() if architecture is None else architecture,
        labels=parse_labels(label or []),
        match=apply_match(ANY_MACHINE, match or []),
    )
    room = scratch or (Library(library).directory if image is None else image.absolute().parent)
    stage = begin_stage(room, json_lines)
    with open_source(source, source_format, stage, scratch_directory=room, disk=disk) as raw:
        if raw.use is not None and not allow_mounted:
            raise UsageError(f"{source}: {raw.use}, or use --allow-mounted: the image may catch it half-written")
        start = time.monotonic()
        if not raw_blocks:
            _warn(raw.look(_say_step if sys.stderr.isatty() and not json_lines else None), json_lines)
        path = image or Library(library).reserve(name or "").path
        with show_progress("create", raw.size, json_lines) as progress:
            manifest = create_image(raw, path, options, force=force, progress=progress)
    _finish("created", path, path, manifest, start, json_lines)


@app.command(epilog="Example:\n\n\b\n  ghostcast image info golden.img.zst --json | jq .raw_bytes")
def info(image: ImageArgument, library: LibraryOption = None, json_lines: JsonLines = False) -> None:
    """Show what an image says about itself. Reads no chunk: ``verify`` does."""
    import datetime

    from ghostcast.image.labels import open_labelled

    path = choose_image(image, library)
    with open_labelled(path) as opened:
        manifest = opened.manifest
    facts = image_facts(path, manifest)
    if json_lines:
        print_json(facts)
        return
    source, disk = manifest.source, manifest.disk
    created = datetime.datetime.fromtimestamp(manifest.created, datetime.UTC)
    rows = {
        "name": manifest.name,
        "id": facts["id"],
        "created": f"{created:%Y-%m-%d %H:%M:%S} UTC",
        "disk": f"{format_size(manifest.raw_size)} ({manifest.raw_size} bytes)",
        "compressed": f"{format_size(manifest.stream_size)} ({manifest.stream_size} bytes{_ratio(manifest)})",
        "chunks": f"{manifest.chunk_count} of {format_size(manifest.chunk_size)}, {facts['chunks_zero']} zero, "
        f"{facts['chunks_unused']} unused",
        "source": " ".join(filter(None, (source.kind, source.path, source.host and f"on {source.host}"))),
        "architecture": source.architecture,
        "for": describe(manifest.match),
        "table": disk.table if disk is not None else "",
        "sector size": (disk.sector_size if disk is not None else 0) or source.sector_size or "",
        "fits on": f"{format_size(manifest.target_size_min)} ({manifest.target_size_min} bytes) or more",
        **{f"label {key}": value for key, value in source.labels.items()},
    }
    for title, value in rows.items():
        if value != "":
            # Names come from a file that anybody may have made: a terminal must not obey them.
            print(f"{printable(title):<14}{printable(str(value))}")
    _show_disk(manifest)


@app.command(
    epilog="Examples:\n\n\b\n  ghostcast image verify golden.img.zst && echo good\n  ghostcast image verify --all"
)
def verify(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A path, or a name in the library.", show_default=False)
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every image of the library.")] = False,
    library: LibraryOption = None,
    json_lines: JsonLines = False,
) -> None:
    """Check every byte of an image, or of all images of the library.

    Names the chunks that are damaged; the exit status is 6 if there are any.
    """
    if everything == bool(image):
        raise typer.BadParameter("name an image, or say --all; not both", param_hint="IMAGE")
    if not everything:
        _verify(choose_image(image, library), json_lines)
        return
    from ghostcast.image.library import Library

    chosen = Library(library)
    entries = chosen.entries()
    if not entries:
        raise UsageError(f"{chosen.directory}: no images are there, so nothing was verified")
    damaged = []
    for entry in entries:
        try:
            _verify(entry.path, json_lines)
        except GhostcastError as error:
            damaged.append(str(entry))
            if json_lines:
                print_json({"event": "failed", "path": str(entry.path), "reason": str(error)})
            else:
                print(str(error), file=sys.stderr)
    if damaged:
        raise ImageError(f"{len(damaged)} of {len(entries)} images are damaged: {', '.join(damaged)}")
    if not json_lines:
        print(f"{chosen.directory}: {len(entries)} images, all good", file=sys.stderr)


def _verify(path: Path, json_lines: bool) -> None:
    from ghostcast.image.reader import ImageFile
    from ghostcast.image.verify import verify_image

    with ImageFile.open(path) as opened:
        manifest = opened.manifest
        start = time.monotonic()
        with show_progress("verify", manifest.raw_size, json_lines) as progress:
            verify_image(opened, damaged=_damage_printer(json_lines), progress=progress)
    _finish("verified", path, path, manifest, start, json_lines)


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  ghostcast image extract golden.img.zst /dev/sdb\n"
    "  ghostcast image extract golden.img.zst disk.raw\n"
    "  zstd -d golden.img.zst -o disk.raw        (without ghostcast)"
)
def extract(
    image: ImageArgument,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A disk, or a file to make.", show_default=False, readable=False)
    ],
    library: LibraryOption = None,
    unused: Annotated[
        Unused,
        typer.Option("--unused", help="What becomes of blocks of a disk that no file system of the image uses."),
    ] = Unused.KEEP,
    grow: Annotated[
        bool, typer.Option("--grow", help="Make the last partition and its file system as large as the disk.")
    ] = False,
    force: _Force = False,
    json_lines: JsonLines = False,
) -> None:
    """Restore an image to a disk or a file.

    Every byte is checked before it is written. A disk is overwritten without a question, unless something uses it. A
    file gets holes where the disk is zero, and appears under its name when it is complete.
    """
    from ghostcast.image.extract import extract_image
    from ghostcast.image.reader import ImageFile

    if str(target) == "-":
        raise UsageError(f"a disk cannot be restored to standard output; zstd -dc {image} does that")
    path = choose_image(image, library)
    with ImageFile.open(path) as opened:
        manifest = opened.manifest
        start = time.monotonic()
        with show_progress("extract", manifest.raw_size, json_lines) as progress:
            notes = extract_image(opened, target, force=force, unused=unused, grow=grow, progress=progress)
    _warn(notes, json_lines)
    _finish("extracted", target, path, manifest, start, json_lines)


def _say_step(name: str) -> None:
    print(f"looking at {printable(name)}", file=sys.stderr)


def _warn(texts: list[str], json_lines: bool) -> None:
    for text in texts:
        if json_lines:
            print_json({"event": "warning", "text": text})
        else:
            print(f"note: {printable(text)}", file=sys.stderr)


def _show_disk(manifest: Manifest) -> None:
    """Print the picture of the disk on standard output."""
    from rich.console import Console

    from ghostcast.cli import disk_view

    console = Console(highlight=False, soft_wrap=False)
    width = min(console.width, disk_view.WIDTH_MAX)
    disk = manifest.disk
    if disk is not None and disk.volumes:
        print()
        console.print(disk_view.volume_table(disk), width=width)
        for note in disk_view.notes(disk):
            console.print(printable(note), width=width, markup=False)
    if manifest.chunk_count:
        print()
        print(disk_view.bar(manifest, width))
        if disk is not None and disk.table:
            print(disk_view.ruler(disk, manifest.raw_size, width))
        print(disk_view.legend(manifest))


def _check_destination(image: Path | None, name: str | None, library: Path | None) -> None:
    """Refuse what is neither a path nor a name in the library, or both."""
    if image is not None and library is not None:
        raise typer.BadParameter(f"{image} is a path already; with --library give --name instead of IMAGE")
    if image is None:
        if name is None:
            raise typer.BadParameter("name a file for the image, or give --name to put it into the library")
        from ghostcast.image.library import check_name

        check_name(name)


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def parse_labels(texts: list[str]) -> dict[str, str]:
    """Return the labels that ``KEY=VALUE`` options give."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{text!r} is not of the form KEY=VALUE", param_hint="labels")
        labels[key] = value
    return labels


def image_facts(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what ``info --json`` prints; the keys are a contract."""
    import msgspec

    from protocol.manifest import FLAG_UNUSED, FLAG_ZERO

    return {
        "image": str(path),
        "id": manifest.image_id.hex(),
        "name": manifest.name,
        "created": manifest.created,
        "raw_bytes": manifest.raw_size,
        "stored_bytes": manifest.stream_size,
        "chunk_bytes": manifest.chunk_size,
        "chunks": manifest.chunk_count,
        "chunks_zero": int(((manifest.flags & FLAG_ZERO) != 0).sum()),
        "chunks_unused": int(((manifest.flags & FLAG_UNUSED) != 0).sum()),
        "target_bytes_min": manifest.target_size_min,
        "source": msgspec.to_builtins(manifest.source),
        "disk": msgspec.to_builtins(manifest.disk),
        "match": msgspec.to_builtins(manifest.match),
    }


def _ratio(manifest: Manifest) -> str:
    return f", {manifest.raw_size / manifest.stream_size:.2f}:1" if manifest.stream_size else ""


def _finish(done: str, path: Path, image: Path, manifest: Manifest, start: float, json_lines: bool) -> None:
    """Print the one line that says what was done to ``path``."""
    seconds = time.monotonic() - start
    if json_lines:
        print_json({"event": done, "path": str(path), "seconds": round(seconds, 3), **image_facts(image, manifest)})
        return
    print(
        f"{path}: {done}: {format_size(manifest.raw_size)} of disk, {format_size(manifest.stream_size)} compressed"
        f"{_ratio(manifest)}, {manifest.chunk_count} chunks, {seconds:.1f} s, "
        f"{format_rate(manifest.raw_size / max(seconds, 1e-9))} of disk",
        file=sys.stderr,
    )


def _damage_printer(json_lines: bool) -> Callable[[ChunkError], None]:
    shown = 0

    def show(error: ChunkError) -> None:
        nonlocal shown
        start, end = error.stored_range
        if json_lines:
            print_json(
                {
                    "event": "damaged",
                    "chunk": error.chunk_index,
                    "stored_range": [start, end],
                    "reason": error.reason,
                }
            )
            return
        shown += 1
        if shown <= _DAMAGED_SHOWN_MAX:
            print(f"chunk {error.chunk_index} (file bytes {start} to {end}): {error.reason}", file=sys.stderr)
        elif shown == _DAMAGED_SHOWN_MAX + 1:
            print("more chunks are damaged; --json lists them all", file=sys.stderr)

    return show
