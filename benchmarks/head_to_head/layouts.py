"""Building the network of a cell, out of the lab's parts: offloads, loss, shaped links."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.head_to_head.machine import run_command
from benchmarks.head_to_head.scene import Cell
from tests.lab.network import Bridge, DirectLink, Host

LAB_PROGRAMS = (
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("unshare", "util-linux"),
    ("git", "git"),
)


@contextlib.contextmanager
def built(cell: Cell) -> Iterator[DirectLink | Bridge]:
    """Build the lab's network: all traffic of all tools stays inside."""
    network: DirectLink | Bridge
    if cell.layout == "direct":
        network = DirectLink(mtu=cell.mtu, offloads=cell.offloads)
    else:
        network = Bridge(cell.receivers, mtu=cell.mtu, offloads=cell.offloads)
    with network:
        for host in network.hosts:
            if not cell.offloads:
                # The lab cuts UDP; here TCP must not pass in batches either.
                features = ("tso", "off", "gso", "off", "gro", "off")
                run_command("ip", "netns", "exec", host.namespace, "ethtool", "-K", host.interface, *features)
            if cell.rate_mbit:
                _shape(host, cell.rate_mbit)
                if isinstance(network, Bridge):
                    network.set_rate(host, cell.rate_mbit * 1_000_000)
        if isinstance(network, Bridge):
            # Without loss as well: the rule that drops costs a tenth of a sender's processor time, whatever it drops.
            for host in network.receivers:
                network.set_loss(host, cell.loss)
        yield network


def _shape(host: Host, rate_mbit: int) -> None:
    """Let a host send no faster, with the queue of an ordinary slow card: a thousand packets, which are 50 ms or so."""
    shaper = f"tc qdisc replace dev {host.interface} root tbf rate {rate_mbit}mbit burst 128kb latency 50ms"
    run_command("ip", "netns", "exec", host.namespace, *shaper.split())
