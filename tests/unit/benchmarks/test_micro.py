"""The micro-benchmarks: that each still runs, and that figures and ceilings are what they say.

Goal: a benchmark that no longer fits the code is a red test, not a surprise on the day it is needed. Method: each is
run at a tiny size; the arithmetic is tried on work that counts its own calls. No test looks at a speed.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import sys
import time

import pytest

from benchmarks.micro import __main__ as command
from benchmarks.micro import measuring
from benchmarks.micro.measuring import SMOKE, Effort, Result

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the loops use Linux's system calls")


@pytest.mark.parametrize("name", command.NAMES)
def test_each_still_runs_and_states_its_ceiling(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    results = list(command.measure([name], SMOKE, 1440))
    assert results
    for result in results:
        assert result.benchmark == name
        assert 0 < result.worst <= result.gb_per_s <= result.best
        assert result.ceiling
        assert result.of_ceiling == pytest.approx(result.gb_per_s / result.ceiling_gb_per_s)
    assert len({result.what for result in results}) == len(results)


def test_results_are_written_and_unknown_names_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "results.json"
    assert command.main(["hashing", "--smoke", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["symbol_size"] == 1440
    assert {result["benchmark"] for result in found["results"]} == {"hashing"}
    assert "blake3 near" in capsys.readouterr().out
    for wrong in (["hashing", "nonsense"], ["--symbol-size", "1441"]):
        with pytest.raises(SystemExit):
            command.main(wrong)
        assert "error:" in capsys.readouterr().err


def test_a_rate_counts_the_work_and_not_its_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that the work and the preparation move themselves: 2 s and 5 s each time."""
    clock = itertools.count()
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work() -> None:
        next(clock)
        now[0] += 2.0

    def prepare() -> None:
        now[0] += 5.0

    effort = Effort(repeats=4, seconds=6.0, far_bytes=0)
    assert measuring.rates(work, 10**9, effort, prepare) == pytest.approx([0.5] * 4)
    assert next(clock) == 2 + 4 * 3  # twice uncounted, then three calls in each of four repeats
    assert measuring.rates(work, 10**9, effort) == pytest.approx([0.5] * 4)


def test_a_figure_is_a_share_of_its_ceiling() -> None:
    result = Result.of("name", "what", [3.0, 1.0, 2.0], "memcpy", [8.0, 7.0, 9.0])
    assert (result.gb_per_s, result.worst, result.best, result.n) == (2.0, 1.0, 3.0, 3)
    assert (result.ceiling_gb_per_s, result.of_ceiling) == (8.0, 0.25)
