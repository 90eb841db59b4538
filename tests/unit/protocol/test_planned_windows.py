"""How many windows are planned at a time."""

from __future__ import annotations

import numpy as np

from protocol import limits
from protocol.planned_windows import LARGE_WINDOWS, SMALL_WINDOWS, PlannedWindows
from protocol.schedule import Window
from protocol.sender_events import StartRule
from tests.unit.protocol.sender_desk import parameters

USUAL_SLICES, K = 32, 128


def planned(**changes: object) -> PlannedWindows:
    facts = {"window_slices": USUAL_SLICES, "source_symbols": K, "stream_size": 1 << 30, "symbol_size": 1024}
    return PlannedWindows(parameters(StartRule(receivers=1), **facts | changes))


def window(slices: int, symbols: int, *, repair_pass: bool) -> Window:
    counts = np.full(slices, symbols)
    return Window(limits.OBJECT_IMAGE, np.arange(slices), np.zeros(slices, np.int64), counts, 0, 0, repair_pass)


STREAM = window(USUAL_SLICES, K + 2, repair_pass=False)
REPAIRS = window(USUAL_SLICES, 3, repair_pass=True)


def test_repairs_do_not_take_the_place_of_the_stream() -> None:
    line = planned()
    for count in range(LARGE_WINDOWS):
        assert line.room
        line.add(REPAIRS)
        assert line.room, count
        line.add(STREAM)
    assert not line.room
    line.first_left()  # repairs
    assert not line.room
    line.first_left()
    assert line.room


def test_repairs_are_bounded_too() -> None:
    line = planned()
    for _count in range(SMALL_WINDOWS):
        assert line.room
        line.add(REPAIRS)
    assert not line.room


def test_many_repairs_are_a_large_window() -> None:
    line = planned()
    assert line.usual == USUAL_SLICES * (K + limits.REPAIR_SYMBOLS_START)
    many = window(USUAL_SLICES, line.small_max // USUAL_SLICES + 1, repair_pass=True)
    assert line.is_small(REPAIRS)
    assert not line.is_small(many)
    for _count in range(LARGE_WINDOWS):
        line.add(many)
    assert not line.room


def test_a_short_window_of_the_stream_is_a_large_one() -> None:
    """Where the rate is low, windows are short, and more of them planned would have repairs wait longer."""
    assert not planned().is_small(window(1, K + 2, repair_pass=False))


def test_a_small_image_has_room_for_one_repair_symbol() -> None:
    line = planned(stream_size=3, source_symbols=2, symbol_size=64)
    assert line.is_small(window(1, 1, repair_pass=True))
