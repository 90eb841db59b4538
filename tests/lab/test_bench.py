"""``ghostcast bench`` on a real kernel: what is planted in the network is what it reports.

Goal: loss, limits, bursts and the place of loss (network or host) are measured as they are, at several receivers at
once. Method: one switch whose ports each have another fault; fixed rates where a figure is checked, the sweep where a
limit is to be found.
"""

from __future__ import annotations

import json
import pathlib
import signal
import time
from typing import Any

import pytest

from tests.lab.network import Bridge, DirectLink, Host
from tests.lab.processes import Process, Processes
from tests.lab.sessions import GHOSTCAST

pytestmark = pytest.mark.lab


class Bench:
    """Starts the two sides of one measurement."""

    def __init__(self, commands: Processes, directory: pathlib.Path, name: str = "lab") -> None:
        self._commands = commands
        self._directory = directory
        self._name = name

    def start(self, host: Host, verb: str, *options: str) -> Process:
        common = ("--session", self._name, "--interface", host.interface, "--json", *options)
        report = ("--report", str(self.report_path(host)))
        return self._commands.start(host, [GHOSTCAST, "bench", verb, *common, *report], name=f"{host.name}-bench")

    def report_path(self, host: Host) -> pathlib.Path:
        return self._directory / f"{host.name}.report.json"

    def measure(self, sender: Host, receivers: tuple[Host, ...], *options: str) -> dict[str, Any]:
        """Run a whole measurement and return what the measuring side found."""
        listeners = [self.start(host, "receive") for host in receivers]
        measuring = self.start(sender, "send", "--receivers", str(len(receivers)), *options)
        measuring.expect(0, timeout_s=90)
        for listener in listeners:
            listener.expect(0, timeout_s=10)
        result: dict[str, Any] = measuring.await_event("result")
        return result


def receiver(result: dict[str, Any], host: Host) -> dict[str, Any]:
    """Return what a result says of one receiver."""
    found: dict[str, Any] = next(one for one in result["receivers"] if one["host"] == host.name)
    return found


def runs(result: dict[str, Any], host: Host) -> list[int]:
    """Return the histogram of loss runs of one receiver, over all rates."""
    steps = [step["receivers"][host.name]["runs"] for step in result["steps"] if not step["probe"]]
    return [sum(column) for column in zip(*steps, strict=True)]


def test_each_receivers_own_fault_is_found(commands: Processes, tmp_path: pathlib.Path) -> None:
    with Bridge(3, offloads=False) as bridge:
        clean, lossy, shaped = bridge.receivers
        bridge.set_loss(lossy, 0.01)
        bridge.set_rate(shaped, 40_000_000)
        result = Bench(commands, tmp_path).measure(bridge.sender, bridge.receivers, "--sweep", "10Mbit:80Mbit")
    # 40 Mbit/s of Ethernet frames are 39 of UDP payload; the switch's queue hides an excess of a few percent.
    assert 35e6 < receiver(result, shaped)["loss_free_bits_per_s"] < 43e6
    assert receiver(result, clean)["failed_bits_per_s"] is None
    assert receiver(result, clean)["lost_network"] == 0
    assert receiver(result, lossy)["loss_free_bits_per_s"] is None
    assert receiver(result, lossy)["failed_bits_per_s"] is None
    assert 0.006 < receiver(result, lossy)["background_loss"] < 0.014
    assert sum(runs(result, lossy)[1:]) < 0.1 * sum(runs(result, lossy))
    assert result["suggestion"]["slowest"] == shaped.name
    assert result["suggestion"]["fec"] >= 3
    report = json.loads((tmp_path / "sender.report.json").read_text())
    assert report["status"] == 0
    assert report["receivers"] == result["receivers"]


def test_bursts_and_the_hosts_own_drops_are_told_from_the_networks(commands: Processes, tmp_path: pathlib.Path) -> None:
    with Bridge(2, offloads=True) as bridge:
        bursty, small = bridge.receivers
        bridge.set_loss(bursty, 0.05)  # a batch crosses this switch as one packet, and is lost as one
        bench = Bench(commands, tmp_path)
        listeners = [bench.start(bursty, "receive"), bench.start(small, "receive", "--receive-buffer", "8KiB")]
        measuring = bench.start(
            bridge.sender, "send", *("--receivers", "2", "--rates", "150Mbit", "--step", "2", "--symbol-size", "1440")
        )
        measuring.await_event("stepping")
        # However fast this machine is: several times nobody fetches for a while, and 8 KiB hold nothing of it.
        for _pause in range(4):
            listeners[1].send_signal(signal.SIGSTOP)
            time.sleep(0.25)
            listeners[1].send_signal(signal.SIGCONT)
            time.sleep(0.25)
        measuring.expect(0, timeout_s=60)
        for listener in listeners:
            listener.expect(0, timeout_s=10)
        result = measuring.await_event("result")
    assert sum(runs(result, bursty)[4:]) > 0.9 * sum(runs(result, bursty)) > 0
    assert receiver(result, bursty)["lost_host"] == 0
    assert any("bursts" in finding["text"] and bursty.name in finding["text"] for finding in result["findings"])
    assert receiver(result, small)["lost_host"] > 0
    assert receiver(result, small)["lost_network"] < 0.05 * receiver(result, small)["lost_host"]
    assert any("in the host" in finding["text"] and small.name in finding["text"] for finding in result["findings"])


def test_a_switch_that_carries_only_small_datagrams_is_found(commands: Processes, tmp_path: pathlib.Path) -> None:
    with Bridge(2, mtu=9000, offloads=False) as bridge:
        narrow, wide = bridge.receivers
        bridge.set_mtu(narrow, 1500)
        result = Bench(commands, tmp_path).measure(
            bridge.sender, bridge.receivers, "--rates", "20Mbit", "--step", "0.3", "--plot", str(tmp_path / "loss.svg")
        )
    probe = result["steps"][0]
    assert (probe["probe"], probe["symbol_size"]) == (True, 8928)
    assert probe["receivers"][narrow.name]["received"] == 0
    assert probe["receivers"][wide.name]["loss"] == 0
    assert result["symbol_size"] == result["suggestion"]["symbol_size"] == 1440
    assert any("8928" in finding["text"] and narrow.name in finding["text"] for finding in result["findings"])
    assert "<svg" in (tmp_path / "loss.svg").read_text()


def test_an_interrupt_ends_both_sides(commands: Processes, tmp_path: pathlib.Path) -> None:
    with DirectLink() as link:
        bench = Bench(commands, tmp_path)
        listener = bench.start(link.receiver, "receive")
        measuring = bench.start(link.sender, "send", "--receivers", "1", "--rates", "20Mbit", "--step", "60")
        measuring.await_event("stepping")
        measuring.send_signal(signal.SIGINT)
        measuring.expect(130, timeout_s=10)
        listener.expect(4, timeout_s=10)
    assert json.loads((tmp_path / "sender.report.json").read_text())["status"] == 130
