"""Goal: a receiver says 0 only for a copy that was verified and flushed, and never calls a half-written target good.

Method: an engine that does not run, put into every way to end.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ghostcast.cli import main
from ghostcast.cli.receive import closing_line, exit_status
from ghostcast.image.reader import ImageFile
from ghostcast.image.target import Target
from ghostcast.net.interfaces import choose_interface
from protocol import messages
from protocol.discovery import Found
from protocol.errors import ExitStatus, GhostcastError, ImageError, TargetError
from protocol.manifest import manifest_digest
from protocol.messages import SessionState
from protocol.receiver_events import Identity, Outcome
from protocol.receiver_session import ReceiverSession
from receivers.copy import Copy
from receivers.engine import ReceiveEngine
from receivers.options import ReceiveOptions
from tests.images import make_image


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ReceiveEngine]:
    """An engine that has joined a session and knows the image, not running."""
    with ImageFile.open(make_image(tmp_path / "image", bytes(range(200)) * 200)) as image:
        manifest = image.manifest
    encoded = manifest.encode()
    announce = messages.Announce(
        "lab", manifest.image_id, manifest.name, manifest_digest(encoded), len(encoded), manifest.stream_size,
        manifest.raw_size, 1440, 128, 32, 0xEF010203, 9, 9, 0, SessionState.SENDING, 0, 1000,
    )  # fmt: skip
    with Target.open(tmp_path / "copy", raw_size=None) as target:
        made = ReceiveEngine(target, ReceiveOptions(choose_interface("127.0.0.1")))
        made.found = Found(1, announce, "192.0.2.1")
        identity = Identity(bytes(16), 1, "host", "target", -1)
        made.session = ReceiverSession(made.found, identity, pool_size=1 << 20, rng=random.Random(1), now=0)
        made.work.copy = Copy(manifest)
        yield made


@pytest.mark.parametrize(
    ("outcome", "error", "interrupted", "status"),
    [
        (Outcome.VERIFIED, None, False, ExitStatus.VERIFIED),
        (Outcome.VERIFIED, None, True, ExitStatus.VERIFIED),
        (Outcome.REFUSED, None, False, ExitStatus.TARGET),
        (Outcome.FAILED, TargetError("full"), False, ExitStatus.TARGET),
        (Outcome.FAILED, ImageError("lies"), False, ExitStatus.IMAGE),
        (Outcome.FAILED, None, False, ExitStatus.IMAGE),
        (Outcome.FAILED, None, True, ExitStatus.INTERRUPTED),
        (Outcome.SENDER_GONE, None, False, ExitStatus.INCOMPLETE),
        (Outcome.DEAF, None, False, ExitStatus.INCOMPLETE),
        (None, None, True, ExitStatus.INTERRUPTED),
        (None, None, False, ExitStatus.INCOMPLETE),
    ],
)
@pytest.mark.parametrize("touched", [False, True])
def test_every_end_has_its_status_and_sentence(
    outcome: Outcome | None,
    error: GhostcastError | None,
    interrupted: bool,
    status: ExitStatus,
    touched: bool,
    engine: ReceiveEngine,
) -> None:
    assert engine.session is not None
    engine.session.outcome, engine.session.outcome_text = outcome, "so it was"
    engine.error, engine._interrupted = error, interrupted
    if touched:
        engine.target.write(0, b"x")
    assert exit_status(engine) is status
    line = closing_line(engine, status)
    if status is ExitStatus.VERIFIED:
        assert line.startswith("Done. ")
    else:
        assert ("do not use it" in line) == touched
        assert ("Nothing was written" in line) == (not touched)


def test_without_a_session_nothing_is_verified(engine: ReceiveEngine) -> None:
    engine.session = None
    assert exit_status(engine) is ExitStatus.INCOMPLETE
    engine._interrupted = True
    assert exit_status(engine) is ExitStatus.INTERRUPTED
    assert "Nothing was written" in closing_line(engine, ExitStatus.INTERRUPTED)


@pytest.mark.parametrize(
    "options", [("--max-wait", "-1"), ("--port", "0"), ("--memory", "much"), ("--inject-loss", "0.95")]
)
def test_options_out_of_range_are_usage(options: tuple[str, str]) -> None:
    assert CliRunner().invoke(main.app, ["receive", "copy", *options]).exit_code == ExitStatus.USAGE
