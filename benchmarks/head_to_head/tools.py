"""Every tool's command line, with the settings that its manual recommends, and how it says where it stands.

In whose favour each setting is: ../README.md.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import sys
from collections.abc import Callable
from typing import Literal

from benchmarks.head_to_head.machine import GHOSTCAST, TUNED_BUFFER_SIZE, Package
from benchmarks.head_to_head.scene import Scene
from tests.lab.network import Host

OURS = "ghostcast"

RATE_SHARE = 0.95
"""Of a shaped link's rate, what tools are told to send at: the rest is for headers and repairs."""

_GHOSTCAST_COMMON = ("--session", "head-to-head", "--json", "--interface")
_UDPCAST_COMMON = ("--nokbd", "--interface")
_UFTP_BUFFERS = ("-B", str(TUNED_BUFFER_SIZE))
_BARE_PYTHON = (sys.executable, "-I", "-S", "-c")
_TCP_PORT = "7001"
_COMPRESS = "zstd -1 -T0 -q -c"
"""The fastest level: a higher one saves bytes where the processor, not the link, is what udpcast waits for."""

_DECOMPRESS = "zstd -d -q -c"

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


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """One way to copy a file to machines."""

    name: str
    send: Callable[[Scene], list[str]]
    """The command that gives a copy to every receiver of the scene, and then ends."""
    receive: Callable[[Scene, Host], list[str]] | None = None
    """The command that waits on a host for its copy; None if the sender does it all."""
    ready: bytes = b""
    """What a receiver says once it waits for the sender."""
    complete: bytes = b""
    """What a receiver that is a daemon says when its copy is complete; empty if it ends instead."""
    milestones: tuple[bytes, ...] = ()
    """What the sender says on its way, in this order; when it did is kept with the run."""
    packages: tuple[Package, ...] = ()
    """Programs and the Debian packages that have them."""
    sends: Literal["image", "raw"] = "raw"
    """Which file: what it puts on the wire is compared with the size of this."""


def _ghostcast_receive(scene: Scene, host: Host) -> list[str]:
    return [*GHOSTCAST, "receive", str(scene.target(host)), *_GHOSTCAST_COMMON, host.interface]


def _ghostcast_send(scene: Scene, *, told: bool = False) -> list[str]:
    count = ("--receivers", str(scene.cell.receivers))
    rate = ("--rate", f"{_told_mbit(scene)}Mbit") if told and scene.cell.rate_mbit else ()
    return [
        *GHOSTCAST,
        "send",
        str(scene.source.image),
        *count,
        *rate,
        *_GHOSTCAST_COMMON,
        scene.network.sender.interface,
    ]


def _told_mbit(scene: Scene) -> int:
    assert scene.cell.rate_mbit is not None
    return int(scene.cell.rate_mbit * RATE_SHARE)


def _udpcast_receive(
    scene: Scene, host: Host, *, waits: tuple[str, ...] = ("--exit-wait", "50"), pipe: str = ""
) -> list[str]:
    # In its favour: by itself, a receiver that has everything lingers for 0.5 s.
    piped = ("--pipe", pipe) if pipe else ()
    return ["udp-receiver", *_UDPCAST_COMMON, host.interface, "--file", str(scene.target(host)), *piped, *waits]


def _udpcast_send(
    scene: Scene,
    *,
    waits: tuple[str, ...] = ("--rexmit-hello-interval", "100"),
    pipe: str = "",
    image: bool = False,
) -> list[str]:
    # In its favour: by itself, a sender looks only every 2 s whether all have come.
    start = ("--min-receivers", str(scene.cell.receivers), *waits)
    piped = ("--pipe", pipe) if pipe else ()
    rate = ("--max-bitrate", f"{_told_mbit(scene)}m") if scene.cell.rate_mbit else ()
    options = ("--full-duplex", "--nopointopoint", *start, *piped, *rate)
    file = scene.source.image if image else scene.source.raw
    return ["udp-sender", *_UDPCAST_COMMON, scene.network.sender.interface, "--file", str(file), *options]


def _uftp_receive(scene: Scene, host: Host) -> list[str]:
    # The cache keeps its size of 1 MB: with 4 and 20 MB it was no faster here.
    options = ("-d", "-q", "-F", "@LOG", *_UFTP_BUFFERS)
    return ["uftpd", *options, "-I", host.interface, "-U", _uftp_id(host), "-D", str(scene.target(host).parent)]


def _uftp_send(scene: Scene) -> list[str]:
    # A closed group begins as soon as all have come. Its manual wants 100 bytes for headers, its code 8800 at most.
    group = ("-H", ",".join(_uftp_id(host) for host in scene.network.receivers), "-P", "230.5.5.5")
    rate = str(_told_mbit(scene) * 1000) if scene.cell.rate_mbit else "-1"
    options = ("-R", rate, *_UFTP_BUFFERS, "-b", str(min(scene.cell.mtu - 100, 8800)))
    return ["uftp", *options, "-I", scene.network.sender.interface, *group, str(scene.source.raw)]


def _uftp_id(host: Host) -> str:
    return f"0x{int(ipaddress.ip_address(host.address)):08X}"


def _tcp_receive(scene: Scene, host: Host) -> list[str]:
    return [*_BARE_PYTHON, _TCP_RECEIVE, _TCP_PORT, str(scene.target(host))]


def _tcp_send(scene: Scene) -> list[str]:
    addresses = (host.address for host in scene.network.receivers)
    return [*_BARE_PYTHON, _TCP_SEND, _TCP_PORT, str(scene.source.raw), *addresses]


def _cp(scene: Scene) -> list[str]:
    targets = (str(scene.target(host)) for host in scene.network.receivers)
    return ["sh", "-c", _COPY_ALL, str(scene.source.raw), *targets]


_UDPCAST_PACKAGES = (("udp-sender", "udpcast"), ("udp-receiver", "udpcast"))
_UDPCAST_MILESTONES = (b"New connection", b"Starting transfer", b"Transfer complete")
_GHOSTCAST_MILESTONES = (b'"waiting"', b'"joined"', b'"started"', b'"verified"', b'"ended"', b'"finished"')

TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            OURS,
            _ghostcast_send,
            _ghostcast_receive,
            ready=b'"searching"',
            milestones=_GHOSTCAST_MILESTONES,
            sends="image",
        ),
        Tool(
            "ghostcast-told",
            functools.partial(_ghostcast_send, told=True),
            _ghostcast_receive,
            ready=b'"searching"',
            milestones=_GHOSTCAST_MILESTONES,
            sends="image",
        ),
        Tool(
            "udpcast",
            _udpcast_send,
            _udpcast_receive,
            ready=b"UDP receiver for",
            milestones=_UDPCAST_MILESTONES,
            packages=_UDPCAST_PACKAGES,
        ),
        Tool(
            "udpcast-plain",
            functools.partial(_udpcast_send, waits=()),
            functools.partial(_udpcast_receive, waits=()),
            ready=b"UDP receiver for",
            milestones=_UDPCAST_MILESTONES,
            packages=_UDPCAST_PACKAGES,
        ),
        Tool(
            "udpcast-zstd",
            functools.partial(_udpcast_send, pipe=_COMPRESS),
            functools.partial(_udpcast_receive, pipe=_DECOMPRESS),
            ready=b"UDP receiver for",
            milestones=_UDPCAST_MILESTONES,
            packages=(*_UDPCAST_PACKAGES, ("zstd", "zstd")),
        ),
        Tool(
            "udpcast-image",
            functools.partial(_udpcast_send, image=True),
            functools.partial(_udpcast_receive, pipe=_DECOMPRESS),
            ready=b"UDP receiver for",
            milestones=_UDPCAST_MILESTONES,
            packages=(*_UDPCAST_PACKAGES, ("zstd", "zstd")),
            sends="image",
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
