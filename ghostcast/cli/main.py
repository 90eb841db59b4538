"""The ``ghostcast`` command: mounts one file per command and turns every error into one line and its exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer

from ghostcast.cli import demo, image, library, receive, send
from ghostcast.version import VERSION
from protocol.errors import ExitStatus, GhostcastError

# numpy's linear algebra is never used here; its threads would spin beside ours.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(
    name="ghostcast",
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
image.app.command("list", epilog=library.LIST_EXAMPLES)(library.list_images)
image.app.command("label", epilog=library.LABEL_EXAMPLES)(library.label)
image.app.command("delete", epilog=library.DELETE_EXAMPLES)(library.delete)
app.add_typer(image.app)
app.command("send", epilog=send.EXAMPLES)(send.send)
app.command("receive", epilog=receive.EXAMPLES)(receive.receive)
app.command("demo", epilog=demo.EXAMPLES)(demo.demo)


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
        # Our own output: a pipe whose reader left, a full disk. Python must not try to flush into it again.
        if not isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):
                print(f"ghostcast: {error}", file=sys.stderr)
        os._exit(ExitStatus.INTERNAL)


if __name__ == "__main__":
    main()
