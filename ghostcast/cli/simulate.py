"""``ghostcast simulate``: how long would it take, how much would it send, who would lag? No network, no disk, no root.

The machines that ``send`` and ``receive`` run, driven by a virtual clock. Everything heavy is imported where it is
used, so that ``--help`` comes at once.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghostcast.cli import options
from ghostcast.cli.size import format_size, parse_rate, parse_share, parse_size
from protocol import limits
from protocol.errors import UsageError

if TYPE_CHECKING:
    from ghostcast.simulation import Member, Scenario

EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast simulate --receivers 2000 --loss 1% --size 8GiB --rate 1Gbit\n"
    "  ghostcast simulate golden.img.zst --receivers 400 --disk-rate 150MB/s\n"
    "  ghostcast simulate --receivers 500 --loss 0.5% --burst 20 --plot plan.svg\n"
    "  ghostcast simulate --receivers 100 --late-join 20@30s --slow-disks 3@40MB/s\n\n"
    "Nothing is sent and nothing written but the plot. The same options give the same answer, on every machine; "
    "another --seed shows how much chance there is in it. What is not simulated: processors and buses of the hosts, "
    "and other traffic."
)

RECEIVERS_MAX = limits.RECEIVERS_MAX
SECONDS_MAX = 1e6
SYMBOL_SIZES = {1500: 1440, 9000: 8928}
"""MTU → symbol size, as ``send`` chooses it."""

_GROUP = re.compile(r"\s*(?:(\d{1,6})|(\d{1,3}(?:\.\d{1,3})?)%)\s*@\s*(\S+)\s*")


def parse_fec(text: str) -> str:
    """Check ``auto`` or a number of repair symbols per slice, and return it as it is."""
    if text != "auto" and not (text.isdecimal() and int(text) <= limits.REPAIR_SYMBOLS_MAX):
        raise typer.BadParameter(f"{text!r} is neither auto nor a number from 0 to {limits.REPAIR_SYMBOLS_MAX}")
    return text


def parse_pace(text: str) -> str:
    """Check ``auto`` or a rate, and return it as it is."""
    if text != "auto":
        parse_rate(text)
    return text


def parse_instant(text: str) -> float:
    """Return the seconds that ``30s``, ``500ms``, ``2min`` or ``30`` mean."""
    match = re.fullmatch(r"(\d{1,7}(?:\.\d{1,6})?)(ms|s|min|)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time; write 30s, 500ms or 2min")
    seconds = float(match[1]) * {"ms": 1e-3, "s": 1.0, "min": 60.0, "": 1.0}[match[2]]
    if seconds > SECONDS_MAX:
        raise typer.BadParameter(f"{text!r} is more than {SECONDS_MAX:g} s")
    return seconds


def split_group(text: str) -> tuple[str, str]:
    """Return who and what ``N@VALUE`` or ``P%@VALUE`` names: ``("20", "30s")``, ``("5%", "40MB/s")``."""
    match = _GROUP.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no group of receivers; write how many and what: 20@30s, or 5%@40MB/s")
    return (match[1] or f"{match[2]}%"), match[3]


def parse_when(text: str) -> str:
    """Check ``N@TIME``, and return it as it is."""
    parse_instant(split_group(text)[1])
    return text


def parse_slow(text: str) -> str:
    """Check ``N@RATE``, and return it as it is."""
    parse_rate(split_group(text)[1])
    return text


def simulate(
    image: Annotated[
        Path | None,
        typer.Argument(metavar="[IMAGE]", help="Take sizes and zero chunks from this image.", show_default=False),
    ] = None,
    receivers: Annotated[
        int, typer.Option("--receivers", metavar="N", min=1, max=RECEIVERS_MAX, help="How many.")
    ] = 100,
    size: Annotated[
        int,
        typer.Option(
            "--size", metavar="SIZE", parser=parse_size, help="Raw bytes, without IMAGE.", show_default="1GiB"
        ),
    ] = limits.GIB,
    ratio: Annotated[
        float, typer.Option("--ratio", metavar="X", min=1.0, max=1000.0, help="Compression ratio, without IMAGE.")
    ] = 1.0,
    rate: Annotated[
        str, typer.Option("--rate", metavar="R|auto", parser=parse_pace, help="As of `ghostcast send`.")
    ] = "1Gbit",
    link: Annotated[
        str | None,
        typer.Option(
            "--link", metavar="R", help="What the sender's link carries.", show_default="--rate, or 10Gbit with auto"
        ),
    ] = None,
    loss: Annotated[
        float,
        typer.Option("--loss", metavar="P", parser=parse_share, help="Lost by each receiver.", show_default="0"),
    ] = 0.0,
    burst: Annotated[
        float,
        typer.Option("--burst", metavar="L", min=1.0, max=1e6, help="Mean datagrams lost in a row (Gilbert-Elliott)."),
    ] = 1.0,
    shared_loss: Annotated[
        float,
        typer.Option("--shared-loss", metavar="P", parser=parse_share, help="Lost by all at once.", show_default="0"),
    ] = 0.0,
    feedback_loss: Annotated[
        float | None,
        typer.Option(
            "--feedback-loss", metavar="P", parser=parse_share, help="Lost towards the sender.", show_default="--loss"
        ),
    ] = None,
    delay: Annotated[
        float, typer.Option("--delay", metavar="MS", min=0.0, max=10_000.0, help="One way, milliseconds.")
    ] = 0.1,
    disk_rate: Annotated[
        str | None,
        typer.Option("--disk-rate", metavar="R", help="What each disk writes: 150MB/s.", show_default="no limit"),
    ] = None,
    slow_disks: Annotated[
        str | None,
        typer.Option("--slow-disks", metavar="N@R", parser=parse_slow, help="Some with other disks: 3@40MB/s."),
    ] = None,
    slow_links: Annotated[
        str | None,
        typer.Option("--slow-links", metavar="N@R", parser=parse_slow, help="Some behind slower ports: 2@100Mbit."),
    ] = None,
    late_join: Annotated[
        str | None,
        typer.Option(
            "--late-join", metavar="N@TIME", parser=parse_when, help="Some switched on later: 20@30s, 5%@1min."
        ),
    ] = None,
    die: Annotated[
        str | None, typer.Option("--die", metavar="N@TIME", parser=parse_when, help="Some switched off: 1@10s.")
    ] = None,
    fec: Annotated[
        str, typer.Option("--fec", metavar="H|auto", parser=parse_fec, help="Repair symbols per slice sent unasked.")
    ] = "auto",
    interleave: Annotated[
        int | None,
        typer.Option(
            "--interleave",
            metavar="D",
            min=1,
            max=limits.WINDOW_SLICES_MAX,
            help="Slices in a window.",
            show_default="as send has it",
        ),
    ] = None,
    mtu: Annotated[int, typer.Option("--mtu", help="1500 or 9000.")] = 1500,
    seed: Annotated[int, typer.Option("--seed", min=0, max=(1 << 63) - 1, help="Of everything random.")] = 1,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw it: FILE.png or FILE.svg.", show_default=False),
    ] = None,
    json_lines: options.JsonLines = False,
) -> None:
    """Ask how a clone would go: how long, how much traffic, how many control messages, who lags.

    Runs the protocol's own code with any number of receivers on a virtual clock, without network, disk or root.
    """
    from ghostcast.cli import image as image_command
    from ghostcast.cli import simulate_view

    image_command.end_tidily()
    if plot is not None:
        from ghostcast import plot as plots

        plots.check_path(plot)
    if mtu not in SYMBOL_SIZES:
        raise UsageError(f"--mtu is 1500 or 9000, not {mtu}")
    scenario = _scenario(
        _Wishes(
            image, receivers, size, ratio, rate, link, loss, burst, shared_loss, feedback_loss, delay, disk_rate,
            slow_disks, slow_links, late_join, die, fec, interleave, mtu, seed,
        )
    )  # fmt: skip
    _check_memory(scenario)
    view = simulate_view.choose_view(scenario, json_lines)
    from ghostcast.simulation import InvariantError

    try:
        result = view.run()
    except InvariantError as error:
        # The scenario itself, which follows in the message, names every receiver: these options say the same.
        told = str(error).partition("\nreplay:")[0]
        raise InvariantError(f"{told}\nthe same options with --seed {seed} show it again") from error
    if plot is not None:
        from ghostcast.cli import simulate_plot

        simulate_plot.draw(result, plot)
    view.show(result)


@dataclasses.dataclass(frozen=True, slots=True)
class _Wishes:
    """The options, as they were given."""

    image: Path | None
    receivers: int
    size: int
    ratio: float
    rate: str
    link: str | None
    loss: float
    burst: float
    shared_loss: float
    feedback_loss: float | None
    delay: float
    disk_rate: str | None
    slow_disks: str | None
    slow_links: str | None
    late_join: str | None
    die: str | None
    fec: str
    interleave: int | None
    mtu: int
    seed: int


def _scenario(wishes: _Wishes) -> Scenario:
    """Return the scenario that the options describe.

    Raises:
        UsageError: they contradict one another.
    """
    from ghostcast.simulation import Bernoulli, Disk, GilbertElliott, Member, Scenario, Way

    def losses(share: float, burst: float = 1.0) -> tuple[Bernoulli | GilbertElliott, ...]:
        if not share:
            return ()
        return (GilbertElliott(share, burst),) if burst > 1 else (Bernoulli(share),)

    if wishes.burst > 1 and not (wishes.loss or wishes.shared_loss):
        raise UsageError("--burst says how losses come, not how many: give --loss or --shared-loss as well")
    fixed = None if wishes.rate == "auto" else float(parse_rate(wishes.rate))
    link = float(parse_rate(wishes.link)) if wishes.link else fixed or float(parse_rate("10Gbit"))
    if fixed is not None and fixed > link:
        raise UsageError(f"--rate {wishes.rate} is more than --link {wishes.link} carries")
    way = Way(
        loss=losses(wishes.loss, wishes.burst),
        delay_ns=int(wishes.delay * limits.MILLISECOND_NS),
        control_loss=wishes.loss,
        feedback_loss=wishes.loss if wishes.feedback_loss is None else wishes.feedback_loss,
    )
    disk = Disk(rate_bytes_per_s=float(parse_rate(wishes.disk_rate)) if wishes.disk_rate else None)
    member = Member(link=way, disk=disk)
    manifest = None
    if wishes.image is not None:
        from ghostcast.image.reader import ImageFile

        with ImageFile.open(wishes.image) as opened:
            manifest = opened.manifest
    scenario = Scenario(
        receivers=wishes.receivers,
        size=wishes.size,
        stored_share=1 / wishes.ratio,
        manifest=manifest,
        rate=fixed,
        rate_ceiling=link,
        rate_start=limits.RATE_START_SHARE * link,
        repair_symbols=None if wishes.fec == "auto" else int(wishes.fec),
        window_slices=wishes.interleave,
        symbol_size=SYMBOL_SIZES[wishes.mtu],
        uplink=Way(loss=losses(wishes.shared_loss, wishes.burst), control_loss=wishes.shared_loss),
        member=member,
        exceptions=_exceptions(wishes, member),
        seed=wishes.seed,
    )
    if scenario.expected > wishes.receivers:
        raise UsageError("somebody must be there at the beginning: --late-join names every receiver")
    return scenario


def _exceptions(wishes: _Wishes, member: Member) -> dict[int, Member]:
    """Return the receivers that are not like the others. Groups are taken from the end, and may overlap."""
    from ghostcast.simulation import Queue

    found: dict[int, Member] = {}

    def change(option: str, text: str, **changes: object) -> None:
        who = split_group(text)[0]
        count = round(float(who[:-1]) / 100 * wishes.receivers) if who.endswith("%") else int(who)
        if count > wishes.receivers:
            raise UsageError(f"{option} {text} names {count} of {wishes.receivers} receivers")
        for index in range(wishes.receivers - count, wishes.receivers):
            found[index] = dataclasses.replace(found.get(index, member), **changes)  # type: ignore[arg-type]

    if wishes.slow_disks:
        rate = float(parse_rate(split_group(wishes.slow_disks)[1]))
        change("--slow-disks", wishes.slow_disks, disk=dataclasses.replace(member.disk, rate_bytes_per_s=rate))
    if wishes.slow_links:
        queue = Queue(float(parse_rate(split_group(wishes.slow_links)[1])))
        change("--slow-links", wishes.slow_links, link=dataclasses.replace(member.link, queue=queue))
    if wishes.late_join:
        joins_s = parse_instant(split_group(wishes.late_join)[1])
        change("--late-join", wishes.late_join, join_ns=int(joins_s * limits.SECOND_NS))
        if wishes.receivers == len(found) and all(one.join_ns for one in found.values()) and joins_s > 0:
            raise UsageError("somebody must be there at the beginning: --late-join names every receiver")
    if wishes.die:
        change("--die", wishes.die, die_ns=int(parse_instant(split_group(wishes.die)[1]) * limits.SECOND_NS))
    return found


RECEIVER_BASE, SLOT_BYTES, SLICE_BYTES, CHUNK_BYTES = 30_000, 70, 34, 30
"""What one simulated receiver takes (measured: 130 KB for 256 MB)."""


def _check_memory(scenario: Scenario) -> None:
    """Refuse a fleet that this machine cannot hold, before it is built."""
    import psutil

    manifest = scenario.make_manifest()
    partition = scenario.partition(manifest)
    slots = min(partition.slice_count, max(4, scenario.member.pool_size // partition.slice_size))
    each = RECEIVER_BASE + slots * SLOT_BYTES + partition.slice_count * SLICE_BYTES + manifest.chunk_count * CHUNK_BYTES
    needed, available = scenario.receivers * each, psutil.virtual_memory().available
    if needed > available:
        raise UsageError(
            f"{scenario.receivers} receivers of this image need about {format_size(needed)} of memory here, and "
            f"{format_size(available)} is free: simulate fewer receivers or a smaller image; times grow in proportion "
            "to the image"
        )
