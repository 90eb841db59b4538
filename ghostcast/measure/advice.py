"""What to make of a measurement: sentences about what is wrong, and the options for a clone on this network.

Pure. The redundancy comes from the model that a sender itself uses (``protocol.parity``), checked against the loss
pattern that was measured: where losses come in bursts, independent loss is too kind an assumption.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ghostcast.measure.plan import LOSS_FREE, Verdict
from ghostcast.measure.record import Listener, ListenerState, Measurement, StepResult, bits
from ghostcast.net.sockets import RECEIVE_BUFFER_SIZE
from protocol import limits, parity
from protocol.measurement import INTERLEAVES, SLICE_LOSS_UNKNOWN
from protocol.sample import CUT_MARGIN
from protocol.schedule import window_slices

SLOW_SHARE = 0.5
"""A receiver below this share of the median holds the others down."""

BURSTY = 1.5
"""Average loss run beyond which loss counts as bursty; independent loss of 10 % has 1.11."""

RUNS_TO_JUDGE = 10
HOST_SHARE = 0.5
DELAY_HIGH_US = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth knowing."""

    text: str
    remedy: str = ""
    """A command, or what to look at; empty if nothing is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Suggestion:
    """Options for ``ghostcast send`` on this network."""

    rate: int
    """Bytes per second."""
    repair_symbols: int
    symbol_size: int
    interleave: int
    slowest: str | None
    """The host that sets the rate; None if everybody carried the highest rate that was tried."""

    @property
    def options(self) -> str:
        """The options as one would type them."""
        megabits = self.rate * 8 / 1e6
        rate = f"{megabits:.0f}Mbit" if megabits >= 100 else f"{megabits:.1f}Mbit"
        return (
            f"--rate {rate} --fec {self.repair_symbols} --symbol-size {self.symbol_size} --interleave {self.interleave}"
        )

    def describe(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "rate_bits_per_s": bits(self.rate),
            "fec": self.repair_symbols,
            "symbol_size": self.symbol_size,
            "interleave": self.interleave,
            "slowest": self.slowest,
            "options": self.options,
        }


def mean_run(counts: list[int], lost: int) -> float:
    """Return how long the average loss run is, 0 without any."""
    runs = sum(counts)
    return lost / runs if runs else 0.0


def suggest(measurement: Measurement) -> Suggestion | None:
    """Return options for a clone to everybody who carries anything; None if nobody does."""
    carried = {
        listener.index: verdict.carried
        for listener in measurement.listeners
        if (verdict := measurement.verdicts.get(listener.index)) is not None and verdict.carried is not None
    }
    if not carried:
        return None
    slowest = min(carried, key=lambda index: carried[index])
    limit = carried[slowest]
    rate = int(limit * CUT_MARGIN)
    calm = [step for step in measurement.rate_steps if step.rate <= limit * 1.001 and step.outcomes]
    losses = [_pooled_loss(calm, index) for index in carried]
    losing = [loss for loss in losses if loss > parity.LOSS_NEGLIGIBLE]
    modelled = parity.surplus(limits.SOURCE_SYMBOLS_DEFAULT, len(losing), max(losing, default=0.0))
    interleave, measured = _interleave(calm, list(carried), measurement.symbol_size)
    return Suggestion(
        rate=rate,
        repair_symbols=min(max(modelled, measured), limits.REPAIR_SYMBOLS_MAX),
        symbol_size=measurement.symbol_size,
        interleave=interleave,
        slowest=None
        if measurement.verdicts[slowest].failed is None
        else next(listener.name for listener in measurement.listeners if listener.index == slowest),
    )


def _pooled_loss(steps: list[StepResult], index: int) -> float:
    """Return the share that the network lost: what a host cannot fetch in time, redundancy only makes worse."""
    losses = [step.loss(index) for step in steps if index in step.outcomes]
    expected = sum(loss.expected for loss in losses)
    return sum(loss.network for loss in losses) / expected if expected else 0.0


def _interleave(steps: list[StepResult], indices: list[int], symbol_size: int) -> tuple[int, int]:
    """Return (window slices, symbols that a slice loses with them) for the loss pattern of the fastest calm step."""
    default = window_slices(symbol_size)[0]
    for step in reversed(steps):
        heard = [index for index in indices if index in step.outcomes]
        outcomes = [step.outcomes[index] for index in heard if step.loss(index).host <= step.loss(index).network]
        needed = {
            interleave: max(outcome.slice_losses[place] for outcome in outcomes)
            for place, interleave in enumerate(INTERLEAVES)
            if outcomes and interleave >= default
        }
        known = {interleave: lost for interleave, lost in needed.items() if lost != SLICE_LOSS_UNKNOWN}
        if known:
            # One symbol more is cheaper than a window that leaves the processor's cache.
            least = min(known.values())
            chosen = min(interleave for interleave, lost in known.items() if lost <= least + 1)
            return chosen, known[chosen]
    return default, 0


def findings(measurement: Measurement) -> list[Finding]:
    """Return what a person should know, the worst first."""
    found: list[Finding] = []
    for listener in measurement.listeners:
        found += _listener_findings(measurement, listener)
    found += _size_findings(measurement)
    found += _fleet_findings(measurement)
    return found


def _listener_findings(measurement: Measurement, listener: Listener) -> list[Finding]:
    found: list[Finding] = []
    name, index = listener.name, listener.index
    if listener.state is ListenerState.SILENT:
        found.append(Finding(f"{name} stopped answering", "look at that machine, or at its cable"))
    answered = [step for step in measurement.rate_steps if index in step.outcomes]
    verdict = measurement.verdicts.get(index)
    if not answered or verdict is None:
        return found
    if not any(step.outcomes[index].received for step in measurement.steps if index in step.outcomes):
        found.append(
            Finding(
                f"{name} hears the discovery group but not one datagram of the data group: a switch or firewall "
                "filters it (IGMP snooping without a querier does)",
                "ghostcast doctor, there and here",
            )
        )
        return found
    found += _limit_findings(measurement, listener, verdict)
    noise = _pooled_loss(measurement.typical(index), index)
    if verdict.background > LOSS_FREE and noise > LOSS_FREE:
        found.append(
            Finding(
                f"{name} loses {noise:.2%} at every rate: a bad cable or port, or a radio link; repair "
                "symbols make up for it",
                f"ethtool -S IF on {name}, and the counters of its switch port",
            )
        )
    runs = [sum(column) for column in zip(*(step.outcomes[index].run_counts for step in answered), strict=True)]
    lost = sum(max(0, step.sent - step.outcomes[index].received) for step in answered)
    if sum(runs) >= RUNS_TO_JUDGE and mean_run(runs, lost) > BURSTY:
        longest = max(step.outcomes[index].run_longest for step in answered)
        found.append(
            Finding(f"{name} loses datagrams in bursts: {mean_run(runs, lost):.0f} on average, {longest} at most")
        )
    distance = max(step.outcomes[index].reorder_distance for step in answered)
    if distance > limits.REORDER_GUARD:
        found.append(
            Finding(
                f"datagrams reach {name} up to {distance} places late; beyond {limits.REORDER_GUARD} they are asked "
                "for again",
                "look for links that are bundled packet by packet",
            )
        )
    calm = measurement.typical(index)
    delay = max((step.outcomes[index].delay_us[1] for step in calm), default=0)
    if delay > DELAY_HIGH_US:
        found.append(
            Finding(f"delay to {name} varies by {delay / 1000:.0f} ms: a queue on the way, or one of the hosts is busy")
        )
    return found


def _limit_findings(measurement: Measurement, listener: Listener, verdict: Verdict) -> list[Finding]:
    """Say what ends a listener's rate: its own host, or the network."""
    found: list[Finding] = []
    name, index = listener.name, listener.index
    losses = [step.loss(index) for step in measurement.rate_steps if index in step.outcomes]
    host, network = sum(loss.host for loss in losses), sum(loss.network for loss in losses)
    if host and host > HOST_SHARE * (host + network):
        found.append(
            Finding(
                f"{name} loses datagrams in the host, not in the network ({host} of {host + network}): its process "
                "does not fetch them in time",
                "a larger receive buffer, or less other work on that machine",
            )
        )
    if 0 < listener.buffer_size < RECEIVE_BUFFER_SIZE:
        found.append(
            Finding(
                f"the kernel of {name} caps the receive buffer at {listener.buffer_size >> 10} KiB",
                f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER_SIZE} on {name}",
            )
        )
    drops = sum(step.outcomes[index].below_socket for step in measurement.steps if index in step.outcomes)
    if drops:
        found.append(
            Finding(
                f"the interface of {name} dropped {drops} packets before any socket saw them",
                f"ethtool -G IF rx MAX on {name}",
            )
        )
    if verdict.carried is None:
        found.append(Finding(f"{name} does not even carry the lowest rate that was tried"))
    return found


def _size_findings(measurement: Measurement) -> list[Finding]:
    """Say which datagram sizes came through, where that was tried."""
    found = []
    for step in measurement.steps:
        deaf = [
            listener.name
            for listener in measurement.listeners
            if listener.index in step.outcomes and not step.outcomes[listener.index].received
        ]
        if step.probe and deaf and len(deaf) < len(step.outcomes) + 1 and step.symbol_size > measurement.symbol_size:
            found.append(
                Finding(
                    f"symbols of {step.symbol_size} bytes do not reach {', '.join(sorted(deaf)[:4])}: "
                    f"the MTU on the way is smaller than the {measurement.interface_mtu} of this interface",
                    f"--symbol-size {measurement.symbol_size}, or the same MTU on every interface and switch",
                )
            )
    return found


def _fleet_findings(measurement: Measurement) -> list[Finding]:
    found = []
    carried = {
        listener.name: verdict.carried
        for listener in measurement.listeners
        if (verdict := measurement.verdicts.get(listener.index)) is not None and verdict.carried is not None
    }
    if len(carried) > 1:
        ordered = sorted(carried.values())
        median = ordered[len(ordered) // 2]
        slow = sorted(host for host, rate in carried.items() if rate < SLOW_SHARE * median)
        if slow:
            found.append(
                Finding(
                    f"{', '.join(slow[:4])} would hold all others down",
                    "mend that link, or clone to it in a session of its own",
                )
            )
    if measurement.sender_limit is not None:
        found.append(
            Finding(f"this machine cannot send faster than {measurement.sender_limit * 8 / 1e6:.0f} Mbit/s here")
        )
    if any(step.refused for step in measurement.steps):
        refused = sum(step.refused for step in measurement.steps)
        found.append(Finding(f"the kernel here refused {refused} datagrams: its queue was full"))
    return found
