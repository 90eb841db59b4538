"""What of an image a target holds already: whether it is worth a look, and which chunks need not come.

Resume after a kill, an older version of the image on the disk, and a target that is complete are one case: chunks whose
bytes, read back now, have the raw digest in the manifest. Blank disks and disks full of something else are told by a
sample, so that they lose no time. The invariant: a chunk is reused only for its bytes; no journal says anything.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from ghostcast.image.readback import TargetReader
from protocol import limits
from receivers.copy import Copy
from receivers.scan import Compared, TargetScan

Int64Array = npt.NDArray[np.int64]

SAMPLE_SPREAD = 16
"""Chunks of the sample that lie evenly over the image. With less than a sixteenth in common a look is not worth it."""

BLANK_PROBES = 32
"""Places at which a target is looked at before the session is joined."""

BLANK_PROBE_SIZE = 64 * limits.KIB


class ReusePolicy(enum.Enum):
    """Whether a target is compared with the manifest before it is written."""

    AUTO = "auto"
    """If a sample of it has something in common with the image."""
    ALWAYS = "always"
    NEVER = "never"


def looks_blank(reader: TargetReader, length: int) -> bool:
    """Return whether a target holds zeros wherever it is looked at. A few milliseconds on a flash disk.

    It decides only how soon a receiver asks: whether chunks are there already is found out anyway.
    """
    last = max(0, length - BLANK_PROBE_SIZE)
    size = BLANK_PROBE_SIZE + 4096  # places are rounded down, and the last one has to reach the end
    places = {place - place % 4096 for place in np.linspace(0, last, BLANK_PROBES).astype(np.int64).tolist()}
    try:
        return not any(np.frombuffer(reader.read(place, size), np.uint8).any() for place in sorted(places))
    except OSError:
        return False


def sample(chunks: Int64Array) -> Int64Array:
    """Choose chunks that tell whether a target holds any of the image, ascending.

    Evenly spread ones find an older version; the first, second, fourth, eighth … find a copy that was interrupted soon,
    for those are written from the front.
    """
    if not len(chunks):
        return chunks
    spread = np.linspace(0, len(chunks) - 1, SAMPLE_SPREAD).astype(np.int64)
    front = 2 ** np.arange(len(chunks).bit_length()) - 1
    return chunks[sorted({*spread.tolist(), *front[front < len(chunks)].tolist()})]


class Reuse:
    """Looks for chunks that need not come: a sample first, then all of them if the sample found any."""

    def __init__(self, copy: Copy, reader: TargetReader | None, policy: ReusePolicy) -> None:
        """Begin, or go on where an earlier session left off.

        Args:
            copy: what is known of the target.
            reader: reads the target; None where there was nothing when this receiver started.
            policy: see there.
        """
        self._copy = copy
        self._reader = reader
        self.scan: TargetScan | None = None
        if reader is None or policy is ReusePolicy.NEVER:
            copy.unchecked = np.empty(0, np.int64)
        elif copy.unchecked is None:
            copy.unchecked = np.flatnonzero(copy.manifest.transferred)
            if policy is ReusePolicy.AUTO and len(copy.unchecked):
                # Small pieces: the first that finds anything ends the sample.
                self._sampling = True
                self.scan = TargetScan(reader, copy.manifest, sample(copy.unchecked), forgiving=True, title="sampling")
                return
        self._sampling = False
        self._begin_full()

    def _begin_full(self) -> None:
        copy = self._copy
        assert copy.unchecked is not None
        left = copy.unchecked[~copy.touched[copy.unchecked] & ~copy.right[copy.unchecked]]
        if self._reader is None or not len(left):
            self.scan = None
            return
        self.scan = TargetScan(self._reader, copy.manifest, left, forgiving=True, title="checking")

    @property
    def checking(self) -> bool:
        """Whether it is not known yet what the target holds."""
        return self.scan is not None

    @property
    def sampling(self) -> bool:
        """Whether it is still open whether the whole target is worth a look."""
        return self.scan is not None and self._sampling

    def take(self, compared: Compared) -> Int64Array:
        """Take a result in. Returns the chunks that the target held before this receiver began to write them."""
        copy, scan = self._copy, self.scan
        if scan is None or compared.scan is not scan:
            return np.empty(0, np.int64)
        scan.take(compared)
        # What has been written meanwhile is right now, and says nothing of what was there before.
        found = compared.chunks[compared.right & ~copy.touched[compared.chunks]]
        if self._sampling:
            if len(found):
                self._sampling = False
                self._begin_full()
            elif scan.over:
                copy.unchecked = np.empty(0, np.int64)
                self.scan = None
        elif scan.over:
            copy.unchecked = np.empty(0, np.int64)
            self.scan = None
        return found
