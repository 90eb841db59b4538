"""Goal: a disk is restored to a smaller, an equal and a larger one, or refused by name; sectors are not mixed.

Method: partitioned disks with a real file system in the last partition, restored to devices full of noise; sgdisk and
sfdisk judge the table, the file system's checker and driver the rest.
"""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from ghostcast.disk import programs
from ghostcast.disk.usage import find_usage
from ghostcast.image import fit
from protocol.errors import TargetError
from protocol.manifest import Manifest
from tests.lab import volumes
from tests.lab.volumes import MIB, run

pytestmark = pytest.mark.lab

SIZE = 120 * MIB
LAST_START = 20 * MIB
GPT_END = 33 * 512


def partition(disk: pathlib.Path, kind: str, size: int = SIZE, last_end: int = 0) -> None:
    """Write a GPT of an EFI partition, swap, and a last one with attributes that must survive."""
    with disk.open("wb") as file:
        file.truncate(size)
    end = str(last_end // 512 - 1) if last_end else "0"
    run(
        *("sgdisk", "--new=1:2048:+14M", "--typecode=1:ef00", "--new=2:0:+4M", "--typecode=2:8200"),
        *(f"--new=3:{LAST_START // 512}:{end}", "--change-name=3:my root", "--attributes=3:set:2", str(disk)),
    )
    with volumes.part(disk, 15 * MIB, 4 * MIB, writable=True) as swap:
        run("mkswap", swap)
    with volumes.part(disk, MIB, 14 * MIB, writable=True) as efi:
        run("mkfs.vfat", efi)


def last_place(device: pathlib.Path) -> volumes.Place:
    """Return where the last partition is, by sgdisk."""
    said = run("sgdisk", "--info=3", device)
    first, last = (int(re.search(rf"{word} sector: (\d+)", said)[1]) for word in ("First", "Last"))  # type: ignore[index]
    assert "my root" in said
    assert "Attribute flags: 0000000000000004" in said
    return device, first * 512, (last + 1 - first) * 512


def check_disk(device: pathlib.Path, kind: str, files: dict[str, bytes]) -> int:
    """Prove a restored disk good; returns the size of its last partition."""
    assert "No problems found" in run("sgdisk", "--verify", device)
    place = last_place(device)
    volumes.check(kind, place)
    assert volumes.files_of(kind, place) == files
    with volumes.part(device, MIB, 14 * MIB) as efi:
        run("fsck.fat", "-n", efi)
    with volumes.part(device, 15 * MIB, 4 * MIB) as swap:
        assert 'TYPE="swap"' in run("blkid", "--probe", swap)
    return place[2]


@pytest.fixture(scope="module")
def ext4_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Manifest, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("disk")
    partition(folder / "disk", "ext4")
    files = volumes.make("ext4", (folder / "disk", LAST_START, SIZE - LAST_START - GPT_END))
    manifest = volumes.capture(folder / "disk", folder / "image")
    (folder / "disk").unlink()
    return folder / "image", manifest, files


def noisy(device: pathlib.Path, size: int) -> pathlib.Path:
    return volumes.noise(device, size)


def test_the_manifest_describes_the_disk(ext4_disk: tuple[pathlib.Path, Manifest, dict[str, bytes]]) -> None:
    _, manifest, _ = ext4_disk
    disk = manifest.disk
    assert disk is not None
    assert (disk.table, disk.sector_size) == ("gpt", 512)
    assert [(volume.number, volume.start, volume.content, volume.note) for volume in disk.volumes] == [
        (1, MIB, "vfat", ""),
        (2, 15 * MIB, "swap", ""),
        (3, LAST_START, "ext4", ""),
    ]
    assert disk.volumes[2].name == "my root"
    assert disk.volumes[1].used_size == 64 << 10
    assert LAST_START + 20 * MIB < disk.smallest_size < SIZE
    used = sum(volume.used_size for volume in disk.volumes)
    assert used + disk.free_size == sum(volume.size for volume in disk.volumes)


@pytest.mark.parametrize("size", [SIZE, SIZE + 47 * MIB])
def test_an_equal_and_a_larger_disk(
    loop_device: volumes.Attach, ext4_disk: tuple[pathlib.Path, Manifest, dict[str, bytes]], size: int
) -> None:
    image, _, files = ext4_disk
    device = noisy(loop_device("target", size), size)
    assert volumes.restore(image, device) == []
    assert check_disk(device, "ext4", files) == SIZE - LAST_START - GPT_END


def test_the_smallest_disk_and_one_byte_less(
    loop_device: volumes.Attach, ext4_disk: tuple[pathlib.Path, Manifest, dict[str, bytes]]
) -> None:
    image, manifest, files = ext4_disk
    smallest = manifest.target_size_min
    assert smallest % 512 == 0
    with pytest.raises(TargetError, match=f"the image needs {smallest}"):
        volumes.restore(image, loop_device("small", smallest - 512))
    device = noisy(loop_device("target", smallest), smallest)
    notes = volumes.restore(image, device)
    assert check_disk(device, "ext4", files) == smallest - LAST_START - GPT_END
    assert notes == [
        f"partition 3 was made smaller: {smallest - LAST_START - GPT_END} bytes instead of "
        f"{SIZE - LAST_START - GPT_END}"
    ]


def test_programs_that_are_missing_are_named_before_anything_is_written(
    loop_device: volumes.Attach,
    ext4_disk: tuple[pathlib.Path, Manifest, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, manifest, _ = ext4_disk
    find = programs.find
    monkeypatch.setattr(programs, "find", lambda name: None if name == "resize2fs" else find(name))
    smaller, larger = loop_device("smaller", manifest.target_size_min), loop_device("larger", SIZE + 9 * MIB)
    with pytest.raises(TargetError, match=r"resize2fs is not installed \(Debian package e2fsprogs\)"):
        volumes.restore(image, smaller)
    with pytest.raises(TargetError, match="resize2fs is not installed"):
        volumes.restore(image, larger, grow=True)
    assert not any(smaller.read_bytes())
    monkeypatch.setattr(programs, "find", lambda name: None if name == "sgdisk" else find(name))
    assert "sgdisk -e" in volumes.restore(image, larger)[0]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "ntfs", "f2fs"])
def test_the_last_partition_grows_with_its_file_system(
    tmp_path: pathlib.Path, loop_device: volumes.Attach, kind: str
) -> None:
    # What XFS and btrfs, and partclone with F2FS, want at least.
    size = LAST_START + {"xfs": 302, "btrfs": 302, "f2fs": 160}.get(kind, 100) * MIB
    partition(tmp_path / "disk", kind, size)
    try:
        files = volumes.make(kind, (tmp_path / "disk", LAST_START, size - LAST_START - GPT_END))
    except volumes.Unsupported as error:
        pytest.skip(str(error))
    volumes.capture(tmp_path / "disk", tmp_path / "image")
    larger = size + 40 * MIB
    device = noisy(loop_device("target", larger), larger)
    notes = volumes.restore(tmp_path / "image", device, grow=True)
    grown = larger - LAST_START - GPT_END
    assert check_disk(device, kind, files if kind != "f2fs" else volumes.files_of(kind, last_place(device))) == grown
    assert notes == [f"partition 3 ({kind}) was grown: {grown} bytes instead of {size - LAST_START - GPT_END}"]
    with volumes.part(*last_place(device)) as part:
        assert file_system_size(kind, part) > grown - 4 * MIB


def file_system_size(kind: str, part: pathlib.Path) -> int:
    """Return how large a file system is by its own superblock, as partclone reads it."""
    if kind == "ntfs":  # Windows is to check what was resized, so partclone refuses it
        return int(re.search(r"Current volume size: (\d+)", run("ntfsresize", "-i", "-f", part))[1])  # type: ignore[index]
    return find_usage(part, kind, 1 << 40).size


def test_what_cannot_grow_is_refused_before_anything_is_written(
    tmp_path: pathlib.Path, loop_device: volumes.Attach
) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    volumes.run("sfdisk", disk, stdin="label: dos\n,30M,82\n,,c\n")
    with volumes.part(disk, 31 * MIB, 33 * MIB, writable=True) as part:
        run("mkfs.vfat", part)
    volumes.capture(disk, tmp_path / "image")
    device = loop_device("target", 128 * MIB)
    with pytest.raises(TargetError, match=r"no tool here that grows its last partition \(vfat\)"):
        volumes.restore(tmp_path / "image", device, grow=True)
    assert not any(device.read_bytes())
    with pytest.raises(TargetError, match="--grow is for disks"):
        volumes.restore(tmp_path / "image", tmp_path / "file", grow=True)
    assert not (tmp_path / "file").exists()


def test_an_old_table_with_logical_partitions(tmp_path: pathlib.Path, loop_device: volumes.Attach) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    run("sfdisk", disk, stdin="label: dos\n,10M,83,*\n,,5\n,10M,83\n,90M,83\n")
    table = json.loads(run("sfdisk", "--json", disk))["partitiontable"]["partitions"]
    place = (table[3]["start"] * 512, table[3]["size"] * 512)
    files = volumes.make("ext4", (disk, *place))
    manifest = volumes.capture(disk, tmp_path / "image")
    assert manifest.disk is not None
    assert [(v.number, v.content, v.container) for v in manifest.disk.volumes] == [
        (1, "", False), (2, "", True), (5, "", False), (6, "ext4", False)
    ]  # fmt: skip
    # A logical partition keeps its size: its frame would have to be cut as well.
    assert manifest.target_size_min == SIZE
    for size in (SIZE, SIZE + 20 * MIB):
        device = noisy(loop_device(f"target-{size}", size), size)
        assert volumes.restore(tmp_path / "image", device) == []
        volumes.check("ext4", (device, *place))
        assert volumes.files_of("ext4", (device, *place)) == files
        with pytest.raises(TargetError, match="logical"):
            volumes.restore(tmp_path / "image", device, grow=True)


@pytest.mark.parametrize("grow", [False, True])
def test_an_old_table_on_another_size(tmp_path: pathlib.Path, loop_device: volumes.Attach, grow: bool) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    run("sfdisk", disk, stdin="label: dos\n,10M,83,*\n,,83\n")
    start = 11 * MIB
    files = volumes.make("ext4", (disk, start, SIZE - start))
    manifest = volumes.capture(disk, tmp_path / "image")
    size = SIZE + 40 * MIB if grow else manifest.target_size_min
    assert size != SIZE
    device = noisy(loop_device("target", size), size)
    assert len(volumes.restore(tmp_path / "image", device, grow=grow)) == 1
    table = json.loads(run("sfdisk", "--json", device))["partitiontable"]["partitions"]
    assert table[1]["size"] * 512 == size - start
    volumes.check("ext4", (device, start, size - start))
    assert volumes.files_of("ext4", (device, start, size - start)) == files


def test_a_file_system_without_a_table(tmp_path: pathlib.Path, loop_device: volumes.Attach) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    files = volumes.make("ext4", (disk, 0, SIZE))
    manifest = volumes.capture(disk, tmp_path / "image")
    for size, grow in ((manifest.target_size_min, False), (SIZE + 40 * MIB, True)):
        device = noisy(loop_device(f"target-{size}", size), size)
        assert len(volumes.restore(tmp_path / "image", device, grow=grow)) == 1
        volumes.check("ext4", (device, 0, size))
        assert volumes.files_of("ext4", (device, 0, size)) == files
        with volumes.part(device, 0, size) as part:
            assert file_system_size("ext4", part) > size - MIB


def test_the_smallest_disk_has_room_for_every_inode(tmp_path: pathlib.Path, loop_device: volumes.Attach) -> None:
    """Inodes go with the groups that are cut off: files without a block need room too."""
    disk, tree = tmp_path / "disk", tmp_path / "tree"
    for number in range(3000):
        file = tree / f"d{number % 10}" / str(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    run("mkfs.ext4", "-q", "-b", "1024", "-N", "4000", "-d", tree, disk, "100M")
    manifest = volumes.capture(disk, tmp_path / "image")
    size = manifest.target_size_min
    assert manifest.disk is not None
    assert manifest.disk.volumes[0].used_size < 12 * MIB < size < 100 * MIB
    device = noisy(loop_device("target", size), size)
    assert len(volumes.restore(tmp_path / "image", device)) == 1
    volumes.check("ext4", (device, 0, size))
    assert len(volumes.files_of("ext4", (device, 0, size))) == 3000


@pytest.fixture
def disk_4096(tmp_path: pathlib.Path) -> tuple[pathlib.Path, dict[str, bytes]]:
    """A disk image with a GPT that counts in sectors of 4096 bytes."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    with volumes.part(disk, 0, SIZE, writable=True, sector_size=4096) as device:
        run("sgdisk", "--new=1:256:+20M", "--new=2:0:0", device)
    return disk, volumes.make("ext4", (disk, 21 * MIB, SIZE - 21 * MIB - 5 * 4096))


def test_sectors_of_4096_bytes(
    tmp_path: pathlib.Path, loop_device: volumes.Attach, disk_4096: tuple[pathlib.Path, dict[str, bytes]]
) -> None:
    disk, files = disk_4096
    manifest = volumes.capture(disk, tmp_path / "image")
    assert manifest.disk is not None
    assert (manifest.disk.table, manifest.disk.sector_size) == ("gpt", 4096)
    assert [volume.start for volume in manifest.disk.volumes] == [MIB, 21 * MIB]
    device = loop_device("target-512", SIZE)
    with pytest.raises(TargetError, match=r"sectors of 512 bytes, but the image's partition table counts in .* 4096"):
        volumes.restore(tmp_path / "image", device)
    assert not any(device.read_bytes())
    # loop_device cannot make sectors of 4096 bytes; one loop device on top of another can.
    for name, size, grow in (("larger", SIZE + 40 * MIB, True), ("smaller", manifest.target_size_min, False)):
        backing = noisy(tmp_path / name, size)
        with volumes.part(backing, 0, size, writable=True, sector_size=4096) as target:
            assert len(volumes.restore(tmp_path / "image", target, grow=grow)) == 1
            assert "No problems found" in run("sgdisk", "--verify", target)
        place = (backing, 21 * MIB, size - 21 * MIB - 5 * 4096)
        volumes.check("ext4", place)
        assert volumes.files_of("ext4", place) == files


def test_a_table_that_was_not_mended_is_no_success(
    loop_device: volumes.Attach,
    ext4_disk: tuple[pathlib.Path, Manifest, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, manifest, _ = ext4_disk
    run_program = programs.run

    def broken(name: str, *arguments: str | pathlib.Path, **options: object) -> str:
        if name == "resize2fs":
            raise programs.ProgramFailed(name, 1, "Can't read a block bitmap")
        return run_program(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fit.programs, "run", broken)
    with pytest.raises(TargetError, match="fitting it to the size of the disk failed: resize2fs ended with status 1"):
        volumes.restore(image, loop_device("target", manifest.target_size_min))
