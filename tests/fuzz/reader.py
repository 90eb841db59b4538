"""Turning a fuzzer's bytes into decisions: small numbers, numbers at the edges, choices, and parts of themselves.

Needs no fuzzer, so that what one found is replayed without it. When the bytes are used up, every answer is the first or
the smallest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_EDGE_BITS = 65


class Reader:
    """Consumes bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def more(self) -> bool:
        """Whether any bytes are left."""
        return self._place < len(self._data)

    def byte(self) -> int:
        """Return a number from 0 to 255."""
        return self.take(1)[0] if self.more else 0

    def below(self, count: int) -> int:
        """Return a number from 0 to ``count`` - 1."""
        size = max(1, (max(count - 1, 1).bit_length() + 7) // 8)
        return int.from_bytes(self.take(size)) % count

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def choice(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or as many as are left."""
        taken = self._data[self._place : self._place + size]
        self._place += len(taken)
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def number(self) -> int:
        """Return a small number, or one beside a power of two: where things overflow."""
        first = self.byte()
        if first < 128:
            return first
        if first < 128 + _EDGE_BITS:
            return max(0, (1 << (first - 128)) + self.below(3) - 1)
        return int.from_bytes(self.take(1 + first % 8))
