"""Goal: the scale study's closed forms are the paper's, and its every part runs.

Method: values of the published formulas computed elsewhere by other means; the quick study as a process.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import scale


@pytest.mark.parametrize(
    ("receivers", "loss", "expected"),
    [(1, 0.01, 1.010), (100, 0.01, 1.644), (10_000, 0.001, 2.010), (10_000, 0.01, 2.642), (10_000, 0.05, 3.777)],
)
def test_retransmission_is_the_closed_form(receivers: int, loss: float, expected: float) -> None:
    assert scale.retransmission(receivers, loss) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("receivers", "loss", "expected"),
    [(1, 0.01, 1.010), (10_000, 0.001, 1.024), (10_000, 0.01, 1.060), (10_000, 0.05, 1.151)],
)
def test_parity_on_demand_is_the_closed_form(receivers: int, loss: float, expected: float) -> None:
    assert scale.parity_on_demand(receivers, loss) == pytest.approx(expected, abs=1e-3)


def test_both_agree_with_drawn_losses() -> None:
    rng = np.random.default_rng(1)
    receivers, loss, runs = 50, 0.05, 4000
    # Negative binomial: losses before the k-th symbol arrives; geometric: sendings until one packet has arrived.
    parity = 1 + rng.negative_binomial(scale.K, 1 - loss, (runs, receivers)).max(axis=1).mean() / scale.K
    again = rng.geometric(1 - loss, (runs, receivers)).max(axis=1).mean()
    assert scale.parity_on_demand(receivers, loss) == pytest.approx(parity, rel=0.01)
    assert scale.retransmission(receivers, loss) == pytest.approx(again, rel=0.02)


@pytest.mark.parametrize("more", [["--link", "1"], ["--link", "1Gbit", "--auto"]])
def test_links_and_the_search_for_a_rate_are_options(more: list[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.scale",
        "--receivers",
        "2",
        "--size",
        "100000",
        "--loss",
        "0.01",
        *more,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=pathlib.Path(__file__).parents[3])
    assert ended.returncode == (0 if "--auto" in more else 2), ended.stderr
    assert ("write a number with a unit" in ended.stderr) is ("--auto" not in more)


def test_the_quick_study_writes_its_results_and_its_plot(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--quick", "--loss", "0.02"]
    command += ["--json", str(tmp_path / "scale.json"), "--plot", str(tmp_path / "scale.svg")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=pathlib.Path(__file__).parents[3])
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "scale.json").read_text())
    assert [cell["receivers"] for cell in results["cells"]] == [1, 3, 10]
    for cell in results["cells"]:
        assert cell["verified"] == cell["receivers"]
        assert 0.98 * cell["parity_on_demand"] < cell["symbols_per_needed"] < 1.5
    assert (tmp_path / "scale.svg").read_bytes().startswith(b"<?xml")
