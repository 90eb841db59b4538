"""The command line: one cell by hand, or a matrix."""

from __future__ import annotations

import argparse
import pathlib
import re
import tempfile
from collections.abc import Sequence
from fractions import Fraction

import benchmarks.head_to_head
from benchmarks.head_to_head.matrices import MATRICES, make_cell
from benchmarks.head_to_head.scene import Cell, Layout
from benchmarks.head_to_head.sources import CONTENTS, FILE_SYSTEM_SIZE_MIN
from benchmarks.head_to_head.tools import TOOLS

QUICK_SIZE = 70_000_000
"""Enough for a file system in every cell of every matrix: some halve it."""

_EXAMPLES = """
examples (as root, from the root of the repository):
  python -m benchmarks.head_to_head --quick
  python -m benchmarks.head_to_head --tune --size 1GB --rounds 5 --json results/direct.json
  python -m benchmarks.head_to_head --tune --receivers 4 --loss 0.01 --mtu 9000
  python -m benchmarks.head_to_head --tune --matrix quick --json results/quick.json
  python -m benchmarks.head_to_head --tune --matrix flat --json results/flat.json

matrices: quick: what the goals speak of, 5 cells; full: every layout, loss, MTU and content, 20 cells;
flat: 1 to 16 receivers on links of 200 Mbit/s; sessions: what a session costs besides its data.
With --json FILE, a plot is written beside it, as FILE with the suffix .png.
"""


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` means, as storage is sold: 1GB = 10^9, 1GiB = 2^30, 1000 = 1000.

    Not the command line's own, where 1G is binary: throughput in Gbit/s is decimal, so the size here is too.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b)?", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 300MB or 1GiB")
    size = Fraction(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ")
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is less than one byte")
    return int(size)


def parse_tools(text: str) -> tuple[str, ...]:
    """Return the names in a list separated by commas."""
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in TOOLS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    return names


def parse_arguments(arguments: Sequence[str] | None) -> tuple[list[Cell], argparse.Namespace]:
    """Return what to measure, and the options that decide where and what to keep."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.quick:
        options.size, options.rounds = options.size or QUICK_SIZE, options.rounds or 1
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is at least 1")
    if not options.directory.is_dir():
        parser.error(f"--directory {options.directory}: there is no such directory")
    if options.json and options.json.suffix == ".png":
        parser.error(f"--json {options.json}: the plot has this name; give the results another suffix")
    if options.matrix:
        by_hand = ("receivers", "layout", "offloads", "loss", "mtu", "content", "rate")
        if given := [f"--{name}" for name in by_hand if getattr(options, name) is not None]:
            parser.error(f"--matrix chooses the cells: leave out {', '.join(given)}")
        cells = MATRICES[options.matrix](options)
    else:
        cells = [_single_cell(parser, options)]
    if file_systems := [cell for cell in cells if cell.content == "filesystem"]:
        smallest = min(file_systems, key=lambda cell: cell.size)
        if smallest.size < FILE_SYSTEM_SIZE_MIN:
            enough = -(-options.size * FILE_SYSTEM_SIZE_MIN // max(smallest.size, 1))
            parser.error(
                f"--size {options.size} is too small for {smallest.text}: a file system of less than"
                f" {FILE_SYSTEM_SIZE_MIN} bytes holds little but itself; --size {enough} is enough here"
            )
    return cells, options


def _single_cell(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Cell:
    receivers, loss = 1 if options.receivers is None else options.receivers, options.loss or 0.0
    if receivers < 1:
        parser.error("--receivers is at least 1")
    if not 0 <= loss < 1 or round(loss * 1000, 9) % 1:
        parser.error("--loss is a whole number of thousandths below 1, such as 0.01")
    if options.rate is not None and options.rate < 1:
        parser.error("--rate is at least 1 Mbit/s")
    only_bridge = receivers > 1 or loss > 0
    if only_bridge and options.layout == "direct":
        parser.error("a direct link has one receiver and no loss; use --layout bridge")
    layout: Layout = options.layout or ("bridge" if only_bridge else "direct")
    return make_cell(
        size=options.size or parse_size("1GB"),
        rounds=options.rounds or 3,
        receivers=receivers,
        layout=layout,
        offloads=options.offloads,
        loss=loss,
        mtu=options.mtu or 1500,
        content=options.content or "random",
        tools=options.tools,
        timeout_s=options.timeout,
        rate_mbit=options.rate,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.head_to_head",
        description=(benchmarks.head_to_head.__doc__ or "").split("\n")[0],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--matrix", choices=tuple(MATRICES), help="many cells, instead of one by hand")
    parser.add_argument("--size", type=parse_size, help="of the source: 1GB, 1GiB (default: 1GB, or the matrix's)")
    parser.add_argument("--rounds", type=int, help="each runs every tool once, in turn (default: 3, or the matrix's)")
    parser.add_argument("--receivers", type=int, help="how many (default: 1)")
    parser.add_argument("--layout", choices=("direct", "bridge"), help="default: direct, where that is possible")
    parser.add_argument(
        "--offloads",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether batches pass whole (default: on a direct link)",
    )
    parser.add_argument("--loss", type=float, help="fraction lost towards each receiver: 0.01 (default: 0)")
    parser.add_argument("--mtu", type=int, help="default: 1500")
    parser.add_argument("--rate", type=int, metavar="MBIT", help="shape every link, both ways, to so many Mbit/s")
    parser.add_argument("--content", choices=tuple(CONTENTS), help="of the source (default: random)")
    parser.add_argument("--tools", type=parse_tools, help=f"of {','.join(TOOLS)}; default: by content, or the matrix's")
    parser.add_argument("--timeout", type=float, help="seconds that a run may take; default: by size and receivers")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()), help="for files")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all rounds to a file, and a plot")
    parser.add_argument("--tune", action="store_true", help="raise the machine's net.core.rmem_* meanwhile, for peers")
    parser.add_argument(
        "--profile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="after the rounds, one more run of ghostcast that tells where the time went (default: yes)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the source, the image and the last copies")
    parser.add_argument("--quick", action="store_true", help="70 MB, 1 round: whether everything works")
    return parser
