"""Goal: memory that comes from the kernel directly is as large, as empty and as well aligned as its callers believe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ghostcast.net import libc

MIB = 1 << 20
_HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_COUNT_HUGE = f"""
from pathlib import Path
from ghostcast.net import libc

held = libc.fresh_pages({MIB})
held[:] = bytes(len(held))
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("AnonHugePages:")))
"""


@pytest.mark.parametrize("size", [1, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 5, 16 * MIB])
def test_fresh_pages_begin_on_a_page_and_are_empty_and_as_many_as_asked_for(size: int) -> None:
    pages = libc.fresh_pages(size)
    array = np.frombuffer(pages, np.uint8)
    assert len(pages) == size
    assert libc.address(array) % (2 * MIB if size >= MIB else 4096) == 0
    assert not array.any()
    pages[:] = b"\xee" * size
    assert not np.frombuffer(libc.fresh_pages(size), np.uint8).any(), "somebody else's"


@pytest.mark.skipif(
    not _HUGE.exists() or "[never]" in _HUGE.read_text(), reason="this kernel gives nobody huge pages on demand"
)
def test_a_chunk_s_pages_are_one_huge_page() -> None:
    """In a process of its own, where nothing else is so large."""
    code = [sys.executable, "-c", _COUNT_HUGE]
    run = subprocess.run(code, check=True, timeout=60, capture_output=True, cwd=Path(__file__).parents[4])
    assert int(run.stdout) == 2048  # KiB
