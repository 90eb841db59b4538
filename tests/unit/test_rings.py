"""The guard against a run that ran nothing (``tests/conftest.py``).

Goal: a ring of which no test passed fails the session and is named. Method: pytest runs, as a command, over small
planted trees that have this project's ``conftest.py``.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

CONFTEST = pathlib.Path(__file__).parents[1] / "conftest.py"
PASSES = "def test_it():\n    pass\n"
SKIPS = "import pytest\ndef test_it():\n    pytest.skip('no lab here')\n"
FAILS = "def test_it():\n    assert False\n"
COMPLETE = {"unit/test_a.py": PASSES, "property/test_b.py": PASSES, "lab/test_c.py": PASSES}


def run_pytest(
    root: pathlib.Path, files: dict[str, str], *arguments: str, required: str = "1"
) -> subprocess.CompletedProcess[str]:
    """Run pytest over a tree of these test files, given by their paths below ``tests/``."""
    for file, code in files.items():
        path = root / "tests" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    (root / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    shutil.copy(CONFTEST, root / "tests" / "conftest.py")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=root,
        env=os.environ | {"GHOSTCAST_REQUIRE_RINGS": required},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_run_of_all_rings_passes(tmp_path: pathlib.Path) -> None:
    done = run_pytest(tmp_path, COMPLETE | {"lab/test_d.py": SKIPS})
    assert done.returncode == pytest.ExitCode.OK, done.stdout


@pytest.mark.parametrize(
    ("files", "arguments", "ring"),
    [
        (COMPLETE | {"lab/test_c.py": SKIPS}, (), "lab"),
        (COMPLETE | {"simulation/test_d.py": SKIPS}, (), "simulation"),
        ({"unit/test_a.py": PASSES, "lab/test_c.py": PASSES}, (), "property"),
        (COMPLETE, ("tests/lab", "tests/property"), "unit"),
        (COMPLETE, ("--deselect", "tests/unit/test_a.py"), "unit"),
    ],
    ids=["required ring skipped", "another ring skipped", "ring missing", "ring not asked for", "ring deselected"],
)
def test_a_ring_that_ran_nothing_fails_the_run_and_is_named(
    tmp_path: pathlib.Path, files: dict[str, str], arguments: tuple[str, ...], ring: str
) -> None:
    done = run_pytest(tmp_path, files, *arguments)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    named = [line for line in done.stdout.splitlines() if line.startswith("FAILED ring")]
    assert named == [f"FAILED ring tests/{ring}: not one of its tests passed"]


def test_no_test_at_all_names_every_ring(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tests").mkdir()
    done = run_pytest(tmp_path, {})
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert done.stdout.count("FAILED ring") == 3


def test_a_failure_stays_a_failure(tmp_path: pathlib.Path) -> None:
    done = run_pytest(tmp_path, COMPLETE | {"unit/test_z.py": FAILS})
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "FAILED ring" not in done.stdout


def test_nobody_needs_the_rings_unless_asked(tmp_path: pathlib.Path) -> None:
    done = run_pytest(tmp_path, COMPLETE | {"lab/test_c.py": SKIPS}, required="")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
