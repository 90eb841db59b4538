"""Goal: the demo clones, compares and says so, with one status; a share is what people write.

Method: the smallest real demo, as a process, in a directory that must be empty afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = (sys.executable, "-m", "ghostcast.cli.main", "demo")


@pytest.mark.parametrize("size", ["0", "5MiB"])
def test_a_small_demo_clones_verifies_and_cleans_up(size: str, tmp_path: Path) -> None:
    command = [*DEMO, "--receivers", "2", "--size", size, "--loss", "5%", "--directory", str(tmp_path), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert lines[-1]["event"] == "demo"
    assert (lines[-1]["status"], lines[-1]["receivers"], lines[-1]["copies_equal"]) == (0, 2, 2)
    assert [copy["state"] for copy in lines[-1]["copies"]] == ["verified", "verified"]
    assert os.listdir(tmp_path) == []


def test_people_get_a_table_on_standard_error(tmp_path: Path) -> None:
    command = [*DEMO, "--receivers", "1", "--size", "1MiB", "--directory", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert "copy-1.raw" in ended.stderr
    assert "Done: 1 of 1 copies are equal to the source disk" in " ".join(ended.stderr.split())
