"""Goal: the library's commands keep their contract, ask before they delete, and never take a name for a path.

Method: typer's runner over the real command line; a pseudo-terminal where somebody has to be asked.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ghostcast.cli.main import app
from ghostcast.image.labels import open_labelled
from protocol.errors import ExitStatus, ImageError, UsageError
from protocol.match import MatchRule
from tests.images import make_image


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A library of our own; and the commands change how this process takes a kill."""
    monkeypatch.setenv("GHOSTCAST_LIBRARY", str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def run(*arguments: str | Path) -> tuple[str, str]:
    """Run an image command that must succeed; returns standard output and standard error."""
    result = CliRunner().invoke(app, ["image", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


def lines(*arguments: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--json")[0].splitlines()]


def create(name: str, *options: str) -> None:
    Path("disk.raw").write_bytes(os.urandom(20_000))
    run("create", "disk.raw", "--name", name, "--chunk-size", "4k", *options)


def test_an_image_lives_in_the_library(tmp_path: Path) -> None:
    assert "make one with" in run("list")[1]
    with pytest.raises(UsageError, match="nothing was verified"):
        run("verify", "--all")
    create("golden", "--label", "rack=7", "--match", "vendor=Dell*", "--match", "memory=8GiB")
    create("golden")
    create("silver")
    shown, _ = run("list")
    assert [line.split()[0] for line in shown.splitlines()] == ["IMAGE", "golden@1", "golden@2", "silver@1"]
    assert "vendor Dell*, memory at least 8 GiB; rack=7" in shown.splitlines()[1]
    listed = lines("list")
    assert [entry["reference"] for entry in listed] == ["golden@1", "golden@2", "silver@1"]
    assert listed[0]["source"]["labels"] == {"rack": "7"}
    assert listed[0]["match"] == {"vendors": ["Dell*"], "memory_size_min": 8 << 30}
    assert listed[0]["name"] == "golden"
    assert [entry["version"] for entry in lines("list", "golden")] == [1, 2]
    assert lines("info", "golden")[0]["id"] == listed[1]["id"]
    assert lines("info", "golden@1")[0]["id"] == listed[0]["id"]
    run("extract", "silver", "copy.raw")
    assert Path("copy.raw").read_bytes() == Path("disk.raw").read_bytes()
    assert [line["event"] for line in lines("verify", "--all")] == ["verified"] * 3


def test_labels_and_rules_are_changed_shown_and_taken_away() -> None:
    create("golden", "--label", "rack=7")
    run("label", "golden", "os=debian", "--match", "product=Opti*", "--match", "product=Lati*", "--match", "disk=1T")
    assert run("label", "golden")[0].splitlines() == [
        *("rack=7", "os=debian", "for: product Opti* or Lati*, disk at least 1024 GiB")
    ]
    run("label", "golden@1", "--remove", "rack", "--match", "disk=")
    assert lines("info", "golden")[0]["match"] == {"products": ["Opti*", "Lati*"]}
    run("label", "golden", "--match", "none", "--match", "architecture=aarch64")
    facts = lines("label", "golden")[0]
    assert (facts["match"], facts["source"]["labels"]) == ({"architectures": ["aarch64"]}, {"os": "debian"})
    with open_labelled(Path("library/golden@1.img.zst")) as opened:
        assert opened.manifest.match == MatchRule(architectures=("aarch64",))


@pytest.mark.parametrize("rule", ["vendor", "colour=red", "memory=much", "=x", "vendor=" + "x" * 129])
def test_a_rule_that_is_none_is_wrong_usage(rule: str) -> None:
    create("golden")
    assert CliRunner().invoke(app, ["image", "label", "golden", "--match", rule]).exit_code == ExitStatus.USAGE


def test_deleting_wants_a_version_and_a_yes() -> None:
    create("golden")
    create("golden")
    with pytest.raises(UsageError, match="which version"):
        run("delete", "golden", "--yes")
    with pytest.raises(UsageError, match="nobody is there to be asked"):
        run("delete", "golden@1")
    with pytest.raises(UsageError, match="leave it out"):
        run("delete", "golden@1", "--all-versions", "--yes")
    assert len(lines("list")) == 2
    assert lines("delete", "golden@1", "--yes")[0]["reference"] == "golden@1"
    assert [entry["reference"] for entry in lines("list")] == ["golden@2"]
    create("golden")
    run("delete", "golden", "--all-versions", "-y")
    assert lines("list") == []
    create("golden")
    assert [entry["reference"] for entry in lines("list")] == ["golden@4"]


@pytest.mark.parametrize(
    ("answer", "left", "status"),
    [
        (b"n\n", 1, ExitStatus.USAGE),
        (b"\n", 1, ExitStatus.USAGE),
        (b"\x04", 1, ExitStatus.INTERRUPTED),  # Ctrl-D
        (b"y\n", 0, 0),
    ],
)
def test_a_person_is_asked(answer: bytes, left: int, status: int) -> None:
    create("golden")
    main, terminal = pty.openpty()
    os.write(main, answer)
    command = [sys.executable, "-m", "ghostcast.cli.main", "image", "delete", "golden"]
    ended = subprocess.run(command, stdin=terminal, capture_output=True, text=True, timeout=60)
    os.close(terminal)
    os.close(main)
    assert "Delete golden@1? [y/N]" in ended.stderr
    assert ended.returncode == status
    assert len(lines("list")) == left


def test_a_name_and_a_path_are_not_confused(tmp_path: Path) -> None:
    create("golden")
    make_image(tmp_path / "other", b"x", name="other")
    assert lines("info", "other")[0]["name"] == "other"
    make_image(tmp_path / "golden", b"x", name="the file")
    with pytest.raises(UsageError, match=r"write \./golden for the file"):
        run("info", "golden")
    assert lines("info", "./golden")[0]["name"] == "the file"
    assert lines("info", "golden", "--library", "library")[0]["name"] == "golden"
    with pytest.raises(UsageError, match="no such image in the library"):
        run("info", "other", "--library", "library")
    with pytest.raises(UsageError, match="there is no such image"):
        run("info", "nowhere.img.zst")
    with pytest.raises(UsageError, match="no such image in the library"):
        run("info", "nowhere")
    with pytest.raises(UsageError, match="is not a name"):
        run("info", "../golden", "--library", "library")


def test_creating_goes_to_a_path_or_to_a_name(tmp_path: Path) -> None:
    Path("disk.raw").write_bytes(b"x")
    run("create", "disk.raw", "golden")
    assert (tmp_path / "golden").is_file()
    for arguments in (("disk.raw",), ("disk.raw", "golden.img.zst", "--library", "library")):
        assert CliRunner().invoke(app, ["image", "create", *arguments]).exit_code == ExitStatus.USAGE
    with pytest.raises(UsageError, match="cannot be a name"):
        run("create", "disk.raw", "--name", "../golden")
    with pytest.raises(UsageError, match="cannot be opened"):
        run("create", "missing.raw", "--name", "golden")
    assert not (tmp_path / "library").exists()


def test_damaged_images_are_listed_and_all_others_verified() -> None:
    for _ in range(3):
        create("golden")
    with Path("library/golden@1.img.zst").open("r+b") as file:
        file.write(bytes(100))
    os.truncate("library/golden@2.img.zst", 3000)
    Path("library/stray.img.zst").touch()
    shown, seen = run("list")
    assert "damaged" in shown.splitlines()[2]
    assert "stray.img.zst: not listed" in seen
    assert "error" in lines("list")[1]
    result = CliRunner().invoke(app, ["image", "verify", "--all", "--json"])
    assert isinstance(result.exception, ImageError)
    assert "2 of 3 images are damaged: golden@1, golden@2" in str(result.exception)
    events = [json.loads(line)["event"] for line in result.stdout.splitlines()]
    assert events == ["damaged", "failed", "failed", "verified"]


@pytest.mark.parametrize("arguments", [("verify",), ("verify", "golden", "--all")])
def test_verify_wants_an_image_or_all(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ["image", *arguments]).exit_code == ExitStatus.USAGE


def test_a_terminal_does_not_obey_labels_and_lines_end_at_its_edge() -> None:
    create("golden", "--label", "x=\x1b[2J" + "y" * 200)
    shown, _ = run("list")
    assert all(line.isprintable() for line in shown.splitlines())
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "ghostcast.cli.main", "image", "list"]
    environment = {**os.environ, "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=terminal, env=environment) as process:
        os.close(terminal)
        seen = b""
        try:
            while part := os.read(main, 4096):
                seen += part
        except OSError:
            pass  # how Linux says that nobody has the terminal open any more
    os.close(main)
    assert process.returncode == 0
    assert [len(line) for line in seen.decode().splitlines()][1] == 80
