"""The plot of ``bench send --plot``: loss against rate, one line for each receiver."""

from __future__ import annotations

import pathlib

from ghostcast.measure.plan import LOSS_FREE
from ghostcast.measure.record import Measurement
from ghostcast.plot import new_figure, save

NAMED_MAX = 10
"""Receivers that the legend names; beyond it lines are too many to tell apart."""


def draw(measurement: Measurement, path: pathlib.Path) -> None:
    """Draw loss against rate, and write it where ``path`` says."""
    from matplotlib.ticker import LogFormatter

    figure, (axes,) = new_figure(f"What this network carries: {measurement.session_name}")
    for place, listener in enumerate(measurement.listeners):
        points = [
            (step.rate * 8 / 1e6, 100 * step.loss(listener.index).share)
            for step in measurement.rate_steps
            if listener.index in step.outcomes
        ]
        if points:
            label = listener.name if place < NAMED_MAX else None
            axes.plot([rate for rate, _ in points], [loss for _, loss in points], marker=".", label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    # Linear near zero, so that loss-free rates are on the plot.
    axes.set_yscale("symlog", linthresh=100 * LOSS_FREE)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rate, Mbit/s of UDP payload")
    axes.set_ylabel("loss, %")
    if measurement.listeners:
        axes.legend()
    save(figure, path)
