"""Goal: a profile is in the report and on the screen exactly when it was asked for."""

from __future__ import annotations

import pytest

from ghostcast.cli.profile import choose_stages, show_stages, with_stages


def test_a_measured_stage_is_reported_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    stages = choose_stages(True)
    with stages("hash", 3_000_000):
        sum(range(1000))
    report = with_stages({"session": "lab"}, stages)
    assert report["session"] == "lab"
    assert set(report["stages"]) == {"hash"}
    assert report["stages"]["hash"]["calls"] == 1
    assert report["stages"]["hash"]["bytes"] == 3_000_000
    show_stages(stages)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "hash" in shown.err
    assert all(len(line) <= 80 for line in shown.err.splitlines())


def test_without_the_flag_nothing_is_measured_reported_or_shown(capsys: pytest.CaptureFixture[str]) -> None:
    stages = choose_stages(False)
    with stages("hash", 3):
        pass
    assert with_stages({"session": "lab"}, stages) == {"session": "lab"}
    show_stages(stages)
    assert capsys.readouterr().err == ""
