"""What the kernel can carry on this network at all: batches by multicast, no disk, no code, no protocol.

The ceiling that ghostcast is held against, measured in the same network, in turn with the tools. The loop itself is
``benchmarks.raw_loop``; this runs one sender and one listener on every receiver of the cell.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from benchmarks.head_to_head.children import Child, Children
from benchmarks.head_to_head.scene import RunFailed
from tests.lab.network import Bridge, DirectLink

NAME = "raw loop"
SECONDS = 1.0
_START_TIMEOUT_S = 30
_GROUP, _PORT = "239.195.1.1", "7990"
_HEADERS_SIZE = 28  # IPv4 and UDP


@dataclasses.dataclass(frozen=True, slots=True)
class Ceiling:
    """One run of the loop."""

    round: int
    gbit_per_s: float
    """UDP payload that the slowest listener got, from its first to its last datagram."""
    sent_gbit_per_s: float
    lost: float
    """Share of what was sent that the slowest listener did not get."""


def measure(network: DirectLink | Bridge, mtu: int, number: int, seconds: float = SECONDS) -> Ceiling:
    """Run the loop once.

    Raises:
        RunFailed: a process failed, or heard nothing.
    """
    with Children() as children:
        common = (_GROUP, _PORT)
        loop = (sys.executable, "-m", "benchmarks.raw_loop")
        listeners = [children.start(host, [*loop, "listen", *common, host.address]) for host in network.receivers]
        children.until(lambda: all(b"ready" in child.said for child in listeners), "listeners ready", _START_TIMEOUT_S)
        how = ("--size", str(mtu - _HEADERS_SIZE), "--seconds", str(seconds))
        sender = children.start(network.sender, [*loop, "send", *common, network.sender.address, *how])
        everybody = [sender, *listeners]
        children.until(
            lambda: all(child.ended_s is not None for child in everybody), "loop ended", seconds + _START_TIMEOUT_S
        )
        sent = _said(sender)
        heard = [_said(child) for child in listeners]
    slowest = min(heard, key=lambda listener: listener["bytes"] / listener["seconds"])
    return Ceiling(
        round=number,
        gbit_per_s=slowest["bytes"] * 8e-9 / slowest["seconds"],
        sent_gbit_per_s=sent["bytes"] * 8e-9 / sent["seconds"],
        lost=max(0.0, 1 - slowest["bytes"] / sent["bytes"]),
    )


def _said(child: Child) -> dict[str, float]:
    try:
        said: dict[str, float] = json.loads(child.said.splitlines()[-1])
    except (IndexError, ValueError):
        raise RunFailed(
            f"{child.name} said nothing of what it measured: {child.said.decode(errors='replace')}"
        ) from None
    if not said["bytes"]:
        raise RunFailed(f"{child.name} got nothing")
    return said
