"""Goal: a batch of headers as columns says exactly what the headers say.

Method: random headers taken apart and compared field by field; sequence numbers around the wrap of 32 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from protocol import symbols
from protocol.symbols import DATA_HEADER


def headers(sequences: npt.NDArray[np.int64], left: npt.NDArray[np.int64], objects: list[int]) -> npt.NDArray[np.void]:
    rng = np.random.default_rng(len(sequences))
    rows = np.zeros(len(sequences), DATA_HEADER)
    rows["sequence"] = sequences & 0xFFFFFFFF
    rows["window_left"] = left
    rows["object"] = np.resize(objects, len(rows))
    rows["slice"] = rng.integers(0, 1 << 23, len(rows))
    rows["esi"] = rng.integers(0, 256, len(rows))
    return rows


@pytest.mark.parametrize("objects", [[1], [0, 1], [1, 1, 0, 7]])
def test_columns_are_the_headers(objects: list[int]) -> None:
    rows = headers(np.arange(50), np.arange(50)[::-1].copy(), objects)
    seen = []
    for batch, places in symbols.from_headers(rows):
        mine = rows if places is None else rows[places]
        assert (mine["object"] == batch.object_id).all()
        assert batch.slices.tolist() == mine["slice"].tolist()
        assert batch.esis.tolist() == mine["esi"].tolist()
        assert batch.sequences.tolist() == mine["sequence"].tolist()
        assert batch.first_slice <= batch.slices.min() <= batch.slices.max() < batch.stop_slice
        assert batch.esis.max() <= batch.esi_max
        seen += range(len(rows)) if places is None else places.tolist()
        part = batch.take(np.array([3, 1]))
        assert part.slices.tolist() == [batch.slices[3], batch.slices[1]]
        assert len(part) == 2
    assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("base", [0, 77, (1 << 32) - 25, (1 << 32) - 100, (5 << 32) - 20, (9 << 32) + 3])
@pytest.mark.parametrize("same_window", [True, False])
def test_sequences_are_unwrapped_near_the_reference(base: int, same_window: bool) -> None:
    sequences = base + np.arange(50)
    left = np.arange(50)[::-1].copy() + 3 if same_window else np.resize([4, 0, 9], 50)
    ((batch, _all),) = symbols.from_headers(headers(sequences, left, [1]))
    for reference in (base, base + 60, max(0, base - 1000)):
        ends, low, high = symbols.unwrapped(batch, reference)
        assert (low, high) == (base, base + 49)
        assert np.array_equal(np.broadcast_to(ends, 50), sequences + left + 1)
    # Where the window is the same for all and the numbers do not wrap, one number says it.
    if same_window and base >> 32 == (base + 49) >> 32:
        assert isinstance(symbols.unwrapped(batch, base)[0], int)
