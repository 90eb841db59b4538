"""Goal: a program that is missing or fails is named, with its package or its last words.

Method: the shell, and programs that do not exist.
"""

from __future__ import annotations

import pytest

from ghostcast.disk import programs


def test_what_it_wrote_is_returned() -> None:
    assert programs.run("cat", stdin="words") == "words"
    assert programs.run("sh", "-c", "echo $LC_ALL") == "C\n"


@pytest.mark.parametrize(("name", "package"), [("partclone.zfs", "partclone"), ("no-such-program", "no-such-program")])
def test_a_missing_program_is_named_with_its_package(name: str, package: str) -> None:
    with pytest.raises(programs.ProgramMissing, match=f"{name} is not installed .Debian package {package}"):
        programs.run(name)
    with pytest.raises(programs.ProgramMissing):
        programs.require("sh", name)


def test_a_failure_carries_status_and_last_words() -> None:
    with pytest.raises(programs.ProgramFailed, match="sh ended with status 3: it is broken") as failed:
        programs.run("sh", "-c", "echo first; echo it is broken >&2; exit 3")
    assert (failed.value.status, failed.value.output) == (3, "it is broken")
    assert programs.run("sh", "-c", "echo fine; exit 3", good=(3,)) == "fine\n"


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_TIMEOUT_S", 0.01)
    with pytest.raises(programs.ProgramFailed, match="sleep did not end"):
        programs.run("sleep", "60")


def test_a_program_gets_no_terminal() -> None:
    assert programs.run("sh", "-c", "read line || echo nothing to read") == "nothing to read\n"
