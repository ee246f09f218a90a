"""The studies that decide what self-distillation is worth, in the order in which they matter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.model.locate import RUNS
from training.config.archs import MOBILENET, SHUFFLENET
from training.config.options import Options
from training.config.recipe import load_recipe
from training.studies.grids import BOTH_GRID, CE_GRID, DRG_CENTRE, DRG_GRID, DSR_GRID
from training.studies.result_lines import RESULTS
from training.studies.study_methods import METHODS, StudyMethod
from training.studies.study_run import StudyRun
from training.studies.variants import KNOWN_METHODS

COST = "cost"  # of a step, with every method
ROBUSTNESS = "robustness"  # of the finished runs of the study ROBUSTNESS_OF
ROBUSTNESS_OF = "main"


@dataclass(frozen=True)
class PlannedStudy:
    """A study of the plan, which trains both students.

    Attributes:
        name: the word for its runs and its lines.
        question: what it answers.
        methods: its rows.
        epochs: of each run, at full scale.
        seeds: how many, at full scale.
        changes: what its runs have otherwise than the scale's recipe.
        chooses: whether it chooses a setting, by top-1 on held out images.
        recipe: at full scale, if it is not the scale's.
    """

    name: str
    question: str
    methods: tuple[StudyMethod, ...]
    epochs: int
    seeds: int
    changes: Mapping[str, object] = field(default_factory=dict)
    chooses: bool = False
    recipe: str | None = None

    @property
    def lines_file(self) -> str:
        return f"{self.name}.jsonl"


@dataclass(frozen=True)
class Scale:
    """Where the plan is run, and how large.

    Attributes:
        name: the word for it.
        data: the data set's name.
        recipe: the recipe's name.
        device: "cpu" or "cuda".
        widths: of both students.
        image_size: in pixels; None: the data set's default.
        epoch_share: what the epochs of a study are multiplied with.
        most_seeds: how many seeds a study has at most.
        runs: the folder of the studies' folders.
        results: the folder of the lines.
    """

    name: str
    data: str
    recipe: str
    device: str
    widths: Mapping[str, float]
    image_size: int | None
    epoch_share: float
    most_seeds: int
    runs: Path
    results: Path

    def epochs(self, study: PlannedStudy) -> int:
        """The epochs of the study's runs, at least one."""
        return max(1, round(self.epoch_share * study.epochs))

    def recipe_of(self, study: PlannedStudy) -> str:
        """The recipe of the study's runs."""
        return study.recipe if study.recipe and self.epoch_share == 1 else self.recipe

    def seeds(self, study: PlannedStudy) -> range:
        """The seeds of the study's runs."""
        return range(min(study.seeds, self.most_seeds))


FULL = Scale(
    name="full",
    data="cifar100",
    recipe="cifar",
    device="cuda",
    widths={MOBILENET: 1.0, SHUFFLENET: 1.0},
    image_size=None,
    epoch_share=1.0,
    most_seeds=5,
    runs=RUNS / "studies",
    results=RESULTS,
)
# Shows on a CPU that every run of the plan can be trained. Its figures mean nothing.
TINY = Scale(
    name="tiny",
    data="digits",
    recipe="digits",
    device="cpu",
    widths={MOBILENET: 0.25, SHUFFLENET: 0.5},
    image_size=16,
    epoch_share=0.01,
    most_seeds=1,
    runs=RUNS / "tiny",
    results=RUNS / "tiny",
)
SCALES = {scale.name: scale for scale in (FULL, TINY)}


def _methods(*names: str) -> tuple[StudyMethod, ...]:
    return tuple(KNOWN_METHODS[name] for name in names)


# Settings are chosen on images that no run trains on: 50 of each class of CIFAR-100. No run of a
# grid is exported, so none of them is kept apart for thresholds.
_CHOOSING: Mapping[str, object] = {"validation_fraction": 0.1, "thresholds": False}

PLAN = (
    PlannedStudy(
        "main",
        "Does DRG+DSR pay on both students, which of its terms, and more than plain controls?",
        _methods("ce", "drg+dsr", "drg", "dsr", "ds", "ls", "drg+dsr-paper"),
        epochs=200,
        seeds=3,
        recipe="cifar-plain",
    ),
    PlannedStudy(
        "strong",
        "How accurate is the strong recipe, and what is left of the gain?",
        _methods("ce", "drg+dsr", "drg", "dsr", "ds", "drg+dsr-paper"),
        epochs=200,
        seeds=3,
        recipe="cifar-strong",
    ),
    PlannedStudy(
        "peers",
        "How does it stand against other self-distillation and against plain controls?",
        _methods(*dict.fromkeys(("ce", "drg+dsr", "drg", "ds", "dsr", *METHODS))),
        epochs=50,
        seeds=3,
    ),
    PlannedStudy(
        "time-matched",
        "What does cross-entropy gain from the time that the auxiliary head costs?",
        _methods("ce"),
        epochs=53,  # instead of 50: the head costs 5 % of a step
        seeds=3,
    ),
    PlannedStudy(
        "grid-ce",
        "What does cross-entropy gain from another learning rate or weight decay?",
        (*_methods("ce"), *CE_GRID),
        epochs=30,
        seeds=2,
        changes=_CHOOSING,
        chooses=True,
    ),
    PlannedStudy(
        "grid-dsr",
        "Which teacher, weight, temperature and warm-up make DSR pay?",
        (*_methods("ce"), *DSR_GRID),
        epochs=30,
        seeds=2,
        changes=_CHOOSING,
        chooses=True,
    ),
    PlannedStudy(
        "grid-drg",
        "Which tap, weight, temperature and head make DRG pay, and how much is deep supervision?",
        (*_methods("ce", "ds-single", DRG_CENTRE.name), *DRG_GRID),
        epochs=30,
        seeds=2,
        changes=_CHOOSING,
        chooses=True,
    ),
    PlannedStudy(
        "grid-both",
        "What does DSR add to DRG, by teacher and weight?",
        (*_methods("ce", DRG_CENTRE.name), *BOTH_GRID),
        epochs=30,
        seeds=2,
        changes=_CHOOSING,
        chooses=True,
    ),
    *(
        PlannedStudy(
            f"label-noise-{percent}",
            f"What is left of the gain with {percent} % wrong training labels?",
            _methods("ce", "drg+dsr", "drg", "ds", "ls"),
            epochs=50,
            seeds=3,
            changes={"label_noise": percent / 100},
        )
        for percent in (20, 40)
    ),
)
STUDIES = {study.name: study for study in PLAN}


def planned_runs(
    study: PlannedStudy, scale: Scale, *, data: str | None = None, data_root: Path | None = None
) -> list[StudyRun]:
    """All runs of a study in the order in which they start: method by method, seed by seed.

    In this order, runs that are compared with each other finish early.

    Args:
        study: of the plan.
        scale: how large.
        data: takes the place of the scale's data set.
        data_root: where a known data set lies.
    """
    recipe = load_recipe(scale.recipe_of(study), {"epochs": scale.epochs(study), **study.changes})
    return [
        StudyRun(
            method=method,
            seed=seed,
            study=study.name,
            recipe=method.recipe_on(recipe),
            parent=scale.runs / study.name,
            shared=Options(
                arch=arch,
                width=width,
                data=data or scale.data,
                device=scale.device,
                data_root=data_root,
                image_size=scale.image_size,
                command=evidence_command(study.name, scale),
            ),
        )
        for method in study.methods
        for seed in scale.seeds(study)
        for arch, width in scale.widths.items()
    ]


def pairs_of_runs(
    scale: Scale, *, data: str | None = None, data_root: Path | None = None
) -> list[tuple[StudyRun, StudyRun]]:
    """The runs of `main` and `strong` in pairs of one student and one seed, in their order.

    The runs of a pair go on side by side. The first pair is ShuffleNetV2's, the smaller student:
    does the gain of DRG survive 200 epochs? Arguments as of `planned_runs`.
    """
    pairs = []
    for name in ("main", "strong"):
        study = STUDIES[name]
        runs = {
            (run.arch, run.method.name, run.seed): run
            for run in planned_runs(study, scale, data=data, data_root=data_root)
        }
        pairs += [
            (runs[arch, first, seed], runs[arch, second, seed])
            for seed in scale.seeds(study)
            for first, second in (("ce", "drg"), ("drg+dsr", "ds"))
            for arch in (SHUFFLENET, MOBILENET)
        ]
    return pairs


def evidence_command(name: str, scale: Scale = FULL) -> str:
    """The command that measures what the plan calls `name`."""
    command = f"python training/evidence.py --only {name}"
    return command if scale is FULL else f"{command} --scale {scale.name}"
