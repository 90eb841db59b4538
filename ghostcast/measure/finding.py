"""A doctor's finding: what was looked at, how it stands, and the command that mends it."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


class Grade(enum.Enum):
    """How much a finding matters."""

    FINE = "fine"
    NOTE = "note"
    """Worth knowing; a clone works."""
    WARNING = "warning"
    """A clone works, but worse than it could, or perhaps not with everybody."""
    FAULT = "fault"
    """A clone would not work."""


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    grade: Grade
    text: str
    """One plain sentence."""
    remedy: str = ""
    """The command that mends it; empty where there is nothing to mend."""

    def describe(self) -> dict[str, Any]:
        """Return what ``--json`` says of it."""
        return {
            "event": "finding",
            "check": self.name,
            "grade": self.grade.value,
            "text": self.text,
            "remedy": self.remedy,
        }


def fine(name: str, text: str) -> Check:
    """Return a finding that there is nothing to mend."""
    return Check(name, Grade.FINE, text)


def note(name: str, text: str, remedy: str = "") -> Check:
    """Return a finding that is worth knowing."""
    return Check(name, Grade.NOTE, text, remedy)


def warning(name: str, text: str, remedy: str = "") -> Check:
    """Return a finding that makes clones worse."""
    return Check(name, Grade.WARNING, text, remedy)


def fault(name: str, text: str, remedy: str = "") -> Check:
    """Return a finding that prevents clones."""
    return Check(name, Grade.FAULT, text, remedy)
