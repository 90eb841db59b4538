"""The fuzz targets by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import decoders, machines

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        decoders.control,
        decoders.deficits,
        decoders.discovery,
        decoders.manifest,
        decoders.image,
        decoders.frame,
        decoders.batch,
        machines.receiver,
        machines.sender,
    )
}
