"""Copies of one picture, whatever their files are, lie on one side of a split that is drawn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.base.errors import UserError
from training.data import Dataset, decode, load_dataset
from training.data.cache import load_cached
from training.data.dataset import photographs
from training.data.folders import folder_source
from training.data.splits import held_out
from training.quality.exact_twins import joined_groups

WriteImage = Callable[..., Path]


@pytest.fixture
def pets(tmp_path: Path, write_image: WriteImage) -> Path:
    """Two classes of ten pictures; five of the cats are there twice, as PNG and as BMP."""
    root = tmp_path / "pets"
    for label, name in enumerate(("cat", "dog")):
        for number in range(10):
            write_image(root / name / f"{number}.png", seed=20 * label + number)
    for number in range(5):
        Image.open(root / "cat" / f"{number}.png").save(root / "cat" / f"{number} copy.bmp")
    return root


def pictures(paths: tuple[str, ...]) -> set[str]:
    return {path.replace(" copy.bmp", ".png") for path in paths}


def load(root: Path, seed: int = 0, size: int = 100) -> Dataset:
    return load_dataset(str(root), image_size=size, split_seed=seed, progress=False)


@pytest.mark.parametrize("seed", range(4))
def test_copies_go_to_one_side(pets: Path, seed: int) -> None:
    data = load(pets, seed)
    assert not pictures(data.train_paths) & pictures(data.test_paths)
    assert np.bincount(data.test_labels).tolist() == [3, 2]
    assert len(data.train_paths) + len(data.test_paths) == 25


def test_what_was_drawn_again_is_kept_in_the_cache(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = next(seed for seed in range(9) if "drawn again" in told(pets, seed, capsys))
    first = load(pets, seed)

    def refuse(*arguments: object) -> None:
        raise AssertionError("an image is decoded")

    monkeypatch.setattr(decode, "decode_chunk", refuse)
    again = load(pets, seed)
    assert again.test_paths == first.test_paths
    assert again.content_digest() == first.content_digest()


def told(root: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> str:
    load(root, seed)
    return capsys.readouterr().out


def test_a_split_without_copies_on_both_sides_stays_as_it_is(
    pets: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]
) -> None:
    for copy in (pets / "cat").glob("*.bmp"):
        copy.unlink()
    without = load(pets)
    number = next(path for path in without.train_paths if path.startswith("dog/"))
    other = next(path for path in without.train_paths if path.startswith("dog/") and path != number)
    (pets / other).write_bytes((pets / number).read_bytes())
    with_copies = load(pets)
    assert with_copies.test_paths == without.test_paths
    assert "drawn again" not in capsys.readouterr().out


def test_the_split_of_a_published_set_stays_as_it_is(pets: Path) -> None:
    for seed in range(4):
        source = folder_source(pets, split_seed=seed, progress=False)
        contents = source.read()
        data = load_cached(replace(source, published=True), photographs(100), progress=False)
        assert [*data.test_paths] == [*contents.test.paths]
        assert data.train_groups is None


def test_copies_are_held_out_together_or_not_at_all(pets: Path) -> None:
    data = load(pets)
    assert data.train_groups is not None
    names = [path.replace(" copy.bmp", ".png") for path in data.train_paths]
    for fraction in (0.2, 0.4, 0.6):
        trained, others = ({names[row] for row in rows} for rows in held_out(data, fraction))
        assert others
        assert not trained & others


def test_a_class_of_one_picture_cannot_be_split_and_is_named(
    class_tree: Path, write_image: WriteImage
) -> None:
    for number in range(5):
        write_image(class_tree / "dog" / f"{number}.png", seed=77)
    with pytest.raises(
        UserError, match="class 'dog' cannot be split: its 5 images are copies of one picture, or"
    ) as error:
        load(class_tree)
    assert "group" not in str(error.value)  # the user has given none


def test_data_without_copies_has_no_groups(class_tree: Path) -> None:
    assert load(class_tree).train_groups is None


def test_pictures_of_one_colour_are_no_copies(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(5):
            path = tmp_path / "plain" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (10, 200, 30)).save(path)
    assert load(tmp_path / "plain").train_groups is None


def test_groups_that_have_images_in_common_are_one() -> None:
    patients = np.array([0, 0, 1, 1, 2, 3, 4])
    copies = np.array([9, 8, 8, 7, 6, 5, 6])
    numbers = joined_groups(patients, copies)
    same = numbers[:, None] == numbers
    expected = np.array([0, 0, 0, 0, 1, 2, 1])
    assert np.array_equal(same, expected[:, None] == expected)
