"""Networks of namespaces: real multicast, real loss, no hardware.

Knows ``ip netns``, veth, bridge, nftables and tbf; must not know pytest (benchmarks build the same networks) nor what
runs inside. The invariant: a network that is closed leaves neither a namespace nor a process inside one, whatever made
it close; what a killed run left behind is removed by the next one, because each name carries its maker's identity.

Every host has one interface, ``eth0``, an address in 10.77.0.0/24, a broadcast address and a multicast route: without
these two, udpcast and UFTP never meet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import secrets
import signal
import subprocess
from types import TracebackType
from typing import Literal, Self

INTERFACE = "eth0"
NAMESPACE_PREFIX = "ghostlab"
_NAMESPACE_PATTERN = re.compile(rf"{NAMESPACE_PREFIX}-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]+-\w+")
_COMMAND_TIMEOUT_S = 30
_BRIDGE_FIREWALL = "/proc/sys/net/bridge/bridge-nf-call-iptables"

Direction = Literal["towards", "both"]
"""``towards`` drops what the switch sends to a host, ``both`` also what the host sends into the switch."""


class NetworkError(Exception):
    """The kernel, or a tool that configures it, refused a part of the network."""


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """One machine of the lab."""

    name: str
    namespace: str
    address: str
    interface: str = INTERFACE


class _Network:
    """Hosts in namespaces of their own; subclasses wire them. A context manager: built on entry, gone on exit."""

    def __init__(self, host_names: tuple[str, ...], *, mtu: int, offloads: bool) -> None:
        self._mtu = mtu
        self._offloads = offloads
        self._token = secrets.token_hex(4)
        self._namespaces: list[str] = []
        self.hosts = tuple(
            Host(name, self._namespace_name(name), f"10.77.0.{index}") for index, name in enumerate(host_names, start=1)
        )

    @property
    def sender(self) -> Host:
        return self.hosts[0]

    @property
    def receivers(self) -> tuple[Host, ...]:
        return self.hosts[1:]

    def __enter__(self) -> Self:
        _remove_leftovers_once()
        try:
            for host in self.hosts:
                self._add_namespace(host.namespace)
            self._wire()
            for host in self.hosts:
                self._configure(host)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill what still runs inside, then remove the namespaces. Safe to call twice."""
        while self._namespaces:
            _remove_namespace(self._namespaces[-1])
            self._namespaces.pop()

    def _wire(self) -> None:
        raise NotImplementedError

    def _namespace_name(self, host_name: str) -> str:
        pid = os.getpid()
        return f"{NAMESPACE_PREFIX}-{pid}-{_process_started(pid)}-{self._token}-{host_name}"

    def _add_namespace(self, namespace: str) -> None:
        self._namespaces.append(namespace)  # first, so that an interrupt during the command still removes it
        _run("ip", "netns", "add", namespace)

    def _configure(self, host: Host) -> None:
        _ip_batch(
            host.namespace,
            "link set lo up",
            f"address add {host.address}/24 brd + dev {INTERFACE}",
            f"link set {INTERFACE} mtu {self._mtu} up",
            f"route add 224.0.0.0/4 dev {INTERFACE}",
        )
        if not self._offloads:
            # A veth passes a GSO batch through as one packet. Cut it before the wire, and each datagram is alone.
            _run_inside(host.namespace, "ethtool", "-K", INTERFACE, "tx-udp-segmentation", "off")


class DirectLink(_Network):
    """A sender and one receiver, joined by a cable (a veth pair): the fastest path the kernel has."""

    def __init__(self, *, mtu: int = 1500, offloads: bool = True) -> None:
        super().__init__(("sender", "r1"), mtu=mtu, offloads=offloads)

    @property
    def receiver(self) -> Host:
        return self.hosts[1]

    def _wire(self) -> None:
        _run(
            *f"ip link add name {INTERFACE} netns {self.sender.namespace}".split(),
            *f"type veth peer name {INTERFACE} netns {self.receiver.namespace}".split(),
        )


class Bridge(_Network):
    """A switch with one port per host: ``sender`` on the first, ``r1``, ``r2``, … on the others.

    Multicast floods to every port (no snooping). With ``hub=True`` the switch learns no addresses, so that unicast
    floods too and any host can overhear all the others.
    """

    def __init__(self, receiver_count: int, *, mtu: int = 1500, offloads: bool = True, hub: bool = False) -> None:
        names = ("sender", *(f"r{index}" for index in range(1, receiver_count + 1)))
        super().__init__(names, mtu=mtu, offloads=offloads)
        self._hub = hub
        self._switch = self._namespace_name("switch")
        self._loss: dict[str, tuple[int, Direction]] = {}
        self._deaf: dict[str, str] = {}

    def set_loss(self, host: Host, fraction: float, direction: Direction = "towards") -> None:
        """Drop packets of every kind on the port of ``host``, independently of all other ports.

        Takes effect while traffic runs. ``fraction`` is a whole number of thousandths; 0 drops nothing, at the cost of
        dropping something, so that the two can be compared.
        """
        per_mille = round(fraction * 1000)
        if not 0 <= per_mille <= 1000 or abs(per_mille - fraction * 1000) > 1e-9:
            raise ValueError(f"loss is a whole number of thousandths between 0 and 1, not {fraction}")
        self._loss[self._port(host)] = (per_mille, direction)
        self._load_loss_rules()

    def clear_loss(self) -> None:
        """End all losses."""
        self._loss.clear()
        self._load_loss_rules()

    def set_link(self, host: Host, *, up: bool) -> None:
        """Plug the cable of ``host`` into the switch, or pull it out."""
        _run("ip", "-n", self._switch, "link", "set", self._port(host), "up" if up else "down")

    def set_querier(self) -> None:
        """Have the switch ask for group memberships, every second."""
        querier = "mcast_querier 1 mcast_query_interval 100 mcast_startup_query_interval 100 mcast_snooping 1"
        _run("ip", "-n", self._switch, *f"link set br0 type bridge {querier}".split())

    def set_mtu(self, host: Host, mtu: int) -> None:
        """Let the port of ``host`` carry packets of at most ``mtu`` bytes; the switch drops longer ones unsaid."""
        _run("ip", "-n", self._switch, "link", "set", self._port(host), "mtu", str(mtu))

    def set_interface(self, host: Host, *, up: bool) -> None:
        """Take the host's own interface down, or bring it up again as a network manager does, routes included."""
        route = [f"route add 224.0.0.0/4 dev {host.interface}"] if up else []
        _ip_batch(host.namespace, f"link set {host.interface} {'up' if up else 'down'}", *route)

    def set_deaf(self, host: Host, destination: str) -> None:
        """Keep from a host everything that goes to this address or network, as a switch does that never saw a join."""
        self._deaf[self._port(host)] = f"ip daddr {destination}"
        self._load_loss_rules()

    def set_unanswered(self, host: Host, *, unanswered: bool) -> None:
        """Keep from a host the answers to its questions for link addresses, or no more."""
        if unanswered:
            self._deaf[self._port(host)] = "arp operation reply"
        else:
            self._deaf.pop(self._port(host), None)
        self._load_loss_rules()

    def set_rate(self, host: Host, rate_bits_per_s: int) -> None:
        """Let the port of ``host`` send no faster, with a queue of 50 ms; what does not fit in is dropped."""
        shaper = f"tc qdisc replace dev {self._port(host)} root tbf rate {rate_bits_per_s}bit burst 128kb latency 50ms"
        _run_inside(self._switch, *shaper.split())

    def _wire(self) -> None:
        self._add_namespace(self._switch)
        ageing = "ageing_time 0" if self._hub else ""
        _ip_batch(
            self._switch,
            f"link add name br0 mtu {self._mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0 {ageing}",
            "link set br0 up",
        )
        for host in self.hosts:
            self._plug(host, host.namespace, INTERFACE)
        # Where the kernel can, it shows what a bridge forwards to the firewall of IP as well: a switch does not.
        if pathlib.Path(_BRIDGE_FIREWALL).exists():
            _run_inside(self._switch, "sh", "-c", f"echo 0 > {_BRIDGE_FIREWALL}")

    def _plug(self, host: Host, namespace: str, interface: str) -> None:
        """Put the cable of ``host`` into the switch; its other end is this interface."""
        port = self._port(host)
        _ip_batch(
            self._switch,
            f"link add name {port} type veth peer name {interface} netns {namespace}",
            f"link set {port} mtu {self._mtu} master br0 up",
        )

    def _port(self, host: Host) -> str:
        return f"port{self.hosts.index(host)}"

    def _load_loss_rules(self) -> None:
        # One rule for all ports of one loss: a rule for each would cost every packet to every port a look at them all.
        ports: dict[tuple[str, int], list[str]] = {}
        for port, (per_mille, direction) in self._loss.items():
            for match in ("oifname",) if direction == "towards" else ("oifname", "iifname"):
                ports.setdefault((match, per_mille), []).append(f'"{port}"')
        rules = [
            f"{match} {{ {', '.join(names)} }} numgen random mod 1000 < {per_mille} drop"
            for (match, per_mille), names in ports.items()
        ]
        rules += [f'oifname "{port}" {kept} drop' for port, kept in self._deaf.items()]
        # Declaring the table before deleting it makes the deletion succeed the first time too; one transaction, so
        # that no packet passes between the old rules and the new ones.
        script = [
            "table bridge loss",
            "delete table bridge loss",
            "table bridge loss {",
            "chain forward {",
            "type filter hook forward priority 0; policy accept;",
            *rules,
            "}",
            "}",
        ]
        _run_inside(self._switch, "nft", "-f", "-", text="\n".join(script) + "\n")


class RelayedBridge(Bridge):
    """A switch whose cable to the sender passes through one more host, ``relay``.

    ``tests/lab/relay.py`` must run there between ``LEFT``, the sender's side, and ``RIGHT``: until it does, nothing
    passes. What passes is one datagram a frame, with its checksum filled in.
    """

    LEFT, RIGHT = "left", "right"

    def __init__(self, receiver_count: int, *, mtu: int = 1500) -> None:
        super().__init__(receiver_count, mtu=mtu, offloads=False)
        self.relay = Host("relay", self._namespace_name("relay"), "", "")

    def _wire(self) -> None:
        self._add_namespace(self.relay.namespace)
        super()._wire()

    def _plug(self, host: Host, namespace: str, interface: str) -> None:
        if host is not self.sender:
            super()._plug(host, namespace, interface)
            return
        super()._plug(host, self.relay.namespace, self.RIGHT)
        _ip_batch(
            self.relay.namespace,
            f"link add name {self.LEFT} type veth peer name {interface} netns {namespace}",
            *(f"link set {end} mtu {self._mtu} promisc on up" for end in (self.LEFT, self.RIGHT)),
        )

    def _configure(self, host: Host) -> None:
        super()._configure(host)
        # A veth leaves the checksum to a card that it has not got; a raw socket would pass it on unfinished.
        _run_inside(host.namespace, "ethtool", "-K", INTERFACE, "tx", "off")


def remove_leftovers() -> list[str]:
    """Remove the namespaces of makers that are dead, with what runs inside them; return their names."""
    listed = _run("ip", "netns", "list").splitlines()
    removed = []
    for line in listed:
        namespace = line.split()[0]
        match = _NAMESPACE_PATTERN.fullmatch(namespace)
        if match and _process_started(int(match["pid"])) != int(match["started"]):
            _remove_namespace(namespace)
            removed.append(namespace)
    return removed


@functools.cache
def _remove_leftovers_once() -> None:
    remove_leftovers()


def _remove_namespace(namespace: str) -> None:
    if not pathlib.Path("/run/netns", namespace).exists():
        return
    # A process inside keeps the namespace alive, nameless, for as long as it runs.
    for pid in _run("ip", "netns", "pids", namespace).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _run("ip", "netns", "delete", namespace)


def _process_started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot: with the pid, an identity that is never used twice."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Field 22; the command's name, field 2, is in parentheses and may itself hold spaces and parentheses.
    return int(status.rpartition(")")[2].split()[19])


def _ip_batch(namespace: str, *commands: str) -> None:
    _run("ip", "-n", namespace, "-batch", "-", text="\n".join(commands) + "\n")


def _run_inside(namespace: str, *command: str, text: str = "") -> str:
    return _run("ip", "netns", "exec", namespace, *command, text=text)


def _run(*command: str, text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
    except OSError as error:
        raise NetworkError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}\n{text}".strip())
    return done.stdout
