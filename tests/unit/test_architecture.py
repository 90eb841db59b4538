"""The import law (DESIGN: ``protocol`` ← ``ghostcast.net`` ← both engines ← ``ghostcast.cli``) and what is shipped.

Goal: a dependency that should not be is a red test on the day it is written. Method: every source file is parsed, not
imported, and each import in it held against one table; the same check runs over small planted trees that break the law,
one way each.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import tomllib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCE_ROOTS = ("protocol", "receivers", "ghostcast")
NEVER_SHIPPED = ("tests", "benchmarks")

_MACHINERY = frozenset({"ghostcast", "ghostcast.net", "ghostcast.fec", "ghostcast.disk", "ghostcast.image", "protocol"})
LAW: dict[str, frozenset[str]] = {
    "protocol": frozenset({"protocol"}),
    "ghostcast": frozenset({"ghostcast", "protocol"}),
    "ghostcast.net": _MACHINERY,
    "ghostcast.fec": _MACHINERY,
    "ghostcast.disk": frozenset({"ghostcast", "ghostcast.disk", "protocol"}),
    "ghostcast.image": _MACHINERY,
    "ghostcast.sender": _MACHINERY | {"ghostcast.sender"},
    "ghostcast.simulation": frozenset({"ghostcast.simulation", "protocol"}),
    "receivers": _MACHINERY | {"receivers"},
    "ghostcast.measure": _MACHINERY | {"ghostcast.measure"},
    "ghostcast.cli": _MACHINERY
    | {"ghostcast.cli", "ghostcast.measure", "ghostcast.sender", "ghostcast.simulation", "receivers"},
}
"""Package → the packages of ours that it may import; ``ghostcast`` itself is what lies directly in that directory."""

# fmt: off
IMPURE = frozenset({
    "asyncio", "concurrent", "ctypes", "datetime", "io", "logging", "mmap", "multiprocessing", "os", "pathlib",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "subprocess", "sys", "tempfile",
    "threading", "time",
})
# fmt: on
"""Modules that ``protocol`` must not import: they reach a clock, a file, a socket, a thread or the process."""

IMPURE_BUILTINS = frozenset({"open", "print", "input"})


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place} {self.reason}"


def find_violations(root: pathlib.Path) -> list[Violation]:
    """Hold every source file below ``root`` against the law."""
    packages = {name for name in LAW if (root / name.replace(".", "/")).is_dir()}
    violations = []
    for top in SOURCE_ROOTS:
        for file in sorted((root / top).rglob("*.py")):
            module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            is_package = file.name == "__init__.py"
            package = _package_of(module, packages)
            tree = ast.parse(file.read_text(), str(file))
            place = str(file.relative_to(root))
            allowed = LAW[package] if module != "ghostcast.__main__" else LAW["ghostcast.cli"]
            if is_package and module not in LAW and top != "protocol":
                violations.append(Violation(place, "is a package that the law has no row for"))
            for line, imported in _imports(tree, module, is_package=is_package):
                if imported.split(".")[0] in NEVER_SHIPPED:
                    violations.append(Violation(f"{place}:{line}", f"imports {imported}, which is never shipped"))
                elif imported.split(".")[0] in SOURCE_ROOTS and _package_of(imported, packages) not in allowed:
                    violations.append(Violation(f"{place}:{line}", f"imports {imported}, which {package} may not know"))
                elif package == "protocol" and imported.split(".")[0] in IMPURE:
                    violations.append(Violation(f"{place}:{line}", f"imports {imported}, but protocol is pure"))
            if package == "protocol":
                violations += [Violation(f"{place}:{line}", reason) for line, reason in _impurities(tree)]
    return violations


def _package_of(module: str, packages: set[str]) -> str:
    """Return the longest package of the law that holds a module."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in packages), parts[0])


def _imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of each import, wherever in the file; ``from a import b`` yields ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            kept = len(parts) - node.level + (1 if is_package else 0)
            base = [*(parts[:kept] if node.level else []), *([node.module] if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def _impurities(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, reason) of each use of the global random generator, of an unseeded one, and of files by builtins.

    ``random.Random`` is a type to annotate with; only its construction without a seed draws from the system.
    """
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="random", names=names) if any(alias.name != "Random" for alias in names):
                yield node.lineno, "takes more than the type Random from random"
            case ast.Import(names=names) if any(alias.name == "random" and alias.asname for alias in names):
                yield node.lineno, "renames random, which hides its uses from this check"
            case ast.Attribute(value=ast.Name(id="random"), attr=name) if name != "Random":
                yield node.lineno, f"uses random.{name}: randomness is a random.Random that the caller owns"
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="random")):
                yield node.lineno, "uses numpy.random: randomness is a random.Random that the caller owns"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="random"), attr="Random"), args=[], keywords=[]):
                yield node.lineno, "makes an unseeded random.Random"
            case ast.Call(func=ast.Name(id="Random"), args=[], keywords=[]):
                yield node.lineno, "makes an unseeded random.Random"
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_BUILTINS:
                yield node.lineno, f"calls {name}()"


def listed_packages() -> list[str]:
    """Return the packages that pyproject.toml ships."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages: list[str] = project["tool"]["setuptools"]["packages"]
    return packages


def package_directories(root: pathlib.Path) -> set[str]:
    """Return every directory of the source tree that holds Python files, as a package name."""
    files = (file for top in SOURCE_ROOTS for file in (root / top).rglob("*.py"))
    return {".".join(file.parent.relative_to(root).parts) for file in files}


def test_the_source_obeys_the_import_law() -> None:
    assert [str(violation) for violation in find_violations(ROOT)] == []


def test_every_row_of_the_law_is_a_package() -> None:
    assert set(LAW) <= package_directories(ROOT)


def test_exactly_the_source_packages_are_shipped() -> None:
    listed = listed_packages()
    assert sorted(listed) == sorted(package_directories(ROOT))
    assert not [package for package in listed if package.split(".")[0] in NEVER_SHIPPED]


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("protocol/wire.py", "import socket", "imports socket, but protocol is pure"),
        ("protocol/wire.py", "import os.path", "imports os.path, but protocol is pure"),
        ("protocol/wire.py", "from time import monotonic_ns", "imports time.monotonic_ns, but protocol is pure"),
        ("protocol/wire.py", "def f():\n    import threading", "imports threading, but protocol is pure"),
        ("protocol/wire.py", "from ghostcast.net import sockets", "which protocol may not know"),
        ("protocol/deep/wire.py", "from ghostcast import version", "which protocol may not know"),
        ("protocol/wire.py", "import random\nrandom.random()", "uses random.random"),
        ("protocol/wire.py", "from random import randint", "takes more than the type"),
        ("protocol/wire.py", "import random as r\nr.random()", "renames random"),
        ("protocol/wire.py", "import random\nrng = random.Random()", "makes an unseeded"),
        ("protocol/wire.py", "import numpy as np\nnp.random.default_rng(1)", "uses numpy.random"),
        ("protocol/wire.py", "open('/etc/passwd')", "calls open()"),
        ("ghostcast/net/udp.py", "import ghostcast.sender.engine", "which ghostcast.net may not know"),
        ("ghostcast/fec/isal.py", "from receivers import ingest", "which ghostcast.fec may not know"),
        ("ghostcast/image/reader.py", "from ..cli import main", "which ghostcast.image may not know"),
        ("ghostcast/sender/engine.py", "import receivers", "which ghostcast.sender may not know"),
        ("receivers/ingest.py", "from ghostcast.sender.engine import Engine", "which receivers may not know"),
        ("receivers/ingest.py", "from ghostcast import sender", "which receivers may not know"),
        ("receivers/ingest.py", "if True:\n    import ghostcast.cli.main", "which receivers may not know"),
        ("ghostcast/version.py", "import ghostcast.cli", "which ghostcast may not know"),
        ("ghostcast/cli/main.py", "from tests.lab import network", "which is never shipped"),
        ("ghostcast/cli/main.py", "import benchmarks", "which is never shipped"),
        ("ghostcast/new/__init__.py", "", "is a package that the law has no row for"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: pathlib.Path, file: str, code: str, complaint: str) -> None:
    plant(tmp_path, {file: code})
    violations = [str(violation) for violation in find_violations(tmp_path)]
    assert len(violations) == 1
    assert violations[0].startswith(file)
    assert complaint in violations[0]


def test_what_the_law_allows_is_no_violation(tmp_path: pathlib.Path) -> None:
    plant(
        tmp_path,
        {
            "protocol/feedback.py": "import math\nimport random\nfrom protocol import limits\n"
            "def backoff(rng: random.Random) -> float:\n    return rng.random()\n",
            "protocol/replay.py": "from random import Random\nrng = Random(7)\n",
            "ghostcast/net/udp.py": "import os, socket, time\nfrom protocol import wire\nfrom . import libc\n",
            "ghostcast/image/reader.py": "from ghostcast.fec import isal\nfrom ghostcast import version\n",
            "ghostcast/sender/engine.py": "from ghostcast.net import udp\nfrom . import pacing\nimport protocol.wire\n",
            "receivers/ingest.py": "from ghostcast.net import udp\nfrom receivers import targets\n",
            "ghostcast/cli/demo.py": "from ghostcast.sender import engine\nfrom receivers import ingest\n",
            "ghostcast/__main__.py": "from ghostcast.cli.main import main\n",
        },
    )
    assert find_violations(tmp_path) == []


def plant(root: pathlib.Path, files: dict[str, str]) -> None:
    """Write a small source tree with every package of the law, and these files in it."""
    for package in LAW:
        directory = root / package.replace(".", "/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "__init__.py").touch()
    for file, code in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(code)
