"""Goal: every message comes back as it went in, and no bytes whatever make a machine's front door raise.

Method: hypothesis builds messages from their types' own bounds, and bytes from nothing, from damaged messages and from
msgpack that is no message of ours.
"""

from __future__ import annotations

import functools
import typing

import msgspec
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol import limits, messages, wire
from protocol.deficits import DEFICIT, decode_deficits, encode_deficits
from protocol.symbols import DATA_HEADER, unwrap_sequence


def strategy_of(kind: object) -> st.SearchStrategy[object]:
    """Return what draws values of a message field's type, within its bounds."""
    info = msgspec.inspect.type_info(kind)
    match info:
        case msgspec.inspect.IntType():
            low = info.ge if info.ge is not None else -(1 << 63)
            high = info.le if info.le is not None else (info.lt or 1 << 63) - 1
            step = info.multiple_of or 1
            return st.integers(-(-low // step), high // step).map(lambda number: number * step)
        case msgspec.inspect.StrType():
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=min(info.max_length or 0, 40))
        case msgspec.inspect.BytesType():
            return st.binary(min_size=info.min_length or 0, max_size=info.max_length)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.EnumType():
            return st.sampled_from(list(info.cls))
    raise AssertionError(f"no strategy for {info}")


def any_message() -> st.SearchStrategy[messages.AnyMessage]:
    kinds = typing.get_args(messages.AnyMessage)
    return st.one_of(
        *(
            st.builds(kind, **{field.name: strategy_of(field.type) for field in msgspec.structs.fields(kind)})
            for kind in kinds
        )
    )


@settings(max_examples=500, deadline=None)
@given(any_message(), st.integers(0, (1 << 32) - 1))
def test_a_message_comes_back_as_it_went_in(message: messages.AnyMessage, session_id: int) -> None:
    datagram = messages.encode(session_id, message)
    assert len(datagram) <= limits.CONTROL_SIZE_MAX
    drops = wire.Drops()
    frame = wire.parse_control(datagram, drops)
    assert frame is not None
    assert frame.session_id == session_id
    assert messages.decode(frame.body, drops) == message
    assert drops.total() == 0


def nearly_ours() -> st.SearchStrategy[bytes]:
    seal = functools.partial(wire.control_datagram, 1)
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
    encoded = values.map(msgspec.msgpack.encode)
    tagged = st.tuples(st.integers(0, 15), st.lists(values, max_size=20)).map(
        lambda parts: msgspec.msgpack.encode([parts[0], *parts[1]])
    )
    damaged = st.tuples(any_message(), st.integers(0, 1 << 20), st.integers(1, 255), st.booleans()).map(_damage)
    return st.one_of(st.binary(max_size=1500), encoded.map(seal), tagged.map(seal), damaged)


def _damage(parts: tuple[messages.AnyMessage, int, int, bool]) -> bytes:
    message, place, change, sealed = parts
    datagram = bytearray(messages.encode(1, message))
    datagram[place % len(datagram)] ^= change
    return wire.control_datagram(1, bytes(datagram[wire.CONTROL_BODY_OFFSET :])) if sealed else bytes(datagram)


@settings(max_examples=1500, deadline=None)
@given(nearly_ours())
@example(wire.control_datagram(1, b"\x91" * 1300))
@example(wire.control_datagram(1, b"\x92\x02\xd9\x02\xff\xfe"))
@example(wire.control_datagram(1, b"\xdd\xff\xff\xff\xff"))
@example(wire.control_datagram(1, b"\xdb\xff\xff\xff\xff"))
def test_any_bytes_are_a_message_or_a_counter(datagram: bytes) -> None:
    drops = wire.Drops()
    frame = wire.parse_control(datagram, drops)
    message = None if frame is None else messages.decode(frame.body, drops)
    assert (message is None) == (drops.total() == 1)
    if message is not None:
        assert len(messages.encode(1, message)) <= limits.CONTROL_SIZE_MAX


@st.composite
def needs(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    slice_count = draw(st.integers(1, 2000))
    slices = sorted(draw(st.sets(st.integers(0, slice_count - 1), max_size=60)))
    deficits = draw(st.lists(st.integers(1, 3) | st.integers(1, 255), min_size=len(slices), max_size=len(slices)))
    return slices, deficits, slice_count


@settings(deadline=None)
@given(needs(), st.integers(1, 200))
def test_deficits_come_back_as_far_as_they_fit(drawn: tuple[list[int], list[int], int], items_max: int) -> None:
    slices, deficits, slice_count = drawn
    items, covered = encode_deficits(np.array(slices, np.int64), np.array(deficits, np.int64), items_max)
    assert len(items) <= 9 * items_max
    assert covered == len(slices) or len(items) == 9 * items_max
    back = decode_deficits(items, slice_count)
    assert back is not None
    assert [part.tolist() for part in back] == [slices[:covered], deficits[:covered]]


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=9 * 12), st.integers(0, 5000))
@example(np.array([(0, (1 << 32) - 1, 1)], DEFICIT).tobytes(), 5000)
@example(np.array([(0, 1 << 31, 1), (1 << 31, 1 << 31, 1)], DEFICIT).tobytes(), 5000)
def test_any_items_are_refused_or_lie_within_the_object(items: bytes, slice_count: int) -> None:
    decoded = decode_deficits(items, slice_count)
    if decoded is not None:
        slices, deficits = decoded
        assert len(slices) == len(deficits) <= slice_count
        assert (np.diff(slices) > 0).all()
        assert ((slices >= 0) & (slices < slice_count)).all()
        assert (deficits >= 1).all()


@settings(deadline=None)
@given(
    st.integers(1 << 31, 1 << 61), st.lists(st.integers(-(1 << 31) + 1, (1 << 31) - 1), min_size=1, max_size=30)
)  # fmt: skip
def test_sequence_numbers_within_reach_are_recovered(reference: int, distances: list[int]) -> None:
    truth = reference + np.array(distances, np.int64)
    assert np.array_equal(unwrap_sequence(truth & 0xFFFFFFFF, reference), truth)


@settings(deadline=None)
@given(st.binary(min_size=32 * 3, max_size=32 * 3))
def test_headers_are_what_their_bytes_say(data: bytes) -> None:
    headers = np.frombuffer(data, DATA_HEADER)
    assert headers.tobytes() == data
    for index, header in enumerate(headers):
        part = data[32 * index : 32 * index + 32]
        assert int(header["sequence"]) == int.from_bytes(part[12:16])
        assert int(header["window_left"]) == int.from_bytes(part[20:22])
        assert int(header["esi"]) == part[23]
