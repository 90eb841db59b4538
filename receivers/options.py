"""What a person chose for one receiver."""

from __future__ import annotations

import dataclasses

from ghostcast.image.unused import Unused
from ghostcast.net.interfaces import Interface
from ghostcast.stages import OFF, Stages
from protocol import limits
from receivers.reuse import ReusePolicy


@dataclasses.dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """See the module's docstring."""

    interface: Interface
    session_name: str | None = None
    port: int = limits.DISCOVERY_PORT
    ttl: int = 1
    max_wait_ns: int | None = None
    """How long to look for a session, and for a sender that was lost; None: for ever, and not at all."""
    pool_size: int = limits.POOL_SIZE_DEFAULT
    force: bool = False
    """Take an image whose match rule does not fit this machine."""
    unused: Unused = Unused.KEEP
    """What becomes of the ranges of the target that no file system uses."""
    grow: bool = False
    """Make the last partition as large as the target allows."""
    stages: Stages = OFF
    """Where the engine tells how long each stage takes."""
    reuse: ReusePolicy = ReusePolicy.AUTO
    read_back: bool = False
    """Read everything back after the final flush, and fail if it is not what was written."""
    inject_loss: float = 0.0
    """Share of data datagrams to throw away on arrival: for the demo and for tests, never for real use."""
