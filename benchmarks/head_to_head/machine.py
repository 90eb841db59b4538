"""The machine that measures: what it has, what it lacks, who else is busy on it, and its buffer settings."""

from __future__ import annotations

import compileall
import contextlib
import datetime
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

ROOT = pathlib.Path(__file__).parents[2]

GHOSTCAST = (sys.executable, "-m", "ghostcast.cli.main")
"""As a module of this checkout, the one that the results name, whatever else is installed."""

_SOURCES = ("protocol", "receivers", "ghostcast")
"""The directories that it is made of."""

TUNED_BUFFER_SIZE = 1 << 24

_COMMAND_TIMEOUT_S = 600
_KERNEL_SETTINGS = pathlib.Path("/proc/sys/net/core")
_BUFFER_SETTINGS = ("rmem_default", "rmem_max")  # udpcast asks for no size and gets the first; UFTP up to the second

Package = tuple[str, str]
"""A program, and the Debian package that has it."""


class Unusable(Exception):
    """Nothing can be measured here and so; the message says why and what to do."""


def run_command(*command: str) -> str:
    """Return what a command prints.

    Raises:
        Unusable: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_COMMAND_TIMEOUT_S)
    if done.returncode:
        raise Unusable(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def compile_modules() -> None:
    """Compile the checkout's modules, as an installation does.

    Where Python is told to keep nothing that it compiled (``PYTHONDONTWRITEBYTECODE``), each command of a fresh
    checkout would compile them anew: 0.13 s until the first word.
    """
    for directory in _SOURCES:
        compileall.compile_dir(ROOT / directory, quiet=2)  # one that cannot be written to is as slow as it is


def describe_machine(packages: Iterable[str]) -> dict[str, object]:
    """Return what the figures depend on besides the cell."""
    model = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": run_command("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40").strip(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{name: int((_KERNEL_SETTINGS / name).read_text()) for name in _BUFFER_SETTINGS},
        "load_average": os.getloadavg(),
        "packages": {package: _version(package) for package in sorted(set(packages))},
    }


def _version(package: str) -> str:
    with contextlib.suppress(Unusable, OSError):
        return run_command("dpkg-query", "--show", "--showformat=${Version}", package)
    return "unknown"


def check_machine(programs: Iterable[Package], directory: pathlib.Path, needed: int) -> None:
    """Refuse, before anything is built, what cannot work.

    Raises:
        Unusable: no root, a program or space is missing.
    """
    if os.geteuid() != 0:
        raise Unusable("the lab needs root to make network namespaces")
    missing = sorted({package for program, package in programs if shutil.which(program) is None})
    if missing:
        names = " ".join(missing)
        raise Unusable(f"these Debian packages are missing: {names}\n  apt-get install --no-install-recommends {names}")
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise Unusable(f"{directory} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: see --directory")


def busy_cores(seconds: float) -> float:
    """Return how many cores were busy, on average, for some seconds that this process sleeps away."""
    before = busy_core_seconds()
    time.sleep(seconds)
    return (busy_core_seconds() - before) / seconds


def busy_core_seconds() -> float:
    """Return for how long the cores of this machine have been busy since it started, all added up."""
    # user nice system idle iowait irq softirq steal: all but the two idle ones
    ticks = [int(field) for field in pathlib.Path("/proc/stat").read_text().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def tuned(settings: pathlib.Path = _KERNEL_SETTINGS) -> Iterator[None]:
    """Give sockets larger receive buffers, as the manuals of udpcast and UFTP advise, and put the settings back.

    Namespaces have none of their own: the whole machine's change, so this is never done unasked.
    """
    with contextlib.ExitStack() as stack:
        for name in _BUFFER_SETTINGS:
            path = settings / name
            before = path.read_text()
            if int(before) < TUNED_BUFFER_SIZE:
                stack.callback(path.write_text, before)
                path.write_text(str(TUNED_BUFFER_SIZE))
        yield
