"""Does multicast work here, and if not, which command mends it? Facts in, findings out.

Everything that is looked at is a ``Host`` (what the machine says) or a ``Heard`` (what the echo test found), so that
every fault can be shown to these functions without being had.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from ghostcast.fec.kernel import KernelChoice
from ghostcast.measure.echo import Heard, Peer
from ghostcast.measure.finding import Check, fault, fine, note, warning
from ghostcast.measure.firewall import Imagined
from ghostcast.measure.host import Host, Link
from ghostcast.net import libc, sockets
from ghostcast.net.interfaces import Interface
from protocol import limits

MTU_USUAL = 1500
MTU_MIN = limits.CONTROL_SIZE_MAX + 28
"""Below it not every control message fits."""

MEMBERSHIPS_MIN = 1
"""Groups that one socket joins."""

CLOCK_EARLIEST_S = 1_735_689_600
"""2025-01-01: a clock before it was never set."""

CLOCK_APART_NS = 2 * limits.SECOND_NS
SLOW_CLOCKS = frozenset({"acpi_pm", "hpet", "jiffies", "refined-jiffies"})


def check_interface(host: Host, chosen: Interface, wish: str | None) -> list[Check]:
    """Say which interface is used and why, and how it stands."""
    route = host.multicast_route(limits.DISCOVERY_GROUP)
    why = "it is the only one that is up"
    if wish is not None:
        why = "--interface names it"
    elif route is not None and route.interface == chosen.name:
        why = f"the route for multicast ({route.prefix}) leads over it"
    elif chosen.loopback:
        why = "there is no other: only this machine can be reached"
    found = [fine("interface", f"{chosen.name} ({chosen.address}, MTU {chosen.mtu}) is used: {why}")]
    links = host.links()
    if chosen.loopback and wish is None:
        # Loopback is taken where nothing else can be: what else there is, is what is to be mended.
        return found + [_unusable(link) for link in links if link.name != chosen.name][:4]
    link = next((one for one in links if one.name == chosen.name), None)
    if link is not None and link.carrier is False and not chosen.loopback:
        found.append(_no_carrier(chosen.name))
    elif link is not None and not link.multicast and not chosen.loopback:
        found.append(
            fault("link", f"multicast is switched off on {chosen.name}", f"ip link set dev {chosen.name} multicast on")
        )
    else:
        found.append(fine("link", f"{chosen.name} is up"))
    return found


def check_no_interface(host: Host, wish: str | None, reason: str) -> list[Check]:
    """Say why no interface could be chosen, given the reason of ``choose_interface``."""
    links = {link.name: link for link in host.links()}
    named = links.get(wish) if wish is not None else None
    if named is not None:
        return [_unusable(named)]
    idle = [link for link in links.values() if link.name != "lo"]
    if wish is None and idle and "no route" not in reason:
        return [_unusable(link) for link in idle[:4]]
    remedy = "ip route add 224.0.0.0/4 dev IF, or --interface IF" if "no route" in reason else "ip -brief address"
    return [fault("interface", reason, remedy)]


def _unusable(link: Link) -> Check:
    if not link.up:
        return fault("interface", f"interface {link.name} is down", f"ip link set {link.name} up")
    if link.carrier is False:
        return _no_carrier(link.name)
    return fault(
        "address",
        f"interface {link.name} has no IPv4 address",
        f"ip address add ADDRESS/PREFIX brd + dev {link.name}",
    )


def _no_carrier(name: str) -> Check:
    return fault("link", f"{name} has no carrier: its cable, or the switch port", f"ethtool {name}")


def check_route(host: Host, chosen: Interface) -> Check:
    """Say where the kernel would send multicast by itself."""
    route = host.multicast_route(limits.DISCOVERY_GROUP)
    remedy = f"ip route add 224.0.0.0/4 dev {chosen.name}"
    if chosen.loopback:
        return fine("route", "loopback needs no route")
    if route is None:
        return note(
            "route",
            f"no route leads to multicast groups; ghostcast names {chosen.name} itself, other tools fail",
            remedy,
        )
    if route.interface != chosen.name:
        return note(
            "route",
            f"the kernel's own route for multicast leads over {route.interface}; ghostcast uses {chosen.name}",
            f"ip route replace 224.0.0.0/4 dev {chosen.name}",
        )
    return fine("route", f"multicast leads over {route.interface} ({route.prefix})")


def check_memberships(host: Host) -> list[Check]:
    """Say whether a socket may join a group at all."""
    memberships = host.setting("net.ipv4.igmp_max_memberships")
    if memberships is None or memberships >= MEMBERSHIPS_MIN:
        return []
    text = f"sockets may join {memberships} groups here"
    return [fault("memberships", text, "sysctl -w net.ipv4.igmp_max_memberships=20")]


def check_igmp(host: Host, chosen: Interface, heard: Heard) -> list[Check]:
    """Say what is known of IGMP: versions and queriers."""
    found = []
    forced = host.interface_setting(chosen.name, "force_igmp_version")
    if forced in (1, 2):
        found.append(
            note(
                "igmp",
                f"IGMP version {forced} is forced on {chosen.name}: switches learn no sources",
                f"sysctl -w net.ipv4.conf.{chosen.name}.force_igmp_version=0",
            )
        )
    if chosen.loopback:
        return found
    in_use = host.igmp_version(chosen.name)
    if heard.queriers:
        listed = ", ".join(
            f"{querier.address} (IGMPv{querier.version})"
            for querier in sorted(heard.queriers, key=lambda one: one.address)
        )
        found.append(fine("querier", f"an IGMP querier asks for memberships: {listed}"))
    elif in_use in ("V1", "V2") and not forced:
        found.append(fine("querier", f"an IGMP querier of version {in_use[1]} was heard lately"))
    elif not heard.queries_visible:
        found.append(note("querier", "only root can see whether an IGMP querier is there", "run this as root"))
    else:
        found.append(
            note(
                "querier",
                "no IGMP querier was heard: a switch with IGMP snooping cuts multicast off after some minutes",
                "switch the querier on in a switch or router of this subnet, or IGMP snooping off",
            )
        )
    return found


def check_mtu(chosen: Interface) -> Check:
    """Say what datagrams fit."""
    if chosen.symbol_size_max < limits.SYMBOL_SIZE_MIN or chosen.mtu < 68:
        text = f"the MTU of {chosen.name} is {chosen.mtu}: not even the smallest datagram fits"
        return fault("mtu", text, f"ip link set {chosen.name} mtu {MTU_USUAL}")
    if chosen.mtu < MTU_MIN:
        return fault(
            "mtu",
            f"the MTU of {chosen.name} is {chosen.mtu}: control messages need {MTU_MIN}",
            f"ip link set {chosen.name} mtu {MTU_USUAL}",
        )
    return fine("mtu", f"MTU {chosen.mtu}: symbols of {chosen.symbol_size_max} bytes")


def check_buffers(host: Host, granted: sockets.ReceiveBuffer | None) -> list[Check]:
    """Say whether bursts fit into the sockets' buffers."""
    found = []
    if granted is not None:
        if granted.advice is not None:
            sysctl = f"sysctl -w net.core.rmem_max={sockets.RECEIVE_BUFFER_SIZE}"
            text = f"the kernel caps receive buffers at {granted.granted >> 10} KiB: longer bursts are lost here"
            found.append(warning("receive buffer", text, sysctl))
        else:
            found.append(fine("receive buffer", f"receive buffers of {granted.granted >> 20} MiB are granted"))
    send_max = host.setting("net.core.wmem_max")
    if send_max is not None and send_max < sockets.SEND_BUFFER_SIZE:
        found.append(
            note(
                "send buffer",
                f"send buffers are capped at {send_max >> 10} KiB",
                f"sysctl -w net.core.wmem_max={sockets.SEND_BUFFER_SIZE}",
            )
        )
    return found


def check_offloads(segments: bool, joins: bool, choice: KernelChoice) -> list[Check]:
    """Say which fast paths this system has."""
    lacking = [
        name
        for name, there in (
            ("UDP segmentation (GSO)", segments),
            ("UDP joining (GRO)", joins),
            ("recvmmsg", libc.HAVE_RECVMMSG),
            ("sendmmsg", libc.HAVE_SENDMMSG),
        )
        if not there
    ]
    found = []
    if lacking:
        found.append(
            note("offloads", f"this kernel lacks {', '.join(lacking)}: slower calls are used", "Linux 5.0 or newer")
        )
    else:
        found.append(fine("offloads", "GSO, GRO, recvmmsg and sendmmsg are there"))
    if choice.slow_reason:
        found.append(warning("fec", choice.slow_reason, "apt install libisal2"))
    else:
        found.append(fine("fec", f"repair symbols are computed by {choice.origin}"))
    return found


def check_path_filter(host: Host, chosen: Interface, links: Sequence[Link]) -> Check | None:
    """Say whether strict reverse-path filtering may drop what comes from another subnet."""
    strict = host.interface_setting(chosen.name, "rp_filter") == 1
    others = [link.name for link in links if link.up and link.name not in ("lo", chosen.name)]
    if not strict or not others or chosen.loopback:
        return None
    return note(
        "rp_filter",
        f"strict reverse-path filtering drops what comes in on {chosen.name} from hosts that are routed elsewhere",
        f"sysctl -w net.ipv4.conf.{chosen.name}.rp_filter=2 net.ipv4.conf.all.rp_filter=2",
    )


def check_clock(host: Host, wall_s: float | None = None) -> Check:
    """Say whether the clock was ever set, and whether reading it is quick enough to pace with."""
    if (time.time() if wall_s is None else wall_s) < CLOCK_EARLIEST_S:
        return warning("clock", "the clock was never set: dates in images and reports will be wrong", "timedatectl")
    source = host.read("sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source in SLOW_CLOCKS:
        return note("clock", f"the clock is read from {source}, which is slow", "see the kernel's log for why not tsc")
    return fine("clock", "the clock is set" + (f" (read from {source})" if source else ""))


def check_loop(chosen: Interface, heard: Heard) -> Check:
    """Say whether our own multicast came back to us."""
    if heard.loop:
        return fine("loop", f"multicast that is sent on {chosen.name} is heard on {chosen.name}")
    if heard.refused:
        return fault("loop", f"the kernel does not send multicast on {chosen.name}: {heard.refused}", "see above")
    return fault(
        "loop",
        f"multicast that is sent on {chosen.name} is not heard on {chosen.name}: a packet filter of this host drops it",
        f"nft list ruleset; iptables -S; then let in UDP on {chosen.name}",
    )


def unicast_heard(heard: Heard) -> bool:
    """Return whether unicast of any other host came to a port that nobody could have let in by number."""
    return any(not by_multicast for peer in heard.peers.values() for _, by_multicast in peer.ways)


def imagined(chosen: Interface, port: int) -> list[Imagined]:
    """Return the datagrams that a clone needs to come in."""
    return [
        Imagined("the multicast groups", chosen.name, limits.DISCOVERY_GROUP, port),
        Imagined("this host, any port", chosen.name, chosen.address, None),
    ]


def check_peers(chosen: Interface, heard: Heard, size: int, wanted: str | None) -> list[Check]:
    """Say what passes between this host and the others.

    Args:
        chosen: our interface.
        heard: what the echo test found.
        size: UDP payload of the larger echoes, which fills our MTU.
        wanted: the peer that must be there, if any.
    """
    found: list[Check] = []
    # Of two of these on one host only one gets its unicast: our own address is no other host.
    others = [peer for peer in heard.peers.values() if peer.address != chosen.address]
    peers = [peer for peer in others if (peer.ways or peer.asked_us) and wanted in (None, peer.address)]
    for peer in sorted(peers, key=lambda one: one.address)[:16]:
        found += _check_peer(peer, chosen, size)
    if wanted is not None and not peers:
        found.append(
            fault(
                "peer",
                f"{wanted} does not answer, neither by multicast nor by unicast",
                f"on {wanted}: ghostcast doctor --listen; then: ping {wanted}",
            )
        )
    elif not peers:
        found.append(
            note(
                "peer",
                "no other host took part: the way to others was not tried",
                "there: ghostcast doctor --listen",
            )
        )
    return found


def _check_peer(peer: Peer, chosen: Interface, size: int) -> list[Check]:
    name = f"{peer.host} ({peer.address})" if peer.host else peer.address
    if not peer.ways:
        return [
            fault(
                "echo",
                f"{name} is heard here, but hears nothing from here: neither our multicast nor our answers reach it",
                f"on {peer.address}: let in UDP (nft list ruleset; iptables -S)",
            )
        ]
    there, back = any(asked for asked, _ in peer.ways), any(answered for _, answered in peer.ways)
    direct = any(not asked for asked, _ in peer.ways)
    direct_back = any(not answered for _, answered in peer.ways)
    found = []
    if not there:
        found.append(
            fault(
                "echo",
                f"our multicast does not reach {name}, unicast does: a switch or its packet filter stops it",
                f"on {peer.address}: ghostcast doctor; on the switch: IGMP snooping and storm control of that port",
            )
        )
    if not back:
        found.append(
            fault(
                "echo",
                f"multicast of {name} does not reach this host, unicast does",
                "see the packet filter above; on the switch: IGMP snooping and storm control of this port",
            )
        )
    if not (direct and direct_back):
        way = "our unicast does not reach it" if not direct else "its unicast does not reach us"
        place = (peer.address, "this host") if direct else (chosen.address, peer.address)
        found.append(
            fault(
                "echo",
                f"{name}: {way}, but multicast passes: receivers could not answer a sender",
                f"let in UDP from {place[0]} on {place[1]} (nft list ruleset; iptables -S)",
            )
        )
    if found:
        return found
    found.append(fine("echo", f"{name}: multicast and unicast pass in both directions"))
    mtu = min(peer.mtu or MTU_USUAL, MTU_USUAL)
    for reached, direction in (
        ((True, size) in peer.echo_sizes, f"to {peer.address}"),
        ((True, size) in peer.answer_sizes or peer.mtu < chosen.mtu, f"from {peer.address}"),
    ):
        if not reached:
            found.append(
                fault(
                    "path mtu",
                    f"multicast of {size + 28} bytes, which fills the MTU here, does not get through {direction}",
                    f"ip link set {chosen.name} mtu {mtu}, or the larger MTU everywhere",
                )
            )
            break
    if abs(peer.clock_ahead_ns) > CLOCK_APART_NS:
        text = f"the clock of {name} differs by {abs(peer.clock_ahead_ns) / limits.SECOND_NS:.0f} s from ours"
        found.append(note("clock", text, "timedatectl set-ntp true, on both"))
    return found


def probe_offloads() -> tuple[bool, bool]:
    """Return whether this kernel cuts batches into datagrams (GSO), and joins datagrams into batches (GRO)."""
    known = []
    for option, value in ((sockets.UDP_SEGMENT, 1472), (sockets.UDP_GRO, 1)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            try:
                opened.setsockopt(sockets.SOL_UDP, option, value)
                known.append(True)
            except OSError:
                known.append(False)
    return known[0], known[1]


def probe_buffer() -> sockets.ReceiveBuffer:
    """Return what the kernel grants of the receive buffer that a clone asks for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        return sockets.enlarge_receive_buffer(opened)
