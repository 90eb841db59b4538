"""``ghostcast send``: serve one image to everybody who joins the session."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostcast.cli.choose import ImageArgument, LibraryOption, choose_image
from ghostcast.cli.options import PORT_DEFAULT, WAIT_MAX_S, InterfaceName, JsonLines, Port, ReportFile, Ttl
from ghostcast.cli.profile import Profile, choose_stages, show_stages, with_stages
from ghostcast.cli.size import format_rate, format_size, parse_rate, parse_size
from protocol import limits
from protocol.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from ghostcast.image.reader import ImageFile
    from ghostcast.sender.engine import SendEngine
    from ghostcast.sender.options import SendOptions
    from ghostcast.stages import Stages
    from protocol.fleet import Peer
    from protocol.sender_events import Event

EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast send golden.img.zst --session lab --receivers 40\n"
    "  ghostcast send golden --receivers 40 --max-wait 300 --report run.json\n"
    "  ghostcast send golden.img.zst --session lab --repeat\n"
    "  ghostcast send golden.img.zst --interface eth1 --rate 800Mbit --json | tee run.jsonl\n\n"
    "Sending begins when --receivers have joined, when --max-wait is over and somebody is there, when you press Enter, "
    "or, if neither option is given, when nobody has joined for 5 seconds after somebody did. Machines that join later "
    "get the whole image too.\n\n"
    "With --repeat, the wait counts from the first join of each session, and nobody there is no reason to end. Ctrl-C "
    "between two sessions ends it with 0 if everybody was verified."
)

QUIET_S = 5
"""Without any start rule: begin so long after the last receiver joined."""

MAX_WAIT_DEFAULT_S = 300.0


def _parse_rate(text: str) -> str:
    if text != "auto":
        parse_rate(text)
    return text


def _parse_fec(text: str) -> str:
    if text != "auto" and not (text.isdigit() and int(text) <= limits.REPAIR_SYMBOLS_MAX):
        raise typer.BadParameter(f"{text!r} is neither auto nor a number from 0 to {limits.REPAIR_SYMBOLS_MAX}")
    return text


def send(
    image: ImageArgument,
    library: LibraryOption = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session", metavar="NAME", help="The name that receivers ask for.", show_default="the image's name"
        ),
    ] = None,
    interface: InterfaceName = None,
    receivers: Annotated[
        int | None,
        typer.Option(
            "--receivers", metavar="N", min=1, max=limits.RECEIVERS_MAX, help="Begin when so many have joined."
        ),
    ] = None,
    max_wait: Annotated[
        float | None,
        typer.Option(
            "--max-wait",
            metavar="S",
            min=0,
            max=WAIT_MAX_S,
            help="Begin after S seconds with whoever is there; with nobody there, give up.",
            show_default="300",
        ),
    ] = None,
    rate: Annotated[
        str,
        typer.Option("--rate", metavar="auto|RATE", parser=_parse_rate, help="A fixed rate such as 800Mbit, or auto."),
    ] = "auto",
    group: Annotated[
        str | None,
        typer.Option(
            "--group", metavar="ADDR", help="Multicast group for the data.", show_default="made from the session"
        ),
    ] = None,
    port: Port = PORT_DEFAULT,
    ttl: Ttl = 1,
    fec: Annotated[
        str,
        typer.Option(
            "--fec", metavar="auto|H", parser=_parse_fec, help="Repair symbols per slice sent in advance, or auto."
        ),
    ] = "auto",
    symbol_size: Annotated[
        int | None,
        typer.Option(
            "--symbol-size",
            metavar="SIZE",
            parser=parse_size,
            help="Payload bytes of a datagram, a multiple of 32.",
            show_default="what the MTU allows",
        ),
    ] = None,
    interleave: Annotated[
        int | None,
        typer.Option(
            "--interleave",
            metavar="D",
            min=1,
            max=limits.WINDOW_SLICES_MAX,
            help="Slices sent symbol by symbol in turn.",
            show_default=f"{limits.WINDOW_SLICES_DEFAULT}, fewer of large datagrams, more where bursts are lost",
        ),
    ] = None,
    wait_for_slow: Annotated[
        bool,
        typer.Option(
            "--wait-for-slow",
            help="Go at the pace of the slowest receiver, always, instead of serving a few slow ones after the others.",
        ),
    ] = False,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Serve one session after another for whoever comes, until Ctrl-C.")
    ] = False,
    report: ReportFile = None,
    json_lines: JsonLines = False,
    profile: Profile = False,
) -> None:
    """Send an image to everybody who joins the session.

    The exit status is 0 only if every receiver that joined has confirmed a verified copy.
    """
    from ghostcast.cli.run import begin_report, failure_status, loading, run_interruptible, write_report

    path = choose_image(image, library)
    begin_report(report, [path])
    engine: SendEngine | None = None
    status, reason = ExitStatus.INTERNAL, ""
    stages = choose_stages(profile)
    try:
        with contextlib.ExitStack() as stack, loading():
            from ghostcast.sender.opening import Opening

            opened: ImageFile | None = None
            # The image is loaded while the answer to the opening's question is on its way, but where the question needs
            # the image's name, or something is wrong with it.
            if session is None or repeat or not path.is_file():
                opened = stack.enter_context(_open(path))
            options = _options(
                opened,
                session,
                interface,
                receivers,
                max_wait,
                rate,
                group,
                port,
                ttl,
                fec,
                symbol_size,
                interleave,
                not wait_for_slow,
                repeat,
                stages,
            )
            if repeat:
                assert opened is not None
                status = _serve_repeatedly(opened, options, report, json_lines=json_lines)
                raise typer.Exit(status)
            opening = stack.enter_context(Opening(options))
            if opened is None:
                opened = stack.enter_context(_open(path))
            from ghostcast.cli.sender_view import choose_view
            from ghostcast.sender.engine import SendEngine

            engine = SendEngine(opened, options, int.from_bytes(os.urandom(4)) | 1, opening)
            view = choose_view(engine, json_lines)
            with view:
                run_interruptible(lambda: engine.run(view), engine.interrupt, on_enter=engine.start_now)
            status = exit_status(engine)
            reason = closing_line(engine, status)
    except typer.Exit:
        report = None  # written already
        raise
    except BaseException as failure:
        status, reason = failure_status(failure), str(failure)
        raise
    finally:
        whole = {"status": int(status), "reason": reason, **summary(session, engine)}
        write_report(report, with_stages(whole, stages))
    view.finish(status, reason)
    show_stages(stages)
    raise typer.Exit(status)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[ImageFile]:
    """Open an image for as long as it is being sent."""
    from ghostcast.image.labels import open_labelled

    with open_labelled(path) as opened:
        opened.hold()
        yield opened


def _options(
    opened: ImageFile | None,
    session: str | None,
    interface: str | None,
    receivers: int | None,
    max_wait: float | None,
    rate: str,
    group: str | None,
    port: int,
    ttl: int,
    fec: str,
    symbol_size: int | None,
    interleave: int | None,
    leave_slow: bool,
    repeat: bool,
    stages: Stages,
) -> SendOptions:
    """Return what the command line asks for, checked; without a session's name, the image has to be open."""
    from ghostcast.cli.run import check_session_name
    from ghostcast.net.interfaces import choose_interface
    from ghostcast.sender.options import SendOptions
    from protocol.sender_events import StartRule

    check_session_name(session)
    session_name = session
    if session_name is None:
        assert opened is not None
        session_name = _default_name(opened.manifest.name or opened.path.name)
    chosen = choose_interface(interface)
    if symbol_size is not None and (
        symbol_size % limits.SYMBOL_SIZE_STEP or not limits.SYMBOL_SIZE_MIN <= symbol_size <= chosen.symbol_size_max
    ):
        raise UsageError(
            f"--symbol-size must be a multiple of {limits.SYMBOL_SIZE_STEP} from {limits.SYMBOL_SIZE_MIN} to "
            f"{chosen.symbol_size_max} on {chosen.name} (MTU {chosen.mtu}), not {symbol_size}"
        )
    # Served for ever, a session has no need to begin with too few; but with some of those expected, it must at last.
    wait = max_wait if max_wait is not None or (repeat and receivers is None) else MAX_WAIT_DEFAULT_S
    return SendOptions(
        session_name=session_name,
        interface=chosen,
        start=StartRule(
            receivers=receivers or 0,
            max_wait_ns=None if wait is None else round(wait * limits.SECOND_NS),
            endless=repeat,
            quiet_ns=QUIET_S * limits.SECOND_NS if receivers is None and max_wait is None else None,
        ),
        group=group,
        port=port,
        ttl=ttl,
        rate=None if rate == "auto" else float(parse_rate(rate)),
        repair_symbols=None if fec == "auto" else int(fec),
        symbol_size=symbol_size,
        window_slices=interleave,
        stages=stages,
        leave_slow=leave_slow,
    )


def _serve_repeatedly(opened: ImageFile, options: SendOptions, report: Path | None, *, json_lines: bool) -> ExitStatus:
    """Serve session after session; the report is written after each, so that it is there however this ends."""
    from ghostcast.cli.repeat import Repeat
    from ghostcast.cli.run import failure_status, write_report
    from ghostcast.sender.engine import SendEngine

    latest: SendEngine | None = None

    def make_engine() -> SendEngine:
        nonlocal latest
        latest = SendEngine(opened, options, int.from_bytes(os.urandom(4)) | 1)
        return latest

    def write(status: ExitStatus, reason: str) -> None:
        facts = {"status": int(status), "reason": reason, **summary(options.session_name, latest)}
        write_report(report, facts | repeated.totals.facts())

    repeated = Repeat(make_engine, json_lines=json_lines)
    repeated.ended = lambda _engine: write(repeated.totals.status(in_the_middle=False), "still serving")
    try:
        repeated.run()
    except BaseException as failure:
        write(failure_status(failure), str(failure))
        raise
    write(repeated.status, repeated.totals.line())
    return repeated.status


def _default_name(text: str) -> str:
    """Return what an announcement can carry of an image's name, and a terminal can show."""
    from ghostcast.cli.run import printable
    from protocol.messages import clip

    return clip(printable(text), limits.NAME_LENGTH_MAX)


def exit_status(engine: SendEngine) -> ExitStatus:
    """Return how the run ended: 0 only if somebody came and every one of them verified."""
    from protocol.fleet import PeerState
    from protocol.messages import EndReason

    assert engine.session is not None
    session = engine.session
    everybody = session.peers + session.refused
    # What was complete when it was interrupted had no more than its last word to say.
    if engine.interrupted and session.ended is not EndReason.COMPLETE:
        return ExitStatus.INTERRUPTED
    if not everybody:
        return ExitStatus.NOBODY_CAME
    if all(peer.state is PeerState.VERIFIED for peer in everybody):
        return ExitStatus.VERIFIED
    return ExitStatus.INCOMPLETE


def closing_line(engine: SendEngine, status: ExitStatus) -> str:
    """Return one sentence that says what happened."""
    from protocol.fleet import PeerState

    assert engine.session is not None
    session, manifest = engine.session, engine.image.manifest
    everybody = session.peers + session.refused
    verified = sum(peer.state is PeerState.VERIFIED for peer in everybody)
    if status is ExitStatus.NOBODY_CAME:
        return f"Nobody came: no receiver joined session {engine.options.session_name!r} in time; nothing was sent."
    counts = f"{verified} of {len(everybody)} receivers verified"
    expected = engine.options.start.receivers
    if expected > len(everybody):
        counts += f" ({expected} were expected)"
    if status is ExitStatus.INTERRUPTED:
        return f"Interrupted: {counts}." if not everybody else f"Interrupted: {counts}; the others were told to stop."
    line = f"{manifest.name}: {counts}"
    if verified:
        seconds = max(engine.seconds, 1e-9)
        line += (
            f" in {seconds:.1f} s ({format_size(manifest.raw_size)} of disk, "
            f"{format_rate(manifest.raw_size / seconds)} each"
        )
        if manifest.stream_size >= limits.MIB:
            line += f"; {engine.wire_bytes / manifest.stream_size:.3f} x the compressed image on the wire"
        line += ")"
    line += "."
    if status is ExitStatus.VERIFIED:
        return f"Done. {line}"
    missing = [peer for peer in everybody if peer.state is not PeerState.VERIFIED]
    shown = "; ".join(f"{_label(peer)} {peer.state.value} ({peer.reason})" for peer in missing[:5])
    more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
    return f"Not complete. {line} Missing: {shown}{more}."


def _label(peer: Peer) -> str:
    from ghostcast.cli.run import printable

    return printable(f"{peer.host}:{peer.target}")


def summary(name: str | None, engine: SendEngine | None) -> dict[str, Any]:
    """Return the report's object; its keys are a contract. Without an engine, nothing was begun."""
    manifest = engine.image.manifest if engine is not None else None
    session = engine.session if engine is not None else None
    seconds = engine.seconds if engine is not None else 0.0
    wire_bytes = engine.wire_bytes if engine is not None else 0
    return {
        "session": engine.options.session_name if engine is not None else name,
        "image": {
            "id": manifest.image_id.hex(),
            "name": manifest.name,
            "raw_bytes": manifest.raw_size,
            "stored_bytes": manifest.stream_size,
            "chunks": manifest.chunk_count,
        }
        if manifest is not None
        else None,
        "interrupted": engine is not None and engine.interrupted,
        "receivers_expected": engine.options.start.receivers if engine is not None else 0,
        "seconds": round(seconds, 3),
        "wire_bytes": wire_bytes,
        "symbols": {
            "source": session.sent.source_symbols if session else 0,
            "repair": session.sent.repair_symbols if session else 0,
        },
        "passes": session.pass_count + 1 if session is not None and session.started else 0,
        "nacks": session.sent.nacks if session else 0,
        "rate_bits_per_s": round(wire_bytes * 8 / seconds) if seconds else 0,
        "datagrams_dropped": session.drops.total() if session else 0,
        "receivers": [peer_summary(engine, peer) for peer in session.peers + session.refused]
        if engine is not None and session is not None
        else [],
    }


def peer_summary(engine: SendEngine, peer: Peer) -> dict[str, Any]:
    """Return what the report says of one receiver."""
    assert engine.session is not None
    begun = engine.started_ns or peer.joined_ns
    left_behind = peer.live and engine.session.ended is not None
    end = peer.ended_ns or engine.ended_ns
    return {
        "id": peer.receiver_id.hex(),
        "host": peer.host,
        "target": peer.target,
        "address": peer.address[0],
        "state": "failed" if left_behind else peer.state.value,
        "reason": "the session ended before it was done" if left_behind else peer.reason,
        "seconds": round(max(0, (end or begun) - max(begun, peer.joined_ns)) / limits.SECOND_NS, 3),
        "bytes_done": peer.done.bytes_written if peer.done else peer.report.bytes_done if peer.report else 0,
        "lost_network": peer.done.lost_network if peer.done else peer.report.lost_network if peer.report else 0,
        "slow": peer.left_ns is not None,
        "lost_host": peer.done.lost_host if peer.done else peer.report.lost_host if peer.report else 0,
    }


def describe(event: Event) -> str:
    """Return one line about something that happened, for people."""
    from ghostcast.cli.run import printable

    who = "" if event.peer is None else printable(f"{event.peer.host} ({event.peer.target})")
    text = printable(event.text)
    return " ".join(filter(None, (who, event.kind.value.replace("_", " "), f"- {text}" if text else "")))
