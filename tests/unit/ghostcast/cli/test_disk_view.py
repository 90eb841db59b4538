"""Goal: the picture of a disk is 80 columns wide at most, and says where what is.

Method: small manifests whose picture can be drawn by hand.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from rich.console import Console

from ghostcast.cli import disk_view
from protocol.disk import GPT, Disk, Volume
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest
from tests.unit.protocol import test_disk

ESCAPE = "\x1b[31m"


def manifest(flags: str) -> Manifest:
    """Return a manifest of chunks that are used (u), zero (z) and free (f)."""
    values = {"u": 0, "z": FLAG_ZERO, "f": FLAG_UNUSED}
    columns = np.array([values[flag] for flag in flags], np.uint8)
    whole = test_disk.manifest(None)
    return dataclasses.replace(
        whole,
        flags=columns,
        raw_size=len(flags) * whole.chunk_size - 100,
        stored_sizes=np.full(len(flags), 9, np.uint32),
    )


def test_the_bar_shows_what_there_is_most_of() -> None:
    assert disk_view.bar(manifest("uzfu"), 4) == "█░·█"
    assert disk_view.bar(manifest("uuzffffz"), 4) == "█░·░"
    assert disk_view.bar(manifest("uzzfff"), 2) == "▒·"
    assert disk_view.bar(manifest("uzf"), 9) == "███░░░···"
    assert disk_view.bar(manifest(""), 9) == ""


def test_sizes_count_the_short_last_chunk() -> None:
    assert disk_view.sizes(manifest("uzfu")) == {"data": 2 * 4096 - 100, "zero": 4096, "unused": 4096}


def test_the_ruler_names_partitions_below_the_bar() -> None:
    volumes = [
        Volume(number=1, start=0, size=20),
        Volume(number=12, start=20, size=60),
        Volume(number=3, start=80, size=2),
    ]
    disk = Disk(table=GPT, volumes=[*volumes, Volume(number=4, start=0, size=90, container=True)])
    assert disk_view.ruler(disk, 100, 50) == "├───1────┤├─────────────12─────────────┤3"


def test_the_table_fits_and_obeys_no_escape() -> None:
    label = "a very long label that somebody thought of " * 3 + ESCAPE
    volumes = [
        Volume(number=1, start=1 << 20, size=64 << 30, content="ext4", label=label, used_size=5 << 30),
        Volume(number=2, start=65 << 30, size=1 << 30, content="xfs" + ESCAPE, note="not cleanly unmounted"),
        Volume(number=0, start=0, size=0, container=True),
    ]
    seen = io.StringIO()
    Console(file=seen, width=80).print(disk_view.volume_table(Disk(volumes=volumes)))
    assert ESCAPE not in seen.getvalue()
    assert max(map(len, seen.getvalue().splitlines())) <= 80
    assert "64.0 GiB" in seen.getvalue()
    assert disk_view.notes(Disk(volumes=volumes)) == ["part 2: all of it stored: not cleanly unmounted"]
