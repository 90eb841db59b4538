"""Goal: a target is refused before it is touched, or every byte lands where it belongs, or the error says where not.

Method: files and real loop devices (root) in every state a target may be in; kernels without the fast ways are made by
taking the calls away, disks that fail by a kernel that says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghostcast.image import target as target_module
from ghostcast.image.target import Target
from protocol.errors import ExitStatus, TargetError
from tests.lab.disks import LoopUnavailable, loop_device, mounted

SIZE = 8 << 20
OLD = b"\xa5"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing"
    path.write_bytes(OLD * SIZE)
    return path


@pytest.fixture
def device(backing: Path) -> Iterator[Path]:
    """A block device of ``SIZE`` bytes ``OLD``."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(loop_device(backing, SIZE))
        except LoopUnavailable as error:
            pytest.skip(str(error))
        yield path


def refused(path: Path, reason: str, *, raw_size: int | None = None) -> None:
    with pytest.raises(TargetError, match=reason) as caught:
        Target.open(path, raw_size=raw_size)
    assert caught.value.exit_status == ExitStatus.TARGET
    assert str(caught.value).startswith(f"{path}: ")


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_is_neither_disk_nor_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path, "is a directory; a target is a block device or a file")
    refused(tmp_path / "fifo", "is a FIFO")
    refused(Path("/dev/null"), "is a character device")
    refused(tmp_path / "no" / "disk", "its directory .* does not exist")
    refused(tmp_path / "fifo" / "disk", "Not a directory")
    refused(Path("/dev/sdnone"), "there is no such device")
    refused(Path("/dev/mapper/none"), "there is no such device|does not exist")
    refused(tmp_path / "a\0b", "null byte")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").touch(0o400)
    refused(tmp_path / "disk", "Permission denied")
    tmp_path.chmod(0o500)
    refused(tmp_path / "other", "no permission to create files")


@needs_root
def test_a_file_system_without_writing_is_refused(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "read-only", "-t", "tmpfs", "-o", "ro") as folder:
        refused(folder / "disk", "read-only")


def test_a_refused_target_is_not_touched(tmp_path: Path, device: Path, backing: Path) -> None:
    refused(device, f"is too small: it has {SIZE} bytes, the image needs {SIZE + 1} .1 more.", raw_size=SIZE + 1)
    refused(backing, "it is attached as /dev/loop")
    assert backing.read_bytes() == OLD * SIZE
    with Target.open(tmp_path / "new", raw_size=1 << 50) as target:
        with pytest.raises(TargetError, match="file system is too full: it has room for"):
            target.require(1 << 50, 1 << 50)
        target.discard_if_untouched()
    assert not (tmp_path / "new").exists()


@needs_root
def test_a_mounted_device_is_refused(tmp_path: Path, device: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", device], check=True, capture_output=True)
    with mounted(device, tmp_path / "mount point"):
        refused(device, f"{device} is mounted on {tmp_path}/mount point: unmount it first")
    with Target.open(device, raw_size=SIZE) as target:
        assert target.size == SIZE


def test_a_device_that_somebody_holds_is_refused(device: Path) -> None:
    """What no file in /proc or /sys tells, the kernel does."""
    held = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        refused(device, "busy: something uses it")
    finally:
        os.close(held)


@needs_root
def test_a_device_in_use_as_swap_is_refused(device: Path) -> None:
    if not shutil.which("mkswap") or not shutil.which("swapon"):
        pytest.skip("mkswap or swapon is missing")
    subprocess.run(["mkswap", device], check=True, capture_output=True)
    if subprocess.run(["swapon", device], capture_output=True).returncode:
        pytest.skip("this kernel has no swap")
    try:
        refused(device, f"{device} is in use as swap")
    finally:
        subprocess.run(["swapoff", device], check=True)


@needs_root
def test_a_read_only_device_is_refused(device: Path) -> None:
    subprocess.run(["blockdev", "--setro", device], check=True)
    try:
        refused(device, f"is read-only: .* blockdev --setrw {device}")
    finally:
        subprocess.run(["blockdev", "--setrw", device], check=True)


@needs_root
def test_a_device_without_a_medium_is_refused() -> None:
    empty = [
        path
        for path in sorted(Path("/dev").glob("loop[0-9]*"))
        if path.is_block_device() and not Path(f"/sys/block/{path.name}/loop").exists()
    ]
    if not empty:
        pytest.skip("every loop device is attached")
    refused(empty[-1], "has 0 bytes: there is no medium|No medium|No such device")


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_new_file_is_made_by_the_first_write(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with Target.open(path, raw_size=100) as target:
        assert (target.size, target.is_block_device, target.initial_size, target.created) == (None, False, 0, False)
        target.require(100, 100)
        assert not path.exists()
        target.write(50, b"x" * 10)
        assert target.created
        target.finish(100)
        target.discard_if_untouched()
    assert path.read_bytes() == bytes(50) + b"x" * 10 + bytes(40)


def test_a_new_file_that_was_not_written_is_discarded(tmp_path: Path) -> None:
    target = Target.open(tmp_path / "disk", raw_size=None)
    os.fstat(target.fileno())
    assert (tmp_path / "disk").exists()
    target.discard_if_untouched()
    assert not (tmp_path / "disk").exists()


def test_an_old_file_is_never_discarded(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"old")
    target = Target.open(tmp_path / "disk", raw_size=None)
    assert target.initial_size == 3
    target.discard_if_untouched()
    assert (tmp_path / "disk").read_bytes() == b"old"


@pytest.mark.parametrize("raw_size", [0, 5, 4096, 10_000])
def test_an_old_file_gets_exactly_the_image_s_size(tmp_path: Path, raw_size: int) -> None:
    (tmp_path / "disk").write_bytes(b"old" * 2000)
    with Target.open(tmp_path / "disk", raw_size=raw_size) as target:
        target.finish(raw_size)
    assert (tmp_path / "disk").read_bytes() == (b"old" * 2000 + bytes(4000))[:raw_size]


def test_what_is_written_may_be_any_buffer(tmp_path: Path) -> None:
    with Target.open(tmp_path / "disk", raw_size=None) as target:
        target.write(0, b"a")
        target.write(1, bytearray(b"b"))
        target.write(2, memoryview(b"xcx")[1:2])
        target.write(3, np.arange(4, dtype=np.uint8).reshape(2, 2))
        target.write(7, b"")
        target.finish(7)
    assert (tmp_path / "disk").read_bytes() == b"abc\0\1\2\3"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:7], offset))
    raw = os.urandom(1000)
    with Target.open(tmp_path / "disk", raw_size=None) as target:
        target.write(3, raw)
    assert (tmp_path / "disk").read_bytes() == bytes(3) + raw


def test_many_threads_may_write(tmp_path: Path) -> None:
    chunk_size, count = 64 << 10, 32
    raw = os.urandom(chunk_size * count)
    with Target.open(tmp_path / "disk", raw_size=None) as target:

        def write(first: int) -> None:
            for index in range(first, count, 4):
                target.write(index * chunk_size, raw[index * chunk_size : (index + 1) * chunk_size], index)
                target.start_writeback(index * chunk_size, chunk_size)

        threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        target.finish(len(raw))
    assert (tmp_path / "disk").read_bytes() == raw


# --- zeroing --------------------------------------------------------------------------------------------------------

RANGES = [
    (0, SIZE),
    (0, 4096),
    (4096, 1 << 20),
    (1 << 20, 3 << 20),
    (100, 5000),
    (SIZE - 700, 700),
    (12_288, 1000),
    (8192, 9000),
]


def check_zeroed(path: Path, ranges: list[tuple[int, int]]) -> None:
    expected = bytearray(OLD * SIZE)
    with Target.open(path, raw_size=SIZE) as target:
        for offset, length in ranges:
            target.zero(offset, length)
            expected[offset : offset + length] = bytes(length)
        target.finish(SIZE)
    assert path.read_bytes() == expected


@pytest.mark.parametrize("extent", RANGES)
def test_a_zeroed_range_of_a_file_reads_as_zeros(backing: Path, extent: tuple[int, int]) -> None:
    check_zeroed(backing, [extent])


@pytest.mark.parametrize("extent", RANGES)
def test_a_zeroed_range_of_a_device_reads_as_zeros(device: Path, extent: tuple[int, int]) -> None:
    check_zeroed(device, [extent])


def test_a_zeroed_range_of_a_file_is_a_hole(backing: Path) -> None:
    check_zeroed(backing, [(0, SIZE)])
    assert backing.stat().st_blocks == 0


def test_a_file_is_not_made_longer_by_zeroing(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(OLD * 5000)
    with Target.open(tmp_path / "disk", raw_size=None) as target:
        target.zero(4096, 1 << 40)
        target.zero(1 << 50, 1 << 40)
        assert (tmp_path / "disk").read_bytes() == OLD * 4096 + bytes(904)
        target.finish(5001)
    assert (tmp_path / "disk").read_bytes() == OLD * 4096 + bytes(905)


def test_what_this_run_wrote_is_zeroed_too(tmp_path: Path) -> None:
    """A repaired chunk may turn out to be a zero chunk of another image: the old size does not tell what is there."""
    with Target.open(tmp_path / "disk", raw_size=None) as target:
        target.write(0, OLD * 10_000)
        target.zero(0, 10_000)
        target.finish(10_000)
    assert (tmp_path / "disk").read_bytes() == bytes(10_000)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY])
def test_where_the_kernel_cannot_zero_zeros_are_written(
    backing: Path, device: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    asked = []

    def refuse(*arguments: Any) -> None:
        asked.append(arguments)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(target_module, "_allocate", refuse)
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    plain = tmp_path / "plain"
    plain.write_bytes(OLD * SIZE)
    check_zeroed(plain, [(4096, 3 << 20), (SIZE - 10, 10)])
    check_zeroed(device, [(4096, 3 << 20), (SIZE - 10, 10)])
    assert len(asked) == 3


def test_without_the_c_functions_everything_still_works(backing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "_fallocate", None)
    monkeypatch.setattr(target_module, "_sync_file_range", None)
    check_zeroed(backing, [(0, 1 << 20)])
    with Target.open(backing, raw_size=None) as target:
        target.start_writeback(0, SIZE)


def test_room_is_set_aside_and_nothing_else_changes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(OLD * 4096)
    with Target.open(path, raw_size=None) as target:
        target.reserve(0, 1 << 20)
        assert path.stat().st_blocks * 512 < 1 << 20  # not before begin, which a refused target never sees
        target.begin(4 << 20)
        target.reserve(0, 1 << 20)
        target.reserve(3 << 20, 1 << 20)
        if target._direct_descriptor is not None:
            assert 2 << 20 <= path.stat().st_blocks * 512 < 3 << 20
        target.finish(4 << 20)
    assert path.read_bytes() == (OLD * 4096).ljust(4 << 20, b"\0")


@pytest.mark.parametrize(
    ("code", "message"), [(errno.EOPNOTSUPP, None), (errno.ENOSPC, "setting 4096 bytes aside at 8192 failed: No space")]
)
def test_only_a_full_disk_cannot_do_without_room_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str | None
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(target_module, "_allocate", refuse)
    with Target.open(tmp_path / "disk", raw_size=None) as target:
        target.begin(SIZE)
        asked = target._direct_descriptor is not None  # else there is nothing to gain, and nothing is asked for
        with pytest.raises(TargetError, match=message) if message and asked else contextlib.nullcontext():
            target.reserve(8192, 4096)


def test_a_device_has_its_room(device: Path) -> None:
    before = device.read_bytes()
    with Target.open(device, raw_size=SIZE) as target:
        target.begin(SIZE)
        target.reserve(0, SIZE)
    assert device.read_bytes() == before


def test_zeros_that_the_disk_refuses_are_an_error(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "ioctl", fail)
    with (
        Target.open(device, raw_size=SIZE) as target,
        pytest.raises(TargetError, match=f"{device}: zeroing at byte 4096 failed: Input/output error"),
    ):
        target.zero(4096, 4096)


# --- past the page cache --------------------------------------------------------------------------------------------


def aligned(size: int, shift: int = 0) -> memoryview:
    """Noise that starts ``shift`` bytes behind a page boundary."""
    memory = mmap.mmap(-1, size + shift)  # anonymous memory starts on a page
    memory[:] = os.urandom(size + shift)
    return memoryview(memory)[shift:]


def check_written(path: Path) -> None:
    """Writes of every alignment, after ``begin``, land where they belong, and nowhere else."""
    expected = bytearray(OLD * SIZE)
    with Target.open(path, raw_size=SIZE) as target:
        target.begin(SIZE)
        for offset, size, shift in ((0, 1 << 20, 0), (1 << 20, 1 << 20, 5), (3 << 20, 777, 0), (5 << 20, 8192, 0)):
            data = aligned(size, shift)
            target.write(offset, data)
            expected[offset : offset + size] = data
        target.write(4_000_000, aligned(4096))
        expected[4_000_000:4_004_096] = os.pread(target.fileno(), 4096, 4_000_000)
        target.zero(5 << 20, 4096)
        expected[5 << 20 : (5 << 20) + 4096] = bytes(4096)
        target.finish(SIZE)
    assert path.read_bytes() == expected


def test_writes_past_the_page_cache_of_a_file_land(backing: Path) -> None:
    check_written(backing)


def test_writes_past_the_page_cache_of_a_device_land(device: Path) -> None:
    check_written(device)


def test_where_the_alignment_is_refused_the_page_cache_is_used(backing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, refused_count = os.pwrite, 0

    def refuse(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal refused_count
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused_count += 1
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    check_written(backing)
    assert refused_count


def test_a_file_system_without_direct_writes_gets_others(backing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECT")
    check_written(backing)


def test_a_short_file_has_the_image_s_size_from_the_beginning(tmp_path: Path) -> None:
    with Target.open(tmp_path / "disk", raw_size=10_000) as target:
        target.begin(10_000)
        assert (tmp_path / "disk").stat().st_size == 10_000
        target.zero(0, 10_000)
        target.finish(10_000)
    assert (tmp_path / "disk").read_bytes() == bytes(10_000)


# --- errors while writing -------------------------------------------------------------------------------------------


def test_a_device_that_ends_too_early_says_where(device: Path) -> None:
    with (
        Target.open(device, raw_size=None) as target,
        pytest.raises(TargetError, match=rf"{device}: writing at byte {SIZE} \(chunk 7\) failed: No space left"),
    ):
        target.write(SIZE - 4096, bytes(8192), 7)


def test_only_zeros_are_dropped_behind_a_small_device(device: Path) -> None:
    """And the second partition table, which is made anew. The manifest is believed for whole chunks only."""
    table = 8192
    with Target.open(device, raw_size=None) as target:
        target.begin(SIZE + 65_536, table)
        data = bytearray(65_536 + table)
        data[-table:] = b"T" * table
        target.write(SIZE - table, data, 7)  # ends with the image
        target.write(SIZE + 4096, bytes(4096), 8)
        for lost in (0, table - 1, table, 65_535):
            data[lost] = 1
            with pytest.raises(TargetError, match=rf"has {SIZE} bytes, and the image has data behind them \(chunk 7\)"):
                target.write(SIZE - table, data, 7)
            data[lost] = 0
        target.write(SIZE - table - 4096, b"k" * 4096, 6)  # what is kept


@needs_root
def test_a_full_file_system_says_where(tmp_path: Path) -> None:
    with (
        mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=1m") as small,
        Target.open(small / "disk", raw_size=2 << 20) as target,
    ):
        target.require(2 << 20, 1 << 20)
        with pytest.raises(TargetError, match="it has room for 1048576 bytes, the image needs 2097152"):
            target.require(2 << 20, 2 << 20)
        target.write(0, bytes(1 << 20))
        target.require(2 << 20, 1 << 20)  # what the file has already counts
        with pytest.raises(TargetError, match="writing at byte 1048576 failed: No space left on device"):
            target.write(1 << 20, bytes(4096))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("fsync", "flushing to disk failed: Input/output error"),
        ("ftruncate", "setting its size to 5 failed: Input/output error"),
        ("link", "giving the complete file its name failed: Input/output error"),
        ("rename", "giving the complete file its name failed: Input/output error"),
    ],
)
def test_a_disk_that_fails_at_the_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, reason: str
) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "disk").write_bytes(b"old")  # so that its name is taken over, not only given
    with Target.open_replacement(tmp_path / "disk") as target:
        target.write(0, b"bytes")
        monkeypatch.setattr(os, function, fail)
        with pytest.raises(TargetError, match=f"{tmp_path / 'disk'}: {reason}"):
            target.finish(5)
    assert os.listdir(tmp_path) == ["disk"]
    assert (tmp_path / "disk").read_bytes() == b"old"


def test_a_write_that_writes_nothing_does_not_go_on_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: 0)
    with (
        Target.open(tmp_path / "disk", raw_size=None) as target,
        pytest.raises(TargetError, match="nothing was written"),
    ):
        target.write(0, b"x")


def test_a_file_that_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with Target.open(tmp_path / "disk", raw_size=None) as target:
        (tmp_path / "disk").write_bytes(b"somebody else's")
        with pytest.raises(TargetError, match="cannot be created: File exists"):
            target.write(0, b"x")
    assert (tmp_path / "disk").read_bytes() == b"somebody else's"


# --- replacements ---------------------------------------------------------------------------------------------------


def test_a_replacement_takes_its_place_when_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"old")
    with Target.open_replacement(path) as target:
        target.write(0, b"new")
        assert path.read_bytes() == b"old"
        target.finish(3)
        assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["disk"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def test_a_replacement_that_is_not_finished_leaves_no_trace(tmp_path: Path) -> None:
    with Target.open_replacement(tmp_path / "disk") as target:
        target.write(0, b"new")
    with Target.open_replacement(tmp_path / ("n" * 255)) as target:  # a name of the full length has one too
        target.write(0, b"new")
    assert os.listdir(tmp_path) == []


def test_only_a_file_can_be_replaced(tmp_path: Path, device: Path, backing: Path) -> None:
    for path, reason in (
        (tmp_path, "is a directory, not a file"),
        (device, "is a block device, not a file"),
        (backing, "it is attached as /dev/loop"),
        (tmp_path / "no" / "file", "does not exist"),
        (tmp_path / "a\0b", "null byte"),
    ):
        with pytest.raises(TargetError, match=reason):
            Target.open_replacement(path)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
