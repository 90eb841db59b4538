"""The processes of one run: started on hosts of the lab, watched from one loop, and always ended.

The invariant: leaving ``Children`` leaves no process behind, and what a process cost is read from the kernel's account
of it (``wait4``), not from samples.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from benchmarks.head_to_head.machine import ROOT
from benchmarks.head_to_head.scene import RunFailed
from tests.lab.network import Host

SAMPLE_INTERVAL_S = 0.05  # how often the memory of processes is looked at
_OUTPUT_KEPT = 4000  # bytes of what a process said last, for failures
_SET_HOST_NAME = 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"'


class Child:
    """A process on a host: what it said last, and, once it has ended, what it cost."""

    def __init__(self, host: Host, command: Sequence[str], complete: bytes, milestones: Sequence[bytes]) -> None:
        self.host = host
        self.name = f"{host.name}: {pathlib.Path(command[0]).name}"
        self._complete = complete
        self._milestones = list(milestones)
        # Every link executes the next, so the process measured is the command. ``hostname`` answers with the host's
        # name, because ghostcast tells receivers apart by it.
        chain = ("ip", "netns", "exec", host.namespace, "unshare", "--uts", "sh", "-c", _SET_HOST_NAME, host.name)
        self._popen = subprocess.Popen(
            [*chain, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the terminal reaches us alone, and we end it in order
        )
        assert self._popen.stdout is not None
        self.stdout = self._popen.stdout.fileno()
        os.set_blocking(self.stdout, False)
        self.pidfd = os.pidfd_open(self._popen.pid)
        self.said = b""
        self.reached_s: dict[str, float] = {}
        """Milestone → when it said so."""
        self.has_copy_s: float | None = None
        """When its copy was complete: it said so, or, where it would not say so, it ended."""
        self.ended_s: float | None = None
        self.cpu_seconds = 0.0
        self.memory_bytes = 0

    @property
    def status(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        status: int | None = self._popen.returncode
        return status

    def read(self) -> bool:
        """Take in what it has said since; return whether more can come."""
        try:
            data = os.read(self.stdout, 65536)
        except BlockingIOError:
            return True
        now_s = time.monotonic()
        said = self.said + data
        if self._complete and self.has_copy_s is None and self._complete in said:
            self.has_copy_s = now_s
        while self._milestones and self._milestones[0] in said:
            self.reached_s[self._milestones.pop(0).decode().strip('"')] = now_s
        self.said = said[-_OUTPUT_KEPT:]
        return bool(data)

    def sample_memory(self) -> None:
        """Note the most memory that was resident so far.

        Not ``ru_maxrss``, which an exec does not reset: it would begin at what this benchmark itself holds.
        """
        with contextlib.suppress(OSError):
            status = pathlib.Path(f"/proc/{self._popen.pid}/status").read_text()
            if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
                self.memory_bytes = int(found[1]) * 1024

    def reap(self) -> None:
        """Collect the ended process and what it cost, its own children included; wait where it has not ended yet."""
        _, status, usage = os.wait4(self._popen.pid, 0)
        self.ended_s = time.monotonic()
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        if not self._complete:
            self.has_copy_s = self.ended_s

    def kill(self) -> None:
        """Kill it, with its group, if it still runs."""
        if self.ended_s is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self.reap()

    def close(self) -> None:
        """Kill it, and release what was kept to watch it."""
        self.kill()
        os.close(self.pidfd)
        assert self._popen.stdout is not None
        self._popen.stdout.close()


class Children:
    """The processes of one run, watched from one loop; a context manager that ends with all of them dead."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._watch_also: Callable[[], None] = lambda: None
        self._sampled_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        while self._children:
            self._children.pop().close()

    def start(
        self, host: Host, command: Sequence[str], *, complete: bytes = b"", milestones: Sequence[bytes] = ()
    ) -> Child:
        """Start a command on a host."""
        child = Child(host, command, complete, milestones)
        self._children.append(child)
        self._selector.register(child.stdout, selectors.EVENT_READ, child)
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        return child

    def watch_also(self, look: Callable[[], None]) -> None:
        """Call ``look`` from now on whenever the processes are looked at."""
        self._watch_also = look

    def until(
        self,
        condition: Callable[[], bool],
        what: str,
        timeout_s: float,
        interval_s: float = SAMPLE_INTERVAL_S,
    ) -> None:
        """Watch until a condition holds, looked at whenever a process does something and every ``interval_s``.

        Raises:
            RunFailed: it takes too long, or a process ends with another status than 0.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise RunFailed(f"{what}: not within {timeout_s:.0f} s\n{self._last_words()}")
            self._watch(interval_s)
            if failed := [child for child in self._children if child.status]:
                raise RunFailed(f"{failed[0].name} ended with status {failed[0].status}\n{self._last_words()}")

    def _watch(self, interval_s: float) -> None:
        for key, _ in self._selector.select(interval_s):
            child: Child = key.data
            if key.fd == child.pidfd:
                child.reap()
                self._selector.unregister(key.fd)
            elif not child.read():
                self._selector.unregister(key.fd)
        self._watch_also()
        if time.monotonic() - self._sampled_s >= SAMPLE_INTERVAL_S:
            self._sampled_s = time.monotonic()
            for child in self._children:
                child.sample_memory()

    def _last_words(self) -> str:
        return "\n".join(f"--- {child.name} ---\n{child.said.decode(errors='replace')}" for child in self._children)
