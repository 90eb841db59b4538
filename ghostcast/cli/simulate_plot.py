"""The plot of ``simulate --plot``: how many receivers were how far when, and what was sent meanwhile."""

from __future__ import annotations

import pathlib

import numpy as np

from ghostcast.plot import new_figure, save
from ghostcast.simulation.result import INTERVAL_S, Result


def draw(result: Result, path: pathlib.Path) -> None:
    """Draw the completion curve, the rate, and the control messages over time, and write them where ``path`` says."""
    count = result.scenario.receivers
    figure, (curve, rate, control) = new_figure(f"{count} receivers, seed {result.scenario.seed}", panels=3)
    for values, label in (
        (result.data_s, "all symbols received"),
        (result.durable_s, "written and flushed"),
        (result.confirmed_s, "known to the sender"),
    ):
        known = np.sort(values[~np.isnan(values)])
        if len(known):
            x = np.concatenate(([0.0], known, [max(known[-1], result.durable_last_s)]))
            y = np.concatenate(([0.0], np.arange(1, len(known) + 1), [len(known)])) * 100 / count
            curve.step(x, y, where="post", label=label)
    curve.set_ylabel("receivers, %")
    curve.set_ylim(0, 103)
    curve.legend(loc="lower right")
    size = result.scenario.symbol_size + 32
    seconds = np.arange(len(result.sent)) * INTERVAL_S - result.joining_s
    rate.step(seconds, result.sent * size * 8 / INTERVAL_S / 1e9, where="post", label="sent")
    paced = np.where(result.rate > 0, result.rate, np.nan)
    rate.step(seconds, paced * 8 / 1e9, where="post", label="pace", linestyle="--")
    rate.set_ylabel("data, Gbit/s")
    rate.set_ylim(bottom=0)
    rate.legend(loc="upper right")
    control.step(seconds, result.control_per_interval / INTERVAL_S, where="post")
    control.set_ylabel("control messages/s at the sender")
    control.set_xlabel("seconds since the sender began to send")
    control.set_ylim(bottom=0)
    figure.align_ylabels()
    save(figure, path)
