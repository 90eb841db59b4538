"""Measurements made by hand: what the tests of record, advice and views start from."""

from __future__ import annotations

from ghostcast.measure.record import Listener, Measurement, StepResult
from protocol.limits import MEGABIT
from protocol.measurement import Outcome

STEP_COUNT = 80_000


def outcome(
    index: int,
    step: int,
    received: int = STEP_COUNT,
    *,
    host: int = 0,
    run: int = 1,
    distance: int = 0,
    jitter_us: int = 500,
    losses: tuple[int, ...] = (0,) * 6,
    sent: int = STEP_COUNT,
) -> Outcome:
    """Return what a listener says of a step, its losses in runs of ``run`` each."""
    runs = [0] * 16
    if sent > received:
        runs[min(15, run.bit_length() - 1)] = max(1, (sent - received) // run)
    first, second, third, fourth, fifth, sixth = losses
    return Outcome(
        index,
        step,
        received,
        0,
        host,
        1 if distance else 0,
        distance,
        tuple(runs),
        run if sent > received else 0,
        (100, jitter_us, 2 * jitter_us),
        (first, second, third, fourth, fifth, sixth),
        0,
    )


def listener(index: int, host: str = "", **changes: int) -> Listener:
    name = host or f"r{index + 1}"
    made = Listener(index, bytes([index] * 16), name, name, (f"10.0.0.{index}", 5000), 10**9, 1500, 64 << 20)
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def measurement(listeners: list[Listener], steps: list[tuple[float, list[Outcome]]]) -> Measurement:
    """Return a measurement of (Mbit/s, outcomes) steps; outcomes get their step numbers here."""
    made = Measurement("test", 1440, 1500, listeners=listeners)
    for number, (megabits, outcomes) in enumerate(steps):
        rate = megabits * MEGABIT
        made.steps.append(
            StepResult(
                number, False, 1440, rate, rate, 1.0, STEP_COUNT, 0, {one.receiver_index: one for one in outcomes}
            )
        )
    return made
