"""ISA-L, Intel's erasure kernel, through ctypes: 6 to 18 GB/s of source data a core where numpy reaches 0.3.

Knows the library's two functions, where copies of it live and which copy is newer; must not know whether a person asked
for another kernel (``kernel``). The invariant: an ``IsalKernel`` that exists has computed, in this process and on this
CPU, what the numpy kernel computes; a library that computes anything else is never used.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import pathlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.field import Bytes
from protocol.reed_solomon import Combination, NumpyKernel, SymbolRows, checked_part

_COEFFICIENTS = 256

_CANARIES = (0x00, 0xFF)

_TABLE_ENTRY_SIZE_MAX = 32
"""Bytes that ``ec_init_tables`` may write a coefficient, on every CPU (erasure_code.h)."""

_TILE_SIZE = 256 * 1024
"""Bytes of input computed at a time: a quarter of the level 2 cache of the machines at hand, half of the small ones."""

_TILE_STEP = 64
"""Bytes of the widest vector, so that only the last tile has a tail."""


class IsalUnusableError(Exception):
    """This library cannot be loaded, or does not compute our code; the message says which library and why."""


class IsalKernel:
    """The kernel of one loaded library. Releases the GIL while it computes."""

    def __init__(self, library: str) -> None:
        """Load ``library``, a path or a soname, and test it (about 5 ms). Raises ``IsalUnusableError``."""
        self.library = library
        try:
            handle = ctypes.CDLL(library)
            self._initialise = handle.ec_init_tables
            self._encode = handle.ec_encode_data
        except (OSError, AttributeError) as error:
            raise IsalUnusableError(f"{library} cannot be loaded: {error}") from error
        address, integer = ctypes.c_void_p, ctypes.c_int
        # void ec_init_tables(int k, int rows, uchar *a, uchar *gftbls)
        self._initialise.argtypes = [integer, integer, address, address]
        self._initialise.restype = None
        # void ec_encode_data(int len, int k, int rows, uchar *gftbls, uchar **data, uchar **coding)
        self._encode.argtypes = [integer, integer, integer, address, address, address]
        self._encode.restype = None
        self.version = _version(handle)
        """``(major, minor, patch)``; zeros for a library older than 2.31, which does not tell."""
        self._entries = self._table_entries()
        self._test()

    @property
    def name(self) -> str:
        """``isal``."""
        return "isal"

    def prepare(self, coefficients: Bytes) -> Combination:
        """Return ``coefficients`` uint8[rows, count] expanded into the library's tables (1.5 µs for 6 x 128)."""
        rows, count = coefficients.shape
        assert count > 0
        entry_size = self._entries.shape[1]
        # Room for the largest entries, as the interface asks, so that no path of the library can read beyond.
        tables = np.empty(rows * count * _TABLE_ENTRY_SIZE_MAX, np.uint8)
        filled = tables[: rows * count * entry_size].reshape(rows, count, entry_size)
        self._entries.take(coefficients, axis=0, out=filled, mode="clip")  # "raise" would fill a copy first
        encode = self._encode

        def combine(inputs: SymbolRows, outputs: SymbolRows, part: range | None = None) -> None:
            part = checked_part(rows, count, inputs, outputs, part)
            if not part:
                return
            size = inputs.symbol_size
            matrix = _pointer(tables) + part.start * count * entry_size
            for begin, end in _tiles(size, count):
                inputs.touch(begin, end)
                sources = inputs.addresses + begin if begin else inputs.addresses
                targets = outputs.addresses + begin if begin else outputs.addresses
                encode(end - begin, count, len(part), matrix, _pointer(sources), _pointer(targets))

        return combine

    def _table_entries(self) -> Bytes:
        """Return the expanded form of every coefficient, uint8[256, entry_size].

        An expanded matrix is the expanded coefficients one after the other, row by row, so it can be put together from
        these by one ``take``, at a sixth of the cost of ``ec_init_tables``. How large an entry is depends on version
        and CPU (32 bytes, or 8 with GFNI in newer versions): it is what the library was seen to write. Should a version
        ever order its tables otherwise, ``_test`` refuses it.
        """
        coefficients = np.arange(_COEFFICIENTS, dtype=np.uint8)
        written = [np.full(_COEFFICIENTS * _TABLE_ENTRY_SIZE_MAX, canary, np.uint8) for canary in _CANARIES]
        for tables in written:
            self._initialise(_COEFFICIENTS, 1, _pointer(coefficients), _pointer(tables))
        size, rest = divmod(int(np.count_nonzero(written[0] == written[1])), _COEFFICIENTS)
        if rest or size == 0:
            raise IsalUnusableError(f"{self.library} expands 256 coefficients to an uneven number of bytes")
        return written[0][: _COEFFICIENTS * size].reshape(_COEFFICIENTS, size)

    def _test(self) -> None:
        """Compare with the numpy kernel. Raises ``IsalUnusableError`` on the first byte that differs.

        The library has code of its own for 1 to 6 outputs and puts larger matrices together from these; symbol sizes
        around 64 bytes take its paths for whole vectors, for tails and for less than a vector. Symbols lie at odd
        strides; a byte written beside the outputs is an error as well.
        """
        numbers = random.Random(5510)  # numpy.random would take every command 5 ms to load
        for rows, count, size in (
            (1, 1, 64),
            (2, 3, 65),
            (3, 128, 96),
            (4, 17, 1440),
            (5, 2, 127),
            (6, 64, 160),
            (6, 16, 32),
            (13, 9, 200),
        ):
            matrix = np.frombuffer(numbers.randbytes(rows * count), np.uint8).reshape(rows, count)
            memory = np.frombuffer(bytearray(numbers.randbytes((count + rows) * (size + 33))), np.uint8)
            memory = memory.reshape(count + rows, size + 33)
            expected = memory.copy()
            for kernel, buffer in ((self, memory), (NumpyKernel(), expected)):
                symbols = SymbolRows(buffer[:, 32:-1])
                kernel.prepare(matrix)(symbols.take(np.arange(count)), symbols.take(np.arange(count, count + rows)))
            if not np.array_equal(memory, expected):
                raise IsalUnusableError(f"{self.library} miscalculates {rows} symbols of {size} bytes from {count}")


def find_kernel() -> IsalKernel:
    """Return the kernel of the newest working copy of ISA-L: the system's, or the one in the pyeclib wheel.

    Newest first because versions differ more than sources do: with GFNI, 2.32 encodes twice as fast as 2.30 (measured).
    Among equals the system's is taken. Raises ``IsalUnusableError`` that lists what was tried.
    """
    kernels: list[IsalKernel] = []
    failures: list[str] = []
    for library in libraries():
        try:
            kernels.append(IsalKernel(library))
        except IsalUnusableError as error:
            failures.append(str(error))
    if not kernels:
        raise IsalUnusableError("; ".join(failures))
    return max(kernels, key=lambda kernel: kernel.version)


def libraries() -> Iterator[str]:
    """Yield where ISA-L may be: what the dynamic loader finds, then the copies inside the pyeclib wheel."""
    if sys.platform == "darwin":
        import ctypes.util

        # The loader does not look where Homebrew installs; find_library does.
        yield ctypes.util.find_library("isal") or "libisal.2.dylib"
    else:
        # Interface 2 is the one used here. find_library would ask ldconfig, in a process, what the loader knows.
        yield "libisal.so.2"
    # Not importlib.metadata, which would know the files too: importing it is a twentieth of a command's start.
    wheel = importlib.util.find_spec("pyeclib")
    if wheel is None or wheel.origin is None:
        return
    package = pathlib.Path(wheel.origin).parent
    # The wheel's repair tool puts bundled libraries into pyeclib.libs (Linux) or pyeclib/.dylibs (macOS).
    for folder in (package.with_name("pyeclib.libs"), package / ".dylibs"):
        yield from map(str, sorted(folder.glob("libisal*")))


@functools.cache
def _tiles(symbol_size: int, count: int) -> tuple[tuple[int, int], ...]:
    """Return the byte ranges of a symbol that are computed together.

    ``count`` inputs of such a range stay in the nearer caches (level 2) from when they are touched until the last group
    of outputs has read them.
    """
    tiles = max(1, -(-symbol_size * count // _TILE_SIZE))
    width = max(1, -(-symbol_size // (tiles * _TILE_STEP))) * _TILE_STEP
    return tuple((begin, min(begin + width, symbol_size)) for begin in range(0, symbol_size, width))


def _version(handle: ctypes.CDLL) -> tuple[int, int, int]:
    try:
        packed = handle.isal_get_version()
    except AttributeError:
        return 0, 0, 0
    return packed >> 16, packed >> 8 & 0xFF, packed & 0xFF


def _pointer(array: npt.NDArray[Any]) -> int:
    """Return the address of a writable array's first byte: a third of the time that ``array.ctypes.data`` takes."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
