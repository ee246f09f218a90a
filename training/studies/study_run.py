"""A run of a study: its method, seed, recipe and folder, and its line once it is finished."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runtime.base.errors import UserError
from runtime.model.locate import RESULT
from training.config.recipe import Recipe, recipe_from_values
from training.studies.rows import Method

_FIGURES = ("top1", "top5", "ece")


@dataclass(frozen=True)
class StudyRun:
    """A method with a seed."""

    method: Method
    seed: int
    study: str
    recipe: Recipe
    folder: Path
    options: tuple[str, ...]
    data_digest: str | None = None  # Dataset.digest(); None: data that its name alone tells apart

    @property
    def arch(self) -> str:
        return str(_value(self.options, "--arch"))

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self._beside(".log")

    @property
    def recipe_file(self) -> Path:
        """Where the run reads its recipe."""
        return self._beside(".yaml")

    def line(self) -> dict[str, Any] | None:
        """The run's line for the results, or None if it is not finished.

        UserError if the folder holds a run of another recipe, or of other data of that name, or one
        that diverged.
        """
        path = self.folder / RESULT
        if not path.is_file():
            return None
        result: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        if recipe_from_values(result["recipe"], source=str(path)) != self.recipe:
            raise UserError(
                f"{self.folder} is a run of another recipe; remove it, or give this study another "
                "name (--study)"
            )
        trained_on = result.get("data_digest")  # older runs do not say
        if None not in (trained_on, self.data_digest) and trained_on != self.data_digest:
            raise UserError(
                f"{self.folder} is a run of other data of that name; remove it, or give this study "
                "another name (--study)"
            )
        # JSON has null for NaN; a run of today that diverges is never finished.
        if missing := [name for name in _FIGURES if result[name] is None]:
            raise UserError(
                f"{path} has no number for {', '.join(missing)}: its run diverged; remove "
                f"{self.folder} to train it again"
            )
        # The word `main` is for the four choices of terms with the plain recipe.
        study = f"{self.study}-{self.method.name}" if self.method.changes else self.study
        return {"study": study, "method": self.method.name, **result}

    def _beside(self, suffix: str) -> Path:
        return self.folder.with_name(self.folder.name + suffix)


def study_run(
    method: Method,
    seed: int,
    recipe: Recipe,
    *,
    study: str,
    folder: Path,
    options: Sequence[str],
    data_digest: str | None = None,
) -> StudyRun:
    """A run of `method` in `folder`; `options` are those of `training/run.py` that all share."""
    data = Path(_value(options, "--data") or "").name
    return StudyRun(
        method=method,
        seed=seed,
        study=study,
        recipe=method.recipe_on(recipe),
        folder=folder / f"{data}-{_student(options)}-{method.name}-s{seed}",
        options=tuple(options),
        data_digest=data_digest,
    )


def shared_options(
    *,
    arch: str,
    width: float,
    data: str,
    device: str,
    data_root: Path | None,
    image_size: int | None,
) -> list[str]:
    """Options of `training/run.py` that are the same for all methods and seeds.

    Each is one word with its value, which may begin with a dash.
    """
    options = [f"--arch={arch}", f"--width={width:g}", f"--data={data}", f"--device={device}"]
    if data_root is not None:
        options.append(f"--data-root={data_root}")
    if image_size is not None:
        options.append(f"--image-size={image_size}")
    return options


def _student(options: Sequence[str]) -> str:
    """The arch, with the width and the image size that are not the default.

    A finished run is found by its folder's name alone: students that differ need names that do.
    """
    words = [str(_value(options, "--arch"))]
    if (width := _value(options, "--width")) != "1":
        words.append(f"x{width}")
    if (image_size := _value(options, "--image-size")) is not None:
        words.append(f"{image_size}px")
    return "-".join(words)


def _value(options: Sequence[str], flag: str) -> str | None:
    return next((word[len(flag) + 1 :] for word in options if word.startswith(f"{flag}=")), None)
