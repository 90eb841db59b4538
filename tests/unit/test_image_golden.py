"""Goal: an image made today is read the same in ten years, by us, by zstd, and by whoever reads the specification.

Method: an image that was made once and never changes is held against what is known to be in it; the reader printed in
``docs/IMAGE-FORMAT.md``, which knows none of our code, restores it too, and refuses it when a bit is flipped.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ghostcast.image import layout
from ghostcast.image.reader import ImageFile
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Source, manifest_digest
from tests.images import CHUNK_SIZE, extract, make_image, plain_zstd, verify

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "vectors" / "image-v1.zst"
SPECIFICATION = ROOT / "docs" / "IMAGE-FORMAT.md"

RAWS = (
    bytes(number * number % 251 for number in range(CHUNK_SIZE)),
    bytes(CHUNK_SIZE),
    b"ghostcast\n" * 409 + b"end...",
    b"unused" * 682 + b"####",
    b"the last chunk is shorter\n",
)
DISK = b"".join(RAWS)
GOLDEN_SHA256 = "9177ab60ce933f134f80e022bd2237391eb07231640d5ac5b706908417c1d847"
MANIFEST_DIGEST = "324be7af5efaac666b91e2bc9b0d7cb63231e4e5b2c1d21d0bf5fb847d93b6d0"


@pytest.fixture(scope="module")
def restore() -> Callable[[bytes], bytes]:
    """The reader that the specification prints."""
    blocks = re.findall(r"```python\n(.*?)```", SPECIFICATION.read_text(), re.DOTALL)
    assert len(blocks) == 1
    code = blocks[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 50
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)) == {
        "struct",
        "blake3",
        "msgspec",
        "zstandard",
    }
    names: dict[str, Callable[[bytes], bytes]] = {}
    exec(compile(code, str(SPECIFICATION), "exec"), names)
    return names["restore"]


def test_the_golden_file_itself_has_not_changed() -> None:
    assert hashlib.sha256(GOLDEN.read_bytes()).hexdigest() == GOLDEN_SHA256


def test_every_field_reads_as_it_was_written() -> None:
    with ImageFile.open(GOLDEN) as image:
        manifest = image.manifest
        assert manifest_digest(image.manifest_bytes).hex() == MANIFEST_DIGEST
    assert manifest.image_id == bytes(range(16))
    assert (manifest.name, manifest.created) == ("golden \N{GHOST}", 1_767_225_600)
    assert (manifest.raw_size, manifest.chunk_size, manifest.chunk_count) == (len(DISK), CHUNK_SIZE, 5)
    assert manifest.flags.tolist() == [0, FLAG_ZERO, 0, FLAG_UNUSED, 0]
    assert manifest.source == Source(
        kind="block device",
        path="/dev/sda",
        host="build-7",
        architecture="x86_64",
        sector_size=512,
        labels={"os": "none", "rack": "7"},
    )


def test_every_reader_restores_the_same_disk(tmp_path: Path, restore: Callable[[bytes], bytes]) -> None:
    verify(GOLDEN)
    unused_left_alone = b"".join((*RAWS[:3], bytes(CHUNK_SIZE), RAWS[4]))
    assert extract(GOLDEN, tmp_path / "disk") == unused_left_alone
    assert plain_zstd(GOLDEN) == DISK
    assert restore(GOLDEN.read_bytes()) == DISK


def test_the_tail_is_still_written_byte_for_byte() -> None:
    """Compressed bytes may change with zstd's version; everything that we write ourselves may not."""
    with ImageFile.open(GOLDEN) as image:
        assert image.manifest.encode() == image.manifest_bytes
        assert layout.encode_tail(image.manifest) == GOLDEN.read_bytes()[image.stream_size :]


def test_the_specified_reader_finds_every_flipped_bit(restore: Callable[[bytes], bytes]) -> None:
    whole = GOLDEN.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        with pytest.raises((ValueError, struct.error)):
            restore(bytes(flipped))


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, 10 * CHUNK_SIZE + 3])
def test_the_specified_reader_restores_today_s_images(
    tmp_path: Path, restore: Callable[[bytes], bytes], size: int
) -> None:
    disk = os.urandom(size // 2) + bytes(size - size // 2)
    assert restore(make_image(tmp_path / "image", disk).read_bytes()) == disk
