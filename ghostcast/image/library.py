"""The library: a directory of images that have a name and a version.

Knows file names; opens no image. ``NAME@VERSION.img.zst`` is one image, and that is all there is: a library can be
listed by ``ls``, copied by ``rsync`` and mended by ``mv``. The invariants: a name never leads out of the directory; a
version that was given out is never given out again, so ``golden@3`` stays what it was; an image has its name only when
it is complete (``target``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from protocol.errors import UsageError

ENVIRONMENT = "GHOSTCAST_LIBRARY"
SYSTEM_DIRECTORY = Path("/var/lib/ghostcast")

IMAGE_SUFFIX = ".img.zst"
LABELS_SUFFIX = ".labels.json"
"""Of the small file beside an image, ``labels.py``."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"
_REFERENCE = re.compile(rf"(?P<name>{_NAME})(?:@(?P<version>[1-9][0-9]{{0,8}}))?")
_FILE = re.compile(rf"(?P<name>{_NAME})@(?P<version>[1-9][0-9]{{0,8}}){re.escape(IMAGE_SUFFIX)}")

_LOCK = ".library.lock"
_VERSIONS = ".library.json"
_LEFT_OVER = re.compile(r"\.ghostcast-[0-9a-f]{12}\.part")
_LEFT_OVER_AGE_S = 3600
"""Unfinished files that nobody holds a lock on, this long after their last write, are what a killed command left."""


class _Versions(msgspec.Struct):
    """``.library.json``: the newest version that each name ever had."""

    newest: dict[str, Annotated[int, msgspec.Meta(ge=1)]] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One image of a library, by its file name alone."""

    name: str
    version: int
    path: Path

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def default_directory() -> Path:
    """Return the library of who asks: $GHOSTCAST_LIBRARY, the system's for root, or a directory of the user's own."""
    if chosen := os.environ.get(ENVIRONMENT):
        return Path(chosen)
    if os.geteuid() == 0:
        return SYSTEM_DIRECTORY
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(data) if data.startswith("/") else Path.home() / ".local" / "share") / "ghostcast"


def parse_reference(text: str) -> tuple[str, int | None] | None:
    """Return name and version of ``NAME`` or ``NAME@VERSION``; None where it is neither, as a path mostly is not."""
    match = _REFERENCE.fullmatch(text)
    if match is None or match["name"].endswith(IMAGE_SUFFIX):
        return None
    return match["name"], int(match["version"]) if match["version"] else None


def labels_path(image: Path) -> Path:
    """Return where the labels of an image are kept; all links to an image share them."""
    real = Path(os.path.realpath(image))
    return real.with_name(real.name + LABELS_SUFFIX)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a new image.

    Raises:
        UsageError: says what a name is.
    """
    reference = parse_reference(name)
    if reference is None or reference[1] is not None:
        raise UsageError(
            f"{name!r} cannot be a name in the library: a name begins with a letter or a digit, has letters, "
            f"digits, '.', '_', '+' and '-', 100 at most, and does not end in {IMAGE_SUFFIX}; the version is "
            "given out, not chosen"
        )


class Library:
    """A directory of images; it need not exist until the first image is made."""

    def __init__(self, directory: Path | None = None) -> None:
        """Name a directory, or take the default one."""
        self.directory = default_directory() if directory is None else directory

    def entries(self) -> list[Entry]:
        """Return all images by name and version.

        Raises:
            UsageError: the directory is there and cannot be read.
        """
        matches = (_FILE.fullmatch(file_name) for file_name in self._listed())
        return sorted(
            Entry(match["name"], int(match["version"]), self.directory / match[0]) for match in matches if match
        )

    def strangers(self) -> list[Path]:
        """Return image files whose names are none of a library's, which somebody put here by hand."""
        return [
            self.directory / file_name
            for file_name in self._listed()
            if file_name.endswith(IMAGE_SUFFIX) and not file_name.startswith(".") and not _FILE.fullmatch(file_name)
        ]

    def find(self, text: str) -> Entry | None:
        """Return the image that ``NAME@VERSION`` means, or ``NAME``: its newest version; None if there is none.

        Raises:
            UsageError: ``text`` is no such name.
        """
        reference = parse_reference(text)
        if reference is None:
            raise UsageError(
                f"{text!r} is not a name of an image: a name has letters, digits, '.', '_', '+' and '-' and may be "
                "followed by @VERSION, such as golden@3"
            )
        name, version = reference
        found = [entry for entry in self.entries() if entry.name == name and version in (None, entry.version)]
        return found[-1] if found else None

    def require(self, text: str) -> Entry:
        """Return what ``find`` does.

        Raises:
            UsageError: there is no such image; says which versions there are.
        """
        entry = self.find(text)
        if entry is None:
            name = text.partition("@")[0]
            others = [str(entry) for entry in self.entries() if entry.name == name]
            known = f"there is {', '.join(others)}" if others else "ghostcast image list shows those that are there"
            raise UsageError(f"{text}: no such image in the library {self.directory}; {known}")
        return entry

    def reserve(self, name: str) -> Entry:
        """Give out the next version of a name; whoever asks at the same time gets another one.

        Nothing is at the path yet. A version whose image is never completed stays unused.

        Raises:
            UsageError: no good name, or the directory cannot be written.
        """
        check_name(name)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._remove_left_overs()
                versions = self._read_versions()
                present = [entry.version for entry in self.entries() if entry.name == name]
                version = 1 + max([versions.newest.get(name, 0), *present])
                versions.newest[name] = version
                self._write_versions(versions)
        except OSError as error:
            raise UsageError(
                f"{self.directory}: the library cannot be written: {error.strerror}; name another one by --library or "
                f"in ${ENVIRONMENT}"
            ) from error
        return Entry(name, version, self.directory / f"{name}@{version}{IMAGE_SUFFIX}")

    def delete(self, entry: Entry) -> None:
        """Remove an image and its labels. A session that sends it goes on: it holds the file open.

        Raises:
            UsageError: it is gone already, or the directory cannot be written.
        """
        try:
            if self.directory.is_dir():
                with self._locked():  # its version stays given out, also where the directory was filled by hand
                    versions = self._read_versions()
                    if versions.newest.get(entry.name, 0) < entry.version:
                        versions.newest[entry.name] = entry.version
                        self._write_versions(versions)
            # The image first: its match rule must not be gone while it can still be sent.
            entry.path.unlink()
            entry.path.with_name(labels_path(entry.path).name).unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{entry.path}: cannot be deleted: {error.strerror}") from error

    def _listed(self) -> list[str]:
        try:
            return sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(f"{self.directory}: the library cannot be read: {error.strerror}") from error

    @contextlib.contextmanager
    def _locked(self) -> Generator[None, None, None]:
        descriptor = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read_versions(self) -> _Versions:
        try:
            return msgspec.json.decode((self.directory / _VERSIONS).read_bytes(), type=_Versions)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return _Versions()  # the images that are there still count

    def _write_versions(self, versions: _Versions) -> None:
        temporary = self.directory / f"{_VERSIONS}.new"  # one at a time, under the lock
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(versions))
            file.flush()
            os.fsync(file.fileno())  # an empty file after a power failure would give versions out again
        temporary.replace(self.directory / _VERSIONS)

    def _remove_left_overs(self) -> None:
        for file_name in self._listed():
            if not _LEFT_OVER.fullmatch(file_name):
                continue
            path = self.directory / file_name
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if time.time() - os.fstat(descriptor).st_mtime > _LEFT_OVER_AGE_S:
                        path.unlink()
                finally:
                    os.close(descriptor)
