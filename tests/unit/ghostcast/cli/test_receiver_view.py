"""Goal: whoever watches a receiver sees where it stands, and nothing that the network wrote reaches the terminal as is.

Method: an engine that found a made-up session but does not run; JSON lines read back, the bar drawn into a string.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ghostcast.cli import receiver_view
from ghostcast.cli.receiver_view import JsonView, LiveView, PlainView, choose_view
from ghostcast.image.reader import ImageFile
from ghostcast.image.target import Target
from ghostcast.net.interfaces import choose_interface
from protocol import messages
from protocol.discovery import Found
from protocol.errors import ExitStatus
from protocol.manifest import Manifest, manifest_digest
from protocol.messages import SessionState
from protocol.receiver_events import Identity
from protocol.receiver_session import ReceiverSession
from receivers.engine import ReceiveEngine
from receivers.options import ReceiveOptions
from tests.images import make_image

EVIL = "\x1b[2Jname[red]\r\n"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """The manifest of a small image."""
    with ImageFile.open(make_image(tmp_path / "image", bytes(range(200)) * 200)) as image:
        return image.manifest


@pytest.fixture
def engine(tmp_path: Path, manifest: Manifest) -> Iterator[ReceiveEngine]:
    """An engine that has joined a session with an evil name, not running."""
    encoded = manifest.encode()
    announce = messages.Announce(
        EVIL, manifest.image_id, EVIL, manifest_digest(encoded), len(encoded), manifest.stream_size, manifest.raw_size,
        1440, 128, 32, 0xEF010203, 9, 9, 0, SessionState.SENDING, 0, 1000,
    )  # fmt: skip
    with Target.open(tmp_path / "copy", raw_size=None) as target:
        made = ReceiveEngine(target, ReceiveOptions(choose_interface("127.0.0.1"), session_name="lab"))
        made.found = Found(1, announce, "192.0.2.1")
        identity = Identity(bytes(16), 1, "host", "target", -1)
        made.session = ReceiverSession(made.found, identity, pool_size=1 << 20, rng=random.Random(1), now=0)
        yield made


def test_json_lines_are_json_and_nothing_else(
    engine: ReceiveEngine, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine.found is not None
    assert engine.session is not None
    view = choose_view(engine, True)
    assert isinstance(view, JsonView)
    with view:
        view.progress()
        view.searching()
        view.found(engine.found)
        view.welcomed(3)
        view.manifest(manifest)
        view.warning("slow\n")
        engine.session.manifest, engine.session.reception.bytes_done = manifest, manifest.raw_size // 4
        view.progress()
        view.progress()
    view.finish(ExitStatus.VERIFIED, "Done.")
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [json.loads(line) for line in captured.out.splitlines()]
    events = ["searching", "found", "joined", "writing", "warning", "progress", "finished"]
    assert [line["event"] for line in lines] == events
    assert lines[1]["session"] == EVIL
    assert lines[5]["share"] == 0.25
    assert lines[6] == {"event": "finished", "status": 0, "text": "Done."}


def test_plain_lines_do_not_obey_the_network(engine: ReceiveEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine.found is not None
    view = choose_view(engine, False)
    assert isinstance(view, PlainView)
    with view:
        view.found(engine.found)
        view.progress()
    view.finish(ExitStatus.INCOMPLETE, f"Not complete: {EVIL}")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.split("\n")
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith("looking for session 'lab' on ")
    assert "of 192.0.2.1" in lines[1]


@pytest.mark.parametrize("known", [False, True])
def test_the_bar_fits_80_columns(
    known: bool, engine: ReceiveEngine, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.session is not None
    assert engine.found is not None
    out = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_options: Console(width=80, file=out, color_system=None))
    view = LiveView(engine)
    with view:
        view.found(engine.found)
        if known:
            engine.session.manifest, engine.session.reception.bytes_done = manifest, manifest.raw_size // 2
        view.progress()
        with view._bar.console.capture() as captured:
            view._bar.console.print(view._bar.get_renderable())
    view.finish(ExitStatus.VERIFIED, f"Done. {EVIL}")
    lines = captured.get().splitlines() + out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert any(("50%" in line) == known for line in captured.get().splitlines())
    # The terminal shows a Ctrl-C behind the bar: on a full line it would begin a new one, and the bar would stay.
    assert max(map(len, captured.get().splitlines())) + len("^C") <= 80


def test_an_empty_image_is_done_at_once(engine: ReceiveEngine, tmp_path: Path) -> None:
    assert engine.session is not None
    view = choose_view(engine, True)
    assert view._share() == 0.0
    with ImageFile.open(make_image(tmp_path / "empty", b"")) as image:
        engine.session.manifest = image.manifest
    assert view._share() == 1.0
    assert view._loss() == 0.0


def test_it_is_drawn_a_few_times_a_second_at_most() -> None:
    assert receiver_view.REFRESH_S >= 0.1
