"""Goal: what is exported is the image's disk, in whatever format; nothing is left of what could not be.

Method: export, let qemu-img turn it back into a raw disk, compare; the odd targets and a stop half way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ghostcast.image import virtual_disk
from ghostcast.image.formats import VIRTUAL_DISKS
from ghostcast.image.library import Library
from ghostcast.image.pipeline import Progress
from ghostcast.image.reader import ImageFile
from ghostcast.image.virtual_disk import export_image
from protocol.errors import ImageError, TargetError, UsageError
from tests.images import make_image
from tests.tools import needs, run

MIB = 1 << 20


@contextlib.contextmanager
def silent(action: str, size: int | None) -> Generator[Progress | None, None, None]:
    yield None


def export(image: Path, path: Path, format_name: str, *, compress: bool = False, force: bool = False) -> None:
    with ImageFile.open(image) as opened:
        export_image(opened, path, format_name, silent, compress=compress, force=force)


@pytest.fixture
def raw() -> bytes:
    return os.urandom(MIB) + bytes(6 * MIB) + b"x" * MIB


@needs("qemu-img")
@pytest.mark.parametrize(
    ("name", "compress"), [*((name, False) for name in VIRTUAL_DISKS), ("qcow2", True), ("vmdk", True)]
)
def test_what_is_exported_is_the_disk(tmp_path: Path, raw: bytes, name: str, compress: bool) -> None:
    image, out, back = make_image(tmp_path / "image", raw), tmp_path / "out", tmp_path / "back"
    export(image, out, name, compress=compress)
    assert sorted(os.listdir(tmp_path)) == ["image", "image.raw", "out"]
    run("qemu-img", "convert", "-f", VIRTUAL_DISKS[name], "-O", "raw", out, back)
    assert back.read_bytes() == raw
    with pytest.raises(TargetError, match="--force"):
        export(image, out, name)
    export(image, out, name, force=True)


def test_raw_needs_no_tool(tmp_path: Path, raw: bytes) -> None:
    export(make_image(tmp_path / "image", raw), tmp_path / "out", "raw")
    assert (tmp_path / "out").read_bytes() == raw


@needs("qemu-img")
def test_odd_targets_are_refused(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x" * 512)
    (tmp_path / "directory").mkdir()
    for target in (tmp_path / "directory", Path("/dev/null"), tmp_path / "nowhere" / "out", image):
        with pytest.raises(TargetError):
            export(image, target, "qcow2", force=target == image)
    with pytest.raises(UsageError, match="cannot be compressed"):
        export(image, tmp_path / "out", "vdi", compress=True)
    assert sorted(os.listdir(tmp_path)) == ["directory", "image", "image.raw"]


@needs("qemu-img")
def test_a_damaged_image_and_a_stop_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(tmp_path / "image", os.urandom(100_000))
    real = virtual_disk.run_tool

    def interrupted(subject: str, command: list[str], **options: object) -> tuple[int, str]:
        if "convert" in command:
            Path(command[-1]).write_bytes(b"half")
            raise KeyboardInterrupt
        return real(subject, command)

    monkeypatch.setattr(virtual_disk, "run_tool", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(image, tmp_path / "out", "qcow2")
    monkeypatch.undo()
    with image.open("r+b") as file:
        file.write(bytes(100))
    with pytest.raises(ImageError):
        export(image, tmp_path / "out", "qcow2")
    assert sorted(os.listdir(tmp_path)) == ["image", "image.raw"]


@needs("qemu-img")
def test_a_tool_that_writes_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(tmp_path / "image", os.urandom(100_000))
    real = virtual_disk.run_tool

    def lying(subject: str, command: list[str], **options: object) -> tuple[int, str]:
        result = real(subject, command)
        if "convert" in command:
            run("qemu-io", "-c", "write -P 7 4096 512", command[-1])
        return result

    monkeypatch.setattr(virtual_disk, "run_tool", lying)
    with pytest.raises(ImageError, match="mismatch"):
        export(image, tmp_path / "out", "qcow2")
    assert not (tmp_path / "out").exists()


@needs("qemu-img")
def test_an_export_into_the_library_is_not_swept_away(
    tmp_path: Path, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes hours, and neither the disk laid out nor the file that is compared is written to meanwhile."""
    image = make_image(tmp_path / "image", raw)
    run_tool, swept = virtual_disk.run_tool, []

    def sweep(subject: str, command: list[str], **options: Any) -> tuple[int, str]:
        if "compare" in command:
            parts = list(tmp_path.glob(".*.part"))
            for part in parts:
                os.utime(part, (0, 0))
            Library(tmp_path).reserve("other")
            swept.append([part.exists() for part in parts])
        return run_tool(subject, command, **options)

    monkeypatch.setattr(virtual_disk, "run_tool", sweep)
    export(image, tmp_path / "out", "qcow2")
    assert swept == [[True, True]]
    assert not list(tmp_path.glob(".*.part"))
