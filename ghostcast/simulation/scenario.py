"""What is simulated: the image, the network, the fleet and what befalls it. Pure description, checked once.

A ``Scenario`` and its seed say everything about a run: the same scenario gives the same run, event for event. ``repr``
of a scenario is Python that makes it again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from ghostcast.simulation.disk import Disk
from ghostcast.simulation.link import Way
from protocol import limits
from protocol.errors import UsageError
from protocol.manifest import Manifest, Source
from protocol.partition import Partition
from protocol.wire import DATA_HEADER_SIZE

RECEIVERS_MAX = 100_000
RAW_SIZE_MAX = 16 << 40
GIGABIT = 125_000_000
"""Bytes per second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One receiver: its link, its disk, its host, and what befalls it. Instants count from the beginning."""

    link: Way = dataclasses.field(default_factory=lambda: Way(delay_ns=100 * limits.MICROSECOND_NS))
    disk: Disk = dataclasses.field(default_factory=Disk)
    pool_size: int = limits.POOL_SIZE_DEFAULT
    socket_size: int = 64 * limits.MIB
    """The kernel's receive buffer: what waits there while the slice pool is full."""
    decode_ns: int = 100 * limits.MICROSECOND_NS
    """From a slice's completion until its source symbols are restored."""
    check_ns: int = limits.MILLISECOND_NS
    """From a chunk's completion until it is hashed and decompressed."""
    link_rate: int = 0
    """What it says of its interface when it joins, in bytes per second; 0: unknown."""
    join_ns: int = 0
    """When it is switched on."""
    die_ns: int | None = None
    """When it vanishes without a word."""
    restart_ns: int | None = None
    """When it is started again, on the disk as it was left."""

    def __post_init__(self) -> None:
        if self.die_ns is not None and self.die_ns < self.join_ns:
            raise UsageError("a receiver cannot die before it is switched on: die_ns needs an earlier join_ns")
        if self.restart_ns is not None and (self.die_ns is None or self.restart_ns <= self.die_ns):
            raise UsageError("a receiver is started again after it died: restart_ns needs an earlier die_ns")
        if min(self.join_ns, self.decode_ns, self.check_ns) < 0 or self.pool_size < 1 or self.socket_size < 1:
            raise UsageError("a receiver's instants and durations are not negative, and its buffers not empty")

    @property
    def stays(self) -> bool:
        """Whether it ends with a copy, if the session does its work."""
        return not self.disk.fails and (self.die_ns is None or self.restart_ns is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """One run. ``member`` describes every receiver but those in ``exceptions``.

    The tree: sender - ``uplink`` - one link per rack (``rack_link``) - each member's own link. What is lost on the
    uplink is lost to all, what is lost before a rack to all in it.
    """

    receivers: int = 1
    size: int = 256 * limits.MIB
    """Raw bytes of the image."""
    stored_share: float = 1.0
    """Stored bytes per raw byte: the inverse of the compression ratio."""
    chunk_size: int = limits.CHUNK_SIZE_DEFAULT
    manifest: Manifest | None = None
    """A real image's manifest; then ``size``, ``stored_share`` and ``chunk_size`` are not looked at."""
    rate: float | None = 10.0 * GIGABIT
    """Bytes per second on the wire, or None: the sender finds it."""
    rate_start: float = limits.RATE_START_BYTES_PER_S
    rate_ceiling: float = 10.0 * GIGABIT
    """The sender's own link."""
    repair_symbols: int | None = None
    """Proactive repair symbols per slice, or None: follow the measured loss."""
    source_symbols: int = limits.SOURCE_SYMBOLS_DEFAULT
    window_slices: int | None = None
    """D, or None: the usual one, and wider where bursts are lost."""
    symbol_size: int = 1440
    uplink: Way = dataclasses.field(default_factory=Way)
    racks: int = 1
    rack_link: Way = dataclasses.field(default_factory=Way)
    member: Member = dataclasses.field(default_factory=Member)
    exceptions: Mapping[int, Member] = dataclasses.field(default_factory=dict)
    """Receiver number (from 0) to what it is like."""
    start_when: int | None = None
    """Begin when so many have joined; None: all that are switched on at the beginning."""
    max_wait_ns: int | None = 300 * limits.SECOND_NS
    """Begin after this long with whoever is there, as ``send`` does unless it is told otherwise."""
    resume: bool = True
    """A receiver that is started again keeps the chunks that it wrote."""
    sender_dies_ns: int | None = None
    sender_restarts_ns: int | None = None
    """When the sender is started again, as a new session; receivers that gave up are started again as well."""
    damaged_chunks: tuple[int, ...] = ()
    """Chunks whose bytes the sender reads wrongly: no receiver may write them."""
    ingest_size: int = limits.INBOX_DATAGRAMS_MAX
    """Control datagrams that wait at the sender; the next is dropped."""
    ingest_ns: int = 30 * limits.MICROSECOND_NS
    """What the sender takes for one control datagram (research §6.2: 20-30 µs)."""
    resolution_ns: int | None = None
    """Longest batch of data, in time on the wire: within a batch, nothing else happens. None: by the fleet's size, 5 ms
    up to 100 receivers and more above; never longer than a window."""
    bound_ns: int | None = None
    """Every receiver that stays must have ended by then. None: computed, see ``bound``."""
    seed: int = 1

    def __post_init__(self) -> None:
        def must(holds: bool, text: str) -> None:
            if not holds:
                raise UsageError(text)

        must(1 <= self.receivers <= RECEIVERS_MAX, f"receivers: 1 to {RECEIVERS_MAX}, not {self.receivers}")
        must(0 <= self.size <= RAW_SIZE_MAX, f"an image has 0 to {RAW_SIZE_MAX} bytes, not {self.size}")
        must(0 < self.stored_share <= 1, f"stored bytes per raw byte lie in (0, 1], not {self.stored_share:g}")
        must(
            self.chunk_size % limits.CHUNK_SIZE_STEP == 0
            and limits.CHUNK_SIZE_MIN <= self.chunk_size <= limits.CHUNK_SIZE_MAX,
            f"a chunk has {limits.CHUNK_SIZE_MIN} to {limits.CHUNK_SIZE_MAX} bytes, whole pages, not {self.chunk_size}",
        )
        must(self.rate is None or self.rate >= 1000, "the rate is at least 1000 bytes a second")
        must(self.rate_ceiling >= 1000 and self.rate_start >= 1000, "a rate is at least 1000 bytes a second")
        must(
            self.repair_symbols is None or 0 <= self.repair_symbols <= limits.CODE_LENGTH - self.source_symbols,
            f"proactive repair symbols: 0 to {limits.CODE_LENGTH - self.source_symbols}, not {self.repair_symbols}",
        )
        must(1 <= self.source_symbols < limits.CODE_LENGTH, f"k is 1 to {limits.CODE_LENGTH - 1}")
        must(
            self.window_slices is None or 1 <= self.window_slices <= limits.WINDOW_SLICES_MAX,
            f"a window has 1 to {limits.WINDOW_SLICES_MAX} slices",
        )
        must(
            self.symbol_size % limits.SYMBOL_SIZE_STEP == 0
            and limits.SYMBOL_SIZE_MIN <= self.symbol_size <= limits.SYMBOL_SIZE_MAX,
            f"a symbol has {limits.SYMBOL_SIZE_MIN} to {limits.SYMBOL_SIZE_MAX} bytes, a multiple of "
            f"{limits.SYMBOL_SIZE_STEP}, not {self.symbol_size}",
        )
        must(1 <= self.racks <= self.receivers, f"racks: 1 to the number of receivers, not {self.racks}")
        outside = [index for index in self.exceptions if not 0 <= index < self.receivers]
        must(not outside, f"there is no receiver {outside[:3]}: they are numbered from 0 to {self.receivers - 1}")
        must(
            self.sender_restarts_ns is None
            or (self.sender_dies_ns is not None and self.sender_restarts_ns > self.sender_dies_ns),
            "a sender is started again after it died: sender_restarts_ns needs an earlier sender_dies_ns",
        )

    def member_of(self, index: int) -> Member:
        """Return what one receiver is like."""
        return self.exceptions.get(index, self.member)

    @property
    def members(self) -> tuple[Member, ...]:
        """Every sort of receiver that there is."""
        alone = len(self.exceptions) < self.receivers
        return (*((self.member,) if alone else ()), *self.exceptions.values())

    @property
    def expected(self) -> int:
        """How many receivers the sender waits for before it begins."""
        if self.start_when is not None:
            return self.start_when
        late = sum(member.join_ns > 0 for member in self.exceptions.values())
        rest = self.receivers - len(self.exceptions)
        return max(1, self.receivers - late - (rest if self.member.join_ns > 0 else 0))

    def make_manifest(self) -> Manifest:
        """Return the manifest: the given one, or that of an image of even, random bytes."""
        if self.manifest is not None:
            return self.manifest
        count = -(-self.size // self.chunk_size)
        numbers = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(0,)))
        raw = np.full(count, self.chunk_size, np.int64)
        if count:
            raw[-1] = self.size - (count - 1) * self.chunk_size
        return Manifest(
            image_id=numbers.bytes(limits.IMAGE_ID_SIZE),
            name="simulated",
            created=0,
            raw_size=self.size,
            chunk_size=self.chunk_size,
            source=Source(),
            stored_sizes=np.maximum(1, np.ceil(raw * self.stored_share)).astype(np.uint32),
            stored_digests=numbers.integers(0, 256, (count, limits.DIGEST_SIZE), np.uint8),
            raw_digests=numbers.integers(0, 256, (count, limits.DIGEST_SIZE), np.uint8),
            flags=np.zeros(count, np.uint8),
        )

    @property
    def resolution(self) -> int:
        """The longest batch in nanoseconds."""
        if self.resolution_ns is not None:
            return self.resolution_ns
        return 5 * limits.MILLISECOND_NS * max(1, self.receivers // 100)

    def bound(self, manifest: Manifest) -> int:
        """Return the virtual time within which everybody must have ended; generous, but finite and computed.

        Four times what the data take at the lowest rate that anything on the way allows, with the worst loss; the time
        of the slowest disk; twice what a fleet's JOINs and DONEs take; what befalls whom and when; and the time in
        which both sides notice that somebody is gone.
        """
        if self.bound_ns is not None:
            return self.bound_ns
        ways = [self.uplink, self.rack_link, *(member.link for member in self.members)]
        lost = 1.0 - math.prod(1.0 - max(_loss(w) for w in group) for group in ([ways[0]], [ways[1]], ways[2:]))
        rates = [way.queue.rate_bytes_per_s for way in ways if way.queue is not None]
        rate = min([self.rate if self.rate is not None else self.rate_ceiling, *rates])
        symbols = -(-max(1, manifest.stream_size) // self.symbol_size) * (self.symbol_size + DATA_HEADER_SIZE)
        once_s = symbols / rate / max(0.02, (1 - lost) ** 2)
        slowest_disk = min((m.disk.rate_bytes_per_s or math.inf for m in self.members), default=math.inf)
        chunk_s = max(m.disk.latency_ns + m.disk.outlier_share * m.disk.outlier_ns + m.check_ns for m in self.members)
        disk_s = manifest.raw_size / slowest_disk + manifest.chunk_count * chunk_s / limits.SECOND_NS
        flush_s = max(m.disk.flush_ns for m in self.members) / limits.SECOND_NS
        events = [0, self.sender_restarts_ns or 0]
        if any(member.die_ns is not None for member in self.members):
            events.append(self.max_wait_ns or 0)  # Who dies before the start is waited for.
        for member in self.members:
            events += [member.join_ns, member.die_ns or 0, member.restart_ns or 0, *(member.disk.stall or ())]
        for way in ways:
            events += [stop for _start, stop in way.outages]
        chatter_s = self.receivers / limits.FEEDBACK_PER_S
        notice_s = 4 * limits.SENDER_SILENCE_NS / limits.SECOND_NS + 12 * chatter_s
        passes = 8 if self.rate is None or any(m.join_ns or m.restart_ns for m in self.members) else 4
        total_s = passes * (once_s + disk_s) + flush_s + 4 * chatter_s + notice_s
        return int((total_s + 10) * limits.SECOND_NS) + max(events)

    def partition(self, manifest: Manifest) -> Partition:
        """Return how the stream is cut."""
        return Partition(manifest.stream_size, self.symbol_size, self.source_symbols)


def _loss(way: Way) -> float:
    return 1.0 - math.prod((1.0 - model.mean) for model in way.loss) * (1.0 - way.corrupt)
