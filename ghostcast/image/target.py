"""The target: the disk or the file that an image is written to.

Knows how to refuse, write, zero and flush; must not know chunks' contents or where they come from. The invariants:
nothing is written, created or truncated before every check has passed; an I/O error is a ``TargetError`` that names the
target, the offset and the kernel's reason.

Receivers write in place (``open``), so that a killed receiver finds on the same target what it wrote before. ``image
create`` and ``image extract`` write a replacement (``open_replacement``): a file that takes its name once complete.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ghostcast.disk import kernel
from ghostcast.image import flushing, in_use
from protocol import limits
from protocol.errors import TargetError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12

_BLKZEROOUT = 0x127F
"""ioctl: zero a range of a block device, ``uint64[2]``: offset, size, both whole sectors (linux/fs.h)."""

_BLKDISCARD = 0x1277
"""ioctl: discard a range of a block device, ``uint64[2]``: offset, size, both whole sectors (linux/fs.h)."""

_FALLOC_FL_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02 | _FALLOC_FL_KEEP_SIZE
_SYNC_FILE_RANGE_WRITE = 0x02

_ZEROS = bytes(limits.MIB)
_SECTOR_SIZE_MAX = 4096
"""Largest logical sector of disks; what starts and ends on it does so on every smaller sector."""

_DIRECT_ALIGNMENT = 4096
"""Offset, length and memory address of a write past the page cache are multiples of it: a page, and any sector."""

_NO_SUCH_COMMAND = {errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV}
"""The kernel's ways of saying that this file system or device has no such command."""


class Target:
    """An open target. ``write``, ``zero`` and ``start_writeback`` are safe for several threads at once."""

    def __init__(self, path: Path, file_path: Path, *, descriptor: int, size: int | None, initial_size: int) -> None:
        """Take over an open descriptor, or -1 for a file still to be made; use ``open`` or ``open_replacement``."""
        self.path = path
        """The target by the name that people know."""
        self.size = size
        """A block device's capacity in bytes; None for a file, which grows."""
        self.initial_size = initial_size
        """Bytes that were there before anything was written: where what an earlier run wrote may be found."""
        self.created = False
        """Whether this object made the file."""
        self._file_path = file_path
        self._replaces: Path | None = None
        self._nameless = False
        self._descriptor = descriptor
        self._direct_descriptor: int | None = None
        self._flusher: flushing.Flusher | None = None
        """Flushes what is written, from ``begin`` on."""
        self._touched = False
        self._written_end = 0
        self._lost = (0, 0)
        """Range of the image that a target which is too small for all of it does not keep."""
        self._closed = False
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, raw_size: int | None) -> Target:
        """Open a block device or a file to be written in place; a file that is missing is made by the first write.

        Args:
            path: the target.
            raw_size: size of the image in bytes if it is known already; see ``require``.

        Raises:
            TargetError: neither a device nor a file, in use, not permitted, read-only, or smaller than ``raw_size``.
        """
        try:
            status = os.stat(path)
        except FileNotFoundError:
            target = cls._missing(path)
        except (OSError, ValueError) as error:
            raise TargetError(f"{path}: cannot be used as a target: {_reason(error)}") from error
        else:
            target = cls._existing(path, status)
        if raw_size is not None:
            try:
                target.require(raw_size, 0)
            except BaseException:
                target.close()
                raise
        return target

    @classmethod
    def open_replacement(cls, path: Path) -> Target:
        """Open a new file that takes the name ``path``, or the place of the file there, when ``finish`` returns.

        Whether a file there may be replaced is the caller's decision. ``close`` without ``finish`` leaves no trace.

        Raises:
            TargetError: there is something other than a file, a file in use as a disk, or no directory to write to.
        """
        try:
            status = os.stat(path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise TargetError(f"{path}: cannot be used as a target: {_reason(error)}") from error
        else:
            if not stat.S_ISREG(status.st_mode):
                raise TargetError(f"{path}: is {_kind(status)}, not a file that could be replaced")
            if use := in_use.file_use(status):
                raise TargetError(f"{path}: refused: {use}")
        target = cls._missing(path)
        target._replaces = target._file_path
        # In the same directory: a rename cannot cross file systems. Not made of the name, which may be at its limit.
        target._file_path = target._file_path.with_name(f".ghostcast-{os.urandom(6).hex()}.part")
        return target

    @classmethod
    def _missing(cls, path: Path) -> Target:
        # A link to a file that is missing, or about to be replaced, stands for that file.
        real = Path(os.path.realpath(path))
        parent = real.parent
        if not parent.is_dir():
            raise TargetError(f"{path}: its directory {parent} does not exist: create it, or name another target")
        if Path("/dev") in (parent, *parent.parents) and Path("/dev/shm") not in (parent, *parent.parents):
            # A file there would fill the machine's memory under the name of a disk.
            raise TargetError(f"{path}: there is no such device; lsblk lists those that exist")
        effective = os.access in os.supports_effective_ids
        if not os.access(parent, os.W_OK | os.X_OK, effective_ids=effective):
            raise TargetError(f"{path}: no permission to create files in {parent}, or it is mounted read-only")
        return cls(path, real, descriptor=-1, size=None, initial_size=0)

    @classmethod
    def _existing(cls, path: Path, status: os.stat_result) -> Target:
        flags = os.O_RDWR | os.O_CLOEXEC
        if stat.S_ISBLK(status.st_mode):
            use = in_use.device_use(status.st_rdev)
            # The kernel's own answer, for users that are not listed where we look; meant for devices only (open(2)).
            flags |= os.O_EXCL
        elif stat.S_ISREG(status.st_mode):
            use = in_use.file_use(status)
        else:
            raise TargetError(f"{path}: is {_kind(status)}; a target is a block device or a file")
        if use:
            raise TargetError(f"{path}: refused: {use}")
        if stat.S_ISBLK(status.st_mode) and in_use.is_read_only(status.st_rdev):
            raise TargetError(f"{path}: is read-only: look for a write-protect switch, or run blockdev --setrw {path}")
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            in_use_note = ": something uses it" if error.errno == errno.EBUSY else ""
            raise TargetError(f"{path}: cannot be opened for writing: {_reason(error)}{in_use_note}") from error
        if stat.S_ISREG(status.st_mode):
            try:
                _lock(descriptor, path)
            except TargetError:
                os.close(descriptor)
                raise
            return cls(path, path, descriptor=descriptor, size=None, initial_size=status.st_size)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            os.close(descriptor)
            raise TargetError(f"{path}: its size cannot be found: {_reason(error)}") from error
        if not size:
            os.close(descriptor)
            raise TargetError(f"{path}: has 0 bytes: there is no medium in it, or nothing behind it")
        return cls(path, path, descriptor=descriptor, size=size, initial_size=size)

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def touched(self) -> bool:
        """Whether anything was written, or was tried to be."""
        return self._touched

    @property
    def is_block_device(self) -> bool:
        """Whether the target is a block device, whose size is fixed."""
        return self.size is not None

    @property
    def sector_size(self) -> int:
        """A block device's logical sector size in bytes; 0 for a file."""
        return kernel.sector_size(self.fileno()) if self.is_block_device else 0

    def fileno(self) -> int:
        """Return the descriptor, open for reading and writing; makes the file if it was missing.

        Raises:
            TargetError: the file cannot be made.
        """
        with self._lock:
            assert not self._closed, "the target was closed"
            if self._descriptor < 0:
                try:
                    self._descriptor = self._make()
                except OSError as error:
                    raise TargetError(f"{self.path}: cannot be created: {_reason(error)}") from error
                self.created = True
                _lock(self._descriptor, self.path)
            return self._descriptor

    def _make(self) -> int:
        """Make the file; a replacement has no name until it is complete, where that is possible.

        What has no name is gone with the process that made it, however that ends.
        """
        if self._replaces is not None and hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # NFS, FAT and old kernels know no such files
                descriptor = os.open(self._file_path.parent, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
                self._nameless = True
                return descriptor
        return os.open(self._file_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def require(self, raw_size: int, data_size: int) -> None:
        """Check that an image fits. Writes nothing.

        Args:
            raw_size: bytes of the smallest disk that the image fits on.
            data_size: bytes of it that are neither zero nor unused: what a file, which has holes, takes on its disk.

        Raises:
            TargetError: it does not fit; names what there is and what is needed.
        """
        if self.size is not None:
            if self.size < raw_size:
                raise TargetError(
                    f"{self.path}: is too small: it has {self.size} bytes, the image needs {raw_size} "
                    f"({raw_size - self.size} more)"
                )
            return
        try:
            file_system = os.statvfs(self._file_path.parent)
            allocated_size = os.fstat(self._descriptor).st_blocks * 512 if self._descriptor >= 0 else 0
        except OSError as error:
            raise TargetError(f"{self.path}: its free space cannot be found: {_reason(error)}") from error
        free_blocks = file_system.f_bfree if os.geteuid() == 0 else file_system.f_bavail
        available_size = free_blocks * file_system.f_frsize + allocated_size
        if available_size < data_size:
            raise TargetError(
                f"{self.path}: its file system is too full: it has room for {available_size} bytes, the image needs "
                f"{data_size} ({data_size - available_size} more)"
            )

    def begin(self, raw_size: int, second_table_size: int = 0) -> None:
        """Make room for an image of ``raw_size`` bytes, once, before anything is written.

        A device that is smaller than that keeps what it has room for: ``require`` has told that the rest may go.

        A file that is shorter is made longer, all hole; ``reserve`` gives it room. From here on, aligned writes go past
        the page cache where the file system allows: they cost a tenth of the processor time, and leave the kernel
        nothing to write at the end (measured: 1 GB in 0.4 s and 0.1 s of processor time, against 0.6 s and 0.3 to 2 s
        through the cache). What is written is flushed on the way, too; see ``Flusher``.

        Args:
            raw_size: bytes of the image's disk.
            second_table_size: bytes at its end that are written anew at the end of a smaller target.

        Raises:
            TargetError: the kernel refused.
        """
        descriptor = self.fileno()
        self._touched = True
        if self.size is not None and self.size < raw_size:
            self._lost = (self.size - second_table_size, raw_size - second_table_size)
        if self.size is None and os.fstat(descriptor).st_size < raw_size:
            try:
                os.ftruncate(descriptor, raw_size)
            except OSError as error:
                raise TargetError(f"{self.path}: setting its size to {raw_size} failed: {_reason(error)}") from error
        if hasattr(os, "O_DIRECT"):
            with contextlib.suppress(OSError):
                # By way of /proc it is certainly the same file, and an exclusively opened device may be opened again.
                flags = os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC
                self._direct_descriptor = os.open(f"/proc/self/fd/{descriptor}", flags)
        if self._flusher is None:  # a failure that one noted stays
            self._flusher = flushing.Flusher(descriptor, flushing.FLUSH_SIZE)

    def write(self, offset: int, data: Buffer, chunk_index: int | None = None) -> None:
        """Write all of ``data`` at ``offset``. Releases the GIL.

        Goes past the page cache after ``begin`` if offset, length and address are multiples of 4096.

        Args:
            offset: bytes from the target's start.
            data: what to write: anything contiguous that ``memoryview`` takes, a numpy array too.
            chunk_index: the chunk that it is, for the error message.

        Raises:
            TargetError: the kernel refused; names target, offset, chunk and reason. Or a flush of what was written
                before has failed.
        """
        descriptor = self.fileno()
        self._touched = True
        view = memoryview(data).cast("B")
        if self.size is not None and any(self._lost):
            self._refuse_loss(offset, view, chunk_index)
            view = view[: max(0, self.size - offset)]
        with self._lock:
            self._written_end = max(self._written_end, offset + len(view))
        direct = self._direct_descriptor
        if direct is not None and not (offset | len(view) | _address(view)) % _DIRECT_ALIGNMENT:
            descriptor = direct
        flusher, size = self._flusher, len(view)
        if flusher is not None:
            self._raise_failure(flusher)
        while view:
            try:
                count = os.pwrite(descriptor, view, offset)
            except OSError as error:
                if error.errno == errno.EINVAL and descriptor == direct:
                    # This file system or device wants another alignment: the page cache takes anything.
                    descriptor = self.fileno()
                    continue
                chunk = "" if chunk_index is None else f" (chunk {chunk_index})"
                raise TargetError(f"{self.path}: writing at byte {offset}{chunk} failed: {_reason(error)}") from error
            if not count:  # not POSIX, but a user-space file system can; again and again would be for ever
                raise TargetError(f"{self.path}: writing at byte {offset} failed: nothing was written")
            view = view[count:]
            offset += count
        if flusher is not None:
            flusher.wrote(size)

    def reserve(self, offset: int, length: int) -> None:
        """Have the file system set room aside for a range of a file that will be written; what is there stays.

        A write past the page cache that finds a hole has the file to itself until the disk has answered (ext4):
        threads then write one after the other. And a disk that is too full says so at the start.
        Does nothing for a device, for writes through the cache, and where the file system cannot.

        Raises:
            TargetError: there is no room; names target, offset and reason.
        """
        if self.size is not None or self._direct_descriptor is None:
            return
        self._touched = True
        try:
            _allocate(self.fileno(), _FALLOC_FL_KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in _NO_SUCH_COMMAND:
                reason = _reason(error)
                raise TargetError(f"{self.path}: setting {length} bytes aside at {offset} failed: {reason}") from error

    def _refuse_loss(self, offset: int, data: memoryview, chunk_index: int | None) -> None:
        """Refuse to drop anything but zeros: the manifest's word for it ends at whole chunks."""
        start, end = (min(max(bound - offset, 0), len(data)) for bound in self._lost)
        if start < end and np.frombuffer(data[start:end], np.uint8).any():
            chunk = "" if chunk_index is None else f" (chunk {chunk_index})"
            raise TargetError(
                f"{self.path}: is too small: it has {self.size} bytes, and the image has data behind them{chunk}, "
                "although it says that nothing is there: its description of the disk is wrong; use a larger disk"
            )

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros whatever was there, as cheaply as the target can.

        A file gets a hole, and is not made longer by it: ``finish`` gives it its size. A device is told to zero itself.

        Raises:
            TargetError: the kernel refused; names target, offset and reason.
        """
        descriptor = self.fileno()
        self._touched = True
        end = offset + length
        if self.size is None:
            end = min(end, max(self.initial_size, self._written_end))  # what a file gains behind that is zeros already
            if offset < end and not self._try_to_zero(
                offset, lambda: _allocate(descriptor, _PUNCH_HOLE, offset, end - offset)
            ):
                self._write_zeros(offset, end)
            return
        end = min(end, self.size)
        aligned_end = end - end % _SECTOR_SIZE_MAX
        if offset % _SECTOR_SIZE_MAX == 0 and offset < aligned_end:
            argument = struct.pack("QQ", offset, aligned_end - offset)
            if self._try_to_zero(offset, lambda: fcntl.ioctl(descriptor, _BLKZEROOUT, argument)):
                offset = aligned_end
        self._write_zeros(offset, end)

    def discard(self, offset: int, length: int) -> None:
        """Tell the device that nobody needs a range any more, where it can be told; a file gets a hole.

        Raises:
            TargetError: the device failed; names target, offset and reason.
        """
        if self.size is None:
            self.zero(offset, length)
            return
        descriptor = self.fileno()
        self._touched = True
        start = -(-offset // _SECTOR_SIZE_MAX) * _SECTOR_SIZE_MAX
        end = min(offset + length, self.size) // _SECTOR_SIZE_MAX * _SECTOR_SIZE_MAX
        if start < end:
            argument = struct.pack("QQ", start, end - start)
            self._try_to_zero(offset, lambda: fcntl.ioctl(descriptor, _BLKDISCARD, argument))

    def _try_to_zero(self, offset: int, command: Callable[[], object]) -> bool:
        try:
            command()
        except OSError as error:
            if error.errno in _NO_SUCH_COMMAND:
                return False
            raise TargetError(f"{self.path}: zeroing at byte {offset} failed: {_reason(error)}") from error
        return True

    def _write_zeros(self, offset: int, end: int) -> None:
        while offset < end:
            size = min(end - offset, len(_ZEROS))
            self.write(offset, memoryview(_ZEROS)[:size])
            offset += size

    def start_writeback(self, offset: int, length: int) -> None:
        """Have the kernel begin to write a range to disk, without waiting: the last ``sync`` is short then.

        Only a hint: where the call is missing or fails nothing happens, and ``sync`` still reports every error.
        """
        if _sync_file_range is not None:
            _sync_file_range(self.fileno(), ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)

    def sync(self) -> None:
        """Wait until everything written is on the disk.

        Raises:
            TargetError: the disk could not keep it.
        """
        try:
            os.fsync(self.fileno())
        except OSError as error:
            raise TargetError(f"{self.path}: flushing to disk failed: {_reason(error)}") from error
        if self._flusher is not None:
            self._flusher.wait()  # afterwards: one that began meanwhile may have been told what this one was not
            self._raise_failure(self._flusher)

    def _raise_failure(self, flusher: flushing.Flusher) -> None:
        """Raise what a flush on the way failed of: no later flush would say it again."""
        if flusher.failure is not None:
            reason = _reason(flusher.failure)
            raise TargetError(f"{self.path}: flushing to disk failed: {reason}") from flusher.failure

    def finish(self, raw_size: int) -> None:
        """Give a file exactly ``raw_size`` bytes, flush everything, and give a replacement its name.

        Raises:
            TargetError: any of it failed; the target is not complete.
        """
        descriptor = self.fileno()
        self._touched = True
        if self.size is None:
            try:
                os.ftruncate(descriptor, raw_size)
            except OSError as error:
                raise TargetError(f"{self.path}: setting its size to {raw_size} failed: {_reason(error)}") from error
        self.sync()
        if self._replaces is None and not self._still_named():
            raise TargetError(f"{self.path}: was removed or replaced while it was being written: the copy is lost")
        try:
            if self._replaces is not None:
                self._give_name(descriptor, self._replaces)
                self._replaces = None
            if self.created:
                _sync_directory(self._file_path.parent)
        except OSError as error:
            raise TargetError(f"{self.path}: giving the complete file its name failed: {_reason(error)}") from error

    def _give_name(self, descriptor: int, path: Path) -> None:
        if self._nameless:
            parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # With a directory, Python calls linkat, which alone follows the link that stands for an open file.
                link = functools.partial(os.link, f"/proc/self/fd/{descriptor}", src_dir_fd=parent)
                with contextlib.suppress(FileExistsError):
                    link(path)
                    return
                link(self._file_path)  # a link replaces nothing; a rename does
                self._nameless = False
            finally:
                os.close(parent)
        os.rename(self._file_path, path)

    def _still_named(self) -> bool:
        """Whether the target's name still leads to what was written."""
        try:
            return os.path.samestat(os.fstat(self.fileno()), os.stat(self._file_path))
        except OSError:
            return False

    def discard_if_untouched(self) -> None:
        """Close, and remove the file if this object made it and nothing was written to it."""
        self.close()
        if self.created and not self._touched:
            with contextlib.suppress(OSError):
                os.unlink(self._file_path)

    def close(self) -> None:
        """Close the target; an unfinished replacement is removed. Closing twice is harmless."""
        try:
            if self._flusher is not None:
                self._flusher.wait()
        finally:
            self._close()

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._descriptor < 0:
                return
            descriptor, self._descriptor = self._descriptor, -1
            if self._direct_descriptor is not None:
                os.close(self._direct_descriptor)
                self._direct_descriptor = None
            if self._replaces is not None and not self._nameless:
                with contextlib.suppress(OSError):
                    os.unlink(self._file_path)
            with contextlib.suppress(OSError):  # ``sync`` has reported what there was to report
                os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Refuse a file that another ghostcast writes; a device is locked by being opened exclusively."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # File systems that know no locks are no reason to refuse.
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise TargetError(f"{path}: refused: another ghostcast is sending it, or writing an image to it") from error


def _address(view: memoryview) -> int:
    """Return where a view's bytes begin in memory."""
    address: int = np.frombuffer(view, np.uint8).__array_interface__["data"][0] if view else 0
    return address


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _kind(status: os.stat_result) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(status.st_mode):
            return name
    return "of an unknown kind"


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems without a journal of names say so; there is nothing to flush
            raise
    finally:
        os.close(descriptor)


def _libc_function(*names: str) -> Callable[..., int] | None:
    """Return the first of these C functions that this system has."""
    for name in names:
        with contextlib.suppress(AttributeError):
            function: Callable[..., int] = getattr(_LIBC, name)
            return function
    return None


_LIBC = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc_function("fallocate64", "fallocate")  # the first takes 64-bit offsets on every glibc
_sync_file_range = _libc_function("sync_file_range")


def _allocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate, for which Python has only the form that moves a file's end."""
    if _fallocate is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while _fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        if ctypes.get_errno() != errno.EINTR:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
