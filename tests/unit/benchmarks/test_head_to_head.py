"""The comparison with the peers: its arithmetic, and the rig that it times tools with.

Goal: no figure in the results may come from a copy that is wrong, a tool that failed, or rounds that do not belong
together. Method: figures from runs made up here; the command itself, quick, in a real network; and tools planted there
that damage a copy, fail and hang.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks import head_to_head
from benchmarks.head_to_head import ROOT, Run, RunFailed, Scene, Tool
from tests.lab.network import DirectLink, NetworkError

MIB = 1 << 20


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Iterator[Scene]:
    """A direct link and a source of 1 MB, with 20 seconds for a run."""
    need_lab()
    parameters, _ = head_to_head.parse_arguments(["--size", "1MB", "--timeout", "20"])
    source = head_to_head.make_source(tmp_path, parameters)
    with head_to_head.built(parameters) as network:
        yield Scene(parameters, source, network, tmp_path)


def need_lab() -> None:
    """Skip the test where the machine gives no lab."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("the lab needs Linux and root to make network namespaces")
    if lacking := [program for program in ("ip", "nft", "ethtool", "unshare", "git") if shutil.which(program) is None]:
        pytest.skip(f"the lab needs these programs: {' '.join(lacking)}")
    try:
        with DirectLink():
            pass
    except NetworkError as error:
        pytest.skip(f"the kernel gives no lab network: {error}")


def made_up_run(number: int, tool: str, copied_seconds: float, durable_seconds: float) -> Run:
    return Run(
        round=number,
        tool=tool,
        copied_seconds=copied_seconds,
        durable_seconds=durable_seconds,
        sender_seconds=durable_seconds,
        sender_cpu_seconds=1.0,
        receiver_cpu_seconds=(1.0, 2.0),
        sender_memory_bytes=MIB,
        receiver_memory_bytes=(MIB, 3 * MIB),
        wire_sent_bytes=2000,
        wire_received_bytes=10,
        background_cores=0.0,
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 10**9), ("1GiB", 1 << 30), ("300MB", 300_000_000), ("1.5kb", 1500), ("20 MiB", 20 * MIB), ("7", 7)],
)
def test_a_size_is_decimal_unless_it_says_otherwise(text: str, size: int) -> None:
    assert head_to_head.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1MB", "1ib", "1G B", "0.1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        head_to_head.parse_size(text)


def test_a_ratio_pairs_the_runs_of_one_round_and_leaves_out_halves() -> None:
    runs = [
        made_up_run(1, "ghostcast", 2.0, 2.0),
        made_up_run(1, "udpcast", 8.0, 10.0),
        made_up_run(2, "ghostcast", 6.0, 6.0),
        made_up_run(2, "udpcast", 12.0, 15.0),
        made_up_run(3, "ghostcast", 1.0, 1.0),  # udpcast failed
        made_up_run(4, "udpcast", 1.0, 1.0),  # ghostcast failed
    ]
    ratios = head_to_head.ratios(runs)
    assert list(ratios) == ["udpcast"]
    copied, durable = ratios["udpcast"]["copied_seconds"], ratios["udpcast"]["durable_seconds"]
    assert dataclasses.astuple(copied) == (0.375, 0.25, 0.5, 2)
    assert dataclasses.astuple(durable) == pytest.approx((0.3, 0.2, 0.4, 2))


def test_spreads_sum_the_processors_and_take_the_largest_memory() -> None:
    spreads = head_to_head.spreads([made_up_run(1, "tcp", 1.0, 2.0)], size=1000)["tcp"]
    assert spreads["receivers_cpu_seconds"].median == 3.0
    assert spreads["receiver_memory_bytes"].median == 3 * MIB
    assert spreads["wire_per_image_byte"].median == 2.0
    assert spreads["image_gbit_per_s"].median == pytest.approx(4e-6)


@pytest.mark.parametrize(
    ("arguments", "layout", "offloads"),
    [
        ([], "direct", True),
        (["--no-offloads"], "direct", False),
        (["--receivers", "2"], "bridge", False),
        (["--loss", "0.01", "--offloads"], "bridge", True),
    ],
)
def test_the_layout_follows_from_what_is_asked(arguments: list[str], layout: str, offloads: bool) -> None:
    parameters, _ = head_to_head.parse_arguments(arguments)
    assert (parameters.layout, parameters.offloads) == (layout, offloads)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--layout", "direct", "--receivers", "2"],
        ["--layout", "direct", "--loss", "0.01"],
        ["--loss", "0.0015"],
        ["--loss", "1"],
        ["--rounds", "0"],
        ["--tools", "ghostcast,rsync"],
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        head_to_head.parse_arguments(arguments)
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("content", sorted(head_to_head.CONTENTS))
def test_a_source_has_the_size_that_was_asked_for(content: str) -> None:
    size = (16 * MIB) + 12345
    assert sum(len(piece) for piece in head_to_head.CONTENTS[content](size)) == size


def test_tuning_raises_what_is_small_and_puts_it_back(tmp_path: pathlib.Path) -> None:
    small, large = tmp_path / "rmem_default", tmp_path / "rmem_max"
    small.write_text("212992\n")
    large.write_text(f"{64 * MIB}\n")
    with head_to_head.tuned(tmp_path):
        assert (int(small.read_text()), int(large.read_text())) == (16 * MIB, 64 * MIB)
    assert (small.read_text(), large.read_text()) == ("212992\n", f"{64 * MIB}\n")


@pytest.mark.lab
def test_the_quick_run_measures_ghostcast_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    need_lab()
    files, results = tmp_path / "files", tmp_path / "results" / "quick.json"
    files.mkdir()
    command = [sys.executable, "-m", "benchmarks.head_to_head", "--quick", "--tools", "ghostcast,tcp"]
    done = subprocess.run(
        [*command, "--directory", files, "--json", results], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "ghostcast" in done.stdout
    found = json.loads(results.read_text())
    assert [run["tool"] for run in found["runs"]] == ["ghostcast", "tcp"]
    for run in found["runs"]:
        assert 0 < run["copied_seconds"] <= run["durable_seconds"]
        assert run["wire_sent_bytes"] > head_to_head.QUICK_SIZE
        assert run["sender_cpu_seconds"] > 0
        assert min(run["receiver_cpu_seconds"]) > 0
    assert list(found["ratios"]) == ["tcp"]
    assert list(files.iterdir()) == []


@pytest.mark.lab
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('head -c 999999 "$0" >"$1"; echo >>"$1"', "not what was sent"),
        ("true", "has no copy"),
        ('cp "$0" "$1"; echo "out of luck"; exit 3', "status 3\n(?s:.*)out of luck"),
    ],
)
def test_a_tool_that_lies_or_fails_gives_no_figure(scene: Scene, script: str, reason: str) -> None:
    def send(scene: Scene) -> list[str]:
        return ["sh", "-c", script, str(scene.source.raw), str(scene.target(scene.network.receivers[0]))]

    with pytest.raises(RunFailed, match=reason):
        head_to_head.run_once(Tool("planted", send), scene, 1)


@pytest.mark.lab
def test_a_tool_that_hangs_is_ended(scene: Scene) -> None:
    hanging = Tool("planted", lambda _: ["sleep", "1000"], lambda *_: ["sh", "-c", "echo here; sleep 1000"], b"here")
    impatient = dataclasses.replace(scene, parameters=dataclasses.replace(scene.parameters, timeout_s=0.5))
    with pytest.raises(RunFailed, match="copied: not within"):
        head_to_head.run_once(hanging, impatient, 1)
    for host in scene.network.hosts:
        pids = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True)
        assert pids.stdout == ""


@pytest.mark.lab
def test_memory_and_processor_time_are_those_of_the_tool(scene: Scene) -> None:
    program = (
        "import shutil, sys, time\n"
        "kept = bytearray(200 << 20)\n"
        "while time.process_time() < 0.5: pass\n"
        "shutil.copy(*sys.argv[1:])\n"
    )

    def send(scene: Scene) -> list[str]:
        target = scene.target(scene.network.receivers[0])
        return [sys.executable, "-c", program, str(scene.source.raw), str(target)]

    run = head_to_head.run_once(Tool("planted", send), scene, 1)
    assert 200 * MIB < run.sender_memory_bytes < 260 * MIB
    assert 0.5 <= run.sender_cpu_seconds < 5
    assert run.wire_sent_bytes < MIB
