"""Goal: whoever watches a sender sees right counts on a narrow screen, whatever the receivers call themselves.

Method: the live table of 3 and of 300 receivers, drawn 80 columns wide into a string; JSON lines read back.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from ghostcast.cli import sender_view
from ghostcast.cli.sender_view import JsonView, LiveView, PlainView, choose_view, overall_share, receiver_table
from ghostcast.image.reader import ImageFile
from ghostcast.net.interfaces import choose_interface
from ghostcast.sender.engine import SendEngine
from ghostcast.sender.options import SendOptions
from protocol import messages
from protocol.errors import ExitStatus
from protocol.fleet import Peer, PeerState
from protocol.messages import SessionState
from protocol.sender_events import Event, EventKind, StartRule
from protocol.sender_session import SenderSession
from tests.images import make_image

RAW_SIZE = 40_000
EVIL = "\x1b[2J\x1b]0;owned\x07[red]host\r\n"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SendEngine]:
    """An engine with an open session, not running."""
    with ImageFile.open(make_image(tmp_path / "image", bytes(range(200)) * 200)) as image:
        options = SendOptions("lab", choose_interface("127.0.0.1"), StartRule(receivers=3))
        made = SendEngine(image, options, 4711)
        parameters = made._parameters(9)
        slices = -(-parameters.stream_size // (parameters.symbol_size * parameters.source_symbols))
        made.session = SenderSession(parameters, np.ones(slices, np.bool_), 0)
        yield made


def peer(index: int, state: PeerState, *, host: str | None = None, share: float = 0.0, lost: int = 0) -> Peer:
    report = messages.Report(index, 0, 0, 0, 0, lost, 0, 0, 0, 0, round(share * RAW_SIZE), state is PeerState.FINISHING)
    return Peer(
        index=index,
        receiver_id=index.to_bytes(16),
        incarnation=1,
        address=("192.0.2.1", 9),
        host=f"node{index:03}" if host is None else host,
        target="/dev/disk/by-id/nvme-a-very-long-name-of-a-disk-0123456789",
        target_size=-1,
        link_rate=0,
        joined_ns=0,
        heard_ns=0,
        state=state,
        report=report,
        loss=0.0123,
    )


def fleet(count: int) -> list[Peer]:
    """A fleet in which every seventh has failed, and every third of the rest is done."""
    peers = []
    for index in range(count):
        state = PeerState.FAILED if index % 7 == 1 else PeerState.VERIFIED if index % 3 == 0 else PeerState.RECEIVING
        peers.append(peer(index, state, share=0.5 + index / 1000, lost=10**9 + index))
    return peers


def drawn(shown: RenderableType) -> list[str]:
    out = io.StringIO()
    Console(width=80, file=out, color_system=None).print(shown)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def counted(lines: list[str]) -> dict[str, int]:
    """Return how many receivers a drawn table shows in which state, counted ones included."""
    text = "\n".join(lines)
    states = {"joined": 0} | {state.value: 0 for state in PeerState}
    for state in states:
        named = len(re.findall(rf"^ ?node\d.* {state} ", text, re.MULTILINE))
        states[state] = named + sum(map(int, re.findall(rf"(\d+) {state}", text)))
    return {state: count for state, count in states.items() if count}


@pytest.mark.parametrize("count", [0, 1, 3, sender_view.ROWS_MAX, sender_view.ROWS_MAX + 1, 300])
def test_the_table_fits_80_columns_and_leaves_nobody_out(count: int) -> None:
    peers = fleet(count)
    lines = drawn(receiver_table(peers, RAW_SIZE))
    assert len(lines) <= 1 + sender_view.ROWS_MAX + 3
    expected: dict[str, int] = {}
    for one in peers:
        expected[one.state.value] = expected.get(one.state.value, 0) + 1
    assert counted(lines) == expected


def test_those_that_need_attention_come_first_then_the_slowest() -> None:
    lines = drawn(receiver_table(fleet(20), RAW_SIZE))
    states = [state for line in lines for state in ("failed", "receiving", "verified") if f" {state} " in line]
    assert states == sorted(states, key=["failed", "receiving", "verified"].index)
    names = re.findall(r"(node\d+) .* receiving ", "\n".join(lines))
    assert names == sorted(names)


def test_a_host_cannot_write_to_the_terminal(engine: SendEngine) -> None:
    one = peer(0, PeerState.VANISHED, host=EVIL)
    one.target = "/dev/\x1b[31msda"
    text = "\n".join(drawn(receiver_table([one], RAW_SIZE)))
    assert all(line.isprintable() for line in text.splitlines())
    assert "\N{REPLACEMENT CHARACTER}" in text
    assert "[red]host" in text


@pytest.mark.parametrize("count", [0, 3, 300])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("height", [24, 60])
def test_the_whole_screen_fits_the_terminal(
    count: int, started: bool, height: int, engine: SendEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(width=80, height=height, file=io.StringIO(), color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda **_options: console)
    assert engine.session is not None
    engine.session.peers.extend(fleet(count))
    if started:
        engine.session.state = SessionState.SENDING
        engine.started_ns = 1
    view = LiveView(engine)
    with view:
        lines = drawn(view._draw())
    assert len(lines) < height
    if started:
        assert "%" in lines[0]
        assert "loss" in "".join(lines)
    else:
        joined = sum(one.live for one in engine.session.peers)
        assert lines[0].startswith(f"waiting: {joined} of 3 joined")
    assert sum(counted(lines[1:]).values()) == count


def test_the_share_is_the_slowest_ones(engine: SendEngine) -> None:
    assert engine.session is not None
    assert overall_share(engine) == 0.0
    engine.session.peers.append(peer(0, PeerState.VERIFIED))
    assert overall_share(engine) == 1.0
    engine.session.peers.extend([peer(1, PeerState.RECEIVING, share=0.9), peer(2, PeerState.RECEIVING, share=0.25)])
    assert overall_share(engine) == 0.25
    engine.session.peers.append(peer(3, PeerState.VANISHED, share=0.0))
    assert overall_share(engine) == 0.25


def test_json_lines_are_json_and_nothing_else(engine: SendEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine.session is not None
    view = choose_view(engine, True)
    assert isinstance(view, JsonView)
    engine.session.peers.append(peer(0, PeerState.RECEIVING, host=EVIL, share=0.5))
    engine.session.state = SessionState.SENDING
    with view:
        for kind in EventKind:
            view.event(Event(kind, engine.session.peers[0], "why\n"))
        view.progress()
        view.progress()
    view.finish(ExitStatus.INCOMPLETE, "Not complete.")
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert lines[0] == {"event": "waiting", "session": "lab", "group": engine.group}
    late = next(line for line in lines if line.get("late"))
    assert late["event"] == "joined"
    assert lines[1]["receiver"]["host"] == EVIL
    progress = [line for line in lines if line["event"] == "progress"]
    assert len(progress) == 1
    assert (progress[0]["share"], progress[0]["receivers"]) == (0.5, {"receiving": 1})
    assert lines[-1] == {"event": "finished", "status": 4, "text": "Not complete."}


def test_plain_lines_are_one_an_event_and_do_not_obey_hosts(
    engine: SendEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    view = choose_view(engine, False)
    assert isinstance(view, PlainView)
    with view:
        view.event(Event(EventKind.VANISHED, peer(0, PeerState.VANISHED, host=EVIL), "silent\x1b[0m"))
        view.progress()
    view.finish(ExitStatus.INCOMPLETE, f"Not complete: {EVIL}")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.split("\n")
    assert all(line.isprintable() for line in lines)
    assert "session 'lab'" in lines[0]
    assert "vanished - silent" in lines[-3]
    assert lines[-2].startswith("Not complete: ")
