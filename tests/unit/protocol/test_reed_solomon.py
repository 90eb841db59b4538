"""Goal: the code is RFC 5510's, for every k, and any k symbols restore a slice.

Method: ``reedsolo``, which shares nothing with our matrices but the field, is the oracle: ``RSCodec(255 - k, fcr=1,
nsize=255)`` over the source bytes in reversed order, read backwards from the byte of ESI 0. The numpy kernel computes
here; that every kernel computes the same is shown in tests/unit/ghostcast/fec and tests/property.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import numpy.typing as npt
import pytest
import reedsolo

from protocol import field, limits
from protocol.erasures import Erasures
from protocol.reed_solomon import Code, Codec, NumpyKernel, SymbolRows

VECTORS = Path(__file__).parents[2] / "vectors"

Bytes = npt.NDArray[np.uint8]


def codec(k: int) -> Codec:
    return Codec(Code(k), NumpyKernel())


def random_bytes(*shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(k: int, sources: Bytes) -> Bytes:
    """All 255 symbols of a slice: the sources, zeros up to k, the repair symbols."""
    symbols = np.zeros((limits.CODE_LENGTH, sources.shape[1]), np.uint8)
    symbols[: len(sources)] = sources
    codec(k).encode(SymbolRows(symbols[: len(sources)]), SymbolRows(symbols[k:]))
    return symbols


def codeword_positions(k: int) -> npt.NDArray[np.intp]:
    """Where reedsolo's codeword holds the symbols ESI 0 .. 254: sources backwards, then repairs backwards."""
    return (k - 1 - np.arange(limits.CODE_LENGTH)) % limits.CODE_LENGTH


def oracle(k: int, sources: Bytes) -> Bytes:
    """The same from reedsolo, one byte column at a time."""
    code = reedsolo.RSCodec(limits.CODE_LENGTH - k, fcr=1, nsize=limits.CODE_LENGTH)
    padded = np.zeros((k, sources.shape[1]), np.uint8)
    padded[: len(sources)] = sources
    codewords = np.array([code.encode(bytes(column[::-1])) for column in padded.T], np.uint8)
    return codewords[:, codeword_positions(k)].T


def restored(k: int, symbols: Bytes, count: int, erased: list[int], repairs: list[int]) -> Bytes:
    """The first ``count`` of ``symbols`` after the ``erased`` were spoilt and decoded from ``repairs``."""
    spoilt = symbols.copy()
    spoilt[erased] ^= 0xA5
    erasures = Erasures.of_slice(erased, repairs)
    codec(k).decode([SymbolRows(spoilt[:count])] * len(erasures), SymbolRows(spoilt).take(repairs), erasures)
    return spoilt[:count]


def rank(matrix: Bytes) -> int:
    """Gaussian elimination over the field: slow, plain and independent of interpolation."""
    rows = matrix.copy()
    done = 0
    for column in range(rows.shape[1]):
        candidates = np.flatnonzero(rows[done:, column])
        if len(candidates) == 0:
            continue
        pivot = done + candidates[0]
        rows[[done, pivot]] = rows[[pivot, done]]
        inverse = field.EXP[-field.LOG[rows[done, column]] % field.ORDER]
        rows[done] = field.MULTIPLY[inverse, rows[done]]
        for other in range(len(rows)):
            if other != done:
                rows[other] ^= field.MULTIPLY[rows[other, column], rows[done]]
        done += 1
    return done


# --- the code --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4, 64, 127, 128, 200, 253, 254])
def test_repair_symbols_are_those_of_reedsolo(k: int) -> None:
    sources = random_bytes(k, 3, seed=k)
    assert np.array_equal(encoded(k, sources), oracle(k, sources))


@pytest.mark.parametrize("count", [1, 5, 127])
def test_a_short_slice_is_padded_with_zero_symbols(count: int) -> None:
    sources = random_bytes(count, 3)
    assert np.array_equal(encoded(128, sources), oracle(128, sources))


def test_golden_slice() -> None:
    described = json.loads((VECTORS / "fec-small.json").read_text())["k128"]
    stored = (VECTORS / described["file"]).read_bytes()
    assert blake3.blake3(stored).hexdigest() == described["blake3"]
    symbols = np.frombuffer(stored, np.uint8).reshape(limits.CODE_LENGTH, described["symbol_size"])
    assert np.array_equal(encoded(128, symbols[:128]), symbols)


@pytest.mark.parametrize(
    "vector", json.loads((VECTORS / "fec-small.json").read_text())["slices"], ids=lambda vector: str(vector["name"])
)
def test_golden_small_slices(vector: dict[str, Any]) -> None:
    sources, repairs = (
        np.array([list(bytes.fromhex(symbol)) for symbol in vector[kind]], np.uint8) for kind in ("source", "repair")
    )
    computed = np.zeros_like(repairs)
    codec(vector["k"]).encode(SymbolRows(sources), SymbolRows(computed), vector["first_repair_esi"])
    assert np.array_equal(computed, repairs)


def test_a_repair_symbol_does_not_depend_on_how_many_are_made() -> None:
    sources = random_bytes(128, 8)
    every = encoded(128, sources)
    for first, count in ((128, 1), (128, 8), (136, 3), (200, 55), (254, 1)):
        some = np.zeros((count, 8), np.uint8)
        codec(128).encode(SymbolRows(sources), SymbolRows(some), first)
        assert np.array_equal(some, every[first : first + count])


def test_any_4_of_10_symbols_restore_a_slice_of_4() -> None:
    symbols = encoded(4, random_bytes(4, 16))
    for known in itertools.combinations(range(10), 4):
        erased = [esi for esi in range(4) if esi not in known]
        repairs = [esi for esi in known if esi >= 4]
        assert np.array_equal(restored(4, symbols, 4, erased, repairs), symbols[:4]), known


def test_every_minor_of_a_small_generator_is_regular() -> None:
    generator = Code(4).generator[:6]
    for size in range(1, 5):
        for rows in itertools.combinations(range(6), size):
            for columns in itertools.combinations(range(4), size):
                assert rank(generator[np.ix_(rows, columns)]) == size


def test_sampled_minors_of_the_default_generator_are_regular() -> None:
    random = np.random.default_rng(1)
    generator = Code(128).generator
    for size in [*range(2, 20), 60, 127]:
        rows, columns = random.permutation(127)[:size], random.permutation(128)[:size]
        assert rank(generator[np.ix_(rows, columns)]) == size


def test_the_minors_check_finds_a_singular_matrix() -> None:
    generator = Code(4).generator[:6].copy()
    generator[3] = generator[1]
    assert rank(generator) == 4
    assert rank(generator[[1, 3]]) == 1


@pytest.mark.parametrize("k", [1, 128, 254])
def test_as_many_symbols_are_restored_as_there_are_repair_symbols(k: int) -> None:
    symbols = encoded(k, random_bytes(k, 5))
    erasures = min(k, limits.CODE_LENGTH - k)
    erased = sorted(np.random.default_rng(k).permutation(k)[:erasures].tolist())
    repairs = list(range(limits.CODE_LENGTH - erasures, limits.CODE_LENGTH))
    assert np.array_equal(restored(k, symbols, k, erased, repairs), symbols[:k])


def test_a_short_slice_is_restored() -> None:
    symbols = encoded(128, random_bytes(5, 7))
    assert np.array_equal(restored(128, symbols, 5, [0, 1, 2, 3, 4], [128, 254, 131, 200, 129]), symbols[:5])


def test_nothing_erased_is_nothing_done() -> None:
    symbols = encoded(8, random_bytes(8, 7))
    assert np.array_equal(restored(8, symbols, 8, [], []), symbols[:8])


def test_slices_restored_together_are_those_restored_alone() -> None:
    chance = np.random.default_rng(7)
    slices = [encoded(128, random_bytes(100, 9, seed=seed)) for seed in range(12)]
    spoilt, erased, repairs, repair_rows = [], [], [], []
    for symbols in slices:
        count = int(chance.integers(1, 30))
        erased.append(np.sort(chance.permutation(100)[:count]))
        repairs.append(128 + chance.permutation(127)[:count])
        repair_rows.append(symbols[repairs[-1]])
        spoilt.append(symbols[:100].copy())
        spoilt[-1][erased[-1]] = 0x5A
    erasures = Erasures(np.array([len(one) for one in erased]), np.concatenate(erased), np.concatenate(repairs))
    codec(128).decode([SymbolRows(one) for one in spoilt], SymbolRows(np.concatenate(repair_rows)), erasures)
    for one, symbols in zip(spoilt, slices, strict=True):
        assert np.array_equal(one, symbols[:100])


def test_slices_and_repair_symbols_that_do_not_belong_together_are_refused() -> None:
    symbols, erasures = SymbolRows(random_bytes(4, 8)), Erasures.of_slice([1], [4])
    for slices, repairs in (([], 1), ([symbols, symbols], 1), ([symbols], 2), ([symbols], 0)):
        with pytest.raises(ValueError, match="1 erasures in 1 slices want so many"):
            codec(4).decode(slices, SymbolRows(random_bytes(repairs, 8)), erasures)


def test_reedsolo_restores_our_slices() -> None:
    symbols = encoded(128, random_bytes(128, 2))
    erased = np.random.default_rng(2).permutation(limits.CODE_LENGTH)[:127]
    positions = codeword_positions(128)
    code = reedsolo.RSCodec(127, fcr=1, nsize=limits.CODE_LENGTH)
    for column in range(2):
        codeword = np.zeros(limits.CODE_LENGTH, np.uint8)
        codeword[positions] = symbols[:, column]
        codeword[positions[erased]] = 0
        message, _, _ = code.decode(bytearray(codeword), erase_pos=positions[erased].tolist())
        assert bytes(message)[::-1] == symbols[:128, column].tobytes()


@pytest.mark.parametrize("k", [0, 255, -1])
def test_a_code_without_source_or_repair_symbols_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must be"):
        Code(k)


# --- the codec and its operands --------------------------------------------------------------------------------------


def test_a_window_is_encoded_in_one_call() -> None:
    window = random_bytes(128 + 8, 4, 32 + 64)
    slices = window.copy()
    codec(128).encode(SymbolRows(window.reshape(136, -1)[:128]), SymbolRows(window.reshape(136, -1)[128:]))
    for number in range(4):
        codec(128).encode(SymbolRows(slices[:128, number, 32:]), SymbolRows(slices[128:, number, 32:]))
    assert np.array_equal(window[:, :, 32:], slices[:, :, 32:])


def test_nothing_beside_the_outputs_is_written() -> None:
    memory = random_bytes(128 + 8, 3, 32 + 64)
    before = memory.copy()
    codec(128).encode(SymbolRows(memory[:128, 1, 32:]), SymbolRows(memory[128:, 1, 32:]))
    assert not np.array_equal(memory[128:, 1, 32:], before[128:, 1, 32:])
    before[128:, 1, 32:] = memory[128:, 1, 32:]
    assert np.array_equal(memory, before)


@pytest.mark.parametrize(
    ("first_esi", "repair_count", "source_count"), [(127, 1, 128), (128, 128, 128), (254, 2, 128), (128, 1, 129)]
)
def test_symbols_the_code_does_not_have_are_refused(first_esi: int, repair_count: int, source_count: int) -> None:
    sources, repairs = SymbolRows(random_bytes(source_count, 4)), SymbolRows(random_bytes(repair_count, 4))
    with pytest.raises(ValueError, match="the code has 128 source symbols"):
        codec(128).encode(sources, repairs, first_esi)


def test_no_source_symbols_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 source symbols"):
        codec(128).encode(SymbolRows(random_bytes(0, 4)), SymbolRows(random_bytes(1, 4)))


def test_symbols_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="of one size"):
        codec(4).encode(SymbolRows(random_bytes(4, 64)), SymbolRows(random_bytes(1, 96)))
    with pytest.raises(ValueError, match="96 bytes cannot stand among"):
        SymbolRows(random_bytes(4, 64)).substituted([0], SymbolRows(random_bytes(1, 96)))


def test_a_count_of_repairs_other_than_of_outputs_is_refused() -> None:
    combine = NumpyKernel().prepare(random_bytes(2, 4))
    with pytest.raises(ValueError, match="wants 4 symbols in and 2 out"):
        combine(SymbolRows(random_bytes(4, 64)), SymbolRows(random_bytes(3, 64)))
    with pytest.raises(ValueError, match="wants 4 symbols in and 2 out"):
        combine(SymbolRows(random_bytes(3, 64)), SymbolRows(random_bytes(2, 64)))


def test_a_part_of_a_matrix_is_applied_by_itself() -> None:
    matrix, inputs = random_bytes(20, 4), SymbolRows(random_bytes(4, 64))
    combine, whole = NumpyKernel().prepare(matrix), np.zeros((20, 64), np.uint8)
    combine(inputs, SymbolRows(whole))
    for part in (range(20), range(1), range(7, 9), range(15, 20), range(3, 3)):
        some = np.zeros((len(part), 64), np.uint8)
        combine(inputs, SymbolRows(some), part)
        assert np.array_equal(some, whole[part.start : part.stop])


@pytest.mark.parametrize("part", [range(-1, 1), range(1, 3), range(2, 1), range(0, 2, 2)])
def test_a_part_that_a_matrix_does_not_have_is_refused(part: range) -> None:
    combine = NumpyKernel().prepare(random_bytes(2, 4))
    with pytest.raises(ValueError, match="a 2 x 4 matrix has no"):
        combine(SymbolRows(random_bytes(4, 64)), SymbolRows(random_bytes(len(part), 64)), part)


def test_a_read_only_output_is_refused() -> None:
    repairs = random_bytes(1, 64)
    repairs.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        codec(4).encode(SymbolRows(random_bytes(4, 64)), SymbolRows(repairs))


def test_a_read_only_source_is_read() -> None:
    sources = random_bytes(4, 64)
    sources.flags.writeable = False
    codec(4).encode(SymbolRows(sources), SymbolRows(random_bytes(1, 64)))


@pytest.mark.parametrize(
    "buffer",
    [random_bytes(4, 64)[:, ::2], random_bytes(4, 64)[::-1], random_bytes(64), np.zeros((4, 64), np.int8)],
    ids=["strided bytes", "backwards", "one dimension", "int8"],
)
def test_a_buffer_whose_rows_are_no_symbols_is_refused(buffer: Bytes) -> None:
    with pytest.raises(ValueError, match="symbols want uint8"):
        SymbolRows(buffer)


def test_addresses_and_views_mean_the_same_bytes() -> None:
    ring, pool = random_bytes(5, 6, 48)[:, 2, 8:40], random_bytes(9, 40)[::2, 4:36]
    rows = SymbolRows(ring).substituted([1, 3], SymbolRows(pool).take([4, 0])).take([3, 0, 1, 1, 4])
    expected = [pool[0], ring[0], pool[4], pool[4], ring[4]]
    views = rows.views()
    assert len(rows) == 5
    assert [view.__array_interface__["data"][0] for view in views] == rows.addresses.tolist()
    assert [view.__array_interface__["data"][0] for view in views] == [
        view.__array_interface__["data"][0] for view in expected
    ]


def test_rows_do_not_follow_the_indices_they_were_picked_by() -> None:
    buffer, indices, positions = random_bytes(4, 32), np.array([0, 1]), np.array([0])
    rows = SymbolRows(buffer).take(indices).substituted(positions, SymbolRows(random_bytes(1, 32)))
    before = [view.__array_interface__["data"][0] for view in rows.views()]
    indices[:], positions[:] = 3, 1
    assert [view.__array_interface__["data"][0] for view in rows.views()] == before == rows.addresses.tolist()


def test_a_run_is_what_taking_its_numbers_gives() -> None:
    buffer = random_bytes(9, 64)
    for rows in (SymbolRows(buffer), SymbolRows(buffer).run(range(1, 9)), SymbolRows(buffer).take([3, 0, 7, 7, 1, 2])):
        for part in (range(6), range(2, 5), range(4, 4)):
            run, taken = rows.run(part), rows.take(list(part))
            assert run.addresses.tolist() == taken.addresses.tolist()
            assert [view.tolist() for view in run.views()] == [view.tolist() for view in taken.views()]
            assert run.run(range(len(part))).take([0] * len(part)).addresses.tolist() == [
                *taken.addresses[:1].tolist() * len(part)
            ]
            run.touch(0, 64)


def test_symbols_beyond_a_buffer_are_refused() -> None:
    with pytest.raises(IndexError):
        SymbolRows(random_bytes(4, 64)).take([4])
    for part in (range(5), range(-1, 2), range(0, 4, 2), range(3, 2)):
        with pytest.raises(IndexError, match="there are no symbols"):
            SymbolRows(random_bytes(4, 64)).run(part)
