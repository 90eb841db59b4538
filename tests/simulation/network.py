"""A lossy multicast network under a virtual clock: what may happen to a datagram, decided by one seed.

Knows instants, addresses, datagrams and faults; must not know sessions. Nothing here sleeps, opens a socket or reads a
clock. The invariant: the same seed and the same calls give the same run, datagram by datagram.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import zlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ghostcast.simulation.clock import Clock
from ghostcast.simulation.link import REORDER_DISTANCE
from protocol import messages, wire

Address = tuple[str, int]
Headers = npt.NDArray[np.void]
"""``DATA_HEADER[n]``."""
Payloads = npt.NDArray[np.uint8]
"""``uint8[n, symbol_size]``, or ``uint8[n, 0]`` where a run moves no bytes."""

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """What happens on the way between the sender and one receiver, in both directions. Shares are in [0, 1]."""

    loss: float = 0.0
    """Share of data datagrams lost, each by itself."""
    burst_start: float = 0.0
    """Chance of each data datagram to be the first of a burst that is lost."""
    burst_length: float = 0.0
    """Mean length of a burst, in datagrams."""
    control_loss: float = 0.0
    """Share of control datagrams lost, to the receiver and from it."""
    lost_kinds: frozenset[type[messages.Message]] | None = None
    """Only these messages suffer ``control_loss``; None: all."""
    delay_ns: int = 200_000
    jitter_ns: int = 0
    """Most extra delay of a control datagram from the receiver; data is delayed by the batch, in order."""
    reorder: float = 0.0
    """Share of data datagrams that fall back by up to ``REORDER_DISTANCE`` places."""
    duplicate: float = 0.0
    """Share of datagrams of every sort that arrive twice."""
    corrupt: float = 0.0
    """Share of datagrams of every sort with one byte changed: real links have checksums, this proves robustness."""
    junk: float = 0.0
    """Chance of each delivery to be followed by a datagram of random bytes."""


class Node(Protocol):
    """Whoever is on the network."""

    @property
    def address(self) -> Address:
        """Where unicast reaches it."""

    @property
    def faults(self) -> Faults:
        """What happens on its link."""

    @property
    def alive(self) -> bool:
        """Whether anything arrives."""

    def take_control(self, datagram: bytes, origin: Address) -> None:
        """A control datagram arrives."""

    def take_data(self, headers: Headers, payloads: Payloads) -> None:
        """A batch of data datagrams arrives."""


class Network:
    """One switch: every multicast reaches every other node, each over a link with its own faults."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self.clock = clock
        self.rng = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.carried: collections.Counter[str] = collections.Counter()
        """Control messages handed to the network, by name."""
        self._bursting: dict[Address, int] = {}
        self.tap: Callable[[Headers, Payloads], None] | None = None
        """Sees every batch of data before any fault; may change the payloads in place."""

    def unicast(self, origin: Node, to: Address, datagram: bytes) -> None:
        """Carry one control datagram to one node."""
        for node in self.nodes:
            if node.address == to:
                # The faults of a link are kept by the receiver on it: messages to and from the sender meet the same.
                self._carry(datagram, origin, node)
        self._count(datagram)

    def multicast(self, origin: Node, datagram: bytes) -> None:
        """Carry one control datagram to everybody else."""
        for node in self.nodes:
            if node is not origin:
                self._carry(datagram, origin, node)
        self._count(datagram)

    def multicast_data(self, origin: Node, headers: Headers, payloads: Payloads) -> None:
        """Carry a batch of data datagrams to everybody else."""
        if self.tap is not None:
            payloads = payloads.copy()
            self.tap(headers, payloads)
        for node in self.nodes:
            if node is origin or not node.alive:
                continue
            picked = self._pick(node, len(headers))
            if not len(picked):
                continue
            here, bytes_here = headers[picked], payloads[picked]
            if node.faults.corrupt:
                self._corrupt_headers(here, node.faults.corrupt)
            self._deliver_data(node, here, bytes_here)

    def _deliver_data(self, node: Node, headers: Headers, payloads: Payloads) -> None:
        def arrive() -> None:
            if node.alive:
                node.take_data(headers, payloads)

        self.clock.after(node.faults.delay_ns, arrive)

    def _pick(self, node: Node, count: int) -> npt.NDArray[np.int64]:
        """Return which datagrams of a batch arrive, in the order in which they do."""
        faults = node.faults
        kept = self._numbers.random(count) >= faults.loss
        if faults.burst_start:
            self._lose_bursts(node, kept)
        picked = np.flatnonzero(kept)
        if faults.duplicate:
            picked = np.repeat(picked, 1 + (self._numbers.random(len(picked)) < faults.duplicate))
        if faults.reorder:
            late = (self._numbers.random(len(picked)) < faults.reorder) * self._numbers.integers(
                1, REORDER_DISTANCE, len(picked)
            )
            picked = picked[np.argsort(np.arange(len(picked)) + late, kind="stable")]
        return picked

    def _lose_bursts(self, node: Node, kept: npt.NDArray[np.bool_]) -> None:
        faults, left = node.faults, self._bursting.get(node.address, 0)
        starts = set(np.flatnonzero(self._numbers.random(len(kept)) < faults.burst_start).tolist())
        for index in range(len(kept)):
            if index in starts:
                left = max(left, 1 + int(self.rng.expovariate(1 / max(faults.burst_length, 1))))
            if left:
                kept[index] = False
                left -= 1
        self._bursting[node.address] = left

    def _corrupt_headers(self, headers: Headers, share: float) -> None:
        hit = np.flatnonzero(self._numbers.random(len(headers)) < share)
        raw = headers.view(np.uint8).reshape(len(headers), wire.DATA_HEADER_SIZE)
        raw[hit, self._numbers.integers(0, wire.DATA_HEADER_SIZE, len(hit))] ^= self._numbers.integers(
            1, 256, len(hit), np.uint8
        )

    def _carry(self, datagram: bytes, origin: Node, node: Node) -> None:
        """Carry one control datagram over the link with faults that lies between two nodes."""
        faults = origin.faults if origin.faults is not PERFECT else node.faults
        lossy = faults.lost_kinds is None or kind_of(datagram) in faults.lost_kinds
        if lossy and self.rng.random() < faults.control_loss:
            return
        address = origin.address
        for _copy in range(1 + (self.rng.random() < faults.duplicate)):
            arrives = datagram
            if self.rng.random() < faults.corrupt:
                place = self.rng.randrange(len(datagram))
                arrives = (
                    datagram[:place] + bytes([datagram[place] ^ self.rng.randrange(1, 256)]) + datagram[place + 1 :]
                )
                # Most damage fails the checksum; a machine must also live with what does not.
                arrives = sealed(arrives) if self.rng.random() < 0.5 else arrives
            delay_ns = faults.delay_ns + (self.rng.randrange(faults.jitter_ns) if faults.jitter_ns else 0)
            self._arrive(arrives, address, node, delay_ns)
        if self.rng.random() < faults.junk:
            self._arrive(self._junk(datagram), address, node, faults.delay_ns)

    def _arrive(self, datagram: bytes, origin: Address, node: Node, delay_ns: int) -> None:
        def arrive() -> None:
            if node.alive:
                node.take_control(datagram, origin)

        self.clock.after(delay_ns, arrive)

    def _junk(self, pattern: bytes) -> bytes:
        """Return random bytes, half of the time behind the right preamble and checksum."""
        body = self.rng.randbytes(self.rng.randrange(120))
        return sealed(pattern[: wire.CONTROL_BODY_OFFSET] + body) if self.rng.random() < 0.5 else body

    def _count(self, datagram: bytes) -> None:
        self.carried[kind_of(datagram).__name__] += 1


PERFECT = Faults(delay_ns=0)
"""A sender's own link: what is lost is lost at the receivers."""


def sealed(datagram: bytes) -> bytes:
    """Return a control datagram with the checksum that its bytes should have."""
    checksum = zlib.crc32(datagram[:8] + datagram[wire.CONTROL_BODY_OFFSET :])
    return datagram[:12] + checksum.to_bytes(4) + datagram[wire.CONTROL_BODY_OFFSET :]


def kind_of(datagram: bytes) -> type[messages.Message]:
    """Return which message a datagram of ours carries."""
    drops = wire.Drops()
    frame = wire.parse_control(datagram, drops)
    message = None if frame is None else messages.decode(frame.body, drops)
    assert message is not None, "a machine sent what nobody can read"
    return type(message)
