"""The picture of a disk that ``image info`` shows: a table of its volumes, and a bar of what is used, zero and free.

Knows a manifest and a terminal's width; reads no chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ghostcast.cli.run import printable
from ghostcast.cli.size import format_size
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest

if TYPE_CHECKING:
    from rich.table import Table

    from protocol.disk import Disk

WIDTH_MAX = 80
USED, MIXED, ZERO, FREE = "█", "▒", "░", "·"


def sizes(manifest: Manifest) -> dict[str, int]:
    """Return how many raw bytes lie in chunks that are stored, that are zero, and that nothing uses."""
    kinds = {"data": manifest.transferred, "zero": manifest.flags & FLAG_ZERO, "unused": manifest.flags & FLAG_UNUSED}
    result = {kind: int(np.count_nonzero(chosen)) * manifest.chunk_size for kind, chosen in kinds.items()}
    if manifest.chunk_count:
        start, end = manifest.raw_range(manifest.chunk_count - 1)
        last = next(kind for kind, chosen in kinds.items() if chosen[-1])
        result[last] -= manifest.chunk_size - (end - start)
    return result


def bar(manifest: Manifest, width: int = WIDTH_MAX) -> str:
    """Return the disk from start to end in ``width`` characters: mostly used, partly used, zero, or free."""
    count = manifest.chunk_count
    if not count:
        return ""
    used = np.concatenate(([0], np.cumsum(manifest.transferred)))
    zero = np.concatenate(([0], np.cumsum((manifest.flags & FLAG_ZERO) != 0)))
    cells = []
    for cell in range(width):
        start, end = cell * count // width, max((cell + 1) * count // width, cell * count // width + 1)
        share = (used[end] - used[start]) / (end - start)
        if share >= 0.5:
            cells.append(USED)
        elif share:
            cells.append(MIXED)
        else:
            cells.append(ZERO if 2 * (zero[end] - zero[start]) >= end - start else FREE)
    return "".join(cells)


def ruler(disk: Disk, raw_size: int, width: int = WIDTH_MAX) -> str:
    """Return a line below the bar that says where each partition lies: its number between two marks."""
    line = [" "] * width
    for volume in sorted(disk.volumes, key=lambda volume: volume.size, reverse=True):
        if volume.container or not volume.number:
            continue
        start = min(volume.start * width // raw_size, width - 1)
        end = max(start + 1, min(-(-volume.end * width // raw_size), width))
        number = str(volume.number)
        drawn = "├" + "─" * (end - start - 2) + "┤" if end - start >= 2 else "│"
        if len(drawn) >= len(number) + 2:
            middle = (len(drawn) - len(number)) // 2
            drawn = drawn[:middle] + number + drawn[middle + len(number) :]
        elif end - start >= len(number):
            drawn = number.ljust(end - start, "┤")
        line[start:end] = drawn
    return "".join(line).rstrip()


def legend(manifest: Manifest) -> str:
    """Return what the bar's signs mean, with sizes."""
    found = sizes(manifest)
    parts = [f"{USED} used {format_size(found['data'])}", f"{ZERO} zero {format_size(found['zero'])}"]
    parts.append(f"{FREE} free {format_size(found['unused'])}")
    return "   ".join([*parts, f"{MIXED} some of it used"])


def volume_table(disk: Disk) -> Table:
    """Return the volumes as a table that fits 80 columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("part", no_wrap=True)
    for title in ("start", "size", "stored"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("content", no_wrap=True, max_width=14)
    table.add_column("label", max_width=32, overflow="ellipsis", no_wrap=True)
    for volume in disk.volumes:
        content = "extended" if volume.container else volume.content or "unknown"
        stored = "" if volume.container else format_size(volume.used_size)
        names = " / ".join(filter(None, (volume.label, volume.name)))
        table.add_row(
            str(volume.number) if volume.number else "disk",
            format_size(volume.start),
            format_size(volume.size),
            stored,
            # Names come from a file that anybody may have made: a terminal must not obey them.
            Text(printable(content)),
            Text(printable(names)),
        )
    return table


def notes(disk: Disk) -> list[str]:
    """Return a line for each volume that is stored whole although somebody might expect otherwise."""
    return [
        f"{f'part {volume.number}' if volume.number else 'disk'}: all of it stored: {volume.note}"
        for volume in disk.volumes
        if volume.note and volume.content
    ]
