"""What the manifest says of the disk behind an image: its partitions, their file systems, the smallest target.

Knows the description's shape and its limits; must not know how it was found out or what is done with it. The invariant:
a ``Disk`` that was checked lies within its image, and no chunk that has to be written lies behind ``smallest_size``
but for the second partition table, which every restore to another size writes anew.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from protocol import limits
from protocol.errors import ImageError

_Text = Annotated[str, msgspec.Meta(max_length=limits.LABEL_LENGTH_MAX)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=limits.RAW_SIZE_MAX)]

GPT = "gpt"
DOS = "dos"


class Volume(msgspec.Struct, frozen=True, omit_defaults=True):
    """A partition and what is in it, or a file system that has the whole disk to itself (``number`` 0)."""

    number: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
    start: _Size
    """Bytes from the start of the disk."""
    size: _Size
    type: _Text = ""
    """Partition type: a GUID, or hexadecimal as ``0x83``."""
    id: _Text = ""
    """The partition's own identifier (PARTUUID)."""
    name: _Text = ""
    """The partition's name; GPT only."""
    content: _Text = ""
    """What is in it, as blkid names it: ``ext4``, ``swap``, ``LVM2_member``; empty if unknown."""
    label: _Text = ""
    uuid: _Text = ""
    used_size: _Size = 0
    """Bytes of it that are stored; all of it where the used blocks are not known."""
    needed_size: _Size = 0
    """Bytes from ``start`` that a smaller copy of the volume must have; ``size`` where it cannot be made smaller."""
    container: bool = False
    """An extended partition: a frame around logical ones, which are volumes of their own."""
    note: _Text = ""
    """Why everything in it is stored, used or not."""

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.start + self.size


class Disk(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was on the disk when the image was made."""

    table: _Text = ""
    """``gpt``, ``dos``, or empty where there is none that is understood."""
    sector_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0
    """Logical sector size in bytes that the table counts in; 0 where there is no table."""
    smallest_size: _Size = 0
    """Bytes of the smallest target that holds everything."""
    free_size: _Size = 0
    """Bytes that no file system uses; they are zeros in the stream, or chunks flagged unused."""
    volumes: Annotated[list[Volume], msgspec.Meta(max_length=limits.VOLUME_COUNT_MAX)] = msgspec.field(
        default_factory=list
    )

    @property
    def table_reserve(self) -> int:
        """Bytes at the end of a disk that the second partition table takes."""
        return limits.GPT_ENTRIES_SIZE + self.sector_size if self.table == GPT else 0

    def last_volume(self) -> Volume | None:
        """Return the volume that ends last, extended partitions aside."""
        return max((volume for volume in self.volumes if not volume.container), key=lambda v: v.end, default=None)


def check_disk(disk: Disk, raw_size: int, chunk_size: int, transferred: npt.NDArray[np.bool_]) -> None:
    """Check a description against the image that it describes.

    A target may be as small as ``smallest_size``; what lies behind its end is dropped there. So nothing that matters
    may lie there, whatever the manifest's author claims.

    Raises:
        ImageError: they contradict each other.
    """
    if not 0 < disk.smallest_size <= raw_size:
        raise ImageError(f"the manifest gives {disk.smallest_size} bytes as the smallest target of {raw_size}")
    if disk.free_size > raw_size or any(volume.used_size > volume.size for volume in disk.volumes):
        raise ImageError("the manifest's description of the disk contradicts itself: more is free or used than exists")
    for volume in disk.volumes:
        if volume.end > raw_size:
            raise ImageError(
                f"the manifest has volume {volume.number} end at byte {volume.end} of a disk of {raw_size} bytes"
            )
    first = -(-disk.smallest_size // chunk_size)
    last = max(first, (raw_size - disk.table_reserve) // chunk_size)  # the chunks of the second table
    if transferred[first:last].any():
        chunk_index = first + int(transferred[first:last].argmax())
        raise ImageError(
            f"the manifest says that {disk.smallest_size} bytes hold the disk, but chunk {chunk_index} behind them "
            "has data"
        )
