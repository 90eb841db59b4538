"""How fast are repair symbols computed and erasures undone on one core, and how far is that from copying the bytes?

GB/s of source data, one thread, over slices as the engines hold them. *near*: one slice again and again, in the level 2
cache. *far*: one slice of many, last touched long ago, as in an interleaved window. The ceiling is memcpy of the same
source bytes in the same run; the peer is the numpy fallback. ``decode`` has as many random erasures as ``h``, new ones
for every slice, and counts everything from the erasure pattern to the restored symbols; as many slices are prepared
together as in the receiving engine, where there are so many.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.micro.measuring import THOROUGH, Effort, Result, random_bytes, rates
from ghostcast.fec import isal
from protocol.erasures import Erasures
from protocol.reed_solomon import Code, Codec, Kernel, NumpyKernel, SymbolRows
from receivers.ingest import DECODED_TOGETHER_MAX

SHAPES = ((64, 4), (128, 4), (128, 8), (128, 16), (128, 32))
WINDOW = 32
HEADER_SIZE = 32


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
    ring, pool = SymbolRows(random_bytes(slices * k, symbol_size)), SymbolRows(random_bytes(slices * h, symbol_size))
    random = np.random.default_rng(1)
    patterns = [np.sort(random.permutation(k)[:h]) for _ in range(slices)]

    def work() -> None:
        for first in range(0, slices, DECODED_TOGETHER_MAX):
            numbers = range(first, min(first + DECODED_TOGETHER_MAX, slices))
            erasures = Erasures(
                np.full(len(numbers), h),
                np.concatenate([patterns[number] for number in numbers]),
                np.tile(k + np.arange(h), len(numbers)),
            )
            together = [ring.run(range(number * k, number * k + k)) for number in numbers]
            codec.decode(together, pool.take(np.arange(first * h, numbers.stop * h)), erasures)

    return work


def copy_work(k: int, symbol_size: int, slices: int) -> Callable[[], None]:
    """Copy every slice into one buffer."""
    ring, target = random_bytes(slices, k, symbol_size), np.zeros((k, symbol_size), np.uint8)

    def work() -> None:
        for symbols in ring:
            np.copyto(target, symbols)

    return work


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


def measure(effort: Effort, symbol_size: int) -> Iterator[Result]:
    """Yield every result."""
    every_kernel = kernels()
    for k, h in SHAPES if effort is THOROUGH else SHAPES[1:3]:
        code = Code(k)
        slice_bytes = k * symbol_size
        for place, slices in (("near", 1), ("far", -(-effort.far_bytes // slice_bytes // WINDOW) * WINDOW)):
            copied = rates(copy_work(k, symbol_size, slices), slices * slice_bytes, effort)
            for name, kernel in every_kernel.items():
                if place == "far" and isinstance(kernel, NumpyKernel):
                    continue  # too slow for the caches to matter
                for what, prepare in (("encode", encode_work), ("decode", decode_work)):
                    found = rates(prepare(Codec(code, kernel), h, symbol_size, slices), slices * slice_bytes, effort)
                    yield Result.of("fec", f"{what} {place}, k {k}, h {h}, {name}", found, "memcpy", copied)
