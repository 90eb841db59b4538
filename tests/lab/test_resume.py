"""Goal: what is on a target already is kept, whoever was killed at whatever moment, and only bytes are believed.

Method: the real commands on a real kernel; SIGKILL at random moments, targets that hold everything, an older version, a
part, something else or nothing; copies are judged by their bytes, traffic by the sender's report.
``GHOSTCAST_KILL_ROUNDS`` asks for more rounds than the suite has time for.
"""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator

import pytest

from tests.lab import disks
from tests.lab.network import Bridge
from tests.lab.processes import Processes
from tests.lab.sessions import Command, Session, Source, make_source

pytestmark = pytest.mark.lab

MIB = 1 << 20
PATIENCE_S = 120
KILL_ROUNDS = int(os.environ.get("GHOSTCAST_KILL_ROUNDS", "12"))


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    """The image of 100 MiB that do not compress, and of some zeros."""
    with tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as directory:
        raw = pathlib.Path(directory, "raw")
        rng = random.Random(17)
        with raw.open("wb") as file:
            for _chunk in range(99):
                file.write(rng.randbytes(MIB))
            file.truncate(103 * MIB)
            file.seek(103 * MIB)
            file.write(rng.randbytes(MIB - 12345))
        yield make_source(raw)


@pytest.fixture
def scratch() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="ghostcast-lab-") as directory:
        yield pathlib.Path(directory)


@pytest.fixture
def session(commands: Processes, tmp_path: pathlib.Path) -> Session:
    return Session(commands, tmp_path)


def change(path: pathlib.Path, offset: int) -> None:
    """Damage one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0xFF]))


def check(receivers: list[Command], targets: list[pathlib.Path], source: Source) -> None:
    for receiver, target in zip(receivers, targets, strict=True):
        receiver.process.expect(0, timeout_s=PATIENCE_S)
        assert receiver.report()["state"] == "verified"
        assert disks.digest(target) == source.digest


def test_one_changed_chunk_in_a_hundred_moves_at_most_three_hundredths(
    session: Session, source: Source, scratch: pathlib.Path
) -> None:
    targets = [scratch / f"old-{number}" for number in range(4)]
    for target in targets:
        shutil.copyfile(source.raw, target)
        change(target, 42 * MIB + 4711)
    with Bridge(4, offloads=False) as bridge:
        sender = session.send(bridge.sender, source, "--receivers", "4")
        receivers = [session.receive(host, target) for host, target in zip(bridge.receivers, targets, strict=True)]
        check(receivers, targets, source)
        sender.process.expect(0)
    report = sender.report()
    assert report["wire_bytes"] <= 0.03 * report["image"]["stored_bytes"]
    for receiver in receivers:
        chunks = receiver.report()["chunks"]
        assert (chunks["written"], chunks["reused"]) == (1, 99)


def test_a_mixed_fleet_ends_exact(session: Session, source: Source, scratch: pathlib.Path) -> None:
    names = ["blank", "old", "complete", "interrupted", "foreign"]
    targets = [scratch / name for name in names]
    shutil.copyfile(source.raw, targets[1])
    for offset in (0, 50 * MIB, 101 * MIB):  # the last where the image is zero
        change(targets[1], offset)
    shutil.copyfile(source.raw, targets[2])
    shutil.copyfile(source.raw, targets[3])
    os.truncate(targets[3], 31 * MIB + 5)
    targets[4].write_bytes(random.Random(3).randbytes(2 * MIB) * 70)
    with Bridge(5, offloads=True) as bridge:
        bridge.set_loss(bridge.receivers[0], 0.02)
        bridge.set_loss(bridge.receivers[3], 0.02)
        sender = session.send(bridge.sender, source, "--receivers", "5", "--rate", "1Gbit")
        receivers = [session.receive(host, target) for host, target in zip(bridge.receivers, targets, strict=True)]
        check(receivers, targets, source)
        sender.process.expect(0)
    assert sender.report()["wire_bytes"] < 1.5 * sender.report()["image"]["stored_bytes"]
    assert receivers[2].report()["chunks"]["reused"] > 0


def test_receivers_that_are_killed_at_any_moment_go_on(session: Session, source: Source, scratch: pathlib.Path) -> None:
    """Many rounds strike while the target is looked through, for each kill leaves more on it. The sender serves session
    after session, because a kill may strike when everything is done.
    """
    rng = random.Random(23)
    targets = [scratch / "one", scratch / "two"]
    with Bridge(2, offloads=True) as bridge:
        sender = session.send(bridge.sender, source, "--repeat", "--receivers", "1", "--rate", "300Mbit")
        hosts = bridge.receivers
        receivers = [session.receive(host, target) for host, target in zip(hosts, targets, strict=True)]
        for _round in range(KILL_ROUNDS):
            victim = rng.randrange(2)
            time.sleep(rng.uniform(0.3, 1.5))  # not synchronisation: the moment is the point
            receivers[victim].process.kill()
            receivers[victim] = session.receive(hosts[victim], targets[victim])
        check(receivers, targets, source)
        sender.process.send_signal(signal.SIGTERM)
        sender.process.wait(PATIENCE_S)
    assert sum(receiver.report()["chunks"]["reused"] for receiver in receivers) > 0


def test_a_sender_that_is_killed_and_started_again_takes_its_receivers_back(
    session: Session, source: Source, scratch: pathlib.Path
) -> None:
    targets = [scratch / "one", scratch / "two", scratch / "three"]
    with Bridge(3, offloads=True) as bridge:
        first = session.send(bridge.sender, source, "--receivers", "3", "--rate", "200Mbit")
        receivers = [
            session.receive(host, target, "--max-wait", "60")
            for host, target in zip(bridge.receivers, targets, strict=True)
        ]
        first.process.await_event("progress", count=4)
        first.process.kill()
        second = session.send(bridge.sender, source, "--receivers", "3")
        check(receivers, targets, source)
        second.process.expect(0)
    for receiver in receivers:
        assert receiver.report()["sessions"] == 2
        assert receiver.report()["chunks"]["written"] == 100
    assert second.states() == {f"r{number}": "verified" for number in (1, 2, 3)}
    # The first sender got somewhere, and that was not sent again.
    assert second.report()["wire_bytes"] < 0.98 * second.report()["image"]["stored_bytes"]


def test_a_chunk_that_rots_on_a_finished_target_is_found_and_fetched(
    session: Session, source: Source, scratch: pathlib.Path
) -> None:
    target = scratch / "target"
    shutil.copyfile(source.raw, target)
    change(target, 77 * MIB)
    with Bridge(1, offloads=True) as bridge:
        host = bridge.receivers[0]
        sender = session.send(bridge.sender, source, "--receivers", "1")
        receiver = session.receive(host, target, "--verify", "read")
        check([receiver], [target], source)
        sender.process.expect(0)
    assert receiver.report()["chunks"]["written"] == 1
