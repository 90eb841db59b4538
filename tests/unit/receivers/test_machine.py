"""Goal: the facts are those that the kernel tells; what is not told is empty.

Method: a planted DMI directory, and none at all.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from receivers import machine


def test_dmi_tells_vendor_and_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DMI", tmp_path)
    (tmp_path / "sys_vendor").write_text("LENOVO\n")
    (tmp_path / "product_name").write_bytes(b"20HR\xff\n")
    (tmp_path / "product_version").write_text("ThinkPad X1 Carbon 5th\n")
    (tmp_path / "product_family").write_text("\n")
    read = machine.read_machine(5_000)
    assert (read.vendor, read.products) == ("LENOVO", ("20HR\ufffd", "ThinkPad X1 Carbon 5th"))
    assert read.architecture == os.uname().machine
    assert read.disk_size == 5_000
    assert read.memory_size == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01)


def test_a_board_without_dmi_has_no_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DMI", tmp_path / "missing")
    read = machine.read_machine(None)
    assert (read.vendor, read.products, read.disk_size) == ("", (), None)
