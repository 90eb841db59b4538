"""One real receiver in a simulated network: its memory, one worker and a disk, each with the time it takes.

Plays the receiving engine: moves payloads to the rows that the machine names, decodes, checks and writes. Nothing is
written here that did not match its digest, unless a test plants that fault.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import blake3
import numpy as np

from ghostcast.fec.kernel import load_kernel
from ghostcast.simulation.clock import Alarm
from protocol import limits
from protocol.discovery import Discovery
from protocol.manifest import Manifest
from protocol.receiver_events import (
    AllWritten,
    Ended,
    ExtentReady,
    Identity,
    Outcome,
    ReceiverState,
    SlicesToDecode,
    Welcomed,
)
from protocol.receiver_session import ReceiverSession
from protocol.reed_solomon import Code, Codec, SymbolRows
from tests.simulation.network import MILLISECOND, PERFECT, Address, Faults, Headers, Network, Payloads


class Memory:
    """The buffer of one object at one receiver."""

    def __init__(self, session: ReceiverSession, object_id: int) -> None:
        self.partition = session.reception.partition(object_id)
        self.assembly = session.reception.assembly(object_id)
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
        self, event: Welcomed | SlicesToDecode | ExtentReady | AllWritten | Ended, session: ReceiverSession
    ) -> None:
        match event:
            case SlicesToDecode():
                for slice_index in event.slices:
                    self._work(self._decode(session, event.object_id, slice_index))
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
            session.slices_decoded(object_id, np.array([slice_index]))

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
        super().__init__(network, **options)  # type: ignore[arg-type]  # fields by name, checked where they go

    def _decode(self, session: ReceiverSession, object_id: int, slice_index: int) -> Callable[[], None]:
        return lambda: session.slices_decoded(object_id, np.array([slice_index]))

    def _check(self, session: ReceiverSession, object_id: int, extent: int) -> Callable[[], None]:
        def done() -> None:
            session.extent_checked(object_id, extent, good=True)
            if object_id == limits.OBJECT_MANIFEST:
                session.manifest_known(self._known, self._known.transferred, 0)
            else:
                self.disk[extent] = b""

        return done
