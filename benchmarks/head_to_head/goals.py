"""What ghostcast is to reach beside its peers, held against what was measured.

Each goal looks for the cells it speaks of; those that were not measured give no verdict. A missed goal is printed as
missed and changes nothing else: speed is measured here, not asserted.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence

from benchmarks.head_to_head.figures import CellResult, FixedCost, Spread
from benchmarks.head_to_head.scene import Cell
from benchmarks.head_to_head.tools import OURS

SMALL_SIZE = 64_000_000
LARGE_SIZE = 250_000_000
"""Smaller sources say little of throughput: starting a session is most of their time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """One goal, and what was measured."""

    goal: str
    where: str
    measured: float
    wanted: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Return whether it is reached."""
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    @property
    def text(self) -> str:
        """The verdict in one line."""
        sign = "≤" if self.at_most else "≥"
        verdict = "reached" if self.reached else "MISSED"
        return f"{verdict}: {self.goal}: {self.measured:.2f} (wanted {sign} {self.wanted:g}); {self.where}"


def verdicts(
    results: Sequence[CellResult], costs: Sequence[FixedCost] = (), help_seconds: Spread | None = None
) -> list[Verdict]:
    """Return a verdict for every goal that something measured speaks of."""
    return [
        *(verdict for result in results for verdict in _of_cell(result)),
        *_under_loss(results),
        *_flat(results),
        *_sessions(costs, help_seconds),
    ]


def _of_cell(result: CellResult) -> Iterator[Verdict]:
    cell = result.cell
    if cell.rate_mbit or cell.mtu != 1500 or cell.size < LARGE_SIZE or OURS not in result.figures:
        return
    direct_to_one = cell.layout == "direct" and cell.offloads
    if direct_to_one and cell.content == "random":
        yield from _beside(result, "udpcast", 4.0)
        yield from _beside(result, "uftp", 3.0)
        if result.share_of_ceiling:
            yield Verdict("share of the raw loop", cell.text, result.share_of_ceiling.median, 0.2)
    if direct_to_one and cell.content == "filesystem":
        yield from _beside(result, "udpcast", 5.0)
        yield from _beside(result, "udpcast-zstd", 2.0)
    if cell.layout == "bridge" and not cell.offloads and cell.receivers == 4 and cell.loss == 0.01:
        peers = [name for name in ("udpcast", "udpcast-plain", "uftp") if name in result.speedups]
        if peers and cell.content == "random":
            better = min(peers, key=lambda name: result.speedups[name]["durable_seconds"].median)
            yield from _beside(result, better, 2.0)


def _beside(result: CellResult, peer: str, wanted: float) -> Iterator[Verdict]:
    if peer in result.speedups:
        measured = result.speedups[peer]["durable_seconds"].median
        yield Verdict(f"times as fast as {peer}", result.cell.text, measured, wanted)


def _under_loss(results: Sequence[CellResult]) -> Iterator[Verdict]:
    """5 % loss beside none, all else being equal."""
    for lossy in results:
        if lossy.cell.loss != 0.05 or lossy.cell.size < LARGE_SIZE:
            continue
        for clean in results:
            if _same(lossy.cell, clean.cell, loss=0.0) and OURS in lossy.figures and OURS in clean.figures:
                kept = _gbit(lossy) / _gbit(clean)
                yield Verdict("share of its lossless throughput kept at 5 % loss", lossy.cell.text, kept, 0.8)


def _same(cell: Cell, other: Cell, *, loss: float) -> bool:
    return dataclasses.replace(cell, loss=loss) == other


def _gbit(result: CellResult) -> float:
    return result.figures[OURS]["image_gbit_per_s"].median


def _flat(results: Sequence[CellResult]) -> Iterator[Verdict]:
    """Sixteen receivers beside one, on shaped links."""
    for many in results:
        if not many.cell.rate_mbit or many.cell.receivers != 16:
            continue
        for tool in (OURS, f"{OURS}-told"):
            if tool not in many.figures:
                continue
            wire = many.figures[tool]["wire_per_sent_byte"].median
            yield Verdict(f"{tool}: wire bytes / stream", many.cell.text, wire, 1.10, at_most=True)
            for one in results:
                alike = dataclasses.replace(many.cell, receivers=1, timeout_s=one.cell.timeout_s) == one.cell
                if alike and tool in one.figures:
                    times = (result.figures[tool]["durable_seconds"].median for result in (many, one))
                    ratio = next(times) / next(times)
                    busy = many.figures[tool]["busy_cores"].median
                    where = f"{many.cell.text}; {busy:.1f} cores busy, of {os.cpu_count()}"
                    yield Verdict(f"{tool}: seconds for 16 / for 1", where, ratio, 1.05, at_most=True)


def _sessions(costs: Sequence[FixedCost], help_seconds: Spread | None) -> Iterator[Verdict]:
    for cost in costs:
        if cost.tool == OURS and cost.size == SMALL_SIZE:
            yield Verdict("seconds for 64 MB", cost.network, cost.whole_seconds.median, 2.5, at_most=True)
            yield Verdict("seconds that are not data", cost.network, cost.fixed_seconds, 1.5, at_most=True)
    if help_seconds:
        yield Verdict("seconds for --help", "this machine", help_seconds.median, 0.3, at_most=True)
