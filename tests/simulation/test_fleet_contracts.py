"""Goal: what a fleet costs stays within what is promised: symbols, control messages and time, for each loss.

Method: a few dozen receivers at 10 Gbit/s in the suite. ``GHOSTCAST_FLEET=10000 pytest tests/simulation/
test_fleet_contracts.py`` takes as many as it says, with an image of 256 MiB, and then takes minutes and gigabytes.
"""

from __future__ import annotations

import os

import pytest

from ghostcast.simulation import Bernoulli, Member, Scenario, Way, simulate
from protocol import limits

FLEET_DEFAULT = 60
FLEET = int(os.environ.get("GHOSTCAST_FLEET", FLEET_DEFAULT))
SIZE = 16 * limits.MIB if FLEET_DEFAULT >= FLEET else 256 * limits.MIB
RATE = 1.25e9


@pytest.mark.timeout(0 if FLEET > FLEET_DEFAULT else 300)
@pytest.mark.parametrize("shared", [False, True], ids=["each by itself", "all at once"])
@pytest.mark.parametrize(("loss", "symbols"), [(0.001, 1.04), (0.01, 1.08), (0.05, 1.18)])
def test_a_fleet_costs_what_is_promised(loss: float, symbols: float, shared: bool) -> None:
    lossy = Way(loss=(Bernoulli(loss),), delay_ns=100_000, control_loss=loss, feedback_loss=loss)
    result = simulate(
        Scenario(
            receivers=FLEET,
            size=SIZE,
            rate=RATE,
            uplink=Way(loss=lossy.loss, control_loss=loss) if shared else Way(),
            member=Member(link=Way(delay_ns=100_000) if shared else lossy),
            seed=1,
        )
    )
    assert result.verified == FLEET
    assert result.overhead <= symbols
    assert result.control_peak_per_s <= limits.FEEDBACK_PER_S
    assert result.data_last_s <= 1.05 * result.ideal_s + 0.5
