"""Goal: every command explains itself, and every way to end has its exit status and one line that says why.

Method: typer's runner for what is printed; real processes for how they end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ghostcast.cli import main
from ghostcast.version import VERSION
from protocol import errors
from protocol.errors import ExitStatus, GhostcastError
from tests.images import make_image
from tests.unit.receivers.test_engine import free_port

GHOSTCAST = (sys.executable, "-m", "ghostcast.cli.main")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*GHOSTCAST, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("command", ["send", "receive", "demo"])
@pytest.mark.parametrize("wish", ["--help", "-h"])
def test_every_command_shows_an_example(command: str, wish: str) -> None:
    result = CliRunner().invoke(main.app, [command, wish], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert f"  ghostcast {command}" in result.stdout
    assert "Examples:" in result.stdout


def test_help_names_every_exit_status_and_command() -> None:
    result = CliRunner().invoke(main.app, ["--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    said = text[text.index("Exit status:") :]
    for status in ExitStatus:
        assert f" {int(status)} " in said
    for command in ("image", "send", "receive", "demo", "bench", "doctor"):
        assert f" {command} " in text


def test_the_list_of_commands_loads_none_of_them_and_every_command_can_be_loaded() -> None:
    loaded = f"import sys; sys.argv = ['ghostcast', '--help']\ntry:\n    import {main.__name__} as m; m.main()\n"
    loaded += "except SystemExit:\n    print(*(name for name in sys.modules if name.startswith('ghostcast.cli.')))"
    shown = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60)
    assert shown.stdout.splitlines()[-1] == main.__name__
    for name, command in main.COMMANDS.items():
        assert f"  {name}" in shown.stdout
        assert command.purpose in shown.stdout
        assert CliRunner().invoke(main.app, [name, "--help"]).exit_code == 0


def test_an_interrupted_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ghostcast.cli.verify.verify", interrupted)
    monkeypatch.setattr(sys, "argv", ["ghostcast", "verify"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == ExitStatus.INTERRUPTED
    assert capsys.readouterr().err == "ghostcast: interrupted\n"


def test_the_version_is_said() -> None:
    result = CliRunner().invoke(main.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"ghostcast {VERSION}\n")


ERROR_CLASSES = [
    GhostcastError,
    *(found for found in vars(errors).values() if found in GhostcastError.__subclasses__()),
]


@pytest.mark.parametrize("error", ERROR_CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_one_line_and_its_status(
    error: type[GhostcastError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error("what was found, and what to do")

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == error.exit_status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "ghostcast: what was found, and what to do\n")


def test_the_statuses_are_the_contract() -> None:
    assert {status.name: int(status) for status in ExitStatus} == {
        "VERIFIED": 0,
        "INTERNAL": 1,
        "USAGE": 2,
        "NOBODY_CAME": 3,
        "INCOMPLETE": 4,
        "TARGET": 5,
        "IMAGE": 6,
        "AUTHENTICATION": 7,
        "INTERRUPTED": 130,
    }
    raised = {error.exit_status for error in ERROR_CLASSES}
    assert raised == set(ExitStatus) - {ExitStatus.VERIFIED, ExitStatus.INTERRUPTED}


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupted)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == ExitStatus.INTERRUPTED
    assert capsys.readouterr().err == "ghostcast: interrupted\n"


def test_a_reader_that_left_is_no_traceback(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", os.urandom(20_000))
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [*GHOSTCAST, "image", "info", str(image), "--json"], stdout=writing, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writing)
        _, seen = process.communicate(timeout=60)
    assert "Traceback" not in seen
    assert "Exception ignored" not in seen


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_answer_that_could_not_be_written_is_no_success(options: tuple[str, ...], tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x")
    with open("/dev/full", "wb") as full:
        command = [*GHOSTCAST, "image", "info", str(image), *options]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == ExitStatus.INTERNAL
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("reader", ["left", "full"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_that_fails_hides_neither_why_a_session_ended_nor_how(
    options: tuple[str, ...], reader: str, tmp_path: Path
) -> None:
    """With output buffered, as it is where nobody says otherwise: what failed once is tried again at the end."""
    command = [*GHOSTCAST, "receive", str(tmp_path / "copy"), "--interface", "127.0.0.1", "--port", str(free_port())]
    command += ["--session", "nobody", "--max-wait", "0.2", *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as left, open("/dev/full", "wb") as full:
        out = left if reader == "left" else full
        ended = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    assert ended.returncode == ExitStatus.NOBODY_CAME
    assert "no session named 'nobody' was announced" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


LEAVING = """
import sys
from ghostcast.cli import main
from protocol.errors import TargetError

def app():
    print("said")
    if sys.argv[1:]:
        raise TargetError("the disk failed")

main.app = app
main.run()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [((), ExitStatus.INTERNAL, "No space left"), (("fail",), ExitStatus.TARGET, "the disk failed")],
)
def test_what_is_flushed_last_and_fails_is_told_where_nothing_else_failed(
    arguments: tuple[str, ...], status: ExitStatus, said: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", LEAVING, *arguments]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    assert ended.returncode == status
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), ExitStatus.USAGE, ""),
        (("nosuch",), ExitStatus.USAGE, "nosuch"),
        (("send",), ExitStatus.USAGE, "IMAGE"),
        (("send", "IMAGE", "--interface", "nosuch0"), ExitStatus.USAGE, "nosuch0"),
        (("send", "IMAGE", "--interface", "127.0.0.1", "--group", "192.0.2.1"), ExitStatus.USAGE, "not a multicast"),
        (("send", "IMAGE", "--interface", "127.0.0.1", "--symbol-size", "1441"), ExitStatus.USAGE, "multiple of 32"),
        (("send", "IMAGE", "--rate", "fast"), ExitStatus.USAGE, "not a rate"),
        (("send", "IMAGE", "--fec", "128"), ExitStatus.USAGE, "0 to 127"),
        (("send", "IMAGE", "--interface", "127.0.0.1", "--session", "a\nb"), ExitStatus.USAGE, "printable"),
        (("send", "IMAGE", "--report", "nowhere/report"), ExitStatus.USAGE, "--report"),
        (("send", "RUBBISH", "--interface", "127.0.0.1"), ExitStatus.IMAGE, "RUBBISH"),
        (("receive",), ExitStatus.USAGE, "TARGET"),
        (("receive", "nowhere/copy", "--interface", "127.0.0.1"), ExitStatus.TARGET, "does not exist"),
        (("receive", ".", "--interface", "127.0.0.1"), ExitStatus.TARGET, "directory"),
        (("receive", "copy", "--interface", "127.0.0.1", "--memory", "1M"), ExitStatus.USAGE, "--memory"),
        (("receive", "copy", "--interface", "nosuch0"), ExitStatus.USAGE, "nosuch0"),
        (("demo", "--loss", "60%"), ExitStatus.USAGE, "50%"),
        (("demo", "--size", "65GiB"), ExitStatus.USAGE, "too large"),
        (("demo", "--directory", "nowhere"), ExitStatus.USAGE, "nowhere"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_done(
    arguments: tuple[str, ...], status: ExitStatus, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image(tmp_path / "IMAGE", b"x")
    (tmp_path / "RUBBISH").write_bytes(b"rubbish" * 1000)
    before = sorted(os.listdir(tmp_path))
    monkeypatch.chdir(tmp_path)
    ended = run(*arguments)
    assert ended.returncode == status, ended.stderr
    assert words in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert sorted(os.listdir(tmp_path)) == before
