"""Who uses a disk or a file right now: mounts, swap, device mapper, RAID, LVM, loop devices.

Knows Linux's /proc and /sys; changes nothing. Where those are missing or do not tell, it finds nobody: the last word on
a block device is the exclusive open in ``target``, which the kernel itself answers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Generator
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")


def device_use(device: int) -> str | None:
    """Say who uses a block device, a partition of it, or the disk that it is a partition of; None if nobody does.

    Args:
        device: its number, ``st_rdev``.
    """
    names = _relatives(device)
    for mounted, mount_point in _mounts():
        if mounted in names:
            return f"{names[mounted]} is mounted on {mount_point}: unmount it first"
    for status, path in _swaps():
        if stat.S_ISBLK(status.st_mode) and status.st_rdev in names:
            return f"{names[status.st_rdev]} is in use as swap: run swapoff {path} first"
    for number, name in names.items():
        for holder in _listed(_device_folder(number) / "holders"):
            return f"{name} is in use by /dev/{holder.name} (device mapper, LVM, RAID or encryption): stop that first"
    for loop, status in _loops():
        if stat.S_ISBLK(status.st_mode) and status.st_rdev in names:
            return f"{names[status.st_rdev]} is attached as {loop}: run losetup -d {loop} first"
    return None


def source_use(device: int) -> str | None:
    """Say who uses a block device that is to be read; None if nobody does.

    More than ``device_use``: the kernel is asked too, for mounts that only another namespace sees, a container's or a
    service's. A target's own exclusive open asks it the same.
    """
    if use := device_use(device):
        return use
    name = _relatives(device)[device]
    try:
        if os.stat(name).st_rdev == device:
            # Meant for devices only (open(2)): refused if anybody holds the device, its disk, or a partition of it.
            os.close(os.open(name, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return f"{name} is in use by something that cannot be seen from here, such as a container: stop that first"
    return None


def file_use(file: os.stat_result) -> str | None:
    """Say what uses a regular file as a disk: swap, or a loop device; None if nothing does."""
    for status, path in _swaps():
        if os.path.samestat(status, file):
            return f"it is in use as swap: run swapoff {path} first"
    for loop, status in _loops():
        if os.path.samestat(status, file):
            return f"it is attached as {loop}: run losetup -d {loop} first"
    return None


def file_mount(file: os.stat_result) -> str | None:
    """Say who mounts a regular file, or uses it as a disk, by way of a loop device; None if nobody does."""
    for loop, status in _loops():
        if os.path.samestat(status, file):
            with contextlib.suppress(OSError):
                if use := source_use(os.stat(loop).st_rdev):
                    return f"it is attached as {loop}, and {use}"
    return None


def is_read_only(device: int) -> bool:
    """Tell whether the kernel refuses writes to a block device (a switch on the card, ``blockdev --setro``)."""
    try:
        return (_device_folder(device) / "ro").read_text().strip() == "1"
    except OSError:
        return False


def _relatives(device: int) -> dict[int, str]:
    """Return the numbers and names of a device, of its partitions, and of the disk that it is a partition of."""
    folder = _device_folder(device).resolve()
    folders = [folder, *(entry for entry in _listed(folder) if (entry / "partition").exists())]
    if (folder / "partition").exists():
        folders.append(folder.parent)
    # In sysfs a "!" stands for the "/" of names such as /dev/cciss/c0d0.
    names = {device: "/dev/" + folder.name.replace("!", "/")}
    for each in folders:
        with contextlib.suppress(OSError, ValueError):
            major, minor = (each / "dev").read_text().split(":")
            names[os.makedev(int(major), int(minor))] = "/dev/" + each.name.replace("!", "/")
    return names


def _device_folder(device: int) -> Path:
    return SYS / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"


def _mounts() -> Generator[tuple[int, str], None, None]:
    """Yield the device number and the mount point of every mount (proc_pid_mountinfo(5))."""
    for line in _lines(PROC / "self" / "mountinfo"):
        fields, _, rest = line.partition(" - ")
        try:
            _, _, numbers, _, mount_point, *_ = fields.split(" ")
            major, minor = (int(number) for number in numbers.split(":"))
            source = _unescape(rest.split(" ")[1])
        except (ValueError, IndexError):
            continue
        yield os.makedev(major, minor), _unescape(mount_point)
        if major == 0 and source.startswith("/"):
            # btrfs mounts under an anonymous number; its source still names the device.
            with contextlib.suppress(OSError):
                yield os.stat(source).st_rdev, _unescape(mount_point)


def _swaps() -> Generator[tuple[os.stat_result, str], None, None]:
    for line in _lines(PROC / "swaps")[1:]:
        path = _unescape(line.split(" ")[0].split("\t")[0])
        with contextlib.suppress(OSError):
            yield os.stat(path), path


def _loops() -> Generator[tuple[str, os.stat_result], None, None]:
    """Yield each attached loop device and what it shows, a file or another device."""
    for folder in _listed(SYS / "block"):
        for backing in _lines(folder / "loop" / "backing_file"):
            with contextlib.suppress(OSError):
                yield f"/dev/{folder.name}", os.stat(backing)


def _lines(path: Path) -> list[str]:
    try:
        return os.fsdecode(path.read_bytes()).splitlines()
    except OSError:
        return []


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _unescape(text: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
