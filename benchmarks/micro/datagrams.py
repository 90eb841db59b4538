"""Data datagrams for the loops: as a sender lays them out, and as loopback carries them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.micro.measuring import random_bytes
from protocol import limits, wire
from protocol.symbols import DATA_HEADER

WINDOW = 32
"""Slices whose symbols take turns, as in an interleaved window."""

LOOPBACK = "127.0.0.1"


def window_rows(count: int, symbol_size: int) -> npt.NDArray[np.uint8]:
    """Return ``uint8[count, header + symbol]``: datagrams of one window after another, in wire order."""
    rows = random_bytes(count, wire.DATA_HEADER_SIZE + symbol_size)
    headers = rows[:, : wire.DATA_HEADER_SIZE].view(DATA_HEADER)[:, 0]
    numbers = np.arange(count)
    headers["magic"] = wire.MAGIC
    headers["version"] = wire.VERSION
    headers["kind"] = wire.KIND_DATA
    headers["session"] = 1
    headers["sequence"] = numbers
    headers["object"] = limits.OBJECT_IMAGE
    headers["slice"], headers["esi"] = slice_and_esi(numbers)
    return rows


def slice_and_esi(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the slice and the ESI of the datagrams with these numbers."""
    window, place = np.divmod(numbers, WINDOW * limits.SOURCE_SYMBOLS_DEFAULT)
    esi, row = np.divmod(place, WINDOW)
    return window * WINDOW + row, esi
