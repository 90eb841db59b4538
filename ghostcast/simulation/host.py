"""A receiving engine without sockets, threads and bytes: drives the real receiver machine as ``receivers.ingest`` does.

Plays the kernel's receive buffer, the workers and the disk, each with the time it takes. Payloads do not exist: a chunk
matches its digest unless the scenario damaged it. Invariant: whatever is done here is told to the judge as it happens,
from what was carried, never from what the machine believes.
"""

from __future__ import annotations

import collections
import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np

from ghostcast.simulation.clock import Alarm
from ghostcast.simulation.disk import DiskQueue
from ghostcast.simulation.link import Link, complement
from ghostcast.simulation.loss import Int64Array
from ghostcast.simulation.tree import Address
from protocol import limits
from protocol.discovery import Discovery
from protocol.receiver_events import AllWritten, Ended, ExtentReady, Identity, Outcome, ReceiverState, SlicesToDecode
from protocol.receiver_session import ReceiverSession
from protocol.symbols import SymbolBatch
from protocol.wire import DATA_HEADER_SIZE

if TYPE_CHECKING:
    from ghostcast.simulation.world import World

PAUSE_FILL, RESUME_FILL = 0.75, 0.4
"""Of the slice pool: when the engine stops fetching, and when it goes on (``receivers.ingest``)."""

DISK_KEY = 4
"""First element of a disk's key among the random streams of a run."""

BASE_PORT = 5000


class Host:
    """One receiver, from when it is switched on to when it ends or dies."""

    checks = True
    """Whether a chunk is written only if it matches its digest; a test plants a host that does not look."""

    def __init__(self, world: World, index: int, incarnation: int = 1) -> None:
        """Be switched on now."""
        self.world = world
        self.clock = world.clock
        self.index = index
        self.incarnation = incarnation
        self.member = world.scenario.member_of(index)
        self.address: Address = (f"r{index}", BASE_PORT + incarnation)
        self.alive = True
        self.session: ReceiverSession | None = None
        self.outcome: Outcome | None = None
        self.failure = ""
        self.requeued = 0
        """Batches that waited in the kernel's buffer."""
        rng = None
        if self.member.disk.outlier_share:
            sequence = np.random.SeedSequence(world.scenario.seed, spawn_key=(DISK_KEY, index, incarnation))
            rng = np.random.Generator(np.random.PCG64(sequence))
        self._disk = DiskQueue(self.member.disk, rng, world.begin_ns)
        self._chance = random.Random(f"{world.scenario.seed} host {index} {incarnation}")
        self._discovery: Discovery | None = Discovery(world.name, self.clock.now, self._chance)
        self._alarm = Alarm(self.clock, self.turn)
        self._decoding: collections.deque[tuple[int, int, Int64Array]] = collections.deque()
        self._checking: collections.deque[tuple[int, int, int]] = collections.deque()
        self._writing: collections.deque[tuple[int, int, int]] = collections.deque()
        """Jobs as (when done, object, slices or chunk), ascending."""
        self._work_alarm = Alarm(self.clock, self._work)
        self._socket: collections.deque[tuple[SymbolBatch, int]] = collections.deque()
        self._socket_used = 0
        self._datagram_size = world.scenario.symbol_size + DATA_HEADER_SIZE
        self._paused = False
        self._witness = world.judge.is_witness(index)
        self._data_complete = False

    @property
    def over(self) -> bool:
        """Whether it ended, in whatever way."""
        return self.outcome is not None

    def die(self) -> None:
        """Vanish without a word; what was written stays on the disk."""
        self.alive = False

    # --- the network ----------------------------------------------------------------------------------------------

    def take_control(self, datagram: bytes, origin: Address) -> None:
        """Hand a datagram to whichever machine is at work."""
        if not self.alive or self.outcome is not None:
            return
        session = self.session
        if session is not None:
            if origin == session.found.control_address:
                session.receive_datagram(datagram, self.clock.now)
                self.turn()
        elif self._discovery is not None:
            self._discovery.receive_datagram(datagram, origin, self.clock.now)
            self.turn()

    def take_data(self, batch: SymbolBatch, sent_us: int, lost: Int64Array, link: Link) -> None:
        """Take in a batch, or leave it in the kernel's buffer while the workers hold most of the pool."""
        session = self.session
        if session is None or self.outcome is not None:
            return
        if len(lost) or link.arranges:
            picked = complement(len(batch), lost)
            batch = batch.take(link.arrange(picked) if link.arranges else picked)
        if self._paused:
            self._wait_in_socket(batch, sent_us, session)
        else:
            session.reception.overdue = False
            self._fetch(batch, sent_us, session)
            self.turn()

    def _wait_in_socket(self, batch: SymbolBatch, sent_us: int, session: ReceiverSession) -> None:
        fits = max(0, (self.member.socket_size - self._socket_used) // self._datagram_size)
        if fits < len(batch):
            session.reception.host_dropped(len(batch) - fits)
            batch = batch.take(np.arange(fits))
        if len(batch):
            self._socket.append((batch, sent_us))
            self._socket_used += len(batch) * self._datagram_size
            self.requeued += 1
        session.reception.backlog = self._socket_used / self.member.socket_size

    def _fetch(self, batch: SymbolBatch, sent_us: int, session: ReceiverSession) -> None:
        if self._witness and batch.object_id == limits.OBJECT_IMAGE:
            self.world.judge.delivered(self.index, batch.slices, batch.esis)
        session.take_symbols([(batch, None)], sent_us, self.clock.now)

    # --- one turn of the engine -----------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do what the engine does once."""
        if not self.alive or self.outcome is not None:
            return
        session = self.session
        if session is None:
            session = self._search()
            if session is None:
                return
        now = self.clock.now
        due = session.next_timeout()
        if due is not None and now >= due:
            session.handle_timeout(now)
        self._settle(session, now)

    def _settle(self, session: ReceiverSession, now: int) -> None:
        """Do what the machine asks for, until it asks for nothing."""
        while (event := session.poll_event()) is not None:
            if type(event) is SlicesToDecode:
                self._decoding.append((now + self.member.decode_ns, event.object_id, np.array(event.slices)))
            elif type(event) is ExtentReady:
                self._extent_ready(event, session, now)
            elif type(event) is AllWritten:
                self.clock.after(self.member.disk.flush_ns, self._flushed)
            elif type(event) is Ended:
                self._ended(event)
        while (datagram := session.poll_transmit()) is not None:
            if datagram[17] == 9:
                self.world.judge.asked(self.index, datagram)
            self.world.tree.send_up(self.index, datagram, self.address, session.found.control_address)
        while (datagram := session.poll_group_transmit()) is not None:
            self.world.tree.send_up(self.index, datagram, self.address, None)
        if self.outcome is not None:
            return
        if not self._data_complete and session.manifest is not None:
            self._note_data(session, now)
        fill = session.reception.assembly(limits.OBJECT_IMAGE).fill
        self._paused = fill > (RESUME_FILL if self._paused else PAUSE_FILL)
        self._alarm.set(session.next_timeout())
        self._set_work_alarm()

    def _note_data(self, session: ReceiverSession, now: int) -> None:
        if session.reception.assembly(limits.OBJECT_IMAGE).missing_count == 0:
            self._data_complete = True
            self.world.data_complete(self.index, now)

    def _search(self) -> ReceiverSession | None:
        discovery, now = self._discovery, self.clock.now
        assert discovery is not None
        found = discovery.poll_choice(now)
        if not found:
            if (datagram := discovery.poll_transmit(now)) is not None:
                self.world.tree.send_up(self.index, datagram, self.address, None)
            self._alarm.set(discovery.next_timeout())
            return None
        self._discovery = None
        identity = Identity(
            receiver_id=hashlib.blake2b(self.address[0].encode(), digest_size=limits.RECEIVER_ID_SIZE).digest(),
            incarnation=self.incarnation,
            host=self.address[0],
            target="/dev/simulated",
            target_size=-1,
            link_rate=self.member.link_rate,
        )
        self.session = self.world.machines.receiver(
            found[0], identity, pool_size=self.member.pool_size, rng=self._chance, now=now
        )
        return self.session

    # --- workers and disk -----------------------------------------------------------------------------------------

    def _extent_ready(self, event: ExtentReady, session: ReceiverSession, now: int) -> None:
        if event.object_id == limits.OBJECT_IMAGE and self._witness:
            manifest = self.world.manifest
            start, stop = manifest.stored_range(event.extent)
            covering = session.reception.partition(event.object_id).slices_of(start, stop)
            self.world.judge.chunk_complete(self.index, event.extent, range(*covering))
        self._checking.append((now + self.member.check_ns, event.object_id, event.extent))

    def _set_work_alarm(self) -> None:
        due = [queue[0][0] for queue in (self._decoding, self._checking, self._writing) if queue]
        if due:
            self._work_alarm.set(min(due))

    def _work(self) -> None:
        """Take what the workers and the disk have done by now."""
        session, now = self.session, self.clock.now
        if not self.alive or session is None or self.outcome is not None:
            return
        decoding, checking, writing = self._decoding, self._checking, self._writing
        try:
            while decoding and decoding[0][0] <= now:
                _when, object_id, slices = decoding.popleft()
                session.slices_decoded(object_id, slices)
            while checking and checking[0][0] <= now:
                _when, object_id, extent = checking.popleft()
                self._checked(session, object_id, extent, now)
            while writing and writing[0][0] <= now:
                _when, object_id, extent = writing.popleft()
                self.world.judge.wrote(self.index, extent, checked=self.checks or not self._damaged(extent))
                session.extent_checked(object_id, extent, good=True)
        except OSError as error:
            self.failure = str(error)
            session.fail(f"/dev/simulated: {error.strerror}")
        self._settle(session, now)
        while self._socket and not self._paused and self.outcome is None:
            batch, sent_us = self._socket.popleft()
            self._socket_used -= len(batch) * self._datagram_size
            session.reception.backlog = self._socket_used / self.member.socket_size
            session.reception.overdue = True
            self._fetch(batch, sent_us, session)
            self._settle(session, now)

    def _damaged(self, chunk: int) -> bool:
        return chunk in self.world.damaged_chunks

    def _checked(self, session: ReceiverSession, object_id: int, extent: int, now: int) -> None:
        if object_id == limits.OBJECT_MANIFEST:
            session.extent_checked(object_id, extent, good=True)
            manifest = self.world.manifest
            done = ~manifest.transferred
            if self.world.scenario.resume and self.incarnation > 1:
                done |= self.world.judge.looked_at_disk(self.index)
            sizes = self.world.raw_sizes
            session.manifest_known(manifest, ~done, int(sizes[done].sum()))
        elif self._damaged(extent) and self.checks:
            session.extent_checked(object_id, extent, good=False)
        else:
            done_ns = self._disk.write(int(self.world.raw_sizes[extent]), now)
            self._writing.append((done_ns, object_id, extent))

    def _flushed(self) -> None:
        session = self.session
        if not self.alive or session is None or session.state is not ReceiverState.FINISHING:
            return
        self.world.judge.flushed(self.index)
        self.world.flushed(self.index)
        session.flushed(self.clock.now)
        self._settle(session, self.clock.now)

    def _ended(self, event: Ended) -> None:
        self.outcome = event.outcome
        if event.outcome is Outcome.VERIFIED:
            self.world.judge.claims_verified(self.index, "it itself")
        elif not self.failure:
            self.failure = event.text
        self.world.host_ended(self)
