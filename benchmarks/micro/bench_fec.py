"""How fast are repair symbols computed and erasures undone on one core, and how far is that from copying the bytes?

GB/s of source data, one thread, over slices as the engines hold them. *near*: one slice again and again, in the level 2
cache. *far*: one slice of many, last touched long ago, as in an interleaved window. The ceiling is memcpy of the same
source bytes in the same run; the peer is the numpy fallback. ``decode`` has as many random erasures as ``h``, new ones
for every slice, and counts everything from the erasure pattern to the restored symbols.

    python benchmarks/micro/bench_fec.py [--quick] [--json] [--symbol-size 1440]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ghostcast.fec import isal
from protocol.reed_solomon import Code, Codec, Kernel, NumpyKernel, SymbolRows

SHAPES = ((64, 4), (128, 4), (128, 8), (128, 16), (128, 32))
WINDOW = 32
FAR_BYTES = 64 << 20  # twice the level 3 cache of the machines at hand
HEADER_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Result:
    """One line of the table: GB/s of source data."""

    what: str
    kernel: str
    k: int
    h: int
    gb_per_s: float
    worst: float
    best: float
    n: int
    of_memcpy: float


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure."""

    repeats: int
    seconds: float


def rates(work: Callable[[], None], work_bytes: int, effort: Effort) -> list[float]:
    """GB/s of ``repeats`` measurements of ``work``, which handles ``work_bytes``, after one that is not counted."""
    work()
    start = time.perf_counter()
    work()
    calls = max(1, int(effort.seconds / max(time.perf_counter() - start, 1e-7)))
    found = []
    for _ in range(effort.repeats):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        found.append(calls * work_bytes / (time.perf_counter() - start) / 1e9)
    return found


def encode_work(codec: Codec, h: int, symbol_size: int, slices: int) -> Callable[[], None]:
    """Encode every slice of transmit buffers [k + h, window, header + symbol], in place."""
    k = codec.code.source_symbols
    depth = min(WINDOW, slices)
    buffers = [random_bytes(k + h, depth, HEADER_SIZE + symbol_size) for _ in range(slices // depth)]
    pairs = [
        (SymbolRows(buffer[:k, number, HEADER_SIZE:]), SymbolRows(buffer[k:, number, HEADER_SIZE:]))
        for buffer in buffers
        for number in range(depth)
    ]

    def work() -> None:
        for sources, repairs in pairs:
            codec.encode(sources, repairs)

    return work


def decode_work(codec: Codec, h: int, symbol_size: int, slices: int) -> Callable[[], None]:
    """Undo ``h`` erasures in every slice of a ring [slices, k, symbol], from a pool of repair symbols."""
    k = codec.code.source_symbols
    ring, pool = random_bytes(slices, k, symbol_size), SymbolRows(random_bytes(slices * h, symbol_size))
    random = np.random.default_rng(1)
    jobs = [
        (
            SymbolRows(symbols),
            np.sort(random.permutation(k)[:h]),
            np.arange(number * h, number * h + h),
            k + np.arange(h),
        )
        for number, symbols in enumerate(ring)
    ]

    def work() -> None:
        for symbols, erased, repair_rows, repair_esis in jobs:
            codec.decode(symbols, erased, pool.take(repair_rows), repair_esis)

    return work


def copy_work(k: int, symbol_size: int, slices: int) -> Callable[[], None]:
    """Copy every slice into one buffer."""
    ring, target = random_bytes(slices, k, symbol_size), np.zeros((k, symbol_size), np.uint8)

    def work() -> None:
        for symbols in ring:
            np.copyto(target, symbols)

    return work


def random_bytes(*shape: int) -> npt.NDArray[np.uint8]:
    """Return bytes that are not all alike."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def kernels() -> dict[str, Kernel]:
    """Every kernel that works here, the fastest first, named with version and place."""
    found: dict[str, Kernel] = {}
    for library in isal.libraries():
        try:
            kernel = isal.IsalKernel(library)
        except isal.IsalUnusableError as error:
            print(error, file=sys.stderr)
            continue
        version = ".".join(map(str, kernel.version)) if any(kernel.version) else "<2.31"
        found[f"isal {version} {'wheel' if 'pyeclib' in library else 'system'}"] = kernel
    return dict(reversed(found.items())) | {"numpy": NumpyKernel()}


def measure(symbol_size: int, quick: bool) -> Iterator[Result]:
    """Yield every result."""
    every_kernel = kernels()
    effort = Effort(repeats=3, seconds=0.01) if quick else Effort(repeats=9, seconds=0.05)
    for k, h in SHAPES[1:3] if quick else SHAPES:
        code = Code(k)
        slice_bytes = k * symbol_size
        for place, slices in (("near", 1), ("far", -(-FAR_BYTES // slice_bytes // WINDOW) * WINDOW)):
            copied = rates(copy_work(k, symbol_size, slices), slices * slice_bytes, effort)
            ceiling = statistics.median(copied)
            yield Result(f"memcpy {place}", "-", k, h, ceiling, min(copied), max(copied), len(copied), 1.0)
            for name, kernel in every_kernel.items():
                if place == "far" and isinstance(kernel, NumpyKernel):
                    continue  # too slow for the caches to matter
                for what, prepare in (("encode", encode_work), ("decode", decode_work)):
                    found = rates(prepare(Codec(code, kernel), h, symbol_size, slices), slices * slice_bytes, effort)
                    middle = statistics.median(found)
                    yield Result(
                        f"{what} {place}", name, k, h, middle, min(found), max(found), len(found), middle / ceiling
                    )


def circumstances(symbol_size: int) -> dict[str, str | int]:
    """Return what the numbers depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds, not for quoting")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--symbol-size", type=int, default=1440, metavar="BYTES")
    options = parser.parse_args()
    about = circumstances(options.symbol_size)
    if options.json:
        results = [dataclasses.asdict(result) for result in measure(options.symbol_size, options.quick)]
        print(json.dumps(about | {"results": results}))
        return
    print("  ".join(f"{name}={value}" for name, value in about.items()))
    print(f"{'':12} {'kernel':20} {'k':>4} {'h':>3} {'GB/s':>8} {'worst':>8} {'best':>8} {'n':>3} {'of memcpy':>10}")
    for result in measure(options.symbol_size, options.quick):
        print(
            f"{result.what:12} {result.kernel:20} {result.k:4} {result.h:3} {result.gb_per_s:8.2f} {result.worst:8.2f}"
            f" {result.best:8.2f} {result.n:3} {result.of_memcpy:10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
