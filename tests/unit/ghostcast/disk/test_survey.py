"""Goal: what several volumes do not use adds up to ranges of the disk, and the smallest target is told right.

Method: descriptions made up; real disks are the lab's.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ghostcast.disk import programs, survey
from ghostcast.disk.survey import smallest_size, spare_range
from protocol.disk import DOS, GPT, Disk, Volume

MIB = 1 << 20
RESERVE = (16 << 10) + 512


def volume(number: int, start: int, size: int, needed: int | None = None, **more: bool) -> Volume:
    return Volume(
        number=number,
        start=start * MIB,
        size=size * MIB,
        needed_size=(size if needed is None else needed) * MIB,
        **more,
    )


@pytest.mark.parametrize(
    ("disk", "smallest"),
    [
        (Disk(table=GPT, sector_size=512, volumes=[volume(1, 1, 10), volume(2, 11, 80)]), 91 * MIB + RESERVE),
        (Disk(table=GPT, sector_size=512, volumes=[volume(1, 1, 10), volume(2, 11, 80, 30)]), 41 * MIB + RESERVE),
        # Only the volume that ends last may lose its end, wherever it stands in the table.
        (Disk(table=GPT, sector_size=512, volumes=[volume(1, 11, 80, 30), volume(2, 1, 10, 5)]), 41 * MIB + RESERVE),
        (Disk(table=DOS, sector_size=512, volumes=[volume(1, 1, 90, 30)]), 31 * MIB),
        # A frame around logical partitions would have to be cut as well.
        (
            Disk(table=DOS, sector_size=512, volumes=[volume(1, 1, 90, container=True), volume(5, 2, 89, 30)]),
            91 * MIB,
        ),
        (Disk(volumes=[volume(0, 0, 100, 30)]), 30 * MIB),
        (Disk(), 100 * MIB),
    ],
)
def test_the_smallest_target(disk: Disk, smallest: int) -> None:
    assert smallest_size(disk, 100 * MIB) == smallest


def test_what_a_small_target_loses_ends_before_the_second_table() -> None:
    disk = Disk(table=GPT, sector_size=512, smallest_size=41 * MIB + RESERVE)
    assert spare_range(disk, 100 * MIB) == (41 * MIB, 100 * MIB - RESERVE)


def test_ranges_that_touch_are_one() -> None:
    free = np.array([[50, 60], [10, 20], [20, 30], [60, 61]], np.int64)
    assert survey._joined(free).tolist() == [[10, 30], [50, 61]]


def test_without_the_programs_everything_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    monkeypatch.setattr(programs, "find", lambda _name: None)
    found = survey.survey(disk, MIB, 0, lambda _start, _size: None)
    assert found.warnings == [
        f"{disk}: partx is not installed (Debian package util-linux): everything on it is stored, used or not"
    ]
    assert (found.disk.smallest_size, len(found.free)) == (MIB, 0)


def test_an_empty_disk_has_nothing_to_look_at(tmp_path: Path) -> None:
    assert survey.survey(tmp_path / "missing", 0, 0, lambda _start, _size: None).warnings == []


def test_each_partition_is_asked_for_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of two partitions, the second of which is mounted."""
    disk = tmp_path / "disk"
    disk.touch()
    number = os.stat(disk).st_rdev
    folder = tmp_path / "sys" / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    for partition, start in ((1, 2048), (2, 4096)):
        (folder / f"sda{partition}").mkdir(parents=True)
        for name, text in (("partition", partition), ("start", start), ("dev", f"8:{partition}")):
            (folder / f"sda{partition}" / name).write_text(f"{text}\n")
    monkeypatch.setattr(survey, "SYS", tmp_path / "sys")
    users = {os.makedev(8, 2): "/dev/sda2 is mounted on /", number: "/dev/sda2 is mounted on /"}
    in_use = survey.block_device_in_use(disk, users.get)
    assert in_use(2048 * 512, 99) is None
    assert in_use(4096 * 512, 99) == "/dev/sda2 is mounted on /"
    # What the kernel does not know as a partition may be mapped, and mounted, by way of something else.
    assert in_use(9999 * 512, 99) == "/dev/sda2 is mounted on /"
    assert in_use(0, 99) == "/dev/sda2 is mounted on /"


def test_a_disk_with_marks_of_several_file_systems_is_stored_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if there is a partition table as well: nobody knows which of them is the truth."""

    def run(name: str, *_arguments: str | Path, **_options: object) -> str:
        if name == "partx":
            return 'NR="1" START="2048" SECTORS="2048" NAME="" UUID="" TYPE="0x83" SCHEME="dos"\n'
        raise programs.ProgramFailed(name, 8, "ambivalent result")

    monkeypatch.setattr(programs, "run", run)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4 * MIB))
    found = survey.survey(disk, 4 * MIB, 512, lambda _start, _size: None)
    assert found.disk == Disk(sector_size=512, smallest_size=4 * MIB)
    assert "one with the marks of several file systems" in found.warnings[0]
