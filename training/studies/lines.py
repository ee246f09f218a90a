"""What studies found, as JSON lines: one for each run."""

from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from runtime.base.errors import UserError
from runtime.base.files import write_atomic
from training.config.recipe import Recipe, default_recipe, load_recipe

Line = dict[str, Any]
RESULTS = Path("results")
# What tells runs apart, next to the recipe; a line without the last two is of the default.
_IDENTITY = ("study", "method", "data", "arch", "width", "image_size", "seed")
_DEFAULTS = {"weights": "random", "noise_seed": 0}


def merge_lines(path: Path, lines: Sequence[Line]) -> None:
    """Adds `lines` to the JSON lines of `path`; a line of the same run is replaced."""
    former = read_lines(path)
    new = [_identity(line) for line in lines]
    kept = [line for line in former if _identity(line) not in new]
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in [*kept, *lines])
    write_atomic(path, content)


def read_lines(path: Path) -> list[Line]:
    """The JSON lines of `path`, none if it does not exist; UserError for one that is broken."""
    if not path.exists():
        return []
    try:
        return [
            msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines() if line
        ]
    except msgspec.DecodeError as error:
        raise UserError(f"{path} holds a line that is not a JSON object ({error})") from error


def whole_recipe(line: Line) -> dict[str, Any]:
    """The line's recipe as JSON has it; keys that are younger than the line have their default."""
    fields = msgspec.structs.fields(Recipe)
    defaults = {field.name: field.default for field in fields if not field.required}
    whole = {**defaults, **line["recipe"]}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in whole.items()}


def changed_settings(line: Line, *, apart_from: Collection[str] = ()) -> dict[str, Any]:
    """What the line's recipe has otherwise than its data's own, apart from these keys."""
    own = _recipe_of_data(line["data"])
    return {
        key: value
        for key, value in whole_recipe(line).items()
        if value != own[key] and key not in apart_from
    }


@cache
def _recipe_of_data(data: str) -> dict[str, Any]:
    recipe: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(load_recipe(default_recipe(data)))
    )
    return recipe


def _identity(line: Line) -> tuple[object, ...]:
    values = [line.get(key) for key in _IDENTITY]
    return (*values, *(line.get(*default) for default in _DEFAULTS.items()), whole_recipe(line))
