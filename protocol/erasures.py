"""What slices lack, and which repair symbols stand in for it, for many slices at once.

A slice takes a few microseconds to restore and, done by itself, ten times that to prepare: so slices that became
complete together are prepared together, as flat columns. Knows numbers; must not know where a symbol lies. The
invariant: a slice has as many stand-ins as it lacks symbols, and lacks at least one.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]


@dataclasses.dataclass(frozen=True, slots=True)
class Erasures:
    """The erasures of n slices of equally many source symbols; the columns go slice by slice."""

    counts: Indices
    """``intp[n]``: how many symbols each slice lacks, at least one."""
    erased: Indices
    """``intp[e]``: the source ESIs that are missing; ascending in a slice, none twice."""
    repair_esis: Indices
    """``intp[e]``: a repair ESI for each, none twice in a slice."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` unless the columns belong together."""
        total = int(self.counts.sum())
        if len(self.erased) != total or len(self.repair_esis) != total or (len(self) and self.counts.min() < 1):
            raise ValueError(
                f"{self.counts.tolist()} erasures in {len(self)} slices want so many symbols, at least one a slice;"
                f" found {len(self.erased)} and {len(self.repair_esis)} to stand in for them"
            )

    def __len__(self) -> int:
        """Return how many slices there are."""
        return len(self.counts)

    @classmethod
    def of_slice(cls, erased: npt.ArrayLike, repair_esis: npt.ArrayLike) -> Self:
        """Return the erasures of one slice; of none, if nothing is erased."""
        missing = np.array(erased, np.intp)
        return cls(np.full(min(1, len(missing)), len(missing)), missing, np.array(repair_esis, np.intp))

    @classmethod
    def of_bits(cls, have: npt.NDArray[np.uint8], source_symbols: int, count: int) -> Self:
        """Return what slices lack of which enough is held.

        Args:
            have: ``uint8[n, esis]``: 1 where a slice's symbol is held, else 0; at least ``count`` ones of its own.
            source_symbols: k.
            count: k' <= k, the source symbols that the slices have.
        """
        of_slice, erased = np.nonzero(have[:, :count] == 0)
        counts = np.bincount(of_slice, minlength=len(have))
        spare_of, spare = np.nonzero(have[:, source_symbols:])
        # The first of each slice's repair symbols, as many as it lacks.
        spares = np.bincount(spare_of, minlength=len(have))
        rank = np.arange(len(spare)) - np.repeat(np.cumsum(spares) - spares, spares)
        return cls(counts, erased, spare[rank < np.repeat(counts, spares)] + source_symbols)

    @property
    def starts(self) -> Indices:
        """``intp[n]``: where each slice's columns begin."""
        starts: Indices = np.cumsum(self.counts) - self.counts
        return starts

    @property
    def slices(self) -> Indices:
        """``intp[e]``: the slice, 0 .. n - 1, that each column entry is of."""
        slices: Indices = np.repeat(np.arange(len(self.counts)), self.counts)
        return slices
