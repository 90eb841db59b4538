"""Goal: whatever is lost, any k symbols restore a slice, and every kernel writes the same bytes.

Method: hypothesis draws the code, a slice, short or not, and which symbols are lost; all kernels of this machine run.
"""

from __future__ import annotations

import functools
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostcast.fec import isal
from protocol import limits
from protocol.erasures import Erasures
from protocol.reed_solomon import Code, Codec, Kernel, NumpyKernel, SymbolRows


@functools.cache
def kernels() -> list[Kernel]:
    found: list[Kernel] = [NumpyKernel()]
    for library in isal.libraries():
        try:
            found.append(isal.IsalKernel(library))
        except isal.IsalUnusableError:
            continue
    return found


@functools.cache
def code(k: int) -> Code:
    return Code(k)


@st.composite
def losses(draw: st.DrawFn) -> tuple[int, int, list[int], list[int], np.random.Generator]:
    """k, the source symbols of the slice, which of them are lost, the repair symbols received instead, randomness."""
    k = draw(st.one_of(st.just(limits.SOURCE_SYMBOLS_DEFAULT), st.integers(1, limits.CODE_LENGTH - 1)))
    count = draw(st.one_of(st.just(k), st.integers(1, k)))
    erased_count = draw(st.integers(0, min(count, limits.CODE_LENGTH - k)))
    chance: random.Random = draw(st.randoms(use_true_random=False))
    erased = chance.sample(range(count), erased_count)
    repairs = chance.sample(range(k, limits.CODE_LENGTH), erased_count)
    return k, count, erased, repairs, np.random.default_rng(draw(st.integers(0, 1 << 32)))


@settings(max_examples=150, deadline=None)
@given(losses(), st.integers(1, 200))
def test_any_erasures_are_restored_alike_by_every_kernel(
    loss: tuple[int, int, list[int], list[int], np.random.Generator], symbol_size: int
) -> None:
    k, count, erased, repairs, chance = loss
    sources = chance.integers(0, 256, (count, symbol_size), np.uint8)
    repair_rows = []
    for kernel in kernels():
        codec = Codec(code(k), kernel)
        repaired = np.zeros((limits.CODE_LENGTH - k, symbol_size), np.uint8)
        codec.encode(SymbolRows(sources), SymbolRows(repaired))
        ring = sources.copy()
        ring[erased] = 0xEE
        rows = SymbolRows(repaired).take(np.array(repairs, np.intp) - k)
        erasures = Erasures.of_slice(erased, repairs)
        codec.decode([SymbolRows(ring)] * len(erasures), rows, erasures)
        assert np.array_equal(ring, sources)
        repair_rows.append(repaired)
    assert all(np.array_equal(repaired, repair_rows[0]) for repaired in repair_rows)


@settings(max_examples=50, deadline=None)
@given(losses())
def test_a_decode_matrix_inverts_the_generator(
    loss: tuple[int, int, list[int], list[int], np.random.Generator],
) -> None:
    """The rows that restore the erased symbols, applied to what is known of unit vectors, give unit vectors back."""
    k, count, erased, repairs, _ = loss
    matrix = code(k).decode_matrix(Erasures.of_slice(erased, repairs), count)
    known = np.eye(count, dtype=np.uint8)
    known[erased] = code(k).generator[np.array(repairs, np.intp) - k, :count]
    restored = np.zeros((len(erased), count), np.uint8)
    NumpyKernel().prepare(matrix)(SymbolRows(known), SymbolRows(restored))
    assert np.array_equal(restored, np.eye(count, dtype=np.uint8)[erased])
