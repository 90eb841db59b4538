"""Goal: every copy of ISA-L on this machine computes our code, and a library that does not is never used.

Method: the copies found here against the numpy kernel; then libraries written in Python, right and wrong in one way
each, in the place of a loaded one.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ghostcast.fec import isal
from ghostcast.fec.isal import IsalKernel, IsalUnusableError
from protocol import field
from protocol.erasures import Erasures
from protocol.reed_solomon import Code, Codec, Kernel, NumpyKernel, SymbolRows

Bytes = npt.NDArray[np.uint8]


def working_kernels() -> dict[str, IsalKernel]:
    kernels = {}
    for library in isal.libraries():
        try:
            kernels[library] = IsalKernel(library)
        except IsalUnusableError:
            continue
    return kernels


KERNELS = working_kernels()

each_copy = pytest.mark.parametrize(
    "kernel", KERNELS.values(), ids=[Path(library).name.partition(".")[0] for library in KERNELS]
)


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the pyeclib wheel carries ISA-L for Linux on x86-64 and aarch64 only",
)
def test_a_copy_is_found_where_the_wheel_brings_one() -> None:
    assert isal.find_kernel().name == "isal"
    assert any("pyeclib" in library for library in KERNELS)


@each_copy
@pytest.mark.parametrize("symbol_size", [1, 31, 63, 64, 65, 96, 1440, 8928])
@pytest.mark.parametrize(("rows", "count"), [(1, 1), (6, 128), (7, 5), (16, 128), (127, 128)])
def test_every_copy_computes_what_numpy_computes(kernel: IsalKernel, rows: int, count: int, symbol_size: int) -> None:
    random = np.random.default_rng(symbol_size)
    matrix = random.integers(0, 256, (rows, count), np.uint8)
    memory = random.integers(0, 256, (count + rows, symbol_size + 40), np.uint8)
    expected = memory.copy()
    combine(kernel, matrix, memory[:count, 32:-8], memory[count:, 32:-8])
    combine(NumpyKernel(), matrix, expected[:count, 32:-8], expected[count:, 32:-8])
    assert np.array_equal(memory, expected)


@each_copy
def test_wide_rows_are_computed_in_tiles_without_a_seam(kernel: IsalKernel) -> None:
    size = 4 * isal._TILE_SIZE // 16 + 100
    assert len(isal._tiles(size, 16)) > 4
    random = np.random.default_rng(1)
    matrix, memory = random.integers(0, 256, (3, 16), np.uint8), random.integers(0, 256, (19, size), np.uint8)
    expected = memory.copy()
    combine(kernel, matrix, memory[:16], memory[16:])
    combine(NumpyKernel(), matrix, expected[:16], expected[16:])
    assert np.array_equal(memory, expected)


@pytest.mark.parametrize(
    ("symbol_size", "count"), [(0, 128), (1, 1), (64, 128), (1440, 128), (8928, 128), (47104, 128)]
)
def test_tiles_cover_a_symbol_once(symbol_size: int, count: int) -> None:
    tiles = isal._tiles(symbol_size, count)
    assert [byte for begin, end in tiles for byte in range(begin, end)] == list(range(symbol_size))
    assert all((end - begin - 64) * count <= isal._TILE_SIZE for begin, end in tiles)


@each_copy
def test_a_slice_goes_through_encode_and_decode(kernel: IsalKernel) -> None:
    codec = Codec(Code(128), kernel)
    symbols = np.random.default_rng(5).integers(0, 256, (255, 1440), np.uint8)
    codec.encode(SymbolRows(symbols[:128]), SymbolRows(symbols[128:]))
    spoilt = symbols.copy()
    erased, repairs = np.arange(1, 128), np.arange(128, 255)
    spoilt[erased] = 0
    codec.decode([SymbolRows(spoilt[:128])], SymbolRows(spoilt[128:]), Erasures.of_slice(erased, repairs))
    assert np.array_equal(spoilt, symbols)


@each_copy
def test_a_part_of_a_matrix_is_applied_by_itself(kernel: IsalKernel) -> None:
    random = np.random.default_rng(3)
    matrix, inputs = random.integers(0, 256, (20, 16), np.uint8), random.integers(0, 256, (16, 200), np.uint8)
    expected = np.zeros((20, 200), np.uint8)
    combine(NumpyKernel(), matrix, inputs, expected)
    prepared = kernel.prepare(matrix)
    for part in (range(20), range(1), range(7, 9), range(15, 20), range(3, 3)):
        some = np.zeros((len(part), 200), np.uint8)
        prepared(SymbolRows(inputs), SymbolRows(some), part)
        assert np.array_equal(some, expected[part.start : part.stop])


@each_copy
def test_operands_are_checked_before_memory_is_touched(kernel: IsalKernel) -> None:
    prepared = kernel.prepare(np.ones((2, 4), np.uint8))
    four, two = SymbolRows(np.zeros((4, 64), np.uint8)), SymbolRows(np.zeros((2, 64), np.uint8))
    for inputs, outputs in ((two, two), (four, four), (four, SymbolRows(np.zeros((2, 32), np.uint8)))):
        with pytest.raises(ValueError, match="wants 4 symbols in and 2 out"):
            prepared(inputs, outputs)
    with pytest.raises(ValueError, match="read-only"):
        prepared(four, SymbolRows(np.broadcast_to(np.zeros(64, np.uint8), (2, 64))))


@each_copy
def test_no_outputs_are_no_work(kernel: IsalKernel) -> None:
    combine(kernel, np.zeros((0, 4), np.uint8), np.zeros((4, 64), np.uint8), np.zeros((0, 64), np.uint8))


def combine(kernel: Kernel, matrix: Bytes, inputs: Bytes, outputs: Bytes) -> None:
    kernel.prepare(matrix)(SymbolRows(inputs), SymbolRows(outputs))


# --- which library is taken ------------------------------------------------------------------------------------------


def memory_at(address: int | np.uint64, size: int) -> Bytes:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))


class Library:
    """ISA-L in Python, with tables of ``entry_size`` bytes a coefficient. Subclasses do one thing wrong."""

    entry_size = 32
    version = 2 << 16 | 31 << 8

    def __init__(self) -> None:
        # functions and not methods: ctypes functions take attributes, and the kernel sets them
        self.ec_init_tables: Callable[..., None] = lambda *arguments: self.expand(*arguments)
        self.ec_encode_data: Callable[..., None] = lambda *arguments: self.encode(*arguments)

    def isal_get_version(self) -> int:
        return self.version

    def expand(self, count: int, rows: int, matrix: int, tables: int) -> None:
        memory_at(tables, rows * count * self.entry_size).reshape(-1, self.entry_size)[:] = memory_at(
            matrix, rows * count
        )[:, None]

    def encode(self, size: int, count: int, rows: int, tables: int, inputs: int, outputs: int) -> None:
        matrix = memory_at(tables, rows * count * self.entry_size).reshape(rows, count, self.entry_size)[:, :, 0]
        sources = np.array(
            [memory_at(address, size) for address in np.frombuffer(memory_at(inputs, 8 * count), np.uint64)]
        )
        for row, address in enumerate(np.frombuffer(memory_at(outputs, 8 * rows), np.uint64)):
            products = field.MULTIPLY[matrix[row][:, None], sources]
            memory_at(address, size)[:] = np.bitwise_xor.reduce(products, axis=0)


class NewerLibrary(Library):
    entry_size = 8
    version = 2 << 16 | 33 << 8


class OlderLibrary(Library):
    """Before 2.31 the library had no function that tells its version."""

    isal_get_version = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> object:
        if name == "isal_get_version":
            raise AttributeError(name)
        return super().__getattribute__(name)


class SilentLibrary(Library):
    """Writes no tables."""

    def expand(self, count: int, rows: int, matrix: int, tables: int) -> None:
        pass


class UnevenLibrary(Library):
    """Writes a byte more than whole entries."""

    entry_size = 8

    def expand(self, count: int, rows: int, matrix: int, tables: int) -> None:
        super().expand(count, rows, matrix, tables)
        memory_at(tables, rows * count * self.entry_size + 1)[-1] = 1


class FlippingLibrary(Library):
    """Gets one bit of one output wrong."""

    def encode(self, size: int, count: int, rows: int, tables: int, inputs: int, outputs: int) -> None:
        super().encode(size, count, rows, tables, inputs, outputs)
        memory_at(memory_at(outputs, 8).view(np.uint64)[0], size)[-1] ^= 0x40


class TailLibrary(Library):
    """Forgets what is left after whole vectors."""

    def encode(self, size: int, count: int, rows: int, tables: int, inputs: int, outputs: int) -> None:
        super().encode(size // 64 * 64, count, rows, tables, inputs, outputs)


class OverrunLibrary(Library):
    """Writes whole vectors past the end."""

    def encode(self, size: int, count: int, rows: int, tables: int, inputs: int, outputs: int) -> None:
        super().encode(size, count, rows, tables, inputs, outputs)
        memory_at(memory_at(outputs, 8).view(np.uint64)[0], size + 1)[-1] ^= 1


class ManyRowsLibrary(Library):
    """Computes six outputs at most."""

    def encode(self, size: int, count: int, rows: int, tables: int, inputs: int, outputs: int) -> None:
        super().encode(size, count, min(rows, 6), tables, inputs, outputs)


class ColumnOrderLibrary(Library):
    """Expects the tables of a matrix column by column."""

    def encode(self, size: int, count: int, rows: int, tables: int, inputs: int, outputs: int) -> None:
        given = memory_at(tables, rows * count * self.entry_size).reshape(count, rows, self.entry_size)
        turned = np.ascontiguousarray(given.transpose(1, 0, 2))
        super().encode(size, count, rows, turned.ctypes.data, inputs, outputs)


def install(monkeypatch: pytest.MonkeyPatch, **libraries: Library | None) -> None:
    """Make these the libraries that can be loaded, None standing for a missing file."""

    def load(name: str) -> Library:
        library = libraries[name]
        if library is None:
            raise OSError(f"{name}: cannot open shared object file")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(isal, "libraries", lambda: iter(libraries))


@pytest.mark.parametrize("library", [Library, NewerLibrary, OlderLibrary])
def test_a_right_library_is_taken(monkeypatch: pytest.MonkeyPatch, library: type[Library]) -> None:
    install(monkeypatch, found=library())
    kernel = isal.find_kernel()
    assert kernel.library == "found"
    assert kernel._entries.shape == (256, library.entry_size)


@pytest.mark.parametrize(
    ("library", "complaint"),
    [
        (SilentLibrary, "expands"),
        (UnevenLibrary, "expands"),
        (FlippingLibrary, "miscalculates"),
        (TailLibrary, "miscalculates"),
        (OverrunLibrary, "miscalculates"),
        (ManyRowsLibrary, "miscalculates"),
        (ColumnOrderLibrary, "miscalculates"),
    ],
)
def test_a_wrong_library_is_refused(monkeypatch: pytest.MonkeyPatch, library: type[Library], complaint: str) -> None:
    install(monkeypatch, found=library())
    with pytest.raises(IsalUnusableError, match=f"found .*{complaint}"):
        isal.find_kernel()


def test_the_newest_working_library_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = TailLibrary()
    wrong.version = 9 << 16
    install(
        monkeypatch, missing=None, old=OlderLibrary(), plain=Library(), same=Library(), new=NewerLibrary(), wrong=wrong
    )
    assert isal.find_kernel().library == "new"
    install(monkeypatch, old=OlderLibrary(), system=Library(), wheel=Library())
    assert isal.find_kernel().library == "system"


def test_why_no_library_serves_is_said_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, missing=None, wrong=TailLibrary())
    with pytest.raises(IsalUnusableError, match=r"missing cannot be loaded: .* wrong miscalculates"):
        isal.find_kernel()


def test_a_library_without_the_functions_is_refused() -> None:
    with pytest.raises(IsalUnusableError, match="ec_init_tables"):
        IsalKernel(ctypes.util.find_library("c") or "libc.so.6")


def put_wheel(monkeypatch: pytest.MonkeyPatch, package: Path | None) -> None:
    """Have pyeclib found in a folder, or nowhere."""
    spec = package and importlib.util.spec_from_file_location("pyeclib", package / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "pyeclib" else None)


@pytest.mark.parametrize("folder", ["pyeclib.libs", "pyeclib/.dylibs"])
def test_the_loader_is_asked_first_and_then_the_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / folder).mkdir(parents=True)
    bundled = tmp_path / folder / "libisal-1234.so.2.0.32"
    for file in (bundled, tmp_path / folder / "liberasurecode.so.1"):
        file.touch()
    put_wheel(monkeypatch, tmp_path / "pyeclib")
    assert list(isal.libraries()) == ["libisal.so.2", str(bundled)]


def test_homebrew_is_searched_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"/opt/homebrew/lib/lib{name}.dylib")
    assert next(isal.libraries()) == "/opt/homebrew/lib/libisal.dylib"


def test_a_missing_wheel_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheel(monkeypatch, None)
    assert len(list(isal.libraries())) == 1


@each_copy
def test_a_library_is_tested_without_loading_random_numbers(kernel: IsalKernel) -> None:
    """numpy's take longer to load than the whole test, and every command would wait for them."""
    look = "import sys; from ghostcast.fec.isal import IsalKernel; IsalKernel(sys.argv[1])"
    look += "; sys.exit('numpy.random' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look, kernel.library]).returncode == 0
