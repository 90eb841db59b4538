"""The rig itself: the lab must show what is there, and must find what is planted.

Goal: no verdict of the lab may rest on a network that loses nothing, a loss that is not what it says, or a disk check
that is blind. Method: plain multicast datagrams with numbers, udpcast as a stranger that needs a network that really
works, and faults planted one at a time.
"""

from __future__ import annotations

import pathlib
import random
import shutil
import signal
import subprocess
import sys

import pytest

from tests.lab import disks, network, traffic
from tests.lab.network import Bridge, DirectLink, Host
from tests.lab.processes import Event, Process, Processes, ProcessFailed

pytestmark = pytest.mark.lab

COUNT = 10_000  # datagrams: at 10 % loss the measured loss strays from 9.1 to 10.9 % less often than once in 400


def traffic_command(host: Host, *arguments: str) -> list[str]:
    return [sys.executable, traffic.__file__, "--address", host.address, *arguments]


def listen(commands: Processes, *hosts: Host) -> list[Process]:
    listeners = [commands.start(host, traffic_command(host, "listen", "--count", str(COUNT))) for host in hosts]
    for listener in listeners:
        listener.await_event("ready")
    return listeners


def send(commands: Processes, host: Host, *, batch: int = 1, count: int = COUNT) -> None:
    options = ("--count", str(count), "--batch", str(batch))
    commands.start(host, traffic_command(host, "send", *options)).expect(0)


def finish(*listeners: Process) -> list[Event]:
    for listener in listeners:
        listener.expect(0)
    return [listener.await_event("finished") for listener in listeners]


def missing_numbers(heard: Event) -> set[int]:
    return {number for start, length in heard["missing"] for number in range(start, start + length)}


def test_multicast_reaches_every_host_of_a_bridge(commands: Processes) -> None:
    with Bridge(4, offloads=False) as bridge:
        listeners = listen(commands, *bridge.receivers)
        send(commands, bridge.sender)
        assert [heard["received"] for heard in finish(*listeners)] == [COUNT] * 4


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_multicast_passes_a_direct_link_in_batches(commands: Processes, mtu: int) -> None:
    with DirectLink(mtu=mtu) as link:
        (listener,) = listen(commands, link.receiver)
        send(commands, link.sender, batch=50)
        assert finish(listener)[0]["received"] == COUNT


def test_loss_is_what_it_says_and_each_port_has_its_own(commands: Processes) -> None:
    with Bridge(3, offloads=False) as bridge:
        lossy, other_lossy, clean = bridge.receivers
        bridge.set_loss(lossy, 0.1)
        bridge.set_loss(other_lossy, 0.1)
        listeners = listen(commands, lossy, other_lossy, clean)
        send(commands, bridge.sender, batch=50)
        heard, other_heard, clean_heard = finish(*listeners)
        for measured in (heard, other_heard):
            assert 0.07 < 1 - measured["received"] / COUNT < 0.13
        # Independent: both lose the same datagram in one case of a hundred. A shared die would make it one of ten.
        assert len(missing_numbers(heard) & missing_numbers(other_heard)) < COUNT * 0.02
        assert clean_heard["received"] == COUNT


def test_loss_can_be_ended(commands: Processes) -> None:
    with Bridge(1, offloads=False) as bridge:
        bridge.set_loss(bridge.receivers[0], 0.5)
        bridge.clear_loss()
        listeners = listen(commands, *bridge.receivers)
        send(commands, bridge.sender)
        assert finish(*listeners)[0]["received"] == COUNT


def test_loss_in_both_directions_also_drops_what_a_host_sends(commands: Processes) -> None:
    with Bridge(1, offloads=False) as bridge:
        (receiver,) = bridge.receivers
        received = {}
        for direction in ("towards", "both"):
            bridge.set_loss(receiver, 0.1, direction)
            (listener,) = listen(commands, bridge.sender)
            send(commands, receiver)
            received[direction] = finish(listener)[0]["received"]
        assert received["towards"] == COUNT
        assert 0.07 < 1 - received["both"] / COUNT < 0.13


@pytest.mark.parametrize(("offloads", "whole"), [(True, True), (False, False)])
def test_a_batch_is_lost_whole_only_with_offloads(commands: Processes, offloads: bool, whole: bool) -> None:
    batch = 50
    with Bridge(1, offloads=offloads) as bridge:
        bridge.set_loss(bridge.receivers[0], 0.1)
        listeners = listen(commands, *bridge.receivers)
        send(commands, bridge.sender, batch=batch)
        missing = finish(*listeners)[0]["missing"]
        assert missing
        assert all(start % batch == 0 and length % batch == 0 for start, length in missing) is whole


def test_a_link_that_is_down_carries_nothing_until_it_is_up(commands: Processes) -> None:
    with Bridge(2, offloads=False) as bridge:
        unplugged, other = bridge.receivers
        listeners = listen(commands, unplugged, other)
        bridge.set_link(unplugged, up=False)
        send(commands, bridge.sender)
        bridge.set_link(unplugged, up=True)
        assert finish(listeners[1])[0]["received"] == COUNT
        assert listeners[0].running  # it has not even heard the end
        send(commands, bridge.sender)
        assert finish(listeners[0])[0]["received"] == COUNT


def test_a_slow_port_drops_what_does_not_fit(commands: Processes) -> None:
    with Bridge(2, offloads=False) as bridge:
        slow, fast = bridge.receivers
        bridge.set_rate(slow, 1_000_000)
        listeners = listen(commands, slow, fast)
        send(commands, bridge.sender)
        assert finish(listeners[1])[0]["received"] == COUNT
        bridge.set_rate(slow, 1_000_000_000)
        send(commands, bridge.sender, count=0)  # only the end, in case the slow port dropped all copies of it
        assert 0 < finish(listeners[0])[0]["received"] < COUNT / 2


def test_a_disk_passes_its_check(disk: disks.Disk) -> None:
    disks.check_disk(disk.path, disk)


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("file content", "is not the one that went in"),
        ("ext4 superblock", "e2fsck"),
        ("FAT", "fsck.fat"),
        ("partition table", "sgdisk"),
    ],
)
def test_the_disk_check_finds_a_flipped_byte(
    disk: disks.Disk, tmp_path: pathlib.Path, place: str, complaint: str
) -> None:
    image = disk.path.read_bytes()
    offset = {
        "file content": image.index(random_file(disk)[-4096:]) + 17,
        "ext4 superblock": disks.EXT4_START + 1024 + 4,
        "FAT": disks.FAT_START + 32 * 512 + 4,
        "partition table": 1024 + 40,
    }[place]
    copy = tmp_path / "copy.img"
    copy.write_bytes(image[:offset] + bytes([image[offset] ^ 0x10]) + image[offset + 1 :])
    assert disks.digest(copy) != disk.digest
    with pytest.raises(disks.DiskDamaged, match=complaint):
        disks.check_disk(copy, disk)


def test_a_loop_device_is_a_disk_and_is_detached_afterwards(disk: disks.Disk, tmp_path: pathlib.Path) -> None:
    backing = tmp_path / "backing"
    try:
        with disks.loop_device(backing, disks.DISK_SIZE) as device:
            assert device.is_block_device()
            with disk.path.open("rb") as source, device.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            assert disks.digest(device) == disk.digest
            disks.check_disk(device, disk)
    except disks.LoopUnavailable as error:
        pytest.skip(str(error))
    assert disks.digest(backing) == disk.digest
    assert str(backing) not in subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout


def test_namespaces_and_what_runs_in_them_are_gone_afterwards(commands: Processes) -> None:
    bridge = Bridge(2)
    started = []

    def interrupted() -> None:
        with bridge:
            started.append(commands.start(bridge.sender, ["sleep", "1000"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (process,) = started
    assert process.wait(5) == -signal.SIGKILL
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert bridge.sender.namespace not in left


def test_a_killed_run_is_cleaned_up_by_the_next(commands: Processes) -> None:
    killed_run = (
        "import os, signal; from tests.lab.network import Bridge; bridge = Bridge(1).__enter__(); "
        "print(bridge.sender.namespace, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", killed_run], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Bridge(1) as living:
        removed = network.remove_leftovers()
        assert done.stdout.strip() in removed
        assert living.sender.namespace not in removed
        (listener,) = listen(commands, *living.receivers)
        assert listener.running


def test_a_process_that_hangs_fails_with_what_it_said(commands: Processes) -> None:
    with DirectLink() as link:
        hanging = commands.start(link.sender, ["sh", "-c", "hostname; echo oops >&2; sleep 1000"])
        with pytest.raises(ProcessFailed, match=r"(?s)still running.*sender\n.*oops"):
            hanging.wait(0.5)
        assert not hanging.running
        silent = commands.start(link.sender, ["sh", "-c", 'echo \'{"event": "other"}\'; exec sleep 1000'])
        silent.await_event("other")
        with pytest.raises(ProcessFailed, match=r"no event 'ready' within 0\.2 s"):
            silent.await_event("ready", timeout_s=0.2)
        failing = commands.start(link.sender, ["sh", "-c", "echo reason >&2; exit 3"])
        with pytest.raises(ProcessFailed, match=r"(?s)ended with status 3, not 0.*reason"):
            failing.expect(0)


def test_a_signal_reaches_the_command_itself(commands: Processes) -> None:
    program = 'import signal; print(\'{"event": "ready"}\', flush=True); signal.pause()'
    with DirectLink() as link:
        process = commands.start(link.sender, [sys.executable, "-c", program])
        process.await_event("ready")
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT  # Python's own end of an uncaught KeyboardInterrupt


def test_junk_overhears_the_cable_and_sprays_every_kind_of_noise(commands: Processes) -> None:
    with Bridge(2, offloads=False, hub=True) as bridge:
        receiver, noisy = bridge.receivers
        kinds = [option for kind in traffic.JUNK_KINDS for option in ("--kind", kind)]
        arguments = ("junk", "--seed", "1", "--rate-per-s", "5000", "--target", "239.255.1.1:9999")
        junk = commands.start(noisy, traffic_command(noisy, *arguments, *kinds))
        junk.await_event("ready")
        # Unicast between two others, which a hub lets the third overhear.
        program = f"import socket; socket.socket(2, 2).sendto(b'hello' * 20, ({bridge.sender.address!r}, 4711))"
        commands.start(receiver, [sys.executable, "-W", "ignore", "-c", program]).expect(0)
        while (said := junk.await_event("progress", count=len(junk.events()) or 1))["targets"] < 2:
            pass
        said = junk.await_event("progress", count=len(junk.events()) + 5)
        assert all(count > 0 for count in said["sent"].values())


def test_udpcast_clones_over_the_bridge(commands: Processes, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(random.Random(1).randbytes(20 << 20))
    common = ("--nokbd", "--interface", network.INTERFACE, "--portbase", "9000")
    with Bridge(2) as bridge:
        targets = [tmp_path / f"{host.name}.bin" for host in bridge.receivers]
        receivers = [
            commands.start(host, ["udp-receiver", "--file", target, *common])
            for host, target in zip(bridge.receivers, targets, strict=True)
        ]
        options = ("--full-duplex", "--nopointopoint", "--min-receivers", "2")
        sender = commands.start(bridge.sender, ["udp-sender", "--file", source, *options, *common])
        for process in (sender, *receivers):
            process.expect(0)
        assert [disks.digest(target) for target in targets] == [disks.digest(source)] * 2


def random_file(disk: disks.Disk) -> bytes:
    """Return the disk's one random file, read out of its ext4 partition."""
    partition = f"{disk.path}?offset={disks.EXT4_START}"
    command = ["debugfs", "-R", "cat /var/random.bin", partition]
    return subprocess.run(command, capture_output=True, check=True).stdout
