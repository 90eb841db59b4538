"""Goal: a table is taken only if it can be trusted; otherwise there is a reason.

Method: what partx prints, made up; real tables are the lab's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ghostcast.disk import programs
from ghostcast.disk.table import Table, read_table

SIZE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE))
    return path


def line(number: int, start: int, sectors: int, scheme: str = "dos", kind: str = "0x83", name: str = "") -> str:
    return (
        f'NR="{number}" START="{start}" SECTORS="{sectors}" NAME="{name}" UUID="id-{number}" TYPE="{kind}" '
        f'SCHEME="{scheme}"\n'
    )


def read(disk: Path, monkeypatch: pytest.MonkeyPatch, output: str, sector_size: int = 0) -> Table:
    monkeypatch.setattr(programs, "run", lambda *_arguments: output)
    return read_table(disk, SIZE, sector_size)


def test_partitions_come_in_order_with_their_names(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read(disk, monkeypatch, line(2, 500, 100, "gpt", name=r"my \x22root\xc3\xa9") + line(1, 64, 10, "gpt"))
    assert (table.scheme, table.sector_size, table.problem) == ("gpt", 512, "")
    assert [(entry.number, entry.start, entry.size) for entry in table.entries] == [
        (1, 64 * 512, 10 * 512),
        (2, 500 * 512, 100 * 512),
    ]
    assert table.entries[1].name == 'my "rooté'
    assert table.entries[1].id == "id-2"


def test_logical_partitions_lie_in_their_extended_one(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read(disk, monkeypatch, line(1, 64, 10) + line(2, 100, 800, kind="0xf") + line(5, 120, 50))
    assert [(entry.number, entry.container) for entry in table.entries] == [(1, False), (2, True), (5, False)]


def test_without_a_table_there_is_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(disk, monkeypatch, "") == Table()


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (line(1, 64, 100) + line(2, 100, 100), "partitions 1 and 2 overlap"),
        (line(1, 64, 2000), "partition 1 ends at byte 1056768, behind the end of the disk at 1048576"),
        (line(1, 1, 100, "PMBR", "0xee"), "traces of a GPT"),
        (line(1, 1, 100, "dos", "0xee"), "traces of a GPT"),
        (line(1, 1, 100, "bsd"), "of the kind 'bsd'"),
        ("".join(line(number, number * 4, 1) for number in range(1, 300)), "299 partitions; at most 256"),
    ],
)
def test_a_table_that_cannot_be_trusted(disk: Path, monkeypatch: pytest.MonkeyPatch, output: str, problem: str) -> None:
    table = read(disk, monkeypatch, output)
    assert problem in table.problem
    assert not table.entries


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_place_of_the_header_tells_the_sectors_of_a_file(
    disk: Path, monkeypatch: pytest.MonkeyPatch, sector_size: int
) -> None:
    with disk.open("r+b") as file:
        file.seek(sector_size)
        file.write(b"EFI PART")
    assert read(disk, monkeypatch, line(1, 64, 10, "gpt")).sector_size == sector_size
    other = 4608 - sector_size
    assert "sectors of" in read(disk, monkeypatch, line(1, 64, 10, "gpt"), sector_size=other).problem
    assert "traces of a GPT" in read(disk, monkeypatch, "").problem
