"""Goal: the doctor's words, statuses and JSON. Method: typer's runner, on loopback and with findings made by hand."""

from __future__ import annotations

import json
import socket

import pytest
from typer.testing import CliRunner

from ghostcast.cli import doctor, main
from ghostcast.measure.finding import Check, fault, fine, note, warning
from protocol.errors import ExitStatus, UsageError


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_it_shows_an_example() -> None:
    result = CliRunner().invoke(main.app, ["doctor", "--help"], env={"COLUMNS": "100"})
    assert "  ghostcast doctor --listen" in result.stdout


def test_loopback_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ALONE_S", 0.3)
    result = CliRunner().invoke(main.app, ["doctor", "--interface", "127.0.0.1", "--port", str(free_port()), "--json"])
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["event"] for event in events} == {"finding", "finished"}
    assert {"interface", "link", "mtu", "loop", "clock", "offloads", "fec"} <= {one.get("check") for one in events}
    assert events[-1]["status"] == 0


def test_people_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ALONE_S", 0.3)
    result = CliRunner().invoke(main.app, ["doctor", "--interface", "127.0.0.1", "--port", str(free_port())])
    assert result.exit_code == 0
    assert "ok      multicast that is sent on lo is heard on lo" in result.stderr
    assert "A clone would work" in result.stderr
    assert result.stdout == ""


def test_an_interface_that_is_not_there_is_a_finding() -> None:
    result = CliRunner().invoke(main.app, ["doctor", "--interface", "nosuch0"])
    assert result.exit_code == ExitStatus.INCOMPLETE
    assert "FAULT   there is no interface 'nosuch0'" in result.stderr


def test_usage() -> None:
    both = CliRunner().invoke(main.app, ["doctor", "--listen", "--peer", "127.0.0.1"])
    assert isinstance(both.exception, UsageError)
    itself = CliRunner().invoke(main.app, ["doctor", "--interface", "127.0.0.1", "--peer", "127.0.0.1"])
    assert isinstance(itself.exception, UsageError)
    unknown = CliRunner().invoke(main.app, ["doctor", "--peer", "no such host"])
    assert isinstance(unknown.exception, UsageError)


@pytest.mark.parametrize(
    ("checks", "status", "words"),
    [
        ([fine("a", ""), note("b", "")], ExitStatus.VERIFIED, "A clone would work"),
        ([warning("a", "")], ExitStatus.VERIFIED, "1 warning"),
        ([fault("peer", "absent")], ExitStatus.NOBODY_CAME, "the peer is not there"),
        ([fault("peer", "absent"), fault("mtu", "")], ExitStatus.INCOMPLETE, "2 faults"),
    ],
)
def test_the_conclusion(checks: list[Check], status: ExitStatus, words: str) -> None:
    found, text = doctor.conclude(checks, None)
    assert found is status
    assert words in text
