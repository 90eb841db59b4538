"""What a measurement found: its steps, its listeners, and where each lost datagram was lost.

Knows numbers; must not know sockets, threads or how anything is shown.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from ghostcast.measure.plan import Share, Trial, Verdict, verdicts_of
from protocol.measurement import Outcome


class ListenerState(enum.Enum):
    """How a listener stands, or ended."""

    LISTENING = "listening"
    SILENT = "silent"
    """It no longer answers."""
    LEFT = "left"


@dataclasses.dataclass(slots=True)
class Listener:
    """One machine that takes part."""

    index: int
    receiver_id: bytes
    host: str
    name: str
    """The host's name, made unique where two have the same."""
    address: tuple[str, int]
    link_rate: int
    mtu: int
    buffer_size: int
    state: ListenerState = ListenerState.LISTENING
    unanswered: int = 0
    """Steps in a row that it said nothing about."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """The lost datagrams of one step at one listener, by where they were lost."""

    expected: int
    """Datagrams that the measuring side's kernel took."""
    received: int
    sender: int
    """Never left: the measuring side's kernel refused them."""
    network: int
    host: int
    """Arrived, and were dropped because the listener's process did not fetch them in time."""

    @property
    def share(self) -> float:
        """Loss in the network and in the host, in [0, 1]."""
        return (self.network + self.host) / self.expected if self.expected else 0.0


@dataclasses.dataclass(slots=True)
class StepResult:
    """One step: so many datagrams at such a rate, and what everybody got of them."""

    step: int
    probe: bool
    """Made to see whether datagrams of this size come through, not at which rate."""
    symbol_size: int
    wanted: float
    """Bytes per second."""
    rate: float
    """Bytes per second of UDP payload that really went out."""
    seconds: float
    sent: int
    """Numbers used; ``refused`` of them never left."""
    refused: int
    outcomes: dict[int, Outcome] = dataclasses.field(default_factory=dict)

    def loss(self, index: int) -> Loss:
        """Return where a listener's datagrams were lost; it must have answered."""
        outcome = self.outcomes[index]
        lost = max(0, self.sent - outcome.received)
        sender = min(self.refused, lost)
        host = min(outcome.dropped_host, lost - sender)
        return Loss(self.sent - sender, outcome.received, sender, lost - sender - host, host)

    @property
    def trial(self) -> Trial:
        """Return the step as the plan sees it."""
        shares = {}
        for index, outcome in self.outcomes.items():
            loss = self.loss(index)
            shares[index] = Share(loss.expected, loss.network + loss.host, sum(outcome.run_counts))
        return Trial(self.wanted, self.rate, shares)


@dataclasses.dataclass(slots=True)
class Measurement:
    """Everything that was found."""

    session_name: str
    symbol_size: int
    interface_mtu: int
    steps: list[StepResult] = dataclasses.field(default_factory=list)
    listeners: list[Listener] = dataclasses.field(default_factory=list)
    sender_limit: float | None = None
    """Bytes per second beyond which this machine could not send; None if that never showed."""

    @property
    def rate_steps(self) -> list[StepResult]:
        """The steps that measured a rate, ascending."""
        return sorted((step for step in self.steps if not step.probe), key=lambda step: step.rate)

    @property
    def verdicts(self) -> dict[int, Verdict]:
        """What each listener carries, by its index."""
        return verdicts_of([step.trial for step in self.rate_steps])

    def typical(self, index: int) -> list[StepResult]:
        """Return the steps at rates that a listener carries; all of its steps if it carries none."""
        answered = [step for step in self.rate_steps if index in step.outcomes]
        verdict = self.verdicts.get(index)
        limit = verdict.carried if verdict is not None and verdict.carried is not None else float("inf")
        return [step for step in answered if step.rate <= limit * 1.001]


def bits(rate_bytes_per_s: float | None) -> int | None:
    """Return a rate in bits per second, as reports say it."""
    return None if rate_bytes_per_s is None else round(rate_bytes_per_s * 8)


def describe_step(result: StepResult, listeners: list[Listener]) -> dict[str, Any]:
    """Return what a report says of one step."""
    return {
        "step": result.step,
        "probe": result.probe,
        "symbol_size": result.symbol_size,
        "wanted_bits_per_s": bits(result.wanted),
        "rate_bits_per_s": bits(result.rate),
        "seconds": round(result.seconds, 3),
        "sent": result.sent,
        "refused": result.refused,
        "receivers": {
            listener.name: describe_outcome(result, listener.index)
            for listener in listeners
            if listener.index in result.outcomes
        },
    }


def describe_outcome(result: StepResult, index: int) -> dict[str, Any]:
    """Return what a report says of one step at one listener."""
    outcome, loss = result.outcomes[index], result.loss(index)
    return {
        "received": outcome.received,
        "loss": round(loss.share, 7),
        "lost_network": loss.network,
        "lost_host": loss.host,
        "lost_sender": loss.sender,
        "duplicate": outcome.duplicate,
        "reordered": outcome.reordered,
        "reorder_distance": outcome.reorder_distance,
        "runs": list(outcome.run_counts),
        "run_longest": outcome.run_longest,
        "delay_us": dict(zip(("median", "p99", "max"), outcome.delay_us, strict=True)),
        "interface_drops": outcome.below_socket,
    }


def describe_listener(measurement: Measurement, listener: Listener) -> dict[str, Any]:
    """Return what a report says of one listener, over all steps."""
    verdict = measurement.verdicts.get(listener.index)
    answered = [step for step in measurement.rate_steps if listener.index in step.outcomes]
    losses = [step.loss(listener.index) for step in answered]
    typical = [step.outcomes[listener.index] for step in measurement.typical(listener.index)]
    return {
        "name": listener.name,
        "host": listener.host,
        "address": listener.address[0],
        "id": listener.receiver_id.hex(),
        "state": listener.state.value,
        "mtu": listener.mtu,
        "link_bits_per_s": bits(listener.link_rate),
        "receive_buffer": listener.buffer_size,
        "loss_free_bits_per_s": bits(verdict.loss_free) if verdict else None,
        "carried_bits_per_s": bits(verdict.carried) if verdict else None,
        "failed_bits_per_s": bits(verdict.failed) if verdict else None,
        "background_loss": round(verdict.background, 7) if verdict else None,
        "lost_network": sum(loss.network for loss in losses),
        "lost_host": sum(loss.host for loss in losses),
        "reordered": sum(step.outcomes[listener.index].reordered for step in answered),
        "runs": [sum(column) for column in zip(*(outcome.run_counts for outcome in typical), strict=True)],
        "jitter_us": max((outcome.delay_us[1] for outcome in typical), default=None),
    }
