"""How an object becomes slices and symbols: RFC 5052's partition with one fixed k and a short last slice.

An object (the manifest, or the image's stream) is cut into symbols of ``symbol_size`` bytes, the last one padded with
zeros, and every ``source_symbols`` symbols make one slice. Invariant: byte ranges of slices tile the object exactly.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from protocol import limits


@dataclasses.dataclass(frozen=True)
class Partition:
    """The slices of one object of ``size`` bytes. An empty object has no slice."""

    size: int
    symbol_size: int
    source_symbols: int = limits.SOURCE_SYMBOLS_DEFAULT
    """k of every slice but the last."""

    @property
    def slice_size(self) -> int:
        """Bytes of a whole slice."""
        return self.source_symbols * self.symbol_size

    @property
    def repair_symbols(self) -> int:
        """How many repair symbols exist for a slice."""
        return limits.CODE_LENGTH - self.source_symbols

    @functools.cached_property
    def symbol_count(self) -> int:
        """Source symbols of the whole object."""
        return -(-self.size // self.symbol_size)

    @functools.cached_property
    def slice_count(self) -> int:
        """Slices of the object."""
        return -(-self.symbol_count // self.source_symbols)

    @functools.cached_property
    def last_symbols(self) -> int:
        """Source symbols of the last slice."""
        return self.symbol_count - (self.slice_count - 1) * self.source_symbols if self.slice_count else 0

    def symbols_of(self, slices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many source symbols each slice has; ``int64`` in the shape of ``slices``."""
        return np.where(slices == self.slice_count - 1, self.last_symbols, self.source_symbols)

    def slice_range(self, slice_index: int) -> tuple[int, int]:
        """Return the half-open byte range of a slice within the object."""
        start = slice_index * self.slice_size
        return start, min(start + self.slice_size, self.size)

    def slices_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the half-open range of slices that a non-empty byte range touches."""
        return start // self.slice_size, -(-stop // self.slice_size)

    def esi(self, positions: npt.NDArray[np.int64], symbols: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the ESIs at ``positions`` of slices with ``symbols`` source symbols.

        Positions number what can be sent of a slice without a gap: first its source symbols, then every repair symbol,
        then around again. They differ from ESIs in the short last slice, whose padding symbols are never sent.
        """
        turn = positions % (symbols + self.repair_symbols)
        return np.where(turn < symbols, turn, turn - symbols + self.source_symbols)
