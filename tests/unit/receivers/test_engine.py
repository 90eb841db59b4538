"""Goal: an image sent over a lossy network is that image on every target, and both reports say so by their contract.

Method: the real commands as processes on loopback, on a port of their own, with loss thrown in at the receivers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghostcast.image.labels import change
from protocol.errors import ExitStatus
from protocol.limits import MIB
from protocol.match import MatchRule
from tests.images import CHUNK_SIZE, make_image

PATIENCE_S = 60.0
GHOSTCAST = (sys.executable, "-m", "ghostcast.cli.main")


def free_port() -> int:
    """Return a port that nobody uses, so that no session meets another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclasses.dataclass
class Session:
    """Commands of one session; whatever still runs at the end is killed."""

    directory: Path
    port: int = dataclasses.field(default_factory=free_port)
    processes: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)

    def start(self, verb: str, operand: Path, *options: str) -> subprocess.Popen[str]:
        report = self.report_path(len(self.processes))
        command = [*GHOSTCAST, verb, str(operand), "--interface", "127.0.0.1", "--port", str(self.port)]
        command += ["--session", "unit", "--max-wait", "30", "--json", "--report", str(report), *options]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def report_path(self, number: int) -> Path:
        return self.directory / f"report-{number}.json"

    def report(self, number: int) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.report_path(number).read_text())
        return report

    def wait(self) -> list[list[dict[str, Any]]]:
        """Wait for all; returns the JSON lines of each, after checking that there is nothing else."""
        lines = []
        for process in self.processes:
            out, seen = process.communicate(timeout=PATIENCE_S)
            assert seen == ""
            lines.append([json.loads(line) for line in out.splitlines()])
        return lines


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session whose processes do not outlive the test."""
    made = Session(tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("size", [0, 1, 4097, 3 * MIB + 5])
def test_every_copy_is_the_disk_and_the_reports_keep_their_contract(size: int, session: Session) -> None:
    raw = os.urandom(size // 2) + bytes(size - size // 2)
    image = make_image(session.directory / "image", raw, chunk_size=64 << 10 if size > MIB else CHUNK_SIZE)
    copies = [session.directory / "copy-1", session.directory / "copy-2"]
    copies[1].write_bytes(b"\xdd" * (size + 70_000))
    session.start("send", image, "--receivers", "2")
    for copy in copies:
        session.start("receive", copy, "--inject-loss", "0.2")
    lines = session.wait()
    assert [process.returncode for process in session.processes] == [0, 0, 0]
    for copy in copies:
        assert copy.read_bytes() == raw
    check_sender_report(session.report(0), raw, image)
    for number in (1, 2):
        check_receiver_report(session.report(number), raw, session.report(0))
    assert lines[0][0]["event"] == "waiting"
    assert [line["event"] for line in lines[0] if "receiver" in line].count("verified") == 2
    events = [line["event"] for line in lines[1] if line["event"] not in ("progress", "scan", "warning")]
    assert events[:2] + events[-1:] == ["searching", "found", "finished"]
    assert sorted(events[2:-1]) == ["joined", "writing"]  # the manifest may overtake the WELCOME
    assert [part[-1]["status"] for part in lines] == [0, 0, 0]


def check_sender_report(report: dict[str, Any], raw: bytes, image: Path) -> None:
    contract = {
        "session",
        "image",
        "seconds",
        "wire_bytes",
        "symbols",
        "passes",
        "nacks",
        "rate_bits_per_s",
        "receivers",
    }
    assert contract <= set(report)
    assert report["session"] == "unit"
    assert report["image"]["raw_bytes"] == len(raw)
    assert {"id", "raw_bytes", "stored_bytes", "chunks"} <= set(report["image"])
    assert report["wire_bytes"] > report["image"]["stored_bytes"]
    assert set(report["symbols"]) == {"source", "repair"}
    assert report["passes"] >= 1
    assert len(report["receivers"]) == 2
    for receiver in report["receivers"]:
        assert {"id", "host", "state", "seconds"} <= set(receiver)
        assert receiver["state"] == "verified"
        assert receiver["seconds"] <= report["seconds"]
    assert len({receiver["id"] for receiver in report["receivers"]}) == 2


def check_receiver_report(report: dict[str, Any], raw: bytes, sender: dict[str, Any]) -> None:
    contract = {"session", "state", "image", "seconds", "bytes_written", "chunks", "slices", "symbols"}
    assert contract <= set(report)
    assert (report["session"], report["state"]) == ("unit", "verified")
    assert report["image"]["id"] == sender["image"]["id"]
    assert {"written", "reused", "zero"} <= set(report["chunks"])
    assert {"received", "decoded", "requested"} <= set(report["slices"])
    assert {"received", "duplicate", "lost_network", "lost_host"} <= set(report["symbols"])
    chunks = report["chunks"]
    assert chunks["written"] + chunks["reused"] + chunks["zero"] == report["image"]["chunks"]
    assert report["bytes_written"] <= len(raw)
    if len(raw) > MIB:
        assert chunks["zero"] > 0
        assert report["bytes_written"] >= len(raw) // 2
        assert report["slices"]["decoded"] > 0
        assert report["symbols"]["lost_network"] > 0


def test_a_target_that_cannot_be_used_ends_with_5_and_a_report(session: Session) -> None:
    session.start("receive", session.directory / "nowhere" / "copy")
    process = session.processes[0]
    out, seen = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitStatus.TARGET
    assert seen.startswith("ghostcast: ")
    assert seen.count("\n") == 1
    assert out == ""
    report = session.report(0)
    assert report["state"] == "failed"
    assert "does not exist" in report["reason"]


def test_an_image_for_other_machines_is_refused_by_name_on_both_ends_and_force_overrules(session: Session) -> None:
    raw = os.urandom(50_000)
    rule = MatchRule(architectures=("pdp11",), memory_size_min=1 << 50)
    image = make_image(session.directory / "image", raw, match=rule)
    copies = [session.directory / "refused", session.directory / "forced"]
    session.start("send", image, "--receivers", "2")
    session.start("receive", copies[0])
    session.start("receive", copies[1], "--force")
    lines = session.wait()
    assert [process.returncode for process in session.processes] == [ExitStatus.INCOMPLETE, ExitStatus.TARGET, 0]
    assert not copies[0].exists()
    assert copies[1].read_bytes() == raw
    states = {Path(peer["target"]).name: peer for peer in session.report(0)["receivers"]}
    assert (states["refused"]["state"], states["forced"]["state"]) == ("failed", "verified")
    for reason in (states["refused"]["reason"], session.report(1)["reason"]):
        assert f"its architecture is {os.uname().machine}, the image is for pdp11" in reason
        assert "of memory" in reason
    assert "receive --force" in session.report(1)["reason"]
    assert any("pdp11" in line.get("text", "") for line in lines[2] if line["event"] == "warning")


def test_a_name_of_the_library_is_sent_with_the_rule_that_was_noted_later(session: Session) -> None:
    raw = os.urandom(50_000)
    library = session.directory / "library"
    library.mkdir()
    make_image(library / "golden@1.img.zst", b"older")
    change(make_image(library / "golden@2.img.zst", raw), {}, lambda _: MatchRule(architectures=("pdp11",)))
    session.start("send", Path("golden"), "--library", str(library), "--receivers", "2")
    copies = [session.directory / "refused", session.directory / "forced"]
    session.start("receive", copies[0])
    session.start("receive", copies[1], "--force")
    session.wait()
    assert [process.returncode for process in session.processes] == [ExitStatus.INCOMPLETE, ExitStatus.TARGET, 0]
    assert not copies[0].exists()
    assert copies[1].read_bytes() == raw


def test_nobody_in_time_is_3_on_both_sides(session: Session) -> None:
    image = make_image(session.directory / "image", b"x")
    sender = session.start("send", image, "--max-wait", "0.2")
    out, _seen = sender.communicate(timeout=PATIENCE_S)
    assert sender.returncode == ExitStatus.NOBODY_CAME
    assert [json.loads(line)["event"] for line in out.splitlines()][-1] == "finished"
    assert session.report(0)["receivers"] == []
    receiver = session.start("receive", session.directory / "copy", "--max-wait", "0.2")
    _out, seen = receiver.communicate(timeout=PATIENCE_S)
    assert receiver.returncode == ExitStatus.NOBODY_CAME
    assert "no session named 'unit' was announced" in seen
    assert not (session.directory / "copy").exists()
    assert session.report(1)["state"] == "failed"


def test_an_interrupted_session_is_130_and_the_receiver_is_told(session: Session) -> None:
    """The sender waits for a second receiver, so that it is certainly still waiting when it is interrupted."""
    image = make_image(session.directory / "image", os.urandom(10_000))
    sender = session.start("send", image, "--receivers", "2")
    receiver = session.start("receive", session.directory / "copy")
    assert sender.stdout is not None
    for line in sender.stdout:
        if json.loads(line)["event"] == "joined":
            break
    sender.terminate()
    sender.communicate(timeout=PATIENCE_S)
    receiver.communicate(timeout=PATIENCE_S)
    assert sender.returncode == ExitStatus.INTERRUPTED
    assert receiver.returncode == ExitStatus.INCOMPLETE
    assert session.report(0)["interrupted"]
    assert session.report(0)["receivers"][0]["state"] in ("failed", "vanished", "refused")
    assert session.report(1)["state"] in ("failed", "vanished")
    assert not (session.directory / "copy").exists()


# --- what the target holds already ------------------------------------------------------------------------------------

REUSED_RAW = random.Random(5).randbytes(2 * MIB) + bytes(MIB) + random.Random(6).randbytes(MIB + 77)
REUSED_CHUNK_SIZE = 64 << 10


def reuse_image(session: Session) -> Path:
    return make_image(session.directory / "image", REUSED_RAW, chunk_size=REUSED_CHUNK_SIZE)


def held(kind: str) -> bytes:
    """Return what is on a target before the run."""
    changed = bytearray(REUSED_RAW)
    changed[REUSED_CHUNK_SIZE * 7 + 5] ^= 1
    return {
        "complete": REUSED_RAW,
        "older": bytes(changed),
        "interrupted": REUSED_RAW[: 9 * REUSED_CHUNK_SIZE] + bytes(5 * MIB),
        "cut": REUSED_RAW[: 9 * REUSED_CHUNK_SIZE + 100],
        "foreign": random.Random(7).randbytes(6 * MIB),
        "blank": b"",
    }[kind]


REUSED_COUNT = {"complete": 49, "older": 48, "interrupted": 9, "cut": 9, "foreign": 0, "blank": 0}


def test_a_mixed_fleet_ends_exact_and_counts_what_it_reused(session: Session) -> None:
    image = reuse_image(session)
    copies = {kind: session.directory / kind for kind in REUSED_COUNT}
    session.start("send", image, "--receivers", str(len(copies)))
    for kind, copy in copies.items():
        if kind != "blank":
            copy.write_bytes(held(kind))
        session.start("receive", copy, "--inject-loss", "0.1", *(["--verify", "read"] if kind == "older" else []))
    session.wait()
    assert [process.returncode for process in session.processes] == [0] * 7
    for number, (kind, copy) in enumerate(copies.items(), 1):
        assert copy.read_bytes() == REUSED_RAW
        chunks = session.report(number)["chunks"]
        # What the network brought before it was looked at counts as written.
        assert chunks["written"] + chunks["reused"] == 49
        assert chunks["reused"] <= REUSED_COUNT[kind]


@pytest.mark.parametrize(("kind", "share"), [("complete", 0.0), ("older", 0.5), ("cut", 1.2)])
def test_only_what_is_lacking_is_sent(kind: str, share: float, session: Session) -> None:
    image = reuse_image(session)
    copy = session.directory / "copy"
    copy.write_bytes(held(kind))
    session.start("send", image, "--receivers", "1", "--symbol-size", "1440")
    session.start("receive", copy)
    session.wait()
    assert copy.read_bytes() == REUSED_RAW
    assert session.report(1)["chunks"]["reused"] == REUSED_COUNT[kind]
    sender = session.report(0)
    manifest_size = 100_000
    assert sender["wire_bytes"] <= share * sender["image"]["stored_bytes"] + manifest_size
    assert session.report(1)["slices"]["requested"] > 0 or kind == "complete"


def test_a_fleet_can_be_verified_in_a_session_without_a_byte_written(session: Session) -> None:
    image = reuse_image(session)
    copies = {kind: session.directory / kind for kind in ("complete", "older")}
    session.start("send", image, "--receivers", "2")
    for kind, copy in copies.items():
        copy.write_bytes(held(kind))
        session.start("verify", copy)
    session.wait()
    assert [process.returncode for process in session.processes] == [4, 0, 5]
    assert [copy.read_bytes() == held(kind) for kind, copy in copies.items()] == [True, True]
    start = 7 * REUSED_CHUNK_SIZE
    assert session.report(1)["differs"] == []
    assert session.report(2)["differs"] == [[start, start + REUSED_CHUNK_SIZE]]
    states = {receiver["target"]: receiver["state"] for receiver in session.report(0)["receivers"]}
    assert states == {str(copies["complete"]): "verified", str(copies["older"]): "failed"}


def test_fresh_takes_everything_and_both_at_once_are_refused(session: Session) -> None:
    image = reuse_image(session)
    copy = session.directory / "copy"
    copy.write_bytes(held("complete"))
    session.start("send", image, "--receivers", "1")
    session.start("receive", copy, "--fresh")
    session.wait()
    assert copy.read_bytes() == REUSED_RAW
    assert session.report(1)["chunks"] == {"written": 49, "reused": 0, "zero": 16, "damaged": 0}
    refused = session.start("receive", copy, "--fresh", "--reuse")
    _out, seen = refused.communicate(timeout=PATIENCE_S)
    assert refused.returncode == ExitStatus.USAGE
    assert "choose one of them" in seen


def test_a_sender_that_is_killed_and_started_again_takes_its_receivers_back(session: Session) -> None:
    """The first sender waits for a third receiver until it is killed, so nothing depends on when that happens."""
    image = reuse_image(session)
    copies = [session.directory / "copy-1", session.directory / "copy-2"]
    copies[1].write_bytes(held("interrupted"))
    first = session.start("send", image, "--receivers", "3")
    for copy in copies:
        session.start("receive", copy)
    assert first.stdout is not None
    joined = 0
    while joined < 2:
        joined += json.loads(first.stdout.readline())["event"] == "joined"
    first.kill()
    first.communicate()
    session.processes.remove(first)
    session.start("send", image, "--receivers", "2")
    lines = session.wait()
    assert [process.returncode for process in session.processes] == [0, 0, 0]
    assert [copy.read_bytes() == REUSED_RAW for copy in copies] == [True, True]
    assert [line["event"] for line in lines[0]].count("found") == 2
    assert session.report(1)["sessions"] == 2
