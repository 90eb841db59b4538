"""Goal: a target that an image cannot be fitted to is refused before the first byte; a file needs no fitting.

Method: targets that are only numbers; what the tools do to real disks is the lab's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from ghostcast.disk import kernel, programs
from ghostcast.disk.table import read_table
from ghostcast.image import fit as fit_module
from ghostcast.image.fit import Fit
from ghostcast.image.target import Target
from protocol.disk import DOS, GPT, Disk, Volume
from protocol.errors import TargetError
from protocol.manifest import Manifest
from tests.tools import needs
from tests.unit.protocol.test_disk import RAW_SIZE, manifest

LAST = Volume(number=2, start=8192, size=40_960, content="ext4", needed_size=20_480)
FRAME = Volume(number=1, start=4096, size=70_000, container=True)
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
DISK = Disk(table=GPT, sector_size=512, smallest_size=RAW_SIZE, volumes=[LAST])


@dataclasses.dataclass
class Numbers:
    """A target without a disk."""

    size: int | None
    sector_size: int = 512
    path: Path = Path("/dev/sdz")

    def fileno(self) -> int:
        return -1

    def sync(self) -> None:
        pass


def fit(target: Numbers, image: Manifest, **options: Any) -> Fit:
    return Fit(cast(Target, target), image, **options)


@pytest.mark.parametrize(
    ("target", "disk", "options", "complaint"),
    [
        (Numbers(RAW_SIZE, 4096), DISK, {}, "sectors of 4096 bytes, but the image's partition table counts in .* 512"),
        (Numbers(None), DISK, {"grow": True}, "--grow is for disks"),
        (Numbers(RAW_SIZE), None, {"grow": True}, "grows an unknown disk"),
        (
            Numbers(RAW_SIZE),
            Disk(table=DOS, sector_size=512, smallest_size=RAW_SIZE, volumes=[FRAME, LAST]),
            {"grow": True},
            "its last partition is a logical one",
        ),
        (
            Numbers(RAW_SIZE),
            Disk(smallest_size=RAW_SIZE, volumes=[Volume(number=0, start=0, size=9, content="vfat")]),
            {"grow": True},
            r"grows its last partition \(vfat\)",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    target: Numbers, disk: Disk | None, options: dict[str, bool], complaint: str
) -> None:
    with pytest.raises(TargetError, match=complaint):
        fit(target, manifest(disk), **options).check()


@pytest.mark.parametrize("lacking", ["sgdisk", "partx", "resize2fs", "e2fsck", "losetup"])
def test_a_program_that_will_be_needed_is_missed_at_once(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    monkeypatch.setattr(programs, "find", lambda name: None if name == lacking else f"/usr/sbin/{name}")
    with pytest.raises(TargetError, match=f"refused before anything was written: {lacking} is not installed"):
        fit(Numbers(50_000), manifest(DISK)).check()
    fit(Numbers(RAW_SIZE), manifest(DISK)).check()


def test_the_same_size_and_files_need_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find", lambda _name: None)
    asked: list[int] = []
    monkeypatch.setattr(kernel, "reread_table", lambda descriptor: not asked.append(descriptor))
    for target in (Numbers(RAW_SIZE), Numbers(None), Numbers(RAW_SIZE, sector_size=0)):
        work = fit(target, manifest(DISK))
        work.check()
        assert work.apply() == []
    assert asked == [-1, -1]  # a file has no partitions that the kernel knew


def test_a_larger_disk_without_sgdisk_says_what_is_left_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find", lambda _name: None)
    monkeypatch.setattr(kernel, "reread_table", lambda _descriptor: True)
    notes = fit(Numbers(RAW_SIZE + 512), manifest(DISK)).apply()
    assert len(notes) == 1
    assert "sgdisk -e /dev/sdz" in notes[0]


@pytest.mark.parametrize("failing", ["xfs_growfs", "umount", "mount"])
def test_a_disk_that_stays_mounted_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A mount point that cannot be left, or is left by an interrupt, is never cleaned up by deleting what is in it."""
    folders: list[Path] = []

    def run(name: str, *arguments: str | Path, **_options: object) -> str:
        if name == "mount":
            folders.append(Path(arguments[-1]))
            Path(arguments[-1], "precious").write_text("a file of the restored disk")
        if name == failing:
            raise KeyboardInterrupt if name == "mount" else programs.ProgramFailed(name, 32, "target is busy")
        return ""

    monkeypatch.setattr(programs, "run", run)
    monkeypatch.setattr(fit_module.tempfile, "tempdir", str(tmp_path))
    with pytest.raises((programs.ProgramFailed, KeyboardInterrupt)):
        fit_module._grow_file_system("xfs", Path("/dev/loop9"))
    assert (folders[0] / "precious").exists()


def test_a_windows_that_is_not_shut_down_is_not_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(name: str, *_arguments: str | Path, **_options: object) -> str:
        ran.append(name)
        return {"ntfsinfo": "Volume Flags: 0x0000", "ntfscat": "hibr and what was in memory"}.get(name, "")

    @contextlib.contextmanager
    def part(_self: Fit, _start: int, _length: int) -> Iterator[Path]:
        yield Path("/dev/loop9")

    monkeypatch.setattr(programs, "run", run)
    monkeypatch.setattr(programs, "find", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(kernel, "reread_table", lambda _descriptor: True)
    monkeypatch.setattr(Fit, "_part", part)
    monkeypatch.setattr(Fit, "_place", lambda _self, volume: (volume.start, volume.size))
    windows = Disk(
        table=DOS, sector_size=512, smallest_size=RAW_SIZE, volumes=[msgspec.structs.replace(LAST, content="ntfs")]
    )
    notes = fit(Numbers(RAW_SIZE + 512), manifest(windows), grow=True).apply()
    assert len(notes) == 1
    assert "partition 2 was not grown: Windows is hibernated" in notes[0]
    assert ran == ["ntfsinfo", "ntfscat"]


@needs("sgdisk")
def test_a_name_with_a_colon_survives_shrinking(tmp_path: Path) -> None:
    disk, name = tmp_path / "disk", "-root:of 7"
    with disk.open("wb") as file:
        file.truncate(80 << 20)
    programs.run("sgdisk", "--new=1:2048:+1M", "--new=2:0:0", disk)
    start = 4096 * 512
    last = Volume(number=2, start=start, size=70 << 20, type=LINUX, id="R", name=name)
    with disk.open("r+b") as file:
        file.truncate(60 << 20)
    image = manifest(Disk(table=GPT, sector_size=512, smallest_size=RAW_SIZE, volumes=[last]))
    fit(Numbers(60 << 20, path=disk), image)._shrink_gpt(last)
    entries = read_table(disk, 60 << 20, 0).entries
    assert [(entry.number, entry.start, entry.name) for entry in entries] == [(1, 1 << 20, ""), (2, start, name)]
    assert "No problems found" in programs.run("sgdisk", "--verify", disk)
