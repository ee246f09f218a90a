"""What a search may try: a YAML file with a range or a list of choices for each key.

    learning_rate: {low: 0.01, high: 0.2, log: true}
    fit: [crop, letterbox]
    width: [0.35, 0.5, 1.0]

Keys are those of a recipe, and `width`, `image_size`, `drg` and `dsr` of the command line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from runtime.base.errors import UserError
from training.config.archs import check_arch
from training.config.recipe import FOLDER, SUFFIXES, Recipe, laid_on, recipe_from_values

SPACES = FOLDER.parent / "spaces"
Value: TypeAlias = str | int | float | bool | list[Any]
# Options of the command line that a space may have, beside the recipe's keys.
_OPTIONS: Mapping[str, type] = {"width": float, "image_size": int, "drg": bool, "dsr": bool}
# They are not settings of a training: how long it is, and on which images it is judged.
_NOT_SEARCHED = (
    "epochs",
    "validation_fraction",
    "validation_fold",
    "thresholds",
    "train_share",
    "label_noise",
)


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers from `low` to `high`, whole ones if the key's are."""

    low: float
    high: float
    log: bool = False


class Choices(msgspec.Struct, frozen=True):
    """One of these values."""

    values: tuple[Any, ...]


Space: TypeAlias = dict[str, Range | Choices]


def read_space(name: str, *, arch: str, recipe: Recipe) -> Space:
    """The space in the YAML file `name`, or the one that comes with the recipe of that name.

    Raises:
        UserError: if a key is unknown, or a value is none that its key can have.
    """
    path = Path(name)
    if path.suffix not in SUFFIXES:
        path = SPACES / f"{name}.yaml"
        if not path.exists():
            known = ", ".join(sorted(each.stem for each in SPACES.glob("*.yaml")))
            raise UserError(f"space {name!r} is unknown; expected one of {known}, or a .yaml file")
    from training.config.yaml_file import read_yaml  # so that a command without PyYAML can say so

    values = read_yaml(path)
    if not values:
        raise UserError(f"space {path} is empty; expected lines such as `fit: [crop, letterbox]`")
    space = {key: _dimension(key, value, path) for key, value in values.items()}
    for key, dimension in space.items():
        for value in ends_of(dimension):
            _check_value(key, value, arch=arch, recipe=recipe, where=f"space {path}: {key}")
    return space


def ends_of(dimension: Range | Choices) -> Sequence[Any]:
    """The choices, or the ends of a range."""
    if isinstance(dimension, Choices):
        return dimension.values
    return dimension.low, dimension.high


def is_whole(key: str) -> bool:
    """Whether a range of this key has whole numbers only."""
    if key in _OPTIONS:
        return _OPTIONS[key] is int
    kind = {field.name: field.type for field in msgspec.structs.fields(Recipe)}[key]
    return _takes(3, kind) and not _takes(3.5, kind)


def apart(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a trial: those of the recipe, and those of the command line."""
    options = {key: value for key, value in values.items() if key in _OPTIONS}
    return {key: value for key, value in values.items() if key not in _OPTIONS}, options


def _takes(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _dimension(key: str, value: Any, path: Path) -> Range | Choices:
    where = f"space {path}: {key}"
    known = [field.name for field in msgspec.structs.fields(Recipe)]
    searched = [*_OPTIONS, *(name for name in known if name not in _NOT_SEARCHED)]
    if key not in searched:
        raise UserError(f"space {path}: unknown key {key!r}; expected {', '.join(searched)}")
    if isinstance(value, list):
        if not value:
            raise UserError(f"{where}: received an empty list, expected choices")
        if any(value.count(choice) > 1 for choice in value):
            raise UserError(f"{where}: received {value}, expected each choice once")
        return Choices(tuple(value))
    if not isinstance(value, dict):
        raise UserError(f"{where}: received {value!r}, expected a list, or a range {{low, high}}")
    try:
        found = msgspec.convert(value, Range)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {error}; expected {{low: A, high: B, log: true}}") from error
    if not found.low < found.high:
        raise UserError(f"{where}: low {found.low:g} must be below high {found.high:g}")
    if found.log and found.low <= 0:
        raise UserError(f"{where}: low {found.low:g} must be above 0 where log is true")
    return found


def _check_value(key: str, value: Any, *, arch: str, recipe: Recipe, where: str) -> None:
    if isinstance(value, float) and value.is_integer() and is_whole(key):
        value = int(value)
    if key not in _OPTIONS:
        recipe_from_values(laid_on(recipe, {key: value}), source=where)
        return
    kind = _OPTIONS[key]
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not (isinstance(value, bool) if kind is bool else number and _takes(value, kind)):
        words = {float: "numbers", int: "whole numbers", bool: "true or false"}[kind]
        raise UserError(f"{where}: received {value!r}, expected {words}")
    if key == "width":
        try:
            check_arch(arch, float(value))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    elif key == "image_size" and value < 1:
        raise UserError(f"{where}: received {value!r}, expected numbers from 1 on")
