"""Where fuzzing begins: what chance would not put together, or what no coverage leads to because it is C underneath.

They are replayed and fuzzed with the corpus, but not kept in it. For the session machines these are whole sessions
that go well. The bytes are decisions in the order in which ``machines`` asks for them; a change there asks for a change
here, which ``test_replay`` notices.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import zstandard

from protocol import limits, messages, wire
from protocol.deficits import DEFICIT
from tests.fuzz import machines
from tests.unit.protocol.test_messages import examples

_KINDS = [
    kind.cls.__name__
    for kind in msgspec.inspect.multi_type_info(messages.AnyMessage.__args__)
    if isinstance(kind, msgspec.inspect.StructType)
]

_TELL, _DATA, _ANSWER = b"\x00", b"\x02", b"\x04"
_WELCOME = bytes([_KINDS.index("Welcome"), 0, 1, 0, 0, 0, 0])  # id, incarnation, number, which index, POLLs, session
_END = bytes([_KINDS.index("End"), 1, 0])


def _session_that_goes_well(lost: int) -> bytes:
    """Return what leads a receiver from its join to the end; ``lost`` symbols of each slice are repair symbols."""
    data = b"\x1d" + _TELL + _WELCOME
    engine = machines.run_receiver(data)
    todo = [
        (object_id, slice_index)
        for object_id in (limits.OBJECT_MANIFEST, limits.OBJECT_IMAGE)
        for slice_index in range(engine.session.reception.partition(object_id).slice_count)
    ]
    while todo or engine.jobs or engine.to_flush:
        if engine.jobs:
            data += _ANSWER + bytes([0]) + bytes([3])
        elif engine.to_flush:
            data += _ANSWER
        else:
            data += _DATA + bytes([*todo.pop(0), lost])
        engine = machines.run_receiver(data)
    return data + _TELL + _END


def _fleet_that_goes_well() -> bytes:
    """Return what leads a sender through two receivers' session: joins, data, a request, both DONEs."""
    join = _KINDS.index("Join")
    data = bytes([2, 127, 0])  # two receivers start it; so many seconds at most; the rate is found
    for who in range(2):
        data += bytes([0, who, join, who, 1, 0, 0, 0, 1, 0])
    data += bytes([6, 6, 6, 5, 100])
    data += bytes([0, 0, _KINDS.index("Nack"), 0, 0, 0, 1, 9, 0, 0, 0, 1, 2, 3, 4, 0, 0])
    data += bytes([6, 6, 5, 100])
    for who in range(2):
        data += bytes([0, who, _KINDS.index("Done"), 0, who, 0, 0, 0, 0, 0])
    return data + bytes([5, 100])


def receiver() -> list[bytes]:
    return [_session_that_goes_well(lost) for lost in range(3)]


def sender() -> list[bytes]:
    good = _fleet_that_goes_well()
    done = _KINDS.index("Done")
    # The second receiver's DONE, from the first one's address.
    stolen = good[: good.rindex(bytes([0, 0, done]))] + bytes([0, 0, done, 0, 1, 0, 0, 0, 0, 0])
    return [good, stolen]


def control() -> list[bytes]:
    datagrams = [messages.encode(7, message) for message in examples().values()]
    bodies = [datagram[wire.CONTROL_BODY_OFFSET :] for datagram in datagrams]
    return [*(b"\0" + datagram for datagram in datagrams), *(b"\1" + body for body in bodies)]


def deficits() -> list[bytes]:
    runs = ([(0, 5, 1), (5, 2, 128)], [(3, 4, 9), (5, 4, 9)], [(0, 1, 0)], [(0, 0, 1)], [(999, 1, 255), (1000, 1, 1)])
    return [np.array(each, DEFICIT).tobytes() for each in (*runs, [(0xFFFFFFFF, 0xFFFFFFFF, 1)])]


def frame() -> list[bytes]:
    found = []
    for raw in (b"", b"x", b"abc" * 30, bytes(127)):
        frames = [zstandard.ZstdCompressor(write_checksum=check).compress(raw) for check in (True, False)]
        frames.append(zstandard.ZstdCompressor(write_content_size=False).compress(raw))
        frames += [frames[0][:-1], frames[0] + frames[0], frames[0] + b"?", b"\x50\x2a\x4d\x18\0\0\0\0" + frames[0]]
        found += [bytes([size]) + each for each in frames for size in {len(raw), max(0, len(raw) - 1), len(raw) + 1}]
    return [one for one in found if one[0] < 128]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    made.__name__: made for made in (receiver, sender, control, deficits, frame)
}


def seeds(name: str) -> list[bytes]:
    """Return a target's seeds, if it has any."""
    return SEEDS[name]() if name in SEEDS else []
