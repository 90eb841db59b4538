"""What people see: tables of one cell, one line for each goal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.head_to_head.figures import CellResult, FixedCost, Spread
from benchmarks.head_to_head.profiling import Profile
from benchmarks.head_to_head.tools import OURS

_TIME_CAPTION = (
    "Median, range. Copied: from the start of the sender to the last complete copy, of the fastest receiver and of "
    "the slowest. Flushed: and all of it on the disk, "
    f"which {OURS} and udpcast wait for by themselves. Gbit/s: of the source, flushed. "
    f"× as fast: the tool's seconds / {OURS}'s, flushed, median of the rounds; above 1, {OURS} was faster."
)
_COST_CAPTION = (
    "CPU: processor seconds, user and kernel, of whole commands per GiB of the source, for the sender and a receiver; "
    "MB: most resident memory; cores: of this machine, busy with whatever; B/B: bytes that the sender's interface sent "
    "per byte of the source; B/file: per byte of the file that was sent."
)


def cell_tables(result: CellResult) -> Iterator[Table]:
    """Lay out one cell: time, then cost."""
    found, cell = result.figures, result.cell
    times = Table(title=cell.text, caption=_TIME_CAPTION, title_justify="left", caption_justify="left")
    for heading in ("tool", "fastest, s", "slowest, s", "flushed, s", "Gbit/s", "× as fast"):
        times.add_column(heading, justify="left" if heading == "tool" else "right", overflow="fold")
    costs = Table(caption=_COST_CAPTION, caption_justify="left")
    for heading in ("tool", "send CPU", "recv CPU", "send MB", "recv MB", "cores", "B/B", "B/file"):
        costs.add_column(heading, justify="left" if heading == "tool" else "right", overflow="fold")
    for name in cell.tools:
        if name not in found:
            times.add_row(name, "failed")
            continue
        figures = found[name]
        count = figures["copied_seconds"].n
        label = name if count == cell.rounds else f"{name} ({count} of {cell.rounds} runs)"
        durations = ("first_copy_seconds", "copied_seconds", "durable_seconds", "image_gbit_per_s")
        speedup = result.speedups.get(name)
        times.add_row(
            label,
            *(_shown(figures[figure]) for figure in durations),
            _shown(speedup["durable_seconds"]) if speedup else "",
        )
        costs.add_row(
            label,
            _shown(figures["sender_cpu_seconds_per_gib"]),
            _shown(figures["receiver_cpu_seconds_per_gib"]),
            f"{figures['sender_memory_bytes'].median / 1e6:.0f}",
            f"{figures['receiver_memory_bytes'].median / 1e6:.0f}",
            f"{figures['busy_cores'].median:.1f}",
            f"{figures['wire_per_image_byte'].median:.3f}",
            f"{figures['wire_per_sent_byte'].median:.3f}",
        )
    if result.ceiling:
        share = f"{result.share_of_ceiling.median:.0%} of it" if result.share_of_ceiling else ""
        times.add_row("raw loop, no disk", "", "", "", _shown(result.ceiling), share, style="dim")
    yield times
    yield costs
    if result.profile:
        yield _stage_table(result.profile)


def _stage_table(profile: Profile) -> Table:
    """Lay out the stages of the sender and of the receiver that needed most, the dearest first."""
    table = Table(
        title=f"Where {OURS}'s time went",
        caption="One more run, all threads of a process together; of the receivers, the one whose stages took most. "
        "GB/s: bytes per second of processor time.",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("side", "stage", "calls", "seconds", "CPU s", "MB", "GB/s"):
        table.add_column(heading, justify="left" if heading in ("side", "stage") else "right", overflow="fold")
    receiver = max(profile.receivers, key=lambda stages: sum(stage.processor_seconds for stage in stages.values()))
    for side, stages in (("send", profile.sender), ("receive", receiver)):
        for name, stage in sorted(stages.items(), key=lambda item: -item[1].processor_seconds):
            pace = stage.gb_per_processor_second
            table.add_row(
                side,
                name,
                str(stage.calls),
                _number(stage.seconds),
                _number(stage.processor_seconds),
                f"{stage.bytes / 1e6:.0f}" if stage.bytes else "",
                f"{pace:.2f}" if pace else "",
            )
    return table


def fixed_cost_table(costs: Sequence[FixedCost], help_seconds: Spread | None) -> Table:
    """Lay out what sessions cost besides their data."""
    helped = f" {OURS} --help: {help_seconds.median:.2f} s." if help_seconds else ""
    table = Table(
        title="Sessions with receivers already waiting",
        caption="Whole: the sender's command, and until all is flushed. Not data: of that, what remains when its bytes "
        "are counted at the rate at which a larger source moved what it has more; the climb to that rate is in it. "
        "Before and after: the first and the last hundredth of what the sender's interface sent." + helped,
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("network", "tool", "MB", "whole, s", "not data, s", "before data, s", "after data, s"):
        table.add_column(heading, justify="left" if heading in ("network", "tool") else "right", overflow="fold")
    for cost in costs:
        table.add_row(
            cost.network,
            cost.tool,
            f"{cost.size / 1e6:g}",
            _shown(cost.whole_seconds),
            f"{cost.fixed_seconds:.2f}",
            _shown(cost.before_data_seconds),
            _shown(cost.after_data_seconds),
        )
    return table


def _shown(spread: Spread) -> str:
    """Return the median, and below it the range, so that tables fit a narrow terminal."""
    spanned = f"\n{_number(spread.minimum)}–{_number(spread.maximum)}" if spread.n > 1 else ""
    return _number(spread.median) + spanned


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
