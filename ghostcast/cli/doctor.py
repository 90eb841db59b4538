"""``ghostcast doctor``: does multicast work here, and which command mends it?"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ghostcast.cli.options import JsonLines, Ttl
from protocol import limits
from protocol.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from ghostcast.measure.echo import EchoTest
    from ghostcast.measure.finding import Check
    from ghostcast.net.interfaces import Interface

EXAMPLES = (
    "Examples:\n\n"
    "\b\n"
    "  ghostcast doctor                       (this machine alone)\n"
    "  ghostcast doctor --listen              (on one machine, and meanwhile)\n"
    "  ghostcast doctor --peer 10.0.0.7       (on another: echoes both ways)\n"
    "  ghostcast doctor --interface eth1 --json\n\n"
    "Every finding is a sentence and, where something is to be mended, the command that does it. Some things only root "
    "can see. Exit status: 0 a clone would work, 3 the peer is not there, 4 a clone would not work."
)

ALONE_S = 2.5
"""How long queriers and other hosts are listened for."""

PEER_S = 4.0
LISTEN_S = 300.0


def doctor(
    interface: Annotated[
        str | None,
        typer.Option(
            "--interface", metavar="IF", help="Name or address.", show_default="the one with the default route"
        ),
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(
            "--peer",
            metavar="ADDR",
            help="A host that runs `ghostcast doctor --listen`.",
            show_default="whoever answers",
        ),
    ] = None,
    listen: Annotated[
        bool, typer.Option("--listen", help="After looking at this host, answer others until Ctrl-C.")
    ] = False,
    max_wait: Annotated[
        float, typer.Option("--max-wait", metavar="S", min=0, max=1e7, help="With --listen: for S seconds.")
    ] = LISTEN_S,
    port: Annotated[
        int, typer.Option("--port", metavar="P", min=1, max=65535, help="UDP port.")
    ] = limits.DISCOVERY_PORT,
    ttl: Ttl = 1,
    json_lines: JsonLines = False,
) -> None:
    """Say within ten seconds whether multicast works here, and how to mend what does not.

    The exit status is 0 only if a clone would work.
    """
    from ghostcast.cli.run import say, say_json

    if peer is not None and listen:
        raise UsageError("--peer and --listen exclude each other: one end listens, the other names it")
    show = Show(json_lines)
    try:
        checks = examine(show, interface, _address(peer), listen, max_wait, port, ttl)
    except KeyboardInterrupt:
        # A listener is ended so; what it found stands.
        if not show.listening:
            raise
        checks = show.checks
    status, text = conclude(checks, _address(peer))
    if json_lines:
        say_json({"event": "finished", "status": int(status), "text": text})
    else:
        say(text)
    raise typer.Exit(status)


class Show:
    """Prints findings as they come, and keeps them."""

    def __init__(self, json_lines: bool) -> None:
        self.checks: list[Check] = []
        self.listening = False
        self._json = json_lines

    def add(self, *checks: Check) -> None:
        """Print and keep."""
        from ghostcast.cli.run import say_json

        for check in checks:
            self.checks.append(check)
            if self._json:
                say_json(check.describe())
            else:
                self._print(check)

    def _print(self, check: Check) -> None:
        from rich.console import Console
        from rich.text import Text

        from ghostcast.cli.run import printable
        from ghostcast.measure.finding import Grade

        word, style = {
            Grade.FINE: ("ok", "green"),
            Grade.NOTE: ("note", "cyan"),
            Grade.WARNING: ("warning", "yellow"),
            Grade.FAULT: ("FAULT", "bold red"),
        }[check.grade]
        console = Console(stderr=True)
        line = Text(f"{word:<8}", style=style)
        line.append(printable(check.text), style="default")
        console.print(line, highlight=False, soft_wrap=not sys.stderr.isatty())
        if check.remedy:
            console.print(Text(f"{'':<8}  {printable(check.remedy)}"), highlight=False, soft_wrap=True)

    def event(self, name: str) -> None:
        """Print that something happened, for programs."""
        from ghostcast.cli.run import say_json

        if self._json:
            say_json({"event": name})

    def say(self, text: str) -> None:
        """Print a line for people."""
        from ghostcast.cli.run import say

        if not self._json:
            say(text)


def _address(peer: str | None) -> str | None:
    """Return a peer's IPv4 address."""
    import socket

    if peer is None:
        return None
    try:
        found = socket.getaddrinfo(peer, None, socket.AF_INET, socket.SOCK_DGRAM)
    except OSError as error:
        raise UsageError(f"--peer {peer!r} is no host that is known here: give its IPv4 address") from error
    return str(found[0][4][0])


def examine(
    show: Show, wish: str | None, peer: str | None, listen: bool, max_wait_s: float, port: int, ttl: int
) -> list[Check]:
    """Look at everything, showing each finding as soon as it is known."""
    from ghostcast.fec.kernel import kernel_choice
    from ghostcast.measure import doctor as look
    from ghostcast.measure.echo import EchoTest
    from ghostcast.measure.finding import fault
    from ghostcast.measure.host import Host
    from ghostcast.net.interfaces import choose_interface

    host = Host()
    try:
        chosen = choose_interface(wish)
    except UsageError as error:
        show.add(*look.check_no_interface(host, wish, str(error)))
        return show.checks
    if peer == chosen.address:
        raise UsageError(f"--peer {peer} is this host itself: name another one")
    show.add(*look.check_interface(host, chosen, wish), look.check_route(host, chosen), look.check_mtu(chosen))
    show.add(*look.check_buffers(host, look.probe_buffer()))
    show.add(*look.check_offloads(*look.probe_offloads(), kernel_choice()), look.check_clock(host))
    show.add(*look.check_memberships(host))
    filtered = look.check_path_filter(host, chosen, host.links())
    if filtered is not None:
        show.add(filtered)
    try:
        with EchoTest(chosen, port, ttl, peer) as test:
            _run(test, peer)
            _show_heard(show, host, chosen, test, port)
            if listen:
                _listen(show, chosen, test, max_wait_s)
            else:
                show.add(*look.check_peers(chosen, test.heard, test.size, peer))
    except UsageError as error:
        show.add(fault("join", str(error)))
    return show.checks


def _run(test: EchoTest, peer: str | None) -> None:
    """Run the echo test, no longer than it takes."""
    begun = time.monotonic()

    def done() -> bool:
        if time.monotonic() - begun < ALONE_S:
            return False
        known = test.heard.peers.get(peer) if peer is not None else None
        return peer is None or (known is not None and len(known.ways) == 4)

    test.run(PEER_S if peer is not None else ALONE_S, done=done)


def _show_heard(show: Show, host: object, chosen: Interface, test: EchoTest, port: int) -> None:
    from ghostcast.measure import doctor as look
    from ghostcast.measure.firewall import suspicions
    from ghostcast.measure.host import Host

    assert isinstance(host, Host)
    show.add(*look.check_igmp(host, chosen, test.heard))
    show.add(look.check_loop(chosen, test.heard))
    if not chosen.loopback:
        datagrams = look.imagined(chosen, port)
        came = {False: look.unicast_heard(test.heard), True: test.heard.loop}
        show.add(*suspicions(host.nft_rules(), host.iptables_rules(), datagrams, came))


def _listen(show: Show, chosen: Interface, test: EchoTest, max_wait_s: float) -> None:
    """Answer others; then say what passed."""
    from ghostcast.measure import doctor as look

    show.event("listening")
    show.say(f"listening on {chosen.name} ({chosen.address}) for {max_wait_s:g} s; Ctrl-C ends it")
    show.listening = True
    try:
        test.run(max_wait_s, idle=True)
    finally:
        show.add(*look.check_peers(chosen, test.heard, test.size, None))


def conclude(checks: list[Check], peer: str | None) -> tuple[ExitStatus, str]:
    """Return the exit status, and one sentence."""
    from ghostcast.measure.finding import Grade

    faults = [check for check in checks if check.grade is Grade.FAULT]
    warnings = sum(check.grade is Grade.WARNING for check in checks)
    if not faults:
        rest = f"; {warnings} warning{'s' if warnings != 1 else ''}" if warnings else ""
        where = "between the two" if peer is not None else "from and to this host, as far as one end can tell"
        if any(check.name == "echo" for check in checks):
            where = "between the hosts that took part"
        return ExitStatus.VERIFIED, f"A clone would work {where}{rest}."
    if all(check.name == "peer" for check in faults):
        return ExitStatus.NOBODY_CAME, "This host is well; the peer is not there."
    count = f"{len(faults)} fault{'s' if len(faults) != 1 else ''}"
    return ExitStatus.INCOMPLETE, f"A clone would not work: {count} to mend."
