"""The kept corpus: one zip file a target, so that thousands of tiny files do not lie about."""

from __future__ import annotations

import hashlib
import pathlib
import zipfile
from collections.abc import Iterable

DIRECTORY = pathlib.Path(__file__).with_name("corpus")

KEPT_MAX = 400
"""Inputs a target: replayed in a few seconds."""

_DATE = (1980, 1, 1, 0, 0, 0)


def load(name: str) -> list[bytes]:
    """Return a target's inputs, shortest first."""
    try:
        with zipfile.ZipFile(DIRECTORY / f"{name}.zip") as kept:
            found = [kept.read(entry) for entry in kept.namelist()]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda data: (len(data), data))


def save(name: str, inputs: Iterable[bytes]) -> int:
    """Keep these inputs, the shortest if they are too many; returns how many. The same inputs give the same file."""
    chosen = sorted(set(inputs), key=lambda data: (len(data), data))[:KEPT_MAX]
    with zipfile.ZipFile(DIRECTORY / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as kept:
        for data in chosen:
            kept.writestr(zipfile.ZipInfo(hashlib.sha256(data).hexdigest()[:16], _DATE), data, zipfile.ZIP_DEFLATED)
    return len(chosen)
