"""Control messages: what each side says to the other, typed and bounded.

Each message is a msgpack array whose first element is its type. ``decode`` checks every bound while parsing, so that a
message that exists is within limits; whether it is *expected* is for the session to judge. Specified in ``SPEC.md`` §4.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from protocol import limits, wire

U8 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 8)]
U32 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
U63 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Sequence = Annotated[int, msgspec.Meta(ge=0, lt=limits.SEQUENCE_MAX)]
Name = Annotated[str, msgspec.Meta(max_length=limits.NAME_LENGTH_MAX)]
Host = Annotated[str, msgspec.Meta(max_length=limits.HOST_LENGTH_MAX)]
Reason = Annotated[str, msgspec.Meta(max_length=limits.REASON_LENGTH_MAX)]
ReceiverId = Annotated[bytes, msgspec.Meta(min_length=limits.RECEIVER_ID_SIZE, max_length=limits.RECEIVER_ID_SIZE)]
Digest = Annotated[bytes, msgspec.Meta(min_length=limits.DIGEST_SIZE, max_length=limits.DIGEST_SIZE)]


class SessionState(enum.IntEnum):
    """What a sender says of itself in ANNOUNCE and STATUS."""

    WAITING = 0
    SENDING = 1
    IDLE = 2
    """Everything that was asked for is sent; whoever lacks something says so now."""


class EndReason(enum.IntEnum):
    """Why a session ended."""

    COMPLETE = 0
    INTERRUPTED = 1
    FAILED = 2


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all control messages."""


class Announce(Message, frozen=True, array_like=True, tag=1):
    """Sender, multicast on the discovery group, once a second and when solicited: what is sent, and how it is cut."""

    name: Name
    image_id: Annotated[bytes, msgspec.Meta(min_length=limits.IMAGE_ID_SIZE, max_length=limits.IMAGE_ID_SIZE)]
    image_name: Name
    manifest_digest: Digest
    manifest_size: Annotated[int, msgspec.Meta(ge=1, le=limits.MANIFEST_SIZE_MAX)]
    stream_size: Annotated[int, msgspec.Meta(ge=0, le=limits.RAW_SIZE_MAX * 2)]
    raw_size: Annotated[int, msgspec.Meta(ge=0, le=limits.RAW_SIZE_MAX)]
    symbol_size: Annotated[
        int,
        msgspec.Meta(ge=limits.SYMBOL_SIZE_MIN, le=limits.SYMBOL_SIZE_MAX, multiple_of=limits.SYMBOL_SIZE_STEP),
    ]
    source_symbols: Annotated[int, msgspec.Meta(ge=1, lt=limits.CODE_LENGTH)]
    window_slices: Annotated[int, msgspec.Meta(ge=1, le=limits.WINDOW_SLICES_MAX)]
    group: U32
    """IPv4 address of the data group."""
    port: Annotated[int, msgspec.Meta(ge=1, lt=1 << 16)]
    """UDP port of the data group."""
    control_port: Annotated[int, msgspec.Meta(ge=1, lt=1 << 16)]
    """UDP port for control messages at the address that the ANNOUNCE came from."""
    receivers_expected: Annotated[int, msgspec.Meta(ge=0, le=limits.RECEIVERS_MAX)]
    state: SessionState
    join_spread_ms: Annotated[int, msgspec.Meta(ge=0, le=limits.JOIN_SPREAD_MAX_NS // limits.MILLISECOND_NS)]
    """Over how long those who want to join spread their JOINs."""
    report_interval_ms: Annotated[int, msgspec.Meta(ge=10, le=600_000)]
    """How often a receiver that waits for the start says that it lives."""
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    """Room for an Ed25519 signature; empty in protocol version 1."""


class Solicit(Message, frozen=True, array_like=True, tag=2):
    """Receiver, multicast on the discovery group: whoever serves this name (empty: any), announce now."""

    name: Name


class Join(Message, frozen=True, array_like=True, tag=3):
    """Receiver, unicast: I want this session's image on my target."""

    receiver_id: ReceiverId
    incarnation: U32
    """Random for each start of the receiver, so that a restart is told from a repeat."""
    host: Host
    target: Reason
    target_size: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]
    """Capacity in bytes, -1 for a file that can grow."""
    link_rate: U63
    """Bytes per second of the receiver's interface, 0 where unknown."""
    wants_all: bool = True
    """The target holds nothing: send everything. False: I shall ask for what I lack when I have looked."""


class Welcome(Message, frozen=True, array_like=True, tag=4):
    """Sender, unicast: you are receiver ``receiver_index`` of this session."""

    receiver_id: ReceiverId
    incarnation: U32
    receiver_index: Annotated[int, msgspec.Meta(ge=0, lt=limits.RECEIVERS_MAX)]
    poll_number: U32
    """Of the next POLL: what those before it say of this index is of an earlier start."""


class Refuse(Message, frozen=True, array_like=True, tag=5):
    """Sender, unicast: you cannot take part, and why."""

    receiver_id: ReceiverId
    reason: Reason


class Status(Message, frozen=True, array_like=True, tag=6):
    """Sender, multicast in the data stream: where it stands. All data below ``sequence`` was sent before this."""

    sequence: Sequence
    """Sequence number of the next data datagram."""
    state: SessionState
    cursor: U63
    """Image slices below it have been sent at least once, or nobody needs them."""
    manifest_sent: bool
    pass_index: U32


class Poll(Message, frozen=True, array_like=True, tag=7):
    """Sender, multicast in the data stream: whose DONE is still wanted. A cleared bit acknowledges a DONE."""

    first_index: U32
    count: Annotated[int, msgspec.Meta(ge=0, le=limits.POLL_RECEIVERS_MAX)]
    wanted: Annotated[bytes, msgspec.Meta(max_length=limits.POLL_RECEIVERS_MAX // 8)]
    """Bit i (LSB first) is receiver ``first_index + i``."""
    number: U32
    """How many POLLs were said before it."""


class RepairAdvice(Message, frozen=True, array_like=True, tag=8):
    """Sender, multicast in the data stream: what it was asked for and is about to send (NORM_CMD(REPAIR_ADV))."""

    object_id: U8
    items: Annotated[bytes, msgspec.Meta(max_length=limits.NACK_ITEMS_MAX * 9)]
    sequence: Sequence
    """The repairs of slices held in part have numbers below it, as far as is known."""


# DEVIATES RFC 5740 §4.3.1: a NACK names no symbols, only how many are lacking, because the code is MDS: any will do.
class Nack(Message, frozen=True, array_like=True, tag=9):
    """Receiver, unicast: how many more symbols I need of which slices, as of a point in the data stream."""

    receiver_index: U32
    object_id: U8
    sequence: Sequence
    """Everything below it has reached me or is lost; the deficits are as of this point."""
    echo_us: U32
    hold_us: U32
    loss_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    """Network loss over the last report interval."""
    items: Annotated[bytes, msgspec.Meta(max_length=limits.NACK_ITEMS_MAX * 9)]
    """``deficits.DEFICIT`` records."""
    burst: U32 = 0
    """Most datagrams lost in a row since the last REPORT or NACK."""


class Report(Message, frozen=True, array_like=True, tag=10):
    """Receiver, unicast, once a report interval: I live, this is how I fare. Counters run from the join."""

    receiver_index: U32
    echo_us: U32
    """Send time of the newest datagram heard from the sender."""
    hold_us: U32
    """How long ago that was when this was sent."""
    symbols_received: U63
    lost_network: U63
    lost_host: U63
    loss_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    """Network loss from ``since`` to ``sequence``."""
    overrun_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    """Loss in this host (socket buffer, slice pool), likewise."""
    pool_fill_permille: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    """How full this receiver is: the fuller of its slice pool (waiting for its disk) and its socket buffer."""
    drain_rate: U63
    """Stream bytes per second that this receiver finishes, smoothed over the last few report intervals."""
    bytes_done: U63
    """Raw bytes verified and written, zero chunks included."""
    finishing: bool
    """All is written; the final flush, or the reading back, is under way."""
    checking: bool = False
    """The target is being compared with the manifest; nothing is asked for meanwhile."""
    burst: U32 = 0
    """Most datagrams lost in a row since the last REPORT or NACK."""
    sequence: Sequence = 0
    """Up to where in the stream ``loss_ppm`` and ``overrun_ppm`` speak: the number after the newest data datagram."""
    since: Sequence = 0
    """From where on."""


class Done(Message, frozen=True, array_like=True, tag=11):
    """Receiver, unicast, repeated until a POLL clears its bit: every chunk is verified, written and flushed."""

    receiver_index: U32
    manifest_digest: Digest
    bytes_written: U63
    lost_network: U63
    lost_host: U63


class Fail(Message, frozen=True, array_like=True, tag=12):
    """Receiver, unicast: I end without a good copy, and why."""

    receiver_index: U32
    reason: Reason


class End(Message, frozen=True, array_like=True, tag=13):
    """Sender, multicast in the data stream and on the discovery group: the session is over."""

    reason: EndReason
    text: Reason


class Defer(Message, frozen=True, array_like=True, tag=14):
    """Sender, unicast: the others are served before you. Ask for nothing for so long."""

    receiver_index: U32
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=limits.DEFER_MAX_NS // limits.MILLISECOND_NS)]


class FeedbackAdvice(Message, frozen=True, array_like=True, tag=15):
    """Sender, multicast at once: how to speak to it, so that a fleet says no more than it can hear (NORM_CMD(CC))."""

    grtt_us: Annotated[int, msgspec.Meta(ge=0, le=limits.GRTT_MAX_NS // limits.MICROSECOND_NS)]
    receivers: Annotated[int, msgspec.Meta(ge=0, le=limits.RECEIVERS_MAX)]
    feedback_scale: Annotated[int, msgspec.Meta(ge=1, le=limits.FEEDBACK_SCALE_MAX)]
    """Factor on every backoff: the sender's valve against feedback implosion."""
    report_interval_ms: Annotated[int, msgspec.Meta(ge=10, le=600_000)]
    rate: U63
    """Bytes per second the sender currently paces at."""
    tolerated_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    """Loss that is no reason to slow down: a receiver with more than that limits the rate."""
    report_below: U63
    """Bytes per second: who limits the rate to less than this says so, out of turn; 0: nobody."""
    since: Sequence = 0
    """Sequence number from which ``rate`` holds, or a higher one: what was lost before says nothing of it."""


AnyMessage = (
    Announce
    | Solicit
    | Join
    | Welcome
    | Refuse
    | Status
    | Poll
    | RepairAdvice
    | Nack
    | Report
    | Done
    | Fail
    | End
    | Defer
    | FeedbackAdvice
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def clip(text: str, length_max: int) -> str:
    """Return as much of a text as a field takes: at most ``length_max`` characters, and bytes of UTF-8 as well.

    What cannot be encoded (a path may hold any bytes) becomes a question mark.
    """
    return text.encode("utf-8", "replace")[:length_max].decode("utf-8", "ignore")


def encode(session_id: int, message: Message) -> bytes:
    """Return the datagram that carries a message."""
    datagram = wire.control_datagram(session_id, _ENCODER.encode(message))
    assert len(datagram) <= limits.CONTROL_SIZE_MAX, f"{type(message).__name__} of {len(datagram)} bytes"
    return datagram


def decode(body: bytes, drops: wire.Drops) -> AnyMessage | None:
    """Return the message in a control datagram's body, or count it as malformed and return None."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        drops.malformed += 1
        return None
