"""What a person, or a program, sees of a running ``bench send``, and its result as tables of 80 columns."""

from __future__ import annotations

import sys
import textwrap
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ghostcast.cli.run import printable, say, say_json
from ghostcast.cli.size import format_rate
from ghostcast.measure.advice import findings, mean_run, suggest
from ghostcast.measure.bench_sender import BenchSender, Observer
from ghostcast.measure.plan import LOSS_FREE
from ghostcast.measure.record import Listener, Measurement, StepResult, describe_listener, describe_step
from protocol.errors import ExitStatus

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

REFRESH_S = 0.2
ROWS_MAX = 24
"""Receivers shown by name, the slowest first; the rest are counted."""

COLUMNS_MAX = 4
"""Receivers that have a column of their own in the table of rates."""

_BAR_WIDTH = 40


class View(Observer):
    """Plain lines on standard error: for logs, and the base of the other ways to watch."""

    def __init__(self, engine: BenchSender) -> None:
        self.engine = engine

    def __enter__(self) -> View:
        options = self.engine.options
        say(f"measurement {options.session_name!r} on {options.interface.name}, data to {self.engine.group}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""

    def entered(self, listener: Listener) -> None:
        """Print who came."""
        say(f"{listener.name} ({listener.address[0]}) listens, MTU {listener.mtu}")

    def lost(self, listener: Listener) -> None:
        """Print who went."""
        say(f"{listener.name} ({listener.address[0]}) is {listener.state.value}")

    def stepped(self, result: StepResult) -> None:
        """Print one line a step."""
        say(step_line(result, self.engine.result.listeners))

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        say(line)


class JsonView(View):
    """One JSON object per line."""

    def __enter__(self) -> View:
        options = self.engine.options
        say_json({"event": "waiting", "session": options.session_name, "group": self.engine.group})
        self._due = 0.0
        return self

    def entered(self, listener: Listener) -> None:
        """Print who came."""
        say_json({"event": "joined", "receiver": listener.name, "address": listener.address[0], "mtu": listener.mtu})

    def lost(self, listener: Listener) -> None:
        """Print who went."""
        say_json({"event": "lost", "receiver": listener.name, "state": listener.state.value})

    def stepping(self, rate: float, symbol_size: int) -> None:
        """Print what is tried now."""
        say_json({"event": "stepping", "rate_bits_per_s": round(rate * 8), "symbol_size": symbol_size})

    def stepped(self, result: StepResult) -> None:
        """Print what came of it."""
        say_json({"event": "step", **describe_step(result, self.engine.result.listeners)})

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the result and the last line."""
        say_json({"event": "result", **describe(None, self.engine)})
        say_json({"event": "finished", "status": int(status), "text": line})


class LiveView(View):
    """A line that moves, and one line that stays for each step."""

    def __enter__(self) -> View:
        from rich.console import Console
        from rich.live import Live

        super().__enter__()
        self._due = 0.0
        self._now = "waiting for listeners"
        self._begun = 0.0
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""
        self._live.stop()

    def entered(self, listener: Listener) -> None:
        """Keep who came on the screen."""
        self._keep(f"{listener.name} ({listener.address[0]}) listens, MTU {listener.mtu}")

    def lost(self, listener: Listener) -> None:
        """Keep who went on the screen."""
        self._keep(f"{listener.name} ({listener.address[0]}) is {listener.state.value}")

    def stepping(self, rate: float, symbol_size: int) -> None:
        """Show what is tried now."""
        self._now, self._begun = f"trying {format_rate(rate)}, symbols of {symbol_size} bytes", time.monotonic()

    def stepped(self, result: StepResult) -> None:
        """Keep what came of it."""
        self._keep(step_line(result, self.engine.result.listeners))

    def _keep(self, text: str) -> None:
        self._live.console.print(printable(text), markup=False, highlight=False)

    def progress(self) -> None:
        """Draw again, five times a second."""
        from rich.text import Text

        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + REFRESH_S
        engine, wanted = self.engine, self.engine.options.receivers
        if engine.begun_s is None:
            of = f" of {wanted}" if wanted else ""
            text = f"waiting: {len(engine.listening)}{of} listen (Enter starts now, Ctrl-C gives up)"
        else:
            left = engine.steps_left
            about = f" · about {left * (engine.options.step_s + 0.3):.0f} s left" if left is not None else ""
            text = f"{self._now} · {engine.seconds:.0f} s{about}"
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        self._live.console.print(printable(line), style="green" if status == 0 else "bold red", markup=False)


def step_line(result: StepResult, listeners: list[Listener]) -> str:
    """Return one line about a step."""
    heard = [listener for listener in listeners if listener.index in result.outcomes]
    losses = {listener.name: result.loss(listener.index) for listener in heard}
    if not losses:
        return f"{format_rate(result.rate):>11}: no listener answered"
    worst = max(losses, key=lambda host: losses[host].share)
    loss = losses[worst]
    clean = sum(one.share <= LOSS_FREE for one in losses.values())
    size = f" (symbols of {result.symbol_size} bytes)" if result.probe else ""
    text = f"{format_rate(result.rate):>11}{size}: {clean} of {len(losses)} without loss"
    if loss.share > 0:
        where = "in its host" if loss.host > loss.network else "in the network"
        text += f"; worst {worst} {loss.share:.2%} {where}"
    return text


def print_result(measurement: Measurement) -> None:
    """Print tables, findings and the suggestion on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if not measurement.rate_steps:
        return
    console.print(receiver_table(measurement))
    console.print(rate_table(measurement))
    _print_runs(measurement, console)
    for finding in findings(measurement):
        text = textwrap.fill(printable(finding.text), console.width, initial_indent="- ", subsequent_indent="  ")
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        if finding.remedy:
            console.print(printable(f"    {finding.remedy}"), markup=False, highlight=False, soft_wrap=True)
    suggestion = suggest(measurement)
    if suggestion is not None:
        console.print("\nFor a clone on this network:", highlight=False)
        who = "no limit was found"
        if suggestion.slowest is not None:
            who = f"{suggestion.slowest} sets the rate"
        command = f"  ghostcast send IMAGE {suggestion.options}"
        for line in (command, f"  {who}; --rate auto follows slower disks as well"):
            console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def receiver_table(measurement: Measurement) -> Table:
    """Return a table of receivers, the slowest first."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, title_justify="left", title="Receivers", title_style="bold")
    table.add_column("receiver", no_wrap=True, overflow="ellipsis", max_width=17)
    for title in ("loss-free", "carries", "own loss", "network", "host", "bursts", "jitter"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = [describe_listener(measurement, listener) for listener in measurement.listeners]
    rows.sort(key=lambda row: (row["carried_bits_per_s"] or 0, row["name"]))
    for row in rows[:ROWS_MAX]:
        typical = [step for step in measurement.rate_steps if _index(measurement, row) in step.outcomes]
        runs = [sum(c) for c in zip(*(s.outcomes[_index(measurement, row)].run_counts for s in typical), strict=True)]
        average = mean_run(runs, row["lost_network"] + row["lost_host"])
        table.add_row(
            Text(printable(row["name"])),
            _rate(row["loss_free_bits_per_s"]),
            _rate(row["carried_bits_per_s"]),
            "-" if row["background_loss"] is None else f"{row['background_loss']:.2%}",
            str(row["lost_network"]),
            str(row["lost_host"]),
            f"{average:.1f}" if average else "-",
            "-" if row["jitter_us"] is None else f"{row['jitter_us'] / 1000:.1f} ms",
        )
    if len(rows) > ROWS_MAX:
        table.caption, table.caption_justify, table.caption_style = f" and {len(rows) - ROWS_MAX} more", "left", ""
    return table


def _index(measurement: Measurement, row: dict[str, Any]) -> int:
    return next(one.index for one in measurement.listeners if one.receiver_id.hex() == row["id"])


def _rate(bits_per_s: int | None) -> str:
    return "-" if bits_per_s is None else format_rate(bits_per_s / 8).removesuffix("/s")


def rate_table(measurement: Measurement) -> Table:
    """Return loss against rate: worst, median, and a column each for the slowest receivers."""
    from rich.table import Table

    verdicts = measurement.verdicts
    shown = sorted(measurement.listeners, key=lambda one: getattr(verdicts.get(one.index), "carried", None) or 0.0)
    shown = shown[:COLUMNS_MAX]
    table = Table(box=None, pad_edge=False, title_justify="left", title="\nLoss", title_style="bold")
    # The ends of names tell machines apart, not their beginnings.
    names = (printable(listener.name.split(".")[0])[-10:] for listener in shown)
    for title in ("rate", "worst", "median", *names):
        table.add_column(title, justify="right", no_wrap=True)
    for step in measurement.rate_steps:
        losses = sorted(step.loss(index).share for index in step.outcomes)
        if not losses:
            continue
        cells = [_percent(step.loss(one.index).share) if one.index in step.outcomes else "-" for one in shown]
        table.add_row(format_rate(step.rate), _percent(losses[-1]), _percent(losses[len(losses) // 2]), *cells)
    return table


def _percent(share: float) -> str:
    return "0" if not share else f"{share:.3%}" if share < 0.01 else f"{share:.1%}"


def _print_runs(measurement: Measurement, console: Console) -> None:
    """Print the histogram of loss runs, where anything was lost at rates that are carried."""
    counts = [0] * 16
    for listener in measurement.listeners:
        for step in measurement.typical(listener.index):
            counts = [a + b for a, b in zip(counts, step.outcomes[listener.index].run_counts, strict=True)]
    if not any(counts):
        return
    console.print("\n[bold]How many are lost in a row[/bold] (at rates that are carried)", highlight=False)
    last = max(index for index, count in enumerate(counts) if count)
    for index, count in enumerate(counts[: last + 1]):
        label = "1" if index == 0 else f"{1 << index}-{(2 << index) - 1}"
        bar = "#" * max(count > 0, round(_BAR_WIDTH * count / max(counts)))
        console.print(f"{label:>12} {count:>9} {bar}", highlight=False, markup=False)


def describe(name: str | None, engine: BenchSender | None) -> dict[str, Any]:
    """Return the report's object; its keys are a contract."""
    if engine is None:
        return {"session": name, "seconds": 0, "steps": [], "receivers": [], "findings": [], "suggestion": None}
    result = engine.result
    suggestion = suggest(result)
    return {
        "session": result.session_name,
        "interface": engine.options.interface.name,
        "seconds": round(engine.seconds, 3),
        "symbol_size": result.symbol_size or None,
        "sender_limit_bits_per_s": None if result.sender_limit is None else round(result.sender_limit * 8),
        "steps": [describe_step(step, result.listeners) for step in result.steps],
        "receivers": [describe_listener(result, listener) for listener in result.listeners],
        "findings": [{"text": finding.text, "remedy": finding.remedy} for finding in findings(result)],
        "suggestion": None if suggestion is None else suggestion.describe(),
    }


def choose_view(engine: BenchSender, json_lines: bool) -> View:
    """Return how this run is shown."""
    if json_lines:
        return JsonView(engine)
    return LiveView(engine) if sys.stderr.isatty() else View(engine)
