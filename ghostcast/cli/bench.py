"""``ghostcast bench``: what can this network carry, to how many?

One side sends synthetic slices, any number of others count them; no disk is touched. Everything heavy is imported where
it is used, so that ``--help`` comes at once.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghostcast.cli.options import PORT_DEFAULT, InterfaceName, JsonLines, Port, ReportFile, Ttl
from ghostcast.cli.size import format_rate, parse_rate, parse_size
from protocol import limits
from protocol.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from ghostcast.measure.bench_receiver import BenchReceiver
    from ghostcast.measure.bench_sender import BenchSender, Plan

app = typer.Typer(
    name="bench",
    help="Measure what this network carries by multicast, to how many. No disk is touched.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Examples:\n\n"
    "\b\n"
    "  ghostcast bench receive                      (on each machine that listens)\n"
    "  ghostcast bench send --receivers 12          (on the one that would send a clone)\n\n"
    "It stops by itself, after ten to thirty seconds.",
)

RATES_MAX = 200
RATE_MAX = limits.RATE_CEILING_BYTES_PER_S


def parse_rates(text: str) -> str:
    """Check a list of rates such as ``100Mbit,500Mbit,1Gbit``, and return it as it is."""
    rates_of(text)
    return text


def rates_of(text: str) -> list[float]:
    """Return the rates of a list, in bytes per second.

    Raises:
        typer.BadParameter: not a list of rates, too many, or a rate that cannot be.
    """
    rates = [float(parse_rate(part)) for part in text.split(",")]
    if len(rates) > RATES_MAX:
        raise typer.BadParameter(f"at most {RATES_MAX} rates, not {len(rates)}")
    if max(rates) > RATE_MAX or min(rates) < limits.RATE_FLOOR_BYTES_PER_S:
        raise typer.BadParameter(
            f"rates must be from {format_rate(limits.RATE_FLOOR_BYTES_PER_S)} to {format_rate(RATE_MAX)}"
        )
    return rates


def parse_sweep(text: str) -> str:
    """Check a pair of rates such as ``50Mbit:2Gbit``, and return it as it is."""
    sweep_of(text)
    return text


def sweep_of(text: str) -> tuple[float, float]:
    """Return the two bounds of a sweep, in bytes per second.

    Raises:
        typer.BadParameter: not two rates, the lower one first.
    """
    low, colon, high = text.partition(":")
    if not colon:
        raise typer.BadParameter(f"{text!r} is no sweep: write the lowest and the highest rate, such as 50Mbit:2Gbit")
    bounds = rates_of(f"{low},{high}")
    if bounds[0] >= bounds[1]:
        raise typer.BadParameter(f"{text!r} is no sweep: the lower rate comes first")
    return bounds[0], bounds[1]


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  ghostcast bench send --receivers 12 --plot loss.svg\n"
    "  ghostcast bench send --session rack7 --sweep 100Mbit:10Gbit\n"
    "  ghostcast bench send --rates 500Mbit,900Mbit,950Mbit --step 5 --report run.json\n\n"
    "Measuring begins when --receivers have come, when --max-wait is over and somebody is there, when you press Enter, "
    "or, without --receivers, when nobody has come for 3 seconds after somebody did. Rates are those of --rate of "
    "`ghostcast send`: UDP payload. While it runs, it takes from the network what it measures: other traffic suffers."
)
def send(
    session: Annotated[
        str | None,
        typer.Option(
            "--session", metavar="NAME", help="The name that listeners ask for.", show_default="this host's name"
        ),
    ] = None,
    interface: InterfaceName = None,
    receivers: Annotated[
        int | None,
        typer.Option("--receivers", metavar="N", min=1, max=limits.RECEIVERS_MAX, help="Begin when so many have come."),
    ] = None,
    max_wait: Annotated[
        float,
        typer.Option("--max-wait", metavar="S", min=0, max=1e7, help="Begin after S seconds, or give up."),
    ] = 300.0,
    rates: Annotated[
        str | None,
        typer.Option(
            "--rates",
            metavar="RATE,RATE,...",
            parser=parse_rates,
            help="Try exactly these rates.",
            show_default="a sweep",
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            metavar="LOW:HIGH",
            parser=parse_sweep,
            help="Find each receiver's limit between two rates.",
            show_default="from 20Mbit up to the limit",
        ),
    ] = None,
    step: Annotated[
        float, typer.Option("--step", metavar="S", min=0.1, max=60, help="Seconds that each rate is held.")
    ] = 1.0,
    symbol_size: Annotated[
        int | None,
        typer.Option(
            "--symbol-size",
            metavar="SIZE",
            parser=parse_size,
            help="Payload bytes of a datagram, a multiple of 32.",
            show_default="the largest that comes through",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="ADDR", help="Multicast group for the data.", show_default="a random one"),
    ] = None,
    port: Port = PORT_DEFAULT,
    ttl: Ttl = 1,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw loss against rate, as PNG or SVG.", show_default=False),
    ] = None,
    report: ReportFile = None,
    json_lines: JsonLines = False,
) -> None:
    """Send synthetic slices at rising rates, and say what reached whom.

    The exit status is 0 if everybody who came answered to the end, 3 if nobody came, 4 if somebody went missing.
    """
    from ghostcast.cli.bench_plot import draw
    from ghostcast.cli.bench_view import choose_view, describe, print_result
    from ghostcast.cli.run import begin_report, check_session_name, failure_status, run_interruptible, write_report
    from ghostcast.measure.bench_sender import BenchOptions, BenchSender
    from ghostcast.net.interfaces import choose_interface
    from ghostcast.plot import check_path

    begin_report(report, [])
    engine: BenchSender | None = None
    status, reason = ExitStatus.INTERNAL, ""
    try:
        check_session_name(session)
        if plot is not None:
            check_path(plot)
        chosen = choose_interface(interface)
        if symbol_size is not None and (
            symbol_size % limits.SYMBOL_SIZE_STEP or not limits.SYMBOL_SIZE_MIN <= symbol_size <= chosen.symbol_size_max
        ):
            raise UsageError(
                f"--symbol-size must be a multiple of {limits.SYMBOL_SIZE_STEP} from {limits.SYMBOL_SIZE_MIN} to "
                f"{chosen.symbol_size_max} on {chosen.name} (MTU {chosen.mtu}), not {symbol_size}"
            )
        options = BenchOptions(
            session_name=session or socket.gethostname()[: limits.NAME_LENGTH_MAX],
            interface=chosen,
            plan=_plan(rates, sweep, chosen.link_bytes_per_s),
            step_s=step,
            receivers=receivers or 0,
            max_wait_s=max_wait,
            group=group,
            port=port,
            ttl=ttl,
            symbol_size=symbol_size,
        )
        engine = BenchSender(options, int.from_bytes(os.urandom(4)) | 1)
        view = choose_view(engine, json_lines)
        with view:
            run_interruptible(lambda: engine.run(view), engine.interrupt, on_enter=engine.start_now)
        status, reason = _ending(engine)
        if plot is not None and engine.result.rate_steps:
            draw(engine.result, plot)
    except BaseException as failure:
        status, reason = failure_status(failure), str(failure)
        raise
    finally:
        write_report(report, {"status": int(status), "reason": reason, **describe(session, engine)})
    if not json_lines:
        print_result(engine.result)
    view.finish(status, reason)
    raise typer.Exit(status)


def _plan(rates: str | None, sweep: str | None, link_rate: int) -> Plan:
    """Return what decides on the rates."""
    from ghostcast.measure.plan import FixedRates, RateSearch

    if rates is not None and sweep is not None:
        raise UsageError("--rates and --sweep exclude each other: give exact rates, or the bounds of a search")
    if rates is not None:
        return FixedRates(rates_of(rates))
    if sweep is not None:
        return RateSearch(*sweep_of(sweep))
    return RateSearch(high=float(link_rate or RATE_MAX))


def _ending(engine: BenchSender) -> tuple[ExitStatus, str]:
    """Return the exit status, and one sentence that says how it ended."""
    from ghostcast.measure.record import ListenerState

    result = engine.result
    if engine.interrupted:
        return ExitStatus.INTERRUPTED, f"Interrupted after {len(result.rate_steps)} rates."
    missing = [one.name for one in result.listeners if one.state is not ListenerState.LISTENING]
    text = f"{len(result.rate_steps)} rates to {len(result.listeners)} receivers in {engine.seconds:.0f} s"
    if missing:
        return ExitStatus.INCOMPLETE, f"Not complete: {text}; {', '.join(missing[:5])} went missing."
    return ExitStatus.VERIFIED, f"Done: {text}."


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  ghostcast bench receive\n"
    "  ghostcast bench receive --session rack7 --interface eth1 --max-wait 600\n\n"
    "Without --session the only measurement on the network is taken; if there are several, they are listed."
)
def receive(
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="NAME", help="Which measurement.", show_default="the only one"),
    ] = None,
    interface: InterfaceName = None,
    max_wait: Annotated[
        float | None,
        typer.Option(
            "--max-wait",
            metavar="S",
            min=0,
            max=1e7,
            help="Give up if none is found in S seconds.",
            show_default="for ever",
        ),
    ] = None,
    receive_buffer: Annotated[
        int | None,
        typer.Option(
            "--receive-buffer",
            metavar="SIZE",
            parser=parse_size,
            help="Ask the kernel for a buffer of this size.",
            show_default="64MiB, as a clone does",
        ),
    ] = None,
    port: Port = PORT_DEFAULT,
    ttl: Ttl = 1,
    report: ReportFile = None,
    json_lines: JsonLines = False,
) -> None:
    """Count what a measuring side sends, and tell it.

    The exit status is 0 if the measurement went to its end, 3 if none was found, 4 if the measuring side went missing.
    """
    from ghostcast.cli.bench_listener_view import choose_view, describe
    from ghostcast.cli.run import begin_report, check_session_name, failure_status, run_interruptible, write_report
    from ghostcast.measure.bench_receiver import BenchReceiver, ListenOptions
    from ghostcast.net.interfaces import choose_interface

    begin_report(report, [])
    engine: BenchReceiver | None = None
    status, reason = ExitStatus.INTERNAL, ""
    try:
        check_session_name(session)
        options = ListenOptions(choose_interface(interface), session, port, ttl, max_wait, receive_buffer)
        engine = BenchReceiver(options)
        view = choose_view(engine, json_lines)
        with view:
            run_interruptible(lambda: engine.run(view.progress), engine.interrupt)
        status, reason = _listener_ending(engine)
    except BaseException as failure:
        status, reason = failure_status(failure), str(failure)
        raise
    finally:
        write_report(report, {"status": int(status), "reason": reason, **describe(session, engine)})
    view.finish(status, reason)
    raise typer.Exit(status)


def _listener_ending(engine: BenchReceiver) -> tuple[ExitStatus, str]:
    from protocol.messages import EndReason

    if engine.interrupted:
        return ExitStatus.INTERRUPTED, f"Interrupted after {len(engine.heard)} steps."
    if engine.ended is EndReason.COMPLETE:
        return ExitStatus.VERIFIED, f"Done: {len(engine.heard)} steps counted; {engine.sender_host} has the result."
    return ExitStatus.INCOMPLETE, f"Not complete: the measuring side {engine.sender_host} stopped."
