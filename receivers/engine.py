"""The receiving engine: one receiver in one session, from the first ANNOUNCE heard to DONE confirmed.

The *loop* thread runs the control plane (asyncio). The *ingest* thread owns the session machine and the data socket: it
fetches batches, moves payloads to their rows, hands ready slices and chunks to the *workers*, and does what the machine
asks. Threads pass datagrams, outcomes and results; nothing else is shared but pinned slices.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import os
import random
import socket
import threading
import time
from collections.abc import Callable

import blake3
import numpy as np
import numpy.typing as npt

from ghostcast.fec.kernel import load_kernel
from ghostcast.image.readback import TargetReader, raw_bytes
from ghostcast.image.target import Target
from ghostcast.image.unused import Unused
from ghostcast.net import sockets
from ghostcast.net.control import ControlEndpoint
from ghostcast.net.ingest import Batch, BatchReceiver
from ghostcast.net.interfaces import Interface
from ghostcast.stages import OFF, Stages
from protocol import limits, wire
from protocol.discovery import Discovery, Found, Successor
from protocol.errors import GhostcastError, NobodyCameError, TargetError, UsageError
from protocol.manifest import Manifest
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
from protocol.reed_solomon import Code, Codec
from receivers.chunks import ObjectMemory, Pool, decode_slices, read_manifest
from receivers.copy import Copy
from receivers.reuse import ReusePolicy
from receivers.scan import Compared
from receivers.target_work import ChunkChecked, Fitted, Flushed, Prepared, TargetResult, TargetWork
from receivers.workers import WorkerPool, worker_count

GATHER_MIN_S, GATHER_MAX_S = 0.006, 0.03
"""Pause after a small fetch, so that the next one is larger: a fetch costs about 0.3 ms whatever it brings, and a
millisecond where many receivers share the processor's caches. Only where the receive buffer covers the pause many
times. A trickle, which is control or the end of a repair, waits least."""

GATHER_DATAGRAMS = 1024
"""What a fetch should bring after the pause."""

GATHER_TRICKLE = 32

GATHER_BUFFER_SIZE = 8 << 20
PAUSE_FILL = 0.75
"""Share of the slice pool in the workers' hands beyond which nothing more is fetched: what is fetched then could only
be dropped, one slice here and one there, at the cost of the processor time that the workers need. Left to itself, the
kernel drops one long run when its buffer is full, which costs the fewest chunks."""

RESUME_FILL = 0.4

DECODED_TOGETHER_MAX = 16
"""Slices of one job. To prepare as many takes little longer than one; more would leave other workers idle."""

DROPS_INTERVAL_NS = 20 * limits.MILLISECOND_NS
WAIT_MAX_MS = 50.0


@dataclasses.dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """What a person chose for one receiver."""

    interface: Interface
    session_name: str | None = None
    port: int = limits.DISCOVERY_PORT
    ttl: int = 1
    max_wait_ns: int | None = None
    """How long to look for a session, and for a sender that was lost; None: for ever, and not at all."""
    pool_size: int = limits.POOL_SIZE_DEFAULT
    force: bool = False
    """Take an image whose match rule does not fit this machine."""
    unused: Unused = Unused.KEEP
    """What becomes of the ranges of the target that no file system uses."""
    grow: bool = False
    """Make the last partition as large as the target allows."""
    stages: Stages = OFF
    """Where the engine tells how long each stage takes."""
    reuse: ReusePolicy = ReusePolicy.AUTO
    read_back: bool = False
    """Read everything back after the final flush, and fail if it is not what was written."""
    inject_loss: float = 0.0
    """Share of data datagrams to throw away on arrival: for the demo and for tests, never for real use."""


class Observer:
    """What the engine tells whoever watches; every method is called on the loop's thread."""

    def searching(self) -> None:
        """Everything is loaded and open: a session that is announced from now on is heard."""

    def found(self, found: Found) -> None:
        """A session was chosen."""

    def welcomed(self, receiver_index: int) -> None:
        """The sender took this receiver in."""

    def manifest(self, manifest: Manifest) -> None:
        """The manifest arrived and the target fits it."""

    def sender_lost(self, text: str) -> None:
        """The sender is gone; it is looked for, and ``found`` follows if it comes back."""

    def warning(self, text: str) -> None:
        """Something is worse than it could be."""

    def progress(self) -> None:
        """A moment passed: look at ``ReceiveEngine`` again."""


PROGRESS_INTERVAL_S = 0.1
SOLICIT_INTERVAL_NS = limits.SECOND_NS


@dataclasses.dataclass(frozen=True, slots=True)
class _SlicesDecoded:
    object_id: int
    slices: list[int]


@dataclasses.dataclass(frozen=True, slots=True)
class _ManifestRead:
    manifest: Manifest | None


_Result = _SlicesDecoded | _ManifestRead | TargetResult


class ReceiveEngine:
    """One run of ``receive``. Create it, ``await run()``, read the session machine afterwards."""

    def __init__(self, target: Target | TargetReader, options: ReceiveOptions) -> None:
        """Open nothing yet.

        Args:
            target: checked and open; it stays the caller's to close. One that is only read is compared with the image
                that the session announces, takes part without a byte of it, and counts as verified if it is equal.
            options: see there.
        """
        self.target = target
        self.options = options
        self.observer = Observer()
        self.found: Found | None = None
        self.session: ReceiverSession | None = None
        self.error: GhostcastError | None = None
        """Why this receiver itself gave up, if it did."""
        self.started_ns: int | None = None
        self.ended_ns: int | None = None
        self.pool: Pool | None = None
        self.work = TargetWork(target, options, self._warn)
        self.session_count = 0
        """Sessions that this receiver took part in; more than one where a sender came back."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wants_all = False
        self._successor: Successor | None = None
        self._interrupted = False
        self._wake_loop = asyncio.Event()
        self._outbox: collections.deque[tuple[bytes, tuple[str, int]]] = collections.deque()
        """Datagrams, and where to."""
        self._inbox: collections.deque[bytes] = collections.deque()
        self._ingest_ended = False
        self._crash: BaseException | None = None

    # --- from the loop's thread -----------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Give up as soon as possible and tell the sender."""
        self._interrupted = True
        self._wake_loop.set()

    @property
    def interrupted(self) -> bool:
        """Whether the run was ended by hand."""
        return self._interrupted

    @property
    def seconds(self) -> float:
        """Time since the first data could have come, until the end."""
        if self.started_ns is None:
            return 0.0
        return ((self.ended_ns or time.monotonic_ns()) - self.started_ns) / limits.SECOND_NS

    def _warn(self, text: str) -> None:
        """Tell a person something, from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell, functools.partial(self.observer.warning, text))

    @property
    def copy(self) -> Copy | None:
        """What is known of the target, once the manifest is; kept when a sender is lost and comes back."""
        return self.work.copy

    @property
    def manifest(self) -> Manifest | None:
        """The image's, once it is known and the target suits it."""
        return None if self.copy is None else self.copy.manifest

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: verified, too, where the copy is complete and only the confirmation is missing."""
        outcome = self.session.outcome if self.session is not None else None
        if outcome is Outcome.SENDER_GONE and self.copy is not None and self.copy.finished:
            return Outcome.VERIFIED
        return outcome

    @property
    def chunks_written(self) -> int:
        """Chunks that were received and written."""
        return 0 if self.copy is None else len(self.copy.written)

    @property
    def chunks_reused(self) -> int:
        """Chunks that the target held already."""
        return 0 if self.copy is None else self.copy.reused_count

    @property
    def bytes_written(self) -> int:
        """Raw bytes of the chunks that were received and written."""
        return 0 if self.copy is None else raw_bytes(self.copy.manifest, self.copy.written)

    async def run(self, observer: Observer) -> None:
        """Find the session, receive the image, confirm it, telling ``observer`` about it.

        A sender that is lost on the way is waited for as long as the options say; what is on the target by then stays.

        Raises:
            NobodyCameError: no session was announced in time.
            UsageError: several sessions are announced and none was named, or a socket cannot be opened.
        """
        self.observer = observer
        self._loop = asyncio.get_running_loop()
        self.pool = Pool(self.options.pool_size)
        interface, port = self.options.interface, self.options.port
        async with contextlib.AsyncExitStack() as stack:
            control_socket = sockets.open_control(interface, self.options.ttl)
            control = await ControlEndpoint.open(control_socket, self._wake_loop.set)
            stack.push_async_callback(control.close)
            listener = sockets.open_listener(interface, limits.DISCOVERY_GROUP, port, "discovery")
            discovery = await ControlEndpoint.open(listener, self._wake_loop.set)
            stack.push_async_callback(discovery.close)
            stack.callback(self.work.close)
            self._wants_all = await asyncio.to_thread(self.work.look)
            load_kernel()  # now, while nobody waits: the JOIN would go out later by as long as that takes
            self._tell(self.observer.searching)
            found = await self._find(control, discovery)
            while found is not None:
                self.found, self._successor = found, Successor(found)
                self._tell(functools.partial(self.observer.found, found))
                self.session_count += 1
                await self._take_part(found, control, discovery)
                found = await self._find_again(control, discovery)

    async def _find(self, control: ControlEndpoint, discovery: ControlEndpoint) -> Found | None:
        """Return the session to join, or None if interrupted first."""
        begun = time.monotonic_ns()
        search = Discovery(self.options.session_name, begun, random.Random(int.from_bytes(os.urandom(8))))
        deadline = None if self.options.max_wait_ns is None else begun + self.options.max_wait_ns
        while not self._interrupted:
            now = time.monotonic_ns()
            for datagram, address in control.take() + discovery.take():
                search.receive_datagram(datagram, address, now)
            choice = search.poll_choice(now)
            if len(choice) == 1:
                return choice[0]
            if choice:
                names = ", ".join(sorted(repr(found.announce.name) for found in choice))
                raise UsageError(f"several sessions are announced: {names}; choose one with --session")
            if deadline is not None and now >= deadline:
                name = "" if self.options.session_name is None else f" named {self.options.session_name!r}"
                waited = (now - begun) // limits.SECOND_NS
                raise NobodyCameError(
                    f"no session{name} was announced within {waited} s on {self.options.interface.name}; is the sender "
                    "running, on the same network and --port, and does the switch pass multicast?"
                )
            if (solicit := search.poll_transmit(now)) is not None:
                await control.send(solicit, (limits.DISCOVERY_GROUP, self.options.port))
            due = search.next_timeout() if deadline is None else min(search.next_timeout(), deadline)
            self._tell(self.observer.progress)
            await self._sleep(min(max(due - time.monotonic_ns(), 0) / limits.SECOND_NS, PROGRESS_INTERVAL_S))
        return None

    async def _find_again(self, control: ControlEndpoint, discovery: ControlEndpoint) -> Found | None:
        """Return the session to go on with after the sender was lost, or None where it is over."""
        session, successor = self.session, self._successor
        assert session is not None
        assert successor is not None
        if not session.sender_lost or self._interrupted:
            return None
        successor.lost = True
        deadline = time.monotonic_ns() + (self.options.max_wait_ns or 0)
        if successor.found is None and time.monotonic_ns() < deadline:
            self._tell(functools.partial(self.observer.sender_lost, session.outcome_text))
        due = 0
        while successor.found is None and not self._interrupted and (now := time.monotonic_ns()) < deadline:
            if now >= due:
                due = now + SOLICIT_INTERVAL_NS
                await control.send(successor.poll_transmit(), (limits.DISCOVERY_GROUP, self.options.port))
            self._tell(self.observer.progress)
            await self._sleep(min(deadline - now, due - now) / limits.SECOND_NS)
            for datagram, address in control.take() + discovery.take():
                successor.receive_datagram(datagram, address)
        return None if self._interrupted else successor.found

    async def _take_part(self, found: Found, control: ControlEndpoint, discovery: ControlEndpoint) -> None:
        group = sockets.group_address(found.announce.group)
        if group is None:
            raise UsageError("the session announces a data group that is no multicast address: refused")
        interface = self.options.interface
        data_socket = sockets.open_listener(interface, group, found.announce.port, "data", source=found.sender_host)
        wake_in, wake_out = socket.socketpair()
        wake_in.setblocking(False)
        wake_out.setblocking(False)
        try:
            buffer = sockets.enlarge_receive_buffer(data_socket)
            if buffer.advice is not None:
                advice = buffer.advice
                self._tell(lambda: self.observer.warning(advice))
            self.session = ReceiverSession(
                found,
                self._identity(found),
                pool_size=self.options.pool_size,
                rng=random.Random(int.from_bytes(os.urandom(8))),
                now=time.monotonic_ns(),
            )
            loop = asyncio.get_running_loop()
            ingest = _Ingest(self, self.session, data_socket, buffer.granted, wake_in, wake_out, loop)
            thread = threading.Thread(target=ingest.run, name="ingest", daemon=True)
            self.started_ns = self.started_ns or time.monotonic_ns()
            self.ended_ns, self._ingest_ended = None, False
            self._inbox.clear()
            self._outbox.clear()
            thread.start()
            try:
                await self._serve(found, control, discovery, ingest)
            finally:
                # Nothing that the thread uses may be closed before it has ended, whatever ended the loop.
                self._interrupted = self._interrupted or not self._ingest_ended
                ingest.wake()
                await asyncio.to_thread(thread.join)
            await self._flush(control)
            if self._crash is not None:
                raise self._crash
        finally:
            data_socket.close()
            wake_in.close()
            wake_out.close()

    async def _serve(self, found: Found, control: ControlEndpoint, discovery: ControlEndpoint, ingest: _Ingest) -> None:
        """Carry control datagrams between the network and the ingest thread until that thread ends."""
        loop = asyncio.get_running_loop()
        progress_due = loop.time()
        assert self._successor is not None
        while not self._ingest_ended:
            arrived = [datagram for datagram, address in control.take() if address == found.control_address]
            for datagram, address in discovery.take():
                if address[0] == found.sender_host:
                    arrived.append(datagram)
                self._successor.receive_datagram(datagram, address)
            if arrived or self._interrupted:
                self._inbox.extend(arrived)
                ingest.wake()
            await self._flush(control)
            if loop.time() >= progress_due:
                progress_due = loop.time() + PROGRESS_INTERVAL_S
                self._tell(self.observer.progress)
            await self._sleep(PROGRESS_INTERVAL_S)
        self._tell(self.observer.progress)

    @staticmethod
    def _tell(call: Callable[[], None]) -> None:
        """Call an observer; a terminal or a log that is gone must not end the session."""
        with contextlib.suppress(OSError):
            call()

    async def _flush(self, control: ControlEndpoint) -> None:
        while self._outbox:
            await control.send(*self._outbox.popleft())

    async def _sleep(self, seconds: float) -> None:
        handle = asyncio.get_running_loop().call_later(seconds, self._wake_loop.set)
        await self._wake_loop.wait()
        handle.cancel()
        self._wake_loop.clear()

    def _identity(self, found: Found) -> Identity:
        host = socket.gethostname()[: limits.HOST_LENGTH_MAX]
        interface = self.options.interface
        target = os.path.realpath(self.target.path)
        # Stable across restarts, different for every target: a machine's network card and what it writes to.
        name = "\0".join((interface.hardware_address, host, interface.address, target))
        return Identity(
            receiver_id=_receiver_id(name),
            incarnation=int.from_bytes(os.urandom(4)),
            host=host,
            target=target[-limits.REASON_LENGTH_MAX :],
            target_size=-1 if self.target.size is None else self.target.size,
            link_rate=interface.speed_bytes_per_s,
            wants_all=self._wants_all and self.copy is None,
        )


def _receiver_id(name: str) -> bytes:
    """Return a receiver id made from a name."""
    return blake3.blake3(name.encode("utf-8", "surrogateescape")).digest(length=limits.RECEIVER_ID_SIZE)


class _Ingest:
    """The ingest thread: owner of the session machine, the data socket and the slice buffers."""

    def __init__(
        self,
        engine: ReceiveEngine,
        session: ReceiverSession,
        data_socket: socket.socket,
        buffer_size: int,
        wake_in: socket.socket,
        wake_out: socket.socket,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._engine = engine
        self._session = session
        self._socket = data_socket
        self._wake_in = wake_in
        self._loop = loop
        announce = session.found.announce
        self._receiver = BatchReceiver(data_socket, announce.symbol_size, wake_out)
        self._gather = buffer_size >= GATHER_BUFFER_SIZE
        self._fetched_ns = 0
        manifest, image = limits.OBJECT_MANIFEST, limits.OBJECT_IMAGE
        self._memory = {
            manifest: ObjectMemory(session.partition(manifest), session.assembly(manifest)),
            image: ObjectMemory(session.partition(image), session.assembly(image), engine.pool),
        }
        self._stages = engine.options.stages
        self._codec = Codec(Code(announce.source_symbols), load_kernel())
        self._workers: WorkerPool[_Result] = WorkerPool(worker_count(), self.wake)
        self._to_decode: dict[int, list[int]] = {object_id: [] for object_id in self._memory}
        self._paused = False
        self._drops_seen = sockets.socket_state(data_socket).dropped
        self._drops_due_ns = 0
        self._loss_rng = np.random.default_rng()

    def wake(self) -> None:
        """Interrupt the wait for datagrams; may be called from any thread."""
        # A full socket means that it is awake already, a closed one that it has ended.
        with contextlib.suppress(OSError):
            self._wake_in.send(b"\0")

    def run(self) -> None:
        """Work until the session has ended."""
        engine = self._engine
        try:
            engine.work.join(self._session, self._workers.submit)
            while self._session.state is not ReceiverState.ENDED:
                self._turn()
        except GhostcastError as error:
            self._give_up(error)
            self._send_out()
        except BaseException as error:
            engine._crash = error
            self._session.fail("internal error in this receiver")
            self._send_out()
        finally:
            self._workers.close()
            engine.ended_ns = time.monotonic_ns()
            engine._ingest_ended = True
            self._loop.call_soon_threadsafe(engine._wake_loop.set)

    def _turn(self) -> None:
        session = self._session
        fill = session.assembly(limits.OBJECT_IMAGE).fill
        self._paused = fill > (RESUME_FILL if self._paused else PAUSE_FILL)
        batch = self._fetch()
        now = time.monotonic_ns()
        if batch is not None:
            self._take_batch(batch, now)
        with self._stages("session"):
            self._drive_session(now)
        if batch is None:
            self._wait(now)
        elif self._gather and batch.messages < self._receiver.slot_count // 2:
            with self._stages("wait"):
                time.sleep(gather_s(len(batch.headers), (now - self._fetched_ns) / limits.SECOND_NS))
        self._fetched_ns = now

    def _fetch(self) -> Batch | None:
        if self._paused:
            return None
        with self._stages("receive"):
            batch = self._receiver.fetch()
        if batch is not None:
            self._stages.count("receive", batch.size)
        return batch

    def _drive_session(self, now: int) -> None:
        """Tell the machine everything but data, and do what it asks."""
        session = self._session
        inbox = self._engine._inbox
        while inbox:
            session.receive_datagram(inbox.popleft(), now)
        for result in self._workers.take():
            if self._paused:
                session.data_unread(now)  # a target that gets on, however slowly, is not deaf
            self._take_result(result, now)
        if now >= self._drops_due_ns:
            self._count_drops(now)
        if (due := session.next_timeout()) is not None and now >= due:
            session.handle_timeout(now)
        if self._engine._interrupted:
            session.fail("stopped by its operator")
        self._heed_successor(now)
        while (event := session.poll_event()) is not None:
            self._handle(event)
        self._submit_decoding()
        self._send_out()

    def _heed_successor(self, now: int) -> None:
        """Where the sender is silent and the same image is announced anew, go there without waiting any longer."""
        successor = self._engine._successor
        if successor is not None and successor.found is not None:
            self._session.sender_replaced(now)

    def _wait(self, now: int) -> None:
        due = self._session.next_timeout()
        if due is None:
            return
        with self._stages("wait"):
            self._receiver.wait(min((due - now) / limits.MILLISECOND_NS, WAIT_MAX_MS), data=not self._paused)

    def _send_out(self) -> None:
        engine, session, sent = self._engine, self._session, False
        while (datagram := session.poll_transmit()) is not None:
            engine._outbox.append((datagram, session.found.control_address))
            sent = True
        while (datagram := session.poll_group_transmit()) is not None:
            engine._outbox.append((datagram, (limits.DISCOVERY_GROUP, engine.options.port)))
        if sent:
            self._loop.call_soon_threadsafe(self._engine._wake_loop.set)

    def _take_batch(self, batch: Batch, now: int) -> None:
        for datagram in batch.control:
            self._session.receive_datagram(datagram, now)
        headers, kept = batch.headers, None
        if not len(headers):
            return
        if self._engine.options.inject_loss:
            kept = np.flatnonzero(self._loss_rng.random(len(headers)) >= self._engine.options.inject_loss)
            headers = headers[kept]
            if not len(headers):
                return
        with self._stages("place", len(headers) * wire.DATA_HEADER_SIZE):
            placements = self._session.receive_symbols(headers, now)
        for placement in placements:
            indices = _compose(kept, placement.indices)
            rows = self._memory[placement.object_id].rows
            with self._stages("scatter", len(placement.rows) * rows.shape[1]):
                self._receiver.scatter(batch, indices, placement.rows, rows)

    def _count_drops(self, now: int) -> None:
        self._drops_due_ns = now + DROPS_INTERVAL_NS
        state = sockets.socket_state(self._socket)
        self._session.backlog = state.backlog
        if state.dropped != self._drops_seen:
            # A kernel buffer is a whole batch where segmentation offload joins datagrams.
            count = (state.dropped - self._drops_seen) & 0xFFFFFFFF
            self._session.host_dropped(round(count * self._receiver.joined_average))
            self._drops_seen = state.dropped

    # --- work -----------------------------------------------------------------------------------------------------

    def _handle(self, event: Welcomed | SliceToDecode | ExtentReady | AllWritten | Ended) -> None:
        match event:
            case Welcomed():
                self._tell(functools.partial(self._engine.observer.welcomed, event.receiver_index))
            case SliceToDecode():
                self._to_decode[event.object_id].append(event.slice_index)
            case ExtentReady(object_id=limits.OBJECT_MANIFEST):
                self._workers.submit(self._manifest_job())
            case ExtentReady():
                memory = self._memory[limits.OBJECT_IMAGE]
                self._workers.submit(self._engine.work.chunk_job(memory, event.extent))
            case AllWritten():
                self._engine.work.all_written(time.monotonic_ns())
            case Ended():
                pass

    def _tell(self, call: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(self._engine._tell, call)

    def _submit_decoding(self) -> None:
        """Hand the slices that became complete together to the workers, some to each."""
        for object_id, slices in self._to_decode.items():
            last = self._session.partition(object_id).slice_count - 1
            whole = [slice_index for slice_index in slices if slice_index != last]
            for start in range(0, len(whole), DECODED_TOGETHER_MAX):
                self._workers.submit(self._decode_job(object_id, whole[start : start + DECODED_TOGETHER_MAX]))
            if len(whole) < len(slices):
                self._workers.submit(self._decode_job(object_id, [last]))
            slices.clear()

    def _decode_job(self, object_id: int, slices: list[int]) -> Callable[[], _Result]:
        assembly = self._session.assembly(object_id)
        indices = np.array(slices)
        erasures = assembly.erasures(indices)
        source_rows = [assembly.source_rows(slice_index) for slice_index in slices]
        repair_rows = assembly.rows_of(indices[erasures.slices], erasures.repair_esis)
        memory = self._memory[object_id]

        def job() -> _Result:
            with self._stages("decode", sum(map(len, source_rows)) * assembly.partition.symbol_size):
                decode_slices(memory, self._codec, source_rows, repair_rows, erasures)
            return _SlicesDecoded(object_id, slices)

        return job

    def _manifest_job(self) -> Callable[[], _Result]:
        announce = self._session.found.announce
        memory = self._memory[limits.OBJECT_MANIFEST]

        def job() -> _Result:
            return _ManifestRead(
                read_manifest(
                    memory, announce.manifest_size, announce.manifest_digest, announce.raw_size, announce.stream_size
                )
            )

        return job

    def _take_result(self, result: _Result | BaseException, now: int) -> None:
        session = self._session
        if session.state is ReceiverState.ENDED:
            return
        match result:
            case _SlicesDecoded():
                for slice_index in result.slices:
                    session.slice_decoded(result.object_id, slice_index)
            case _ManifestRead():
                session.extent_checked(limits.OBJECT_MANIFEST, 0, good=result.manifest is not None)
                if result.manifest is not None:
                    self._take_manifest(result.manifest)
            case ChunkChecked():
                session.extent_checked(limits.OBJECT_IMAGE, result.chunk, good=result.good)
            case Prepared() | Flushed() | Fitted() | Compared():
                try:
                    self._engine.work.take(result, now)
                except TargetError as error:
                    self._give_up(error)
            case GhostcastError():
                self._give_up(result)
            case _:
                raise result

    def _take_manifest(self, manifest: Manifest) -> None:
        try:
            self._engine.work.take_manifest(manifest)
        except TargetError as error:
            self._give_up(error)
            return
        self._tell(functools.partial(self._engine.observer.manifest, manifest))

    def _give_up(self, error: GhostcastError) -> None:
        self._engine.error = error
        self._session.fail(str(error))


def gather_s(datagrams: int, elapsed_s: float) -> float:
    """Return how long to wait, so that the next fetch brings enough, after one that brought ``datagrams``.

    Args:
        datagrams: data datagrams of the last fetch.
        elapsed_s: time since the fetch before it.
    """
    if datagrams <= GATHER_TRICKLE:
        return GATHER_MIN_S
    return min(max(GATHER_DATAGRAMS * elapsed_s / datagrams, GATHER_MIN_S), GATHER_MAX_S)


def _compose(outer: npt.NDArray[np.int64] | None, inner: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64] | None:
    """Return the indices that choose ``inner`` among what ``outer`` chose; None stands for everything."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer[inner]
