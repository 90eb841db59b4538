"""Cloning end to end: the real commands, a real kernel, real disks, and everything that goes wrong between them.

Goal: whatever the network, the machines and the people do, a receiver that says ``verified`` has exactly the source's
bytes, a receiver that does not is named, and the exit statuses and reports tell the truth. Method: ``ghostcast send``
and ``ghostcast receive`` run as commands, each on its own host of a bridge; loss, death and noise are planted; copies
are judged by their bytes (SHA-256) and as disks (fsck, files inside), never by what ghostcast says of them.
"""

from __future__ import annotations

import json
import pathlib
import signal
import sys
from collections.abc import Callable

import pytest

from ghostcast.image.reader import ImageFile
from protocol import limits
from tests.lab import disks, traffic
from tests.lab.network import Bridge, Direction, DirectLink, Host
from tests.lab.processes import Process, Processes
from tests.lab.sessions import Command, Session, Source, make_source

pytestmark = pytest.mark.lab

MIB = 1 << 20

SYMBOL_SIZE = 1440  # at MTU 1500
JUMBO_SYMBOL_SIZE = 8928  # at MTU 9000

SLOW = ("--rate", "80Mbit")
"""Makes the 40 MiB source last 4 s, so that things can happen in the middle."""

CLONE_TIMEOUT_S = 120
SENDER_LOST_S = 15
"""A receiver gives a dead sender up within this time (a contract)."""

TOLD_TO_STOP_S = 10
"""A receiver that is told to stop needs no timeout."""

Attach = Callable[[str, int], pathlib.Path]


@pytest.fixture(scope="module")
def disk_source(disk: disks.Disk) -> Source:
    """The image of the real disk, with every block of it: copies are compared byte for byte."""
    return make_source(disk.path, "--raw")


def small(make_random_source: Callable[[int], Source]) -> Source:
    return make_random_source(20 * MIB + 12345)


def long(make_random_source: Callable[[int], Source]) -> Source:
    return make_random_source(40 * MIB)


def await_middle(sender: Command) -> None:
    """Wait until data has been flowing for half a second (``progress`` comes twice a second)."""
    sender.process.await_event("progress", count=2, timeout_s=30)


def expect_verified(sender: Command, receivers: list[Command], source: Source, targets: list[pathlib.Path]) -> None:
    """Everybody is through: statuses, reports, and each copy's bytes."""
    for command in (*receivers, sender):
        command.process.expect(0, timeout_s=CLONE_TIMEOUT_S)
    assert sender.states() == {receiver.host.name: "verified" for receiver in receivers}
    for receiver, target in zip(receivers, targets, strict=True):
        assert receiver.report()["state"] == "verified"
        assert disks.digest(target) == source.digest


def run_clone(
    session: Session, network: Bridge | DirectLink, source: Source, scratch: pathlib.Path, *options: str
) -> tuple[Command, list[Command]]:
    """Clone to a new file on every receiver, and expect all to be well."""
    targets = [scratch / host.name for host in network.receivers]
    sender = session.send(network.sender, source, "--receivers", str(len(targets)), *options)
    receivers = [session.receive(host, target) for host, target in zip(network.receivers, targets, strict=True)]
    expect_verified(sender, receivers, source, targets)
    return sender, receivers


# --- loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_a_real_disk_is_cloned_to_files_and_devices(
    session: Session, disk: disks.Disk, disk_source: Source, loop_device: Attach, scratch: pathlib.Path, loss: float
) -> None:
    size = disks.DISK_SIZE
    blank, used = scratch / "blank", scratch / "used"
    targets = [blank, used, loop_device("blank.loop", size), loop_device("used.loop", size)]
    for target in (targets[1], targets[3]):
        with target.open("wb") as file:  # what was there before must be gone, where the image is zero too
            for _ in range(size // MIB):
                file.write(b"\xaa" * MIB)
    with Bridge(4, offloads=False) as bridge:
        for host in bridge.receivers:
            bridge.set_loss(host, loss)
        sender = session.send(bridge.sender, disk_source, "--receivers", "4")
        receivers = [session.receive(host, target) for host, target in zip(bridge.receivers, targets, strict=True)]
        expect_verified(sender, receivers, disk_source, targets)
    for target in targets:
        disks.check_disk(target, disk)
    assert all(receiver.report()["symbols"]["lost_network"] > 0 for receiver in receivers)
    report = sender.report()
    assert report["symbols"]["repair"] > 0
    assert report["wire_bytes"] < 1.5 * report["image"]["stored_bytes"]


@pytest.mark.parametrize(
    ("loss", "direction", "offloads"),
    [(0.3, "towards", False), (0.1, "both", False), (0.03, "towards", True)],
    ids=["30 % of datagrams", "10 % both ways", "3 % of whole batches"],
)
def test_heavy_loss_costs_time_and_nothing_else(
    session: Session,
    make_random_source: Callable[[int], Source],
    scratch: pathlib.Path,
    loss: float,
    direction: Direction,
    offloads: bool,
) -> None:
    with Bridge(4, offloads=offloads) as bridge:
        for host in bridge.receivers:
            bridge.set_loss(host, loss, direction)
        _, receivers = run_clone(session, bridge, small(make_random_source), scratch)
    assert all(receiver.report()["symbols"]["lost_network"] > 0 for receiver in receivers)


def test_without_loss_every_source_symbol_is_sent_once_and_nothing_is_asked_for(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source = small(make_random_source)
    with Bridge(2, offloads=False) as bridge:
        # A rate that two busy cores keep up with: what a full socket buffer drops would be loss, and no fault.
        sender, receivers = run_clone(session, bridge, source, scratch, "--fec", "0", "--rate", "200Mbit")
    report = sender.report()
    with ImageFile.open(source.image) as image:
        manifest_size, stream_size = len(image.manifest_bytes), image.manifest.stream_size
    symbol_count = -(-stream_size // SYMBOL_SIZE) + -(-manifest_size // SYMBOL_SIZE)
    assert report["symbols"] == {"source": symbol_count, "repair": 0}
    assert report["nacks"] == 0
    assert report["passes"] == 1
    for receiver in receivers:
        found = receiver.report()
        expected = {"received": symbol_count, "duplicate": 0, "lost_network": 0, "lost_host": 0}
        assert found["symbols"] | expected == found["symbols"]
        assert found["slices"]["requested"] == 0
        assert found["chunks"]["written"] == report["image"]["chunks"]


def test_a_cable_pulled_for_a_moment_is_no_harm(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source = long(make_random_source)
    with Bridge(2, offloads=False) as bridge:
        targets = [scratch / host.name for host in bridge.receivers]
        sender = session.send(bridge.sender, source, "--receivers", "2", *SLOW)
        receivers = [session.receive(host, target) for host, target in zip(bridge.receivers, targets, strict=True)]
        await_middle(sender)
        bridge.set_link(bridge.receivers[0], up=False)
        sender.process.await_event("progress", count=4)
        bridge.set_link(bridge.receivers[0], up=True)
        expect_verified(sender, receivers, source, targets)
    assert receivers[0].report()["slices"]["requested"] > 0


# --- who comes when --------------------------------------------------------------------------------------------------


def test_a_receiver_that_joins_in_the_middle_gets_the_whole_image(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source = long(make_random_source)
    with Bridge(3, offloads=False) as bridge:
        targets = [scratch / host.name for host in bridge.receivers]
        sender = session.send(bridge.sender, source, "--receivers", "2", *SLOW)
        receivers = [session.receive(host, target) for host, target in zip(bridge.receivers[:2], targets, strict=False)]
        await_middle(sender)
        receivers.append(session.receive(bridge.receivers[2], targets[2]))
        expect_verified(sender, receivers, source, targets)
    assert receivers[2].report()["slices"]["requested"] > 0
    assert receivers[0].report()["slices"]["requested"] == 0


def test_max_wait_starts_with_whoever_is_there(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source, target = make_random_source(MIB), scratch / "r1"
    with Bridge(1, offloads=False) as bridge:
        sender = session.send(bridge.sender, source, "--receivers", "3", "--max-wait", "4")
        receiver = session.receive(bridge.receivers[0], target)
        expect_verified(sender, [receiver], source, [target])


def test_nobody_comes(session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path) -> None:
    with Bridge(1, offloads=False) as bridge:
        sender = session.send(bridge.sender, make_random_source(MIB), "--max-wait", "1")
        sender.process.expect(3)
        assert sender.report()["receivers"] == []
        assert sender.report()["symbols"]["source"] == 0
        receiver = session.receive(bridge.receivers[0], scratch / "r1", "--max-wait", "1")
        receiver.process.expect(3)
        assert receiver.report()["state"] != "verified"
        assert not (scratch / "r1").exists()


def test_two_sessions_at_once_do_not_mix(
    commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with Bridge(5, offloads=False) as bridge:
        parts = [
            ("red", make_random_source(16 * MIB), bridge.hosts[0], bridge.hosts[2:4]),
            ("blue", small(make_random_source), bridge.hosts[1], bridge.hosts[4:6]),
        ]
        running = []
        for name, source, sending_host, receiving_hosts in parts:
            named = Session(commands, tmp_path, name)
            sender = named.send(sending_host, source, "--receivers", "2", *SLOW)
            targets = [scratch / f"{name}-{host.name}" for host in receiving_hosts]
            receivers = [named.receive(host, target) for host, target in zip(receiving_hosts, targets, strict=True)]
            running.append((sender, receivers, source, targets))
        for each in running:
            expect_verified(*each)


# --- death and Ctrl-C ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status", "states"),
    [(signal.SIGKILL, -signal.SIGKILL, {"vanished"}), (signal.SIGINT, 130, {"failed", "vanished"})],
    ids=["killed", "interrupted"],
)
def test_a_receiver_that_goes_holds_up_nobody(
    session: Session,
    make_random_source: Callable[[int], Source],
    scratch: pathlib.Path,
    number: signal.Signals,
    status: int,
    states: set[str],
) -> None:
    source = long(make_random_source)
    with Bridge(3, offloads=False) as bridge:
        targets = [scratch / host.name for host in bridge.receivers]
        sender = session.send(bridge.sender, source, "--receivers", "3", *SLOW)
        victim, *others = [
            session.receive(host, target) for host, target in zip(bridge.receivers, targets, strict=True)
        ]
        await_middle(sender)
        victim.process.send_signal(number)
        victim.process.expect(status, timeout_s=TOLD_TO_STOP_S)
        for receiver in others:
            receiver.process.expect(0)
        sender.process.expect(4)
    found = sender.states()
    assert found.pop(victim.host.name) in states
    assert found == {receiver.host.name: "verified" for receiver in others}
    assert [disks.digest(target) for target in targets[1:]] == [source.digest] * 2


@pytest.mark.parametrize(
    ("number", "status", "deadline_s"),
    [(signal.SIGKILL, -signal.SIGKILL, SENDER_LOST_S), (signal.SIGINT, 130, TOLD_TO_STOP_S)],
    ids=["killed", "interrupted"],
)
def test_when_the_sender_goes_receivers_say_so_and_end(
    session: Session,
    make_random_source: Callable[[int], Source],
    scratch: pathlib.Path,
    number: signal.Signals,
    status: int,
    deadline_s: float,
) -> None:
    with Bridge(2, offloads=False) as bridge:
        sender = session.send(bridge.sender, long(make_random_source), "--receivers", "2", *SLOW)
        receivers = [session.receive(host, scratch / host.name) for host in bridge.receivers]
        await_middle(sender)
        sender.process.send_signal(number)
        sender.process.expect(status, timeout_s=TOLD_TO_STOP_S)
        for receiver in receivers:
            receiver.process.expect(4, timeout_s=deadline_s)
            assert "sender" in receiver.process.output()
            assert receiver.report()["state"] != "verified"
    if number is signal.SIGINT:
        assert set(sender.states()) == {"r1", "r2"}
        assert "verified" not in sender.states().values()


# --- targets ---------------------------------------------------------------------------------------------------------


def test_a_target_that_is_too_small_is_refused_on_both_ends_and_left_alone(
    session: Session, make_random_source: Callable[[int], Source], loop_device: Attach, scratch: pathlib.Path
) -> None:
    source, good_target = small(make_random_source), scratch / "r2"
    device = loop_device("small.loop", 8 * MIB)
    device.write_bytes(b"\xaa" * (8 * MIB))
    with Bridge(2, offloads=False) as bridge:
        sender = session.send(bridge.sender, source, "--receivers", "1")
        refused = session.receive(bridge.receivers[0], device)
        refused.process.expect(5)
        good = session.receive(bridge.receivers[1], good_target)
        good.process.expect(0)
        sender.process.expect(4)
    assert sender.states() == {"r1": "refused", "r2": "verified"}
    assert refused.report()["state"] == "refused"
    assert disks.digest(good_target) == source.digest
    assert device.read_bytes() == b"\xaa" * (8 * MIB)


def test_a_mounted_target_is_refused_and_left_alone(
    session: Session,
    commands: Processes,
    make_random_source: Callable[[int], Source],
    loop_device: Attach,
    scratch: pathlib.Path,
) -> None:
    device = loop_device("mounted.loop", 64 * MIB)
    with Bridge(1, offloads=False) as bridge:
        session.send(bridge.sender, make_random_source(MIB), "--receivers", "1")
        (host,) = bridge.receivers
        commands.start(host, ["mke2fs", "-q", "-t", "ext4", device]).expect(0)
        with disks.mounted(device, scratch / "mounted") as mount_point:
            (mount_point / "precious").write_text("still here")
            refused = session.receive(host, device)
            refused.process.expect(5)
            assert "mounted" in refused.process.output()
            assert (mount_point / "precious").read_text() == "still here"
        commands.start(host, ["e2fsck", "-fn", device]).expect(0)


def test_a_full_file_system_fails_alone(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source = small(make_random_source)
    options = ("-t", "tmpfs", "-o", "size=8m")
    with disks.mounted("none", scratch / "tiny", *options) as tiny, Bridge(3, offloads=False) as bridge:
        targets = [tiny / "copy", scratch / "r2", scratch / "r3"]
        sender = session.send(bridge.sender, source, "--receivers", "3", "--max-wait", "5")
        full, *others = [session.receive(host, target) for host, target in zip(bridge.receivers, targets, strict=True)]
        full.process.expect(5)
        for receiver in others:
            receiver.process.expect(0)
        sender.process.expect(4)
    found = sender.states()
    assert found.pop("r1") in {"failed", "refused"}
    assert found == {"r2": "verified", "r3": "verified"}
    assert full.report()["state"] in {"failed", "refused"}
    assert "copy" in full.process.output()
    assert [disks.digest(target) for target in targets[1:]] == [source.digest] * 2


# --- noise -----------------------------------------------------------------------------------------------------------


def test_junk_on_every_port_changes_nothing(
    session: Session, commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    source = long(make_random_source)
    with Bridge(3, offloads=False, hub=True) as bridge:
        *receiving_hosts, noisy = bridge.receivers
        sender = session.send(bridge.sender, source, "--receivers", "2", *SLOW)
        junk = start_junk(commands, noisy, "random", "truncated")
        targets = [scratch / host.name for host in receiving_hosts]
        receivers = [session.receive(host, target) for host, target in zip(receiving_hosts, targets, strict=True)]
        expect_verified(sender, receivers, source, targets)
        expect_junk_everywhere(junk)


def test_well_formed_lies_from_a_stranger_change_nothing(
    session: Session, commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    """Flipped bits make symbols with false bytes, and words that nobody has said, with the session's own id.

    They begin when everybody has joined: before, only a signature could tell a stranger's ANNOUNCE or JOIN from a true
    one. From then on each side knows whom it listens to.
    """
    source = long(make_random_source)
    with Bridge(3, offloads=False, hub=True) as bridge:
        *receiving_hosts, noisy = bridge.receivers
        sender = session.send(bridge.sender, source, "--receivers", "2", *SLOW)
        targets = [scratch / host.name for host in receiving_hosts]
        receivers = [session.receive(host, target) for host, target in zip(receiving_hosts, targets, strict=True)]
        sender.process.await_event("started")
        for receiver in receivers:
            receiver.process.await_event("joined")
        junk = start_junk(commands, noisy, "flipped")
        expect_verified(sender, receivers, source, targets)
        expect_junk_everywhere(junk)


def start_junk(commands: Processes, host: Host, *kinds: str) -> Process:
    """Spray noise at the discovery group, and at every group and port that others are heard to use."""
    discovery = f"{limits.DISCOVERY_GROUP}:{limits.DISCOVERY_PORT}"
    options = [option for kind in kinds for option in ("--kind", kind)]
    arguments = ("--address", host.address, "junk", "--seed", "1", "--target", discovery, *options)
    junk = commands.start(host, [sys.executable, traffic.__file__, *arguments])
    junk.await_event("ready")
    return junk


def expect_junk_everywhere(junk: Process) -> None:
    """It was no quiet run: every kind was sent, and also to what was only overheard."""
    assert junk.running
    said = junk.events()[-1]
    assert all(count > 50 for count in said["sent"].values())
    assert said["targets"] >= 3  # discovery and data groups, control ports


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, SYMBOL_SIZE, 128 * SYMBOL_SIZE + 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 511], ids="{} bytes".format
)
def test_any_size_arrives(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path, size: int
) -> None:
    with DirectLink() as link:
        run_clone(session, link, make_random_source(size), scratch)


def test_a_disk_of_zeros_arrives_without_being_sent(session: Session, scratch: pathlib.Path) -> None:
    raw, target = scratch / "zeros", scratch / "r1"
    raw.write_bytes(bytes(5 * MIB + 4096))
    target.write_bytes(b"\xaa" * (5 * MIB + 4096))
    with DirectLink() as link:
        sender, (receiver,) = run_clone(session, link, make_source(raw), scratch)
    chunks = receiver.report()["chunks"]
    assert (chunks["written"], chunks["reused"], chunks["zero"]) == (0, 0, 6)
    assert sender.report()["symbols"]["source"] == 1  # the manifest


@pytest.mark.parametrize("offloads", [True, False])
def test_jumbo_frames_carry_jumbo_symbols(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path, offloads: bool
) -> None:
    source = small(make_random_source)
    with Bridge(2, mtu=9000, offloads=offloads) as bridge:
        sender, _ = run_clone(session, bridge, source, scratch, "--rate", "400Mbit")
    report = sender.report()
    fewest = -(-report["image"]["stored_bytes"] // JUMBO_SYMBOL_SIZE)
    assert fewest < report["symbols"]["source"] < 2 * fewest


def test_a_report_is_one_json_object_a_line_of_events_too(
    session: Session, make_random_source: Callable[[int], Source], scratch: pathlib.Path
) -> None:
    with DirectLink() as link:
        sender, (receiver,) = run_clone(session, link, make_random_source(MIB), scratch)
    for command, first, then in (
        (sender, "waiting", ["joined", "started", "finished"]),
        (receiver, "searching", ["joined", "finished"]),
    ):
        events = [json.loads(line)["event"] for line in command.process.stdout_path.read_text().splitlines()]
        assert events[0] == first
        assert events[-1] == "finished"
        assert [event for event in events if event in then] == then
