"""Fuzz one target, guided by coverage: needs ``pip install atheris`` (CPython 3.11 to 3.13).

    python -m tests.fuzz.run manifest --seconds 300
    python -m tests.fuzz.run manifest --seconds 300 --keep    and add what it found to the corpus

A failure is printed with its traceback and kept as ``crash-…`` in the current directory; ``--replay FILE`` runs one
input without atheris. Other options (``-runs=…``, ``-dict=…``) go to libFuzzer.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

from tests.fuzz import corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--replay", type=pathlib.Path)
    options, others = parser.parse_known_args()
    if options.replay is not None:
        from tests.fuzz.targets import TARGETS

        TARGETS[options.target](options.replay.read_bytes())
        return
    if os.environ.get("GHOSTCAST_FUZZ_DIRECTORY"):
        _fuzz(options.target, others)
        return
    from tests.fuzz import seeds  # not where the fuzzer runs: nothing may be loaded before it watches

    with tempfile.TemporaryDirectory(prefix="ghostcast-fuzz-") as directory:
        grown, merged = pathlib.Path(directory, "grown"), pathlib.Path(directory, "merged")
        grown.mkdir()
        merged.mkdir()
        for number, data in enumerate([b"\0", *seeds.seeds(options.target), *corpus.load(options.target)]):
            (grown / str(number)).write_bytes(data)
        # libFuzzer starts itself again by its first argument, which must be one word that can be executed.
        again = pathlib.Path(directory, "again")
        again.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.fuzz.run {options.target} "$@"\n')
        again.chmod(0o700)
        environment = os.environ | {"GHOSTCAST_FUZZ_DIRECTORY": directory}
        limits = [f"-max_total_time={options.seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=4096"]
        status = subprocess.run([again, *limits, *others, grown], env=environment).returncode
        if status == 0 and options.keep:
            subprocess.run([again, "-merge=1", "-max_len=4096", merged, grown], env=environment, check=True)
            count = corpus.save(options.target, (path.read_bytes() for path in merged.iterdir()))
            print(f"{options.target}: {count} inputs kept")
    sys.exit(status)


def _fuzz(name: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["protocol", "ghostcast", "receivers", "tests"]):
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    again = os.path.join(os.environ["GHOSTCAST_FUZZ_DIRECTORY"], "again")
    atheris.Setup([again, *arguments], lambda data: target(bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
