"""One run: builds sender, network and fleet out of a scenario, lets time pass, and judges the end.

``simulate`` is the way in. The real ``SenderSession`` and ``ReceiverSession`` do all the deciding; everything here only
plays what is around them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from ghostcast.simulation.clock import SPIN_MAX, Clock, StuckError
from ghostcast.simulation.host import Host
from ghostcast.simulation.invariants import InvariantError, Judge
from ghostcast.simulation.recorder import Recorder
from ghostcast.simulation.result import FloatArray, Result
from ghostcast.simulation.scenario import Scenario
from ghostcast.simulation.source import PORT, SourceNode
from ghostcast.simulation.tree import Tree
from protocol import limits
from protocol.errors import GhostcastError
from protocol.fleet import PeerState
from protocol.receiver_events import Outcome
from protocol.receiver_session import ReceiverSession
from protocol.sender_events import Event, EventKind
from protocol.sender_session import SenderSession

SESSION_ID = 0x5E551011
GONE_RESTART_NS = limits.SECOND_NS
"""How soon a receiver whose sender vanished is started again, where the sender is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Machines:
    """What is driven. A test plants a fault by putting a subclass in."""

    sender: type[SenderSession] = SenderSession
    receiver: type[ReceiverSession] = ReceiverSession
    host: type[Host] = Host


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    virtual_s: float
    sent_share: float
    """Of the symbols that are known to be needed."""
    durable: int
    """Receivers whose copy is flushed."""


def simulate(
    scenario: Scenario,
    *,
    machines: Machines | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Run a scenario to its end, checking every invariant on the way.

    The machines are the shipped ones; time is virtual; the same scenario (its ``seed`` included) gives the same result,
    bit for bit, on every machine. One process, one thread: about 20 ms of processor time per receiver for 256 MB.

    Args:
        scenario: what is simulated.
        machines: other machines, to plant faults.
        on_progress: called after every batch of data and every flushed receiver.
    Returns:
        Times per receiver (``data_s``, ``durable_s``, ``confirmed_s``), symbols sent (``source_symbols``,
        ``repair_symbols``, ``overhead``), control messages per 100 ms (``control``, ``control_peak_per_s``), the rate
        over time (``rate``), and how each receiver ended (``states``).
    Raises:
        InvariantError: a rule was broken, or a receiver that should have ended well did not.
        StuckError: not over within ``scenario.bound``.
        Both name the seed and the scenario that show it again.
    """
    world = World(scenario, machines or Machines(), on_progress)
    try:
        return world.run()
    except GhostcastError as error:
        raise type(error)(f"{error}\n{world.describe()}") from error
    except Exception as error:
        error.add_note(world.describe())
        raise


class World:
    """Everything that takes part in one run."""

    name = "simulated"

    def __init__(
        self, scenario: Scenario, machines: Machines, on_progress: Callable[[Progress], None] | None = None
    ) -> None:
        self.scenario = scenario
        self.machines = machines
        self.manifest = scenario.make_manifest()
        size = self.manifest.chunk_size
        self.raw_sizes = np.full(self.manifest.chunk_count, size, np.int64)
        if self.manifest.chunk_count:
            self.raw_sizes[-1] = self.manifest.raw_size - (self.manifest.chunk_count - 1) * size
        self.damaged_chunks = frozenset(scenario.damaged_chunks)
        self.clock = Clock(spin_max=SPIN_MAX + 100 * scenario.receivers)
        self.begin_ns = self.clock.now
        self.recorder = Recorder(self.begin_ns)
        self.judge = Judge(scenario, self.manifest)
        self.tree = Tree(self.clock, scenario, self.recorder)
        count = scenario.receivers
        self.hosts: list[Host | None] = [None] * count
        self._data_ns = np.full(count, np.nan)
        self._durable_ns = np.full(count, np.nan)
        self._confirmed_ns = np.full(count, np.nan)
        self._durable = 0
        self._started_ns: int | None = None
        self._ended_ns: int | None = None
        self._engaged = 0
        """Hosts that are alive and have not ended, searching ones included while a sender lives."""
        self._coming = 0
        """Births that are still to come, the sender's too."""
        self._on_progress = on_progress
        self._born_after_end: set[int] = set()
        self.source = SourceNode(self, SESSION_ID)
        self.tree.roots.append(self.source)
        self._schedule()

    def _schedule(self) -> None:
        for index in range(self.scenario.receivers):
            member = self.scenario.member_of(index)
            self._at(member.join_ns, functools.partial(self._switch_on, index, 1))
            if member.die_ns is not None:
                self.clock.at(self.begin_ns + member.die_ns, functools.partial(self._die, index))
            if member.restart_ns is not None:
                self._at(member.restart_ns, functools.partial(self._restart, index))
        if self.scenario.sender_dies_ns is not None:
            self.clock.at(self.begin_ns + self.scenario.sender_dies_ns, self.source.die)
        if self.scenario.sender_restarts_ns is not None:
            self._at(self.scenario.sender_restarts_ns, self._restart_sender)

    def _at(self, when_ns: int, call: Callable[[], None]) -> None:
        """Have something happen that the run must not end before."""
        self._coming += 1

        def happen() -> None:
            self._coming -= 1
            call()

        self.clock.at(self.begin_ns + when_ns, happen)

    # --- what befalls whom ----------------------------------------------------------------------------------------

    def _switch_on(self, index: int, incarnation: int) -> None:
        if self.source.over:
            self._born_after_end.add(index)
        host = self.machines.host(self, index, incarnation)
        self.hosts[index] = host
        self._engaged += 1
        self.tree.attach(index, host)
        host.turn()

    def _die(self, index: int) -> None:
        host = self.hosts[index]
        if host is not None and host.alive:
            host.die()
            self._engaged -= not host.over

    def _restart(self, index: int) -> None:
        self._die(index)
        self._again(index)

    def _again(self, index: int) -> None:
        old = self.hosts[index]
        self.judge.restarted(index)
        self._data_ns[index] = np.nan
        self._durable -= not np.isnan(self._durable_ns[index])
        self._durable_ns[index] = np.nan
        self._switch_on(index, 1 if old is None else old.incarnation + 1)

    def _restart_sender(self) -> None:
        self.source.die()
        self.tree.roots.remove(self.source)
        self.source = SourceNode(self, SESSION_ID + 1, PORT + 1, max_wait_ns=2 * limits.SENDER_SILENCE_NS)
        self.tree.roots.append(self.source)
        for host in self.hosts:
            if host is not None and host.alive and host.outcome is Outcome.SENDER_GONE:
                self._again_later(host)

    def _again_later(self, gone: Host) -> None:
        def again() -> None:
            if self.hosts[gone.index] is gone and gone.alive:
                self._again(gone.index)

        self._at(self.clock.now - self.begin_ns + GONE_RESTART_NS, again)

    # --- what is reported -----------------------------------------------------------------------------------------

    def data_complete(self, index: int, now: int) -> None:
        """A receiver holds enough symbols of every slice."""
        self._data_ns[index] = now

    def flushed(self, index: int) -> None:
        """A receiver's target is complete and flushed."""
        self._durable_ns[index] = self.clock.now
        self._durable += 1
        self.progress()

    def host_ended(self, host: Host) -> None:
        """A receiver ended, in whatever way."""
        self._engaged -= 1
        restarts = self.scenario.sender_restarts_ns
        if host.outcome is Outcome.SENDER_GONE and restarts is not None and self.clock.now - self.begin_ns > restarts:
            self._again_later(host)

    def sender_event(self, event: Event) -> None:
        """Something happened at the sender."""
        if event.kind is EventKind.STARTED and self._started_ns is None:
            self._started_ns = self.clock.now
        elif event.kind is EventKind.ENDED:
            self._ended_ns = self.clock.now
        elif event.kind is EventKind.VERIFIED and event.peer is not None:
            index = int(event.peer.host[1:])
            self.judge.claims_verified(index, "the sender")
            self._confirmed_ns[index] = self.clock.now

    def progress(self) -> None:
        """Tell whoever watches."""
        if self._on_progress is not None:
            total = max(1, self._needed())
            self._on_progress(
                Progress(
                    virtual_s=(self.clock.now - self.begin_ns) / limits.SECOND_NS,
                    sent_share=1.0 - min(1.0, self.source.session.remaining_symbols / total),
                    durable=self._durable,
                )
            )

    # --- the run --------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Let time pass until everybody ended; then judge the end."""
        bound_ns = self.scenario.bound(self.manifest)
        self.clock.run(self._over, bound_ns)
        self._judge_end()
        return self._result()

    def _over(self) -> bool:
        if self._coming or not self.source.over:
            return False
        if not self._engaged:
            return True
        # Only those are left that look for a session that is no more.
        return all(host is None or not host.alive or host.over or host.session is None for host in self.hosts)

    def _judge_end(self) -> None:
        """Everybody who could end well has ended well, and both sides say so."""
        for index, host in enumerate(self.hosts):
            member = self.scenario.member_of(index)
            if not self.must_end_well(index) or host is None:
                continue
            if host.outcome is not Outcome.VERIFIED:
                self.judge.fault(
                    f"receiver {index} was alive to the end and ended {self._state(index)}: {host.failure or '-'}"
                )
            if not self.judge.complete(index):
                self.judge.fault(f"receiver {index} ended verified and has no whole copy ({member})")
        for peer in self.source.session.peers:
            index = int(peer.host[1:])
            if peer.state is PeerState.VERIFIED:
                self.judge.claims_verified(index, "the sender")
            elif self.must_end_well(index) and self.scenario.sender_dies_ns is None:
                self.judge.fault(f"receiver {index} ended verified, and the sender calls it {peer.state.value}")

    def must_end_well(self, index: int) -> bool:
        """Whether nothing that befell a receiver excuses it from ending verified.

        Excused are those whose link was cut for long, who hear or are heard too rarely to be taken for alive, who came
        when it was over or too late to be taken in, and, where a chunk was read wrongly, all.
        """
        member, scenario, host = self.scenario.member_of(index), self.scenario, self.hosts[index]
        machine = None if host is None else host.session
        if (member.join_ns or member.restart_ns) and (machine is None or machine.receiver_index is None):
            return False
        if not member.stays or index in self._born_after_end or scenario.damaged_chunks:
            return False
        if scenario.sender_dies_ns is not None and scenario.sender_restarts_ns is None:
            return False
        for way in (member.link, scenario.rack_link, scenario.uplink):
            cut = max((stop - start for start, stop in way.outages), default=0)
            if cut > limits.RECEIVER_SILENCE_NS // 2 or max(way.control_loss, way.feedback_loss) > 0.3:
                return False
        return True

    def _state(self, index: int) -> str:
        host = self.hosts[index]
        if host is not None and host.outcome is not None:
            return host.outcome.value
        if host is None or not host.alive:
            return "dead"
        return "left_out" if host.session is None else "unfinished"

    def _needed(self) -> int:
        schedules = self.source.session.schedules
        image = schedules[limits.OBJECT_IMAGE].partition
        manifest = schedules[limits.OBJECT_MANIFEST].partition
        wanted = np.flatnonzero(self.source.wanted)
        return int(image.symbols_of(wanted).sum()) + manifest.symbol_count

    def _result(self) -> Result:
        session, recorder = self.source.session, self.recorder
        intervals = recorder.interval(self.clock.now) + 1
        started = self._started_ns if self._started_ns is not None else self.clock.now

        def seconds(instants: FloatArray) -> FloatArray:
            return (instants - started) / limits.SECOND_NS

        loss = np.full(len(self.hosts), np.nan)
        for index, host in enumerate(self.hosts):
            reception = None if host is None or host.session is None else host.session.reception
            if reception is not None and reception.datagrams_expected:
                loss[index] = reception.lost / reception.datagrams_expected
        return Result(
            scenario=self.scenario,
            raw_size=self.manifest.raw_size,
            stream_size=self.manifest.stream_size,
            joining_s=(started - self.begin_ns) / limits.SECOND_NS,
            ended_s=float("nan") if self._ended_ns is None else (self._ended_ns - started) / limits.SECOND_NS,
            data_s=seconds(self._data_ns),
            durable_s=seconds(self._durable_ns),
            confirmed_s=seconds(self._confirmed_ns),
            states=[self._state(index) for index in range(len(self.hosts))],
            reasons=["" if host is None or host.outcome is Outcome.VERIFIED else host.failure for host in self.hosts],
            needed_symbols=self._needed(),
            source_symbols=sum(recorder.source.values()),
            repair_symbols=sum(recorder.repair.values()),
            passes=session.pass_count + 1,
            nacks=session.sent.nacks,
            control=recorder.control_table(intervals),
            multicast=dict(sorted(recorder.multicast.items())),
            ingest_dropped=recorder.ingest_dropped,
            sent=recorder.series(recorder.source + recorder.repair, intervals),
            rate=recorder.series(recorder.rate, intervals),
            loss=loss,
        )

    def describe(self) -> str:
        """Return what is needed to see this run again, and where it stands."""
        session = self.source.session
        lines = [
            f"seed {self.scenario.seed}, at {(self.clock.now - self.begin_ns) / limits.SECOND_NS:.6f} s",
            f"sender: {session.state.name.lower()}, ended {session.ended}, next sequence {session.sequence}, "
            f"{session.remaining_symbols} symbols to send, {self._durable} of {len(self.hosts)} receivers durable",
        ]
        open_hosts = [host for host in self.hosts if host is not None and host.alive and not host.over]
        for host in open_hosts[:5]:
            machine = host.session
            if machine is not None:
                reception = machine.reception
                missing = reception.assembly(limits.OBJECT_IMAGE).missing_count
                lines.append(
                    f"receiver {host.index}: {machine.state.value}, {missing} slices missing, {reception.counters}"
                )
            else:
                lines.append(f"receiver {host.index}: looking for a session")
        lines.append(f"replay: simulate({self.scenario!r})")
        return "\n".join(lines)


__all__ = ["InvariantError", "Machines", "Progress", "StuckError", "World", "simulate"]
