"""A network that damages, doubles, delays and drops, and strangers that shout.

Goal: whatever arrives, a receiver ends with exactly the source's bytes or says that it has not, and no stranger's
datagram costs more than time. Method: a relay on the sender's cable (``relay.py``) flips bits behind correct checksums,
so that only ghostcast's own digests can tell; interfaces go down and come back; junk floods every port that is used.
"""

from __future__ import annotations

import pathlib
import signal
import sys
import time
from collections.abc import Callable

import pytest

from protocol import limits
from tests.lab import faults, gullible, relay, traffic
from tests.lab.network import Bridge, RelayedBridge
from tests.lab.processes import Process, Processes
from tests.lab.sessions import Command, Session, Source, make_source

pytestmark = pytest.mark.lab

MIB = 1 << 20
SOURCE_SIZE = 6 * MIB

JUNK_PER_S = 5000


@pytest.fixture(scope="module")
def fine_source(make_random_source: Callable[[int], Source], tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A source in small chunks: one damaged datagram spoils little, so that many can be."""
    raw = tmp_path_factory.mktemp("fine") / "fine"
    raw.symlink_to(make_random_source(SOURCE_SIZE).raw)
    return make_source(raw, "--chunk-size", "64KiB")


def test_a_host_that_is_not_told_the_senders_link_address_joins_all_the_same(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    """At 1 % loss, every hundredth host loses an answer and asks again after a second; here all answers are lost."""
    source = make_random_source(SOURCE_SIZE)
    with Bridge(2, offloads=False) as bridge:
        bridge.set_unanswered(bridge.receivers[0], unanswered=True)
        sender = session.send(bridge.sender, source, "--receivers", "2")
        receivers = [(session.receive(host, scratch / host.name), scratch / host.name) for host in bridge.receivers]
        sender.process.await_event("started", timeout_s=30)
        bridge.set_unanswered(bridge.receivers[0], unanswered=False)
        for command in (sender, *(command for command, _target in receivers)):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, receivers, source)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        # A chunk is 46 datagrams, so a third of them is damaged; 13 times in a row, once in a million chunks.
        (("--flip-per-mille", "8", "--flip-what", "data"), {"flipped"}),
        (("--flip-per-mille", "300", "--flip-what", "control"), {"flipped"}),
        (("--flip-per-mille", "5", "--flip-what", "data", "--flip-where", "header"), {"flipped"}),
        (("--duplicate-per-mille", "150", "--reorder-per-mille", "150"), {"duplicated", "reordered"}),
        (
            ("--flip-per-mille", "5", "--duplicate-per-mille", "50", "--reorder-per-mille", "50"),
            {"flipped", "duplicated", "reordered"},
        ),
    ],
    ids=["flipped symbols", "flipped control", "flipped headers", "doubled and overtaken", "all at once"],
)
def test_a_cable_that_damages_what_it_carries(
    session: Session,
    commands: Processes,
    fine_source: Source,
    scratch: pathlib.Path,
    damage: tuple[str, ...],
    expected: set[str],
) -> None:
    with RelayedBridge(2) as bridge:
        cable = _spoil_cable(commands, bridge, *damage)
        sender, receivers = _clone(session, bridge, fine_source, scratch, "--rate", "50Mbit")
        for command in (*(command for command, _ in receivers), sender):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, receivers, fine_source)
        faults.expect_nobody_left(bridge)
        cable.send_signal(signal.SIGTERM)
        counts = cable.await_event("finished")
    for fault in ("flipped", "duplicated", "reordered"):
        assert bool(counts[fault]) == (fault in expected), counts
    if "data" in damage:
        assert all(command.report()["chunks"]["damaged"] > 0 for command, _ in receivers)


def test_a_planted_receiver_that_believes_damaged_chunks_is_found(
    commands: Processes, fine_source: Source, scratch: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with RelayedBridge(1) as bridge:
        _spoil_cable(commands, bridge, "--flip-per-mille", "8", "--flip-what", "data")
        session = Session(commands, tmp_path, launch=(sys.executable, gullible.__file__))
        sender, receivers = _clone(session, bridge, fine_source, scratch, "--rate", "50Mbit")
        for command in (receivers[0][0], sender):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        with pytest.raises(AssertionError, match=r"says verified of .* which differs"):
            faults.expect_truth(sender, receivers, fine_source)


def _spoil_cable(commands: Processes, bridge: RelayedBridge, *damage: str) -> Process:
    arguments = (bridge.LEFT, bridge.RIGHT, "--seed", str(faults.moments().getrandbits(32)), *damage)
    cable = commands.start(bridge.relay, [sys.executable, relay.__file__, *arguments])
    cable.await_event("ready")
    return cable


def test_interfaces_that_go_down_and_come_back(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    """Not the cable but the machine's own interface: its routes are gone, and system calls say ENETDOWN."""
    rng, source = faults.moments(), make_random_source(SOURCE_SIZE)
    with Bridge(2, offloads=False) as bridge:
        sender, receivers = _clone(session, bridge, source, scratch, "--rate", "15Mbit")
        sender.process.await_event("started", timeout_s=30)
        for host in (bridge.receivers[0], bridge.sender, bridge.receivers[1]):
            faults.sleep_until(time.monotonic() + rng.uniform(0, 0.7))
            bridge.set_interface(host, up=False)
            faults.sleep_until(time.monotonic() + rng.uniform(0.2, 1.5))
            bridge.set_interface(host, up=True)
        for command in (*(command for command, _ in receivers), sender):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, receivers, source)
        faults.expect_nobody_left(bridge)


def test_thousands_of_junk_datagrams_a_second_on_every_port(
    session: Session, commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source = make_random_source(SOURCE_SIZE)
    with Bridge(3, offloads=False, hub=True) as bridge:
        *_, noisy = bridge.receivers
        arguments = ["--address", noisy.address, "junk", "--seed", str(faults.moments().getrandbits(32))]
        arguments += ["--rate-per-s", str(JUNK_PER_S), "--each-target"]
        arguments += ["--target", f"{limits.DISCOVERY_GROUP}:{limits.DISCOVERY_PORT}"]
        for kind in ("random", "truncated"):
            arguments += ["--kind", kind]
        junk = commands.start(noisy, [sys.executable, traffic.__file__, *arguments])
        junk.await_event("ready")
        targets = {host: scratch / host.name for host in bridge.receivers[:2]}
        sender = session.send(bridge.sender, source, "--receivers", "2", "--rate", "15Mbit")
        receivers = [(session.receive(host, target), target) for host, target in targets.items()]
        for command in (*(command for command, _ in receivers), sender):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, receivers, source)
        assert junk.running
        said = junk.events()[-1]
        assert said["targets"] >= 3  # discovery and data groups, control ports
        assert min(said["sent"].values()) > JUNK_PER_S
        junk.kill()
        faults.expect_nobody_left(bridge)
        faults.expect_next_session_works(commands, scratch, bridge, source, targets)


def _clone(
    session: Session, bridge: Bridge, source: Source, scratch: pathlib.Path, *options: str
) -> tuple[Command, list[tuple[Command, pathlib.Path]]]:
    """Start a session of all hosts, each with a new file as its target."""
    sender = session.send(bridge.sender, source, "--receivers", str(len(bridge.receivers)), *options)
    targets = [(host, scratch / host.name) for host in bridge.receivers]
    return sender, [(session.receive(host, target), target) for host, target in targets]
