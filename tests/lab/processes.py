"""Commands that run on a host of the lab: started, waited for, signalled, and never left behind.

Knows ``ip netns exec`` and files that collect output; must not know pytest. The invariant: when a ``Processes`` closes,
every process that it started is dead, with its children; a wait that takes too long ends as a failure that shows what
the process said.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tests.lab.network import Host

_POLL_INTERVAL_S = 0.01
_OUTPUT_SHOWN = 4000  # characters of each stream in a failure

Event = dict[str, Any]
"""One line of a command's ``--json`` output."""


class ProcessFailed(AssertionError):
    """A process took too long, ended otherwise than expected, or never said what was awaited."""


class Process:
    """One running command; stdout and stderr go to files, so that a full pipe can never stop it."""

    def __init__(self, name: str, command: Sequence[str], directory: pathlib.Path) -> None:
        self.name = name
        self.stdout_path = directory / f"{name}.stdout"
        self.stderr_path = directory / f"{name}.stderr"
        with self.stdout_path.open("xb") as stdout, self.stderr_path.open("xb") as stderr:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # its own group: a Ctrl-C at the tests' terminal does not reach it unasked
                env=os.environ | {"PYTHONFAULTHANDLER": "1"},
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def output(self) -> str:
        """Return all that it said so far, on stdout and on stderr."""
        return "".join(path.read_text(errors="replace") for path in (self.stdout_path, self.stderr_path))

    def events(self) -> list[Event]:
        """Return the JSON lines written to stdout so far; a line that is still being written is left out."""
        complete = self.stdout_path.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in complete.splitlines()]

    def await_event(self, name: str, *, timeout_s: float = 20, count: int = 1) -> Event:
        """Wait until stdout holds ``count`` events of this name; return the last of them.

        Stdout is a file, which cannot be waited on, so its growth is polled.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            running = self.running  # before reading: what it wrote before it ended must not be missed
            found = [event for event in self.events() if event["event"] == name]
            if len(found) >= count:
                return found[count - 1]
            if not running:
                raise ProcessFailed(f"{self.name} ended before its event {name!r}{self._said()}")
            if time.monotonic() > deadline:
                self._abort()
                raise ProcessFailed(f"{self.name} gave no event {name!r} within {timeout_s} s{self._said()}")
            time.sleep(_POLL_INTERVAL_S)

    def wait(self, timeout_s: float) -> int:
        """Wait for the end and return the exit status (negative: the signal that killed it)."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._abort()
            raise ProcessFailed(f"{self.name} was still running after {timeout_s} s{self._said()}") from None

    def expect(self, exit_status: int, *, timeout_s: float = 60) -> None:
        """Wait for the end; fail, showing the output, where the exit status is another."""
        found = self.wait(timeout_s)
        if found != exit_status:
            raise ProcessFailed(f"{self.name} ended with status {found}, not {exit_status}{self._said()}")

    def send_signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """Kill the process and its whole group, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def _abort(self) -> None:
        """Kill a process that hangs; a Python one first writes the stack of each of its threads to stderr."""
        self.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(3)
        self.kill()

    def _said(self) -> str:
        parts = []
        for path in (self.stdout_path, self.stderr_path):
            text = path.read_text(errors="replace")
            parts.append(f"\n--- {path.name}, {len(text)} characters ---\n{text[-_OUTPUT_SHOWN:]}")
        return "".join(parts)


class Processes:
    """Starts commands on hosts; a context manager that ends with all of them dead."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._started:
            self._started.pop().kill()

    def start(self, host: Host, command: Sequence[str | os.PathLike[str]], *, name: str = "") -> Process:
        """Start a command on a host, where ``hostname`` answers with the host's name.

        Every link of the chain executes the next one, so the process that gets a signal is the command itself.
        ``env`` undoes an ignored SIGINT, which a test run started in the background would hand down.
        """
        label = name or f"{host.name}-{pathlib.Path(command[0]).name}"
        chain = [
            *("ip", "netns", "exec", host.namespace),
            *("env", "--default-signal=INT"),
            *("unshare", "--uts", "sh", "-c", 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"', host.name),
            *(os.fspath(part) for part in command),
        ]
        process = Process(f"{len(self._started):02}-{label}", chain, self._directory)
        self._started.append(process)
        return process
