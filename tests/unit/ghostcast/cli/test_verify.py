"""Goal: ``verify`` says by its exit status, to people and to programs where a copy differs, and writes nothing to it.

Method: typer's runner in this process, on small images and copies.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ghostcast.cli import verify
from ghostcast.cli.main import app
from protocol.errors import ExitStatus, ImageError, TargetError, UsageError
from tests.images import CHUNK_SIZE, make_image

RAW = os.urandom(50 * CHUNK_SIZE + 5)


def run(*arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    """Run a command; returns exit status, the JSON lines, and what people saw."""
    result = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image", RAW)


def test_a_good_copy_is_0(tmp_path: Path, image: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(RAW)
    status, lines, seen = run(copy, "--image", image)
    assert (status, lines) == (0, [])
    assert seen.startswith(f"{copy} holds image.raw: 200 KiB compared in ")


def test_a_bad_copy_is_5_and_says_where(tmp_path: Path, image: Path) -> None:
    copy, report = tmp_path / "copy", tmp_path / "report"
    changed = bytearray(RAW)
    for chunk in range(0, 50, 2):
        changed[chunk * CHUNK_SIZE] ^= 1
    copy.write_bytes(changed)
    status, _lines, seen = run(copy, "--image", image, "--report", report)
    assert status == ExitStatus.TARGET
    assert seen.splitlines()[0] == f"bytes 0 to {CHUNK_SIZE} differ"
    assert seen.splitlines()[verify.RANGES_SHOWN_MAX] == "and 5 more ranges; --json lists them all"
    assert "100 KiB in 25 places differ" in seen
    facts = json.loads(report.read_text())
    assert (facts["status"], facts["bytes_differing"]) == (5, 25 * CHUNK_SIZE)
    status, lines, _seen = run(copy, "--image", image, "--json")
    assert [(line["start"], line["stop"]) for line in lines if line["event"] == "differs"] == [
        tuple(part) for part in facts["differs"]
    ]
    assert lines[-1] == {"event": "finished", "status": 5, "text": lines[-1]["text"]}
    assert copy.read_bytes() == changed


def test_what_cannot_be_compared(tmp_path: Path, image: Path) -> None:
    report = tmp_path / "report"
    with pytest.raises(TargetError, match="cannot be opened for reading"):
        run(tmp_path / "missing", "--image", image, "--report", report)
    assert json.loads(report.read_text())["status"] == 5
    with pytest.raises(ImageError):
        run(image, "--image", tmp_path / "image.raw")
    for both_or_none in ((), ("--image", image, "--session", "lab")):
        with pytest.raises(UsageError, match="either --image IMAGE or --session NAME"):
            run(image, *both_or_none)
