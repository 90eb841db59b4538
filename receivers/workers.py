"""The worker pool: everything about a chunk that takes time, off the thread that fetches datagrams.

A job is a function without arguments that returns an outcome; outcomes are collected for the ingest thread, which owns
all state. Workers share no state but the buffers whose slices are pinned for their job. The pool of slices bounds the
number of jobs: a chunk becomes a job only with all its slices in memory.
"""

from __future__ import annotations

import collections
import os
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Outcome = TypeVar("Outcome")

WAITING_WORKERS = 2
"""More workers than cores: while these wait for the disk, others decompress. With one of them, a file system's image
takes a sixth longer (measured)."""

WORKERS_MAX = 8
"""More threads than this contend for the interpreter instead of helping."""


def worker_count() -> int:
    """Return how many workers suit this machine."""
    return min((os.cpu_count() or 1) + WAITING_WORKERS, WORKERS_MAX)


class WorkerPool(Generic[Outcome]):
    """A fixed number of threads that run jobs in order of arrival."""

    def __init__(self, count: int, wake: Callable[[], None]) -> None:
        """Start ``count`` threads; ``wake`` is called, from a worker, after each job."""
        self._jobs: queue.SimpleQueue[Callable[[], Outcome] | None] = queue.SimpleQueue()
        self._outcomes: collections.deque[Outcome | BaseException] = collections.deque()
        self._wake = wake
        self._threads = [threading.Thread(target=self._run, name=f"worker-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], Outcome]) -> None:
        """Queue a job."""
        self._jobs.put(job)

    @property
    def ready(self) -> bool:
        """Whether there are outcomes to take."""
        return bool(self._outcomes)

    def take(self) -> list[Outcome | BaseException]:
        """Return the outcomes since the last call; a job that raised is represented by its exception."""
        taken: list[Outcome | BaseException] = []
        while self._outcomes:
            taken.append(self._outcomes.popleft())
        return taken

    def close(self) -> None:
        """Let queued jobs finish and end the threads."""
        for _thread in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._outcomes.append(job())
            except BaseException as error:
                self._outcomes.append(error)
            self._wake()
