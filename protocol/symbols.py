"""A batch of data datagrams as columns: their headers taken apart once, before anything is decided about them.

Knows the header's layout and nothing of any receiver, so that what many receivers are sent can be taken apart once for
all of them. Invariant: columns of one batch have the same length and the order of arrival.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from protocol import wire

DATA_HEADER = np.dtype(
    [
        ("magic", ">u2"),
        ("version", "u1"),
        ("kind", "u1"),
        ("session", ">u4"),
        ("sent_us", ">u4"),
        ("sequence", ">u4"),
        ("slice", ">u4"),
        ("window_left", ">u2"),
        ("object", "u1"),
        ("esi", "u1"),
        ("authentication", ">u8"),
    ]
)
"""Before every symbol."""
assert DATA_HEADER.itemsize == wire.DATA_HEADER_SIZE

Int64Array = npt.NDArray[np.int64]

KEY_BITS = 8
"""An ESI takes so many bits of a key."""

_WRAP = 1 << 32


@dataclasses.dataclass(frozen=True, slots=True)
class SymbolBatch:
    """Symbols of one object that arrived together. The bounds hold for every symbol, but need not be tight."""

    object_id: int
    first_slice: int
    stop_slice: int
    """Every slice number lies in ``[first_slice, stop_slice)``."""
    esi_max: int
    keys: Int64Array
    """``int64[n]``: ``(slice - first_slice) << KEY_BITS | esi``."""
    sequences: Int64Array
    """``int64[n]``: as on the wire, 32 bits."""
    window_end: int | None
    """Sequence number, 32 bits and perhaps one more, at which the window of all of them ends; None: see ``left``."""
    left: Int64Array | None
    """``int64[n]``: datagrams that follow in the window of each; None where ``window_end`` says it."""

    def __len__(self) -> int:
        """Return how many symbols there are."""
        return len(self.keys)

    def take(self, places: Int64Array) -> SymbolBatch:
        """Return some of the symbols, in that order."""
        return SymbolBatch(
            self.object_id,
            self.first_slice,
            self.stop_slice,
            self.esi_max,
            self.keys[places],
            self.sequences[places],
            self.window_end,
            None if self.left is None else self.left[places],
        )

    @property
    def slices(self) -> Int64Array:
        """``int64[n]``: slice numbers."""
        return (self.keys >> KEY_BITS) + self.first_slice

    @property
    def esis(self) -> Int64Array:
        """``int64[n]``."""
        return self.keys & ((1 << KEY_BITS) - 1)


def from_headers(headers: npt.NDArray[np.void]) -> list[tuple[SymbolBatch, Int64Array | None]]:
    """Take headers apart, object by object.

    Args:
        headers: ``DATA_HEADER[n]`` of one session, at least one; any values.
    Returns:
        For each object that occurs, its symbols and which of the headers they are (None: all, in order).
    """
    objects = headers["object"]
    first = int(objects[0])
    if bool((objects == first).all()):
        return [(_columns(headers, first), None)]
    parts: list[tuple[SymbolBatch, Int64Array | None]] = []
    for object_id in sorted(set(objects.tolist())):
        places = np.flatnonzero(objects == object_id)
        parts.append((_columns(headers[places], object_id), places))
    return parts


def _columns(headers: npt.NDArray[np.void], object_id: int) -> SymbolBatch:
    slices = headers["slice"].astype(np.int64)
    esis = headers["esi"].astype(np.int64)
    sequences = headers["sequence"].astype(np.int64)
    left = headers["window_left"].astype(np.int64)
    batch = from_symbols(object_id, slices, esis)
    ends = sequences + left
    end = int(ends[0])
    same = bool((ends == end).all())
    return dataclasses.replace(
        batch, sequences=sequences, window_end=end + 1 if same else None, left=None if same else left
    )


def from_symbols(object_id: int, slices: Int64Array, esis: Int64Array) -> SymbolBatch:
    """Return a batch of which only the symbols are known, not their place in the stream."""
    first = int(slices.min())
    keys = ((slices - first) << KEY_BITS) | esis
    return SymbolBatch(object_id, first, int(slices.max()) + 1, int(esis.max()), keys, _NONE, None, None)


_NONE: Int64Array = np.empty(0, np.int64)


def unwrapped(batch: SymbolBatch, reference: int) -> tuple[Int64Array | int, int, int]:
    """Extend a batch's sequence numbers to 64 bits.

    Args:
        batch: with its sequence numbers.
        reference: a recent 64-bit sequence number, not further than 2**31 from any of them.
    Returns:
        Where the window of each symbol ends (one number where it is the same for all, else ``int64[n]``), and the
        lowest and the highest sequence number.
    """
    low, high = int(batch.sequences.min()), int(batch.sequences.max())
    base = int(unwrap_sequence(np.array([low]), reference)[0])
    if batch.window_end is not None and abs(base - reference) + (high - low) < _WRAP // 2:
        return batch.window_end + (base - low), base, base + (high - low)
    sequences = unwrap_sequence(batch.sequences, reference)
    left = batch.left
    ends = sequences + 1 + (left if left is not None else (batch.window_end or 0) - 1 - batch.sequences)
    return ends, int(sequences.min()), int(sequences.max())


def unwrap_sequence(low: Int64Array, reference: int) -> Int64Array:
    """Extend 32-bit wire sequence numbers to the 64-bit ones nearest to ``reference``.

    Args:
        low: ``int64[n]``, each in ``[0, 2**32)``.
        reference: a recent 64-bit sequence number; numbers within 2**31 of it are recovered exactly.
    """
    difference = (low - reference) & 0xFFFFFFFF
    return reference + np.where(difference >= 1 << 31, difference - (1 << 32), difference)
