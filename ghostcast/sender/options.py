"""What a person chose for one session."""

from __future__ import annotations

import dataclasses

from ghostcast.net.interfaces import Interface
from ghostcast.stages import OFF, Stages
from protocol import limits
from protocol.sender_events import StartRule


@dataclasses.dataclass(frozen=True, slots=True)
class SendOptions:
    """See the module's docstring."""

    session_name: str
    interface: Interface
    start: StartRule
    group: str | None = None
    port: int = limits.DISCOVERY_PORT
    ttl: int = 1
    rate: float | None = None
    """Bytes per second, or None to find it."""
    repair_symbols: int | None = None
    """Per slice, or None to follow the measured loss."""
    symbol_size: int | None = None
    """None: what the interface's MTU allows."""
    window_slices: int | None = None
    """D, or None: the default, and wider where bursts of loss are measured."""
    leave_slow: bool = True
    """Whether a few slow receivers are served after the others."""
    stages: Stages = OFF
    """Where the engine tells how long each stage takes."""
