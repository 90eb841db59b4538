"""How fast are images made and restored, beside plain zstd on the same bytes and the same disk?

    python -m benchmarks.image_speed                               1 GB of this machine's files, five rounds
    python -m benchmarks.image_speed --content random --size 500MB --json speed.json
    python -m benchmarks.image_speed --source /dev/sdb --level 9

Four commands, whole, in turn each round; every one of them ends when its output is on the disk:

    zstd -T0 -LEVEL        ghostcast image create --raw --level LEVEL
    zstd -d | dd conv=fsync of a fresh file        ghostcast image extract to a fresh file

The ratios pair the runs of one round: the peer's seconds / ghostcast's, so that 1.0 is as fast, and 0.8 is the goal.
The same is done with processor seconds, those of the command and all its children, which hardly depend on what else the
machine does. In ghostcast's disfavour: it starts Python (modules are compiled before, as an installation's are), and
hashes every byte twice. In its favour: it writes past the page cache. Every copy is compared with the source.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from benchmarks.head_to_head.figures import Spread
from benchmarks.head_to_head.machine import GHOSTCAST, Unusable, compile_modules, describe_machine
from ghostcast.cli.size import parse_size

GOAL = 0.8
_TREE = "/usr"
_PIECE_SIZE = 1 << 20
_TIMEOUT_S = 3600
_PAIRS = (("capture", "zstd -T0", "image create"), ("extract", "zstd -d | dd", "image extract"))


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One command, once."""

    round: int
    command: str
    seconds: float
    cpu_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """How ghostcast compares with its peer, over all rounds."""

    what: str
    wall: Spread
    cpu: Spread

    @property
    def reached(self) -> bool:
        """Whether the goal is reached, by the median."""
        return self.wall.median >= GOAL


def make_source(path: pathlib.Path, content: str, size: int) -> None:
    """Write the bytes to compress: files of this machine as one archive holds them, or random ones."""
    with path.open("wb") as file:
        if content == "random":
            for start in range(0, size, _PIECE_SIZE):
                file.write(os.urandom(min(_PIECE_SIZE, size - start)))
            return
        command = ("tar", "--create", "--sort=name", "--file=-", "--ignore-failed-read", "--directory", _TREE, ".")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
            assert tar.stdout is not None
            while file.tell() < size and (piece := tar.stdout.read(min(_PIECE_SIZE, size - file.tell()))):
                file.write(piece)
            tar.kill()
        if file.tell() < size:
            raise Unusable(f"{_TREE} has only {file.tell()} bytes of files: choose a smaller --size")


def commands(source: pathlib.Path, directory: pathlib.Path, level: int) -> dict[str, tuple[str, pathlib.Path]]:
    """Return each command as the shell takes it, and what it makes."""
    packed, image = directory / "packed.zst", directory / "image.img.zst"
    plain, copy = directory / "plain.raw", directory / "copy.raw"
    quoted = {name: shlex.quote(str(path)) for name, path in (("s", source), ("p", packed), ("i", image))}
    ghostcast = shlex.join([*GHOSTCAST, "image"])
    ultra = "--ultra " if level > 19 else ""
    return {
        "zstd -T0": (f"zstd -q -f -T0 {ultra}-{level} {quoted['s']} -o {quoted['p']} && sync {quoted['p']}", packed),
        "image create": (f"{ghostcast} create --raw --level {level} {quoted['s']} {quoted['i']}", image),
        "zstd -d | dd": (
            f"zstd -dcq {quoted['p']} | dd of={shlex.quote(str(plain))} bs=1M conv=fsync status=none",
            plain,
        ),
        "image extract": (f"{ghostcast} extract {quoted['i']} {shlex.quote(str(copy))}", copy),
    }


def measure(source: pathlib.Path, directory: pathlib.Path, level: int, rounds: int) -> Iterator[Run]:
    """Run all commands ``rounds`` times in turn; the peers first in even rounds, ghostcast first in odd ones.

    Raises:
        Unusable: a command failed, or what it made is not the source.
    """
    todo = commands(source, directory, level)
    _read(source)  # into the page cache: nobody waits for a disk that the others have warmed
    for number in range(rounds):
        for pair in _PAIRS:
            for name in pair[1:] if number % 2 == 0 else pair[:0:-1]:
                command, made = todo[name]
                with contextlib.suppress(FileNotFoundError):
                    made.unlink()
                yield _run(number, name, command)
        for name in ("zstd -d | dd", "image extract"):
            if subprocess.run(["cmp", "--quiet", source, todo[name][1]]).returncode:
                raise Unusable(f"what {name!r} made is not the source: {todo[name][1]}")


def _run(number: int, name: str, command: str) -> Run:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Unusable(f"{command}: {done.stderr.decode(errors='replace').strip()}")
    return Run(number, name, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def ratios(runs: Sequence[Run]) -> list[Ratio]:
    """Return the peer's seconds / ghostcast's, paired by round."""
    found = []
    by_name = {
        name: sorted((run for run in runs if run.command == name), key=lambda run: run.round) for name in _names()
    }
    for what, peer, ours in _PAIRS:
        pairs = list(zip(by_name[peer], by_name[ours], strict=True))
        found.append(
            Ratio(
                what,
                Spread.of(theirs.seconds / mine.seconds for theirs, mine in pairs),
                Spread.of(theirs.cpu_seconds / mine.cpu_seconds for theirs, mine in pairs),
            )
        )
    return found


def _names() -> list[str]:
    return [name for pair in _PAIRS for name in pair[1:]]


def _read(path: pathlib.Path) -> None:
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_PIECE_SIZE)
        while file.readinto(buffer):
            pass


def _print(runs: Sequence[Run], found: Sequence[Ratio], size: int) -> None:
    for name in _names():
        spread = Spread.of(size / run.seconds / 1e6 for run in runs if run.command == name)
        cpu = Spread.of(run.cpu_seconds for run in runs if run.command == name)
        print(
            f"{name:<14}{spread.median:8.0f} MB/s  ({spread.minimum:.0f} to {spread.maximum:.0f}, n={spread.n}), "
            f"{cpu.median:.2f} s of processor"
        )
    for ratio in found:
        wall, cpu = ratio.wall, ratio.cpu
        print(
            f"{ratio.what}: {wall.median:.2f} of the peer's speed ({wall.minimum:.2f} to {wall.maximum:.2f}), "
            f"{cpu.median:.2f} by processor time ({cpu.minimum:.2f} to {cpu.maximum:.2f}); goal {GOAL}: "
            f"{'reached' if ratio.reached else 'missed'}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=parse_size, default=10**9, help="bytes to compress (1 GB)")
    parser.add_argument("--content", choices=("system", "random"), default="system", help="files of /usr, or random")
    parser.add_argument("--source", type=pathlib.Path, help="a file or a disk of your own instead")
    parser.add_argument("--level", type=int, default=3, help="zstd level (3)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each command is run (5)")
    parser.add_argument("--directory", type=pathlib.Path, help="where to write; the disk that is measured")
    parser.add_argument("--json", type=pathlib.Path, help="write the results to this file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not 1 <= options.level <= 22:
        parser.error("--rounds is at least 1, --level 1 to 22")
    try:
        with tempfile.TemporaryDirectory(prefix="ghostcast-speed-", dir=options.directory) as name:
            directory = pathlib.Path(name)
            size = options.size if options.source is None else _size(options.source)
            _check(directory, 6 * size)
            source = options.source or directory / "source.raw"
            if options.source is None:
                make_source(source, options.content, size)
            compile_modules()
            runs = list(measure(source, directory, options.level, options.rounds))
    except (Unusable, OSError) as error:
        print(f"image_speed: {error}", file=sys.stderr)
        return 1
    found = ratios(runs)
    _print(runs, found, size)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        results = {
            "machine": describe_machine(["zstd"]),
            "size": size,
            "content": "own" if options.source else options.content,
            "level": options.level,
            "rounds": options.rounds,
            "runs": [dataclasses.asdict(run) for run in runs],
            "ratios": [{**dataclasses.asdict(ratio), "goal": GOAL, "reached": ratio.reached} for ratio in found],
        }
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def _check(directory: pathlib.Path, needed: int) -> None:
    """Refuse what cannot work; unlike the lab's benchmarks, this one needs no root."""
    free = os.statvfs(directory)
    if free.f_bavail * free.f_frsize < needed:
        raise Unusable(f"{directory} has too little room: {needed / 1e9:.1f} GB are needed: see --directory")


def _size(source: pathlib.Path) -> int:
    with source.open("rb") as file:
        return file.seek(0, os.SEEK_END)


if __name__ == "__main__":
    sys.exit(main())
