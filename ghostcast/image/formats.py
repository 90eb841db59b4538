"""What kind of file a source is: a raw disk, a virtual machine's disk, a compressed disk, an image of another tool.

The invariant: content alone never decides. A raw disk is whatever its user made it: one that begins like a qcow2 image,
taken for one, could have any file of this machine read into the image. So the name decides, or the person; and where a
file begins like something that its name does not say, it is refused until the person has.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from protocol.errors import UsageError

RAW = "raw"
PARTCLONE = "partclone"
CLONEZILLA = "clonezilla"

VIRTUAL_DISKS = {"qcow2": "qcow2", "vmdk": "vmdk", "vhdx": "vhdx", "vhd": "vpc", "vdi": "vdi"}
"""Format → qemu-img's name of it."""

EXPANDERS: dict[str, tuple[str, ...]] = {
    "gz": ("gzip", "-dc"),
    "xz": ("xz", "-dc", "-T0"),
    "zst": ("zstd", "-dcq", "--long=31"),
    "bz2": ("bzip2", "-dc"),
    "lz4": ("lz4", "-dcq"),
    # It ends only when it wakes to show how far it is, which is every two seconds unless told.
    PARTCLONE: ("partclone.restore", "-s", "-", "-o", "-", "--logfile", "/dev/null", "--quiet", "--UI-fresh", "1"),
}
"""Format → the command that expands it from standard input to standard output."""

FORMATS = (RAW, *VIRTUAL_DISKS, *EXPANDERS, CLONEZILLA)

_SUFFIXES = {
    ".raw": RAW,
    **{f".{name}": name for name in (*VIRTUAL_DISKS, *EXPANDERS)},
    ".zstd": "zst",
    ".bzip2": "bz2",
    ".pcl": PARTCLONE,
}

_MAGICS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"\x1f\x8b\x08", "gz"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zst"),
    (0, b"BZh", "bz2"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"partclone-image", PARTCLONE),
)
"""Offset and bytes by which a file of each format begins."""

START_SIZE = 512
"""Bytes that ``begins_like`` looks at."""


def find_format(path: Path, chosen: str | None) -> str:
    """Return what a source is, one of ``FORMATS``.

    Args:
        path: a file, a device, a directory, or ``-``.
        chosen: what the person said it is, or None.

    Raises:
        UsageError: it begins like something that its name does not say, or is a directory of something else.
    """
    if chosen is not None:
        return chosen
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return RAW  # standard input, or whatever opening it will complain about
    if stat.S_ISDIR(mode):
        if (path / "parts").is_file():
            return CLONEZILLA
        raise UsageError(f"{path}: is a directory, and not one that Clonezilla made (it has no file called parts)")
    named = _SUFFIXES.get(path.suffix.lower()) if stat.S_ISREG(mode) else None
    if named is None and path.name.endswith("-ptcl-img"):
        named = PARTCLONE
    if named is not None:
        return named
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        try:
            with path.open("rb") as file:
                check_raw(path, file.read(START_SIZE))
        except OSError:
            pass  # opening it as a source says why
    return RAW


def check_raw(path: Path, start: bytes | bytearray, *, wrapping: str = "") -> None:
    """Refuse what begins like anything but a disk.

    Args:
        path: where it comes from, for the message.
        start: the first ``START_SIZE`` bytes, or all there are.
        wrapping: the format that it was expanded from, if it was.

    Raises:
        UsageError: it does; says how to go on.
    """
    found = begins_like(start)
    if found is None:
        return
    if wrapping:
        raise UsageError(
            f"{path}: what is in it begins like {found}, not like a disk: expand it by hand and make the image of "
            f"what comes out, with --format {found}, or with --format raw if it is a disk all the same"
        )
    raise UsageError(
        f"{path}: begins like {found}, which its name does not say: add --format {found} if it is that, or --format "
        "raw if it is a disk all the same"
    )


def begins_like(start: bytes | bytearray) -> str | None:
    """Return the format whose first bytes these are; None for a disk, as far as that can be told."""
    for offset, magic, name in _MAGICS:
        if start[offset : offset + len(magic)] == magic:
            return name
    return None
