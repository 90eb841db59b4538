"""Fuzz targets for the two session machines: hostile but well-formed messages, data headers, and time, in any order.

Each target plays the engine around one machine. What must hold whatever comes: nothing raises; nobody is verified but
by the one way that leads there; no row that a worker reads is written to; no datagram leaves that its receiver would
refuse; no timer is due again and again without end.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from protocol import limits, messages, wire
from protocol.deficits import DEFICIT, decode_deficits
from protocol.discovery import Found
from protocol.extents import Extents
from protocol.fleet import PeerState
from protocol.manifest import manifest_digest
from protocol.partition import Partition
from protocol.receiver_events import (
    AllWritten,
    ExtentReady,
    Identity,
    Outcome,
    ReceiverState,
    SlicesToDecode,
)
from protocol.receiver_session import ReceiverSession
from protocol.sender_events import SessionParameters, StartRule
from protocol.sender_session import SenderSession
from protocol.symbols import DATA_HEADER
from tests.fuzz.reader import Reader
from tests.simulation.image import Image, make_image

SESSION_ID = 0x0000_0001
SYMBOL_SIZE, SOURCE_SYMBOLS = 64, 8
IDS = (b"r" * 16, b"s" * 16, b"t" * 16)
ADDRESSES = (("192.0.2.1", 1), ("192.0.2.2", 2), ("192.0.2.1", 3))
TIMEOUTS_MAX = 100
"""Calls of ``handle_timeout`` at one instant: every timer once, and what follows from it; more is a busy loop."""

CALLS_MAX = 150
"""Timers that go off in one step; later ones in the next, which keeps one input quick."""


@functools.cache
def _image() -> Image:
    return make_image(1, 12, frame_size=(100, 1500), zero=0.2)


def _announce(state: messages.SessionState = messages.SessionState.WAITING) -> messages.Announce:
    image = _image()
    return messages.Announce(
        name="lab",
        image_id=image.manifest.image_id,
        image_name="image",
        manifest_digest=manifest_digest(image.manifest_bytes),
        manifest_size=len(image.manifest_bytes),
        stream_size=image.manifest.stream_size,
        raw_size=image.manifest.raw_size,
        symbol_size=SYMBOL_SIZE,
        source_symbols=SOURCE_SYMBOLS,
        window_slices=4,
        group=0xEFC00001,
        port=7767,
        control_port=9,
        receivers_expected=2,
        state=state,
        join_spread_ms=0,
        report_interval_ms=1000,
    )


def _items(reader: Reader) -> bytes:
    runs = [(reader.number() % (1 << 32), reader.number() % (1 << 32), reader.byte()) for _ in range(reader.below(4))]
    return np.array(runs, DEFICIT).tobytes() + reader.take(reader.choice((0, 0, 0, 1)))


_FIELDS: dict[str, Callable[[Reader], Any]] = {
    "name": lambda reader: reader.choice(("lab", "", "other")),
    "image_id": lambda reader: reader.choice((_image().manifest.image_id, bytes(16))),
    "image_name": lambda reader: "image",
    "manifest_digest": lambda reader: reader.choice((_announce().manifest_digest, bytes(32))),
    "receiver_id": lambda reader: reader.choice(IDS),
    "incarnation": lambda reader: reader.below(3),
    "receiver_index": lambda reader: reader.choice((0, 1, 2, reader.number())),
    "host": lambda reader: "host",
    "target": lambda reader: "target",
    "reason": lambda reader: reader.choice(("why", 0, 1, 2)),
    "text": lambda reader: "text",
    "target_size": lambda reader: reader.choice((-1, reader.number())),
    "signature": lambda reader: b"",
    "items": _items,
    "wanted": lambda reader: reader.take(reader.below(4)),
    "object_id": lambda reader: reader.choice((0, 1, 1, reader.byte())),
    "symbol_size": lambda reader: reader.choice((SYMBOL_SIZE, SYMBOL_SIZE, reader.number())),
    **dict.fromkeys(("source_symbols", "window_slices", "port", "control_port"), lambda reader: reader.byte()),
    "state": lambda reader: reader.below(3),
    **dict.fromkeys(("manifest_sent", "finishing", "checking", "wants_all"), lambda reader: reader.flag()),
}
"""How each field is made up; all others are numbers."""


def _message(reader: Reader) -> bytes:
    """Return a control datagram of any kind, most fields within what they may be."""
    kinds = msgspec.inspect.multi_type_info(messages.AnyMessage.__args__)
    kind = reader.choice(kinds)
    assert isinstance(kind, msgspec.inspect.StructType)
    values = [_FIELDS.get(field.name, Reader.number)(reader) for field in kind.fields]
    session = reader.choice((SESSION_ID, SESSION_ID, SESSION_ID, 0, 2))
    try:
        body = msgspec.msgpack.encode([kind.tag, *values])
    except (OverflowError, ValueError):  # a number of more than 64 bits
        return b""
    return wire.control_datagram(session, body)


def _expect_heard(datagram: bytes) -> messages.AnyMessage:
    drops = wire.Drops()
    frame = wire.parse_control(datagram, drops)
    message = None if frame is None else messages.decode(frame.body, drops)
    assert message is not None, "said what nobody can read"
    return message


def _pass_time(machine: ReceiverSession | SenderSession, since: int, until: int) -> None:
    """Let every timer go off at its time, or late; time never goes back."""
    calls, instant = 0, since
    for _ in range(CALLS_MAX):
        due = machine.next_timeout()
        if due is None or due > until:
            break
        calls = calls + 1 if due <= instant else 0
        instant = max(due, instant)
        assert calls < TIMEOUTS_MAX, "a timer goes off for ever"
        machine.handle_timeout(instant)
        if isinstance(machine, ReceiverSession):
            while (said := machine.poll_transmit() or machine.poll_group_transmit()) is not None:
                _expect_heard(said)
        else:
            while (transmit := machine.poll_transmit()) is not None:
                _expect_heard(transmit.datagram)


class ReceivingEngine:
    """What a receiver's engine does with events, and what it knows about them."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.now = limits.SECOND_NS
        identity = Identity(IDS[0], 1, "host", "target", -1)
        found = Found(SESSION_ID, _announce(), "192.0.2.9")
        self.session = ReceiverSession(
            found,
            identity,
            pool_size=(4 + reader.below(30)) * SYMBOL_SIZE * SOURCE_SYMBOLS,
            rng=random.Random(1),
            now=0,
        )
        self.jobs: list[SlicesToDecode | ExtentReady] = []
        self.good: set[int] = set(np.flatnonzero(~_image().manifest.transferred).tolist())
        self.to_flush = self.flushed = False
        self.expected = 0

    def take_events(self) -> None:
        while (event := self.session.poll_event()) is not None:
            if isinstance(event, SlicesToDecode | ExtentReady):
                self.jobs.append(event)
            elif isinstance(event, AllWritten):
                assert self.good == set(range(_image().manifest.chunk_count)), "all written, says who"
                self.to_flush = True

    def read_rows(self) -> set[tuple[int, int]]:
        """Return the rows, object by object, that a worker may be reading now."""
        rows = set()
        for job in self.jobs:
            partition, assembly = (
                self.session.reception.partition(job.object_id),
                self.session.reception.assembly(job.object_id),
            )
            slices = job.slices if isinstance(job, SlicesToDecode) else self._extents(job.object_id, job.extent)
            for slice_index in slices:
                held = np.arange(int(partition.symbols_of(np.array([slice_index]))[0]))
                rows.update((job.object_id, row) for row in assembly.rows_of(slice_index, held).tolist())
        return rows

    def _extents(self, object_id: int, extent: int) -> tuple[int, ...]:
        return tuple(self._layout(object_id).slices_of(extent).tolist())

    @functools.cache  # noqa: B019 (one engine lives as long as one input)
    def _layout(self, object_id: int) -> Extents:
        manifest = _image().manifest
        partition = self.session.reception.partition(object_id)
        if object_id == limits.OBJECT_MANIFEST:
            return Extents(partition, np.array([0, partition.size], np.int64), np.ones(1, np.bool_))
        return Extents(partition, manifest.stored_offsets, manifest.transferred)

    def receive(self, headers: np.ndarray[Any, np.dtype[np.void]]) -> None:
        busy = self.read_rows()
        for placement in self.session.receive_symbols(headers, self.now):
            assembly = self.session.reception.assembly(placement.object_id)
            rows = placement.rows
            count = len(headers) if placement.indices is None else len(placement.indices)
            assert len(rows) == count
            if placement.indices is not None:
                assert (placement.indices < len(headers)).all()
            assert (rows >= 0).all()
            assert (rows < assembly.row_count).all()
            written = {(placement.object_id, row) for row in rows.tolist()} & busy
            assert not written, "a row that a worker reads is written to"
        self.take_events()

    def answer(self) -> None:
        """End one job, or the flush."""
        session, reader = self.session, self.reader
        if session.state is ReceiverState.ENDED:
            return
        if self.jobs:
            job = self.jobs.pop(reader.below(len(self.jobs)))
            good = reader.below(4) > 0
            if isinstance(job, SlicesToDecode):
                session.slices_decoded(job.object_id, np.array(job.slices))
            elif job.object_id == limits.OBJECT_MANIFEST:
                session.extent_checked(job.object_id, job.extent, good=good)
                if good:
                    manifest = _image().manifest
                    done = int(np.count_nonzero(~manifest.transferred)) * manifest.chunk_size
                    session.manifest_known(manifest, manifest.transferred, done)
            else:
                if good:
                    self.good.add(job.extent)
                session.extent_checked(job.object_id, job.extent, good=good)
        elif self.to_flush:
            self.to_flush, self.flushed = False, True
            session.flushed(self.now)
        self.take_events()


def receiver(data: bytes) -> None:
    """A receiver is verified only by every chunk's digest and the flush, whatever anybody tells it."""
    run_receiver(data)


def run_receiver(data: bytes) -> ReceivingEngine:
    """Do what the bytes say, and return what came of it."""
    engine = ReceivingEngine(Reader(data))
    reader, session = engine.reader, engine.session
    steps = 0
    while reader.more and steps < 300:
        steps += 1
        action = reader.below(8)
        if action <= 1:
            session.receive_datagram(_message(reader), engine.now)
            engine.take_events()
        elif action <= 3:
            engine.receive(_honest_headers(engine) if action == 2 else _any_headers(engine))
        elif action <= 5:
            engine.answer()
        elif action == 6:
            since = engine.now
            engine.now += reader.number() % (20 * 1000) * limits.MILLISECOND_NS
            _pass_time(session, since, engine.now)
            engine.take_events()
        else:
            session.reception.host_dropped(reader.byte())
            since = engine.now
            engine.now = max(engine.now, session.next_timeout() or 0)
            _pass_time(session, since, engine.now)
        while (said := session.poll_transmit()) is not None:
            message = _expect_heard(said)
            if isinstance(message, messages.Done):
                assert engine.flushed
            if isinstance(message, messages.Nack):
                slices = session.reception.partition(message.object_id).slice_count
                assert decode_deficits(message.items, slices) is not None
        if session.outcome is Outcome.VERIFIED:
            assert engine.flushed
            assert engine.good == set(range(_image().manifest.chunk_count))
    return engine


def _honest_headers(engine: ReceivingEngine) -> np.ndarray[Any, np.dtype[np.void]]:
    """Return one slice's symbols, some of them missing or replaced by repair symbols, as a sender sends them."""
    reader = engine.reader
    object_id = reader.below(2)
    partition = engine.session.reception.partition(object_id)
    slice_index = reader.below(partition.slice_count)
    symbols = int(partition.symbols_of(np.array([slice_index]))[0])
    lost = reader.below(3)
    esis = [*range(lost, symbols), *range(SOURCE_SYMBOLS, SOURCE_SYMBOLS + lost)]
    headers = np.zeros(len(esis), DATA_HEADER)
    headers["magic"], headers["version"], headers["kind"] = wire.MAGIC, wire.VERSION, wire.KIND_DATA
    headers["session"], headers["object"], headers["slice"] = SESSION_ID, object_id, slice_index
    headers["esi"] = esis
    headers["sequence"] = (engine.expected + np.arange(len(esis))) & 0xFFFFFFFF
    headers["window_left"] = len(esis) - 1 - np.arange(len(esis))
    engine.expected += len(esis)
    return headers


def _any_headers(engine: ReceivingEngine) -> np.ndarray[Any, np.dtype[np.void]]:
    """Return headers of which each field may be anything."""
    reader = engine.reader
    headers = np.concatenate([_honest_headers(engine) for _ in range(1 + reader.below(2))])
    raw = headers.view(np.uint8).reshape(len(headers), -1)
    for _ in range(1 + reader.below(6)):
        row, field = reader.below(len(headers)), reader.choice(DATA_HEADER.names or ())
        kind = np.iinfo(DATA_HEADER[field].newbyteorder("="))
        headers[field][row] = reader.number() % (int(kind.max) + 1)
        raw[reader.below(len(headers)), reader.below(wire.DATA_HEADER_SIZE)] ^= reader.byte()
    return headers


def sender(data: bytes) -> None:
    """A peer is verified only by its own DONE with this digest, from its own address; what is sent is in the object."""
    run_sender(data)


def run_sender(data: bytes) -> SenderSession:
    """Do what the bytes say, and return what came of it."""
    reader, image = Reader(data), _image()
    announce = _announce()
    parameters = SessionParameters(
        session_id=SESSION_ID,
        name="lab",
        image_id=image.manifest.image_id,
        image_name="image",
        manifest_digest=announce.manifest_digest,
        manifest_size=announce.manifest_size,
        stream_size=announce.stream_size,
        raw_size=announce.raw_size,
        target_size_min=announce.raw_size,
        symbol_size=SYMBOL_SIZE,
        group=announce.group,
        port=announce.port,
        control_port=announce.control_port,
        start=StartRule(receivers=reader.below(3), max_wait_ns=reader.number() * limits.SECOND_NS),
        rate=reader.choice((None, 1e6)),
        source_symbols=SOURCE_SYMBOLS,
        window_slices=4,
    )
    partition = Partition(announce.stream_size, SYMBOL_SIZE, SOURCE_SYMBOLS)
    wanted = Extents(partition, image.manifest.stored_offsets, image.manifest.transferred).wanted_slices
    now = limits.SECOND_NS
    session = SenderSession(parameters, wanted, now)
    confirmed: set[tuple[int, tuple[str, int]]] = set()
    joins = steps = 0
    while reader.more and steps < 300:
        steps += 1
        action = reader.below(8)
        if action <= 4:
            address, datagram = reader.choice(ADDRESSES), _message(reader)
            frame = wire.parse_control(datagram, wire.Drops())
            message = None if frame is None else messages.decode(frame.body, wire.Drops())
            if isinstance(message, messages.Done) and message.manifest_digest == announce.manifest_digest:
                confirmed.add((message.receiver_index, address))
            joins += isinstance(message, messages.Join)
            session.receive_datagram(datagram, address, now)
        elif action == 5:
            since = now
            now += reader.number() % (20 * 1000) * limits.MILLISECOND_NS
            _pass_time(session, since, now)
        elif action == 6:
            _take_windows(session, now)
        else:
            session.start(now)
        while (transmit := session.poll_transmit()) is not None:
            _expect_heard(transmit.datagram)
        while session.poll_event() is not None:
            pass
        assert len(session.peers) + len(session.refused) <= joins
        for peer in session.peers:
            if peer.state is PeerState.VERIFIED:
                assert (peer.index, peer.address) in confirmed, "verified without its own DONE"
        assert session.rate_bytes_per_s > 0
        assert 0 <= session.loss <= 1
    assert session.remaining_symbols >= 0
    return session


def _take_windows(session: SenderSession, now: int) -> None:
    for _ in range(6):
        first = session.sequence
        window = session.poll_window(now)
        if window is None:
            return
        partition = session.schedules[window.object_id].partition
        assert window.first_sequence == first
        assert session.sequence == first + window.datagram_count
        assert (np.diff(window.slices) > 0).all()
        assert 0 <= window.slices[0] <= window.slices[-1] < partition.slice_count
        assert (window.counts > 0).all()
        assert (window.counts <= limits.CODE_LENGTH).all()
        assert 0 < window.datagram_count <= 0x10000
        esis = partition.esi(window.positions, partition.symbols_of(window.slices))
        assert (esis < limits.CODE_LENGTH).all()
