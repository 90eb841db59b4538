"""Goal: every planted trouble is named with its host, and the options follow the model that a sender uses.

Method: measurements made by hand, one trouble each, beside one without any.
"""

from __future__ import annotations

import dataclasses

import pytest

from ghostcast.measure.advice import findings, suggest
from ghostcast.measure.record import ListenerState, Measurement
from protocol import limits, parity
from protocol.limits import MEGABIT
from tests.unit.ghostcast.measure.results import STEP_COUNT, listener, measurement, outcome


def texts(made: Measurement) -> str:
    return "\n".join(f"{finding.text} -> {finding.remedy}" for finding in findings(made))


def test_a_good_network_has_nothing_to_say() -> None:
    made = measurement([listener(0), listener(1)], [(rate, [outcome(0, 0), outcome(1, 0)]) for rate in (100, 300, 900)])
    assert findings(made) == []
    suggestion = suggest(made)
    assert suggestion is not None
    assert suggestion.rate == int(0.97 * 900 * MEGABIT)
    assert (suggestion.repair_symbols, suggestion.interleave, suggestion.slowest) == (0, 32, None)
    assert suggestion.options == "--rate 873Mbit --fec 0 --symbol-size 1440 --interleave 32"


def test_independent_loss_gets_what_the_senders_model_says() -> None:
    received = round(STEP_COUNT * 0.99)
    made = measurement(
        [listener(0), listener(1)],
        [(rate, [outcome(0, 0, received, losses=(3,) * 6), outcome(1, 0)]) for rate in (100, 300)],
    )
    suggestion = suggest(made)
    assert suggestion is not None
    assert suggestion.repair_symbols == parity.surplus(limits.SOURCE_SYMBOLS_DEFAULT, 1, 0.01)
    assert suggestion.interleave == 32
    assert "r1 loses 1.00% at every rate" in texts(made)
    assert "burst" not in texts(made)


def test_large_datagrams_get_the_window_that_send_has_for_them() -> None:
    made = measurement([listener(0)], [(100, [outcome(0, 0)])])
    made = dataclasses.replace(made, symbol_size=8928)
    suggestion = suggest(made)
    assert suggestion is not None
    assert suggestion.interleave == 8


def test_bursts_get_more_redundancy_than_independent_loss_and_a_longer_window() -> None:
    received = round(STEP_COUNT * 0.99)
    losses = (40, 20, 16, 8, 5, 4)
    made = measurement([listener(0)], [(100, [outcome(0, 0, received, run=64, losses=losses)])])
    suggestion = suggest(made)
    assert suggestion is not None
    assert suggestion.interleave == 128
    assert suggestion.repair_symbols == max(5, parity.surplus(limits.SOURCE_SYMBOLS_DEFAULT, 1, 0.01))
    assert "r1 loses datagrams in bursts: 67 on average" in texts(made)


def test_the_slowest_sets_the_rate_and_is_named() -> None:
    fast = [outcome(index, 0) for index in (1, 2)]
    made = measurement(
        [listener(0), listener(1), listener(2)],
        [
            (rate, [outcome(0, 0, got), *fast])
            for rate, got in ((100, 80_000), (200, 80_000), (300, 55_000), (900, 19_000))
        ],
    )
    suggestion = suggest(made)
    assert suggestion is not None
    assert (suggestion.slowest, suggestion.rate) == ("r1", int(0.97 * 200 * MEGABIT))
    assert suggestion.repair_symbols == 0
    assert "r1 would hold all others down" in texts(made)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (measurement([listener(0, buffer_size=200 << 10)], [(100, [outcome(0, 0)])]), "rmem_max"),
        (
            measurement([listener(0)], [(100, [outcome(0, 0)]), (300, [outcome(0, 1, 40_000, host=39_000)])]),
            "r1 loses datagrams in the host",
        ),
        (measurement([listener(0)], [(100, [outcome(0, 0, distance=65)])]), "65 places late"),
        (measurement([listener(0)], [(100, [outcome(0, 0, jitter_us=50_000)])]), "varies by 50 ms"),
        (measurement([listener(0)], [(100, [outcome(0, 0, 0, run=STEP_COUNT)])]), "not one datagram of the data group"),
        (measurement([listener(0)], [(100, [outcome(0, 0, 30_000)])]), "not even carry the lowest"),
    ],
)
def test_a_planted_trouble_is_named(made: Measurement, words: str) -> None:
    assert words in texts(made)


def test_what_a_host_cannot_fetch_gets_no_redundancy() -> None:
    made = measurement([listener(0)], [(100, [outcome(0, 0, 78_000, host=2_000, losses=(9,) * 6)])])
    suggestion = suggest(made)
    assert suggestion is not None
    assert suggestion.repair_symbols == 0
    assert "at every rate" not in texts(made)
    assert "in the host, not in the network (2000 of 2000)" in texts(made)


def test_reorder_within_the_guard_is_no_finding() -> None:
    assert findings(measurement([listener(0)], [(100, [outcome(0, 0, distance=limits.REORDER_GUARD)])])) == []


def test_a_size_that_does_not_come_through() -> None:
    made = measurement(
        [listener(0), listener(1)],
        [(20, [outcome(0, 0), outcome(1, 0, 0, run=STEP_COUNT)]), (100, [outcome(0, 1), outcome(1, 1)])],
    )
    made.steps[0].probe, made.steps[0].symbol_size = True, 8928
    assert "symbols of 8928 bytes do not reach r2" in texts(made)
    assert "--symbol-size 1440" in texts(made)


def test_who_went_missing_and_what_the_sender_cannot() -> None:
    made = measurement([listener(0)], [(100, [outcome(0, 0)])])
    made.listeners[0].state = ListenerState.SILENT
    made.sender_limit = 500 * MEGABIT
    made.steps[0].refused = 7
    assert "r1 stopped answering" in texts(made)
    assert "cannot send faster than 500 Mbit/s" in texts(made)
    assert "refused 7 datagrams" in texts(made)


def test_nobody_carries_anything() -> None:
    assert suggest(measurement([listener(0)], [(100, [outcome(0, 0, 30_000)])])) is None
    assert suggest(measurement([], [])) is None
