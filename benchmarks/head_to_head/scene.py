"""What is measured, and where: the words that all other files of this benchmark share."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal

from benchmarks.head_to_head.sources import Source
from tests.lab.network import Bridge, DirectLink, Host

Layout = Literal["direct", "bridge"]


class RunFailed(Exception):
    """One tool, once, did not copy the bytes in time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One combination of everything that can be chosen; all tools run in it, round after round."""

    size: int
    rounds: int
    receivers: int
    layout: Layout
    offloads: bool
    loss: float
    mtu: int
    content: str
    tools: tuple[str, ...]
    timeout_s: float
    rate_mbit: int | None = None
    """What every link is shaped to, in both directions; None for as fast as it goes."""

    @property
    def network(self) -> str:
        """The network in a few words: what cells with equal networks differ in is content and size."""
        cable = "direct" if self.layout == "direct" else f"bridge, {self.receivers} receivers"
        shaped = f", {self.rate_mbit} Mbit/s" if self.rate_mbit else ""
        return f"{cable}, {'offloads' if self.offloads else 'no offloads'}{shaped}"

    @property
    def text(self) -> str:
        """What is measured, in one line."""
        cable = "a direct link" if self.layout == "direct" else "a bridge"
        shaped = f", links of {self.rate_mbit} Mbit/s" if self.rate_mbit else ""
        return (
            f"{self.size / 1e6:g} MB ({self.content}) to {self.receivers} over {cable} "
            f"{'with' if self.offloads else 'without'} offloads, MTU {self.mtu}, loss {self.loss:.1%}{shaped}, "
            f"rounds: {self.rounds}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """Where a tool is run."""

    cell: Cell
    source: Source
    network: DirectLink | Bridge
    directory: pathlib.Path

    def target(self, host: Host) -> pathlib.Path:
        """Return where the copy of a host goes; UFTP keeps the name of the source, so all others do too."""
        return self.directory / host.name / self.source.raw.name
