"""Goal: every job gives one outcome, whatever becomes of it, and closing leaves no thread behind.

Method: jobs that wait for one another on events, so that the threads must be as many as were asked for.
"""

from __future__ import annotations

import functools
import threading

from receivers.workers import WORKERS_MAX, WorkerPool, worker_count

PATIENCE_S = 20.0


class Outcomes:
    """Collects what a pool brings until there is enough of it."""

    def __init__(self, count: int) -> None:
        self._wakes = threading.Semaphore(0)
        self.pool: WorkerPool[int] = WorkerPool(count, self._wakes.release)

    def wait(self, count: int) -> list[int | BaseException]:
        found: list[int | BaseException] = []
        for _wake in range(count):
            assert self._wakes.acquire(timeout=PATIENCE_S)
            found += self.pool.take()
        return found


def test_outcomes_come_back_once_and_exceptions_among_them() -> None:
    outcomes = Outcomes(3)
    failure = KeyError("broken")

    def fail() -> int:
        raise failure

    def leave() -> int:
        raise SystemExit(3)

    outcomes.pool.submit(lambda: 1)
    outcomes.pool.submit(fail)
    outcomes.pool.submit(leave)
    outcomes.pool.submit(lambda: 2)
    found = outcomes.wait(4)
    assert {1, 2, failure} <= set(found)
    assert [type(outcome) for outcome in found].count(SystemExit) == 1
    assert len(found) == 4
    assert outcomes.pool.take() == []
    outcomes.pool.submit(lambda: 3)
    assert outcomes.wait(1) == [3]
    outcomes.pool.close()


def test_one_worker_keeps_the_order() -> None:
    outcomes = Outcomes(1)
    for number in range(50):
        outcomes.pool.submit(functools.partial(int, number))
    assert outcomes.wait(50) == list(range(50))
    outcomes.pool.close()


def test_as_many_jobs_run_at_once_as_there_are_workers() -> None:
    outcomes = Outcomes(4)
    together = threading.Barrier(4, timeout=PATIENCE_S)
    for _job in range(4):
        outcomes.pool.submit(together.wait)
    assert sorted(outcome for outcome in outcomes.wait(4) if isinstance(outcome, int)) == [0, 1, 2, 3]
    outcomes.pool.close()


def test_close_lets_queued_jobs_finish_and_ends_the_threads() -> None:
    before = set(threading.enumerate())
    outcomes = Outcomes(2)
    gate = threading.Event()

    def wait() -> int:
        assert gate.wait(PATIENCE_S)
        return 7

    for _job in range(20):
        outcomes.pool.submit(wait)
    closer = threading.Thread(target=outcomes.pool.close)
    closer.start()
    gate.set()
    closer.join(PATIENCE_S)
    assert not closer.is_alive()
    assert outcomes.pool.take() == [7] * 20
    assert set(threading.enumerate()) == before


def test_the_number_of_workers_is_bounded() -> None:
    assert min(3, WORKERS_MAX) <= worker_count() <= WORKERS_MAX
