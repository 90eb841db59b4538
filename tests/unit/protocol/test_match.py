"""Goal: a rule passes exactly the machines that it describes, and says of the others what does not fit.

Method: one machine, one part of the rule at a time, on both sides of its limit; every part at once.
"""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from protocol.limits import GIB
from protocol.match import Machine, MatchRule, describe, mismatches

LAPTOP = Machine(
    architecture="x86_64",
    vendor="Dell Inc.",
    products=("Latitude 7440", "", "Latitude"),
    memory_size=int(15.4 * GIB),
    disk_size=256_060_514_304,  # sold as 256 GB: 238.5 GiB
)


@pytest.mark.parametrize(
    "rule",
    [
        MatchRule(),
        MatchRule(architectures=("x86_64",)),
        MatchRule(architectures=("aarch64", "AMD64")),
        MatchRule(vendors=("dell*",)),
        MatchRule(products=("OptiPlex*", "Latitude 7?40")),
        MatchRule(memory_size_min=16 * GIB),
        MatchRule(disk_size_min=256 * GIB),
        MatchRule(("x86_64",), ("Dell Inc.",), ("Latitude*",), 8 * GIB, 100 * GIB),
    ],
)
def test_a_machine_that_the_rule_describes_passes(rule: MatchRule) -> None:
    assert mismatches(rule, LAPTOP) == []


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (MatchRule(architectures=("arm64",)), "its architecture is x86_64, the image is for aarch64"),
        (MatchRule(vendors=("HP*", "Lenovo")), "its vendor is Dell Inc., the image is for HP* or Lenovo"),
        (MatchRule(products=("OptiPlex*",)), "its product is Latitude 7440 / Latitude, the image is for OptiPlex*"),
        (MatchRule(memory_size_min=18 * GIB), "it has 15.4 GiB of memory, the image needs 18 GiB"),
        (MatchRule(disk_size_min=480 * GIB), "its disk has 238.5 GiB, the image is for 480 GiB"),
    ],
)
def test_another_machine_is_told_what_does_not_fit(rule: MatchRule, complaint: str) -> None:
    assert mismatches(rule, LAPTOP) == [complaint]


def test_every_part_that_does_not_fit_is_told() -> None:
    assert len(mismatches(MatchRule(("m68k",), ("Atari",), ("Falcon",), 1 << 50, 1 << 50), LAPTOP)) == 5


def test_what_a_machine_does_not_know_of_itself_is_no_match() -> None:
    unknown = Machine("", "", (), 0, 0)
    for rule in (MatchRule(("*",)), MatchRule(vendors=("*",)), MatchRule(products=("*",)), MatchRule((), (), (), 1)):
        assert len(mismatches(rule, unknown)) == 1
    assert "unknown" in mismatches(MatchRule(vendors=("Dell*",)), unknown)[0]


def test_a_file_is_no_disk() -> None:
    assert mismatches(MatchRule(disk_size_min=1 << 50), dataclasses.replace(LAPTOP, disk_size=None)) == []


def test_seven_eighths_are_enough_and_a_byte_less_is_not() -> None:
    rule = MatchRule(memory_size_min=8 * GIB)
    assert not mismatches(rule, dataclasses.replace(LAPTOP, memory_size=7 * GIB))
    assert mismatches(rule, dataclasses.replace(LAPTOP, memory_size=7 * GIB - 1))


def test_a_rule_is_described_in_words() -> None:
    assert describe(MatchRule()) == ""
    assert not MatchRule()
    rule = MatchRule(("x86_64",), ("Dell*", "HP"), (), 8 * GIB, 0)
    assert rule
    assert describe(rule) == "architecture x86_64, vendor Dell* or HP, memory at least 8 GiB"


@pytest.mark.parametrize(
    "document",
    [
        {"vendors": ["x"] * 17},
        {"vendors": [""]},
        {"products": ["x" * 129]},
        {"memory_size_min": -1},
        {"architectures": "x86_64"},
    ],
)
def test_a_rule_from_foreign_bytes_is_bounded(document: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, MatchRule)
