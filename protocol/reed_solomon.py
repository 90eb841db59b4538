"""The erasure code: Reed-Solomon over GF(2^8), any ``k`` of 255 symbols restore a slice (RFC 5510 §8).

A slice's ``k`` source symbols are, byte column by byte column, the values at alpha^0 .. alpha^(k-1) of one polynomial
of degree < k. Repair symbol ESI j (k <= j < 255) is its value at alpha^j. Two properties follow, and the protocol rests
on both:

- *MDS*: any k symbols determine the polynomial, so a receiver needs a count of symbols, never particular ones;
- *prefix*: a repair symbol does not depend on how many are made, so more can be made later (type-II hybrid ARQ).

A short slice of k' < k source symbols is the same code with zero symbols at ESI k' .. k-1 that are never sent. They add
nothing to any sum, so their columns are left out of every matrix; repair symbols still start at ESI k.

Knows matrices and the shape of a kernel; must not know where buffers come from or how a native library is loaded
(``ghostcast.fec``). The invariant: a coefficient is only ever computed here, so that every kernel computes one code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from protocol import field, limits
from protocol.erasures import Erasures, Indices
from protocol.field import Bytes, Logs

PREPARED_MATRICES_MAX = 16
"""Encoding matrices a codec keeps prepared: the first pass uses one or two, repair passes vary. At k = 128 a matrix for
all 127 repair symbols takes 0.5 MB prepared for ISA-L and 4 MB for numpy, which bounds the memory to 64 MB."""

_CACHE_LINE_SIZE = 64


class SymbolRows:
    """A list of equally long symbols, each somewhere in memory that numpy arrays own.

    Kernels read and write symbols where they lie: in a strided transmit buffer, in a ring of slices, in a pool of
    repair symbols. A native kernel takes ``addresses``, the fallback takes ``views``; both mean the same bytes.
    Addresses stay valid because the rows hold on to their buffers.
    """

    __slots__ = ("_buffer", "_rows", "_views", "addresses", "symbol_size", "writable")

    addresses: npt.NDArray[np.uint64]
    """uint64[count]: where each symbol begins."""
    symbol_size: int
    writable: bool

    def __init__(self, buffer: Bytes) -> None:
        """Take every row of ``buffer`` uint8[count, symbol_size] as a symbol; rows may lie at any stride.

        About 3 µs: made once per buffer, not once per slice. Raises ``ValueError`` unless the bytes of a row are
        contiguous and the rows in the order of memory.
        """
        if (
            buffer.dtype != np.uint8
            or buffer.ndim != 2
            or (buffer.size > 0 and buffer.shape[1] > 1 and buffer.strides[1] != 1)
            or (buffer.size > 0 and buffer.shape[0] > 1 and buffer.strides[0] < 0)
        ):
            raise ValueError(
                f"symbols want uint8[count, symbol_size] with contiguous rows, not {buffer.dtype}{list(buffer.shape)}"
                f" with strides {buffer.strides}"
            )
        start = buffer.__array_interface__["data"][0]
        self.addresses = start + np.arange(buffer.shape[0], dtype=np.uint64) * np.uint64(buffer.strides[0])
        self.symbol_size = buffer.shape[1]
        self.writable = buffer.flags.writeable
        self._buffer = buffer
        self._rows: Indices | slice = slice(0, buffer.shape[0])
        self._views: Callable[[list[int]], list[Bytes]] = lambda wanted: [buffer[row] for row in wanted]

    def __len__(self) -> int:
        return len(self.addresses)

    def take(self, indices: npt.ArrayLike) -> SymbolRows:
        """Return the symbols at ``indices`` int[n], in that order. About 1 µs; raises ``IndexError`` out of range."""
        picked = np.array(indices, np.intp)
        views = self._views

        def picked_views(wanted: list[int]) -> list[Bytes]:
            return views(picked[wanted].tolist())

        rows = picked + self._rows.start if isinstance(self._rows, slice) else self._rows.take(picked)
        return self._derived(self.addresses.take(picked), self.writable, rows, picked_views)

    def run(self, part: range) -> SymbolRows:
        """Return consecutive symbols. Two thirds of what ``take`` costs; raises ``IndexError`` out of range."""
        start, stop = part.start, part.stop
        if not (0 <= start <= stop <= len(self) and part.step == 1):
            raise IndexError(f"there are no symbols {part} among {len(self)}")
        whole, views = self._rows, self._views
        rows = slice(whole.start + start, whole.start + stop) if isinstance(whole, slice) else whole[start:stop]

        def run_views(wanted: list[int]) -> list[Bytes]:
            return views([start + index for index in wanted])

        return self._derived(self.addresses[start:stop], self.writable, rows, run_views)

    def substituted(self, positions: npt.ArrayLike, others: SymbolRows) -> SymbolRows:
        """Return these symbols with ``others[i]`` in the place of number ``positions[i]``. About 1 µs."""
        if others.symbol_size != self.symbol_size:
            raise ValueError(f"symbols of {others.symbol_size} bytes cannot stand among symbols of {self.symbol_size}")
        replaced = np.array(positions, np.intp)
        addresses = self.addresses.copy()
        addresses[replaced] = others.addresses
        count, views = len(addresses), self._views

        def substituted_views(wanted: list[int]) -> list[Bytes]:
            every = views(list(range(count)))
            for position, view in zip(replaced.tolist(), others.views(), strict=True):
                every[position] = view
            return [every[index] for index in wanted]

        return self._derived(addresses, self.writable and others.writable, self._rows, substituted_views)

    def views(self) -> list[Bytes]:
        """Return each symbol as a view uint8[symbol_size]. Slow: one Python object a symbol, for kernels without C."""
        return self._views(list(range(len(self))))

    def touch(self, begin: int, end: int) -> None:
        """Read one byte of every cache line of bytes [begin, end) of the symbols, one symbol after the other.

        A kernel walks all symbols at once, a line of each in turn, which hides memory's latency badly: over 128 symbols
        that were last used a window ago, encoding takes 59 µs by itself, and 31 µs after this (measured; it costs 4 µs
        where the lines are near). Substitutes, few and elsewhere, are not read.
        """
        np.bitwise_or.reduce(self._buffer[self._rows, begin:end:_CACHE_LINE_SIZE], axis=None)

    def _derived(
        self,
        addresses: npt.NDArray[np.uint64],
        writable: bool,
        rows: Indices | slice,
        views: Callable[[list[int]], list[Bytes]],
    ) -> SymbolRows:
        derived = object.__new__(SymbolRows)
        derived.addresses = addresses
        derived.symbol_size = self.symbol_size
        derived.writable = writable
        derived._buffer = self._buffer
        derived._rows = rows
        derived._views = views
        return derived


class Combination(Protocol):
    """One matrix uint8[rows, count], made ready to be applied many times."""

    def __call__(self, inputs: SymbolRows, outputs: SymbolRows, part: range | None = None) -> None:
        """Set ``outputs[i]`` to the sum over m of ``matrix[part[i], m] * inputs[m]``, byte column by byte column.

        ``inputs`` holds ``count`` symbols; ``outputs`` one for each row of ``part``, consecutive rows of the matrix, or
        all of them if left out. No output may overlap an input. Raises ``ValueError`` if the shapes do not match or an
        output is read-only; then nothing was written. May be called from several threads at once on different outputs.
        """


class Kernel(Protocol):
    """What multiplies symbols by matrices. All kernels compute the same bytes; they differ in speed."""

    @property
    def name(self) -> str:
        """A word for people and reports: which kernel this is."""

    def prepare(self, coefficients: Bytes) -> Combination:
        """Return ``coefficients`` uint8[rows, count >= 1] in the form this kernel multiplies by; it is copied."""


def checked_part(rows: int, count: int, inputs: SymbolRows, outputs: SymbolRows, part: range | None) -> range:
    """Return the rows of a matrix [rows, count] that map ``inputs`` to ``outputs``.

    Raises ``ValueError`` unless they do. Every kernel calls this first: what it does next is write to addresses.
    """
    chosen = range(rows) if part is None else part
    if not (0 <= chosen.start <= chosen.stop <= rows and chosen.step == 1):
        raise ValueError(f"a {rows} x {count} matrix has no {chosen} of consecutive rows")
    if len(inputs) != count or len(outputs) != len(chosen) or inputs.symbol_size != outputs.symbol_size:
        raise ValueError(
            f"a {len(chosen)} x {count} matrix wants {count} symbols in and {len(chosen)} out, of one size;"
            f" found {len(inputs)} of {inputs.symbol_size} bytes and {len(outputs)} of {outputs.symbol_size} bytes"
        )
    if not outputs.writable:
        raise ValueError("the symbols to be computed lie in a read-only buffer")
    return chosen


class NumpyKernel:
    """The kernel without C: one table lookup for eight output symbols at a time.

    Every input byte is looked up in a table uint64[256] whose entries hold that byte's eight products, so that a
    lookup, the slow part in numpy, is paid once for eight outputs.
    """

    _LANES = 8

    @property
    def name(self) -> str:
        """``numpy``."""
        return "numpy"

    def prepare(self, coefficients: Bytes) -> Combination:
        """Return the lookup tables of ``coefficients`` uint8[rows, count]: 2 KiB for every eight rows of a column."""
        rows, count = coefficients.shape
        assert count > 0
        groups = -(-rows // self._LANES)
        # [group, column, byte, lane]: the lanes of one byte are one uint64
        products = np.zeros((groups, count, field.MULTIPLY.shape[0], self._LANES), np.uint8)
        for row in range(rows):
            products[row // self._LANES, :, :, row % self._LANES] = field.MULTIPLY.take(coefficients[row], axis=0)
        tables = products.view(np.uint64)[..., 0]

        def combine(inputs: SymbolRows, outputs: SymbolRows, part: range | None = None) -> None:
            part = checked_part(rows, count, inputs, outputs, part)
            first = part.start // self._LANES
            needed = tables[first : -(-part.stop // self._LANES)]
            sums = np.zeros((len(needed), inputs.symbol_size), np.uint64)
            for column, symbol in enumerate(inputs.views()):
                for group, table in enumerate(needed):
                    sums[group] ^= table[column].take(symbol)
            lanes = sums.view(np.uint8).reshape(len(needed), inputs.symbol_size, self._LANES)
            for row, output in zip(part, outputs.views(), strict=True):
                output[:] = lanes[row // self._LANES - first, :, row % self._LANES]

        return combine


class Code:
    """The code for one ``k``: its generator rows, and the matrix that undoes any pattern of erasures."""

    def __init__(self, source_symbols: int = limits.SOURCE_SYMBOLS_DEFAULT) -> None:
        """Compute the generator of the code with ``source_symbols`` = k, 1 .. 254 (under 1 ms)."""
        if not 1 <= source_symbols < limits.CODE_LENGTH:
            raise ValueError(f"k must be 1 .. {limits.CODE_LENGTH - 1}, not {source_symbols}")
        self.source_symbols = source_symbols
        # log Π (x_p - x_l) over the source points l != p, for every point p of the code
        self._source_products: Logs = field.DIFFERENCE_LOG[:, :source_symbols].sum(axis=1, dtype=np.int16) % field.ORDER
        self._slots: Indices = np.arange(source_symbols, dtype=np.intp)
        self.generator = self._generator()
        """uint8[255 - k, k], read-only: row i holds the coefficients of repair symbol ESI k + i."""

    @property
    def repair_symbols(self) -> int:
        """How many different repair symbols exist: 255 - k."""
        return limits.CODE_LENGTH - self.source_symbols

    def decode_matrix(self, erasures: Erasures, count: int | None = None) -> Bytes:
        """Return uint8[e, count]: for every erasure, what restores it from ``count`` known symbols of its slice.

        The slices have ``count`` source symbols: k' of a short slice, k if left out. Column m stands for source symbol
        m where that is known; the columns of a slice's erased symbols stand for their repair symbols instead. 28 µs for
        a slice by itself, 110 µs for sixteen (measured).

        Lagrange interpolation in logarithms (no matrix is inverted): with S the known points of a slice and
        W(x) = Π (x - x_l) over l in S, the coefficient of x_m in the value at x_i is W(x_i) / ((x_i - x_m) W'(x_m)).
        """
        known = self._slots[:count]
        if not len(erasures):
            return np.empty((0, len(known)), np.uint8)
        erased, repair_esis, slices, starts = erasures.erased, erasures.repair_esis, erasures.slices, erasures.starts
        assert int(erased.max()) < len(known)
        assert int(repair_esis.min()) >= self.source_symbols
        points = np.tile(known, (len(erasures), 1))
        points[slices, erased] = repair_esis
        differences = field.DIFFERENCE_LOG.take(erased, axis=0)
        # For a point i outside S this is log W(x_i), for a point m of S it is log W'(x_m): S is the source points
        # without the erased and with the repair points, and a point's factor with itself counts as 1. No sum
        # leaves int16: a point's differences to others are distinct, and all logarithms add up to 32385.
        weights = np.add.reduceat(field.DIFFERENCE_LOG.take(repair_esis, axis=0), starts, axis=0, dtype=np.int16)
        weights -= np.add.reduceat(differences, starts, axis=0, dtype=np.int16)
        weights += self._source_products
        weights %= field.ORDER
        own = weights[slices, erased]
        differences += weights.take(slices, axis=0)
        rows = np.arange(0, differences.size, limits.CODE_LENGTH)
        logs = own[:, None] - differences.take(points.take(slices, axis=0) + rows[:, None])
        matrix: Bytes = _EXP_FROM_NEGATIVE.take(logs)
        return matrix

    def _generator(self) -> Bytes:
        """Evaluate the Lagrange polynomials of the source points at every repair point."""
        k = self.source_symbols
        logs = self._source_products[k:, None] - field.DIFFERENCE_LOG[k:, :k] - self._source_products[None, :k]
        generator: Bytes = field.EXP[logs % field.ORDER]
        generator.flags.writeable = False
        return generator


_EXP_FROM_NEGATIVE: Bytes = np.tile(field.EXP, 2)
"""uint8[510]: the powers of alpha twice over, so that an exponent from -508 to 254 finds its power: a negative one
counts from the end, which saves a pass that would reduce the exponents modulo 255."""


class Codec:
    """A code and the kernel that computes it: what an engine encodes and decodes slices with.

    May be shared by threads, as long as no two work on the same output symbols.
    """

    def __init__(self, code: Code, kernel: Kernel) -> None:
        self.code = code
        self.kernel = kernel
        self._encoder = functools.lru_cache(maxsize=PREPARED_MATRICES_MAX)(self._prepare_encoder)

    def encode(self, sources: SymbolRows, repairs: SymbolRows, first_esi: int | None = None) -> None:
        """Write the repair symbols ESI ``first_esi``, ``first_esi + 1``, ... (from k, if left out) into ``repairs``.

        ``sources`` holds a slice's k' <= k source symbols; fewer than k is a short slice. As every byte column is coded
        by itself, one "symbol" may as well be one symbol number's rows of a whole window, headers and all: one call
        then encodes the window, and the headers of the repair rows are written afterwards.

        Raises ``ValueError`` for symbols that the code does not have, and what a ``Combination`` raises.
        """
        first = self.code.source_symbols if first_esi is None else first_esi
        self._encoder(first, len(repairs), len(sources))(sources, repairs)

    def decode(self, slices: Sequence[SymbolRows], repairs: SymbolRows, erasures: Erasures) -> None:
        """Restore the erased source symbols of some slices in place.

        ``slices`` holds the k' source symbols of each slice of ``erasures``, equally many, the erased ones unknown.
        ``repairs`` holds the repair symbols of ``erasures.repair_esis``, in that order. Costs what encoding as many
        repair symbols costs, 15 µs a slice and 60 µs more. Raises what a ``Combination`` raises, and ``ValueError`` if
        there are not as many slices and repair symbols as erasures.
        """
        if len(slices) != len(erasures) or len(repairs) != len(erasures.erased):
            raise ValueError(
                f"{len(erasures.erased)} erasures in {len(erasures)} slices want so many repair symbols and slices;"
                f" found {len(repairs)} and {len(slices)}"
            )
        if not len(erasures):
            return
        restore = self.kernel.prepare(self.code.decode_matrix(erasures, len(slices[0])))
        for symbols, start, count in zip(slices, erasures.starts.tolist(), erasures.counts.tolist(), strict=True):
            part = range(start, start + count)
            erased = erasures.erased[start : part.stop]
            restore(symbols.substituted(erased, repairs.run(part)), symbols.take(erased), part)

    def _prepare_encoder(self, first_esi: int, repair_count: int, source_count: int) -> Combination:
        k = self.code.source_symbols
        if not (1 <= source_count <= k and k <= first_esi <= first_esi + repair_count <= limits.CODE_LENGTH):
            raise ValueError(
                f"the code has {k} source symbols and repair symbols {k} .. {limits.CODE_LENGTH - 1};"
                f" asked for {first_esi} .. {first_esi + repair_count - 1} from {source_count} source symbols"
            )
        return self.kernel.prepare(self.code.generator[first_esi - k : first_esi - k + repair_count, :source_count])
