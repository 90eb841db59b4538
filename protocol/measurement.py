"""Measuring messages: what the two sides of a network measurement say to each other, typed and bounded.

They share the discovery group, the preamble and the data header with sessions, and nothing else: their datagrams are of
a kind of their own, so that neither can be taken for the other. Specified in ``SPEC.md`` §12.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol import limits, wire
from protocol.messages import U32, U63, EndReason, Host, Message, Name, Reason, ReceiverId

ECHO_SIZE_MAX = 9000 - 28
"""Echoes are padded to what the path is to carry; every other message stays within ``CONTROL_SIZE_MAX``."""

STEPS_MAX = 256

STEP_DATAGRAMS_MAX = 1 << 24
"""Bounds a listener's memory for one step to 80 MB: 20 s at 10 Gbit/s and MTU 1500."""

RUN_BINS = 16
"""Bins of the histogram of loss runs: bin i counts runs of 2**i to 2**(i+1) - 1 datagrams, the last one all longer."""

INTERLEAVES = (8, 16, 32, 64, 128, 256)
"""Window sizes for which a listener says how many symbols the slices of this very stream would have lost."""

SLICE_LOSS_UNKNOWN = 255
"""The step was shorter than one window of that size."""

Port = Annotated[int, msgspec.Meta(ge=1, lt=1 << 16)]
Step = Annotated[int, msgspec.Meta(ge=0, lt=STEPS_MAX)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=limits.RECEIVERS_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=STEP_DATAGRAMS_MAX)]
SymbolSize = Annotated[
    int, msgspec.Meta(ge=limits.SYMBOL_SIZE_MIN, le=limits.SYMBOL_SIZE_MAX, multiple_of=limits.SYMBOL_SIZE_STEP)
]


class Offer(Message, frozen=True, array_like=True, tag=1):
    """Measuring side, multicast on the discovery group, once a second and when sought: a measurement takes place."""

    name: Name
    group: U32
    port: Port
    control_port: Port


class Seek(Message, frozen=True, array_like=True, tag=2):
    """Listener, multicast on the discovery group: whoever measures under this name (empty: any), offer it now."""

    name: Name


class Enter(Message, frozen=True, array_like=True, tag=3):
    """Listener, unicast: I take part, and this is what I listen with."""

    receiver_id: ReceiverId
    host: Host
    link_rate: U63
    """Bytes per second of the interface, 0 where unknown."""
    mtu: U32
    buffer_size: U63
    """Bytes that the kernel granted of the receive buffer."""


class Entered(Message, frozen=True, array_like=True, tag=4):
    """Measuring side, unicast: you are listener ``receiver_index``."""

    receiver_id: ReceiverId
    receiver_index: Index


class Begin(Message, frozen=True, array_like=True, tag=5):
    """Measuring side, multicast to the data group until everybody is ready: the next step's data look like this."""

    step: Step
    symbol_size: SymbolSize
    rate: U63
    """Bytes per second of UDP payload that will be attempted."""
    spread_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)]
    """Answers are spread at random over so long: the valve against implosion."""


class Ready(Message, frozen=True, array_like=True, tag=6):
    """Listener, unicast: I count this step."""

    receiver_index: Index
    step: Step


class Close(Message, frozen=True, array_like=True, tag=7):
    """Measuring side, multicast to the data group until all outcomes are in: so many datagrams the step had."""

    step: Step
    count: Count
    spread_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)]


class Outcome(Message, frozen=True, array_like=True, tag=8):
    """Listener, unicast, for each CLOSE: what came of a step's ``count`` datagrams."""

    receiver_index: Index
    step: Step
    received: Count
    """Different datagrams of the step."""
    duplicate: U63
    dropped_host: U63
    """Estimated from the buffers that this host's kernel dropped because nobody fetched them."""
    reordered: U63
    """Datagrams that came after one with a higher number."""
    reorder_distance: U32
    """How far behind the highest number the latest of them was."""
    run_counts: Annotated[tuple[U32, ...], msgspec.Meta(min_length=RUN_BINS, max_length=RUN_BINS)]
    run_longest: U32
    delay_us: tuple[U32, U32, U32]
    """One-way delay above the step's smallest: median, 99th percentile, largest. Batches are part of it."""
    slice_losses: tuple[
        Annotated[int, msgspec.Meta(ge=0, le=255)],
        Annotated[int, msgspec.Meta(ge=0, le=255)],
        Annotated[int, msgspec.Meta(ge=0, le=255)],
        Annotated[int, msgspec.Meta(ge=0, le=255)],
        Annotated[int, msgspec.Meta(ge=0, le=255)],
        Annotated[int, msgspec.Meta(ge=0, le=255)],
    ]
    """For each of ``INTERLEAVES``: the 95th percentile of the symbols that a slice of 128 lost."""
    below_socket: U63
    """Packets that the interface and its driver dropped meanwhile, of whatever traffic."""


class Finish(Message, frozen=True, array_like=True, tag=9):
    """Measuring side, multicast on both groups: the measurement is over."""

    reason: EndReason
    text: Reason


class Leave(Message, frozen=True, array_like=True, tag=10):
    """Listener, unicast: I go before the end."""

    receiver_index: Index


class Echo(Message, frozen=True, array_like=True, tag=11):
    """Anybody, to the discovery group or to one address: answer me, both ways."""

    number: U32
    """Random for each run; what answers carry back."""
    multicast: bool
    """How this copy was sent."""
    padding: Annotated[bytes, msgspec.Meta(max_length=ECHO_SIZE_MAX)] = b""


class EchoReply(Message, frozen=True, array_like=True, tag=12):
    """Whoever listens, to the discovery group and to the asker: how an echo came here."""

    number: U32
    asked_by_multicast: bool
    multicast: bool
    """How this answer was sent."""
    size: U32
    """Bytes of the echo's UDP payload."""
    host: Host
    mtu: U32
    wall_clock_ns: U63
    padding: Annotated[bytes, msgspec.Meta(max_length=ECHO_SIZE_MAX)] = b""


AnyMeasurement = (
    Offer | Seek | Enter | Entered | Begin | Ready | Close | Outcome | Finish | Leave | Echo | EchoReply
)  # fmt: skip

_SESSIONS = wire.control_datagram(0, b"")[:4]
"""How the control datagrams of sessions begin."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[AnyMeasurement] = msgspec.msgpack.Decoder(AnyMeasurement)


def encode(session_id: int, message: Message) -> bytes:
    """Return the datagram that carries a message."""
    datagram = wire.control_datagram(session_id, _ENCODER.encode(message), wire.KIND_MEASURE)
    size_max = ECHO_SIZE_MAX if isinstance(message, Echo | EchoReply) else limits.CONTROL_SIZE_MAX
    assert len(datagram) <= size_max, f"{type(message).__name__} of {len(datagram)} bytes"
    return datagram


def decode(datagram: bytes, drops: wire.Drops) -> tuple[int, AnyMeasurement] | None:
    """Return a datagram's session id and message; whatever is none of ours is counted."""
    if datagram[:4] == _SESSIONS:
        drops.stale += 1  # They share the discovery group.
        return None
    frame = wire.parse_control(datagram, drops, wire.KIND_MEASURE, ECHO_SIZE_MAX)
    if frame is None:
        return None
    try:
        message = _DECODER.decode(frame.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        drops.malformed += 1
        return None
    if not isinstance(message, Echo | EchoReply) and len(datagram) > limits.CONTROL_SIZE_MAX:
        drops.malformed += 1
        return None
    return frame.session_id, message


def pad_to(size: int, session_id: int, message: Echo | EchoReply) -> bytes:
    """Return the datagram of a message, padded to ``size`` bytes; unpadded if it is as long already."""
    bare = len(encode(session_id, message))
    for overhead in (2, 1, 0):  # msgpack's length takes one byte, two from 256 bytes on, or four: one of it is there
        if size > bare + overhead:
            padding = bytes(size - bare - overhead)
            datagram = encode(session_id, msgspec.structs.replace(message, padding=padding))
            if len(datagram) == size:
                return datagram
    return encode(session_id, message)
