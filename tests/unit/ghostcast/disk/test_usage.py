"""Goal: a block is free only if every doubt is settled; each doubt has its own reason.

Method: what the programs print, made up; real file systems are the lab's.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ghostcast.disk import programs, usage
from ghostcast.disk.usage import UsageUnknown, find_usage

MIB = 1 << 20
CLEAN = (
    "Filesystem features:      has_journal extent\nFilesystem state:         clean\nBlock size:               1024\n"
)
MAP = "# comment\n0x00000000  0x00100000  +\n0x00100000  0x00200000  ?\n0x00300000  0x00001000  +\n"
TAIL = "0x00301000  0x00CFF000  ?\n"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | Exception]:
    """What each program says; partclone writes its map."""
    said: dict[str, str | Exception] = {
        "dumpe2fs": CLEAN,
        "resize2fs": "Estimated minimum size of the filesystem: 900\n",
        "partclone.ext4": MAP + TAIL,
    }

    def run(name: str, *arguments: str | Path, **_options: object) -> str:
        answer = said[name]
        if isinstance(answer, Exception):
            raise answer
        if name.startswith("partclone"):
            Path(arguments[arguments.index("--output") + 1]).write_text(answer)
        return answer

    monkeypatch.setattr(programs, "run", run)
    monkeypatch.setattr(programs, "find", lambda name: f"/usr/sbin/{name}")
    return said


def test_a_map_is_read(answers: dict[str, str | Exception]) -> None:
    found = find_usage(Path("volume"), "ext4", 16 * MIB)
    assert found.free.tolist() == [[MIB, 3 * MIB], [0x301000, 16 * MIB]]
    assert found.size == 16 * MIB
    assert found.needed_size == 0x310000  # up to the last used block, which resize2fs can cut behind


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        ("Estimated minimum size of the filesystem: 9000\n", 9024 * 1024),  # so many inodes, say
        (programs.ProgramFailed("resize2fs", 1, "it is tired"), 16 * MIB),
        (programs.ProgramMissing("resize2fs"), 16 * MIB),
        ("nothing\n", 16 * MIB),
    ],
)
def test_no_copy_is_smaller_than_its_tool_makes_it(
    answers: dict[str, str | Exception], said: str | Exception, needed: int
) -> None:
    answers["resize2fs"] = said
    found = find_usage(Path("volume"), "ext4", 16 * MIB)
    assert found.needed_size == needed
    assert len(found.free) == 2


def test_a_file_system_that_cannot_shrink_needs_its_size(answers: dict[str, str | Exception]) -> None:
    answers.update({"xfs_logprint": "log tail: 2 head: 2 state: <CLEAN>", "partclone.xfs": MAP + TAIL})
    assert find_usage(Path("volume"), "xfs", 16 * MIB).needed_size == 16 * MIB
    assert find_usage(Path("volume"), "xfs", 200 * MIB).needed_size == (16 + 64) * MIB


@pytest.mark.parametrize(
    ("content", "changes", "reason"),
    [
        ("LVM2_member", {}, "nothing here knows"),
        ("", {}, "its content is not known"),
        ("ext4", {"dumpe2fs": CLEAN.replace("extent", "needs_recovery")}, "not cleanly unmounted"),
        ("ext4", {"dumpe2fs": CLEAN.replace("clean", "not clean")}, "not cleanly unmounted"),
        ("ext4", {"dumpe2fs": ""}, "not cleanly unmounted"),
        ("ext4", {"dumpe2fs": programs.ProgramMissing("dumpe2fs")}, "dumpe2fs is not installed"),
        ("ext4", {"partclone.ext4": MAP.replace("0x00300000", "0x00300200")}, "a gap at byte 3145728"),
        ("ext4", {"partclone.ext4": "nonsense"}, "an empty map"),
        ("ext4", {"partclone.ext4": MAP + TAIL.replace("CFF", "FFF")}, "more than the 16777216 of its partition"),
        ("ext4", {"partclone.ext4": programs.ProgramFailed("partclone.ext4", 1, "said")}, "partclone.ext4 refuses it"),
        ("xfs", {"xfs_logprint": "state: <DIRTY>"}, "not cleanly unmounted"),
        ("btrfs", {"btrfs": "log_root\t\t0\nnum_devices\t\t2\n"}, "spans several devices"),
        ("btrfs", {"btrfs": "log_root\t\t4096\nnum_devices\t\t1\n"}, "not cleanly unmounted"),
        ("f2fs", {"dump.f2fs": "Info: checkpoint state = 81 :  trimmed nat_bits"}, "not cleanly unmounted"),
        ("ntfs", {"ntfsinfo": "\tVolume Flags: 0x0001"}, "Windows has not shut it down"),
        ("ntfs", {"ntfsinfo": "\tVolume Flags: 0x0000", "ntfscat": "HIBR\0\0"}, "hibernated"),
    ],
)
def test_every_doubt_has_its_reason(
    answers: dict[str, str | Exception], content: str, changes: dict[str, str | Exception], reason: str
) -> None:
    answers.update(changes)
    with pytest.raises(UsageUnknown, match=reason):
        find_usage(Path("volume"), content, 16 * MIB)


@pytest.mark.parametrize(("flags", "dirty"), [(0, False), (2, True)])
def test_exfat_tells_whether_it_was_unmounted(
    tmp_path: Path, answers: dict[str, str | Exception], flags: int, dirty: bool
) -> None:
    volume = tmp_path / "volume"
    volume.write_bytes(bytes(106) + bytes([flags, 0]) + bytes(404))
    answers["partclone.exfat"] = MAP + TAIL
    if dirty:
        with pytest.raises(UsageUnknown, match="not cleanly unmounted"):
            find_usage(volume, "exfat", 16 * MIB)
    else:
        assert len(find_usage(volume, "exfat", 16 * MIB).free) == 2


def test_btrfs_keeps_both_copies(answers: dict[str, str | Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    answers["partclone.btrfs"] = "0x00000000  0x10000000  ?\n"
    single = "CHUNK_ITEM 1)\nlength 1048576 type DATA|single\nstripe 0 devid 1 offset 1048576\n"
    double = (
        "CHUNK_ITEM 2)\nlength 1048576 type METADATA|DUP\nstripe 0 devid 1 offset 4194304\n"
        "stripe 1 devid 1 offset 8388608\n"
    )
    answers["btrfs"] = "log_root\t\t0\nnum_devices\t\t1\n" + single + double
    free = find_usage(Path("volume"), "btrfs", 256 * MIB).free.tolist()
    assert free == [
        [0, 64 << 10], [128 << 10, 4 * MIB], [5 * MIB, 8 * MIB], [9 * MIB, 64 * MIB],
        [(64 * MIB) + (64 << 10), 256 * MIB],
    ]  # fmt: skip


def test_a_swap_area_is_its_header(answers: dict[str, str | Exception]) -> None:
    assert find_usage(Path("volume"), "swap", MIB).free.tolist() == [[64 << 10, MIB]]
    with pytest.raises(UsageUnknown, match="too small"):
        find_usage(Path("volume"), "swap", 4096)


@pytest.mark.parametrize(
    ("used", "left"),
    [
        ([], [[10, 20], [30, 40]]),
        ([(0, 5)], [[10, 20], [30, 40]]),
        ([(12, 14)], [[10, 12], [14, 20], [30, 40]]),
        ([(15, 35)], [[10, 15], [35, 40]]),
        ([(10, 20)], [[30, 40]]),
        ([(0, 99)], []),
    ],
)
def test_used_ranges_are_taken_out(used: list[tuple[int, int]], left: list[list[int]]) -> None:
    assert usage._without(np.array([[10, 20], [30, 40]], np.int64), used).tolist() == left


def fat(bits: int, clusters: int, name: bytes, state: int = 0) -> bytes:
    """A boot sector: sectors of 512 bytes, 2 in a cluster, 1 reserved, 2 tables of 9 sectors, 512 names in the root."""
    boot = bytearray(512)
    struct.pack_into("<HBHBHH", boot, 11, 512, 2, 1, 2, 512, 0)
    struct.pack_into("<I", boot, 32, 1 + 2 * 9 + 32 + 2 * clusters)
    struct.pack_into("<H", boot, 22, 0 if bits == 32 else 9)
    place = 82 if bits == 32 else 54
    boot[place : place + len(name)] = name
    boot[65 if bits == 32 else 37] = state
    boot[37 if bits == 32 else 65] |= 1 if bits == 32 else 0  # means something else there
    return bytes(boot)


@pytest.mark.parametrize(
    ("boot", "reason"),
    [
        (fat(32, 70_000, b"FAT32   "), ""),
        (fat(16, 4085, b"FAT16   "), ""),
        (fat(32, 70_000, b"FAT32   ", 1), "not cleanly unmounted"),
        (fat(16, 9000, b"FAT16   ", 1), "not cleanly unmounted"),
        (fat(12, 4084, b"FAT12   "), "a FAT12, of which partclone's map is wrong"),
        (fat(12, 4084, b"FAT16   "), "a FAT12"),
        (fat(16, 4085, b"FAT12   "), "a FAT16 that does not say so"),
        (fat(32, 70_000, b"FAT     "), "a FAT32 that does not say so"),
        (fat(16, 9000, b"FAT16   ")[:400], "not cleanly unmounted"),
        (bytes(22) + b"1" + bytes(489), "cannot be understood"),
    ],
)
def test_a_fat_is_looked_at_before_partclone(
    tmp_path: Path, answers: dict[str, str | Exception], boot: bytes, reason: str
) -> None:
    (tmp_path / "volume").write_bytes(boot)
    answers["partclone.vfat"] = MAP + TAIL
    if reason:
        with pytest.raises(UsageUnknown, match=reason):
            find_usage(tmp_path / "volume", "vfat", 16 * MIB)
    else:
        assert len(find_usage(tmp_path / "volume", "vfat", 16 * MIB).free) == 2
