"""``send --repeat``: one session after another for whoever comes, until somebody stops it.

Knows how runs of the engine follow one another and what they come to together; the engine knows of one session only.
Bounded: of each session, only counts are kept, and of the latest receivers what the report says of them.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import Any

from ghostcast.cli.run import run_interruptible, say, say_json
from ghostcast.cli.send import closing_line, exit_status, summary
from ghostcast.cli.sender_view import View, choose_view
from ghostcast.sender.engine import SendEngine
from protocol.errors import ExitStatus

RECEIVERS_REPORTED_MAX = 10_000
"""Receivers of the latest sessions that the report names."""

_VERIFIED = "verified"


class Totals:
    """What the sessions so far came to."""

    def __init__(self) -> None:
        self.sessions = 0
        self.sums: collections.Counter[str] = collections.Counter()
        self.states: collections.Counter[str] = collections.Counter()
        self._receivers: collections.deque[dict[str, Any]] = collections.deque(maxlen=RECEIVERS_REPORTED_MAX)

    def add(self, facts: dict[str, Any]) -> None:
        """Add one session's summary; one to which nobody came does not count."""
        receivers: Iterable[dict[str, Any]] = facts["receivers"]
        if not facts["receivers"]:
            return
        self.sessions += 1
        for key in ("seconds", "wire_bytes", "passes", "nacks", "datagrams_dropped"):
            self.sums[key] += facts[key]
        for key, value in facts["symbols"].items():
            self.sums[key] += value
        for receiver in receivers:
            self.states[receiver["state"]] += 1
            self._receivers.append({"session_number": self.sessions, **receiver})

    def status(self, *, in_the_middle: bool) -> ExitStatus:
        """Return how it all ended; ``in_the_middle``: receivers were being served when it was stopped."""
        if in_the_middle:
            return ExitStatus.INTERRUPTED
        if not self.sessions:
            return ExitStatus.NOBODY_CAME
        return ExitStatus.VERIFIED if set(self.states) == {_VERIFIED} else ExitStatus.INCOMPLETE

    def line(self) -> str:
        """Return one sentence that says what was done."""
        count = sum(self.states.values())
        sessions = "one session" if self.sessions == 1 else f"{self.sessions} sessions"
        return f"Stopped after {sessions}: {self.states[_VERIFIED]} of {count} receivers verified."

    def facts(self) -> dict[str, Any]:
        """Return the report's keys that count, summed over the sessions."""
        seconds = self.sums["seconds"]
        return {
            "sessions": self.sessions,
            "seconds": round(seconds, 3),
            "wire_bytes": self.sums["wire_bytes"],
            "symbols": {"source": self.sums["source"], "repair": self.sums["repair"]},
            "passes": self.sums["passes"],
            "nacks": self.sums["nacks"],
            "rate_bits_per_s": round(self.sums["wire_bytes"] * 8 / seconds) if seconds else 0,
            "datagrams_dropped": self.sums["datagrams_dropped"],
            "states": dict(self.states),
            "receivers": list(self._receivers),
        }


class Repeat:
    """Serves session after session. Create it, ``run`` it, read ``totals`` and ``status`` afterwards."""

    def __init__(self, make_engine: Callable[[], SendEngine], *, json_lines: bool) -> None:
        """Begin nothing yet.

        Args:
            make_engine: makes the engine of the next session.
            json_lines: whether to print JSON lines.
        """
        self.totals = Totals()
        self.status = ExitStatus.INTERNAL
        self.ended: Callable[[SendEngine], None] = lambda engine: None
        """Called after each session."""
        self._make_engine = make_engine
        self._json_lines = json_lines
        self._engine: SendEngine | None = None
        self._stopping = False

    def run(self) -> None:
        """Serve until somebody stops it.

        Raises:
            UsageError: the session's name was taken by somebody else, or a socket cannot be opened.
            ImageError: the image cannot be read any more.
        """
        run_interruptible(self._serve, self._stop, on_enter=self._start_now)

    async def _serve(self) -> None:
        in_the_middle = False
        while not self._stopping:
            self._engine = engine = self._make_engine()
            view: View = choose_view(engine, self._json_lines)
            with view:
                await engine.run(view)
            facts = summary(None, engine)
            self.totals.add(facts)
            if facts["receivers"]:
                status = exit_status(engine)
                view.finish(status, closing_line(engine, status))
                in_the_middle = status is ExitStatus.INTERRUPTED
            self.ended(engine)
        self.status = self.totals.status(in_the_middle=in_the_middle)
        line = self.totals.line()
        if self._json_lines:
            say_json({"event": "stopped", "status": int(self.status), "text": line, "sessions": self.totals.sessions})
        else:
            say(line)

    def _stop(self) -> None:
        self._stopping = True
        if self._engine is not None:
            self._engine.interrupt()

    def _start_now(self) -> None:
        if self._engine is not None:
            self._engine.start_now()
