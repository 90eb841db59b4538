"""How far long work on an image is: a bar for people, JSON lines for programs, nothing where nobody looks."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from ghostcast.cli.run import print_json

if TYPE_CHECKING:
    from ghostcast.image.pipeline import Progress

JSON_INTERVAL_S = 1.0


@contextlib.contextmanager
def show_progress(action: str, raw_size: int | None, json_lines: bool) -> Generator[Progress | None, None, None]:
    """Give a callback that shows how far it is: JSON lines, a bar on a terminal, or nothing."""
    if json_lines:
        yield _json_progress(action, raw_size)
        return
    if not sys.stderr.isatty():
        yield None
        return
    with show_bar(action, raw_size) as advance:
        yield lambda raw_done, _stored_done: advance(raw_done)


@contextlib.contextmanager
def show_bar(title: str, total: int | None, *, quiet: bool = False) -> Generator[Callable[[float], None], None, None]:
    """Give a function that shows progress towards ``total`` bytes on a terminal, and does nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def _json_progress(action: str, raw_size: int | None) -> Progress:
    due = time.monotonic() + JSON_INTERVAL_S

    def show(raw_done: int, stored_done: int) -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + JSON_INTERVAL_S
        print_json(
            {
                "event": "progress",
                "action": action,
                "raw_bytes": raw_done,
                "raw_bytes_total": raw_size,
                "stored_bytes": stored_done,
            }
        )

    return show
