"""Files in parts of a given size: nothing is lost, and what is missing or damaged is found."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from carried import (
    join,
    pack_files,
    pack_pictures,
    packed_size,
    split,
    unpack_files,
    unpack_pictures,
)

from runtime.base.errors import UserError


def test_pictures_travel_without_loss(arrays: Path, tmp_path: Path) -> None:
    paths = split(pack_pictures(arrays), tmp_path / "parts", "pictures", most_bytes=9000)
    assert len(paths) > 3
    assert all(path.stat().st_size <= 9000 for path in paths)
    unpack_pictures(join([tmp_path / "parts"], "pictures"), tmp_path / "back")
    for file in ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "back" / file), np.load(arrays / file))
    assert (tmp_path / "back" / "classes.txt").read_text() == "a\nb\n"


def test_parts_may_lie_in_several_folders_but_none_may_be_missing_or_damaged(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    *_, last = split(bytes(range(250)), one, "x", most_bytes=100)
    two.mkdir()
    last = last.rename(two / last.name)
    assert join([one, two], "x") == bytes(range(250))
    with pytest.raises(UserError, match=r"x\.002 is in none of .*expected all parts"):
        join([one], "x")
    last.write_bytes(b"another 50 bytes of content that nobody has packed")
    with pytest.raises(UserError, match=r"part 2 of x in .* is damaged"):
        join([one, two], "x")


def test_a_second_pack_leaves_no_part_of_the_first(tmp_path: Path) -> None:
    split(bytes(500), tmp_path, "x", most_bytes=100)
    split(b"short", tmp_path, "x", most_bytes=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.000", "x.parts.json"]


def test_a_file_outside_of_the_folder_is_neither_packed_nor_unpacked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        pack_files({"../outside": b"secret"})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack_files(buffer.getvalue(), tmp_path / "root" / "below")


def test_the_size_of_a_packed_file_is_not_told_too_small(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    members: dict[str, Path | bytes] = {"a": b"", "b" * 200: b"x" * 513, "c/d": tmp_path / "file"}
    end = 10_240  # of a tar file
    assert packed_size(members) <= len(pack_files(members)) + 3 * 1024
    assert len(pack_files(members)) <= packed_size(members) + end
    unpack_files(pack_files(members), tmp_path / "back")
    assert (tmp_path / "back/c/d").read_bytes() == bytes(1000)
