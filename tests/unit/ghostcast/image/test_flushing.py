"""Goal: what is written is flushed on the way, one flush at a time, without holding up writes, and no failure is lost.

Method: real files; the kernel's flush is replaced where it has to be slow, to be counted, or to fail.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from ghostcast.image import flushing
from ghostcast.image.flushing import Flusher
from ghostcast.image.target import Target
from protocol.errors import TargetError


class Disk:
    """Stands for the kernel's flush: counts, may be slow, may fail once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.count = 0
        self._fails = fails
        monkeypatch.setattr(os, "fdatasync", self._flush)

    def _flush(self, descriptor: int) -> None:
        self.count += 1
        self.begun.release()
        assert self.go_on.acquire(timeout=10)
        if self._fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_it_flushes_after_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, flusher = Disk(monkeypatch), Flusher(0, 100)
    flusher.wrote(60)
    assert disk.count == 0
    flusher.wrote(60)
    assert disk.begun.acquire(timeout=10)
    disk.go_on.release()
    flusher.wait()
    flusher.wrote(60)
    assert disk.count == 1


def test_one_flush_at_a_time_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, flusher = Disk(monkeypatch), Flusher(0, 100)
    for _write in range(50):
        flusher.wrote(60)
    assert disk.begun.acquire(timeout=10)
    assert disk.count == 1
    disk.go_on.release(2)
    flusher.wait()
    flusher.wrote(1)  # what was written meanwhile is due
    flusher.wait()
    assert disk.count == 2


def test_it_is_the_file_that_is_flushed(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb", buffering=0) as file:
        flusher = Flusher(file.fileno(), 10)
        flusher.wrote(file.write(bytes(100)))
        flusher.wait()
    assert flusher.failure is None


def test_a_descriptor_that_cannot_be_flushed_is_a_failure() -> None:
    first, second = os.pipe()
    flusher = Flusher(second, 10)
    flusher.wrote(10)
    flusher.wait()
    os.close(first)
    os.close(second)
    assert flusher.failure is not None
    assert flusher.failure.errno == errno.EINVAL


def test_without_threads_it_is_left_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    disk, flusher = Disk(monkeypatch), Flusher(0, 10)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        flusher.wrote(10)
    flusher.wait()
    assert disk.count == 0
    disk.go_on.release()
    flusher.wrote(1)
    flusher.wait()
    assert disk.count == 1


@pytest.mark.parametrize("more_follows", [True, False])
def test_a_target_never_forgets_a_flush_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more_follows: bool
) -> None:
    monkeypatch.setattr(flushing, "FLUSH_SIZE", 1000)
    disk = Disk(monkeypatch, fails=True)
    with Target.open(tmp_path / "disk", raw_size=None) as target:
        target.begin(9000)
        target.write(0, bytes(5000))
        assert disk.begun.acquire(timeout=10)
        target.write(5000, bytes(900))  # while it is under way
        disk.go_on.release()
        failed = pytest.raises(TargetError, match=f"{tmp_path / 'disk'}: flushing to disk failed: Input/output error")
        if more_follows:
            assert target._flusher is not None
            target._flusher.wait()
            with failed:
                target.write(5900, bytes(100))
        with failed:
            target.finish(9000)  # the kernel has said it, and fsync succeeds
    assert disk.count == 1
