"""The runs of a planned study at one scale."""

from pathlib import Path

from training.config.recipe import load_recipe
from training.studies.evidence_plan import PlannedStudy, Scale
from training.studies.study_run import StudyRun, shared_options, study_run


def planned_runs(
    study: PlannedStudy, scale: Scale, *, data: str | None = None, data_root: Path | None = None
) -> list[StudyRun]:
    """All runs in the order in which they start: method by method, so that pairs finish early.

    `data` takes the place of the scale's data set.
    """
    recipe = load_recipe(scale.recipe, {"epochs": scale.epochs(study), **study.changes})
    options = {
        arch: shared_options(
            arch=arch,
            width=width,
            data=data or scale.data,
            device=scale.device,
            data_root=data_root,
            image_size=scale.image_size,
        )
        for arch, width in scale.widths.items()
    }
    return [
        study_run(
            method,
            seed,
            recipe,
            study=study.name,
            folder=scale.runs / study.name,
            options=options[arch],
        )
        for method in study.methods
        for seed in scale.seeds(study)
        for arch in scale.widths
    ]
