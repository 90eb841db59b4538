"""What a person, or a program, sees of a running ``receive``: a progress bar, plain lines, or JSON lines."""

from __future__ import annotations

import abc
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from ghostcast.cli.run import printable, say, say_json
from ghostcast.cli.size import format_size
from ghostcast.fec.kernel import kernel_choice
from protocol.discovery import Found
from protocol.errors import ExitStatus
from protocol.manifest import Manifest
from receivers.engine import ReceiveEngine
from receivers.observer import Observer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from protocol.receiver_session import ReceiverSession
    from receivers.scan import TargetScan

REFRESH_S = 0.2


class View(Observer, abc.ABC):
    """Base of the three ways to watch."""

    def __init__(self, engine: ReceiveEngine) -> None:
        self.engine = engine

    def __enter__(self) -> View:
        choice = kernel_choice()
        if choice.slow_reason:
            self.warning(choice.slow_reason)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""

    def warning(self, text: str) -> None:
        """Print a warning."""
        say(f"warning: {text}")

    @abc.abstractmethod
    def finish(self, status: ExitStatus, line: str) -> None:
        """Say how it ended."""

    def _share(self) -> float:
        session = self.engine.session
        if session is None or session.manifest is None:
            return 0.0
        return session.reception.bytes_done / session.manifest.raw_size if session.manifest.raw_size else 1.0

    def _loss(self) -> float:
        session = self.engine.session
        if session is None or not session.reception.datagrams_expected:
            return 0.0
        return session.reception.lost / session.reception.datagrams_expected


class JsonView(View):
    """One JSON object per line."""

    def __enter__(self) -> View:
        super().__enter__()
        self._due = 0.0
        return self

    def searching(self) -> None:
        """Print that a sender that is started now is heard."""
        say_json({"event": "searching", "session": self.engine.options.session_name})

    def found(self, found: Found) -> None:
        """Print which session was chosen."""
        say_json({"event": "found", "session": found.announce.name, "sender": found.sender_host})

    def welcomed(self, receiver_index: int) -> None:
        """Print that the sender took this receiver in."""
        say_json({"event": "joined", "index": receiver_index})

    def manifest(self, manifest: Manifest) -> None:
        """Print that writing begins."""
        say_json({"event": "writing", "image": manifest.name, "raw_bytes": manifest.raw_size})

    def sender_lost(self, text: str) -> None:
        """Print that the sender is looked for again."""
        say_json({"event": "sender_lost", "text": text})

    def warning(self, text: str) -> None:
        """Print a warning."""
        say_json({"event": "warning", "text": text})

    def progress(self) -> None:
        """Print where it stands, twice a second."""
        session = self.engine.session
        if session is None or session.manifest is None or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + 0.5
        if (scan := self.engine.work.scan) is not None:
            say_json(
                {
                    "event": "scan",
                    "doing": scan.title,
                    "bytes_read": scan.bytes_done,
                    "bytes_total": scan.bytes_total,
                    "rate_bytes_per_s": round(scan.rate),
                    "chunks_reused": self.engine.chunks_reused,
                }
            )
        say_json(
            {
                "event": "progress",
                "state": "checking" if session.reception.checking else session.state.value,
                "seconds": round(self.engine.seconds, 3),
                "bytes_done": session.reception.bytes_done,
                "share": round(self._share(), 4),
                "loss": round(self._loss(), 6),
                "lost_network": session.reception.lost_network,
                "lost_host": session.reception.lost_host,
                "slices_decoded": session.reception.counters.slices_decoded,
            }
        )

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        say_json({"event": "finished", "status": int(status), "text": line})


class PlainView(View):
    """Lines on standard error: for logs, and for terminals that are none."""

    def __enter__(self) -> View:
        super().__enter__()
        say(_opening(self.engine))
        return self

    def found(self, found: Found) -> None:
        """Print which session was chosen."""
        say(_found_line(found))

    def sender_lost(self, text: str) -> None:
        """Print that the sender is looked for again."""
        say(_lost_line(text))

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        say(line)


class LiveView(View):
    """A progress bar."""

    def __enter__(self) -> View:
        from rich.console import Console, RenderableType
        from rich.constrain import Constrain
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        super().__enter__()
        say(_opening(self.engine))
        self._due = 0.0

        console = Console(stderr=True)

        class Bar(Progress):
            """Two columns narrower than the screen: a Ctrl-C that the terminal shows must not begin a new line."""

            def get_renderables(self) -> Iterable[RenderableType]:
                yield Constrain(self.make_tasks_table(self.tasks), max(1, console.width - len("^C")))

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("loss {task.fields[loss]:.2%} repaired {task.fields[repaired]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("searching", total=None, loss=0.0, repaired=0)
        self._scan: TargetScan | None = None
        self._scan_task: TaskID | None = None
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""
        self._bar.stop()

    def found(self, found: Found) -> None:
        """Print which session was chosen."""
        self._bar.console.print(_found_line(found), markup=False, highlight=False)

    def sender_lost(self, text: str) -> None:
        """Print that the sender is looked for again."""
        self._bar.console.print(_lost_line(text), markup=False, highlight=False)

    def progress(self) -> None:
        """Draw again, five times a second."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + REFRESH_S
        session = self.engine.session
        if session is not None:
            self._bar.update(
                self._task,
                description=session.state.value,
                total=session.manifest.raw_size if session.manifest is not None else None,
                completed=session.reception.bytes_done,
                loss=self._loss(),
                repaired=session.reception.counters.slices_decoded,
            )
            self._show_scan(session)
        self._bar.refresh()

    def _show_scan(self, session: ReceiverSession) -> None:
        """Show what is read back as a line of its own, with its own rate and time left."""
        scan = self.engine.work.scan
        if scan is not self._scan:
            if self._scan_task is not None:
                self._bar.remove_task(self._scan_task)
                self._scan_task = None
            self._scan = scan
            if scan is not None:
                self._scan_task = self._bar.add_task(scan.title, total=scan.bytes_total, loss=0.0, repaired=0)
        if scan is not None and self._scan_task is not None:
            loss, repaired = self._loss(), session.reception.counters.slices_decoded
            self._bar.update(self._scan_task, completed=scan.bytes_done, loss=loss, repaired=repaired)

    def finish(self, status: ExitStatus, line: str) -> None:
        """Print the last line."""
        self._bar.console.print(printable(line), style="green" if status == 0 else "bold red", markup=False)


def _opening(engine: ReceiveEngine) -> str:
    options = engine.options
    name = f"session {options.session_name!r}" if options.session_name is not None else "a session"
    return printable(f"looking for {name} on {options.interface.name} ({options.interface.address})")


def _lost_line(text: str) -> str:
    return printable(f"{text}; waiting for the sender to come back")


def _found_line(found: Found) -> str:
    announce = found.announce
    return printable(
        f"joined session {announce.name!r} of {found.sender_host}: {announce.image_name}, "
        f"{format_size(announce.raw_size)} of disk, {format_size(announce.stream_size)} compressed"
    )


def choose_view(engine: ReceiveEngine, json_lines: bool) -> View:
    """Return how this run is shown."""
    if json_lines:
        return JsonView(engine)
    return LiveView(engine) if sys.stderr.isatty() else PlainView(engine)
