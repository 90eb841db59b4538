"""One real sender and any number of real receivers, joined by a lossy network, driven as the engines drive them.

Whether a copy is exact is judged by comparing bytes, not by what the machines say of it.
"""

from __future__ import annotations

from collections.abc import Callable

from ghostcast.simulation.clock import Clock
from protocol import messages
from protocol.fleet import PeerState
from protocol.receiver_events import Outcome
from protocol.sender_events import StartRule
from tests.simulation.image import Image, make_image
from tests.simulation.network import PERFECT, SECOND, Faults, Network
from tests.simulation.receiver_node import ReceiverNode
from tests.simulation.sender_node import SenderNode

DESCRIBED_MAX = 12
"""Receivers whose state is in a failure's message."""


class World:
    """A clock, a network, one sender unless told otherwise, and receivers."""

    def __init__(self, seed: int, image: Image | None = None, **sender: object) -> None:
        self.seed = seed
        self.clock = Clock()
        self.network = Network(self.clock, seed)
        self.image = make_image(seed) if image is None else image
        options: dict[str, object] = {"start": StartRule(receivers=1)} | sender
        self.sender = SenderNode(self.network, self.image, **options)  # type: ignore[arg-type]
        self.receivers: list[ReceiverNode] = []

    def receiver(self, faults: Faults = PERFECT, **options: object) -> ReceiverNode:
        """Add one receiver; hosts are numbered."""
        options = {"host": f"r{len(self.receivers) + 1}"} | options
        node = ReceiverNode(self.network, faults=faults, **options)  # type: ignore[arg-type]
        self.receivers.append(node)
        return node

    def run(self, limit_s: float = 120.0) -> None:
        """Run until everybody who is alive has ended; the seed and everybody's state are in what is raised."""
        try:
            self.clock.run(
                lambda: self.sender.over and all(r.over or r.dead or r.session is None for r in self.receivers),
                int(limit_s * SECOND),
            )
        except Exception as error:
            raise type(error)(f"{error}\n{self.describe()}") from error

    def run_until(self, over: Callable[[], bool], limit_s: float = 120.0) -> None:
        """Run until something is the case."""
        try:
            self.clock.run(over, int(limit_s * SECOND))
        except Exception as error:
            raise type(error)(f"{error}\n{self.describe()}") from error

    def describe(self) -> str:
        """Return where everybody stands, for a failure's message."""
        session = self.sender.session
        lines = [
            f"seed {self.seed}, {self.clock.now / SECOND:.3f} s",
            f"sender {session.state.name} ended={session.ended} sequence={session.sequence} pass={session.pass_count}"
            f" remaining={session.remaining_symbols} {session.drops}",
            f"    peers={[peer.state.value for peer in session.peers[:DESCRIBED_MAX]]}",
        ]
        for node in self.receivers[:DESCRIBED_MAX]:
            machine = node.session
            line = f"{node.host}.{node.incarnation} alive={node.alive} outcomes={node.outcomes} {node.faults}"
            if machine is not None:
                missing = {o: machine.reception.assembly(o).missing_count for o in node.objects}
                line += f"\n    {machine.state.name} {machine.outcome_text!r} missing={missing}"
                line += f" {machine.reception.counters} {machine.drops}"
            lines.append(line)
        return "\n".join(lines)

    # --- the truth ------------------------------------------------------------------------------------------------

    def assert_safe(self) -> None:
        """Nobody, on either side, calls a copy verified that is not exact; nothing wrong is on any disk.

        A peer whose host nobody has was made up by a damaged JOIN.
        """
        truth = self.image.transferred()
        exact = {node.host: node.disk == truth for node in self.receivers}
        for node in self.receivers:
            for chunk, data in node.disk.items():
                good = data == self.image.frame(chunk) or node.found_there.get(chunk) == data
                assert good, f"chunk {chunk} on {node.host} is wrong\n{self.describe()}"
            if Outcome.VERIFIED in node.outcomes:
                assert exact[node.host], f"{node.host} says verified and is not\n{self.describe()}"
        for peer in self.sender.session.peers:
            if peer.state is PeerState.VERIFIED:
                assert exact.get(peer.host, True), (
                    f"the sender calls {peer.host} verified, and it is not\n{self.describe()}"
                )

    def assert_no_survivor_failed(self) -> None:
        """Nobody who was alive to the end failed: verified, or too late for a session that was over."""
        self.assert_safe()
        for node in self.receivers:
            if node.alive and node.session is not None:
                assert node.outcomes[0] in (Outcome.VERIFIED, Outcome.SENDER_GONE), self.describe()
        for peer in self.sender.session.peers:
            if any(node.host == peer.host and node.outcomes == [Outcome.VERIFIED] for node in self.receivers):
                assert peer.state is PeerState.VERIFIED, self.describe()
        served = any(Outcome.VERIFIED in node.outcomes for node in self.receivers)
        # Who loses one control message of three may not get a word in for as long as silence is borne.
        assert served or all(peer.state is PeerState.VANISHED for peer in self.sender.session.peers), self.describe()

    def assert_all_verified(self) -> None:
        """Every receiver that is alive has an exact copy, and both sides say so."""
        self.assert_safe()
        for node in self.receivers:
            if node.alive:
                assert node.outcomes == [Outcome.VERIFIED], self.describe()
        alive = {node.host for node in self.receivers if node.alive}
        for peer in self.sender.session.peers:
            if peer.host in alive:
                assert peer.state is PeerState.VERIFIED, self.describe()
        assert self.sender.session.ended is messages.EndReason.COMPLETE
