"""Run the programs that know partition tables and file systems: found at run time, named when they are missing.

Knows processes; must not know what the programs say. The invariant: a program that was started has ended when ``run``
returns or raises, and none of them ever waits for an answer at the terminal.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_PACKAGES = {
    "partx": "util-linux",
    "blkid": "util-linux",
    "losetup": "util-linux",
    "mount": "mount",
    "umount": "mount",
    "sfdisk": "fdisk",
    "sgdisk": "gdisk",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "xfs_logprint": "xfsprogs",
    "xfs_growfs": "xfsprogs",
    "btrfs": "btrfs-progs",
    "dump.f2fs": "f2fs-tools",
    "resize.f2fs": "f2fs-tools",
    "dump.exfat": "exfatprogs",
    "ntfsinfo": "ntfs-3g",
    "ntfscat": "ntfs-3g",
    "ntfsresize": "ntfs-3g",
    "mkswap": "util-linux",
    "qemu-img": "qemu-utils",
    "xz": "xz-utils",
    "cat": "coreutils",
}
"""Program → the Debian package that has it; everything of partclone's is in ``partclone``."""

_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where these programs are, and where the path of ordinary users does not lead."""

_TIMEOUT_S = 3600.0
"""A file system of many terabytes is read for minutes; what takes an hour hangs."""

_MESSAGE_LENGTH_MAX = 300


class ProgramMissing(Exception):
    """The program is not installed."""

    def __init__(self, name: str) -> None:
        package = "partclone" if name.startswith("partclone.") else _PACKAGES.get(name, name)
        super().__init__(f"{name} is not installed (Debian package {package})")
        self.name = name


class ProgramFailed(Exception):
    """The program ended with another status than 0, or did not end."""

    def __init__(self, name: str, status: int | None, output: str) -> None:
        said = output[-_MESSAGE_LENGTH_MAX:]
        super().__init__(f"{name} {'did not end' if status is None else f'ended with status {status}'}: {said}")
        self.name = name
        self.status = status
        self.output = output
        """The last line that it said."""


def find(name: str) -> str | None:
    """Return the path of a program, None if it is not installed."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + os.pathsep + _SYSTEM_FOLDERS)


def require(*names: str) -> None:
    """Check that programs are installed.

    Raises:
        ProgramMissing: names the first that is not.
    """
    for name in names:
        if find(name) is None:
            raise ProgramMissing(name)


def run(name: str, *arguments: str | Path, stdin: str = "", good: tuple[int, ...] = (0,)) -> str:
    """Run a program to its end and return what it wrote to standard output.

    Args:
        name: the program.
        arguments: its arguments.
        stdin: its standard input.
        good: exit statuses that mean success.

    Raises:
        ProgramMissing: it is not installed.
        ProgramFailed: it ended with another status, or hung.
    """
    path = find(name)
    if path is None:
        raise ProgramMissing(name)
    try:
        done = subprocess.run(
            [path, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(name, None, "") from error
    except OSError as error:
        raise ProgramFailed(name, None, f"it cannot be started: {error.strerror}") from error
    if done.returncode not in good:
        lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
        raise ProgramFailed(name, done.returncode, lines[-1] if lines else "it said nothing")
    return done.stdout
