"""Which cells are measured: one by hand, or a list that answers a question."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.head_to_head.scene import Cell, Layout

PEERS = ("ghostcast", "udpcast", "uftp", "tcp")
PEERS_PACKED = ("ghostcast", "udpcast", "udpcast-zstd", "udpcast-image", "uftp", "tcp")
"""For contents that can be compressed."""

FLAT_TOOLS = ("ghostcast", "ghostcast-told", "udpcast", "uftp")
SESSION_TOOLS = ("ghostcast", "udpcast", "udpcast-plain", "uftp", "tcp")

LOSSES = (0.0, 0.001, 0.01, 0.05)
FLAT_RECEIVERS = (1, 2, 4, 8, 16)
FLAT_RATE_MBIT = 200
SESSION_SIZES = (64_000_000, 512_000_000)

_SLOWEST_BYTES_PER_S = 10_000_000  # a run that is slower, to one receiver after another, is ended as hung


def make_cell(
    *,
    size: int,
    rounds: int,
    tools: tuple[str, ...] | None = None,
    receivers: int = 1,
    layout: Layout = "direct",
    offloads: bool | None = None,
    loss: float = 0.0,
    mtu: int = 1500,
    content: str = "random",
    rate_mbit: int | None = None,
    timeout_s: float | None = None,
) -> Cell:
    """Return a cell; what is not given follows from what is."""
    return Cell(
        size=size,
        rounds=rounds,
        receivers=receivers,
        layout=layout,
        offloads=layout == "direct" if offloads is None else offloads,
        loss=loss,
        mtu=mtu,
        content=content,
        tools=tools or (PEERS if content == "random" else PEERS_PACKED),
        timeout_s=timeout_s or 60 + size * receivers / _SLOWEST_BYTES_PER_S,
        rate_mbit=rate_mbit,
    )


def quick(options: argparse.Namespace) -> list[Cell]:
    """Return the cells that every goal but the flat curve's and the sessions' speaks of."""
    size, rounds, tools = options.size or 256_000_000, options.rounds or 3, options.tools
    return [
        make_cell(size=size, rounds=rounds, tools=tools),
        make_cell(size=size, rounds=rounds, tools=tools, content="filesystem"),
        *(
            make_cell(size=size, rounds=rounds, tools=tools, receivers=4, layout="bridge", loss=loss)
            for loss in (0.0, 0.01, 0.05)
        ),
    ]


def full(options: argparse.Namespace) -> list[Cell]:
    """Return the whole cross product, less what says the same again.

    Large packets and the file system are looked at on the direct link and on one bridge, without and with loss; what
    they change there, they change in the others.
    """
    size, rounds, tools = options.size or 1_000_000_000, options.rounds or 3, options.tools
    direct = [
        make_cell(size=size, rounds=rounds, tools=tools, content=content, mtu=mtu)
        for content in ("random", "filesystem")
        for mtu in (1500, 9000)
    ]
    bridged = [
        make_cell(size=size // 2, rounds=rounds, tools=tools, receivers=receivers, layout="bridge", loss=loss)
        for receivers in (1, 4, 8)
        for loss in LOSSES
    ]
    others = [
        make_cell(
            size=size // 2,
            rounds=rounds,
            tools=tools,
            receivers=4,
            layout="bridge",
            loss=loss,
            content=content,
            mtu=mtu,
        )
        for content, mtu in (("filesystem", 1500), ("random", 9000))
        for loss in (0.0, 0.01)
    ]
    return [*direct, *bridged, *others]


def flat(options: argparse.Namespace) -> list[Cell]:
    """Return more and more receivers on links of one speed, each with its own loss."""
    size, rounds = options.size or 200_000_000, options.rounds or 3
    return [
        make_cell(
            size=size,
            rounds=rounds,
            tools=options.tools or FLAT_TOOLS,
            receivers=receivers,
            layout="bridge",
            loss=0.01,
            rate_mbit=FLAT_RATE_MBIT,
        )
        for receivers in FLAT_RECEIVERS
    ]


def sessions(options: argparse.Namespace) -> list[Cell]:
    """Return a small image and a larger one, to four who wait, with and without offloads."""
    rounds = options.rounds or 5
    sizes = (options.size, options.size * 8) if options.size else SESSION_SIZES
    return [
        make_cell(
            size=size,
            rounds=rounds,
            tools=options.tools or SESSION_TOOLS,
            receivers=4,
            layout="bridge",
            offloads=offloads,
        )
        for offloads in (True, False)
        for size in sizes
    ]


MATRICES: dict[str, Callable[[argparse.Namespace], list[Cell]]] = {
    "quick": quick,
    "full": full,
    "flat": flat,
    "sessions": sessions,
}
