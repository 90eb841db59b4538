"""Other programs at long work on whole disks: watched until they end, gone when we are.

Knows processes; must not know formats. ``disk.programs`` runs what answers at once. The invariants: what a program
printed counts only once it has ended with status 0; no program outlives the ``with`` block it was started in, however
that ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from ghostcast.disk import programs
from protocol.errors import ImageError, UsageError

_POLL_S = 0.2
_COMPLAINT_SIZE = 2000
"""Bytes of what a program said last that are looked at for the reason of its failure."""


def find_tool(name: str) -> str:
    """Return the path of a program.

    Raises:
        UsageError: it is not installed; names the package.
    """
    path = programs.find(name)
    if path is None:
        raise UsageError(f"{programs.ProgramMissing(name)}, and it is needed for this")
    return path


class ToolFailed(ImageError):
    """A program ended with another status than 0."""

    def __init__(self, subject: str, command: Sequence[str], status: int, complaint: str) -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
        super().__init__(f"{subject}: {os.path.basename(command[0])} {how}: {complaint or 'it did not say why'}")
        self.status = status


class Pipeline:
    """Programs in a row, the output of each the input of the next; the output of the last is ``output``, to be read."""

    def __init__(self, subject: str, commands: Sequence[Sequence[str]], source: int | IO[bytes]) -> None:
        """Start the programs.

        Args:
            subject: what they work on, for errors.
            commands: each a program's name and its arguments.
            source: what the first one reads; stays the caller's to close.
        """
        self.subject = subject
        self._commands = [[find_tool(command[0]), *command[1:]] for command in commands]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._complaints: list[IO[bytes]] = []
        try:
            for command in self._commands:
                self._complaints.append(tempfile.TemporaryFile())  # noqa: SIM115 (closed by ``close``)
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=self._processes[-1].stdout if self._processes else source,
                        stdout=subprocess.PIPE,
                        stderr=self._complaints[-1],
                        env=_environment(),
                        start_new_session=True,  # Ctrl-C is ours to handle: a program that dies first is no failure
                    )
                )
            for process in self._processes[:-1]:
                assert process.stdout is not None
                process.stdout.close()  # the next program has it; a writer must see when that one ends
        except BaseException:
            self.close()
            raise

    @property
    def output(self) -> IO[bytes]:
        """What the last program prints."""
        output = self._processes[-1].stdout
        assert output is not None
        return output

    def check(self) -> None:
        """Wait until all have ended, once their output was read to its end.

        Raises:
            ToolFailed: one of them failed: what was read is not to be used.
        """
        statuses = [process.wait() for process in self._processes]
        for command, status, complaint in zip(self._commands, statuses, self._complaints, strict=True):
            if status:
                raise ToolFailed(self.subject, command, status, _last_words(complaint))

    def close(self) -> None:
        """End what still runs."""
        for process in self._processes:
            _end(process)
            if process.stdout is not None:
                process.stdout.close()
        for complaint in self._complaints:
            complaint.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_tool(
    subject: str,
    command: Sequence[str],
    *,
    text: str = "",
    poll: Callable[[], None] | None = None,
    good: Sequence[int] = (0,),
) -> tuple[int, str]:
    """Run one program to its end; returns its status and what it printed.

    Args:
        subject: what it works on, for errors.
        command: its name and its arguments.
        text: what it reads from standard input.
        poll: called a few times a second while it runs.
        good: statuses that are no failure.

    Raises:
        ToolFailed: another status.
    """
    line = [find_tool(command[0]), *command[1:]]
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complaint, tempfile.TemporaryFile() as read:
        read.write(text.encode())
        read.seek(0)
        process = subprocess.Popen(
            [*_dies_with_us(), *line],
            stdin=read,
            stdout=printed,
            stderr=complaint,
            env=_environment(),
            start_new_session=True,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(_POLL_S)
                    break
                if poll is not None:
                    poll()
        finally:
            _end(process)
        if status not in good:
            raise ToolFailed(subject, line, status, _last_words(complaint) or _last_words(printed))
        printed.seek(0)
        return status, printed.read().decode(errors="replace")


def absolute(path: Path) -> str:
    """Return a path as an argument that no program takes for an option, or for the address of something remote."""
    return os.path.abspath(path)


def _dies_with_us() -> list[str]:
    """Return what makes the kernel end a program when this process is killed, which no code of ours can do any more."""
    setpriv = programs.find("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL"]


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _last_words(file: IO[bytes]) -> str:
    """Return the last lines that a program printed, in one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _COMPLAINT_SIZE))
    lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    text = "; ".join([line for line in lines if line][-3:])
    return "".join(character if character.isprintable() else "?" for character in text)
