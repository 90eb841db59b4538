"""The benchmark of images beside zstd: that it still runs, compares like with like, and finds a copy that is none.

Method: run it at a tiny size; the ratios on figures made up for them. No test looks at a speed.
"""

from __future__ import annotations

import json
import pathlib

import pytest

from benchmarks import image_speed
from benchmarks.image_speed import Run, ratios
from tests.tools import needs

pytestmark = needs("zstd")


def test_it_runs_and_writes_what_it_found(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "speed.json"
    arguments = ["--size", "3000001", "--content", "random", "--rounds", "2", "--json", str(path)]
    assert image_speed.main([*arguments, "--directory", str(tmp_path)]) == 0
    results = json.loads(path.read_text())
    assert results["size"] == 3000001
    assert [ratio["what"] for ratio in results["ratios"]] == ["capture", "extract"]
    assert all(ratio["wall"]["n"] == ratio["cpu"]["n"] == 2 for ratio in results["ratios"])
    assert len(results["runs"]) == 8
    assert all(run["seconds"] > 0 and run["cpu_seconds"] > 0 for run in results["runs"])
    printed = capsys.readouterr().out
    assert "capture: " in printed
    assert "goal 0.8" in printed
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]


def test_the_peer_s_seconds_are_divided_by_ours_round_by_round() -> None:
    runs = [
        *(Run(0, "zstd -T0", 4.0, 8.0), Run(0, "image create", 5.0, 8.0)),
        *(Run(1, "image create", 10.0, 4.0), Run(1, "zstd -T0", 6.0, 8.0)),
        *(Run(0, "zstd -d | dd", 2.0, 1.0), Run(0, "image extract", 1.0, 2.0)),
        *(Run(1, "image extract", 1.0, 2.0), Run(1, "zstd -d | dd", 3.0, 1.0)),
    ]
    capture, extract = ratios(runs)
    assert (capture.wall.minimum, capture.wall.median, capture.wall.maximum) == pytest.approx((0.6, 0.7, 0.8))
    assert not capture.reached
    assert (extract.wall.median, extract.cpu.median) == (2.5, 0.5)
    assert extract.reached


def test_a_copy_that_is_none_is_found(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = image_speed.commands

    def lying(*arguments: object) -> dict[str, tuple[str, pathlib.Path]]:
        todo = real(*arguments)  # type: ignore[arg-type]
        todo["image extract"] = (f"echo not the disk > {todo['image extract'][1]}", todo["image extract"][1])
        return todo

    monkeypatch.setattr(image_speed, "commands", lying)
    assert image_speed.main(["--size", "100000", "--content", "random", "--directory", str(tmp_path)]) == 1
    assert "is not the source" in capsys.readouterr().err


def test_wrong_arguments_are_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--rounds", "0"], ["--level", "23"], ["--content", "poems"]):
        with pytest.raises(SystemExit):
            image_speed.main(arguments)
    assert image_speed.main(["--source", str(tmp_path / "missing")]) == 1
    capsys.readouterr()
