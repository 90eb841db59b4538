"""Which network interface to use, and what it can carry.

An interface is named by its name or by one of its addresses; unnamed, the kernel's own route for the discovery group
decides, then the only interface that is up, and loopback if there is no other.
"""

from __future__ import annotations

import dataclasses
import socket

import psutil

from protocol import limits
from protocol.errors import UsageError
from protocol.limits import MEGABIT


@dataclasses.dataclass(frozen=True, slots=True)
class Interface:
    """An interface with an IPv4 address."""

    name: str
    address: str
    mtu: int
    speed_bytes_per_s: int
    """0 where the system does not know it (loopback, bridges)."""
    hardware_address: str
    loopback: bool
    up: bool

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
        found += [
            Interface(
                name=name,
                address=entry.address,
                mtu=state.mtu,
                speed_bytes_per_s=max(state.speed, 0) * MEGABIT,
                hardware_address=hardware,
                loopback=entry.address.startswith("127."),
                up=state.isup,
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
