"""Run micro-benchmarks: ``python -m benchmarks.micro --help``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence

import benchmarks.micro
from benchmarks.micro.measuring import QUICK, SMOKE, THOROUGH, Effort, Result

NAMES = ("fec", "scatter", "hashing", "decompress", "write", "send", "receive")
"""Each a file here with a function ``measure``; its docstring says what it measures."""

_SYMBOL_SIZE_STEP = 32


def measure(names: Sequence[str], effort: Effort, symbol_size: int) -> Iterator[Result]:
    """Run some of the benchmarks, one after another."""
    for name in names:
        yield from importlib.import_module(f"benchmarks.micro.{name}").measure(effort, symbol_size)


def circumstances(symbol_size: int) -> dict[str, str | int]:
    """Return what the numbers depend on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    commit = subprocess.run(
        ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": models[0].partition(":")[2].strip() if models else platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        "symbol_size": symbol_size,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep the results; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.micro", description=(benchmarks.micro.__doc__ or "").split("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a run of seconds, not for quoting")
    parser.add_argument("--smoke", action="store_true", help="whether everything still runs: the figures mean nothing")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results to a file")
    parser.add_argument("--symbol-size", type=int, default=1440, metavar="BYTES")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.symbol_size < _SYMBOL_SIZE_STEP or options.symbol_size % _SYMBOL_SIZE_STEP:
        parser.error(f"--symbol-size is a multiple of {_SYMBOL_SIZE_STEP}")
    effort = SMOKE if options.smoke else QUICK if options.quick else THOROUGH
    about = circumstances(options.symbol_size)
    print("  ".join(f"{name}={value}" for name, value in about.items()))
    print(f"{'':10} {'':44} {'GB/s':>7} {'worst':>7} {'best':>7} {'n':>2}  {'ceiling':20} {'GB/s':>7} {'of it':>5}")
    results = []
    for result in measure(options.names or NAMES, effort, options.symbol_size):
        results.append(result)
        print(
            f"{result.benchmark:10} {result.what:44} {result.gb_per_s:7.2f} {result.worst:7.2f} {result.best:7.2f} "
            f"{result.n:2}  {result.ceiling:20} {result.ceiling_gb_per_s:7.2f} {result.of_ceiling:5.0%}",
            flush=True,
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        found = about | {"effort": effort, "results": results}
        options.json.write_text(json.dumps(found, indent=1, default=dataclasses.asdict) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
