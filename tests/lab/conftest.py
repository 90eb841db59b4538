"""Fixtures of the lab ring. Where the machine gives no lab, every test of it is skipped with the reason."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.lab import disks, network, processes
from tests.lab.processes import Processes
from tests.lab.sessions import Session, Source, make_source

_TOOLS = {  # command → the Debian package that has it; tests/run installs them
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "unshare": "util-linux",
    "udp-sender": "udpcast",
    "udp-receiver": "udpcast",
    "sgdisk": "gdisk",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "fsck.fat": "dosfstools",
    "sfdisk": "fdisk",
    "zstd": "zstd",
    "partclone.ext4": "partclone",
    "mcopy": "mtools",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.ntfs": "ntfs-3g",
    "mkfs.exfat": "exfatprogs",
    "mount.exfat-fuse": "exfat-fuse",
    "mkfs.f2fs": "f2fs-tools",
}


def _why_no_lab() -> str:
    """Return what this machine lacks; empty if nothing."""
    if platform.system() != "Linux":
        return f"the lab needs Linux, not {platform.system()}"
    if os.geteuid() != 0:
        return "the lab needs root to make network namespaces"
    lacking = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if lacking:
        return f"the lab needs these Debian packages: {' '.join(lacking)}"
    try:
        with network.Bridge(1, offloads=False) as bridge:
            bridge.set_loss(bridge.receivers[0], 0.5)
    except network.NetworkError as error:
        return f"the kernel gives no lab network: {error}"
    return ""


@pytest.fixture(scope="session", autouse=True)
def lab() -> None:
    """Skip the whole ring where it cannot run."""
    reason = _why_no_lab()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> Iterator[processes.Processes]:
    """What starts commands on hosts; all of them are dead after the test."""
    with processes.Processes(tmp_path) as started:
        yield started


@pytest.fixture
def loop_device() -> Iterator[Callable[[str, int], pathlib.Path]]:
    """What makes block devices: name of the backing file, size in bytes → device."""
    with tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as directory, contextlib.ExitStack() as attached:

        def attach(name: str, size: int) -> pathlib.Path:
            try:
                return attached.enter_context(disks.loop_device(pathlib.Path(directory, name), size))
            except disks.LoopUnavailable as error:
                pytest.skip(str(error))

        yield attach


@pytest.fixture(scope="session")
def disk() -> Iterator[disks.Disk]:
    """The real disk: 300 MB, partitioned, ext4 and FAT. Not kept after the run, unlike what pytest makes."""
    with tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as directory:
        yield disks.make_disk(pathlib.Path(directory, "disk.img"), seed=1)


@pytest.fixture
def scratch() -> Iterator[pathlib.Path]:
    """A directory for targets; unlike ``tmp_path`` not kept, for they are large."""
    with tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as directory:
        yield pathlib.Path(directory)


@pytest.fixture
def session(commands: Processes, tmp_path: pathlib.Path) -> Session:
    return Session(commands, tmp_path)


@pytest.fixture(scope="session")
def make_random_source() -> Iterator[Callable[[int], Source]]:
    """Make images of so many random bytes: nothing in them is zero, nothing compresses. One per size."""
    made: dict[int, Source] = {}
    with tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as directory:

        def make(size: int) -> Source:
            if size not in made:
                raw = pathlib.Path(directory, f"random-{size}")
                raw.write_bytes(random.Random(size).randbytes(size))
                made[size] = make_source(raw)
            return made[size]

        yield make
