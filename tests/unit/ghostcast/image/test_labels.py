"""Goal: labels and rules change without a byte of the image changing, all at once, and are never silently lost.

Method: change them on small images; damage, swap and race the file that holds them.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ghostcast.image.labels import change, open_labelled
from ghostcast.image.library import labels_path
from ghostcast.image.reader import ImageFile
from protocol import limits
from protocol.errors import ImageError, UsageError
from protocol.manifest import Manifest
from protocol.match import ANY_MACHINE, MatchRule
from tests.images import make_image

RULE = MatchRule(vendors=("Dell*",), memory_size_min=8 << 30)


def labelled(path: Path) -> Manifest:
    with open_labelled(path) as image:
        assert Manifest.decode(image.manifest_bytes).source == image.manifest.source
        assert Manifest.decode(image.manifest_bytes).match == image.manifest.match
        return image.manifest


def test_labels_and_rule_change_and_the_image_does_not(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", os.urandom(10_000), labels={"os": "debian", "rack": "7"})
    before = image.read_bytes()
    assert labelled(image).source.labels == {"os": "debian", "rack": "7"}
    change(image, {"rack": "8", "owner": "ops"}, lambda _: RULE)
    change(image, {"os": None})
    after = labelled(image)
    assert after.source.labels == {"rack": "8", "owner": "ops"}
    assert after.match == RULE
    assert image.read_bytes() == before
    with ImageFile.open(image) as opened:
        assert after.image_id == opened.manifest.image_id
        assert (after.stored_digests == opened.manifest.stored_digests).all()
        assert opened.manifest.source.labels == {"os": "debian", "rack": "7"}
    change(image, {}, lambda rule: ANY_MACHINE if rule == RULE else rule)
    assert labelled(image).match == ANY_MACHINE
    assert sorted(os.listdir(tmp_path)) == ["image", "image.labels.json", "image.raw"]


def test_an_image_without_labels_is_as_it_is_stored(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x")
    with ImageFile.open(image) as stored, open_labelled(image) as opened:
        assert opened.manifest_bytes == stored.manifest_bytes


def test_all_names_of_an_image_share_its_labels(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x")
    (tmp_path / "link").symlink_to(image)
    change(tmp_path / "link", {"rack": "7"})
    assert labelled(image).source.labels == labelled(tmp_path / "link").source.labels == {"rack": "7"}


def test_labels_of_an_image_that_was_replaced_are_not_the_new_one_s(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x")
    change(image, {"rack": "7"}, lambda _: RULE)
    make_image(image, b"x")
    assert labelled(image).source.labels == {}
    assert labelled(image).match == ANY_MACHINE


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b" " * ((1 << 20) + 1),
        b'{"format": 2, "image_id": "' + b"0" * 32 + b'", "labels": {}}',
        b'{"format": 1, "image_id": "no", "labels": {}}',
        b'{"format": 1, "image_id": "' + b"0" * 32 + b'", "labels": {"a": 1}}',
        b'{"format": 1, "image_id": "' + b"0" * 32 + b'", "labels": {}, "match": {"vendors": [""]}}',
    ],
)
def test_labels_that_cannot_be_read_are_an_error_since_they_may_hold_a_rule(tmp_path: Path, damage: bytes) -> None:
    image = make_image(tmp_path / "image", b"x")
    labels_path(image).write_bytes(damage)
    with pytest.raises(ImageError, match="cannot be read"):
        open_labelled(image)
    with pytest.raises(ImageError, match="cannot be read"):
        change(image, {"a": "b"})
    assert labels_path(image).read_bytes() == damage


def test_the_file_can_be_read_by_people(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x")
    change(image, {"rack": "7"}, lambda _: RULE)
    document = json.loads(labels_path(image).read_text())
    assert document["labels"] == {"rack": "7"}
    assert document["match"] == {"vendors": ["Dell*"], "memory_size_min": 8 << 30}
    assert labels_path(image).read_text().count("\n") > 5


def test_changes_at_once_lose_none(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: change(image, {f"key-{number}": str(number)}), range(24)))
    assert labelled(image).source.labels == {f"key-{number}": str(number) for number in range(24)}


def test_limits_and_what_is_not_there_are_refused(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", b"x")
    with pytest.raises(UsageError, match="at most 64"):
        change(image, {str(number): "" for number in range(limits.LABEL_COUNT_MAX + 1)})
    with pytest.raises(UsageError, match="at most 1024 characters"):
        change(image, {"a": "x" * 1025})
    with pytest.raises(UsageError, match="no label 'rack'"):
        change(image, {"rack": None})
    with pytest.raises(UsageError, match="no such image"):
        change(tmp_path / "nowhere", {"a": "b"})
    assert not labels_path(image).exists()
