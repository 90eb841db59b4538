"""Goal: every lost datagram is put where it was lost, and reports say what was measured. Method: planted outcomes."""

from __future__ import annotations

import json

import pytest

from ghostcast.measure.record import StepResult, describe_listener, describe_step
from tests.unit.ghostcast.measure.results import STEP_COUNT, listener, measurement, outcome


@pytest.mark.parametrize(
    ("received", "refused", "host", "expected"),
    [
        (1000, 0, 0, (0, 0, 0)),
        (900, 0, 0, (0, 100, 0)),
        (900, 0, 60, (0, 40, 60)),
        (900, 0, 500, (0, 0, 100)),  # an estimate never exceeds what is missing
        (900, 30, 60, (30, 10, 60)),
        (900, 200, 60, (100, 0, 0)),
        (1000, 0, 60, (0, 0, 0)),
    ],
)
def test_loss_is_attributed(received: int, refused: int, host: int, expected: tuple[int, int, int]) -> None:
    result = StepResult(0, False, 1440, 1e6, 1e6, 1.0, 1000, refused)
    result.outcomes[0] = outcome(0, 0, received, host=host, sent=1000)
    loss = result.loss(0)
    assert (loss.sender, loss.network, loss.host) == expected
    assert loss.expected == 1000 - loss.sender
    assert loss.share == pytest.approx((loss.network + loss.host) / loss.expected)


def test_a_listeners_report() -> None:
    made = measurement(
        [listener(0), listener(1)],
        [
            (100, [outcome(0, 0), outcome(1, 0)]),
            (300, [outcome(0, 1, 70_000, host=9_000, run=10), outcome(1, 1)]),
        ],
    )
    slow, fast = (describe_listener(made, one) for one in made.listeners)
    assert slow["loss_free_bits_per_s"] == slow["carried_bits_per_s"] == 100_000_000
    assert slow["failed_bits_per_s"] == 300_000_000
    assert (slow["lost_network"], slow["lost_host"]) == (1_000, 9_000)
    assert sum(slow["runs"]) == 0  # only rates that are carried
    assert fast["carried_bits_per_s"] == 300_000_000
    assert fast["failed_bits_per_s"] is None
    json.dumps([slow, fast])


def test_a_listener_that_never_answered_has_a_report_too() -> None:
    report = describe_listener(measurement([listener(0)], [(100, [])]), listener(0))
    assert report["carried_bits_per_s"] is None
    assert report["jitter_us"] is None
    assert report["runs"] == []


def test_a_step_names_its_listeners() -> None:
    made = measurement([listener(0), listener(1)], [(100, [outcome(0, 0), outcome(1, 0, 40_000)])])
    made.listeners[1].name = "r1#1"
    step = describe_step(made.steps[0], made.listeners)
    assert step["receivers"]["r1"]["loss"] == 0
    assert step["receivers"]["r1#1"]["loss"] == 0.5
    assert step["sent"] == STEP_COUNT
