"""Other programs that tests need: where they are, and skipping with a reason where they are not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ghostcast.disk import programs


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test where one of these programs is not installed; tests/run installs them on Debian."""
    missing = [str(programs.ProgramMissing(name)) for name in names if programs.find(name) is None]
    return pytest.mark.skipif(bool(missing), reason="; ".join(missing))


def run(name: str, *arguments: str | Path, stdin: bytes = b"") -> bytes:
    """Run a program that must succeed; returns what it printed."""
    path = programs.find(name)
    assert path is not None
    done = subprocess.run([path, *map(str, arguments)], input=stdin, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout
