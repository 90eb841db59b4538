"""Arithmetic in GF(2^8), as tables: the field in which repair symbols are computed.

The field of RFC 5510 §8.1: polynomial 0x11d, generator alpha = 2, one byte an element, addition is exclusive or. Knows
elements and the points alpha^0 .. alpha^254 at which the code evaluates; must not know what a symbol or a slice is. The
invariant: every table is computed once at import and read-only, so that any thread may read it.

The logarithms come from ``reedsolo``, so that the field has a source other than our own arithmetic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import reedsolo

from protocol import limits

POLYNOMIAL = 0x11D
"""x^8 + x^4 + x^3 + x^2 + 1, primitive, so that alpha = 2 generates every non-zero element (RFC 5510 §8.1)."""

ORDER = 255
"""Non-zero elements, which is the period of alpha: logarithms are counted modulo this."""

Bytes = npt.NDArray[np.uint8]
Logs = npt.NDArray[np.int16]


def _read_only(table: npt.NDArray[np.generic]) -> None:
    table.flags.writeable = False


def _logarithms() -> tuple[Logs, Bytes]:
    """Return ``log`` int16[256] and ``exp`` uint8[255]; ``log[0]`` is meaningless and reads 0."""
    # reedsolo keeps its field in module globals that any later init_tables may overwrite: hence the copies.
    log, exp, _ = reedsolo.init_tables(POLYNOMIAL)
    return np.array(list(log), np.int16), np.array(list(exp)[:ORDER], np.uint8)


def _multiplication(log: Logs, exp: Bytes) -> Bytes:
    """Return the products uint8[256, 256] of all pairs of elements."""
    product: Bytes = exp[(log[:, None] + log[None, :]) % ORDER]
    product[0, :] = 0
    product[:, 0] = 0
    return product


def _difference_logs(log: Logs, exp: Bytes) -> Logs:
    """Return ``log(alpha^a + alpha^b)`` int16[255, 255], with 0 where a = b.

    The logarithm of zero does not exist; 0, the logarithm of 1, makes the factor of a point with itself drop out of a
    product, which is what every product over "all points but this one" wants.
    """
    points = exp[: limits.CODE_LENGTH]
    differences: Logs = log[points[:, None] ^ points[None, :]]
    np.fill_diagonal(differences, 0)
    return differences


LOG, EXP = _logarithms()
"""Logarithms to the base alpha: ``LOG`` int16[256] (entry 0 unused) and its inverse ``EXP`` uint8[255]."""

MULTIPLY = _multiplication(LOG, EXP)
"""Products uint8[256, 256]; row c maps every byte to its product with c."""

DIFFERENCE_LOG = _difference_logs(LOG, EXP)
"""int16[255, 255]: ``log(alpha^a + alpha^b)``, 0 on the diagonal; symmetric."""

for _table in (LOG, EXP, MULTIPLY, DIFFERENCE_LOG):
    _read_only(_table)
