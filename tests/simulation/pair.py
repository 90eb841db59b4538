"""One real sender and any number of real receivers, joined by a lossy network, driven as the engines drive them.

Plays the engines: lays windows out, paces them, moves payloads to the rows that the receiver names, decodes, checks and
writes, each with the time it takes. Nothing is written here that did not match its digest, unless a test plants that
fault; whether a copy is exact is judged by comparing bytes, not by what the machines say of it.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Callable

import blake3
import numpy as np
import numpy.typing as npt

from ghostcast.fec.kernel import load_kernel
from ghostcast.simulation.clock import Alarm, Clock
from ghostcast.simulation.source import WINDOWS_UNDER_WAY, stamp, window_headers
from protocol import limits, messages, wire
from protocol.discovery import Discovery
from protocol.extents import Extents
from protocol.fleet import PeerState
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest, Source, manifest_digest
from protocol.partition import Partition
from protocol.receiver_events import (
    AllWritten,
    Ended,
    ExtentReady,
    Identity,
    Outcome,
    ReceiverState,
    SliceToDecode,
    Welcomed,
)
from protocol.receiver_session import ReceiverSession
from protocol.reed_solomon import Code, Codec, SymbolRows
from protocol.schedule import Window
from protocol.sender_events import Destination, EventKind, SessionParameters, StartRule
from protocol.sender_session import SenderSession
from tests.simulation.network import (
    MILLISECOND,
    PERFECT,
    SECOND,
    Address,
    Faults,
    Headers,
    Network,
    Payloads,
)

BATCH_DATAGRAMS = 48
"""Datagrams that go out and come in together: one segmentation batch."""

SYMBOL_SIZE = 64

DESCRIBED_MAX = 12
"""Receivers whose state is in a failure's message."""

ZERO_DIGEST = np.frombuffer(blake3.blake3(bytes(limits.CHUNK_SIZE_MIN)).digest(), np.uint8)


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A made-up image: a manifest, and the stream that it describes."""

    manifest: Manifest
    manifest_bytes: bytes
    stream: bytes

    def frame(self, chunk: int) -> bytes:
        """Return the stored bytes of a chunk."""
        start, stop = self.manifest.stored_range(chunk)
        return self.stream[start:stop]

    def transferred(self) -> dict[int, bytes]:
        """Return what a blank target ends up with, chunk by chunk."""
        return {chunk: self.frame(chunk) for chunk in np.flatnonzero(self.manifest.transferred).tolist()}


def make_image(
    seed: int, chunk_count: int = 24, *, frame_size: tuple[int, int] = (200, 2500), zero: float = 0.1
) -> Image:
    """Return an image of ``chunk_count`` chunks, of which about a share of ``zero`` is zero or unused."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(frame_size[0], frame_size[1] + 1, chunk_count).astype(np.uint32)
    stream = rng.bytes(int(sizes.sum()))
    flags = np.where(rng.random(chunk_count) < zero, rng.choice([FLAG_ZERO, FLAG_UNUSED], chunk_count), 0)
    ends = np.cumsum(sizes)
    digests = [
        blake3.blake3(stream[end - size : end]).digest()
        for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)
    ]
    raw_digests = rng.integers(0, 256, (chunk_count, 32), np.uint8)
    raw_digests[flags == FLAG_ZERO] = ZERO_DIGEST
    manifest = Manifest(
        image_id=rng.bytes(limits.IMAGE_ID_SIZE),
        name=f"image-{seed}",
        created=0,
        raw_size=chunk_count * limits.CHUNK_SIZE_MIN,
        chunk_size=limits.CHUNK_SIZE_MIN,
        source=Source(),
        stored_sizes=sizes,
        stored_digests=np.frombuffer(b"".join(digests), np.uint8).reshape(chunk_count, 32),
        raw_digests=raw_digests,
        flags=flags.astype(np.uint8),
    )
    return Image(manifest, manifest.encode(), stream)


class ObjectSymbols:
    """Every symbol of an object by slice and ESI, computed once a slice."""

    def __init__(self, data: bytes, partition: Partition) -> None:
        self.partition = partition
        self._data = data
        self._codec = Codec(Code(partition.source_symbols), load_kernel())
        self._slices: dict[int, Payloads] = {}

    def take(self, slices: npt.NDArray[np.int64], esis: npt.NDArray[np.int64]) -> Payloads:
        """Return the payloads of symbols, row for row."""
        rows = np.empty((len(slices), self.partition.symbol_size), np.uint8)
        for slice_index in np.unique(slices).tolist():
            mask = slices == slice_index
            rows[mask] = self._slice(slice_index)[esis[mask]]
        return rows

    def _slice(self, slice_index: int) -> Payloads:
        if slice_index not in self._slices:
            partition = self.partition
            start, stop = partition.slice_range(slice_index)
            table = np.zeros((limits.CODE_LENGTH, partition.symbol_size), np.uint8)
            table.reshape(-1)[: stop - start] = np.frombuffer(self._data, np.uint8, stop - start, start)
            symbols = SymbolRows(table)
            k = partition.source_symbols
            self._codec.encode(symbols.take(np.arange(k)), symbols.take(np.arange(k, limits.CODE_LENGTH)))
            self._slices[slice_index] = table
        return self._slices[slice_index]


class SenderNode:
    """The sending engine, without threads: plans, lays out, paces."""

    faults = PERFECT

    def __init__(
        self,
        network: Network,
        image: Image,
        *,
        session_id: int = 0x5E551011,
        name: str = "sim",
        address: Address = ("10.0.0.1", 4000),
        start: StartRule,
        rate: float | None = 1_000_000.0,
        source_symbols: int = 16,
        window_slices: int = 8,
        symbol_size: int = SYMBOL_SIZE,
        repair_symbols: int | None = None,
        payload: bool = True,
        first_sequence: int = 0,
        stream: bytes | None = None,
        session_class: type[SenderSession] = SenderSession,
    ) -> None:
        """``stream`` is what is really sent where that is not what the manifest describes; ``payload`` moves bytes."""
        self.network = network
        self.clock = network.clock
        self.address = address
        self.alive = True
        self.image = image
        manifest = image.manifest
        parameters = SessionParameters(
            session_id=session_id,
            name=name,
            image_id=manifest.image_id,
            image_name=manifest.name,
            manifest_digest=manifest_digest(image.manifest_bytes),
            manifest_size=len(image.manifest_bytes),
            stream_size=manifest.stream_size,
            raw_size=manifest.raw_size,
            target_size_min=manifest.target_size_min,
            symbol_size=symbol_size,
            group=0xEFC00001,
            port=limits.DISCOVERY_PORT,
            control_port=address[1],
            start=start,
            rate=rate,
            rate_start=1_000_000.0,
            source_symbols=source_symbols,
            window_slices=window_slices,
            repair_symbols=repair_symbols,
        )
        partition = Partition(manifest.stream_size, symbol_size, source_symbols)
        wanted = Extents(partition, manifest.stored_offsets, manifest.transferred).wanted_slices
        self.session = session_class(parameters, wanted, self.clock.now)
        self.session.sequence = first_sequence
        self.partitions = {object_id: schedule.partition for object_id, schedule in self.session.schedules.items()}
        data = {limits.OBJECT_MANIFEST: image.manifest_bytes, limits.OBJECT_IMAGE: stream or image.stream}
        self._symbols = {o: ObjectSymbols(data[o], p) for o, p in self.partitions.items()} if payload else None
        self.events: list[EventKind] = []
        self.sent: collections.Counter[tuple[int, int, int]] = collections.Counter()
        """How often each (object, slice, ESI) went out."""
        self.windows: list[Window] = []
        self._line: collections.deque[bytes | tuple[Headers, Payloads, bool]] = collections.deque()
        self._windows_under_way = 0
        self._pumping = False
        self._alarm = Alarm(self.clock, self.turn)
        network.nodes.append(self)
        self.clock.after(0, self.turn)

    @property
    def over(self) -> bool:
        """Whether it said its last word."""
        return self.session.finished or not self.alive

    def take_control(self, datagram: bytes, origin: Address) -> None:
        """Hand a datagram to the machine."""
        self.session.receive_datagram(datagram, origin, self.clock.now)
        self.turn()

    def take_data(self, headers: Headers, payloads: Payloads) -> None:
        """A sender does not listen to the data group."""

    def turn(self) -> None:
        """Do what the loop of the engine does once."""
        if not self.alive:
            return
        session, now = self.session, self.clock.now
        if (due := session.next_timeout()) is not None and now >= due:
            session.handle_timeout(now)
        self._flush()
        while self._windows_under_way < WINDOWS_UNDER_WAY and (window := session.poll_window(now)) is not None:
            self._windows_under_way += 1
            self._lay_out(window)
        self._flush()
        while (event := session.poll_event()) is not None:
            self.events.append(event.kind)
        if self._line and not self._pumping:
            self._pumping = True
            self.clock.after(0, self._pump)
        self._alarm.set(session.next_timeout())

    def peer_states(self) -> list[PeerState]:
        """Return where each receiver stands, by index."""
        return [peer.state for peer in self.session.peers]

    def _flush(self) -> None:
        while (transmit := self.session.poll_transmit()) is not None:
            if transmit.destination is Destination.DATA:
                self._line.append(transmit.datagram)
            elif transmit.destination in (Destination.DISCOVERY, Destination.GROUP):
                self.network.multicast(self, stamp(transmit.datagram, self.clock.now))
            else:
                assert isinstance(transmit.destination, tuple)
                self.network.unicast(self, transmit.destination, stamp(transmit.datagram, self.clock.now))

    def _lay_out(self, window: Window) -> None:
        self.windows.append(window)
        partition = self.partitions[window.object_id]
        headers = window_headers(self.session.parameters.session_id, partition, window)
        slices, esis = headers["slice"].astype(np.int64), headers["esi"].astype(np.int64)
        self.sent.update(zip(headers["object"].tolist(), slices.tolist(), esis.tolist(), strict=True))
        payloads = (
            np.zeros((len(headers), 0), np.uint8)
            if self._symbols is None
            else self._symbols[window.object_id].take(slices, esis)
        )
        for start in range(0, len(headers), BATCH_DATAGRAMS):
            stop = start + BATCH_DATAGRAMS
            self._line.append((headers[start:stop], payloads[start:stop], stop >= len(headers)))

    def _pump(self) -> None:
        """Put the next thing on the wire."""
        self._pumping = False
        if not self._line or not self.alive:
            return
        item = self._line.popleft()
        taken_ns = 0
        if isinstance(item, bytes):
            self.network.multicast(self, stamp(item, self.clock.now))
        else:
            headers, payloads, last = item
            headers["sent_us"] = self.clock.now // 1000 & 0xFFFFFFFF
            self.network.multicast_data(self, headers, payloads)
            size = len(headers) * (self.session.parameters.symbol_size + wire.DATA_HEADER_SIZE)
            taken_ns = int(size / max(self.session.rate_bytes_per_s, 1) * SECOND)
            if last:
                self._windows_under_way -= 1
                self.clock.after(taken_ns, self.turn)
        if self._line:
            self._pumping = True
            self.clock.after(taken_ns, self._pump)


class Memory:
    """The buffer of one object at one receiver."""

    def __init__(self, session: ReceiverSession, object_id: int) -> None:
        self.partition = session.partition(object_id)
        self.assembly = session.assembly(object_id)
        self.rows = np.zeros((self.assembly.row_count, self.partition.symbol_size), np.uint8)
        self.symbols = SymbolRows(self.rows)

    def bytes_of(self, start: int, stop: int) -> bytes:
        """Return bytes ``[start, stop)`` of the object, all of whose slices are in the ring."""
        flat = self.rows.reshape(-1)
        return b"".join(flat[begin:end].tobytes() for begin, end in self.assembly.ranges(start, stop))


class ReceiverNode:
    """The receiving engine, without threads: one receiver, its memory, and a disk that takes its time."""

    def __init__(
        self,
        network: Network,
        *,
        host: str = "r1",
        faults: Faults = PERFECT,
        session_name: str | None = "sim",
        port: int = 5000,
        incarnation: int = 1,
        pool_size: int = limits.POOL_SIZE_DEFAULT,
        target_size: int = -1,
        work_ns: int = 200_000,
        flush_ns: int = MILLISECOND,
        disk: dict[int, bytes] | None = None,
        checks: bool = True,
        check_ns: int = 0,
        wants_all: bool | None = None,
        born_ns: int = 0,
    ) -> None:
        """Make one; it comes to life at ``born_ns``.

        Args:
            network: what it is on.
            disk: what is on the target: stored bytes by chunk, right or wrong, as an earlier run left them.
            checks: False plants a receiver that writes without looking.
            check_ns: how long it takes to read one chunk of the disk back.
            wants_all: what it says of its disk when it joins; None: whether the disk is empty.
        """
        self.network = network
        self.clock = network.clock
        self.host = host
        self.address = (host, port)
        self.faults = dataclasses.replace(faults)
        self.alive = self.dead = False
        self.incarnation = incarnation
        self.pool_size = pool_size
        self.target_size = target_size
        self.work_ns = work_ns
        self.flush_ns = flush_ns
        self.disk: dict[int, bytes] = {} if disk is None else disk
        self.found_there = dict(self.disk)
        """What was on the disk before this node: nobody vouches for that until the node says verified."""
        self.checks = checks
        self.check_ns = check_ns
        self.wants_all = wants_all
        self.session: ReceiverSession | None = None
        self.reused = 0
        self.outcomes: list[Outcome] = []
        self._session_name = session_name
        self._discovery: Discovery | None = None
        self._memory: dict[int, Memory] = {}
        self._rng = random.Random(f"{host} {incarnation} {network.rng.random()}")
        self._worker_free_ns = 0
        self._alarm = Alarm(self.clock, self.turn)
        network.nodes.append(self)
        self.clock.after(born_ns, self._born)

    def _born(self) -> None:
        if self.dead:
            return
        self.alive = True
        self._discovery = Discovery(self._session_name, self.clock.now, self._rng)
        self.turn()

    @property
    def over(self) -> bool:
        """Whether it ended, in whatever way."""
        return bool(self.outcomes)

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        assert len(self.outcomes) == 1, f"{self.host} ended {len(self.outcomes)} times"
        return self.outcomes[0]

    def die(self) -> None:
        """Vanish without a word; what was written stays on the disk."""
        self.alive, self.dead = False, True

    def restart(self, *, pool_size: int | None = None) -> ReceiverNode:
        """Return the same machine, started again on the same disk."""
        self.die()
        return ReceiverNode(
            self.network,
            host=self.host,
            faults=self.faults,
            session_name=self._session_name,
            port=self.address[1] + 1,
            incarnation=self.incarnation + 1,
            pool_size=pool_size or self.pool_size,
            target_size=self.target_size,
            work_ns=self.work_ns,
            check_ns=self.check_ns,
            wants_all=self.wants_all,
            disk=self.disk,
        )

    # --- the network ----------------------------------------------------------------------------------------------

    def take_control(self, datagram: bytes, origin: Address) -> None:
        """Hand a datagram to whichever machine is at work."""
        if self.session is not None:
            if origin == self.session.found.control_address:
                self.session.receive_datagram(datagram, self.clock.now)
        elif self._discovery is not None:
            self._discovery.receive_datagram(datagram, origin, self.clock.now)
        self.turn()

    def take_data(self, headers: Headers, payloads: Payloads) -> None:
        """Hand headers to the machine, and put the payloads where it says."""
        session = self.session
        if session is None:
            return
        for placement in session.receive_symbols(headers, self.clock.now):
            chosen = payloads if placement.indices is None else payloads[placement.indices]
            if chosen.shape[1]:
                self._memory[placement.object_id].rows[placement.rows] = chosen
        self.turn()

    # --- one turn of the engine -----------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do what the engine does once."""
        if not self.alive or self.over:
            return
        if self.session is None:
            self._search()
        session, now = self.session, self.clock.now
        if session is None:
            return
        if (due := session.next_timeout()) is not None and now >= due:
            session.handle_timeout(now)
        while (event := session.poll_event()) is not None:
            self._handle(event, session)
        while (datagram := session.poll_transmit()) is not None:
            self.network.unicast(self, session.found.control_address, datagram)
        while (datagram := session.poll_group_transmit()) is not None:
            self.network.multicast(self, datagram)
        if session.state is not ReceiverState.ENDED:
            self._alarm.set(session.next_timeout())

    def _search(self) -> None:
        discovery, now = self._discovery, self.clock.now
        assert discovery is not None
        found = discovery.poll_choice(now)
        if not found:
            if (datagram := discovery.poll_transmit(now)) is not None:
                self.network.multicast(self, datagram)
            self._alarm.set(discovery.next_timeout())
            return
        self.session = session = ReceiverSession(
            found[0],
            Identity(
                blake3.blake3(self.host.encode()).digest(16),
                self.incarnation,
                self.host,
                "/dev/sim",
                self.target_size,
                wants_all=not self.disk if self.wants_all is None else self.wants_all,
            ),
            pool_size=self.pool_size,
            rng=self._rng,
            now=now,
        )
        self._memory = {object_id: Memory(session, object_id) for object_id in self.objects}

    objects = (limits.OBJECT_MANIFEST, limits.OBJECT_IMAGE)

    def _handle(
        self, event: Welcomed | SliceToDecode | ExtentReady | AllWritten | Ended, session: ReceiverSession
    ) -> None:
        match event:
            case SliceToDecode():
                self._work(self._decode(session, event.object_id, event.slice_index))
            case ExtentReady():
                self._work(self._check(session, event.object_id, event.extent))
            case AllWritten():
                self.clock.after(self.flush_ns, self._if_current(session, lambda: session.flushed(self.clock.now)))
            case Ended():
                self.outcomes.append(event.outcome)
            case Welcomed():
                pass

    def _if_current(self, session: ReceiverSession, call: Callable[[], None]) -> Callable[[], None]:
        def finished() -> None:
            if self.alive and session.state is not ReceiverState.ENDED:
                call()
                self.turn()

        return finished

    def _work(self, job: Callable[[], None]) -> None:
        """Have a job done by the one worker, after those before it."""
        self._worker_free_ns = max(self._worker_free_ns, self.clock.now) + self.work_ns
        assert self.session is not None
        self.clock.at(self._worker_free_ns, self._if_current(self.session, job))

    def _decode(self, session: ReceiverSession, object_id: int, slice_index: int) -> Callable[[], None]:
        memory = self._memory[object_id]
        erasures = memory.assembly.erasures(np.array([slice_index]))
        sources = memory.assembly.source_rows(slice_index)
        repairs = memory.assembly.rows_of(slice_index, erasures.repair_esis)
        before = memory.rows[repairs].copy()
        codec = Codec(Code(session.found.announce.source_symbols), load_kernel())

        def done() -> None:
            assert np.array_equal(memory.rows[repairs], before), "rows of a pinned slice were written"
            codec.decode([memory.symbols.run(sources)], memory.symbols.take(repairs), erasures)
            session.slice_decoded(object_id, slice_index)

        return done

    def _check(self, session: ReceiverSession, object_id: int, extent: int) -> Callable[[], None]:
        memory = self._memory[object_id]
        announce = session.found.announce
        if object_id == limits.OBJECT_MANIFEST:
            start, stop = 0, announce.manifest_size
            digest = announce.manifest_digest
        else:
            assert session.manifest is not None
            start, stop = session.manifest.stored_range(extent)
            digest = session.manifest.stored_digests[extent].tobytes()
        before = memory.bytes_of(start, stop)

        def done() -> None:
            data = memory.bytes_of(start, stop)
            assert data == before, "rows of a pinned slice were written"
            good = blake3.blake3(data).digest() == digest or not self.checks
            if good and object_id == limits.OBJECT_IMAGE:
                self.disk[extent] = data
            session.extent_checked(object_id, extent, good=good)
            if good and object_id == limits.OBJECT_MANIFEST:
                self._manifest(session, Manifest.decode(data))

        return done

    def _manifest(self, session: ReceiverSession, manifest: Manifest) -> None:
        """Look at the disk, chunk by chunk, while what comes is taken; then ask for what is not there."""
        missing = int((~manifest.transferred).sum()) * manifest.chunk_size
        session.manifest_known(manifest, manifest.transferred, missing, checking=bool(self.disk))
        if self.disk:
            self._compare(session, manifest, sorted(self.disk))

    def _compare(self, session: ReceiverSession, manifest: Manifest, chunks: list[int]) -> None:
        chunk = chunks[0]

        def done() -> None:
            data = self.disk[chunk]
            if blake3.blake3(data).digest() == manifest.stored_digests[chunk].tobytes():
                self.reused += len(session.chunks_found(np.array([chunk])))
            if len(chunks) > 1:
                self._compare(session, manifest, chunks[1:])
            else:
                session.check_ended(self.clock.now)

        self.clock.after(self.check_ns, self._if_current(session, done))


class UnmovedReceiverNode(ReceiverNode):
    """A receiver in a run that moves no bytes: everything that is complete counts as good.

    It is told the manifest instead of reading it.
    """

    def __init__(self, network: Network, manifest: Manifest, **options: object) -> None:
        self._known = manifest
        super().__init__(network, **options)  # type: ignore[arg-type]

    def _decode(self, session: ReceiverSession, object_id: int, slice_index: int) -> Callable[[], None]:
        return lambda: session.slice_decoded(object_id, slice_index)

    def _check(self, session: ReceiverSession, object_id: int, extent: int) -> Callable[[], None]:
        def done() -> None:
            session.extent_checked(object_id, extent, good=True)
            if object_id == limits.OBJECT_MANIFEST:
                session.manifest_known(self._known, self._known.transferred, 0)
            else:
                self.disk[extent] = b""

        return done


class World:
    """A clock, a network, one sender unless told otherwise, and receivers."""

    def __init__(self, seed: int, image: Image | None = None, **sender: object) -> None:
        self.seed = seed
        self.clock = Clock()
        self.network = Network(self.clock, seed)
        self.image = make_image(seed) if image is None else image
        options: dict[str, object] = {"start": StartRule(receivers=1)} | sender
        self.sender = SenderNode(self.network, self.image, **options)  # type: ignore[arg-type]
        self.receivers: list[ReceiverNode] = []

    def receiver(self, faults: Faults = PERFECT, **options: object) -> ReceiverNode:
        """Add one receiver; hosts are numbered."""
        options = {"host": f"r{len(self.receivers) + 1}"} | options
        node = ReceiverNode(self.network, faults=faults, **options)  # type: ignore[arg-type]
        self.receivers.append(node)
        return node

    def run(self, limit_s: float = 120.0) -> None:
        """Run until everybody who is alive has ended; the seed and everybody's state are in what is raised."""
        try:
            self.clock.run(
                lambda: self.sender.over and all(r.over or r.dead or r.session is None for r in self.receivers),
                int(limit_s * SECOND),
            )
        except Exception as error:
            raise type(error)(f"{error}\n{self.describe()}") from error

    def run_until(self, over: Callable[[], bool], limit_s: float = 120.0) -> None:
        """Run until something is the case."""
        try:
            self.clock.run(over, int(limit_s * SECOND))
        except Exception as error:
            raise type(error)(f"{error}\n{self.describe()}") from error

    def describe(self) -> str:
        """Return where everybody stands, for a failure's message."""
        session = self.sender.session
        lines = [
            f"seed {self.seed}, {self.clock.now / SECOND:.3f} s",
            f"sender {session.state.name} ended={session.ended} sequence={session.sequence} pass={session.pass_count}"
            f" remaining={session.remaining_symbols} {session.drops}",
            f"    peers={[peer.state.value for peer in session.peers[:DESCRIBED_MAX]]}",
        ]
        for node in self.receivers[:DESCRIBED_MAX]:
            machine = node.session
            line = f"{node.host}.{node.incarnation} alive={node.alive} outcomes={node.outcomes} {node.faults}"
            if machine is not None:
                missing = {o: machine.assembly(o).missing_count for o in node.objects}
                line += f"\n    {machine.state.name} {machine.outcome_text!r} missing={missing} {machine.counters}"
                line += f" {machine.drops}"
            lines.append(line)
        return "\n".join(lines)

    # --- the truth ------------------------------------------------------------------------------------------------

    def assert_safe(self) -> None:
        """Nobody, on either side, calls a copy verified that is not exact; nothing wrong is on any disk.

        A peer whose host nobody has was made up by a damaged JOIN.
        """
        truth = self.image.transferred()
        exact = {node.host: node.disk == truth for node in self.receivers}
        for node in self.receivers:
            for chunk, data in node.disk.items():
                good = data == self.image.frame(chunk) or node.found_there.get(chunk) == data
                assert good, f"chunk {chunk} on {node.host} is wrong\n{self.describe()}"
            if Outcome.VERIFIED in node.outcomes:
                assert exact[node.host], f"{node.host} says verified and is not\n{self.describe()}"
        for peer in self.sender.session.peers:
            if peer.state is PeerState.VERIFIED:
                assert exact.get(peer.host, True), (
                    f"the sender calls {peer.host} verified, and it is not\n{self.describe()}"
                )

    def assert_no_survivor_failed(self) -> None:
        """Nobody who was alive to the end failed: verified, or too late for a session that was over."""
        self.assert_safe()
        for node in self.receivers:
            if node.alive and node.session is not None:
                assert node.outcomes[0] in (Outcome.VERIFIED, Outcome.SENDER_GONE), self.describe()
        for peer in self.sender.session.peers:
            if any(node.host == peer.host and node.outcomes == [Outcome.VERIFIED] for node in self.receivers):
                assert peer.state is PeerState.VERIFIED, self.describe()
        served = any(Outcome.VERIFIED in node.outcomes for node in self.receivers)
        # Who loses one control message of three may not get a word in for as long as silence is borne.
        assert served or all(peer.state is PeerState.VANISHED for peer in self.sender.session.peers), self.describe()

    def assert_all_verified(self) -> None:
        """Every receiver that is alive has an exact copy, and both sides say so."""
        self.assert_safe()
        for node in self.receivers:
            if node.alive:
                assert node.outcomes == [Outcome.VERIFIED], self.describe()
        alive = {node.host for node in self.receivers if node.alive}
        for peer in self.sender.session.peers:
            if peer.host in alive:
                assert peer.state is PeerState.VERIFIED, self.describe()
        assert self.sender.session.ended is messages.EndReason.COMPLETE
