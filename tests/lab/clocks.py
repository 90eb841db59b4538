"""ghostcast with a clock that is wrong: runs as the command does, with its clocks too fast, too slow or jumping.

    python clocks.py --rate 1.05 --jump-after 3 --jump 5 receive TARGET …

Replaces the clocks that Python offers, before ghostcast looks at them; what the kernel waits for keeps true time, so
that the two disagree, as they do where a machine's timer is badly calibrated. Offsets come from ``unshare --time``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1.0, help="seconds of this clock in a true one")
    parser.add_argument("--jump-after", type=float, default=float("inf"), help="true seconds until it jumps")
    parser.add_argument("--jump", type=float, default=0.0, help="by so many seconds; the wall clock the other way")
    clock, command = parser.parse_known_args()
    begun = time.monotonic()
    true_monotonic, true_wall = time.monotonic, time.time

    def jump() -> float:
        return clock.jump if true_monotonic() - begun >= clock.jump_after else 0.0

    def wrong(truth: Callable[[], float], sign: int) -> Callable[[], float]:
        first = truth()
        return lambda: first + (truth() - first) * clock.rate + sign * jump()

    monotonic, wall = wrong(true_monotonic, 1), wrong(true_wall, -1)
    time.monotonic, time.monotonic_ns = monotonic, lambda: int(monotonic() * 1e9)
    time.time, time.time_ns = wall, lambda: int(wall() * 1e9)

    from ghostcast.cli.main import main as ghostcast

    sys.argv = ["ghostcast", *command]
    ghostcast()


if __name__ == "__main__":
    main()
