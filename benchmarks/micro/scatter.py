"""How fast do payloads move from the kernel's slots to their rows, and how far is that from copying them?

A batch as one fetch brings it, in interleaved wire order, goes to rows of a pool that were last touched long ago.
*joined*: slots that hold many datagrams each (UDP_GRO). *single*: a slot a datagram. *chosen*: with one in a hundred
left out, as duplicates are. The ceiling is memcpy of as many bytes to the same rows, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.micro.datagrams import slice_and_esi
from benchmarks.micro.measuring import Effort, Result, rates
from benchmarks.micro.receive import Loop
from ghostcast.net.ingest import Batch, BatchReceiver
from protocol import limits

Rows = npt.NDArray[np.int64]


def measure(effort: Effort, symbol_size: int) -> Iterator[Result]:
    """Yield every result."""
    for joined in (True, False):
        with Loop(symbol_size, joined=joined) as loop:
            loop.fill()
            receiver = loop.receiver
            batch = receiver.fetch()
            assert batch is not None
            count = len(batch.headers)
            size = count * symbol_size
            row_count = max(effort.far_bytes // symbol_size // count, 1) * count
            pool = np.zeros((row_count, symbol_size), np.uint8)
            kept = np.flatnonzero(np.arange(count) % 100 != 99)
            name = "joined" if joined else "single"
            limit = rates(_copy(pool, count), size, effort)
            for what, indices in ((name, None), (f"{name}, chosen", kept)):
                moved = size if indices is None else len(indices) * symbol_size
                found = rates(_scatter(receiver, batch, indices, pool, count), moved, effort)
                yield Result.of("scatter", what, found, "memcpy", limit)


def _places(count: int, row_count: int) -> list[Rows]:
    """Return the rows of one batch after another, until the pool has been walked through."""
    places = []
    for start in range(0, row_count - count + 1, count):
        slices, esis = slice_and_esi(np.arange(start, start + count))
        places.append((slices * limits.SOURCE_SYMBOLS_DEFAULT + esis) % row_count)
    return places


def _scatter(
    receiver: BatchReceiver, batch: Batch, indices: Rows | None, pool: npt.NDArray[np.uint8], count: int
) -> Callable[[], None]:
    places = _places(count, len(pool))
    if indices is not None:
        places = [rows[indices] for rows in places]
    turn = 0

    def work() -> None:
        nonlocal turn
        receiver.scatter(batch, indices, places[turn], pool)
        turn = (turn + 1) % len(places)

    return work


def _copy(pool: npt.NDArray[np.uint8], count: int) -> Callable[[], None]:
    source = pool[:count].copy()
    turn = 0

    def work() -> None:
        nonlocal turn
        np.copyto(pool[turn : turn + count], source)
        turn = (turn + count) % (len(pool) - count + 1)

    return work
