"""The listening side: finds a measurement by name, counts each of its steps, and says what came.

One thread does it all, for nothing here has to overlap: it fetches batches while a step runs, and answers between the
steps. The loop thread only watches. No disk is touched; memory is bounded by one step (``StepRecorder``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import random
import select
import socket
import threading
import time
from collections.abc import Callable

import numpy as np

from ghostcast.measure.statistics import StepRecorder
from ghostcast.net import sockets
from ghostcast.net.ingest import Batch, BatchReceiver
from ghostcast.net.interfaces import Interface
from protocol import limits, measurement, wire
from protocol.discovery import LISTEN_NS
from protocol.errors import IncompleteError, NobodyCameError, UsageError
from protocol.messages import EndReason, clip

PROGRESS_INTERVAL_S = 0.1
SEEK_INTERVAL_S = 1.0
ENTER_INTERVAL_S = 0.4
WAIT_MS = 20.0
SILENCE_S = 12.0
"""Without a datagram from the measuring side for so long, it is gone."""

_SYMBOL_SIZE_BEFORE = 1440
"""Slots are cut for some size before the first BEGIN says which."""


@dataclasses.dataclass(frozen=True, slots=True)
class ListenOptions:
    """What a person chose."""

    interface: Interface
    session_name: str | None = None
    port: int = limits.DISCOVERY_PORT
    ttl: int = 1
    max_wait_s: float | None = None
    receive_buffer: int | None = None
    """Bytes to ask the kernel for; None: as much as a clone takes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """One step, for whoever watches here."""

    step: int
    rate: float
    symbol_size: int
    sent: int
    outcome: measurement.Outcome


class BenchReceiver:
    """One listener. Create it, ``await run()``, read ``heard`` afterwards."""

    def __init__(self, options: ListenOptions) -> None:
        self.options = options
        self.heard: list[Heard] = []
        self.sender_host: str | None = None
        self.session_name: str | None = None
        self.rate = 0.0
        """Bytes per second that the running step attempts; 0 between steps."""
        self.arrived = 0
        self.buffer: sockets.ReceiveBuffer | None = None
        self.interrupted = False
        self.ended: EndReason | None = None
        self.drops = wire.Drops()
        self._receiver_id = os.urandom(limits.RECEIVER_ID_SIZE)
        self._rng = random.Random(self._receiver_id)
        self._failure: BaseException | None = None
        self._answers: dict[int, bytes] = {}
        self._index: int | None = None
        self._step: int | None = None
        self._symbol_size = _SYMBOL_SIZE_BEFORE
        self._due: list[tuple[float, bytes]] = []
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    def interrupt(self) -> None:
        """End as soon as possible; any thread may call it."""
        self.interrupted = True
        with contextlib.suppress(OSError):
            self._wake_in.send(b"\0")

    async def run(self, progress: Callable[[], None] = lambda: None) -> None:
        """Take part in one measurement to its end.

        Args:
            progress: called on the loop's thread every now and then.
        Raises:
            NobodyCameError: no measurement within the wait.
            IncompleteError: the measuring side is gone.
            UsageError: a socket cannot be opened, or several measurements take place.
        """
        thread = threading.Thread(target=self._run, name="listener", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                await asyncio.sleep(PROGRESS_INTERVAL_S)
                with contextlib.suppress(OSError):
                    progress()
        finally:
            self.interrupted = self.interrupted or thread.is_alive()
            await asyncio.to_thread(thread.join)
            self._wake_in.close()
            self._wake_out.close()
        if self._failure is not None:
            raise self._failure

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as opened:
                options = self.options
                self._discovery = opened.enter_context(
                    sockets.open_listener(options.interface, limits.DISCOVERY_GROUP, options.port, "discovery")
                )
                self._control = opened.enter_context(sockets.open_control(options.interface, options.ttl))
                found = self._find()
                if found is None:
                    return
                self._session_id, offer, host = found
                group = sockets.group_address(offer.group)
                if group is None:
                    raise UsageError("the measurement offers a data group that is no multicast address: refused")
                self._sender = (host, offer.control_port)
                self._data = opened.enter_context(
                    sockets.open_listener(options.interface, group, offer.port, "data", source=host)
                )
                self.buffer = self._size_buffer()
                self.session_name, self.sender_host = offer.name, host
                self._listen()
        except BaseException as failure:
            self._failure = failure

    def _size_buffer(self) -> sockets.ReceiveBuffer:
        wish = self.options.receive_buffer
        if wish is None:
            return sockets.enlarge_receive_buffer(self._data)
        self._data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wish)
        return sockets.ReceiveBuffer(self._data.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2)

    def _find(self) -> tuple[int, measurement.Offer, str] | None:
        """Return the measurement to take part in; None if interrupted."""
        name = self.options.session_name
        found: dict[int, tuple[measurement.Offer, str]] = {}
        begun, seek_due, decide = time.monotonic(), 0.0, None
        poll = select.poll()
        for opened in (self._discovery, self._wake_out):
            poll.register(opened.fileno(), select.POLLIN)
        while not self.interrupted:
            now = time.monotonic()
            if decide is not None and now >= decide:
                break
            if self.options.max_wait_s is not None and now - begun >= self.options.max_wait_s:
                what = f"measurement {name!r}" if name else "measurement"
                raise NobodyCameError(
                    f"no {what} was offered on {self.options.interface.name} within {self.options.max_wait_s:g} s; "
                    "is `ghostcast bench send` running, and is it in the same network?"
                )
            if now >= seek_due:
                seek_due = now + SEEK_INTERVAL_S
                seek = measurement.encode(0, measurement.Seek(name or ""))
                with contextlib.suppress(OSError):
                    self._control.sendto(seek, (limits.DISCOVERY_GROUP, self.options.port))
            poll.poll(50)
            for datagram, host in self._take(self._discovery):
                decoded = measurement.decode(datagram, self.drops)
                if decoded is None:
                    continue
                session_id, message = decoded
                if isinstance(message, measurement.Finish):
                    found.pop(session_id, None)
                elif (
                    isinstance(message, measurement.Offer)
                    and name in (None, message.name)
                    and len(found) < limits.SESSIONS_HEARD_MAX
                ):
                    found.setdefault(session_id, (message, host))
            if not found:
                decide = None
            elif decide is None:
                decide = now if name is not None else now + LISTEN_NS / limits.SECOND_NS
        if self.interrupted:
            return None
        if len(found) > 1:
            listed = ", ".join(sorted(f"{offer.name!r} of {host}" for offer, host in found.values()))
            raise UsageError(f"several measurements take place: {listed}; choose one with --session")
        ((session_id, (offer, host)),) = found.items()
        return session_id, offer, host

    @staticmethod
    def _take(opened: socket.socket) -> list[tuple[bytes, str]]:
        """Return what waits on a control socket, with the hosts that it came from."""
        taken: list[tuple[bytes, str]] = []
        with contextlib.suppress(OSError):
            while len(taken) < limits.INBOX_DATAGRAMS_MAX:
                datagram, address = opened.recvfrom(limits.CONTROL_SIZE_MAX + 1)
                taken.append((datagram, address[0]))
        return taken

    def _listen(self) -> None:
        """Count steps until the measurement ends."""
        self._receiver = BatchReceiver(self._data, self._symbol_size, self._wake_out)
        heard_s, enter_due = time.monotonic(), 0.0
        while self.ended is None:
            now = time.monotonic()
            if self.interrupted:
                self._say(measurement.Leave(self._index or 0))
                return
            if now - heard_s > SILENCE_S:
                raise IncompleteError(f"nothing was heard from {self.sender_host} for {SILENCE_S:g} s: it is gone")
            if self._index is None and now >= enter_due:
                enter_due = now + ENTER_INTERVAL_S
                self._enter()
            self._answer_what_is_due(now)
            self._receiver.wait(WAIT_MS)
            batch = self._receiver.fetch()
            if batch is not None:
                heard_s = time.monotonic()
                self._count(batch)
                for datagram in batch.control:
                    self._handle(datagram)
            if batch is None or not batch.full:
                for datagram, host in self._take(self._control) + self._take(self._discovery):
                    if host == self.sender_host:
                        heard_s = time.monotonic()
                        self._handle(datagram)

    def _enter(self) -> None:
        interface = self.options.interface
        assert self.buffer is not None
        self._say(
            measurement.Enter(
                self._receiver_id,
                clip(socket.gethostname(), limits.HOST_LENGTH_MAX),
                interface.link_bytes_per_s,
                interface.mtu,
                self.buffer.granted,
            )
        )

    def _say(self, message: measurement.AnyMeasurement) -> None:
        with contextlib.suppress(OSError):
            self._control.sendto(measurement.encode(self._session_id, message), self._sender)

    def _answer_what_is_due(self, now: float) -> None:
        for due in [due for due in self._due if due[0] <= now]:
            self._due.remove(due)
            with contextlib.suppress(OSError):
                self._control.sendto(due[1], self._sender)

    def _answer(self, datagram: bytes, spread_ms: int) -> None:
        """Send an answer at a random moment of the spread, once for all copies of the question."""
        if all(datagram != waiting for _due, waiting in self._due):
            self._due.append((time.monotonic() + self._rng.random() * spread_ms / 1000, datagram))

    def _count(self, batch: Batch) -> None:
        """Take in a batch's data datagrams."""
        if self._step is None or not len(batch.headers):
            return
        arrived_us = time.monotonic_ns() // 1000
        headers = batch.headers
        ours = (
            (headers["session"] == self._session_id)
            & (headers["slice"] == self._step)
            & (headers["magic"] == wire.MAGIC)
            & (headers["version"] == wire.VERSION)
            & (headers["kind"] == wire.KIND_DATA)
        )
        if not ours.all():
            self.drops.session += int(np.count_nonzero(~ours))
            headers = headers[ours]
        self._recorder.add(
            headers["sequence"].astype(np.int64), (arrived_us - headers["sent_us"].astype(np.int64)) & 0xFFFFFFFF
        )
        self._buffers += int(np.count_nonzero(batch.counts))
        self.arrived = self._recorder.arrived

    def _handle(self, datagram: bytes) -> None:
        decoded = measurement.decode(datagram, self.drops)
        if decoded is None or decoded[0] != self._session_id:
            return
        match decoded[1]:
            case measurement.Entered(receiver_id=receiver_id, receiver_index=index) if receiver_id == self._receiver_id:
                self._index = index
            case measurement.Begin() as begin if self._index is not None:
                self._begin(begin)
            case measurement.Close() as close if self._index is not None:
                self._close(close)
            case measurement.Finish(reason=reason):
                self.ended = reason
            case _:
                self.drops.stale += 1

    def _begin(self, begin: measurement.Begin) -> None:
        assert self._index is not None
        if begin.step != self._step and begin.step not in self._answers:
            self._step, self.rate = begin.step, float(begin.rate)
            self._recorder, self._buffers, self.arrived = StepRecorder(), 0, 0
            if begin.symbol_size != self._symbol_size:
                self._symbol_size = begin.symbol_size
                self._receiver = BatchReceiver(self._data, begin.symbol_size, self._wake_out)
            self._dropped_before = sockets.socket_state(self._data).dropped
            self._below_before = interface_drops(self.options.interface.name)
        if begin.step == self._step:
            self._answer(
                measurement.encode(self._session_id, measurement.Ready(self._index, begin.step)), begin.spread_ms
            )

    def _close(self, close: measurement.Close) -> None:
        if close.step == self._step:
            self._answers[close.step] = measurement.encode(self._session_id, self._outcome(close))
            self._step, self.rate = None, 0.0
        if close.step in self._answers:
            self._answer(self._answers[close.step], close.spread_ms)

    def _outcome(self, close: measurement.Close) -> measurement.Outcome:
        assert self._index is not None
        assert self._step is not None
        found = self._recorder.close(close.count)
        buffers_dropped = (sockets.socket_state(self._data).dropped - self._dropped_before) & 0xFFFFFFFF
        # A kernel buffer is a whole batch where segmentation offload joins datagrams.
        joined = self._recorder.arrived / self._buffers if self._buffers else 1.0
        largest = (1 << 32) - 1
        outcome = measurement.Outcome(
            receiver_index=self._index,
            step=self._step,
            received=found.received,
            duplicate=found.duplicate,
            dropped_host=round(buffers_dropped * joined),
            reordered=found.reordered,
            reorder_distance=found.reorder_distance,
            run_counts=found.run_counts,
            run_longest=found.run_longest,
            delay_us=(
                min(found.delay_us[0], largest),
                min(found.delay_us[1], largest),
                min(found.delay_us[2], largest),
            ),
            slice_losses=_six(found.slice_losses),
            below_socket=max(0, interface_drops(self.options.interface.name) - self._below_before),
        )
        self.heard.append(Heard(close.step, self.rate, self._symbol_size, close.count, outcome))
        return outcome


def _six(values: tuple[int, ...]) -> tuple[int, int, int, int, int, int]:
    first, second, third, fourth, fifth, sixth = values
    return first, second, third, fourth, fifth, sixth


def interface_drops(name: str, root: pathlib.Path = pathlib.Path("/sys/class/net")) -> int:
    """Return how many packets an interface lost for want of room since it came up; 0 where the system does not say."""
    total = 0
    for counter in ("rx_missed_errors", "rx_fifo_errors", "rx_over_errors"):
        with contextlib.suppress(OSError, ValueError):
            total += int((root / name / "statistics" / counter).read_text())
    return total
