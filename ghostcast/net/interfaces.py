"""Which network interface to use, and what it can carry.

An interface is named by its name or by one of its addresses; unnamed, the kernel's own route for the discovery group
decides, then the only interface that is up, and loopback if there is no other.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import fcntl
import pathlib
import socket
import struct

import psutil

from protocol import limits
from protocol.errors import UsageError
from protocol.limits import MEGABIT

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_ETHTOOL_GDRVINFO = 3  # linux/ethtool.h

VIRTUAL_DRIVERS = frozenset({"veth", "tun"})
"""Drivers of Linux with no cable, whose speed is a constant."""

_INTERFACES = pathlib.Path("/sys/class/net")


@dataclasses.dataclass(frozen=True, slots=True)
class Interface:
    """An interface with an IPv4 address."""

    name: str
    address: str
    mtu: int
    speed_bytes_per_s: int
    """What the system says; 0 where it does not know (loopback)."""
    hardware_address: str
    loopback: bool
    up: bool
    virtual: bool = False
    """Whether the speed is a figure that limits nothing, for there is no cable."""

    @property
    def link_bytes_per_s(self) -> int:
        """What its cable carries, which no sender can exceed; 0 where that is not known."""
        return 0 if self.virtual else self.speed_bytes_per_s

    @property
    def symbol_size_max(self) -> int:
        """Bytes of the largest symbol that crosses the interface without fragmentation."""
        payload = self.mtu - 28 - 32
        return min(payload // limits.SYMBOL_SIZE_STEP * limits.SYMBOL_SIZE_STEP, limits.SYMBOL_SIZE_MAX)


def list_interfaces() -> list[Interface]:
    """Return every interface that has an IPv4 address, one entry per address, in the system's order."""
    stats = psutil.net_if_stats()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        hardware = next((a.address for a in addresses if a.family == psutil.AF_LINK), "")
        state = stats.get(name)
        if state is None:
            continue
        virtual = is_virtual(name)
        found += [
            Interface(
                name=name,
                address=entry.address,
                mtu=state.mtu,
                speed_bytes_per_s=max(state.speed, 0) * MEGABIT,
                hardware_address=hardware,
                loopback=entry.address.startswith("127."),
                up=state.isup,
                virtual=virtual,
            )
            for entry in addresses
            if entry.family == socket.AF_INET
        ]
    return found


def choose_interface(wish: str | None) -> Interface:
    """Return the interface that ``wish`` names, or the one to use where nothing is wished.

    Raises:
        UsageError: no such interface, it is down, or the choice is not clear; the message lists what there is.
    """
    found = list_interfaces()
    if wish is not None:
        for interface in found:
            if wish in (interface.name, interface.address):
                if not interface.up:
                    raise UsageError(f"interface {interface.name} is down: bring it up, or choose {_names(found)}")
                return interface
        raise UsageError(f"there is no interface {wish!r} with an IPv4 address here: choose one of {_names(found)}")
    routed = _routed_address()
    for interface in found:
        if interface.address == routed and interface.up:
            return interface
    usable = [interface for interface in found if interface.up and not interface.loopback]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise UsageError(
            f"no route says which of {_names(usable)} leads to the multicast network: choose with --interface"
        )
    for interface in found:
        if interface.loopback and interface.up:
            return interface
    raise UsageError(
        "there is no interface with an IPv4 address that is up; loopback is missing too: ip link set lo up"
    )


def is_virtual(name: str) -> bool:
    """Return whether an interface has no cable, nor a port with one; not so where its driver cannot be asked."""
    driver = _driver(name)
    if driver == "bridge":
        return all(is_virtual(port.name) for port in (_INTERFACES / name / "brif").glob("*"))
    return driver in VIRTUAL_DRIVERS


def _driver(name: str) -> str:
    """Return the name of an interface's driver, empty where it has none to name (loopback)."""
    # struct ethtool_drvinfo of linux/ethtool.h: command, driver[32], and what else the kernel writes there.
    answer = array.array("B", struct.pack("I192x", _ETHTOOL_GDRVINFO))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        fcntl.ioctl(probe, _SIOCETHTOOL, struct.pack("16sP", name.encode(), answer.buffer_info()[0]))
    return bytes(answer[4:36]).split(b"\0")[0].decode(errors="replace")


def _names(interfaces: list[Interface]) -> str:
    return ", ".join(f"{interface.name} ({interface.address})" for interface in interfaces) or "none"


def _routed_address() -> str | None:
    """Return the source address the kernel would use towards the discovery group; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((limits.DISCOVERY_GROUP, limits.DISCOVERY_PORT))
            address: str = probe.getsockname()[0]
        except OSError:
            return None
        return address
