"""Goal: docs/IMAGE-FORMAT.md is enough to write a reader.

Method: one that was written from it, of zstd and msgpack, restores an image with used, partly used, zero and unused
chunks and with partitions over a target full of noise, and has to leave the same disk as ghostcast.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import pytest

from ghostcast.disk.survey import Survey
from ghostcast.image.extract import extract_image
from ghostcast.image.reader import ImageFile
from ghostcast.image.source import RawSource
from ghostcast.image.target import Target
from ghostcast.image.writer import ImageOptions, create_image
from protocol.disk import GPT, Disk, Volume
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO
from tests import second_reader
from tests.images import CHUNK_SIZE, plain_zstd, verify

CHUNKS = 12
SIZE = CHUNKS * CHUNK_SIZE - 1000
FREE = [
    (2 * CHUNK_SIZE + 100, 2 * CHUNK_SIZE + 3000),
    (4 * CHUNK_SIZE, 7 * CHUNK_SIZE),
    (9 * CHUNK_SIZE - 5, SIZE - 50),
]
VOLUMES = [
    Volume(number=1, start=CHUNK_SIZE, size=2 * CHUNK_SIZE, content="ext4", needed_size=2 * CHUNK_SIZE),
    Volume(number=2, start=3 * CHUNK_SIZE, size=5 * CHUNK_SIZE, type="0x83"),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with every kind of chunk, and partitions."""
    raw = bytearray(os.urandom(SIZE))
    raw[CHUNK_SIZE : 2 * CHUNK_SIZE] = bytes(CHUNK_SIZE)
    (tmp_path / "disk").write_bytes(raw)
    with RawSource.open(tmp_path / "disk") as source:
        description = Disk(table=GPT, sector_size=512, smallest_size=SIZE, free_size=9, volumes=VOLUMES)
        source.take_survey(Survey(description, np.array(FREE, np.int64)))
        manifest = create_image(source, tmp_path / "image", ImageOptions(chunk_size=CHUNK_SIZE))
    assert manifest.flags.tolist() == [0, FLAG_ZERO, 0, 0, *[FLAG_UNUSED] * 3, 0, 0, FLAG_UNUSED, FLAG_UNUSED, 0]
    return tmp_path / "image"


def expected(disk: bytes, noise: bytes) -> bytes:
    """Return what a restore over noise leaves: chunks that are wholly free as they were, other free bytes zero."""
    result = bytearray(disk)
    for start, end in FREE:
        result[start:end] = bytes(end - start)
    for chunk in (4, 5, 6, 9, 10):
        result[chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE] = noise[chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE]
    return bytes(result)


def test_both_readers_leave_the_same_disk(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify(image)
    noise = os.urandom(SIZE)
    (tmp_path / "theirs").write_bytes(noise)
    with image.open("rb") as opened, (tmp_path / "theirs").open("r+b") as target:
        second_reader.restore(opened, target)
    right = expected((tmp_path / "disk").read_bytes(), noise)
    assert (tmp_path / "theirs").read_bytes() == right
    # Only a device is written in place; to extract over a file, it has to pass for one.
    (tmp_path / "ours").write_bytes(noise)
    with ImageFile.open(image) as opened_image, monkeypatch.context() as patched:
        in_place = Target.open(tmp_path / "ours", raw_size=None)
        patched.setattr("ghostcast.image.extract._open_target", lambda *_arguments: in_place)
        patched.setattr(Target, "is_block_device", property(lambda _self: True))
        patched.setattr(Target, "sector_size", property(lambda _self: 512))
        assert extract_image(opened_image, tmp_path / "ours") == []
    assert (tmp_path / "ours").read_bytes() == right


def test_plain_zstd_makes_zeros_of_what_nothing_uses(tmp_path: Path, image: Path) -> None:
    assert plain_zstd(image) == expected((tmp_path / "disk").read_bytes(), bytes(SIZE))


def test_partitions_are_read(image: Path) -> None:
    assert second_reader.volumes(image) == [
        (1, CHUNK_SIZE, 2 * CHUNK_SIZE, "ext4"),
        (2, 3 * CHUNK_SIZE, 5 * CHUNK_SIZE, ""),
    ]


def test_it_is_short_and_knows_nothing_of_ours() -> None:
    code = Path(second_reader.__file__).read_text()
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imported if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"struct", "msgpack", "zstandard"}
    assert not any(isinstance(node, ast.ImportFrom) and node.module in ("protocol", "ghostcast") for node in imported)
    statements = [line for line in code.splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(statements) <= 60
