"""How long until everybody has the copy: ghostcast beside udpcast, UFTP and plain TCP, same bytes, same lab?

    python -m benchmarks.head_to_head [--size 1GB] [--rounds 3] [--receivers 1] [--json FILE]     (as root)

Knows the lab's networks and every tool's command line; must not know ghostcast's insides: it measures what a user
would. The invariants: all tools are timed by the same clock between the same two moments, all copies are verified
against the source by a digest that none of the tools computes, and a run that hangs, lies or fails is a failure in the
results, never a figure. What is measured, and what is in whose favour: README.md.

One file, although a long one: tools, processes, figures and output have no user but each other.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import ipaddress
import json
import os
import pathlib
import platform
import re
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from types import TracebackType
from typing import Literal, Self

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.lab.network import Bridge, DirectLink, Host, NetworkError

ROOT = pathlib.Path(__file__).parents[1]
QUICK_SIZE = 20_000_000

_SAMPLE_INTERVAL_S = 0.05  # how often the memory of processes is looked at
_SETTLE_S = 0.5  # a peer says that it is ready a little before it listens
_BACKGROUND_S = 0.5  # how long the machine is watched before each run, for what others do to it
_START_TIMEOUT_S = 30
_EXIT_TIMEOUT_S = 30
_COMMAND_TIMEOUT_S = 600
_SLOWEST_BYTES_PER_S = 10_000_000  # a run that is slower, to one receiver after another, is ended as hung
_OUTPUT_KEPT = 4000  # bytes of what a process said last, for failures
_KERNEL_SETTINGS = pathlib.Path("/proc/sys/net/core")
_BUFFER_SETTINGS = ("rmem_default", "rmem_max")  # udpcast asks for no size and gets the first; UFTP up to the second
_TUNED_BUFFER_SIZE = 1 << 24
_QUIET_CORES = 0.2  # more than this, and others disturb what is measured
_PIECE_SIZE = 1 << 24
_FILE_WIDTH = 130  # of tables that no terminal limits
_LAB_PROGRAMS = (
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("unshare", "util-linux"),
    ("git", "git"),
)

# As a module of this checkout, the one that the results name, whatever else is installed.
_GHOSTCAST = (sys.executable, "-m", "ghostcast.cli.main")
_GHOSTCAST_COMMON = ("--session", "head-to-head", "--json", "--interface")
_UDPCAST_COMMON = ("--nokbd", "--interface")
_UFTP_BUFFERS = ("-B", str(_TUNED_BUFFER_SIZE))
_BARE_PYTHON = (sys.executable, "-I", "-S", "-c")
_TCP_PORT = "7001"

_TCP_SEND = """
import socket, sys
for address in sys.argv[3:]:
    with socket.create_connection((address, int(sys.argv[1]))) as connection, open(sys.argv[2], "rb") as source:
        connection.sendfile(source)
"""
_TCP_RECEIVE = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server, open(sys.argv[2], "wb") as target:
    print("ready", flush=True)
    connection, _ = server.accept()
    buffer = memoryview(bytearray(1 << 20))
    while count := connection.recv_into(buffer):
        target.write(buffer[:count])
"""
_COPY_ALL = 'for target; do cp --reflink=never "$0" "$target" || exit; done'
_SET_HOST_NAME = 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"'

Layout = Literal["direct", "bridge"]


class RunFailed(Exception):
    """One tool, once, did not copy the bytes in time."""


class Unusable(Exception):
    """Nothing can be measured here and so; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameters:
    """What is measured."""

    size: int
    rounds: int
    receivers: int
    layout: Layout
    offloads: bool
    loss: float
    mtu: int
    content: str
    tools: tuple[str, ...]
    timeout_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """The bytes to copy: raw for the peers, as an image for ghostcast, made before anything is timed."""

    raw: pathlib.Path
    image: pathlib.Path
    digest: str
    image_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """Where a tool is run."""

    parameters: Parameters
    source: Source
    network: DirectLink | Bridge
    directory: pathlib.Path

    def target(self, host: Host) -> pathlib.Path:
        """Return where the copy of a host goes; UFTP keeps the name of the source, so all others do too."""
        return self.directory / host.name / self.source.raw.name


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What one tool needed, once. Seconds count from the start of the sender's command."""

    round: int
    tool: str
    copied_seconds: float
    """Until the last receiver had ended, or, where it is a daemon, had said that its copy is complete."""
    durable_seconds: float
    """Until, after that, every copy was flushed to the disk."""
    sender_seconds: float
    """Until the sender had ended."""
    sender_cpu_seconds: float
    receiver_cpu_seconds: tuple[float, ...]
    sender_memory_bytes: int
    receiver_memory_bytes: tuple[int, ...]
    wire_sent_bytes: int
    """What the sender's interface sent, headers included; a batch that no one cuts counts its headers once."""
    wire_received_bytes: int
    background_cores: float
    """How many cores others kept busy just before."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """One tool, once, without a verified copy."""

    round: int
    tool: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of n figures."""

    median: float
    minimum: float
    maximum: float
    n: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> Self:
        """Return the spread of one figure or more."""
        found = sorted(figures)
        return cls(statistics.median(found), found[0], found[-1], len(found))


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """One way to copy a file to machines: its commands, and how it says where it stands."""

    name: str
    send: Callable[[Scene], list[str]]
    """The command that gives a copy to every receiver of the scene, and then ends."""
    receive: Callable[[Scene, Host], list[str]] | None = None
    """The command that waits on a host for its copy; None if the sender does it all."""
    ready: bytes = b""
    """What a receiver says once it waits for the sender."""
    complete: bytes = b""
    """What a receiver that is a daemon says when its copy is complete; empty if it ends instead."""
    packages: tuple[tuple[str, str], ...] = ()
    """Programs and the Debian packages that have them."""


def _ghostcast_receive(scene: Scene, host: Host) -> list[str]:
    return [*_GHOSTCAST, "receive", str(scene.target(host)), *_GHOSTCAST_COMMON, host.interface]


def _ghostcast_send(scene: Scene) -> list[str]:
    count = ("--receivers", str(scene.parameters.receivers))
    return [*_GHOSTCAST, "send", str(scene.source.image), *count, *_GHOSTCAST_COMMON, scene.network.sender.interface]


def _udpcast_receive(scene: Scene, host: Host, *, waits: tuple[str, ...] = ("--exit-wait", "50")) -> list[str]:
    # In its favour: by itself, a receiver that has everything lingers for 0.5 s.
    return ["udp-receiver", *_UDPCAST_COMMON, host.interface, "--file", str(scene.target(host)), *waits]


def _udpcast_send(scene: Scene, *, waits: tuple[str, ...] = ("--rexmit-hello-interval", "100")) -> list[str]:
    # In its favour: by itself, a sender looks only every 2 s whether all have come.
    start = ("--min-receivers", str(scene.parameters.receivers), *waits)
    options = ("--full-duplex", "--nopointopoint", *start)
    return ["udp-sender", *_UDPCAST_COMMON, scene.network.sender.interface, "--file", str(scene.source.raw), *options]


def _uftp_receive(scene: Scene, host: Host) -> list[str]:
    # The cache keeps its size of 1 MB: with 4 and 20 MB it was no faster here.
    options = ("-d", "-q", "-F", "@LOG", *_UFTP_BUFFERS)
    return ["uftpd", *options, "-I", host.interface, "-U", _uftp_id(host), "-D", str(scene.target(host).parent)]


def _uftp_send(scene: Scene) -> list[str]:
    # A closed group begins as soon as all have come. Its manual wants 100 bytes for headers, its code 8800 at most.
    group = ("-H", ",".join(_uftp_id(host) for host in scene.network.receivers), "-P", "230.5.5.5")
    options = ("-R", "-1", *_UFTP_BUFFERS, "-b", str(min(scene.parameters.mtu - 100, 8800)))
    return ["uftp", *options, "-I", scene.network.sender.interface, *group, str(scene.source.raw)]


def _uftp_id(host: Host) -> str:
    return f"0x{int(ipaddress.ip_address(host.address)):08X}"


def _tcp_receive(scene: Scene, host: Host) -> list[str]:
    return [*_BARE_PYTHON, _TCP_RECEIVE, _TCP_PORT, str(scene.target(host))]


def _tcp_send(scene: Scene) -> list[str]:
    addresses = (host.address for host in scene.network.receivers)
    return [*_BARE_PYTHON, _TCP_SEND, _TCP_PORT, str(scene.source.raw), *addresses]


def _cp(scene: Scene) -> list[str]:
    return [
        "sh",
        "-c",
        _COPY_ALL,
        str(scene.source.raw),
        *(str(scene.target(host)) for host in scene.network.receivers),
    ]


OURS = "ghostcast"
TOOLS = {
    tool.name: tool
    for tool in (
        Tool(OURS, _ghostcast_send, _ghostcast_receive, ready=b'"searching"'),
        Tool(
            "udpcast",
            _udpcast_send,
            _udpcast_receive,
            ready=b"UDP receiver for",
            packages=(("udp-sender", "udpcast"), ("udp-receiver", "udpcast")),
        ),
        Tool(
            "udpcast-plain",
            functools.partial(_udpcast_send, waits=()),
            functools.partial(_udpcast_receive, waits=()),
            ready=b"UDP receiver for",
            packages=(("udp-sender", "udpcast"), ("udp-receiver", "udpcast")),
        ),
        Tool(
            "uftp",
            _uftp_send,
            _uftp_receive,
            ready=b"Loaded",
            complete=b"RESULT;",
            packages=(("uftp", "uftp"), ("uftpd", "uftp")),
        ),
        Tool("tcp", _tcp_send, _tcp_receive, ready=b"ready"),
        Tool("cp", _cp, packages=(("cp", "coreutils"),)),
    )
}


class _Child:
    """A process on a host: what it said last, and, once it has ended, what it cost."""

    def __init__(self, host: Host, command: Sequence[str], complete: bytes) -> None:
        self.name = f"{host.name}: {pathlib.Path(command[0]).name}"
        self._complete = complete
        # Every link executes the next, so the process measured is the command. ``hostname`` answers with the host's
        # name, because ghostcast tells receivers apart by it.
        chain = ("ip", "netns", "exec", host.namespace, "unshare", "--uts", "sh", "-c", _SET_HOST_NAME, host.name)
        self._popen = subprocess.Popen(
            [*chain, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the terminal reaches us alone, and we end it in order
        )
        assert self._popen.stdout is not None
        self.stdout = self._popen.stdout.fileno()
        os.set_blocking(self.stdout, False)
        self.pidfd = os.pidfd_open(self._popen.pid)
        self.said = b""
        self.has_copy_s: float | None = None
        """When its copy was complete: it said so, or, where it would not say so, it ended."""
        self.ended_s: float | None = None
        self.cpu_seconds = 0.0
        self.memory_bytes = 0

    @property
    def status(self) -> int | None:
        status: int | None = self._popen.returncode
        return status

    def read(self) -> bool:
        """Take in what it has said since; return whether more can come."""
        try:
            data = os.read(self.stdout, 65536)
        except BlockingIOError:
            return True
        said = self.said + data
        if self._complete and self.has_copy_s is None and self._complete in said:
            self.has_copy_s = time.monotonic()
        self.said = said[-_OUTPUT_KEPT:]
        return bool(data)

    def sample_memory(self) -> None:
        """Note the most memory that was resident so far.

        Not ``ru_maxrss``, which an exec does not reset: it would begin at what this benchmark itself holds.
        """
        with contextlib.suppress(OSError):
            status = pathlib.Path(f"/proc/{self._popen.pid}/status").read_text()
            if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
                self.memory_bytes = int(found[1]) * 1024

    def reap(self) -> None:
        """Collect the ended process and what it cost; wait where it has not ended yet."""
        _, status, usage = os.wait4(self._popen.pid, 0)
        self.ended_s = time.monotonic()
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        if not self._complete:
            self.has_copy_s = self.ended_s

    def kill(self) -> None:
        """Kill it, with its group, if it still runs."""
        if self.ended_s is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self.reap()

    def close(self) -> None:
        """Kill it, and release what was kept to watch it."""
        self.kill()
        os.close(self.pidfd)
        assert self._popen.stdout is not None
        self._popen.stdout.close()


class _Children:
    """The processes of one run, watched from one loop; a context manager that ends with all of them dead."""

    def __init__(self) -> None:
        self._children: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        self._sampled_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        while self._children:
            self._children.pop().close()

    def start(self, host: Host, command: Sequence[str], *, complete: bytes = b"") -> _Child:
        """Start a command on a host."""
        child = _Child(host, command, complete)
        self._children.append(child)
        self._selector.register(child.stdout, selectors.EVENT_READ, child)
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        return child

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Watch until a condition holds.

        Raises:
            RunFailed: it takes too long, or a process ends with another status than 0.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise RunFailed(f"{what}: not within {timeout_s:.0f} s\n{self._last_words()}")
            self._watch()
            if failed := [child for child in self._children if child.status]:
                raise RunFailed(f"{failed[0].name} ended with status {failed[0].status}\n{self._last_words()}")

    def _watch(self) -> None:
        for key, _ in self._selector.select(_SAMPLE_INTERVAL_S):
            child: _Child = key.data
            if key.fd == child.pidfd:
                child.reap()
                self._selector.unregister(key.fd)
            elif not child.read():
                self._selector.unregister(key.fd)
        if time.monotonic() - self._sampled_s >= _SAMPLE_INTERVAL_S:
            self._sampled_s = time.monotonic()
            for child in self._children:
                child.sample_memory()

    def _last_words(self) -> str:
        return "\n".join(f"--- {child.name} ---\n{child.said.decode(errors='replace')}" for child in self._children)


def run_once(tool: Tool, scene: Scene, number: int) -> Run:
    """Let one tool copy the source to every receiver, and verify all copies.

    Raises:
        RunFailed: it did not, or not in time.
    """
    receivers, sender_host = scene.network.receivers, scene.network.sender
    background_cores = _prepare(scene)
    with _Children() as children:
        waiting: list[_Child] = []
        if tool.receive:
            waiting += (children.start(host, tool.receive(scene, host), complete=tool.complete) for host in receivers)
        children.until(lambda: all(tool.ready in child.said for child in waiting), "receivers ready", _START_TIMEOUT_S)
        settled_s = time.monotonic() + _SETTLE_S
        children.until(lambda: time.monotonic() > settled_s, "receivers still there", _START_TIMEOUT_S)

        wire_before = _wire_bytes(sender_host)
        started_s = time.monotonic()
        sender = children.start(sender_host, tool.send(scene))
        copying = waiting or [sender]
        children.until(lambda: all(child.has_copy_s for child in copying), "copied", scene.parameters.timeout_s)
        for host in receivers:
            _flush_copy(scene, host)
        durable_s = time.monotonic()
        children.until(lambda: sender.ended_s is not None, "sender ended", _EXIT_TIMEOUT_S)
        wire = _wire_bytes(sender_host)
        for child in waiting:
            child.kill()  # a daemon does not end by itself, and only a dead one tells its processor time
    for host in receivers:
        if digest(scene.target(host)) != scene.source.digest:
            raise RunFailed(f"the copy of {host.name} is not what was sent")
    return Run(
        round=number,
        tool=tool.name,
        copied_seconds=max(child.has_copy_s or 0 for child in copying) - started_s,
        durable_seconds=durable_s - started_s,
        sender_seconds=(sender.ended_s or 0) - started_s,
        sender_cpu_seconds=sender.cpu_seconds,
        receiver_cpu_seconds=tuple(child.cpu_seconds for child in waiting),
        sender_memory_bytes=sender.memory_bytes,
        receiver_memory_bytes=tuple(child.memory_bytes for child in waiting),
        wire_sent_bytes=wire[0] - wire_before[0],
        wire_received_bytes=wire[1] - wire_before[1],
        background_cores=background_cores,
    )


def _prepare(scene: Scene) -> float:
    """Make every run begin alike: no targets, nothing left to flush, sources in memory. Return who else is busy."""
    for host in scene.network.receivers:
        directory = scene.target(host).parent
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    _command("sync", "--file-system", str(scene.directory))
    for path in (scene.source.raw, scene.source.image):
        digest(path)
    return busy_cores(_BACKGROUND_S)


def digest(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file. None of the tools computes it, ghostcast least of all."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def busy_cores(seconds: float) -> float:
    """Return how many cores were busy, on average, for some seconds that this process sleeps away."""
    before = _busy_ticks()
    time.sleep(seconds)
    return (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def _busy_ticks() -> int:
    # user nice system idle iowait irq softirq steal: all but the two idle ones
    ticks = [int(field) for field in pathlib.Path("/proc/stat").read_text().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4]


def _flush_copy(scene: Scene, host: Host) -> None:
    try:
        file = os.open(scene.target(host), os.O_RDONLY)
    except FileNotFoundError:
        raise RunFailed(f"{host.name} has no copy") from None
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _wire_bytes(host: Host) -> tuple[int, int]:
    """Return what the interface of a host has sent and received, in bytes."""
    shown = _command("ip", "-n", host.namespace, "-json", "-statistics", "link", "show", "dev", host.interface)
    counters = json.loads(shown)[0]["stats64"]
    return counters["tx"]["bytes"], counters["rx"]["bytes"]


def _command(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_COMMAND_TIMEOUT_S)
    if done.returncode:
        raise Unusable(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


@contextlib.contextmanager
def built(parameters: Parameters) -> Iterator[DirectLink | Bridge]:
    """Build the lab's network: all traffic of all tools stays inside."""
    network: DirectLink | Bridge
    if parameters.layout == "direct":
        network = DirectLink(mtu=parameters.mtu, offloads=parameters.offloads)
    else:
        network = Bridge(parameters.receivers, mtu=parameters.mtu, offloads=parameters.offloads)
    with network:
        if not parameters.offloads:
            for host in network.hosts:
                # The lab cuts UDP; here TCP must not pass in batches either.
                features = ("tso", "off", "gso", "off", "gro", "off")
                _command("ip", "netns", "exec", host.namespace, "ethtool", "-K", host.interface, *features)
        if parameters.loss and isinstance(network, Bridge):
            for host in network.receivers:
                network.set_loss(host, parameters.loss)
        yield network


@contextlib.contextmanager
def tuned(settings: pathlib.Path = _KERNEL_SETTINGS) -> Iterator[None]:
    """Give sockets larger receive buffers, as the manuals of udpcast and UFTP advise, and put the settings back.

    Namespaces have none of their own: the whole machine's change, so this is never done unasked.
    """
    with contextlib.ExitStack() as stack:
        for name in _BUFFER_SETTINGS:
            path = settings / name
            before = path.read_text()
            if int(before) < _TUNED_BUFFER_SIZE:
                stack.callback(path.write_text, before)
                path.write_text(str(_TUNED_BUFFER_SIZE))
        yield


def make_source(directory: pathlib.Path, parameters: Parameters) -> Source:
    """Write the bytes to copy, and make the image of them."""
    raw, image = directory / "source.raw", directory / "source.img.zst"
    with raw.open("xb") as file:
        for piece in CONTENTS[parameters.content](parameters.size):
            file.write(piece)
    started_s = time.monotonic()
    _command(*_GHOSTCAST, "image", "create", str(raw), str(image))
    image_seconds = time.monotonic() - started_s
    return Source(raw, image, digest(raw), image_seconds)


def _random_bytes(size: int) -> Iterator[bytes]:
    rng = np.random.default_rng(1)
    for start in range(0, size, _PIECE_SIZE):
        yield rng.bytes(min(_PIECE_SIZE, size - start))


def _system_files(size: int) -> Iterator[bytes]:
    """Yield the files of /usr, one after another and from the beginning again, up to a size."""
    left = size
    while left:
        left_before = left
        for directory, directories, names in os.walk("/usr"):
            directories.sort()
            for name in sorted(names):
                path = pathlib.Path(directory, name)
                if path.is_symlink() or not path.is_file():
                    continue
                with path.open("rb") as file:
                    while left and (piece := file.read(min(_PIECE_SIZE, left))):
                        left -= len(piece)
                        yield piece
        if left == left_before:
            raise Unusable("--content system: /usr holds no files")


CONTENTS = {"random": _random_bytes, "system": _system_files}
"""What the source holds: bytes that no tool can compress, or what disks hold."""


def measure(parameters: Parameters, scene: Scene, say: Callable[[str], None]) -> tuple[list[Run], list[Failure]]:
    """Run all tools in turn, round after round; a tool that fails does not stop the others."""
    runs: list[Run] = []
    failures: list[Failure] = []
    for number in range(1, parameters.rounds + 1):
        for name in parameters.tools:
            try:
                run = run_once(TOOLS[name], scene, number)
            except RunFailed as error:
                failures.append(Failure(number, name, str(error)))
                say(f"round {number}: {name} FAILED: {error}")
                continue
            runs.append(run)
            busy = f"; {run.background_cores:.1f} cores busy before" if run.background_cores > _QUIET_CORES else ""
            say(f"round {number}: {name}: {run.copied_seconds:.2f} s, flushed {run.durable_seconds:.2f} s{busy}")
    return runs, failures


def spreads(runs: Sequence[Run], size: int) -> dict[str, dict[str, Spread]]:
    """Return tool → figure → spread over its rounds."""
    found: dict[str, dict[str, Spread]] = {}
    for name in dict.fromkeys(run.tool for run in runs):
        own = [run for run in runs if run.tool == name]
        found[name] = {
            "copied_seconds": Spread.of(run.copied_seconds for run in own),
            "durable_seconds": Spread.of(run.durable_seconds for run in own),
            "image_gbit_per_s": Spread.of(size * 8e-9 / run.durable_seconds for run in own),
            "sender_cpu_seconds": Spread.of(run.sender_cpu_seconds for run in own),
            "receivers_cpu_seconds": Spread.of(sum(run.receiver_cpu_seconds) for run in own),
            "sender_memory_bytes": Spread.of(run.sender_memory_bytes for run in own),
            "receiver_memory_bytes": Spread.of(max(run.receiver_memory_bytes, default=0) for run in own),
            "wire_per_image_byte": Spread.of(run.wire_sent_bytes / size for run in own),
        }
    return found


def ratios(runs: Sequence[Run]) -> dict[str, dict[str, Spread]]:
    """Return peer → figure → ghostcast's seconds / the peer's, round by round; rounds that one failed are left out."""
    by_round = {(run.round, run.tool): run for run in runs}
    pairs = [(by_round[run.round, OURS], run) for run in runs if run.tool != OURS and (run.round, OURS) in by_round]
    return {
        name: {
            figure: Spread.of(
                getattr(ours, figure) / getattr(peer, figure) for ours, peer in pairs if peer.tool == name
            )
            for figure in ("copied_seconds", "durable_seconds")
        }
        for name in dict.fromkeys(peer.tool for _, peer in pairs)
    }


def tables(runs: Sequence[Run], parameters: Parameters) -> Iterator[Table]:
    """Lay out what was found: time, then cost."""
    found, compared = spreads(runs, parameters.size), ratios(runs)
    time_table = Table(title=describe(parameters), caption=_TIME_CAPTION, title_justify="left", caption_justify="left")
    for heading in ("tool", "copied, s", "flushed, s", "Gbit/s", f"{OURS} / tool, copied", f"{OURS} / tool, flushed"):
        time_table.add_column(heading, justify="left" if heading == "tool" else "right")
    cost_table = Table(caption=_COST_CAPTION, caption_justify="left")
    for heading in ("tool", "sender CPU, s", "receivers CPU, s", "sender MB", "receiver MB", "wire B / image B"):
        cost_table.add_column(heading, justify="left" if heading == "tool" else "right")
    for name in parameters.tools:
        if name not in found:
            time_table.add_row(name, "failed")
            continue
        figures, against = found[name], compared.get(name, {})
        times = (figures[figure] for figure in ("copied_seconds", "durable_seconds", "image_gbit_per_s"))
        compared_times = (against[figure] for figure in ("copied_seconds", "durable_seconds") if against)
        runs_left = figures["copied_seconds"].n
        label = name if runs_left == parameters.rounds else f"{name} ({runs_left} of {parameters.rounds} runs)"
        time_table.add_row(label, *map(_shown, times), *map(_shown, compared_times))
        cost_table.add_row(
            label,
            _shown(figures["sender_cpu_seconds"]),
            _shown(figures["receivers_cpu_seconds"]),
            f"{figures['sender_memory_bytes'].median / 1e6:.0f}",
            f"{figures['receiver_memory_bytes'].median / 1e6:.0f}",
            f"{figures['wire_per_image_byte'].median:.3f}",
        )
    yield time_table
    yield cost_table


_TIME_CAPTION = (
    "Median (range). Copied: from the start of the sender to the last complete copy. "
    "Flushed: and all of it on the disk, "
    f"which {OURS} and udpcast wait for by themselves. Gbit/s: of the source, flushed. "
    f"Ratios: median of the rounds; below 1, {OURS} was faster."
)
_COST_CAPTION = "Processor time of user and kernel, whole commands; most resident memory of any process; bytes sent."


def _shown(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.minimum:.2f}–{spread.maximum:.2f})"


def describe(parameters: Parameters) -> str:
    """Return what is measured, in one line."""
    cable = "a direct link" if parameters.layout == "direct" else "a bridge"
    return (
        f"{parameters.size / 1e9:g} GB ({parameters.content}) to {parameters.receivers} over {cable} "
        f"{'with' if parameters.offloads else 'without'} offloads, MTU {parameters.mtu}, loss {parameters.loss:.1%}, "
        f"rounds: {parameters.rounds}"
    )


def machine() -> dict[str, object]:
    """Return what the figures depend on besides the parameters."""
    model = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _command("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40").strip(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{name: int((_KERNEL_SETTINGS / name).read_text()) for name in _BUFFER_SETTINGS},
        "load_average": os.getloadavg(),
        "packages": {package: _version(package) for tool in TOOLS.values() for _, package in tool.packages},
    }


def _version(package: str) -> str:
    with contextlib.suppress(Unusable, OSError):
        return _command("dpkg-query", "--show", "--showformat=${Version}", package)
    return "unknown"


def check_machine(parameters: Parameters, directory: pathlib.Path) -> None:
    """Refuse, before anything is built, what cannot work.

    Raises:
        Unusable: no root, a program or space is missing.
    """
    if os.geteuid() != 0:
        raise Unusable("the lab needs root to make network namespaces")
    programs = [*_LAB_PROGRAMS, *(pair for name in parameters.tools for pair in TOOLS[name].packages)]
    missing = sorted({package for program, package in programs if shutil.which(program) is None})
    if missing:
        raise Unusable(f"these Debian packages are missing: {' '.join(missing)}")
    needed, free = parameters.size * (parameters.receivers + 2), shutil.disk_usage(directory).free
    if free < needed:
        raise Unusable(f"{directory} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: see --directory")


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` means, as storage is sold: 1GB = 10^9, 1GiB = 2^30, 1000 = 1000.

    Not the command line's own, where 1G is binary: throughput in Gbit/s is decimal, so the size here is too.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b)?", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 300MB or 1GiB")
    size = Fraction(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ")
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is less than one byte")
    return int(size)


def parse_tools(text: str) -> tuple[str, ...]:
    """Return the names in a list separated by commas."""
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in TOOLS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    return names


def parse_arguments(arguments: Sequence[str] | None) -> tuple[Parameters, argparse.Namespace]:
    """Return what to measure, and the options that decide where and what to keep."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.head_to_head", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=parse_size, default=parse_size("1GB"), help="of the source: 1GB, 1GiB")
    parser.add_argument("--rounds", type=int, default=3, help="each runs every tool once, in turn")
    parser.add_argument("--receivers", type=int, default=1)
    parser.add_argument("--layout", choices=("direct", "bridge"), help="direct, if one receiver and no loss allow it")
    parser.add_argument("--offloads", action=argparse.BooleanOptionalAction, help="whether batches pass whole")
    parser.add_argument("--loss", type=float, default=0.0, help="fraction lost towards each receiver: 0.01")
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--content", choices=tuple(CONTENTS), default="random", help="of the source")
    parser.add_argument("--tools", type=parse_tools, default=tuple(TOOLS), help=f"default: {','.join(TOOLS)}")
    parser.add_argument("--timeout", type=float, help="seconds that a run may take; default: by size and receivers")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()), help="for files")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all rounds to a file")
    parser.add_argument("--tune", action="store_true", help="raise the machine's net.core.rmem_* meanwhile, for peers")
    parser.add_argument("--keep", action="store_true", help="keep the source, the image and the last copies")
    parser.add_argument("--quick", action="store_true", help="20 MB, 1 round: whether everything works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.size, options.rounds = QUICK_SIZE, 1
    if min(options.rounds, options.receivers) < 1:
        parser.error("--rounds and --receivers are at least 1")
    if not 0 <= options.loss < 1 or round(options.loss * 1000, 9) % 1:
        parser.error("--loss is a whole number of thousandths below 1, such as 0.01")
    only_bridge = options.receivers > 1 or options.loss > 0
    if only_bridge and options.layout == "direct":
        parser.error("a direct link has one receiver and no loss; use --layout bridge")
    layout: Layout = options.layout or ("bridge" if only_bridge else "direct")
    parameters = Parameters(
        size=options.size,
        rounds=options.rounds,
        receivers=options.receivers,
        layout=layout,
        offloads=layout == "direct" if options.offloads is None else options.offloads,
        loss=options.loss,
        mtu=options.mtu,
        content=options.content,
        tools=options.tools,
        timeout_s=options.timeout or 60 + options.size * options.receivers / _SLOWEST_BYTES_PER_S,
    )
    return parameters, options


def run_benchmark(parameters: Parameters, options: argparse.Namespace) -> int:
    """Measure, print and keep the results; return the exit status: 1 if any run failed."""
    error_console = Console(stderr=True)

    def say(text: str) -> None:
        error_console.print(text, markup=False, highlight=False, soft_wrap=True)

    check_machine(parameters, options.directory)
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="ghostcast-head-to-head-", dir=options.directory))
        if options.keep:
            stack.callback(say, f"kept: {directory}")
        else:
            stack.callback(shutil.rmtree, directory)
        say(describe(parameters))
        source = make_source(directory, parameters)
        stored = source.image.stat().st_size
        say(
            f"image made in {source.image_seconds:.2f} s, {parameters.size / stored:.2f}:1; {OURS} sends this image, "
            "the others send the raw file, and making it is no part of the times"
        )
        if options.tune:
            stack.enter_context(tuned())
        network = stack.enter_context(built(parameters))
        found_machine = machine()
        runs, failures = measure(parameters, Scene(parameters, source, network, directory), say)
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    for table in tables(runs, parameters):
        console.print(table)
    if options.json:
        results = {
            "machine": found_machine,
            "parameters": parameters,
            "image": {"seconds": source.image_seconds, "stored_bytes": stored},
            "figures": spreads(runs, parameters.size),
            "ratios": ratios(runs),
            "runs": runs,
            "failures": failures,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1, default=dataclasses.asdict) + "\n")
        say(f"written: {options.json}")
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return its exit status: 0 measured, 1 a run failed, 2 impossible here, 130 interrupted."""
    parameters, options = parse_arguments(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # whatever ends us lets us clean up
    try:
        return run_benchmark(parameters, options)
    except (Unusable, NetworkError) as error:
        print(f"head_to_head: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("head_to_head: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
