"""Goal: the small decisions of the ingest thread are right by themselves.

Method: its functions, called with figures; the thread at work is tested by whole sessions (``test_engine``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from receivers.ingest import _compose


def array(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def test_what_was_chosen_of_what_was_chosen() -> None:
    assert _compose(None, None) is None
    for outer, inner, expected in (
        (None, array(3, 5), [3, 5]),
        (array(3, 5), None, [3, 5]),
        (array(3, 5, 9), array(0, 2), [3, 9]),
        (array(3, 5), array(), []),
    ):
        found = _compose(outer, inner)
        assert found is not None
        assert found.tolist() == expected
