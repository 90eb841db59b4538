"""What this host says of itself: interfaces, kernel settings, routes, packet filters. Only reads.

Files are read below ``root``, so that tests can show another host; commands that list packet filters are asked with a
short patience, and not at all where they are missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import socket
import struct
import subprocess
from typing import Any

COMMAND_PATIENCE_S = 2.0
IFF_UP, IFF_MULTICAST = 0x1, 0x1000


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """An interface, whatever its state, with an address or without."""

    name: str
    up: bool
    carrier: bool | None
    """None: down, or it does not say."""
    multicast: bool
    mtu: int


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """The route that multicast takes."""

    interface: str
    prefix: str
    """``default``, or the network in the usual notation."""


class Host:
    """Reads one host's state."""

    def __init__(self, root: pathlib.Path = pathlib.Path("/")) -> None:
        self._root = root

    def read(self, path: str) -> str | None:
        """Return a file's text without blanks around it; None if it cannot be read."""
        with contextlib.suppress(OSError):
            return (self._root / path).read_text().strip()
        return None

    def number(self, path: str) -> int | None:
        """Return the number that a file holds; None if it holds none."""
        text = self.read(path)
        return int(text) if text is not None and text.lstrip("-").isdigit() else None

    def setting(self, name: str) -> int | None:
        """Return a sysctl's value, such as ``net.core.rmem_max``; an interface's dots are not separators."""
        return self.number("proc/sys/" + name.replace(".", "/"))

    def interface_setting(self, interface: str, name: str) -> int | None:
        """Return the larger of a setting of IPv4 for all interfaces and for one."""
        values = [self.number(f"proc/sys/net/ipv4/conf/{place}/{name}") for place in ("all", interface)]
        known = [value for value in values if value is not None]
        return max(known) if known else None

    def links(self) -> list[Link]:
        """Return every interface."""
        found = []
        for directory in sorted((self._root / "sys/class/net").glob("*")):
            place = f"sys/class/net/{directory.name}"
            flags = self.read(f"{place}/flags")
            if flags is None:
                continue
            bits = int(flags, 16)
            carrier = self.number(f"{place}/carrier")
            found.append(
                Link(
                    directory.name,
                    bool(bits & IFF_UP),
                    None if carrier is None else bool(carrier),
                    bool(bits & IFF_MULTICAST),
                    self.number(f"{place}/mtu") or 0,
                )
            )
        return found

    def multicast_route(self, group: str) -> Route | None:
        """Return the main table's route to a group; None if there is none."""
        wanted = struct.unpack("=I", socket.inet_aton(group))[0]
        best: tuple[int, int, Route] | None = None
        for line in (self.read("proc/net/route") or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) < 8:
                continue
            network, mask, metric = int(fields[1], 16), int(fields[7], 16), int(fields[6])
            length = mask.bit_count()
            if wanted & mask == network and (best is None or (length, -metric) > best[:2]):
                prefix = f"{socket.inet_ntoa(struct.pack('=I', network))}/{length}" if length else "default"
                best = (length, -metric, Route(fields[0], prefix))
        return best[2] if best is not None else None

    def igmp_version(self, interface: str) -> str | None:
        """Return the IGMP version in use on an interface, such as ``V3``; None if it does not say."""
        for line in (self.read("proc/net/igmp") or "").splitlines():
            fields = line.replace(":", " ").split()
            if len(fields) == 4 and fields[1] == interface:
                return fields[3]
        return None

    @staticmethod
    def nft_rules() -> dict[str, Any] | None:
        """Return what nft lists; None where it is missing or may not be asked."""
        text = _ask("nft", "-j", "list", "ruleset")
        with contextlib.suppress(ValueError):
            found = json.loads(text) if text else None
            return found if isinstance(found, dict) else None
        return None

    @staticmethod
    def iptables_rules() -> str | None:
        """Return the old filter's INPUT chain; None where it is missing or may not be asked."""
        return _ask("iptables", "-S", "INPUT")


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_PATIENCE_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
