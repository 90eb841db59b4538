"""What many runs say together: medians and ranges, and how many times as fast ghostcast was, round by round."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from benchmarks.head_to_head.ceiling import Ceiling
from benchmarks.head_to_head.measuring import Failure, Measured, Run
from benchmarks.head_to_head.profiling import Profile
from benchmarks.head_to_head.scene import Cell
from benchmarks.head_to_head.tools import OURS, TOOLS

GIB = 1 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of n figures."""

    median: float
    minimum: float
    maximum: float
    n: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> Self:
        """Return the spread of one figure or more."""
        found = sorted(figures)
        return cls(statistics.median(found), found[0], found[-1], len(found))


@dataclasses.dataclass(frozen=True, slots=True)
class CellResult:
    """One cell, measured."""

    cell: Cell
    image_seconds: float
    stored_size: int
    figures: dict[str, dict[str, Spread]]
    """Tool → figure → spread."""
    speedups: dict[str, dict[str, Spread]]
    """Tool → figure → the tool's seconds / ghostcast's."""
    ceiling: Spread | None
    """Gbit/s of the raw loop."""
    share_of_ceiling: Spread | None
    """ghostcast's Gbit/s of the source, flushed, / the raw loop's, round by round."""
    profile: Profile | None
    """Where ghostcast's time went, in one more run."""
    runs: list[Run]
    ceilings: list[Ceiling]
    failures: list[Failure]

    @classmethod
    def of(
        cls, cell: Cell, measured: Measured, image_seconds: float, stored_size: int, profile: Profile | None = None
    ) -> Self:
        """Return what the rounds of a cell say together."""
        loops = {loop.round: loop.gbit_per_s for loop in measured.ceilings}
        shares = [
            cell.size * 8e-9 / run.durable_seconds / loops[run.round]
            for run in measured.runs
            if run.tool == OURS and run.round in loops
        ]
        return cls(
            cell=cell,
            image_seconds=image_seconds,
            stored_size=stored_size,
            figures=spreads(measured.runs, cell.size, stored_size),
            speedups=speedups(measured.runs),
            ceiling=Spread.of(loops.values()) if loops else None,
            share_of_ceiling=Spread.of(shares) if shares else None,
            profile=profile,
            runs=measured.runs,
            ceilings=measured.ceilings,
            failures=measured.failures,
        )


def spreads(runs: Sequence[Run], size: int, stored_size: int) -> dict[str, dict[str, Spread]]:
    """Return tool → figure → spread over its rounds."""
    found: dict[str, dict[str, Spread]] = {}
    for name in dict.fromkeys(run.tool for run in runs):
        own = [run for run in runs if run.tool == name]
        sent_size = stored_size if TOOLS[name].sends == "image" else size
        figures: dict[str, Callable[[Run], float]] = {
            "copied_seconds": lambda run: run.copied_seconds,
            "durable_seconds": lambda run: run.durable_seconds,
            "whole_seconds": lambda run: run.whole_seconds,
            "first_copy_seconds": lambda run: min(run.receiver_seconds, default=run.copied_seconds),
            "before_data_seconds": lambda run: run.data_begins_seconds,
            "data_seconds": lambda run: run.data_ends_seconds - run.data_begins_seconds,
            "after_data_seconds": lambda run: run.whole_seconds - run.data_ends_seconds,
            "image_gbit_per_s": lambda run: size * 8e-9 / run.durable_seconds,
            "sender_cpu_seconds": lambda run: run.sender_cpu_seconds,
            "receivers_cpu_seconds": lambda run: sum(run.receiver_cpu_seconds),
            "sender_cpu_seconds_per_gib": lambda run: run.sender_cpu_seconds / size * GIB,
            "receiver_cpu_seconds_per_gib": lambda run: _mean(run.receiver_cpu_seconds) / size * GIB,
            "sender_memory_bytes": lambda run: run.sender_memory_bytes,
            "receiver_memory_bytes": lambda run: max(run.receiver_memory_bytes, default=0),
            "busy_cores": lambda run: run.busy_cores,
            "wire_per_image_byte": lambda run: run.wire_sent_bytes / size,
            "wire_per_sent_byte": lambda run, sent_size=sent_size: run.wire_sent_bytes / sent_size,  # type: ignore[misc]
        }
        found[name] = {figure: Spread.of(map(value, own)) for figure, value in figures.items()}
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def speedups(runs: Sequence[Run]) -> dict[str, dict[str, Spread]]:
    """Return tool → figure → the tool's seconds / ghostcast's, round by round; rounds that one failed are left out."""
    by_round = {(run.round, run.tool): run for run in runs}
    pairs = [(by_round[run.round, OURS], run) for run in runs if run.tool != OURS and (run.round, OURS) in by_round]
    return {
        name: {
            figure: Spread.of(
                getattr(other, figure) / getattr(ours, figure) for ours, other in pairs if other.tool == name
            )
            for figure in ("copied_seconds", "durable_seconds", "whole_seconds")
        }
        for name in dict.fromkeys(other.tool for _, other in pairs)
    }


@dataclasses.dataclass(frozen=True, slots=True)
class FixedCost:
    """What a tool's session costs besides its data, from two cells that differ in size alone."""

    network: str
    tool: str
    size: int
    """Of the smaller one."""
    whole_seconds: Spread
    """Of the smaller one: the sender's command, and until all is flushed."""
    fixed_seconds: float
    """Of this, what is left when its bytes are counted at the rate at which the larger one moved the bytes it has more.

    Everything that is not data is in it, the climb to that rate too.
    """
    before_data_seconds: Spread
    after_data_seconds: Spread


def fixed_costs(results: Sequence[CellResult]) -> list[FixedCost]:
    """Return the fixed costs of each tool in each network that was measured with two sizes or more."""
    found = []
    for small in results:
        larger = [
            other
            for other in results
            if dataclasses.replace(other.cell, size=small.cell.size, timeout_s=small.cell.timeout_s) == small.cell
            and other.cell.size > small.cell.size
        ]
        if not larger:
            continue
        large = max(larger, key=lambda result: result.cell.size)
        for tool, figures in small.figures.items():
            if tool not in large.figures:
                continue
            whole = figures["whole_seconds"]
            slope = (large.figures[tool]["whole_seconds"].median - whole.median) / (large.cell.size - small.cell.size)
            found.append(
                FixedCost(
                    network=small.cell.network,
                    tool=tool,
                    size=small.cell.size,
                    whole_seconds=whole,
                    fixed_seconds=whole.median - slope * small.cell.size,
                    before_data_seconds=figures["before_data_seconds"],
                    after_data_seconds=figures["after_data_seconds"],
                )
            )
    return found
