"""The ingest thread: owner of one session's machine, of its data socket and of the memory of its slices.

It fetches batches, moves payloads to their rows, hands what is ready to the workers, and does what the machine asks.
Knows the target only as jobs (``target_work``); sends control datagrams itself, but does not receive them, and must not
know asyncio: those that come, the wish to end and what an observer is to be told pass through queues and callbacks.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from ghostcast.fec.kernel import load_kernel
from ghostcast.net import sockets
from ghostcast.net.ingest import Batch, BatchReceiver
from protocol import limits, wire
from protocol.discovery import Successor
from protocol.errors import GhostcastError, TargetError
from protocol.manifest import Manifest
from protocol.receiver_events import AllWritten, Ended, Event, ExtentReady, ReceiverState, SlicesToDecode, Welcomed
from protocol.receiver_session import ReceiverSession
from protocol.reed_solomon import Code, Codec
from receivers import gathering
from receivers.chunks import ObjectMemory, Pool, decode_slices, read_manifest
from receivers.observer import Observer
from receivers.options import ReceiveOptions
from receivers.scan import Compared
from receivers.target_work import ChunkChecked, Fitted, Flushed, Prepared, TargetResult, TargetWork
from receivers.workers import WorkerPool, worker_count

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
class _SlicesDecoded:
    object_id: int
    slices: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class _ManifestRead:
    manifest: Manifest | None


_Result = _SlicesDecoded | _ManifestRead | TargetResult


class Ingest:
    """One session's thread. Create it, ``start``, exchange datagrams, and ``join`` and ``close`` whatever happens."""

    def __init__(
        self,
        session: ReceiverSession,
        successor: Successor,
        work: TargetWork,
        pool: Pool,
        options: ReceiveOptions,
        data_socket: socket.socket,
        control_socket: socket.socket,
        buffer_size: int,
        tell: Callable[[Callable[[Observer], None]], None],
        on_end: Callable[[], None],
    ) -> None:
        """Reserve what a session needs.

        Args:
            session: its machine, which only this thread touches until it has ended.
            successor: knows whether the same image is announced anew.
            work: what is done to the target.
            pool: memory for the image's slices.
            options: what a person chose.
            data_socket: joined to the data group; stays its owner's to close.
            control_socket: non-blocking, only sent from; stays its owner's, who may use it meanwhile.
            buffer_size: bytes that the kernel granted it.
            tell: tells an observer something, from this thread.
            on_end: called, from this thread, when it has ended.
        """
        self.ended_ns: int | None = None
        """When the session was over; None while it is not."""
        self.error: GhostcastError | None = None
        """Why this receiver itself gave up, if it did."""
        self.crash: BaseException | None = None
        """What this thread died of, if it did."""
        self._session = session
        self._successor = successor
        self._work = work
        self._options = options
        self._socket, self._control_socket = data_socket, control_socket
        self._tell = tell
        self._on_end = on_end
        self._inbox: collections.deque[bytes] = collections.deque()
        self._interrupted = False
        self._waiting = False
        """Whether this thread waits for what a wake-up tells, or is about to."""
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        announce = session.found.announce
        self._receiver = BatchReceiver(data_socket, announce.symbol_size, self._wake_out, pool.fetched)
        self._buffer_size = buffer_size
        self._fetched_ns = 0
        self._pause = gathering.Pause()
        """What the next fetch comes after."""
        self._arrivals, self._succession = gathering.Arrivals(), gathering.Succession()
        manifest, image, reception = limits.OBJECT_MANIFEST, limits.OBJECT_IMAGE, session.reception
        self._memory = {
            manifest: ObjectMemory(reception.partition(manifest), reception.assembly(manifest)),
            image: ObjectMemory(reception.partition(image), reception.assembly(image), pool),
        }
        self._pool = pool
        self._stages = options.stages
        self._codec = Codec(Code(announce.source_symbols), load_kernel())
        self._jobs: list[Callable[[], _Result]] = []
        """For the workers, handed out at the end of the turn: whoever is woken wants the interpreter at once."""
        self._to_decode: dict[int, list[int]] = {object_id: [] for object_id in self._memory}
        self._paused = False
        self._backlog = gathering.Backlog()
        self._drops_seen = sockets.socket_state(data_socket).dropped
        self._drops_due_ns = 0
        # Only where it is asked for: numpy's random numbers take 5 ms to load, in the middle of a session's beginning.
        self._loss_rng = np.random.default_rng() if options.inject_loss else None
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._workers: WorkerPool[_Result] = WorkerPool(worker_count(), self._wake)

    # --- from the loop's thread -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def deliver(self, datagrams: Iterable[bytes]) -> None:
        """Hand over control datagrams of this session's sender."""
        self._inbox.extend(datagrams)
        self._wake()

    def interrupt(self) -> None:
        """Give up as soon as possible and tell the sender."""
        self._interrupted = True
        self._wake()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def close(self) -> None:
        """Let go of what it holds; only after ``join``."""
        self._wake_in.close()
        self._wake_out.close()

    def _wake(self) -> None:
        """Interrupt the wait, from any thread, after something was left for this one; it looks before it waits."""
        if self._waiting:
            # A full socket means that it is awake already, a closed one that it has ended.
            with contextlib.suppress(OSError):
                self._wake_in.send(b"\0")

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Work until the session has ended."""
        try:
            self._work.join(self._session, self._jobs.append)
            while self._session.state is not ReceiverState.ENDED:
                self._turn()
        except GhostcastError as error:
            self._give_up(error)
            self._send_out()
        except BaseException as error:
            self.crash = error
            self._session.fail("internal error in this receiver")
            self._send_out()
        finally:
            self._workers.close()
            self.ended_ns = time.monotonic_ns()
            self._on_end()

    def _turn(self) -> None:
        session = self._session
        fill = session.reception.assembly(limits.OBJECT_IMAGE).fill
        self._paused = fill > (RESUME_FILL if self._paused else PAUSE_FILL)
        batch, left = None, False
        if self._paused:
            self._backlog.leave()
        else:
            batch = self._fetch()
            left = self._backlog.take(more=batch is not None and batch.full)
        now = time.monotonic_ns()
        goes_on = False
        if batch is not None:
            session.reception.overdue = left or self._pause.overdue(len(batch.headers))
            goes_on = self._succession.goes_on(self._take_batch(batch, now))
        self._pause = gathering.Pause()
        with self._stages("session"):
            self._drive_session(now)
        self._fetched_ns, elapsed_s = now, (now - self._fetched_ns) / limits.SECOND_NS
        if batch is None:
            self._wait(now)
            self._fetched_ns = time.monotonic_ns()  # what comes next says nothing of a rate during the wait
            return
        self._arrivals.add(batch.size, elapsed_s)
        if not batch.full:
            self._gather(len(batch.headers) if goes_on else 0, elapsed_s)

    def _fetch(self) -> Batch | None:
        with self._stages("receive"):
            batch = self._receiver.fetch()
        if batch is not None:
            self._stages.count("receive", batch.size)
        return batch

    def _drive_session(self, now: int) -> None:
        """Tell the machine everything but data, and do what it asks."""
        session = self._session
        while self._inbox:
            session.receive_datagram(self._inbox.popleft(), now)
        for result in self._workers.take():
            if self._paused:
                session.data_unread(now)  # a target that gets on, however slowly, is not deaf
            self._take_result(result, now)
        if now >= self._drops_due_ns:
            self._count_drops(now)
        if (due := session.next_timeout()) is not None and now >= due:
            session.handle_timeout(now)
        if self._interrupted:
            session.fail("stopped by its operator")
        self._heed_successor(now)
        while (event := session.poll_event()) is not None:
            self._handle(event)
        self._collect_decoding()
        self._send_out()
        for job in self._jobs:
            self._workers.submit(job)
        self._jobs.clear()

    def _heed_successor(self, now: int) -> None:
        """Where the sender is silent and the same image is announced anew, go there without waiting any longer."""
        if self._successor.found is not None:
            self._session.sender_replaced(now)

    def _wait(self, now: int) -> None:
        due = self._session.next_timeout()
        if due is None:
            return
        self._wait_for(min((due - now) / limits.MILLISECOND_NS, WAIT_MAX_MS), data=not self._paused)

    def _wait_for(self, timeout_ms: float, *, data: bool) -> None:
        """Wait for another thread, or for the time to be over, or, if ``data`` matters, for datagrams."""
        self._waiting = True
        if not (self._inbox or self._interrupted or self._workers.ready):
            with self._stages("wait"):
                self._receiver.wait(timeout_ms, data=data)
        self._waiting = False

    def _gather(self, datagrams: int, elapsed_s: float) -> None:
        """Leave what comes in the kernel for a while, after a fetch that brought so much."""
        reception = self._session.reception
        image = reception.assembly(limits.OBJECT_IMAGE)
        told = self._session.sending_rate
        self._pause = gathering.pause_after(
            datagrams,
            elapsed_s,
            aim=self._receiver.fetch_aim,
            lacking=image.lacking_count,
            buffer_size=self._buffer_size,
            told=told,
            expected=self._arrivals.expected(told),
        )
        if image.missing_count and not reception.checking:
            with self._stages("wait"):
                time.sleep(self._pause.seconds)
        else:
            # What comes is for others, or is asked for later: what this receiver waits for is its workers.
            self._wait_for(self._pause.seconds * 1000, data=False)

    def _send_out(self) -> None:
        session = self._session
        while (datagram := session.poll_transmit()) is not None:
            self._send(datagram, session.found.control_address)
        while (datagram := session.poll_group_transmit()) is not None:
            self._send(datagram, (limits.DISCOVERY_GROUP, self._options.port))

    def _send(self, datagram: bytes, address: tuple[str, int]) -> None:
        """Send a control datagram; a network that refuses it is as good as one that loses it."""
        # From here, not by way of the loop: to wake its thread, and to wait for this one's turn again, takes longer.
        with contextlib.suppress(OSError):
            self._control_socket.sendto(datagram, address)

    def _take_batch(self, batch: Batch, now: int) -> int | None:
        """Take everything in; returns the last object of which there were symbols, wanted or not."""
        for datagram in batch.control:
            self._session.receive_datagram(datagram, now)
        headers, kept = batch.headers, None
        if not len(headers):
            return None
        if self._loss_rng is not None:
            kept = np.flatnonzero(self._loss_rng.random(len(headers)) >= self._options.inject_loss)
            headers = headers[kept]
            if not len(headers):
                return None
        with self._stages("place", len(headers) * wire.DATA_HEADER_SIZE):
            placements = self._session.receive_symbols(headers, now)
        for placement in placements:
            indices = _compose(kept, placement.indices)
            rows = self._memory[placement.object_id].rows
            places = placement.rows
            with self._stages("scatter", len(places) * rows.shape[1]):
                self._receiver.scatter(batch, indices, places, rows)
        image = self._session.reception.assembly(limits.OBJECT_IMAGE)
        self._pool.will_use(image.slots_in_turn * image.partition.slice_size)
        return max((placement.object_id for placement in placements), default=None)

    def _count_drops(self, now: int) -> None:
        self._drops_due_ns = now + DROPS_INTERVAL_NS
        state = sockets.socket_state(self._socket)
        self._session.reception.backlog = state.backlog
        if state.dropped != self._drops_seen:
            # A kernel buffer is a whole batch where segmentation offload joins datagrams.
            count = (state.dropped - self._drops_seen) & 0xFFFFFFFF
            self._session.reception.host_dropped(round(count * self._receiver.joined_average))
            self._drops_seen = state.dropped

    # --- work -----------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case Welcomed(receiver_index=receiver_index):
                self._tell(lambda observer: observer.welcomed(receiver_index))
            case SlicesToDecode():
                self._to_decode[event.object_id].extend(event.slices)
            case ExtentReady(object_id=limits.OBJECT_MANIFEST):
                self._jobs.append(self._manifest_job())
            case ExtentReady():
                memory = self._memory[limits.OBJECT_IMAGE]
                self._jobs.append(self._work.chunk_job(memory, event.extent))
            case AllWritten():
                self._work.all_written(time.monotonic_ns())
            case Ended():
                pass

    def _collect_decoding(self) -> None:
        """Make jobs of the slices that became complete together, some for each worker."""
        for object_id, slices in self._to_decode.items():
            last = self._session.reception.partition(object_id).slice_count - 1
            whole = [slice_index for slice_index in slices if slice_index != last]
            for start in range(0, len(whole), DECODED_TOGETHER_MAX):
                self._jobs.append(self._decode_job(object_id, whole[start : start + DECODED_TOGETHER_MAX]))
            if len(whole) < len(slices):
                self._jobs.append(self._decode_job(object_id, [last]))
            slices.clear()

    def _decode_job(self, object_id: int, slices: list[int]) -> Callable[[], _Result]:
        assembly = self._session.reception.assembly(object_id)
        indices = np.array(slices)
        erasures = assembly.erasures(indices)
        source_rows = [assembly.source_rows(slice_index) for slice_index in slices]
        repair_rows = assembly.rows_of(indices[erasures.slices], erasures.repair_esis)
        memory = self._memory[object_id]

        def job() -> _Result:
            with self._stages("decode", sum(map(len, source_rows)) * assembly.partition.symbol_size):
                decode_slices(memory, self._codec, source_rows, repair_rows, erasures)
            return _SlicesDecoded(object_id, indices)

        return job

    def _manifest_job(self) -> Callable[[], _Result]:
        announce = self._session.found.announce
        memory = self._memory[limits.OBJECT_MANIFEST]
        ranges = memory.assembly.ranges(0, announce.manifest_size)

        def job() -> _Result:
            data = b"".join(memory.pieces(ranges))
            return _ManifestRead(read_manifest(data, announce.manifest_digest, announce.raw_size, announce.stream_size))

        return job

    def _take_result(self, result: _Result | BaseException, now: int) -> None:
        session = self._session
        if session.state is ReceiverState.ENDED:
            return
        match result:
            case _SlicesDecoded():
                session.slices_decoded(result.object_id, result.slices)
            case _ManifestRead():
                session.extent_checked(limits.OBJECT_MANIFEST, 0, good=result.manifest is not None)
                if result.manifest is not None:
                    self._take_manifest(result.manifest)
            case ChunkChecked():
                session.extent_checked(limits.OBJECT_IMAGE, result.chunk, good=result.good)
            case Prepared() | Flushed() | Fitted() | Compared():
                try:
                    self._work.take(result, now)
                except TargetError as error:
                    self._give_up(error)
            case GhostcastError():
                self._give_up(result)
            case _:
                raise result

    def _take_manifest(self, manifest: Manifest) -> None:
        try:
            self._work.take_manifest(manifest)
        except TargetError as error:
            self._give_up(error)
            return
        self._tell(lambda observer: observer.manifest(manifest))

    def _give_up(self, error: GhostcastError) -> None:
        self.error = error
        self._session.fail(str(error))


def _compose(outer: npt.NDArray[np.int64] | None, inner: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64] | None:
    """Return the indices that choose ``inner`` among what ``outer`` chose; None stands for everything."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer[inner]
