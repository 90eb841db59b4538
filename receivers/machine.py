"""What this machine is: the facts that an image's match rule is held against.

Knows where Linux tells them; must not know rules. What cannot be found out is empty, never guessed.
"""

from __future__ import annotations

import platform
from pathlib import Path

from protocol.match import Machine

DMI = Path("/sys/class/dmi/id")
"""Made by the kernel from the firmware's tables; missing on boards without DMI."""


def read_machine(disk_size: int | None) -> Machine:
    """Return the facts of this machine.

    Args:
        disk_size: capacity of the target in bytes, None for a file.
    """
    import psutil

    names = (_dmi(key) for key in ("product_name", "product_version", "product_family"))
    return Machine(
        architecture=platform.machine(),
        vendor=_dmi("sys_vendor"),
        products=tuple(name for name in names if name),
        memory_size=psutil.virtual_memory().total,
        disk_size=disk_size,
    )


def _dmi(key: str) -> str:
    try:
        return (DMI / key).read_text(errors="replace").strip()
    except OSError:
        return ""
