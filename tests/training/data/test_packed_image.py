"""Pictures inside of other files: they are read, decoded and cached as files are."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.base.errors import ImageError
from training.data.cache import load_cached
from training.data.dataset import whole_images
from training.data.packed_image import TarImage, ZipImage
from training.data.source import Contents, Source, Split

GEOMETRY = whole_images(32, mean=(0.5,) * 3, std=(0.5,) * 3)


def zip_image(archive: Path, name: str, **changes: Any) -> ZipImage:
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo(name)
    facts: dict[str, Any] = {
        "offset": info.header_offset,
        "method": info.compress_type,
        "size": info.compress_size,
        "file_size": info.file_size,
        "crc": info.CRC,
    }
    return ZipImage(path=archive / name, archive=archive, **facts | changes)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("stored.txt", b"abc" * 100)
        file.writestr("deflated.txt", b"abc" * 100, zipfile.ZIP_DEFLATED)
    return path


def test_the_bytes_are_those_of_the_member(archive: Path) -> None:
    for name in ("stored.txt", "deflated.txt"):
        image = zip_image(archive, name)
        assert pickle.loads(pickle.dumps(image)).read() == b"abc" * 100
    offset = archive.read_bytes().index(b"abcabc")
    assert TarImage(archive / "x", archive, offset, 6).read() == b"abcabc"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crc": 1}, "checksum"),
        ({"file_size": 299}, "checksum"),
        ({"file_size": 301}, "checksum"),
        ({"file_size": 1 << 40}, "1099511627776 bytes, the limit is 33554432"),
        ({"size": 1 << 40}, "1099511627776 bytes, the limit is 33554432"),
        ({"size": 1 << 20}, "ends before its data"),
        ({"offset": 5}, "has changed or is damaged"),
    ],
)
def test_what_is_wrong_with_a_member_is_said_with_its_path(
    archive: Path, changes: dict[str, int], message: str
) -> None:
    image = zip_image(archive, "deflated.txt", **changes)
    with pytest.raises(ImageError, match=message) as caught:
        image.read()
    assert str(archive / "deflated.txt") in str(caught.value)


def test_damaged_data_and_a_file_that_is_gone(archive: Path) -> None:
    image = zip_image(archive, "deflated.txt")
    content = bytearray(archive.read_bytes())
    start = image.offset + 30 + len("deflated.txt")
    content[start : start + 4] = b"\xff" * 4
    archive.write_bytes(content)
    with pytest.raises(ImageError, match="compressed data are damaged"):
        image.read()
    archive.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        image.read()


def test_rows_are_read_as_they_lie_and_written_where_they_belong(
    tmp_path: Path, write_image: Any
) -> None:
    """Enough images for several processes, in an order that is not that of the archive."""
    shuffled = np.random.default_rng(0).permutation(600)
    archive, images = tmp_path / "pack.bin", {}
    with archive.open("wb") as file:
        for number in shuffled:
            content = write_image(tmp_path / "one.png", seed=int(number) % 50).read_bytes()
            path = archive / f"{number:03}.png"
            images[int(number)] = TarImage(path, archive, file.tell(), len(content))
            file.write(content)
    broken = TarImage(archive / "bad.png", archive, 3, 40)
    train = [images[number] for number in range(500)]
    train[17] = broken
    test = [images[number] for number in range(500, 600)]
    labels = [np.arange(len(part), dtype=np.int64) % 2 for part in (train, test)]
    groups = np.arange(500, dtype=np.int64) // 2
    contents = Contents(("a", "b"), Split(train, labels[0], groups=groups), Split(test, labels[1]))
    # The pictures repeat each other; a published set keeps its own groups all the same.
    source = Source("pack", "first", lambda: contents, published=True)
    for _ in range(2):  # decoded, then from the cache
        data = load_cached(source, GEOMETRY, progress=False)
        assert data.train_images.shape == (499, 32, 32, 3)
        numbers = np.delete(np.arange(500), 17)
        assert data.train_groups.tolist() == (numbers // 2).tolist()
        pictures = {number % 50: data.test_images[number] for number in range(50)}
        for row, number in enumerate(numbers):
            assert np.array_equal(data.train_images[row], pictures[number % 50])
        assert data.left_out == {"broken": 1}
