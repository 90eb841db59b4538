"""What the kernel alone can tell and do about a block device: its sectors, its partitions.

Knows ioctls. The invariant: nothing here writes to a disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import struct

_BLKSSZGET = 0x1268
"""ioctl: logical sector size of a block device, an ``int`` (linux/fs.h)."""

_BLKFLSBUF = 0x1261
"""ioctl: write and forget what is cached of a block device (linux/fs.h)."""

_BLKRRPART = 0x125F
"""ioctl: read the partition table again (linux/fs.h)."""


def sector_size(descriptor: int) -> int:
    """Return the logical sector size of a block device in bytes; 0 if it cannot be found."""
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, struct.pack("i", 0)))
    except OSError:
        return 0
    return int(size)


def drop_cache(descriptor: int) -> None:
    """Have the next reads of a block device come from the disk.

    The kernel caches a disk and its partitions apart: what a file system wrote is not in the disk's cache. Not
    everybody may ask for this, and without partitions it changes nothing.
    """
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, _BLKFLSBUF)


def reread_table(descriptor: int) -> bool:
    """Have the kernel read a disk's partition table again.

    Returns:
        False if it refused because something uses a partition; a device that has no partitions needs nothing done.
    """
    try:
        fcntl.ioctl(descriptor, _BLKRRPART)
    except OSError as error:
        return error.errno != errno.EBUSY
    return True
