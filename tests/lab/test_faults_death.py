"""SIGKILL and SIGSTOP at random moments: of receivers, of senders, before, during and after the data.

Goal: a process that dies or stands still at any moment leaves no false ``verified`` behind, holds nobody up beyond the
stated time, and harms no later session. Method: moments from a seed that is printed, so many in one run that some fall
into start-up, join, first pass, repair, final flush and farewell; ``GHOSTCAST_FAULT_ROUNDS=20`` makes hundreds of them.
"""

from __future__ import annotations

import dataclasses
import heapq
import pathlib
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.lab import faults
from tests.lab.network import Bridge, Host
from tests.lab.processes import Processes
from tests.lab.sessions import Command, Session, Source

pytestmark = pytest.mark.lab

MIB = 1 << 20

KILLS = 16
SESSIONS_KILLED = 6

SOURCE_SIZE = 6 * MIB
RATE = ("--rate", "40Mbit")
"""The source lasts 1.3 s, about as long as a command takes to start on a busy machine."""

RECEIVER_LIFE_S = 3.0
SENDER_LIFE_S = 4.0
"""A victim dies at a moment that is uniform in so long after its start: before data, in its middle, after DONE."""

DATA_GROUPS = "239.192.0.0/14"

GIVES_UP = ("--max-wait", "12")
"""A receiver that is started again may find that its session is over."""


@dataclasses.dataclass
class Victim:
    """A host whose receiver is killed and started again, on the same target."""

    host: Host
    target: pathlib.Path
    command: Command


@pytest.mark.timeout(300 * faults.rounds(1))
def test_receivers_killed_at_random_moments(
    commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    rng, source, kills = faults.moments(), make_random_source(SOURCE_SIZE), 0
    with Bridge(3, offloads=False) as bridge:
        targets = {host: scratch / host.name for host in bridge.receivers}
        for number in range(faults.rounds(KILLS)):
            if kills >= faults.rounds(KILLS):
                break
            for target in targets.values():  # what an earlier session left is reused, and nobody would live long enough
                target.unlink(missing_ok=True)
            session = Session(commands, tmp_path, f"kill{number}")
            kills += _session_of_kills(rng, session, bridge, source, targets)
            faults.expect_nobody_left(bridge)
        assert kills >= faults.rounds(KILLS)
        faults.expect_next_session_works(commands, tmp_path, bridge, source, targets)


def _session_of_kills(
    rng: random.Random, session: Session, bridge: Bridge, source: Source, targets: dict[Host, pathlib.Path]
) -> int:
    """Run one session whose first receiver is left alone while the others are killed again and again.

    Each victim is killed at most four times, and then left alone too. Returns how many kills hit a living process.
    """
    sender = session.send(bridge.sender, source, "--receivers", str(len(targets)), "--max-wait", "20", *RATE)
    (bystander_host, bystander_target), *others = targets.items()
    bystander = session.receive(bystander_host, bystander_target, *GIVES_UP)
    victims = [Victim(host, target, session.receive(host, target, *GIVES_UP)) for host, target in others]
    due = [
        (time.monotonic() + rng.uniform(0, RECEIVER_LIFE_S), index, left)
        for index, left in enumerate(4 for _ in victims)
    ]
    heapq.heapify(due)
    kills = 0
    while due:
        instant, index, left = heapq.heappop(due)
        faults.sleep_until(instant)
        victim = victims[index]
        if not victim.command.process.running:
            continue
        kills += 1
        victim.command.process.send_signal(signal.SIGKILL)
        victim.command.process.wait(faults.GONE_S)
        if victim.command.report_path.exists():  # it was through but for its last breath
            faults.expect_truth(None, [(victim.command, victim.target)], source)
        victim.command = session.receive(victim.host, victim.target, *GIVES_UP)
        if left > 1:
            heapq.heappush(due, (time.monotonic() + rng.uniform(0, RECEIVER_LIFE_S), index, left - 1))
    bystander.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
    for victim in victims:
        # 3: its session was over when it came back. 4: it was just ending.
        assert victim.command.process.wait(faults.ENDED_TIMEOUT_S) in {0, 3, 4}
    assert sender.process.wait(faults.ENDED_TIMEOUT_S) in {0, 4}
    ended = [(bystander, bystander_target), *((victim.command, victim.target) for victim in victims)]
    faults.expect_truth(sender, ended, source)
    return kills


@pytest.mark.timeout(300 * faults.rounds(1))
def test_senders_killed_at_random_moments(
    commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Several sessions at once, so that the receivers' 8 s of patience pass once and not once a round.

    Every other sender is started again at once, on the same image: its receiver goes on where it stood.
    """
    rng, source = faults.moments(), make_random_source(SOURCE_SIZE)
    with Bridge(2, offloads=False) as bridge:
        for number in range(faults.rounds(1)):
            orphans = []
            for index in range(SESSIONS_KILLED):
                session = Session(commands, tmp_path, f"orphan{number}-{index}")
                sender = session.send(bridge.sender, source, "--receivers", "1", *RATE)
                target = scratch / session.name
                receiver = session.receive(bridge.receivers[index % 2], target, "--max-wait", "8")
                orphans.append(
                    Orphan(session, time.monotonic() + rng.uniform(0, SENDER_LIFE_S), sender, receiver, target)
                )
            for index, orphan in enumerate(sorted(orphans, key=lambda one: one.instant)):
                faults.sleep_until(orphan.instant)
                orphan.sender.process.send_signal(signal.SIGKILL)
                assert orphan.sender.process.wait(faults.GONE_S) in {0, -signal.SIGKILL}
                if index % 2 and orphan.sender.process.wait(0):
                    orphan.sender = orphan.session.begin_send(
                        bridge.sender, source, "--receivers", "1", "--max-wait", "12", *RATE
                    )
                    orphan.returned = True
            for orphan in orphans:
                _expect_well_told(orphan, source)
            faults.expect_nobody_left(bridge)
            reused = {host: orphans[index].target for index, host in enumerate(bridge.receivers)}
            faults.expect_next_session_works(commands, tmp_path, bridge, source, reused, name=f"next{number}")


@dataclasses.dataclass
class Orphan:
    """A session whose sender dies."""

    session: Session
    instant: float
    sender: Command
    receiver: Command
    target: pathlib.Path
    returned: bool = False


def _expect_well_told(orphan: Orphan, source: Source) -> None:
    status = orphan.receiver.process.wait(2 * faults.GONE_S)
    # 3: never found it. 4: found it and lost it, and it was not back in time.
    assert status in ({0} if orphan.returned else {0, 3, 4}), orphan.receiver.process.output()
    if status == 4:
        assert "sender" in orphan.receiver.process.output()
    # 3: the receiver was through before its sender died.
    assert orphan.sender.process.wait(faults.GONE_S) in {0, 3, -signal.SIGKILL}
    reported = orphan.sender if orphan.sender.report_path.exists() else None
    faults.expect_truth(reported, [(orphan.receiver, orphan.target)], source)


@dataclasses.dataclass(frozen=True)
class Pause:
    """Who of a session stands still, for how long, and how the session may end."""

    who: str
    seconds: float
    receiver_statuses: frozenset[int]
    sender_statuses: frozenset[int]


PAUSES = (
    Pause("receiver", 3, frozenset({0}), frozenset({0})),
    Pause("sender", 3, frozenset({0}), frozenset({0})),
    # Longer than anybody waits in silence: given up, and said so, by whoever waited; or taken back, since a receiver
    # looks --max-wait longer for a sender that it lost, and a sender takes back whom it gave up while others keep it.
    Pause("receiver", 12, frozenset({0, 4}), frozenset({0, 4})),
    Pause("sender", 12, frozenset({0, 4}), frozenset({0, 4})),
)


@pytest.mark.timeout(300)
def test_a_process_that_stands_still_for_seconds(
    commands: Processes, make_random_source: Callable[[int], Source], scratch: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """All pauses at once, each in a session of its own, beside a receiver that is not paused.

    And one session more, since this takes half a minute too: a receiver whom announcements reach, and data does not, as
    behind a switch that snoops without a querier.
    """
    rng, source = faults.moments(), make_random_source(SOURCE_SIZE)
    with Bridge(3, offloads=False) as bridge:
        *hosts, deaf_host = bridge.receivers
        bridge.set_deaf(deaf_host, DATA_GROUPS)
        half_deaf = Session(commands, tmp_path, "deaf")
        deaf_sender = half_deaf.send(bridge.sender, source, "--receivers", "2", "--rate", "20Mbit")
        deaf_receivers = [
            (half_deaf.receive(host, scratch / f"deaf-{host.name}"), scratch / f"deaf-{host.name}")
            for host in (deaf_host, hosts[0])
        ]
        due: list[tuple[float, int, signal.Signals]] = []
        running = []
        for index, pause in enumerate(PAUSES):
            session = Session(commands, tmp_path, f"{pause.who}-{pause.seconds:.0f}")
            sender = session.send(bridge.sender, source, "--receivers", "2", "--rate", "20Mbit")
            targets = [scratch / f"{session.name}-{host.name}" for host in hosts]
            receivers = [session.receive(host, target, *GIVES_UP) for host, target in zip(hosts, targets, strict=True)]
            running.append((pause, sender, receivers, targets))
            sender.process.await_event("started", timeout_s=30)
            begin = time.monotonic() + rng.uniform(0, 1.5)
            due += [(begin, index, signal.SIGSTOP), (begin + pause.seconds, index, signal.SIGCONT)]
        for instant, index, number in sorted(due):
            faults.sleep_until(instant)
            pause, sender, receivers, _ = running[index]
            (sender if pause.who == "sender" else receivers[0]).process.send_signal(number)
        for pause, sender, receivers, targets in running:
            for command in receivers:
                allowed = pause.receiver_statuses if pause.who == "sender" or command is receivers[0] else {0}
                assert command.process.wait(faults.GONE_S) in allowed, (pause, command.process.output())
            assert sender.process.wait(faults.GONE_S) in pause.sender_statuses, (pause, sender.process.output())
            faults.expect_truth(sender, list(zip(receivers, targets, strict=True)), source)
        (deaf, _), (hearing, _) = deaf_receivers
        hearing.process.expect(0, timeout_s=faults.ENDED_TIMEOUT_S)
        deaf.process.expect(4, timeout_s=faults.ENDED_TIMEOUT_S)
        assert "data group" in deaf.process.output()
        deaf_sender.process.expect(4, timeout_s=faults.GONE_S)
        assert deaf_sender.states() == {hosts[0].name: "verified", deaf_host.name: "failed"}
        faults.expect_truth(deaf_sender, deaf_receivers, source)
        faults.expect_nobody_left(bridge)
        again = dict(zip(hosts, running[-1][3], strict=True))
        faults.expect_next_session_works(commands, tmp_path, bridge, source, again)
