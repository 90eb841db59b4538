"""Options that several commands have, each defined once: the same name, the same bounds, the same words of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protocol import limits

SessionName = Annotated[
    str | None, typer.Option("--session", metavar="NAME", help="Which session.", show_default="the only one")
]

InterfaceName = Annotated[
    str | None,
    typer.Option("--interface", metavar="IF", help="Name or address.", show_default="the one with the default route"),
]

Port = Annotated[int, typer.Option("--port", metavar="P", min=1, max=65535, help="UDP port.")]

PORT_DEFAULT = limits.DISCOVERY_PORT

Ttl = Annotated[int, typer.Option("--ttl", min=0, max=255, help="Routers that multicast may cross, plus one.")]

ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write one JSON object about the run.", show_default=False),
]

JsonLines = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")]

WAIT_MAX_S = 1e7
