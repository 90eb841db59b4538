"""Goal: results come in order, memory is bounded, and no thread outlives the pipeline, however it ends.

Method: work that finishes in the wrong order by waiting for events, sources and consumers that fail.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from ghostcast.image.pipeline import SPARE_ITEMS, core_count, ordered


def plain(function: Callable[[int], int]) -> Callable[[], Callable[[int], int]]:
    return lambda: function


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_results_come_in_the_order_of_the_items() -> None:
    last_started = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert last_started.wait(60)  # the first is the last to finish
        if item == 3:
            last_started.set()
        return item * item

    assert list(ordered(range(4), plain(work), worker_count=4)) == [0, 1, 4, 9]


def test_no_items_no_results() -> None:
    assert list(ordered([], plain(abs))) == []
    assert core_count() >= 1


def test_each_worker_makes_its_own_state() -> None:
    made = []
    barrier = threading.Barrier(2, timeout=60)

    def make() -> Callable[[int], int]:
        identity = threading.get_ident()
        made.append(identity)

        def work(item: int) -> int:
            assert threading.get_ident() == identity
            barrier.wait()  # both workers must take part
            return item

        return work

    assert list(ordered(range(4), make, worker_count=2)) == [0, 1, 2, 3]
    assert len(set(made)) == len(made) == 2


def test_what_is_in_flight_is_bounded() -> None:
    """The source runs ahead of the consumer by twice the workers, and no further however slow the consumer is."""
    given = 0

    def items() -> Iterator[int]:
        nonlocal given
        for item in range(100):
            given += 1
            yield item

    for done, _ in enumerate(ordered(items(), plain(abs), worker_count=3), 1):
        assert given < done + 6 + SPARE_ITEMS + 1


def test_an_error_of_the_source_follows_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("source")

    results = ordered(items(), plain(abs))
    assert next(results) == 1
    with pytest.raises(ValueError, match="source"):
        next(results)


def test_an_error_of_the_work_ends_it() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("work")
        return item

    with pytest.raises(ValueError, match="work"):
        list(ordered(range(1000), plain(work)))


def test_a_consumer_that_fails_stops_a_source_that_waits() -> None:
    stop = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert stop.wait(60)

    def consume() -> None:
        with contextlib.closing(ordered(items(), plain(abs), stop=stop)) as results:
            for _ in results:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
