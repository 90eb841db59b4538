"""``ghostcast demo``: the whole on this machine alone: a sample disk, a sender, receivers, every copy verified."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostcast.cli import image
from ghostcast.cli.options import JsonLines
from ghostcast.cli.progress import show_bar
from ghostcast.cli.size import format_rate, format_size, parse_share, parse_size
from protocol import limits
from protocol.errors import ExitStatus, GhostcastError, IncompleteError, TargetError, UsageError

if TYPE_CHECKING:
    pass

EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast demo\n"
    "  ghostcast demo --receivers 8 --size 1GiB --loss 5%\n\n"
    "Nothing outside a temporary directory is written, and nothing leaves this machine."
)

SIZE_MAX = 64 * limits.GIB
PATIENCE_S = 600.0
"""How long the demo may take altogether before it is called a failure."""


def _memory(receivers: int) -> int:
    """Return the slice pool of each receiver, so that all together stay on one machine what four take elsewhere."""
    return max(limits.POOL_SIZE_DEFAULT * 4 // max(receivers, 4), limits.POOL_SIZE_MIN)


def demo(
    receivers: Annotated[int, typer.Option("--receivers", metavar="N", min=1, max=64, help="How many.")] = 4,
    size: Annotated[
        int,
        typer.Option("--size", metavar="SIZE", parser=parse_size, help="Of the sample disk.", show_default="256MiB"),
    ] = 256 * limits.MIB,
    loss: Annotated[
        float,
        typer.Option(
            "--loss", metavar="P", parser=parse_share, help="Datagrams each receiver throws away.", show_default="1%"
        ),
    ] = 0.01,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", metavar="DIR", help="Where to put the files.", show_default="the system's"),
    ] = None,
    json_lines: JsonLines = False,
) -> None:
    """Clone a sample disk to several receivers on this machine, with injected loss, and check every copy.

    Needs no root, no disk and no network. The sample disk has compressible, random, zero and sparse parts.
    """
    image.end_tidily()
    if directory is not None and not directory.is_dir():
        raise UsageError(f"--directory {directory} is not a directory")
    if size > SIZE_MAX:
        raise UsageError(f"a demo of more than {format_size(SIZE_MAX)} is too large")
    with tempfile.TemporaryDirectory(prefix="ghostcast-demo-", dir=directory) as folder:
        run = _Demo(Path(folder), receivers, size, loss, json_lines)
        run.check_space()
        run.make_disk()
        run.make_image()
        run.clone()
        run.verify()
        status = run.report()
    raise typer.Exit(status)


@dataclasses.dataclass(slots=True)
class _Copy:
    """One receiver of the demo."""

    target: Path
    report: Path
    process: subprocess.Popen[bytes] | None = None
    right: bool = False
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class _Demo:
    """One run, step by step."""

    def __init__(self, folder: Path, receivers: int, size: int, loss: float, json_lines: bool) -> None:
        self.folder = folder
        self.size = size
        self.loss = loss
        self.json_lines = json_lines
        self.raw = folder / "disk.raw"
        self.image = folder / "disk.img.zst"
        self.sender_report = folder / "sender.json"
        self.copies = [_Copy(folder / f"copy-{n}.raw", folder / f"receiver-{n}.json") for n in range(1, receivers + 1)]
        self.digest = b""
        self.sender_status = 0
        self.sender_facts: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Tell people what happens."""
        if not self.json_lines:
            print(text, file=sys.stderr)

    def check_space(self) -> None:
        """Refuse early where the copies would not fit."""
        import shutil

        needed = self.size * (len(self.copies) + 2)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise TargetError(
                f"{self.folder} has {format_size(free)} free, the demo may need {format_size(needed)}: "
                "choose another --directory, or a smaller --size"
            )

    def make_disk(self) -> None:
        """Write a disk with a compressible, a random, a zero and a sparse part; sparse stays a hole."""
        from ghostcast.cli.sample import write_sample

        self.say(f"making a sample disk of {format_size(self.size)} in {self.folder}")
        self.digest = write_sample(self.raw, self.size)

    def make_image(self) -> None:
        """Compress it."""
        from ghostcast.image.source import RawSource
        from ghostcast.image.writer import ImageOptions, create_image

        begun = time.monotonic()
        with RawSource.open(self.raw) as source, show_bar("compressing", self.size, quiet=self.json_lines) as advance:
            manifest = create_image(
                source, self.image, ImageOptions(name="demo disk"), progress=lambda raw, _stored: advance(raw)
            )
        self.say(
            f"made an image of {format_size(manifest.stream_size)} "
            f"({manifest.raw_size / max(1, manifest.stream_size):.2f}:1) in {time.monotonic() - begun:.1f} s"
        )

    def clone(self) -> None:
        """Run one sender process and the receiver processes, on loopback."""
        session, port = f"demo-{secrets.token_hex(4)}", _free_port()
        common = ["--interface", "127.0.0.1", "--port", str(port), "--session", session, "--json"]
        self.say(
            f"cloning to {len(self.copies)} receivers over loopback multicast, {self.loss:.1%} loss injected at each"
        )
        begin = [sys.executable, "-m", "ghostcast.cli.main"]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for copy in self.copies:
                command = [*begin, "receive", str(copy.target), *common, "--max-wait", "60"]
                command += ["--inject-loss", str(self.loss), "--report", str(copy.report)]
                command += ["--memory", str(_memory(len(self.copies)))]
                copy.process = _start(command, self.folder)
                processes.append(copy.process)
            command = [*begin, "send", str(self.image), *common, "--receivers", str(len(self.copies))]
            command += ["--max-wait", "60", "--report", str(self.sender_report)]
            sender = _start(command, self.folder, listen=True)
            processes.append(sender)
            self._follow(sender)
            self.sender_status = sender.wait(timeout=PATIENCE_S)
            for copy in self.copies:
                assert copy.process is not None
                copy.process.wait(timeout=30)
        except subprocess.TimeoutExpired as error:
            raise IncompleteError("the demo did not end in time; its processes were stopped") from error
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _follow(self, sender: subprocess.Popen[bytes]) -> None:
        """Show the sender's progress until it ends."""
        assert sender.stdout is not None
        patience = threading.Timer(PATIENCE_S, sender.kill)
        patience.daemon = True
        patience.start()
        with show_bar("cloning", self.size, quiet=self.json_lines) as advance:
            for line in sender.stdout:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event.get("event") == "progress":
                        advance(event["share"] * self.size)
                    if self.json_lines:
                        print(json.dumps(event), flush=True)
        patience.cancel()

    def verify(self) -> None:
        """Compare each copy with the source disk, by digest, in the demo's own process."""
        from ghostcast.cli.sample import file_digest

        with contextlib.suppress(OSError, ValueError):
            self.sender_facts = json.loads(self.sender_report.read_text())
        with show_bar("verifying", self.size * len(self.copies), quiet=self.json_lines) as advance:
            for number, copy in enumerate(self.copies):
                with contextlib.suppress(OSError, ValueError):
                    copy.facts = json.loads(copy.report.read_text())
                with contextlib.suppress(OSError):
                    copy.right = file_digest(copy.target) == self.digest
                advance((number + 1) * self.size)

    def report(self) -> ExitStatus:
        """Print the summary and return the exit status."""
        right = sum(copy.right for copy in self.copies)
        ended_well = self.sender_status == 0 and all(
            copy.process is not None and copy.process.returncode == 0 for copy in self.copies
        )
        status = ExitStatus.VERIFIED if right == len(self.copies) and ended_well else ExitStatus.INCOMPLETE
        if self.json_lines:
            print(
                json.dumps(
                    {
                        "event": "demo",
                        "status": int(status),
                        "receivers": len(self.copies),
                        "copies_equal": right,
                        "sender": self.sender_facts,
                        "copies": [copy.facts for copy in self.copies],
                    }
                ),
                flush=True,
            )
        else:
            self._print_table(right, status)
        if status is not ExitStatus.VERIFIED:
            self._show_errors()
        return status

    def _print_table(self, right: int, status: ExitStatus) -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console(stderr=True, highlight=False)
        table = Table(box=None, padding=(0, 1))
        table.add_column("copy")
        table.add_column("digest")
        for title in ("time", "rate", "lost", "decoded", "asked"):
            table.add_column(title, justify="right", no_wrap=True)
        for copy in self.copies:
            facts, seconds = copy.facts, copy.facts.get("seconds") or 0
            symbols, slices = facts.get("symbols", {}), facts.get("slices", {})
            table.add_row(
                copy.target.name,
                "[green]equal[/]" if copy.right else "[bold red]WRONG[/]",
                f"{seconds:.2f} s",
                format_rate(self.size / seconds) if seconds else "",
                str(symbols.get("lost_network", "")),
                str(slices.get("decoded", "")),
                str(slices.get("requested", "")),
            )
        console.print(table)
        console.print(
            "lost: datagrams that did not arrive; decoded: slices mended by repair symbols; asked: slices asked for"
        )
        wire, stored = self.sender_facts.get("wire_bytes", 0), self.sender_facts.get("image", {}).get("stored_bytes", 0)
        line = f"{right} of {len(self.copies)} copies are equal to the source disk"
        if stored and wire:
            line += f"; the wire carried the compressed image {wire / stored:.3f} times for all of them"
        console.print(("Done: " if status == 0 else "FAILED: ") + line, style="green" if status == 0 else "bold red")

    def _show_errors(self) -> None:
        for log in sorted(self.folder.glob("*.log")):
            text = log.read_text(errors="replace").strip()
            if text:
                print(f"--- {log.name}\n{text}", file=sys.stderr)


def _start(command: list[str], folder: Path, *, listen: bool = False) -> subprocess.Popen[bytes]:
    """Start a ghostcast process whose errors go to a log file beside the copies."""
    with (folder / f"{command[3]}-{secrets.token_hex(3)}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if listen else subprocess.DEVNULL,
            stderr=log,
        )


def _free_port() -> int:
    """Return a UDP port that nobody uses at the moment, so that demos do not meet each other or a real session."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as error:
            raise GhostcastError(f"loopback cannot be used: {error.strerror}; ip link set lo up") from error
        port: int = probe.getsockname()[1]
        return port
