"""Goal: disks go in and out of images on the command line, in the formats that their names say.

Method: typer's runner over the real command line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ghostcast.cli.main import app
from protocol.errors import ExitStatus
from tests.images import make_image
from tests.tools import needs, run


def invoke(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["image", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@needs("qemu-img")
def test_a_disk_goes_out_as_qcow2_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTCAST_LIBRARY", str(tmp_path / "library"))
    raw = os.urandom(1 << 20) + bytes(1 << 20)
    (tmp_path / "disk.raw").write_bytes(raw)
    assert invoke("create", tmp_path / "disk.raw", "--name", "golden")[0] == 0
    status, _, seen = invoke("export", "golden", tmp_path / "disk.qcow2")
    assert status == 0
    assert "exported as qcow2: 2.00 MiB of disk" in seen
    run("qemu-img", "check", "-f", "qcow2", tmp_path / "disk.qcow2")
    status, printed, _ = invoke("create", tmp_path / "disk.qcow2", "--name", "golden", "--json")
    events = [json.loads(line) for line in printed.splitlines()]
    assert [event["event"] for event in events] == ["expanding", "created"]
    assert events[0]["bytes_at_most"] >= 1 << 20
    assert events[1]["path"] == str(tmp_path / "library" / "golden@2.img.zst")
    assert invoke("extract", "golden@2", tmp_path / "copy")[0] == 0
    assert (tmp_path / "copy").read_bytes() == raw
    printed = invoke("export", "golden@2", tmp_path / "out", "--format", "vdi", "--json")[1]
    assert json.loads(printed.splitlines()[-1])["format"] == "vdi"


@pytest.mark.parametrize("command", ["create", "export"])
def test_an_unknown_format_is_wrong_usage(tmp_path: Path, command: str) -> None:
    make_image(tmp_path / "image", b"x")
    assert invoke(command, tmp_path / "image", tmp_path / "out", "--format", "floppy")[0] == ExitStatus.USAGE


@pytest.mark.parametrize("command", ["export", "list", "label", "delete"])
def test_help_shows_an_example(command: str) -> None:
    status, shown, _ = invoke(command, "--help")
    assert status == 0
    assert f"  ghostcast image {command}" in shown
