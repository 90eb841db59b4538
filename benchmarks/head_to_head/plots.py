"""The plot beside the results: throughput, or, on shaped links, the flat curve."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.head_to_head.figures import CellResult, FixedCost, Spread, fixed_costs
from ghostcast import plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(results: Sequence[CellResult], path: pathlib.Path) -> None:
    """Write the plot that suits the cells: what sessions cost, the flat curve, or throughput."""
    if costs := fixed_costs(results):
        _draw_sessions(costs, path)
        return
    shaped = [result for result in results if result.cell.rate_mbit]
    if len({result.cell.receivers for result in shaped}) > 1:
        _draw_flat(shaped, path)
    else:
        _draw_throughput(results, path)


def _draw_flat(results: Sequence[CellResult], path: pathlib.Path) -> None:
    cell = results[0].cell
    title = f"{cell.size / 1e6:g} MB on links of {cell.rate_mbit} Mbit/s, {cell.loss:.1%} independent loss"
    figure, (times, wire) = plot.new_figure(title, 2)
    for axes, name, label in (
        (times, "durable_seconds", "seconds until all have it on disk"),
        (wire, "wire_per_sent_byte", "bytes on the wire / byte of the file"),
    ):
        for tool in _tools(results):
            points = [
                (result.cell.receivers, result.figures[tool][name]) for result in results if tool in result.figures
            ]
            counts = [count for count, _ in points]
            spreads = [spread for _, spread in points]
            axes.errorbar(counts, [spread.median for spread in spreads], _error_bars(spreads), label=tool, marker="o")
        counts = sorted({result.cell.receivers for result in results})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("receivers")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0 if axes is times else 1)
        axes.legend()
    plot.save(figure, path)


def _draw_sessions(costs: Sequence[FixedCost], path: pathlib.Path) -> None:
    """One panel a network, one bar a tool: before the data, the data, after it; a mark at what is not data."""
    networks = list(dict.fromkeys(cost.network for cost in costs))
    figure, panels = plot.new_figure(f"{costs[0].size / 1e6:g} MB to receivers that wait", len(networks))
    for axes, network in zip(panels, networks, strict=True):
        own = [cost for cost in costs if cost.network == network]
        tools = [cost.tool for cost in own]
        before = [cost.before_data_seconds.median for cost in own]
        after = [cost.after_data_seconds.median for cost in own]
        whole = [cost.whole_seconds.median for cost in own]
        data = [total - first - last for total, first, last in zip(whole, before, after, strict=True)]
        data_ends = [first + second for first, second in zip(before, data, strict=True)]
        axes.barh(tools, before, label="before the data")
        axes.barh(tools, data, left=before, label="data")
        axes.barh(tools, after, left=data_ends, label="after the data")
        axes.plot([cost.fixed_seconds for cost in own], tools, "kd", label="not data, by two sizes")
        axes.invert_yaxis()
        axes.set_title(network, fontsize=10)
        axes.set_xlabel("seconds, median")
        axes.legend(fontsize=8)
    plot.save(figure, path)


def _draw_throughput(results: Sequence[CellResult], path: pathlib.Path) -> None:
    networks = list(dict.fromkeys(result.cell.network for result in results))
    figure, panels = plot.new_figure("Gbit/s of the source, until all have it on disk", len(networks))
    for axes, network in zip(panels, networks, strict=True):
        _draw_bars(axes, network, [result for result in results if result.cell.network == network])
    plot.save(figure, path)


def _draw_bars(axes: Axes, network: str, results: Sequence[CellResult]) -> None:
    """One group of bars a cell, one bar a tool; the raw loop, if it is not far above them, as a line over its group."""
    tools = _tools(results)
    width = 0.8 / len(tools) if tools else 0.8
    for number, tool in enumerate(tools):
        measured = [(group, result.figures[tool]) for group, result in enumerate(results) if tool in result.figures]
        spreads = [figures["image_gbit_per_s"] for _, figures in measured]
        axes.bar(
            [group - 0.4 + (number + 0.5) * width for group, _ in measured],
            [spread.median for spread in spreads],
            width,
            yerr=_error_bars(spreads),
            label=tool,
            capsize=2,
        )
    for group, result in enumerate(results):
        if result.ceiling:
            text = f"raw loop {result.ceiling.median:.3g}"
            axes.annotate(text, (group, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7)
    axes.set_title(network, fontsize=10, pad=14)
    axes.set_xticks(range(len(results)), [_label(result) for result in results], fontsize=8)
    axes.set_ylabel("Gbit/s")
    axes.legend(fontsize=8)


def _label(result: CellResult) -> str:
    cell = result.cell
    mtu = "" if cell.mtu == 1500 else f", MTU {cell.mtu}"
    return f"{cell.content}{mtu}\n{cell.size / 1e6:g} MB, loss {cell.loss:.1%}"


def _tools(results: Sequence[CellResult]) -> list[str]:
    return list(dict.fromkeys(tool for result in results for tool in result.figures))


def _error_bars(spreads: Sequence[Spread]) -> list[list[float]]:
    return [
        [spread.median - spread.minimum for spread in spreads],
        [spread.maximum - spread.median for spread in spreads],
    ]
