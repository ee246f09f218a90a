"""The runs of a study: one process each, side by side, finished ones left alone."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from runtime.errors import UserError
from runtime.files import write_atomic
from runtime.locate import RESULT
from training.methods import Method
from training.recipe import Recipe, recipe_from_values

_RUN = Path(__file__).resolve().parent / "run.py"


@dataclass(frozen=True)
class StudyRun:
    """A method with a seed."""

    method: Method
    seed: int
    study: str
    recipe: Recipe
    folder: Path
    options: tuple[str, ...]

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder.with_suffix(".log")

    def line(self) -> dict[str, Any] | None:
        """The run's line for the results, or None if it is not finished.

        UserError if the folder holds a run of another recipe.
        """
        path = self.folder / RESULT
        if not path.is_file():
            return None
        result: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        if recipe_from_values(result["recipe"], source=str(path)) != self.recipe:
            raise UserError(
                f"{self.folder} is a run of another recipe; give this study another name (--study)"
            )
        # The word `main` is for the four choices of terms with the plain recipe.
        study = f"{self.study}-{self.method.name}" if self.method.changes else self.study
        return {"study": study, "method": self.method.name, **result}


def study_run(
    method: Method,
    seed: int,
    recipe: Recipe,
    *,
    study: str,
    folder: Path,
    options: Sequence[str],
) -> StudyRun:
    """A run of `method` in `folder`; `options` are those of `training/run.py` that all share."""
    arch, data = (options[options.index(flag) + 1] for flag in ("--arch", "--data"))
    values = msgspec.to_builtins(recipe) | method.changes
    return StudyRun(
        method=method,
        seed=seed,
        study=study,
        recipe=recipe_from_values(values, source=f"method {method.name}"),
        folder=folder / f"{Path(data).name}-{arch}-{method.name}-s{seed}",
        options=tuple(options),
    )


def run_all(runs: Sequence[StudyRun], *, jobs: int) -> list[StudyRun]:
    """Runs all that are not finished, `jobs` at a time; returns those that failed."""
    missing = [run for run in runs if run.line() is None]
    if len(missing) < len(runs):
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished", flush=True)  # noqa: T201
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_run, run, jobs): run for run in missing}
        try:
            for future in as_completed(futures):
                run = futures[future]
                if not future.result():
                    failed.append(run)
                print(_report(run), flush=True)  # noqa: T201
        except KeyboardInterrupt:
            # The runs got the signal as well and leave checkpoints; none is started any more.
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _run(run: StudyRun, jobs: int) -> bool:
    recipe = run.folder.with_suffix(".yaml")
    write_atomic(recipe, yaml.safe_dump(msgspec.to_builtins(run.recipe), sort_keys=False))
    flags = [f"--{name}" for name in ("drg", "dsr") if name in run.method.terms]
    command = [sys.executable, str(_RUN), *run.options, *flags]
    command += ["--recipe", str(recipe), "--seed", str(run.seed)]
    command += ["--out", str(run.folder), "--resume"]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with run.log.open("a") as log:
        finished = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
        )
    return finished.returncode == 0


def _report(run: StudyRun) -> str:
    line = run.line()
    words = f"{run.method.name} seed {run.seed}"
    if line is None:
        return f"{words}: failed, see {run.log}"
    return f"{words}: top-1 {line['top1']:.2%}, {line['seconds']:.0f} s"
