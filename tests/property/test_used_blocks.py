"""Goal: whatever is free, an image holds every used byte where it was and zeros for free bytes among them.

Method: hypothesis makes disks, chunk sizes and free ranges; the walk is held against the definition, byte by byte.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostcast.disk.survey import Survey
from ghostcast.image.source import RawSource
from protocol.disk import Disk

CHUNK = 4096


@st.composite
def disks(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]], list[tuple[int, int]]]:
    """Bytes, free ranges (apart, in order), and holes."""
    size = draw(st.integers(1, 9 * CHUNK))
    edges = sorted(draw(st.sets(st.one_of(st.integers(0, size), st.integers(0, size // 512).map(lambda n: n * 512)))))
    free = list(zip(edges[::2], edges[1::2], strict=False))
    holes = [(n * CHUNK, (n + 1) * CHUNK) for n in draw(st.sets(st.integers(0, 9))) if (n + 1) * CHUNK <= size]
    return draw(st.randoms(use_true_random=False)).randbytes(size), free, holes


@settings(deadline=None, max_examples=150)
@given(disks())
def test_the_walk_is_what_the_definition_says(disk: tuple[bytes, list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    raw, free, holes = disk
    expected, is_free = bytearray(raw), bytearray(len(raw))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "disk")
        with path.open("wb") as file:
            for start in range(0, len(raw), CHUNK):
                if (start, start + CHUNK) not in holes:
                    file.seek(start)
                    file.write(raw[start : start + CHUNK])
            file.truncate(len(raw))
        for start, end in holes:
            expected[start:end] = bytes(end - start)
        for start, end in free:
            expected[start:end] = bytes(end - start)
            is_free[start:end] = b"\1" * (end - start)
        with RawSource.open(path) as source:
            ranges = np.array(free, np.int64).reshape(-1, 2)
            source.take_survey(Survey(Disk(smallest_size=len(raw)), ranges))
            offset = 0
            for block in source.blocks(CHUNK, threading.Event()):
                for _ in range(block.chunk_count):
                    end = offset + block.chunk_size
                    assert block.unused == all(is_free[offset:end])
                    data = bytes(block.chunk_size) if block.data is None else bytes(block.data)
                    assert data == expected[offset:end]
                    offset = end
            assert offset == len(raw)
