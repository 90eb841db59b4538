"""Goal: each model loses what its description says, and the same again for the same seed.

Method: shares and burst lengths over a million datagrams, counted beside the closed form.
"""

from __future__ import annotations

import numpy as np
import pytest

from ghostcast.simulation.loss import Bernoulli, Bursts, GilbertElliott, LossModel
from protocol.errors import UsageError

COUNT = 1_000_000
MODELS = [
    Bernoulli(0.0),
    Bernoulli(0.001),
    Bernoulli(0.2),
    Bernoulli(1.0),
    GilbertElliott(0.01, 20),
    GilbertElliott(0.05, 2),
    GilbertElliott(0.02, 50, bad_loss=0.5),
    Bursts(500, 20_000),
]


def losses(model: LossModel, seed: int, batches: list[int]) -> np.ndarray:
    """Return ``bool[sum(batches)]``: what is lost."""
    process = model.begin(np.random.default_rng(seed))
    parts = []
    for count in batches:
        places = process.lost(count)
        assert (np.diff(places) > 0).all()
        assert not len(places) or (places[0] >= 0 and places[-1] < count)
        part = np.zeros(count, np.bool_)
        part[places] = True
        parts.append(part)
    return np.concatenate(parts)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_share_lost_is_the_mean(model: LossModel) -> None:
    lost = losses(model, 1, [4321] * (COUNT // 4321))
    assert lost.mean() == pytest.approx(model.mean, rel=0.12, abs=1e-9)


@pytest.mark.parametrize(("model", "length"), [(GilbertElliott(0.01, 20), 20), (Bursts(500, 20_000), 500)])
def test_bursts_are_as_long_as_they_say(model: LossModel, length: int) -> None:
    lost = losses(model, 2, [997] * (COUNT // 997))
    edges = np.flatnonzero(np.diff(np.concatenate(([False], lost, [False]))))
    runs = edges[1::2] - edges[::2]
    assert runs[:-1].mean() == pytest.approx(length, rel=0.1)
    if isinstance(model, Bursts):
        assert set(runs[:-1].tolist()) == {length}, "a burst goes on from batch to batch"


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_same_seed_loses_the_same(model: LossModel) -> None:
    batches = [100, 1, 4000, 0, 17, 2500]
    assert np.array_equal(losses(model, 3, batches), losses(model, 3, batches))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bernoulli(-0.1),
        lambda: Bernoulli(1.1),
        lambda: GilbertElliott(0.1, 0.5),
        lambda: GilbertElliott(0.6, 5, bad_loss=0.5),
        lambda: Bursts(10, 10),
        lambda: Bursts(0, 10),
    ],
)
def test_what_cannot_be_is_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]
