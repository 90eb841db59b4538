"""Goal: the times of one thread add up, whatever nests; switched off, nothing is kept.

Method: processor time really spent, compared with the same clock around it.
"""

from __future__ import annotations

import threading
import time

import pytest

from ghostcast.stages import OFF, StageClock


def burn(processor_ns: int) -> None:
    end = time.thread_time_ns() + processor_ns
    while time.thread_time_ns() < end:
        pass


def test_what_an_inner_stage_takes_is_not_counted_for_the_outer() -> None:
    clock = StageClock()
    begun = time.thread_time_ns()
    with clock("lay out", 10):
        burn(2_000_000)
        with clock("read", 7):
            burn(4_000_000)
        with clock("read", 7):
            burn(4_000_000)
    whole = time.thread_time_ns() - begun
    totals = clock.totals()
    assert (totals["read"].calls, totals["read"].size) == (2, 14)
    assert (totals["lay out"].calls, totals["lay out"].size) == (1, 10)
    assert totals["read"].processor_ns >= 8_000_000
    assert totals["lay out"].processor_ns >= 2_000_000
    assert totals["read"].processor_ns + totals["lay out"].processor_ns <= whole
    assert totals["read"].wall_ns >= totals["read"].processor_ns - 1_000_000


def test_threads_are_added_up() -> None:
    clock = StageClock()

    def work() -> None:
        for _slice in range(100):
            with clock("hash", 3):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.totals()["hash"].calls == 400
    assert clock.totals()["hash"].size == 1200


def test_a_stage_that_fails_is_counted_and_does_not_swallow_it() -> None:
    clock = StageClock()
    with pytest.raises(OSError, match="full"), clock("write"):
        raise OSError("full")
    assert clock.totals()["write"].calls == 1


def test_switched_off_nothing_is_kept() -> None:
    with OFF("read", 5):
        pass
    assert OFF.totals() == {}
