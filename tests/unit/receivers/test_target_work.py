"""Goal: a disk that does not keep what was written does not count as verified, whichever way it is found out.

Method: a receiving engine of this process and the real sender; the target spoils a byte after its last flush. What
outlives a session: the work alone, its jobs run by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from ghostcast.image.reader import ImageFile
from ghostcast.image.target import Target
from ghostcast.net.interfaces import choose_interface
from protocol import messages
from protocol.discovery import Found
from protocol.errors import TargetError
from protocol.limits import MIB
from protocol.manifest import Manifest
from protocol.receiver_events import AllWritten, Identity, Outcome, ReceiverState
from protocol.receiver_session import ReceiverSession
from receivers.engine import ReceiveEngine
from receivers.observer import Observer
from receivers.options import ReceiveOptions
from receivers.reuse import ReusePolicy
from receivers.target_work import ChunkChecked, Flushed, Job, TargetWork
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


class Unkept(Target):
    """A target whose disk loses what was written, of which the kernel tells once."""

    told = False

    def finish(self, raw_size: int) -> None:
        """Fail the first time."""
        super().finish(raw_size)
        if not self.told:
            self.told = True
            raise TargetError("flushing to disk failed: Input/output error")


def joined(manifest: Manifest, incarnation: int) -> ReceiverSession:
    """Return a session in which this receiver is welcome."""
    announce = messages.Announce(
        "unit", manifest.image_id, "image", bytes(32), 100, manifest.stream_size, manifest.raw_size, 1024, 128, 32, 1,
        2, 3, 1, messages.SessionState.SENDING, 0, 1000,
    )  # fmt: skip
    identity = Identity(bytes(16), incarnation, "host", "copy", -1)
    found = Found(incarnation, announce, "10.0.0.1")
    session = ReceiverSession(found, identity, pool_size=16 * MIB, rng=random.Random(1), now=0)
    session.receive_datagram(messages.encode(incarnation, messages.Welcome(bytes(16), incarnation, 0, 0)), 0)
    return session


def test_a_flush_that_failed_after_its_session_is_not_tried_again(tmp_path: Path) -> None:
    """The flush of a dying disk outlives the session; the sender is back, and a second flush would succeed."""
    with ImageFile.open(make_image(tmp_path / "image", RAW)) as image:
        manifest = image.manifest
    (tmp_path / "copy").write_bytes(RAW)
    jobs: list[Job] = []
    with Unkept.open(tmp_path / "copy", raw_size=None) as target:
        options = ReceiveOptions(choose_interface("127.0.0.1"), reuse=ReusePolicy.ALWAYS)
        work = TargetWork(target, options, lambda text: None)
        work.look()
        session = joined(manifest, 1)
        work.join(session, jobs.append)
        work.take_manifest(manifest)
        while session.state is not ReceiverState.FINISHING:
            result = jobs.pop(0)()
            assert not isinstance(result, ChunkChecked | Flushed)
            work.take(result, 0)
        while not work._finishing:
            if jobs:
                work.take(jobs.pop(0)(), 0)  # type: ignore[arg-type]
            elif session.poll_event() == AllWritten():
                work.all_written(0)
        with pytest.raises(TargetError, match="flushing"):
            jobs.pop()()
        with pytest.raises(TargetError, match="flushing"):
            work.join(joined(manifest, 2), jobs.append)
        work.close()
        assert not jobs


class Slow(Target):
    """A target that takes its time to zero, so that its session ends meanwhile."""

    session: ReceiverSession
    zeroed: list[int]

    def zero(self, offset: int, length: int) -> None:
        """Zero, and end the session."""
        super().zero(offset, length)
        self.zeroed.append(offset)
        self.session.fail("stopped")


def test_zeroing_ends_with_its_session_and_the_next_one_goes_on(tmp_path: Path) -> None:
    raw = (os.urandom(CHUNK_SIZE) + bytes(CHUNK_SIZE)) * 3
    with ImageFile.open(make_image(tmp_path / "image", raw)) as image:
        manifest = image.manifest
    (tmp_path / "copy").write_bytes(b"x" * len(raw))
    jobs: list[Job] = []
    with Slow.open(tmp_path / "copy", raw_size=None) as target:
        assert isinstance(target, Slow)
        target.zeroed = []
        options = ReceiveOptions(choose_interface("127.0.0.1"), reuse=ReusePolicy.NEVER)
        work = TargetWork(target, options, lambda text: None)
        for number in range(3):
            target.session = joined(manifest, 1 + number)
            work.join(target.session, jobs.append)
            if not number:
                work.take_manifest(manifest)
            assert len(jobs) == 1
            jobs.pop()()
            assert work.copy is not None
            assert work.copy.prepared is (number == 2)
    assert target.zeroed == [CHUNK_SIZE, 3 * CHUNK_SIZE, 5 * CHUNK_SIZE]
    assert (tmp_path / "copy").read_bytes() == (b"x" * CHUNK_SIZE + bytes(CHUNK_SIZE)) * 3


def test_planted_without_reading_back_it_would_pass(tmp_path: Path) -> None:
    engine, state = received(tmp_path, 5, read_back=False)
    assert (engine.outcome, state) == (Outcome.VERIFIED, "verified")
    assert (tmp_path / "copy").read_bytes() != RAW
