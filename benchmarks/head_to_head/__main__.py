"""Measure, print and keep the results: ``python -m benchmarks.head_to_head --help``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from rich.console import Console

from benchmarks.head_to_head import plots
from benchmarks.head_to_head.figures import CellResult, Spread, fixed_costs
from benchmarks.head_to_head.goals import Verdict, verdicts
from benchmarks.head_to_head.layouts import LAB_PROGRAMS, built
from benchmarks.head_to_head.machine import (
    GHOSTCAST,
    ROOT,
    Unusable,
    check_machine,
    compile_modules,
    describe_machine,
    tuned,
)
from benchmarks.head_to_head.measuring import Failure, Say, measure
from benchmarks.head_to_head.options import parse_arguments
from benchmarks.head_to_head.profiling import profile
from benchmarks.head_to_head.scene import Cell, RunFailed, Scene
from benchmarks.head_to_head.sources import CONTENT_PROGRAMS, Source, make_source
from benchmarks.head_to_head.tables import cell_tables, fixed_cost_table
from benchmarks.head_to_head.tools import OURS, TOOLS
from tests.lab.network import NetworkError

_FILE_WIDTH = 130  # of tables that no terminal limits
_HELP_RUNS = 10


def run_benchmark(cells: Sequence[Cell], options: argparse.Namespace) -> int:
    """Measure, print and keep the results; return the exit status: 1 if any run failed."""
    error_console = Console(stderr=True)

    def say(text: str) -> None:
        error_console.print(text, markup=False, highlight=False, soft_wrap=True)

    _check(cells, options.directory)
    compile_modules()
    if options.json:
        try:
            options.json.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unusable(f"--json {options.json}: its directory cannot be made: {error.strerror}") from error
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    results: list[CellResult] = []
    with contextlib.ExitStack() as stack:
        if options.tune:
            stack.enter_context(tuned())
        packages = (package for cell in cells for name in cell.tools for _, package in TOOLS[name].packages)
        found_machine = describe_machine(packages)
        for number, cell in enumerate(cells, start=1):
            say(f"{f'cell {number} of {len(cells)}: ' if len(cells) > 1 else ''}{cell.text}")
            result = _measure_cell(cell, options, say)
            results.append(result)
            for table in cell_tables(result):
                console.print(table)
            if options.json:
                # After every cell: what was measured in an hour is not lost with the next one.
                _write(options.json, {"machine": found_machine, **_summary(results, None), "cells": results})
        costs = fixed_costs(results)
        help_seconds = measure_help() if costs else None
    if costs:
        console.print(fixed_cost_table(costs, help_seconds))
    for verdict in _verdicts(results, help_seconds):
        console.print(verdict.text, highlight=False, soft_wrap=True)
    if options.json:
        _write(options.json, {"machine": found_machine, **_summary(results, help_seconds), "cells": results})
        say(f"written: {options.json}")
        picture = options.json.with_suffix(".png")
        plots.draw(results, picture)
        say(f"drawn: {picture}")
    return 1 if any(result.failures for result in results) else 0


def _check(cells: Sequence[Cell], directory: pathlib.Path) -> None:
    """Refuse, before anything is built, what cannot work in any of the cells."""
    programs = {
        *LAB_PROGRAMS,
        *(program for cell in cells for name in cell.tools for program in TOOLS[name].packages),
        *(program for cell in cells for program in CONTENT_PROGRAMS[cell.content]),
    }
    check_machine(programs, directory, max(cell.size * (cell.receivers + 3) for cell in cells))


def _measure_cell(cell: Cell, options: argparse.Namespace, say: Say) -> CellResult:
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="ghostcast-head-to-head-", dir=options.directory))
        if options.keep:
            stack.callback(say, f"kept: {directory}")
        else:
            stack.callback(shutil.rmtree, directory)
        source = make_source(directory, cell.content, cell.size)
        _say_source(source, cell, say)
        network = stack.enter_context(built(cell))
        scene = Scene(cell, source, network, directory)
        measured = measure(scene, say)
        stages = None
        if OURS in cell.tools and options.profile:
            try:
                stages = profile(scene)
            except RunFailed as error:
                measured.failures.append(Failure(0, f"{OURS} --profile", str(error)))
                say(f"{OURS} --profile FAILED: {error}")
        return CellResult.of(cell, measured, source.image_seconds, source.stored_size, stages)


def _say_source(source: Source, cell: Cell, say: Say) -> None:
    free = sum(stop - start for start, stop in source.free)
    unused = f"{free / cell.size:.0%} of it free; " if free else ""
    say(
        f"{unused}image made in {source.image_seconds:.2f} s, {cell.size / source.stored_size:.2f}:1; "
        f"{OURS} sends this image, the others, unless their name says otherwise, the raw file; "
        "making it is no part of the times"
    )


def measure_help() -> Spread:
    """Return how long the command takes to explain itself."""

    def once() -> float:
        started_s = time.monotonic()
        subprocess.run([*GHOSTCAST, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        return time.monotonic() - started_s

    once()  # the first one compiles and fills caches
    return Spread.of(once() for _ in range(_HELP_RUNS))


def _verdicts(results: Sequence[CellResult], help_seconds: Spread | None) -> list[Verdict]:
    return verdicts(results, fixed_costs(results), help_seconds)


def _summary(results: Sequence[CellResult], help_seconds: Spread | None) -> dict[str, object]:
    return {
        "goals": [{"reached": verdict.reached, "text": verdict.text} for verdict in _verdicts(results, help_seconds)],
        "fixed_costs": fixed_costs(results),
        "help_seconds": help_seconds,
    }


def _write(path: pathlib.Path, results: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1, default=_as_json) + "\n")
    part.rename(path)


def _as_json(value: object) -> object:
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    return dataclasses.asdict(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return its exit status: 0 measured, 1 a run failed, 2 impossible here, 130 interrupted."""
    cells, options = parse_arguments(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # whatever ends us lets us clean up
    try:
        return run_benchmark(cells, options)
    except (Unusable, NetworkError) as error:
        print(f"head_to_head: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("head_to_head: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
