"""Goal: the tables are GF(2^8) with polynomial 0x11d. Method: multiplication done again, bit by bit, for every pair."""

from __future__ import annotations

import numpy as np
import pytest
import reedsolo

from protocol import field, limits


def test_products_are_those_of_bitwise_multiplication() -> None:
    left = np.arange(256, dtype=np.uint16)[:, None].repeat(256, axis=1)
    right = np.arange(256, dtype=np.uint16)[None, :].repeat(256, axis=0)
    product = np.zeros((256, 256), np.uint16)
    for _ in range(8):
        product ^= np.where(right & 1, left, 0)
        right >>= 1
        left = np.where(left & 0x80, left << 1 ^ 0x11D, left << 1).astype(np.uint16)
    assert np.array_equal(field.MULTIPLY, product)


def test_logarithms_count_multiplications_by_two() -> None:
    element = 1
    for exponent in range(field.ORDER):
        assert field.EXP[exponent] == element
        assert field.LOG[element] == exponent
        element = int(field.MULTIPLY[element, 2])
    assert element == 1


def test_difference_logs_belong_to_the_sums_of_two_points() -> None:
    points = field.EXP.astype(int)
    for a in range(limits.CODE_LENGTH):
        for b in range(a):
            assert field.EXP[field.DIFFERENCE_LOG[a, b]] == points[a] ^ points[b]
    assert np.array_equal(field.DIFFERENCE_LOG, field.DIFFERENCE_LOG.T)


def test_a_points_difference_with_itself_is_no_factor() -> None:
    assert not field.DIFFERENCE_LOG.diagonal().any()


def test_another_user_of_reedsolo_cannot_change_the_field() -> None:
    before = field.MULTIPLY[3, 200], field.EXP[100], field.LOG[77]
    try:
        reedsolo.init_tables(0x187)
        assert (field.MULTIPLY[3, 200], field.EXP[100], field.LOG[77]) == before
    finally:
        reedsolo.init_tables(field.POLYNOMIAL)


@pytest.mark.parametrize("table", ["LOG", "EXP", "MULTIPLY", "DIFFERENCE_LOG"])
def test_tables_are_read_only(table: str) -> None:
    with pytest.raises(ValueError, match="read-only"):
        getattr(field, table)[0] = 1
