"""``ghostcast doctor`` on a real kernel: each planted fault is found, named with its remedy, and decides the status.

Goal: exit status 0 only where a clone would work. Method: one switch with a querier, a host for each fault; all of them
look at once, for each takes seconds and needs no processor.
"""

from __future__ import annotations

import pathlib
import re
import signal
import subprocess

import pytest

from tests.lab.network import Bridge, Host
from tests.lab.processes import Event, Process, Processes
from tests.lab.sessions import GHOSTCAST

pytestmark = pytest.mark.lab


def inside(host: Host, *command: str) -> None:
    """Run a command on a host, to plant a fault."""
    subprocess.run(["ip", "netns", "exec", host.namespace, *command], check=True, capture_output=True)


def drop(host: Host, rule: str) -> None:
    """Have the packet filter of a host drop what comes in and matches."""
    inside(host, "nft", "add table inet lab")
    inside(host, "nft", "add chain inet lab input { type filter hook input priority 0; policy accept; }")
    inside(host, "nft", f"add rule inet lab input {rule} drop")


class Doctors:
    """Starts doctors and reads their findings."""

    def __init__(self, commands: Processes) -> None:
        self._commands = commands

    def start(self, host: Host, *options: str, before: tuple[str, ...] = ()) -> Process:
        return self._commands.start(
            host, [*before, GHOSTCAST, "doctor", "--json", *options], name=f"{host.name}-doctor"
        )


def findings(process: Process, status: int) -> list[Event]:
    """Wait for a doctor's end, and return its findings."""
    process.expect(status, timeout_s=30)
    return [event for event in process.events() if "check" in event]


def graded(found: list[Event], grade: str) -> str:
    """Return all findings of a grade as one text, with their remedies."""
    return "\n".join(f"{one['check']}: {one['text']} -> {one['remedy']}" for one in found if one["grade"] == grade)


def test_a_good_network_is_well_and_each_planted_fault_is_found(commands: Processes) -> None:
    with Bridge(9, offloads=False) as bridge:
        well, routeless, filtered, capped, down, unplugged, bare, narrow, barred = bridge.receivers
        bridge.set_querier()
        inside(routeless, "ip", "route", "del", "224.0.0.0/4")
        drop(filtered, "udp dport 7000-8000")
        inside(down, "ip", "link", "set", "eth0", "down")
        bridge.set_link(unplugged, up=False)
        inside(bare, "ip", "address", "flush", "dev", "eth0")
        inside(narrow, "ip", "link", "set", "eth0", "mtu", "1200")
        inside(barred, "sysctl", "-w", "net.ipv4.igmp_max_memberships=0")
        doctors = Doctors(commands)
        uncapped = int(pathlib.Path("/proc/sys/net/core/rmem_max").read_text()) >= 64 << 20
        without_force = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
        # Ports of their own, for doctors that hear one another speak of one another's faults.
        started = {
            host: doctors.start(host, "--port", str(7501 + place), before=without_force if host is capped else ())
            for place, host in enumerate(bridge.receivers)
        }
        found = findings(started[well], 0)
        assert graded(found, "fault") == graded(found, "warning") == ""
        assert re.search(r"querier: an IGMP querier asks .*\(IGMPv[23]\)", graded(found, "fine"))
        found = findings(started[routeless], 0)
        assert "ip route add 224.0.0.0/4 dev eth0" in graded(found, "note")
        found = findings(started[filtered], 4)
        assert "loop: multicast that is sent on eth0 is not heard" in graded(found, "fault")
        assert "nft insert rule inet lab input iifname eth0 udp dport 7503 accept" in graded(found, "fault")
        found = findings(started[capped], 0)
        assert uncapped or "receive buffer" in graded(found, "warning")
        assert uncapped or "sysctl -w net.core.rmem_max=67108864" in graded(found, "warning")
        assert "ip link set eth0 up" in graded(findings(started[down], 4), "fault")
        assert "link: eth0 has no carrier" in graded(findings(started[unplugged], 4), "fault")
        assert "ip address add ADDRESS/PREFIX brd + dev eth0" in graded(findings(started[bare], 4), "fault")
        assert "mtu: the MTU of eth0 is 1200" in graded(findings(started[narrow], 4), "fault")
        assert "igmp_max_memberships=20" in graded(findings(started[barred], 4), "fault")


def test_what_passes_between_two_hosts_is_told_direction_by_direction(commands: Processes) -> None:
    with Bridge(5, mtu=9000, offloads=False) as bridge:
        listening, well, deaf, short, alone = bridge.receivers
        drop(deaf, f"ip saddr {listening.address} ip daddr 239.0.0.0/8")
        bridge.set_mtu(short, 1500)
        doctors = Doctors(commands)
        listener = doctors.start(listening, "--listen")
        listener.await_event("listening")
        started = {host: doctors.start(host, "--peer", listening.address) for host in (well, deaf, short)}
        absent = doctors.start(alone, "--peer", "10.77.0.99")
        found = findings(started[well], 0)
        assert f"{listening.name} ({listening.address}): multicast and unicast pass in both" in graded(found, "fine")
        found = findings(started[deaf], 4)
        assert f"multicast of {listening.name} ({listening.address}) does not reach this host" in graded(found, "fault")
        found = findings(started[short], 4)
        assert "path mtu: multicast of 9000 bytes" in graded(found, "fault")
        assert "10.77.0.99 does not answer" in graded(findings(absent, 3), "fault")
        listener.send_signal(signal.SIGINT)
        heard = findings(listener, 4)
        assert f"our multicast does not reach {deaf.name} ({deaf.address})" in graded(heard, "fault")
        assert f"{well.name} ({well.address}): multicast and unicast pass" in graded(heard, "fine")
