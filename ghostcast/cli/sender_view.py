"""What a person, or a program, sees of a running ``send``: a live table, plain lines, or JSON lines.

On a terminal: one progress bar and a table of receivers that stays readable whether there are three or three hundred
(those that need attention come first, the rest are counted). Elsewhere on standard error only what happened. With
``--json`` one object per line on standard output, and nothing for people but warnings.
"""

from __future__ import annotations

import abc
import collections
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ghostcast.cli.run import printable, say, say_json
from ghostcast.cli.send import describe, peer_summary
from ghostcast.cli.size import format_rate, format_size
from ghostcast.fec.kernel import kernel_choice
from ghostcast.sender.engine import Observer, SendEngine
from protocol.errors import ExitStatus
from protocol.fleet import Peer, PeerState
from protocol.sender_events import Event, EventKind

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

ROWS_MAX = 16
"""Receivers shown by name; the rest are counted."""

REFRESH_S = 0.25

_STYLES = {
    PeerState.RECEIVING: "",
    PeerState.CHECKING: "cyan",
    PeerState.FINISHING: "cyan",
    PeerState.VERIFIED: "green",
    PeerState.FAILED: "bold red",
    PeerState.VANISHED: "bold red",
    PeerState.REFUSED: "bold red",
}

_ATTENTION = {
    PeerState.FAILED: 0,
    PeerState.VANISHED: 0,
    PeerState.REFUSED: 0,
    PeerState.RECEIVING: 1,
    PeerState.CHECKING: 1,
    PeerState.FINISHING: 2,
    PeerState.VERIFIED: 3,
}


_LASTING = frozenset(
    {
        EventKind.FAILED,
        EventKind.VANISHED,
        EventKind.REFUSED,
        EventKind.RETURNED,
        EventKind.LEFT_BEHIND,
        EventKind.TAKEN_BACK,
    }
)
"""Events that stay on the screen."""


class View(Observer, abc.ABC):
    """Base of the three ways to watch."""

    def __init__(self, engine: SendEngine) -> None:
        self.engine = engine

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""

    @abc.abstractmethod
    def finish(self, status: ExitStatus, line: str) -> None:
        """Say how it ended."""


class JsonView(View):
    """One JSON object per line."""

    def __enter__(self) -> View:
        self._due = 0.0
        options = self.engine.options
        say_json({"event": "waiting", "session": options.session_name, "group": self.engine.group})
        return self

    def event(self, event: Event) -> None:
        """Print what happened."""
        line: dict[str, Any] = {"event": "joined" if event.kind is EventKind.LATE_JOIN else event.kind.value}
        if event.kind is EventKind.LATE_JOIN:
            line["late"] = True
        if event.peer is not None:
            line["receiver"] = peer_summary(self.engine, event.peer)
        if event.text:
            line["text"] = event.text
        say_json(line)

    def progress(self) -> None:
        """Print where it stands, twice a second."""
        session = self.engine.session
        if session is None or time.monotonic() < self._due or not session.started:
            return
        self._due = time.monotonic() + 0.5
        states = collections.Counter(peer.state.value for peer in session.peers)
        say_json(
            {
                "event": "progress",
                "seconds": round(self.engine.seconds, 3),
                "wire_bytes": self.engine.wire_bytes,
                "rate_bits_per_s": round(session.rate_bytes_per_s * 8),
                "loss": round(session.loss, 6),
                "pass": session.pass_count + 1,
                "repair_symbols": session.sent.repair_symbols,
                "share": round(overall_share(self.engine), 4),
                "receivers": dict(states),
            }
        )

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        say_json({"event": "finished", "status": int(status), "text": line})


class PlainView(View):
    """Lines on standard error: for logs, and for terminals that are none."""

    def __enter__(self) -> View:
        _print_opening(self.engine)
        return self

    def event(self, event: Event) -> None:
        """Print what happened."""
        if event.kind not in (EventKind.ENDED, EventKind.NOBODY_CAME):
            say(describe(event))

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        say(line)


class LiveView(View):
    """A bar and a table that move."""

    def __enter__(self) -> View:
        from rich.console import Console
        from rich.live import Live

        _print_opening(self.engine)
        self._due = 0.0
        self._rate = _RateMeter()
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""
        self._live.stop()

    def event(self, event: Event) -> None:
        """Keep what matters on the screen for good; the rest shows in the table."""
        if event.kind in _LASTING:
            self._live.console.print(describe(event), markup=False, highlight=False)

    def progress(self) -> None:
        """Draw again, four times a second."""
        if time.monotonic() < self._due or self.engine.session is None:
            return
        self._due = time.monotonic() + REFRESH_S
        self._live.update(self._draw(), refresh=True)

    def _draw(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        engine, session = self.engine, self.engine.session
        assert session is not None
        share = overall_share(engine)
        rate = self._rate.rate(engine.wire_bytes)
        if not session.started:
            joined = sum(peer.live for peer in session.peers)
            expected = engine.options.start.receivers
            of = f" of {expected}" if expected else ""
            head = Text(f"waiting: {joined}{of} joined (Enter starts now, Ctrl-C gives up)")
            return Group(head, *([self._table()] if session.peers or session.refused else []))
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(ratio=1)
        line.add_column(justify="right")
        line.add_row(ProgressBar(total=1.0, completed=share), f"{share:6.1%}")
        repaired = session.sent.repair_symbols / max(1, session.sent.source_symbols)
        eta = _eta(engine.seconds, share)
        state = f"pass {session.pass_count + 1}" if session.remaining_symbols else "waiting for receivers"
        facts = Text(
            f"{state} · {format_rate(rate)} · {format_size(engine.wire_bytes)} sent · {eta} left · "
            f"loss {session.loss:.2%} · repair {repaired:.1%}"
        )
        return Group(line, facts, self._table())

    def _table(self) -> Table:
        session = self.engine.session
        assert session is not None
        peers, raw_size = session.peers + session.refused, self.engine.image.manifest.raw_size
        # What does not fit the terminal would be cut, and with it the line that counts the rest.
        rows_max = max(1, min(ROWS_MAX, self._live.console.height - 5))
        return receiver_table(peers, raw_size, started=session.started, rows_max=rows_max)

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        self._live.console.print(printable(line), style="green" if status == 0 else "bold red", markup=False)


class _RateMeter:
    """Bytes per second over the last few looks."""

    def __init__(self) -> None:
        self._looks: collections.deque[tuple[float, int]] = collections.deque(maxlen=8)

    def rate(self, total: int) -> float:
        now = time.monotonic()
        self._looks.append((now, total))
        then, before = self._looks[0]
        return (total - before) / (now - then) if now > then else 0.0


def _print_opening(engine: SendEngine) -> None:
    manifest, options = engine.image.manifest, engine.options
    say(
        f"session {options.session_name!r}: {manifest.name}, {format_size(manifest.raw_size)} of disk, "
        f"{format_size(manifest.stream_size)} compressed; data to {engine.group} over {options.interface.name}"
    )
    choice = kernel_choice()
    if choice.slow_reason:
        say(f"warning: {choice.slow_reason}")


def overall_share(engine: SendEngine) -> float:
    """Return how far the slowest live receiver is, in [0, 1]; before the first report, how much was sent."""
    session, raw_size = engine.session, max(engine.image.manifest.raw_size, 1)
    if session is None:
        return 0.0
    live = [peer for peer in session.peers if peer.live]
    if not live:
        return 1.0 if any(peer.state is PeerState.VERIFIED for peer in session.peers) else 0.0
    return min(_share(peer, raw_size) for peer in live)


def _share(peer: Peer, raw_size: int) -> float:
    if peer.state is PeerState.VERIFIED:
        return 1.0
    return min(1.0, peer.report.bytes_done / raw_size) if peer.report is not None else 0.0


def _eta(seconds: float, share: float) -> str:
    if share < 0.01 or seconds < 0.5:
        return "--:--"
    left = round(seconds * (1 - share) / share)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}" if left >= 3600 else f"{left // 60}:{left % 60:02}"


def receiver_table(peers: list[Peer], raw_size: int, *, started: bool = True, rows_max: int = ROWS_MAX) -> Table:
    """Return a table of receivers: those that need attention first, at most ``rows_max`` of them, the rest counted."""
    from rich.table import Table
    from rich.text import Text

    raw_size = max(raw_size, 1)
    table = Table(box=None, padding=(0, 1), expand=False)
    table.add_column("receiver", no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column("target", no_wrap=True, overflow="ellipsis", max_width=18)
    table.add_column("state", no_wrap=True, min_width=9)
    for title in ("done", "loss", "dropped here"):
        table.add_column(title, justify="right", no_wrap=True)
    ordered = sorted(peers, key=lambda peer: (_ATTENTION[peer.state], _share(peer, raw_size), peer.index))
    for peer in ordered[:rows_max]:
        report = peer.report
        table.add_row(
            Text(printable(peer.host)),
            Text(printable(peer.target[-18:])),
            Text(_state_word(peer, started), style=_STYLES[peer.state]),
            f"{_share(peer, raw_size):.0%}",
            f"{peer.loss:.2%}",
            str(report.lost_host) if report is not None else "",
        )
    if len(ordered) > rows_max:
        counts = collections.Counter(_state_word(peer, started) for peer in ordered[rows_max:])
        rest = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        # As a row it would widen a column, and narrow terminals would lose the figures beside it.
        table.caption = Text(f" and {len(ordered) - rows_max} more: {rest}")
        table.caption_justify, table.caption_style = "left", ""
    return table


def _state_word(peer: Peer, started: bool) -> str:
    """Return a receiver's state as people read it: before the start, nobody receives yet."""
    if peer.live and peer.slow:
        return "left behind"
    return peer.state.value if started or not peer.live else "joined"


def choose_view(engine: SendEngine, json_lines: bool) -> View:
    """Return how this run is shown."""
    if json_lines:
        return JsonView(engine)
    return LiveView(engine) if sys.stderr.isatty() else PlainView(engine)
