"""What ``simulate`` shows: a bar while it runs, then tables of at most 80 columns; or JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from ghostcast.cli.run import print_json
from ghostcast.cli.size import format_rate, format_size
from ghostcast.simulation import Progress, Result, Scenario, simulate

JSON_INTERVAL_S, BAR_INTERVAL_S = 1.0, 0.1
LAGGARDS_MAX = 5
LAG_SHARE = 0.05
"""A receiver lags if it is later than the median by this share of it."""

SLOW_SYMBOLS = 400_000_000
"""Symbols of all receivers together beyond which a person is told that it will take its time: a minute or so."""


class _View:
    """What is common to both."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    def run(self) -> Result:
        """Run it, showing how far it is."""
        return simulate(self.scenario)

    def show(self, result: Result) -> None:
        """Show what came out."""


class JsonView(_View):
    """One JSON object per line: progress, then the result."""

    def run(self) -> Result:
        """See the base."""
        return simulate(self.scenario, on_progress=_at_intervals(JSON_INTERVAL_S, self._progress))

    def _progress(self, progress: Progress) -> None:
        print_json(
            {
                "event": "progress",
                "virtual_s": round(progress.virtual_s, 3),
                "sent_share": round(progress.sent_share, 4),
                "receivers_durable": progress.durable,
            }
        )

    def show(self, result: Result) -> None:
        """See the base."""
        print_json({"event": "result"} | result.to_json())


class TableView(_View):
    """A bar on a terminal, and tables on standard output."""

    def run(self) -> Result:
        """See the base."""
        if not sys.stderr.isatty():
            return super().run()
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("simulating {task.fields[virtual_s]:.2f} s"), BarColumn(), TaskProgressColumn())
        with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("simulating", total=1.0, virtual_s=0.0)

            def show(progress: Progress) -> None:
                done = 0.9 * progress.sent_share + 0.1 * progress.durable / self.scenario.receivers
                bar.update(task, completed=done, virtual_s=progress.virtual_s)

            return simulate(self.scenario, on_progress=_at_intervals(BAR_INTERVAL_S, show))

    def show(self, result: Result) -> None:
        """See the base."""
        from rich.console import Console
        from rich.table import Table

        console = Console(highlight=False)
        console.print(_headline(result), soft_wrap=True)
        times = Table(box=None, pad_edge=False)
        times.add_column("seconds since the first datagram")
        for title in ("first", "median", "99 %", "last"):
            times.add_column(title, justify="right", no_wrap=True)
        for title, values in (
            ("all symbols received", result.data_s),
            ("written and flushed", result.durable_s),
            ("known to the sender", result.confirmed_s),
        ):
            known = values[~np.isnan(values)]
            cells = [_seconds(v) for v in np.percentile(known, (0, 50, 99, 100))] if len(known) else ["-"] * 4
            times.add_row(title, *cells)
        console.print(times)
        facts = Table(box=None, pad_edge=False, show_header=False)
        facts.add_column(no_wrap=True)
        facts.add_column(overflow="fold")
        for name, text in _facts(result):
            facts.add_row(name, text)
        console.print(facts)


def _headline(result: Result) -> str:
    scenario = result.scenario
    stored = "" if result.stream_size == result.raw_size else f" ({format_size(result.stream_size)} compressed)"
    pace = "rate found by the sender" if scenario.rate is None else format_rate(scenario.rate)
    return (
        f"{scenario.receivers} receivers, {format_size(result.raw_size)}{stored}, {pace}, "
        f"{100 * _mean_loss(result):.3g} % lost, seed {scenario.seed}"
    )


def _mean_loss(result: Result) -> float:
    known = result.loss[~np.isnan(result.loss)]
    return float(known.mean()) if len(known) else 0.0


def _facts(result: Result) -> list[tuple[str, str]]:
    others = [state for state in sorted(set(result.states)) if state != "verified"]
    ended = ", ".join(f"{result.states.count(s)} {s.replace('_', ' ')}" for s in ["verified", *others])
    kinds = sorted(result.control.items(), key=lambda item: -int(item[1].sum()))
    by_kind = ", ".join(f"{int(row.sum())} {name.upper()}" for name, row in kinds)
    dropped = f"; {result.ingest_dropped} dropped there" if result.ingest_dropped else ""
    # Symbols that went out twice are source symbols mostly; per needed symbol says it all.
    return [
        ("ended", ended),
        (
            "traffic",
            f"{result.overhead:.3f} symbols sent per symbol needed ({result.source_symbols} source, "
            f"{result.repair_symbols} repair), {format_size(result.wire_bytes)}, {result.passes} passes",
        ),
        (
            "control",
            f"{result.control_total} messages to the sender, at most {result.control_peak_per_s}/s within 100 ms"
            f"{dropped}: {by_kind}",
        ),
        ("before", f"{_seconds(result.joining_s)} s until all had joined"),
        ("lagging", _laggards(result)),
    ]


def _laggards(result: Result) -> str:
    known = result.durable_s[~np.isnan(result.durable_s)]
    if not len(known):
        return "all"
    late = float(np.median(known)) * (1 + LAG_SHARE)
    lagging = [i for i in result.laggards(result.scenario.receivers) if not result.durable_s[i] <= late]
    if not lagging:
        return f"nobody: all within {LAG_SHARE:.0%} of the median"
    named = [f"receiver {index} {_end_of(result, index)}" for index in lagging[:LAGGARDS_MAX]]
    more = f" and {len(lagging) - LAGGARDS_MAX} more" if len(lagging) > LAGGARDS_MAX else ""
    return f"{len(lagging)} later than the median by {LAG_SHARE:.0%}: " + ", ".join(named) + more


def _end_of(result: Result, index: int) -> str:
    seconds = float(result.durable_s[index])
    return result.states[index].replace("_", " ") if np.isnan(seconds) else f"{seconds:.3g} s"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def _at_intervals(interval_s: float, call: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Return a callback that passes on at most one call per interval."""
    due = time.monotonic() + interval_s

    def show(progress: Progress) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + interval_s
            call(progress)

    return show


def choose_view(scenario: Scenario, json_lines: bool) -> JsonView | TableView:
    """Return how this run is shown; says so where it will take long."""
    if json_lines:
        return JsonView(scenario)
    symbols = scenario.receivers * (scenario.make_manifest().stream_size // scenario.symbol_size)
    if symbols > SLOW_SYMBOLS:
        minutes = symbols / SLOW_SYMBOLS
        print(f"ghostcast: this takes about {max(1, round(minutes))} min; Ctrl-C ends it", file=sys.stderr)
    return TableView(scenario)
