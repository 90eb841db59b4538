"""The multicast tree: one uplink, racks, and a link to each receiver; what is lost above is lost to all below.

Carries datagrams and batches between the sender and the hosts; must not know sessions. Receivers that a datagram
reaches at the same instant are served by one call of the clock, in the order of their numbers.
"""

from __future__ import annotations

from typing import Protocol

from ghostcast.simulation.clock import Clock
from ghostcast.simulation.link import NOTHING, Link
from ghostcast.simulation.loss import Int64Array
from ghostcast.simulation.recorder import Recorder
from ghostcast.simulation.scenario import Scenario
from protocol.symbols import SymbolBatch

Address = tuple[str, int]

UPLINK_KEY, RACK_KEY, LINK_KEY = 1, 2, 3
"""First element of a link's key: which streams are whose never changes when something else is added."""


class Listener(Protocol):
    """Whoever a leaf of the tree leads to."""

    @property
    def alive(self) -> bool:
        """Whether anything arrives."""

    @property
    def address(self) -> Address:
        """Where unicast reaches it."""

    def take_control(self, datagram: bytes, origin: Address) -> None:
        """A control datagram arrives."""

    def take_data(self, batch: SymbolBatch, sent_us: int, lost: Int64Array, link: Link) -> None:
        """A batch arrives, without those that are lost."""


class Root(Protocol):
    """The sender, as the tree sees it."""

    @property
    def address(self) -> Address:
        """Where unicast reaches it."""

    def take_control(self, datagram: bytes, origin: Address) -> None:
        """A control datagram arrives."""


class Leaf:
    """One receiver's place in the tree."""

    __slots__ = ("delay_ns", "host", "link", "rack")

    def __init__(self, rack: Link, link: Link, delay_ns: int) -> None:
        self.rack = rack
        self.link = link
        self.delay_ns = delay_ns
        self.host: Listener | None = None


class Tree:
    """The network of one run."""

    def __init__(self, clock: Clock, scenario: Scenario, recorder: Recorder) -> None:
        self.clock = clock
        self.recorder = recorder
        begin, seed = clock.now, scenario.seed
        self.uplink = Link(scenario.uplink, seed, (UPLINK_KEY,), begin)
        self.racks = [Link(scenario.rack_link, seed, (RACK_KEY, rack), begin) for rack in range(scenario.racks)]
        self.leaves: list[Leaf] = []
        groups: dict[tuple[int, int], list[Leaf]] = {}
        for index in range(scenario.receivers):
            rack = index * scenario.racks // scenario.receivers
            way = scenario.member_of(index).link
            delay_ns = scenario.uplink.delay_ns + scenario.rack_link.delay_ns + way.delay_ns
            leaf = Leaf(self.racks[rack], Link(way, seed, (LINK_KEY, index), begin), delay_ns)
            self.leaves.append(leaf)
            groups.setdefault((rack, delay_ns), []).append(leaf)
        self._groups = list(groups.items())
        self.roots: list[Root] = []
        """Whoever may be sent to: one sender, or a second one after the first died."""

    def attach(self, index: int, host: Listener) -> None:
        """Put a host at a leaf, in place of the one before it."""
        self.leaves[index].host = host

    # --- down -----------------------------------------------------------------------------------------------------

    def multicast_data(self, batch: SymbolBatch, sent_us: int, start_ns: int, spacing_ns: float, size: int) -> None:
        """Carry a batch whose last datagram leaves now; the first one left at ``start_ns``."""
        count = len(batch)
        above = self.uplink.lose(count, NOTHING, start_ns, spacing_ns, size)
        waits = self.uplink.backlog_ns(self.clock.now)
        if len(above) == count:
            return
        in_rack: dict[int, tuple[Int64Array, int]] = {}
        for (rack, delay_ns), leaves in self._groups:
            if rack not in in_rack:
                link = self.racks[rack]
                lost = link.lose(count, above, start_ns, spacing_ns, size)
                in_rack[rack] = lost, link.backlog_ns(self.clock.now)
            lost, rack_waits = in_rack[rack]
            arrives_ns = self.clock.now + delay_ns + waits + rack_waits
            self.clock.at(
                arrives_ns, _Delivery(self, batch, sent_us, leaves, lost, start_ns + delay_ns, spacing_ns, size)
            )

    def multicast(self, datagram: bytes, origin: Address) -> None:
        """Carry one control datagram of the sender to everybody."""
        now = self.clock.now
        if not self.uplink.copies_down(now):
            return
        waits = self.uplink.backlog_ns(now)
        passes: dict[int, bool] = {}
        for (rack, delay_ns), leaves in self._groups:
            link = self.racks[rack]
            if rack not in passes:
                passes[rack] = bool(link.copies_down(now))
            if passes[rack]:
                self.clock.after(delay_ns + waits + link.backlog_ns(now), _Announcement(self, datagram, leaves, origin))

    def unicast(self, to: Address, datagram: bytes, origin: Address) -> None:
        """Carry one control datagram of the sender to one host; its address names its leaf."""
        index = int(to[0][1:])
        leaf = self.leaves[index]
        host = leaf.host
        if host is None or host.address != to:
            return
        if self.uplink.copies_down(self.clock.now) and leaf.rack.copies_down(self.clock.now):
            for _copy in range(leaf.link.copies_down(self.clock.now)):
                self.clock.after(leaf.delay_ns, _Arrival(host, datagram, origin))

    # --- up -------------------------------------------------------------------------------------------------------

    def send_up(self, index: int, datagram: bytes, origin: Address, to: Address | None) -> None:
        """Carry one control datagram of a host to a sender, or to all of them where ``to`` is None."""
        leaf, now = self.leaves[index], self.clock.now
        copies = leaf.link.copies_up(now)
        if not copies or not leaf.rack.copies_up(now) or not self.uplink.copies_up(now):
            return
        for root in self.roots:
            if to is None or root.address == to:
                for _copy in range(copies):
                    self.clock.after(leaf.delay_ns + leaf.link.jitter_ns(), _Arrival(root, datagram, origin))


class _Delivery:
    """A batch on its way to the leaves of one group."""

    __slots__ = ("_batch", "_leaves", "_lost", "_sent_us", "_size", "_spacing_ns", "_start_ns", "_tree")

    def __init__(
        self,
        tree: Tree,
        batch: SymbolBatch,
        sent_us: int,
        leaves: list[Leaf],
        lost: Int64Array,
        start_ns: int,
        spacing_ns: float,
        size: int,
    ) -> None:
        self._tree = tree
        self._batch = batch
        self._sent_us = sent_us
        self._leaves = leaves
        self._lost = lost
        self._start_ns = start_ns
        self._spacing_ns = spacing_ns
        self._size = size

    def __call__(self) -> None:
        clock, batch, count = self._tree.clock, self._batch, len(self._batch)
        for leaf in self._leaves:
            host, link = leaf.host, leaf.link
            if host is None or not host.alive:
                continue
            lost = link.lose(count, self._lost, self._start_ns, self._spacing_ns, self._size)
            if len(lost) == count:
                continue
            waits = link.backlog_ns(clock.now)
            if waits:
                clock.after(waits, _Late(host, batch, self._sent_us, lost, link))
            else:
                host.take_data(batch, self._sent_us, lost, link)


class _Late:
    """A batch that waited in a receiver's own queue."""

    __slots__ = ("_batch", "_host", "_link", "_lost", "_sent_us")

    def __init__(self, host: Listener, batch: SymbolBatch, sent_us: int, lost: Int64Array, link: Link) -> None:
        self._host, self._batch, self._sent_us, self._lost, self._link = host, batch, sent_us, lost, link

    def __call__(self) -> None:
        if self._host.alive:
            self._host.take_data(self._batch, self._sent_us, self._lost, self._link)


class _Announcement:
    """A control datagram on its way to the leaves of one group."""

    __slots__ = ("_datagram", "_leaves", "_origin", "_tree")

    def __init__(self, tree: Tree, datagram: bytes, leaves: list[Leaf], origin: Address) -> None:
        self._tree, self._datagram, self._leaves, self._origin = tree, datagram, leaves, origin

    def __call__(self) -> None:
        clock = self._tree.clock
        for leaf in self._leaves:
            host = leaf.host
            if host is None or not host.alive:
                continue
            for _copy in range(leaf.link.copies_down(clock.now)):
                waits = leaf.link.backlog_ns(clock.now)
                if waits:
                    clock.after(waits, _Arrival(host, self._datagram, self._origin))
                else:
                    host.take_control(self._datagram, self._origin)


class _Arrival:
    """A control datagram on its way to one node."""

    __slots__ = ("_datagram", "_node", "_origin")

    def __init__(self, node: Listener | Root, datagram: bytes, origin: Address) -> None:
        self._node, self._datagram, self._origin = node, datagram, origin

    def __call__(self) -> None:
        self._node.take_control(self._datagram, self._origin)
