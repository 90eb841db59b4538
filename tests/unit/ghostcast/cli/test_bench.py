"""Goal: ``bench`` says what cannot be before it begins, and what it found within 80 columns.

Method: typer's runner for what is refused; measurements made by hand for what is printed and drawn.
"""

from __future__ import annotations

import io
import pathlib

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from ghostcast.cli import bench, main
from ghostcast.cli.bench_plot import draw
from ghostcast.cli.bench_view import print_result, rate_table, receiver_table, step_line
from ghostcast.measure.record import Measurement
from protocol.errors import UsageError
from protocol.limits import MEGABIT
from tests.unit.ghostcast.measure.results import listener, measurement, outcome


def example(receivers: int = 3) -> Measurement:
    rates = (20, 300, 1200)
    hosts = [listener(index, f"compute-node-{index:03}.example") for index in range(receivers)]
    return measurement(
        hosts,
        [(rate, [outcome(index, 0, 80_000 - 400 * index, run=3) for index in range(receivers)]) for rate in rates],
    )


@pytest.mark.parametrize("command", ["send", "receive"])
def test_each_side_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(main.app, ["bench", command, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert f"  ghostcast bench {command}" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rates", "fast"], "not a rate"),
        (["--rates", "10Mbit,1kbit"], "from 1.00 Mbit/s"),
        (["--rates", ",".join(["10Mbit"] * 201)], "at most 200"),
        (["--sweep", "10Mbit"], "no sweep"),
        (["--sweep", "2Gbit:10Mbit"], "lower rate comes first"),
        (["--step", "0"], "--step"),
    ],
)
def test_what_cannot_be_is_refused_by_the_parser(options: list[str], words: str) -> None:
    result = CliRunner().invoke(main.app, ["bench", "send", "--interface", "127.0.0.1", *options])
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rates", "10Mbit", "--sweep", "10Mbit:20Mbit"], "exclude each other"),
        (["--plot", "loss.pdf"], "PNG or SVG"),
        (["--symbol-size", "1441"], "multiple of 32"),
        (["--interface", "nosuch0"], "nosuch0"),
        (["--session", "a\nb"], "printable"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_sent(options: list[str], words: str) -> None:
    result = CliRunner().invoke(main.app, ["bench", "send", "--interface", "127.0.0.1", *options])
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


def test_rates_are_bytes_inside() -> None:
    assert bench.rates_of("100Mbit,1Gbit") == [100 * MEGABIT, 1000 * MEGABIT]
    assert bench.sweep_of("50Mbit:2Gbit") == (50 * MEGABIT, 2000 * MEGABIT)
    with pytest.raises(typer.BadParameter):
        bench.rates_of("")


@pytest.mark.parametrize("receivers", [1, 3, 60])
def test_tables_fit_80_columns(receivers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = example(receivers)
    text = io.StringIO()
    console = Console(file=text, width=200)
    console.print(receiver_table(found))
    console.print(rate_table(found))
    lines = text.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert any("compute-node-000" in line for line in lines)
    assert len(lines) < 45
    assert (receivers > 24) == any("and 36 more" in line for line in lines)


def test_the_result_names_the_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_result(example())
    said = capsys.readouterr().err
    assert "ghostcast send IMAGE --rate 1164Mbit --fec" in said
    assert "lost in a row" in said
    assert "compute-node-002.example loses 1.00% at every rate" in " ".join(said.split())


def test_nothing_measured_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(Measurement("test", 1440, 1500))
    assert capsys.readouterr().err == ""


def test_a_step_is_one_line() -> None:
    found = example()
    assert step_line(example(1).steps[0], found.listeners).endswith("1 of 1 without loss")
    line = step_line(found.steps[1], found.listeners)
    assert "1 of 3 without loss; worst compute-node-002.example 1.00% in the network" in line
    found.steps[1].outcomes.clear()
    assert "no listener answered" in step_line(found.steps[1], found.listeners)


def test_the_plot_has_a_line_for_each_receiver(tmp_path: pathlib.Path) -> None:
    draw(example(), tmp_path / "loss.svg")
    text = (tmp_path / "loss.svg").read_text()
    for index in range(3):
        assert f"compute-node-{index:03}" in text
