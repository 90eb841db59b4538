"""Goal: with ``--verify read`` a disk that does not keep what was written is found out before it counts as verified.

Method: a receiving engine of this process and the real sender; the target spoils a byte after its last flush.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from ghostcast.image.target import Target
from ghostcast.net.interfaces import choose_interface
from protocol.errors import TargetError
from protocol.limits import MIB
from protocol.receiver_events import Outcome
from receivers.engine import Observer, ReceiveEngine, ReceiveOptions
from tests.images import CHUNK_SIZE, make_image
from tests.unit.receivers.test_engine import GHOSTCAST, PATIENCE_S, free_port

RAW = os.urandom(20 * CHUNK_SIZE) + bytes(5 * CHUNK_SIZE) + os.urandom(100)


class Forgetful(Target):
    """A target that loses a byte after it was flushed."""

    spoiled_at = -1

    def finish(self, raw_size: int) -> None:
        """Flush, and spoil."""
        super().finish(raw_size)
        if self.spoiled_at >= 0:
            byte = os.pread(self.fileno(), 1, self.spoiled_at)
            os.pwrite(self.fileno(), bytes([byte[0] ^ 1]), self.spoiled_at)
            os.fsync(self.fileno())


def received(directory: Path, spoiled_at: int, *, read_back: bool) -> tuple[ReceiveEngine, str]:
    """Receive one copy; returns the engine, and what the sender's report says of it."""
    image, report, port = make_image(directory / "image", RAW), directory / "report", free_port()
    command = [*GHOSTCAST, "send", str(image), "--interface", "127.0.0.1", "--port", str(port), "--session", "unit"]
    with subprocess.Popen(
        [*command, "--receivers", "1", "--max-wait", "30", "--report", str(report), "--json"]
    ) as sender:
        options = ReceiveOptions(choose_interface("127.0.0.1"), "unit", port, pool_size=16 * MIB, read_back=read_back)
        with Forgetful.open(directory / "copy", raw_size=None) as target:
            assert isinstance(target, Forgetful)
            target.spoiled_at = spoiled_at
            engine = ReceiveEngine(target, options)
            asyncio.run(asyncio.wait_for(engine.run(Observer()), PATIENCE_S))
        sender.wait(PATIENCE_S)
    (receiver,) = json.loads(report.read_text())["receivers"]
    return engine, receiver["state"]


@pytest.mark.parametrize("spoiled_at", [0, 3 * CHUNK_SIZE + 5, 22 * CHUNK_SIZE, len(RAW) - 1])
def test_what_the_disk_did_not_keep_is_found(tmp_path: Path, spoiled_at: int) -> None:
    engine, state = received(tmp_path, spoiled_at, read_back=True)
    start = spoiled_at - spoiled_at % CHUNK_SIZE
    assert engine.work.wrong_ranges == [(start, min(start + CHUNK_SIZE, len(RAW)))]
    assert (engine.outcome, state) == (Outcome.FAILED, "failed")
    assert isinstance(engine.error, TargetError)
    assert "read back differently" in str(engine.error)


def test_what_the_disk_kept_is_verified(tmp_path: Path) -> None:
    engine, state = received(tmp_path, -1, read_back=True)
    assert (engine.outcome, state) == (Outcome.VERIFIED, "verified")
    assert (tmp_path / "copy").read_bytes() == RAW


def test_planted_without_reading_back_it_would_pass(tmp_path: Path) -> None:
    engine, state = received(tmp_path, 5, read_back=False)
    assert (engine.outcome, state) == (Outcome.VERIFIED, "verified")
    assert (tmp_path / "copy").read_bytes() != RAW
