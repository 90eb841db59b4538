"""Reading a target back, piece by piece, on the worker threads: for reuse, for ``--verify read``, for ``verify``.

The ingest thread owns a ``TargetScan``: it takes pieces of work out of it, as many as keep the workers busy and no
more, so that a chunk that arrives from the network waits for one piece at most; and it puts their results back in.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ghostcast.image.readback import TargetReader, batches, chunk_ranges, raw_bytes, read_error, right_chunks
from protocol import limits
from protocol.manifest import Manifest

Int64Array = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """One piece of work is done."""

    scan: TargetScan
    chunks: Int64Array
    right: npt.NDArray[np.bool_]
    """``bool[n]``: which of the chunks the target holds, byte for byte."""


class TargetScan:
    """Compares some chunks of a target with the manifest."""

    def __init__(
        self, reader: TargetReader, manifest: Manifest, chunks: Int64Array, *, forgiving: bool, title: str
    ) -> None:
        """Plan it; nothing is read yet.

        Args:
            reader: the target.
            manifest: what it is compared with.
            chunks: ``int64[n]``, ascending.
            forgiving: a chunk that cannot be read is wrong; otherwise it is a TargetError.
            title: what is being done, for people.
        """
        self.title = title
        self.bytes_total = raw_bytes(manifest, chunks)
        self.bytes_done = 0
        self.begun_ns = time.monotonic_ns()
        self._reader = reader
        self._manifest = manifest
        self._forgiving = forgiving
        self._batches = batches(manifest, chunks)
        # One ahead, so that it is known with the last piece that it is the last.
        self._next = next(self._batches, None)
        self._outstanding = 0
        self._wrong: list[Int64Array] = []

    def take_jobs(self, outstanding_max: int) -> list[Callable[[], Compared]]:
        """Return work to hand to the workers now, so that ``outstanding_max`` pieces are under way."""
        jobs: list[Callable[[], Compared]] = []
        while self._outstanding < outstanding_max and self._next is not None:
            self._outstanding += 1
            jobs.append(self._job(self._next))
            self._next = next(self._batches, None)
        return jobs

    def _job(self, chunks: Int64Array) -> Callable[[], Compared]:
        def job() -> Compared:
            try:
                right = right_chunks(self._reader, self._manifest, chunks, forgiving=self._forgiving)
            except OSError as error:
                raise read_error(self._reader.path, error) from error
            return Compared(self, chunks, right)

        return job

    def take(self, compared: Compared) -> None:
        """Count one result."""
        self._outstanding -= 1
        self.bytes_done += raw_bytes(self._manifest, compared.chunks)
        if not compared.right.all():
            self._wrong.append(compared.chunks[~compared.right])

    @property
    def over(self) -> bool:
        """Whether every piece that was handed out is back, and no more will be."""
        return self._next is None and not self._outstanding

    @property
    def rate(self) -> float:
        """Bytes per second so far."""
        return self.bytes_done * limits.SECOND_NS / max(time.monotonic_ns() - self.begun_ns, 1)

    @property
    def wrong_ranges(self) -> list[tuple[int, int]]:
        """The raw ranges that were found wrong so far."""
        if not self._wrong:
            return []
        return chunk_ranges(self._manifest, np.sort(np.concatenate(self._wrong)))
