"""A target disk that takes its time and may fail: how long each write takes, and which write is the last.

Knows bytes and instants; must not know sessions. The disk serves one write after another, as a single queue.
"""

from __future__ import annotations

import dataclasses
import errno
import os

import numpy as np

from protocol import limits
from protocol.errors import UsageError


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """What a disk is like. The default is never what anybody waits for."""

    rate_bytes_per_s: float | None = None
    """Raw bytes written per second; None: without limit."""
    latency_ns: int = 0
    """Added to every write."""
    outlier_share: float = 0.0
    """Share of writes that take ``outlier_ns`` longer: garbage collection of an SSD, a retried sector."""
    outlier_ns: int = 500 * limits.MILLISECOND_NS
    flush_ns: int = limits.MILLISECOND_NS
    """What the final flush takes."""
    eio_at_byte: int | None = None
    """The write that passes this many bytes fails with EIO."""
    enospc_at_byte: int | None = None
    """The write that passes this many bytes fails with ENOSPC."""
    stall: tuple[int, int] | None = None
    """From when until when it stands still, in ns from the beginning: its controller resets, its cache is full."""

    def __post_init__(self) -> None:
        if self.rate_bytes_per_s is not None and not self.rate_bytes_per_s > 0:
            raise UsageError(f"a disk writes more than {self.rate_bytes_per_s:g} bytes a second")
        if min(self.latency_ns, self.outlier_ns, self.flush_ns) < 0 or not 0 <= self.outlier_share <= 1:
            raise UsageError("a disk's times are not negative, and its share of slow writes lies in [0, 1]")
        if self.stall is not None and not 0 <= self.stall[0] <= self.stall[1]:
            raise UsageError(f"a disk stands still from an instant to a later one, not {self.stall}")

    @property
    def fails(self) -> bool:
        """Whether it fails some day."""
        return self.eio_at_byte is not None or self.enospc_at_byte is not None


class DiskQueue:
    """One disk at work."""

    __slots__ = ("_free_ns", "_rng", "_stall", "disk", "written")

    def __init__(self, disk: Disk, rng: np.random.Generator | None, begin_ns: int = 0) -> None:
        """``rng`` is needed only where the disk has outliers; ``begin_ns``: when the beginning was."""
        assert rng is not None or not disk.outlier_share
        self.disk = disk
        self.written = 0
        self._rng = rng
        self._free_ns = 0
        self._stall = range(*(begin_ns + instant for instant in disk.stall or (0, 0)))

    def write(self, size: int, now: int) -> int:
        """Return when a write of ``size`` bytes that is asked for now will be done.

        Raises:
            OSError: EIO or ENOSPC, as the disk's description says.
        """
        disk = self.disk
        self.written += size
        for limit, number in ((disk.eio_at_byte, errno.EIO), (disk.enospc_at_byte, errno.ENOSPC)):
            if limit is not None and self.written > limit:
                raise OSError(number, os.strerror(number))
        taken = disk.latency_ns
        if disk.rate_bytes_per_s is not None:
            taken += int(size / disk.rate_bytes_per_s * limits.SECOND_NS)
        if self._rng is not None and disk.outlier_share and self._rng.random() < disk.outlier_share:
            taken += disk.outlier_ns
        begun = max(self._free_ns, now)
        self._free_ns = begun + taken
        if begun < self._stall.stop and self._free_ns > self._stall.start:
            self._free_ns += self._stall.stop - max(begun, self._stall.start)
        return self._free_ns
