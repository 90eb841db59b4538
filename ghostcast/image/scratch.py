"""Room for a disk that has to be laid out before it can be read: a file without a name.

The invariant: whatever ends the process, a kill too, the room is free again, because no directory knows the file. Other
programs reach it by ``path``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

from protocol.errors import TargetError


class Scratch:
    """A sparse file without a name, as long as it is told."""

    def __init__(self, directory: Path, size: int) -> None:
        """Make the file.

        Args:
            directory: on whose file system; where it does not exist yet, on its nearest parent's.
            size: the file's length in bytes, all hole.

        Raises:
            TargetError: no permission, or a file system that holds no file so long.
        """
        while not directory.is_dir() and directory != directory.parent:
            directory = directory.parent
        self.directory = directory
        try:
            # Python takes O_TMPFILE where the file system has it, and unlinks the file at once where it does not.
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 (closed by ``close``)
            self._file.truncate(size)
        except OSError as error:
            raise TargetError(f"{directory}: no temporary file can be made here: {error.strerror}") from error
        self.size = size
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")
        """The file by a name that other programs can open, as long as it is not closed."""

    def require(self, needed_size: int) -> None:
        """Check that so many bytes can be written to it.

        Raises:
            TargetError: there is not so much room.
        """
        file_system = os.fstatvfs(self._file.fileno())
        free_size = file_system.f_bavail * file_system.f_frsize
        if free_size < needed_size:
            raise TargetError(
                f"{self.directory}: {needed_size} bytes are needed here for a while, and {free_size} are free; name "
                "another directory by --scratch"
            )

    @property
    def allocated_size(self) -> int:
        """Bytes that were written so far, in whole blocks."""
        return os.fstat(self._file.fileno()).st_blocks * 512

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``.

        Raises:
            TargetError: the disk is full, or fails.
        """
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise TargetError(f"writing to the temporary file failed: {error.strerror}") from error

    def close(self) -> None:
        """Give the room back."""
        self._file.close()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
