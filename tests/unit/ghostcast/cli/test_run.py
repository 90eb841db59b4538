"""Goal: signals, reports and lines for people behave, whatever the file, the terminal or the text is.

Method: reports to files, links and pipes; a process that is told to end once, and twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ghostcast.cli.run import begin_report, print_json, printable, write_report
from protocol.errors import ExitStatus, UsageError

STUBBORN = """
import asyncio, sys
from ghostcast.cli.run import run_interruptible

async def main():
    print("ready", flush=True)
    await done.wait()

def interrupt():
    print("asked", flush=True)
    if sys.argv[1] == "polite":
        done.set()

done = asyncio.Event()
run_interruptible(main, interrupt)
print("over", flush=True)
"""


def stubborn(manner: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", STUBBORN, manner], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks(number: signal.Signals) -> None:
    with stubborn("polite") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=60)[0] == "asked\nover\n"
    assert process.returncode == 0


def test_the_second_signal_ends() -> None:
    with stubborn("deaf") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == ExitStatus.INTERRUPTED


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï¢ødé text", "plain ünï¢ødé text"),
        ("\x1b[31mred\x07\n", "\ufffd[31mred\ufffd\ufffd"),
        ("\x9b2J", "\ufffd2J"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("\udcff", "\ufffd"),
        ("", ""),
    ],
)
def test_nothing_that_a_terminal_obeys_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_json_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "a\nb\x1b", "number": 1})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"text": "a\nb\x1b", "number": 1}


def test_a_report_replaces_the_file_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("an older and longer report" * 100)
    write_report(path, {"state": "verified"})
    assert json.loads(path.read_text()) == {"state": "verified"}
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_report_to_a_pipe_leaves_the_pipe_there(tmp_path: Path) -> None:
    """A file put in its place would, as root, take the place of /dev/stdout or /dev/null too."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()), daemon=True)
    reader.start()
    write_report(path, {"state": "failed"})
    reader.join(20)
    assert json.loads(read[0]) == {"state": "failed"}
    assert path.is_fifo()


def test_a_report_to_a_link_goes_where_the_link_leads(tmp_path: Path) -> None:
    """As /dev/stdout is one, redirected to a file: it must stay."""
    link, path = tmp_path / "link", tmp_path / "redirected"
    path.write_text("before\n")
    link.symlink_to(path)
    begin_report(link, [])
    write_report(link, {"state": "verified"})
    assert link.is_symlink()
    assert json.loads(path.read_text()) == {"state": "verified"}


def test_a_report_must_have_a_place_and_must_not_take_anothers(tmp_path: Path) -> None:
    image, link = tmp_path / "image", tmp_path / "link"
    image.write_text("precious")
    link.symlink_to(image)
    for path in (tmp_path, tmp_path / "gone" / "report", image, link):
        with pytest.raises(UsageError, match="--report"):
            begin_report(path, [image])
    assert image.read_text() == "precious"


def test_the_report_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("old")
    begin_report(tmp_path / "report", [tmp_path / "image"])
    assert os.listdir(tmp_path) == []
    begin_report(tmp_path / "report", [])
    begin_report(None, [])


def test_a_report_that_cannot_be_written_is_told_and_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(tmp_path / "gone" / "report", {})
    assert "could not be written" in capsys.readouterr().err
    write_report(None, {})
    assert capsys.readouterr().err == ""
