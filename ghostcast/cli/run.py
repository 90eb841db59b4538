"""What ``send`` and ``receive`` have in common: running an engine under Ctrl-C, JSON lines, report files."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from protocol import limits
from protocol.errors import ExitStatus, GhostcastError, UsageError

Result = TypeVar("Result")

SWITCH_INTERVAL_S = 100e-6


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Load modules meanwhile, which live to the end: to look for garbage in them takes a twelfth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_interruptible(
    main: Callable[[], Coroutine[Any, Any, Result]],
    interrupt: Callable[[], None],
    on_enter: Callable[[], None] | None = None,
) -> Result:
    """Run a coroutine; the first SIGINT, SIGTERM or SIGHUP asks it to end, the second ends the process.

    Where somebody sits at the terminal, ``on_enter`` is called when they press Enter.
    """
    import asyncio  # 45 ms, which --help and the commands about images need not wait for

    async def guarded() -> Result:
        loop = asyncio.get_running_loop()
        asked = False

        def on_signal() -> None:
            nonlocal asked
            if asked:
                # Whatever was drawing is not asked any more, so the terminal gets its cursor back from here.
                with contextlib.suppress(OSError):
                    os.write(2, b"\x1b[?25h\n" if os.isatty(2) else b"")
                os._exit(130)
            asked = True
            interrupt()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and background jobs of scripts
                loop.add_signal_handler(number, on_signal)
        if on_enter is not None and sys.stdin is not None and sys.stdin.isatty():
            loop.add_reader(sys.stdin, _enter_pressed, on_enter)
        return await main()

    # Threads hold the interpreter for microseconds between calls that release it. With the default of 5 ms, whoever
    # wants it back after such a call waits far longer than the call took (measured: 5.4 instead of 2.5 Gbit/s).
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What exists now lives to the end: the collector need not walk it in the middle of the data.
    gc.freeze()
    gc.enable()  # where this is called while a command is still ``loading``
    return asyncio.run(guarded())


def _enter_pressed(call: Callable[[], None]) -> None:
    # A job in the background must not read the terminal: the kernel would stop it. Not to read and to go on listening
    # would be a loop without a pause, so a job that was in the background once is started by hand no more.
    foreground = os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    if foreground and sys.stdin.readline():
        call()
    else:
        import asyncio

        asyncio.get_running_loop().remove_reader(sys.stdin)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON line on standard output."""
    print(json.dumps(value), flush=True)


def say_json(value: dict[str, Any]) -> None:
    """Print one JSON line on standard output; a reader that left, or a full disk there, ends no session."""
    with contextlib.suppress(OSError, ValueError):
        print_json(value)


def say(text: str) -> None:
    """Print one line for people on standard error; a terminal that is gone ends no session."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return text from the network without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def check_session_name(name: str | None) -> None:
    """Refuse a session name that could not be announced, or not be shown."""
    if name is not None and not (name.isprintable() and 1 <= len(name.encode()) <= limits.NAME_LENGTH_MAX):
        raise UsageError(f"a session name has 1 to {limits.NAME_LENGTH_MAX} printable characters, in bytes of UTF-8")


def failure_status(failure: BaseException) -> ExitStatus:
    """Return the exit status that ``main`` gives an exception, for the report."""
    if isinstance(failure, GhostcastError):
        return failure.exit_status
    return ExitStatus.INTERRUPTED if isinstance(failure, KeyboardInterrupt) else ExitStatus.INTERNAL


def begin_report(path: Path | None, others: list[Path]) -> None:
    """Refuse early where the report could not be written at the end, and remove what an earlier run wrote there.

    Args:
        path: where ``--report`` points.
        others: the image or the target, which a report must not replace.
    """
    if path is None:
        return
    parent = path.absolute().parent
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"--report {path} cannot be written: its directory must exist and be writable")
    if any(os.path.realpath(path) == os.path.realpath(other) for other in others):
        raise UsageError(f"--report {path} would replace the image or the target itself: name another file")
    if path.is_file() and not path.is_symlink():
        # A report that is still there when this run ends without one would be taken for this run's.
        with contextlib.suppress(OSError):
            path.unlink()


def write_report(path: Path | None, report: dict[str, Any]) -> None:
    """Write the report: a file whole or not at all, anything else (a pipe, /dev/stdout) as it comes.

    A failure is told, and does not hide how the run ended.
    """
    if path is None:
        return
    text = json.dumps(report, indent=2) + "\n"
    try:
        # /dev/stdout is a link, and to a file where it is redirected; as root the link itself would be replaced.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(text)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        say(f"ghostcast: the report {path} could not be written: {error.strerror}")
