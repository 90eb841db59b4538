"""Laying a window out as datagrams: stream bytes read in place, repair symbols computed in place, headers as columns.

A transmit buffer is an array of datagrams in wire order. Source symbols are read from the image straight into their
datagrams (one preadv for several slices), the kernel of the code writes repair symbols straight into theirs, and each
header field is one column assignment. No datagram is handled by itself in Python.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ghostcast.net import libc
from ghostcast.stages import OFF, Stages
from protocol import limits, wire
from protocol.errors import ImageError
from protocol.partition import Partition
from protocol.reed_solomon import Code, Codec, Kernel, SymbolRows
from protocol.schedule import Window
from protocol.symbols import DATA_HEADER

Int64Array = npt.NDArray[np.int64]


class ObjectBytes(Protocol):
    """Where the bytes of an object come from."""

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` from ``offset`` on, or raise ``ImageError``."""

    def read_vectors(self, vectors: npt.NDArray[np.void], offset: int, size: int) -> bool:
        """Fill the memory that ``libc.IOVEC[n]`` describes in one call; False where that cannot be done."""


class MemoryBytes:
    """An object that is held in memory: the manifest."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` from ``offset`` on."""
        target[:] = self._data[offset : offset + len(target)]

    def read_vectors(self, vectors: npt.NDArray[np.void], offset: int, size: int) -> bool:
        """Return False: memory has no descriptor."""
        return False


class FileBytes:
    """The stream of an image file."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` from ``offset`` on; raises ``ImageError`` where the file ends earlier than it did."""
        done = 0
        while done < len(target):
            try:
                read = os.preadv(self._descriptor, [target[done:]], offset + done)
            except OSError as error:
                raise ImageError(f"{self._name}: cannot be read at byte {offset + done}: {error.strerror}") from error
            if read == 0:
                raise ImageError(f"{self._name}: ends at byte {offset + done}: it was cut while it was being sent")
            done += read

    def read_vectors(self, vectors: npt.NDArray[np.void], offset: int, size: int) -> bool:
        """Fill the described memory with one system call; False if that brought less than ``size`` bytes."""
        if not libc.HAVE_PREADV or len(vectors) > libc.IOV_MAX:
            return False
        try:
            return libc.preadv(self._descriptor, libc.address(vectors), len(vectors), offset) == size
        except OSError:
            return False


class TransmitBuffer:
    """Memory for one window, with the views of it that encoding needs, made once."""

    def __init__(self, datagram_count: int, symbol_size: int) -> None:
        size = wire.DATA_HEADER_SIZE + symbol_size
        self.rows = np.zeros((datagram_count, size), np.uint8)
        self.headers = self.rows[:, : wire.DATA_HEADER_SIZE].view(DATA_HEADER)[:, 0]
        self.payloads = self.rows[:, wire.DATA_HEADER_SIZE :]
        self.symbols = SymbolRows(self.payloads)

    def provide(self, datagram_count: int) -> None:
        """Have the kernel provide the memory of the first datagrams: page by page, with the data, takes longer."""
        libc.provide(self.rows[:datagram_count])


class WindowEncoder:
    """Turns windows into datagrams. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        session_id: int,
        partitions: Mapping[int, Partition],
        sources: Mapping[int, ObjectBytes],
        kernel: Kernel,
        stages: Stages = OFF,
    ) -> None:
        """Prepare for one session; ``partitions`` and ``sources`` are by object id, with one k and one symbol size."""
        self._stages = stages
        self._session_id = session_id
        self._partitions = partitions
        self._sources = sources
        any_partition = next(iter(partitions.values()))
        self._symbol_size = any_partition.symbol_size
        self._k = any_partition.source_symbols
        self._codec = Codec(Code(self._k), kernel)
        self._scratch = np.zeros((self._k, self._symbol_size), np.uint8)
        self._scratch_symbols = SymbolRows(self._scratch)

    def encode(self, window: Window, buffer: TransmitBuffer) -> npt.NDArray[np.uint8]:
        """Lay a window out.

        Returns:
            ``uint8[datagram_count, header + symbol]``, a view of ``buffer``, in wire order, but for the send times.
        Raises:
            ImageError: the source cannot be read, or ends too early.
        """
        partition = self._partitions[window.object_id]
        row, ordinal = window.wire_order()
        symbols = partition.symbols_of(window.slices)
        esis = partition.esi(window.positions[row] + ordinal, symbols[row])
        count = len(row)
        even = bool((window.counts == window.counts[0]).all())
        if even:
            order = np.arange(count).reshape(-1, len(window.slices)).T.reshape(-1)
        else:
            order = np.argsort(row, kind="stable")
        stops = np.cumsum(window.counts)
        starts = stops - window.counts
        once_round = window.counts <= symbols + partition.repair_symbols
        whole = (window.positions == 0) & (window.counts >= symbols) & once_round
        # Neighbouring slices that go out whole and in order are neighbours in the source too: one read brings several.
        per_read = max(1, libc.IOV_MAX // self._k)
        readable = np.flatnonzero(whole)
        runs = np.split(readable, np.flatnonzero(np.diff(window.slices[readable]) != 1) + 1)
        for run in runs:
            for first in range(0, len(run), per_read):
                part = run[first : first + per_read]
                in_order = [order[starts[i] : starts[i] + symbols[i]] for i in part.tolist()]
                self._read_in_place(window.object_id, window.slices[part], in_order, buffer)
        if even and whole.all() and (symbols == self._k).all():
            self._encode_window(int(window.counts[0]), buffer.rows[:count])
        else:
            for i in np.flatnonzero(~whole | (window.counts > symbols)).tolist():
                datagrams = order[starts[i] : stops[i]]
                slice_index, source_count = int(window.slices[i]), int(symbols[i])
                self._encode_slice(
                    window.object_id, slice_index, source_count, datagrams, esis[datagrams], buffer, whole[i]
                )
        headers = buffer.headers[:count]
        headers["magic"] = wire.MAGIC
        headers["version"] = wire.VERSION
        headers["kind"] = wire.KIND_DATA
        headers["session"] = self._session_id
        headers["sequence"] = (window.first_sequence + np.arange(count)) & 0xFFFFFFFF
        headers["slice"] = window.slices[row]
        headers["window_left"] = count - 1 - np.arange(count)
        headers["object"] = window.object_id
        headers["esi"] = esis
        headers["authentication"] = 0
        return buffer.rows[:count]

    def _encode_window(self, symbol_count: int, rows: npt.NDArray[np.uint8]) -> None:
        """Fill the repair symbols of whole slices that have ``symbol_count`` symbols each, and all their sources.

        Every byte column is coded by itself. So the datagrams of all slices with the same ESI, which follow one
        another, count as one symbol: 0.7 ms instead of 1.8 for 3 x 32 repair symbols. Headers are coded too, and
        written later.
        """
        if symbol_count == self._k:
            return
        symbols = SymbolRows(rows.reshape(symbol_count, -1))
        sources, repairs = symbols.run(range(self._k)), symbols.run(range(self._k, symbol_count))
        with self._stages("encode", len(sources) * sources.symbol_size):
            self._codec.encode(sources, repairs)

    def _encode_slice(
        self,
        object_id: int,
        slice_index: int,
        source_count: int,
        datagrams: Int64Array,
        esis: Int64Array,
        buffer: TransmitBuffer,
        read: np.bool_,
    ) -> None:
        """Fill what is not ``read`` yet of the payloads of one slice's ``datagrams``, whose ESIs are ``esis``."""
        begin, end = self._partitions[object_id].slice_range(slice_index)
        is_source = esis < self._k
        source_datagrams = datagrams[is_source]
        if read:
            sources = buffer.symbols.take(datagrams[:source_count])
        else:
            self._read_scratch(object_id, begin, end)
            buffer.payloads[source_datagrams] = self._scratch[esis[is_source]]
            sources = self._scratch_symbols.take(np.arange(source_count))
        if len(source_datagrams) == len(datagrams):
            return
        repair_datagrams, repair_esis = datagrams[~is_source], esis[~is_source]
        # Consecutive ESIs are encoded together; positions wrap around at most once, so there are at most two runs.
        edges = np.flatnonzero(np.diff(repair_esis) != 1) + 1
        for run, run_esis in zip(np.split(repair_datagrams, edges), np.split(repair_esis, edges), strict=True):
            if len(run):
                with self._stages("encode", end - begin):
                    self._codec.encode(sources, buffer.symbols.take(run), int(run_esis[0]))

    def _read_in_place(
        self, object_id: int, slices: Int64Array, datagrams: list[Int64Array], buffer: TransmitBuffer
    ) -> None:
        """Read consecutive ``slices`` straight into the payloads of the ``datagrams`` of each."""
        partition = self._partitions[object_id]
        begin, end = partition.slice_range(int(slices[0]))[0], partition.slice_range(int(slices[-1]))[1]
        size, together = end - begin, np.concatenate(datagrams)
        vectors = np.empty(len(together), libc.IOVEC)
        vectors["base"], vectors["length"] = buffer.symbols.addresses[together], self._symbol_size
        tail = len(together) * self._symbol_size - size
        if tail:
            vectors["length"][-1] -= np.uint64(tail)
            buffer.payloads[together[-1], self._symbol_size - tail :] = 0
        with self._stages("read", size):
            done = self._sources[object_id].read_vectors(vectors, begin, size)
        if not done:
            for slice_index, rows in zip(slices.tolist(), datagrams, strict=True):
                self._read_scratch(object_id, *partition.slice_range(slice_index))
                buffer.payloads[rows] = self._scratch[: len(rows)]

    def _read_scratch(self, object_id: int, begin: int, end: int) -> None:
        flat = self._scratch.reshape(-1)
        flat[end - begin :] = 0
        with self._stages("read", end - begin):
            self._sources[object_id].read_into(flat[: end - begin].data, begin)


def window_datagrams_max(window_slices: int) -> int:
    """Return how many datagrams the largest window has: every point of the code, for every slice."""
    return window_slices * limits.CODE_LENGTH
