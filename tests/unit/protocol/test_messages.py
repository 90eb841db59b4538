"""Goal: each message has the bytes of SPEC §4, fits a datagram at its largest, and is refused outside its bounds.

Method: golden vectors for every message; messages built at all their limits at once, in a script of three bytes a
character; every bound broken once by editing the msgpack.
"""

from __future__ import annotations

import json
import pathlib
import typing

import msgspec
import numpy as np
import pytest

from protocol import limits, messages, wire
from protocol.deficits import DEFICIT, decode_deficits, encode_deficits

VECTORS = pathlib.Path(__file__).parents[2] / "vectors"
SESSION_ID = 0x5E551011
U32 = (1 << 32) - 1
U63 = (1 << 63) - 1
ITEMS = np.array([(3, 2, 5), (9, 1, 128)], DEFICIT).tobytes()


def examples() -> dict[str, messages.AnyMessage]:
    """Return one of each message, as in the golden vectors."""
    receiver_id, digest = bytes(range(16)), bytes(range(32))
    return {
        "announce": messages.Announce(
            "lab", bytes(range(100, 116)), "debian", digest, 70_000, 5_000_000_000, 12_884_901_888, 1440, 128, 32,
            0xEFC00102, 7767, 40000, 12, messages.SessionState.SENDING, 250, 1000,
        ),
        "solicit": messages.Solicit("lab"),
        "join": messages.Join(receiver_id, 0xCAFE0001, "node-17", "/dev/nvme0n1", 512_110_190_592, 125_000_000, False),
        "welcome": messages.Welcome(receiver_id, 0xCAFE0001, 17, 6),
        "refuse": messages.Refuse(receiver_id, "too small"),
        "status": messages.Status(
            123_456_789_012, messages.SessionState.IDLE, 27_000, True, 3,
        ),
        "poll": messages.Poll(0, 12, bytes([0xFE, 0x0F]), 6),
        "repair_advice": messages.RepairAdvice(limits.OBJECT_IMAGE, ITEMS, 5000),
        "nack": messages.Nack(17, limits.OBJECT_IMAGE, 123_456_700_000, 0x01020304, 1500, 1200, ITEMS, 44),
        "report": messages.Report(
            17, 0x01020304, 900, 1_000_000, 1200, 30, 1200, 30, 125, 90_000_000, 4_294_967_296, False, True, 44,
            123_456_789_000, 123_456_700_000,
        ),
        "done": messages.Done(17, digest, 12_884_901_888, 1200, 30),
        "fail": messages.Fail(17, "write error at byte 4096"),
        "end": messages.End(messages.EndReason.COMPLETE, "12 of 12 receivers verified"),
        "defer": messages.Defer(17, 5000),
        "feedback_advice": messages.FeedbackAdvice(12_500, 11, 2, 100, 118_000_000, 5000, 90_000_000, 123_456_789),
    }  # fmt: skip


def test_there_is_an_example_of_every_message() -> None:
    assert {type(message) for message in examples().values()} == set(typing.get_args(messages.AnyMessage))


@pytest.mark.parametrize("name", examples())
def test_a_message_has_its_golden_bytes(name: str) -> None:
    golden = json.loads((VECTORS / "wire-control.json").read_text())
    assert set(golden) == set(examples())
    message = examples()[name]
    assert messages.encode(SESSION_ID, message).hex() == golden[name]
    drops = wire.Drops()
    frame = wire.parse_control(bytes.fromhex(golden[name]), drops)
    assert frame is not None
    assert frame.session_id == SESSION_ID
    assert messages.decode(frame.body, drops) == message


def largest() -> list[messages.AnyMessage]:
    """Return every message at all its limits at once."""
    receiver_id, digest, items = bytes(16), bytes(32), bytes(9 * limits.NACK_ITEMS_MAX)
    sequence, index = limits.SEQUENCE_MAX - 1, limits.RECEIVERS_MAX - 1
    name = "\U0001f480" * limits.NAME_LENGTH_MAX
    host = messages.clip("語" * 999, limits.HOST_LENGTH_MAX)
    text = messages.clip("語" * 999, limits.REASON_LENGTH_MAX)
    return [
        messages.Announce(
            name, receiver_id, name, digest, limits.MANIFEST_SIZE_MAX, limits.RAW_SIZE_MAX * 2, limits.RAW_SIZE_MAX,
            limits.SYMBOL_SIZE_MAX, 254, 256, U32, 65535, 65535, limits.RECEIVERS_MAX, messages.SessionState.IDLE,
            120_000, 600_000, bytes(64),
        ),
        messages.Solicit(name),
        messages.Join(receiver_id, U32, host, text, U63, U63),
        messages.Welcome(receiver_id, U32, index, U32),
        messages.Refuse(receiver_id, text),
        messages.Status(
            sequence, messages.SessionState.IDLE, U63, True, U32,
        ),
        messages.Poll(U32, limits.POLL_RECEIVERS_MAX, bytes(limits.POLL_RECEIVERS_MAX // 8), U32),
        messages.RepairAdvice(255, items, limits.SEQUENCE_MAX - 1),
        messages.Nack(U32, 255, sequence, U32, U32, 1_000_000, items, U32),
        messages.Report(
            U32, U32, U32, U63, U63, U63, 1_000_000, 1_000_000, 1000, U63, U63, True, True, U32, sequence, sequence,
        ),
        messages.Done(U32, digest, U63, U63, U63),
        messages.Fail(U32, text),
        messages.End(messages.EndReason.FAILED, text),
        messages.Defer(U32, 60_000),
        messages.FeedbackAdvice(
            limits.GRTT_MAX_NS // 1000, limits.RECEIVERS_MAX, limits.FEEDBACK_SCALE_MAX, 600_000, U63, 1_000_000, U63,
            sequence,
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("message", largest(), ids=lambda message: type(message).__name__)
def test_the_largest_message_fits_and_is_accepted(message: messages.AnyMessage) -> None:
    datagram = messages.encode(SESSION_ID, message)
    assert len(datagram) <= limits.CONTROL_SIZE_MAX
    drops = wire.Drops()
    assert messages.decode(datagram[wire.CONTROL_BODY_OFFSET :], drops) == message


BEYOND = [
    ("announce", 5, 0), ("announce", 5, limits.MANIFEST_SIZE_MAX + 1), ("announce", 6, limits.RAW_SIZE_MAX * 2 + 1),
    ("announce", 7, -1), ("announce", 8, 1441), ("announce", 8, 32), ("announce", 8, limits.SYMBOL_SIZE_MAX + 32),
    ("announce", 9, 0), ("announce", 9, 255), ("announce", 10, 0), ("announce", 10, 257), ("announce", 12, 0),
    ("announce", 13, 65536), ("announce", 14, limits.RECEIVERS_MAX + 1), ("announce", 15, 3),
    ("announce", 1, "x" * 129),
    ("announce", 2, bytes(15)), ("announce", 4, bytes(31)), ("announce", 18, bytes(65)),
    ("announce", 16, 120_001), ("announce", 17, 9), ("join", 1, bytes(15)),
    ("join", 2, 1 << 32), ("join", 3, "x" * 65), ("join", 4, "x" * 401), ("join", 5, -2), ("join", 6, -1),
    ("welcome", 3, limits.RECEIVERS_MAX), ("refuse", 2, "x" * 401), ("status", 1, limits.SEQUENCE_MAX),
    ("status", 2, 3),
    ("status", 5, -1), ("feedback_advice", 1, limits.GRTT_MAX_NS // 1000 + 1), ("feedback_advice", 3, 0),
    ("feedback_advice", 3, limits.FEEDBACK_SCALE_MAX + 1), ("feedback_advice", 4, 9), ("feedback_advice", 4, 600_001),
    ("feedback_advice", 2, limits.RECEIVERS_MAX + 1), ("feedback_advice", 5, -1), ("feedback_advice", 6, 1_000_001),
    ("poll", 2, limits.POLL_RECEIVERS_MAX + 1), ("poll", 3, bytes(1251)),
    ("repair_advice", 1, 256), ("repair_advice", 2, bytes(9 * limits.NACK_ITEMS_MAX + 1)),
    ("repair_advice", 3, limits.SEQUENCE_MAX), ("nack", 6, 1_000_001),
    ("nack", 3, limits.SEQUENCE_MAX), ("nack", 7, "text"),
    ("nack", 8, 1 << 32), ("defer", 2, 60_001), ("report", 9, 1001), ("report", 12, 1),
    ("done", 2, bytes(33)),
    ("fail", 1, -1), ("end", 1, 3), ("end", 0, 16), ("end", 0, "end"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value"), BEYOND)
def test_a_field_beyond_its_bounds_makes_the_message_malformed(name: str, field: int, value: object) -> None:
    fields = msgspec.msgpack.decode(messages.encode(0, examples()[name])[wire.CONTROL_BODY_OFFSET :])
    fields += [b""] * (field + 1 - len(fields))
    fields[field] = value
    drops = wire.Drops()
    assert messages.decode(msgspec.msgpack.encode(fields), drops) is None
    assert drops.malformed == 1


def test_a_short_array_is_malformed() -> None:
    for message in examples().values():
        fields = msgspec.msgpack.decode(messages.encode(0, message)[wire.CONTROL_BODY_OFFSET :])
        one = dict.fromkeys((messages.Announce, messages.Join, messages.Nack, messages.FeedbackAdvice), 1)
        optional = (one | {messages.Report: 4}).get(type(message), 0)
        shortest = len(fields) - optional - 1
        drops = wire.Drops()
        assert messages.decode(msgspec.msgpack.encode(fields[:shortest]), drops) is None


@pytest.mark.parametrize(
    "text", ["", "plain", "x" * 500, "語" * 500, "\U0001f480" * 500, "undecodable \udcff\udc80", "\0"]
)
def test_a_clipped_text_fits_and_encodes(text: str) -> None:
    for length_max in (1, 3, 64, 400):
        clipped = messages.clip(text, length_max)
        assert len(clipped) <= len(clipped.encode()) <= length_max
        assert text.startswith(clipped) or "?" in clipped


def test_deficits_are_packed_as_runs() -> None:
    slices = np.array([3, 4, 5, 7, 8, 20], np.int64)
    deficits = np.array([2, 2, 2, 2, 9, 9], np.int64)
    items, covered = encode_deficits(slices, deficits)
    assert np.frombuffer(items, DEFICIT).tolist() == [(3, 3, 2), (7, 1, 2), (8, 1, 9), (20, 1, 9)]
    assert covered == 6
    items, covered = encode_deficits(slices, deficits, items_max=2)
    assert len(items) == 18
    assert covered == 4


@pytest.mark.parametrize(
    "runs",
    [
        [(0, 0, 1)], [(0, 1, 0)], [(99, 2, 1)], [(100, 1, 1)], [(0, U32, 1)], [(U32, 1, 1)], [(U32, U32, 1)],
        [(5, 2, 1), (6, 1, 1)], [(5, 1, 1), (5, 1, 1)], [(5, 1, 1), (4, 1, 1)], [(0, 60, 1), (50, 50, 1)],
    ],
)  # fmt: skip
def test_runs_that_cannot_be_are_refused_before_anything_is_allocated(runs: list[tuple[int, int, int]]) -> None:
    assert decode_deficits(np.array(runs, DEFICIT).tobytes(), 100) is None


def test_odd_bytes_are_no_runs() -> None:
    for size in range(1, 30):
        if size % 9:
            assert decode_deficits(bytes(size), 1 << 32) is None
    empty = decode_deficits(b"", 100)
    assert empty is not None
    assert [len(part) for part in empty] == [0, 0]
