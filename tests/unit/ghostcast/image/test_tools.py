"""Goal: what a program printed counts only if it ended well, its own words say why not, and none of them stays behind.

Method: shell commands as the programs; a process that is killed while one of its programs runs.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ghostcast.disk import programs
from ghostcast.image.tools import Pipeline, ToolFailed, absolute, find_tool, run_tool
from protocol.errors import UsageError
from tests.tools import needs


def pipeline(*scripts: str) -> Pipeline:
    return Pipeline("disk", [("sh", "-c", script) for script in scripts], subprocess.DEVNULL)


def test_programs_in_a_row() -> None:
    with pipeline("echo one; echo two", "tac", "tr a-z A-Z") as running:
        assert running.output.read() == b"TWO\nONE\n"
        running.check()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_whichever_fails_its_words_are_told(place: int) -> None:
    scripts = ["echo data", "cat", "cat"]
    scripts[place] += "; echo first >&2; echo the reason >&2; exit 3"
    with pipeline(*scripts) as running:
        assert running.output.read() == b"data\n"
        with pytest.raises(ToolFailed, match="disk: sh failed with status 3: first; the reason") as caught:
            running.check()
        assert caught.value.status == 3


def test_a_silent_death_is_told_too() -> None:
    with pipeline("kill -9 $$") as running:
        assert running.output.read() == b""
        with pytest.raises(ToolFailed, match="was killed by signal 9: it did not say why"):
            running.check()


def test_a_long_complaint_is_cut_and_a_terminal_does_not_obey_it() -> None:
    with pytest.raises(ToolFailed) as caught:
        run_tool("disk", ["sh", "-c", "seq 100000 >&2; printf 'e\\033[2J\\n' >&2; exit 1"])
    assert str(caught.value).endswith("99999; 100000; e?[2J")
    assert len(str(caught.value)) < 3000


def test_leaving_ends_what_still_runs() -> None:
    with pipeline("echo $$; exec sleep 1000", "cat") as running:
        number = int(running.output.readline())
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_a_program_that_is_missing_among_others_leaves_none_running() -> None:
    with pytest.raises(UsageError, match="no-such-program is not installed"):
        Pipeline("disk", [("sleep", "1000"), ("no-such-program",)], subprocess.DEVNULL)


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find", lambda name: None)
    with pytest.raises(UsageError, match=r"qemu-img is not installed \(Debian package qemu-utils\)"):
        find_tool("qemu-img")


def test_a_program_gets_text_gives_text_and_is_watched(tmp_path: Path) -> None:
    """It waits for a file that only whoever watches it makes."""
    script = f"cat; while [ ! -e {tmp_path / 'seen'} ]; do sleep 0.01; done"
    poll = (tmp_path / "seen").touch
    assert run_tool("disk", ["sh", "-c", script], text="text\n", poll=poll) == (0, "text\n")
    assert run_tool("disk", ["sh", "-c", "exit 3"], good=(0, 3)) == (3, "")


def test_a_path_is_no_option_and_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(Path("-f")) == str(tmp_path / "-f")
    assert absolute(Path("nbd:host:1")) == str(tmp_path / "nbd:host:1")


@needs("setpriv")
def test_a_kill_of_ours_ends_its_program(tmp_path: Path) -> None:
    """The program holds one end of a pipe: when that is closed, it is gone."""
    os.mkfifo(tmp_path / "alive")
    code = (
        "from ghostcast.image.tools import run_tool\n"
        f"run_tool('disk', ['sh', '-c', 'exec 3>{tmp_path / 'alive'}; echo up >&3; exec sleep 1000'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process, (tmp_path / "alive").open("rb", 0) as alive:
        assert alive.readline() == b"up\n"
        process.send_signal(signal.SIGKILL)
        assert select.select([alive], [], [], 60)[0]
        assert alive.read() == b""
