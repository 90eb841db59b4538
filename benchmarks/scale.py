"""What does a clone cost as the fleet grows? The simulated protocol beside two closed forms, for 1 to 10,000 receivers.

The closed forms are expectations for independent loss, from Nonnenmacher, Biersack and Towsley, "Parity-based loss
recovery for reliable multicast transmission", ToN 6(4), 1998: of retransmitting what each receiver lost, and of the
least that any scheme with parity on demand can send. They know no feedback, no time and no loss of repairs; the
simulation has all three. Figures are counts of a deterministic run: they do not depend on the machine.

    python -m benchmarks.scale --quick                                              does it work? seconds
    python -m benchmarks.scale --json benchmarks/results/scale.json --plot benchmarks/results/scale.svg
    python -m benchmarks.scale --link 1Gbit --auto --receivers 300 3000             slower, and finding its rate
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import typer

from benchmarks.head_to_head.machine import describe_machine
from ghostcast.cli.size import parse_rate
from ghostcast.plot import check_path, new_figure, save
from ghostcast.simulation import Bernoulli, Member, Scenario, Way, simulate
from protocol import limits

RECEIVERS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
LOSSES = (0.001, 0.01, 0.05)
SIZE = 256 * limits.MIB
RATE = 1.25e9
K = limits.SOURCE_SYMBOLS_DEFAULT
CONTROL_LIMIT_PER_S = 2000


def retransmission(receivers: int, loss: float) -> float:
    """Return the expected transmissions per packet if lost packets are sent again: Σ (1 - (1 - p^i)^N)."""
    total, index = 0.0, 0
    while True:
        term = -math.expm1(receivers * math.log1p(-(loss**index))) if index else 1.0
        total += term
        index += 1
        if term < 1e-9:
            return total


def parity_on_demand(receivers: int, loss: float, k: int = K, proactive: int = 0) -> float:
    """Return the expected transmissions per packet with parity on demand: (k + h + E[max over receivers]) / k."""
    expected, extra = 0.0, 0
    while True:
        lacking = _more_than(k + proactive + extra, loss, proactive + extra)
        somebody = 1.0 if lacking >= 1 else -math.expm1(receivers * math.log1p(-lacking))
        expected += somebody
        extra += 1
        if somebody < 1e-9:
            return (k + proactive + expected) / k


def _more_than(trials: int, loss: float, most: int) -> float:
    """Return P[Bin(trials, loss) > most], summed from its own side, so that small ones are exact."""
    return math.fsum(
        math.comb(trials, lost) * loss**lost * (1 - loss) ** (trials - lost) for lost in range(most + 1, trials + 1)
    )


def scenario(
    receivers: int, loss: float, size: int, seed: int, *, link: float = RATE, auto: bool = False, shared: bool = False
) -> Scenario:
    """Return one cell: every receiver loses ``loss`` of the data and of the control messages, in both directions."""
    lossy = Way(loss=(Bernoulli(loss),), delay_ns=100_000, control_loss=loss, feedback_loss=loss)
    clean = Way(delay_ns=100_000)
    return Scenario(
        receivers=receivers,
        size=size,
        rate=None if auto else link,
        rate_start=limits.RATE_START_SHARE * link,
        rate_ceiling=link,
        uplink=Way(loss=lossy.loss, control_loss=loss) if shared else Way(),
        member=Member(link=clean if shared else lossy),
        seed=seed,
    )


def measure(parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run every cell, the small ones first, and yield its figures."""
    shared = parameters["shared"]
    for receivers in parameters["receivers"]:
        for loss in parameters["losses"]:
            started_s = time.process_time()
            result = simulate(
                scenario(
                    receivers,
                    loss,
                    parameters["size"],
                    parameters["seed"],
                    link=parameters["rate_bytes_per_s"],
                    auto=parameters["auto"],
                    shared=shared,
                )
            )
            yield {
                "receivers": receivers,
                "loss": loss,
                "verified": result.verified,
                "symbols_per_needed": round(result.overhead, 5),
                "retransmission": round(retransmission(1 if shared else receivers, loss), 5),
                "parity_on_demand": round(parity_on_demand(1 if shared else receivers, loss), 5),
                "control_peak_per_s": result.control_peak_per_s,
                "control_total": result.control_total,
                "control": {name: int(row.sum()) for name, row in result.control.items()},
                "data_last_s": round(result.data_last_s, 6),
                "data_ideal_s": round(result.ideal_s, 6),
                "confirmed_last_s": round(float(result.confirmed_s.max()), 6),
                "passes": result.passes,
                "processor_s": round(time.process_time() - started_s, 2),
            }


def draw(results: dict[str, Any], path: pathlib.Path) -> None:
    """Draw what is sent per needed symbol, and the peak of control messages, against the size of the fleet."""
    size = results["parameters"]["size"] >> 20
    gigabits = results["parameters"]["rate_bytes_per_s"] * 8 / 1e9
    pace = "--rate auto on" if results["parameters"]["auto"] else "at"
    title = f"{size} MiB {pace} {gigabits:g} Gbit/s, simulated with the real state machines"
    figure, (sent, control) = new_figure(title, panels=2)
    for place, loss in enumerate(results["parameters"]["losses"]):
        cells = [cell for cell in results["cells"] if cell["loss"] == loss]
        fleets = [cell["receivers"] for cell in cells]
        color = f"C{place}"
        sent.plot(
            fleets,
            [c["symbols_per_needed"] for c in cells],
            color=color,
            marker="o",
            label=f"ghostcast, {loss:.1%} lost",
        )
        sent.plot(fleets, [c["parity_on_demand"] for c in cells], color=color, linestyle="--", linewidth=1)
        sent.plot(fleets, [c["retransmission"] for c in cells], color=color, linestyle=":", linewidth=1)
        control.plot(fleets, [max(1, c["control_peak_per_s"]) for c in cells], color=color, marker="o")
    sent.plot([], [], color="grey", linestyle="--", linewidth=1, label="least with parity on demand (closed form)")
    sent.plot([], [], color="grey", linestyle=":", linewidth=1, label="retransmission of what was lost (closed form)")
    control.axhline(CONTROL_LIMIT_PER_S, color="grey", linewidth=1)
    control.annotate("budget", (1, CONTROL_LIMIT_PER_S * 1.1), color="grey")
    for axes in (sent, control):
        axes.set_xscale("log")
    sent.set_ylabel("symbols sent per symbol needed")
    sent.legend()
    control.set_yscale("log")
    control.set_ylabel("control messages/s at the sender,\nthe most in any 100 ms")
    control.set_xlabel("receivers")
    save(figure, path)


def _rate(text: str) -> int:
    try:
        return parse_rate(text)
    except typer.BadParameter as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="up to 10 receivers of 2 MiB")
    parser.add_argument("--receivers", type=int, nargs="+", default=list(RECEIVERS), metavar="N")
    parser.add_argument("--loss", type=float, nargs="+", default=list(LOSSES), metavar="P")
    parser.add_argument("--size", type=int, default=SIZE, metavar="BYTES")
    parser.add_argument("--link", type=_rate, default=int(RATE), metavar="RATE", help="what links carry: 1Gbit")
    parser.add_argument("--auto", action="store_true", help="the sender finds the rate, instead of sending at --link")
    parser.add_argument("--shared", action="store_true", help="one loss that hits all at once, instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args()
    if options.plot is not None:
        check_path(options.plot)
    fleets, size = options.receivers, options.size
    if options.quick:
        fleets, size = [1, 3, 10], 2 * limits.MIB
    results: dict[str, Any] = {
        "machine": describe_machine(("numpy",)),
        "parameters": {
            "receivers": fleets,
            "losses": options.loss,
            "size": size,
            "rate_bytes_per_s": float(options.link),
            "auto": options.auto,
            "shared": options.shared,
            "seed": options.seed,
        },
        "cells": [],
    }
    print("receivers   loss  sent/needed  least  retransmit  control/s  data s  ideal s")
    for cell in measure(results["parameters"]):
        results["cells"].append(cell)
        print(
            f"{cell['receivers']:>9} {cell['loss']:>6.1%} {cell['symbols_per_needed']:>12.4f} "
            f"{cell['parity_on_demand']:>6.3f} {cell['retransmission']:>11.3f} {cell['control_peak_per_s']:>10} "
            f"{cell['data_last_s']:>7.3f} {cell['data_ideal_s']:>8.3f}",
            flush=True,
        )
        # After every cell, so that a long study that is interrupted has not been for nothing.
        if options.json is not None:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot is not None:
        draw(results, options.plot)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
