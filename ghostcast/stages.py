"""Where the time goes: wall and processor time by stage of the data path, taken where the work is done.

A stage is entered once for a batch, a slice or a chunk, never for a datagram. Stages may nest: what an inner one takes
is not counted for the outer one, so that the times of one thread add up. Switched off, entering one costs a call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from types import TracebackType
from typing import Protocol


@dataclasses.dataclass(slots=True)
class Stage:
    """The sum over all threads for one stage."""

    calls: int = 0
    wall_ns: int = 0
    """Time spent in it, waiting for the interpreter, the kernel or the disk included."""
    processor_ns: int = 0
    """Processor time of the threads that were in it, of user and kernel."""
    size: int = 0
    """Bytes that passed through it."""

    def add(self, other: Stage) -> None:
        """Add another sum to this one."""
        self.calls += other.calls
        self.wall_ns += other.wall_ns
        self.processor_ns += other.processor_ns
        self.size += other.size


class Stages(Protocol):
    """What the data path tells of its stages; ``OFF`` or a ``StageClock``."""

    def __call__(self, name: str, size: int = 0) -> contextlib.AbstractContextManager[object]:
        """Return a context that is stage ``name``, through which ``size`` bytes pass."""

    def count(self, name: str, size: int) -> None:
        """Say that ``size`` bytes passed through a stage that could not know so when it was entered."""

    def totals(self) -> dict[str, Stage]:
        """Return the sums so far, by stage, in order of first appearance."""


class _Off:
    """Measures nothing."""

    _nothing = contextlib.nullcontext()

    def __call__(self, name: str, size: int = 0) -> contextlib.AbstractContextManager[object]:
        """Return a context that does nothing."""
        return self._nothing

    def count(self, name: str, size: int) -> None:
        """Forget it."""

    def totals(self) -> dict[str, Stage]:
        """Return nothing."""
        return {}


OFF: Stages = _Off()


class StageClock:
    """Measures. May be used by any number of threads; each has sums of its own, so that none waits for another."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._ledgers: list[_Ledger] = []

    def __call__(self, name: str, size: int = 0) -> contextlib.AbstractContextManager[object]:
        """Return a context that is stage ``name``, through which ``size`` bytes pass."""
        return _Visit(self._ledger(), name, size)

    def count(self, name: str, size: int) -> None:
        """Say that ``size`` bytes passed through a stage that could not know so when it was entered."""
        self._ledger().stages.setdefault(name, Stage()).size += size

    def _ledger(self) -> _Ledger:
        ledger: _Ledger | None = getattr(self._local, "ledger", None)
        if ledger is None:
            ledger = self._local.ledger = _Ledger()
            self._ledgers.append(ledger)
        return ledger

    def totals(self) -> dict[str, Stage]:
        """Return the sums over all threads, by stage."""
        totals: dict[str, Stage] = {}
        for ledger in self._ledgers:
            for name, stage in list(ledger.stages.items()):
                totals.setdefault(name, Stage()).add(stage)
        return totals


class _Ledger:
    """The sums of one thread, and what the stages inside the current one took so far."""

    __slots__ = ("inner_processor_ns", "inner_wall_ns", "stages")

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.inner_wall_ns = 0
        self.inner_processor_ns = 0


class _Visit:
    """One stay in one stage."""

    __slots__ = ("_ledger", "_name", "_outer", "_size", "_start")

    def __init__(self, ledger: _Ledger, name: str, size: int) -> None:
        self._ledger, self._name, self._size = ledger, name, size

    def __enter__(self) -> None:
        ledger = self._ledger
        self._outer = (ledger.inner_wall_ns, ledger.inner_processor_ns)
        ledger.inner_wall_ns = ledger.inner_processor_ns = 0
        self._start = (time.monotonic_ns(), time.thread_time_ns())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ledger = self._ledger
        wall_ns = time.monotonic_ns() - self._start[0]
        processor_ns = time.thread_time_ns() - self._start[1]
        stage = ledger.stages.setdefault(self._name, Stage())
        stage.calls += 1
        stage.wall_ns += wall_ns - ledger.inner_wall_ns
        stage.processor_ns += processor_ns - ledger.inner_processor_ns
        stage.size += self._size
        ledger.inner_wall_ns = self._outer[0] + wall_ns
        ledger.inner_processor_ns = self._outer[1] + processor_ns
