"""A plot is a file of the format that its name promises, and a name that promises none is refused beforehand."""

from __future__ import annotations

import pathlib

import pytest

from ghostcast import plot
from protocol.errors import UsageError


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("A.PNG", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_the_suffix_names_the_format(tmp_path: pathlib.Path, name: str, magic: bytes) -> None:
    figure, (upper, lower) = plot.new_figure("rate", panels=2)
    upper.plot([0, 1], [1, 2])
    lower.plot([0, 1], [2, 1])
    plot.save(figure, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


@pytest.mark.parametrize("name", ["a.pdf", "a", "missing/a.png"])
def test_a_path_that_cannot_become_a_plot_is_refused(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(UsageError):
        plot.check_path(tmp_path / name)
    assert not (tmp_path / name).exists()
