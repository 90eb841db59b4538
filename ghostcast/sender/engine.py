"""The sending engine: one session of one image, from the first ANNOUNCE to the last END.

Three threads, each the only owner of what it works on, joined by queues that the number of transmit buffers bounds. The
*loop* owns the session machine and the control plane; the *encoder* turns windows into datagrams; the *transmitter*
paces them out. A fourth provides their memory in the beginning. Control messages for the data group travel through the
same queues and keep their place in the stream.

No success is made up here: what ``Result`` says of a receiver is what the session machine concluded from its own words.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ghostcast.fec.kernel import load_kernel
from ghostcast.image.reader import ImageFile
from ghostcast.net import sockets
from ghostcast.net.control import ControlEndpoint
from ghostcast.net.transmit import BatchSender
from ghostcast.sender.layout import (
    FileBytes,
    MemoryBytes,
    ObjectBytes,
    TransmitBuffer,
    WindowEncoder,
    window_datagrams_max,
)
from ghostcast.sender.opening import Opening
from ghostcast.sender.options import SendOptions
from protocol import limits, messages, wire
from protocol.errors import UsageError
from protocol.extents import Extents
from protocol.manifest import manifest_digest
from protocol.messages import EndReason
from protocol.partition import Partition
from protocol.planned_windows import LARGE_WINDOWS, SMALL_WINDOWS, PlannedWindows
from protocol.schedule import Window, window_slices
from protocol.sender_events import Destination, Event, SessionParameters
from protocol.sender_session import SenderSession


class Observer:
    """What the engine tells whoever watches; every method is called on the loop's thread."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def progress(self) -> None:
        """A moment passed: look at ``SendEngine`` again."""


PROGRESS_INTERVAL_S = 0.1

_STOP = object()


class SendEngine:
    """One run of ``send``. Create it, ``await run()``, read the session machine and the counters afterwards."""

    def __init__(self, image: ImageFile, options: SendOptions, session_id: int, opening: Opening | None = None) -> None:
        """Settle the session's facts.

        Args:
            image: an open image; it stays the caller's to close.
            options: see there.
            session_id: 32 random bits, not 0.
            opening: what was opened for these options before; the run closes it. None: the run opens it.
        """
        self.image = image
        self.options = options
        self.observer = Observer()
        self.group = sockets.check_group(options.group) if options.group else sockets.data_group(session_id)
        self._session_id = session_id
        self._opening = opening
        self._wake = asyncio.Event()
        self._encode_queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._transmit_queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._free_buffers: queue.SimpleQueue[TransmitBuffer] = queue.SimpleQueue()
        self._free_small_buffers: queue.SimpleQueue[TransmitBuffer] = queue.SimpleQueue()
        self._planned: PlannedWindows | None = None
        self._skip_data = False
        self._failure: BaseException | None = None
        self._interrupted = False
        self._start_now = False
        self.session: SenderSession | None = None
        self.sender: BatchSender | None = None
        self.started_ns: int | None = None
        self.ended_ns: int | None = None

    # --- from other threads and signal handlers -------------------------------------------------------------------

    def interrupt(self) -> None:
        """End the session as soon as possible; call it on the loop's thread (a signal handler of the loop is)."""
        self._interrupted = True
        self._wake.set()

    def start_now(self) -> None:
        """Begin with whoever has joined; call it on the loop's thread."""
        self._start_now = True
        self._wake.set()

    @property
    def interrupted(self) -> bool:
        """Whether the session was ended by hand."""
        return self._interrupted

    @property
    def wire_bytes(self) -> int:
        """UDP payload bytes sent to the data group so far."""
        return self.sender.bytes_sent if self.sender is not None else 0

    @property
    def seconds(self) -> float:
        """Time since the session began, until it ended."""
        if self.started_ns is None:
            return 0.0
        return ((self.ended_ns or time.monotonic_ns()) - self.started_ns) / limits.SECOND_NS

    # --- the run --------------------------------------------------------------------------------------------------

    async def run(self, observer: Observer) -> SenderSession:
        """Serve the session to its end, telling ``observer`` about it.

        Raises:
            UsageError: a socket cannot be opened.
            ImageError: the image could not be read to its end; the receivers were told.
        """
        self.observer = observer
        with self._opening or Opening(self.options) as opening:
            return await self._run(opening)

    async def _run(self, opening: Opening) -> SenderSession:
        """Serve the session on open sockets, which stay the caller's to close."""
        threads: list[threading.Thread] = []
        try:
            parameters = self._parameters(opening.control_port)
            load_kernel()  # takes a sixth of the time that an answer takes, and is needed next
            # The first window can be sent while memory for the others is still being provided.
            self._planned = PlannedWindows(parameters)
            buffers = self._reserve_buffers(parameters, self._planned)
            threads.append(_start_thread("memory", self._provide_buffers, buffers, self._planned.usual))
            if (host := opening.rival()) is not None:
                raise self._name_taken(host)
            self.session = SenderSession(parameters, self._wanted(parameters), time.monotonic_ns())
            datagram_size = wire.DATA_HEADER_SIZE + parameters.symbol_size
            self.sender = BatchSender(
                opening.data,
                self.group,
                parameters.port,
                datagram_size,
                self.options.stages,
                keep_average=self.options.rate is not None,
            )
            encoder = self._encoder(self.session)
            loop = asyncio.get_running_loop()
            threads.append(_start_thread("encoder", self._encode_loop, encoder, loop))
            threads.append(_start_thread("transmitter", self._transmit_loop, loop))
            async with contextlib.AsyncExitStack() as stack:
                control = await ControlEndpoint.open(opening.control, self._wake.set)
                stack.push_async_callback(control.close)
                discovery = await ControlEndpoint.open(opening.discovery, self._wake.set)
                stack.push_async_callback(discovery.close)
                await self._serve(self.session, control, discovery)
            if self.session.rival is not None:
                raise self._name_taken(self.session.rival)
            return self.session
        finally:
            self._skip_data = True
            self._encode_queue.put(_STOP)
            for thread in threads:
                await asyncio.to_thread(thread.join)
            # A sender that repeats would hold them until garbage is collected.
            self._free_buffers, self._free_small_buffers = queue.SimpleQueue(), queue.SimpleQueue()
            if self._failure is not None:
                raise self._failure

    def _reserve_buffers(self, parameters: SessionParameters, planned: PlannedWindows) -> list[TransmitBuffer]:
        """Set memory aside for every window that may be planned; return the buffers of the large ones."""
        for _count in range(SMALL_WINDOWS):
            self._free_small_buffers.put(TransmitBuffer(planned.small_max, parameters.symbol_size))
        count = window_datagrams_max(max(parameters.window_slices, parameters.window_slices_max))
        return [TransmitBuffer(count, parameters.symbol_size) for _count in range(LARGE_WINDOWS)]

    def _name_taken(self, host: str) -> UsageError:
        return UsageError(
            f"session {self.options.session_name!r} is announced by another sender at {host}: choose another --session"
        )

    def _parameters(self, control_port: int) -> SessionParameters:
        options, manifest = self.options, self.image.manifest
        speed, link = float(options.interface.speed_bytes_per_s), float(options.interface.link_bytes_per_s)
        rate_start = max(speed * limits.RATE_START_SHARE, 0.0 if link else limits.RATE_START_BYTES_PER_S)
        symbol_size = options.symbol_size or options.interface.symbol_size_max
        usual, widest = window_slices(symbol_size)
        slices = Partition(manifest.stream_size, symbol_size).slice_count
        if slices > limits.SLICE_COUNT_MAX:
            raise UsageError(
                f"the image makes {slices} slices of {symbol_size}-byte symbols; at most {limits.SLICE_COUNT_MAX} are "
                "allowed: use an interface with a larger MTU"
            )
        return SessionParameters(
            session_id=self._session_id,
            name=options.session_name,
            image_id=manifest.image_id,
            image_name=messages.clip(manifest.name, limits.NAME_LENGTH_MAX),
            manifest_digest=manifest_digest(self.image.manifest_bytes),
            manifest_size=len(self.image.manifest_bytes),
            stream_size=manifest.stream_size,
            raw_size=manifest.raw_size,
            target_size_min=manifest.target_size_min,
            symbol_size=symbol_size,
            group=sockets.group_number(self.group),
            port=options.port,
            control_port=control_port,
            start=options.start,
            rate=options.rate,
            rate_start=rate_start,
            rate_ceiling=link or limits.RATE_CEILING_BYTES_PER_S,
            repair_symbols=options.repair_symbols,
            window_slices=options.window_slices or usual,
            window_slices_max=0 if options.window_slices else widest,
            leave_slow=options.leave_slow,
        )

    def _wanted(self, parameters: SessionParameters) -> npt.NDArray[np.bool_]:
        """Return ``bool[slice_count]``: slices that hold a byte of any chunk that has to be transferred."""
        manifest = self.image.manifest
        partition = Partition(parameters.stream_size, parameters.symbol_size, parameters.source_symbols)
        return Extents(partition, manifest.stored_offsets, manifest.transferred).wanted_slices

    def _encoder(self, session: SenderSession) -> WindowEncoder:
        partitions = {object_id: schedule.partition for object_id, schedule in session.schedules.items()}
        sources: dict[int, ObjectBytes] = {
            limits.OBJECT_MANIFEST: MemoryBytes(self.image.manifest_bytes),
            limits.OBJECT_IMAGE: FileBytes(self.image.fileno(), str(self.image.path)),
        }
        return WindowEncoder(self._session_id, partitions, sources, load_kernel(), self.options.stages)

    async def _serve(self, session: SenderSession, control: ControlEndpoint, discovery: ControlEndpoint) -> None:
        """Drive the session machine until it has said its last word."""
        assert self.sender is not None
        loop = asyncio.get_running_loop()
        progress_due = loop.time()
        while not session.finished:
            now = time.monotonic_ns()
            session.sent_below = self.sender.rows_done
            for datagram, address in control.take() + discovery.take():
                session.receive_datagram(datagram, address, now)
            session.drops.overflow = control.overflow + discovery.overflow
            self._apply_wishes(session, now)
            if (due := session.next_timeout()) is not None and now >= due:
                session.handle_timeout(now)
            # What was said before a window is planned goes out before it: STATUS speaks of all data before itself.
            await self._flush(session, control)
            self._plan(session, now)
            await self._flush(session, control)
            while (event := session.poll_event()) is not None:
                with contextlib.suppress(OSError):  # A terminal or a log that is gone must not end the session.
                    self.observer.event(event)
            if loop.time() >= progress_due:
                progress_due = loop.time() + PROGRESS_INTERVAL_S
                with contextlib.suppress(OSError):
                    self.observer.progress()
            due = session.next_timeout()
            delay = PROGRESS_INTERVAL_S if due is None else (due - time.monotonic_ns()) / limits.SECOND_NS
            await self._sleep(min(delay, PROGRESS_INTERVAL_S))
        with contextlib.suppress(OSError):
            self.observer.progress()

    async def _flush(self, session: SenderSession, control: ControlEndpoint) -> None:
        """Hand on every control datagram that the machine has ready."""
        while (transmit := session.poll_transmit()) is not None:
            if transmit.destination is Destination.DATA:
                self._encode_queue.put(transmit.datagram)
            elif transmit.destination is Destination.GROUP:
                await control.send(transmit.datagram, (self.group, session.parameters.port))
            elif transmit.destination is Destination.DISCOVERY:
                await control.send(transmit.datagram, (limits.DISCOVERY_GROUP, self.options.port))
            else:
                assert isinstance(transmit.destination, tuple)
                await control.send(transmit.datagram, transmit.destination)

    def _apply_wishes(self, session: SenderSession, now: int) -> None:
        if self._failure is not None:
            session.end(EndReason.FAILED, str(self._failure)[: limits.REASON_LENGTH_MAX], now)
        if self._interrupted:
            session.end(EndReason.INTERRUPTED, "stopped by the operator", now)
        if self._start_now:
            self._start_now = False
            session.start(now)
        if session.started and self.started_ns is None:
            self.started_ns = now
        if session.ended is not None and self.ended_ns is None:
            self.ended_ns = now
            self._skip_data = True

    async def _sleep(self, seconds: float) -> None:
        """Sleep until something happens, or for so long."""
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            handle = asyncio.get_running_loop().call_later(seconds, self._wake.set)
            await self._wake.wait()
            handle.cancel()
        self._wake.clear()

    def _plan(self, session: SenderSession, now: int) -> None:
        """Keep the transmitter busy, with no more windows planned than there are buffers."""
        assert self._planned is not None
        while self._planned.room and (window := session.poll_window(now)) is not None:
            self._planned.add(window)
            self._encode_queue.put(window)

    def _window_sent(self) -> None:
        assert self._planned is not None
        self._planned.first_left()
        self._wake.set()

    def _failed(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._wake.set()

    # --- the other threads ----------------------------------------------------------------------------------------

    def _provide_buffers(self, buffers: list[TransmitBuffer], datagram_count: int) -> None:
        """Have the kernel provide the memory for so many datagrams in each buffer, and hand it on."""
        for buffer in buffers:
            with contextlib.suppress(MemoryError):  # then it comes with the data, or that fails, which is heard of
                buffer.provide(datagram_count)
            self._free_buffers.put(buffer)

    def _encode_loop(self, encoder: WindowEncoder, loop: asyncio.AbstractEventLoop) -> None:
        assert self._planned is not None
        while (item := self._encode_queue.get()) is not _STOP:
            if not isinstance(item, Window):
                self._transmit_queue.put(item)
                continue
            free = self._free_small_buffers if self._planned.is_small(item) else self._free_buffers
            buffer = free.get()
            try:
                with self.options.stages("lay out", item.datagram_count * buffer.rows.shape[1]):
                    rows = encoder.encode(item, buffer)
            except BaseException as error:
                loop.call_soon_threadsafe(self._failed, error)
                rows = buffer.rows[:0]
            self._transmit_queue.put((rows, buffer, free))
        self._transmit_queue.put(_STOP)

    def _next_to_transmit(self, sender: BatchSender) -> object:
        try:
            return self._transmit_queue.get_nowait()
        except queue.Empty:
            item = self._transmit_queue.get()
            sender.rested()
            return item

    def _transmit_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.sender is not None
        assert self.session is not None
        sender, session = self.sender, self.session

        def rate() -> float:
            return session.rate_bytes_per_s

        while (item := self._next_to_transmit(sender)) is not _STOP:
            try:
                if isinstance(item, bytes):
                    sender.send_control(item)
                    continue
                assert isinstance(item, tuple)
                rows, buffer, free = item
                try:
                    sender.send_rows(rows, rate, lambda: self._skip_data)
                finally:
                    free.put(buffer)
                    loop.call_soon_threadsafe(self._window_sent)
            except BaseException as error:
                loop.call_soon_threadsafe(self._failed, error)


def _start_thread(name: str, target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    thread.start()
    return thread
