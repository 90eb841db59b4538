"""Goal: a directory as Clonezilla makes it becomes the disk that it was made of; an incomplete one becomes nothing.

Method: disks with a GPT and with an MBR, saved by the commands that Clonezilla runs (partclone, sgdisk, sfdisk; what
parted prints is written as it does), compressed and split in its ways; then every file taken away or damaged.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from protocol.errors import GhostcastError, ImageError, UsageError
from tests.tools import needs, run
from tests.unit.ghostcast.image.test_inputs import make_image

MIB = 1 << 20
DISK_SIZE = 48 * MIB
EXT4_START, EXT4_SIZE = 1 * MIB, 16 * MIB
RAW_START, RAW_SIZE = 20 * MIB, 2 * MIB
SWAP_START, SWAP_SIZE = 24 * MIB, 8 * MIB

pytestmark = needs("partclone.ext4", "mke2fs", "sgdisk", "sfdisk", "mkswap", "gzip", "zstd", "blkid")


def sectors(start: int, size: int) -> str:
    return f"start={start // 512}, size={size // 512}"


def make_disk(directory: Path, label: str) -> Path:
    """A disk with ext4 in its first partition, something unknown in the second, swap in the third."""
    disk, rng = directory / "disk", random.Random(3)
    tree, file_system = directory / "tree", directory / "fs"
    tree.mkdir()
    (tree / "file").write_bytes(rng.randbytes(700_000))
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, file_system, "16M")
    swap = directory / "swap"
    with swap.open("wb") as file:
        file.truncate(SWAP_SIZE)
    run("mkswap", "--uuid", "12345678-1234-1234-1234-123456789abc", "--label", "the swap", swap)
    raw = bytearray(DISK_SIZE)
    raw[:440] = rng.randbytes(440)
    raw[0x8000 : 0x8000 + 5000] = rng.randbytes(5000)  # where GRUB puts itself behind an MBR
    raw[EXT4_START : EXT4_START + EXT4_SIZE] = file_system.read_bytes()
    raw[RAW_START : RAW_START + RAW_SIZE] = rng.randbytes(RAW_SIZE)
    raw[SWAP_START : SWAP_START + SWAP_SIZE] = swap.read_bytes()
    disk.write_bytes(raw)
    types = ("linux", "linux", "swap")
    table = "\n".join(
        f"{sectors(start, size)}, type={kind}"
        for (start, size), kind in zip(
            ((EXT4_START, EXT4_SIZE), (RAW_START, RAW_SIZE), (SWAP_START, SWAP_SIZE)), types, strict=True
        )
    )
    run("sfdisk", "--force", "--wipe", "never", disk, stdin=f"label: {label}\n{table}\n".encode())
    return disk


def save(disk: Path, directory: Path, label: str) -> Path:
    """Do to a disk what Clonezilla's savedisk does."""
    name = "sda"
    image = directory / "saved"
    image.mkdir()
    raw = disk.read_bytes()
    (image / "disk").write_text(f"{name}\n")
    (image / "parts").write_text(f"{name}1 {name}2 {name}3\n")
    (image / f"{name}-mbr").write_bytes(raw[:512])
    (image / f"{name}-hidden-data-after-mbr").write_bytes(raw[512:EXT4_START])
    (image / f"{name}-pt.sf").write_text(run("sfdisk", "--dump", disk).decode().replace(str(disk), f"/dev/{name}"))
    (image / f"{name}-pt.parted").write_text(
        f"Model: ATA VBOX HARDDISK (scsi)\nDisk /dev/{name}: {DISK_SIZE // 512}s\n"
        f"Sector size (logical/physical): 512B/512B\nPartition Table: {'gpt' if label == 'gpt' else 'msdos'}\n"
    )
    if label == "gpt":
        run("sgdisk", f"--backup={image / f'{name}-gpt.gdisk'}", disk)
        (image / f"{name}-gpt-1st").write_bytes(raw[: 34 * 512])
    partclone = directory / "partclone"
    run("partclone.ext4", "-c", "-s", directory / "fs", "-o", partclone, "-L", "/dev/null")
    packed = run("gzip", "-c", stdin=partclone.read_bytes())
    third = len(packed) // 3
    for suffix, end in (("aa", third), ("ab", 2 * third), ("ac", len(packed))):
        piece = packed[end - third : end] if suffix != "ac" else packed[2 * third :]
        (image / f"{name}1.ext4-ptcl-img.gz.{suffix}").write_bytes(piece)
    (image / f"{name}2.dd-img.zst").write_bytes(run("zstd", "-c", stdin=raw[RAW_START : RAW_START + RAW_SIZE]))
    (image / f"swappt-{name}3.info").write_text('UUID="12345678-1234-1234-1234-123456789abc"\nLABEL="the swap"\n')
    return image


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a GPT, and what was saved of it."""
    directory = tmp_path_factory.mktemp("made")
    save(make_disk(directory, "gpt"), directory, "gpt")
    return directory


@pytest.fixture
def saved(made: Path, tmp_path: Path) -> Path:
    """A copy of the saved disk, to be spoilt."""
    return Path(shutil.copytree(made / "saved", tmp_path / "saved"))


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_a_saved_disk_is_that_disk_again(made: Path, tmp_path: Path, label: str) -> None:
    directory = made
    if label == "dos":
        directory = tmp_path / "dos"
        directory.mkdir()
        save(make_disk(directory, label), directory, label)
    before = sorted(os.listdir(directory))
    manifest, restored = make_image(directory / "saved", tmp_path / "image")
    raw = (directory / "disk").read_bytes()
    assert sorted(os.listdir(directory)) == before
    assert len(restored) == DISK_SIZE
    assert restored[:EXT4_START] == raw[:EXT4_START]
    assert restored[RAW_START : RAW_START + RAW_SIZE] == raw[RAW_START : RAW_START + RAW_SIZE]
    assert restored[-33 * 512 :] == raw[-33 * 512 :]
    copy = tmp_path / "copy"
    copy.write_bytes(restored)
    assert dump(copy) == dump(directory / "disk")
    part = tmp_path / "part"
    part.write_bytes(restored[EXT4_START : EXT4_START + EXT4_SIZE])
    run("e2fsck", "-fn", part)
    assert run("debugfs", "-R", "cat /file", part) == (directory / "tree" / "file").read_bytes()
    part.write_bytes(restored[SWAP_START : SWAP_START + SWAP_SIZE])
    found = run("blkid", "-p", "-o", "export", part).decode()
    assert "12345678-1234-1234-1234-123456789abc" in found
    assert "LABEL=the" in found
    assert manifest.name == "saved"


def dump(disk: Path) -> str:
    return run("sfdisk", "--dump", disk).decode().replace(str(disk), "DISK")


def test_partitions_of_nvme_disks_have_a_p_in_their_names(made: Path, saved: Path, tmp_path: Path) -> None:
    for file in list(saved.iterdir()):
        file.rename(file.with_name(file.name.replace("sda2", "nvme0n1p2").replace("sda", "nvme0n1")))
    (saved / "disk").write_text("nvme0n1\n")
    (saved / "parts").write_text("nvme0n1p2\n")
    parted = saved / "nvme0n1-pt.parted"
    parted.write_text(parted.read_text().replace("sda", "nvme0n1"))
    _, restored = make_image(saved, tmp_path / "image")
    part = slice(RAW_START, RAW_START + RAW_SIZE)
    assert restored[part] == (made / "disk").read_bytes()[part]


def test_of_several_disks_one_is_chosen(saved: Path, tmp_path: Path) -> None:
    (saved / "disk").write_text("sda sdb\n")
    (saved / "parts").write_text("sda2 sda3 sdb1\n")
    with pytest.raises(UsageError, match="sda, sdb: choose one by --disk"):
        make_image(saved, tmp_path / "image")
    with pytest.raises(UsageError, match="choose one"):
        make_image(saved, tmp_path / "image", disk="../sda")
    assert len(make_image(saved, tmp_path / "image", disk="sda")[1]) == DISK_SIZE


def test_whatever_is_missing_or_damaged_is_an_error_and_leaves_nothing(saved: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(saved, kept)
    removed = [
        *("disk", "sda-pt.parted", "sda1.ext4-ptcl-img.gz.aa", "sda1.ext4-ptcl-img.gz.ab"),
        *("sda1.ext4-ptcl-img.gz.ac", "sda2.dd-img.zst", "swappt-sda3.info", "sda-pt.sf sda-gpt.gdisk"),
    ]
    before = sorted(os.listdir(tmp_path))
    for names in removed:
        for name in names.split():
            (saved / name).unlink()
        with pytest.raises(GhostcastError):
            make_image(saved, tmp_path / "never")
        for name in names.split():
            shutil.copy(kept / name, saved / name)
    for name in ("sda1.ext4-ptcl-img.gz.ac", "sda2.dd-img.zst", "sda-gpt.gdisk"):
        (saved / name).write_bytes((kept / name).read_bytes()[:-20])
        with pytest.raises(ImageError):
            make_image(saved, tmp_path / "never")
        shutil.copy(kept / name, saved / name)
    assert sorted(os.listdir(tmp_path)) == before
    (saved / "parts").write_text("sda2 sda3\n")
    make_image(saved, tmp_path / "good")


def test_a_partition_never_runs_into_the_next(saved: Path, tmp_path: Path) -> None:
    (saved / "sda2.dd-img.zst").write_bytes(run("zstd", "-c", stdin=bytes(RAW_SIZE + 1)))
    (saved / "parts").write_text("sda2\n")
    with pytest.raises(ImageError, match="holds more than the 2097152 bytes"):
        make_image(saved, tmp_path / "image")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda saved: (saved / "lvm_vg_dev.list").write_text("vg /dev/sda3 x\n"), "LVM"),
        (
            lambda saved: (saved / "sda-pt.parted").write_text(
                "Disk /dev/sda: 98304s\nSector size (logical/physical): 4096B/4096B\n"
            ),
            "4096",
        ),
        (lambda saved: (saved / "sda2.dd-img").symlink_to("/etc/shadow"), "is a link"),
        (lambda saved: (saved / "sda-pt.parted").write_text("Error\n"), "does not say"),
        (lambda saved: (saved / "parts").write_text("sda7\n"), "no such partition"),
        (lambda saved: (saved / "parts").write_text("sdb1\n"), "nothing was saved"),
        (lambda saved: (saved / "sda2.dd-img.zst").rename(saved / "sda2.dd-img.lrz"), "not understood"),
        (lambda saved: (saved / "sda1.ext4-ptcl-img.gz.ab").rename(saved / "sda1.ext4-ptcl-img.gz.ad"), "pieces"),
    ],
)
def test_what_is_not_understood_is_said(saved: Path, tmp_path: Path, change: object, complaint: str) -> None:
    assert callable(change)
    change(saved)
    with pytest.raises(GhostcastError, match=complaint):
        make_image(saved, tmp_path / "image")


def test_a_raw_partition_without_its_last_piece_is_an_error(saved: Path, tmp_path: Path) -> None:
    """Nothing that expands or restores it would notice: what is left is a good file, only shorter."""
    (saved / "sda2.dd-img.zst").unlink()
    (saved / "sda2.dd-img.aa").write_bytes(bytes(RAW_SIZE - 512))
    (saved / "parts").write_text("sda2\n")
    with pytest.raises(ImageError, match="the last piece is missing or cut short"):
        make_image(saved, tmp_path / "image")
    (saved / "sda2.dd-img.ab").write_bytes(bytes(512))
    make_image(saved, tmp_path / "image")
