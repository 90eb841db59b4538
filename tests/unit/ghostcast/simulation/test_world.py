"""Goal: a run is decided by its scenario alone, and its figures are those of what was carried.

Method: small fleets, twice with one seed and once with another; counts compared with what must be.
"""

from __future__ import annotations

import numpy as np

from ghostcast.simulation import Bernoulli, Member, Result, Scenario, Way, simulate
from protocol import limits


def scenario(**changes: object) -> Scenario:
    loss = Way(loss=(Bernoulli(0.02),), delay_ns=100_000, control_loss=0.02, feedback_loss=0.02)
    settings: dict[str, object] = {"receivers": 12, "size": 8 * limits.MIB, "member": Member(link=loss), "seed": 3}
    return Scenario(**(settings | changes))  # type: ignore[arg-type]


def same(first: Result, second: Result) -> bool:
    return first.to_json() == second.to_json() and np.array_equal(first.data_s, second.data_s)


def test_the_same_scenario_gives_the_same_result() -> None:
    first = simulate(scenario())
    assert same(first, simulate(scenario()))
    assert not same(first, simulate(scenario(seed=4)))


def test_everybody_ends_verified_and_the_figures_agree() -> None:
    result = simulate(scenario())
    assert result.states == ["verified"] * 12
    assert (result.data_s <= result.durable_s).all()
    assert (result.durable_s <= result.confirmed_s).all()
    assert result.sent_symbols == int(result.sent.sum())
    assert result.needed_symbols < result.sent_symbols < 1.3 * result.needed_symbols
    assert abs(float(result.loss.mean()) - 0.02) < 0.005
    assert result.control["Join"].sum() >= 12 * 0.9
    assert result.control["Done"].sum() >= 12


def test_without_loss_every_symbol_is_sent_once() -> None:
    result = simulate(scenario(member=Member(), repair_symbols=0))
    assert result.sent_symbols == result.needed_symbols
    assert result.nacks == 0
    assert result.data_last_s < 1.05 * result.ideal_s + 0.01
