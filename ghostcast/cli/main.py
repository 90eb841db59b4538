"""The ``ghostcast`` command: mounts one file per command and turns every error into one line and its exit status.

A command's file is loaded when that command is asked for, so that starting one costs nothing of the others.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from ghostcast.version import VERSION
from protocol.errors import ExitStatus, GhostcastError

# numpy's linear algebra is never used here; its threads would spin beside ours.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class _Command(NamedTuple):
    """One command: the files in ``ghostcast.cli`` that make it, and what the list of commands says of it.

    The first file has either a function of the command's name, and its ``EXAMPLES``, or a group of commands ``app``, to
    which the other files add theirs.
    """

    files: tuple[str, ...]
    purpose: str


COMMANDS = {
    "image": _Command(("image", "library", "export"), "Make, inspect, keep, verify and restore images."),
    "send": _Command(("send",), "Send an image to everybody who joins the session."),
    "receive": _Command(("receive",), "Receive an image onto a disk, every byte verified."),
    "verify": _Command(("verify",), "Check whether a disk or a file holds an image."),
    "demo": _Command(("demo",), "Clone to several receivers on this machine, with losses."),
    "bench": _Command(("bench",), "Measure what this network carries, to how many."),
    "doctor": _Command(("doctor",), "Say whether multicast works here, and what mends it."),
    "simulate": _Command(("simulate",), "Ask how a clone would go, before there is a network."),
}
"""In the order of the help."""


class _Commands(TyperGroup):
    """The commands of ``COMMANDS``, each from its own file."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return their names."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load one; None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, *_others = [importlib.import_module(f"ghostcast.cli.{file}") for file in COMMANDS[cmd_name].files]
        mount = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        if hasattr(module, "app"):
            mount.add_typer(module.app, name=cmd_name)
        else:
            mount.command(cmd_name, epilog=module.EXAMPLES)(getattr(module, cmd_name))
            mount.callback()(_mounted)
        return typer.main.get_group(mount).commands[cmd_name]

    def invoke(self, ctx: Any) -> Any:
        """Run a command; typer would end an interrupted one with an empty line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("ghostcast: interrupted", file=sys.stderr)
            sys.exit(ExitStatus.INTERRUPTED)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without loading any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.purpose) for name, command in COMMANDS.items()])


def _mounted() -> None:
    """Make a single command the command of a group, as the others are."""


app = typer.Typer(
    name="ghostcast",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try it on this machine, without root and without a disk:\n\n"
    "\b\n"
    "  ghostcast demo\n\n"
    "Clone a disk to forty machines:\n\n"
    "\b\n"
    "  ghostcast image create /dev/sda golden.img.zst\n"
    "  ghostcast send golden.img.zst --session lab --receivers 40     (here)\n"
    "  ghostcast receive /dev/sda --session lab                       (on each machine)\n\n"
    "Exit status: 0 everything verified, 1 internal error, 2 usage, 3 nobody came in time, 4 incomplete, "
    "5 target refused or failed, 6 image damaged, 7 authentication refused, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ghostcast {VERSION}")
        raise typer.Exit


@app.callback()
def ghostcast(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Clone one disk image to any number of machines at once, by multicast, every byte verified."""


def _open_standard_streams() -> None:
    """Give closed standard descriptors something harmless: the next file opened would get their number otherwise."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115 (open for as long as the process lives)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def main() -> None:
    """Run the command line; the only place where an exception becomes an exit status."""
    _open_standard_streams()
    try:
        app()
    except GhostcastError as error:
        print(f"ghostcast: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("ghostcast: interrupted", file=sys.stderr)
        sys.exit(ExitStatus.INTERRUPTED)
    except OSError as error:
        _tell_of_output(error)
        sys.exit(ExitStatus.INTERNAL)


def _tell_of_output(error: OSError) -> None:
    """Say why our own output failed: a full disk; a reader that left its pipe needs no word."""
    if not isinstance(error, BrokenPipeError):
        with contextlib.suppress(OSError):
            print(f"ghostcast: {error}", file=sys.stderr)


def run() -> None:
    """Run the command line and leave: the installed command.

    The kernel frees everything in a moment. Python would take it apart first, piece by piece: 10 ms of a command, 70
    where garbage is looked for, when others still need the machine.
    """
    try:
        main()
    except SystemExit as leaving:
        if not isinstance(leaving.code, int):
            raise
        status = leaving.code
    else:
        status = ExitStatus.VERIFIED
    try:
        sys.stdout.flush()
    except OSError as error:
        if not status:  # it hides no other reason and no other status
            status = ExitStatus.INTERNAL
            _tell_of_output(error)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
