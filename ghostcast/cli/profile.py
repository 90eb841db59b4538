"""``--profile``: where the time of a ``send`` or a ``receive`` went, as a table and in the report."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ghostcast.stages import OFF, StageClock, Stages

Profile = Annotated[
    bool, typer.Option("--profile", help="Measure every stage; show at the end, and report, where the time went.")
]

SECOND_NS = 1_000_000_000


def choose_stages(profile: bool) -> Stages:
    """Return what measures, or what does nothing."""
    return StageClock() if profile else OFF


def stages_summary(stages: Stages) -> dict[str, dict[str, float | int]]:
    """Return the report's object: stage → calls, seconds (waiting included), processor seconds, bytes."""
    return {
        name: {
            "calls": stage.calls,
            "seconds": round(stage.wall_ns / SECOND_NS, 6),
            "processor_seconds": round(stage.processor_ns / SECOND_NS, 6),
            "bytes": stage.size,
        }
        for name, stage in stages.totals().items()
    }


def with_stages(report: dict[str, Any], stages: Stages) -> dict[str, Any]:
    """Return a report with the stages in it, if they were measured."""
    return report if stages is OFF else {**report, "stages": stages_summary(stages)}


def show_stages(stages: Stages) -> None:
    """Print the table for people on standard error; nothing if nothing was measured."""
    totals = stages.totals()
    if not totals:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Where the time went, all threads together", title_justify="left")
    for column in ("stage", "calls", "seconds", "processor s", "MB", "GB per processor s"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, stage in sorted(totals.items(), key=lambda item: -item[1].processor_ns):
        pace = f"{stage.size / stage.processor_ns:.2f}" if stage.size and stage.processor_ns else ""
        table.add_row(
            name,
            str(stage.calls),
            f"{stage.wall_ns / SECOND_NS:.3f}",
            f"{stage.processor_ns / SECOND_NS:.3f}",
            f"{stage.size / 1e6:.0f}" if stage.size else "",
            pace,
        )
    Console(file=sys.stderr).print(table)
