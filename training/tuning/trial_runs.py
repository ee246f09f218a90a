"""A trial of a search: which run it is, what it costs, and what its journal says meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runtime.base.errors import UserError
from training.config.options import Options
from training.config.recipe import Recipe, laid_on, recipe_from_values
from training.data import Dataset, check_crop_of
from training.data.splits import rows_of_run
from training.records.journal import JOURNAL
from training.studies.study_methods import StudyMethod
from training.studies.study_run import StudyRun
from training.tuning.search_space import apart

# A share of the images below this would choose by chance.
LEAST_VALIDATION = 0.2
# Of a run that was asked to stop (`InterruptedRunError`), but also of one that crashed.
_STOPPED = 1


@dataclass(frozen=True)
class SearchSettings:
    """What all trials of a search share.

    Attributes:
        recipe: what the space does not name.
        final: the same for the training with what was found.
        shared: the command line's options, with those of the space at their own values.
        seed: of every trial's training.
        folder: of the search.
        drg: whether trials have DRG, unless the space says it.
        dsr: the same for DSR.
        has_validation: whether the data have validation images of their own.
        classes: how many.
        image_size: of the data's pictures, in pixels.
        data_digest: `Dataset.digest()` of the data.
        content_digest: `Dataset.content_digest()` of them.
    """

    recipe: Recipe
    final: Recipe
    shared: Options
    seed: int
    folder: Path
    drg: bool
    dsr: bool
    has_validation: bool
    classes: int
    image_size: int
    data_digest: str
    content_digest: str


@dataclass(frozen=True)
class Bounds:
    """What a student may cost; None: no bound."""

    macs: float | None = None
    milliseconds: float | None = None


@dataclass
class Outcome:
    """How a call of `search` ended."""

    failed: list[StudyRun] = field(default_factory=list)
    waiting: int = 0  # trials that have begun and wait for the next call
    stopped: bool = False


def run_of_trial(number: int, values: Mapping[str, Any], settings: SearchSettings) -> StudyRun:
    """The run of a trial with these values of the space.

    Raises:
        UserError: if the values contradict one another, or do not fit the size of the images.
    """
    of_recipe, of_options = apart(values)
    terms = {name: bool(of_options.get(name, getattr(settings, name))) for name in ("drg", "dsr")}
    shared = settings.shared
    if "width" in of_options:
        shared = replace(shared, width=float(of_options["width"]))
    if "image_size" in of_options:
        shared = replace(shared, image_size=int(of_options["image_size"]))
    changed = laid_on(settings.recipe, of_recipe)
    recipe = recipe_from_values(changed, source=f"trial {number}")
    check_crop_of(shared.data, image_size=shared.image_size, recipe=recipe)
    # Of another size or fit the same pictures have other pixels, of which digests may be made.
    known = not {"image_size", "fit"} & values.keys()
    return StudyRun(
        method=StudyMethod(f"trial-{number:04}", **terms, changes=dict(of_recipe)),
        seed=settings.seed,
        study=settings.folder.name,
        recipe=judged_by_validation(recipe, has_validation=settings.has_validation),
        parent=settings.folder,
        shared=shared,
        data_digest=settings.data_digest if known else None,
        content_digest=settings.content_digest if known else None,
    )


def judged_by_validation(recipe: Recipe, *, has_validation: bool) -> Recipe:
    """The recipe with validation images enough to choose by, which are looked at every epoch.

    All of them judge where they are a share of the training images. Of the user's own ones, half
    are kept apart as in every training, because the final one has no others for its thresholds.
    """
    # A patience of all epochs never ends a run: it only has the journal tell validation accuracy.
    judged = msgspec.structs.replace(recipe, patience=recipe.patience or recipe.epochs)
    if has_validation:
        return judged
    fraction = max(recipe.validation_fraction, LEAST_VALIDATION)
    return msgspec.structs.replace(judged, validation_fraction=fraction, thresholds=False)


def with_fresh_validation(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe of the training after a search, which holds out images that no trial judged by.

    Its thresholds need images that have chosen nothing, neither an epoch nor a trial. Where no
    share of the images is free of the trials' ones, it finds no thresholds.

    Args:
        recipe: of the search.
        dataset: its data set.
    """
    if dataset.validation_images or not recipe.validation_fraction:
        return recipe
    _, judging = rows_of_run(dataset, judged_by_validation(recipe, has_validation=False))
    for fold in range(int(1 / recipe.validation_fraction)):
        other = msgspec.structs.replace(recipe, validation_fold=fold)
        if not np.isin(rows_of_run(dataset, other)[1], judging).any():
            return other
    return msgspec.structs.replace(recipe, thresholds=False)


def cost_of_trial(run: StudyRun, settings: SearchSettings) -> tuple[int, int]:
    """Parameters and MACs of the trial's student."""
    size = run.shared.image_size or settings.image_size
    return _cost(run.arch, run.shared.width, size, settings.classes)


@lru_cache
def _cost(arch: str, width: float, image_size: int, classes: int) -> tuple[int, int]:
    import torch  # takes seconds, so the options are checked before

    from training.networks.students import build_student, cost_of

    with torch.device("meta"):
        student = build_student(arch, num_classes=classes, image_size=image_size, width=width)
    cost = cost_of(student, image_size=image_size)
    return cost.params, cost.macs


def validation_of(run: StudyRun) -> list[float]:
    """Validation top-1 after each epoch that the journal has. Nothing of the test split is read."""
    try:
        lines = (run.folder / JOURNAL).read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    found = []
    for line in lines:
        if not line.endswith(b"\n"):
            break  # it is being written
        found.append(float(msgspec.json.decode(line, type=_Epoch).validation_top1))
    return found


def was_asked_to_stop(run: StudyRun, code: int) -> bool:
    """Whether a run that has ended with `code` had got SIGINT, SIGTERM or SIGHUP.

    It ends itself then, with the exit code of a crash, so the end of its log decides. A run that
    diverged has the exit code of a user's error.
    """
    if code != _STOPPED or not run.log.is_file():
        return False
    last = f"\n{run.log.read_text(errors='replace')}".rpartition("\nerror: ")[2]
    return last.startswith("interrupted") and "\nTraceback " not in last


class _Epoch(msgspec.Struct):
    validation_top1: float


class Judged(msgspec.Struct):
    """What a finished run says of its validation images."""

    validation_top1: float
    validation_nll: float
    params: int
    macs: int
    seconds: float


def judged(run: StudyRun) -> Judged | None:
    """The validation figures of a finished run; None if it is not finished.

    Raises:
        UserError: as of `StudyRun.line`.
    """
    line = run.line()
    if line is None:
        return None
    try:
        return msgspec.convert(line, Judged)
    except msgspec.ValidationError as error:
        raise UserError(f"{run.folder} tells no validation accuracy ({error})") from error
