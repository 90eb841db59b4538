"""One real sender in a simulated network: lays windows out and paces them, as the sending engine does."""

from __future__ import annotations

import collections

import numpy as np

from ghostcast.simulation.clock import Alarm
from ghostcast.simulation.source import stamp, window_headers
from protocol import limits, wire
from protocol.extents import Extents
from protocol.fleet import PeerState
from protocol.manifest import manifest_digest
from protocol.partition import Partition
from protocol.planned_windows import PlannedWindows
from protocol.schedule import Window
from protocol.sender_events import Destination, EventKind, SessionParameters, StartRule
from protocol.sender_session import SenderSession
from tests.simulation.image import Image, ObjectSymbols
from tests.simulation.network import PERFECT, SECOND, Address, Headers, Network, Payloads

BATCH_DATAGRAMS = 48
"""Datagrams that go out and come in together: one segmentation batch."""

SYMBOL_SIZE = 64


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
        self.session.sequence = self.session.sent_below = first_sequence
        self.partitions = {object_id: schedule.partition for object_id, schedule in self.session.schedules.items()}
        data = {limits.OBJECT_MANIFEST: image.manifest_bytes, limits.OBJECT_IMAGE: stream or image.stream}
        self._symbols = {o: ObjectSymbols(data[o], p) for o, p in self.partitions.items()} if payload else None
        self.events: list[EventKind] = []
        self.sent: collections.Counter[tuple[int, int, int]] = collections.Counter()
        """How often each (object, slice, ESI) went out."""
        self.windows: list[Window] = []
        self._line: collections.deque[bytes | tuple[Headers, Payloads, bool]] = collections.deque()
        self._planned = PlannedWindows(parameters)
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
        while self._planned.room and (window := session.poll_window(now)) is not None:
            self._planned.add(window)
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
            self.session.sent_below += len(headers)
            size = len(headers) * (self.session.parameters.symbol_size + wire.DATA_HEADER_SIZE)
            taken_ns = int(size / max(self.session.rate_bytes_per_s, 1) * SECOND)
            if last:
                self._planned.first_left()
                self.clock.after(taken_ns, self.turn)
        if self._line:
            self._pumping = True
            self.clock.after(taken_ns, self._pump)
