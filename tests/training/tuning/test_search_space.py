"""Spaces: what a search may try, and what is said of a mistake in one."""

from itertools import product
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from training.config.recipe import laid_on, load_recipe, recipe_from_values, recipe_names
from training.data import check_crop_of
from training.tuning.search_space import (
    SPACES,
    Choices,
    Range,
    apart,
    ends_of,
    is_whole,
    read_space,
)


@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_every_recipe_comes_with_a_space(arch: str) -> None:
    assert {path.stem for path in SPACES.glob("*.yaml")} == set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        space = read_space(name, arch=arch, recipe=recipe)
        assert "learning_rate" in space
        for key, dimension in space.items():  # the recipe itself is the first trial
            value = getattr(recipe, key)
            if isinstance(dimension, Choices):
                assert value in dimension.values
            else:
                assert dimension.low <= value <= dimension.high


@pytest.mark.parametrize("size", [32, 64, 65, 224, None])
def test_all_that_the_space_for_folders_proposes_can_be_trained(size: int | None) -> None:
    recipe = load_recipe("folder")
    space = read_space("folder", arch="mobilenetv2", recipe=recipe)
    for values in product(*(ends_of(each) for each in space.values())):
        tried = laid_on(recipe, dict(zip(space, values, strict=True)))
        own = recipe_from_values(tried, source="test")
        check_crop_of("photographs", image_size=size, recipe=own)


def test_ranges_and_choices_are_read(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "learning_rate: {low: 1e-3, high: 0.1, log: true}\n"
        "padding: {low: 0, high: 4}\n"
        "taps: [[2], [2, 3]]\n"
        "width: [0.5, 1]\n"
        "drg: [true, false]\n"
    )
    space = read_space(str(file), arch="mobilenetv2", recipe=load_recipe("digits"))
    assert space == {
        "learning_rate": Range(0.001, 0.1, log=True),
        "padding": Range(0, 4),
        "taps": Choices(([2], [2, 3])),
        "width": Choices((0.5, 1)),
        "drg": Choices((True, False)),
    }
    assert apart({"padding": 1, "width": 0.5, "drg": True}) == (
        {"padding": 1},
        {"width": 0.5, "drg": True},
    )


def test_whole_numbers_stay_whole() -> None:
    whole = ("padding", "batch_size", "tap", "patience", "image_size")
    assert all(is_whole(key) for key in whole)
    assert not any(is_whole(key) for key in ("learning_rate", "width", "mixup", "warmup_epochs"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learnig_rate: [0.1]", r"unknown key 'learnig_rate'; expected width, .*learning_rate"),
        ("epochs: [3, 5]", "unknown key 'epochs'"),  # longer is better: no search needs to say so
        ("label_noise: [0.1]", "unknown key 'label_noise'"),
        ("crop: [pad, centre]", "crop: received 'centre', expected one of auto, none, pad"),
        ("learning_rate: {low: 0.1, high: 0.01}", "low 0.1 must be below high 0.01"),
        ("weight_decay: {low: 0, high: 0.1, log: true}", "low 0 must be above 0 where log"),
        ("learning_rate: {low: 0.1, heigh: 0.2}", "learning_rate: Object .*heigh"),
        ("learning_rate: {low: -0.1, high: 0.2}", "received -0.1, expected"),
        ("learning_rate: 0.1", "received 0.1, expected a list, or a range"),
        ("learning_rate: []", "received an empty list"),
        ("mixup: [0.1, 0.1]", "expected each choice once"),
        ("width: [9]", "width: width 9 is out of range; mobilenetv2 takes 0.25"),
        ("width: [wide]", "received 'wide', expected numbers"),
        ("image_size: [31.5]", "received 31.5, expected whole numbers"),
        ("image_size: [0]", "received 0, expected numbers from 1 on"),
        ("drg: [1]", "received 1, expected true or false"),
        ("padding: {low: 0.5, high: 3}", "padding: received 0.5"),
        ("crop: {low: 1, high: 2}", "crop: received 1"),
        ("", "must hold `key: value` lines"),
        ("{}", "is empty"),
        ("- a", "must hold `key: value` lines"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_mistake_is_told_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as raised:
        read_space(str(file), arch="mobilenetv2", recipe=load_recipe("digits"))
    assert str(file) in str(raised.value)


def test_a_space_that_is_none_is_told() -> None:
    with pytest.raises(UserError, match="space 'fodler' is unknown; expected one of cifar"):
        read_space("fodler", arch="mobilenetv2", recipe=load_recipe("digits"))
    with pytest.raises(UserError, match=r"nothing\.yaml cannot be read"):
        read_space("nothing.yaml", arch="mobilenetv2", recipe=load_recipe("digits"))
