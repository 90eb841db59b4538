"""Goal: ``protocol/SPEC.md`` says what the code does. Method: its tables are read and compared with the code."""

from __future__ import annotations

import pathlib
import re
import typing

import msgspec

from protocol import limits, measurement, messages
from protocol.symbols import DATA_HEADER

PROTOCOL = pathlib.Path(limits.__file__).parent
SPEC = (PROTOCOL / "SPEC.md").read_text()


def section(title: str) -> str:
    """Return the text of a section, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", SPEC, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row but the headings and rules."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for index, row in enumerate(cells) if not set(row[0]) <= set("-:") and not _is_heading(cells, index)]


def _is_heading(cells: list[list[str]], index: int) -> bool:
    return index + 1 < len(cells) and set(cells[index + 1][0]) <= set("-:")


def test_the_data_header() -> None:
    table = [(row[0].strip("`"), int(row[1]), int(row[2])) for row in rows(section("3.1 Data header"))]
    fields = DATA_HEADER.fields
    assert fields is not None
    assert table == [(name, fields[name][1], fields[name][0].itemsize) for name in DATA_HEADER.names or ()]


def test_the_messages() -> None:
    kinds = {kind.__struct_config__.tag: kind for kind in typing.get_args(messages.AnyMessage)}
    table = [row for row in rows(section("4. Messages")) if row[0].isdigit()]
    assert [int(row[0]) for row in table] == sorted(kinds)
    for tag, name, fields in table:
        kind = kinds[int(tag)]
        assert name == kind.__name__
        assert re.findall(r"`(\w+)`", fields) == [field.name for field in msgspec.structs.fields(kind)]


def test_the_measuring_messages() -> None:
    kinds = {kind.__struct_config__.tag: kind for kind in typing.get_args(measurement.AnyMeasurement)}
    table = [row for row in rows(section("12. Measuring")) if row[0].isdigit()]
    assert [int(row[0]) for row in table] == sorted(kinds)
    for tag, name, fields in table:
        kind = kinds[int(tag)]
        assert name == kind.__name__
        assert re.findall(r"`(\w+)`", fields) == [field.name for field in msgspec.structs.fields(kind)]


def test_every_field_has_its_bounds() -> None:
    table = [row for row in rows(section("4. Messages")) if not row[0].isdigit()]
    described = set(re.findall(r"`(\w+)`", " ".join(row[0] for row in table)))
    counters = {"symbols_received", "lost_network", "lost_host", "bytes_done", "bytes_written", "finishing"}
    fields = {
        field.name for kind in typing.get_args(messages.AnyMessage) for field in msgspec.structs.fields(kind)
    }  # fmt: skip
    assert fields - counters <= described
    assert described <= fields


def test_the_constants() -> None:
    table = {row[0].strip("`"): int(row[1]) for row in rows(section("9. Constants"))}
    assert len(table) > 30
    assert {name: getattr(limits, name) for name in table} == table


def test_the_deviations_are_those_that_the_code_marks() -> None:
    marked = sorted(
        (match, file.name)
        for file in PROTOCOL.glob("*.py")
        for match in re.findall(r"# DEVIATES (RFC \d+ §\d[\d.]*)", file.read_text())
    )
    table = [row[0] for row in rows(section("11. Deviations from RFC 5740 and RFC 5401"))]
    listed = sorted(re.fullmatch(r"(.*), `(.*)`", place).groups() for place in table)  # type: ignore[union-attr]
    assert listed == marked
