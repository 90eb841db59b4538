"""Loop devices: a part of a disk, or of a file, as a device of its own for programs that take nothing else.

Knows losetup. The invariant: a loop device is gone with the block that uses it, and with the process, however that
ends: it is detached as soon as it is attached, so that the kernel removes it when the last one closes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator
from pathlib import Path

from ghostcast.disk import programs


class LoopUnavailable(Exception):
    """This machine gives no loop device: no root, no kernel support, or none free."""


@contextlib.contextmanager
def loop_device(
    path: Path, offset: int, size: int, *, writable: bool = False, sector_size: int = 512
) -> Generator[Path, None, None]:
    """Give a device that shows the bytes ``[offset, offset + size)`` of a file or a device.

    Raises:
        LoopUnavailable: there is none to be had.
    """
    options = ["--offset", str(offset), "--sizelimit", str(size), "--sector-size", str(sector_size)]
    if not writable:
        options.append("--read-only")
    # A signal between attaching and detaching would leave a device behind; both take milliseconds.
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        try:
            device = programs.run("losetup", "--find", "--show", *options, path).strip()
        except (programs.ProgramMissing, programs.ProgramFailed) as error:
            reason = "it needs root" if os.geteuid() else str(error)
            raise LoopUnavailable(f"no loop device can be had: {reason}") from error
        try:
            descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            programs.run("losetup", "--detach", device)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)
    try:
        yield Path(device)
    finally:
        os.close(descriptor)
