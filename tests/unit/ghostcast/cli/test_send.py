"""Goal: what a sender says at the end is what became of every receiver, in status, sentence and report alike.

Method: an engine that does not run, with receivers put into every mixture of states.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ghostcast.cli import main
from ghostcast.cli.run import check_session_name
from ghostcast.cli.send import _default_name, closing_line, describe, exit_status, peer_summary
from ghostcast.image.reader import ImageFile
from ghostcast.net.interfaces import choose_interface
from ghostcast.sender.engine import SendEngine
from ghostcast.sender.options import SendOptions
from protocol.errors import ExitStatus, UsageError
from protocol.fleet import Peer, PeerState
from protocol.messages import EndReason
from protocol.sender_events import Event, EventKind, StartRule
from protocol.sender_session import SenderSession
from tests.images import make_image

V, F, G, R = PeerState.VERIFIED, PeerState.FAILED, PeerState.VANISHED, PeerState.REFUSED


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SendEngine]:
    """An engine with an open session, not running."""
    with ImageFile.open(make_image(tmp_path / "image", bytes(range(200)) * 200)) as image:
        made = SendEngine(image, SendOptions("lab", choose_interface("127.0.0.1"), StartRule()), 4711)
        parameters = made._parameters(9)
        slices = -(-parameters.stream_size // (parameters.symbol_size * parameters.source_symbols))
        made.session = SenderSession(parameters, np.ones(slices, np.bool_), 0)
        yield made


def peer(index: int, state: PeerState) -> Peer:
    return Peer(
        index=index,
        receiver_id=index.to_bytes(16),
        incarnation=1,
        address=("192.0.2.1", 9),
        host=f"node{index}\x1b",
        target="/dev/sda",
        target_size=-1,
        link_rate=0,
        joined_ns=5,
        heard_ns=5,
        state=state,
        reason="" if state is V else f"why{index}",
    )


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([], ExitStatus.NOBODY_CAME),
        ([V], ExitStatus.VERIFIED),
        ([V, V, V], ExitStatus.VERIFIED),
        ([F], ExitStatus.INCOMPLETE),
        ([V, G], ExitStatus.INCOMPLETE),
        ([V, R], ExitStatus.INCOMPLETE),
        ([V, PeerState.RECEIVING], ExitStatus.INCOMPLETE),
        ([V, PeerState.FINISHING], ExitStatus.INCOMPLETE),
        ([V] + [F] * 9, ExitStatus.INCOMPLETE),
    ],
)
def test_zero_is_only_for_a_fleet_that_is_verified(
    states: list[PeerState], status: ExitStatus, engine: SendEngine
) -> None:
    assert engine.session is not None
    peers = [peer(index, state) for index, state in enumerate(states)]
    engine.session.peers.extend([one for one in peers if one.state is not R])
    engine.session.refused.extend([one for one in peers if one.state is R])
    assert exit_status(engine) is status
    line = closing_line(engine, status)
    if states:
        assert f"{states.count(V)} of {len(states)} receivers verified" in line
    assert line.startswith(
        {ExitStatus.VERIFIED: "Done.", ExitStatus.NOBODY_CAME: "Nobody came"}.get(status, "Not complete.")
    )
    for one in [one for one in peers if one.state is not V][:5]:
        assert f"node{one.index}\ufffd:/dev/sda" in line
        assert f"why{one.index}" in line
    assert ("and 4 more" in line) == (len(states) == 10)


def test_an_interruption_is_130_whoever_was_done(engine: SendEngine) -> None:
    assert engine.session is not None
    engine.session.peers.append(peer(0, V))
    engine._interrupted = True
    assert exit_status(engine) is ExitStatus.INTERRUPTED
    assert closing_line(engine, ExitStatus.INTERRUPTED).startswith("Interrupted: 1 of 1")


@pytest.mark.parametrize("state", list(PeerState))
def test_at_the_end_every_receiver_has_a_final_state(state: PeerState, engine: SendEngine) -> None:
    assert engine.session is not None
    one = peer(0, state)
    engine.session.peers.append(one)
    engine.session.ended = EndReason.INTERRUPTED
    summary = peer_summary(engine, one)
    assert summary["state"] in ("verified", "failed", "vanished", "refused")
    assert (summary["state"] == "verified") == (state is V)
    assert bool(summary["reason"]) == (state is not V)
    assert summary["seconds"] >= 0


def test_an_event_is_one_line_without_control_characters() -> None:
    for kind in EventKind:
        line = describe(Event(kind, peer(1, V), "a\nb"))
        assert line.isprintable()
        assert kind.value.replace("_", " ") in line
    assert describe(Event(EventKind.STARTED)) == "started"


@pytest.mark.parametrize(
    "options",
    [
        ("--receivers", "0"),
        ("--max-wait", "-1"),
        ("--port", "0"),
        ("--port", "65536"),
        ("--ttl", "256"),
        ("--interleave", "257"),
        ("--fec", "-1"),
        ("--fec", "many"),
        ("--rate", "0Mbit"),
        ("--symbol-size", "big"),
    ],
)
def test_options_out_of_range_are_usage(options: tuple[str, str]) -> None:
    assert CliRunner().invoke(main.app, ["send", "IMAGE", *options]).exit_code == ExitStatus.USAGE


@pytest.mark.parametrize(
    "name", ["golden", "x" * 200, "\u00e9" * 100, "\N{GRINNING FACE}" * 128, "a\nb\x1b", "\udcff.img"]
)
def test_a_session_named_after_any_image_can_be_announced_and_asked_for(name: str) -> None:
    chosen = _default_name(name)
    check_session_name(chosen)
    assert chosen == name or not name.isprintable() or len(name.encode()) > 128


@pytest.mark.parametrize("name", ["", "x" * 129, "\u00e9" * 65, "a\nb", "\udcff"])
def test_a_session_name_that_no_datagram_carries_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 128 printable characters"):
        check_session_name(name)
