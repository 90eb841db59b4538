"""What every fault test asks in the end: did anybody say something untrue, does anything still run, does it work again.

Knows commands, reports and bytes; must not know pytest. The invariant that ``expect_truth`` holds all runs to: whoever
says ``verified``, of itself or of another, speaks of a target whose bytes are the source's.
"""

from __future__ import annotations

import os
import pathlib
import random
import subprocess
import time
from collections.abc import Sequence

from tests.lab import disks
from tests.lab.network import Bridge, Host
from tests.lab.processes import Processes
from tests.lab.sessions import Command, Session, Source

ENDED_TIMEOUT_S = 90
"""Everything ends within this time, whatever was done to it; most runs take a tenth of it."""

GONE_S = 30
"""A receiver gives a dead sender up, and a sender a dead receiver, within 8 s; the rest is for a busy machine."""


def rounds(count: int) -> int:
    """Return how many rounds to run: ``count``, or as many times more as GHOSTCAST_FAULT_ROUNDS says."""
    return count * int(os.environ.get("GHOSTCAST_FAULT_ROUNDS", "1"))


def moments() -> random.Random:
    """Return the source of random moments; its seed is printed, and taken from GHOSTCAST_FAULT_SEED if that is set."""
    seed = int(os.environ.get("GHOSTCAST_FAULT_SEED") or random.getrandbits(32))
    print(f"GHOSTCAST_FAULT_SEED={seed}")
    return random.Random(seed)


def sleep_until(instant: float) -> None:
    """Let time pass until a random moment: the moment is what is tried, nothing waits for anything."""
    time.sleep(max(0.0, instant - time.monotonic()))


def say_verified(command: Command) -> bool:
    """Whether a command that has ended claims a verified copy: by status, by report, or by its last event."""
    claims = [command.process.wait(0) == 0]
    if command.report_path.exists():
        claims.append(command.report().get("state") == "verified")
    claims += [event["status"] == 0 for event in command.process.events() if event["event"] == "finished"]
    if len(set(claims)) != 1 and command.process.wait(0) >= 0:
        raise AssertionError(f"{command.process.name}: status, report and last event disagree: {claims}")
    return any(claims)


def expect_truth(sender: Command | None, receivers: Sequence[tuple[Command, pathlib.Path]], source: Source) -> None:
    """Hold every word of commands that have ended against the bytes on the targets.

    Args:
        sender: the ``send`` of the session; None if it was killed.
        receivers: each ``receive`` that wrote last to its target, and the target.
        source: what was sent.
    Raises:
        AssertionError: somebody said ``verified`` of a target that is not the source, or the two sides contradict.
    """
    exact = {command.host.name: _is_exact(target, source) for command, target in receivers}
    for command, target in receivers:
        if say_verified(command):
            assert exact[command.host.name], f"{command.process.name} says verified of {target}, which differs"
    if sender is None:
        return
    status, states = sender.process.wait(0), [(one["host"], one["state"]) for one in sender.report()["receivers"]]
    for host, state in states:
        assert state in {"verified", "failed", "vanished", "refused"}, f"{host} ends as {state!r}"
        if state == "verified":
            assert exact[host], f"the sender says that {host} has verified a copy, which differs"
    if status == 0:
        assert states, "status 0 without a receiver"
        assert all(state == "verified" for _, state in states), states
    elif status > 0 and states and all(state == "verified" for _, state in states):
        raise AssertionError(f"the sender ends with {status}, but its report has everybody verified")


def _is_exact(target: pathlib.Path, source: Source) -> bool:
    try:
        size = None if not target.is_block_device() else source.raw.stat().st_size
        return disks.digest(target, size) == source.digest
    except FileNotFoundError:
        return False


def expect_nobody_left(bridge: Bridge, *spared: int) -> None:
    """No process of any host is left but the ``spared``: whatever a command started is gone with it."""
    for host in bridge.hosts:
        listed = subprocess.run(
            ["ip", "netns", "pids", host.namespace], check=True, capture_output=True, text=True, timeout=30
        )
        left = {int(pid) for pid in listed.stdout.split()} - set(spared)
        assert not left, f"{host.name} still runs {left}"


def expect_next_session_works(
    commands: Processes,
    directory: pathlib.Path,
    bridge: Bridge,
    source: Source,
    targets: dict[Host, pathlib.Path],
    name: str = "next",
) -> None:
    """What happened has done no lasting harm: another session of the same hosts and targets ends well."""
    session = Session(commands, directory, name)
    sender = session.send(bridge.sender, source, "--receivers", str(len(targets)))
    receivers = [(session.receive(host, target), target) for host, target in targets.items()]
    for command, _ in receivers:
        command.process.expect(0, timeout_s=ENDED_TIMEOUT_S)
    sender.process.expect(0, timeout_s=ENDED_TIMEOUT_S)
    expect_truth(sender, receivers, source)
