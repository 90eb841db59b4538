"""Goal: each fault that a host or a network can have is one finding with its remedy, and a good one has none.

Method: hosts made of files in a temporary directory, echo tests made by hand.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable

import pytest

from ghostcast.fec.kernel import KernelChoice
from ghostcast.measure import doctor, host
from ghostcast.measure.echo import Heard, Peer, Querier
from ghostcast.measure.finding import Check, Grade
from ghostcast.measure.host import Host, Link, Route
from ghostcast.net.interfaces import Interface
from ghostcast.net.sockets import RECEIVE_BUFFER_SIZE, ReceiveBuffer
from protocol.reed_solomon import NumpyKernel

ETH0 = Interface("eth0", "10.0.0.5", 1500, 0, "", False, True)
LOOPBACK = Interface("lo", "127.0.0.1", 65536, 0, "", True, True)
ALL_WAYS = {(True, True), (True, False), (False, True), (False, False)}

ROUTES = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth1 00000000 0100000A 0003 0 0 100 00000000 0 0 0
eth0 00000000 0100000A 0003 0 0 50 00000000 0 0 0
eth0 0000000A 00000000 0001 0 0 0 00FFFFFF 0 0 0
"""
MULTICAST = "eth1 000000E0 00000000 0001 0 0 0 000000F0 0 0 0\n"
IGMP = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
2\teth0      :     1      V2
\t\t\t\t010000E0     1 0:00000000\t\t0
"""


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A host with two interfaces, of which eth0 is well and eth1 is down."""
    files = {
        "sys/class/net/eth0/flags": "0x1003",
        "sys/class/net/eth0/carrier": "1",
        "sys/class/net/eth0/mtu": "1500",
        "sys/class/net/eth1/flags": "0x1002",
        "sys/class/net/eth1/mtu": "1500",
        "sys/class/net/lo/flags": "0x9",
        "sys/class/net/lo/mtu": "65536",
        "proc/net/route": ROUTES,
        "proc/net/igmp": IGMP.replace("V2", "V3"),
        "proc/sys/net/core/wmem_max": str(16 << 20),
        "proc/sys/net/ipv4/igmp_max_memberships": "20",
        "proc/sys/net/ipv4/conf/all/force_igmp_version": "0",
        "proc/sys/net/ipv4/conf/eth0/force_igmp_version": "0",
        "proc/sys/net/ipv4/conf/all/rp_filter": "0",
        "proc/sys/net/ipv4/conf/eth0/rp_filter": "2",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
    }
    write(tmp_path, files)
    return tmp_path


def write(root: pathlib.Path, files: dict[str, str]) -> Host:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return Host(root)


def worst(checks: Iterable[Check]) -> Grade:
    order = list(Grade)
    return max((check.grade for check in checks), key=order.index)


def said(checks: Iterable[Check]) -> str:
    return "\n".join(f"{check.text} -> {check.remedy}" for check in checks)


def test_what_a_host_says_is_read(root: pathlib.Path) -> None:
    here = Host(root)
    assert here.links() == [
        Link("eth0", True, True, True, 1500),
        Link("eth1", False, None, True, 1500),
        Link("lo", True, None, False, 65536),
    ]
    assert here.multicast_route("239.255.71.67") == Route("eth0", "default")
    assert here.igmp_version("eth0") == "V3"
    assert here.igmp_version("eth7") is None
    assert here.interface_setting("eth0", "rp_filter") == 2
    assert here.setting("net.core.nosuch") is None
    write(root, {"proc/net/route": ROUTES + MULTICAST})
    assert here.multicast_route("239.255.71.67") == Route("eth1", "224.0.0.0/4")
    assert Host(root / "nowhere").multicast_route("239.255.71.67") is None
    assert Host(root / "nowhere").links() == []


def test_a_command_that_is_missing_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert Host.nft_rules() is None
    assert Host.iptables_rules() is None
    monkeypatch.setattr(host, "_ask", lambda *_command: "no json")
    assert Host.nft_rules() is None


@pytest.mark.parametrize(
    ("wish", "why"), [("eth0", "--interface names it"), (None, "the route for multicast (default)")]
)
def test_the_choice_is_explained(root: pathlib.Path, wish: str | None, why: str) -> None:
    checks = doctor.check_interface(Host(root), ETH0, wish)
    assert worst(checks) is Grade.FINE
    assert why in said(checks)


def test_loopback_for_want_of_another_is_a_fault(root: pathlib.Path) -> None:
    checks = doctor.check_interface(Host(root), LOOPBACK, None)
    assert "ip link set eth1 up" in said(checks)
    assert "ip address add ADDRESS/PREFIX brd + dev eth0" in said(checks)
    assert worst(checks) is Grade.FAULT
    assert worst(doctor.check_interface(Host(root), LOOPBACK, "lo")) is Grade.FINE


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [("carrier", "0", "no carrier"), ("flags", "0x3", "ip link set dev eth0 multicast on")],
)
def test_a_link_that_does_not_carry(root: pathlib.Path, file: str, text: str, words: str) -> None:
    checks = doctor.check_interface(write(root, {f"sys/class/net/eth0/{file}": text}), ETH0, None)
    assert worst(checks) is Grade.FAULT
    assert words in said(checks)


@pytest.mark.parametrize(
    ("wish", "reason", "words"),
    [
        ("eth1", "interface eth1 is down", "ip link set eth1 up"),
        ("eth0", "there is no interface 'eth0' with an address", "ip address add ADDRESS/PREFIX brd + dev eth0"),
        ("eth9", "there is no interface 'eth9'", "eth9"),
        (None, "there is no interface with an IPv4 address", "ip address add"),
        (None, "no route says which of eth0, eth1 leads there", "--interface IF"),
    ],
)
def test_no_interface_to_use(root: pathlib.Path, wish: str | None, reason: str, words: str) -> None:
    checks = doctor.check_no_interface(Host(root), wish, reason)
    assert worst(checks) is Grade.FAULT
    assert words in said(checks)


def test_routes(root: pathlib.Path) -> None:
    assert doctor.check_route(Host(root), ETH0).grade is Grade.FINE
    assert doctor.check_route(Host(root), LOOPBACK).grade is Grade.FINE
    elsewhere = doctor.check_route(write(root, {"proc/net/route": ROUTES + MULTICAST}), ETH0)
    assert (elsewhere.grade, elsewhere.remedy) == (Grade.NOTE, "ip route replace 224.0.0.0/4 dev eth0")
    none = doctor.check_route(write(root, {"proc/net/route": ""}), ETH0)
    assert (none.grade, none.remedy) == (Grade.NOTE, "ip route add 224.0.0.0/4 dev eth0")


def test_igmp(root: pathlib.Path) -> None:
    heard = Heard(queriers={Querier("10.0.0.1", 3)}, queries_visible=True)
    assert "10.0.0.1 (IGMPv3)" in said(doctor.check_igmp(Host(root), ETH0, heard))
    assert "no IGMP querier was heard" in said(doctor.check_igmp(Host(root), ETH0, Heard(queries_visible=True)))
    assert "only root" in said(doctor.check_igmp(Host(root), ETH0, Heard()))
    assert "heard lately" in said(doctor.check_igmp(write(root, {"proc/net/igmp": IGMP}), ETH0, Heard()))
    assert doctor.check_igmp(Host(root), LOOPBACK, Heard()) == []
    assert doctor.check_memberships(Host(root)) == []
    none = doctor.check_memberships(write(root, {"proc/sys/net/ipv4/igmp_max_memberships": "0"}))
    assert worst(none) is Grade.FAULT
    forced = write(root, {"proc/sys/net/ipv4/conf/all/force_igmp_version": "2"})
    assert "version 2 is forced" in said(doctor.check_igmp(forced, ETH0, Heard()))


@pytest.mark.parametrize(
    ("mtu", "grade"),
    [(1500, Grade.FINE), (9000, Grade.FINE), (1428, Grade.FINE), (1427, Grade.FAULT), (100, Grade.FAULT)],
)
def test_mtu(mtu: int, grade: Grade) -> None:
    assert doctor.check_mtu(dataclasses.replace(ETH0, mtu=mtu)).grade is grade


def test_buffers(root: pathlib.Path) -> None:
    assert worst(doctor.check_buffers(Host(root), ReceiveBuffer(RECEIVE_BUFFER_SIZE))) is Grade.FINE
    capped = doctor.check_buffers(Host(root), ReceiveBuffer(212_992))
    assert capped[0].grade is Grade.WARNING
    assert capped[0].remedy == f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER_SIZE}"
    small = write(root, {"proc/sys/net/core/wmem_max": "212992"})
    assert "sysctl -w net.core.wmem_max" in said(doctor.check_buffers(small, None))


def test_fast_paths() -> None:
    good = KernelChoice(NumpyKernel(), "libisal", None)
    assert worst(doctor.check_offloads(True, True, good)) is Grade.FINE
    checks = doctor.check_offloads(False, True, KernelChoice(NumpyKernel(), "numpy", "no ISA-L here"))
    assert worst(checks) is Grade.WARNING
    assert "lacks UDP segmentation (GSO)" in said(checks)
    assert doctor.probe_buffer().granted > 0
    assert len(doctor.probe_offloads()) == 2


def test_reverse_path_filter(root: pathlib.Path) -> None:
    two = [Link(name, True, True, True, 1500) for name in ("eth0", "eth1")]
    assert doctor.check_path_filter(Host(root), ETH0, two) is None
    strict = write(root, {"proc/sys/net/ipv4/conf/eth0/rp_filter": "1"})
    found = doctor.check_path_filter(strict, ETH0, two)
    assert found is not None
    assert "rp_filter=2" in found.remedy
    assert doctor.check_path_filter(strict, ETH0, two[:1]) is None


def test_clock(root: pathlib.Path) -> None:
    assert doctor.check_clock(Host(root), 2e9).grade is Grade.FINE
    assert doctor.check_clock(Host(root), 0).grade is Grade.WARNING
    slow = write(root, {"sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet"})
    assert doctor.check_clock(slow, 2e9).grade is Grade.NOTE


def test_the_loop() -> None:
    assert doctor.check_loop(ETH0, Heard(loop=True)).grade is Grade.FINE
    assert doctor.check_loop(ETH0, Heard()).grade is Grade.FAULT
    refused = doctor.check_loop(ETH0, Heard(refused="Network is unreachable"))
    assert "Network is unreachable" in refused.text


def peer(ways: set[tuple[bool, bool]], *, large: bool = True, ahead_ns: int = 0, asked_us: bool = False) -> Heard:
    sizes = {(True, 60), *([(True, 1472)] if large else [])}
    one = Peer("10.0.0.7", "r7", 1500, ways, set(sizes), set(sizes), ahead_ns, asked_us)
    return Heard(peers={one.address: one}, loop=True)


@pytest.mark.parametrize(
    ("heard", "grade", "words"),
    [
        (Heard(), Grade.NOTE, "no other host took part"),
        (peer(ALL_WAYS), Grade.FINE, "multicast and unicast pass in both directions"),
        (peer({(False, True), (False, False)}), Grade.FAULT, "our multicast does not reach r7"),
        (peer({(True, False), (False, False)}), Grade.FAULT, "multicast of r7 (10.0.0.7) does not reach this host"),
        (peer({(True, True), (True, False)}), Grade.FAULT, "our unicast does not reach it"),
        (peer({(True, True), (False, True)}), Grade.FAULT, "its unicast does not reach us"),
        (peer(set(), asked_us=True), Grade.FAULT, "hears nothing from here"),
        (peer(ALL_WAYS, large=False), Grade.FAULT, "multicast of 1500 bytes, which fills the MTU"),
        (peer(ALL_WAYS, ahead_ns=-90 * 10**9), Grade.NOTE, "differs by 90 s"),
    ],
)
def test_peers(heard: Heard, grade: Grade, words: str) -> None:
    checks = doctor.check_peers(ETH0, heard, 1472, None)
    assert worst(checks) is grade
    assert words in said(checks)


def test_the_peer_that_must_be_there_is_the_one_that_counts() -> None:
    (absent,) = doctor.check_peers(ETH0, peer({(True, True)}), 1472, "10.0.0.99")
    assert (absent.name, absent.grade) == ("peer", Grade.FAULT)
    heard = peer(ALL_WAYS)
    heard.peers[ETH0.address] = Peer(ETH0.address, ways={(True, True)})
    assert worst(doctor.check_peers(ETH0, heard, 1472, None)) is Grade.FINE
    heard.peers["10.0.0.8"] = Peer("10.0.0.8", asked_us=True)
    assert worst(doctor.check_peers(ETH0, heard, 1472, "10.0.0.7")) is Grade.FINE
    assert worst(doctor.check_peers(ETH0, heard, 1472, None)) is Grade.FAULT
