"""Goal: a session clones to disks of other sizes, refuses those that are too small by name on both ends, and tells as
verified only a disk that was fitted.

Method: the real commands over a bridge, to loop devices full of noise; the file system's checker and driver judge.
"""

from __future__ import annotations

import pathlib

import pytest

from ghostcast.image.reader import ImageFile
from tests.lab import volumes
from tests.lab.network import Bridge
from tests.lab.processes import Processes
from tests.lab.sessions import Session, make_source
from tests.lab.volumes import MIB, run

pytestmark = pytest.mark.lab

SIZE, START = 100 * MIB, 8 * MIB
GPT_END = 33 * 512


def test_one_session_to_four_sizes(tmp_path: pathlib.Path, commands: Processes, loop_device: volumes.Attach) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    run("sgdisk", "--new=1:2048:+4M", f"--new=2:{START // 512}:0", disk)
    files = volumes.make("ext4", (disk, START, SIZE - START - GPT_END))
    source = make_source(disk)
    with ImageFile.open(source.image) as image:
        smallest = image.manifest.target_size_min
    assert smallest < SIZE - 5 * MIB
    sizes = {"r1": smallest - 512, "r2": smallest, "r3": SIZE, "r4": SIZE + 30 * MIB}
    targets = {name: volumes.noise(loop_device(name, size), size) for name, size in sizes.items()}
    session = Session(commands, tmp_path)
    with Bridge(4, offloads=False) as bridge:
        sender = session.send(bridge.sender, source, "--receivers", "3", "--max-wait", "60")
        receivers = {
            host.name: session.receive(host, targets[host.name], *(["--grow"] if host.name == "r4" else []))
            for host in bridge.receivers
        }
        receivers["r1"].process.expect(5)
        for name in ("r2", "r3", "r4"):
            receivers[name].process.expect(0)
        sender.process.expect(4)
    assert sender.states() == {"r1": "refused", "r2": "verified", "r3": "verified", "r4": "verified"}
    reason = f"the target has {sizes['r1']} bytes, the image needs {smallest}"
    assert reason in receivers["r1"].report()["reason"]
    assert any(reason in receiver.get("reason", "") for receiver in sender.report()["receivers"])
    with targets["r1"].open("rb") as untouched:
        assert untouched.read(MIB) == volumes._NOISE
    for name, end in (("r2", smallest), ("r3", SIZE), ("r4", SIZE + 30 * MIB)):
        assert "No problems found" in run("sgdisk", "--verify", targets[name])
        place = (targets[name], START, end - START - GPT_END)
        volumes.check("ext4", place)
        assert volumes.files_of("ext4", place) == files
    # A second look at the same disks: what fitting changed is mended, and fitted again.
    with Bridge(1, offloads=False) as bridge:
        again = Session(commands, tmp_path, "again")
        sender = again.send(bridge.sender, source, "--receivers", "1", "--max-wait", "60")
        receiver = again.receive(bridge.receivers[0], targets["r2"])
        receiver.process.expect(0)
        sender.process.expect(0)
    chunks = receiver.report()["chunks"]
    assert chunks["reused"] > chunks["written"]
    place = (targets["r2"], START, smallest - START - GPT_END)
    volumes.check("ext4", place)
    assert volumes.files_of("ext4", place) == files
