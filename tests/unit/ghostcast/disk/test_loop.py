"""Goal: where no loop device can be had, that is said with its reason, and a partition is stored whole.

Method: a losetup that refuses; real loop devices are the lab's.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ghostcast.disk import programs
from ghostcast.disk.loop import LoopUnavailable, loop_device
from ghostcast.disk.survey import survey

MIB = 1 << 20
TABLE = 'NR="1" START="64" SECTORS="1024" NAME="" UUID="x" TYPE="0x83" SCHEME="dos"\n'


def refuse(name: str, *arguments: str | Path, **_options: object) -> str:
    """Know a table and a file system, and give no loop device."""
    if name == "losetup":
        raise programs.ProgramFailed(name, 1, "cannot find an unused loop device")
    if name == "partx":
        return TABLE
    return "TYPE=ext4\nUSAGE=filesystem\n" if "--offset" in arguments else ""


@pytest.mark.parametrize(
    ("user", "reason"), [(0, "losetup ended with status 1: cannot find an unused loop device"), (1000, "it needs root")]
)
def test_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, user: int, reason: str) -> None:
    monkeypatch.setattr(programs, "run", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(LoopUnavailable, match=reason), loop_device(Path("disk"), 0, MIB):
        pass


def test_a_partition_that_cannot_be_looked_into_is_stored_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    monkeypatch.setattr(programs, "run", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = survey(disk, MIB, 0, lambda _start, _size: None)
    assert found.warnings == [
        f"{disk}: partition 1 (ext4) is stored whole, used or not: no loop device can be had: it needs root"
    ]
    assert len(found.free) == 0
    assert found.disk.volumes[0].used_size == found.disk.volumes[0].size == 1024 * 512
