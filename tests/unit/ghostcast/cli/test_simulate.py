"""Goal: options become the scenario they name, contradictions are usage errors, and the answer is there in every form.

Method: the command through typer's runner with tiny fleets; JSON parsed, tables measured, plots looked at as files.
"""

from __future__ import annotations

import json
import pathlib

import pytest
import typer
from typer.testing import CliRunner

from ghostcast.cli import main, simulate, simulate_view
from ghostcast.simulation import InvariantError
from protocol.errors import UsageError

SMALL = ["simulate", "--receivers", "4", "--size", "1MiB", "--seed", "5"]


def run(*options: str) -> str:
    result = CliRunner().invoke(main.app, [*SMALL, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_fits_eighty_columns_and_names_who_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run("--loss", "2%", "--slow-disks", "1@1MB/s")
    assert max(map(len, text.splitlines())) <= 80
    assert "4 receivers, 1.00 MiB, 1.00 Gbit/s" in text
    assert "4 verified" in text
    assert "receiver 3" in text


def test_the_same_options_give_the_same_json() -> None:
    first = run("--loss", "2%", "--json")
    assert first == run("--loss", "2%", "--json")
    assert first != run("--loss", "2%", "--json", "--seed", "6")
    *_progress, last = [json.loads(line) for line in first.splitlines()]
    assert last["event"] == "result"
    assert last["receivers"]["states"] == {"verified": 4}
    assert last["symbols"]["per_needed"] >= 1
    assert last["seconds"]["data"]["last"] > 0
    assert sum(last["series"]["datagrams"]) == last["symbols"]["source"] + last["symbols"]["repair"]
    assert sum(last["series"]["control_messages"]) == last["control"]["total"]


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_plot_is_drawn(tmp_path: pathlib.Path, suffix: str, magic: bytes) -> None:
    file = tmp_path / f"plan{suffix}"
    run("--plot", str(file), "--rate", "auto", "--shared-loss", "1%", "--burst", "5")
    assert file.read_bytes().startswith(magic)


def test_late_and_dying_receivers_are_counted() -> None:
    last = json.loads(run("--late-join", "1@50ms", "--rate", "50Mbit", "--json").splitlines()[-1])
    assert last["receivers"]["states"] == {"verified": 4}
    last = json.loads(run("--late-join", "1@50ms", "--json").splitlines()[-1])
    assert last["receivers"]["states"] == {"left_out": 1, "verified": 3}, "it came when all was over"
    last = json.loads(run("--die", "25%@50ms", "--rate", "50Mbit", "--json").splitlines()[-1])
    assert last["receivers"]["states"] == {"dead": 1, "verified": 3}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rate", "2Gbit", "--link", "1Gbit"], "more than --link"),
        (["--burst", "5"], "give --loss or --shared-loss"),
        (["--late-join", "5@1s"], "names 5 of 4 receivers"),
        (["--late-join", "100%@1s"], "somebody must be there"),
        (["--mtu", "1400"], "1500 or 9000"),
        (["--plot", "plan.pdf"], "neither .png nor .svg"),
        (["--size", "100PiB"], "an image has"),
        (["--receivers", "100000", "--size", "1TiB"], "of memory here"),
    ],
)
def test_what_cannot_be_simulated_is_a_usage_error(options: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        CliRunner().invoke(main.app, [*SMALL, *options], catch_exceptions=False)


@pytest.mark.parametrize(
    "option", ["--loss=2", "--rate=5", "--fec=200", "--slow-disks=3", "--die=3@soon", "--receivers=0"]
)
def test_what_cannot_be_read_is_a_usage_error(option: str) -> None:
    assert CliRunner().invoke(main.app, [*SMALL, option]).exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("500ms", 0.5), ("2min", 120.0), ("1.5", 1.5), ("0", 0.0)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert simulate.parse_instant(text) == seconds


def test_groups_are_read() -> None:
    assert simulate.split_group("20@30s") == ("20", "30s")
    assert simulate.split_group(" 2.5% @ 40MB/s") == ("2.5%", "40MB/s")
    for text in ("", "@3s", "3@", "-1@3s", "3 3s"):
        with pytest.raises(typer.BadParameter):
            simulate.split_group(text)


def test_a_broken_rule_is_told_without_the_whole_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def run(self) -> None:
            raise InvariantError("receiver 3 was left behind\nseed 7, at 1.3 s\nreplay: simulate(Scenario(...))")

    monkeypatch.setattr(simulate_view, "choose_view", lambda *_arguments: Broken())
    with pytest.raises(InvariantError) as told:
        CliRunner().invoke(main.app, ["simulate", "--receivers", "2", "--seed", "7"], catch_exceptions=False)
    assert "receiver 3 was left behind" in str(told.value)
    assert "--seed 7" in str(told.value)
    assert "Scenario(" not in str(told.value)
