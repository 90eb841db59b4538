"""``ghostcast receive``: write a session's image to a disk or a file."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostcast.cli.options import (
    PORT_DEFAULT,
    WAIT_MAX_S,
    InterfaceName,
    JsonLines,
    Port,
    ReportFile,
    SessionName,
    Ttl,
)
from ghostcast.cli.profile import Profile, choose_stages, show_stages, with_stages
from ghostcast.cli.size import format_rate, format_size, parse_share, parse_size
from ghostcast.image.unused import Unused
from protocol import limits
from protocol.errors import ExitStatus, GhostcastError, UsageError

if TYPE_CHECKING:
    from receivers.engine import ReceiveEngine

EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast receive /dev/nvme0n1 --session lab\n"
    "  ghostcast receive copy.raw --interface eth1 --max-wait 600 --report run.json\n\n"
    "The target is overwritten without a question, unless it is mounted, in use or too small. Without --session the "
    "only session on the network is taken; if there are several, they are listed and nothing is done.\n\n"
    "What the target holds of the image already, from a run that was interrupted or an older version, is neither asked "
    "for nor written again. A sample of it tells whether the whole is worth a look."
)

RANGES_REPORTED_MAX = 10_000
"""Ranges that were read back and differ, in a report file."""


class Verify(enum.StrEnum):
    """How far the verification of a copy goes."""

    WRITE = "write"
    """Every byte is checked before it is written."""
    READ = "read"
    """And everything is read back in the end."""


def receive(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET", help="A disk, or a file. It is overwritten.", show_default=False, readable=False
        ),
    ],
    session: SessionName = None,
    interface: InterfaceName = None,
    max_wait: Annotated[
        float | None,
        typer.Option(
            "--max-wait",
            metavar="S",
            min=0,
            max=WAIT_MAX_S,
            help="Give up if no session is found in S seconds, or if a sender that was lost is not back in S seconds.",
            show_default="for ever to find one, no wait for a lost one",
        ),
    ] = None,
    port: Port = PORT_DEFAULT,
    ttl: Ttl = 1,
    memory: Annotated[
        int,
        typer.Option(
            "--memory",
            metavar="SIZE",
            parser=parse_size,
            help="Slices held in memory; at extreme loss as much again for repair.",
            show_default="144MiB",
        ),
    ] = limits.POOL_SIZE_DEFAULT,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take an image whose match rule does not fit this machine."),
    ] = False,
    unused: Annotated[
        Unused,
        typer.Option("--unused", help="What becomes of blocks that no file system of the image uses."),
    ] = Unused.KEEP,
    grow: Annotated[
        bool, typer.Option("--grow", help="Make the last partition and its file system as large as the disk.")
    ] = False,
    reuse: Annotated[
        bool,
        typer.Option("--reuse", help="Compare the whole target with the image first, whatever a sample of it says."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Take everything from the network, whatever the target holds.")
    ] = False,
    verify: Annotated[
        Verify,
        typer.Option(
            "--verify", help="read: also read everything back from the disk after the final flush, and compare it."
        ),
    ] = Verify.WRITE,
    report: ReportFile = None,
    json_lines: JsonLines = False,
    profile: Profile = False,
    inject_loss: Annotated[float, typer.Option("--inject-loss", parser=parse_share, hidden=True)] = 0.0,
) -> None:
    """Receive an image and write it to a disk or a file, every byte verified first.

    The exit status is 0 only if the whole image was verified, written and flushed to the disk.
    """
    from ghostcast.cli.run import (
        begin_report,
        check_session_name,
        failure_status,
        loading,
        run_interruptible,
        write_report,
    )

    with loading():
        import psutil

        from ghostcast.cli.receiver_view import choose_view
        from ghostcast.image.target import Target
        from ghostcast.net.interfaces import choose_interface
        from receivers.engine import ReceiveEngine
        from receivers.options import ReceiveOptions
        from receivers.reuse import ReusePolicy

    begin_report(report, [target])
    engine: ReceiveEngine | None = None
    status, reason = ExitStatus.INTERNAL, ""
    stages = choose_stages(profile)
    try:
        check_session_name(session)
        if reuse and fresh:
            raise UsageError("--reuse looks for what the target holds, and --fresh does not: choose one of them")
        # The pool takes as much again for repair symbols.
        memory_max = max(psutil.virtual_memory().total // 4, limits.POOL_SIZE_DEFAULT)
        if not limits.POOL_SIZE_MIN <= memory <= memory_max:
            least, most = format_size(limits.POOL_SIZE_MIN), format_size(memory_max)
            raise UsageError(f"--memory must be from {least} to {most} on this machine")
        options = ReceiveOptions(
            interface=choose_interface(interface),
            session_name=session,
            port=port,
            ttl=ttl,
            max_wait_ns=None if max_wait is None else round(max_wait * limits.SECOND_NS),
            pool_size=memory,
            force=force,
            unused=unused,
            grow=grow,
            stages=stages,
            reuse=ReusePolicy.ALWAYS if reuse else ReusePolicy.NEVER if fresh else ReusePolicy.AUTO,
            read_back=verify is Verify.READ,
            inject_loss=inject_loss,
        )
        opened = Target.open(target, raw_size=None)
        try:
            engine = ReceiveEngine(opened, options)
            view = choose_view(engine, json_lines)
            with view:
                run_interruptible(lambda: engine.run(view), engine.interrupt)
        finally:
            opened.discard_if_untouched()
        status = exit_status(engine)
        reason = closing_line(engine, status)
    except BaseException as failure:
        status, reason = failure_status(failure), str(failure)
        raise
    finally:
        write_report(report, with_stages({"status": int(status), **summary(session, engine, reason)}, stages))
    view.finish(status, reason)
    show_stages(stages)
    raise typer.Exit(status)


def exit_status(engine: ReceiveEngine) -> ExitStatus:
    """Return how the run ended: 0 only for a copy that was verified and flushed."""
    from protocol.receiver_events import Outcome

    outcome = engine.outcome
    if outcome is Outcome.VERIFIED:
        return ExitStatus.VERIFIED
    if engine.interrupted:
        return ExitStatus.INTERRUPTED
    if outcome is Outcome.REFUSED:
        return ExitStatus.TARGET
    if outcome is Outcome.FAILED:
        return engine.error.exit_status if isinstance(engine.error, GhostcastError) else ExitStatus.IMAGE
    return ExitStatus.INCOMPLETE


def closing_line(engine: ReceiveEngine, status: ExitStatus) -> str:
    """Return one sentence that says what happened."""
    session, manifest, target = engine.session, engine.manifest, engine.target.path
    if status is ExitStatus.INTERRUPTED:
        return f"Interrupted. {_untouched_or(engine, f'{target} is incomplete: do not use it.')}"
    assert session is not None
    if status is ExitStatus.VERIFIED:
        assert manifest is not None
        seconds = max(engine.seconds, 1e-9)
        done = "verified, flushed and read back" if engine.options.read_back else "verified and flushed"
        line = (
            f"Done. {target} holds {manifest.name}: {format_size(manifest.raw_size)} {done} in "
            f"{seconds:.1f} s ({format_rate(manifest.raw_size / seconds)})"
        )
        if engine.chunks_reused:
            line += f"; {engine.chunks_reused} of {int(manifest.transferred.sum())} chunks were there already"
        return f"{line}; {session.outcome_text}."
    rest = _untouched_or(engine, f"{target} is incomplete: do not use it; run the same command again")
    return f"Not complete: {session.outcome_text}. {rest}."


def _untouched_or(engine: ReceiveEngine, text: str) -> str:
    return text if engine.target.touched else "Nothing was written"


def summary(name: str | None, engine: ReceiveEngine | None, reason: str) -> dict[str, Any]:
    """Return the report's object; its keys are a contract."""
    from protocol.receiver_events import Outcome
    from receivers.chunks import zero_chunks

    session = engine.session if engine is not None else None
    reception = session.reception if session is not None else None
    manifest = engine.manifest if engine is not None else None
    found = engine.found if engine is not None else None
    outcome = engine.outcome if engine is not None else None
    states = {Outcome.VERIFIED: "verified", Outcome.REFUSED: "refused"}
    image = reception.assembly(limits.OBJECT_IMAGE) if reception is not None else None
    return {
        "session": found.announce.name if found is not None else name,
        "state": states.get(outcome, "failed") if outcome is not None else "failed",
        "reason": reason,
        "image": {
            "id": found.announce.image_id.hex(),
            "name": found.announce.image_name,
            "raw_bytes": found.announce.raw_size,
            "stored_bytes": found.announce.stream_size,
            "chunks": manifest.chunk_count if manifest is not None else None,
        }
        if found is not None
        else None,
        "target": str(engine.target.path) if engine is not None else None,
        "seconds": round(engine.seconds, 3) if engine is not None else 0,
        "bytes_written": engine.bytes_written if engine is not None else 0,
        "chunks": {
            "written": engine.chunks_written if engine is not None else 0,
            "reused": engine.chunks_reused if engine is not None else 0,
            "zero": len(zero_chunks(manifest)) if manifest is not None else 0,
            "damaged": reception.counters.chunks_damaged if reception is not None else 0,
        },
        "slices": {
            "received": reception.counters.slices_completed if reception is not None else 0,
            "decoded": reception.counters.slices_decoded if reception is not None else 0,
            "requested": reception.counters.slices_requested if reception is not None else 0,
        },
        "symbols": {
            "received": reception.counters.received if reception is not None else 0,
            "duplicate": image.counters.duplicate if image is not None else 0,
            "surplus": image.counters.surplus if image is not None else 0,
            "lost_network": reception.lost_network if reception is not None else 0,
            "lost_host": reception.lost_host if reception is not None else 0,
        },
        "sessions": engine.session_count if engine is not None else 0,
        "differs": engine.work.wrong_ranges[:RANGES_REPORTED_MAX] if engine is not None else [],
        "nacks": reception.counters.nacks if reception is not None else 0,
        "datagrams_dropped": session.drops.total() if session is not None else 0,
    }
