"""Goal: a window laid out in place is, byte for byte, what laying it out symbol by symbol gives.

Method: random windows over small objects against a slow reference, which pads every slice and computes every point of
the code with the numpy kernel; the transmit buffer is never cleaned between windows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from ghostcast.fec.kernel import load_kernel
from ghostcast.net import libc
from ghostcast.sender.layout import (
    FileBytes,
    MemoryBytes,
    ObjectBytes,
    TransmitBuffer,
    WindowEncoder,
    window_datagrams_max,
)
from protocol import limits, wire
from protocol.errors import ImageError
from protocol.partition import Partition
from protocol.reed_solomon import Code, Codec, NumpyKernel, SymbolRows
from protocol.schedule import Window
from protocol.symbols import DATA_HEADER

K = 8
SYMBOL_SIZE = 64
SESSION = 0xDEADBEEF
WINDOW_SLICES = 6
MANIFEST = np.random.default_rng(1).integers(0, 256, 3 * K * SYMBOL_SIZE + 5, np.uint8).tobytes()


class Reference:
    """Every symbol of one object, made one at a time."""

    def __init__(self, object_id: int, data: bytes, partition: Partition) -> None:
        self.object_id = object_id
        self.partition = partition
        codec = Codec(Code(K), NumpyKernel())
        self._points = np.zeros((partition.slice_count, limits.CODE_LENGTH, SYMBOL_SIZE), np.uint8)
        for slice_index, points in enumerate(self._points):
            start, stop = partition.slice_range(slice_index)
            points[:K].reshape(-1)[: stop - start] = np.frombuffer(data[start:stop], np.uint8)
            codec.encode(SymbolRows(points[:K]), SymbolRows(points[K:]), K)

    def datagrams(self, window: Window) -> npt.NDArray[np.uint8]:
        """Walk the window as the specification says it: symbol by symbol, slice by slice."""
        found = []
        for ordinal in range(int(window.counts.max())):
            for slice_index, position, count in zip(window.slices, window.positions, window.counts, strict=True):
                if ordinal < count:
                    found.append((int(slice_index), self._esi(int(slice_index), int(position) + ordinal)))
        rows = np.zeros((len(found), wire.DATA_HEADER_SIZE + SYMBOL_SIZE), np.uint8)
        for number, (slice_index, esi) in enumerate(found):
            header = np.zeros((), DATA_HEADER)
            header["magic"], header["version"], header["kind"] = wire.MAGIC, wire.VERSION, wire.KIND_DATA
            header["session"], header["object"] = SESSION, self.object_id
            header["sequence"] = (window.first_sequence + number) % 2**32
            header["slice"], header["esi"] = slice_index, esi
            header["window_left"] = len(found) - 1 - number
            rows[number, : wire.DATA_HEADER_SIZE] = np.frombuffer(header.tobytes(), np.uint8)
            rows[number, wire.DATA_HEADER_SIZE :] = self._points[slice_index, esi]
        return rows

    def _esi(self, slice_index: int, position: int) -> int:
        last = slice_index == self.partition.slice_count - 1
        sent = [*range(self.partition.last_symbols if last else K), *range(K, limits.CODE_LENGTH)]
        esi: int = sent[position % len(sent)]
        return esi


class Setting:
    """An image file of some size, its encoder, its reference, and one buffer for all windows."""

    def __init__(self, path: Path, size: int) -> None:
        data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
        path.write_bytes(data)
        self.file = path.open("rb")
        partitions = {
            limits.OBJECT_MANIFEST: Partition(len(MANIFEST), SYMBOL_SIZE, K),
            limits.OBJECT_IMAGE: Partition(size, SYMBOL_SIZE, K),
        }
        sources: dict[int, ObjectBytes] = {
            limits.OBJECT_MANIFEST: MemoryBytes(MANIFEST),
            limits.OBJECT_IMAGE: FileBytes(self.file.fileno(), path.name),
        }
        self.references = {
            limits.OBJECT_MANIFEST: Reference(0, MANIFEST, partitions[0]),
            limits.OBJECT_IMAGE: Reference(1, data, partitions[1]),
        }
        self.encoder = WindowEncoder(SESSION, partitions, sources, load_kernel())
        self.buffer = TransmitBuffer(window_datagrams_max(WINDOW_SLICES), SYMBOL_SIZE)
        self.buffer.payloads[:] = 0xAA

    def check(self, window: Window) -> None:
        rows = self.encoder.encode(window, self.buffer)
        expected = self.references[window.object_id].datagrams(window)
        rows[:, wire.SENT_US_OFFSET : wire.SENT_US_OFFSET + 4] = 0
        assert np.array_equal(rows, expected)


@pytest.fixture(scope="module", params=[1, SYMBOL_SIZE, 5 * K * SYMBOL_SIZE, 5 * K * SYMBOL_SIZE + 3 * SYMBOL_SIZE + 1])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """One symbol that is mostly padding, one whole symbol, five whole slices, and a short last slice with a tail."""
    made = Setting(tmp_path_factory.mktemp("layout") / "stream", request.param)
    yield made
    made.file.close()


def window(
    slices: list[int], positions: list[int], counts: list[int], *, object_id: int = 1, sequence: int = 0
) -> Window:
    columns = [np.array(column, np.int64) for column in (slices, positions, counts)]
    return Window(object_id, columns[0], columns[1], columns[2], sequence, 0, False)


@st.composite
def windows(draw: st.DrawFn, partitions: dict[int, Partition]) -> Window:
    object_id = draw(st.sampled_from(sorted(partitions)))
    partition = partitions[object_id]
    slices = sorted(
        draw(st.sets(st.integers(0, partition.slice_count - 1), min_size=1, max_size=WINDOW_SLICES)),
    )
    symbols = [int(count) for count in partition.symbols_of(np.array(slices))]
    points = [count + partition.repair_symbols for count in symbols]
    positions = [
        draw(st.sampled_from([0, own, every - 1]) | st.integers(0, every - 1))
        for own, every in zip(symbols, points, strict=True)
    ]
    if draw(st.booleans()):
        counts = [draw(st.integers(1, min(points)))] * len(slices)
    else:
        counts = [
            draw(st.sampled_from([1, own, own + 2, every]) | st.integers(1, every))
            for own, every in zip(symbols, points, strict=True)
        ]
    return window(slices, positions, counts, object_id=object_id, sequence=draw(st.integers(0, 2**40)))


@hypothesis.given(data=st.data())
@hypothesis.settings(
    deadline=None, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("in_place", [True, False])
def test_any_window_is_what_the_reference_makes(
    in_place: bool, setting: Setting, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    """Without preadv over a vector (in_place False) the bytes take another way to the same place."""
    monkeypatch.setattr(libc, "HAVE_PREADV", in_place and libc.HAVE_PREADV)
    partitions = {object_id: reference.partition for object_id, reference in setting.references.items()}
    setting.check(data.draw(windows(partitions)))


def test_the_shapes_that_a_session_sends(setting: Setting) -> None:
    partition = setting.references[1].partition
    slices = list(range(partition.slice_count))
    symbols = [int(count) for count in partition.symbols_of(np.array(slices))]
    points = [count + partition.repair_symbols for count in symbols]
    nothing = [0] * len(slices)
    setting.buffer.rows[:] = 0xFF  # whatever it held, headers too, which are coded with the symbols
    setting.check(window(slices, nothing, symbols))
    setting.check(window(slices, nothing, [count + 2 for count in symbols]))
    setting.check(window(slices, nothing, points))
    setting.check(window(slices, [3] * len(slices), points))
    setting.check(window(slices, symbols, [1] * len(slices)))
    setting.check(window(slices, [count - 2 for count in points], [5] * len(slices), sequence=2**32 - 3))
    setting.check(window(slices, [1] * len(slices), symbols))
    setting.check(window(slices[-1:], [0], symbols[-1:]))


def test_the_padding_of_the_tail_is_zero_whatever_the_buffer_held(setting: Setting) -> None:
    partition = setting.references[1].partition
    last, symbols = partition.slice_count - 1, partition.last_symbols
    setting.buffer.payloads[:] = 0xFF
    rows = setting.encoder.encode(window([last], [0], [symbols]), setting.buffer)
    used = partition.size - (partition.symbol_count - 1) * SYMBOL_SIZE
    assert not rows[-1, wire.DATA_HEADER_SIZE + used :].any()


def test_a_file_that_was_cut_is_told_with_the_place(tmp_path: Path) -> None:
    setting = Setting(tmp_path / "stream", 4 * K * SYMBOL_SIZE)
    with setting.file:
        cut = 2 * K * SYMBOL_SIZE + 100
        os.truncate(tmp_path / "stream", cut)
        setting.check(window([0, 1], [0, 0], [K, K + 1]))
        for counts in ([K], [K + 3], [1]):
            with pytest.raises(ImageError, match=rf"^stream: ends at byte {cut}: it was cut"):
                setting.encoder.encode(window([2], [0], counts), setting.buffer)
        with pytest.raises(ImageError, match="it was cut"):
            setting.encoder.encode(window([3], [K], [2]), setting.buffer)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(bytes(100))
    with (tmp_path / "stream").open("wb") as write_only:
        source = FileBytes(write_only.fileno(), "stream")
        with pytest.raises(ImageError, match=r"^stream: cannot be read at byte 7: "):
            source.read_into(memoryview(bytearray(10)), 7)
        buffer = TransmitBuffer(2, SYMBOL_SIZE)
        vectors = np.zeros(2, libc.IOVEC)
        vectors["base"], vectors["length"] = buffer.symbols.addresses, SYMBOL_SIZE
        assert not source.read_vectors(vectors, 0, 2 * SYMBOL_SIZE)


def test_more_vectors_than_one_call_takes_are_left_to_the_other_way(tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(bytes(4))
    with (tmp_path / "stream").open("rb") as file:
        vectors = np.zeros(libc.IOV_MAX + 1, libc.IOVEC)
        assert not FileBytes(file.fileno(), "stream").read_vectors(vectors, 0, 0)


def test_memory_that_is_provided_keeps_what_is_in_it() -> None:
    buffer = TransmitBuffer(3000, SYMBOL_SIZE)
    buffer.rows[:] = 7
    for count in (0, 1, 2000, 3000, 9000):
        buffer.provide(count)
    assert (buffer.rows == 7).all()


def test_the_largest_window_fits_the_header() -> None:
    assert window_datagrams_max(limits.WINDOW_SLICES_MAX) - 1 < 2**16
