"""The studies that decide what self-distillation is worth, in the order in which they matter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.model.locate import RUNS
from training.config.archs import MOBILENET, SHUFFLENET
from training.studies.lines import RESULTS
from training.studies.rows import METHODS, Method

ROBUSTNESS = "robustness"  # of the finished runs of ROBUSTNESS_OF
ROBUSTNESS_OF = "main"
COST = "cost"  # of a step, with every method


@dataclass(frozen=True)
class PlannedStudy:
    """Methods with both students; `changes` lie on the recipe that all of them share."""

    name: str
    question: str
    methods: tuple[Method, ...]
    epochs: int
    seeds: int
    changes: Mapping[str, object] = field(default_factory=dict)

    chooses: bool = False  # a setting, by validation top-1

    @property
    def lines_file(self) -> str:
        return f"{self.name}.jsonl"


@dataclass(frozen=True)
class Scale:
    """Where and how large the plan is run."""

    name: str
    data: str
    recipe: str
    device: str
    widths: Mapping[str, float]  # of both students
    image_size: int | None
    epoch_share: float
    most_seeds: int
    runs: Path  # the folder of the studies' folders
    results: Path  # the folder of the lines

    def epochs(self, study: PlannedStudy) -> int:
        return max(1, round(self.epoch_share * study.epochs))

    def seeds(self, study: PlannedStudy) -> range:
        return range(min(study.seeds, self.most_seeds))


SCALES = {
    scale.name: scale
    for scale in (
        Scale(
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
        ),
        # That every run of the plan can be trained, on a CPU; the figures mean nothing.
        Scale(
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
        ),
    )
}


def _methods(*names: str) -> tuple[Method, ...]:
    return tuple(METHODS[name] for name in names)


# One choice at a time departs from the centre.
_DSR_CENTRE = {"dsr_weight": 1.0, "temperature": 4.0, "distillation_warmup_epochs": 1.0}
_DSR_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "w1": {},
    "w0.3": {"dsr_weight": 0.3},
    "w3": {"dsr_weight": 3.0},
    "t2": {"temperature": 2.0},
    "t8": {"temperature": 8.0},
    "warm0": {"distillation_warmup_epochs": 0.0},
    "warm10": {"distillation_warmup_epochs": 10.0},
}
_DRG_CENTRE = {"drg_weight": 0.2, "temperature": 4.0, "tap": 2, "head_width": 1.0}
_DRG_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "tap1": {"tap": 1},
    "tap3": {"tap": 3},
    "tap4": {"tap": 4},
    "w0.1": {"drg_weight": 0.1},
    "w0.5": {"drg_weight": 0.5},
    "w1": {"drg_weight": 1.0},
    "t2": {"temperature": 2.0},
    "t8": {"temperature": 8.0},
    "head0.5": {"head_width": 0.5},
    "head2": {"head_width": 2.0},
}
_TEACHERS = ("previous", "mean", "ema")
# Settings are chosen on images that no run trains on, 50 of each class of CIFAR-100.
_CHOOSING: Mapping[str, object] = {"validation_fraction": 0.1}

PLAN = (
    PlannedStudy(
        "main",
        "Does DRG+DSR pay on both students, which of its terms, and more than plain controls?",
        _methods("ce", "drg+dsr", "drg", "dsr", "ds", "ls"),
        epochs=200,
        seeds=3,
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
        epochs=53,  # of 50, at 5 % of a step
        seeds=3,
    ),
    PlannedStudy(
        "grid-ce",
        "What does cross-entropy gain from another learning rate or weight decay?",
        (
            METHODS["ce"],
            *(Method(f"ce-lr{rate:g}", changes={"learning_rate": rate}) for rate in (0.05, 0.2)),
            *(
                Method(f"ce-wd{decay:g}", changes={"weight_decay": decay})
                for decay in (2.5e-4, 1e-3)
            ),
        ),
        epochs=30,
        seeds=2,
        changes=_CHOOSING,
        chooses=True,
    ),
    PlannedStudy(
        "grid-dsr",
        "Which teacher, weight, temperature and warm-up make DSR pay?",
        (
            METHODS["ce"],
            *(
                Method(
                    f"dsr-{teacher}-{name}",
                    dsr=True,
                    changes={"dsr_teacher": teacher, **_DSR_CENTRE, **own},
                )
                for teacher in _TEACHERS
                for name, own in _DSR_SETTINGS.items()
            ),
        ),
        epochs=30,
        seeds=2,
        changes=_CHOOSING,
        chooses=True,
    ),
    PlannedStudy(
        "grid-drg",
        "Which tap, weight, temperature and head make DRG pay, and how much is deep supervision?",
        (
            *_methods("ce", "ds", "drg"),
            *(
                Method(f"drg-{name}", drg=True, changes={**_DRG_CENTRE, **own})
                for name, own in _DRG_SETTINGS.items()
            ),
        ),
        epochs=30,
        seeds=2,
        changes=_CHOOSING,
        chooses=True,
    ),
    PlannedStudy(
        "grid-both",
        "What does DSR add to DRG, by teacher and weight?",
        (
            *_methods("ce", "drg"),
            *(
                Method(
                    f"drg+dsr-{teacher}-w{weight:g}",
                    drg=True,
                    dsr=True,
                    changes={"dsr_teacher": teacher, "dsr_weight": weight},
                )
                for teacher in _TEACHERS
                for weight in (0.3, 1.0)
            ),
        ),
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
PLANNED_METHODS = {method.name: method for study in PLAN for method in study.methods}
