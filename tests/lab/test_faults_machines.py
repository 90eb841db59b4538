"""Disks that fail, images that change under the sender, names that are taken, and clocks that are wrong.

Goal: a fault of one machine is told by that machine, in words and exit status, and by the sender's report; all others
end exact. Method: a real block device that cannot be written at one place, a file system that fills up meanwhile, an
image that is cut or overwritten while it is sent, two senders at the same instant, and time namespaces.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.lab import clocks, disks, faults
from tests.lab.network import Bridge
from tests.lab.processes import Processes
from tests.lab.sessions import GHOSTCAST, Command, Session, Source

pytestmark = pytest.mark.lab

MIB = 1 << 20
SOURCE_SIZE = 6 * MIB
SLOW = ("--rate", "15Mbit")
"""The source lasts 3.5 s."""

MICROSECONDS_WRAP_S = (1 << 32) / 1e6
"""Send times are 32 bits of microseconds."""


def run_beside_a_good_one(
    session: Session, bridge: Bridge, source: Source, bad: pathlib.Path, good: pathlib.Path, *options: str
) -> tuple[Command, Command, Command]:
    """Start a session of two receivers and wait for its data to flow; returns sender, bad receiver, good receiver."""
    sender = session.send(bridge.sender, source, "--receivers", "2", *options)
    receivers = [session.receive(host, target) for host, target in zip(bridge.receivers, (bad, good), strict=True)]
    sender.process.await_event("started", timeout_s=30)
    return sender, receivers[0], receivers[1]


# --- targets ---------------------------------------------------------------------------------------------------------


def test_a_disk_that_fails_at_one_place_fails_alone_and_says_where(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source, good = make_random_source(SOURCE_SIZE), scratch / "good"
    try:
        failing = disks.failing_device(scratch / "failing", 8 * MIB, 3 * MIB, 4096)
        with failing as device, Bridge(2, offloads=False) as bridge:
            sender, bad, beside = run_beside_a_good_one(session, bridge, source, device, good)
            bad.process.expect(5, timeout_s=faults.ENDED_TIMEOUT_S)
            beside.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
            sender.process.expect(4, timeout_s=faults.ENDED_TIMEOUT_S)
            assert sender.states() == {"r1": "failed", "r2": "verified"}
            said = bad.report()["reason"]
            assert all(word in said for word in (str(device), "at byte 3145728 (chunk 3)", "No space left")), said
            faults.expect_truth(sender, [(bad, device), (beside, good)], source)
            faults.expect_nobody_left(bridge)
    except disks.LoopUnavailable as error:
        pytest.skip(str(error))


def test_a_disk_that_loses_a_write_without_a_word_is_found_by_reading_back(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source, good = make_random_source(SOURCE_SIZE), scratch / "good"
    try:
        lying = disks.failing_device(scratch / "lying", 8 * MIB, 3 * MIB + 64 * 1024, 4096)
        with lying as device, Bridge(2, offloads=False) as bridge:
            sender = session.send(bridge.sender, source, "--receivers", "2")
            bad = session.receive(bridge.receivers[0], device, "--verify", "read")
            beside = session.receive(bridge.receivers[1], good, "--verify", "read")
            bad.process.expect(5, timeout_s=faults.ENDED_TIMEOUT_S)
            beside.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
            sender.process.expect(4, timeout_s=faults.ENDED_TIMEOUT_S)
            assert sender.states() == {"r1": "failed", "r2": "verified"}
            faults.expect_truth(sender, [(bad, device), (beside, good)], source)
    except disks.LoopUnavailable as error:
        pytest.skip(str(error))


def test_a_file_system_that_fills_up_meanwhile(
    session: Session,
    commands: Processes,
    make_random_source: Callable[[int], Source],
    loop_device: Callable[[str, int], pathlib.Path],
    scratch: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    source, good = make_random_source(SOURCE_SIZE), scratch / "good"
    # One of the kind that cannot set room aside, or nothing would be lacking.
    device = loop_device("tiny", 12 * MIB)
    subprocess.run(["mkfs.ext2", "-q", "-m", "0", device], check=True, timeout=30)
    with disks.mounted(device, scratch / "tiny") as tiny, Bridge(2) as bridge:
        bad = tiny / "copy"
        sender, full, beside = run_beside_a_good_one(session, bridge, source, bad, good, *SLOW)
        full.process.await_event("writing", timeout_s=30)
        fill_up(tiny / "others")
        full.process.expect(5, timeout_s=faults.ENDED_TIMEOUT_S)
        assert "No space left" in full.process.output()
        assert str(bad) in full.process.output()
        beside.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        sender.process.expect(4, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, [(full, bad), (beside, good)], source)
        (tiny / "others").unlink()
        again = {bridge.receivers[0]: bad, bridge.receivers[1]: good}
        faults.expect_next_session_works(commands, tmp_path, bridge, source, again)


def test_a_copy_has_its_room_however_full_its_file_system_becomes(
    session: Session,
    make_random_source: Callable[[int], Source],
    loop_device: Callable[[str, int], pathlib.Path],
    scratch: pathlib.Path,
) -> None:
    source, good = make_random_source(SOURCE_SIZE), scratch / "good"
    device = loop_device("tiny", 16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", device], check=True, timeout=30)
    with disks.mounted(device, scratch / "tiny") as tiny, Bridge(2) as bridge:
        copy = tiny / "copy"
        sender, filled, beside = run_beside_a_good_one(session, bridge, source, copy, good, *SLOW)
        filled.process.await_event("progress", timeout_s=30)
        fill_up(tiny / "others")
        for command in (sender, filled, beside):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, [(filled, copy), (beside, good)], source)


def fill_up(path: pathlib.Path) -> None:
    """Write to a file until its file system is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(MIB))


# --- the sender's image ----------------------------------------------------------------------------------------------


@pytest.fixture
def own_source(make_random_source: Callable[[int], Source], tmp_path: pathlib.Path) -> Source:
    """A source whose image may be spoilt."""
    lent = make_random_source(SOURCE_SIZE)
    image = tmp_path / "own.img.zst"
    shutil.copyfile(lent.image, image)
    return Source(lent.raw, image, lent.digest)


def test_an_image_that_is_cut_while_it_is_sent(session: Session, own_source: Source, scratch: pathlib.Path) -> None:
    targets = (scratch / "one", scratch / "two")
    with Bridge(2) as bridge:
        sender, *receivers = run_beside_a_good_one(session, bridge, own_source, *targets, *SLOW)
        os.truncate(own_source.image, SOURCE_SIZE // 2)
        sender.process.expect(6, timeout_s=faults.ENDED_TIMEOUT_S)
        assert "it was cut while it was being sent" in sender.process.output()
        for receiver in receivers:
            receiver.process.expect(4, timeout_s=faults.GONE_S)
            assert "the sender failed" in receiver.process.output()
        faults.expect_truth(sender, list(zip(receivers, targets, strict=True)), own_source)


def test_an_image_that_is_overwritten_while_it_is_sent(
    session: Session,
    commands: Processes,
    own_source: Source,
    make_random_source: Callable[[int], Source],
    scratch: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    targets = (scratch / "one", scratch / "two")
    with Bridge(2) as bridge:
        sender, *receivers = run_beside_a_good_one(session, bridge, own_source, *targets, *SLOW)
        with own_source.image.open("r+b") as file:
            file.seek(SOURCE_SIZE * 3 // 4)
            file.write(b"not what it was")
        for receiver in receivers:
            receiver.process.expect(6, timeout_s=faults.ENDED_TIMEOUT_S)
            assert "changed while it is sent" in receiver.process.output()
        sender.process.expect(4, timeout_s=faults.ENDED_TIMEOUT_S)
        assert set(sender.states().values()) == {"failed"}
        faults.expect_truth(sender, list(zip(receivers, targets, strict=True)), own_source)
        good = make_random_source(SOURCE_SIZE)
        again = dict(zip(bridge.receivers, targets, strict=True))
        faults.expect_next_session_works(commands, tmp_path, bridge, good, again)


def test_an_image_that_is_replaced_by_another_of_its_name_is_sent_as_it_was(
    session: Session, own_source: Source, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    targets = (scratch / "one", scratch / "two")
    with Bridge(2) as bridge:
        sender, *receivers = run_beside_a_good_one(session, bridge, own_source, *targets, *SLOW)
        other = own_source.image.with_name("other")
        shutil.copyfile(make_random_source(MIB).image, other)
        other.rename(own_source.image)
        for command in (*receivers, sender):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, list(zip(receivers, targets, strict=True)), own_source)


# --- names -----------------------------------------------------------------------------------------------------------


def test_of_two_senders_with_one_name_one_gives_way(
    commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Started at the same instant, with two images: whoever stays, no receiver gets a mixture or the loser's image."""
    sources = [make_random_source(SOURCE_SIZE), make_random_source(MIB)]
    pairs = faults.rounds(3)
    with Bridge(4, offloads=False) as bridge:
        senders = (bridge.sender, bridge.receivers[0])
        for number in range(pairs):
            session = Session(commands, tmp_path, f"twins{number}")
            rivals = [
                session.begin_send(host, source, "--receivers", "2", "--max-wait", "10")
                for host, source in zip(senders, sources, strict=True)
            ]
            receivers = [
                (session.receive(host, scratch / f"{session.name}-{host.name}", "--max-wait", "20"), host)
                for host in bridge.receivers[1:3]
            ]
            statuses = [rival.process.wait(faults.ENDED_TIMEOUT_S) for rival in rivals]
            # 3 and 4: a receiver may have heard the one that gave way first, and ends with it.
            assert statuses.count(2) == 1, [rival.process.output() for rival in rivals]
            winner = 1 - statuses.index(2)
            assert statuses[winner] in {0, 3, 4}, rivals[winner].process.output()
            assert "announced by another sender" in rivals[1 - winner].process.output()
            for command, _ in receivers:
                assert command.process.wait(faults.GONE_S) in {0, 3, 4}, command.process.output()
            ended = [(command, scratch / f"{session.name}-{host.name}") for command, host in receivers]
            faults.expect_truth(rivals[winner], ended, sources[winner])
        faults.expect_nobody_left(bridge)


def test_a_second_sender_in_the_middle_changes_nothing(
    session: Session,
    commands: Processes,
    make_random_source: Callable[[int], Source],
    scratch: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    source, targets = make_random_source(SOURCE_SIZE), (scratch / "one", scratch / "two")
    with Bridge(3, offloads=False) as bridge:
        sender = session.send(bridge.sender, source, "--receivers", "2", *SLOW)
        receivers = [session.receive(host, target) for host, target in zip(bridge.receivers[:2], targets, strict=True)]
        sender.process.await_event("started", timeout_s=30)
        late = session.begin_send(bridge.receivers[2], make_random_source(MIB), "--receivers", "1")
        late.process.expect(2, timeout_s=faults.GONE_S)
        for command in (*receivers, sender):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, list(zip(receivers, targets, strict=True)), source)


# --- clocks ----------------------------------------------------------------------------------------------------------


def in_time_namespace(offset_s: float) -> tuple[str, ...]:
    return ("unshare", "--time", "--monotonic", str(int(offset_s)), str(GHOSTCAST))


def with_bad_clock(*options: str) -> tuple[str, ...]:
    return (sys.executable, clocks.__file__, *options)


def until_wrap_s(left_s: float) -> float:
    """Return the offset of a clock whose microseconds wrap around in ``left_s``."""
    return MICROSECONDS_WRAP_S - (time.monotonic() + left_s) % MICROSECONDS_WRAP_S


def test_receivers_and_senders_whose_clocks_are_wrong(
    commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Clocks that disagree by years, wrap in the middle, run 5 % fast or slow, and jump by seconds, in one session."""
    source = make_random_source(SOURCE_SIZE)
    clocks_of_receivers = (
        in_time_namespace(10 * 365 * 86400),
        in_time_namespace(until_wrap_s(4)),
        with_bad_clock("--rate", "1.05", "--jump-after", "3", "--jump", "5"),
        with_bad_clock("--rate", "0.95"),
    )
    with Bridge(4, offloads=False) as bridge:
        for host in bridge.receivers[:2]:
            bridge.set_loss(host, 0.01)
        sender_clock = in_time_namespace(until_wrap_s(4))
        sending = Session(commands, tmp_path, "clocks", launch=sender_clock)
        sender = sending.send(bridge.sender, source, "--receivers", "4", *SLOW)
        receivers = [
            (
                Session(commands, tmp_path, "clocks", launch=launch).receive(host, scratch / host.name),
                scratch / host.name,
            )
            for host, launch in zip(bridge.receivers, clocks_of_receivers, strict=True)
        ]
        for command in (*(command for command, _ in receivers), sender):
            command.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        faults.expect_truth(sender, receivers, source)
        faults.expect_nobody_left(bridge)
