"""The plan of the queue: runs that a CPU can do, one a line of `results/plan.jsonl`.

`training.studies.queue_studies` says what is asked and with which runs. What is run is the file: a
line that stands there keeps its meaning, and amendments add lines (docs/evidence.md).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from runtime.base.errors import UserError
from runtime.base.files import write_atomic
from runtime.model.locate import RUNS
from training.config.archs import MOBILENET, SHUFFLENET
from training.config.options import Options
from training.config.recipe import load_recipe, recipe_from_values
from training.studies.result_lines import RESULTS
from training.studies.study_methods import StudyMethod
from training.studies.study_run import StudyRun
from training.studies.variants import AS_PUBLISHED, KNOWN_METHODS

PLAN_FILE = RESULTS / "plan.jsonl"
QUEUE_RUNS = RUNS / "queue"


class PlanLine(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One run of the queue.

    `data` names a folder below the data root. `settings` are laid on top of the recipe, and the
    method's own changes on top of them. `corrupted` says whether the finished run is also tested on
    corrupted images.
    """

    name: str
    study: str
    method: str
    arch: str
    width: float
    data: str
    image_size: int
    recipe: str
    settings: dict[str, Any]
    seed: int
    command: str
    corrupted: bool = False


@dataclass(frozen=True)
class QueueStudy:
    """A question, and the runs that answer it.

    Attributes:
        name: the word for its runs and its lines.
        question: what it answers.
        methods: names of KNOWN_METHODS, in the order in which they start.
        seeds: of the runs.
        epochs: of each run.
        data: the folder below the data root.
        image_size: in pixels.
        students: architecture and width.
        recipe: its name.
        settings: laid on top of the recipe.
        folds: whether seed k holds out the k-th fifth of the training images.
        reference: of a filter, the method that no variant may be worse than.
        roles: of a study that confirms, which method stands for "chosen", "drg" and so on.
        corrupted: whether finished runs are also tested on corrupted images.
        closed: whether amendments of docs/evidence.md have dropped the runs that have no line.
    """

    name: str
    question: str
    methods: Sequence[str]
    seeds: Sequence[int]
    epochs: int
    data: str = "imagenette-3000"
    image_size: int = 64
    students: Sequence[tuple[str, float]] = ((MOBILENET, 0.5), (SHUFFLENET, 0.5))
    recipe: str = "folder"
    settings: Mapping[str, object] = field(default_factory=dict)
    folds: bool = False
    reference: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    corrupted: bool = False
    closed: bool = False

    def lines(self) -> list[PlanLine]:
        """Its runs: all methods of a student and a seed before the next seed."""
        return [
            self._line(method, arch, width, seed)
            for arch, width in self.students
            for seed in self.seeds
            for method in self.methods
        ]

    def _line(self, method: str, arch: str, width: float, seed: int) -> PlanLine:
        name = f"{self.name}/{arch}-{method}-s{seed}"
        fold = {"validation_fold": seed} if self.folds else {}
        return PlanLine(
            name=name,
            study=self.name,
            method=method,
            arch=arch,
            width=width,
            data=self.data,
            image_size=self.image_size,
            recipe=self.recipe,
            settings={"epochs": self.epochs, **self.settings, **fold},
            seed=seed,
            command=f"python training/evidence.py --queue {name} --data-root DIR",
            corrupted=self.corrupted,
        )


def read_plan(path: Path = PLAN_FILE) -> list[PlanLine]:
    """The lines of the plan.

    Raises:
        UserError: if it cannot be read, or a line is none of a plan.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the plan {path} cannot be read ({error.strerror}); expected a file of JSON lines"
        ) from error
    lines = []
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            lines.append(msgspec.json.decode(text, type=PlanLine))
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise UserError(f"{path}: line {number} is none of a plan ({error})") from error
        if lines[-1].method not in KNOWN_METHODS:
            raise UserError(f"{path}: line {number}: method {lines[-1].method!r} is unknown")
    return lines


def add_to_plan(lines: Sequence[PlanLine], path: Path = PLAN_FILE) -> int:
    """Adds the lines whose runs the plan does not have yet; how many these are.

    Raises:
        UserError: if the plan has a run of that name that is another one.
    """
    former = {line.name: line for line in (read_plan(path) if path.exists() else [])}
    for line in lines:
        if former.get(line.name, line) != line:
            raise UserError(
                f"{path} has another run {line.name}: a run that is planned keeps its meaning; "
                "give the new one another name"
            )
    added = [line for line in lines if line.name not in former]
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in [*former.values(), *added])
    write_atomic(path, content)
    return len(added)


def chosen_lines(
    lines: Sequence[PlanLine], names: Sequence[str], *, not_in_all: Collection[str] = ()
) -> list[PlanLine]:
    """The lines of the runs and studies that are named.

    Args:
        lines: of the plan.
        names: of studies or runs; "all" names every study.
        not_in_all: the studies that "all" does not name.

    Raises:
        UserError: if a name is neither a run nor a study of the plan.
    """
    known = {"all", *(line.study for line in lines), *(line.name for line in lines)}
    for name in names:
        if name not in known:
            studies = ", ".join(dict.fromkeys(line.study for line in lines))
            raise UserError(
                f"--queue {name!r} is neither a study nor a run of the plan; "
                f"expected all, one of {studies}, or the name of a run"
            )

    def is_named(line: PlanLine) -> bool:
        by_all = "all" in names and line.study not in not_in_all
        return by_all or line.study in names or line.name in names

    return [line for line in lines if is_named(line)]


def run_of(line: PlanLine, *, data_root: Path) -> StudyRun:
    """The run of a line of the plan, on a folder of `data_root`."""
    method: StudyMethod = KNOWN_METHODS[line.method]
    epochs = {"epochs": line.settings["epochs"]}
    # A line keeps its meaning. What it leaves open is as it was when the plan was written: recipes
    # had DRG and DSR as published, and a filter judged on all images that are held out.
    former = {**AS_PUBLISHED, "thresholds": False}
    whole = msgspec.to_builtins(load_recipe(line.recipe, epochs)) | former
    shared = whole | line.settings
    recipe = recipe_from_values(shared, source=f"plan {line.name}")
    return StudyRun(
        method=method,
        seed=line.seed,
        study=line.study,
        recipe=method.recipe_on(recipe),
        parent=QUEUE_RUNS / line.study,
        shared=Options(
            arch=line.arch,
            width=line.width,
            data=str(data_root / line.data),
            device="cpu",
            image_size=line.image_size,
            command=line.command,
        ),
    )
