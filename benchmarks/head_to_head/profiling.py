"""Where ghostcast's time went, stage by stage: one more run in the same network, with ``--profile``.

Not one of the rounds: measuring every stage costs a little, and no peer does it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

from benchmarks.head_to_head.measuring import Run, run_once
from benchmarks.head_to_head.scene import RunFailed, Scene
from benchmarks.head_to_head.tools import OURS, TOOLS
from tests.lab.network import Host


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """The sum over all threads of one process."""

    calls: int
    seconds: float
    """Waiting for the interpreter, the kernel or the disk included."""
    processor_seconds: float
    bytes: int

    @property
    def gb_per_processor_second(self) -> float | None:
        """Return how fast one core would be if it did nothing else; None for a stage that no bytes pass through."""
        return self.bytes / self.processor_seconds / 1e9 if self.bytes and self.processor_seconds else None


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """The stages of both sides, by name."""

    run: Run
    sender: dict[str, Stage]
    receivers: tuple[dict[str, Stage], ...]
    """In the order of the hosts."""


def profile(scene: Scene) -> Profile:
    """Run ghostcast once, with the stages of every process measured.

    Raises:
        RunFailed: it failed, or reported no stages.
    """

    def report(host: Host) -> pathlib.Path:
        return scene.directory / f"{host.name}.report.json"

    def reported(host: Host) -> list[str]:
        return ["--profile", "--report", str(report(host))]

    ours = TOOLS[OURS]
    receive = ours.receive
    assert receive is not None
    tool = dataclasses.replace(
        ours,
        name=f"{OURS} --profile",
        send=lambda scene: [*ours.send(scene), *reported(scene.network.sender)],
        receive=lambda scene, host: [*receive(scene, host), *reported(host)],
    )
    run = run_once(tool, scene, 0)
    return Profile(
        run=run,
        sender=_stages(report(scene.network.sender)),
        receivers=tuple(_stages(report(host)) for host in scene.network.receivers),
    )


def _stages(report: pathlib.Path) -> dict[str, Stage]:
    try:
        found = json.loads(report.read_text())["stages"]
        return {name: Stage(**stage) for name, stage in found.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFailed(f"{report.name} tells of no stages: {error!r}") from error
