"""What people note about an image after it was made: labels and the match rule, in a small file beside it.

``golden@3.img.zst.labels.json`` beside ``golden@3.img.zst``. The image says in its manifest what it was made with; this
file, if it is there, says what holds now, whole. The invariant: the image file itself is never written, and the labels
change all at once or not at all.

*Rejected:* the manifest in the image's tail. Written in place, a kill in the middle leaves an image that nobody can
open; written anew, a label costs a copy of a hundred gigabytes; and every hard link, checksum file and running session
of the image would see it change. The price is that whoever copies an image elsewhere copies two files, or loses what
was noted later, never what was noted when it was made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated

import msgspec

from ghostcast.image.library import labels_path
from ghostcast.image.reader import ImageFile
from protocol import limits
from protocol.errors import ImageError, UsageError
from protocol.manifest import Manifest, Source
from protocol.match import ANY_MACHINE, MatchRule

_FORMAT = 1
_FILE_SIZE_MAX = limits.MIB
"""64 labels of 1024 characters each way, with room for escapes: what is larger was not written here."""


class _Document(msgspec.Struct, frozen=True):
    """The file's one JSON object."""

    format: int
    image_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    """Which image it speaks of: labels of an image that was since replaced are not the new one's."""
    labels: Annotated[
        dict[
            Annotated[str, msgspec.Meta(min_length=1, max_length=limits.LABEL_LENGTH_MAX)],
            Annotated[str, msgspec.Meta(max_length=limits.LABEL_LENGTH_MAX)],
        ],
        msgspec.Meta(max_length=limits.LABEL_COUNT_MAX),
    ]
    match: MatchRule = ANY_MACHINE


def open_labelled(path: Path) -> ImageFile:
    """Open an image with the labels and the rule that hold now.

    Raises:
        UsageError: there is no such file.
        ImageError: it is no good image, or its labels cannot be read.
    """
    image = ImageFile.open(path)
    try:
        manifest = current(path, image.manifest)
        if manifest is not image.manifest:
            image.manifest, image.manifest_bytes = manifest, manifest.encode()
    except BaseException:
        image.close()
        raise
    return image


def current(path: Path, manifest: Manifest) -> Manifest:
    """Return an image's manifest with the labels and the rule that hold now: ``manifest`` itself if none were noted.

    Raises:
        ImageError: the labels are there and cannot be read. They may hold a match rule, so they are never skipped.
    """
    file = labels_path(path)
    try:
        with file.open("rb") as opened:
            data = opened.read(_FILE_SIZE_MAX + 1)
    except FileNotFoundError:
        return manifest
    except OSError as error:
        raise ImageError(f"{file}: the image's labels cannot be read: {error.strerror}") from error
    try:
        if len(data) > _FILE_SIZE_MAX:
            raise ValueError(f"more than {_FILE_SIZE_MAX} bytes")
        document = msgspec.json.decode(data, type=_Document)
        if document.format != _FORMAT:
            raise ValueError(f"format {document.format}; this version reads format {_FORMAT}")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ImageError(
            f"{file}: the image's labels cannot be read ({error}); mend the file, or remove it to have those back "
            "that the image was made with"
        ) from error
    if document.image_id != manifest.image_id.hex():
        return manifest
    return _with(manifest, document.labels, document.match)


def change(
    path: Path, labels: dict[str, str | None], change_rule: Callable[[MatchRule], MatchRule] | None = None
) -> Manifest:
    """Note labels, and a match rule, for an image; returns its manifest as it is then.

    Args:
        path: the image; only its tail is read, and it is not written.
        labels: what to set; None takes a label away.
        change_rule: makes the new match rule of the one that holds now; None leaves it as it is.

    Raises:
        UsageError: there is no such image, there would be too many labels, or nothing can be written beside it.
        ImageError: it is no good image, or the labels that are there cannot be read.
    """
    with ImageFile.open(path) as image, _locked(image):
        before = current(path, image.manifest)
        kept = {**before.source.labels, **{key: value for key, value in labels.items() if value is not None}}
        for key, value in labels.items():
            if value is None:
                if key not in before.source.labels:
                    raise UsageError(f"{path}: has no label {key!r} to take away")
                del kept[key]
        after = _with(before, kept, before.match if change_rule is None else change_rule(before.match))
        if len(kept) > limits.LABEL_COUNT_MAX:
            raise UsageError(f"an image has at most {limits.LABEL_COUNT_MAX} labels, not {len(kept)}")
        if any(len(text) > limits.LABEL_LENGTH_MAX for pair in kept.items() for text in pair):
            raise UsageError(f"a label has at most {limits.LABEL_LENGTH_MAX} characters")
        document = _Document(_FORMAT, after.image_id.hex(), kept, after.match)
        _replace(labels_path(path), msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    return after


def _with(manifest: Manifest, labels: dict[str, str], rule: MatchRule) -> Manifest:
    source: Source = msgspec.structs.replace(manifest.source, labels=labels)
    return dataclasses.replace(manifest, source=source, match=rule)


@contextlib.contextmanager
def _locked(image: ImageFile) -> Generator[None, None, None]:
    """Let changes of one image's labels take turns: each is made of what was there before."""
    with contextlib.suppress(OSError):  # file systems without locks: the last of two at once wins
        fcntl.flock(image.fileno(), fcntl.LOCK_EX)
    yield  # closing the image unlocks


def _replace(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".ghostcast-{os.urandom(6).hex()}.part")
    try:
        try:
            with temporary.open("xb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{file}: the labels cannot be written: {error.strerror}") from error
