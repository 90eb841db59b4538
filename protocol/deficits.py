"""What receivers lack, as runs of slices: the items of NACK and REPAIR_ADVICE, packed and unpacked.

Knows the layout (``SPEC.md``) and the size of an object; must not know who asks, nor why.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocol import limits

Int64Array = npt.NDArray[np.int64]

DEFICIT = np.dtype([("start", ">u4"), ("count", ">u4"), ("deficit", "u1")])
"""``count`` slices from ``start`` on each need ``deficit`` more symbols; ``deficit`` = k of the slice: all of it."""


def encode_deficits(
    slices: Int64Array, deficits: Int64Array, items_max: int = limits.NACK_ITEMS_MAX
) -> tuple[bytes, int]:
    """Pack deficits as runs.

    Args:
        slices: ``int64[n]``, strictly ascending slice numbers.
        deficits: ``int64[n]``, 1 to 255 each.
        items_max: most runs that fit.
    Returns:
        The packed runs, and how many of the ``n`` slices they cover: the rest did not fit.
    """
    if len(slices) == 0:
        return b"", 0
    breaks = np.flatnonzero((np.diff(slices) != 1) | (np.diff(deficits) != 0)) + 1
    starts = np.concatenate(([0], breaks))[:items_max]
    stops = np.concatenate((breaks, [len(slices)]))[:items_max]
    items = np.empty(len(starts), DEFICIT)
    items["start"] = slices[starts]
    items["count"] = stops - starts
    items["deficit"] = deficits[starts]
    return items.tobytes(), int(stops[-1])


def decode_deficits(items: bytes, slice_count: int) -> tuple[Int64Array, Int64Array] | None:
    """Unpack runs into ``(slices, deficits)``, both ``int64[n]``; None if they are malformed or leave the object."""
    if len(items) % DEFICIT.itemsize:
        return None
    runs = np.frombuffer(items, DEFICIT)
    starts = runs["start"].astype(np.int64)
    counts = runs["count"].astype(np.int64)
    # Runs are ascending and disjoint, so their sum is bounded by the object before anything of that size is allocated.
    if np.any(counts == 0) or np.any(runs["deficit"] == 0) or np.any(starts + counts > slice_count):
        return None
    if np.any(starts[1:] < (starts + counts)[:-1]):
        return None
    total = int(counts.sum())
    firsts = np.repeat(starts - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
    return firsts + np.arange(total), np.repeat(runs["deficit"].astype(np.int64), counts)
