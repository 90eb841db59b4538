"""Goal: the image commands keep their contract: exit status, one JSON object a line, people's output on standard error.

Method: typer's runner in this process; real processes where signals and the exit status matter.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ghostcast.cli import image as image_command
from ghostcast.cli import progress
from ghostcast.image.pipeline import core_count
from ghostcast.image.reader import ImageFile
from protocol.errors import ExitStatus, ImageError, UsageError
from tests.images import CHUNK_SIZE, make_image, plain_zstd, unfinished

GHOSTCAST = (sys.executable, "-m", "ghostcast.cli.main", "image")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The commands change how this process takes a kill."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def run(*arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    """Run a command; returns exit status, the JSON lines, and what people saw."""
    result = CliRunner().invoke(image_command.app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    lines = result.stdout.splitlines() if "--json" in arguments else []
    return result.exit_code, [json.loads(line) for line in lines], result.stderr


def test_a_disk_goes_through_all_commands(tmp_path: Path) -> None:
    disk, image, copy = tmp_path / "disk.raw", tmp_path / "golden.img.zst", tmp_path / "copy.raw"
    disk.write_bytes(os.urandom(10_000) + bytes(90_000))
    status, _, seen = run("create", disk, image, "--chunk-size", "16k", "--label", "rack=7", "--label", "os=a=b")
    assert status == 0
    assert seen.startswith(f"{image}: created: 97.7 KiB of disk")
    assert seen.count("\n") == 1
    assert run("verify", image)[0] == 0
    assert run("extract", image, copy)[0] == 0
    assert copy.read_bytes() == disk.read_bytes() == plain_zstd(image)
    with ImageFile.open(image) as opened:
        assert opened.manifest.chunk_size == 16_384
        assert opened.manifest.source.labels == {"rack": "7", "os": "a=b"}
        assert opened.manifest.source.architecture == os.uname().machine


def test_json_is_one_object_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "JSON_INTERVAL_S", 0.0)
    disk, image = tmp_path / "disk.raw", tmp_path / "golden.img.zst"
    disk.write_bytes(os.urandom(10_000))
    status, lines, seen = run("create", disk, image, "--chunk-size", "4k", "--json")
    assert (status, seen) == (0, "")
    assert [line["event"] for line in lines] == ["progress"] * 3 + ["created"]
    assert lines[2] == {
        "event": "progress",
        "action": "create",
        "raw_bytes": 10_000,
        "raw_bytes_total": 10_000,
        "stored_bytes": lines[3]["stored_bytes"],
    }
    facts = {key: lines[3][key] for key in ("image", "name", "raw_bytes", "chunk_bytes", "chunks", "chunks_zero")}
    assert facts == {
        "image": str(image),
        "name": "disk.raw",
        "raw_bytes": 10_000,
        "chunk_bytes": 4096,
        "chunks": 3,
        "chunks_zero": 0,
    }
    shown = run("info", image, "--json")[1]
    assert len(shown) == 1
    assert shown[0]["id"] == lines[3]["id"]
    done = run("extract", image, tmp_path / "copy", "--json")[1][-1]
    assert (done["event"], done["path"], done["image"]) == ("extracted", str(tmp_path / "copy"), str(image))


def test_info_does_not_obey_the_image(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x", name="\x1b[2Jevil\n", labels={"\x07": "\x1b]0;title\x07"})
    result = CliRunner().invoke(image_command.app, ["info", str(image)])
    assert result.exit_code == 0
    assert "[2Jevil" in result.stdout
    assert all(line.isprintable() for line in result.stdout.splitlines())


def test_every_damaged_chunk_is_told(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", os.urandom(30 * CHUNK_SIZE))
    with ImageFile.open(image) as opened:
        end = opened.stream_size
    with image.open("r+b") as file:
        file.write(bytes(end))
    result = CliRunner().invoke(image_command.app, ["verify", str(image), "--json"])
    assert isinstance(result.exception, ImageError)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["chunk"] for line in lines if line["event"] == "damaged"] == list(range(30))
    result = CliRunner().invoke(image_command.app, ["verify", str(image)])
    assert result.stderr.count("\n") == 21
    assert "--json lists them all" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "DISK", "IMAGE", "--chunk-size", "1X"),
        ("create", "DISK", "IMAGE", "--level", "fast"),
        ("create", "DISK", "IMAGE", "--label", "novalue"),
        ("create", "DISK"),
        ("extract", "IMAGE"),
        ("verify",),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == ExitStatus.USAGE


def test_standard_output_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    with pytest.raises(UsageError, match="name a file"):
        run("create", tmp_path / "disk", "-")
    with pytest.raises(UsageError, match="zstd -dc IMAGE"):
        run("extract", "IMAGE", "-")


@pytest.mark.parametrize("command", ["create", "info", "verify", "extract"])
def test_help_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(image_command.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"  ghostcast image {command} " in result.stdout


def test_standard_input_makes_an_image(tmp_path: Path) -> None:
    disk = os.urandom(3_000_000)
    command = [*GHOSTCAST, "create", "-", str(tmp_path / "web.img.zst")]
    subprocess.run(command, input=disk, check=True, capture_output=True, timeout=60)
    assert plain_zstd(tmp_path / "web.img.zst") == disk
    with ImageFile.open(tmp_path / "web.img.zst") as image:
        assert (image.manifest.name, image.manifest.source.kind) == ("web", "stream")


@pytest.mark.parametrize("arguments", [("info", "{}"), ("verify", "{}"), ("extract", "{}", "{}.raw")])
def test_a_damaged_image_is_one_line_and_status_6(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    image = make_image(tmp_path / "image", b"x" * 100_000)
    os.truncate(image, image.stat().st_size - 1)
    command = [*GHOSTCAST, *(argument.format(image) for argument in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == ExitStatus.IMAGE
    assert ended.stderr.startswith(f"ghostcast: {image}: ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "image.raw.raw").exists()


def test_not_even_a_hard_kill_leaves_anything(tmp_path: Path) -> None:
    """Where the file system has files without a name, as nearly all have."""
    try:
        os.close(os.open(tmp_path, os.O_RDWR | os.O_TMPFILE))
    except OSError as error:
        pytest.skip(f"no files without a name here: {error}")
    os.mkfifo(tmp_path / "fifo")
    command = [*GHOSTCAST, "create", str(tmp_path / "fifo"), str(tmp_path / "image"), "--chunk-size", "4k"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        (tmp_path / "fifo").open("wb", buffering=0) as source,
    ):
        source.write(os.urandom((2 * core_count() + 2) * CHUNK_SIZE + (1 << 20)))
        assert unfinished(tmp_path, process.pid)
        process.kill()
    assert os.listdir(tmp_path) == ["fifo"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_kill_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """The pipeline is bounded: once the source took more than fits into it, the writer is at work."""
    os.mkfifo(tmp_path / "fifo")
    command = [*GHOSTCAST, "create", str(tmp_path / "fifo"), str(tmp_path / "image"), "--chunk-size", "4k"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        (tmp_path / "fifo").open("wb", buffering=0) as source,
    ):
        source.write(os.urandom((2 * core_count() + 2) * CHUNK_SIZE + (1 << 20)))
        assert unfinished(tmp_path, process.pid)
        process.send_signal(number)
        _, seen = process.communicate(timeout=60)
    assert process.returncode == ExitStatus.INTERRUPTED, seen
    assert "Traceback" not in seen
    assert os.listdir(tmp_path) == ["fifo"]
