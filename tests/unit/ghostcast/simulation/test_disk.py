"""Goal: a simulated disk takes the time that its description says, one write after another."""

from __future__ import annotations

import pytest

from ghostcast.simulation.disk import Disk, DiskQueue
from protocol.errors import UsageError

BEGIN = 5_000


def test_writes_queue_up() -> None:
    disk = DiskQueue(Disk(rate_bytes_per_s=1e9, latency_ns=10), None, BEGIN)
    assert disk.write(100, BEGIN) == BEGIN + 110
    assert disk.write(100, BEGIN) == BEGIN + 220
    assert disk.write(100, BEGIN + 1000) == BEGIN + 1110


@pytest.mark.parametrize(
    ("asked", "done"),
    [(0, 100), (350, 650), (400, 700), (450, 700), (600, 700), (650, 750)],
    ids=["before", "into it", "at its start", "in it", "at its end", "after it"],
)
def test_one_that_stands_still_goes_on_where_it_was(asked: int, done: int) -> None:
    disk = DiskQueue(Disk(rate_bytes_per_s=1e9, stall=(400, 600)), None, BEGIN)
    assert disk.write(100, BEGIN + asked) == BEGIN + done


def test_a_stall_backwards_is_refused() -> None:
    with pytest.raises(UsageError, match="stands still"):
        Disk(stall=(600, 400))
