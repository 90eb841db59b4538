"""The comparison with the peers: its arithmetic, and the rig that it times tools with.

Goal: no figure in the results may come from a copy that is wrong, a tool that failed, or rounds that do not belong
together. Method: figures from runs made up here; the command itself, quick, in a real network; and tools planted there
that damage a copy, fail and hang.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from benchmarks.head_to_head import (
    ceiling,
    figures,
    goals,
    layouts,
    machine,
    measuring,
    options,
    plots,
    profiling,
    sources,
    tables,
)
from benchmarks.head_to_head.figures import CellResult, Spread
from benchmarks.head_to_head.machine import ROOT
from benchmarks.head_to_head.matrices import MATRICES, make_cell
from benchmarks.head_to_head.measuring import Measured, Run, run_once
from benchmarks.head_to_head.options import parse_arguments
from benchmarks.head_to_head.scene import Cell, RunFailed, Scene
from benchmarks.head_to_head.tools import TOOLS, Tool
from benchmarks.head_to_head.wire import WireCounter
from tests.lab.network import Bridge, DirectLink, NetworkError

MIB = 1 << 20
MB = 1_000_000


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the pauses that only keep figures clean."""
    monkeypatch.setattr(measuring, "SETTLE_S", 0.05)
    monkeypatch.setattr(measuring, "BACKGROUND_S", 0.05)


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Iterator[Scene]:
    """A direct link and a source of 1 MB, with 20 seconds for a run."""
    need_lab()
    cell = make_cell(size=MB, rounds=1, timeout_s=20)
    source = sources.make_source(tmp_path, cell.content, cell.size)
    with layouts.built(cell) as network:
        yield Scene(cell, source, network, tmp_path)


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
        receiver_seconds=(copied_seconds / 2, copied_seconds),
        data_begins_seconds=0.25,
        data_ends_seconds=0.75,
        milestones={},
        sender_cpu_seconds=1.0,
        receiver_cpu_seconds=(1.0, 2.0),
        sender_memory_bytes=MIB,
        receiver_memory_bytes=(MIB, 3 * MIB),
        wire_sent_bytes=2000,
        wire_received_bytes=10,
        copies=("whole", "whole"),
        background_cores=0.0,
        busy_cores=1.5,
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 10**9), ("1GiB", 1 << 30), ("300MB", 300_000_000), ("1.5kb", 1500), ("20 MiB", 20 * MIB), ("7", 7)],
)
def test_a_size_is_decimal_unless_it_says_otherwise(text: str, size: int) -> None:
    assert options.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1MB", "1ib", "1G B", "0.1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.parse_size(text)


def test_a_speedup_pairs_the_runs_of_one_round_and_leaves_out_halves() -> None:
    runs = [
        made_up_run(1, "ghostcast", 2.0, 2.0),
        made_up_run(1, "udpcast", 8.0, 10.0),
        made_up_run(2, "ghostcast", 6.0, 6.0),
        made_up_run(2, "udpcast", 12.0, 15.0),
        made_up_run(3, "ghostcast", 1.0, 1.0),  # udpcast failed
        made_up_run(4, "udpcast", 1.0, 1.0),  # ghostcast failed
    ]
    speedups = figures.speedups(runs)
    assert list(speedups) == ["udpcast"]
    assert dataclasses.astuple(speedups["udpcast"]["copied_seconds"]) == (3.0, 2.0, 4.0, 2)
    assert dataclasses.astuple(speedups["udpcast"]["durable_seconds"]) == (3.75, 2.5, 5.0, 2)


def test_spreads_sum_the_processors_and_take_the_largest_memory() -> None:
    spreads = figures.spreads([made_up_run(1, "tcp", 1.0, 2.0)], size=1000, stored_size=500)["tcp"]
    assert spreads["receivers_cpu_seconds"].median == 3.0
    assert spreads["receiver_cpu_seconds_per_gib"].median == pytest.approx(1.5 * 1024**3 / 1000)
    assert spreads["receiver_memory_bytes"].median == 3 * MIB
    assert spreads["wire_per_image_byte"].median == 2.0
    assert spreads["image_gbit_per_s"].median == pytest.approx(4e-6)
    assert spreads["first_copy_seconds"].median == 0.5
    assert spreads["data_seconds"].median == 0.5
    assert spreads["after_data_seconds"].median == 1.25


def test_what_is_sent_is_compared_with_the_file_that_was_sent() -> None:
    runs = [made_up_run(1, "ghostcast", 1.0, 1.0), made_up_run(1, "udpcast", 1.0, 1.0)]
    spreads = figures.spreads(runs, size=1000, stored_size=500)
    assert spreads["ghostcast"]["wire_per_sent_byte"].median == 4.0
    assert spreads["udpcast"]["wire_per_sent_byte"].median == 2.0


def made_up_result(cell: Cell, **seconds: float) -> CellResult:
    """Return a cell in which each tool needed so many seconds, in each of two rounds, below a loop of 10 Gbit/s."""
    runs = [made_up_run(number, tool, needed, needed) for number in (1, 2) for tool, needed in seconds.items()]
    loops = [ceiling.Ceiling(number, 10.0, 11.0, 0.1) for number in (1, 2)]
    return CellResult.of(cell, Measured(runs, loops, []), 1.0, cell.size)


def test_fixed_costs_are_what_does_not_grow_with_the_size() -> None:
    # 0.8 s, and 10 ns a byte; the other network was measured with one size only.
    small, large = (make_cell(size=size, rounds=2) for size in (64 * MB, 512 * MB))
    alone = make_cell(size=64 * MB, rounds=2, layout="bridge")
    results = [
        made_up_result(cell, ghostcast=0.8 + cell.size * 1e-8, uftp=cell.size * 1e-8) for cell in (small, large, alone)
    ]
    costs = figures.fixed_costs(results)
    assert [(cost.tool, cost.size) for cost in costs] == [("ghostcast", 64 * MB), ("uftp", 64 * MB)]
    assert [cost.fixed_seconds for cost in costs] == pytest.approx([0.8, 0.0])


def test_tables_fit_80_columns_and_every_kind_of_plot_is_drawn(tmp_path: pathlib.Path) -> None:
    seconds = {"ghostcast": 123.4, "udpcast": 1234.5}
    shaped = [
        made_up_result(make_cell(size=MB, rounds=2, receivers=count, layout="bridge", rate_mbit=200), **seconds)
        for count in (1, 16)
    ]
    sizes = [made_up_result(make_cell(size=size, rounds=2), **seconds) for size in (MB, 8 * MB)]
    for name, results in (("flat", shaped), ("sessions", sizes), ("bars", sizes[:1])):
        plots.draw(results, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    costs = figures.fixed_costs(sizes)
    console = Console(width=80, file=io.StringIO())
    for table in (*tables.cell_tables(shaped[1]), tables.fixed_cost_table(costs, Spread(0.2, 0.1, 0.3, 10))):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "1234–1234" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_goals_speak_only_of_what_was_measured_and_say_when_they_are_missed() -> None:
    direct = make_cell(size=1000 * MB, rounds=2)
    clean, lossy, worse = (
        make_cell(size=500 * MB, rounds=2, receivers=4, layout="bridge", loss=loss) for loss in (0, 0.01, 0.05)
    )
    one, many = (
        make_cell(size=100 * MB, rounds=2, receivers=count, layout="bridge", loss=0.01, rate_mbit=200)
        for count in (1, 16)
    )
    results = [
        made_up_result(direct, ghostcast=2.0, udpcast=8.1, uftp=5.9),  # 4 Gbit/s below 10
        made_up_result(clean, ghostcast=3.0),
        made_up_result(lossy, ghostcast=1.0, udpcast=4.0, uftp=1.9),
        made_up_result(worse, ghostcast=4.0),
        made_up_result(one, ghostcast=5.0),
        made_up_result(many, ghostcast=5.5),
        made_up_result(make_cell(size=MB, rounds=2), ghostcast=9.0, udpcast=1.0),  # too small to say anything
    ]
    found = [(verdict.goal, round(verdict.measured, 2), verdict.reached) for verdict in goals.verdicts(results)]
    assert found == [
        ("times as fast as udpcast", 4.05, True),
        ("times as fast as uftp", 2.95, False),
        ("share of the raw loop", 0.4, True),
        ("times as fast as uftp", 1.9, False),  # the better peer of the two
        ("share of its lossless throughput kept at 5 % loss", 0.75, False),
        ("ghostcast: wire bytes / stream", 0.0, True),
        ("ghostcast: seconds for 16 / for 1", 1.1, False),
    ]
    helped = goals.verdicts([], help_seconds=Spread(0.31, 0.3, 0.4, 3))
    assert [verdict.text.split(":")[0] for verdict in helped] == ["MISSED"]


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
    [cell], _ = parse_arguments(arguments)
    assert (cell.layout, cell.offloads) == (layout, offloads)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--layout", "direct", "--receivers", "2"],
        ["--layout", "direct", "--loss", "0.01"],
        ["--loss", "0.0015"],
        ["--loss", "1"],
        ["--rounds", "0"],
        ["--tools", "ghostcast,rsync"],
        ["--rate", "0"],
        ["--matrix", "full", "--receivers", "2"],
        ["--directory", "/nowhere"],
        ["--json", "results.png"],
        ["--content", "filesystem", "--size", "30MB"],
        ["--matrix", "full", "--size", "1B"],
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert "error:" in capsys.readouterr().err


def test_the_full_matrix_has_every_layout_loss_and_content_once() -> None:
    cells, _ = parse_arguments(["--matrix", "full"])
    assert len(set(cells)) == len(cells) == 20
    assert {(cell.receivers, cell.loss) for cell in cells if cell.layout == "bridge"} >= {
        (receivers, loss) for receivers in (1, 4, 8) for loss in (0, 0.001, 0.01, 0.05)
    }
    assert {(cell.layout, cell.content, cell.mtu) for cell in cells} == {
        ("direct", "random", 1500),
        ("direct", "random", 9000),
        ("direct", "filesystem", 1500),
        ("direct", "filesystem", 9000),
        ("bridge", "random", 1500),
        ("bridge", "random", 9000),
        ("bridge", "filesystem", 1500),
    }


@pytest.mark.parametrize("name", sorted(MATRICES))
def test_a_matrix_takes_size_rounds_and_tools_from_the_command_line(name: str) -> None:
    cells, _ = parse_arguments(["--matrix", name, "--size", "80MB", "--rounds", "7", "--tools", "cp"])
    assert {cell.rounds for cell in cells} == {7}
    assert {cell.tools for cell in cells} == {("cp",)}
    assert min(cell.size for cell in cells) <= 80 * MB


@pytest.mark.parametrize("name", sorted(MATRICES))
def test_every_matrix_can_be_tried_quickly(name: str) -> None:
    cells, _ = parse_arguments(["--matrix", name, "--quick"])
    assert {cell.rounds for cell in cells} == {1}
    assert min(cell.size for cell in cells) < 100 * MB


@pytest.mark.parametrize("size", ["2MB", "20MB", "64MB"])
def test_a_size_that_is_too_small_for_a_cell_is_refused_with_one_that_is_enough(
    size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--matrix", "full", "--size", size])
    match = re.search(r"--size (\d+) is enough", capsys.readouterr().err)
    assert match
    cells, _ = parse_arguments(["--matrix", "full", "--size", match[1]])
    assert min(cell.size for cell in cells) == sources.FILE_SYSTEM_SIZE_MIN


def test_a_random_source_has_the_size_that_was_asked_for(tmp_path: pathlib.Path) -> None:
    sources.CONTENTS["random"](tmp_path / "raw", 16 * MIB + 12345)
    assert (tmp_path / "raw").stat().st_size == 16 * MIB + 12345


def test_a_file_system_is_half_empty_and_only_its_free_half_may_differ(tmp_path: pathlib.Path) -> None:
    for program, package in sources.CONTENT_PROGRAMS["filesystem"]:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} of the Debian package {package}")
    size = sources.FILE_SYSTEM_SIZE_MIN + 123
    source = sources.make_source(tmp_path, "filesystem", size)
    assert source.raw.stat().st_size == size
    free = sum(stop - start for start, stop in source.free)
    assert 0.3 < free / size < 0.8
    longest = max(source.free, key=lambda span: span[1] - span[0])
    assert any(source.raw.read_bytes()[start:stop].strip(b"\0") for start, stop in source.free), (
        "deleted files left nothing"
    )

    copy = tmp_path / "copy"
    copy.write_bytes(source.raw.read_bytes())
    assert source.compare(copy) == "whole"
    flip_byte(copy, longest[0])
    flip_byte(copy, longest[1] - 1)
    assert source.compare(copy) == "used"
    flip_byte(copy, longest[1])
    assert source.compare(copy) == ""


def flip_byte(path: pathlib.Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_tuning_raises_what_is_small_and_puts_it_back(tmp_path: pathlib.Path) -> None:
    small, large = tmp_path / "rmem_default", tmp_path / "rmem_max"
    small.write_text("212992\n")
    large.write_text(f"{64 * MIB}\n")
    with machine.tuned(tmp_path):
        assert (int(small.read_text()), int(large.read_text())) == (16 * MIB, 64 * MIB)
    assert (small.read_text(), large.read_text()) == ("212992\n", f"{64 * MIB}\n")


@pytest.mark.lab
def test_the_quick_run_measures_ghostcast_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    need_lab()
    files, results = tmp_path / "files", tmp_path / "results" / "quick.json"
    files.mkdir()
    command = [sys.executable, "-m", "benchmarks.head_to_head", "--quick", "--size", "2MB", "--tools", "ghostcast,tcp"]
    done = subprocess.run(
        [*command, "--directory", files, "--json", results], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "ghostcast" in done.stdout
    found = json.loads(results.read_text())
    [cell] = found["cells"]
    assert [run["tool"] for run in cell["runs"]] == ["ghostcast", "tcp"]
    for run in cell["runs"]:
        assert 0 < run["data_begins_seconds"] <= run["data_ends_seconds"] <= run["durable_seconds"]
        assert 0 < run["copied_seconds"] <= run["durable_seconds"]
        assert run["wire_sent_bytes"] > 2 * MB
        assert run["sender_cpu_seconds"] > 0
        assert min(run["receiver_cpu_seconds"]) > 0
        assert run["copies"] == ["whole"]
    assert list(cell["runs"][0]["milestones"]) == ["waiting", "joined", "started", "verified", "ended", "finished"]
    profile = cell["profile"]
    assert profile["sender"]
    assert sum(stage["bytes"] for stage in profile["receivers"][0].values()) > 2 * MB
    assert "Where ghostcast's time went" in done.stdout
    assert list(cell["speedups"]) == ["tcp"]
    assert cell["ceiling"]["median"] > 0
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
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
        run_once(Tool("planted", send), scene, 1)


@pytest.mark.lab
def test_a_tool_that_hangs_is_ended(scene: Scene) -> None:
    hanging = Tool("planted", lambda _: ["sleep", "1000"], lambda *_: ["sh", "-c", "echo here; sleep 1000"], b"here")
    impatient = dataclasses.replace(scene, cell=dataclasses.replace(scene.cell, timeout_s=0.5))
    with pytest.raises(RunFailed, match="copied: not within"):
        run_once(hanging, impatient, 1)
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

    run = run_once(Tool("planted", send), scene, 1)
    assert 200 * MIB < run.sender_memory_bytes < 260 * MIB
    assert 0.5 <= run.sender_cpu_seconds < 5
    assert run.wire_sent_bytes < MIB


@pytest.mark.parametrize("report", [None, "", "{}", '{"stages": {"send": {"calls": 1}}}'])
def test_a_report_without_stages_is_a_failure(tmp_path: pathlib.Path, report: str | None) -> None:
    path = tmp_path / "sender.report.json"
    if report is not None:
        path.write_text(report)
    with pytest.raises(RunFailed, match="tells of no stages"):
        profiling._stages(path)


@pytest.mark.lab
def test_every_tool_copies_a_file_system_to_two(tmp_path: pathlib.Path) -> None:
    """A peer that does not work here, or is started wrongly, would otherwise show in an hour's results first."""
    need_lab()
    if missing := sorted(
        {package for tool in TOOLS.values() for name, package in tool.packages if not shutil.which(name)}
    ):
        pytest.skip(f"needs these Debian packages: {' '.join(missing)}")
    size = sources.FILE_SYSTEM_SIZE_MIN
    # Two that differ from others in options alone, and wait, are left out.
    tools = tuple(name for name in TOOLS if name not in ("ghostcast-told", "udpcast-plain"))
    cell = make_cell(size=size, rounds=1, receivers=2, layout="bridge", content="filesystem", tools=tools)
    source = sources.make_source(tmp_path, cell.content, cell.size)
    with layouts.built(cell) as network:
        found = measuring.measure(Scene(cell, source, network, tmp_path), lambda _: None)
    assert found.failures == []
    assert [run.tool for run in found.runs] == list(tools)
    assert found.ceilings[0].gbit_per_s > 0
    result = CellResult.of(cell, found, source.image_seconds, source.stored_size)
    by_tool = {name: spreads["wire_per_image_byte"].median for name, spreads in result.figures.items()}
    assert by_tool["ghostcast"] < 0.9 < by_tool["uftp"] < 1.9 < by_tool["tcp"]
    assert by_tool["udpcast-image"] < 0.9
    assert by_tool["udpcast-zstd"] < 0.9


@pytest.mark.lab
def test_one_bad_copy_of_several_and_one_receiver_that_dies_are_reported(tmp_path: pathlib.Path) -> None:
    need_lab()
    cell = make_cell(size=MB, rounds=1, receivers=3, layout="bridge", timeout_s=20)
    source = sources.make_source(tmp_path, cell.content, cell.size)
    copy = 'for target; do cp "$0" "$target"; done; '

    def send(script: str) -> Tool:
        def command(scene: Scene) -> list[str]:
            targets = (str(scene.target(host)) for host in scene.network.receivers)
            return ["sh", "-c", copy + script, str(scene.source.raw), *targets]

        return Tool("planted", command)

    damage = 'printf X | dd of="$2" bs=1 seek=500000 conv=notrunc 2>/dev/null'
    dying = Tool(
        "planted",
        lambda _: ["sleep", "1000"],
        lambda _, host: ["sh", "-c", f"echo here; [ {host.name} != r2 ]"],
        b"here",
    )
    with layouts.built(cell) as network:
        scene = Scene(cell, source, network, tmp_path)
        assert run_once(send("true"), scene, 1).copies == ("whole", "whole", "whole")
        with pytest.raises(RunFailed, match="the copy of r2 is not what was sent"):
            run_once(send(damage), scene, 1)
        with pytest.raises(RunFailed, match="r2: sh ended with status 1"):
            run_once(dying, scene, 1)


@pytest.mark.lab
def test_a_shaped_link_carries_no_more_than_it_is_shaped_to() -> None:
    """The raw loop, which heeds no queue, pushed through the network of a flat-curve cell."""
    need_lab()
    cell = make_cell(size=MB, rounds=1, receivers=2, layout="bridge", rate_mbit=20)
    with layouts.built(cell) as network, WireCounter(network.sender) as wire:
        before = wire.read().sent
        loop = ceiling.measure(network, cell.mtu, 1, seconds=0.3)
        carried = wire.read().sent - before
    assert loop.lost > 0.5
    # 2.5 MB/s for half a second at most, and what a queue of 50 ms and a burst of 128 kB let out besides
    assert 100_000 < carried < 2_000_000


@pytest.mark.lab
def test_the_raw_loop_reports_loss_and_a_deaf_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    need_lab()
    with Bridge(2, offloads=False) as network:
        network.set_loss(network.receivers[1], 0.3)
        loop = ceiling.measure(network, 1500, 1, seconds=0.2)
        assert 0.25 < loop.lost < 1
        monkeypatch.setattr(ceiling, "_START_TIMEOUT_S", 1)
        network.set_link(network.receivers[0], up=False)
        with pytest.raises(RunFailed):
            ceiling.measure(network, 1500, 1, seconds=0.2)


@pytest.mark.lab
def test_counters_are_those_of_the_host_and_tell_when_data_flowed() -> None:
    need_lab()
    with DirectLink() as network, WireCounter(network.sender) as wire:
        wire.sample()
        before = wire.read()
        program = (
            "import socket, sys\n"
            "with socket.socket(type=socket.SOCK_DGRAM) as opened:\n"
            "    for _ in range(100): opened.sendto(bytes(1000), (sys.argv[1], 9))\n"
        )
        command = ["ip", "netns", "exec", network.sender.namespace, sys.executable, "-c", program]
        command.append(network.receiver.address)
        subprocess.run(command, check=True, timeout=20)
        wire.sample()
        sent = wire.read().sent - before.sent
    assert 100 * 1042 <= sent < 100 * 1042 + 2000
    begins, ends = wire.data_interval_s()
    assert begins == ends
