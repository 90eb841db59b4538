"""ghostcast's own commands on the lab's hosts, used as any script would: options in; events, statuses, reports out.

Knows the command line and its contracts; must not know the engines behind it, nor pytest.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.lab import disks
from tests.lab.network import Host
from tests.lab.processes import Process, Processes

GHOSTCAST = pathlib.Path(sys.executable).with_name("ghostcast")
"""The installed command, next to the interpreter that runs the tests."""

_CREATE_TIMEOUT_S = 120


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A raw disk, and the image made of it."""

    raw: pathlib.Path
    image: pathlib.Path
    digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A ``send`` or a ``receive`` under way."""

    host: Host
    process: Process
    report_path: pathlib.Path

    def report(self) -> dict[str, Any]:
        """Return the ``--report`` file's one object."""
        report: dict[str, Any] = json.loads(self.report_path.read_text())
        return report

    def states(self) -> dict[str, str]:
        """Return what a sender's report says of each receiver: host name → state."""
        return {receiver["host"]: receiver["state"] for receiver in self.report()["receivers"]}


class Session:
    """Starts the commands of one named session."""

    def __init__(
        self,
        commands: Processes,
        directory: pathlib.Path,
        name: str = "lab",
        launch: Sequence[str | os.PathLike[str]] = (GHOSTCAST,),
    ) -> None:
        """Start nothing yet; ``launch`` is what a verb and its options are appended to."""
        self.name = name
        self._commands = commands
        self._directory = directory
        self._launch = launch

    def send(self, host: Host, source: Source, *options: str) -> Command:
        """Start ``send`` and wait until it announces its session."""
        command = self.begin_send(host, source, *options)
        command.process.await_event("waiting")
        return command

    def begin_send(self, host: Host, source: Source, *options: str) -> Command:
        """Start ``send``."""
        return self._start(host, "send", source.image, options)

    def receive(self, host: Host, target: pathlib.Path, *options: str) -> Command:
        """Start ``receive``."""
        return self._start(host, "receive", target, options)

    def _start(self, host: Host, verb: str, operand: os.PathLike[str], options: tuple[str, ...]) -> Command:
        report_path = self._directory / f"{self.name}-{host.name}-{verb}.report.json"
        common = ("--session", self.name, "--interface", host.interface, "--report", str(report_path), "--json")
        process = self._commands.start(
            host, [*self._launch, verb, operand, *common, *options], name=f"{self.name}-{host.name}-{verb}"
        )
        return Command(host, process, report_path)


def make_source(raw: pathlib.Path, *options: str) -> Source:
    """Make the image of a raw disk, beside it."""
    image = raw.with_name(f"{raw.name}.img.zst")
    subprocess.run(
        [GHOSTCAST, "image", "create", raw, image, *options],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=_CREATE_TIMEOUT_S,
    )
    return Source(raw, image, disks.digest(raw))
