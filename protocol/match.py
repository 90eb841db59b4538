"""The match rule: which machines an image is meant for, and whether one machine is such a one.

Knows the rule and the facts it is held against; must not know how a machine finds out its facts. The invariant: a rule
that asks for something passes only a machine of which that is known: an unknown vendor is no vendor.

An image of a Dell laptop on a server, or of x86-64 on ARM, is a machine that does not start. The rule travels in the
manifest, and every receiver holds itself to it before it writes a byte.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Annotated

import msgspec

from protocol import limits

_Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MATCH_LENGTH_MAX)]
_Patterns = Annotated[tuple[_Pattern, ...], msgspec.Meta(max_length=limits.MATCH_PATTERN_COUNT_MAX)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=limits.RAW_SIZE_MAX)]

_ARCHITECTURE_NAMES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "i386": "i686", "x86": "i686"}
"""Other names of what ``uname -m`` says."""


class MatchRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine must be; an empty part asks for nothing.

    Patterns are shell patterns (``*``, ``?``, ``[…]``) without regard to case; any one of a part's will do.
    """

    architectures: _Patterns = ()
    vendors: _Patterns = ()
    """Held against the machine's DMI vendor."""
    products: _Patterns = ()
    """Held against the machine's DMI product name, version and family."""
    memory_size_min: _Size = 0
    """Bytes as the memory was sold: firmware and graphics keep some of it, so 7/8 is enough."""
    disk_size_min: _Size = 0
    """Bytes as the disk was sold: 7/8 is enough, since a "256 GB" disk is 238 GiB. A target that is a file has none."""

    def __bool__(self) -> bool:
        """Whether the rule asks for anything."""
        return self != ANY_MACHINE


ANY_MACHINE = MatchRule()
"""The rule of an image that carries none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """The facts of one machine; what is unknown is empty or 0."""

    architecture: str
    vendor: str
    products: tuple[str, ...]
    memory_size: int
    disk_size: int | None
    """Capacity of the target in bytes; None for a file, which no disk size is asked of."""


def mismatches(rule: MatchRule, machine: Machine) -> list[str]:
    """Return what is wrong with a machine, one phrase a part of the rule; empty if the rule is kept."""
    found = []
    wanted_architectures = tuple(_architecture(pattern) for pattern in rule.architectures)
    for title, patterns, values in (
        ("architecture", wanted_architectures, (_architecture(machine.architecture),)),
        ("vendor", rule.vendors, (machine.vendor,)),
        ("product", rule.products, machine.products),
    ):
        if patterns and not any(_matches(value, pattern) for value in values if value for pattern in patterns):
            shown = " / ".join(filter(None, values)) or "unknown"
            found.append(f"its {title} is {shown}, the image is for {' or '.join(patterns)}")
    if not _enough(machine.memory_size, rule.memory_size_min):
        found.append(f"it has {_size(machine.memory_size)} of memory, the image needs {_size(rule.memory_size_min)}")
    if machine.disk_size is not None and not _enough(machine.disk_size, rule.disk_size_min):
        found.append(f"its disk has {_size(machine.disk_size)}, the image is for {_size(rule.disk_size_min)}")
    return found


def describe(rule: MatchRule) -> str:
    """Return a rule as people read it; empty if it asks for nothing."""
    parts = [
        f"{title} {' or '.join(patterns)}"
        for title, patterns in (
            ("architecture", rule.architectures),
            ("vendor", rule.vendors),
            ("product", rule.products),
        )
        if patterns
    ]
    parts += [
        f"{title} at least {_size(size)}"
        for title, size in (("memory", rule.memory_size_min), ("disk", rule.disk_size_min))
        if size
    ]
    return ", ".join(parts)


def _architecture(name: str) -> str:
    return _ARCHITECTURE_NAMES.get(name.lower(), name)


def _matches(value: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(value.strip().casefold(), pattern.strip().casefold())


def _enough(size: int, wanted_size: int) -> bool:
    return size * 8 >= wanted_size * 7


def _size(size: int) -> str:
    return f"{size / limits.GIB:.4g} GiB"
