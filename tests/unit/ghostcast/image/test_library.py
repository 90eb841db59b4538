"""Goal: names and versions mean one image each, never lead out of the directory, and are never given out twice.

Method: a directory of small and of empty files; threads that ask at once; a killed create.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ghostcast.image import library as library_module
from ghostcast.image.labels import change
from ghostcast.image.library import Library, default_directory, labels_path, parse_reference
from ghostcast.image.pipeline import core_count
from protocol.errors import UsageError
from tests.images import CHUNK_SIZE, make_image


def library_of(directory: Path, *names: str) -> Library:
    for name in names:
        (directory / f"{name}.img.zst").touch()
    return Library(directory)


def test_the_newest_version_is_what_a_name_means(tmp_path: Path) -> None:
    library = library_of(tmp_path, "golden@2", "golden@10", "golden-2@3", "Golden@99")
    assert str(library.require("golden")) == "golden@10"
    assert library.require("golden@2").path == tmp_path / "golden@2.img.zst"
    assert library.find("golden@3") is None
    assert library.find("silver") is None
    with pytest.raises(UsageError, match="there is golden@2, golden@10"):
        library.require("golden@3")
    with pytest.raises(UsageError, match="image list"):
        library.require("silver")


def test_only_images_by_name_and_version_are_listed(tmp_path: Path) -> None:
    library = library_of(tmp_path, "b@1", "a@2", "a@1", "nameless", "a@0", "a@01", "a@x", ".hidden@1", "@1", "a b@1")
    (tmp_path / "a@3.img.zst.labels.json").touch()
    (tmp_path / ".ghostcast-0123456789ab.part").touch()
    assert [str(entry) for entry in library.entries()] == ["a@1", "a@2", "b@1"]
    strangers = sorted(path.name for path in library.strangers())
    assert strangers == sorted(f"{name}.img.zst" for name in ("nameless", "a@0", "a@01", "a@x", "@1", "a b@1"))


def test_a_library_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert Library(tmp_path / "none").entries() == []
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be read"):
        Library(tmp_path / "file").entries()


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../golden", "a/b", "/etc/passwd", ".hidden", "-golden", "a\0b", "a\n", "gol den", "ä"),
        *("a@", "a@0", "a@-1", "a@1@2", "a@1/../../x", "golden.img.zst", "x" * 101, "a@9999999999"),
    ],
)
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    assert parse_reference(name) is None
    with pytest.raises(UsageError, match="is not a name"):
        Library(tmp_path / "library").find(name)
    with pytest.raises(UsageError, match="cannot be a name"):
        Library(tmp_path / "library").reserve(name)
    assert os.listdir(tmp_path) == []


def test_a_version_is_given_out_once(tmp_path: Path) -> None:
    library = Library(tmp_path / "deep" / "library")
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda _: library.reserve("golden"), range(24)))
    assert sorted(entry.version for entry in entries) == list(range(1, 25))
    assert len({entry.path for entry in entries}) == 24
    assert library.reserve("silver").version == 1


def test_a_version_that_was_deleted_is_not_given_out_again(tmp_path: Path) -> None:
    library = library_of(tmp_path, "golden@7")
    library.delete(library.require("golden@7"))
    assert library.entries() == []
    assert library.reserve("golden").version == 8
    (tmp_path / ".library.json").write_text("not JSON")
    (tmp_path / "golden@12.img.zst").touch()
    assert library.reserve("golden").version == 13


def test_deleting_takes_the_labels_too_and_nothing_else(tmp_path: Path) -> None:
    for version in (1, 2):
        change(make_image(tmp_path / f"golden@{version}.img.zst", b"x"), {"rack": "7"})
    library = Library(tmp_path)
    library.delete(library.require("golden@1"))
    assert [str(entry) for entry in library.entries()] == ["golden@2"]
    assert labels_path(tmp_path / "golden@2.img.zst").exists()
    assert not labels_path(tmp_path / "golden@1.img.zst").exists()
    with pytest.raises(UsageError, match="cannot be deleted"):
        library.delete(library_module.Entry("golden", 1, tmp_path / "golden@1.img.zst"))


def test_a_link_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere, directory = tmp_path / "elsewhere", tmp_path / "library"
    elsewhere.mkdir()
    directory.mkdir()
    image = make_image(elsewhere / "image", b"x")
    change(image, {"rack": "7"})
    (directory / "golden@1.img.zst").symlink_to(image)
    library = Library(directory)
    library.delete(library.require("golden"))
    assert image.exists()
    assert labels_path(image).exists()
    assert library.entries() == []


def test_what_a_killed_create_left_is_removed_and_work_in_progress_is_not(tmp_path: Path) -> None:
    old, fresh, held = (tmp_path / f".ghostcast-{digit * 12}.part" for digit in "abc")
    for path in (old, fresh, held):
        path.touch()
    for path in (old, held):
        os.utime(path, (0, 0))
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Library(tmp_path).reserve("golden")
    assert not old.exists()
    assert fresh.exists()
    assert held.exists()


def test_a_killed_create_leaves_nothing_that_looks_like_an_image(tmp_path: Path) -> None:
    """The pipeline is bounded: once the source took more than fits into it, the writer is at work."""
    library = Library(tmp_path / "library")
    command = [sys.executable, "-m", "ghostcast.cli.main", "image", "create", "-", "--name", "golden"]
    command += ["--library", str(library.directory), "--chunk-size", "4k"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(os.urandom((2 * core_count() + 2) * CHUNK_SIZE + (1 << 20)))
        process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert library.entries() == []
    assert library.strangers() == []
    assert library.reserve("golden").version == 2


def test_everybody_has_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GHOSTCAST_LIBRARY", str(tmp_path))
    assert default_directory() == tmp_path
    monkeypatch.delenv("GHOSTCAST_LIBRARY")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory() == Path("/var/lib/ghostcast")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_directory() == Path("/home/ann/.local/share/ghostcast")
    monkeypatch.setenv("XDG_DATA_HOME", "/data/ann")
    assert default_directory() == Path("/data/ann/ghostcast")


def test_a_library_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        Library(tmp_path / "file" / "library").reserve("golden")
