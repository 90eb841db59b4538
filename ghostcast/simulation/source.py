"""A sending engine without sockets, threads and bytes: drives the real sender machine as ``ghostcast.sender`` does.

Plans windows ahead, lays out their headers, paces batches at the machine's rate, keeps control messages for the data
group in order with the data, and fetches control datagrams from a queue with a bound.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ghostcast.simulation.clock import Alarm
from ghostcast.simulation.tree import Address
from protocol import limits, symbols, wire
from protocol.extents import Extents
from protocol.manifest import manifest_digest
from protocol.partition import Partition
from protocol.planned_windows import PlannedWindows
from protocol.schedule import Window, window_slices
from protocol.sender_events import Destination, SessionParameters, StartRule
from protocol.symbols import DATA_HEADER, SymbolBatch

if TYPE_CHECKING:
    from ghostcast.simulation.world import World

Headers = npt.NDArray[np.void]
"""``DATA_HEADER[n]``."""

GROUP = 0xEFC00001
PORT = 4000


def window_headers(session_id: int, partition: Partition, window: Window) -> Headers:
    """Return the headers of a window's datagrams in wire order, send times still zero."""
    row, ordinal = window.wire_order()
    count = len(row)
    headers = np.zeros(count, DATA_HEADER)
    headers["magic"] = wire.MAGIC
    headers["version"] = wire.VERSION
    headers["kind"] = wire.KIND_DATA
    headers["session"] = session_id
    headers["sequence"] = (window.first_sequence + np.arange(count)) & 0xFFFFFFFF
    headers["slice"] = window.slices[row]
    headers["window_left"] = count - 1 - np.arange(count)
    headers["object"] = window.object_id
    headers["esi"] = partition.esi(window.positions[row] + ordinal, partition.symbols_of(window.slices)[row])
    return headers


def stamp(datagram: bytes, now: int) -> bytes:
    """Return a control datagram with its send time filled in."""
    sent_us = (now // limits.MICROSECOND_NS & 0xFFFFFFFF).to_bytes(4, "big")
    return datagram[: wire.SENT_US_OFFSET] + sent_us + datagram[wire.SENT_US_OFFSET + 4 :]


class SourceNode:
    """The sender of one session."""

    def __init__(self, world: World, session_id: int, port: int = PORT, max_wait_ns: int | None = None) -> None:
        """Begin to announce now."""
        self.world = world
        self.clock = world.clock
        self.address: Address = ("sender", port)
        self.alive = True
        scenario, manifest = world.scenario, world.manifest
        encoded = manifest.encode()
        usual, widest = window_slices(scenario.symbol_size)
        parameters = SessionParameters(
            session_id=session_id,
            name=world.name,
            image_id=manifest.image_id,
            image_name=manifest.name,
            manifest_digest=manifest_digest(encoded),
            manifest_size=len(encoded),
            stream_size=manifest.stream_size,
            raw_size=manifest.raw_size,
            target_size_min=manifest.target_size_min,
            symbol_size=scenario.symbol_size,
            group=GROUP,
            port=limits.DISCOVERY_PORT,
            control_port=port,
            start=StartRule(receivers=scenario.expected, max_wait_ns=max_wait_ns or scenario.max_wait_ns),
            rate=scenario.rate,
            rate_start=scenario.rate_start,
            rate_ceiling=scenario.rate_ceiling,
            repair_symbols=scenario.repair_symbols,
            source_symbols=scenario.source_symbols,
            window_slices=scenario.window_slices or usual,
            window_slices_max=0 if scenario.window_slices else widest,
        )
        extents = Extents(scenario.partition(manifest), manifest.stored_offsets, manifest.transferred)
        self.wanted = extents.wanted_slices
        """``bool[slice_count]``: slices that a blank target needs."""
        self.session = world.machines.sender(parameters, self.wanted, self.clock.now)
        self._partitions = {o: schedule.partition for o, schedule in self.session.schedules.items()}
        self._datagram_size = scenario.symbol_size + wire.DATA_HEADER_SIZE
        self._line: collections.deque[bytes | Headers] = collections.deque()
        """What goes to the data group, in order: control datagrams, and the headers of what is left of windows."""
        self._planned = PlannedWindows(parameters)
        self._pumping = False
        self._alarm = Alarm(self.clock, self.turn)
        self._inbox: collections.deque[tuple[bytes, Address]] = collections.deque()
        self._ingesting = False
        self.clock.after(0, self.turn)

    @property
    def over(self) -> bool:
        """Whether it said its last word."""
        return self.session.finished or not self.alive

    def die(self) -> None:
        """Vanish without a word."""
        self.alive = False

    # --- control in -----------------------------------------------------------------------------------------------

    def take_control(self, datagram: bytes, origin: Address) -> None:
        """Count a control datagram, and queue it if there is room."""
        if not self.alive:
            return
        self.world.recorder.control_arrived(datagram, self.clock.now)
        if len(self._inbox) >= self.world.scenario.ingest_size:
            self.world.recorder.ingest_dropped += 1
            self.session.drops.overflow += 1
            return
        self._inbox.append((datagram, origin))
        if not self._ingesting:
            self._ingesting = True
            self.clock.after(self.world.scenario.ingest_ns, self._ingest)

    def _ingest(self) -> None:
        if not self.alive:
            return
        datagram, origin = self._inbox.popleft()
        self.session.receive_datagram(datagram, origin, self.clock.now)
        self.turn()
        self._ingesting = bool(self._inbox)
        if self._ingesting:
            self.clock.after(self.world.scenario.ingest_ns, self._ingest)

    # --- one turn of the engine -----------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do what the engine's loop does once."""
        if not self.alive:
            return
        session, now = self.session, self.clock.now
        due = session.next_timeout()
        if due is not None and now >= due:
            session.handle_timeout(now)
        self._flush()
        while self._planned.room and (window := session.poll_window(now)) is not None:
            self._planned.add(window)
            self._lay_out(window)
        self._flush()
        while (event := session.poll_event()) is not None:
            self.world.sender_event(event)
        if self._line and not self._pumping:
            self._pumping = True
            self.clock.after(0, self._pump)
        self._alarm.set(session.next_timeout())

    def _flush(self) -> None:
        while (transmit := self.session.poll_transmit()) is not None:
            if transmit.destination is Destination.DATA:
                self._line.append(transmit.datagram)
            elif transmit.destination in (Destination.DISCOVERY, Destination.GROUP):
                self._multicast(transmit.datagram)
            else:
                assert isinstance(transmit.destination, tuple)
                self.world.tree.unicast(transmit.destination, stamp(transmit.datagram, self.clock.now), self.address)

    def _multicast(self, datagram: bytes) -> None:
        self.world.recorder.multicast_sent(datagram)
        self.world.tree.multicast(stamp(datagram, self.clock.now), self.address)

    def _lay_out(self, window: Window) -> None:
        """Put a window in line."""
        partition = self._partitions[window.object_id]
        self._line.append(window_headers(self.session.parameters.session_id, partition, window))

    def _pump(self) -> None:
        """Put the next thing on the wire."""
        self._pumping = False
        if not self.alive:
            return
        while self._line:
            item = self._line.popleft()
            if not isinstance(item, bytes):
                self._put_on_wire(item)
                return
            self._multicast(item)

    def _put_on_wire(self, headers: Headers) -> None:
        """Put of a window's datagrams as many on the wire as the scenario's resolution allows now; the others wait."""
        spacing_ns = self._datagram_size / max(self.session.rate_bytes_per_s, 1.0) * limits.SECOND_NS
        longest = max(1, int(self.world.scenario.resolution / spacing_ns))
        # Even parts: a window and a bit must not become a large batch and a tiny one.
        count = -(-len(headers) // -(-len(headers) // longest))
        last = count == len(headers)
        if not last:
            self._line.appendleft(headers[count:])
        ((batch, _all),) = symbols.from_headers(headers[:count])
        source = int(np.count_nonzero(batch.esis < self._partitions[batch.object_id].source_symbols))
        start_ns = self.clock.now
        self._pumping = True

        def sent() -> None:
            if self.alive:
                self._sent(batch, source, start_ns, spacing_ns, last=last)

        self.clock.after(int(spacing_ns * len(batch)), sent)

    def _sent(self, batch: SymbolBatch, source: int, start_ns: int, spacing_ns: float, *, last: bool) -> None:
        """A batch is on the wire, to its last datagram."""
        now = self.clock.now
        world = self.world
        self.session.sent_below += len(batch)
        world.recorder.sent(source, len(batch) - source, self.session.rate_bytes_per_s, now)
        world.tree.multicast_data(
            batch, now // limits.MICROSECOND_NS & 0xFFFFFFFF, start_ns, spacing_ns, self._datagram_size
        )
        if last:
            self._planned.first_left()
            self.turn()
        self._pump()
        world.progress()
