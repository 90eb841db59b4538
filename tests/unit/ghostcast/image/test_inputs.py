"""Goal: whatever kind of file a disk comes in, the image is that disk; a damaged one makes no image and leaves nothing.

Method: one small disk, put into every format by the format's own tool; then cut, damaged, misnamed, interrupted.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ghostcast.disk import programs
from ghostcast.image.formats import FORMATS, VIRTUAL_DISKS, begins_like, check_raw, find_format
from ghostcast.image.inputs import open_source
from ghostcast.image.pipeline import Progress
from ghostcast.image.scratch import Scratch
from ghostcast.image.writer import ImageOptions, create_image
from protocol.errors import ExitStatus, GhostcastError, TargetError, UsageError
from protocol.manifest import Manifest
from tests.images import plain_zstd
from tests.tools import needs, run

MIB = 1 << 20
COMPRESSORS = {
    "gz": ("gzip", "-c"),
    "xz": ("xz", "-0c"),
    "zst": ("zstd", "-c"),
    "bz2": ("bzip2", "-1c"),
    "lz4": ("lz4", "-c"),
}


def make_disk(path: Path) -> bytes:
    """A disk of 8 MiB that ends with data, so that whatever is cut off is missed."""
    rng = random.Random(7)
    raw = rng.randbytes(MIB) + bytes(5 * MIB) + rng.randbytes(MIB // 2) + bytes(MIB) + rng.randbytes(MIB // 2)
    path.write_bytes(raw)
    return raw


@contextlib.contextmanager
def silent(action: str, size: int | None) -> Generator[Progress | None, None, None]:
    yield None


def make_image(
    source: Path, image: Path, format_name: str | None = None, disk: str | None = None
) -> tuple[Manifest, bytes]:
    with open_source(source, format_name, silent, scratch_directory=image.parent, disk=disk) as opened:
        manifest = create_image(opened, image, ImageOptions())
    return manifest, plain_zstd(image)


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :]


def convert(disk: Path, name: str, *options: str) -> Path:
    made = disk.with_name(f"disk.{name}")
    size = ("-o", "force_size=on") if name == "vhd" else ()
    run("qemu-img", "convert", "-f", "raw", "-O", VIRTUAL_DISKS[name], *size, *options, disk, made)
    return made


def refused(source: Path, *, format_name: str | None = None) -> GhostcastError:
    """Return why no image is made, after checking that nothing is left."""
    before = sorted(os.listdir(source.parent))
    with pytest.raises(GhostcastError) as caught:
        make_image(source, source.parent / "never.img.zst", format_name)
    assert sorted(os.listdir(source.parent)) == before
    return caught.value


@needs("qemu-img")
@pytest.mark.parametrize("name", VIRTUAL_DISKS)
def test_disks_of_virtual_machines(tmp_path: Path, name: str) -> None:
    raw = make_disk(tmp_path / "disk")
    source = convert(tmp_path / "disk", name)
    manifest, restored = make_image(source, tmp_path / "image")
    assert restored == raw
    assert manifest.name == source.name
    assert manifest.source.path == str(source)
    assert sorted(os.listdir(tmp_path)) == ["disk", source.name, "image"]


@needs("qemu-img")
@pytest.mark.parametrize("name", VIRTUAL_DISKS)
@pytest.mark.parametrize("cut", [0.5, 20_000, 200])
def test_a_cut_disk_of_a_virtual_machine_makes_no_image(tmp_path: Path, name: str, cut: float) -> None:
    """qemu-img itself reads zeros where the file has ended, of some formats without a word."""
    raw = make_disk(tmp_path / "disk")
    source = convert(tmp_path / "disk", name)
    size = source.stat().st_size
    os.truncate(source, int(size * cut) if cut < 1 else size - int(cut))
    if (name, cut) == ("vhd", 200):  # the end of a vhd file is a copy of its start: nothing is lost
        assert make_image(source, tmp_path / "image")[1] == raw
    else:
        assert refused(source).exit_status == ExitStatus.IMAGE


@needs("qemu-img")
def test_a_disk_that_needs_other_files_is_refused(tmp_path: Path) -> None:
    make_disk(tmp_path / "disk")
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 512)
    run("qemu-img", "create", "-f", "qcow2", "-b", secret, "-F", "raw", tmp_path / "overlay.qcow2")
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", tmp_path / "data.qcow2", "1M")
    convert(tmp_path / "disk", "vmdk", "-o", "subformat=monolithicFlat")
    for name in ("overlay.qcow2", "data.qcow2", "disk.vmdk"):
        assert "needs other files" in str(refused(tmp_path / name))
    convert(tmp_path / "disk", "vmdk", "-o", "subformat=streamOptimized")
    assert make_image(tmp_path / "disk.vmdk", tmp_path / "image")[1] == (tmp_path / "disk").read_bytes()


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressed_disks(tmp_path: Path, name: str) -> None:
    if programs.find(COMPRESSORS[name][0]) is None:
        pytest.skip(str(programs.ProgramMissing(COMPRESSORS[name][0])))
    raw = make_disk(tmp_path / "disk")
    source = tmp_path / f"disk.raw.{name}"
    source.write_bytes(run(*COMPRESSORS[name], stdin=raw))
    manifest, restored = make_image(source, tmp_path / "image")
    assert restored == raw
    assert manifest.source.path == str(source)
    (tmp_path / "image").unlink()
    packed = source.read_bytes()
    for damaged in (packed[: len(packed) // 2], packed[:-3], packed[:-1], b"", flipped(packed, 1000)):
        source.write_bytes(damaged)
        assert refused(source).exit_status == ExitStatus.IMAGE
    source.write_bytes(run(*COMPRESSORS[name]))
    assert "nothing is in it" in str(refused(source))


@needs("gzip", "qemu-img")
def test_what_is_in_a_compressed_file_is_looked_at(tmp_path: Path) -> None:
    make_disk(tmp_path / "disk")
    (tmp_path / "disk.qcow2.gz").write_bytes(run("gzip", "-c", stdin=convert(tmp_path / "disk", "qcow2").read_bytes()))
    assert "begins like qcow2" in str(refused(tmp_path / "disk.qcow2.gz"))


@needs("partclone.ext4", "mke2fs")
def test_an_image_of_partclone_s(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(os.urandom(500_000))
    run("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", tmp_path / "fs", "16M")
    source = tmp_path / "sda1.ext4-ptcl-img"
    run("partclone.ext4", "-c", "-s", tmp_path / "fs", "-o", source, "-L", "/dev/null")
    _, restored = make_image(source, tmp_path / "image")
    assert len(restored) == 16 * MIB
    (tmp_path / "restored").write_bytes(restored)
    run("e2fsck", "-fn", tmp_path / "restored")
    assert run("debugfs", "-R", "cat /file", tmp_path / "restored") == (tmp_path / "tree" / "file").read_bytes()
    (tmp_path / "image").unlink()
    packed = source.read_bytes()
    for damaged in (packed[: len(packed) // 2], packed[:-1], flipped(packed, len(packed) // 2)):
        source.write_bytes(damaged)
        assert refused(source).exit_status == ExitStatus.IMAGE


def test_content_alone_never_decides(tmp_path: Path) -> None:
    for name, start in (("qcow2", b"QFI\xfb"), ("gz", b"\x1f\x8b\x08"), ("partclone", b"partclone-image")):
        for file_name in ("disk", "disk.img", "disk.bin"):
            (tmp_path / file_name).write_bytes(start.ljust(MIB, b"\0"))
            with pytest.raises(UsageError, match=f"--format {name}"):
                find_format(tmp_path / file_name, None)
            assert find_format(tmp_path / file_name, "raw") == "raw"
    (tmp_path / "disk.raw").write_bytes(b"QFI\xfb".ljust(MIB, b"\0"))
    assert make_image(tmp_path / "disk.raw", tmp_path / "image")[1][:4] == b"QFI\xfb"
    (tmp_path / "disk").write_bytes(b"QFI\xfb".ljust(MIB, b"\0"))
    assert len(make_image(tmp_path / "disk", tmp_path / "image-2", "raw")[1]) == MIB


def test_names_decide(tmp_path: Path) -> None:
    (tmp_path / "sda1.ext4-ptcl-img").touch()
    assert find_format(tmp_path / "sda1.ext4-ptcl-img", None) == "partclone"
    for file_name, name in (
        ("a.QCOW2", "qcow2"),
        ("a.raw.gz", "gz"),
        ("a.vhd", "vhd"),
        ("a.zstd", "zst"),
        ("a", "raw"),
    ):
        (tmp_path / file_name).touch()
        assert find_format(tmp_path / file_name, None) == name
    assert find_format(tmp_path / "missing.qcow2", None) == "raw"
    (tmp_path / "directory").mkdir()
    with pytest.raises(UsageError, match="not one that Clonezilla made"):
        find_format(tmp_path / "directory", None)
    for name in FORMATS:
        assert find_format(tmp_path / "a", name) == name


def test_a_boot_sector_is_a_disk() -> None:
    boot = bytes(510) + b"\x55\xaa"
    assert begins_like(boot) is None
    assert begins_like(b"") is None
    check_raw(Path("disk"), boot)


@needs("gzip")
def test_standard_input_is_looked_at_too(tmp_path: Path) -> None:
    raw = make_disk(tmp_path / "disk")
    packed = run("gzip", "-c", stdin=raw)
    command = [sys.executable, "-m", "ghostcast.cli.main", "image", "create", "-", str(tmp_path / "image")]
    ended = subprocess.run(command, input=packed, capture_output=True, timeout=60)
    assert ended.returncode == ExitStatus.USAGE
    assert b"--format gz" in ended.stderr
    assert not (tmp_path / "image").exists()
    ended = subprocess.run([*command, "--format", "gz"], input=packed, capture_output=True, timeout=60)
    assert ended.returncode == 0
    assert plain_zstd(tmp_path / "image") == raw


@needs("gzip")
def test_a_fifo_is_opened_once(tmp_path: Path) -> None:
    """Opened to look and opened again to read, it would cost the writer its reader in between."""
    raw = make_disk(tmp_path / "disk")
    os.mkfifo(tmp_path / "fifo")
    packed = run("gzip", "-c", stdin=raw)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit((tmp_path / "fifo").write_bytes, packed)
        assert make_image(tmp_path / "fifo", tmp_path / "image", "gz")[1] == raw
        assert written.result() == len(packed)


@pytest.mark.parametrize(
    ("file", "format_name"), [("-", "qcow2"), ("-", "clonezilla"), ("disk", "clonezilla"), (".", "qcow2")]
)
def test_a_format_that_cannot_be_is_wrong_usage(tmp_path: Path, file: str, format_name: str) -> None:
    (tmp_path / "disk").touch()
    source = Path(file) if file == "-" else tmp_path / file
    with pytest.raises(UsageError), open_source(source, format_name, silent, scratch_directory=tmp_path):
        pass
    with pytest.raises(UsageError, match="is one disk"):
        make_image(tmp_path / "disk", tmp_path / "image", disk="sda")


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find", lambda name: None)
    for file, package in (("a.qcow2", "qemu-utils"), ("a.xz", "xz-utils"), ("a.pcl", "partclone"), ("a.lz4", "lz4")):
        (tmp_path / file).write_bytes(b"x")
        error = refused(tmp_path / file)
        assert package in str(error)
        assert error.exit_status == ExitStatus.USAGE


def test_a_scratch_file_has_no_name_and_its_room_is_checked(tmp_path: Path) -> None:
    with Scratch(tmp_path / "not" / "yet", 10 * MIB) as scratch:
        assert os.listdir(tmp_path) == []
        assert scratch.allocated_size == 0
        scratch.write(5 * MIB, b"x" * 100)
        assert scratch.path.stat().st_size == 10 * MIB
        assert scratch.path.read_bytes()[5 * MIB :][:101] == b"x" * 100 + b"\0"
        scratch.require(1)
        with pytest.raises(TargetError, match="--scratch"):
            scratch.require(1 << 60)


@needs("gzip")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_kill_leaves_neither_an_image_nor_a_tool(tmp_path: Path, number: signal.Signals) -> None:
    """The tool waits for more of a file that never ends."""
    os.mkfifo(tmp_path / "disk")
    command = [sys.executable, "-m", "ghostcast.cli.main", "image", "create", str(tmp_path / "disk")]
    command += [str(tmp_path / "image"), "--format", "gz"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process, (tmp_path / "disk").open("wb", 0) as writer:
        writer.write(run("gzip", "-1c", stdin=os.urandom(32 * MIB))[:-9])
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.send_signal(number)
        _, seen = process.communicate(timeout=60)
    assert process.returncode == ExitStatus.INTERRUPTED, seen
    assert not Path(f"/proc/{children[0]}").exists()
    assert os.listdir(tmp_path) == ["disk"]


def test_a_tool_that_fails_at_the_very_end_makes_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has given every byte, and then says that they were wrong: only its status tells."""
    raw = make_disk(tmp_path / "disk.gz")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "gzip").write_text("#!/bin/sh\ncat\necho crc error >&2\nexit 1\n")
    (tools / "gzip").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert "crc error" in str(refused(tmp_path / "disk.gz"))
    (tools / "gzip").write_text("#!/bin/sh\ncat\n")
    assert make_image(tmp_path / "disk.gz", tmp_path / "image")[1] == raw
    (tools / "gzip").write_text("#!/bin/sh\ncat\nkill -9 $$\n")
    assert "was killed by signal 9" in str(refused(tmp_path / "disk.gz"))
