"""Counts, ring by ring, the tests that passed, so that a green run cannot be one that ran nothing.

A ring is a directory of ``tests/`` that holds test files. With ``GHOSTCAST_REQUIRE_RINGS=1`` in the environment, as
``.ci/run`` sets it, the session fails if no test of some ring passed: all were skipped, deselected, or are not there.
"""

from __future__ import annotations

import collections
import os
import pathlib

import pytest

ALWAYS_REQUIRED = frozenset({"lab", "property", "unit"})

_TESTS = pathlib.Path(__file__).parent
_passed: collections.Counter[str] = collections.Counter()


def empty_rings() -> list[str]:
    """Return the rings of which no test has passed; none if nobody requires them."""
    if os.environ.get("GHOSTCAST_REQUIRE_RINGS") != "1":
        return []
    with_tests = {file.relative_to(_TESTS).parts[0] for file in _TESTS.glob("*/**/test_*.py")}
    return sorted(ring for ring in with_tests | ALWAYS_REQUIRED if not _passed[ring])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        path = _TESTS.parent / report.location[0]
        if path.is_relative_to(_TESTS):
            _passed[path.relative_to(_TESTS).parts[0]] += 1


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if empty_rings() and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for ring in empty_rings():
        terminalreporter.write_line(f"FAILED ring tests/{ring}: not one of its tests passed", red=True)
