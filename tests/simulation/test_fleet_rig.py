"""Goal: what the simulator promises to see, it sees.

Method: one machine at a time is replaced by one with a planted fault of each kind; the judge, the clock or the counters
must notice, and what is raised must hold what shows it again.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ghostcast.simulation import Bernoulli, Disk, InvariantError, Machines, Member, Scenario, StuckError, Way, simulate
from ghostcast.simulation.host import Host
from protocol import limits, messages
from protocol.deficits import decode_deficits, encode_deficits
from protocol.fleet import PeerState
from protocol.receiver_events import AllWritten, ReceiverState
from protocol.receiver_session import ReceiverSession
from protocol.sender_events import EventKind
from protocol.sender_session import SenderSession
from protocol.symbols import SymbolBatch

SECOND = limits.SECOND_NS
LOSSY = Member(link=Way(loss=(Bernoulli(0.05),), delay_ns=100_000), disk=Disk(flush_ns=limits.MILLISECOND_NS))


def scenario(**changes: object) -> Scenario:
    settings: dict[str, object] = {
        "receivers": 4,
        "size": 4 * limits.MIB,
        "rate": 20e6,
        "member": LOSSY,
        "seed": 11,
        "repair_symbols": 0,
    }
    return Scenario(**(settings | changes))  # type: ignore[arg-type]


def test_without_a_fault_nothing_is_found() -> None:
    assert simulate(scenario()).verified == 4


class CarelessHost(Host):
    checks = False


def test_a_chunk_that_is_written_unchecked_is_found() -> None:
    with pytest.raises(InvariantError, match="wrote chunk 2, which did not match its digest"):
        simulate(scenario(damaged_chunks=(2,)), machines=Machines(host=CarelessHost))


def test_a_damaged_chunk_that_is_checked_ends_in_failure_and_is_not_written() -> None:
    result = simulate(scenario(damaged_chunks=(2,)))
    assert result.states == ["failed"] * 4
    assert all("chunk 2" in reason for reason in result.reasons)


class GreedyReceiver(ReceiverSession):
    """Asks for the first slice as well, whatever is missing."""

    def _send(self, message: messages.Message) -> None:
        if isinstance(message, messages.Nack):
            first, _covered = encode_deficits(np.array([0]), np.array([1]))
            rest = decode_deficits(message.items, limits.SLICE_COUNT_MAX)
            if message.object_id == limits.OBJECT_IMAGE and rest is not None and rest[0][0] > 0:
                message = msgspec.structs.replace(message, items=first + message.items)
        super()._send(message)


def test_asking_for_what_is_on_the_disk_is_found() -> None:
    with pytest.raises(InvariantError, match="asks for slice 0, although every chunk in it is on its disk"):
        simulate(scenario(size=16 * limits.MIB), machines=Machines(receiver=GreedyReceiver))


class HastyReceiver(ReceiverSession):
    """Calls a slice complete that is not."""

    hasty = False

    def take_symbols(self, batches: list[tuple[SymbolBatch, object]], sent_us: int, now: int) -> list:  # type: ignore[type-arg, override]
        placements = super().take_symbols(batches, sent_us, now)  # type: ignore[arg-type]
        item = self.reception.objects[limits.OBJECT_IMAGE]
        slices, _deficits = item.assembly.partial_deficits(self.reception.highest)
        if self.manifest is not None and len(slices) and not self.hasty:
            self.hasty = True
            for index in slices.tolist():
                self.reception._ready(item, index)
        return placements


def test_completing_a_chunk_from_too_few_symbols_is_found() -> None:
    with pytest.raises(InvariantError, match=r"calls chunk \d+ complete, but of slice \d+ it was sent \d+ of 128"):
        simulate(scenario(), machines=Machines(receiver=HastyReceiver))


class LyingReceiver(ReceiverSession):
    """Says that all is written as soon as the manifest is there."""

    def _check_all_written(self) -> None:
        if self.state is ReceiverState.RECEIVING:
            self.state = ReceiverState.FINISHING
            self._events.append(AllWritten())


def test_flushing_what_is_not_complete_is_found() -> None:
    with pytest.raises(InvariantError, match="flushed its target as complete with 4 chunks missing"):
        simulate(scenario(), machines=Machines(receiver=LyingReceiver))


class TrustingSender(SenderSession):
    """Takes a report for a DONE."""

    def _report(self, message: messages.Report, address: tuple[str, int], now: int) -> None:
        peer = self.peers[message.receiver_index]
        self.fleet.finish(peer, PeerState.VERIFIED, "", now)
        self._outbox.tell(EventKind.VERIFIED, peer)


def test_a_sender_that_believes_too_early_is_found() -> None:
    with pytest.raises(InvariantError, match=r"the sender calls receiver \d verified, but 4 chunks are missing"):
        simulate(scenario(), machines=Machines(sender=TrustingSender))


class DeafSender(SenderSession):
    """Never hears a NACK."""

    def _nack(self, message: messages.Nack, address: tuple[str, int], now: int) -> None:
        self.peers[message.receiver_index].heard_ns = now


def test_a_sender_that_ignores_requests_is_found() -> None:
    with pytest.raises(
        StuckError, match=r"(?s)not over after .* s of virtual time.*seed 11.*replay: simulate\(Scenario"
    ):
        simulate(scenario(bound_ns=20 * SECOND), machines=Machines(sender=DeafSender))


class ForgetfulSender(SenderSession):
    """Ends as soon as one receiver is done."""

    def _done(self, message: messages.Done, address: tuple[str, int], now: int) -> None:
        super()._done(message, address, now)
        self.end(messages.EndReason.COMPLETE, "one is enough", now)


def test_a_receiver_that_is_left_behind_is_found() -> None:
    slow = Member(link=LOSSY.link, disk=Disk(rate_bytes_per_s=1e6))
    with pytest.raises(InvariantError, match=r"receiver \d was alive to the end and ended sender_gone"):
        simulate(scenario(exceptions={3: slow}), machines=Machines(sender=ForgetfulSender))


class SpinningReceiver(ReceiverSession):
    """Wants to be called at once, for ever."""

    def next_timeout(self) -> int | None:
        return 0


def test_time_that_stands_still_is_found() -> None:
    with pytest.raises(StuckError, match="time stands still"):
        simulate(scenario(), machines=Machines(receiver=SpinningReceiver))


class ChattyReceiver(ReceiverSession):
    """Reports a hundred times as often as it was asked to."""

    def _send(self, message: messages.Message) -> None:
        super()._send(message)
        if isinstance(message, messages.Report):
            for _copy in range(99):
                super()._send(message)


def test_a_flood_of_control_messages_is_counted() -> None:
    quiet = simulate(scenario())
    flood = simulate(scenario(), machines=Machines(receiver=ChattyReceiver))
    assert flood.control["Report"].sum() > 50 * quiet.control["Report"].sum()
    assert flood.control_peak_per_s > 4000 > quiet.control_peak_per_s


def test_a_small_ingest_queue_drops_and_counts() -> None:
    result = simulate(
        scenario(receivers=12, ingest_size=1, ingest_ns=5 * limits.MILLISECOND_NS),
        machines=Machines(sender=SenderSession),
    )
    assert result.ingest_dropped > 0
    assert result.verified == 12


def test_a_restarted_receiver_keeps_what_it_wrote_and_a_dead_one_is_not_waited_for() -> None:
    restarts = Member(link=LOSSY.link, die_ns=SECOND // 4, restart_ns=SECOND // 2)
    dies = Member(link=LOSSY.link, die_ns=SECOND // 4)
    result = simulate(scenario(size=16 * limits.MIB, exceptions={1: restarts, 2: dies}))
    assert result.states == ["verified", "verified", "dead", "verified"]


def test_a_sender_that_starts_again_serves_everybody() -> None:
    result = simulate(
        scenario(size=16 * limits.MIB, sender_dies_ns=SECOND // 4, sender_restarts_ns=SECOND, max_wait_ns=SECOND)
    )
    assert result.verified == 4


@pytest.mark.parametrize("option", ["eio_at_byte", "enospc_at_byte"])
def test_a_disk_that_fails_ends_that_receiver_alone(option: str) -> None:
    failing = Member(link=LOSSY.link, disk=Disk(**{option: limits.MIB}))  # type: ignore[arg-type]
    result = simulate(scenario(exceptions={2: failing}))
    assert result.states == ["verified", "verified", "failed", "verified"]
    assert ("put/output error" in result.reasons[2]) == (option == "eio_at_byte")


def test_a_cut_link_heals() -> None:
    cut = Member(link=Way(delay_ns=100_000, outages=((SECOND // 10, SECOND),)))
    result = simulate(scenario(exceptions={2: cut}))
    assert result.verified == 4
    assert result.data_s[2] > 0.8
