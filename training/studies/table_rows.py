"""The rows of a study's tables: which lines belong together, and what a row is called."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runtime.base.errors import UserError
from training.config.idle_keys import DISTILLATION_KEYS
from training.studies.grids import changes_of
from training.studies.result_lines import (
    OF_HELD_OUT,
    Line,
    are_of_one_data,
    changed_settings,
    idle_in,
    method_name,
    read_recipe,
    whole_recipe,
)
from training.studies.study_methods import BASELINE


class Row(NamedTuple):
    """The lines of one method and one recipe, under the name that a table has for them."""

    name: str
    method: str
    lines: list[Line]

    @property
    def seeds(self) -> str:
        return ", ".join(str(line["seed"]) for line in self.lines)


def by_student(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each student, by a name such as "mobilenetv2 x1".

    Lines of several data sets, or of several image sizes, are kept apart, and the name says which.
    """
    several = len({(line["data"], line["image_size"]) for line in lines}) > 1
    students: dict[str, list[Line]] = {}
    for line in lines:
        name = f"{line['arch']} x{line['width']:g}"
        if several:
            name += f" on {line['data']} at {line['image_size']} px"
        students.setdefault(name, []).append(line)
    return students


def shared_settings(lines: Sequence[Line]) -> dict[str, Any]:
    """The settings in which all lines differ from the recipe of their data, and agree.

    A table states them once, above its rows. A line does not count for a key that its method sets.
    Keys that no line reads are left out.
    """
    settings = [_settings(line) for line in lines]
    keys = dict.fromkeys(key for own in settings for key in own)
    for key in set.intersection(*map(idle_in, lines)):
        keys.pop(key, None)
    shared = {}
    for key in keys:
        values = [
            own.get(key, ...)
            for own, line in zip(settings, lines, strict=True)
            if key not in changes_of(method_name(line))
        ]
        if all(value == values[0] for value in values):
            shared[key] = values[0]
    return shared


def rows_of(lines: Sequence[Line], *, shared: Mapping[str, Any] | None = None) -> list[Row]:
    """Rows by method in the order of their first lines, seeds ascending.

    Two recipes of one method are two rows, unless they differ only in what the method does not
    read. A row's name is its method, and in brackets the settings in which it differs from the
    data's recipe. Of the rows of one method, the one without brackets comes first.

    Args:
        lines: of one student.
        shared: settings that the names leave out; None: those that all `lines` share.

    Raises:
        UserError: if a row has two lines of one seed, which would count twice.
    """
    shared = shared_settings(lines) if shared is None else shared
    found: list[Row] = []
    for line in lines:
        method, recipe = method_name(line), read_recipe(line)
        same = (row for row in found if row.method == method)
        own = next((row for row in same if read_recipe(row.lines[0]) == recipe), None)
        if own is None:
            own = Row(_row_name(line, shared), method, [])
            found.append(own)
        own.lines.append(line)
    methods = list(dict.fromkeys(row.method for row in found))
    found.sort(key=lambda row: (methods.index(row.method), row.name != row.method))
    for row in found:
        row.lines.sort(key=_seeds)
        _refuse_repeated_seed(row)
    return found


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of cross-entropy that `row` is compared with; None for such a row itself.

    Their recipes may differ in what the row's method changes, and in what cross-entropy does not
    read. None, too, if there is no such row.
    """
    if row.method == BASELINE:
        return None
    free = DISTILLATION_KEYS | OF_HELD_OUT | changes_of(row.method).keys()
    for other in rows:
        if other.method == BASELINE and not _differing(other.lines[0], row.lines[0]) - free:
            return other
    return None


def paired_lines(row: Row, other: Row) -> list[tuple[Line, Line]]:
    """The runs of both that have the same seeds, in the order of the seeds.

    Raises:
        UserError: if they are not all of the same images.
    """
    of_seed = {_seeds(line): line for line in other.lines}
    pairs = [(line, of_seed[_seeds(line)]) for line in row.lines if _seeds(line) in of_seed]
    if not are_of_one_data([line for pair in pairs for line in pair]):
        raise UserError(
            f"runs of {row.name} and {other.name} on {row.lines[0]['data']} are of other images or "
            "labels: their content_digest or data_digest differs; expected those of one data set; "
            "keep the others in a file of their own"
        )
    return pairs


def _refuse_repeated_seed(row: Row) -> None:
    seeds = [_seeds(line) for line in row.lines]
    if repeated := sorted({seed for seed, noise in seeds if seeds.count((seed, noise)) > 1}):
        first = row.lines[0]
        raise UserError(
            f"{row.name} of {first['arch']} on {first['data']} has several lines of seed "
            f"{', '.join(map(str, repeated))}; expected one, because each seed counts once; "
            "keep the others in a file of their own"
        )


def _seeds(line: Line) -> tuple[int, int]:
    """The seed of a run, and that of the noise with which it was tested on corrupted images."""
    return int(line["seed"]), int(line.get("noise_seed", 0))


def _settings(line: Line) -> dict[str, Any]:
    return changed_settings(line, apart_from=changes_of(method_name(line)))


def _row_name(line: Line, shared: Mapping[str, Any]) -> str:
    without = idle_in(line) | shared.keys()
    words = [f"{key}={value}" for key, value in _settings(line).items() if key not in without]
    return f"{method_name(line)} ({', '.join(words)})" if words else method_name(line)


def _differing(first: Line, second: Line) -> set[str]:
    one, other = whole_recipe(first), whole_recipe(second)
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
