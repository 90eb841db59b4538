"""Goal: memory that comes from the kernel directly is as large, as empty and as well aligned as its callers believe."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from ghostcast.net import libc

MIB = 1 << 20


def huge_kib(begin: int) -> int:
    """Return the KiB of huge pages in the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= begin < int(bounds[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    return 0


def kernel_has_huge_pages() -> bool:
    """Return whether this kernel gives one to whoever asks for it, now."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    with mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            return False
        pages[4 * MIB] = 1
        array = np.frombuffer(pages, np.uint8)
        found = huge_kib(libc.address(array)) > 0
        del array
    return found


@pytest.mark.parametrize("size", [1, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 5, 16 * MIB])
def test_fresh_pages_begin_on_a_page_and_are_empty_and_as_many_as_asked_for(size: int) -> None:
    pages = libc.fresh_pages(size)
    array = np.frombuffer(pages, np.uint8)
    assert len(pages) == size
    assert libc.address(array) % (2 * MIB if size >= MIB else 4096) == 0
    assert not array.any()
    pages[:] = b"\xee" * size
    assert not np.frombuffer(libc.fresh_pages(size), np.uint8).any(), "somebody else's"


@pytest.mark.skipif(not kernel_has_huge_pages(), reason="this kernel gives nobody a huge page on demand")
def test_a_chunk_s_pages_are_a_huge_page() -> None:
    pages = libc.fresh_pages(MIB)
    pages[:] = b"\xee" * MIB
    assert huge_kib(libc.address(np.frombuffer(pages, np.uint8))) >= 2048
