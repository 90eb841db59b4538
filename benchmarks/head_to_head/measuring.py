"""One run of one tool, and all runs of a cell: the clock, the costs, the verdict on every copy."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Callable
from typing import TypeVar

from benchmarks.head_to_head import ceiling
from benchmarks.head_to_head.ceiling import Ceiling
from benchmarks.head_to_head.children import Child, Children
from benchmarks.head_to_head.machine import busy_core_seconds, busy_cores, run_command
from benchmarks.head_to_head.scene import RunFailed, Scene
from benchmarks.head_to_head.sources import digest
from benchmarks.head_to_head.tools import TOOLS, Tool
from benchmarks.head_to_head.wire import WireCounter
from tests.lab.network import Host

SETTLE_S = 0.5  # a peer says that it is ready a little before it listens
BACKGROUND_S = 0.5  # how long the machine is watched before each run, for what others do to it
WIRE_INTERVAL_S = 0.01
_START_TIMEOUT_S = 30
_EXIT_TIMEOUT_S = 30
_QUIET_CORES = 0.2  # more than this, and others disturb what is measured

Say = Callable[[str], None]
Outcome = TypeVar("Outcome")


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What one tool needed, once. Seconds count from the start of the sender's command."""

    round: int
    tool: str
    copied_seconds: float
    """Until the last receiver had ended, or, where it is a daemon, had said that its copy is complete."""
    durable_seconds: float
    """Until, after that, every copy was flushed to the disk."""
    sender_seconds: float
    """Until the sender had ended."""
    receiver_seconds: tuple[float, ...]
    """Until each receiver had its copy, in the order of the hosts."""
    data_begins_seconds: float
    """Until the sender's interface had sent the first hundredth of all that it sent."""
    data_ends_seconds: float
    """Until it had sent all but the last hundredth."""
    milestones: dict[str, float]
    """What the sender said on its way, and when."""
    sender_cpu_seconds: float
    receiver_cpu_seconds: tuple[float, ...]
    sender_memory_bytes: int
    receiver_memory_bytes: tuple[int, ...]
    wire_sent_bytes: int
    """What the sender's interface sent, headers included; a batch that no one cuts counts its headers once."""
    wire_received_bytes: int
    copies: tuple[str, ...]
    """``whole`` or ``used``, for each receiver: how much of the source its copy holds."""
    background_cores: float
    """How many cores others kept busy just before."""
    busy_cores: float
    """How many were busy during the run, with whatever: nearly all of them, and the processor was the limit."""

    @property
    def whole_seconds(self) -> float:
        """Return when everything was over: the sender's command, and the last flush."""
        return max(self.durable_seconds, self.sender_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """One tool, once, without verified copies."""

    round: int
    tool: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """All that the rounds of one cell brought."""

    runs: list[Run]
    ceilings: list[Ceiling]
    failures: list[Failure]


def measure(scene: Scene, say: Say) -> Measured:
    """Run all tools in turn, round after round; a tool that fails does not stop the others."""
    found = Measured([], [], [])
    for number in range(1, scene.cell.rounds + 1):
        if scene.cell.rate_mbit is None:  # the ceiling of a shaped link is known
            call = functools.partial(ceiling.measure, scene.network, scene.cell.mtu, number)
            loop = _attempt(found, scene, say, number, ceiling.NAME, call)
            if loop:
                found.ceilings.append(loop)
                say(f"round {number}: {ceiling.NAME}: {loop.gbit_per_s:.1f} Gbit/s, {loop.lost:.1%} lost")
        for name in scene.cell.tools:
            run = _attempt(found, scene, say, number, name, functools.partial(run_once, TOOLS[name], scene, number))
            if run:
                found.runs.append(run)
                busy = f"; {run.background_cores:.1f} cores busy before" if run.background_cores > _QUIET_CORES else ""
                say(f"round {number}: {name}: {run.copied_seconds:.2f} s, flushed {run.durable_seconds:.2f} s{busy}")
    return found


def _attempt(
    found: Measured, scene: Scene, say: Say, number: int, name: str, call: Callable[[], Outcome]
) -> Outcome | None:
    try:
        return call()
    except RunFailed as error:
        # Results are kept and compared: where this run had its files is not for them.
        found.failures.append(Failure(number, name, str(error).replace(str(scene.directory), "DIRECTORY")))
        say(f"round {number}: {name} FAILED: {error}")
        return None


def run_once(tool: Tool, scene: Scene, number: int) -> Run:
    """Let one tool copy the source to every receiver, and verify all copies.

    Raises:
        RunFailed: it did not, or not in time.
    """
    receivers, sender_host = scene.network.receivers, scene.network.sender
    background_cores = _prepare(scene)
    with WireCounter(sender_host) as wire, Children() as children:
        waiting: list[Child] = []
        if tool.receive:
            waiting += (children.start(host, tool.receive(scene, host), complete=tool.complete) for host in receivers)
        children.until(lambda: all(tool.ready in child.said for child in waiting), "receivers ready", _START_TIMEOUT_S)
        settled_s = time.monotonic() + SETTLE_S
        children.until(lambda: time.monotonic() > settled_s, "receivers still there", _START_TIMEOUT_S)

        before = wire.read()
        wire.sample()
        children.watch_also(wire.sample)
        busy_before, started_s = busy_core_seconds(), time.monotonic()
        sender = children.start(sender_host, tool.send(scene), milestones=tool.milestones)
        copying = waiting or [sender]
        children.until(
            lambda: all(child.has_copy_s for child in copying), "copied", scene.cell.timeout_s, WIRE_INTERVAL_S
        )
        for host in receivers:
            _flush_copy(scene, host)
        durable_s = time.monotonic()
        children.until(lambda: sender.ended_s is not None, "sender ended", _EXIT_TIMEOUT_S, WIRE_INTERVAL_S)
        busy = (busy_core_seconds() - busy_before) / (time.monotonic() - started_s)
        after = wire.read()
        wire.sample()
        data_begins_s, data_ends_s = wire.data_interval_s()
        for child in waiting:
            child.kill()  # a daemon does not end by itself, and only a dead one tells its processor time
    ended = [(child.has_copy_s or 0) - started_s for child in copying]
    return Run(
        round=number,
        tool=tool.name,
        copied_seconds=max(ended),
        durable_seconds=durable_s - started_s,
        sender_seconds=(sender.ended_s or 0) - started_s,
        receiver_seconds=tuple(ended) if waiting else (),
        data_begins_seconds=data_begins_s - started_s,
        data_ends_seconds=data_ends_s - started_s,
        milestones={name: when - started_s for name, when in sender.reached_s.items()},
        sender_cpu_seconds=sender.cpu_seconds,
        receiver_cpu_seconds=tuple(child.cpu_seconds for child in waiting),
        sender_memory_bytes=sender.memory_bytes,
        receiver_memory_bytes=tuple(child.memory_bytes for child in waiting),
        wire_sent_bytes=after.sent - before.sent,
        wire_received_bytes=after.received - before.received,
        copies=tuple(_verify(scene, host) for host in receivers),
        background_cores=background_cores,
        busy_cores=busy,
    )


def _prepare(scene: Scene) -> float:
    """Make every run begin alike: no targets, nothing left to flush, sources in memory. Return who else is busy."""
    for host in scene.network.receivers:
        directory = scene.target(host).parent
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    run_command("sync", "--file-system", str(scene.directory))
    for path in (scene.source.raw, scene.source.image):
        digest(path)
    return busy_cores(BACKGROUND_S)


def _flush_copy(scene: Scene, host: Host) -> None:
    try:
        file = os.open(scene.target(host), os.O_RDONLY)
    except FileNotFoundError:
        raise RunFailed(f"{host.name} has no copy") from None
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _verify(scene: Scene, host: Host) -> str:
    verdict = scene.source.compare(scene.target(host))
    if not verdict:
        raise RunFailed(f"the copy of {host.name} is not what was sent")
    return verdict
