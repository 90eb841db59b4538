"""What a person, or a program, sees of a running ``bench receive``."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from ghostcast.cli.run import printable, say, say_json
from ghostcast.cli.size import format_rate
from ghostcast.measure.bench_receiver import BenchReceiver, Heard
from protocol.errors import ExitStatus

REFRESH_S = 0.2


class View:
    """Plain lines on standard error: for logs, and the base of the other ways to watch."""

    def __init__(self, engine: BenchReceiver) -> None:
        self.engine = engine
        self._shown = 0
        self._greeted = False

    def __enter__(self) -> View:
        options = self.engine.options
        name = f"measurement {options.session_name!r}" if options.session_name else "a measurement"
        self.say(f"looking for {name} on {options.interface.name} ({options.interface.address})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""

    def say(self, text: str) -> None:
        """Print a line that stays."""
        say(text)

    def progress(self) -> None:
        """Print what is new."""
        engine = self.engine
        if engine.session_name is not None and not self._greeted:
            self._greeted = True
            self.say(f"joined measurement {engine.session_name!r} of {engine.sender_host}")
            if engine.buffer is not None and engine.buffer.advice:
                self.say(f"warning: {engine.buffer.advice}")
        while self._shown < len(engine.heard):
            self.heard(engine.heard[self._shown])
            self._shown += 1

    def heard(self, heard: Heard) -> None:
        """Print one line a step."""
        lost = heard.sent - heard.outcome.received
        self.say(
            f"{format_rate(heard.rate):>11}: {lost / max(heard.sent, 1):.3%} lost, "
            f"{heard.outcome.dropped_host} dropped here, longest run {heard.outcome.run_longest}, "
            f"jitter {heard.outcome.delay_us[1] / 1000:.1f} ms"
        )

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print what is left and the last line."""
        self.progress()
        self.say(line)


class JsonView(View):
    """One JSON object per line."""

    def __enter__(self) -> View:
        say_json({"event": "searching", "session": self.engine.options.session_name})
        return self

    def progress(self) -> None:
        """Print what is new."""
        if self.engine.session_name is not None and not self._greeted:
            say_json({"event": "joined", "session": self.engine.session_name, "sender": self.engine.sender_host})
        self._greeted = self._greeted or self.engine.session_name is not None
        super().progress()

    def heard(self, heard: Heard) -> None:
        """Print one object a step."""
        say_json({"event": "step", **describe_heard(heard)})

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        self.progress()
        say_json({"event": "finished", "status": int(status), "text": line})


class LiveView(View):
    """A line that moves, and one line that stays for each step."""

    def __enter__(self) -> View:
        from rich.console import Console
        from rich.live import Live

        self._due = 0.0
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._live.console.print(printable(text), markup=False, highlight=False)

    def progress(self) -> None:
        """Print what is new, and draw again."""
        from rich.text import Text

        super().progress()
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + REFRESH_S
        engine = self.engine
        text = "waiting for a measurement (Ctrl-C gives up)" if engine.session_name is None else "waiting for a step"
        if engine.rate:
            text = f"counting at {format_rate(engine.rate)}: {engine.arrived} datagrams"
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)


def describe_heard(heard: Heard) -> dict[str, Any]:
    """Return what a report says of one step."""
    outcome = heard.outcome
    return {
        "step": heard.step,
        "rate_bits_per_s": round(heard.rate * 8),
        "symbol_size": heard.symbol_size,
        "sent": heard.sent,
        "received": outcome.received,
        "dropped_host": outcome.dropped_host,
        "duplicate": outcome.duplicate,
        "reordered": outcome.reordered,
        "reorder_distance": outcome.reorder_distance,
        "runs": list(outcome.run_counts),
        "run_longest": outcome.run_longest,
        "delay_us": dict(zip(("median", "p99", "max"), outcome.delay_us, strict=True)),
    }


def describe(name: str | None, engine: BenchReceiver | None) -> dict[str, Any]:
    """Return the report's object; its keys are a contract."""
    if engine is None:
        return {"session": name, "sender": None, "steps": []}
    return {
        "session": engine.session_name or name,
        "sender": engine.sender_host,
        "interface": engine.options.interface.name,
        "receive_buffer": engine.buffer.granted if engine.buffer is not None else None,
        "steps": [describe_heard(heard) for heard in engine.heard],
    }


def choose_view(engine: BenchReceiver, json_lines: bool) -> View:
    """Return how this run is shown."""
    if json_lines:
        return JsonView(engine)
    return LiveView(engine) if sys.stderr.isatty() else View(engine)
