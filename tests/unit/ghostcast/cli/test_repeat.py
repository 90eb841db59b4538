"""Goal: ``send --repeat`` serves whoever comes for as long as it runs, grows by nothing, and says how it went.

Method: the real command with receiving engines of this process, fifty of them; its descriptors, threads and memory are
counted from outside. The sums by themselves. An image that is being sent is offered as a target.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ghostcast.cli.repeat import Totals
from ghostcast.image.reader import ImageFile
from ghostcast.image.target import Target
from ghostcast.net.interfaces import choose_interface
from protocol.errors import ExitStatus, ImageError, TargetError
from protocol.limits import MIB
from protocol.receiver_events import Outcome
from receivers.engine import ReceiveEngine
from receivers.observer import Observer
from receivers.options import ReceiveOptions
from tests.images import make_image
from tests.unit.receivers.test_engine import GHOSTCAST, PATIENCE_S, free_port

SESSIONS = 10
RECEIVERS = 5


def test_fifty_receivers_come_and_go_and_the_sender_stays_as_it_was(tmp_path: Path) -> None:
    raw = os.urandom(300_000)
    image, report, port = make_image(tmp_path / "image", raw), tmp_path / "report", free_port()
    command = [*GHOSTCAST, "send", str(image), "--interface", "127.0.0.1", "--port", str(port), "--session", "unit"]
    command += ["--repeat", "--receivers", str(RECEIVERS), "--report", str(report), "--json"]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        sizes = [footprint_after(tmp_path, number, port, sender.pid, raw) for number in range(SESSIONS)]
        sender.send_signal(signal.SIGTERM)
        out, _seen = sender.communicate(timeout=PATIENCE_S)
    finally:
        sender.kill()
        sender.wait()
    assert sender.returncode == ExitStatus.VERIFIED
    facts = json.loads(report.read_text())
    assert (facts["sessions"], facts["states"]) == (SESSIONS, {"verified": SESSIONS * RECEIVERS})
    assert len(facts["receivers"]) == SESSIONS * RECEIVERS
    assert json.loads(out.splitlines()[-1])["event"] == "stopped"
    descriptors, threads, memory = zip(*sizes, strict=True)
    # Each was taken while a session ended or the next began, so one alone says little; what stays grows with each, by
    # seven from the first three to the last three at least.
    assert min(descriptors[-3:]) <= max(descriptors[:3]) + 1
    assert min(threads[-3:]) <= max(threads[:3]) + 1
    assert memory[-1] - memory[1] < 8 * MIB, [m >> 20 for m in memory]


def footprint_after(directory: Path, number: int, port: int, pid: int, raw: bytes) -> tuple[int, int, int]:
    """Receive with a few receivers at once; returns the sender's descriptors, threads and resident bytes."""

    async def receive(path: Path) -> ReceiveEngine:
        options = ReceiveOptions(choose_interface("127.0.0.1"), "unit", port, pool_size=16 * MIB)
        with Target.open(path, raw_size=None) as target:
            engine = ReceiveEngine(target, options)
            await asyncio.wait_for(engine.run(Observer()), PATIENCE_S)
        return engine

    async def receive_all() -> list[ReceiveEngine]:
        return await asyncio.gather(*(receive(directory / f"copy-{number}-{index}") for index in range(RECEIVERS)))

    for engine in asyncio.run(receive_all()):
        assert engine.outcome is Outcome.VERIFIED
        assert engine.target.path.read_bytes() == raw
        engine.target.path.unlink()
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), resident << 10


def facts(*states: str) -> dict[str, Any]:
    return {
        "seconds": 2.0, "wire_bytes": 100, "passes": 1, "nacks": 3, "datagrams_dropped": 0,
        "symbols": {"source": 10, "repair": 1}, "receivers": [{"state": state} for state in states],
    }  # fmt: skip


def test_sums_and_how_it_ends() -> None:
    totals = Totals()
    totals.add(facts())
    assert totals.status(in_the_middle=False) is ExitStatus.NOBODY_CAME
    totals.add(facts("verified", "verified"))
    totals.add(facts("verified"))
    assert totals.status(in_the_middle=False) is ExitStatus.VERIFIED
    assert totals.status(in_the_middle=True) is ExitStatus.INTERRUPTED
    totals.add(facts("vanished"))
    assert totals.status(in_the_middle=False) is ExitStatus.INCOMPLETE
    assert totals.line() == "Stopped after 3 sessions: 3 of 4 receivers verified."
    summed = totals.facts()
    assert (summed["sessions"], summed["wire_bytes"], summed["rate_bits_per_s"]) == (3, 300, 400)
    assert [receiver["session_number"] for receiver in summed["receivers"]] == [1, 1, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="locks of other systems are their own")
def test_an_image_that_is_being_sent_is_no_target(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x" * 10_000)
    link = tmp_path / "link"
    os.link(image, link)
    with ImageFile.open(image) as first, ImageFile.open(image) as second:
        first.hold()
        second.hold()  # two senders of one image are no harm
        for path in (image, link):
            with pytest.raises(TargetError, match="another ghostcast is sending it"):
                Target.open(path, raw_size=None)
    with Target.open(image, raw_size=None), ImageFile.open(image) as opened, pytest.raises(ImageError, match="writes"):
        opened.hold()
