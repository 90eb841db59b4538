"""The copy under way: what is known of a target, chunk by chunk, over all the sessions that it takes.

Outlives a session: when a sender dies and comes back, the next session goes on from here. Owned by the ingest thread,
except that a worker notes a chunk as right when it has written it, even if nobody waits for that any more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghostcast.image.fit import Fit
from ghostcast.image.readback import raw_bytes
from protocol.errors import GhostcastError
from protocol.manifest import Manifest
from receivers.chunks import ChunkWriter

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]


class Copy:
    """What is known of one target with respect to one image."""

    def __init__(self, manifest: Manifest) -> None:
        """Begin with nothing known."""
        self.manifest = manifest
        self.writer: ChunkWriter | None = None
        """Writes chunks to the target; None where it is only read."""
        self.fit: Fit | None = None
        """Fits a disk to the size of the target when everything is on it."""
        self.touched: BoolArray = np.zeros(manifest.chunk_count, np.bool_)
        """Chunks that arrived here and were handed to a worker: what the target held there is of no use any more."""
        self.right: BoolArray = np.zeros(manifest.chunk_count, np.bool_)
        """Chunks that are on the target, byte for byte: written here, or found there."""
        self.unchecked: Int64Array | None = None
        """Chunks whose bytes on the target may be of use and were not looked at yet; None: not decided."""
        self.prepared_count = 0
        """Steps of ``ChunkWriter.preparing`` that are done."""
        self.prepared = False
        """Whether all of them are: the ranges that are to read as zeros do so."""
        self.failure: GhostcastError | None = None
        """Why it can never be finished. The kernel tells once that it could not keep what was written: a second flush
        succeeds, and so would a second session's."""
        self.finished = False
        """Whether everything is right, flushed, and read back if that was asked for."""

    @property
    def wanted(self) -> BoolArray:
        """``bool[chunk_count]``: chunks that have to come, as far as is known."""
        return self.manifest.transferred & ~self.right

    @property
    def bytes_done(self) -> int:
        """Raw bytes that need not come (any more)."""
        return self.manifest.raw_size - raw_bytes(self.manifest, np.flatnonzero(self.wanted))

    @property
    def written(self) -> Int64Array:
        """Chunks that were received and written."""
        return np.flatnonzero(self.right & self.touched)

    @property
    def reused_count(self) -> int:
        """Chunks that the target held already."""
        return int(np.count_nonzero(self.right & ~self.touched))
