"""The lines that one table compares, and what is said above it: data, recipe and settings."""

from collections.abc import Sequence

from training.config.recipe import default_recipe
from training.records.journal import counted
from training.studies.grids import changes_of
from training.studies.result_lines import Line, method_name
from training.studies.table_rows import shared_settings

_GROUP = ("data", "arch", "width", "image_size")
_EPOCHS = "epochs"


def groups(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of each student on each data set, with the same number of epochs.

    A method that sets its number of epochs itself is to be compared with the others, so its lines
    belong to the first group of their student and data.
    """
    found: dict[tuple[object, ...], list[Line]] = {}

    def sets_epochs(line: Line) -> bool:
        return _EPOCHS in changes_of(method_name(line))

    for line in sorted(lines, key=sets_epochs):
        shared = tuple(line[key] for key in _GROUP)
        own = (*shared, line[_EPOCHS])
        if sets_epochs(line):
            own = next((key for key in found if key[:-1] == shared), own)
        found.setdefault(own, []).append(line)
    return list(found.values())


def caption(group: Sequence[Line]) -> str:
    """The student, the data and the epochs of a group."""
    first = group[0]
    student = f"{first['arch']} x{first['width']:g} at {first['image_size']} px"
    return f"{student}, {first['data']}, {counted(first['epochs'], 'epoch')}"


def data_and_recipe(group: Sequence[Line]) -> str:
    """How many images a group has, and the recipe with the settings that all its lines share."""
    first = group[0]
    images = f"{first['train_images']:,} images trained on, {first['validation_images']:,} held out"
    return (
        f"{images}, {first['test_images']:,} tested on; "
        f"{recipe_and_settings(group, apart_from=('epochs',))}"
    )


def recipe_and_settings(lines: Sequence[Line], *, apart_from: Sequence[str] = ()) -> str:
    """The recipe that the lines' rows are named against."""
    recipes = " and ".join(dict.fromkeys(f"`{default_recipe(line['data'])}`" for line in lines))
    shared = shared_settings(lines).items()
    settings = ", ".join(f"{key}={value}" for key, value in shared if key not in apart_from)
    return f"recipe {recipes} with {settings}" if settings else f"recipe {recipes}"
