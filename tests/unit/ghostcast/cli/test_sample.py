"""Goal: the demo's disk is the same each time, and has every kind of chunk there is, holes too.

Method: two disks of the same size compared, pieces looked at one by one.
"""

from __future__ import annotations

from pathlib import Path

import blake3
import pytest

from ghostcast.cli.sample import PIECE_SIZE, file_digest, write_sample
from protocol.limits import MIB


@pytest.mark.parametrize("size", [0, 1, PIECE_SIZE, 17 * PIECE_SIZE - 3])
def test_the_same_size_is_the_same_disk(size: int, tmp_path: Path) -> None:
    first, second = write_sample(tmp_path / "first", size), write_sample(tmp_path / "second", size)
    content = (tmp_path / "first").read_bytes()
    assert content == (tmp_path / "second").read_bytes()
    assert len(content) == size
    assert first == second == blake3.blake3(content).digest()


def test_every_kind_of_piece_is_there(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    write_sample(path, 16 * PIECE_SIZE)
    content = path.read_bytes()
    pieces = [content[start : start + PIECE_SIZE] for start in range(0, len(content), PIECE_SIZE)]
    assert all(piece.isalpha() for piece in pieces[:4])
    assert all(len(set(piece)) == 256 for piece in pieces[4:8])
    assert not any(any(piece) for piece in pieces[8:])
    assert len(set(pieces)) == 9


def test_the_sparse_part_is_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    write_sample(path, 16 * PIECE_SIZE)
    (tmp_path / "hole").touch()
    with (tmp_path / "hole").open("r+b") as hole:
        hole.truncate(PIECE_SIZE)
    if (tmp_path / "hole").stat().st_blocks:
        pytest.skip("this file system has no holes")
    assert path.stat().st_blocks * 512 < 12.5 * PIECE_SIZE


def test_a_file_is_digested_in_pieces(tmp_path: Path) -> None:
    content = bytes(range(256)) * (9 * MIB // 256)
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == blake3.blake3(content).digest()
