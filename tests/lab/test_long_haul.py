"""Much data, many receivers, lasting loss: nothing grows but the copies.

Goal: memory, threads and file descriptors of every process are flat from the first third of the data to its end,
whatever is lost on the way. Method: a sparse disk, an eighth of it random data spread over all of it, to eight
receivers that lose 2 % each; /proc is sampled meanwhile. In the suite the disk has 256 MiB;
``GHOSTCAST_LONG_HAUL=8GiB pytest -s`` makes it as large as that, and shows what was measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import time

import pytest

from ghostcast.cli.size import parse_size
from tests.lab import faults
from tests.lab.network import Bridge
from tests.lab.processes import Process, Processes
from tests.lab.sessions import Session, Source, make_source

pytestmark = pytest.mark.lab

MIB = 1 << 20
RECEIVERS = 8
HANDFUL = 4
"""Threads and descriptors that a process may need late: the report's file, the one who waits for the threads' end."""

LOSS = 0.02
POOL_SIZE = "16MiB"
"""Small, so that all of it is soon in use: a larger one is touched as far as bad luck needs it, however late."""

SAMPLE_INTERVAL_S = 0.1
GROWTH_MAX_KIB = 36 * 1024
"""Memory that may still be touched for the first time late: repair rows of bad luck, as much as the pool, and workers'
and zstd's buffers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment."""

    resident_kib: int
    threads: int
    descriptors: int

    @classmethod
    def take(cls, process: Process) -> Sample | None:
        """Look at a process; None where it has just ended."""
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            descriptors = len(os.listdir(f"/proc/{process.pid}/fd"))
            fields = dict(line.split(":", 1) for line in status.splitlines())
            return cls(int(fields["VmRSS"].split()[0]), int(fields["Threads"]), descriptors)
        except (OSError, KeyError):
            return None


def make_sparse_source(directory: pathlib.Path, size: int) -> Source:
    """Return a disk of ``size`` bytes, every eighth MiB of which is random and all else zero."""
    raw, rng = directory / "sparse", random.Random(size)
    with raw.open("xb") as file:
        for offset in range(0, size, 8 * MIB):
            file.seek(offset)
            file.write(rng.randbytes(MIB))
        file.truncate(size)
    return make_source(raw)


@pytest.mark.timeout(3600)
def test_nothing_grows_but_the_copies(commands: Processes, scratch: pathlib.Path, tmp_path: pathlib.Path) -> None:
    size = parse_size(os.environ.get("GHOSTCAST_LONG_HAUL", "256MiB"))
    source = make_sparse_source(scratch, size)
    with Bridge(RECEIVERS, offloads=False) as bridge:
        for host in bridge.receivers:
            bridge.set_loss(host, LOSS)
        session = Session(commands, tmp_path)
        sender = session.send(bridge.sender, source, "--receivers", str(RECEIVERS))
        receivers = [
            (session.receive(host, scratch / host.name, "--memory", POOL_SIZE), scratch / host.name)
            for host in bridge.receivers
        ]
        sender.process.await_event("started", timeout_s=60)
        everybody = [sender.process, *(command.process for command, _ in receivers)]
        samples: dict[str, list[Sample]] = {process.name: [] for process in everybody}
        begun = time.monotonic()
        while any(process.running for process in everybody):
            for process in everybody:
                if (sample := Sample.take(process)) is not None:
                    samples[process.name].append(sample)
            assert time.monotonic() - begun < 3000, "does not end"
            time.sleep(SAMPLE_INTERVAL_S)
        for process in everybody:
            process.expect(0, timeout_s=1)
        faults.expect_truth(sender, receivers, source)
    report = sender.report()
    measured = {"wire_share": report["wire_bytes"] / report["image"]["stored_bytes"], "seconds": report["seconds"]}
    for name, taken in samples.items():
        measured[name] = _expect_flat(name, taken)
    print(json.dumps(measured, indent=1))
    assert all(command.report()["symbols"]["lost_network"] > 0 for command, _ in receivers)


def _expect_flat(name: str, taken: list[Sample]) -> dict[str, int]:
    """Compare what a process had after a third of the time with all that came later."""
    assert len(taken) >= 6, f"{name} was looked at {len(taken)} times only"
    third = len(taken) // 3
    early, late = taken[:third], taken[third:]
    growth = max(one.resident_kib for one in late) - max(one.resident_kib for one in early)
    assert growth < GROWTH_MAX_KIB, f"{name} grew by {growth} KiB: {[one.resident_kib for one in taken]}"
    for what in ("threads", "descriptors"):
        most_early, most_late = (max(getattr(one, what) for one in part) for part in (early, late))
        assert most_late <= most_early + HANDFUL, f"{name}: {what} grew from {most_early} to {most_late}"
    return {
        "resident_kib": max(one.resident_kib for one in taken),
        "growth_kib": growth,
        "threads": max(one.threads for one in taken),
        "descriptors": max(one.descriptors for one in taken),
    }
