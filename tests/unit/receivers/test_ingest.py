"""Goal: the small decisions of the ingest thread are right by themselves.

Method: its functions, called with figures; the thread at work is tested by whole sessions (``test_engine``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from receivers.ingest import _compose, gather_s


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


@pytest.mark.parametrize(
    ("datagrams", "elapsed_s", "expected_s"),
    [
        pytest.param(1024, 0.008, 0.008, id="enough comes as often as it is fetched"),
        pytest.param(256, 0.004, 0.016, id="too few: wait for four times as many"),
        pytest.param(100, 0.006, 0.03, id="a slow stream: not longer than the protocol bears"),
        pytest.param(4000, 0.008, 0.006, id="a fast stream: not so short that it is no pause"),
        pytest.param(5, 0.05, 0.006, id="a trickle is not kept waiting"),
        pytest.param(0, 0.0, 0.006, id="control only"),
    ],
)
def test_the_pause_after_a_small_fetch_follows_the_rate(datagrams: int, elapsed_s: float, expected_s: float) -> None:
    assert gather_s(datagrams, elapsed_s) == pytest.approx(expected_s)
