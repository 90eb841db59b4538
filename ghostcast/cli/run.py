"""What ``send`` and ``receive`` have in common: running an engine under Ctrl-C, JSON lines, report files."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from protocol.errors import UsageError

Result = TypeVar("Result")

SWITCH_INTERVAL_S = 20e-6


def run_interruptible(
    main: Callable[[], Coroutine[Any, Any, Result]],
    interrupt: Callable[[], None],
    on_enter: Callable[[], None] | None = None,
) -> Result:
    """Run a coroutine; the first SIGINT, SIGTERM or SIGHUP asks it to end, the second ends the process.

    Where somebody sits at the terminal, ``on_enter`` is called when they press Enter.
    """

    async def guarded() -> Result:
        loop = asyncio.get_running_loop()
        asked = False

        def on_signal() -> None:
            nonlocal asked
            if asked:
                os._exit(130)
            asked = True
            interrupt()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, on_signal)
        if on_enter is not None and sys.stdin is not None and sys.stdin.isatty():
            loop.add_reader(sys.stdin, _enter_pressed, on_enter)
        return await main()

    # Threads hold the interpreter for microseconds between calls that release it. With the default of 5 ms, whoever
    # wants it back after such a call waits far longer than the call took (measured: 5.4 instead of 2.5 Gbit/s).
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What exists now lives to the end: the collector need not walk it in the middle of the data.
    gc.freeze()
    return asyncio.run(guarded())


def _enter_pressed(call: Callable[[], None]) -> None:
    # A job in the background must not read the terminal: the kernel would stop it.
    if os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp() and sys.stdin.readline():
        call()


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON line on standard output."""
    print(json.dumps(value), flush=True)


def printable(text: str) -> str:
    """Return text from the network without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def check_report(path: Path | None) -> None:
    """Refuse early where the report could not be written at the end."""
    if path is None:
        return
    parent = path.absolute().parent
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"--report {path} cannot be written: its directory must exist and be writable")


def write_report(path: Path | None, report: dict[str, Any]) -> None:
    """Write the report file, whole or not at all; a failure is told, and does not hide how the run ended."""
    if path is None:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        print(f"ghostcast: the report {path} could not be written: {error.strerror}", file=sys.stderr)
        with contextlib.suppress(OSError):
            temporary.unlink()
