"""Plots as files, PNG or SVG: one look for every command and benchmark that draws.

Knows matplotlib and nothing of what is drawn. It is imported when something is drawn, for it takes longer to load than
most commands to run; no window, display or global state is involved.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from protocol.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")

_DOTS_PER_INCH = 130
_PANEL_SIZE = (8.0, 4.2)
"""Width and height of one panel in inches."""


def check_path(path: pathlib.Path) -> pathlib.Path:
    """Return ``path`` if a plot can be written there; called before the long work whose result is drawn.

    Raises:
        UsageError: another suffix than ``.png`` or ``.svg``, or no such directory.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"a plot is written as PNG or SVG, by its suffix: {path} ends in neither .png nor .svg")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a directory: create it before a plot is written there")
    return path


def new_figure(title: str, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``panels`` axes, one below the other, with a grid and without a frame's upper right."""
    from matplotlib.figure import Figure

    width, height = _PANEL_SIZE
    figure = Figure(figsize=(width, height * panels), layout="constrained")
    figure.suptitle(title)
    all_axes = [figure.add_subplot(panels, 1, 1 + panel) for panel in range(panels)]
    for axes in all_axes:
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def save(figure: Figure, path: pathlib.Path) -> None:
    """Write the figure in the format that the suffix names.

    Raises:
        UsageError: as ``check_path``.
        OSError: the file cannot be written.
    """
    figure.savefig(check_path(path), dpi=_DOTS_PER_INCH)
